"""Small made-up data sets in the layouts of the published ones, for tests and smoke runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter

Array = np.ndarray[Any, np.dtype[Any]]
Triple = tuple[int, int, int]


def blobs(
    shape: Triple, count: int, *, radius: float = 3.5, apart: float = 2.3, seed: int = 0
) -> tuple[Array, Array]:
    """An image of bright balls that lie ``apart`` radii from each other, and their labels."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape)
    labels = np.zeros(shape, np.uint16)
    centres: list[Array] = []
    for _ in range(200 * count):
        centre = rng.uniform(radius, np.array(shape) - radius)
        if all(((centre - other) ** 2).sum() > (apart * radius) ** 2 for other in centres):
            centres.append(centre)
        if len(centres) == count:
            break
    for label, centre in enumerate(centres, 1):
        away = ((grid - centre[:, None, None, None]) ** 2).sum(0)
        labels[away < radius**2] = label
    bright = 900 * gaussian_filter((labels > 0).astype(np.float32), 1.0)
    return rng.poisson(100 + bright).astype(np.uint16), labels


def embedseg(
    folder: Path,
    names: dict[str, tuple[str, ...]],
    *,
    shape: Triple = (14, 32, 32),
    count: int = 6,
    radius: float = 4.0,
    apart: float = 2.3,
) -> Path:
    """``train`` and ``test`` with ``images`` and ``masks``; each voxel twice along each axis."""
    for part, stems in names.items():
        for number, stem in enumerate(stems):
            image, labels = blobs(
                shape, count, radius=radius, apart=apart, seed=hash_of(part) + number
            )
            mask = f"mask_{stem}" if stem.startswith("dataset") else stem.replace("X", "Y", 1)
            for kind, name, array in (("images", stem, image), ("masks", mask, labels)):
                path = folder / part / kind / f"{name}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                doubled = array.repeat(2, 0).repeat(2, 1).repeat(2, 2)
                tifffile.imwrite(path, np.pad(doubled, 4))
    return folder


def hash_of(text: str) -> int:
    """A small number of a text, the same every time."""
    return sum(text.encode()) % 97


def mesospim(folder: Path) -> Path:
    """Volumes c1 to c5 and visual beside their labels."""
    for number, name in enumerate(("c1", "c2", "c3", "c4", "c5", "visual")):
        planes = 60 if name == "visual" else 16
        image, labels = blobs((planes, 24, 24), 8, radius=2.5, seed=number)
        (folder / "labels").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / f"{name}image.tif", image)
        tifffile.imwrite(folder / "labels" / f"{name}labels.tif", labels)
    return folder


def nucmm(folder: Path, title: str, *, hdf5: bool = True) -> Path:
    """One volume of NucMM: chunks named by their corner; HDF5 needs h5py."""
    side, root = 24, folder / title
    for part, corners in (("train", ((0, 0, 0), (0, 0, side))), ("val", ((0, side, 0),))):
        for corner in corners:
            image, labels = blobs((side,) * 3, 6, seed=sum(corner) + len(part))
            where = "_".join(f"{n:04d}" for n in corner)
            for kind, prefix, array in (
                ("Image", "img", (image // 8).astype(np.uint8)),
                ("Label", "seg", labels),
            ):
                path = root / kind / part / f"{prefix}_{where}"
                path.parent.mkdir(parents=True, exist_ok=True)
                _store(path, array, hdf5)
    return folder


def _store(path: Path, array: Array, hdf5: bool) -> None:
    if not hdf5:
        tifffile.imwrite(path.with_suffix(".tif"), array)
        return
    import h5py

    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file.create_dataset("main", data=array, compression="gzip")


def spheroids(folder: Path) -> Path:
    """One flat volume per channel."""
    for number, channel in enumerate(("Cy3", "GFP", "Hoechst")):
        image, labels = blobs((8, 32, 32), 4, radius=3.0, seed=number)
        for kind, array in (("images", (image // 8).astype(np.uint8)), ("labels", labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / kind / f"B10_T01_{channel}.tif", array)
    return folder
