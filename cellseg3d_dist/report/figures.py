"""Plots of the report: histograms, threshold, seams, scores. Each returns a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.report import text
from cellseg3d_dist.report.data import Threshold
from cellseg3d_dist.report.drawing import ACCENT, INK, MAIN, MUTED, SERIES, figure, note, png, style
from cellseg3d_dist.report.seams import SeamCheck
from cellseg3d_dist.report.words import criterion_name

Floats = npt.NDArray[np.float64]


def histogram_figure(values: Floats, label: str, weight: float = 1.0) -> bytes:
    """Distribution over cells with its median; log axis where values spread widely.

    Parameters
    ----------
    values : (n,) float64
        NaN is left out.
    label : str
        Of the horizontal axis, with unit.
    weight : float
        Cells each value stands for.
    """
    values = values[np.isfinite(values)]
    made = figure(490, 300, layout="constrained")
    axes = made.add_subplot()
    if values.size == 0:
        note(axes, "no cells")
        return png(made, 64)
    edges, logarithmic = _edges(values)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    axes.stairs(counts * weight, edges, fill=True, color=MAIN, alpha=0.85)
    if logarithmic:
        axes.set_xscale("log")
    median = float(np.median(values))
    axes.axvline(median, color=ACCENT, linewidth=1.5)
    axes.annotate(
        f"median {text.number(median)}",
        (median, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(5, -2),
        textcoords="offset points",
        va="top",
        color=ACCENT,
        fontsize=9.5,
    )
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, max(1.0, float(counts.max()) * weight) * 1.12)
    style(axes, label, "cells")
    _plain_ticks(axes)
    return png(made, 64)


def _edges(values: Floats) -> tuple[Floats, bool]:
    """Bin edges over the central 99.8 %, logarithmic where that spans a factor over 20."""
    low, high = (float(v) for v in np.percentile(values, (0.1, 99.9)))
    if high <= low:
        pad = abs(low) * 0.5 or 1.0
        low, high = low - pad, high + pad
        return np.linspace(low, high, 12), False
    n_bins = int(np.clip(2 * np.cbrt(values.size), 8, 70))
    if low > 0 and high / low > 20:
        return np.geomspace(low, high, n_bins + 1), True
    return np.linspace(low, high, n_bins + 1), False


def _plain_ticks(axes: Any) -> None:
    """Thousands separated instead of offsets such as 1e6."""
    axes.yaxis.set_major_formatter(
        lambda value, _: f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"
    )
    if axes.get_xscale() == "linear":
        axes.xaxis.set_major_formatter(lambda value, _: text.number(value, 3))


def threshold_figure(threshold: Threshold) -> bytes:
    """Histogram of the whole volume on a log axis, with the threshold."""
    made = figure(490, 300, layout="constrained")
    axes = made.add_subplot()
    if threshold.counts is None or threshold.edges is None or threshold.counts.sum() == 0:
        note(axes, "no histogram")
        return png(made, 64)
    counts, edges = _rebinned(threshold.counts, threshold.edges)
    axes.stairs(np.maximum(counts, 0.5), edges, baseline=0.5, fill=True, color=MUTED, alpha=0.6)
    above = np.where(edges[1:] > threshold.value, counts, 0)
    axes.stairs(np.maximum(above, 0.5), edges, baseline=0.5, fill=True, color=MAIN)
    axes.axvline(threshold.value, color=ACCENT, linewidth=1.5)
    axes.set_yscale("log")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0.5, float(counts.max()) * 3)
    right = threshold.value > (edges[0] + edges[-1]) / 2
    axes.annotate(
        f"threshold {text.number(threshold.value, 4)}",
        (threshold.value, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if right else 5, -2),
        textcoords="offset points",
        va="top",
        ha="right" if right else "left",
        color=ACCENT,
        fontsize=9.5,
    )
    style(axes, "value after smoothing", "voxels")
    return png(made, 64)


def _rebinned(counts: npt.NDArray[Any], edges: Floats) -> tuple[Floats, Floats]:
    """At most 128 bins over the occupied range, cut where the last 0.001 % begins."""
    counts = np.asarray(counts, dtype=np.float64)
    total = np.cumsum(counts)
    occupied = np.flatnonzero(counts)
    first = int(occupied[0])
    last = max(int(np.searchsorted(total, total[-1] * (1 - 1e-5))), first) + 1
    step = -(-(last - first) // 128)
    starts = np.arange(first, last, step)
    return np.add.reduceat(counts[:last], starts), np.append(edges[starts], edges[last])


def seam_figure(check: SeamCheck) -> bytes:
    """Density of cells against distance to the nearest block face, over shifted grids."""
    made = figure(700, 300, layout="constrained")
    axes = made.add_subplot()
    profile = check.profile
    if profile is None:
        note(axes, check.status)
        return png(made, 64)
    axes.fill_between(
        profile.distance,
        profile.low,
        profile.high,
        color="#cbd5e1",
        label="95 % of randomly shifted grids",
        linewidth=0,
    )
    axes.axhline(1, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(
        profile.distance, profile.density, color=MAIN, marker="o", markersize=3.5, linewidth=1.6,
        label="the grid of this run",
    )  # fmt: skip
    near = max(check.width)
    axes.axvspan(0, near, color=ACCENT, alpha=0.08, linewidth=0)
    top = max(float(np.max(profile.density)), float(np.max(profile.high)), 1.2)
    axes.set_ylim(0, top * 1.2)
    axes.set_xlim(0, float(profile.distance[-1] + profile.distance[0]))
    axes.text(near / 2, top * 1.18, "near", ha="center", va="top", color=ACCENT, fontsize=9)
    style(axes, "distance to the nearest block face (voxels)", "cells / mean")
    axes.legend(frameon=False, fontsize=9, loc="lower right", labelcolor=INK)
    return png(made, 64)


def scores_figure(matching: Sequence[Mapping[str, Any]], criterion: str) -> bytes:
    """F1, precision, recall and panoptic quality against the matching threshold."""
    made = figure(700, 320, layout="constrained")
    axes = made.add_subplot()
    rows = sorted(
        (row for row in matching if str(row.get("criterion", "")) == criterion),
        key=lambda row: float(row["threshold"]),
    )
    if not rows:
        note(axes, "no scores")
        return png(made, 64)
    x = [float(row["threshold"]) for row in rows]
    names = (
        ("f1", "F1", "o"),
        ("precision", "precision", "^"),
        ("recall", "recall", "v"),
        ("panoptic_quality", "panoptic quality", "s"),
    )
    for (key, name, marker), colour in zip(names, SERIES, strict=False):
        if all(row.get(key) is not None for row in rows):
            y = [float(row[key]) for row in rows]
            axes.plot(
                x, y, marker=marker, markersize=4.5, color=colour, label=name,
                linewidth=2.2 if key == "f1" else 1.2,
            )  # fmt: skip
    axes.set_ylim(0, 1.02)
    style(axes, f"{criterion_name(criterion)} threshold", "score")
    axes.legend(frameon=False, fontsize=9, loc="lower left", labelcolor=INK)
    return png(made, 64)
