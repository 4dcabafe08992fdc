"""The flood of Voronoi-Otsu: seeds grow inside a mask by alternating box and diamond steps.

Step 1, 3, 5, ... lets an empty voxel of the mask take a label from its 3 x 3 x 3 box, step
2, 4, 6, ... from its 6 face neighbours; where several offer one, the largest wins. The
flood ends when a box and a diamond step have nothing left to do. A voxel's result is the
best (step, label) over all paths from a seed, and lengthening or worsening the start of a
path never improves its end (the order is isotone), so the fixpoint is unique however the
volume is cut. That carries both devices of this module:

*certificate*
    The region is ringed by an *unknown* label that is larger than any other and there at
    step 0, the best anything outside could offer. A voxel that still gets a real label
    gets it whatever lies outside; a voxel taken by the unknown is open.
*settling*
    Open voxels are flooded again with what neighbouring blocks say of their faces as
    timed sources, until no block's answer changes.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

#: Arrival step of a voxel that no seed has reached.
UNREACHED = np.int32(2**31 - 1)

Sides = tuple[tuple[bool, bool], tuple[bool, bool], tuple[bool, bool]]
NO_RING: Sides = ((False, False), (False, False), (False, False))


def flood(
    mask: npt.NDArray[np.uint8],
    seeds: npt.NDArray[np.int64],
    ring: Sides = NO_RING,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Flood the mask from seeds; the largest label wins a tie.

    Parameters
    ----------
    mask : ndarray, uint8, (z, y, x)
        Non-zero where labels may grow.
    seeds : ndarray, int64, (n,)
        Raveled indices of seed voxels, all inside the mask; seed i has label i + 1.
    ring : three pairs of bool
        The faces (low, high) of each axis beyond which voxels exist but are unknown.

    Returns
    -------
    labels : ndarray, int32, shape of ``mask``
        1..n; 0 outside the mask and where no seed reaches; n + 1 where the unknown came
        first, that is, where the result depends on voxels not seen.
    arrival : ndarray, int32, shape of ``mask``
        Step at which the label came, 0 at seeds, ``UNREACHED`` where none did.
    """
    faces = np.array(ring, np.uint8)
    labels, arrival = _flood(mask, seeds, faces)
    return labels, arrival


@numba.njit(cache=True, nogil=True)
def _append(queue, n, value):  # type: ignore[no-untyped-def]
    if n == queue.size:
        queue = np.concatenate((queue, np.empty_like(queue)))
    queue[n] = value
    return queue


@numba.njit(cache=True, nogil=True)
def _offer(mask, labels, arrival, z, y, x, label, step, queue, n):  # type: ignore[no-untyped-def]
    """Offer a label to a voxel at this step; the voxel joins the queue when first taken."""
    if mask[z, y, x] == 0:
        return queue, n
    if arrival[z, y, x] == step:
        labels[z, y, x] = max(labels[z, y, x], label)
    elif labels[z, y, x] == 0:
        labels[z, y, x] = label
        arrival[z, y, x] = step
        ny, nx = mask.shape[1], mask.shape[2]
        queue = _append(queue, n, (z * ny + y) * nx + x)
        n += 1
    return queue, n


@numba.njit(cache=True, nogil=True)
def _spread(mask, labels, arrival, voxel, step, box, queue, n):  # type: ignore[no-untyped-def]
    """Offer a voxel's label to its box or diamond neighbours."""
    nz, ny, nx = mask.shape
    z = voxel // (ny * nx)
    y = voxel // nx % ny
    x = voxel % nx
    label = labels[z, y, x]
    for dz in range(-1, 2):
        for dy in range(-1, 2):
            for dx in range(-1, 2):
                if not box and abs(dz) + abs(dy) + abs(dx) != 1:
                    continue
                zz, yy, xx = z + dz, y + dy, x + dx
                if zz < 0 or yy < 0 or xx < 0 or zz >= nz or yy >= ny or xx >= nx:
                    continue
                queue, n = _offer(mask, labels, arrival, zz, yy, xx, label, step, queue, n)
    return queue, n


@numba.njit(cache=True, nogil=True)
def _flood_faces(mask, labels, arrival, faces, unknown, queue, n):  # type: ignore[no-untyped-def]
    """Step 1: the unknown ring at step 0 takes every still empty voxel on those faces."""
    nz, ny, nx = mask.shape
    for z in range(nz):
        on_z = (z == 0 and faces[0, 0]) or (z == nz - 1 and faces[0, 1])
        for y in range(ny):
            on_y = (y == 0 and faces[1, 0]) or (y == ny - 1 and faces[1, 1])
            if on_z or on_y:
                for x in range(nx):
                    queue, n = _offer(mask, labels, arrival, z, y, x, unknown, 1, queue, n)
                continue
            if faces[2, 0]:
                queue, n = _offer(mask, labels, arrival, z, y, 0, unknown, 1, queue, n)
            if faces[2, 1]:
                queue, n = _offer(mask, labels, arrival, z, y, nx - 1, unknown, 1, queue, n)
    return queue, n


@numba.njit(cache=True, nogil=True)
def _flood(mask, seeds, faces):  # type: ignore[no-untyped-def]
    nz, ny, nx = mask.shape
    labels = np.zeros((nz, ny, nx), np.int32)
    arrival = np.full((nz, ny, nx), UNREACHED, np.int32)
    flat_labels = labels.reshape(-1)
    flat_arrival = arrival.reshape(-1)
    unknown = np.int32(seeds.size + 1)
    older = np.empty(1024, np.int64)  # came at the step before last
    newer = np.empty(max(1024, seeds.size), np.int64)  # came at the last step
    fresh = np.empty(1024, np.int64)
    n_older, n_newer = 0, seeds.size
    for i in range(seeds.size):
        newer[i] = seeds[i]
        flat_labels[seeds[i]] = i + 1
        flat_arrival[seeds[i]] = 0
    step = 0
    ringed = faces.any()
    while n_newer > 0 or n_older > 0 or (step == 0 and ringed):
        step += 1
        n_fresh = 0
        box = step % 2 == 1
        for i in range(n_newer):
            fresh, n_fresh = _spread(mask, labels, arrival, newer[i], step, box, fresh, n_fresh)
        if box:
            # what came at a box step offered only its diamond at the step after it
            for i in range(n_older):
                fresh, n_fresh = _spread(mask, labels, arrival, older[i], step, box, fresh, n_fresh)
            if step == 1 and ringed:
                fresh, n_fresh = _flood_faces(mask, labels, arrival, faces, unknown, fresh, n_fresh)
        older, newer, fresh = newer, fresh, older
        n_older, n_newer = n_newer, n_fresh
        if box:
            # what came earlier has now offered its whole box
            n_older = 0
    return labels, arrival


def settle(
    mask: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    arrival: npt.NDArray[np.int32],
    is_open: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Flood open voxels from timed sources: everything that is not open.

    Parameters
    ----------
    mask : ndarray, uint8, (z, y, x)
        A block with one voxel more on each side. Only open voxels need a true mask.
    labels : ndarray, int64
        Names (any int64 > 0, larger wins) of sources; what open voxels hold is ignored.
    arrival : ndarray, int32
        Steps at which sources got theirs; ``UNREACHED`` where they have none.
    is_open : ndarray, uint8
        Non-zero where the answer is sought; must lie inside the mask.

    Returns
    -------
    labels, arrival : ndarrays
        As given, with the open voxels filled; 0 and ``UNREACHED`` where nothing reaches.
    """
    labels = np.where(is_open != 0, 0, labels)
    arrival = np.where(is_open != 0, UNREACHED, arrival).astype(np.int32)
    sources = np.flatnonzero(arrival != UNREACHED)
    sources = sources[np.argsort(arrival.ravel()[sources], kind="stable")]
    _settle(mask & (is_open != 0).astype(np.uint8), labels, arrival, sources)
    return labels, arrival


@numba.njit(cache=True, nogil=True)
def _settle(free, labels, arrival, sources):  # type: ignore[no-untyped-def]
    """As ``_flood``, with sources that join at their own step; in place."""
    flat_arrival = arrival.reshape(-1)
    older = np.empty(1024, np.int64)
    newer = np.empty(1024, np.int64)
    fresh = np.empty(1024, np.int64)
    n_older, n_newer, joined = 0, 0, 0
    step = 0
    while n_newer > 0 or n_older > 0 or joined < sources.size:
        if n_newer == 0 and n_older == 0 and joined < sources.size:
            # nothing moves until the next source; go there, it joins below
            step = max(step, flat_arrival[sources[joined]])
        while joined < sources.size and flat_arrival[sources[joined]] <= step:
            newer = _append(newer, n_newer, sources[joined])
            n_newer += 1
            joined += 1
        step += 1
        n_fresh = 0
        box = step % 2 == 1
        for i in range(n_newer):
            fresh, n_fresh = _spread(free, labels, arrival, newer[i], step, box, fresh, n_fresh)
        if box:
            for i in range(n_older):
                fresh, n_fresh = _spread(free, labels, arrival, older[i], step, box, fresh, n_fresh)
        older, newer, fresh = newer, fresh, older
        n_older, n_newer = n_newer, n_fresh
        if box:
            n_older = 0
