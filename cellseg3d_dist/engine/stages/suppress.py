"""Suppress: which candidates are kept, decided by their own block and by exchanging states.

Each block decides what follows from the candidates it can see; a candidate that hangs on
an open one of another block waits for that block's answer. In a round every block reads
the states that the blocks around it had after the round before. The best open candidate
of the volume is decided in the next round, so rounds end, and in the greedy result of
:func:`~cellseg3d_dist.representations.suppression.suppress`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.records import read_record, record_digest, record_path, write_record
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.engine.stages.candidates import Known, inside
from cellseg3d_dist.grid import Block, Selection
from cellseg3d_dist.instances.spots import position_of_seeds
from cellseg3d_dist.merging.names import owners_of
from cellseg3d_dist.representations.polyhedra import Stencil
from cellseg3d_dist.representations.representation import Size
from cellseg3d_dist.representations.star import Star
from cellseg3d_dist.representations.suppression import (
    OPEN,
    Candidates,
    decide,
    out_of_reach,
    pairs,
)

Names = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class States:
    """States of each block's candidates, round by round, in a folder of records.

    A block has a file only for rounds that changed it, so the newest one is its state.
    """

    folder: Path

    def write(
        self, block: Block, round_number: int, names: Names, states: npt.NDArray[np.int8]
    ) -> str:
        """Write what a round made of a block's candidates; the digest."""
        return write_record(self._path(block, round_number), names=names, states=states)

    def after(self, block: Block, round_number: int) -> tuple[Names, npt.NDArray[np.int8]]:
        """Names and states of a block's candidates after a round."""
        while round_number and not self._path(block, round_number).exists():
            round_number -= 1
        arrays = read_record(self._path(block, round_number))
        return arrays["names"], arrays["states"]

    def intact(self, block: Block, round_number: int, digest: str) -> bool:
        """Whether what a round wrote is there unchanged."""
        return record_digest(self._path(block, round_number)) == digest

    def _path(self, block: Block, round_number: int) -> Path:
        return record_path(self.folder / str(round_number), block)


@dataclass(frozen=True)
class Suppress:
    """Decides what a block can tell alone, and notes what its open candidates wait for.

    Attributes
    ----------
    overlap : float
        Of :class:`~cellseg3d_dist.representations.star.StarParameters`.
    """

    known: Known
    states: States
    star: Star
    voxel_size: Size
    overlap: float
    name: str = "suppress"

    def decides(self) -> BlockRecord:
        """Candidates and overlap."""
        return {"overlap": self.overlap, "upstream": self.known.upstream}

    def stencil(self) -> Stencil:
        """The geometry of candidates, worked out once per process."""
        return self.star.stencil(self.voxel_size)

    def reaching(self, block: Block) -> Selection:
        """The blocks whose candidates can overlap one of this block's."""
        geometry = self.stencil()
        region = block.write_region.expand(geometry.overlap_halo, self.known.grid.shape)
        numbers = [other.number for other in self.known.blocks(region)]
        return Selection(self.known.grid, np.array(sorted(numbers), np.int64))

    def run(self, block: Block) -> BlockRecord:
        """Decide one block."""
        geometry, shape = self.stencil(), self.known.grid.shape
        region = block.write_region.expand(geometry.overlap_halo, shape)
        found = self.known.within(region)
        overlapping = pairs(found, geometry, self.overlap)
        safe = out_of_reach(found, region, shape, geometry)
        states = decide(found, overlapping, safe, np.full(len(found), OPEN, np.int8))
        own = inside(found, block.write_region)
        n_open = int(np.count_nonzero(states[own] == OPEN))
        record = {
            "open": n_open,
            "digest": self.states.write(block, 0, found.names[own], states[own]),
        }
        if n_open:
            record["waiting"] = self._write_waiting(block, found, overlapping, states, own)
        return record

    def _write_waiting(
        self,
        block: Block,
        found: Candidates,
        overlapping: npt.NDArray[np.int64],
        states: npt.NDArray[np.int8],
        own: npt.NDArray[np.bool_],
    ) -> str:
        """Note a block's open candidates, and the better open ones that each overlaps."""
        is_open = states == OPEN
        better, worse = overlapping.T
        rows = overlapping[is_open[better] & is_open[worse] & own[worse]]
        index = np.union1d(rows, np.flatnonzero(is_open & own))
        return write_record(
            self.waiting(block),
            names=found.names[index],
            probability=found.probability[index],
            pairs=np.searchsorted(index, rows),
            own=own[index],
        )

    def waiting(self, block: Block) -> Path:
        """File of what a block's open candidates wait for."""
        return record_path(self.states.folder / "waiting", block)

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's states, and what it waits for, are intact."""
        return self.states.intact(block, 0, record["digest"]) and (
            "waiting" not in record or record_digest(self.waiting(block)) == record["waiting"]
        )


@dataclass(frozen=True)
class SuppressAgain:
    """One round for every block with open candidates that may learn something."""

    first: Suppress
    round_number: int

    @property
    def name(self) -> str:
        """One journal per round."""
        return f"suppress-{self.round_number}"

    def decides(self) -> BlockRecord:
        """The round, and what the first pass depends on."""
        return {"round": self.round_number, **self.first.decides()}

    def run(self, block: Block) -> BlockRecord:
        """Decide one block from what the blocks around it had decided before."""
        before = self.round_number - 1
        waiting, own, overlapping = self._waiting(block)
        states = self._states(waiting.names, before)
        # only of own ones are all that are better here
        decided = decide(waiting, overlapping, own, states)
        n_open = int(np.count_nonzero(decided[own] == OPEN))
        if np.array_equal(decided[own], states[own]):
            return {"open": n_open, "digest": None}
        names, all_states = self.first.states.after(block, before)
        after = all_states.copy()
        after[np.searchsorted(names, waiting.names[own])] = decided[own]
        written = self.first.states.write(block, self.round_number, names, after)
        return {"open": n_open, "digest": written}

    def _waiting(
        self, block: Block
    ) -> tuple[Candidates, npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """Open candidates and the open ones they hang on; which are the block's; the pairs."""
        arrays = read_record(self.first.waiting(block))
        names = arrays["names"]
        positions = np.stack(position_of_seeds(names, self.first.known.grid.shape), axis=1)
        # distances have done their part
        nothing = np.empty((names.size, 0), np.uint8)
        waiting = Candidates(names, positions, arrays["probability"], nothing)
        return waiting, arrays["own"].copy(), arrays["pairs"].copy()

    def _states(self, names: Names, round_number: int) -> npt.NDArray[np.int8]:
        """States that the owners of some candidates gave them by the end of a round."""
        grid = self.first.known.grid
        states = np.empty(names.size, np.int8)
        owners = owners_of(names, grid)
        for number in np.unique(owners).tolist():
            theirs, known = self.first.states.after(grid.block(number), round_number)
            asked = owners == number
            states[asked] = known[np.searchsorted(theirs, names[asked])]
        return states

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's new states are intact."""
        return record["digest"] is None or self.first.states.intact(
            block, self.round_number, record["digest"]
        )
