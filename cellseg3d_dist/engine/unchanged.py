"""Whether the input of a resumed run still holds what its finished blocks were made from.

Sizes and times of files change when an unreadable chunk is mended or a volume is copied, so
they only say where to look: what decides is a checksum of the voxels of every finished block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.inputs import ImageInput, input_digest
from cellseg3d_dist.engine.journal import read_journal
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.errors import EnvironmentFailedError, OutputError
from cellseg3d_dist.grid import Block, BlockGrid, Selection

#: Blocks whose checksums travel with the stage at a time.
_BATCH = 256


@dataclass(frozen=True)
class CompareInput:
    """Reads blocks again and compares them with the checksums of an earlier sitting."""

    image: ImageInput
    channels: tuple[int, ...]
    digests: dict[int, str]
    name: str = "compare input"

    def run(self, block: Block) -> BlockRecord:
        """Compare one block."""
        region = block.write_region
        read = [self.image.read(region, channel) for channel in self.channels]
        found = input_digest(read, self.image.within(region))
        return {"same": found == self.digests[block.number]}

    def decides(self) -> BlockRecord:
        """Nothing: a comparison is not a result."""
        return {}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Comparisons are not checked."""
        return True


def check_unchanged(folder: RunFolder, grid: BlockGrid, image: ImageInput, runner: Runner) -> None:
    """Refuse to go on where a finished block's input is another one now.

    Blocks that cannot be read are left to the run itself.

    Raises
    ------
    OutputError
        With the blocks that differ.
    EnvironmentFailedError
        If the disk or the cluster failed.
    """
    channels = {
        "survey": (image.volume.channel,),
        "relabel": tuple(range(len(image.volume.channels))),
    }
    for stage, read in channels.items():
        _, records = read_journal(folder.journal(stage))
        digests = {r["block"]: r["input"] for r in records if r.get("input")}
        different = _different(Selection.all(grid).only(digests), image, read, digests, runner)
        # a comparison that was stopped says nothing of what it has not seen
        runner.stop.check()
        if different:
            shown = ", ".join(str(block) for block in different[:3])
            raise OutputError(
                f"{folder.path} cannot be resumed: the input {image.volume.location} has changed "
                f"in {len(different)} blocks that are done ({shown}). Start a new run."
            )


def _different(
    blocks: Selection,
    image: ImageInput,
    channels: tuple[int, ...],
    digests: dict[int, Any],
    runner: Runner,
) -> list[Block]:
    different: list[Block] = []
    runner.progress.start("compare", len(blocks), 0)
    for i in range(0, len(blocks), _BATCH):
        part = blocks.slice(i, i + _BATCH)
        stage = CompareInput(image, channels, {n: digests[n] for n in part.numbers.tolist()})
        for outcome in runner.executor.run(stage, part):
            runner.progress.advance(outcome.block.write_region.size)
            if outcome.environment:
                raise EnvironmentFailedError(f"{outcome.block}: {outcome.error}")
            if outcome.record is not None and not outcome.record["same"]:
                different.append(outcome.block)
    runner.progress.finish()
    return different
