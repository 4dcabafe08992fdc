"""Convert: a TIFF or another volume becomes an OME-Zarr that blocks can read their part of."""

from __future__ import annotations

from dataclasses import dataclass

from cellseg3d_dist.engine.records import digest
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.grid import Block
from cellseg3d_dist.volumes.convert import Conversion


@dataclass(frozen=True)
class Convert:
    """Level 0 of a conversion; its blocks are those of ``conversion.grid``."""

    conversion: Conversion
    name: str = "convert"

    def decides(self) -> BlockRecord:
        """Source and block shape."""
        return {
            "source": self.conversion.volume.fingerprint(),
            "block_shape": list(self.conversion.grid.block_shape),
        }

    def run(self, block: Block) -> BlockRecord:
        """Copy one block."""
        return {"digest": digest(self.conversion.run(block.write_region))}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the copy is intact."""
        copied = self.conversion.image.levels[0].read(block.write_region)
        return bool(digest(copied) == record["digest"])
