"""Settling what no local certificate can: open voxels exchange faces between blocks.

A block's *front* is the (arrival step, name) of each of its voxels. One round floods a
block's open voxels again from everything that is known around them: its own closed
voxels and the faces its neighbours showed in the round before. Steps only get better and
the order is isotone, so rounds end, and they end in the answer of the volume in one piece.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Triple
from cellseg3d_dist.instances.flood import UNREACHED, settle


def exchange_round(
    mask: npt.NDArray[np.uint8],
    is_open: npt.NDArray[Any],
    names: npt.NDArray[np.uint64],
    arrival: npt.NDArray[np.int32],
    shown: dict[Triple, tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]],
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]:
    """One round for one block.

    Parameters
    ----------
    mask, is_open : ndarray, (z, y, x)
        Foreground, and where the answer is sought, of the write region.
    names, arrival : ndarray
        The block's front; what open voxels hold is ignored.
    shown : dict
        For each neighbour's offset the names and arrivals it shows towards this block,
        one voxel thick along the axes of a non-zero offset.

    Returns
    -------
    names, arrival : ndarrays
        The front after the round.
    """
    padded = _pad(mask, np.uint8(0))
    padded_open = _pad(is_open.astype(np.uint8), np.uint8(0))
    padded_names = _pad(names.astype(np.int64), np.int64(0))
    padded_arrival = _pad(arrival, UNREACHED)
    for offset, (side_names, side_arrival) in shown.items():
        index = tuple(
            slice(0, 1) if o < 0 else slice(-1, None) if o > 0 else slice(1, -1) for o in offset
        )
        padded_names[index] = side_names
        padded_arrival[index] = side_arrival
    new_names, new_arrival = settle(padded, padded_names, padded_arrival, padded_open)
    inner = (slice(1, -1),) * 3
    return new_names[inner].astype(np.uint64), new_arrival[inner].copy()


def _pad(array: npt.NDArray[Any], value: Any) -> npt.NDArray[Any]:
    return np.pad(array, 1, constant_values=value)
