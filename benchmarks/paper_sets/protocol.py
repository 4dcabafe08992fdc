"""Steps of the papers' protocols, through the package's own functions."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import cellseg3d_dist
from cellseg3d_dist import arrays, open_volume
from cellseg3d_dist.grid import Region
from cellseg3d_dist.volumes import downsample

Array = np.ndarray[Any, np.dtype[Any]]
Size = tuple[float, float, float]
#: Thresholds that are tried: CellSeg3D, notebook "self-supervised-extra".
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(20))


@dataclass(frozen=True)
class Sigmas:
    """Voronoi-Otsu of a set, in voxels: CellSeg3D, Table 2."""

    outline: float
    spot: float


def read(path: Path) -> Array:
    """A stored volume; its voxel size does not matter here."""
    volume = open_volume(path, voxel_size=(1.0, 1.0, 1.0))
    return volume.read(Region.whole(volume.shape))


def read_labels(path: Path) -> Array:
    """Stored labels; whole numbers in a type for fractions are taken."""
    labels = read(path)
    if labels.dtype.kind == "f" and np.array_equal(labels, np.rint(labels)) and labels.min() >= 0:
        return labels.astype(np.uint32)
    return labels


def cropped(image: Array, labels: Array) -> tuple[Array, Array]:
    """Both without the emptiness around: the box that holds all labels.

    The paper says "cropped to contents", not whether of images or of labels.
    """
    others = ((1, 2), (0, 2), (0, 1))
    held = [np.flatnonzero(labels.any(axes)) for axes in others]
    if any(not found.size for found in held):
        return image, labels
    where = tuple(slice(int(found[0]), int(found[-1]) + 1) for found in held)
    return image[where], labels[where]


def halved(image: Array, labels: Array, factor: int) -> tuple[Array, Array]:
    """Means of the image and most frequent labels of cubes of ``factor`` voxels a side."""
    if factor == 1:
        return image, labels
    factors = (factor,) * 3
    return (
        downsample(np.ascontiguousarray(image), factors, "image"),
        downsample(np.ascontiguousarray(labels), factors, "labels"),
    )


def foreground(image: Array, model: str, voxel_size: Size, compat: str | None = None) -> Array:
    """What a network takes for cells, float32 in 0..1; its first channel."""
    if compat is None:
        found = arrays.predict(image, model, voxel_size=voxel_size)[0]
        return found.compute(scheduler="synchronous").astype(np.float32) / 255
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        cellseg3d_dist.segment(
            image, out, model=model, voxel_size=voxel_size, compat=compat, executor="serial",
            instances="voronoi-otsu",
        )  # fmt: skip
        return read(out / "prediction.ome.zarr").astype(np.float32) / 255


def best_threshold(pairs: Sequence[tuple[Array, Array]]) -> float:
    """The threshold of the foreground whose mean Dice over pairs with labels is largest."""
    means = []
    for threshold in THRESHOLDS:
        dice = []
        for found, labels in pairs:
            pred, true = found > threshold, labels > 0
            whole = int(pred.sum()) + int(true.sum())
            dice.append(2 * int((pred & true).sum()) / whole if whole else 0.0)
        means.append(float(np.mean(dice)))
    return THRESHOLDS[int(np.argmax(means))]


def otsu_mask(image: Array) -> Array:
    """The image above Otsu's threshold of all of it, not smoothed."""
    found = arrays.foreground(image, 0, "otsu").compute(scheduler="synchronous")
    return np.asarray(found)


def voronoi_otsu(mask: Array, sigmas: Sigmas) -> Array:
    """Cells of a mask: as in the papers, Voronoi-Otsu is given 0 and 1, no probability."""
    labels = arrays.label(
        mask.astype(np.uint8), spot_sigma=(sigmas.spot,) * 3, outline_sigma=(sigmas.outline,) * 3
    )
    return np.asarray(labels.compute(scheduler="synchronous"))


def cleaned_up(labels: Array, border: Array, steps: str) -> Array:
    """Labels after a preset; what borders are judged by goes from 0 to 1."""
    low, high = float(border.min()), float(border.max())
    scaled = (border - low) / (high - low if high > low else 1.0)
    return np.asarray(cellseg3d_dist.clean_up(labels, steps, foreground=scaled))


def own_cells(image: Array, model: str, voxel_size: Size, options: Mapping[str, Any]) -> Array:
    """What ``segment`` finds with all defaults of the model."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        how = {"executor": "serial"} | dict(options)
        cellseg3d_dist.segment(image, out, model=model, voxel_size=voxel_size, **how)
        return read(out / "labels.ome.zarr")
