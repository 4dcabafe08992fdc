"""The picture of a search: the score against each setting, small panels side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cellseg3d_dist.report.drawing import ACCENT, GRID, INK, MAIN, MUTED, figure, png, style

#: Name, (value, score) in order, the best value and the default.
Panel = tuple[str, Sequence[tuple[str, float]], str, str]

_COLUMNS, _WIDTH, _HEIGHT = 3, 360, 230
_TICKS = 8


def draw(panels: Sequence[Panel], score: str) -> bytes:
    """PNG with a panel for each setting.

    Parameters
    ----------
    panels : sequence of Panel
        Values are drawn at equal distances, in the order given.
    score : str
        Its name.
    """
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    made = figure(_WIDTH * columns, _HEIGHT * rows + 20, layout="constrained")
    highest = max(value for _, points, _, _ in panels for _, value in points)
    for number, (name, points, found, default) in enumerate(panels):
        axes: Any = made.add_subplot(rows, columns, number + 1)
        _panel(axes, points, found, default)
        axes.set_ylim(0, max(highest * 1.08, 0.01))
        style(axes, name, f"highest {score}" if number % columns == 0 else "")
    return png(made, 64)


def _panel(axes: Any, points: Sequence[tuple[str, float]], found: str, default: str) -> None:
    names = [name for name, _ in points]
    scores = [value for _, value in points]
    axes.plot(range(len(names)), scores, "-", color=MAIN, linewidth=1.5, zorder=2)
    axes.plot(range(len(names)), scores, "o", color=MAIN, markersize=3.5, zorder=3)
    if default in names:
        axes.axvline(names.index(default), color=MUTED, linewidth=1.2, linestyle=":", zorder=1)
    at = names.index(found)
    axes.plot([at], [scores[at]], "o", color=ACCENT, markersize=7, zorder=4)
    axes.annotate(
        f"{found}: {scores[at]:.3f}",
        (at, scores[at]),
        xytext=(0, -9),
        textcoords="offset points",
        ha="left" if at < len(names) / 3 else "right" if at > 2 * len(names) / 3 else "center",
        va="top",
        fontsize=9,
        color=ACCENT,
        zorder=5,
        bbox={"facecolor": "white", "edgecolor": GRID, "pad": 1.5, "linewidth": 0.6},
    )
    step = math.ceil(len(names) / _TICKS)
    shown = range(0, len(names), step)
    axes.set_xticks(list(shown), [names[i] for i in shown], color=INK)


__all__ = ["Panel", "draw"]
