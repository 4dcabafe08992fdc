"""The main job: a stored volume in; labels, a cell table and a report out.

`segment` starts it, `resume` goes on with it, `plan` says what it would do.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cellseg3d_dist
from cellseg3d_dist.config import SegmentConfig, make_config, read_yaml
from cellseg3d_dist.engine.checks import check_options
from cellseg3d_dist.engine.clusters import check_cluster, connect
from cellseg3d_dist.engine.executors import DaskExecutor, Executor, SerialExecutor
from cellseg3d_dist.engine.finished import output_intact
from cellseg3d_dist.engine.folder import (
    RunFolder,
    check_new_output,
    create_output,
    naming_disk_errors,
)
from cellseg3d_dist.engine.inputs import Inputs, inputs_exist, open_inputs
from cellseg3d_dist.engine.logs import WorkerLog, logging_to
from cellseg3d_dist.engine.method import Method, resolve_method
from cellseg3d_dist.engine.pipeline import Pipeline
from cellseg3d_dist.engine.plan import Plan, check_disk, make_plan, planned_before
from cellseg3d_dist.engine.progress import NoProgress, Progress
from cellseg3d_dist.engine.readable import readable, store_array
from cellseg3d_dist.engine.run_json import note_end, now_text, versions
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.engine.stop import stopping_on_signals
from cellseg3d_dist.engine.unchanged import check_unchanged
from cellseg3d_dist.errors import BlocksFailedError, OutputError
from cellseg3d_dist.instances.backends import kernels_of
from cellseg3d_dist.paths import absolute_path
from cellseg3d_dist.report.run import write_run_report
from cellseg3d_dist.volumes import limit_threads, location_of

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


def segment(
    image: Any,
    out: str | Path,
    *,
    client: Client | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    command: str | None = None,
    **options: Any,
) -> RunResult:
    """Find and measure every cell of a volume.

    Parameters
    ----------
    image : path, URL, zarr.Array, ndarray or dask array
        OME-Zarr, a Zarr array, TIFF. An array in memory, or a lazy one, is stored in the run
        folder first, block by block in this process.
    out : path
        The run folder; must not exist unless ``overwrite`` replaces an earlier run.
    client : distributed.Client, optional
        Any cluster whose workers see ``out``; otherwise an own local one.
    progress : Progress, optional
        Silent by default.
    **options
        Keys of :class:`cellseg3d_dist.config.SegmentConfig`.

    Raises
    ------
    BadInputError
        If input, options or output cannot be used; nothing was created.
    BlocksFailedError
        If some blocks failed; everything else is done, and the run can be resumed.
    EnvironmentFailedError
        If disk or cluster failed; the run can be resumed.
    """
    out = absolute_path(out)
    stored_at = location_of(image)
    image = image if stored_at is None else stored_at
    stored = None if isinstance(image, str) else image
    config = _config_of(image, options)
    method = resolve_method(config)
    config = method.config
    inputs = open_inputs(config, stored)
    check_new_output(out, inputs.locations(config), overwrite)
    check_options(config, inputs.volume)
    kernels_of(config.backend)
    resources = check_cluster(client, config.scheduler) if config.executor == "dask" else None
    the_plan = make_plan(method, inputs.volume, resources)
    check_disk(the_plan, out)
    status = {
        "status": "running",
        "version": cellseg3d_dist.__version__,
        "started": now_text(),
        "command": command or shlex.join(sys.argv),
        **({} if stored is not None else inputs.fingerprints()),
        "deciding": config.deciding(),
        "model": method.facts(),
        "plan": the_plan.to_dict(),
        "versions": versions(),
    }
    folder = create_output(out, overwrite, status)
    with naming_disk_errors(folder):
        folder.config.write_text(config.to_yaml())
    if stored is not None:
        config, inputs = store_array(folder, config, stored)
        method = replace(method, config=config)
    return _execute(folder, method, inputs, the_plan, client, progress, resumed=False)


def resume(
    out: str | Path,
    *,
    client: Client | None = None,
    progress: Progress | None = None,
    workers: int | str | None = None,
    scheduler: str | None = None,
    memory_limit: int | str | None = None,
) -> RunResult:
    """Go on with a run where it stopped; a finished run executes nothing.

    A finished run's labels and cells are compared with their checksums, and what it takes
    to mend them is done where they are damaged.

    Parameters
    ----------
    workers, scheduler, memory_limit
        In place of those the run was begun with; they decide no result.

    Raises
    ------
    OutputError
        If ``out`` is no run folder, or its configuration or input has changed since.
    """
    folder = RunFolder(absolute_path(out))
    status = folder.status()
    complete = status["status"] == "complete"
    needed = {"fingerprint", "metadata", "deciding", "plan", *(["facts"] if complete else [])}
    if lacking := sorted(needed - status.keys()):
        raise OutputError(f"{out} was not begun to the end (no {lacking[0]}). Start a new run.")
    if not complete:
        _refuse_other_version(folder)
    how = {"workers": workers, "scheduler": scheduler, "memory_limit": memory_limit}
    given = read_yaml(folder.config) | {k: v for k, v in how.items() if v is not None}
    config = make_config(given, str(folder.config))
    _refuse_changed(folder, _differences(status["deciding"], config.deciding()))
    if complete and not inputs_exist(config):
        return RunResult(folder.path, status["facts"]["cells"], 0)
    method = resolve_method(config)
    _refuse_changed(folder, _changed_weights(status, method))
    inputs = open_inputs(config, None)
    now = inputs.fingerprints()
    _refuse_changed(folder, _changed_inputs(status["metadata"], now["metadata"], "metadata"))
    moved = _changed_inputs(status["fingerprint"], now["fingerprint"], "files")
    if complete:
        _refuse_changed(folder, moved)
    block_shape = tuple(status["plan"]["block_shape"])
    fixed = replace(method, config=config.model_copy(update={"block_shape": block_shape}))
    resources = check_cluster(client, config.scheduler) if config.executor == "dask" else None
    the_plan = planned_before(make_plan(fixed, inputs.volume, resources), status["plan"])
    return _execute(
        folder, method, inputs, the_plan, client, progress,
        resumed=True, compare=bool(moved), complete=complete,
    )  # fmt: skip


def _refuse_other_version(folder: RunFolder) -> None:
    version = folder.status().get("version")
    if version != cellseg3d_dist.__version__:
        raise OutputError(
            f"{folder.path} was made by version {version}, this is "
            f"{cellseg3d_dist.__version__}. Resume it with that version, or start a new run."
        )


def _refuse_changed(folder: RunFolder, changed: list[str]) -> None:
    if changed:
        raise OutputError(
            f"{folder.path} cannot be resumed: {'; '.join(changed)}. Undo that, or start a new run."
        )


def plan(image: Any, **options: Any) -> Plan:
    """What :func:`segment` would do: blocks, memory, disk and hours. Nothing is created."""
    stored_at = location_of(image)
    image = image if stored_at is None else stored_at
    stored = None if isinstance(image, str) else image
    method = resolve_method(_config_of(image, options))
    volume = open_inputs(method.config, stored).volume
    check_options(method.config, volume)
    return make_plan(method, volume)


def _config_of(image: Any, options: dict[str, Any]) -> SegmentConfig:
    if isinstance(image, str | Path):
        text = str(image)
        text = text if "://" in text else str(absolute_path(text))
        return make_config(options | {"image": text}).located()
    return make_config(options | {"image": "<memory>"})


def _execute(
    folder: RunFolder,
    method: Method,
    inputs: Inputs,
    the_plan: Plan,
    client: Client | None,
    progress: Progress | None,
    resumed: bool,
    compare: bool = False,
    complete: bool = False,
) -> RunResult:
    progress, config = progress or NoProgress(), method.config
    with contextlib.ExitStack() as stack:
        stack.enter_context(naming_disk_errors(folder))
        stack.enter_context(folder.locked())
        stack.enter_context(logging_to(folder.logs / "run.log"))
        stop = stack.enter_context(stopping_on_signals(progress, folder.go_on))
        executor = stack.enter_context(_executor(config, the_plan, client, folder))
        header = {"version": cellseg3d_dist.__version__, "config": config.deciding()}
        runner = Runner(folder, executor, progress, header, verify=resumed, stop=stop)
        if complete and output_intact(folder, the_plan.block_shape, runner):
            result = RunResult(folder.path, folder.status()["facts"]["cells"], 0)
        else:
            _refuse_other_version(folder)
            result = _run(folder, method, inputs, the_plan, runner, compare)
    if not config.keep_work:
        shutil.rmtree(folder.work, ignore_errors=True)
    return result


def _run(
    folder: RunFolder,
    method: Method,
    inputs: Inputs,
    the_plan: Plan,
    runner: Runner,
    compare: bool,
) -> RunResult:
    config = method.config
    folder.update_status(status="running", deciding=config.deciding())
    try:
        image = readable(folder, config, inputs, runner)
        if compare:
            check_unchanged(folder, the_plan.grid, image, runner)
            folder.update_status(**inputs.fingerprints())
        job = Pipeline(config, the_plan, image, inputs.labels_true, folder, runner, method)
        facts = job.run()
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        note_end(folder, runner, "interrupted" if stopped else "failed", {})
        raise
    return _finish(folder, config, inputs, the_plan, runner, facts)


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


def _finish(
    folder: RunFolder,
    config: SegmentConfig,
    inputs: Inputs,
    the_plan: Plan,
    runner: Runner,
    facts: dict[str, Any],
) -> RunResult:
    failed = runner.failed
    status = "blocks failed" if failed else "complete"
    began = time.monotonic()
    note_end(folder, runner, "reporting", facts)
    runner.progress.say("report")
    write_run_report(folder.path, config, inputs.volume, the_plan.block_shape)
    note_end(folder, runner, status, facts, report_seconds=time.monotonic() - began)
    if failed:
        block, stage, error = next(iter(failed.values()))
        raise BlocksFailedError(
            f"{len(failed)} of {the_plan.n_blocks} blocks failed and are 0 in the labels, listed "
            f"in {folder.status_file}; {block} in {stage}: {error} When mended, {folder.go_on}"
        )
    return RunResult(folder.path, facts["cells"], runner.executed)


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    keys = sorted(before.keys() | now.keys())
    return [
        f"{key} was {before.get(key, 'not set')!r} and is {now.get(key, 'not set')!r}"
        for key in keys
        if before.get(key) != now.get(key)
    ]


def _changed_weights(status: dict[str, Any], method: Method) -> list[str]:
    before, now = status.get("model", {}).get("sha256"), method.facts().get("sha256")
    return [] if before == now else [f"the weights of model {method.config.model} have changed"]


def _changed_inputs(before: dict[str, str], now: dict[str, str], what: str) -> list[str]:
    keys = sorted(before.keys() | now.keys())
    return [
        f"the {what} of the {key} have changed since"
        for key in keys
        if before.get(key) != now.get(key)
    ]
