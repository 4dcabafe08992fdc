"""Watershed and Voronoi-Otsu against scikit-image's, whole volume in memory, one thread each.

    python benchmarks/instances.py [--smoke] [--side 256] [--json FILE]

One run times, on one volume of touching blobs (8 and 16 bit, and float32):

- this package's watershed of the whole volume, from the seeds it is given, and
  skimage.segmentation.watershed from the same seeds in the same mask;
- this package's Voronoi-Otsu labelling of the whole volume, and the same made of
  scikit-image: gaussian, threshold_otsu, peak_local_max and watershed;
- this package's engine, 64 blocks from and to Zarr, with one worker and with two, on the
  16-bit volume mirrored to twice the side.

Seconds are of processor time where there is one thread, so that other work on the machine
disturbs little, and of the clock for the engine. A tie-free copy of the volume is flooded
by both watersheds and compared voxel for voxel.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi
from skimage.feature import peak_local_max
from skimage.filters import gaussian as skimage_gaussian
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed as skimage_watershed

from cellseg3d_dist import segment
from cellseg3d_dist.instances.filters import gaussian
from cellseg3d_dist.instances.levels import levels_of
from cellseg3d_dist.instances.spots import spots
from cellseg3d_dist.instances.threshold import count_bins, otsu
from cellseg3d_dist.instances.voronoi import VoronoiSpec, voronoi_otsu
from cellseg3d_dist.instances.watershed import watershed_flood
from cellseg3d_dist.volumes import create_image

Array = npt.NDArray[Any]
SPOT, OUTLINE = 2.0, 1.0


def blobs(side: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Smooth blobs that touch, 0 to 1, about one to 1,200 voxels."""
    rng = np.random.default_rng(seed)
    image = np.zeros((side,) * 3, np.float32)
    n = side**3 // 1200
    image[tuple(rng.integers(0, side, n) for _ in range(3))] = rng.uniform(0.5, 1.5, n)
    image = ndi.gaussian_filter(image, 2.5)
    image = image / image.max() + rng.random(image.shape, np.float32) * 0.02
    return np.asarray(image / image.max(), np.float32)


def seconds(work: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> float:
    """Median of several calls, after one that compiles."""
    work()
    taken = []
    for _ in range(repeats):
        began = clock()
        work()
        taken.append(clock() - began)
    return statistics.median(taken)


def watersheds(image: Array, repeats: int) -> dict[str, float]:
    """Seconds of both watersheds of an image's negative, from the same spots."""
    mask = image > np.median(image)
    seeds = spots(gaussian(image, (SPOT,) * 3), mask.view(np.uint8), (0, 0, 0))
    markers = np.zeros(image.shape, np.int32)
    markers.ravel()[seeds] = np.arange(1, seeds.size + 1)
    negative = image.max() - image
    return {
        "ours": seconds(
            lambda: watershed_flood(mask.view(np.uint8), levels_of(image, downhill=True), seeds),
            repeats,
            time.process_time,
        ),
        "scikit-image": seconds(
            lambda: skimage_watershed(negative, markers, mask=mask), repeats, time.process_time
        ),
    }


def same_without_ties(side: int) -> bool:
    """Whether both watersheds agree on a volume whose values all differ."""
    rng = np.random.default_rng(1)
    smooth = ndi.gaussian_filter(rng.random((side,) * 3), 1.0)
    image = smooth.ravel().argsort().argsort().reshape(smooth.shape).astype(np.int32)
    lowest = np.flatnonzero(ndi.minimum_filter(image, 5) == image)
    markers = np.zeros(image.shape, np.int32)
    markers.ravel()[lowest] = np.arange(1, lowest.size + 1)
    found, _ = watershed_flood(np.ones(image.shape, np.uint8), levels_of(image), lowest)
    return bool(np.array_equal(found, skimage_watershed(image, markers)))


def voronoi_of_ours(image: Array) -> Array:
    """Gaussians, Otsu, spots and the flood."""
    smoothed = gaussian(image, (OUTLINE,) * 3)
    low, high = float(smoothed.min()), float(smoothed.max())
    threshold = otsu(count_bins(smoothed, low, high), low, high)
    return voronoi_otsu(image, VoronoiSpec((SPOT,) * 3, (OUTLINE,) * 3, threshold))


def voronoi_of_skimage(image: Array) -> Array:
    """What one would write with scikit-image."""
    outline = skimage_gaussian(image, OUTLINE, preserve_range=True)
    mask = outline > threshold_otsu(outline)
    spot = skimage_gaussian(image, SPOT, preserve_range=True)
    at = peak_local_max(spot, min_distance=1, labels=mask.astype(np.int32), exclude_border=False)
    markers = np.zeros(image.shape, np.int32)
    markers[tuple(at.T)] = np.arange(1, len(at) + 1)
    labels: Array = skimage_watershed(-outline, markers, mask=mask)
    return labels


def engine_seconds(image: Array, folder: Path, instances: str, workers: int) -> float:
    """Seconds of the stages that label, read from and written to Zarr."""
    source, block = folder / "image.ome.zarr", max(16, image.shape[0] // 4)
    if not source.exists():
        stored = create_image(
            source, shape=image.shape, dtype=image.dtype, block_shape=(block,) * 3,
            voxel_size=(1, 1, 1), n_levels=1, kind="image",
        )  # fmt: skip
        for b in stored.levels[0].grid.blocks():
            stored.levels[0].write(b.write_region, image[b.write_region.slices])
    out = folder / f"{instances}-{workers}"
    segment(
        source, out, model="intensity", instances=instances, threshold=float(np.median(image)),
        spot_sigma=SPOT, outline_sigma=OUTLINE, block_shape=(block,) * 3, workers=workers,
    )  # fmt: skip
    stages = json.loads((out / "run.json").read_text())["stages"]
    labelling = ("label", "redo", "settle", "exchange")
    return sum(s["seconds"] for s in stages if s["stage"].startswith(labelling))


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="seconds, for checks only")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    side, repeats = (32, 1) if options.smoke else (options.side, options.repeats)
    image = blobs(side)
    rows: dict[str, float] = {}
    for name, values in (
        ("8 bit", (image * 255).astype(np.uint8)),
        ("16 bit", (image * 65535).astype(np.uint16)),
        ("float32", gaussian(image, (OUTLINE,) * 3)),
    ):
        for whose, taken in watersheds(values, repeats).items():
            rows[f"watershed, {name}, {whose}"] = taken
    stored = (image * 65535).astype(np.uint16)
    for whose, work in (("ours", voronoi_of_ours), ("scikit-image", voronoi_of_skimage)):
        rows[f"Voronoi-Otsu, 16 bit, {whose}"] = seconds(
            lambda work=work: work(stored), repeats, time.process_time
        )
    large = np.pad(stored, [(0, side)] * 3, mode="symmetric")
    for workers in (1,) if options.smoke else (1, 2):
        with tempfile.TemporaryDirectory() as scratch:
            for instances in ("watershed", "voronoi-otsu"):
                plural = "worker" if workers == 1 else "workers"
                rows[f"engine, {instances}, {workers} {plural}"] = engine_seconds(
                    large, Path(scratch), instances, workers
                )
    report(rows, side, same_without_ties(min(side, 64)), options.json)


def report(rows: dict[str, float], side: int, same: bool, path: Path | None) -> None:
    """Print seconds, rates and ratios."""
    print(
        f"{side}^3, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; one thread: "
        f"processor time; tie-free labels equal scikit-image's: {same}"
    )
    for name, taken in rows.items():
        voxels = side**3 * (8 if name.startswith("engine") else 1)
        print(f"  {name:<44} {taken:8.3f} s {voxels / taken / 1e6:9.2f} Mvoxel/s")
    ratios = {
        name.removesuffix(", ours"): rows[name.replace("ours", "scikit-image")] / taken
        for name, taken in rows.items()
        if name.endswith(", ours")
    }
    print("  ours / scikit-image:", ", ".join(f"{k} {v:.1f}" for k, v in ratios.items()))
    for name in ("watershed", "voronoi-otsu"):
        one, two = (rows.get(f"engine, {name}, {n}") for n in ("1 worker", "2 workers"))
        if one and two:
            print(f"  engine, {name}: two workers are {one / two:.2f} times as fast as one")
    if path is not None:
        path.write_text(json.dumps({"side": side, "seconds": rows, "ratios": ratios}, indent=1))
    if not same:
        raise SystemExit("labels differ from scikit-image's")


if __name__ == "__main__":
    main()
