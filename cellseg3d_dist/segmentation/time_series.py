"""Several time points: each a run of its own in one folder and one sitting, joined at the end."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cellseg3d_dist
from cellseg3d_dist.config import SegmentConfig, make_config, read_yaml
from cellseg3d_dist.engine.folder import create_output, naming_disk_errors
from cellseg3d_dist.engine.method import resolve_method
from cellseg3d_dist.engine.plan import check_disk
from cellseg3d_dist.engine.progress import Progress
from cellseg3d_dist.engine.records import file_digest
from cellseg3d_dist.engine.run_json import note_end, now_text, versions
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.engine.series import Series, describe_parts, join_cells, join_labels, totals
from cellseg3d_dist.errors import BlocksFailedError, OutputError
from cellseg3d_dist.report.series import write_series_report
from cellseg3d_dist.segmentation.preparing import (
    Order,
    checked,
    created,
    refuse_changed_options,
    taken_up,
)
from cellseg3d_dist.segmentation.running import (
    Run,
    RunResult,
    Sitting,
    carry_out,
    clear,
    held,
    refuse_other_version,
    sitting,
)

if TYPE_CHECKING:
    from distributed import Client

_MANY = 3


@dataclass(frozen=True)
class SeriesRun:
    """Time points that are ready to be carried out, or were before."""

    series: Series
    config: SegmentConfig
    parts: Mapping[int, Run | RunResult]
    resumed: bool = False


def begun_series(
    order: Order, orders: Mapping[int, Order], out: Path, overwrite: bool, client: Client | None
) -> SeriesRun:
    """Check the orders of all time points, then create the folder and theirs in it."""
    shared = None if order.config.earlier_run else resolve_method(order.at(None).config)
    ready = {}
    for time, part in orders.items():
        method = shared
        if shared is not None:
            at_time = shared.config.model_copy(update={"time": time})
            method = replace(shared, config=at_time)
        ready[time] = checked(part, out, overwrite, client, method)
    times = range(min(orders), max(orders) + 1)
    first = ready[times.start]
    check_disk(replace(first.plan, disk_bytes=len(times) * first.plan.disk_bytes), out)
    config = first.method.config.model_copy(
        update={
            "time": f"{times.start}:{times.stop}",
            "earlier_run": order.config.earlier_run,
        }
    )
    status = {
        "status": "running",
        "version": cellseg3d_dist.__version__,
        "started": now_text(),
        "command": order.command,
        "times": list(times),
        "deciding": config.deciding(),
        "plan": first.plan.to_dict(),
        "versions": versions(),
    }
    folder = create_output(out, overwrite, status)
    with naming_disk_errors(folder):
        folder.config.write_text(config.to_yaml())
    series = Series(folder, times)
    parts = {
        time: created(one, series.part(time), overwrite=False, status="waiting")
        for time, one in ready.items()
    }
    return SeriesRun(series, config, parts)


def taken_up_series(series: Series, how: dict[str, Any], client: Client | None) -> SeriesRun:
    """Time points to go on with; those that are finished are only checked."""
    folder = series.folder
    status = folder.status()
    if status["status"] != "complete":
        refuse_other_version(folder)
    config = make_config(read_yaml(folder.config) | how, str(folder.config))
    refuse_changed_options(folder, status["deciding"], config)
    keys = ("workers", "scheduler", "memory_limit")
    how = {key: getattr(config, key) for key in keys if getattr(config, key) is not None} | how
    parts: dict[int, Run | RunResult] = {}
    for time in series.times:
        part = series.part(time)
        if part.status_file.exists():
            parts[time] = taken_up(part, how, client)
            continue
        if config.image == "<memory>" or config.earlier_run is not None:
            raise OutputError(
                f"{folder.path} was not begun to the end (no {part.path.name}). Start a new run."
            )
        one = Order(config, None, status.get("command", "")).at(time)
        parts[time] = created(checked(one, part.path, False, client), part, False, "waiting")
    return SeriesRun(series, config, parts, resumed=True)


def execute_series(run: SeriesRun, client: Client | None, progress: Progress | None) -> RunResult:
    """Carry out all time points on one cluster, then join what they found.

    Raises
    ------
    BlocksFailedError
        If blocks of some time points failed; the others are complete.
    """
    series = run.series
    todo = [part for part in run.parts.values() if isinstance(part, Run)]
    if not todo:
        return RunResult(series.folder.path, series.folder.status()["cells"], 0)
    with sitting(series.folder, run.config, todo[0].plan, client, progress) as seat:
        header = {"version": cellseg3d_dist.__version__}
        runner = Runner(series.folder, seat.executor, seat.progress, header, run.resumed, seat.stop)
        series.folder.update_status(status="running")
        try:
            executed, failed = _each(run, seat)
            joined = _joined(run, runner, executed)
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            note_end(series.folder, runner, "interrupted" if stopped else "failed", {})
            raise
        note_end(series.folder, runner, "blocks failed" if failed else "complete", {}, **joined)
    if not run.config.keep_work:
        for part in todo:
            if part.folder.status()["status"] == "complete":
                clear(part)
        shutil.rmtree(series.folder.work, ignore_errors=True)
    if failed:
        raise BlocksFailedError(_failures(failed, len(run.parts)))
    return RunResult(series.folder.path, joined["cells"], executed + runner.executed)


def _each(run: SeriesRun, seat: Sitting) -> tuple[int, dict[int, str]]:
    """Carry out one time point after the other: blocks executed, and what failed."""
    executed, failed = 0, {}
    for number, (time, part) in enumerate(run.parts.items(), 1):
        if isinstance(part, RunResult):
            continue
        seat.progress.say(f"time {time}  ({number} of {len(run.parts)})")
        try:
            with held(part.folder):
                executed += carry_out(part, seat).executed
        except BlocksFailedError as error:
            failed[time] = str(error)
    return executed, failed


def _joined(run: SeriesRun, runner: Runner, executed: int) -> dict[str, Any]:
    """Labels, table and report of all time points; what is noted of them."""
    series, folder = run.series, run.series.folder
    join_labels(series, run.config, runner)
    before = folder.status()
    found = {key: before.get(key) for key in ("cells", "cells_digest")}
    if executed or found["cells"] is None or file_digest(folder.cells) != found["cells_digest"]:
        found = join_cells(series, run.config)
    parts = describe_parts(series)
    write_series_report(folder.path, run.config.image, parts)
    return {**found, "complete_times": totals(parts)["complete"]}


def _failures(failed: dict[int, str], n_times: int) -> str:
    times = ", ".join(str(time) for time in list(failed)[:_MANY])
    more = f" and {len(failed) - _MANY} more" if len(failed) > _MANY else ""
    error = next(iter(failed.values()))
    return f"{len(failed)} of {n_times} time points have failed blocks ({times}{more}); {error}"
