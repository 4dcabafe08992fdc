"""Check a prediction of an earlier run against its checksums before it is decoded again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellseg3d_dist.engine.records import digest
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.engine.stages.candidates import CandidateFiles
from cellseg3d_dist.engine.tables import save_table, table
from cellseg3d_dist.errors import VolumeError
from cellseg3d_dist.grid import Block
from cellseg3d_dist.volumes import StoredArray


@dataclass(frozen=True)
class CheckPrediction:
    """Reads each block and its sparse candidates; one that differs is an error of the block.

    Attributes
    ----------
    folder : Path
        Of the tables that :meth:`expect` writes: too much to travel with every block.
    whole : str
        Digest of all checksums.
    """

    prediction: StoredArray
    peaks: CandidateFiles
    folder: Path
    whole: str
    name: str = "check-prediction"

    def expect(self, records: Sequence[BlockRecord]) -> None:
        """Write down what the records of the stage that predicted say."""
        for key in ("digest", "peaks"):
            expected = np.zeros(self.prediction.grid.n_blocks, "S8")
            for record in records:
                expected[record["block"]] = record[key] or ""
            save_table(self.folder, key, expected)

    def decides(self) -> BlockRecord:
        """What was predicted."""
        return {"prediction": self.whole}

    def run(self, block: Block) -> BlockRecord:
        """Check one block."""
        if not self._intact(block):
            raise VolumeError(f"{self.prediction.path} is damaged in {block}.")
        return {}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether it is intact still."""
        return self._intact(block)

    def _intact(self, block: Block) -> bool:
        wanted, peaks = (
            table(self.folder, key)[block.number].decode() for key in ("digest", "peaks")
        )
        if not wanted:
            return True
        found = digest(self.prediction.read(block.write_region))
        return found == wanted and (not peaks or self.peaks.intact(block, peaks))
