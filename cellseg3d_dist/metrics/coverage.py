"""How well instances are covered by their best counterpart: SEG and MUCov."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellseg3d_dist.metrics.contingency import ContingencyTable
from cellseg3d_dist.metrics.overlaps import Overlaps


@dataclass(frozen=True)
class Coverage:
    """Means of the best IoU, as used for embryos; 0 where there is nothing to average.

    Attributes
    ----------
    seg : float
        Over the true instances, the IoU with the predicted one that holds more than half of
        its voxels, else 0 (Cell Tracking Challenge, Maska et al. 2014). Missed and fused
        instances lower it.
    mucov : float
        Mean unweighted coverage as evaluated for embryos (Tokuoka et al. 2020): over the
        *predicted* instances, the largest IoU with a true one. Made-up ones lower it.
    true_coverage : float
        The same over the true instances, the largest IoU with a predicted one: the mean
        unweighted coverage of Silberman et al. 2014.
    """

    seg: float
    mucov: float
    true_coverage: float


def coverage(table: ContingencyTable | Overlaps) -> Coverage:
    """SEG and mean unweighted coverage of a table of the whole volume."""
    overlaps = Overlaps.of(table)
    iou = overlaps.scores("iou")
    # at most one prediction holds more than half of a true instance
    held = 2 * overlaps.shared > overlaps.sizes_true[overlaps.rows]
    return Coverage(
        seg=_mean(iou[held], overlaps.n_true),
        mucov=_mean(_largest(overlaps.columns, iou, overlaps.n_pred), overlaps.n_pred),
        true_coverage=_mean(_largest(overlaps.rows, iou, overlaps.n_true), overlaps.n_true),
    )


def _mean(values: NDArray[np.float64], n: int) -> float:
    return float(values.sum()) / n if n else 0.0


@njit(cache=True, nogil=True)
def _largest(index: NDArray[np.int64], values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """The largest value of each of ``n`` instances, 0 where it has none."""
    best = np.zeros(n)
    for pair in range(len(index)):
        best[index[pair]] = max(best[index[pair]], values[pair])
    return best
