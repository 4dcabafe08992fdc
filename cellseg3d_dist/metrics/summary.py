"""All scores of one prediction in one value, and of a data set of several images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg3d_dist.metrics.boxes import thesis_score
from cellseg3d_dist.metrics.classes import ClassScore, class_scores
from cellseg3d_dist.metrics.contingency import ContingencyTable
from cellseg3d_dist.metrics.counting import RegionCount
from cellseg3d_dist.metrics.coverage import Coverage, coverage
from cellseg3d_dist.metrics.outcomes import Outcomes, outcomes
from cellseg3d_dist.metrics.overlaps import CRITERIA, Overlaps
from cellseg3d_dist.metrics.partition import Partition, partition_scores
from cellseg3d_dist.metrics.points import PointScore
from cellseg3d_dist.metrics.precision import (
    SIZE_LIMITS,
    AveragePrecision,
    Confidences,
    average_precision,
)
from cellseg3d_dist.metrics.scores import (
    THRESHOLDS,
    ForegroundScore,
    MatchingScore,
    foreground_scores,
    matching,
)

_OPTIONAL = ("classes", "points", "regions", "images", "mean")


@dataclass(frozen=True)
class Scored:
    """What is known of a prediction once it is scored.

    Attributes
    ----------
    name, labels_true, labels_pred : str
        What the prediction is called, and where the two label images are.
    n_true, n_pred : int
        Instances.
    voxels : int
        Voxels counted, background included.
    matching : tuple of MatchingScore
        IoU first, then IoT and IoP, each over all thresholds.
    foreground : ForegroundScore
    average_precision : mapping
        By size: all, small, medium, large.
    coverage : Coverage
    partition : Partition
    outcomes : Outcomes
    thesis : float or None
        Where the boxes were looked into (:mod:`cellseg3d_dist.metrics.boxes`).
    classes : tuple of ClassScore, optional
        Where labels are classes.
    points : PointScore, optional
        Where points are the truth.
    regions : tuple of RegionCount, optional
    images : tuple of Scored, optional
        Of a data set, whose own scores are those of all images pooled.
    mean : mapping, optional
        Each score's mean over the images (:func:`mean_of`).
    """

    name: str
    labels_true: str
    labels_pred: str
    n_true: int
    n_pred: int
    voxels: int
    matching: tuple[MatchingScore, ...]
    foreground: ForegroundScore
    average_precision: Mapping[str, AveragePrecision]
    coverage: Coverage
    partition: Partition
    outcomes: Outcomes
    thesis: float | None = None
    classes: tuple[ClassScore, ...] | None = None
    points: PointScore | None = None
    regions: tuple[RegionCount, ...] | None = None
    images: tuple[Scored, ...] | None = None
    mean: Mapping[str, Any] | None = field(default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what was not asked for is left out, thesis is null."""
        return {
            item.name: _plain(getattr(self, item.name))
            for item in dataclasses.fields(self)
            if item.name not in _OPTIONAL or getattr(self, item.name) is not None
        }


def summarise(
    table: ContingencyTable,
    *,
    name: str = "",
    labels_true: str = "",
    labels_pred: str = "",
    thresholds: Sequence[float] = THRESHOLDS,
    confidences: Confidences | None = None,
    size_limits: tuple[int, int] = SIZE_LIMITS,
    in_box: NDArray[np.int64] | None = None,
    classes: ContingencyTable | None = None,
    points: PointScore | None = None,
    regions: Sequence[RegionCount] | None = None,
) -> Scored:
    """All scores of one contingency table.

    Parameters
    ----------
    table : ContingencyTable
        Of the whole volume.
    name, labels_true, labels_pred : str
    thresholds : floats
        Of the matching, for every criterion.
    confidences : Confidences, optional
        Scores of the predicted labels, for the average precision.
    size_limits : (int, int)
        Volumes in voxels that part small, medium and large.
    in_box : (n_true,) int64, optional
        For the thesis score, what ``voxels_in_boxes`` counted.
    classes : ContingencyTable, optional
        Whose labels are classes.
    points, regions : optional
        Scores that no table holds, taken over as they are.

    Raises
    ------
    BadInputError
        If a threshold is out of range or the confidences do not fit the labels.
    """
    overlaps = Overlaps.of(table)
    return Scored(
        name=name,
        labels_true=labels_true,
        labels_pred=labels_pred,
        n_true=overlaps.n_true,
        n_pred=overlaps.n_pred,
        voxels=table.n_voxels,
        matching=tuple(s for c in CRITERIA for s in matching(overlaps, thresholds, c)),
        foreground=foreground_scores(table),
        average_precision=average_precision(overlaps, confidences, size_limits),
        coverage=coverage(overlaps),
        partition=partition_scores(table),
        outcomes=outcomes(overlaps),
        thesis=None if in_box is None else thesis_score(overlaps, in_box),
        classes=None if classes is None else class_scores(classes),
        points=points,
        regions=None if regions is None else tuple(regions),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Scored):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
