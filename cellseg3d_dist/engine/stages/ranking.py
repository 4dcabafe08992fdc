"""The last stages of a merge on the workers: from names of cells to final ids.

They follow those of :mod:`cellseg3d_dist.engine.stages.merging`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.groups import Groups
from cellseg3d_dist.engine.records import file_digest, record_digest, write_record
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.engine.tables import save_table, table
from cellseg3d_dist.grid import Block
from cellseg3d_dist.merging.union_find import NO_CELL, Limits, label_dtype


@dataclass(frozen=True)
class Cells:
    """Give a group's roots the names of their cells, and keep those to be ranked.

    ``spanning-ids``, ``spanning-names`` and ``spanning-counted`` in the groups' folder are
    the tables of what the driver united.

    Attributes
    ----------
    limits : Limits
    united : str
        Digest of these tables.
    """

    groups: Groups
    limits: Limits
    united: str
    name: str

    def decides(self) -> BlockRecord:
        """What was united, and the limits of size."""
        limits = [self.limits.min_volume, self.limits.max_volume]
        return {**self.groups.decides(), "united": self.united, "limits": limits}

    def run(self, block: Block) -> BlockRecord:
        """Do one group."""
        found = self.groups.read("roots", block.number)
        names, sizes = found["names"].copy(), found["sizes"]
        first = table(self.groups.folder, "first-roots")
        low, high = int(first[block.number]), int(first[block.number + 1])
        ids, theirs, counted = (
            table(self.groups.folder, f"spanning-{part}") for part in ("ids", "names", "counted")
        )
        span = slice(*np.searchsorted(ids, (low, high)))
        at, alone = ids[span] - low, np.ones(names.size, np.bool_)
        alone[at] = False
        small = alone & (sizes < self.limits.least)
        large = alone & (sizes > self.limits.most)
        names[small | large] = NO_CELL
        owned = np.concatenate((names[alone & ~small & ~large], theirs[span][counted[span]]))
        names[at] = theirs[span]
        owned.sort()
        path = self.groups.path("cells", block)
        save_table(self.groups.folder / "owned", str(block.number), owned)
        return {
            "cells": write_record(path, names=names),
            "owned": file_digest(self.groups.folder / "owned" / f"{block.number}.npy"),
            "n": int(owned.size),
            "too_small": int(np.count_nonzero(small)),
            "too_large": int(np.count_nonzero(large)),
        }

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether what the group wrote is intact."""
        owned = file_digest(self.groups.folder / "owned" / f"{block.number}.npy")
        cells = record_digest(self.groups.path("cells", block))
        return bool(owned == record["owned"] and cells == record["cells"])


@dataclass(frozen=True)
class Rank:
    """Sort the names of all groups' cells within a range.

    The table ``splitters`` in the groups' folder has the first name of each range but
    the first.
    """

    cells: Cells
    name: str

    def decides(self) -> BlockRecord:
        """What was united, and the limits of size."""
        return self.cells.decides()

    def run(self, block: Block) -> BlockRecord:
        """Do one range."""
        folder = self.cells.groups.folder
        splitters = table(folder, "splitters")
        ends = splitters[max(block.number - 1, 0) : block.number + 1]
        parts = [np.empty(0, np.uint64)]
        for group in self.cells.groups.all:
            owned = _mapped(folder / "owned" / f"{group.number}.npy")
            cuts = np.searchsorted(owned, ends)
            low = cuts[0] if block.number else 0
            high = cuts[-1] if block.number < splitters.size else owned.size
            parts.append(np.array(owned[low:high]))
        names = np.sort(np.concatenate(parts))
        save_table(folder / "ranked", str(block.number), names)
        return {"digest": file_digest(self._path(block)), "n": int(names.size)}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the names of the range are intact."""
        return bool(file_digest(self._path(block)) == record["digest"])

    def _path(self, block: Block) -> Path:
        return self.cells.groups.folder / "ranked" / f"{block.number}.npy"


@dataclass(frozen=True)
class Final:
    """Final ids of a group's fragments: the places of their cells' names in order.

    The table ``first-ranks`` in the groups' folder says how many names come before each
    range, and in the end how many there are.
    """

    cells: Cells
    name: str

    def decides(self) -> BlockRecord:
        """What was united, and the limits of size."""
        return self.cells.decides()

    def run(self, block: Block) -> BlockRecord:
        """Do one group."""
        groups = self.cells.groups
        splitters, first = table(groups.folder, "splitters"), table(groups.folder, "first-ranks")
        names = groups.read("cells", block.number)["names"]
        order = np.argsort(names)
        wanted = names[order]
        n_kept = int(np.searchsorted(wanted, NO_CELL))
        cuts = [0, *np.searchsorted(wanted[:n_kept], splitters), n_kept]
        ids = np.zeros(names.size, label_dtype(int(first[-1])))
        for part in range(first.size - 1):
            rows = slice(cuts[part], cuts[part + 1])
            if rows.stop > rows.start:
                ranked = _mapped(groups.folder / "ranked" / f"{part}.npy")
                ids[order[rows]] = first[part] + 1 + np.searchsorted(ranked, wanted[rows])
        save_table(
            groups.folder / "final",
            str(block.number),
            ids[groups.read("roots", block.number)["root"]],
        )
        return {"digest": file_digest(self._path(block))}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the final ids are intact."""
        return bool(file_digest(self._path(block)) == record["digest"])

    def _path(self, block: Block) -> Path:
        return self.cells.groups.folder / "final" / f"{block.number}.npy"


def _mapped(path: Path) -> npt.NDArray[Any]:
    """An array of which only what is looked at is read, and which is let go afterwards."""
    mapped: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    return mapped
