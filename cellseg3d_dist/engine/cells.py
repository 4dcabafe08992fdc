"""Cells as blocks read them: fragments through the lookup of a merge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.tables import table
from cellseg3d_dist.grid import Block, Region
from cellseg3d_dist.instances.clean_up.holes import OPEN

#: 0 is background, i the cell ``ids[i - 1]``.
Labels = npt.NDArray[np.int32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StoredCells:
    """Fragments and the lookup that makes cells of them.

    Attributes
    ----------
    lookup : Path
        Folder with ``final.npy`` and ``offsets.npy``.
    key : str
        Digest of both.
    """

    fragments: Fragments
    lookup: Path
    key: str

    def ids_of(self, block: Block) -> Ids:
        """Id of the cell of each of a block's fragments, 0 where it was dropped."""
        final, offsets = table(self.lookup, "final"), table(self.lookup, "offsets")
        own = final[offsets[block.number] : offsets[block.number + 1]]
        return np.asarray(own, np.int64)

    def read(self, region: Region) -> tuple[Labels, Ids]:
        """Cells of a region, numbered from 1, and their ids, ascending."""
        parts = []
        for block in self.fragments.grid.overlapping(region):
            found = self.fragments.read(block)
            if found is not None:
                both = block.write_region.intersect(region)
                inside = found[both.within(block.write_region).slices]
                parts.append((both.within(region).slices, inside, self.ids_of(block)))
        ids = _united(own for _, _, own in parts)
        labels = np.zeros(region.shape, np.int32)
        for slices, inside, own in parts:
            labels[slices] = _places(ids, own)[inside]
        return labels, ids

    def around(self, block: Block) -> tuple[Labels, Ids]:
        """Cells of a block and of the voxels across its faces, ``OPEN`` beyond the volume.

        The array has one voxel more on each side; its edges and corners are ``OPEN`` too.
        """
        grid, write = self.fragments.grid, block.write_region
        whole = (slice(1, -1), slice(1, -1), slice(1, -1))
        parts = []
        own = self.fragments.read(block)
        if own is not None:
            parts.append((whole, own, self.ids_of(block)))
        labels = np.full([n + 2 for n in write.shape], OPEN, np.int32)
        labels[whole] = 0
        for offset, neighbour in grid.neighbours(block):
            if sum(map(abs, offset)) != 1:
                continue
            axis = next(a for a in range(3) if offset[a])
            index = list(whole)
            index[axis] = slice(0, 1) if offset[axis] < 0 else slice(-1, None)
            slices = (index[0], index[1], index[2])
            labels[slices] = 0
            planes = self.fragments.faces(neighbour)
            if planes is not None:
                plane = planes[f"{'zyx'[axis]}{1 if offset[axis] < 0 else 0}"]
                parts.append((slices, np.expand_dims(plane, axis), self.ids_of(neighbour)))
        ids = _united(own for _, _, own in parts)
        for slices, inside, own_ids in parts:
            labels[slices] = _places(ids, own_ids)[inside]
        return labels, ids


def _united(parts: Iterable[Ids]) -> Ids:
    """Ids of all parts, ascending, each once."""
    found: Ids = np.unique(np.concatenate([np.empty(0, np.int64), *parts]))
    return found[found > 0]


def _places(ids: Ids, own: Ids) -> Labels:
    """Label of each fragment 0..n among ``ids``."""
    places = np.searchsorted(ids, own) + 1
    return np.append(0, np.where(own > 0, places, 0)).astype(np.int32)
