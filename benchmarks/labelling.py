"""Connected components from Zarr to final labels in Zarr, against others on the same mask.

    python benchmarks/labelling.py [--smoke] [--side 512] [--json FILE]

One run times, on one volume of blobs (by default 512^3, about 30,000 components, 64 blocks):

- this package: label, contacts, merge and relabel with cell statistics, read from and
  written to Zarr on disk by two workers;
- scipy.ndimage.label and cc3d on the array in memory, one thread, no disk;
- dask-image's label on the same blocks, from and to Zarr, two workers.

The partition into components is checked against scipy's, voxel for voxel.
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

import dask.array as da
import numpy as np
import scipy.ndimage as ndi
from distributed import Client

from cellseg3d_dist.config import make_config
from cellseg3d_dist.engine import labelling
from cellseg3d_dist.engine.clusters import connect
from cellseg3d_dist.engine.executors import DaskExecutor
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.logs import WorkerLog
from cellseg3d_dist.engine.method import resolve_method
from cellseg3d_dist.engine.pipeline import Pipeline
from cellseg3d_dist.engine.plan import make_plan
from cellseg3d_dist.engine.progress import NoProgress
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.grid import Region, Selection
from cellseg3d_dist.volumes import create_image, open_volume


def blobs(side: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A mask of round blobs, some touching; about 30,000 components for side 512."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((side, side, side), np.uint8)
    n = round(33_000 * (side / 512) ** 3)
    offsets = np.argwhere(np.ones((11, 11, 11))) - 5
    for centre, radius in zip(rng.integers(0, side, (n, 3)), rng.uniform(2.5, 5.0, n), strict=True):
        voxels = centre + offsets[(offsets**2).sum(1) <= radius**2]
        inside = ((voxels >= 0) & (voxels < side)).all(1)
        mask[tuple(voxels[inside].T)] = 1
    return mask


def ours(
    image: Path, out: Path, client: Client, block: int, workers: int
) -> tuple[float, dict[str, float]]:
    """Seconds from Zarr to final labels in Zarr, and of each stage."""
    config = make_config(
        {
            "image": str(image), "model": "intensity", "instances": "components",
            "threshold": 0.5, "outline_sigma": 0, "block_shape": (block,) * 3, "workers": workers,
        }
    )  # fmt: skip
    method = resolve_method(config)
    volume = open_volume(image)
    folder = RunFolder(out)
    folder.work.mkdir(parents=True)
    folder.write_status({"status": "running"})
    runner = Runner(folder, DaskExecutor(client), NoProgress(), {})
    plan, image_input = make_plan(method, volume), ImageInput(volume)
    job = Pipeline(method.config, plan, image_input, None, folder, runner, method)
    began = time.perf_counter()
    fragments = Fragments(folder.work, job.grid)
    labelled = labelling.label(job, fragments, Selection.all(job.grid), 0.5)
    before_merge = time.perf_counter()
    merged = job.merge(fragments, labelled)
    merge_seconds = time.perf_counter() - before_merge
    job.relabel(fragments, job.label_image(merged), labelled, merged, (1.0,))
    seconds = time.perf_counter() - began
    stages = {s.stage: round(s.seconds, 3) for s in runner.summaries}
    return seconds, stages | {"merge": round(merge_seconds, 3)}


def dask_image_seconds(image: Path, out: Path, client: Client, block: int, side: int) -> float:
    """Seconds of dask-image's label over the first ``side`` voxels of each axis."""
    from dask_image.ndmeasure import label

    began = time.perf_counter()
    mask = da.from_zarr(str(image / "0"))[:side, :side, :side].rechunk(block)
    labels, _ = label(mask)
    labels.to_zarr(str(out))
    return time.perf_counter() - began


def median_of(n: int, run: Callable[[int], float]) -> float:
    """Median seconds of n runs, after one that warms up."""
    run(-1)
    return statistics.median(run(i) for i in range(n))


def timed(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="seconds, for checks only")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--peer-side", type=int, help="corner that dask-image labels [all]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    side = 96 if options.smoke else options.side
    block = side // 4
    peer_side = block if options.smoke else options.peer_side or side
    repeats = 1 if options.smoke else options.repeats
    mask = blobs(side)
    expected, n_components = ndi.label(mask)
    rows: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        stored = create_image(
            folder / "mask.ome.zarr", shape=mask.shape, dtype=np.uint8,
            block_shape=(block,) * 3, voxel_size=(1, 1, 1), n_levels=1, kind="image",
        )  # fmt: skip
        for b in stored.levels[0].grid.blocks():
            stored.levels[0].write(b.write_region, mask[b.write_region.slices])
        with (
            connect(None, None, 2, 4 * 10**9, scratch) as client,
        ):  # fmt: skip
            client.register_plugin(WorkerLog(scratch))
            stages: dict[str, float] = {}

            def run_ours(i: int) -> float:
                seconds, found = ours(
                    folder / "mask.ome.zarr", folder / f"run{i}", client, block, 2
                )
                stages.update(found)
                return seconds

            rows["ours, Zarr to Zarr, 2 workers"] = median_of(repeats, run_ours)
            whole = open_volume(folder / "run0" / "labels.ome.zarr")
            same = np.array_equal(whole.read(Region.whole(whole.shape)), expected)
            peer = timed(
                lambda: dask_image_seconds(
                    folder / "mask.ome.zarr", folder / "peer.zarr", client, block, peer_side
                )
            )
            rows[f"dask-image, Zarr to Zarr, 2 workers, {peer_side}^3"] = peer
        rows["scipy, in memory, 1 thread"] = median_of(
            repeats, lambda _: timed(lambda: ndi.label(mask))
        )
        rows |= cc3d_row(mask, repeats)
    report(rows, stages, side, peer_side, n_components, same, options.json)


def cc3d_row(mask: np.ndarray[Any, np.dtype[np.uint8]], repeats: int) -> dict[str, float]:
    """Seconds of cc3d, where it is installed."""
    try:
        import cc3d
    except ImportError:
        return {}
    run = lambda _: timed(lambda: cc3d.connected_components(mask, connectivity=6))  # noqa: E731
    return {"cc3d, in memory, 1 thread": median_of(repeats, run)}


def report(
    rows: dict[str, float], stages: dict[str, float], side: int, peer_side: int,
    n_components: int, same: bool, path: Path | None,
) -> None:  # fmt: skip
    """Print seconds, rates and the two ratios that matter."""
    voxels = {name: (peer_side if "dask-image" in name else side) ** 3 for name in rows}
    rates = {name: voxels[name] / seconds / 1e6 for name, seconds in rows.items()}
    print(f"{side}^3, {n_components} components, 64 blocks, {os.cpu_count()} cores; "
          f"labels equal scipy's: {same}")  # fmt: skip
    for name, seconds in rows.items():
        print(f"  {name:<48} {seconds:8.2f} s {rates[name]:9.1f} Mvoxel/s")
    print("  stages of ours:", ", ".join(f"{k} {v:.2f} s" for k, v in stages.items()))
    first, peer = list(rates.values())[:2]
    scipy_rate = rates["scipy, in memory, 1 thread"]
    print(f"  ours / scipy {first / scipy_rate:.2f}, ours / dask-image {first / peer:.0f}")
    if path is not None:
        path.write_text(json.dumps({"seconds": rows, "mvoxel_per_s": rates, "stages": stages,
                                    "labels_equal_scipy": same}, indent=1))  # fmt: skip
    if not same:
        raise SystemExit("labels differ from scipy's")


if __name__ == "__main__":
    main()
