"""A 3D image to read from, wherever it is stored."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import zarr

from cellseg3d_dist.errors import ConfigError, VolumeError
from cellseg3d_dist.grid import Region, Triple
from cellseg3d_dist.volumes.multiscales import Size
from cellseg3d_dist.volumes.storage import is_url, naming_errors, native, open_zarr, read_bytes

Kind = Literal["zarr", "tiff", "hdf5", "array"]

_MOST_FILES = 20_000


class Source(Protocol):
    """Where voxels come from; picklable, opened lazily in each process."""

    def read(self, region: Region, channel: int, time: int) -> np.ndarray[Any, Any]:
        """Voxels of a region of the stored level, (z, y, x), in the type of the volume."""

    def signature(self, *, files: bool) -> list[Any]:
        """What changes when the metadata or, with ``files``, the stored data change; JSON."""


@dataclass(frozen=True)
class Volume:
    """A 3D image: one channel, time and level of what is stored, or a region of it.

    It holds no voxels and can be sent to workers, which open it themselves, once per
    process. Made by :func:`open_volume`.

    Attributes
    ----------
    location
        Path or URL as given, made absolute; ``"<memory>"`` for an array.
    shape
        Voxels in (z, y, x).
    dtype
        Type that :meth:`read` returns, native byte order: integers as stored, bool as uint8,
        float16 and float64 as float32.
    voxel_size, origin
        Micrometres in (z, y, x); the origin is the centre of voxel (0, 0, 0).
    offset
        Where voxel (0, 0, 0) lies in the stored level; not zero where a region was given.
    channels
        Names of all channels; ``channel`` is the one read by default.
    chunk_shape
        The stored unit of reading in (z, y, x).
    is_label
        Whether the metadata say that it is a label image.
    n_times
        Time points that are stored.
    """

    location: str
    shape: Triple
    dtype: np.dtype[Any]
    voxel_size: Size
    origin: Size
    offset: Triple
    channels: tuple[str, ...]
    channel: int
    time: int
    level: int
    chunk_shape: Triple
    kind: Kind
    source: Source = field(repr=False)
    is_label: bool = False
    n_times: int = 1

    def read(self, region: Region, channel: int | None = None) -> np.ndarray[Any, Any]:
        """Voxels of a region.

        Parameters
        ----------
        region
            In voxels of this volume, inside its shape.
        channel
            Another channel than :attr:`channel`.

        Returns
        -------
        ndarray
            (z, y, x), of :attr:`dtype`, C-contiguous, the caller's own.

        Raises
        ------
        VolumeError
            If stored bytes cannot be decoded; names the array and the region. Chunks that
            were never written are the array's fill value, as Zarr defines it.
        EnvironmentFailedError
            If disk or network failed.
        """
        check_region(self.location, region, self.shape)
        chosen = (
            self.channel
            if channel is None
            else check_channel(self.location, channel, len(self.channels))
        )
        if region.is_empty:
            return np.empty(region.shape, self.dtype)
        return self.source.read(region.shift(self.offset), chosen, self.time)

    def crop(self, region: Region) -> Volume:
        """The same volume restricted to a region of it; nothing is read.

        Raises
        ------
        ConfigError
            If the region is not inside.
        """
        check_region(self.location, region, self.shape)
        z, y, x = (
            o + s * v for o, s, v in zip(self.origin, region.start, self.voxel_size, strict=True)
        )
        a, b, c = (o + s for o, s in zip(self.offset, region.start, strict=True))
        return replace(self, shape=region.shape, origin=(z, y, x), offset=(a, b, c))

    def fingerprint(self, *, files: bool = True) -> str:
        """Hash of what this volume is: 32 hexadecimal digits.

        From location, metadata and the sizes and times of the files (the first 20,000), so it
        costs no reading of voxels; an array in memory is hashed whole. Without ``files`` only
        from location and metadata.
        """
        said = [
            self.location,
            self.shape,
            str(self.dtype),
            self.voxel_size,
            self.origin,
            self.offset,
            self.channel,
            self.time,
            self.level,
            self.source.signature(files=files),
        ]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def check_region(location: str, region: Region, shape: Triple) -> None:
    """Refuse a region that is not inside a shape.

    Raises
    ------
    ConfigError
        With both.
    """
    axes = zip(region.start, region.stop, shape, strict=True)
    if not all(0 <= start <= stop <= n for start, stop, n in axes):
        raise ConfigError(
            f"region {region_text(region)} is not inside {location}, which has shape {shape}."
        )


def region_text(region: Region) -> str:
    """A region as the command line writes it, ``z0:z1,y0:y1,x0:x1``."""
    return ",".join(f"{a}:{b}" for a, b in zip(region.start, region.stop, strict=True))


def check_channel(location: str, channel: int, n_channels: int) -> int:
    """Refuse a channel that is not there.

    Raises
    ------
    ConfigError
        With the range.
    """
    if not 0 <= channel < n_channels:
        raise ConfigError(
            f"channel {channel} is not in {location}; its channels are 0 to {n_channels - 1}."
        )
    return channel


@dataclass(frozen=True)
class ZarrSource:
    """A stored Zarr array with its axes, e.g. ``tczyx``; opened once per process."""

    location: str
    axes: str
    metadata: tuple[str, ...] = ()

    def read(self, region: Region, channel: int, time: int) -> np.ndarray[Any, Any]:
        """Voxels of a region of the array."""
        with naming_errors(f"{self.location}, region {region_text(region)} cannot be read"):
            array = open_zarr(self.location)
            return _select(array, self.axes, region, channel, time)

    def signature(self, *, files: bool) -> list[Any]:
        """Metadata files, and the size and time of each chunk file."""
        said: list[Any] = [self.location, self.axes]
        for folder in (*self.metadata, self.location):
            for name in ("zarr.json", ".zarray", ".zattrs"):
                raw = read_bytes(folder, name)
                said.append(None if raw is None else hashlib.sha256(raw).hexdigest())
        if files and not is_url(self.location):
            said += file_stamps(Path(self.location))
        return said


@dataclass(frozen=True, eq=False)
class ArraySource:
    """An ndarray, or a Zarr array whose store has no path."""

    array: Any
    axes: str

    def read(self, region: Region, channel: int, time: int) -> np.ndarray[Any, Any]:
        """Voxels of a region of the array; a copy."""
        with naming_errors(f"array in memory, region {region_text(region)} cannot be read"):
            part = _select(self.array, self.axes, region, channel, time)
        return part.copy() if np.may_share_memory(part, self._memory()) else part

    def signature(self, *, files: bool) -> list[Any]:
        """Hash of all bytes of an ndarray; metadata of a Zarr array, name of a dask array."""
        if isinstance(self.array, zarr.Array):
            return [str(self.array.metadata.to_dict())]
        if hasattr(self.array, "__dask_graph__"):
            return [str(self.array.name)]
        return [hashlib.blake2b(np.ascontiguousarray(self.array).view(np.uint8).data).hexdigest()]

    def _memory(self) -> np.ndarray[Any, Any]:
        return self.array if isinstance(self.array, np.ndarray) else np.empty(0)

    def __reduce__(self) -> Any:
        raise VolumeError(
            "an array in memory is not sent to other processes. Store it first, as Zarr or TIFF, "
            "and give the path."
        )


def _select(array: Any, axes: str, region: Region, channel: int, time: int) -> np.ndarray[Any, Any]:
    """Index any order of axes and bring the result to (z, y, x)."""
    where: dict[str, Any] = dict(zip("zyx", region.slices, strict=True))
    where |= {"c": channel, "t": time}
    part = np.asarray(array[tuple(where[axis] for axis in axes)])
    kept = [axis for axis in axes if axis in "zyx"]
    part = part.transpose([kept.index(axis) for axis in "zyx"])
    if part.shape != region.shape:
        raise ValueError(f"got shape {part.shape} instead of {region.shape}")
    return native(part)


def file_stamps(folder: Path) -> list[Any]:
    """Relative path, size and time of the files in a folder, in order, up to 20,000."""
    stamps: list[Any] = []
    pending = [folder]
    while pending and len(stamps) < _MOST_FILES:
        current = pending.pop()
        with naming_errors(f"{current} cannot be listed"), os.scandir(current) as entries:
            for entry in sorted(entries, key=lambda item: item.name):
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                elif len(stamps) < _MOST_FILES:
                    found = entry.stat()
                    name = str(Path(entry.path).relative_to(folder))
                    stamps.append([name, found.st_size, found.st_mtime_ns])
    return stamps
