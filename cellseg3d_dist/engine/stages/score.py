"""Score: contingency tables of true and found labels, block by block."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cellseg3d_dist.engine.records import read_record, record_digest, record_path, write_record
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.grid import Block, BlockGrid
from cellseg3d_dist.metrics.contingency import ContingencyTable, contingency
from cellseg3d_dist.volumes import StoredArray, Volume


@dataclass(frozen=True)
class Score:
    """Per block: how often each pair of true and found label meets."""

    labels_true: Volume
    labels_pred: StoredArray
    grid: BlockGrid
    folder: Path
    source_digest: str
    name: str = "score"

    def decides(self) -> BlockRecord:
        """The labels on both sides and the block shape."""
        return {
            "block_shape": list(self.grid.block_shape),
            "labels_true": self.labels_true.fingerprint(),
            "labels_pred": self.source_digest,
        }

    def run(self, block: Block) -> BlockRecord:
        """Count one block."""
        region = block.write_region
        table = contingency(self.labels_true.read(region), self.labels_pred.read(region))
        path = record_path(self.folder / self.name, block)
        return {"digest": write_record(path, **table.to_arrays())}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's table is intact."""
        return bool(record_digest(record_path(self.folder / self.name, block)) == record["digest"])

    def total(self, records: Iterable[BlockRecord]) -> ContingencyTable:
        """The table of the whole volume."""
        paths = (record_path(self.folder / self.name, self.grid.block(r["block"])) for r in records)
        return ContingencyTable.merge(ContingencyTable.from_arrays(read_record(p)) for p in paths)
