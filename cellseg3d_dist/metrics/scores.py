"""Scores of a segmentation: formulas on contingency tables only, never on voxels.

Where a denominator is 0 the score is 0, so an empty prediction of an empty truth scores 0
and counts neither hits nor misses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.metrics.assignment import Pairs, match_pairs
from cellseg3d_dist.metrics.contingency import ContingencyTable
from cellseg3d_dist.metrics.overlaps import CRITERIA, Criterion, Overlaps

__all__ = [
    "CRITERIA",
    "THRESHOLDS",
    "Criterion",
    "ForegroundScore",
    "MatchingScore",
    "foreground_scores",
    "matching",
]

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class MatchingScore:
    """Instances found at one threshold (definitions of StarDist, Weigert et al. 2020).

    Attributes
    ----------
    criterion : 'iou', 'iot' or 'iop'
        Overlap over the union, over the true or over the predicted instance.
    threshold : float
        Least overlap of a match.
    tp, fp, fn : int
        Matched pairs, unmatched predicted and unmatched true instances.
    precision, recall, f1 : float
        tp / (tp + fp), tp / (tp + fn), 2 tp / (2 tp + fp + fn).
    accuracy : float
        tp / (tp + fp + fn).
    panoptic_quality : float
        Sum of matched overlaps / (tp + fp / 2 + fn / 2) (Kirillov et al. 2019).
    mean_matched_score, mean_true_score : float
        Sum of matched overlaps over tp, over the number of true instances.
    """

    criterion: str
    threshold: float
    tp: int
    fp: int
    fn: int
    precision: float
    recall: float
    f1: float
    accuracy: float
    panoptic_quality: float
    mean_matched_score: float
    mean_true_score: float


@dataclass(frozen=True)
class ForegroundScore:
    """Foreground against background, voxel by voxel.

    Attributes
    ----------
    dice, iou, precision, recall, accuracy : float
        2 tp / (2 tp + fp + fn), tp / (tp + fp + fn), tp / (tp + fp), tp / (tp + fn),
        (tp + tn) / all.
    """

    dice: float
    iou: float
    precision: float
    recall: float
    accuracy: float


def matching(
    table: ContingencyTable | Overlaps,
    thresholds: Iterable[float] = THRESHOLDS,
    criterion: Criterion = "iou",
) -> tuple[MatchingScore, ...]:
    """One-to-one matching of true and predicted instances, per threshold.

    The matching minimises the sum of -(s >= threshold) - s / (2 min(n_true, n_pred)) over
    pairs, s being the overlap: most hits first, then most overlap. Pairs are hits where
    s >= threshold.

    Parameters
    ----------
    table : ContingencyTable or Overlaps
        Of the whole volume: a table of one block has its instances cut.
    thresholds : floats above 0, at most 1
    criterion : 'iou', 'iot' or 'iop'

    Raises
    ------
    BadInputError
        If a threshold is out of range or the criterion unknown.

    Examples
    --------
    >>> from cellseg3d_dist.metrics.contingency import contingency
    >>> table = contingency(np.array([1, 1, 1, 0, 2]), np.array([4, 4, 0, 5, 5]))
    >>> [(s.threshold, s.tp, s.fp, s.fn) for s in matching(table, (0.5, 0.6))]
    [(0.5, 2, 0, 0), (0.6, 1, 1, 1)]
    """
    overlaps = Overlaps.of(table)
    pairs = Pairs(
        overlaps.rows,
        overlaps.columns,
        overlaps.scores(criterion),
        overlaps.n_true,
        overlaps.n_pred,
    )
    limits = [float(threshold) for threshold in thresholds]
    for threshold in limits:
        if not 0 < threshold <= 1:
            raise BadInputError(f"Matching threshold {threshold:g} must be above 0, at most 1.")
    matched = match_pairs(pairs, limits, unique_from_half=criterion == "iou")
    return tuple(_score(criterion, limits[n], pairs, matched[n]) for n in range(len(limits)))


def foreground_scores(table: ContingencyTable) -> ForegroundScore:
    """Dice, IoU, precision, recall and accuracy of the foreground, labels above 0."""
    true, pred = table.labels_true > 0, table.labels_pred > 0
    tp, fp, fn = (
        int(table.voxels[rows].sum()) for rows in (true & pred, ~true & pred, true & ~pred)
    )
    n = table.n_voxels
    return ForegroundScore(
        dice=_ratio(2 * tp, 2 * tp + fp + fn),
        iou=_ratio(tp, tp + fp + fn),
        precision=_ratio(tp, tp + fp),
        recall=_ratio(tp, tp + fn),
        accuracy=_ratio(n - fp - fn, n),
    )


def _score(
    criterion: str, threshold: float, pairs: Pairs, matched: NDArray[np.float64]
) -> MatchingScore:
    tp = len(matched)
    fp, fn = pairs.n_columns - tp, pairs.n_rows - tp
    total = float(matched.sum())
    return MatchingScore(
        criterion=criterion,
        threshold=threshold,
        tp=tp,
        fp=fp,
        fn=fn,
        precision=_ratio(tp, tp + fp),
        recall=_ratio(tp, tp + fn),
        f1=_ratio(2 * tp, 2 * tp + fp + fn),
        accuracy=_ratio(tp, tp + fp + fn),
        panoptic_quality=_ratio(total, tp + fp / 2 + fn / 2),
        mean_matched_score=_ratio(total, tp),
        mean_true_score=_ratio(total, tp + fn),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
