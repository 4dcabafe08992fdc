"""The scores that tables and plots show, and what each of them is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from cellseg3d_dist.comparison.basis import Basis
from cellseg3d_dist.comparison.prediction import HALF, Prediction, Scores
from cellseg3d_dist.report.words import criterion_name

_PLOTTED = ("F1", "mean F1", "AP50", "PQ", "Dice")


@dataclass(frozen=True)
class Column:
    """A score, 0 to 1, that can be shown of an image or a whole.

    Attributes
    ----------
    name, meaning : str
        The meaning is a sentence without its first word and its stop.
    value : function of Scores to float or None
    """

    name: str
    meaning: str
    value: Callable[[Scores], float | None]

    def known(self, basis: Basis) -> bool:
        """Whether any prediction has it."""
        return any(self.value(prediction.whole) is not None for prediction in basis.predictions)


def columns(basis: Basis) -> Iterator[Column]:
    """Those that any prediction has, the most telling first."""
    yield from (column for column in _all(basis) if column.known(basis))


def plotted(basis: Basis) -> list[Column]:
    """The few that bars and boxes show."""
    return [c for c in columns(basis) if c.name.partition("@")[0] in _PLOTTED]


def by_image(column: Column, basis: Basis, prediction: Prediction) -> list[float]:
    """Values of the images of a prediction that have it."""
    values = (column.value(prediction.image(name)) for name in basis.images)
    return [value for value in values if value is not None]


def _all(basis: Basis) -> Iterator[Column]:
    criterion, overlap = basis.criterion, criterion_name(basis.criterion)
    low, high = basis.thresholds[0], basis.thresholds[-1]
    if HALF in basis.thresholds:
        yield from _at_half(criterion, overlap)
    yield Column(
        "mean F1",
        f"the mean of F1 over {overlap} thresholds {low:g} to {high:g}",
        lambda scores: scores.mean_f1(criterion, basis.thresholds),
    )
    yield _section(
        "AP50", "average_precision", "all.ap50",
        "average precision at IoU 0.5: predicted cells, the surest or largest first, each take "
        "their best true cell; precision is averaged over 101 steps of recall (NucMM, Lin et al. "
        "2021)",
    )  # fmt: skip
    yield _section(
        "Dice", "foreground", "dice",
        "2 TP / (2 TP + FP + FN) over voxels: cells against background, whoever they belong to",
    )  # fmt: skip
    yield _section(
        "SEG", "coverage", "seg",
        "the mean over true cells of the IoU with the predicted cell that covers more than half "
        "of it, else 0 (Cell Tracking Challenge, Ulman et al. 2017)",
    )  # fmt: skip


def _at_half(criterion: str, overlap: str) -> Iterator[Column]:
    hits = f"TP are pairs of a true and a predicted cell, one to one, of {overlap} {HALF:g} or more"
    for name, metric, meaning in (
        ("F1", "f1", f"2 TP / (2 TP + FP + FN); {hits}, FP and FN the rest"),
        ("precision", "precision", "TP / (TP + FP), the share of predicted cells that are right"),
        ("recall", "recall", "TP / (TP + FN), the share of true cells that are found"),
        ("PQ", "panoptic_quality", "panoptic quality: the overlaps of all TP over TP + FP / 2 + "
         "FN / 2 (Kirillov et al. 2019)"),
    ):  # fmt: skip
        yield Column(f"{name}@{HALF:g}", meaning, partial(_matched, metric, criterion))


def _matched(metric: str, criterion: str, scores: Scores) -> float | None:
    return scores.get(metric, criterion, HALF)


def _section(name: str, section: str, metric: str, meaning: str) -> Column:
    return Column(name, meaning, lambda scores: scores.get(metric, section))
