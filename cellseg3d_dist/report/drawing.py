"""Shared ground of the figures: colours, axes style, scale bars and small PNG files."""

from __future__ import annotations

import io
from math import floor, log10
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from cellseg3d_dist.report import text

INK = "#1f2933"
MUTED = "#6b7785"
GRID = "#e3e8ee"
MAIN = "#0f766e"
ACCENT = "#c2410c"
SERIES = ("#0f766e", "#c2410c", "#4338ca", "#a16207", "#be185d", "#0369a1")
#: Told apart by the colour-blind too (Okabe and Ito 2008), without their yellow.
DISTINCT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#3b3b3b")

DPI = 110


def figure(width: float, height: float, **options: Any) -> Figure:
    """A figure of this size in CSS pixels, without pyplot's global state."""
    return Figure(figsize=(width / 100, height / 100), dpi=DPI, facecolor="white", **options)


def png(made: Figure, colours: int = 256) -> bytes:
    """Encode with a palette: a third of the bytes of full colour, no visible loss."""
    canvas = FigureCanvasAgg(made)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    out = io.BytesIO()
    reduced = image.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    reduced.save(out, format="PNG", optimize=True)
    return out.getvalue()


def svg(made: Figure) -> bytes:
    """Encode as lines and text outlines; the same bytes for the same figure."""
    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "cellseg3d_dist", "svg.fonttype": "path"}):
        FigureCanvasSVG(made).print_svg(out, metadata={"Date": None})
    return out.getvalue()


def style(axes: Any, x: str = "", y: str = "", grid: str = "y") -> None:
    """Quiet axes with labels; label text is never read as mathematics."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)
    axes.tick_params(colors=INK, labelsize=9, which="both")
    if grid:
        axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(text.plain(x), color=INK, fontsize=10, parse_math=False)
    axes.set_ylabel(text.plain(y), color=INK, fontsize=10, parse_math=False)


def note(axes: Any, message: str) -> None:
    """A message where there is nothing to draw."""
    axes.set_axis_off()
    axes.text(
        0.5, 0.5, message, ha="center", va="center", color=MUTED, transform=axes.transAxes, size=11
    )


def bare(axes: Any, title: str = "") -> None:
    """An image panel: a thin frame, no ticks."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(MUTED)
        spine.set_linewidth(0.6)
    if title:
        axes.set_title(
            text.plain(title), loc="left", fontsize=9.5, color=INK, pad=4, parse_math=False
        )


def round_length(extent: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is at most a quarter of ``extent``.

    >>> round_length(410.0), round_length(8.0)
    (100.0, 2.0)
    """
    power = 10.0 ** floor(log10(extent / 4))
    return max(m * power for m in (1, 2, 5) if m * power <= extent / 4 * (1 + 1e-9))


def scale_bar(axes: Any, width_um: float, height_um: float) -> None:
    """A white bar with its length in the lower left of a panel with axes in micrometres.

    The vertical axis points down, as for images.
    """
    bar = round_length(width_um)
    pixel = height_um / axes.bbox.height
    left, bottom, thickness = 14 * width_um / axes.bbox.width, height_um - 12 * pixel, 5 * pixel
    if axes.bbox.height < 60:
        return
    outline = [patheffects.withStroke(linewidth=2.2, foreground="black")]
    axes.add_patch(
        Rectangle(
            (left, bottom - thickness),
            bar,
            thickness,
            facecolor="white",
            edgecolor="black",
            linewidth=0.5,
        )
    )
    axes.text(
        left + bar / 2,
        bottom - 8 * pixel,
        text.length(bar),
        color="white",
        ha="center",
        va="bottom",
        fontsize=8.5,
        path_effects=outline,
    )


def display_range(image: npt.NDArray[Any]) -> tuple[float, float]:
    """Grey levels shown as black and white: 0.5 and 99.8 percentiles, never equal."""
    values = np.asarray(image, dtype=np.float64).ravel()
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.8)))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return low, high if high > low else low + max(1.0, abs(low) * 1e-3)
