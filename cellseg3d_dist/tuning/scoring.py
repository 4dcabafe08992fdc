"""Scores of one trial over all cells of all images; tables only, never voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cellseg3d_dist.metrics.contingency import ContingencyTable
from cellseg3d_dist.metrics.scores import THRESHOLDS, Criterion, foreground_scores, matching

Score = Literal["mean_f1", "f1", "dice"]
SCORES: tuple[Score, ...] = ("mean_f1", "f1", "dice")


@dataclass(frozen=True)
class Scores:
    """What one trial is worth.

    Attributes
    ----------
    mean_f1 : float
        Mean of F1 at overlaps of 0.1 to 0.9.
    f1 : float
        At an overlap of 0.5.
    dice : float
        Of the foreground, voxel by voxel.
    cells : int
        Predicted instances.
    """

    mean_f1: float
    f1: float
    dice: float
    cells: int

    def of(self, name: Score) -> float:
        """The one of that name."""
        return float(getattr(self, name))


def scores_of(tables: Sequence[ContingencyTable], criterion: Criterion) -> Scores:
    """Scores of images together: hits and misses are counted over all of them."""
    counts = np.zeros((len(THRESHOLDS), 3), np.int64)
    for table in tables:
        found = matching(table, THRESHOLDS, criterion)
        counts += np.array([(score.tp, score.fp, score.fn) for score in found], np.int64)
    f1 = [float(2 * tp / max(2 * tp + fp + fn, 1)) for tp, fp, fn in counts]
    half = THRESHOLDS.index(0.5)
    return Scores(
        mean_f1=float(np.mean(f1)),
        f1=f1[half],
        # cells of different images do not meet, so that tables add up voxel by voxel
        dice=foreground_scores(ContingencyTable.merge(tables)).dice,
        cells=int(counts[half, :2].sum()),
    )


def without_small(table: ContingencyTable, fewest: int) -> ContingencyTable:
    """The table after predicted instances of fewer voxels have become background."""
    labels, sizes = table.sizes_pred()
    small = labels[sizes < fewest]
    if not small.size:
        return table
    kept = np.where(np.isin(table.labels_pred, small), np.uint64(0), table.labels_pred)
    return ContingencyTable.merge([ContingencyTable(table.labels_true, kept, table.voxels)])
