"""Label efficiency: how good a network gets with 10, 20, 60 and 80 % of the labels.

    python benchmarks/label_efficiency.py IMAGES LABELS --out OUT --voxel-size z,y,x
        [--fractions 10,20,60,80] [--subsets 3] [--steps N] [--wnet NAME|none] [--smoke]

The study of CellSeg3D (Achard et al., eLife 13, RP99848, 2025, "Label efficiency comparison"):
volumes are cut into pieces of at least 64 voxels (of the network's) a side, a network is trained
on a share of the pieces, and what was held out is scored; three subsets each. A subset holds
out one volume. Where files are named as in BBBC050 (``Emb01_t301``), embryos 09-11 are always
held out and a subset is a draw among the pieces of the others: time points of one embryo are
not independent. Shares of one subset are nested. A WNet3D, trained on the same images without
labels, is the line to compare with; ``--wnet`` takes a model that is there.

Scores are the Dice of the foreground and the F1 of cells over IoU 0.1 to 0.9, counts of all
held-out volumes pooled; shown are mean and standard deviation (n - 1) over subsets. OUT holds
one folder for each training, which is kept: the same command goes on where it was stopped.
``label_efficiency.json``, ``.csv`` and ``.png`` are the result. Any option of ``train`` can be
set in ``--config``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
import yaml
from efficiency.results import show, summary, write
from efficiency.subsets import BBBC050, Named, Subset, UnusableError, cut, drawn, find, subsets_of
from paper_sets.scoring import f1_curve, pooled

from cellseg3d_dist.errors import CellSegError
from cellseg3d_dist.networks.predictor import predict_array
from cellseg3d_dist.networks.weights import load_model
from cellseg3d_dist.representations import decoding_parameters
from cellseg3d_dist.training.config import make_train_config
from cellseg3d_dist.training.train import resume, train

BBBC050_VOXEL = (1.75, 0.8, 0.8)
#: The supervised network, for nuclei of some ten voxels.
SUPERVISED: dict[str, Any] = {
    "architecture": "residual_unet",
    "architecture_options": {"widths": [8, 32, 64]},
    "representation": "bcd",
    "representation_options": {"balanced": False},
    "patch": (32, 48, 48),
    "halo": (8, 8, 8),
    "batch": 2,
    "steps": 600,
    "steps_per_epoch": 50,
    "learning_rate": 3e-3,
    "ema": 0.98,
}
#: Of the supervised network on BBBC050, chosen on embryos 01-08 for nuclei-bcd.
BBBC050_DECODER = {
    "foreground": 0.6, "foreground_distance": -1.0, "min_voxels": 120, "spot_sigma": 2.8,
}  # fmt: skip
#: The same images without labels.
SELF_SUPERVISED: dict[str, Any] = {
    "architecture": "wnet3d",
    "architecture_options": {"widths": [8, 16, 32, 64], "dropout": 0.1},
    "representation": "foreground",
    "patch": (32, 32, 32),
    "halo": (8, 8, 8),
    "batch": 4,
    "steps": 260,
    "steps_per_epoch": 20,
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "ema": 0.98,
    "objective_options": {"sigma_i": 100.0, "w_rec": 0.04, "smoothing": 0.8},
}
ALWAYS: dict[str, Any] = {"validation_fraction": 0, "tensorboard": False, "pictures": False}
THRESHOLDS = tuple(round(0.1 * i, 1) for i in range(1, 10))

Array = np.ndarray[Any, np.dtype[Any]]


def trained(options: dict[str, Any], folder: Path, say: str) -> Path:
    """Weights of a training: a finished one is kept, one that was stopped goes on."""
    state = json.loads(status.read_text()) if (status := folder / "train.json").is_file() else {}
    began = time.monotonic()
    if state.get("status") == "complete":
        print(f"{say}: kept", flush=True)
        return next(folder.glob("best.safetensors"))
    if (folder / "checkpoints" / "last.pt").is_file():
        print(f"{say}: goes on", flush=True)
        result = resume(folder)
    else:
        print(f"{say}: {options['steps']} steps", flush=True)
        result = train(make_train_config(options), folder, overwrite=folder.exists())
    print(f"{say}: trained, {time.monotonic() - began:.0f} s", flush=True)
    return result.best


def scored(
    model_name: str | Path, test: Sequence[Named], size: tuple[float, ...]
) -> dict[str, Any]:
    """Dice and F1 of the cells that a model finds in what was held out."""
    model = load_model(model_name)
    decoder = model.card.decoder
    if not decoder and model.card.representation == "bcd" and BBBC050.match(test[0].name):
        decoder = BBBC050_DECODER
    parameters = decoding_parameters(model.representation, decoder)
    true, pred = [], []
    for pair in test:
        predicted = predict_array(model, tifffile.imread(pair.image), size)
        pred.append(model.representation.decode(predicted, size, parameters))
        true.append(tifffile.imread(pair.labels))
    found = pooled(true, pred)
    *curve, mean = f1_curve(found)
    f1 = dict(zip((f"{t:g}" for t in THRESHOLDS), curve, strict=True))
    return {
        "dice": found["foreground"]["dice"],
        "f1": f1,
        "f1_at_0.5": f1["0.5"],
        "mean_f1": mean,
        "cells_true": found["n_true"],
        "cells_found": found["n_pred"],
    }


def study(given: argparse.Namespace) -> dict[str, Any]:
    """Train and score whatever is not there yet."""
    pairs = find(given.images, given.labels)
    size = given.voxel_size or (BBBC050_VOXEL if BBBC050.match(pairs[0].name) else None)
    if size is None:
        raise UnusableError("voxel size is not known. Give --voxel-size z,y,x in micrometres.")
    how: dict[str, Any] = {"voxel_size": list(size), "threads": given.threads, **ALWAYS}
    if BBBC050.match(pairs[0].name):
        how["train_voxel_size"] = [1.75, 1.6, 1.6]
    extra = yaml.safe_load(given.config.read_text()) if given.config else {}
    check_same(given, extra, size)
    # a side counts in voxels that the network sees
    seen = extra.get("train_voxel_size") or how.get("train_voxel_size") or size
    least = [given.cube * s / v for s, v in zip(seen, size, strict=True)]
    rows = []
    for subset in subsets_of(pairs, given.subsets):
        name = f"subset-{subset.number + 1}"
        cache = given.out / "pieces"
        pieces = cut(subset.train, least, cache)
        for percent in given.fractions:
            part = drawn(pieces, percent, (given.seed, subset.number))
            options = SUPERVISED | how | {"seed": given.seed + subset.number} | extra
            options |= {"steps": given.steps} if given.steps else {}
            options["images"] = [str(image) for image, _ in part]
            options["labels"] = [str(labels) for _, labels in part]
            folder = given.out / f"{name}-{percent:g}"
            rows.append(_row("supervised", subset, percent, len(part), options, folder, size))
            rows[-1]["cells_trained_on"] = sum(_cells(labels) for _, labels in part)
        if given.wnet == "none":
            continue
        folder = (
            given.out / f"{name}-{'wnet3d' if given.wnet == 'train' else Path(given.wnet).stem}"
        )
        if given.wnet == "train":
            options = SELF_SUPERVISED | how | {"seed": given.seed + subset.number}
            options.pop("train_voxel_size", None)
            if BBBC050.match(pairs[0].name):
                options["train_voxel_size"] = [1.6, 1.6, 1.6]
            options |= {"steps": given.wnet_steps} if given.wnet_steps else {}
            options["images"] = [str(image) for image, _ in pieces]
            rows.append(_row("wnet3d", subset, 0.0, len(pieces), options, folder, size))
        elif subset.number == 0 or subset.test != rows[0]["_test"]:
            rows.append(_row(given.wnet, subset, 0.0, 0, None, folder, size))
    for row in rows:
        del row["_test"]
    result = {
        "images": given.images.name, "labels": given.labels.name, "voxel_size": list(size),
        "steps": given.steps or SUPERVISED["steps"], "cube": given.cube, "seed": given.seed,
        "wnet": given.wnet, "rows": rows, "summary": summary(rows),
    }  # fmt: skip
    write(result, given.out)
    return result


def check_same(given: argparse.Namespace, extra: dict[str, Any], size: tuple[float, ...]) -> None:
    """Refuse an OUT whose trainings were made with other options; more of the same is welcome."""
    decides = {
        "images": str(given.images.absolute()), "steps": given.steps, "cube": given.cube,
        "wnet_steps": given.wnet_steps, "seed": given.seed, "config": extra,
        "voxel_size": list(size),
    }  # fmt: skip
    path = given.out / "study.json"
    before = json.loads(path.read_text()) if path.is_file() else decides
    changed = [f"{key} {before.get(key)}, now {decides[key]}" for key in decides
               if before.get(key) != decides[key]]  # fmt: skip
    if changed:
        raise UnusableError(
            f"{given.out} has trainings with {'; '.join(changed)}. Choose another --out."
        )
    path.write_text(json.dumps(decides, indent=1))


def _cells(path: Path) -> int:
    return int(np.count_nonzero(np.unique(tifffile.imread(path))))


def _row(
    method: str,
    subset: Subset,
    percent: float,
    n_pieces: int,
    options: dict[str, Any] | None,
    folder: Path,
    size: tuple[float, ...],
) -> dict[str, Any]:
    """Scores of one training; those that are stored are kept."""
    say = f"subset {subset.number + 1}, " + (f"{percent:g} %" if percent else method)
    row: dict[str, Any] = {
        "method": method, "subset": subset.number + 1, "percent": percent, "pieces": n_pieces,
    }  # fmt: skip
    model: str | Path = method if options is None else trained(options, folder, say)
    stored = folder / "scores.json"
    if stored.is_file():
        row |= json.loads(stored.read_text())
    else:
        began = time.monotonic()
        found = scored(model, subset.test, size)
        folder.mkdir(parents=True, exist_ok=True)
        stored.write_text(json.dumps(found, indent=1))
        print(f"{say}: F1 {found['f1_at_0.5']:.3f} at IoU 0.5, Dice {found['dice']:.3f}, "
              f"{time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
        row |= found
    return row | {"_test": subset.test}


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def main() -> None:
    """Run what is missing of the study and show all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("labels", type=Path, nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--fractions", type=_numbers, default=(10, 20, 60, 80))
    parser.add_argument("--subsets", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of each supervised training")
    parser.add_argument("--wnet", default="train", help="train, none, or a model without labels")
    parser.add_argument("--wnet-steps", type=int)
    parser.add_argument("--voxel-size", type=_numbers)
    parser.add_argument("--cube", type=int, default=64, help="least side of a piece")
    parser.add_argument("--config", type=Path, help="YAML of options of train")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="seconds, on made-up volumes")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.smoke:
        with tempfile.TemporaryDirectory() as folder:
            show(study(smoke(given, Path(folder))))
        return
    if given.images is None or given.labels is None or given.out is None:
        parser.error("give IMAGES LABELS --out OUT, or --smoke")
    given.out.mkdir(parents=True, exist_ok=True)
    try:
        show(study(given))
    except (UnusableError, CellSegError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def smoke(given: argparse.Namespace, folder: Path) -> argparse.Namespace:
    """Options of a study of seconds."""
    from paper_sets.standins import blobs

    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for number in range(3):
        image, labels = blobs((16, 32, 32), 3, seed=number)
        tifffile.imwrite(folder / "images" / f"c{number}.tif", image)
        tifffile.imwrite(folder / "labels" / f"c{number}.tif", labels)
    config = folder / "train.yaml"
    quick = {"patch": [16, 16, 16], "halo": [2, 2, 2], "architecture_options": {"widths": [4, 8]}}
    config.write_text(yaml.safe_dump(quick))
    options = {
        "images": folder / "images", "labels": folder / "labels", "out": folder / "out",
        "voxel_size": (1.0, 1.0, 1.0), "fractions": (50, 100), "subsets": 2, "steps": 4,
        "cube": 16, "config": config, "wnet": "none",
    }  # fmt: skip
    options["out"].mkdir()
    return argparse.Namespace(**(vars(given) | options))


if __name__ == "__main__":
    main()
