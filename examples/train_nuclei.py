"""Train the weights that come with the package, and those of the README's ablation.

    python examples/train_nuclei.py DATA OUT wnet bcd flow

DATA holds the folders ``mouse_embryo_bbbc050`` (BBBC050, CC BY 3.0) with ``images`` and
``labels``, and ``mouse_brain_mesospim`` (example volumes of CellSeg3D, MIT). Embryos 01-08
are for training, 09-11 for scores: nothing here reads them. Each recipe takes 5 to 40
minutes on one CPU core; ``--threads`` gives it more.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cellseg3d_dist import open_volume
from cellseg3d_dist.training.config import make_train_config
from cellseg3d_dist.training.train import train
from cellseg3d_dist.volumes.convert import create_conversion

EMBRYO = "1.75,0.8,0.8"
#: Voxel size that a WNet3D sees: nuclei of 5 to 7 voxels.
COARSE = (1.6, 1.6, 1.6)

SUPERVISED: dict[str, Any] = {
    "architecture": "residual_unet",
    "architecture_options": {"widths": [8, 32, 64]},
    "train_voxel_size": (1.75, 1.6, 1.6),
    "patch": (32, 48, 48),
    "halo": (8, 8, 8),
    "batch": 2,
    "steps": 1600,
    "steps_per_epoch": 50,
    "validation_fraction": 0,
    "learning_rate": 3e-3,
    "voxel_size": EMBRYO,
    "data_licence": "CC BY 3.0 (BBBC050)",
}
WNET: dict[str, Any] = {
    "architecture": "wnet3d",
    "architecture_options": {"widths": [8, 16, 32, 64], "dropout": 0.1},
    "representation": "foreground",
    "train_voxel_size": COARSE,
    "patch": (32, 32, 32),
    "halo": (8, 8, 8),
    "batch": 4,
    "steps": 260,
    "steps_per_epoch": 20,
    "validation_fraction": 0,
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "ema": 0.98,
    "objective_options": {"sigma_i": 100.0, "w_rec": 0.04, "smoothing": 0.8},
    "data_licence": "CC BY 3.0 (BBBC050), MIT (CellSeg3D)",
}
SHORT = {"steps": 600}
BCD = {"representation": "bcd", "representation_options": {"balanced": False}}
STAR = {
    "representation": "star",
    "representation_options": {"voxel_size": [1.75, 1.6, 1.6], "max_distance": 10.0},
}
RECIPES: dict[str, dict[str, Any]] = {
    "wnet": WNET,
    "bcd": SUPERVISED | BCD,
    "foreground": SUPERVISED | SHORT | {"representation": "foreground"},
    "boundary": SUPERVISED | SHORT | {"representation": "boundary"},
    "bcd-short": SUPERVISED | SHORT | BCD,
    "star": SUPERVISED | SHORT | STAR,
    "flow": SUPERVISED | {"representation": "flow", "steps": 3000},
    "flow-short": SUPERVISED | SHORT | {"representation": "flow"},
    "unet": SUPERVISED
    | SHORT
    | BCD
    | {"architecture": "unet", "architecture_options": {"widths": [8, 32, 64]}},
    "segresnet": SUPERVISED
    | SHORT
    | BCD
    | {"architecture": "segresnet", "architecture_options": {"init_filters": 8}},
    "wnet-supervised": SUPERVISED
    | SHORT
    | BCD
    | {"architecture": "wnet3d", "architecture_options": {"widths": [8, 32, 64, 64]}},
}


def labelled(data: Path) -> dict[str, Any]:
    """Embryos 01-08 with their labels."""
    folder = data / "mouse_embryo_bbbc050"
    return {key: str(folder / key / "Emb0[1-8]_t*.tif") for key in ("images", "labels")}


def unlabelled(data: Path, stored: Path) -> dict[str, Any]:
    """Images alone: embryos, and brain tissue whose voxels count as the network's own.

    A mesoSPIM nucleus has 2 to 3 voxels at 5 um. Taken as they are, these crops teach the
    network small nuclei; they are stored as OME-Zarr to give them that voxel size.
    """
    embryos = sorted((data / "mouse_embryo_bbbc050" / "images").glob("Emb0[1-8]_t[345]01.tif"))
    sizes = dict.fromkeys(embryos, (1.75, 0.8, 0.8))
    sizes |= dict.fromkeys((data / "mouse_brain_mesospim").glob("*.tif"), COARSE)
    for path, size in sizes.items():
        target = stored / f"{path.stem}.zarr"
        if not target.exists():
            conversion = create_conversion(open_volume(path, voxel_size=size), target, n_levels=1)
            for block in conversion.grid.blocks():
                conversion.run(block.write_region)
    return {"images": str(stored / "*.zarr")}


def main() -> None:
    """Train the recipes that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("recipes", nargs="+", choices=[*RECIPES])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, help="fewer, to try it")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.recipes:
        options = dict(RECIPES[name])
        if name == "wnet":
            options |= unlabelled(given.data, given.out / "images")
        else:
            options |= labelled(given.data)
        if given.steps:
            options |= {"steps": given.steps, "steps_per_epoch": min(10, given.steps)}
        how = {"name": f"nuclei-{name}", "threads": given.threads, "seed": given.seed}
        result = train(make_train_config(options | how), given.out / name, overwrite=True)
        print(name, result.steps, "steps", result.scores, flush=True)


if __name__ == "__main__":
    main()
