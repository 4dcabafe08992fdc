"""Pyramid: one level of an image from the level below, one task per shard."""

from __future__ import annotations

from dataclasses import dataclass

from cellseg3d_dist.engine.records import digest
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.grid import Block
from cellseg3d_dist.volumes import StoredImage


@dataclass(frozen=True)
class Pyramid:
    """Level ``level`` (1 or more) of a stored image."""

    image: StoredImage
    level: int
    source_digest: str
    name_prefix: str = "pyramid"

    @property
    def name(self) -> str:
        """One journal per level."""
        return f"{self.name_prefix}-{self.level}"

    def decides(self) -> BlockRecord:
        """The level, its blocks and what level 0 was made from."""
        array = self.image.levels[self.level]
        return {
            "level": self.level,
            "block_shape": list(array.block_shape),
            "source": self.source_digest,
        }

    def run(self, block: Block) -> BlockRecord:
        """Make one block of the level."""
        return {"digest": digest(self.image.write_level_block(self.level, block.write_region))}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block is intact."""
        return bool(
            digest(self.image.levels[self.level].read(block.write_region)) == record["digest"]
        )
