"""Whether what a finished run wrote is still what its journals say."""

from __future__ import annotations

from dataclasses import dataclass

from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.journal import read_journal
from cellseg3d_dist.engine.records import digest, file_digest
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.errors import VolumeError
from cellseg3d_dist.grid import Block, BlockGrid, Selection, Triple
from cellseg3d_dist.volumes import Volume, open_volume

#: Blocks whose checksums travel with the stage at a time.
_BATCH = 256


@dataclass(frozen=True)
class CompareLabels:
    """Reads blocks of a level of the labels and compares them with their checksums."""

    labels: Volume
    digests: dict[int, str]
    name: str = "verify labels"

    def run(self, block: Block) -> BlockRecord:
        """Compare one block."""
        found = digest(self.labels.read(block.write_region))
        return {"same": found == self.digests[block.number]}

    def decides(self) -> BlockRecord:
        """Nothing: a comparison is not a result."""
        return {}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Comparisons are not checked."""
        return True


def output_intact(folder: RunFolder, block_shape: Triple, runner: Runner) -> bool:
    """Whether cells and all levels of the labels are there unchanged.

    Raises
    ------
    Interrupted
        If a stop was requested.
    """
    if file_digest(folder.cells) != folder.status()["facts"].get("cells_digest"):
        return False
    for level, stage in enumerate(label_journals(folder)):
        _, records = read_journal(folder.journal(stage))
        digests = {record["block"]: record["digest"] for record in records}
        try:
            labels = open_volume(folder.labels, level=level)
        except VolumeError:
            return False
        if not _same(labels, BlockGrid(labels.shape, block_shape), digests, runner):
            return False
    return True


def label_journals(folder: RunFolder) -> list[str]:
    """Journals of the levels of a run's labels, level 0 first."""
    found = [path.stem for path in (folder.path / "journal").glob("pyramid-*.jsonl")]
    return ["relabel", *sorted(found, key=lambda name: int(name.removeprefix("pyramid-")))]


def _same(labels: Volume, grid: BlockGrid, digests: dict[int, str], runner: Runner) -> bool:
    blocks = Selection.all(grid).only(digests)
    same = 0
    runner.progress.start("verify", len(blocks), 0)
    for i in range(0, len(blocks), _BATCH):
        part = blocks.slice(i, i + _BATCH)
        stage = CompareLabels(labels, {n: digests[n] for n in part.numbers.tolist()})
        for outcome in runner.executor.run(stage, part):
            runner.progress.advance(outcome.block.write_region.size)
            same += outcome.record is not None and outcome.record["same"]
    runner.progress.finish()
    runner.stop.check()
    return same == len(blocks)
