"""Speed and memory of the merge at 10^8 fragments, by name and by contact, and by files.

Parts of what blocks would have written are made and kept on disk first; the merge is then
measured in a process of its own. Used by merging.py.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine import merge as engine_merge
from cellseg3d_dist.engine.block_records import Objects, Touching
from cellseg3d_dist.engine.executors import SerialExecutor
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.merge import merge_fragments, merge_parts
from cellseg3d_dist.engine.progress import NoProgress
from cellseg3d_dist.engine.records import packed, record_path
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.engine.stage import peak_rss
from cellseg3d_dist.engine.tables import TableWriter
from cellseg3d_dist.grid import BlockGrid, Region, Selection
from cellseg3d_dist.instances.spots import names_of_seeds
from cellseg3d_dist.merging.union_find import Forest, Limits

BLOCK = 128
#: Of cells that are kept; fragments have 50 to 2049 voxels.
LIMITS = Limits(100, 9000)
#: By name: seeds of a block, and how many of them each neighbour has fragments of.
SEEDS, SHARED = 80, 5
#: By contact: fragments of a block, and contacts with each of its six neighbours.
FRAGMENTS, CONTACTS = 200, 42
STEPS = [step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)]
NONE = np.uint64(2**64 - 1)

Array = npt.NDArray[Any]


def grid_of(side: int) -> BlockGrid:
    """``side`` blocks along each axis."""
    return BlockGrid((side * BLOCK,) * 3, (BLOCK,) * 3)


def seeds_of_plane(grid: BlockGrid, plane: int, each: int) -> Array:
    """Names of seeds in each block of a plane of blocks, (blocks, each), sorted."""
    _, ny, nx = grid.n_blocks_per_axis
    rng = np.random.default_rng(plane)
    shape, order = (ny * nx, each), np.arange(each)
    y, x = np.divmod(np.arange(ny * nx), nx)
    # each seed has an x and a half of y of its own, so that no two have one name
    within = (
        rng.integers(0, BLOCK, shape),
        rng.integers(0, BLOCK // 2, shape) + BLOCK // 2 * (order % 2),
        np.broadcast_to(order * BLOCK // each, shape),
    )
    corner = (np.full(ny * nx, plane), y, x)
    voxel = [(b[:, None] * BLOCK + w).ravel() for b, w in zip(corner, within, strict=True)]
    names = names_of_seeds(
        np.ravel_multi_index(voxel, grid.shape), Region.whole(grid.shape), grid.shape
    )
    return np.sort(names.reshape(shape), 1)


def objects_by_name(grid: BlockGrid) -> Iterator[Objects]:
    """Plane by plane: fragments of each block's seeds and of some of its 26 neighbours'."""
    nz, ny, nx = grid.n_blocks_per_axis
    y, x = np.divmod(np.arange(ny * nx), nx)
    seeds = {0: seeds_of_plane(grid, 0, SEEDS)}
    for plane in range(nz):
        seeds.pop(plane - 2, None)
        if plane + 1 < nz:
            seeds[plane + 1] = seeds_of_plane(grid, plane + 1, SEEDS)
        names = [seeds[plane]]
        for k, (dz, dy, dx) in enumerate(STEPS):
            inside = (y + dy >= 0) & (y + dy < ny) & (x + dx >= 0) & (x + dx < nx)
            there = np.flatnonzero(inside & (plane + dz in seeds))
            shown = np.full((ny * nx, SHARED), NONE)
            if there.size:
                which = (3 * k + 16 * np.arange(SHARED)) % SEEDS
                shown[there] = seeds[plane + dz][there + dy * nx + dx][:, which]
            names.append(shown)
        yield _objects(plane, np.sort(np.concatenate(names, 1), 1))


def objects_by_contact(grid: BlockGrid) -> Iterator[Objects]:
    """Plane by plane: fragments that have their names from their own block."""
    for plane in range(grid.n_blocks_per_axis[0]):
        yield _objects(plane, seeds_of_plane(grid, plane, FRAGMENTS))


def _objects(plane: int, names: Array) -> Objects:
    counts = np.count_nonzero(names != NONE, 1)
    flat = names[names != NONE]
    sizes = np.random.default_rng(plane).integers(50, 2050, flat.size, dtype=np.int64)
    return Objects(plane * len(names) + np.arange(len(names)), counts, flat, sizes)


def contacts_of_plane(grid: BlockGrid, plane: int) -> Touching:
    """Contacts of every block of a plane with the next block along each axis."""
    counts = grid.n_blocks_per_axis
    _, ny, nx = counts
    numbers = plane * ny * nx + np.arange(ny * nx)
    index = np.unravel_index(numbers, counts)
    blocks, others, pairs = [], [], []
    for axis, step in enumerate((ny * nx, nx, 1)):
        there = numbers[index[axis] + 1 < counts[axis]]
        own = 1 + (np.arange(CONTACTS) + 2 * axis * CONTACTS) % FRAGMENTS
        other = 1 + (np.arange(CONTACTS) + (2 * axis + 1) * CONTACTS) % FRAGMENTS
        blocks.append(np.repeat(there, CONTACTS))
        others.append(np.repeat(there + step, CONTACTS))
        pairs.append(np.tile(np.stack((own, other), 1), (there.size, 1)))
    order = np.argsort(np.concatenate(blocks), kind="stable")
    both = np.concatenate(pairs).astype(np.uint32)
    return Touching(np.concatenate(blocks)[order], np.concatenate(others)[order], both[order])


def make(folder: Path, grid: BlockGrid, rule: str) -> None:
    """Keep what blocks would have written, one file of each array and plane of blocks."""
    by_name = rule == "name"
    for objects in (objects_by_name if by_name else objects_by_contact)(grid):
        plane = int(objects.numbers[0]) // (grid.n_blocks_per_axis[1] ** 2)
        parts = {f"objects-{key}": value for key, value in vars(objects).items()}
        if not by_name:
            contacts = vars(contacts_of_plane(grid, plane))
            parts |= {f"contacts-{key}": value for key, value in contacts.items()}
        for key, value in parts.items():
            np.save(folder / f"{plane}.{key}.npy", value)


def kept(folder: Path, kind: type, prefix: str, planes: int) -> Iterator[Any]:
    """What :func:`make` kept, read plane by plane."""
    keys = [field.name for field in dataclasses.fields(kind)]
    for plane in range(planes):
        yield kind(*(np.load(folder / f"{plane}.{prefix}-{key}.npy") for key in keys))


class Clock:
    """CPU seconds spent in methods and iterators; one within another is counted once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def methods(self, owner: Any, **phases: str) -> None:
        """Time methods or functions of ``owner`` under the given names."""
        for name, phase in phases.items():
            setattr(owner, name, self._timed(getattr(owner, name), phase))

    def _timed(self, work: Callable[..., Any], phase: str) -> Callable[..., Any]:
        @functools.wraps(work)
        def timed(*args: Any, **named: Any) -> Any:
            began, before = time.process_time(), sum(self.seconds.values())
            try:
                return work(*args, **named)
            finally:
                own = time.process_time() - began - (sum(self.seconds.values()) - before)
                self.seconds[phase] = self.seconds.get(phase, 0.0) + own

        return timed

    def iterating(self, source: Iterator[Any], phase: str) -> Iterator[Any]:
        """Time what comes out of an iterator."""
        take = self._timed(functools.partial(next, source, None), phase)
        return iter(take, None)


def measure(folder: Path, side: int, rule: str) -> dict[str, Any]:
    """Merge once in this process; seconds, CPU seconds by phase, and peak memory."""
    grid, clock = grid_of(side), Clock()
    _compile(folder / "warm", rule)
    clock.methods(Forest, add="take fragments", unite="unite", number="number")
    clock.methods(engine_merge, unite_by_name="unite", unite_by_contact="unite")
    clock.methods(TableWriter, append="write tables")
    clock.methods(engine_merge, save_table="write tables")
    objects = clock.iterating(kept(folder, Objects, "objects", side), "read")
    contacts = functools.partial(
        lambda: clock.iterating(kept(folder, Touching, "contacts", side), "read")
    )
    began, cpu = time.perf_counter(), time.process_time()
    found = merge_parts(
        objects,
        None if rule == "name" else contacts,
        grid,
        folder / "lookup",
        LIMITS,
        expected=220 * grid.n_blocks,
    )
    seconds = time.perf_counter() - began
    return {
        "rule": rule,
        "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu,
        "peak": peak_rss(),
        "phases": {key: round(value, 2) for key, value in clock.seconds.items()},
        "blocks": grid.n_blocks,
        **found.to_dict(),
    }


def _compile(folder: Path, rule: str) -> None:
    """Load the compiled kernels, which a run does once."""
    grid = grid_of(2)
    folder.mkdir()
    make(folder, grid, rule)
    contacts = None if rule == "name" else lambda: kept(folder, Touching, "contacts", 2)
    merge_parts(kept(folder, Objects, "objects", 2), contacts, grid, folder / "lookup", LIMITS)


def make_records(folder: Path, grid: BlockGrid) -> int:
    """Write what every block would have, a record file each; bytes on disk."""
    fragments, n_bytes = Fragments(folder, grid), 0
    for part in objects_by_name(grid):
        plane = record_path(folder / "objects-label", grid.block(int(part.numbers[0]))).parent
        plane.mkdir(parents=True)
        ends, ny = np.cumsum(part.counts), grid.n_blocks_per_axis[1]
        for number, start, stop in zip(part.numbers % ny**2, ends - part.counts, ends, strict=True):
            data = packed(names=part.names[start:stop], sizes=part.sizes[start:stop])
            (plane / f"{number // ny}.{number % ny}.rec").write_bytes(data)
            n_bytes += len(data)
    fragments.set_passes(np.ones(grid.n_blocks, np.uint8))
    return n_bytes


def measure_records(folder: Path, side: int, where: str) -> dict[str, Any]:
    """Merge record files, by name, in one process or in groups that this process runs."""
    grid = grid_of(side)
    fragments, blocks = Fragments(folder / "work", grid), Selection.all(grid)
    run_folder, stages = RunFolder(folder), {}
    engine_merge.MOST_BLOCKS = engine_merge.MOST_FRAGMENTS = 2**62 if where == "one" else 0
    runner = Runner(run_folder, SerialExecutor(), NoProgress(), {})
    out = folder / "work" / f"merge-{where}"
    began, cpu = time.perf_counter(), time.process_time()
    found = merge_fragments(
        fragments, blocks, None, out, LIMITS.min_volume, LIMITS.max_volume, runner
    )
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    stages = {s.stage.rpartition("-")[2]: round(s.seconds, 1) for s in runner.summaries}
    return {
        "where": where,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak": peak_rss(),
        "stages": stages,
        "groups": runner.summaries[0].blocks if runner.summaries else 1,
        "blocks": grid.n_blocks,
        "digest": found.lookup_digest,
        **found.to_dict(),
    }


def records(folder: Path, side: int) -> list[dict[str, Any]]:
    """Figures of merging record files in one process and in groups."""
    n_bytes = make_records(folder / "work", grid_of(side))
    rows = [_apart(folder, side, where) for where in ("one", "groups")]
    shutil.rmtree(folder)
    return [row | {"bytes": n_bytes} for row in rows]


def scale(folder: Path, side: int, rule: str) -> dict[str, Any]:
    """Make the parts, merge them in a process of its own, and give its figures."""
    folder.mkdir(parents=True)
    make(folder, grid_of(side), rule)
    figures = _apart(folder, side, rule)
    shutil.rmtree(folder)
    return figures


def _apart(folder: Path, side: int, what: str) -> dict[str, Any]:
    """Measure in a process of its own, whose memory is that of the merge alone."""
    command = [sys.executable, __file__, str(folder), str(side), what]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, Any] = json.loads(answer.stdout)
    return figures


if __name__ == "__main__":
    place, blocks_per_side, what = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    measured = measure_records if what in ("one", "groups") else measure
    print(json.dumps(measured(place, blocks_per_side, what)))
