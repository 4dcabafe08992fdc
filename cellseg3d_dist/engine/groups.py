"""Groups of consecutive blocks, for the merge on the workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.records import read_record, record_path
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.engine.tables import table
from cellseg3d_dist.grid import Block, BlockGrid, Selection, ceil_div

Arrays = dict[str, npt.NDArray[Any]]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """Labelled blocks in groups of consecutive ones, and what was written of each.

    Attributes
    ----------
    edges_from : Path or None
        Folder of contact records to merge by contact; None merges by name.
    folder : Path
        Of this merge alone; has the table ``blocks``, the labelled blocks' numbers.
    size : int
        Blocks in a group.
    upstream : str
        Digest of what the fragments and contacts were made from.
    """

    fragments: Fragments
    edges_from: Path | None
    folder: Path
    size: int
    upstream: str

    @property
    def numbers(self) -> Numbers:
        """Numbers of all blocks, ascending."""
        return table(self.folder, "blocks")

    @property
    def all(self) -> Selection:
        """The groups, as blocks of a grid of their own."""
        return Selection.all(BlockGrid((ceil_div(self.numbers.size, self.size), 1, 1), (1, 1, 1)))

    def blocks(self, group: int) -> Selection:
        """Blocks of a group."""
        numbers = np.array(self.numbers[group * self.size : (group + 1) * self.size])
        return Selection(self.fragments.grid, numbers)

    def has(self, blocks: Numbers) -> npt.NDArray[np.bool_]:
        """Which of these blocks are in any group."""
        numbers = self.numbers
        at = np.minimum(np.searchsorted(numbers, blocks), numbers.size - 1)
        there: npt.NDArray[np.bool_] = numbers[at] == blocks
        return there

    def place(self, blocks: Numbers) -> tuple[Numbers, Numbers]:
        """Group of each block, and its position there."""
        group, position = np.divmod(np.searchsorted(self.numbers, blocks), self.size)
        return group, position

    def path(self, part: str, group: Block) -> Path:
        """File of a part of what a group wrote."""
        return record_path(self.folder / part, group)

    def read(self, part: str, group: int) -> Arrays:
        """A part of what a group wrote."""
        return read_record(self.path(part, self.all.grid.block(group)))

    def decides(self) -> BlockRecord:
        """What was merged, and in which groups."""
        return {"upstream": self.upstream, "blocks_per_group": self.size}
