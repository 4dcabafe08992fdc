"""Contacts: which fragments of neighbouring blocks touch, for merging by contact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.records import (
    read_record,
    record_digest,
    record_path,
    write_record,
)
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.grid import Block
from cellseg3d_dist.instances.components import REACH
from cellseg3d_dist.merging.contacts import Pairs, contacts, side_of


@dataclass(frozen=True)
class Contacts:
    """Per block: contacts with the up to 13 neighbours that come after it.

    Attributes
    ----------
    upstream : str
        Digest of which blocks have fragments, and of what decides these where their own
        stage's journal does not say it.
    owners : Path or None
        Folder of records that say what each fragment is part of; fragments of two owners
        are no contact.
    """

    fragments: Fragments
    folder: Path
    connectivity: int
    upstream: str
    name: str = "contacts"
    owners: Path | None = None

    def decides(self) -> BlockRecord:
        """Connectivity and block shape."""
        return {
            "connectivity": self.connectivity,
            "upstream": self.upstream,
            "block_shape": list(self.fragments.grid.block_shape),
        }

    def run(self, block: Block) -> BlockRecord:
        """Find one block's contacts."""
        own = self.fragments.faces(block)
        reach = REACH[self.connectivity]
        pairs, numbers = [np.empty((0, 2), np.uint32)], [np.empty(0, np.int64)]
        for offset, neighbour in self.fragments.grid.neighbours(block):
            if own is None or offset < (0, 0, 0) or sum(map(abs, offset)) > reach:
                continue
            other = self.fragments.faces(neighbour)
            if other is None:
                continue
            z, y, x = (-o for o in offset)
            found = contacts(side_of(own, offset), side_of(other, (z, y, x)), offset, reach)
            if self.owners is not None:
                found = self._of_one_owner(found, block, neighbour)
            pairs.append(found)
            numbers.append(np.full(len(found), neighbour.number, np.int64))
        path = record_path(self.folder / self.name, block)
        merged = np.concatenate(pairs)
        digest = write_record(path, pairs=merged, neighbour=np.concatenate(numbers))
        return {"digest": digest, "contacts": len(merged)}

    def _of_one_owner(self, pairs: Pairs, block: Block, neighbour: Block) -> Pairs:
        assert self.owners is not None
        one, other = (
            read_record(record_path(self.owners, side))["owners"][pairs[:, i] - 1]
            for i, side in enumerate((block, neighbour))
        )
        kept: Pairs = pairs[one == other]
        return kept

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's contacts are intact."""
        return bool(record_digest(record_path(self.folder / self.name, block)) == record["digest"])
