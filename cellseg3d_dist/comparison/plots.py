"""Plots of a comparison; each prediction has one colour and one marker in all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cellseg3d_dist.comparison.basis import Basis
from cellseg3d_dist.comparison.columns import Column, by_image, plotted
from cellseg3d_dist.comparison.prediction import Prediction
from cellseg3d_dist.comparison.words import MOST_BANDS
from cellseg3d_dist.metrics.statistics import bootstrap_interval
from cellseg3d_dist.report import text
from cellseg3d_dist.report.drawing import DISTINCT, INK, MUTED, figure, style
from cellseg3d_dist.report.words import criterion_name

KEYS = ("f1", "scores", "boxes", "outcomes", "counts")
WIDTH = 980
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))
#: Outcomes of true and predicted cells, with their colours.
OUTCOMES = (
    ("found", "#009e73"), ("fused", "#e69f00"), ("split", "#56b4e9"), ("missed", "#c3ccd6"),
    ("artifacts", "#d55e00"),
)  # fmt: skip
_NAME = 28
_ROW = 30


@dataclass(frozen=True)
class Plot:
    """A figure with the words that belong below it."""

    key: str
    title: str
    caption: str
    figure: Figure


def draw(basis: Basis, captions: dict[str, str]) -> Iterator[Plot]:
    """All plots that the scores allow, in the order of the page.

    Parameters
    ----------
    basis : Basis
    captions : dict
        Of each plot, by its key.
    """
    overlap = criterion_name(basis.criterion)
    made: list[tuple[str, str, Callable[[Basis], Figure | None]]] = [
        ("f1", f"F1 against {overlap}", f1_figure),
        ("scores", "Scores as a whole", bars_figure),
        ("boxes", "Scores by image", boxes_figure),
        ("outcomes", "What became of the cells", outcomes_figure),
        ("counts", "Number of cells", counts_figure),
    ]
    for key, title, function in made:
        drawn = function(basis)
        if drawn is not None:
            yield Plot(key, title, captions[key], drawn)


def f1_figure(basis: Basis) -> Figure:
    """F1 against the threshold: means over images with intervals, or lines of the whole."""
    made = figure(WIDTH * 0.86, 400, layout="constrained")
    axes = made.add_subplot()
    many = len(basis.predictions) > MOST_BANDS
    for number, prediction in enumerate(basis.predictions):
        look = _look(number)
        at = np.array(basis.thresholds)
        if len(basis.images) > 1:
            curves = np.array(basis.curves(prediction))
            values = curves.mean(axis=0)
            low, high = bootstrap_interval(curves)
            if many:
                # bars side by side, where bands would cover each other
                at = at + _aside(at, number, len(basis.predictions))
                axes.vlines(at, low, high, color=look["color"], linewidth=1.2, alpha=0.7)
            else:
                axes.fill_between(at, low, high, color=look["color"], alpha=0.14, linewidth=0)
        else:
            values = np.array(prediction.whole.f1(basis.criterion, basis.thresholds))
        axes.plot(
            at, values, label=_name(prediction), markersize=4.5 if many else 6,
            linewidth=1.2 if many else 1.8, markeredgecolor="white", markeredgewidth=0.7, **look,
        )  # fmt: skip
    axes.set_ylim(0, 1.02)
    axes.set_xticks(basis.thresholds, [f"{t:g}" for t in basis.thresholds])
    style(axes, f"{criterion_name(basis.criterion)} threshold", "F1")
    _legend(made, axes)
    return made


def _aside(at: Any, number: int, of: int) -> float:
    """Where the points of one of several predictions go, over half a step of the axis."""
    step = float(np.diff(at).min()) if len(at) > 1 else 0.1
    return step * 0.5 * (number / (of - 1) - 0.5)


def bars_figure(basis: Basis) -> Figure | None:
    """A panel for each score, a bar for each prediction."""

    def panel(axes: Any, column: Column) -> None:
        for number, prediction in enumerate(basis.predictions):
            value = column.value(prediction.whole)
            if value is None:
                axes.text(0.02, number, "not known", va="center", color=MUTED, fontsize=8.5)
                continue
            axes.barh(number, value, height=0.66, color=_look(number)["color"])
            axes.text(
                value + 0.03, number, f"{value:.3f}", va="center", color=INK, fontsize=9,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            )  # fmt: skip
        axes.set_xlim(0, 1.22)
        axes.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))

    return _panels(basis, plotted(basis), panel)


def boxes_figure(basis: Basis) -> Figure | None:
    """A panel for each score, a box over images for each prediction, each image a dot."""
    if len(basis.images) < 2:
        return None
    random = np.random.default_rng(0)

    def panel(axes: Any, column: Column) -> None:
        for number, prediction in enumerate(basis.predictions):
            values = by_image(column, basis, prediction)
            if not values:
                axes.text(0.02, number, "not known", va="center", color=MUTED, fontsize=8.5)
                continue
            colour = _look(number)["color"]
            axes.boxplot(
                values, positions=[number], orientation="horizontal", widths=0.62,
                patch_artist=True, showfliers=False,
                boxprops={"facecolor": colour + "33", "edgecolor": colour},
                medianprops={"color": INK, "linewidth": 1.8, "zorder": 4},
                whiskerprops={"color": colour}, capprops={"color": colour},
            )  # fmt: skip
            spread = number + random.uniform(-0.16, 0.16, len(values))
            size = 12 if len(values) <= 60 else 4
            axes.scatter(values, spread, s=size, color=colour, alpha=0.6, linewidths=0, zorder=3)
        axes.set_xlim(-0.03, 1.03)
        axes.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))

    scored = [c for c in plotted(basis) if any(by_image(c, basis, p) for p in basis.predictions)]
    return _panels(basis, scored, panel)


def outcomes_figure(basis: Basis) -> Figure | None:
    """Stacked counts of what became of true cells, and predicted ones that are none."""
    counts = [
        [prediction.whole.get(name, "outcomes") for name, _ in OUTCOMES]
        for prediction in basis.predictions
    ]
    if not any(value is not None for row in counts for value in row):
        return None
    made = _rows_figure(basis, WIDTH * 0.92)
    axes = made.add_subplot()
    known = [[value or 0.0 for value in row] for row in counts]
    widest = max(map(sum, known)) or 1.0
    starts = np.zeros(len(known))
    for (name, colour), values in zip(OUTCOMES, zip(*known, strict=True), strict=True):
        if name == "artifacts":
            # no true cells: set apart
            starts += 0.012 * widest
        axes.barh(
            range(len(values)), values, left=starts, height=0.66, color=colour, label=name,
            edgecolor="white", linewidth=1,
        )  # fmt: skip
        for row, value in enumerate(values):
            if value > 0.035 * widest:
                axes.text(
                    starts[row] + value / 2, row, f"{value:,.0f}", ha="center", va="center",
                    color=INK, fontsize=8.5,
                )  # fmt: skip
        starts += values
    for row, values_known in enumerate(counts):
        if all(value is None for value in values_known):
            axes.text(widest * 0.01, row, "not known", va="center", color=MUTED, fontsize=8.5)
    axes.set_xlim(0, widest * 1.025)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _rows(axes, basis)
    style(axes, "cells", "", grid="x")
    made.legend(
        *axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(OUTCOMES),
        frameon=False, fontsize=9, labelcolor=INK,
    )  # fmt: skip
    return made


def counts_figure(basis: Basis) -> Figure | None:
    """Predicted against true numbers: a dot for each image, or a bar for each prediction."""
    if any(p.whole.n_true is None or p.whole.n_pred is None for p in basis.predictions):
        return None
    return _counts_by_image(basis) if len(basis.images) > 1 else _counts_as_a_whole(basis)


def _counts_by_image(basis: Basis) -> Figure | None:
    pairs = {
        p.name: [(i.n_true, i.n_pred) for i in map(p.image, basis.images)]
        for p in basis.predictions
    }
    every = [n for points in pairs.values() for point in points for n in point]
    if any(n is None for n in every):
        return None
    made = figure(WIDTH * 0.66, 430, layout="constrained")
    axes = made.add_subplot()
    low, top = _equal_axes(axes, np.array(every, dtype=float))
    axes.plot((low, top), (low, top), color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for number, prediction in enumerate(basis.predictions):
        look = _look(number)
        true, pred = zip(*pairs[prediction.name], strict=True)
        axes.scatter(
            true, pred, s=34, color=look["color"], marker=look["marker"], alpha=0.8,
            edgecolors="white", linewidths=0.6, label=_name(prediction), zorder=3,
        )  # fmt: skip
    style(axes, "true cells of the image", "predicted cells", grid="both")
    _legend(made, axes)
    return made


def _equal_axes(axes: Any, numbers: Any) -> tuple[float, float]:
    """The same range on both axes, logarithmic where numbers differ widely; 0 stays visible."""
    positive = numbers[numbers > 0]
    logarithmic = bool(positive.size) and positive.max() > 30 * positive.min()
    top = max(1.0, float(numbers.max())) * (1.6 if logarithmic else 1.06)
    low = -0.03 * top
    if logarithmic:
        zero = positive.size < numbers.size
        low = -0.2 if zero else float(positive.min()) / 1.6
        scale: dict[str, Any] = {"value": "symlog", "linthresh": 1} if zero else {"value": "log"}
        axes.set_xscale(**scale)
        axes.set_yscale(**scale)
    axes.set_xlim(low, top)
    axes.set_ylim(low, top)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        if not logarithmic:
            axis.set_major_locator(MaxNLocator(5, integer=True))
    return low, top


def _counts_as_a_whole(basis: Basis) -> Figure:
    made = _rows_figure(basis, WIDTH * 0.8)
    axes = made.add_subplot()
    widest = 1
    for number, prediction in enumerate(basis.predictions):
        true, pred = prediction.whole.n_true or 0, prediction.whole.n_pred or 0
        widest = max(widest, true, pred)
        axes.barh(number, pred, height=0.6, color=_look(number)["color"])
        axes.vlines(true, number - 0.42, number + 0.42, color=INK, linewidth=2.4, zorder=3)
    for number, prediction in enumerate(basis.predictions):
        true, pred = prediction.whole.n_true or 0, prediction.whole.n_pred or 0
        said = f"{pred:,} of {true:,}"
        axes.text(
            max(true, pred) + 0.012 * widest, number, said, va="center", color=INK, fontsize=9
        )
    axes.set_xlim(0, widest * 1.2)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _rows(axes, basis)
    style(axes, "predicted cells; the upright line is the true number", "", grid="x")
    return made


def _panels(
    basis: Basis, columns: Sequence[Column], panel: Callable[[Any, Column], None]
) -> Figure | None:
    if not columns:
        return None
    made = _rows_figure(basis, WIDTH if len(columns) > 3 else WIDTH * 0.8)
    all_axes: Any = made.subplots(1, len(columns), sharey=True, squeeze=False)
    for axes, column in zip(all_axes[0], columns, strict=True):
        panel(axes, column)
        _rows(axes, basis)
        style(axes, "", "", grid="x")
        axes.set_title(column.name, fontsize=10, color=INK, loc="left", parse_math=False)
    return made


def _rows_figure(basis: Basis, width: float) -> Figure:
    return figure(width, 84 + _ROW * max(2, len(basis.predictions)), layout="constrained")


def _rows(axes: Any, basis: Basis) -> None:
    """One prediction a row, the first on top."""
    axes.set_yticks(range(len(basis.predictions)), [_name(p) for p in basis.predictions])
    axes.set_ylim(max(2, len(basis.predictions)) - 0.45, -0.55)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.tick_params(axis="y", length=0)


def _look(number: int) -> dict[str, Any]:
    """Colour, marker and line of a prediction; more than there are colours differ in dashes."""
    turn = number // len(DISTINCT)
    return {
        "color": DISTINCT[number % len(DISTINCT)],
        "marker": MARKERS[(number + turn) % len(MARKERS)],
        "linestyle": DASHES[turn % len(DASHES)],
    }


def _name(prediction: Prediction) -> str:
    return text.plain(prediction.name, _NAME)


def _legend(made: Figure, axes: Any) -> None:
    """Beside the axes, in the order of the predictions."""
    legend = made.legend(
        *axes.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=9.5,
        labelcolor=INK,
    )  # fmt: skip
    for label in legend.get_texts():
        label.set_parse_math(False)
