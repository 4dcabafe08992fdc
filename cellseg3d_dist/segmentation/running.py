"""Carry out a run that is ready, from its first block to its report."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cellseg3d_dist
from cellseg3d_dist.config import SegmentConfig
from cellseg3d_dist.engine.clusters import connect
from cellseg3d_dist.engine.executors import DaskExecutor, Executor, SerialExecutor
from cellseg3d_dist.engine.finished import output_intact
from cellseg3d_dist.engine.folder import RunFolder, naming_disk_errors
from cellseg3d_dist.engine.inputs import Inputs
from cellseg3d_dist.engine.logs import WorkerLog, logging_to
from cellseg3d_dist.engine.method import Method
from cellseg3d_dist.engine.pipeline import Pipeline
from cellseg3d_dist.engine.plan import Plan
from cellseg3d_dist.engine.progress import NoProgress, Progress
from cellseg3d_dist.engine.readable import readable
from cellseg3d_dist.engine.run_json import note_end
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.engine.stop import Stop, stopping_on_signals
from cellseg3d_dist.engine.unchanged import check_unchanged
from cellseg3d_dist.errors import BlocksFailedError, OutputError
from cellseg3d_dist.report.run import write_run_report
from cellseg3d_dist.volumes import limit_threads

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes
    ----------
    folder : Path
        The run folder.
    n_cells : int
    executed : int
        Blocks computed in this sitting, over all stages; 0 for a finished run.
    """

    folder: Path
    n_cells: int
    executed: int

    @property
    def labels(self) -> Path:
        """The label image."""
        return self.folder / "labels.ome.zarr"

    @property
    def cells(self) -> Path:
        """The cell table."""
        return self.folder / "cells.parquet"

    @property
    def report(self) -> Path:
        """The report."""
        return self.folder / "report.html"


@dataclass(frozen=True)
class Run:
    """A run that is ready to be carried out.

    Attributes
    ----------
    resumed : bool
        Whether there are finished blocks to be checked.
    compare : bool
        Whether the input's files look different, so that its voxels have to be compared.
    complete : bool
        Whether it was finished before.
    """

    folder: RunFolder
    method: Method
    inputs: Inputs
    plan: Plan
    resumed: bool = False
    compare: bool = False
    complete: bool = False

    @property
    def config(self) -> SegmentConfig:
        """With every default filled in."""
        return self.method.config


@dataclass(frozen=True)
class Sitting:
    """What carries out blocks, and who is told."""

    executor: Executor
    progress: Progress
    stop: Stop


def execute(run: Run, client: Client | None, progress: Progress | None) -> RunResult:
    """Carry out a run on a cluster of its own, or on the client's."""
    began = time.monotonic()
    with sitting(run.folder, run.config, run.plan, client, progress) as seat:
        result = carry_out(run, seat, time.monotonic() - began)
    clear(run)
    return result


@contextlib.contextmanager
def sitting(
    folder: RunFolder,
    config: SegmentConfig,
    the_plan: Plan,
    client: Client | None,
    progress: Progress | None,
) -> Iterator[Sitting]:
    """Hold a folder and have workers, until a signal asks to stop."""
    shown = progress or NoProgress()
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(folder))
        stop = stack.enter_context(stopping_on_signals(shown, folder.go_on))
        executor = stack.enter_context(_executor(config, the_plan, client, folder))
        yield Sitting(executor, shown, stop)


@contextlib.contextmanager
def held(folder: RunFolder) -> Iterator[None]:
    """Be the one driver of a folder, whose log is its."""
    with naming_disk_errors(folder), folder.locked(), logging_to(folder.logs / "run.log"):
        yield


@contextlib.contextmanager
def _executor(
    config: SegmentConfig, the_plan: Plan, client: Client | None, folder: RunFolder
) -> Iterator[Executor]:
    if config.executor == "serial":
        limit_threads()
        yield SerialExecutor()
        return
    with connect(
        client,
        config.scheduler,
        the_plan.workers,
        the_plan.memory_limit,
        str(folder.work / "dask"),
    ) as reached:
        reached.register_plugin(WorkerLog(str(folder.logs)))
        yield DaskExecutor(reached)


def carry_out(run: Run, seat: Sitting, waited: float = 0.0) -> RunResult:
    """Carry out a run whose folder is held; one that is finished and intact executes nothing.

    ``waited`` are seconds it took to have workers.
    """
    folder = run.folder
    header = {"version": cellseg3d_dist.__version__, "config": run.config.deciding()}
    runner = Runner(
        folder, seat.executor, seat.progress, header, verify=run.resumed, stop=seat.stop
    )
    if run.complete and output_intact(folder, run.plan.block_shape, runner):
        return RunResult(folder.path, folder.status()["facts"]["cells"], 0)
    refuse_other_version(folder)
    runner.steps["workers"] = waited
    facts = _found(run, runner)
    return _finish(run, runner, facts)


def clear(run: Run) -> None:
    """Remove what only the run itself needed."""
    if not run.config.keep_work:
        shutil.rmtree(run.folder.work, ignore_errors=True)


def refuse_other_version(folder: RunFolder) -> None:
    """Refuse to go on with what another version began.

    Raises
    ------
    OutputError
        With both versions.
    """
    version = folder.status().get("version")
    if version != cellseg3d_dist.__version__:
        raise OutputError(
            f"{folder.path} was made by version {version}, this is "
            f"{cellseg3d_dist.__version__}. Resume it with that version, or start a new run."
        )


def _found(run: Run, runner: Runner) -> dict[str, Any]:
    """The facts of all stages."""
    folder, config, inputs = run.folder, run.config, run.inputs
    folder.update_status(status="running", deciding=config.deciding())
    try:
        image = readable(folder, config, inputs, runner)
        if run.compare:
            check_unchanged(folder, run.plan.grid, image, runner)
            folder.update_status(**inputs.fingerprints())
        job = Pipeline(config, run.plan, image, inputs.labels_true, folder, runner, run.method)
        return job.run()
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        note_end(folder, runner, "interrupted" if stopped else "failed", {})
        raise


def _finish(run: Run, runner: Runner, facts: dict[str, Any]) -> RunResult:
    folder, failed = run.folder, runner.failed
    status = "blocks failed" if failed else "complete"
    note_end(folder, runner, "reporting", facts, disk=folder.disk_use())
    runner.progress.say("report")
    with runner.step("report"):
        write_run_report(folder.path, run.config, run.inputs.volume, run.plan.block_shape)
    note_end(folder, runner, status, facts)
    if failed:
        block, stage, error = next(iter(failed.values()))
        raise BlocksFailedError(
            f"{len(failed)} of {run.plan.n_blocks} blocks failed and are 0 in the labels, listed "
            f"in {folder.status_file}; {block} in {stage}: {error} When mended, {folder.go_on}"
        )
    return RunResult(folder.path, facts["cells"], runner.executed)
