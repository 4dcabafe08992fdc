"""What a comparison found."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cellseg3d_dist
from cellseg3d_dist.comparison import tables, words
from cellseg3d_dist.comparison.basis import Basis
from cellseg3d_dist.comparison.prediction import Prediction
from cellseg3d_dist.metrics.statistics import GroupTest

if TYPE_CHECKING:
    from pandas import DataFrame

#: What its document says it is.
PROGRAM, KIND = "cellseg3d_dist", "comparison"


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes
    ----------
    basis : Basis
        What was compared: predictions, criterion, common thresholds and images.
    test : GroupTest
        Kruskal-Wallis, Conover-Iman, effect sizes.
    page : Path or None
        The HTML page, where a folder was asked for.
    """

    basis: Basis
    test: GroupTest
    page: Path | None = None

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """In the order given."""
        return self.basis.predictions

    @cached_property
    def statements(self) -> tuple[str, ...]:
        """What was tested and what came out, in sentences."""
        return (f"Tested {words.values_tested(self.basis)}.", *words.outcome(self.test))

    @cached_property
    def cautions(self) -> tuple[str, ...]:
        """What was left out, and what the tests cannot know."""
        return tuple(words.cautions(self.basis, self.test))

    def frame(self) -> DataFrame:
        """Every value as a table: prediction, image, criterion, threshold, metric, value."""
        from pandas import DataFrame

        return DataFrame(list(tables.tidy(self.predictions)), columns=list(tables.TIDY))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "program": PROGRAM,
            "kind": KIND,
            "version": cellseg3d_dist.__version__,
            "predictions": [{"name": p.name, "source": p.source} for p in self.predictions],
            "criterion": self.basis.criterion,
            "thresholds": list(self.basis.thresholds),
            "images": list(self.basis.images),
            "by": self.basis.by,
            "test": dataclasses.asdict(self.test),
            "statements": list(self.statements),
            "cautions": list(self.cautions),
        }
