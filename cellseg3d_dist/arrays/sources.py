"""What block tasks read: regions of a Dask array or of a stored volume.

A block's halo is read in one place, :meth:`Source.read`. A stored volume is read by the
block's task itself. Of a Dask array the task is given every chunk that meets its read
region, whole::

    chunks        |  A  |  B  |  C  |
    block B           |<- read ->|         one task, given A, B and C

so a neighbourhood costs one task per block, where ``map_overlap`` makes 24 to 41 (a slice
for each neighbour and pieces to join them), and a halo may be larger than a chunk.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from cellseg3d_dist.errors import ConfigError, VolumeError
from cellseg3d_dist.grid import Block, Region, Triple
from cellseg3d_dist.volumes import Volume, open_volume
from cellseg3d_dist.volumes.storage import native

Array = npt.NDArray[Any]
Image = Any
"""A dask array, a Volume, a path, a Zarr array or an ndarray."""
Spacing = tuple[float, float, float]
Reader = Callable[..., Array]
Key = Hashable

#: Voxels of a block of a stored volume where the caller names no chunks.
AUTO_VOXELS = 1 << 23


@dataclass(frozen=True)
class Cut:
    """Chunks of a volume, of any sizes along each axis, as blocks."""

    chunks: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @property
    def shape(self) -> Triple:
        """Of the volume."""
        z, y, x = (sum(axis) for axis in self.chunks)
        return (z, y, x)

    @property
    def counts(self) -> Triple:
        """Blocks along each axis."""
        z, y, x = (len(axis) for axis in self.chunks)
        return (z, y, x)

    @cached_property
    def bounds(self) -> tuple[tuple[int, ...], ...]:
        """Where blocks begin along each axis, and the volume's end."""
        return tuple(tuple(itertools.accumulate(axis, initial=0)) for axis in self.chunks)

    def block(self, index: Triple) -> Block:
        """The block at this index."""
        return Block(self.number(index), index, self.region(index))

    def region(self, index: Triple) -> Region:
        """Voxels of the block at this index."""
        z, y, x = index
        in_z, in_y, in_x = self.bounds
        stop = (in_z[z + 1], in_y[y + 1], in_x[x + 1])
        return Region((in_z[z], in_y[y], in_x[x]), stop)

    def number(self, index: Triple) -> int:
        """Raveled number of the block at this index."""
        _, ny, nx = self.counts
        return (index[0] * ny + index[1]) * nx + index[2]

    def joined(self, least: Triple) -> Cut:
        """The same cut, neighbours joined until they are no thinner than ``least``.

        What is left at the end of an axis stays as it is: equal chunks stay equal.
        """
        z, y, x = (_joined(axis, n) for axis, n in zip(self.chunks, least, strict=True))
        return Cut((z, y, x))

    def blocks(self) -> Iterator[Block]:
        """All blocks by number."""
        for z, y, x in itertools.product(*(range(n) for n in self.counts)):
            yield self.block((z, y, x))

    def overlapping(self, region: Region) -> Iterator[Triple]:
        """Indices of the blocks that have a voxel in ``region``."""
        z, y, x = (
            range(bisect_right(b, start) - 1, bisect_left(b, stop))
            for b, start, stop in zip(self.bounds, region.start, region.stop, strict=True)
        )
        return itertools.product(z, y, x)

    def neighbours_after(self, block: Block, reach: int) -> Iterator[tuple[Triple, Triple]]:
        """Offset and index of the neighbours of higher number, across up to ``reach`` axes."""
        for a, b, c in itertools.product((-1, 0, 1), repeat=3):
            offset = (a, b, c)
            z, y, x = (i + o for i, o in zip(block.index, offset, strict=True))
            inside = all(0 <= i < n for i, n in zip((z, y, x), self.counts, strict=True))
            if inside and offset > (0, 0, 0) and sum(map(abs, offset)) <= reach:
                yield offset, (z, y, x)

    def owners(self, z: Array, y: Array, x: Array) -> npt.NDArray[np.int64]:
        """Number of the block that holds each of these voxels."""
        index = [
            np.searchsorted(b, v, "right") - 1 for b, v in zip(self.bounds, (z, y, x), strict=True)
        ]
        return np.ravel_multi_index(tuple(index), self.counts).astype(np.int64)


def _joined(sizes: tuple[int, ...], least: int) -> tuple[int, ...]:
    out: list[int] = []
    for size in sizes:
        if out and out[-1] < least:
            out[-1] += size
        else:
            out.append(size)
    return tuple(out)


@dataclass(frozen=True)
class _FromVolume:
    volume: Volume
    region: Region

    def __call__(self) -> Array:
        return usable(self.volume.read(self.region))


@dataclass(frozen=True)
class _FromChunks:
    """Puts together a region of the chunks that meet it; ``places`` are their regions."""

    region: Region
    places: tuple[Region, ...]

    def __call__(self, *chunks: Any) -> Array:
        for chunk, place in zip(chunks, self.places, strict=True):
            if chunk.shape != place.shape:
                raise VolumeError(
                    f"the chunk at voxel {place.start} has shape {chunk.shape}, its Dask array "
                    f"says {place.shape}. Declare the chunks that are computed."
                )
        if self.places == (self.region,):
            return usable(np.asarray(chunks[0]))
        out = np.empty(self.region.shape, np.result_type(*chunks))
        for chunk, place in zip(chunks, self.places, strict=True):
            common = place.intersect(self.region)
            out[common.within(self.region).slices] = chunk[common.within(place).slices]
        return usable(out)


def usable(image: Array) -> Array:
    """In native byte order; floats as float32, where what is not finite becomes 0."""
    image = native(image)
    if image.dtype.kind != "f":
        return image
    finite = np.isfinite(image)
    return image if finite.all() else np.where(finite, image, np.float32(0))


@dataclass(frozen=True, eq=False)
class Source:
    """An image and the blocks to compute it in, which need not be its chunks.

    Attributes
    ----------
    image : Volume or dask.array.Array
    name : str
        Changes with what is read.
    voxel_size : (z, y, x) in micrometres, or None where it is not known
    cut_given : bool
        Whether the caller chose the blocks.
    """

    image: Any
    name: str
    dtype: np.dtype[Any]
    voxel_size: Spacing | None
    cut: Cut
    cut_given: bool

    @property
    def token(self) -> str:
        """Changes with what is read, and in which blocks."""
        return str(tokenize(self.name, self.cut.chunks))

    def for_halo(self, halo: Triple) -> Source:
        """With blocks no thinner than this halo, unless the caller chose them.

        A stack of planes in chunks of one plane would be computed many times over.
        """
        return self if self.cut_given else replace(self, cut=self.cut.joined(halo))

    def read(self, region: Region, halo: Triple = (0, 0, 0)) -> tuple[Reader, list[Key]]:
        """A function that returns ``region`` with its halo, and the keys of its arguments.

        The halo is cut at the volume's faces, so that filters clamp nowhere else.
        """
        region = region.expand(halo, self.cut.shape)
        if isinstance(self.image, Volume):
            return _FromVolume(self.image, region), []
        indices = list(self._chunks.overlapping(region))
        places = tuple(self._chunks.region(index) for index in indices)
        return _FromChunks(region, places), [(self.image.name, *index) for index in indices]

    @cached_property
    def _chunks(self) -> Cut:
        return Cut(self.image.chunks)

    @property
    def collections(self) -> list[Any]:
        """Dask collections that the keys belong to."""
        return [] if isinstance(self.image, Volume) else [self.image]


def source_of(
    image: Image, voxel_size: Sequence[float] | None = None, chunks: Any = None
) -> Source:
    """An image of any kind, checked.

    Raises
    ------
    ConfigError
        If it is not 3D, has no voxels, unknown chunk sizes or no real numbers.
    VolumeError
        If a stored image cannot be opened.
    """
    if isinstance(image, np.ndarray):
        image = da.from_array(image, chunks=chunks or "auto")
    elif not isinstance(image, da.Array | Volume):
        image = open_volume(image, voxel_size=voxel_size)
    if len(image.shape) != 3:
        raise ConfigError(
            f"an array of shape {image.shape} is not 3D. Give one channel as (z, y, x)."
        )
    if any(math.isnan(n) for n in image.shape):
        raise ConfigError("the array's chunk sizes are unknown. Call compute_chunk_sizes() first.")
    if 0 in image.shape:
        raise ConfigError(f"an array of shape {image.shape} has no voxels.")
    if image.dtype.kind not in "buif":
        raise ConfigError(f"an array of {image.dtype} has no real numbers.")
    size = None if voxel_size is None else checked_spacing(voxel_size)
    if isinstance(image, Volume):
        cut = _blocks(image, chunks, image.chunk_shape, AUTO_VOXELS)
        name, size = image.fingerprint(), size or image.voxel_size
    else:
        if any(0 in axis for axis in image.chunks):
            image = image.rechunk(tuple(tuple(n for n in axis if n) for axis in image.chunks))
        cut = Cut(image.chunks) if chunks is None else _blocks(image, chunks, image.chunks, None)
        name = image.name
    return Source(image, name, image.dtype, size, cut, chunks is not None)


def checked_spacing(voxel_size: Sequence[float]) -> Spacing:
    """Three positive numbers.

    Raises
    ------
    ConfigError
        If they are not.
    """
    sizes = tuple(float(value) for value in voxel_size)
    if len(sizes) != 3 or not all(math.isfinite(value) and value > 0 for value in sizes):
        raise ConfigError(
            f"voxel_size {sizes} must be three numbers above 0, (z, y, x) in micrometres."
        )
    return (sizes[0], sizes[1], sizes[2])


def _blocks(image: Any, chunks: Any, stored: Any, limit: int | None) -> Cut:
    try:
        found = da.core.normalize_chunks(
            "auto" if chunks is None else chunks,
            image.shape,
            limit=limit,
            dtype=np.uint8 if limit else image.dtype,
            previous_chunks=stored,
        )
    except (ValueError, TypeError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"chunks {chunks} do not fit the shape {image.shape}: {said}") from None
    z, y, x = (tuple(int(n) for n in axis if n) for axis in found)
    return Cut((z, y, x))


def lazy_array(
    name: str, tasks: Mapping[Key, Any], reads: Sequence[Any], cut: Cut | None, dtype: Any
) -> Any:
    """Tasks as a dask array of this cut, or of no dimension; ``reads`` are collections."""
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=reads)
    return da.Array(graph, name, chunks=cut.chunks if cut else (), dtype=dtype)
