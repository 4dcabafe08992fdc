"""What users call: begin a run, go on with one, or only plan it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellseg3d_dist.engine.plan import Plan
from cellseg3d_dist.paths import absolute_path
from cellseg3d_dist.segmentation.preparing import Order, begun, planned, taken_up
from cellseg3d_dist.segmentation.running import RunResult, execute

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
    order = Order.of(image, options, command or shlex.join(sys.argv))
    return execute(begun(order, absolute_path(out), overwrite, client), client, progress)


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
    run = taken_up(absolute_path(out), how, client)
    return run if isinstance(run, RunResult) else execute(run, client, progress)


def plan(image: Any, **options: Any) -> Plan:
    """What :func:`segment` would do: blocks, memory, disk and hours. Nothing is created."""
    return planned(Order.of(image, options))
