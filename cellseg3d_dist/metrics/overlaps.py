"""Instances of two label images as a sparse graph: who shares how many voxels with whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.metrics.contingency import ContingencyTable, ranked, summed

Criterion = Literal["iou", "iot", "iop"]
CRITERIA: tuple[Criterion, ...] = ("iou", "iot", "iop")


@dataclass(frozen=True, eq=False)
class Overlaps:
    """True (rows) and predicted (columns) instances, and the pairs that share a voxel.

    Attributes
    ----------
    labels_true, labels_pred : (n_true,), (n_pred,) uint64
        Sorted labels, background left out.
    sizes_true, sizes_pred : (n_true,), (n_pred,) int64
        Volumes in voxels.
    rows, columns : (n,) int64
        Indices of the pairs into the labels, sorted by row, then column.
    shared : (n,) int64
        Voxels that carry both labels, at least 1.
    """

    labels_true: NDArray[np.uint64]
    sizes_true: NDArray[np.int64]
    labels_pred: NDArray[np.uint64]
    sizes_pred: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    shared: NDArray[np.int64]

    @property
    def n_true(self) -> int:
        """Number of true instances."""
        return len(self.labels_true)

    @property
    def n_pred(self) -> int:
        """Number of predicted instances."""
        return len(self.labels_pred)

    @classmethod
    def of(cls, table: ContingencyTable | Overlaps) -> Overlaps:
        """Of a table of the whole volume: a table of one block has its instances cut."""
        if isinstance(table, Overlaps):
            return table
        labels_true, row = ranked(table.labels_true)
        labels_pred, column = ranked(table.labels_pred)
        sizes_true, sizes_pred = (
            summed(row, table.voxels, len(labels_true)),
            summed(column, table.voxels, len(labels_pred)),
        )
        # background is rank 0 where it occurs
        skip_true = int(len(labels_true) > 0 and labels_true[0] == 0)
        skip_pred = int(len(labels_pred) > 0 and labels_pred[0] == 0)
        both = (row >= skip_true) & (column >= skip_pred)
        return cls(
            labels_true[skip_true:],
            sizes_true[skip_true:],
            labels_pred[skip_pred:],
            sizes_pred[skip_pred:],
            row[both] - skip_true,
            column[both] - skip_pred,
            table.voxels[both],
        )

    def scores(self, criterion: Criterion) -> NDArray[np.float64]:
        """Overlap of each pair over the union (IoU), the true (IoT) or predicted one (IoP).

        Raises
        ------
        BadInputError
            If the criterion is unknown.
        """
        if criterion == "iou":
            whole = self.sizes_true[self.rows] + self.sizes_pred[self.columns] - self.shared
        elif criterion == "iot":
            whole = self.sizes_true[self.rows]
        elif criterion == "iop":
            whole = self.sizes_pred[self.columns]
        else:
            raise BadInputError(f"Criterion {criterion!r} must be one of {', '.join(CRITERIA)}.")
        scores: NDArray[np.float64] = self.shared / whole
        return scores


@njit(cache=True, nogil=True)
def best_of_each(
    index: NDArray[np.int64], values: NDArray[np.float64], n: int
) -> NDArray[np.int64]:
    """Position of the largest value of each of ``n`` instances, the first in a tie; else -1."""
    best = np.full(n, -1, np.int64)
    for pair in range(len(index)):
        held = best[index[pair]]
        if held < 0 or values[pair] > values[held]:
            best[index[pair]] = pair
    return best
