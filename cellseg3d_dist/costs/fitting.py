"""Rates of a machine, fitted to finished runs.

Of each family of stages, with N workers, of ``blocks`` that read ``work`` voxels (of a
network: patches)::

    busy = warm * N * starts + per_block * blocks + per_work * work
    wall = start * starts + overhead * (busy / N + (1 - 1 / N) * busy / blocks / 2)

The second term of ``wall`` is the end of a stage, when some workers have no block left (list
scheduling: between none and one block's time, half of it on average). What the driver does
between stages is ``constant + rate * (fragments, cells or blocks)``.

``warm`` is told by the runs themselves, as they note the blocks that were a process's first.
The other constants part from the rates where runs of two sizes are given, ``per_block`` where
their blocks are of two sizes. With one run, waiting is taken to grow with the work. Rates of
the driver are those of :data:`STEPS` where the runs are too small to show them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from cellseg3d_dist.costs.records import RunRecord, StageRecord, check_alike
from cellseg3d_dist.errors import ConfigError

if TYPE_CHECKING:
    from cellseg3d_dist.costs.predicted import Cost
    from cellseg3d_dist.engine.plan import Plan

#: Runs differ in size, or in the size of their blocks, where a ratio is above this.
DIFFERENT = 1.5

Numbers = Sequence[float]


@dataclass(frozen=True)
class StageRates:
    """Of one family of stages, in seconds; see the formulas above.

    Attributes
    ----------
    share_voxels, share_blocks : float
        Of the volume's voxels and blocks, how many are done (all levels or rounds together).
    starts : float
        Stages of the family in a run.
    """

    stage: str
    warm: float
    per_block: float
    per_work: float
    start: float
    overhead: float
    share_voxels: float
    share_blocks: float
    starts: float

    def busy_seconds(self, blocks: float, work: float, workers: int) -> float:
        """Of all workers together."""
        warm = self.warm * min(workers, blocks) * self.starts
        return warm + self.per_block * blocks + self.per_work * work

    def seconds(self, blocks: float, work: float, workers: int) -> float:
        """From the begin of the stages to their end."""
        busy = self.busy_seconds(blocks, work, workers)
        return self.start * self.starts + self.overhead * ideal(busy, blocks, workers)


@dataclass(frozen=True)
class StepRates:
    """Of what the driver does between stages: seconds, and seconds of each of ``of``."""

    step: str
    of: str
    constant: float
    rate: float

    def seconds(self, numbers: Mapping[str, float]) -> float:
        """For so many fragments, cells and blocks."""
        return self.constant + self.rate * numbers.get(self.of, 0.0)


@dataclass(frozen=True)
class Rates:
    """Of a whole run."""

    stages: tuple[StageRates, ...]
    steps: tuple[StepRates, ...]


#: What a step grows with, and seconds of each where runs are too small to tell: measured on
#: one core of an AMD EPYC at 2.4 GHz.
STEPS = {
    "merge": ("fragments", 3e-7),
    "clean-up": ("fragments", 1e-6),
    "tables": ("rows", 3e-6),
    "scores": ("cells", 5e-6),
    "report": ("cells", 1e-6),
    "workers": ("", 0.0),
    "other": ("blocks", 2e-4),
}
#: Rows of the cell table that take as long as the statistics of one block.
BLOCK_ROWS = 500
#: Seconds that runs must be expected to differ by for a step's rate to be fitted.
VISIBLE = 0.5


@dataclass(frozen=True)
class CostModel:
    """Rates, and the runs they are from.

    Attributes
    ----------
    records : tuple of RunRecord
        By size, the smallest first.
    rates : Rates
        What is expected.
    others : tuple of Rates
        Other ways to read the same runs, for the range.
    """

    records: tuple[RunRecord, ...]
    rates: Rates
    others: tuple[Rates, ...]

    @property
    def largest(self) -> RunRecord:
        """The run that tells most."""
        return self.records[-1]

    def predict(
        self,
        plan: Plan,
        *,
        workers: int | None = None,
        occupied: float | None = None,
        with_scores: bool = False,
    ) -> Cost:
        """Time, memory and disk of a planned run, see :func:`cellseg3d_dist.costs.predicting`."""
        from cellseg3d_dist.costs.predicting import predict

        return predict(self, plan, workers=workers, occupied=occupied, with_scores=with_scores)

    def save(self, path: str | Path) -> None:
        """Write the runs it was fitted to as JSON, which :func:`fit` reads again."""
        content = {"records": [record.to_dict() for record in self.records]}
        Path(path).write_text(json.dumps(content, indent=1) + "\n")

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def ideal(busy: float, blocks: float, workers: int) -> float:
    """Seconds of so much work in equal blocks, when workers never wait but at the end."""
    if blocks <= 0:
        return 0.0
    used = min(float(workers), blocks)
    return busy / used + (1 - 1 / used) * busy / blocks / 2


def fit(*runs: str | Path | RunRecord) -> CostModel:
    """Fit a model of cost.

    Parameters
    ----------
    *runs
        Complete runs of one method on one machine: folders, copies of their ``run.json``, or
        what :meth:`CostModel.save` wrote. Two of different size tell constants from rates.

    Raises
    ------
    OutputError
        If one is not a complete run.
    ConfigError
        If they are of different methods.
    """
    found = [record for run in runs for record in _records(run)]
    records = tuple(sorted(found, key=lambda record: record.voxels))
    check_alike(records)
    # a run that is much smaller tells constants; of rates it knows little alone
    telling = [record for record in records if DIFFERENT * record.voxels >= records[-1].voxels]
    alone = [(record,) for record in telling] if len(records) > 1 else []
    ways = [(some, idle) for some in [records, *alone] for idle in ("constant", "rate")]
    others = tuple(_rates(some, idle) for some, idle in ways)
    return CostModel(records, _rates(records, "rate"), others)


def _records(run: str | Path | RunRecord) -> Iterable[RunRecord]:
    if isinstance(run, RunRecord):
        return [run]
    path = Path(run)
    if path.is_file() and '"records"' in (text := path.read_text(errors="replace")):
        try:
            return [RunRecord.from_dict(one) for one in json.loads(text)["records"]]
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{path} is no saved model of cost: {error}") from error
    return [RunRecord.of(path)]


def _rates(records: Sequence[RunRecord], idle: str) -> Rates:
    """``idle`` says whether waiting is a constant or a rate where the runs do not tell."""
    names = list(dict.fromkeys(stage.stage for record in records for stage in record.stages))
    stages = (_stage_rates(name, records, idle) for name in names)
    wanted = dict.fromkeys(step for record in records for step in record.steps)
    return Rates(
        tuple(stage for stage in stages if stage is not None),
        tuple(_step_rates(step, records) for step in wanted),
    )


def _stage_rates(name: str, records: Sequence[RunRecord], idle: str) -> StageRates | None:
    runs = [(r, r.by_stage[name]) for r in records if name in r.by_stage]
    runs = [(run, stage) for run, stage in runs if stage.blocks]
    if not runs:
        return None
    warm = _warm([stage for _, stage in runs])
    blocks = [float(stage.blocks) for _, stage in runs]
    work = [run.work(name) for run, _ in runs]
    steady = [max(0.0, stage.busy_seconds - warm * stage.first_blocks) for _, stage in runs]
    per_block, per_work = 0.0, sum(steady) / sum(work)
    # blocks of one shape are smaller in a small volume, but tell too little
    if _differ([float(prod(run.block_shape)) for run, _ in runs]):
        per_block, per_work = _fitted([blocks, work], steady)
    walls = [stage.seconds for _, stage in runs]
    ideals = [ideal(stage.busy_seconds, stage.blocks, run.workers) for run, stage in runs]
    starts = [float(stage.starts) for _, stage in runs]
    if _differ(ideals):
        start, overhead = _fitted([starts, ideals], walls)
    elif idle == "constant":
        overhead = 1.0
        waited = [max(0.0, wall - one) for wall, one in zip(walls, ideals, strict=True)]
        start = sum(waited) / sum(starts)
    else:
        start, overhead = 0.0, sum(walls) / max(sum(ideals), 1e-9)
    volume = sum(run.voxels for run, _ in runs)
    return StageRates(
        stage=name,
        warm=warm,
        per_block=per_block,
        per_work=per_work,
        start=start,
        overhead=overhead,
        share_voxels=sum(stage.voxels for _, stage in runs) / max(volume, 1),
        share_blocks=sum(blocks) / max(sum(run.n_blocks for run, _ in runs), 1),
        starts=runs[-1][1].starts,
    )


def _warm(stages: Sequence[StageRecord]) -> float:
    """What a process's first block takes more than others; 0 where there are no others."""
    found = []
    for stage in stages:
        others = stage.blocks - stage.first_blocks
        if others > 0 and stage.first_blocks > 0:
            usual = (stage.busy_seconds - stage.first_seconds) / others
            found.append(max(0.0, stage.first_seconds / stage.first_blocks - usual))
    return float(np.mean(found)) if found else 0.0


def _step_rates(step: str, records: Sequence[RunRecord]) -> StepRates:
    of, usual = STEPS.get(step, ("blocks", 0.0))
    runs = [record for record in records if step in record.steps]
    seconds = [run.steps[step] for run in runs]
    numbers = [numbers_of(run).get(of, 0.0) for run in runs]
    if _differ(numbers) and usual * (max(numbers) - min(numbers)) > VISIBLE:
        return StepRates(step, of, *_fitted([[1.0] * len(runs), numbers], seconds))
    if sum(seconds) < 1e-3 * len(seconds):
        # what was not asked for
        return StepRates(step, of, 0.0, 0.0)
    rest = [max(0.0, took - usual * n) for took, n in zip(seconds, numbers, strict=True)]
    return StepRates(step, of, sum(rest) / len(rest), usual)


def numbers_of(run: RunRecord) -> dict[str, float]:
    """What steps of the driver grow with, in a run."""
    return grown(run.fragments, run.cells, run.n_blocks)


def grown(fragments: float, cells: float, blocks: float) -> dict[str, float]:
    """What steps of the driver grow with, see :data:`STEPS`."""
    rows = cells + BLOCK_ROWS * blocks
    return {"fragments": fragments, "cells": cells, "blocks": blocks, "rows": rows}


def _differ(values: Numbers) -> bool:
    return len(values) > 1 and min(values) > 0 and max(values) / min(values) > DIFFERENT


def _fitted(columns: Sequence[Numbers], values: Numbers) -> tuple[float, float]:
    """Factors of two columns, none negative, by least squares of relative errors."""
    wanted = np.maximum(np.asarray(values, float), 1e-9)
    matrix = np.stack([np.asarray(column, float) for column in columns], axis=1)
    # columns of one size, as seconds and 10^9 voxels would be far apart
    scale = np.maximum(matrix.max(axis=0), 1e-30)
    found: npt.NDArray[np.float64] = nnls(matrix / scale / wanted[:, None], np.ones(wanted.size))[0]
    first, second = (found / scale).tolist()
    return first, second
