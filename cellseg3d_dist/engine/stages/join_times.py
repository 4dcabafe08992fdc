"""The labels of each time point, copied into the one image of all time points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.records import digest
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.grid import Block
from cellseg3d_dist.volumes import StoredArray, Volume


@dataclass(frozen=True)
class JoinTime:
    """Copies one level of one time point, in the type that holds the labels of all.

    Attributes
    ----------
    made_from : str
        Digest of the level that is copied.
    """

    source: Volume
    target: StoredArray
    made_from: str
    name: str

    def decides(self) -> BlockRecord:
        """What is copied, and as what."""
        return {
            "source": self.made_from,
            "dtype": str(self.target.dtype),
            "block_shape": list(self.target.block_shape),
        }

    def run(self, block: Block) -> BlockRecord:
        """Copy one block."""
        labels: npt.NDArray[np.unsignedinteger] = self.source.read(block.write_region)
        labels = labels.astype(self.target.dtype)
        self.target.write(block.write_region, labels)
        return {"digest": digest(labels)}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the copy is intact."""
        return bool(digest(self.target.read(block.write_region)) == record["digest"])
