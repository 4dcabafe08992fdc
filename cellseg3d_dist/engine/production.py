"""Make an output by stages, for `convert`, `phantom` and `evaluate`; an interrupted call goes on.

The journals lie beside the destination in ``<name>.progress`` until everything is written.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from distributed import Client

from cellseg3d_dist.engine.clusters import connect, default_memory_limit, default_workers
from cellseg3d_dist.engine.executors import DaskExecutor, Executor
from cellseg3d_dist.engine.folder import (
    RunFolder,
    check_apart,
    check_creatable,
    naming_disk_errors,
)
from cellseg3d_dist.engine.logs import WorkerLog
from cellseg3d_dist.engine.progress import NoProgress, Progress
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.engine.stage import BlockRecord, Stage
from cellseg3d_dist.engine.stages.pyramid import Pyramid
from cellseg3d_dist.engine.stop import stopping_on_signals
from cellseg3d_dist.errors import BlocksFailedError, OutputError
from cellseg3d_dist.grid import Selection
from cellseg3d_dist.volumes import StoredImage


@dataclass
class Production:
    """A destination that is being written; see :func:`producing`."""

    destination: Path
    runner: Runner
    folder: RunFolder
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, stage: Stage, selection: Selection) -> list[BlockRecord]:
        """Run a stage to its end.

        Raises
        ------
        BlocksFailedError
            If a block failed.
        """
        records = list(self.runner.run(stage, selection))
        if self.runner.failed:
            block, name, error = next(iter(self.runner.failed.values()))
            raise BlocksFailedError(
                f"{len(self.runner.failed)} blocks of {self.destination} failed ({block} of "
                f"{name}: {error}). Give the same command again to go on."
            )
        self.seconds[stage.name] = self.runner.summaries[-1].seconds
        return records

    def pyramid(self, image: StoredImage, made_from: str) -> None:
        """Write all levels above 0."""
        prefix = f"pyramid-{Path(image.path).name.split('.')[0]}"
        for level in range(1, len(image.levels)):
            stage = Pyramid(image, level, made_from, prefix)
            self.run(stage, Selection.all(image.levels[level].grid))
        image.sweep()


def journals_of(destination: Path) -> RunFolder:
    """The folder beside a destination that is there while it is made."""
    return RunFolder(destination.with_name(destination.name + ".progress"), same_command=True)


def check_destination(
    destination: Path, decides: BlockRecord, inputs: Iterable[str] = (), *, replace: bool = False
) -> RunFolder:
    """The folder of a destination's journals; nothing is created.

    With ``replace`` a destination that exists, or was begun, does not matter.

    Raises
    ------
    OutputError
        If the destination exists and is not one whose making with the same options was
        interrupted, or cannot be created, or is, lies in or holds an input.
    """
    check_apart(destination, inputs)
    folder = journals_of(destination)
    check_creatable(folder.path)
    exists = destination.exists() or destination.is_symlink()
    if exists and not folder.path.exists() and not replace:
        raise OutputError(f"output {destination} exists. Choose another name or remove it.")
    if folder.path.exists():
        begun = folder.status().get("decides")
        if begun != json.loads(json.dumps(decides)) and not replace:
            raise OutputError(
                f"output {destination} was begun with other options or another source. Remove "
                f"it and {folder.path}, or choose another name."
            )
    return folder


@contextlib.contextmanager
def producing(
    destination: Path,
    decides: BlockRecord,
    *,
    inputs: Iterable[str] = (),
    client: Client | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    memory_limit: int | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
    replace: bool = False,
) -> Iterator[Production]:
    """Make ``destination`` on a cluster; its journals go when it is whole.

    Parameters
    ----------
    decides : dict
        Everything that decides the result, JSON-able.
    inputs : paths or URLs
        That the destination must be apart from.
    executor : Executor, optional
        What blocks run on in place of a cluster.
    replace : bool
        What was begun with other options is begun anew.

    Raises
    ------
    OutputError
        As :func:`check_destination`.
    """
    folder = check_destination(destination, decides, inputs, replace=replace)
    if folder.path.exists() and folder.status().get("decides") != json.loads(json.dumps(decides)):
        shutil.rmtree(folder.path)
    with contextlib.ExitStack() as stack:
        stack.enter_context(naming_disk_errors(folder))
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_status({"status": "running", "decides": decides})
        folder.logs.mkdir(parents=True, exist_ok=True)
        stack.enter_context(folder.locked())
        shown = progress or NoProgress()
        stop = stack.enter_context(stopping_on_signals(shown, folder.go_on))
        if executor is None:
            count = workers or default_workers()
            limit = memory_limit or default_memory_limit(count)
            scratch = str(folder.path / "dask")
            reached = stack.enter_context(connect(client, scheduler, count, limit, scratch))
            reached.register_plugin(WorkerLog(str(folder.logs)))
            executor = DaskExecutor(reached)
        runner = Runner(folder, executor, shown, decides, stop=stop)
        yield Production(destination, runner, folder)
    shutil.rmtree(folder.path, ignore_errors=True)
