"""Curves: each tile's equalisation curve, from the tile's histogram over the whole tile.

Blocks of this stage are whole tiles, whatever the run's cut, so that nothing is summed
across blocks.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.memory import PIECE
from cellseg3d_dist.engine.records import read_record, record_digest, record_path, write_record
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.grid import Block, BlockGrid, Region, Triple
from cellseg3d_dist.preprocessing import TileGrid
from cellseg3d_dist.preprocessing.equalisation import N_BINS, Curves, curve, histogram

#: Voxels along each axis that are read at a time, and that a block has where tiles are small.
SIDE = PIECE


def tile_blocks(tiles: TileGrid) -> BlockGrid:
    """Blocks of whole tiles."""
    z, y, x = (max(1, SIDE // t) * t for t in tiles.tile)
    return BlockGrid(tiles.shape, (z, y, x))


@dataclass(frozen=True)
class MakeCurves:
    """Counts the tiles that begin in a block, each voxel by voxel, and keeps their curves.

    Attributes
    ----------
    image : ImageInput
        After the steps that come before the equalisation.
    clip, low, high : float
        See :mod:`cellseg3d_dist.preprocessing.equalisation`.
    """

    image: ImageInput
    tiles: TileGrid
    folder: Path
    clip: float
    low: float
    high: float
    name: str = "clahe"

    @property
    def grid(self) -> BlockGrid:
        """Its own blocks."""
        return tile_blocks(self.tiles)

    def decides(self) -> BlockRecord:
        """Tiles, limit and range."""
        return {
            "tile": list(self.tiles.tile),
            "clip": self.clip,
            "low": self.low,
            "high": self.high,
        }

    def run(self, block: Block) -> BlockRecord:
        """Make the curves of one block's tiles."""
        own = self.tiles.starting_in(block.write_region)
        counts = np.zeros((*own.shape, N_BINS), np.int64)
        curves = np.empty((*own.shape, N_BINS + 1), np.float32)
        if not own.is_empty:
            self._count(own, counts)
        for index in np.ndindex(*own.shape):
            curves[index] = curve(counts[index], self.clip)
        return {"digest": write_record(record_path(self.folder, block), curves=curves)}

    def _count(self, own: Region, counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> None:
        z, y, x = (n - 1 for n in own.stop)
        hull = Region(self.tiles.region(own.start).start, self.tiles.region((z, y, x)).stop)
        for piece in BlockGrid(hull.shape, (SIDE, SIDE, SIDE)).blocks():
            region = piece.write_region.shift(hull.start)
            image = self.image.read(region)
            within = self.image.within(region)
            for index in np.ndindex(*own.shape):
                a, b, c = (i + s for i, s in zip(index, own.start, strict=True))
                part = self.tiles.region((a, b, c)).intersect(region)
                if part.is_empty:
                    continue
                slices = part.within(region).slices
                values = image[slices] if within is None else image[slices][within[slices]]
                counts[index] += histogram(values, self.low, self.high)

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's curves are intact."""
        return bool(record_digest(record_path(self.folder, block)) == record["digest"])


@dataclass(frozen=True)
class StoredCurves:
    """Curves on disk.

    Attributes
    ----------
    key : str
        Tells the curves of one run from those of another in the same folder.
    """

    tiles: TileGrid
    folder: Path
    key: str

    def read(self, tiles: Region) -> Curves:
        """Curves (kz, ky, kx, bins + 1) of a box of tiles."""
        grid = tile_blocks(self.tiles)
        out = np.empty((*tiles.shape, N_BINS + 1), np.float32)
        z, y, x = (i * t for i, t in zip(tiles.start, self.tiles.tile, strict=True))
        a, b, c = ((i - 1) * t + 1 for i, t in zip(tiles.stop, self.tiles.tile, strict=True))
        for block in grid.overlapping(Region((z, y, x), (a, b, c))):
            there = self.tiles.starting_in(block.write_region)
            both = there.intersect(tiles)
            curves = _stored(record_path(self.folder, block), self.key)
            out[both.within(tiles).slices] = curves[both.within(there).slices]
        return out


@functools.lru_cache(maxsize=128)
def _stored(path: Path, key: str) -> Curves:
    curves: Curves = read_record(path)["curves"]
    return curves


def curve_bytes(tiles: TileGrid, read: Triple) -> int:
    """Bytes of the curves that a region of this shape goes through."""
    return 4 * (N_BINS + 1) * prod(n // t + 3 for n, t in zip(read, tiles.tile, strict=True))
