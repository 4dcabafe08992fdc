"""Run one stage over its blocks: skip what the journal holds, note what comes back."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cellseg3d_dist.engine.executors import Executor
from cellseg3d_dist.engine.folder import RunFolder, naming_disk_errors
from cellseg3d_dist.engine.journal import Journal
from cellseg3d_dist.engine.progress import Progress
from cellseg3d_dist.engine.stage import BlockRecord, Outcome, Stage, Verify
from cellseg3d_dist.engine.stop import Stop
from cellseg3d_dist.errors import EnvironmentFailedError, LabelsError
from cellseg3d_dist.grid import Block, Selection

log = logging.getLogger(__name__)

_NOT_SUMMED = ("stage", "blocks", "peak_rss")


@dataclass
class StageSummary:
    """What a stage took; kept in ``run.json``.

    Attributes
    ----------
    blocks, executed : int
        Blocks in all, and those done in this sitting.
    voxels : int
        In the write regions of the blocks done.
    seconds : float
        From the stage's begin to its end.
    busy_seconds, cpu_seconds : float
        Of all blocks, on whatever worker: time, and processor time of all threads.
    first_blocks, first_seconds
        Of the blocks that were a process's first of this stage, how many, and their part of
        ``busy_seconds``.
    read_bytes, written_bytes : int
        Through read and write calls of the workers, while they did blocks.
    peak_rss : int
        Largest memory that a worker has had until then, in bytes.
    """

    stage: str
    blocks: int = 0
    executed: int = 0
    voxels: int = 0
    seconds: float = 0.0
    busy_seconds: float = 0.0
    cpu_seconds: float = 0.0
    first_blocks: int = 0
    first_seconds: float = 0.0
    read_bytes: int = 0
    written_bytes: int = 0
    peak_rss: int = 0

    def add(self, block: Block, record: BlockRecord) -> None:
        """Count a block that was done."""
        seconds = record.get("seconds", 0.0)
        self.executed += 1
        self.voxels += block.write_region.size
        self.busy_seconds += seconds
        if record.get("first_here"):
            self.first_blocks += 1
            self.first_seconds += seconds
        self.cpu_seconds += record.get("cpu_seconds", 0.0)
        self.read_bytes += record.get("read_bytes", 0)
        self.written_bytes += record.get("written_bytes", 0)
        self.peak_rss = max(self.peak_rss, record.get("peak_rss", 0))

    def with_earlier(self, entry: dict[str, Any]) -> dict[str, Any]:
        """As JSON, with what earlier sittings noted."""
        own = vars(self)
        summed = {key: own[key] + entry.get(key, 0) for key in own if key not in _NOT_SUMMED}
        peak = max(self.peak_rss, entry.get("peak_rss", 0))
        return own | summed | {"peak_rss": peak}


@dataclass
class Runner:
    """Runs stages of one run folder with one executor.

    Attributes
    ----------
    verify : bool
        Check finished blocks against their digests before trusting them (a resumed run).
    header : dict
        What decides every stage's result: configuration, input, version.
    stop : Stop
        Once requested, no new blocks are taken, and runs end when those in flight are noted.
    decided : dict
        What decided the stages run so far, by name.
    steps : dict
        Seconds of what is done on the driver, by name, see :meth:`step`.
    """

    folder: RunFolder
    executor: Executor
    progress: Progress
    header: BlockRecord
    verify: bool = False
    stop: Stop = field(default_factory=Stop)
    executed: int = 0
    summaries: list[StageSummary] = field(default_factory=list)
    failed: dict[int, tuple[Block, str, str]] = field(default_factory=dict)
    decided: dict[str, BlockRecord] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)
    _noted: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.stop.tell(self.executor.stop)

    def summaries_noted(self) -> None:
        """Forget executed counts that have been written down, keeping their sum."""
        self.executed += sum(summary.executed for summary in self.summaries)
        self.summaries.clear()
        self.steps.clear()

    def seconds_since_noted(self) -> float:
        """Seconds since this was asked for, or since this runner is there."""
        before, self._noted = self._noted, time.monotonic()
        return self._noted - before

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what is done on the driver; stages that run meanwhile are not counted."""
        began, first = time.monotonic(), len(self.summaries)
        try:
            yield
        finally:
            meanwhile = sum(summary.seconds for summary in self.summaries[first:])
            took = time.monotonic() - began - meanwhile
            self.steps[name] = self.steps.get(name, 0.0) + took

    def run(self, stage: Stage, selection: Selection) -> Iterator[BlockRecord]:
        """Run a stage and give all its records, those of earlier sittings included.

        Blocks that failed are kept in :attr:`failed` and have no record.

        Raises
        ------
        Interrupted
            If a stop was requested.
        EnvironmentFailedError
            If the cluster or disk was lost.
        LabelsError
            If labels are negative.
        """
        decides = self.decided[stage.name] = self.header | stage.decides()
        with (
            naming_disk_errors(self.folder),
            Journal(self.folder.journal(stage.name), stage.name, decides) as journal,
        ):
            if self.verify and journal.done:
                self._strike_out_damaged(stage, selection, journal)
            todo = selection.without(journal.done)
            summary = StageSummary(stage.name, blocks=len(selection))
            self.progress.start(stage.name, len(selection), len(selection) - len(todo))
            began = time.monotonic()
            try:
                for outcome in self.executor.run(stage, todo):
                    self._note(outcome, stage, journal, summary)
            finally:
                summary.seconds = time.monotonic() - began
                self.summaries.append(summary)
                self.progress.finish()
            self.stop.check()
        wanted = set(selection.numbers.tolist())
        return (record for record in journal.records() if record["block"] in wanted)

    def _note(
        self, outcome: Outcome, stage: Stage, journal: Journal, summary: StageSummary
    ) -> None:
        if outcome.record is None:
            log.error("%s failed in %s: %s", outcome.block, stage.name, outcome.error)
            if outcome.environment:
                raise EnvironmentFailedError(
                    f"{outcome.block} of {stage.name}: {outcome.error} "
                    f"When mended, {self.folder.go_on}"
                )
            if outcome.unusable:
                raise LabelsError(outcome.error)
            self.failed[outcome.block.number] = (outcome.block, stage.name, outcome.error)
            return
        journal.append(outcome.block.number, outcome.record)
        summary.add(outcome.block, outcome.record)
        self.progress.advance(outcome.block.write_region.size)

    def _strike_out_damaged(self, stage: Stage, selection: Selection, journal: Journal) -> None:
        records = {r["block"]: r for r in journal.records()}
        finished = selection.only(journal.done)
        damaged: set[int] = set()
        self.progress.start(f"verify {stage.name}", len(finished), 0)
        # few records at a time travel with the stage
        for i in range(0, len(finished), 256):
            part = finished.slice(i, i + 256)
            check = Verify(stage, {n: records[n] for n in part.numbers.tolist()})
            for outcome in self.executor.run(check, part):
                self.progress.advance(outcome.block.write_region.size)
                if outcome.record is None or not outcome.record["intact"]:
                    damaged.add(outcome.block.number)
        self.progress.finish()
        if damaged:
            log.warning("%s: %d finished blocks are damaged and redone", stage.name, len(damaged))
        journal.forget(damaged)
