"""Centroids against true points: one-to-one within a distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.metrics.assignment import Pairs, match_pairs


@dataclass(frozen=True)
class PointScore:
    """Points found within a distance; 0 where a denominator is 0.

    Attributes
    ----------
    distance_um : float
        Largest distance of a match in micrometres, itself included.
    tp, fp, fn : int
        Matched pairs, unmatched predicted and unmatched true points.
    precision, recall, f1 : float
        tp / (tp + fp), tp / (tp + fn), 2 tp / (2 tp + fp + fn).
    mean_distance_um : float
        Mean distance of the matched pairs.
    """

    distance_um: float
    tp: int
    fp: int
    fn: int
    precision: float
    recall: float
    f1: float
    mean_distance_um: float


def match_points(
    points_true: NDArray[np.float64], points_pred: NDArray[np.float64], distance_um: float
) -> PointScore:
    """Match points one to one: as many as can be, then at the least sum of distances.

    Parameters
    ----------
    points_true, points_pred : (n, 3), (m, 3) float64
        Positions (z, y, x) in micrometres.
    distance_um : float
        Above 0.

    Raises
    ------
    BadInputError
        If the distance is not above 0, or a position is not a number.
    """
    if not (distance_um > 0 and np.isfinite(distance_um)):
        raise BadInputError(f"Matching distance {distance_um:g} um must be above 0 and finite.")
    true, pred = _checked("true", points_true), _checked("predicted", points_pred)
    distances = _matched_distances(true, pred, distance_um)
    tp = len(distances)
    return point_score(distance_um, tp, len(pred) - tp, len(true) - tp, float(distances.sum()))


def point_score(distance_um: float, tp: int, fp: int, fn: int, total: float) -> PointScore:
    """The score of counts and the sum of matched distances, of one image or of several."""
    return PointScore(
        distance_um=float(distance_um),
        tp=tp,
        fp=fp,
        fn=fn,
        precision=tp / (tp + fp) if tp else 0.0,
        recall=tp / (tp + fn) if tp else 0.0,
        f1=2 * tp / (2 * tp + fp + fn) if tp else 0.0,
        mean_distance_um=total / tp if tp else 0.0,
    )


def _checked(name: str, points: NDArray[np.float64]) -> NDArray[np.float64]:
    array = np.asarray(points, np.float64).reshape(-1, 3)
    bad = np.flatnonzero(~np.isfinite(array).all(1))
    if len(bad):
        raise BadInputError(
            f"The {name} point {bad[0]} lies at {array[bad[0]]}; it must be finite."
        )
    return array


def _matched_distances(
    true: NDArray[np.float64], pred: NDArray[np.float64], limit: float
) -> NDArray[np.float64]:
    if not (len(true) and len(pred)):
        return np.empty(0)
    near = cKDTree(true).sparse_distance_matrix(cKDTree(pred), limit, output_type="ndarray")
    order = np.lexsort((near["j"], near["i"]))
    rows, columns, distances = (near[name][order] for name in ("i", "j", "v"))
    # every pair is a hit, so their number comes first and the sum of distances second
    nearness = 1 - distances / limit
    pairs = Pairs(rows, columns, np.maximum(nearness, 0), len(true), len(pred))
    (matched,) = match_pairs(pairs, [0.0], unique_from_half=False)
    return np.sort((1 - matched) * limit)
