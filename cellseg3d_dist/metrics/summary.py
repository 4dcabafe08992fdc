"""All scores of one prediction in one value, and of a data set of several images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cellseg3d_dist.metrics.contingency import ContingencyTable
from cellseg3d_dist.metrics.scores import (
    CRITERIA,
    THRESHOLDS,
    ForegroundScore,
    MatchingScore,
    foreground_scores,
    matching,
)


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
    """

    name: str
    labels_true: str
    labels_pred: str
    n_true: int
    n_pred: int
    voxels: int
    matching: tuple[MatchingScore, ...]
    foreground: ForegroundScore
    average_precision: Mapping[str, Any] = field(default_factory=dict)
    coverage: Any = None
    partition: Any = None
    outcomes: Any = None
    thesis: float | None = None
    classes: tuple[Any, ...] | None = None
    points: Any = None
    regions: tuple[Any, ...] | None = None
    images: tuple[Scored, ...] | None = None
    mean: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what was not asked for is left out, thesis is null."""
        optional = ("classes", "points", "regions", "images", "mean")
        return {
            item.name: _plain(getattr(self, item.name))
            for item in dataclasses.fields(self)
            if item.name not in optional or getattr(self, item.name) is not None
        }


def summarise(
    table: ContingencyTable,
    *,
    name: str = "",
    labels_true: str = "",
    labels_pred: str = "",
    thresholds: Sequence[float] = THRESHOLDS,
) -> Scored:
    """All scores of one contingency table."""
    scores = tuple(s for criterion in CRITERIA for s in matching(table, thresholds, criterion))
    return Scored(
        name=name,
        labels_true=labels_true,
        labels_pred=labels_pred,
        n_true=len(table.sizes_true()[0]),
        n_pred=len(table.sizes_pred()[0]),
        voxels=table.n_voxels,
        matching=scores,
        foreground=foreground_scores(table),
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
