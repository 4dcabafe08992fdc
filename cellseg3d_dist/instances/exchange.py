"""Settling what no local certificate can: open voxels exchange faces between blocks.

A block's *front* is the (arrival, name) of each of its voxels. One round floods a
block's open voxels again from everything that is known around them: its own closed
voxels and the faces its neighbours showed in the round before. Arrivals only get sooner, so
rounds end, and they end in the answer of the volume in one piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Triple
from cellseg3d_dist.instances.growth import BOX_AND_DIAMOND, Growth, Levels, never
from cellseg3d_dist.instances.voronoi import compact

#: Names and arrivals that a block shows towards a neighbour.
Shown = tuple[npt.NDArray[np.uint64], npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Front:
    """What is known of a block: a label and its arrival for each voxel.

    Attributes
    ----------
    labels : ndarray, uint32, (z, y, x)
        1..m by ascending name, 0 where there is none.
    names : ndarray, uint64, (m,)
        Global names of the labels.
    arrival : ndarray, integer, (z, y, x)
        Of the growth's type, the largest value where no label came.
    """

    labels: npt.NDArray[np.uint32]
    names: npt.NDArray[np.uint64]
    arrival: npt.NDArray[Any]

    def same_as(self, other: Front) -> bool:
        """Whether nothing differs."""
        return (
            np.array_equal(self.names, other.names)
            and np.array_equal(self.labels, other.labels)
            and np.array_equal(self.arrival, other.arrival)
        )


def exchange_round(
    front: Front,
    is_open: npt.NDArray[Any],
    shown: dict[Triple, Shown],
    growth: Growth = BOX_AND_DIAMOND,
    levels: Levels = None,
) -> Front:
    """One round for one block.

    Parameters
    ----------
    front : Front
        Of the block before the round; what open voxels hold is ignored.
    is_open : ndarray, (z, y, x)
        Where the answer is sought; inside the foreground.
    shown : dict
        For each neighbour's offset the names and arrivals it shows towards this block,
        one voxel thick along the axes of a non-zero offset.
    growth : Growth
        How labels grow.
    levels : ndarray, int32, (z, y, x), or None
        The landscape that they grow through.
    """
    unreached = growth.arrival.type(never(growth.arrival))
    # names become their ranks among those met here, which keeps their order
    names = np.unique(np.concatenate([front.names, *(side.ravel() for side, _ in shown.values())]))
    names = names[names > 0]
    own = np.searchsorted(names, np.append(np.uint64(0), front.names)).astype(np.int32) + 1
    z, y, x = front.labels.shape
    # one voxel more on each side for what neighbours show, and one that ends the flood
    state = np.full((z + 4, y + 4, x + 4), -1, np.int32)
    times = np.full(state.shape, unreached)
    core = (slice(2, -2),) * 3
    _fill(front.labels, front.arrival, is_open, own, unreached, state[core], times[core])
    for offset, (side, arrival) in shown.items():
        index = tuple(
            slice(1, 2) if o < 0 else slice(-2, -1) if o > 0 else slice(2, -2) for o in offset
        )
        known = (arrival != unreached) & (side > 0)
        state[index] = np.where(known, np.searchsorted(names, side) + 1, -1)
        times[index] = np.where(known, arrival, unreached)
    growth.settle(state, times, None if levels is None else np.pad(levels, 2))
    labels, kept = compact(np.maximum(state[core], 0), names)
    return Front(labels, kept, np.where(is_open, times[core], front.arrival))


@numba.njit(cache=True, nogil=True)
def _fill(labels, arrival, is_open, own, unreached, state, times):  # type: ignore[no-untyped-def]
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                if is_open[z, y, x]:
                    state[z, y, x] = 0
                elif labels[z, y, x] > 0 and arrival[z, y, x] != unreached:
                    state[z, y, x] = own[labels[z, y, x]]
                    times[z, y, x] = arrival[z, y, x]
