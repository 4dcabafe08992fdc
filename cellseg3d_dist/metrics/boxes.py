"""The score per true nucleus of a spheroid study, which looks into the nucleus' bounding box.

A true nucleus and its partner, the predicted label that shares most voxels with it, have
two Dice scores: one in the full image, one where the partner is cut to the tight bounding box
of the true nucleus, so that what it has grown into elsewhere does not count. The score is
(0.95 box + 1.05 full) / 2 (Tiling 2024, Leiden University, eq. 9).

A contingency table does not know boxes. Block by block it takes two passes, each of partial
tables that merge in any order::

    pass 1   contingency(..), bounding_boxes(..)   merge ►  table, boxes
    between  partners(table)
    pass 2   voxels_in_boxes(labels_pred, ..)      add   ►  one count per true nucleus
    then     thesis_score(table, counts)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.metrics.contingency import ContingencyTable, contingency, ranked
from cellseg3d_dist.metrics.overlaps import Overlaps, best_of_each

_BOX_WEIGHT, _FULL_WEIGHT = 0.95, 1.05


@dataclass(frozen=True, eq=False)
class BoundingBoxes:
    """Tight boxes of labels, sorted by label.

    Attributes
    ----------
    labels : (n,) uint64
        Background left out.
    start, stop : (n, 3) int64
        First voxel and the one after the last, (z, y, x).
    """

    labels: NDArray[np.uint64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]

    @classmethod
    def merge(cls, parts: Iterable[BoundingBoxes]) -> BoundingBoxes:
        """Boxes of the whole from those of its blocks, in any order and grouping."""
        boxes = list(parts)
        if not boxes:
            return cls(np.empty(0, np.uint64), np.empty((0, 3), int), np.empty((0, 3), int))
        labels, index = ranked(np.concatenate([b.labels for b in boxes]))
        start = np.full((len(labels), 3), np.iinfo(np.int64).max)
        stop = np.full((len(labels), 3), np.iinfo(np.int64).min)
        np.minimum.at(start, index, np.concatenate([b.start for b in boxes]))
        np.maximum.at(stop, index, np.concatenate([b.stop for b in boxes]))
        return cls(labels, start, stop)


def bounding_boxes(labels: NDArray[Any], origin: tuple[int, int, int] = (0, 0, 0)) -> BoundingBoxes:
    """Boxes of the labels of one block.

    Parameters
    ----------
    labels : (z, y, x) integer array
    origin : (int, int, int)
        Where the block's first voxel lies in the whole.
    """
    volume = _volume(labels)
    ids, index = ranked(volume.ravel().astype(np.uint64))
    start, stop = _boxes(index.reshape(volume.shape), len(ids))
    skip = int(len(ids) > 0 and ids[0] == 0)
    at = np.asarray(origin, np.int64)
    return BoundingBoxes(ids[skip:], start[skip:] + at, stop[skip:] + at)


def partners(table: ContingencyTable | Overlaps) -> NDArray[np.uint64]:
    """For each true label, in order, the predicted one that shares most voxels with it.

    0 where it meets none; of several with as many voxels the lowest.
    """
    overlaps = Overlaps.of(table)
    best = best_of_each(overlaps.rows, overlaps.shared.astype(np.float64), overlaps.n_true)
    if not len(overlaps.columns):
        return np.zeros(overlaps.n_true, np.uint64)
    return np.where(best < 0, np.uint64(0), overlaps.labels_pred[overlaps.columns[best]])


def voxels_in_boxes(
    labels_pred: NDArray[Any],
    boxes: BoundingBoxes,
    partner: NDArray[np.uint64],
    origin: tuple[int, int, int] = (0, 0, 0),
) -> NDArray[np.int64]:
    """Voxels of each box's partner that lie in the box and in this block.

    Counts of the blocks of a volume, each voxel in one block, add up to those of the whole.

    Parameters
    ----------
    labels_pred : (z, y, x) integer array
        Of one block.
    boxes : BoundingBoxes
        Of the whole, or of those labels whose boxes reach into the block.
    partner : (n,) uint64
        Label to count in each box; 0 counts nothing.
    origin : (int, int, int)
        Where the block's first voxel lies in the whole.
    """
    volume = _volume(labels_pred)
    at = np.asarray(origin, np.int64)
    start = np.maximum(boxes.start - at, 0)
    stop = np.minimum(boxes.stop - at, volume.shape)
    counts: NDArray[np.int64] = _count(volume, start, stop, partner)
    return counts


def thesis_score(table: ContingencyTable | Overlaps, in_box: NDArray[np.int64]) -> float:
    """Mean score of the true nuclei; a nucleus that meets no prediction scores 0.

    Parameters
    ----------
    table : ContingencyTable or Overlaps
    in_box : (n_true,) int64
        Voxels of each true label's partner in its bounding box.
    """
    overlaps = Overlaps.of(table)
    if not overlaps.n_true:
        return 0.0
    best = best_of_each(overlaps.rows, overlaps.shared.astype(np.float64), overlaps.n_true)
    met = best >= 0
    pair, size = best[met], overlaps.sizes_true[met]
    shared = overlaps.shared[pair]
    full = 2 * shared / (size + overlaps.sizes_pred[overlaps.columns[pair]])
    box = 2 * shared / (size + in_box[met])
    score = (_BOX_WEIGHT * box + _FULL_WEIGHT * full) / 2
    return float(score.sum()) / overlaps.n_true


def thesis_score_of(labels_true: NDArray[Any], labels_pred: NDArray[Any]) -> float:
    """The score of two label images in memory, in one go."""
    overlaps = Overlaps.of(contingency(labels_true, labels_pred))
    boxes = bounding_boxes(labels_true)
    return thesis_score(overlaps, voxels_in_boxes(labels_pred, boxes, partners(overlaps)))


def _volume(labels: NDArray[Any]) -> NDArray[Any]:
    volume = np.ascontiguousarray(labels, np.asarray(labels).dtype.newbyteorder("="))
    if volume.ndim != 3 or volume.dtype.kind not in "iub":
        raise BadInputError(
            f"Labels have {volume.ndim} axes and dtype {volume.dtype}; "
            "boxes need integers along (z, y, x)."
        )
    return volume.astype(np.uint8) if volume.dtype == bool else volume


@njit(cache=True, nogil=True)
def _boxes(index: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    start, stop = np.full((n, 3), np.iinfo(np.int64).max), np.zeros((n, 3), np.int64)
    for z in range(index.shape[0]):
        for y in range(index.shape[1]):
            for x in range(index.shape[2]):
                i = index[z, y, x]
                for axis, at in enumerate((z, y, x)):
                    start[i, axis] = min(start[i, axis], at)
                    stop[i, axis] = max(stop[i, axis], at + 1)
    return start, stop


@njit(cache=True, nogil=True)
def _count(
    labels: NDArray[Any],
    start: NDArray[np.int64],
    stop: NDArray[np.int64],
    partner: NDArray[np.uint64],
) -> NDArray[np.int64]:
    counts = np.zeros(len(partner), np.int64)
    for n in range(len(partner)):
        if partner[n] == 0:
            continue
        for z in range(start[n, 0], stop[n, 0]):
            for y in range(start[n, 1], stop[n, 1]):
                for x in range(start[n, 2], stop[n, 2]):
                    counts[n] += np.uint64(labels[z, y, x]) == partner[n]
    return counts
