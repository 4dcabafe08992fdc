"""Blocks of a volume: pure integers, no arrays, no files.

A volume is cut into blocks by one grid. Each voxel belongs to the *write region* of
exactly one block; a block reads a *read region*, its write region grown by a halo on
each side and cut at the volume's own faces::

    volume  0                                             shape
            |-----------|-----------|-----------|---------|
    block 1             |<- write ->|
                   |<-------- read ------->|
                   |halo|           | halo |

Axis order is (z, y, x) everywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.errors import ConfigError

Triple = tuple[int, int, int]


def ceil_div(a: int, b: int) -> int:
    """Smallest integer not below a / b, for non-negative a and positive b."""
    return -(-a // b)


@dataclass(frozen=True, order=True)
class Region:
    """A box of voxels, ``start`` included and ``stop`` excluded, in (z, y, x).

    >>> Region((0, 0, 0), (4, 6, 8)).expand((1, 1, 1), (5, 6, 8))
    Region(start=(0, 0, 0), stop=(5, 6, 8))
    """

    start: Triple
    stop: Triple

    @classmethod
    def whole(cls, shape: Triple) -> Region:
        """The region that covers a volume of this shape."""
        return cls((0, 0, 0), shape)

    @property
    def shape(self) -> Triple:
        """Voxels along each axis."""
        return _triple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of voxels."""
        return prod(self.shape)

    @property
    def is_empty(self) -> bool:
        """Whether any axis has no voxel."""
        return any(n <= 0 for n in self.shape)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of this region in an array of the whole volume."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return (z, y, x)

    def expand(self, halo: Triple, shape: Triple) -> Region:
        """Grow by ``halo`` on each side and cut at the faces of a volume of ``shape``."""
        return Region(
            _triple(max(0, a - h) for a, h in zip(self.start, halo, strict=True)),
            _triple(min(n, b + h) for b, h, n in zip(self.stop, halo, shape, strict=True)),
        )

    def intersect(self, other: Region) -> Region:
        """The common box; empty (with equal start and stop) where there is none."""
        start = _triple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = _triple(min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        return Region(start, _triple(max(a, b) for a, b in zip(start, stop, strict=True)))

    def shift(self, offset: Triple) -> Region:
        """Move by ``offset`` voxels."""
        return Region(
            _triple(a + o for a, o in zip(self.start, offset, strict=True)),
            _triple(b + o for b, o in zip(self.stop, offset, strict=True)),
        )

    def within(self, outer: Region) -> Region:
        """The same box in the coordinates of ``outer``, which must contain it."""
        return self.shift(_triple(-a for a in outer.start))


@dataclass(frozen=True, order=True)
class Block:
    """One cell of a :class:`BlockGrid`: its index, raveled number and write region."""

    number: int
    index: Triple
    write_region: Region

    def __str__(self) -> str:
        return f"Block {self.index}"


@dataclass(frozen=True)
class BlockGrid:
    """The cut of a volume of ``shape`` into blocks of ``block_shape``, any shape is legal.

    Write regions cover every voxel exactly once; the last block of an axis may be smaller.

    Raises
    ------
    ConfigError
        If a block shape is not positive.
    """

    shape: Triple
    block_shape: Triple

    def __post_init__(self) -> None:
        if any(n < 1 for n in self.block_shape):
            raise ConfigError(
                f"block_shape {self.block_shape} must be at least 1 voxel along each axis."
            )

    @property
    def n_blocks_per_axis(self) -> Triple:
        """Blocks along each axis; 0 along an axis of no voxels."""
        return _triple(ceil_div(n, b) for n, b in zip(self.shape, self.block_shape, strict=True))

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return prod(self.n_blocks_per_axis)

    def block(self, number: int) -> Block:
        """The block of this raveled number."""
        nz, ny, nx = self.n_blocks_per_axis
        if not 0 <= number < nz * ny * nx:
            raise IndexError(f"block {number} of {nz * ny * nx}")
        index = (number // (ny * nx), number // nx % ny, number % nx)
        start = _triple(i * b for i, b in zip(index, self.block_shape, strict=True))
        stop = _triple(
            min(n, a + b) for n, a, b in zip(self.shape, start, self.block_shape, strict=True)
        )
        return Block(number, index, Region(start, stop))

    def number(self, index: Triple) -> int:
        """Raveled number of the block at this index."""
        _, ny, nx = self.n_blocks_per_axis
        return (index[0] * ny + index[1]) * nx + index[2]

    def blocks(self) -> Iterator[Block]:
        """All blocks in raveled order."""
        return (self.block(number) for number in range(self.n_blocks))

    def read_region(self, block: Block, halo: Triple) -> Region:
        """The block's write region with halo, cut at the volume's faces."""
        return block.write_region.expand(halo, self.shape)

    def neighbours(self, block: Block) -> Iterator[tuple[Triple, Block]]:
        """The up to 26 blocks that touch this one, each with its offset (-1, 0 or 1)."""
        counts = self.n_blocks_per_axis
        for offset in itertools.product((-1, 0, 1), repeat=3):
            index = _triple(i + o for i, o in zip(block.index, offset, strict=True))
            inside = all(0 <= i < n for i, n in zip(index, counts, strict=True))
            if inside and any(offset):
                yield _triple(offset), self.block(self.number(index))

    def overlapping(self, region: Region) -> Iterator[Block]:
        """The blocks whose write region has a voxel in ``region``."""
        region = region.intersect(Region.whole(self.shape))
        if region.is_empty:
            return
        ranges = (
            range(a // b, ceil_div(e, b))
            for a, e, b in zip(region.start, region.stop, self.block_shape, strict=True)
        )
        for index in itertools.product(*ranges):
            yield self.block(self.number(_triple(index)))


class Numbered(Protocol):
    """Blocks by number."""

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        ...

    def block(self, number: int) -> Block:
        """The block of this number."""
        ...


@dataclass(frozen=True)
class JoinedGrids:
    """Blocks of several volumes, numbered one volume after the other."""

    grids: tuple[BlockGrid, ...]

    @property
    def n_blocks(self) -> int:
        """Number of blocks of all."""
        return sum(grid.n_blocks for grid in self.grids)

    def locate(self, number: int) -> tuple[int, Block]:
        """Which volume a number is of, and the block as that volume's own grid has it."""
        rest = number
        for which, grid in enumerate(self.grids):
            if 0 <= rest < grid.n_blocks:
                return which, grid.block(rest)
            rest -= grid.n_blocks
        raise IndexError(f"block {number} of {self.n_blocks}")

    def block(self, number: int) -> Block:
        """The block of this number: index and region are those in its own volume."""
        _, own = self.locate(number)
        return Block(number, own.index, own.write_region)


@dataclass(frozen=True, eq=False)
class Selection:
    """Some blocks of a grid, by ascending number; blocks are made as they are asked for."""

    grid: Numbered
    numbers: npt.NDArray[np.int64]

    @classmethod
    def all(cls, grid: Numbered) -> Selection:
        """Every block."""
        return cls(grid, np.arange(grid.n_blocks, dtype=np.int64))

    def __len__(self) -> int:
        return int(self.numbers.size)

    def __iter__(self) -> Iterator[Block]:
        return (self.grid.block(int(number)) for number in self.numbers)

    def only(self, numbers: Collection[int]) -> Selection:
        """Those that are among ``numbers``."""
        wanted = np.fromiter(numbers, np.int64, len(numbers))
        return Selection(self.grid, self.numbers[np.isin(self.numbers, wanted)])

    def without(self, numbers: Collection[int]) -> Selection:
        """Those that are not among ``numbers``."""
        unwanted = np.fromiter(numbers, np.int64, len(numbers))
        return Selection(self.grid, self.numbers[~np.isin(self.numbers, unwanted)])

    def slice(self, start: int, stop: int) -> Selection:
        """Some of them, by position."""
        return Selection(self.grid, self.numbers[start:stop])


def _triple(values: Iterator[int] | tuple[int, ...]) -> Triple:
    z, y, x = values
    return (z, y, x)
