"""From rates and a plan to time, memory and disk.

Rates are taken to be those of the workers that were measured: as fast a core each, and a
disk that serves all of them as it served those. Shares of the volume (blocks with
foreground, cells per voxel) are taken to be those of the runs, unless ``occupied`` is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from cellseg3d_dist.costs.fitting import CostModel, Rates, StageRates, grown, numbers_of
from cellseg3d_dist.costs.predicted import Cost, Range, StageCost
from cellseg3d_dist.costs.records import PREDICT, WHOLE_VOLUME, RunRecord, halos_of, work_share
from cellseg3d_dist.costs.work import cut_share
from cellseg3d_dist.engine.cell_tables import TABLE_ROWS
from cellseg3d_dist.engine.merge import MOST_FRAGMENTS
from cellseg3d_dist.engine.plan import Plan
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Triple

#: Blocks a second that a driver sends off and notes; 655 were measured.
DISPATCHED = 600.0
#: What repeats of one run on one machine differ by, either way.
REPEATS = 0.2
#: Bytes the driver holds of a fragment while it merges, of a block, and of a cell while it
#: writes the table, part after part.
FRAGMENT_BYTES, BLOCK_BYTES, CELL_BYTES = 27, 2048, 450
#: Blocks of another size than this are said to be so.
OTHER_BLOCKS = 3.0
#: Fewer blocks than this say little of a stage.
FEW_BLOCKS = 8


@dataclass(frozen=True)
class _Target:
    """What is predicted for: a plan, and what share of it is done."""

    plan: Plan
    workers: int
    halos: dict[str, Triple]
    scale: float
    cells: float
    fragments: float
    with_scores: bool

    @property
    def voxels(self) -> int:
        return prod(self.plan.shape)

    def has(self, stage: str) -> bool:
        return self.with_scores or stage not in ("score", "scores")

    def amount(self, rates: StageRates) -> tuple[float, float, float]:
        """Blocks, voxels, and voxels read or patches of a stage."""
        scale = 1.0 if rates.stage in WHOLE_VOLUME else self.scale
        share = rates.share_voxels * scale
        if rates.stage not in ("pyramid", "exchange"):
            share = min(1.0, share)
        voxels = self.voxels * share
        blocks = self.plan.n_blocks * rates.share_blocks * scale
        if rates.stage == PREDICT:
            return max(1.0, blocks), voxels, self.plan.patches * share
        read = work_share(rates.stage, self.plan.shape, self.plan.block_shape, self.halos)
        return max(1.0, blocks), voxels, voxels * read

    def numbers(self) -> Mapping[str, float]:
        """What steps of the driver grow with."""
        return grown(self.fragments, self.cells, self.plan.n_blocks)


def predict(
    model: CostModel,
    plan: Plan,
    *,
    workers: int | None = None,
    occupied: float | None = None,
    with_scores: bool = False,
) -> Cost:
    """Predict what a planned run costs.

    Parameters
    ----------
    plan : Plan
        Of the volume; its workers unless ``workers`` are given.
    occupied : float, optional
        Share of the volume in blocks with foreground, 0 to 1, where it is known to be another
        one than that of the runs: of a whole brain, where they are of a part full of cells.
    with_scores : bool
        Whether it is scored against true labels.

    Raises
    ------
    ConfigError
        If a number is out of range.
    """
    n_workers = plan.workers if workers is None else workers
    if n_workers < 1:
        raise ConfigError(f"workers {n_workers} must be at least 1.")
    if occupied is not None and not 0 < occupied <= 1:
        raise ConfigError(f"occupied {occupied:g} must be above 0 and at most 1.")
    target = _target(model, plan, n_workers, occupied, with_scores)
    expected, stages, steps = _time(model.rates, target)
    possible = [expected, *(_time(rates, target)[0] for rates in model.others)]
    times = plan.n_times
    hours = Range((1 - REPEATS) * min(possible), expected, (1 + REPEATS) * max(possible)).times(
        times / 3600
    )
    kept, disk, files = _disk(model.largest, target)
    return Cost(
        hours=hours,
        stages=stages,
        steps=steps,
        worker_bytes=_worker(model, plan),
        driver_bytes=_driver(model.largest, target),
        kept_bytes=kept.times(times),
        disk_bytes=disk.times(times),
        files=files * times,
        cells=round(target.cells * times),
        fragments=round(target.fragments * times),
        workers=n_workers,
        measured=tuple(record.name for record in model.records),
        notes=tuple(_notes(model, target, occupied)),
    )


def _target(
    model: CostModel, plan: Plan, workers: int, occupied: float | None, with_scores: bool
) -> _Target:
    run = model.largest
    scale = 1.0 if occupied is None else occupied / max(run.occupied, 1e-9)
    cells = run.cells / max(run.voxels, 1) * prod(plan.shape) * scale
    # a cell is cut as often as there are cuts
    cut = cut_share(run.block_shape, run.shape)
    pieces = (run.fragments / max(run.cells, 1) - 1) / cut if cut else 0.0
    more = pieces if cut else 0.0
    fragments = cells * (1 + max(0.0, more) * cut_share(plan.block_shape, plan.shape))
    halos = halos_of([vars(stage) for stage in plan.stages])
    return _Target(plan, workers, halos, scale, cells, fragments, with_scores)


def _time(rates: Rates, target: _Target) -> tuple[float, tuple[StageCost, ...], dict[str, float]]:
    """Seconds of the whole, and what they are made of."""
    stages = []
    for stage in rates.stages:
        if not target.has(stage.stage):
            continue
        blocks, voxels, work = target.amount(stage)
        busy = stage.busy_seconds(blocks, work, target.workers)
        seconds = max(stage.seconds(blocks, work, target.workers), blocks / DISPATCHED)
        stages.append(StageCost(stage.stage, round(blocks), round(voxels), seconds, busy))
    numbers = target.numbers()
    steps = {s.step: s.seconds(numbers) for s in rates.steps if target.has(s.step)}
    whole = sum(stage.seconds for stage in stages) + sum(steps.values())
    return whole, tuple(stages), steps


def _worker(model: CostModel, plan: Plan) -> Range:
    """As much of what is projected as was used before; never above it."""
    projected = float(plan.peak.n_bytes)
    used = [run.worker_bytes / max(run.projected_bytes, 1) for run in model.records]
    expected = min(projected, used[-1] * projected)
    return Range(min(expected, min(used) * projected), expected, projected)


def _driver(run: RunRecord, target: _Target) -> Range:
    def held(numbers: Mapping[str, float]) -> float:
        merging = FRAGMENT_BYTES * min(numbers["fragments"], MOST_FRAGMENTS)
        writing = CELL_BYTES * min(numbers["cells"], TABLE_ROWS)
        return max(merging, writing) + BLOCK_BYTES * numbers["blocks"]

    base = max(0.0, run.driver_bytes - held(numbers_of(run)))
    more = held(target.numbers())
    return Range(base, base + more, 1.1 * (base + 2 * more))


#: What parts of a run folder grow with, by name; the others are of one size.
_GROWS = {
    "labels.ome.zarr": "labelled",
    "prediction.ome.zarr": "voxels",
    "peaks": "labelled",
    "work": "labelled",
    "cells.parquet": "cells",
    "cells.csv": "cells",
    "journal": "blocks",
    "surveys": "blocks",
}


def _disk(run: RunRecord, target: _Target) -> tuple[Range, Range, int]:
    """Bytes that stay, bytes at the end of the last block, and files then."""
    bigger = target.voxels / max(run.voxels, 1)
    blocks = target.plan.n_blocks / max(run.n_blocks, 1)
    growth = {
        "labelled": bigger * target.scale,
        "voxels": bigger,
        "cells": target.cells / max(run.cells, 1),
        "blocks": blocks,
    }
    kept = work = files = 0.0
    for name, size in run.disk.items():
        factor = growth[_GROWS[name]] if name in _GROWS else 1.0
        if name == "work":
            work += factor * size["bytes"]
        else:
            kept += factor * size["bytes"]
        many = size["files"] > 1 and name in _GROWS
        files += size["files"] * (blocks * target.scale if many else 1.0)
    spread = 1 + REPEATS
    stays = Range(kept / spread, kept, kept * spread)
    return stays, Range((kept + work) / spread, kept + work, (kept + work) * spread), round(files)


def _notes(model: CostModel, target: _Target, occupied: float | None) -> list[str]:
    run, plan = model.largest, target.plan
    notes = []
    sizes = [record.voxels for record in model.records]
    if max(sizes) / min(sizes) < 2:
        notes.append(
            "one size was measured: constants are not told from rates, and waiting is taken to "
            "grow with the work. A second, smaller run makes it surer."
        )
    if occupied is None:
        notes.append(
            f"blocks with foreground are taken to fill {run.occupied:.0%} of the volume, as "
            f"measured"
        )
    ratio = prod(plan.block_shape) / prod(run.block_shape)
    if max(ratio, 1 / ratio) > OTHER_BLOCKS:
        one, other = ("x".join(map(str, b)) for b in (run.block_shape, plan.block_shape))
        notes.append(f"measured with blocks of {one}, planned with {other}")
    if run.n_blocks < FEW_BLOCKS:
        notes.append(f"{run.name} has {run.n_blocks} blocks, too few to tell rates well")
    if target.workers > 2 * run.workers:
        notes.append(
            f"measured with {run.workers} workers: {target.workers} of them are taken to be as "
            f"fast each, which disk and memory may not allow"
        )
    if target.fragments > MOST_FRAGMENTS:
        notes.append(
            "so many fragments are merged on the workers, which was not measured: taken as long "
            "as on the driver"
        )
    return notes
