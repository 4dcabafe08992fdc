"""What the engine adds to a block: many blocks that do nothing, against bare Dask.

    python benchmarks/overhead.py [--smoke] [--blocks 100000] [--json FILE]

The same cluster of two workers runs the blocks through the engine (bounded window, journal,
progress) and through `Client.submit` with `as_completed` and the same window. Both rates, their
ratio, and how much the memory of driver and scheduler (one process here) grows from the
first tenth of the blocks to the last are printed. Bare Dask runs before and after; the mean
of both is the reference.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from distributed import Client, LocalCluster, as_completed

from cellseg3d_dist.engine.executors import DaskExecutor
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.progress import NoProgress
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.grid import Block, BlockGrid, Selection

WINDOW = 16


@dataclass(frozen=True)
class Nothing:
    """A stage whose blocks do nothing."""

    name: str = "nothing"

    def decides(self) -> BlockRecord:
        """Nothing."""
        return {}

    def run(self, block: Block) -> BlockRecord:
        """Nothing."""
        return {}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Nothing to check."""
        return True


@dataclass
class Watch(NoProgress):
    """Notes the process's memory every thousandth of the blocks."""

    every: int
    rss: list[int] = field(default_factory=list)
    done: int = 0

    def advance(self, voxels: int) -> None:
        """Count, and look now and then."""
        self.done += 1
        if self.done % self.every == 0:
            self.rss.append(psutil.Process().memory_info().rss)


def nothing(block: int) -> int:
    """The bare task."""
    return block


def bare(client: Client, n: int) -> float:
    """Tasks a second of `submit` with `as_completed`, futures released at once."""
    began = time.perf_counter()
    numbers = iter(range(n))
    futures = as_completed()
    for i in itertools.islice(numbers, WINDOW):
        futures.add(client.submit(nothing, i, pure=False))
    for future in futures:
        future.result()
        future.release()
        for i in itertools.islice(numbers, 1):
            futures.add(client.submit(nothing, i, pure=False))
    return n / (time.perf_counter() - began)


def engine(client: Client, n: int, folder: Path) -> tuple[float, list[int]]:
    """Blocks a second through the engine, and memory along the way."""
    grid = BlockGrid((n, 1, 1), (1, 1, 1))
    watch = Watch(every=max(1, n // 100))
    runner = Runner(RunFolder(folder), DaskExecutor(client, WINDOW), watch, {})
    began = time.perf_counter()
    runner.run(Nothing(), Selection.all(grid))
    return n / (time.perf_counter() - began), watch.rss


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="seconds, for checks only")
    parser.add_argument("--blocks", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    n = 500 if options.smoke else options.blocks
    with (
        tempfile.TemporaryDirectory() as scratch,
        LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1",
            dashboard_address="127.0.0.1:0", local_directory=scratch,
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        bare(client, max(100, n // 50))
        before = bare(client, n // 10)
        rate, rss = engine(client, n, Path(scratch) / "run")
        after = bare(client, n // 10)
    reference = (before + after) / 2
    growth = (rss[-1] - rss[len(rss) // 10]) / 1e6
    print(f"{n} blocks, window {WINDOW}, 2 workers")
    print(f"  bare submit + as_completed  {before:7.0f} and {after:7.0f} tasks/s")
    print(f"  engine                      {rate:7.0f} blocks/s, {rate / reference:.2f} of bare")
    print(f"  memory of driver and scheduler grew by {growth:.0f} MB from a tenth to the end")
    if options.json is not None:
        figures = {"bare": [before, after], "engine": rate, "growth_mb": growth, "rss": rss}
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
