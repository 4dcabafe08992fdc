"""Exact labels for open voxels, from what all blocks know around them.

Each block gives its open voxels and, as timed sources, the labelled voxels that matter
to open voxels anywhere (:func:`sources_of`). One flood over this sparse set of voxels
(:func:`settle`) ends in the answer of the volume in one piece.

Why that is enough. Let h be the smallest flood halo along an axis. The unknown ring of a
block lies at least h away from every voxel that touches the block, so a voxel that a true
label reaches before step h is proven in every block that touches it. A neighbour v of an
open voxel of block b is therefore known to b, or is reached at step h or later; then its
own block either has it open too, or has proven it, and gives it because it is *late* and
on a face.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellseg3d_dist.grid import Region, Triple
from cellseg3d_dist.instances.flood import UNREACHED
from cellseg3d_dist.instances.voronoi import FloodedBlock, ring_of

Indices = npt.NDArray[np.int64]


class Front(NamedTuple):
    """What a block has open and what it knows around it; raveled indices in the volume.

    28 bytes a voxel, for no more voxels than are open, touch open ones, or are late and
    on a face.
    """

    open_voxels: Indices
    voxels: Indices
    names: npt.NDArray[np.uint64]
    arrival: npt.NDArray[np.int32]


def front_of(found: FloodedBlock, around: Region, block: Region, shape: Triple, h: int) -> Front:
    """The front of one block.

    Parameters
    ----------
    found : FloodedBlock
        On ``around``: the block grown by one voxel, cut at the volume's faces.
    block : Region
    shape : (int, int, int)
        The volume's.
    h : int
        Smallest flood halo along an axis.
    """
    inside = np.zeros(around.shape, bool)
    inside[block.within(around).slices] = True
    reached = (found.labels != 0) & (found.arrival != UNREACHED)
    given = reached & (found.arrival >= h) & inside & _faces(block, around, shape)
    own_open = found.is_open & inside
    if own_open.any():
        given |= reached & ndimage.binary_dilation(own_open, np.ones((3, 3, 3), bool))
    names = np.concatenate((np.zeros(1, np.uint64), found.names))[found.labels[given]]
    return Front(
        _indices(own_open, around, shape),
        _indices(given, around, shape),
        names,
        found.arrival[given],
    )


def _faces(block: Region, around: Region, shape: Triple) -> npt.NDArray[np.bool_]:
    """Planes of a block towards other blocks, extended over ``around``."""
    planes = np.zeros(around.shape, bool)
    sides = zip(
        block.within(around).start, block.within(around).stop, ring_of(block, shape), strict=True
    )
    for axis, (start, stop, (low, high)) in enumerate(sides):
        view = np.moveaxis(planes, axis, 0)
        if low:
            view[start] = True
        if high:
            view[stop - 1] = True
    return planes


def _indices(mask: npt.NDArray[np.bool_], region: Region, shape: Triple) -> Indices:
    z, y, x = (axis + start for axis, start in zip(np.nonzero(mask), region.start, strict=True))
    raveled: Indices = (z.astype(np.int64) * shape[1] + y) * shape[2] + x
    return raveled


def settle(fronts: list[Front], shape: Triple) -> tuple[Indices, npt.NDArray[np.uint64]]:
    """Labels of all open voxels.

    Memory and time go with the number of voxels in the fronts, about 60 bytes each.

    Returns
    -------
    voxels : ndarray, int64
        The open voxels, ascending, as raveled indices in the volume.
    names : ndarray, uint64
        The name that reaches each, 0 where none does.
    """
    voxels = _joined([front.open_voxels for front in fronts], np.int64)
    voxels.sort()
    if not voxels.size:
        return voxels, np.empty(0, np.uint64)
    given = _joined([front.voxels for front in fronts], np.int64)
    nodes = np.union1d(voxels, given)
    names = np.zeros(nodes.size, np.int64)
    arrival = np.full(nodes.size, UNREACHED, np.int32)
    place = np.searchsorted(nodes, given)
    names[place] = _joined([front.names for front in fronts], np.int64)
    arrival[place] = _joined([front.arrival for front in fronts], np.int32)
    sources = np.flatnonzero(arrival != UNREACHED)
    sources = sources[np.argsort(arrival[sources], kind="stable")]
    _flood(nodes, names, arrival, sources, shape[1], shape[2])
    return voxels, names[np.searchsorted(nodes, voxels)].astype(np.uint64)


def _joined(parts: list[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *(part.astype(dtype) for part in parts)])


@numba.njit(cache=True, nogil=True)
def _spread(nodes, names, arrival, k, step, box, ny, nx, queue, n):  # type: ignore[no-untyped-def]
    """Offer a voxel's name to those of its box or diamond neighbours that are among the nodes."""
    y = nodes[k] // nx % ny
    x = nodes[k] % nx
    for dz in range(-1, 2):
        for dy in range(-1, 2):
            if y + dy < 0 or y + dy >= ny or (not box and dz != 0 and dy != 0):
                continue
            wide = box or (dz == 0 and dy == 0)
            row = nodes[k] + (dz * ny + dy) * nx
            first = row - 1 if wide and x > 0 else row
            last = row + 1 if wide and x + 1 < nx else row
            j = np.searchsorted(nodes, first)
            while j < nodes.size and nodes[j] <= last:
                if arrival[j] == step:
                    names[j] = max(names[j], names[k])
                elif arrival[j] == UNREACHED:
                    names[j] = names[k]
                    arrival[j] = step
                    queue[n] = j
                    n += 1
                j += 1
    return n


@numba.njit(cache=True, nogil=True)
def _flood(nodes, names, arrival, sources, ny, nx):  # type: ignore[no-untyped-def]
    """The flood of :mod:`cellseg3d_dist.instances.flood` over a sorted list of voxels."""
    older = np.empty(nodes.size, np.int64)
    newer = np.empty(nodes.size, np.int64)
    fresh = np.empty(nodes.size, np.int64)
    n_older, n_newer, joined, step = 0, 0, 0, 0
    while n_newer > 0 or n_older > 0 or joined < sources.size:
        if n_newer == 0 and n_older == 0:
            # nothing moves until the next source
            step = max(step, arrival[sources[joined]])
        while joined < sources.size and arrival[sources[joined]] <= step:
            newer[n_newer] = sources[joined]
            n_newer += 1
            joined += 1
        step += 1
        n_fresh = 0
        box = step % 2 == 1
        for i in range(n_newer):
            n_fresh = _spread(nodes, names, arrival, newer[i], step, box, ny, nx, fresh, n_fresh)
        if box:
            # what came at a box step offered only its diamond at the step after it
            for i in range(n_older):
                n_fresh = _spread(
                    nodes, names, arrival, older[i], step, box, ny, nx, fresh, n_fresh
                )
        older, newer, fresh = newer, fresh, older
        n_older, n_newer = n_newer, n_fresh
        if box:
            n_older = 0
