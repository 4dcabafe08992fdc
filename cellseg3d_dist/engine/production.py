"""Make stored images by stages, for `convert` and `phantom`; an interrupted call goes on.

The journals lie beside the destination in ``<name>.progress`` until everything is written.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from distributed import Client

from cellseg3d_dist.engine.clusters import connect, default_memory_limit, default_workers
from cellseg3d_dist.engine.executors import DaskExecutor
from cellseg3d_dist.engine.folder import RunFolder, naming_disk_errors
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


def check_destination(destination: Path) -> Path:
    """Where the journals of a destination lie.

    Raises
    ------
    OutputError
        If the destination exists and is not one whose making was interrupted.
    """
    progress = destination.with_name(destination.name + ".progress")
    if destination.exists() and not progress.exists():
        raise OutputError(f"{destination} exists. Choose another name or remove it.")
    parent = next(p for p in destination.absolute().parents if p.exists())
    if not parent.is_dir():
        raise OutputError(f"{destination} cannot be created: {parent} is a file.")
    return progress


@contextlib.contextmanager
def producing(
    destination: Path,
    decides: BlockRecord,
    *,
    client: Client | None = None,
    workers: int | None = None,
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Production]:
    """Make ``destination`` on a cluster; its journals go when it is whole."""
    folder = RunFolder(check_destination(destination))
    with contextlib.ExitStack() as stack:
        stack.enter_context(naming_disk_errors(destination))
        folder.logs.mkdir(parents=True, exist_ok=True)
        stack.enter_context(folder.locked())
        count = workers or default_workers()
        limit = memory_limit or default_memory_limit(count)
        scratch = str(folder.path / "dask")
        reached = stack.enter_context(connect(client, None, count, limit, scratch))
        reached.register_plugin(WorkerLog(str(folder.logs)))
        runner = Runner(folder, DaskExecutor(reached), progress or NoProgress(), decides)
        stack.enter_context(stopping_on_signals(runner))
        yield Production(destination, runner)
    shutil.rmtree(folder.path, ignore_errors=True)
