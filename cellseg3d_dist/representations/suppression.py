"""Non-maximum suppression of star-convex objects, whole or block by block.

Candidates are the local maxima of the object probability. They stand in a strict total
order: higher probability first, then smaller name (:func:`.names_of_seeds`). The greedy
result: going down the order, a candidate is *kept* unless a better kept one overlaps it,
else it is *suppressed*. Overlap is the number of voxels in both over the smaller of the two
sizes, on the unbounded grid, so it depends on the two candidates alone.

A candidate's state follows from the states of the better ones it overlaps. So in a block

- a candidate that a kept one overlaps is suppressed, whatever else there may be;
- one all of whose better overlaps are suppressed is kept, provided that no candidate
  outside the *known* region can reach it (:func:`out_of_reach`);
- any other is *open*.

What a block decides that way is true of the volume. A block that knows every candidate
within ``Stencil.overlap_halo`` of its own ones, and takes the states of foreign ones from
their owners, decides more each round; the best open candidate of the volume is always
decided next, so rounds end, and in the greedy result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.grid import Region, Triple
from cellseg3d_dist.instances.spots import names_of_seeds, spots
from cellseg3d_dist.representations.polyhedra import LEVELS, ROUNDING, Stencil, share_more, sizes

#: States of candidates, int8.
OPEN, KEPT, SUPPRESSED = np.int8(0), np.int8(1), np.int8(2)

#: Edge in voxels of the smallest cell of the grid that pairs are looked up in.
_MIN_CELL = 4


@dataclass(frozen=True, eq=False)
class Candidates:
    """Sparse star-convex objects.

    Attributes
    ----------
    names : ndarray, uint64, (n,)
        Global names of the centres, ascending.
    positions : ndarray, int64, (n, 3)
        Global voxels (z, y, x) of the centres.
    probability : ndarray, uint8, (n,)
    distances : ndarray, uint8, (n, n_rays)
        255 is the representation's ``max_distance``.
    """

    names: npt.NDArray[np.uint64]
    positions: npt.NDArray[np.int64]
    probability: npt.NDArray[np.uint8]
    distances: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return self.names.size

    def take(self, index: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Candidates:
        """Some of the candidates, by index or mask, in that order."""
        return Candidates(
            self.names[index], self.positions[index], self.probability[index], self.distances[index]
        )

    @classmethod
    def join(cls, parts: list[Candidates]) -> Candidates:
        """The different candidates of one or more blocks, by name."""
        names, first = np.unique(np.concatenate([p.names for p in parts]), return_index=True)
        return cls(
            names,
            np.concatenate([p.positions for p in parts])[first],
            np.concatenate([p.probability for p in parts])[first],
            np.concatenate([p.distances for p in parts])[first],
        )

    def order(self) -> npt.NDArray[np.int64]:
        """Indices of the candidates, the best first."""
        return np.lexsort((self.names, -self.probability.astype(np.int16)))


def candidates(
    prediction: npt.NDArray[np.uint8],
    read_region: Region,
    write_region: Region,
    shape: Triple,
    threshold: float,
) -> Candidates:
    """Candidates whose centre is in the write region.

    A voxel is a candidate if its probability is at least the threshold and none of its 26
    neighbours in the volume is better in the order.

    Parameters
    ----------
    prediction : ndarray, uint8, (1 + n_rays, z, y, x)
        Object probability and distances on the read region.
    read_region, write_region : Region
        The read region must hold the write region and, where the volume goes on, one voxel
        more on each side.
    shape : (int, int, int)
        The volume's shape.
    threshold : float
        Least probability, 0..1; a probability of 0 is never enough.

    Raises
    ------
    BadInputError
        If the prediction has not the read region's shape or there is no halo.
    """
    needed = write_region.expand((1, 1, 1), shape)
    if prediction.shape[1:] != read_region.shape or read_region.intersect(needed) != needed:
        raise BadInputError(
            f"prediction of shape {prediction.shape} on {read_region} does not cover "
            f"{needed}, what candidates of {write_region} need"
        )
    inner = write_region.within(read_region)
    least = max(1, int(np.ceil(LEVELS * threshold - 1e-9)))
    probability = prediction[0]
    found = spots(
        probability.astype(np.float32),
        (probability[inner.slices] >= least).astype(np.uint8),
        inner.start,
    )
    names = names_of_seeds(found, write_region, shape)
    by_name = np.argsort(names)
    z, y, x = np.unravel_index(found[by_name], write_region.shape)
    local = np.stack((z, y, x), axis=1).astype(np.int64)
    at = tuple((local + np.array(inner.start)).T)
    return Candidates(
        names[by_name],
        local + np.array(write_region.start, np.int64),
        probability[at],
        np.ascontiguousarray(prediction[1:, at[0], at[1], at[2]].T),
    )


def pairs(found: Candidates, stencil: Stencil, overlap: float) -> npt.NDArray[np.int64]:
    """Pairs (m, 2) of indices of candidates that overlap by more than ``overlap`` (0..1).

    The better of each pair comes first; rows are sorted by the worse one, then the better.
    """
    if len(found) == 0:
        return np.empty((0, 2), np.int64)
    distances = np.ascontiguousarray(found.distances)
    rank = np.empty(len(found), np.int64)
    rank[found.order()] = np.arange(len(found))
    radii = distances.max(axis=1) * (stencil.max_distance / LEVELS)
    # centres that far apart or farther share no voxel
    apart = 2 * radii.max() / np.array(stencil.spacing)
    cell = np.maximum(np.floor(apart + 1e-6).astype(np.int64) + 1, _MIN_CELL)
    cells = found.positions // cell
    # one empty layer all around, so that a cell's neighbours are always there
    cells -= cells.min(axis=0) - 1
    n_cells = cells.max(axis=0) + 2
    keys = (cells[:, 0] * n_cells[1] + cells[:, 1]) * n_cells[2] + cells[:, 2]
    by_cell = np.argsort(keys, kind="stable")
    couples = _pairs(
        keys,
        by_cell,
        keys[by_cell],
        n_cells,
        rank,
        found.positions,
        distances,
        radii,
        np.array(stencil.spacing, np.float64),
        stencil.extents(distances),
        sizes(distances, stencil),
        stencil.needed,
        stencil.corners,
        stencil.weights,
        overlap,
    )
    ordered: npt.NDArray[np.int64] = couples[np.lexsort((couples[:, 0], couples[:, 1]))]
    return ordered


@numba.njit(cache=True, nogil=True)
def _pairs(  # type: ignore[no-untyped-def]
    keys, by_cell, sorted_keys, n_cells, rank, positions, distances, radii, spacing, extents,
    n_voxels, needed, corners, weights, overlap,
):  # fmt: skip
    couples = np.empty((1024, 2), np.int64)
    n = 0
    for i in range(keys.size):
        for dz in range(-1, 2):
            for dy in range(-1, 2):
                row = keys[i] + (dz * n_cells[1] + dy) * n_cells[2]
                first = np.searchsorted(sorted_keys, row - 1)
                last = np.searchsorted(sorted_keys, row + 2)
                for k in range(first, last):
                    j = by_cell[k]
                    if rank[j] <= rank[i] or _too_far(i, j, positions, radii, spacing):
                        continue
                    limit = overlap * min(n_voxels[i], n_voxels[j])
                    if not share_more(
                        i, j, positions, distances, extents, needed, corners, weights, limit
                    ):
                        continue
                    if n == couples.shape[0]:
                        couples = np.concatenate((couples, np.empty_like(couples)))
                    couples[n, 0] = i
                    couples[n, 1] = j
                    n += 1
    return couples[:n].copy()


@numba.njit(cache=True, nogil=True)
def _too_far(i, j, positions, radii, spacing):  # type: ignore[no-untyped-def]
    """Whether the bounding spheres have nothing in common."""
    squared = 0.0
    for axis in range(3):
        squared += ((positions[i, axis] - positions[j, axis]) * spacing[axis]) ** 2
    return squared > (radii[i] + radii[j] + ROUNDING) ** 2


def out_of_reach(
    found: Candidates, known: Region, shape: Triple, stencil: Stencil
) -> npt.NDArray[np.bool_]:
    """Which candidates no candidate outside the known region can overlap.

    Parameters
    ----------
    found : Candidates
        All there are in ``known``.
    known : Region
    shape : (int, int, int)
        The volume's shape; beyond its faces there are none.
    stencil : Stencil
    """
    radii = found.distances.max(axis=1, initial=0) * (stencil.max_distance / LEVELS)
    reach = radii + stencil.max_distance + ROUNDING
    safe = np.ones(len(found), np.bool_)
    for axis, spacing in enumerate(stencil.spacing):
        at = found.positions[:, axis]
        if known.start[axis] > 0:
            safe &= (at - known.start[axis] + 1) * spacing > reach
        if known.stop[axis] < shape[axis]:
            safe &= (known.stop[axis] - at) * spacing > reach
    return safe


def decide(
    found: Candidates,
    overlapping: npt.NDArray[np.int64],
    safe: npt.NDArray[np.bool_],
    states: npt.NDArray[np.int8],
) -> npt.NDArray[np.int8]:
    """States of candidates, as far as they follow from what is known.

    Parameters
    ----------
    found : Candidates
    overlapping : ndarray, int64, (m, 2)
        Of :func:`pairs`.
    safe : ndarray, bool, (n,)
        Of :func:`out_of_reach`: all better candidates that overlap this one are in ``found``.
    states : ndarray, int8, (n,)
        States known so far, ``OPEN`` where there is none. Not changed.
    """
    decided = states.astype(np.int8, copy=True)
    first = np.searchsorted(overlapping[:, 1], np.arange(len(found) + 1))
    better = np.ascontiguousarray(overlapping[:, 0])
    _decide(found.order(), first, better, safe, decided)
    return decided


@numba.njit(cache=True, nogil=True)
def _decide(order, first, better, safe, states):  # type: ignore[no-untyped-def]
    """Go down the order once, in place: a state depends on those of better ones alone."""
    for i in order:
        if states[i] != OPEN:
            continue
        sure = safe[i]
        state = KEPT
        for k in range(first[i], first[i + 1]):
            other = states[better[k]]
            if other == KEPT:
                state = SUPPRESSED
                break
            if other == OPEN:
                sure = False
        if sure or state == SUPPRESSED:
            states[i] = state


def suppress(found: Candidates, stencil: Stencil, overlap: float) -> npt.NDArray[np.int8]:
    """The greedy result of all candidates of a volume: each is kept or suppressed."""
    return decide(
        found,
        pairs(found, stencil, overlap),
        np.ones(len(found), np.bool_),
        np.full(len(found), OPEN, np.int8),
    )
