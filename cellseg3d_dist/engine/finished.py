"""Whether what a finished run wrote is still what its journals say."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.journal import read_journal
from cellseg3d_dist.engine.records import digest, file_digest
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.engine.stages.candidates import CandidateFiles
from cellseg3d_dist.errors import VolumeError
from cellseg3d_dist.grid import Block, BlockGrid, Selection, Triple
from cellseg3d_dist.volumes import Volume, open_volume

#: Blocks whose checksums travel with the stage at a time.
_BATCH = 256


@dataclass(frozen=True)
class CompareStored:
    """Reads blocks of what was written and compares them with their checksums.

    Attributes
    ----------
    n_channels : int or None
        Of an image with a channel axis.
    """

    volume: Volume
    digests: dict[int, str]
    n_channels: int | None = None
    name: str = "verify"

    def run(self, block: Block) -> BlockRecord:
        """Compare one block."""
        read, region = self.volume.read, block.write_region
        if self.n_channels is None:
            found = read(region)
        else:
            found = np.stack([read(region, channel) for channel in range(self.n_channels)])
        return {"same": digest(found) == self.digests[block.number]}

    def decides(self) -> BlockRecord:
        """Nothing: a comparison is not a result."""
        return {}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Comparisons are not checked."""
        return True


def output_intact(folder: RunFolder, block_shape: Triple, runner: Runner) -> bool:
    """Whether cells, all levels of the labels and the prediction are there unchanged.

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
        grid = BlockGrid(labels.shape, block_shape)
        if not _same(CompareStored(labels, digests), grid, runner):
            return False
    return _prediction_intact(folder, block_shape, runner)


def _prediction_intact(folder: RunFolder, block_shape: Triple, runner: Runner) -> bool:
    _, records = read_journal(folder.journal("predict"))
    if not records:
        return True
    try:
        volume = open_volume(folder.prediction)
    except VolumeError:
        return False
    digests = {record["block"]: record["digest"] for record in records if record["digest"]}
    grid = BlockGrid(volume.shape, block_shape)
    peaks = CandidateFiles(folder.peaks, grid)
    sparse = [(record["block"], record["peaks"]) for record in records if record["peaks"]]
    if not all(peaks.intact(grid.block(number), wanted) for number, wanted in sparse):
        return False
    return _same(CompareStored(volume, digests, len(volume.channels)), grid, runner)


def label_journals(folder: RunFolder) -> list[str]:
    """Journals of the levels of a run's labels, level 0 first."""
    found = [path.stem for path in (folder.path / "journal").glob("pyramid-*.jsonl")]
    return ["relabel", *sorted(found, key=lambda name: int(name.removeprefix("pyramid-")))]


def _same(whole: CompareStored, grid: BlockGrid, runner: Runner) -> bool:
    blocks = Selection.all(grid).only(whole.digests)
    same = 0
    runner.progress.start("verify", len(blocks), 0)
    for i in range(0, len(blocks), _BATCH):
        part = blocks.slice(i, i + _BATCH)
        stage = replace(whole, digests={n: whole.digests[n] for n in part.numbers.tolist()})
        for outcome in runner.executor.run(stage, part):
            runner.progress.advance(outcome.block.write_region.size)
            same += outcome.record is not None and outcome.record["same"]
    runner.progress.finish()
    runner.stop.check()
    return same == len(blocks)
