"""Exchange: blocks with open voxels trade faces until nothing changes, then are settled."""

from __future__ import annotations

from dataclasses import dataclass

from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.front import Fronts
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.grid import Block
from cellseg3d_dist.instances.exchange import exchange_round


@dataclass(frozen=True)
class Exchange:
    """One round for every open block that may still change."""

    fragments: Fragments
    fronts: Fronts
    round_number: int

    @property
    def name(self) -> str:
        """One journal per round."""
        return f"exchange-{self.round_number}"

    def decides(self) -> BlockRecord:
        """The round, and which blocks are open."""
        return {"round": self.round_number, "upstream": self.fronts.upstream}

    def run(self, block: Block) -> BlockRecord:
        """Flood one block's open voxels again from what its neighbours show."""
        before = self.fronts.before(block, self.round_number)
        shown = {}
        for offset, neighbour in self.fragments.grid.neighbours(block):
            z, y, x = (-o for o in offset)
            shown[offset] = self.fronts.shown(neighbour, (z, y, x), self.round_number)
        is_open, levels = self.fronts.fixed(block)
        after = exchange_round(before, is_open, shown, self.fronts.growth, levels)
        if after.same_as(before):
            return {"changed": False}
        return {"changed": True, "front": self.fronts.write(block, self.round_number, after)}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's new front is intact."""
        if not record["changed"]:
            return True
        return self.fronts.intact(block, self.round_number, record["front"])


@dataclass(frozen=True)
class Settle:
    """After the last round: an open block's front becomes its fragments."""

    fragments: Fragments
    fronts: Fronts
    rounds: int
    name: str = "settle"

    def decides(self) -> BlockRecord:
        """The number of rounds, and which blocks were open."""
        return {"rounds": self.rounds, "upstream": self.fronts.upstream}

    def run(self, block: Block) -> BlockRecord:
        """Write one block's fragments."""
        front = self.fronts.before(block, self.rounds + 1)
        return self.fragments.write("settled", block, front.labels, front.names, front.arrival)

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's fragments are intact."""
        return self.fragments.intact("settled", block, record)
