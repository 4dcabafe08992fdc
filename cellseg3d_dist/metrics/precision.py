"""Average precision of instances by size, as for the NucMM data (Lin et al. 2021).

Predictions are taken in falling order of a score. Each takes the true instance with which
its IoU is largest (of equal ones that of the lowest label); from the threshold on it is a hit,
once per true instance. Recall counts hits over true instances. The precision at a recall is
the largest at that recall or above, and the average is the mean over 101 recalls
0, 0.01 .. 1, 0 where a recall is not reached (Lin et al. 2014, COCO).

In a range of sizes true instances outside it are left out, with the predictions that hit them;
of the predictions that hit nothing only those of a size in the range count. This is COCO's
rule, for which the IoU of a hit must be at least 0.5 to single out one true instance. Over all
sizes the program that NucMM was scored with gives the same numbers; within a range it counts a
prediction that hits a true instance of another size as false if it touches one of this size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.metrics.contingency import ContingencyTable
from cellseg3d_dist.metrics.overlaps import Overlaps, best_of_each

# the floats that COCO has: 0.7 is reached by 7 of 10 only where the rounding allows it
_LIMITS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
SIZE_LIMITS = (5_000, 15_000)
"""Voxels up to which an instance is small, and up to which it is medium (NucMM)."""
RANGES = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision in one range of sizes, null where no true instance lies in it.

    Attributes
    ----------
    ap50, ap75 : float or None
        At IoU 0.5 and 0.75.
    ap50_95 : float or None
        Mean over IoU 0.5, 0.55 .. 0.95.
    mean : float or None
        (ap50 + ap75) / 2, the mean of NucMM.
    """

    ap50: float | None
    ap75: float | None
    ap50_95: float | None
    mean: float | None


@dataclass(frozen=True, eq=False)
class Confidences:
    """Scores of predicted instances.

    Attributes
    ----------
    labels : (n,) uint64
        Labels, each once.
    values : (n,) float64
        The higher, the surer; only their order matters.
    """

    labels: NDArray[np.uint64]
    values: NDArray[np.float64]


def average_precision(
    table: ContingencyTable | Overlaps,
    confidences: Confidences | None = None,
    size_limits: tuple[int, int] = SIZE_LIMITS,
) -> dict[str, AveragePrecision]:
    """Average precision of all, small, medium and large instances.

    Parameters
    ----------
    table : ContingencyTable or Overlaps
        Of the whole volume.
    confidences : Confidences, optional
        Of every predicted instance; without, larger ones come first. Equal ones are taken
        by label.
    size_limits : (int, int)
        Volume in voxels of the largest small and of the largest medium instance.

    Raises
    ------
    BadInputError
        If a predicted instance has no score, or one that is not a number, or two.
    """
    overlaps = Overlaps.of(table)
    sure = overlaps.sizes_pred if confidences is None else _sureness(overlaps, confidences)
    order = np.argsort(-sure, kind="stable")
    iou = overlaps.scores("iou")
    best = best_of_each(overlaps.columns, iou, overlaps.n_pred)[order]
    truth = np.where(best < 0, -1, overlaps.rows[best] if len(iou) else -1)
    height = np.where(best < 0, 0.0, iou[best] if len(iou) else 0.0)
    size_true = np.searchsorted(size_limits, overlaps.sizes_true).astype(np.int8)
    size_pred = np.searchsorted(size_limits, overlaps.sizes_pred[order]).astype(np.int8)
    counts = [overlaps.n_true, *np.bincount(size_true, minlength=3)]
    results = np.empty((len(RANGES), len(_LIMITS)))
    for n, limit in enumerate(_LIMITS):
        outcome = _hits(truth, height, float(limit), size_true)
        for kind in range(len(RANGES)):
            results[kind, n] = _average(outcome, size_pred, kind - 1, int(counts[kind]), _RECALLS)
    return {
        name: _summary(results[kind]) if counts[kind] else AveragePrecision(None, None, None, None)
        for kind, name in enumerate(RANGES)
    }


def _summary(results: NDArray[np.float64]) -> AveragePrecision:
    ap50, ap75 = float(results[0]), float(results[5])
    return AveragePrecision(ap50, ap75, float(results.mean()), (ap50 + ap75) / 2)


def _sureness(overlaps: Overlaps, confidences: Confidences) -> NDArray[np.float64]:
    labels, values = confidences.labels, np.asarray(confidences.values, np.float64)
    order = np.argsort(labels, kind="stable")
    labels, values = labels[order], values[order]
    if len(labels) > 1 and (labels[1:] == labels[:-1]).any():
        twice = labels[1:][labels[1:] == labels[:-1]][0]
        raise BadInputError(f"Label {twice} has two confidences; give one per predicted label.")
    at = np.searchsorted(labels, overlaps.labels_pred)
    known = at < len(labels)
    known[known] = labels[at[known]] == overlaps.labels_pred[known]
    if not known.all():
        raise BadInputError(
            f"{np.count_nonzero(~known)} predicted labels have no confidence, the first is "
            f"{overlaps.labels_pred[~known][0]}; give one for every label or none at all."
        )
    sure: NDArray[np.float64] = values[at]
    if np.isnan(sure).any():
        label = overlaps.labels_pred[np.isnan(sure)][0]
        raise BadInputError(f"Label {label} has the confidence NaN; it must be a number.")
    return sure


@njit(cache=True, nogil=True)
def _hits(
    truth: NDArray[np.int64],
    height: NDArray[np.float64],
    limit: float,
    size_true: NDArray[np.int8],
) -> NDArray[np.int8]:
    """What each prediction in its turn hits: a true instance of which size, or -1."""
    taken = np.zeros(len(size_true), np.bool_)
    outcome = np.full(len(truth), -1, np.int8)
    for n in range(len(truth)):
        if height[n] >= limit and truth[n] >= 0 and not taken[truth[n]]:
            taken[truth[n]] = True
            outcome[n] = size_true[truth[n]]
    return outcome


@njit(cache=True, nogil=True)
def _average(
    outcome: NDArray[np.int8],
    size_pred: NDArray[np.int8],
    kind: int,
    n_true: int,
    recalls: NDArray[np.float64],
) -> float:
    """Mean of the enveloped precision over the recalls, in one range of sizes (-1 for all)."""
    precision = np.empty(n_true)
    hits, misses = 0, 0
    for n in range(len(outcome)):
        if outcome[n] < 0:
            misses += kind < 0 or size_pred[n] == kind
        elif kind < 0 or outcome[n] == kind:
            # precision only falls between two hits: those at hits are all that count
            precision[hits] = (hits + 1) / (hits + 1 + misses)
            hits += 1
    for n in range(hits - 2, -1, -1):
        precision[n] = max(precision[n], precision[n + 1])
    total, n = 0.0, 0
    for recall in recalls:
        while n < hits and (n + 1) / n_true < recall:
            n += 1
        if n < hits:
            total += precision[n]
    return total / len(recalls)
