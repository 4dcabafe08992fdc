"""Scores of predictions as plain values: of what, at which threshold, which metric.

A value is found by (criterion, threshold, metric): ``("iou", 0.5, "f1")`` of a matching,
``("foreground", None, "dice")`` of a section of the document, ``("", None, "n_true")`` of its top.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

Key = tuple[str, float | None, str]

#: F1 and panoptic quality are shown at this overlap.
HALF = 0.5


@dataclass(frozen=True)
class Scores:
    """Values of one image, or of a data set as one.

    Attributes
    ----------
    name : str
    values : mapping of (criterion, threshold, metric) to float
    """

    name: str
    values: Mapping[Key, float]

    def get(self, metric: str, criterion: str = "", threshold: float | None = None) -> float | None:
        """A value, or None where it is not known."""
        return self.values.get((criterion, threshold, metric))

    @cached_property
    def n_true(self) -> int | None:
        """True instances: said, or hits and misses of a matching."""
        return self._count("n_true", "fn")

    @cached_property
    def n_pred(self) -> int | None:
        """Predicted instances."""
        return self._count("n_pred", "fp")

    def _count(self, name: str, missed: str) -> int | None:
        said = self.get(name)
        if said is not None:
            return int(said)
        for (criterion, threshold, metric), tp in self.values.items():
            other = self.values.get((criterion, threshold, missed))
            if metric == "tp" and threshold is not None and other is not None:
                return int(tp + other)
        return None

    def thresholds(self, criterion: str) -> tuple[float, ...]:
        """Where there is an F1, ascending."""
        found = {t for c, t, metric in self.values if c == criterion and metric == "f1"}
        return tuple(sorted(t for t in found if t is not None))

    def f1(self, criterion: str, thresholds: Iterable[float]) -> list[float]:
        """F1 at each threshold; all must be there."""
        return [self.values[criterion, threshold, "f1"] for threshold in thresholds]

    def mean_f1(self, criterion: str, thresholds: Sequence[float]) -> float:
        """Mean of F1 over thresholds."""
        return sum(self.f1(criterion, thresholds)) / len(thresholds)


@dataclass(frozen=True)
class Prediction:
    """Scores of one method.

    Attributes
    ----------
    name : str
    source : str
        Where the scores were read.
    whole : Scores
        Of the image, or of all images of a data set pooled.
    images : tuple of Scores
        Of each image of a data set; empty where there is one only.
    labels_true : str
        What they were scored against, as given.
    """

    name: str
    source: str
    whole: Scores
    images: tuple[Scores, ...] = field(default=())
    labels_true: str = ""

    def image(self, name: str) -> Scores:
        """The image of this name."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Scores]:
        return {image.name: image for image in self.images}
