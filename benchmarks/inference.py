"""Prediction by a network from Zarr to Zarr, against bare loops over the same patches.

    python benchmarks/inference.py [MODEL] [--smoke] [--side 256] [--device cuda] [--json FILE]

One run times, on one volume of noise (no patch is empty), with the same network:

- the `predict` stage in this process, reading and writing OME-Zarr, journal included;
- the same with two Dask workers;
- PyTorch in a bare loop over the same patches, the whole volume in memory;
- MONAI's `sliding_window_inference` on the same patches (the volume mirrored at its faces
  first, and overlap for the same step), which always blends.

Each row has seconds, voxels a second, and processor seconds of this process, which say more
where others use the machine. The share of the stage's time that is spent inside the network
is printed too, and the batches that it took: more than there are patches where blocks are no
multiples of a patch's core. `--autocast`, `--compile` and `--channels-last` change the network
of the two bare loops; the stage computes as it always does.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from cellseg3d_dist.engine.clusters import connect
from cellseg3d_dist.engine.executors import DaskExecutor, Executor, SerialExecutor
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.network import Network
from cellseg3d_dist.engine.progress import NoProgress
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.engine.stages.predict import Predict
from cellseg3d_dist.grid import Region, Selection
from cellseg3d_dist.networks.cards import make_card, resolve
from cellseg3d_dist.networks.device import check_device
from cellseg3d_dist.networks.lattice import Lattice
from cellseg3d_dist.networks.normalisation import normalise
from cellseg3d_dist.networks.predictor import Tiling, quantised
from cellseg3d_dist.networks.registry import build
from cellseg3d_dist.networks.weights import Model, load_model, save_model
from cellseg3d_dist.volumes import create_image, open_volume

CONSTANTS = (0.0, 1000.0)


@dataclass(frozen=True)
class Row:
    """What one way took."""

    seconds: float
    cpu_seconds: float


def timed(work: Callable[[], Any]) -> tuple[Row, Any]:
    """Wall and processor seconds of one call, and what it returned."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return Row(time.perf_counter() - wall, time.process_time() - cpu), found


def untrained(folder: Path, smoke: bool) -> str:
    """A residual U-Net with random weights, saved."""
    widths, side = ([4, 8], 32) if smoke else ([8, 16, 24], 64)
    card = make_card(
        {
            "name": "untrained", "architecture": "residual_unet",
            "architecture_options": {"widths": widths}, "representation": "bcd",
            "voxel_size": (1.0, 1.0, 1.0), "patch": (side,) * 3, "halo": (side // 4,) * 3,
        }
    )  # fmt: skip
    torch.manual_seed(0)
    save_model(folder / "untrained", build("residual_unet", 1, 3, widths=widths), card)
    return str(folder / "untrained")


class Stage:
    """The stage over one stored image."""

    def __init__(self, name: str, model: Model, image: Path, block: int, folder: Path) -> None:
        self.name, self.model, self.folder, self.block = name, model, folder, block
        self.volume = open_volume(image)

    def network(self, device: str, batch: int, threads: int) -> Network:
        """As the engine uses it."""
        weights = str(resolve(self.name).weights)
        return Network(weights, self.model.digest, device, batch, threads, flips=False)

    def run(self, label: str, network: Network, executor: Executor) -> None:
        """Predict every block."""
        folder = self.folder / label
        stored = create_image(
            folder / "prediction.ome.zarr", shape=self.volume.shape, dtype=np.uint8,
            block_shape=(self.block,) * 3, voxel_size=self.volume.voxel_size, n_levels=1,
            kind="image", channels=self.model.representation.channels,
        )  # fmt: skip
        run = RunFolder(folder / "run")
        run.work.mkdir(parents=True)
        run.write_status({"status": "running"})
        level = stored.levels[0]
        stage = Predict(ImageInput(self.volume), level, run.work, network, CONSTANTS, (0, 0, 0))
        runner = Runner(run, executor, NoProgress(), {})
        records = list(runner.run(stage, Selection.all(level.grid)))
        if len(records) != level.grid.n_blocks:
            raise SystemExit(f"{label}: blocks failed")

    def prediction(self, label: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """What a run wrote."""
        path, whole = self.folder / label / "prediction.ome.zarr", Region.whole(self.volume.shape)
        channels = range(len(self.model.representation.channels))
        return np.stack([open_volume(path, channel=c).read(whole) for c in channels])


@contextmanager
def inside(network: torch.nn.Module, device: str) -> Iterator[list[float]]:
    """Seconds of every call of a network."""
    spent: list[float] = []
    began = 0.0

    def before(*_: Any) -> None:
        nonlocal began
        settle(device)
        began = time.perf_counter()

    def after(*_: Any) -> None:
        settle(device)
        spent.append(time.perf_counter() - began)

    hooks = [network.register_forward_pre_hook(before), network.register_forward_hook(after)]
    yield spent
    for hook in hooks:
        hook.remove()


def settle(device: str) -> None:
    """Wait for what a GPU still has to do."""
    if device != "cpu":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Bare:
    """The network without this package around it."""

    network: torch.nn.Module
    model: Model
    lattice: Lattice
    device: str
    batch: int
    autocast: bool

    def padded(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The network's input, mirrored so that it is made of whole patches."""
        cores = zip(self.lattice.shape, self.lattice.core, self.lattice.halo, strict=True)
        return np.pad(
            normalise(image, *CONSTANTS), [(h, -n % c + h) for n, c, h in cores], mode="reflect"
        )

    def activated(self, patches: torch.Tensor) -> torch.Tensor:
        """Channels of a batch."""
        precision = torch.autocast("cuda", torch.bfloat16) if self.autocast else nullcontext()
        with torch.inference_mode(), precision:
            return self.model.representation.activate(self.network(patches)).float()

    def loop(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Patch after patch; each keeps its core."""
        padded, lattice = self.padded(image), self.lattice
        whole = Region.whole(lattice.shape)
        out = np.zeros((len(self.model.representation.channels), *lattice.shape), np.uint8)
        starts = list(lattice.starts(whole))
        z, y, x = (slice(h, h + c) for h, c in zip(lattice.halo, lattice.core, strict=True))
        for first in range(0, len(starts), self.batch):
            part = starts[first : first + self.batch]
            # the padded volume begins a halo before the image, as the first patch does
            corners = [[s + h for s, h in zip(start, lattice.halo, strict=True)] for start in part]
            cuts = [
                padded[tuple(slice(c, c + p) for c, p in zip(corner, lattice.patch, strict=True))]
                for corner in corners
            ]
            given = torch.from_numpy(np.stack(cuts)[:, None]).to(self.device)
            for corner, result in zip(corners, self.activated(given).cpu().numpy(), strict=True):
                to = tuple(slice(c, c + k) for c, k in zip(corner, lattice.core, strict=True))
                kept = quantised(result[:, z, y, x])
                target = out[(slice(None), *to)]
                a, b, c = target.shape[1:]
                target[...] = kept[:, :a, :b, :c]
        return out

    def monai(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """MONAI over the same patches."""
        lattice, given = self.lattice, torch.from_numpy(self.padded(image))[None, None]
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = sliding_window_inference(
                given, lattice.patch, self.batch, self.activated,
                overlap=[2 * h / p for h, p in zip(lattice.halo, lattice.patch, strict=True)],
                mode="gaussian", sw_device=self.device, device="cpu",
            )  # fmt: skip
        inner = [slice(h, h + n) for h, n in zip(lattice.halo, lattice.shape, strict=True)]
        return quantised(found[0].numpy()[(slice(None), *inner)])


def network_for(options: argparse.Namespace, model: Model, own: torch.nn.Module) -> Any:
    """The stage's own network, or one with what was asked for."""
    network: Any = own
    if options.channels_last:
        network = model.network.to(memory_format=torch.channels_last_3d)
    return torch.compile(network) if options.compile else network


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="a name or file [untrained residual_unet]")
    parser.add_argument("--smoke", action="store_true", help="seconds, for checks only")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--block", type=int, help="side of a block [half of the volume's]")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, help="patches at a time [1, or 4 on a GPU]")
    parser.add_argument("--threads", type=int, default=1)
    for name in ("autocast", "compile", "channels-last"):
        parser.add_argument(f"--{name}", action="store_true", help="of the bare loops")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    check_device(options.device)
    torch.set_num_threads(options.threads)
    side = 64 if options.smoke else options.side
    block = options.block or side // 2
    batch = options.batch or (1 if options.device == "cpu" else 4)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        name = options.model or untrained(folder, options.smoke)
        model = load_model(name, options.device)
        image = np.random.default_rng(0).integers(0, 1000, (side,) * 3, dtype=np.uint16)
        size = model.card.voxel_size
        stored = create_image(
            folder / "image.ome.zarr", shape=image.shape, dtype=image.dtype,
            block_shape=(block,) * 3, voxel_size=size, n_levels=1, kind="image",
        )  # fmt: skip
        for b in stored.levels[0].grid.blocks():
            stored.levels[0].write(b.write_region, image[b.write_region.slices])
        stage = Stage(name, model, folder / "image.ome.zarr", block, folder)
        network = stage.network(options.device, batch, options.threads)
        forward = network.forward()
        lattice = Tiling.of(model, (side, side, side), size).lattice
        bare = Bare(
            network_for(options, model, forward.network), model, lattice, options.device, batch,
            options.autocast or options.device != "cpu",
        )  # fmt: skip
        # the first call of a network costs more than the others
        bare.activated(torch.zeros((batch, 1, *lattice.patch), device=options.device))
        rows: dict[str, Row] = {}
        with inside(forward.network, options.device) as spent:
            rows["predict, this process"], _ = timed(
                lambda: stage.run("serial", network, SerialExecutor())
            )
        rows["bare PyTorch loop"], plain = timed(lambda: bare.loop(image))
        rows["MONAI sliding window"], _ = timed(lambda: bare.monai(image))
        with connect(None, None, 2, 4 * 10**9, scratch) as client:
            client.submit(network.forward).result()
            rows["predict, 2 workers"], _ = timed(
                lambda: stage.run("dask", network, DaskExecutor(client))
            )
        found = stage.prediction("serial")
        same = np.array_equal(found, stage.prediction("dask"))
        differs = float((found != plain).mean()) if model.card.blending == "crop" else None
    share = sum(spent) / rows["predict, this process"].seconds
    report(rows, model, lattice, block, share, same, differs, len(spent), options)


def report(
    rows: dict[str, Row], model: Model, lattice: Lattice, block: int, share: float,
    same: bool, differs: float | None, calls: int, options: argparse.Namespace,
) -> None:  # fmt: skip
    """Print seconds, rates and the ratios that matter."""
    side, card = lattice.shape[0], model.card
    print(f"{card.name} ({card.architecture}), patch {card.patch}, halo {card.halo}, {side}^3 in "
          f"blocks of {block}^3, {calls} batches for {lattice.n_patches} patches, "
          f"{options.device}, {options.threads} threads, {os.cpu_count()} cores")  # fmt: skip
    for name, row in rows.items():
        print(f"  {name:<24} {row.seconds:8.2f} s {side**3 / row.seconds / 1e6:9.3f} Mvoxel/s"
              f" {row.cpu_seconds:8.2f} s of this process's processor")  # fmt: skip
    ours, bare, monai = (
        rows[name]
        for name in ("predict, this process", "bare PyTorch loop", "MONAI sliding window")
    )
    print(f"  stage / bare loop {bare.seconds / ours.seconds:.2f} "
          f"(processor {bare.cpu_seconds / ours.cpu_seconds:.2f}), stage / MONAI "
          f"{monai.seconds / ours.seconds:.2f} ({monai.cpu_seconds / ours.cpu_seconds:.2f}), "
          f"inside the network {100 * share:.0f} % of the time")  # fmt: skip
    print(f"  two workers equal one process: {same}; voxels that differ from the bare loop: "
          f"{'blended' if differs is None else format(differs, '.2e')}")  # fmt: skip
    if options.json is not None:
        options.json.write_text(json.dumps(
            {"rows": {name: vars(row) for name, row in rows.items()}, "share": share,
             "same": same, "differs": differs, "side": side}, indent=1))  # fmt: skip
    if not same:
        raise SystemExit("two workers predicted something else")


if __name__ == "__main__":
    main()
