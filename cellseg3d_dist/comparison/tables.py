"""Tables of a comparison: every value as CSV, the telling ones for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cellseg3d_dist.comparison.basis import Basis
from cellseg3d_dist.comparison.columns import Column, by_image, columns, plotted
from cellseg3d_dist.comparison.prediction import Prediction, Scores
from cellseg3d_dist.comparison.words import p_value
from cellseg3d_dist.metrics.statistics import GroupTest, bootstrap_interval

TIDY = ("prediction", "image", "criterion", "threshold", "metric", "value")
#: A table for people: its head, and rows of as many cells.
Table = tuple[Sequence[str], Sequence[Sequence[str]]]
Row = tuple[str, str, str, float | None, str, float]

UNKNOWN = "–"


def tidy(predictions: Iterable[Prediction]) -> Iterator[Row]:
    """Every value of every prediction, a row each; the image of a whole is empty."""
    for prediction in predictions:
        parts = [("", prediction.whole), *((image.name, image) for image in prediction.images)]
        for image, scores in parts:
            for (criterion, threshold, metric), value in scores.values.items():
                yield prediction.name, image, criterion, threshold, metric, value


def tidy_csv(predictions: Iterable[Prediction]) -> str:
    """The same as CSV; whole numbers are written as such."""
    rows = (
        (*start, "" if t is None else f"{t:g}", metric, _exact(value))
        for *start, t, metric, value in tidy(predictions)
    )
    return _csv(TIDY, rows)


def pairs_csv(test: GroupTest) -> str:
    """The tests of all pairs as CSV."""
    head = ("first", "second", "median_difference", "cliffs_delta", "p_holm")
    rows = (
        (p.first, p.second, repr(p.difference), repr(p.delta), "" if p.p is None else repr(p.p))
        for p in test.pairs
    )
    return _csv(head, rows)


def scores_table(basis: Basis) -> Table:
    """Counts and scores of each prediction as a whole."""
    shown = list(columns(basis))
    head = ["prediction", "true", "found", *(column.name for column in shown)]
    rows = [
        [
            prediction.name,
            _count(prediction.whole.n_true),
            _count(prediction.whole.n_pred),
            *(score(column.value(prediction.whole)) for column in shown),
        ]
        for prediction in basis.predictions
    ]
    return head, rows


def means_table(basis: Basis) -> Table:
    """Means over images with 95 % bootstrap intervals."""
    shown = [c for c in plotted(basis) if any(by_image(c, basis, p) for p in basis.predictions)]
    head = ["prediction", "images", *(column.name for column in shown)]
    rows = [
        [p.name, str(len(basis.images)), *(_mean(c, basis, p) for c in shown)]
        for p in basis.predictions
    ]
    return head, rows


def curve_table(basis: Basis) -> Table:
    """F1 of each prediction as a whole at each threshold."""
    head = ["prediction", *(f"{threshold:g}" for threshold in basis.thresholds)]
    rows = [
        [p.name, *map(score, p.whole.f1(basis.criterion, basis.thresholds))]
        for p in basis.predictions
    ]
    return head, rows


def images_table(basis: Basis) -> Table:
    """Mean F1 of each image, a column for each prediction."""
    head = ["image", "true", *basis.names]
    rows = []
    for name in basis.images:
        images = [prediction.image(name) for prediction in basis.predictions]
        rows.append([name, _count(images[0].n_true), *(score(_mean_f1(i, basis)) for i in images)])
    return head, rows


def groups_table(test: GroupTest) -> Table:
    """What was tested of each method."""
    head = ["method", "n", "median", "quartiles", "mean"]
    rows = [
        [g.name, str(g.n), score(g.median), f"{score(g.q1)}–{score(g.q3)}", score(g.mean)]
        for g in test.groups
    ]
    return head, rows


def pairs_table(test: GroupTest) -> Table:
    """The tests of all pairs."""
    head = ["first", "second", "median difference", "δ", "p", ""]
    rows = [
        [
            pair.first,
            pair.second,
            f"{pair.difference:+.3f}",
            f"{pair.delta:+.2f}",
            p_value(pair.p) or "not tested",
            stars(pair.p),
        ]
        for pair in test.pairs
    ]
    return head, rows


def stars(p: float | None) -> str:
    """Level of significance."""
    if p is None or p >= 0.05:
        return ""
    return "***" if p < 0.001 else "**" if p < 0.01 else "*"


def score(value: float | None) -> str:
    """Three digits behind the point."""
    return UNKNOWN if value is None else f"{value:.3f}"


def _mean(column: Column, basis: Basis, prediction: Prediction) -> str:
    values = by_image(column, basis, prediction)
    if not values:
        return UNKNOWN
    low, high = bootstrap_interval(values)
    mean = f"{sum(values) / len(values):.3f}"
    # word joiners: lines break before the bracket only
    return mean if len(values) < 2 else f"{mean} ({low:.3f}\u2060–\u2060{high:.3f})"


def _mean_f1(scores: Scores, basis: Basis) -> float:
    return scores.mean_f1(basis.criterion, basis.thresholds)


def _count(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _exact(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return out.getvalue()
