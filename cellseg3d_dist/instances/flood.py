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

from typing import Any

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
    labels: npt.NDArray[np.int32] | None = None,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Flood the mask from seeds; the largest label wins a tie.

    Parameters
    ----------
    mask : ndarray, uint8, (z, y, x)
        Non-zero where labels may grow.
    seeds : ndarray, int64, (n,)
        Raveled indices of seed voxels, all inside the mask.
    ring : three pairs of bool
        The faces (low, high) of each axis beyond which voxels exist but are unknown.
    labels : ndarray, int32, (n,), optional
        Label of each seed voxel, 1 or more, where seeds have several voxels; by default
        seed i has label i + 1.

    Returns
    -------
    flooded : ndarray, int32, shape of ``mask``
        0 outside the mask and where no seed reaches; one more than the largest label where
        the unknown came first, that is, where the result depends on voxels not seen.
    arrival : ndarray, int32, shape of ``mask``
        Step at which the label came, 0 at seeds, ``UNREACHED`` where none did.
    """
    faces = np.array(ring, np.uint8)
    if labels is None:
        labels = np.arange(1, seeds.size + 1, dtype=np.int32)
    state, arrival, early = _seeded(mask, seeds, labels, faces)
    sources = np.concatenate((padded_index(seeds, mask.shape), early))
    joins = np.repeat(np.array([0, 1], np.int64), (seeds.size, early.size))
    _grow(state, arrival, sources, joins, _queue_for(int(np.count_nonzero(mask)), state.size))
    flooded = _unpadded(state)
    del state
    return flooded, _unpadded(arrival)


def _queue_for(n: int, size: int) -> npt.NDArray[Any]:
    """Room for n raveled indices of an array of this size."""
    return np.empty(n, np.int32 if size < 2**31 else np.int64)


def padded_index(voxels: npt.NDArray[np.int64], shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Raveled indices in an array with one voxel more on each side."""
    z, y, x = np.unravel_index(voxels, shape)
    padded = (shape[0] + 2, shape[1] + 2, shape[2] + 2)
    return np.ravel_multi_index((z + 1, y + 1, x + 1), padded).astype(np.int64)


@numba.njit(cache=True, nogil=True)
def _unpadded(array):  # type: ignore[no-untyped-def]
    """The array without its outermost voxels; what is below 0 (outside the mask) is 0."""
    nz, ny, nx = array.shape
    inner = np.empty((nz - 2, ny - 2, nx - 2), array.dtype)
    for z in range(nz - 2):
        for y in range(ny - 2):
            for x in range(nx - 2):
                inner[z, y, x] = max(array[z + 1, y + 1, x + 1], array.dtype.type(0))
    return inner


@numba.njit(cache=True, nogil=True)
def _seeded(mask, seeds, labels, faces):  # type: ignore[no-untyped-def]
    """State and arrival, padded by one voxel: -1 outside the mask, 0 empty, else a label.

    The unknown is there at step 0 beyond the given faces; the voxels it takes at step 1 are
    taken here and returned, by raveled index.
    """
    nz, ny, nx = mask.shape
    state = np.full((nz + 2, ny + 2, nx + 2), -1, np.int32)
    arrival = np.full((nz + 2, ny + 2, nx + 2), UNREACHED, np.int32)
    unknown = np.int32(0)
    for i in range(labels.size):
        unknown = max(unknown, labels[i])
    unknown += np.int32(1)
    early = np.empty(2 * (nz * ny + ny * nx + nz * nx), np.int64)
    n_early = 0
    for i in range(seeds.size):
        z = seeds[i] // (ny * nx) + 1
        y = seeds[i] // nx % ny + 1
        x = seeds[i] % nx + 1
        state[z, y, x] = labels[i]
        arrival[z, y, x] = 0
    for z in range(nz):
        on_z = (z == 0 and faces[0, 0]) or (z == nz - 1 and faces[0, 1])
        for y in range(ny):
            on_y = (y == 0 and faces[1, 0]) or (y == ny - 1 and faces[1, 1])
            for x in range(nx):
                if mask[z, y, x] == 0 or state[z + 1, y + 1, x + 1] > 0:
                    continue
                state[z + 1, y + 1, x + 1] = 0
                on_x = (x == 0 and faces[2, 0]) or (x == nx - 1 and faces[2, 1])
                if on_z or on_y or on_x:
                    state[z + 1, y + 1, x + 1] = unknown
                    arrival[z + 1, y + 1, x + 1] = 1
                    early[n_early] = ((z + 1) * (ny + 2) + y + 1) * (nx + 2) + x + 1
                    n_early += 1
    return state, arrival, early[:n_early].copy()


@numba.njit(cache=True, nogil=True)
def neighbours(ny, nx):  # type: ignore[no-untyped-def]
    """Raveled offsets of the 26 neighbours: by face, then by edge, then by corner."""
    offsets = np.empty(26, np.int64)
    n = 0
    for distance in range(1, 4):
        for dz in range(-1, 2):
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    if abs(dz) + abs(dy) + abs(dx) == distance:
                        offsets[n] = (dz * ny + dy) * nx + dx
                        n += 1
    return offsets


@numba.njit(cache=True, nogil=True)
def _grow(state, arrival, sources, joins, queue):  # type: ignore[no-untyped-def]
    """Grow until nothing is left to do, in place.

    ``state`` is padded, -1 outside and 0 where a label may come. ``sources`` are raveled
    voxels that have a label and join at the steps ``joins``, ascending. ``queue`` has
    room for every empty voxel and source.
    """
    label = state.reshape(-1)
    time = arrival.reshape(-1)
    offsets = neighbours(state.shape[1], state.shape[2])
    step = np.int64(0)
    joined = 0
    before, last, end = 0, 0, 0  # queue: came at step - 1, at step, free
    while joined < sources.size and joins[joined] <= 0:
        queue[end] = sources[joined]
        end += 1
        joined += 1
    while end > before or joined < sources.size:
        if end == before:
            # nothing moves until the next source: go there, it joins at once
            step = max(step, joins[joined])
            while joined < sources.size and joins[joined] <= step:
                queue[end] = sources[joined]
                end += 1
                joined += 1
        step += 1
        fresh = end
        box = step % 2 == 1
        n_offsets = 26 if box else 6
        # what came at a box step has offered only its diamond before this box step
        for i in range(before if box else last, fresh):
            voxel = queue[i]
            own = label[voxel]
            for k in range(n_offsets):
                other = voxel + offsets[k]
                found = label[other]
                if found == 0:
                    label[other] = own
                    time[other] = step
                    queue[end] = other
                    end += 1
                elif found > 0 and found < own and time[other] == step:
                    label[other] = own
        while joined < sources.size and joins[joined] <= step:
            queue[end] = sources[joined]
            end += 1
            joined += 1
        # what came before this box step has now offered its whole box
        before = fresh if box else last
        last = fresh


def settle(state: npt.NDArray[np.int32], times: npt.NDArray[np.int32]) -> None:
    """Flood open voxels from timed sources, in place.

    Parameters
    ----------
    state : ndarray, int32, (z, y, x)
        0 where the answer is sought, the label (larger wins) of a source, -1 elsewhere;
        -1 in the outermost voxels. Afterwards 0 is where nothing reaches.
    times : ndarray, int32
        Steps at which sources got theirs, ``UNREACHED`` elsewhere. Afterwards those of the
        voxels that were open; what sources held is lost.
    """
    sources, joins, n_open = _sources(state, times)
    order = np.argsort(joins, kind="stable")
    queue = _queue_for(n_open + sources.size, state.size)
    _grow(state, times, sources[order], joins[order], queue)


@numba.njit(cache=True, nogil=True)
def _sources(state, times):  # type: ignore[no-untyped-def]
    """Sources that have an open voxel in their box, their steps, and the number of open ones."""
    flat = state.reshape(-1)
    time = times.reshape(-1)
    offsets = neighbours(state.shape[1], state.shape[2])
    found = np.empty(1024, np.int64)
    n, n_open = 0, 0
    for voxel in range(flat.size):
        if flat[voxel] == 0:
            n_open += 1
        if flat[voxel] <= 0:
            continue
        for k in range(26):
            if flat[voxel + offsets[k]] == 0:
                if n == found.size:
                    found = np.concatenate((found, np.empty_like(found)))
                found[n] = voxel
                n += 1
                break
    found = found[:n].copy()
    joins = time[found].astype(np.int64)
    for voxel in range(flat.size):
        if flat[voxel] > 0:
            # a source is what its own block says: no step equals -1, so none takes its label
            time[voxel] = -1
    return found, joins, n_open
