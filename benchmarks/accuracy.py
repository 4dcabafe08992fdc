"""Accuracy on BBBC050: instances of models and of the classical baseline against the truth.

    python benchmarks/accuracy.py DATA nuclei-bcd nuclei-wnet3d path/to/other

DATA holds ``mouse_embryo_bbbc050`` with ``images`` and ``labels``, and ``c_elegans_embryo``
for the count. Embryos 09-11 are scored, which no model or parameter has seen: models are
trained on 01-08, and the baseline's smoothing was chosen there. Tables show F1 at IoU 0.5 by
time point and pooled, the mean F1 over IoU 0.1 to 0.9, and the pooled F1 at each IoU.
``--train`` scores embryos 01-08 instead, to choose parameters by; ``--gain`` scales and shifts
the camera's values, which must not matter. ``--scores FOLDER`` writes all scores of each, volume
by volume, for ``cellseg3d-dist compare FOLDER/*.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from rich.console import Console
from rich.table import Table

from cellseg3d_dist.instances.filters import gaussian
from cellseg3d_dist.instances.threshold import count_bins, otsu
from cellseg3d_dist.instances.voronoi import VoronoiSpec, voronoi_otsu
from cellseg3d_dist.metrics.contingency import ContingencyTable, contingency
from cellseg3d_dist.metrics.datasets import summarise_images
from cellseg3d_dist.metrics.scores import matching
from cellseg3d_dist.metrics.summary import summarise
from cellseg3d_dist.networks.predictor import predict_array
from cellseg3d_dist.networks.resampling import Resampling
from cellseg3d_dist.networks.weights import load_model
from cellseg3d_dist.representations import decoding_parameters

VOXEL_SIZE = (1.75, 0.8, 0.8)
TIMES = ("t301", "t351", "t401", "t451", "t501")
THRESHOLDS = tuple(round(0.1 * i, 1) for i in range(1, 10))
#: Of the baseline, in voxels of 0.8 um, chosen on embryos 01-08 at t401.
SPOT_SIGMA, OUTLINE_SIGMA = 4.0, 3.0
#: Nuclei of the C. elegans embryo at t180, and its approximate voxel size, times five: its
#: nuclei are about that much smaller than those of a mouse, which the models know.
WORM_NUCLEI, WORM_VOXEL = 374, (5.0, 0.85, 0.85)

Labels = np.ndarray[Any, np.dtype[Any]]
Segment = Callable[[Labels, tuple[float, float, float]], Labels]


def baseline(image: Labels, voxel_size: tuple[float, float, float]) -> Labels:
    """Isotropic resampling, then Voronoi-Otsu of the intensity."""
    finest = min(voxel_size)
    z, y, x = image.shape
    to = Resampling.between((z, y, x), voxel_size, (finest, finest, finest))
    whole_in, whole_out = _whole((z, y, x)), _whole(to.shape)
    resampled = to.apply(image.astype(np.float32), whole_in, whole_out)
    smooth = gaussian(resampled, (OUTLINE_SIGMA,) * 3, ((0, 0),) * 3)
    low, high = float(smooth.min()), float(smooth.max())
    threshold = otsu(count_bins(smooth, low, high), low, high)
    spec = VoronoiSpec((SPOT_SIGMA,) * 3, (OUTLINE_SIGMA,) * 3, threshold)
    labels = voronoi_otsu(resampled, spec)
    # back to the stored grid, each voxel its nearest one
    index = [
        np.minimum(((np.arange(n) + 0.5) * m / n).astype(int), m - 1)
        for n, m in zip(image.shape, labels.shape, strict=True)
    ]
    return labels[np.ix_(*index)]


def of_model(name: str) -> Segment:
    """A model's own decoding with its card's parameters."""
    model = load_model(name)
    parameters = decoding_parameters(model.representation, model.card.decoder)

    def segment(image: Labels, voxel_size: tuple[float, float, float]) -> Labels:
        predicted = predict_array(model, image, voxel_size)
        return model.representation.decode(predicted, voxel_size, parameters)

    return segment


def _whole(shape: tuple[int, int, int]) -> Any:
    from cellseg3d_dist.grid import Region

    return Region.whole(shape)


def score(
    segment: Segment,
    pairs: dict[str, tuple[Labels, Labels]],
    by_volume: dict[str, ContingencyTable] | None = None,
) -> dict[str, Any]:
    """Scores over all volumes, pooled and by time point; ``by_volume`` takes their tables."""
    tables: dict[str, list[ContingencyTable]] = {time_point: [] for time_point in TIMES}
    by_volume = {} if by_volume is None else by_volume
    began = time.monotonic()
    counts = [0, 0]
    for name, (image, truth) in pairs.items():
        labels = segment(image, VOXEL_SIZE)
        counts[0] += len(np.unique(truth)) - 1
        counts[1] += int(labels.max())
        by_volume[name] = contingency(truth, labels)
        tables[name.rpartition("_")[2]].append(by_volume[name])
    seconds = time.monotonic() - began
    by_time = {t: _pooled(part) for t, part in tables.items() if part}
    everything = _pooled([table for part in tables.values() for table in part])
    return {
        "by_time": {t: found[0.5] for t, found in by_time.items()},
        "pooled": everything,
        "mean_f1": float(np.mean(list(everything.values()))),
        "true": counts[0],
        "found": counts[1],
        "seconds": seconds,
    }


def _pooled(tables: list[ContingencyTable]) -> dict[float, float]:
    """F1 at each IoU, true and false positives of all volumes summed."""
    sums = {t: np.zeros(3, int) for t in THRESHOLDS}
    for table in tables:
        for found in matching(table, THRESHOLDS, "iou"):
            sums[found.threshold] += (found.tp, found.fp, found.fn)
    return {t: float(2 * tp / max(1, 2 * tp + fp + fn)) for t, (tp, fp, fn) in sums.items()}


def write_scores(path: Path, name: str, tables: dict[str, ContingencyTable]) -> None:
    """Scores of a method, pooled and of each volume."""
    images = [summarise(table, name=volume) for volume, table in tables.items()]
    document = summarise_images(images, list(tables.values()), name=name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document.to_dict(), indent=1))


def read_pairs(data: Path, train: bool, gain: tuple[float, float]) -> dict[str, Any]:
    """Images, as another camera might give them, and labels, by name."""
    folder = data / "mouse_embryo_bbbc050"
    pattern = "Emb0[1-8]_t*.tif" if train else "Emb*_t*.tif"
    found = {}
    for path in sorted((folder / "images").glob(pattern)):
        if not train and path.stem[:5] not in ("Emb09", "Emb10", "Emb11"):
            continue
        image = tifffile.imread(path)
        if gain != (1.0, 0.0):
            image = np.clip(image * gain[0] + gain[1], 0, 65535).astype(np.uint16)
        labels = next((folder / "labels").glob(f"{path.stem}*"))
        found[path.stem] = (image, tifffile.imread(labels))
    return found


def count_worm(segment: Segment, data: Path) -> int | None:
    """Nuclei found in the C. elegans embryo at t180."""
    found = sorted((data / "c_elegans_embryo").glob("*180*.tif"))
    return int(segment(tifffile.imread(found[0]), WORM_VOXEL).max()) if found else None


def show(results: dict[str, dict[str, Any]], console: Console) -> None:
    """Two tables."""
    times = Table("model", *TIMES, "pooled", "mean F1", "cells", "worm", "s", title="F1 at IoU 0.5")
    curve = Table("model", *(f"{t:g}" for t in THRESHOLDS), title="pooled F1 by IoU")
    for name, found in results.items():
        by_time = (f"{found['by_time'].get(t, float('nan')):.3f}" for t in TIMES)
        worm = "" if found.get("worm") is None else str(found["worm"])
        times.add_row(
            name, *by_time, f"{found['pooled'][0.5]:.3f}", f"{found['mean_f1']:.3f}",
            f"{found['found']}/{found['true']}", worm, f"{found['seconds']:.0f}",
        )  # fmt: skip
        curve.add_row(name, *(f"{found['pooled'][t]:.3f}" for t in THRESHOLDS))
    console.print(times)
    console.print(curve)
    console.print(f"worm: {WORM_NUCLEI} nuclei in the C. elegans embryo at t180")


def main() -> None:
    """Score the baseline and every model named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("models", nargs="*")
    parser.add_argument("--train", action="store_true", help="embryos 01-08")
    parser.add_argument("--gain", nargs=2, type=float, default=(1.0, 0.0), metavar=("A", "B"))
    parser.add_argument("--no-worm", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--scores", type=Path, metavar="FOLDER", help="a scores document of each")
    parser.add_argument("--smoke", action="store_true", help="two made-up volumes")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    console = Console(width=130 if not sys.stdout.isatty() else None)
    if given.smoke or given.data is None:
        show({"Voronoi-Otsu": score(baseline, smoke_pairs())}, console)
        return
    pairs = read_pairs(given.data, given.train, tuple(given.gain))
    results = {}
    methods = {"Voronoi-Otsu": baseline} | {name: of_model(name) for name in given.models}
    for name, segment in methods.items():
        by_volume: dict[str, ContingencyTable] = {}
        results[name] = score(segment, pairs, by_volume)
        if given.scores:
            write_scores(given.scores / f"{Path(name).stem}.json", name, by_volume)
        if not given.no_worm and name != "Voronoi-Otsu":
            results[name]["worm"] = count_worm(segment, given.data)
    show(results, console)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


def smoke_pairs() -> dict[str, tuple[Labels, Labels]]:
    """Blobs with their labels."""
    grid = np.indices((24, 48, 48))
    truth = np.zeros((24, 48, 48), np.uint16)
    for label, centre in enumerate(((8, 12, 12), (14, 34, 30), (10, 14, 36)), 1):
        away = sum(((g - c) * s) ** 2 for g, c, s in zip(grid, centre, VOXEL_SIZE, strict=True))
        truth[away < 36] = label
    image = (gaussian((truth > 0).astype(np.float32), (1, 1, 1), ((0, 0),) * 3) * 900).astype(
        np.uint16
    )
    return {"a_t301": (image + 92, truth), "b_t401": (image * 2, truth)}


if __name__ == "__main__":
    main()
