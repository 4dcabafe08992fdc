"""Figures of the image itself: projections, slices with outlines, density of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import Normalize

from cellseg3d_dist.grid import Region, Triple
from cellseg3d_dist.report import text
from cellseg3d_dist.report.cells import Cells
from cellseg3d_dist.report.data import Projection, Readable, ReportData
from cellseg3d_dist.report.drawing import (
    INK,
    bare,
    display_range,
    figure,
    png,
    scale_bar,
)

WIDTH = 1000
MAX_WINDOW = 512
CELLS_ACROSS = 18
"""Median cells along a side of the slices: few enough that outlines are legible."""

MAX_DOTS = 3000
"""More cells than this are not drawn as dots over the density."""

_PLANES = (("yx", 0, 1, 2), ("zx", 1, 0, 2), ("zy", 2, 0, 1))
"""Name of a plane, axis across it, axes of its rows and columns."""

_OUTLINES = np.array(
    [(255, 196, 0), (0, 214, 255), (255, 92, 168), (120, 255, 90), (255, 130, 40), (170, 150, 255)],
    dtype=np.uint8,
)


@dataclass(frozen=True)
class _Layout:
    """Three orthogonal panels around a corner, to one physical scale, in figure fractions."""

    width: float
    height: float
    boxes: dict[str, tuple[float, float, float, float]]


def _corner_layout(extent: Sequence[float], right: float = 10.0) -> _Layout:
    """``yx`` upper left, ``zy`` (turned) to its right, ``zx`` below it; CSS pixels.

    ``right`` pixels stay free on the right for a colour bar.
    """
    z, y, x = extent
    gap, title = 14.0, 26.0
    scale = min((WIDTH - right - gap - 10) / (x + z), (760 - gap - 2 * title) / (y + z))
    z, y, x = (max(e * scale, 3.0) for e in (z, y, x))
    width, height = x + z + gap + right + 10, y + z + 2 * title + gap
    width_shown = max(width, 420.0)

    def box(left: float, top: float, w: float, h: float) -> tuple[float, float, float, float]:
        return (left / width_shown, 1 - (top + h) / height, w / width_shown, h / height)

    boxes = {
        "yx": box(5, title, x, y),
        "zy": box(5 + x + gap, title, z, y),
        "zx": box(5, title + y + title, x, z),
        "bar": box(5 + x + gap + z + 16, title, 14, y),
    }
    return _Layout(width_shown, height, boxes)


def projections_figure(projections: Sequence[Projection], extent_um: Sequence[float]) -> bytes:
    """Maximum projections along z, y and x, to one physical scale with a scale bar."""
    layout = _corner_layout(extent_um)
    made = figure(layout.width, layout.height)
    for projection in projections:
        low, high = display_range(projection.image)
        image = np.asarray(projection.image, dtype=np.float64)
        rows, columns = (n * s for n, s in zip(image.shape, projection.pixel_size, strict=True))
        if projection.axes == "zy":
            image, rows, columns = image.T, columns, rows
        axes = made.add_axes(layout.boxes[projection.axes])
        axes.imshow(
            image, cmap="gray", vmin=low, vmax=high, extent=(0, columns, rows, 0), aspect="auto"
        )
        bare(axes, _panel_title(projection.axes, layout))
        if projection.axes == "yx":
            scale_bar(axes, columns, rows)
    return png(made, 128)


def _panel_title(axes: str, layout: _Layout) -> str:
    """What is projected, where the panel is wide enough to say it."""
    width = layout.boxes[axes][2] * layout.width
    full = {"yx": "y–x, along z", "zx": "z–x, along y", "zy": "z–y, along x"}[axes]
    if width > 110:
        return full
    return full[:3] if width > 24 else ""


def density_figure(cells: Cells, data: ReportData) -> bytes:
    """Cells per cubic millimetre, averaged along z, y and x in three projections."""
    layout = _corner_layout(data.extent_um, right=110.0)
    made = figure(layout.width, layout.height)
    extent = data.extent_um
    # about three cells per bin of the largest panel
    n_bins = float(np.clip(np.sqrt(cells.total / 3), 8, 150))
    size = max(max(extent) / n_bins, max(data.voxel_size))
    maps = {}
    for name, across, row, column in _PLANES:
        edges = [
            np.linspace(0, extent[a], max(1, round(extent[a] / size)) + 1) for a in (row, column)
        ]
        position = [(cells.centroid[:, a] + 0.5) * data.voxel_size[a] for a in (row, column)]
        counts, _, _ = np.histogram2d(position[0], position[1], bins=edges)
        bin_mm3 = (edges[0][1] * edges[1][1] * extent[across]) * 1e-9
        maps[name] = counts * cells.weight / bin_mm3
    norm = _density_norm([maps[name] for name, *_ in _PLANES])
    image: Any = None
    for name, _, row, column in _PLANES:
        shown, down, right = maps[name], row, column
        if name == "zy":
            shown, down, right = shown.T, column, row
        height, width = extent[down], extent[right]
        axes = made.add_axes(layout.boxes[name])
        axes.set_facecolor("black")
        image = axes.imshow(
            shown, cmap="viridis", norm=norm, extent=(0, width, height, 0), aspect="auto",
            interpolation="nearest",
        )  # fmt: skip
        bare(axes, _panel_title(name, layout))
        if cells.total <= MAX_DOTS:
            dots = (cells.centroid + 0.5) * data.voxel_size
            axes.plot(dots[:, right], dots[:, down], ".", markersize=2.2, color="white", alpha=0.7)
            axes.set_xlim(0, width)
            axes.set_ylim(height, 0)
        if name == "yx":
            scale_bar(axes, width, height)
    bar = made.colorbar(image, cax=made.add_axes(layout.boxes["bar"]))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8.5, colors=INK)
    top = float(norm.vmax or 1.0)
    factor, unit = next(
        (f, u)
        for f, u in ((1e6, "million "), (1e3, "thousand "), (1.0, ""))
        if top >= 5 * f or f == 1
    )
    bar.ax.yaxis.set_major_formatter(lambda value, _: text.number(value / factor))
    bar.set_label(f"{unit}cells / mm³", fontsize=9.5, color=INK)
    return png(made)


def _density_norm(maps: Sequence[npt.NDArray[np.float64]]) -> Normalize:
    """One linear scale for all panels, cut at the 99.5th percentile of occupied bins."""
    occupied = np.concatenate([m[m > 0] for m in maps])
    top = float(np.percentile(occupied, 99.5)) if occupied.size else 1.0
    return Normalize(0, top)


def densest_place(cells: Cells, shape: Triple, window: Triple) -> Triple:
    """Centre voxel of the window-sized place with most cells; the volume's where there is none."""
    middle = (shape[0] // 2, shape[1] // 2, shape[2] // 2)
    if cells.total == 0:
        return middle
    # half a window per bin, so that no place is cut by much
    step = [max(1, w // 2) for w in window]
    counts = tuple(-(-n // s) for n, s in zip(shape, step, strict=True))
    voxel = np.clip(np.rint(cells.centroid).astype(np.int64), 0, np.asarray(shape) - 1)
    bins = np.ravel_multi_index(tuple((voxel // step).T), counts)
    names, found = np.unique(bins, return_counts=True)
    best = names[np.argmax(found)]
    # a cell of that place, near its middle: slices then pass through cells
    members = voxel[bins == best]
    centre = np.median(members, axis=0)
    z, y, x = members[np.argmin(np.abs(members - centre).sum(axis=1))]
    return (int(z), int(y), int(x))


def window_shape(cells: Cells, data: ReportData) -> Triple:
    """A window of about :data:`CELLS_ACROSS` median cells, at most 512 voxels a side."""
    diameter = float(np.median(cells.diameter_um)) if cells.diameter_um.size else 0.0
    side = max(CELLS_ACROSS * diameter, 64 * min(data.voxel_size))
    if diameter == 0.0:
        side = MAX_WINDOW * min(data.voxel_size)
    side = min(side, MAX_WINDOW * min(data.voxel_size))
    z, y, x = (
        int(min(n, max(1, round(side / s))))
        for n, s in zip(data.shape, data.voxel_size, strict=True)
    )
    return (z, y, x)


@dataclass(frozen=True)
class Slice:
    """One slice through the densest place."""

    axes: str
    where: str
    image: bytes


def slice_figures(cells: Cells, data: ReportData) -> list[Slice]:
    """Intensity, and intensity with outlines, in three orthogonal planes."""
    window = window_shape(cells, data)
    centre = densest_place(cells, data.shape, window)
    start = [
        min(max(0, c - w // 2), n - w) for c, w, n in zip(centre, window, data.shape, strict=True)
    ]
    out = []
    for name, across, row, column in _PLANES:
        first, last = list(start), [s + w for s, w in zip(start, window, strict=True)]
        first[across], last[across] = centre[across], centre[across] + 1
        region = Region((first[0], first[1], first[2]), (last[0], last[1], last[2]))
        image, labels = _plane(data.image, region, across), _plane(data.labels, region, across)
        spacing = (data.voxel_size[row], data.voxel_size[column])
        where = f"{'zyx'[across]} = {centre[across] + data.offset[across]:,}"
        out.append(Slice(name, where, _pair_figure(image, labels, spacing)))
    return out


def _plane(source: Readable, region: Region, across: int) -> npt.NDArray[Any]:
    return np.asarray(np.take(source.read(region), 0, axis=across))


def _pair_figure(
    image: npt.NDArray[Any], labels: npt.NDArray[Any], spacing: tuple[float, float]
) -> bytes:
    """Plain and outlined panel side by side, or one above the other where they are wide."""
    height, width = (n * s for n, s in zip(image.shape, spacing, strict=True))
    beside = width <= 2.2 * height
    panel_width = 494.0 if beside else float(WIDTH)
    panel_height = panel_width * height / width
    limit = 700.0 if beside else 400.0
    if panel_height > limit:
        panel_width, panel_height = panel_width * limit / panel_height, limit
    rows, columns = max(2, round(panel_height * 1.1)), max(2, round(panel_width * 1.1))
    grey = _grey(_enlarged(image, rows, columns), display_range(image))
    outlined = outline(grey, _enlarged(labels, rows, columns))
    gap = 8.0
    total_width = 2 * panel_width + gap if beside else panel_width
    total_height = panel_height if beside else 2 * panel_height + gap
    made = figure(total_width, total_height)
    for k, shown in enumerate((np.repeat(grey[..., None], 3, axis=-1), outlined)):
        left = k * (panel_width + gap) / total_width if beside else 0.0
        bottom = 0.0 if beside else (1 - k) * (panel_height + gap) / total_height
        axes = made.add_axes((left, bottom, panel_width / total_width, panel_height / total_height))
        axes.imshow(shown, extent=(0, width, height, 0), aspect="auto", interpolation="nearest")
        bare(axes)
        if k == 0:
            scale_bar(axes, width, height)
    return png(made, 200)


def _enlarged(plane: npt.NDArray[Any], rows: int, columns: int) -> npt.NDArray[Any]:
    """Nearest voxel for each pixel: no label is invented, no intensity smoothed."""
    row = np.minimum(np.arange(rows) * plane.shape[0] // rows, plane.shape[0] - 1)
    column = np.minimum(np.arange(columns) * plane.shape[1] // columns, plane.shape[1] - 1)
    return np.asarray(plane[row][:, column])


def _grey(image: npt.NDArray[Any], limits: tuple[float, float]) -> npt.NDArray[np.uint8]:
    low, high = limits
    scaled = (np.nan_to_num(image.astype(np.float64), nan=low) - low) / (high - low)
    # a mild gamma lifts dim cells; 64 levels keep the PNG small
    levels = np.rint(np.clip(scaled, 0, 1) ** 0.8 * 63) * (255 / 63)
    return np.asarray(levels, dtype=np.uint8)


def outline(grey: npt.NDArray[np.uint8], labels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Draw the inner contour of each label over a grey image.

    Parameters
    ----------
    grey : (rows, columns) uint8
    labels : (rows, columns) integer

    Returns
    -------
    (rows, columns, 3) uint8
        Two pixels of contour in one of six bright colours picked by label.
    """
    edge = np.zeros(labels.shape, dtype=np.bool_)
    for axis in (0, 1):
        for step in (1, -1):
            neighbour = np.roll(labels, step, axis=axis)
            differs = neighbour != labels
            border = [slice(None), slice(None)]
            border[axis] = slice(0, 1) if step == 1 else slice(-1, None)
            differs[tuple(border)] = False
            edge |= differs
    edge &= labels != 0
    thick = edge.copy()
    thick[1:] |= edge[:-1] & (labels[1:] == labels[:-1])
    thick[:, 1:] |= edge[:, :-1] & (labels[:, 1:] == labels[:, :-1])
    out = np.repeat(grey[..., None], 3, axis=-1)
    # neighbouring numbers must get different colours
    colour = (labels.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    out[thick] = _OUTLINES[(colour[thick] % np.uint64(len(_OUTLINES))).astype(np.intp)]
    return out
