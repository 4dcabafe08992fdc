"""Published data sets, scored as their papers do, beside the papers' figures.

    python benchmarks/papers.py SET FOLDER [--model NAME] [--train STEPS] [--json FILE]
    python benchmarks/papers.py --smoke

SET is mesospim, mouse-skull, platynereis, platynereis-ish, nucmm-z, nucmm-m or spheroids.
FOLDER is the set as it is distributed; another folder is answered with a drawing of the layout
(:mod:`paper_sets.layouts` says what of it could be confirmed). What is done:

- *EmbedSeg's three sets* (CellSeg3D, figure 3, table S1): the volume that CellSeg3D scores is
  cropped to its contents and halved; the mask of Otsu, and the network's foreground above the
  published threshold, and above the one with the largest Dice on the paper's tuning volume, go
  through Voronoi-Otsu with the sigmas of the paper's table 2. The mouse skull is cleaned up as
  there (closing of 8, merging of touching cells). *Own cells* are those of ``segment`` with the
  model's own defaults.
- *mesoSPIM* (figures 1b and 2a): the visual cortex, c5 and c3, with and without the planes that
  have artifacts; ``--train`` trains on the volumes that are not held out.
- *NucMM* (table 2): average precision of all chunks; ``--train`` trains our U3D-BCD on the
  chunks for training with the paper's hyper-parameters.
- *Spheroids* (thesis, table 7): the score of the thesis by channel.

CellSeg3D's F1 were counted plane by plane (:func:`paper_sets.scoring.planes_apart`): ours are
shown so too, and in 3D, which is harder. What the papers leave open, such as how images were
halved, is said where it is done.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from paper_sets import standins
from paper_sets.layouts import LayoutError, Pair
from paper_sets.sets import SETS, Options
from paper_sets.tables import show

from cellseg3d_dist.errors import CellSegError
from cellseg3d_dist.training.config import make_train_config
from cellseg3d_dist.training.train import train

#: U3D-BCD with the hyper-parameters of NucMM's section 3.3 and its published code.
RECIPE: dict[str, Any] = {
    "architecture": "residual_unet",
    "architecture_options": {"widths": [32, 64, 96, 128, 160]},
    "representation": "bcd",
    "optimizer": "sgd",
    "learning_rate": 0.02,
    "batch": 2,
    "validation_fraction": 0,
    "tensorboard": False,
    "pictures": False,
}


def trainer(
    steps: int, folder: Path, config: Path | None
) -> Callable[[str, tuple[Pair, ...], tuple[float, float, float]], str]:
    """A function that trains on pairs, and gives the weights; those that are there are kept."""
    extra = yaml.safe_load(config.read_text()) if config else {}

    def trained(name: str, pairs: tuple[Pair, ...], size: tuple[float, float, float]) -> str:
        out = folder / f"trained-{name}"
        state = out / "train.json"
        if not (state.is_file() and json.loads(state.read_text())["status"] == "complete"):
            print(f"training on {len(pairs)} volumes, {steps} steps, in {out}", flush=True)
            options = RECIPE | {"steps": steps, "voxel_size": list(size)} | extra
            files = out.with_name(f"{out.name}-files")
            options |= {kind: _linked(pairs, files, kind) for kind in ("images", "labels")}
            train(make_train_config(options), out, overwrite=out.exists())
        return str(out / "best.safetensors")

    return trained


def _linked(pairs: tuple[Pair, ...], folder: Path, kind: str) -> list[str]:
    """Files under names by which images and labels are paired."""
    found = []
    for number, pair in enumerate(pairs):
        path = pair.image if kind == "images" else pair.labels
        link = folder / kind / f"{number:03d}_{pair.name}{path.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(path.absolute())
        found.append(str(link))
    return found


def run(key: str, folder: Path, options: Options) -> dict[str, Any]:
    """Find a set's files, run its protocol and print the tables."""
    chosen = SETS[key]
    found = chosen.find(folder)
    print(f"\n{chosen.title}: {', '.join(pair.name for pair in found.scored)}", flush=True)
    result = chosen.run(chosen, found, options)
    show(result)
    return {"set": key, "model": options.model, **result}


def stand_in(key: str, folder: Path) -> Path:
    """A small made-up set of the same layout."""
    if key == "mesospim":
        return standins.mesospim(folder / key)
    if key.startswith("nucmm"):
        return standins.nucmm(folder / key, SETS[key].title, hdf5=find_spec("h5py") is not None)
    if key == "spheroids":
        return standins.spheroids(folder / key)
    names: dict[str, dict[str, tuple[str, ...]]] = {
        "mouse-skull": {"train": ("X1", "X2_left"), "test": ("X2_right",)},
        "platynereis": {"train": ("dataset_hdf5_100_0", "dataset_hdf5_150_0")},
        "platynereis-ish": {"train": ("X01", "X02_train"), "test": ("X02_test",)},
    }
    if key == "mouse-skull":
        # its smoothing of 15 voxels wants large nuclei, well apart
        how: dict[str, Any] = {"shape": (22, 40, 100), "count": 2, "radius": 10.0, "apart": 5.5}
        return standins.embedseg(folder / key, names[key], **how)
    return standins.embedseg(folder / key, names[key])


def smoke() -> None:
    """All sets on stand-ins, without a network."""
    with tempfile.TemporaryDirectory() as folder:
        for key in SETS:
            run(key, stand_in(key, Path(folder)), Options(model="intensity"))
    print("\nmade-up volumes: these figures say nothing of the sets")


def main() -> None:
    """Run one set, or all stand-ins."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", choices=SETS, nargs="?")
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--model", default="nuclei-wnet3d", help="name, file, or intensity")
    parser.add_argument("--compat", choices=("cellseg3d",), help="for published checkpoints")
    parser.add_argument("--downsample", type=int, help="voxels a side, in place of the paper's")
    parser.add_argument("--train", type=int, metavar="STEPS", help="train on what is not scored")
    parser.add_argument("--train-config", type=Path, help="YAML of options of train")
    parser.add_argument("--out", type=Path, default=Path("papers"), help="folder of trainings")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--smoke", action="store_true", help="seconds, on made-up volumes")
    given = parser.parse_args()
    if given.smoke:
        smoke()
        return
    if given.set is None or given.folder is None:
        parser.error("give SET FOLDER, or --smoke")
    if given.train and given.model == "intensity":
        parser.error("--train needs a network; leave --model out")
    training = trainer(given.train, given.out, given.train_config) if given.train else None
    options = Options(given.model, given.compat, given.downsample, training)
    try:
        result = run(given.set, given.folder, options)
    except (LayoutError, CellSegError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
