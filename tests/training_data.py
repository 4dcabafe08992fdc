"""Small volumes to train on, and a training that takes seconds."""

from __future__ import annotations

import numpy as np
import tifffile

#: Options of a training of seconds.
QUICK = {
    "voxel_size": [2.0, 1.0, 1.0],
    "architecture": "unet",
    "architecture_options": {"widths": [4, 8]},
    "representation": "bcd",
    "patch": [8, 16, 16],
    "halo": [2, 4, 4],
    "steps": 6,
    "steps_per_epoch": 2,
    "validate_every": 1,
    "threads": 1,
    "deterministic": True,
    "tensorboard": False,
    "pictures": False,
}


def cells(seed, shape=(10, 24, 28)):
    """An image of bright balls on noise, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint16)
    grid = np.indices(shape)
    for label, centre in enumerate(([3, 7, 7], [6, 16, 8], [5, 9, 20], [4, 18, 20]), 1):
        moved = np.array(centre) + rng.integers(-1, 2, 3)
        steps = (grid - moved[:, None, None, None]) * np.array([2, 1, 1])[:, None, None, None]
        labels[(steps**2).sum(0) < 20] = label
    image = rng.poisson(20, shape) + 100 * (labels > 0)
    return image.astype(np.uint16), labels


def write_pairs(folder, count=2):
    """Folders ``images`` and ``labels`` of TIFF files."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        image, labels = cells(number)
        tifffile.imwrite(folder / "images" / f"c{number}.tif", image)
        tifffile.imwrite(folder / "labels" / f"c{number}.tif", labels)
    return {"images": [str(folder / "images")], "labels": [str(folder / "labels")]}
