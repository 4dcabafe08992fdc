"""What users call: begin a run, go on with one, or only plan it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellseg3d_dist.engine.earlier import EarlierRun
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.plan import Plan
from cellseg3d_dist.engine.series import Series
from cellseg3d_dist.paths import absolute_path
from cellseg3d_dist.segmentation.estimating import estimate
from cellseg3d_dist.segmentation.preparing import Order, begun, taken_up
from cellseg3d_dist.segmentation.relabelling import order_again
from cellseg3d_dist.segmentation.running import RunResult, execute
from cellseg3d_dist.segmentation.time_series import (
    begun_series,
    execute_series,
    taken_up_series,
)

if TYPE_CHECKING:
    from distributed import Client

    from cellseg3d_dist.engine.progress import Progress


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
    order, target = Order.of(image, options, command or shlex.join(sys.argv)), absolute_path(out)
    times = order.times()
    if times is not None:
        orders = {time: order.at(time) for time in times}
        series = begun_series(order, orders, target, overwrite, client)
        return execute_series(series, client, progress)
    return execute(begun(order.single(), target, overwrite, client), client, progress)


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
    given = {"workers": workers, "scheduler": scheduler, "memory_limit": memory_limit}
    how = {key: value for key, value in given.items() if value is not None}
    series = Series.of(absolute_path(out))
    if series is not None:
        return execute_series(taken_up_series(series, how, client), client, progress)
    run = taken_up(RunFolder(absolute_path(out)), how, client)
    return run if isinstance(run, RunResult) else execute(run, client, progress)


def relabel(
    out: str | Path,
    new: str | Path | None = None,
    *,
    client: Client | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    command: str | None = None,
    **options: Any,
) -> RunResult:
    """Find the cells of a finished run again with other settings, without its network.

    The result is a run of its own: the same labels and cells as :func:`segment` would give
    with these settings. The prediction of ``out`` is read, what was found of the whole image
    is taken over, and so are the fragments where they were kept (``keep_work``) and only
    limits for whole cells are other ones.

    Parameters
    ----------
    out : path
        The finished run; it is not changed.
    new : path, optional
        The run folder to create; by default ``relabelled`` in ``out``.
    **options
        Keys of :class:`cellseg3d_dist.config.SegmentConfig` that are to be other ones; the
        rest is as in ``out``.

    Raises
    ------
    BadInputError
        If ``out`` is not complete, or its image or prediction changed or lost, or an option
        would need the network again. Nothing was created, but where blocks of the prediction
        turn out to be damaged: then both runs can be resumed.
    BlocksFailedError, EnvironmentFailedError
        As :func:`segment`.
    """
    source, said = absolute_path(out), command or shlex.join(sys.argv)
    target = source / "relabelled" if new is None else absolute_path(new)
    series = Series.of(source)
    if series is not None:
        orders = {
            time: order_again(EarlierRun.of(series.part(time).path), options, said)
            for time in series.times
        }
        whole = order_again(EarlierRun(series.folder), options, said)
        again = begun_series(whole, orders, target, overwrite, client)
        return execute_series(again, client, progress)
    order = order_again(EarlierRun.of(source), options, said)
    return execute(begun(order, target, overwrite, client), client, progress)


def plan(image: Any, **options: Any) -> Plan:
    """What :func:`segment` would do: blocks, memory, disk and hours. Nothing is created."""
    return estimate(image, **options).plan
