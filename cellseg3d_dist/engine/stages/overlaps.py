"""Overlaps: which fragments of neighbouring blocks are one cell, by what both have seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.records import record_digest, record_path, write_record
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.engine.stages.labeller import SharedZones
from cellseg3d_dist.grid import Block
from cellseg3d_dist.merging.overlap import overlaps


@dataclass(frozen=True)
class FindOverlaps:
    """Per block: overlaps with the up to 13 neighbours that come after it.

    Attributes
    ----------
    threshold : float
        Least overlap over union.
    upstream : str
        Digest of what blocks have fragments of.
    """

    fragments: Fragments
    zones: SharedZones
    folder: Path
    threshold: float
    upstream: str
    name: str = "overlaps"

    def decides(self) -> BlockRecord:
        """Threshold, halo and block shape."""
        return {
            "threshold": self.threshold,
            "halo": list(self.zones.halo),
            "upstream": self.upstream,
            "block_shape": list(self.fragments.grid.block_shape),
        }

    def run(self, block: Block) -> BlockRecord:
        """Find one block's overlaps."""
        pairs, numbers = [np.empty((0, 2), np.uint32)], [np.empty(0, np.int64)]
        refused = 0
        for offset, neighbour in self.fragments.grid.neighbours(block):
            # a neighbour that failed has found nothing
            if offset < (0, 0, 0) or self.fragments.pass_of(neighbour) is None:
                continue
            z, y, x = (-o for o in offset)
            own, n_own = self.zones.shared(block, offset)
            other, n_other = self.zones.shared(neighbour, (z, y, x))
            found = overlaps(own, other, self.threshold)
            # labels that lie in the halo alone have had their part, and unite nothing
            written = (found.pairs <= (n_own, n_other)).all(axis=1)
            pairs.append(found.pairs[written])
            numbers.append(np.full(len(pairs[-1]), neighbour.number, np.int64))
            refused += found.refused
        path = record_path(self.folder / self.name, block)
        united = np.concatenate(pairs)
        digest = write_record(path, pairs=united, neighbour=np.concatenate(numbers))
        return {"digest": digest, "overlaps": len(united), "refused": refused}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's overlaps are intact."""
        return bool(record_digest(record_path(self.folder / self.name, block)) == record["digest"])
