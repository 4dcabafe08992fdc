"""Two label images scored on workers of 2 GB, against the same in memory.

    python benchmarks/evaluation.py [--smoke] [--side 1024] [--objects 100000] [--workers N]
                                    [--memory-limit 2GB] [--scratch DIR] [--json FILE]

The true image holds balls on a jittered lattice; in the prediction they are shifted, smaller,
some missing and some fused with a neighbour. Both are stored as OME-Zarr, uint32. Rates are in
voxels of one image, per second and per second of processor time (all threads of all workers),
which other work on the machine disturbs less. The reference has slabs of both images in memory
and counts the same pairs in one thread: by this package's kernel, and by numpy's ``unique`` and
scikit-image's ``contingency_table`` on the first slab; the scores of its table must be those
of the workers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from skimage.metrics import contingency_table

from cellseg3d_dist import evaluate
from cellseg3d_dist.engine.stage import peak_rss
from cellseg3d_dist.grid import Region
from cellseg3d_dist.metrics.contingency import ContingencyTable, contingency
from cellseg3d_dist.metrics.summary import summarise
from cellseg3d_dist.volumes import create_image, open_volume

SLAB = 128
#: Voxels that numpy and scikit-image are timed on.
FEW = 1 << 24


@njit(cache=True, nogil=True)
def paint(out: Any, start: Any, pitch: int, per_axis: int, predicted: bool) -> None:
    """Paint the balls of the region of ``out`` that begins at ``start``."""
    reach = pitch // 2
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for axis in range(3):
        low[axis] = max(0, (start[axis] - reach) // pitch)
        high[axis] = min(per_axis, (start[axis] + out.shape[axis] + reach) // pitch + 1)
    for a in range(low[0], high[0]):
        for b in range(low[1], high[1]):
            for c in range(low[2], high[2]):
                label = (a * per_axis + b) * per_axis + c + 1
                mixed = (label * 2654435761) & 0xFFFFFFFF
                radius = reach - 1 - (mixed >> 24) % 3
                z, y, x = a * pitch + reach, b * pitch + reach, c * pitch + reach
                if predicted:
                    if mixed % 20 == 0:
                        continue
                    if mixed % 20 == 1 and c > 0:
                        label -= 1
                    radius -= mixed % 3
                    y, x = y + (mixed >> 8) % 5 - 2, x + (mixed >> 16) % 5 - 2
                ball(out, z - start[0], y - start[1], x - start[2], radius, label)


@njit(cache=True, nogil=True)
def ball(out: Any, z: int, y: int, x: int, radius: int, label: int) -> None:
    """Paint one ball; what reaches beyond the array is cut."""
    for i in range(max(0, z - radius), min(out.shape[0], z + radius + 1)):
        for j in range(max(0, y - radius), min(out.shape[1], y + radius + 1)):
            left = radius * radius - (i - z) ** 2 - (j - y) ** 2
            if left >= 0:
                half = int(np.sqrt(left))
                for k in range(max(0, x - half), min(out.shape[2], x + half + 1)):
                    out[i, j, k] = label


def make(path: Path, side: int, per_axis: int, predicted: bool) -> None:
    """Store one of the images."""
    image = create_image(
        path,
        shape=(side,) * 3,
        dtype=np.dtype(np.uint32),
        block_shape=(min(128, side),) * 3,
        voxel_size=(1.0, 1.0, 1.0),
        kind="labels",
        n_levels=1,
    )
    level = image.levels[0]

    def write(block: Any) -> None:
        out = np.zeros(block.write_region.shape, np.uint32)
        paint(out, np.array(block.write_region.start), side // per_axis, per_axis, predicted)
        level.write(block.write_region, out)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, level.grid.blocks()))


@dataclass
class Took:
    """Seconds of the clock, and of this process."""

    seconds: float = 0.0
    cpu: float = 0.0


@contextlib.contextmanager
def clock() -> Iterator[Took]:
    """Time what is done."""
    took, began, before = Took(), time.perf_counter(), time.process_time()
    yield took
    took.seconds, took.cpu = time.perf_counter() - began, time.process_time() - before


def in_memory(true: Path, pred: Path) -> tuple[ContingencyTable, list[dict[str, Any]]]:
    """The table of slabs in memory, and the rates of those who can make it."""
    volumes = open_volume(true), open_volume(pred)
    shape, tables = volumes[0].shape, []
    seconds = cpu = 0.0
    rows: list[dict[str, Any]] = []
    for z in range(0, shape[0], SLAB):
        region = Region((z, 0, 0), (min(z + SLAB, shape[0]), *shape[1:]))
        slabs = [volume.read(region) for volume in volumes]
        contingency(slabs[0][:1], slabs[1][:1])
        with clock() as counting:
            tables.append(contingency(*slabs))
        seconds, cpu = seconds + counting.seconds, cpu + counting.cpu
        if z == 0:
            rows = [timed(*slabs, name, count) for name, count in PEERS.items()]
    with clock() as merging:
        table = ContingencyTable.merge(tables)
    seconds, cpu = seconds + merging.seconds, cpu + merging.cpu
    own = {"way": "in memory, this kernel", "voxels": int(np.prod(shape))}
    own |= {"seconds": seconds, "cpu": cpu}
    return table, [own, *rows]


def by_unique(true: Any, pred: Any) -> None:
    """Pairs as one number each, sorted."""
    np.unique((true.astype(np.uint64) << np.uint64(32)) | pred, return_counts=True)


PEERS: dict[str, Callable[[Any, Any], Any]] = {
    "in memory, numpy unique": by_unique,
    "in memory, scikit-image": contingency_table,
}


def timed(true: Any, pred: Any, name: str, count: Callable[[Any, Any], Any]) -> dict[str, Any]:
    """Time a peer on some planes."""
    planes = max(1, FEW // true[0].size)
    true, pred = true[:planes], pred[:planes]
    with clock() as took:
        count(true, pred)
    return {"way": name, "voxels": true.size, "seconds": took.seconds, "cpu": took.cpu}


def measure(true: Path, pred: Path, workers: int, memory_limit: str) -> list[dict[str, Any]]:
    """Score on workers, then in memory; the rows of the table."""
    began = time.perf_counter()
    found = evaluate(true, pred, workers=workers, memory_limit=memory_limit)
    total = time.perf_counter() - began
    voxels, driver = found["voxels"], peak_rss()
    counted = {"voxels": voxels, "peak": found.peak_rss, "driver": driver}
    took = {"seconds": found.seconds, "cpu": found.cpu_seconds}
    rows = [
        {"way": f"from disk, {workers} workers"} | took | counted,
        {"way": "  with start and scores", "seconds": total} | counted,
    ]
    table, others = in_memory(true, pred)
    same = summarise(table, thresholds=(0.5,)).to_dict()
    half = [entry for entry in found["matching"] if entry["threshold"] == 0.5]
    assert half == same["matching"], "the workers' scores are not those of the table in memory"
    assert found["partition"] == same["partition"]
    print(
        f"{found['n_true']:,} true and {found['n_pred']:,} predicted objects, "
        f"F1 {half[0]['f1']:.4f} at IoU 0.5; equal to the table in memory"
    )
    return rows + others


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    heads = ["Mvoxel", "s", "Mvoxel/s", "per CPU s", "worker GB", "driver GB"]
    print(f"{'':<26}" + "".join(f"{head:>11}" for head in heads))
    for row in rows:
        rate = row["voxels"] / row["seconds"] / 1e6
        cells = [f"{row['voxels'] / 1e6:.0f}", f"{row['seconds']:.2f}", f"{rate:.1f}"]
        cells.append(f"{row['voxels'] / row['cpu'] / 1e6:.1f}" if "cpu" in row else "")
        cells += [f"{row[key] / 1e9:.2f}" if key in row else "" for key in ("peak", "driver")]
        print(f"{row['way']:<26}" + "".join(f"{cell:>11}" for cell in cells))


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a small volume, seconds")
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory-limit", default="2GB")
    parser.add_argument("--scratch", type=Path, help="where images are made, and kept")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    side, objects = (192, 600) if given.smoke else (given.side, given.objects)
    per_axis = round(objects ** (1 / 3))
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.scratch or Path(scratch)
        paths = [folder / f"{name}-{side}-{objects}.ome.zarr" for name in ("true", "pred")]
        began = time.perf_counter()
        for path, predicted in zip(paths, (False, True), strict=True):
            if not path.exists():
                make(path, side, per_axis, predicted)
        print(f"two images of {side}^3 voxels made in {time.perf_counter() - began:.0f} s")
        rows = measure(paths[0], paths[1], given.workers, given.memory_limit)
    show(rows)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
