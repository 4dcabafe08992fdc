"""Handles on what this package writes: small, frozen, picklable, opened in each process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cellseg3d_dist.errors import VolumeError
from cellseg3d_dist.grid import BlockGrid, Region, Triple, ceil_div
from cellseg3d_dist.volumes.multiscales import Size
from cellseg3d_dist.volumes.pyramid import ImageKind, downsample, source_region
from cellseg3d_dist.volumes.storage import DATA_ERRORS, naming_errors, open_zarr
from cellseg3d_dist.volumes.volume import check_region, region_text

#: Planes of the level below that are read at a time while a level is made.
_SLAB = 64


@dataclass(frozen=True)
class StoredArray:
    """One writable array of the store, cut into blocks that are written whole.

    Attributes
    ----------
    path
        Folder of the array.
    shape, block_shape, chunk_shape
        In (z, y, x). Write regions are those of :attr:`grid`.
    shard_shape
        Stored shard, a block rounded up to chunks; None without shards.
    n_channels
        Length of the leading channel axis, None without one.
    n_times, time
        Length of the leading time axis, None without one; and the time point that is read and
        written, each on its own: no shard holds two.
    """

    path: str
    shape: Triple
    dtype: np.dtype[Any]
    block_shape: Triple
    chunk_shape: Triple
    shard_shape: Triple | None
    n_channels: int | None
    zarr_format: Literal[2, 3]
    n_times: int | None = None
    time: int = 0

    @property
    def grid(self) -> BlockGrid:
        """The blocks, one per shard."""
        return BlockGrid(self.shape, self.block_shape)

    def read(
        self,
        region: Region,
        channel: int | None = None,
        *,
        missing: Literal["fill", "fail"] = "fill",
    ) -> np.ndarray[Any, Any]:
        """Voxels of any region.

        Parameters
        ----------
        region
            Inside the shape.
        channel
            One channel, (z, y, x); by default all, (c, z, y, x), where there are channels.
        missing
            Blocks that were never written are 0, or an error.

        Raises
        ------
        VolumeError
            If stored bytes cannot be decoded or fail their checksum, or with
            ``missing="fail"`` if a block was not written.
        EnvironmentFailedError
            If the disk failed.
        """
        check_region(self.path, region, self.shape)
        if missing == "fail":
            lost = self.missing(region)
            if lost:
                raise VolumeError(
                    f"{self.path}, region {region_text(lost[0])} was not written or is lost "
                    f"({len(lost)} blocks). Run that stage again."
                )
        first: tuple[int, ...] = () if self.n_channels is None else (self.n_channels,)
        leading: tuple[Any, ...] = () if self.n_channels is None else (slice(None),)
        if channel is not None and self.n_channels is not None:
            first, leading = (), (channel,)
        if self.n_times is not None:
            leading = (self.time, *leading)
        if region.is_empty:
            return np.empty((*first, *region.shape), self.dtype)
        with naming_errors(f"{self.path}, region {region_text(region)} cannot be read"):
            array = np.asarray(open_zarr(self.path, writable=True)[(*leading, *region.slices)])
            return np.ascontiguousarray(array, dtype=self.dtype)

    def write(self, region: Region, array: np.ndarray[Any, Any]) -> None:
        """Write whole blocks.

        Parameters
        ----------
        region
            Starts at a block's start and ends at a block's end or the volume's face.
        array
            (z, y, x), or (c, z, y, x) with channels; its type must fit without loss.

        Raises
        ------
        VolumeError
            If the region would cut a shard, or shape or type do not fit.
        EnvironmentFailedError
            If the disk is full or failed.
        """
        check_region(self.path, region, self.shape)
        for start, stop, block, n in zip(
            region.start, region.stop, self.block_shape, self.shape, strict=True
        ):
            if start % block or (stop % block and stop != n):
                raise VolumeError(
                    f"{self.path}, region {region_text(region)} would write part of a shard; "
                    f"write whole blocks of {self.block_shape}."
                )
        first = () if self.n_channels is None else (self.n_channels,)
        if array.shape != (*first, *region.shape):
            raise VolumeError(
                f"{self.path}, region {region_text(region)} needs an array of shape "
                f"{(*first, *region.shape)}, got {array.shape}."
            )
        if not np.can_cast(array.dtype, self.dtype, "safe"):
            raise VolumeError(
                f"{self.path} is {self.dtype}; {array.dtype} would not fit in it without loss."
            )
        if region.is_empty:
            return
        with naming_errors(f"{self.path}, region {region_text(region)} cannot be written"):
            stored = open_zarr(self.path, writable=True)
            index: tuple[Any, ...] = (*(slice(None) for _ in first), *region.slices)
            if self.n_times is not None:
                index = (self.time, *index)
            try:
                stored[index] = array
            except DATA_ERRORS:
                # what reaches over the volume's face is read before it is written: where that
                # is damaged it gives way
                for file in self._files(region):
                    file.unlink(missing_ok=True)
                stored[index] = array

    def missing(self, region: Region | None = None) -> list[Region]:
        """Write regions of blocks in ``region`` (default all) that were never written.

        A written block always has its file, also where it is all background.
        """
        region = Region.whole(self.shape) if region is None else region
        blocks = self.grid.overlapping(region)
        return [b.write_region for b in blocks if not self._file(b.write_region).exists()]

    def _file(self, region: Region) -> Path:
        return next(self._files(region))

    def _files(self, region: Region) -> Iterator[Path]:
        """Stored units that a region has a part in, its first voxel's first."""
        unit = self.shard_shape or self.chunk_shape
        # where an axis has one block, its start is 0 whatever the stored unit
        ranges = [
            range(start // n, ceil_div(stop, n))
            for start, stop, n in zip(region.start, region.stop, unit, strict=True)
        ]
        if self.n_channels is not None:
            ranges.insert(0, range(self.n_channels if self.zarr_format == 2 else 1))
        if self.n_times is not None:
            ranges.insert(0, range(self.time, self.time + 1))
        for index in itertools.product(*ranges):
            prefix = ["c"] if self.zarr_format == 3 else []
            yield Path(self.path, *prefix, *map(str, index))


@dataclass(frozen=True)
class StoredImage:
    """An OME-Zarr image that is being written: its levels and how they follow each other.

    Attributes
    ----------
    levels
        Level 0 first.
    factors
        From each level to the next, in (z, y, x).
    voxel_size, origin
        Of level 0, in micrometres.
    first_time
        What the first of several time points is called.
    """

    path: str
    levels: tuple[StoredArray, ...]
    factors: tuple[Triple, ...]
    voxel_size: Size
    origin: Size
    kind: ImageKind
    channels: tuple[str, ...] | None = field(default=None)
    first_time: int = 0

    def at(self, time: int) -> StoredImage:
        """The same image, of which one time point is read and written."""
        return replace(self, levels=tuple(replace(level, time=time) for level in self.levels))

    def level_geometry(self, level: int) -> tuple[Size, Size]:
        """Voxel size and origin of a level in micrometres; the origin moves with the mean."""
        size, origin = list(self.voxel_size), list(self.origin)
        for factors in self.factors[:level]:
            for axis, factor in enumerate(factors):
                origin[axis] += (factor - 1) / 2 * size[axis]
                size[axis] *= factor
        return (size[0], size[1], size[2]), (origin[0], origin[1], origin[2])

    def sweep(self) -> None:
        """Remove files that writers who were killed had begun; none may be at work."""
        for path in Path(self.path).rglob("*.partial"):
            path.unlink(missing_ok=True)

    def source_region(self, level: int, region: Region) -> Region:
        """The voxels of ``level - 1`` that a region of ``level`` is made from."""
        return source_region(region, self.factors[level - 1], self.levels[level - 1].shape)

    def write_level_block(self, level: int, region: Region) -> np.ndarray[Any, Any]:
        """Make one block of a level above 0 from the level below, write and return it.

        Parameters
        ----------
        level
            1 or above; the level below must be complete.
        region
            A write region of ``levels[level].grid``.
        """
        array = self.levels[level]
        first = () if array.n_channels is None else (array.n_channels,)
        made = np.empty((*first, *region.shape), array.dtype)
        # plane by plane of chunks: a block of all levels below would be eight times as large
        depth = max(1, _SLAB // self.factors[level - 1][0])
        for z in range(region.start[0], region.stop[0], depth):
            stop = min(z + depth, region.stop[0])
            slab = Region((z, *region.start[1:]), (stop, *region.stop[1:]))
            below = self.levels[level - 1].read(self.source_region(level, slab))
            planes = slice(z - region.start[0], stop - region.start[0])
            made[..., planes, :, :] = downsample(below, self.factors[level - 1], self.kind)
        array.write(region, made)
        return made
