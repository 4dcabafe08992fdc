"""Draw docs/segmentation.png from the results of `cellseg3d-dist demo`.

    python examples/make_readme_picture.py [DEMO] [PICTURE]

Each row is one sample: a slice, the same slice with its cells, and all cells of the volume
in projection. A sample that the demo left out for want of a download has no row.
"""

from __future__ import annotations

import argparse
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import find_objects, gaussian_filter

from cellseg3d_dist import open_volume
from cellseg3d_dist.grid import BlockGrid, Region

BACKGROUND, TEXT, FAINT = "#0b0e14", "#e8ecf3", "#8b95a7"
PANEL, GAP, HEAD = 460, 8, 46
COLOURS = 128


@dataclass(frozen=True)
class Sample:
    """One row: image and labels (z, y, x), and how to show them."""

    title: str
    image: np.ndarray
    labels: np.ndarray
    voxel_size: tuple[float, float, float]
    window: int
    bar_um: int
    block_shape: tuple[int, int, int]


def read(path: Path | str, **options: object) -> np.ndarray:
    """The whole of a small stored volume."""
    volume = open_volume(str(path), **options)
    return volume.read(Region.whole(volume.shape))


def samples(demo: Path) -> list[Sample]:
    """What the demo has left in its folder."""
    found = []
    for name, title, source, window, bar_um in (
        ("mesospim", "mouse cortex, mesoSPIM light sheet", "mesospim.tif", 86, 100),
        ("phantom", "procedural brain with known cells", "phantom/image.ome.zarr", 128, 20),
    ):
        run = demo / f"{name}_run"
        if not (run / "run.json").exists():
            continue
        facts = json.loads((run / "run.json").read_text())
        labels = open_volume(str(run / "labels.ome.zarr"))
        image = read(demo / source, voxel_size=labels.voxel_size)
        found.append(
            Sample(
                f"{title}: {facts['facts']['cells']:,} cells",
                image.astype(np.float32),
                labels.read(Region.whole(labels.shape)).astype(np.int64),
                labels.voxel_size,
                min(window, *image.shape[1:]),
                bar_um,
                tuple(facts["plan"]["block_shape"]),
            )
        )
    return found


def palette() -> np.ndarray:
    """Colours of equal brightness, neighbours in number far apart in hue; (COLOURS, 3) floats.

    OKLCH to sRGB after B. Ottosson, A perceptual color space for image processing, 2020.
    """
    number = np.arange(COLOURS)
    hue = 2 * np.pi * ((0.55 + 0.61803398875 * number) % 1.0)
    light, chroma = 0.78 + 0.05 * (number % 3 - 1), 0.155
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    lms = np.stack(
        [
            light + 0.3963377774 * a + 0.2158037573 * b,
            light - 0.1055613458 * a - 0.0638541728 * b,
            light - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(to_rgb @ lms**3, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).T


def richest_window(labels: np.ndarray, side: int) -> tuple[int, int, int]:
    """Slice and corner of the square window with most labelled voxels."""
    sums = np.pad((labels > 0).astype(np.int64), ((0, 0), (1, 0), (1, 0))).cumsum(1).cumsum(2)
    inside = (
        sums[:, side:, side:]
        - sums[:, :-side, side:]
        - sums[:, side:, :-side]
        + sums[:, :-side, :-side]
    )
    z, y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(z), int(y), int(x)


def scaled(image: np.ndarray, low: float, high: float, gamma: float) -> np.ndarray:
    """0..1 between two values, dim cells lifted by a gamma below 1."""
    return np.clip((image - low) / max(high - low, 1e-9), 0, 1) ** gamma


def draw_slice(axes: Axes, grey: np.ndarray) -> None:
    """A slice in grey, interpolated for display."""
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="bicubic")


def draw_cells(axes: Axes, grey: np.ndarray, labels: np.ndarray, colours: np.ndarray) -> None:
    """A slice with each cell filled and outlined in its colour."""
    draw_slice(axes, grey * 0.9)
    fine = 4
    for number, box in enumerate(find_objects(labels), start=1):
        if box is None:
            continue
        mask = np.pad(labels[box] == number, 2).repeat(fine, 0).repeat(fine, 1)
        soft = gaussian_filter(mask.astype(float), 0.55 * fine)
        y, x = (
            part.start - 2.5 + (np.arange(n) + 0.5) / fine
            for part, n in zip(box, soft.shape, strict=True)
        )
        # half height keeps the area; a cell of a voxel or two has no half height
        level = min(0.5, 0.6 * soft.max())
        colour = colours[number % COLOURS]
        axes.contourf(x, y, soft, levels=[level, 2], colors=[colour], alpha=0.3)
        axes.contour(x, y, soft, levels=[level], colors=[colour], linewidths=1.6)
    axes.set_xlim(-0.5, labels.shape[1] - 0.5)
    axes.set_ylim(labels.shape[0] - 0.5, -0.5)


def draw_projection(axes: Axes, sample: Sample, colours: np.ndarray) -> None:
    """All cells along z, the brightest in front, over a faint projection of the rest."""
    image, labels = sample.image, sample.labels
    brightness = np.bincount(labels.ravel(), image.ravel()) / np.maximum(
        np.bincount(labels.ravel()), 1
    )
    brightness[0] = -np.inf
    front = brightness[labels].argmax(axis=0)[None]
    label = np.take_along_axis(labels, front, 0)[0]
    peak = np.where(labels == label, image, -np.inf).max(axis=0)
    low, high = np.percentile(image, 25), np.percentile(image[labels > 0], 96)
    shade = np.where(label > 0, 0.12 + 0.88 * scaled(peak, low, high, 0.8), 0)
    rest = 0.3 * scaled(image.max(axis=0), low, 1.5 * high, 0.8)
    shown = np.where(label[..., None] > 0, colours[label % COLOURS] * shade[..., None],
                     rest[..., None])  # fmt: skip
    axes.imshow(np.clip(shown, 0, 1), interpolation="bicubic")
    for axis, line in ((1, axes.axhline), (2, axes.axvline)):
        size = sample.block_shape[axis]
        for cut in range(size, image.shape[axis], size):
            line(cut - 0.5, color=TEXT, linewidth=1.1, linestyle=(0, (2, 4)), alpha=0.8)


def scale_bar(axes: Axes, length: float, text: str) -> None:
    """A bar of ``length`` pixels in the lower left corner."""
    width, bottom = axes.get_xlim()[1], axes.get_ylim()[0]
    left, height = 0.04 * width, bottom - 0.05 * width
    axes.plot([left, left + length], [height, height], color=TEXT, lw=3, solid_capstyle="butt")
    axes.text(left, height - 0.02 * width, text, color=TEXT, fontsize=9.5, va="bottom")


def draw(found: list[Sample]) -> bytes:
    """The whole figure as PNG."""
    width = 3 * PANEL + 4 * GAP
    height = len(found) * (HEAD + PANEL) + GAP
    made = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor=BACKGROUND)
    FigureCanvasAgg(made)
    colours = palette()
    for row, sample in enumerate(found):
        top = row * (HEAD + PANEL)
        z, y, x = richest_window(sample.labels, sample.window)
        shown = (slice(y, y + sample.window), slice(x, x + sample.window))
        low, high = np.percentile(sample.image, 5), np.percentile(sample.image[z][shown], 99.7)
        grey = scaled(sample.image[z][shown], low, high, 0.75)
        panels: list[Axes] = []
        for column in range(3):
            left = GAP + column * (PANEL + GAP)
            bottom = height - top - HEAD - PANEL
            box = (left / width, bottom / height, PANEL / width, PANEL / height)
            axes = made.add_axes(box, facecolor="black")
            axes.set_axis_off()
            panels.append(axes)
        draw_slice(panels[0], grey)
        draw_cells(panels[1], grey, sample.labels[z][shown], colours)
        draw_projection(panels[2], sample, colours)
        scale_bar(panels[0], sample.bar_um / sample.voxel_size[2], f"{sample.bar_um} µm")
        for axes in panels:
            axes.set_aspect("auto")
        blocks = BlockGrid(sample.labels.shape, sample.block_shape).n_blocks
        cut = f"all cells; {blocks} blocks, dotted: the cut" if blocks > 1 else "all cells"
        words = (sample.title, "cells of the slice", cut)
        for column, text in enumerate(words):
            left = GAP + column * (PANEL + GAP) + 2
            made.text(
                left / width, 1 - (top + HEAD / 2 + 4) / height, text, fontsize=12.5,
                color=TEXT if column == 0 else FAINT, va="center",
            )  # fmt: skip
    file = io.BytesIO()
    made.savefig(file, format="png", facecolor=BACKGROUND)
    return file.getvalue()


def save(png: bytes, path: Path) -> None:
    """Save with a palette of 256 colours, half the size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    full = Image.open(io.BytesIO(png)).convert("RGB")
    full.quantize(256, Image.Quantize.MEDIANCUT, kmeans=4).save(path, optimize=True)


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, nargs="?", default="demo", help="what the demo made")
    default = Path(__file__).resolve().parents[1] / "docs" / "segmentation.png"
    parser.add_argument("picture", type=Path, nargs="?", default=default, help="PNG to write")
    given = parser.parse_args()
    found = samples(given.demo)
    if not found:
        parser.error(f"{given.demo} has no results of the demo")
    save(draw(found), given.picture)
    print(f"{given.picture}: {given.picture.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
