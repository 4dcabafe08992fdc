"""Sinks: where the voxels that followed a flow end, grouped to objects.

:func:`arrivals` counts the ends of a block, a small record. The records of all blocks,
added up by :func:`merge_arrivals` in any order, are that of the whole volume; :func:`sinks`
groups its ends, :func:`assign` gives each voxel the name of the group it ended in, and
:func:`number` numbers the names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cellseg3d_dist.grid import Region, Triple
from cellseg3d_dist.instances.spots import names_of_seeds
from cellseg3d_dist.representations.following import FlowParameters


@dataclass(frozen=True, eq=False)
class Arrivals:
    """How many voxels end where.

    Attributes
    ----------
    positions : ndarray, int64, (n,)
        Raveled indices in the whole volume, ascending.
    counts : ndarray, int64, (n,)
        Voxels that end there.
    """

    positions: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sinks:
    """Ends that belong to a sink.

    Attributes
    ----------
    positions : ndarray, int64, (n,)
        Raveled indices in the whole volume, ascending.
    names : ndarray, uint64, (n,)
        Global name of the sink of each.
    """

    positions: npt.NDArray[np.int64]
    names: npt.NDArray[np.uint64]


def arrivals(ends: npt.NDArray[np.int64]) -> Arrivals:
    """Count the ends of voxels (none of them open)."""
    positions, counts = np.unique(ends, return_counts=True)
    return Arrivals(positions, counts.astype(np.int64))


def merge_arrivals(parts: Sequence[Arrivals]) -> Arrivals:
    """Add up the arrivals of several blocks, in any order."""
    positions = np.concatenate([np.empty(0, np.int64), *(part.positions for part in parts)])
    counts = np.concatenate([np.empty(0, np.int64), *(part.counts for part in parts)])
    unique, inverse = np.unique(positions, return_inverse=True)
    total = np.zeros(unique.size, np.int64)
    np.add.at(total, inverse, counts)
    return Arrivals(unique, total)


def sinks(arrived: Arrivals, shape: Triple, parameters: FlowParameters) -> Sinks:
    """Group ends to sinks.

    An end is *strong* if at least ``min_arrivals`` voxels end in the 3 x 3 x 3 box around
    it. Sinks are the 26-connected groups of strong ends, named by the first voxel of each
    (:func:`~cellseg3d_dist.instances.spots.names_of_seeds`). A weak end joins the sink of
    the nearest strong end in its box, of equally near ones that of the smaller name; a weak
    end without one belongs to nothing.

    Parameters
    ----------
    arrived : Arrivals
        The ends of the whole volume.
    shape : (int, int, int)
        The volume's shape.
    parameters : FlowParameters
        ``min_arrivals``.
    """
    positions = arrived.positions
    size = np.asarray(shape, np.int64)
    strong = _mass(positions, arrived.counts, size) >= parameters.min_arrivals
    n = positions.size
    one, other = _touching(positions, strong, size)
    graph = coo_array((np.ones(one.size, np.bool_), (one, other)), shape=(n, n))
    _, group = connected_components(graph, directed=False)
    own = names_of_seeds(positions, Region.whole(shape), shape)
    smallest = np.full(n, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, group, own)
    names = np.where(strong, smallest[group], np.uint64(0))
    _join_weak(positions, strong, names, size)
    kept = names > 0
    return Sinks(positions[kept], names[kept])


@numba.njit(cache=True, nogil=True)
def _neighbour(positions, i, dz, dy, dx, size):  # type: ignore[no-untyped-def]
    """Where the neighbour of the end ``i`` lies in the sorted ``positions``, or -1."""
    nz, ny, nx = size
    at = positions[i]
    z, y, x = at // (ny * nx) + dz, at // nx % ny + dy, at % nx + dx
    if z < 0 or y < 0 or x < 0 or z >= nz or y >= ny or x >= nx:
        return -1
    wanted = (z * ny + y) * nx + x
    found = np.searchsorted(positions, wanted)
    if found < positions.size and positions[found] == wanted:
        return found
    return -1


@numba.njit(cache=True, nogil=True)
def _mass(positions, counts, size):  # type: ignore[no-untyped-def]
    """Arrivals in the 3 x 3 x 3 box around each end."""
    mass = np.zeros(positions.size, np.int64)
    for i in range(positions.size):
        for dz in range(-1, 2):
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    j = _neighbour(positions, i, dz, dy, dx, size)
                    if j >= 0:
                        mass[i] += counts[j]
    return mass


@numba.njit(cache=True, nogil=True)
def _touching(positions, strong, size):  # type: ignore[no-untyped-def]
    """The 26-connected pairs of strong ends, each once."""
    pairs = [(np.int64(0), np.int64(0)) for _ in range(0)]
    for i in range(positions.size):
        if not strong[i]:
            continue
        for dz in range(-1, 1):
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    if dz * 9 + dy * 3 + dx >= 0:
                        continue
                    j = _neighbour(positions, i, dz, dy, dx, size)
                    if j >= 0 and strong[j]:
                        pairs.append((np.int64(i), np.int64(j)))
    one = np.empty(len(pairs), np.int64)
    other = np.empty(len(pairs), np.int64)
    for k in range(len(pairs)):
        one[k], other[k] = pairs[k]
    return one, other


@numba.njit(cache=True, nogil=True)
def _join_weak(positions, strong, names, size):  # type: ignore[no-untyped-def]
    """Give weak ends the name of the nearest strong end around them."""
    for i in range(positions.size):
        if strong[i]:
            continue
        nearest = 4
        for dz in range(-1, 2):
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    distance = dz * dz + dy * dy + dx * dx
                    if distance > nearest:
                        continue
                    j = _neighbour(positions, i, dz, dy, dx, size)
                    if j < 0 or not strong[j]:
                        continue
                    if distance < nearest or names[j] < names[i]:
                        nearest = distance
                        names[i] = names[j]


def assign(ends: npt.NDArray[np.int64], found: Sinks) -> npt.NDArray[np.uint64]:
    """Name of the sink that each voxel ended in, 0 where it is none."""
    if not found.positions.size:
        return np.zeros(ends.shape, np.uint64)
    at = np.minimum(np.searchsorted(found.positions, ends), found.positions.size - 1)
    names: npt.NDArray[np.uint64] = np.where(
        found.positions[at] == ends, found.names[at], np.uint64(0)
    )
    return names


def number(
    names: npt.NDArray[np.uint64], found: Sinks, parameters: FlowParameters
) -> npt.NDArray[np.uint32]:
    """Labels 1..n, in the order of names, of the objects of at least ``min_voxels``.

    Parameters
    ----------
    names : ndarray, uint64
        Sink of each voxel of the whole volume, 0 for none.
    found : Sinks
        Where the names come from.
    parameters : FlowParameters
        ``min_voxels``.
    """
    order = np.concatenate([np.zeros(1, np.uint64), np.unique(found.names)])
    dense = np.searchsorted(order, names)
    kept = np.bincount(dense, minlength=order.size) >= parameters.min_voxels
    kept[0] = False
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.uint32)
    labels: npt.NDArray[np.uint32] = numbers[dense]
    return labels
