"""Open whatever a user points at: OME-Zarr, plain Zarr, TIFF, HDF5, a URL, an array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import LocalStore

from cellseg3d_dist.errors import ConfigError, VolumeError, VoxelSizeError
from cellseg3d_dist.grid import Region, Triple
from cellseg3d_dist.paths import absolute_path
from cellseg3d_dist.volumes.checks import ArrayInfo, array_info, check_separator
from cellseg3d_dist.volumes.hdf5 import hdf5_parts, hdf5_volume
from cellseg3d_dist.volumes.multiscales import (
    Multiscale,
    Size,
    check_axes,
    group_attributes,
    level_location,
    parse_multiscale,
)
from cellseg3d_dist.volumes.nested import find_image
from cellseg3d_dist.volumes.storage import (
    check_inside,
    is_url,
    join,
    open_zarr,
    parent,
    read_dtype,
)
from cellseg3d_dist.volumes.tiff import is_tiff, tiff_volume
from cellseg3d_dist.volumes.volume import (
    ArraySource,
    Kind,
    Source,
    Volume,
    ZarrSource,
    check_channel,
)

_PLAIN_AXES = {3: "zyx", 4: "czyx", 5: "tczyx"}
_CONVERT_FIRST = {".ims", ".czi", ".nd2", ".lif", ".raw", ".zip", ".npy", ".nii"}


@dataclass(frozen=True)
class _Wanted:
    """The options of :func:`open_volume`."""

    voxel_size: Size | None
    channel: int
    time: int | None
    level: int
    region: Region | None


def open_volume(
    source: str | Path | zarr.Array | np.ndarray[Any, Any],
    *,
    voxel_size: Sequence[float] | None = None,
    channel: int = 0,
    time: int | None = None,
    level: int = 0,
    region: Region | None = None,
) -> Volume:
    """Open a stored 3D image without reading its voxels.

    Parameters
    ----------
    source
        OME-Zarr 0.4 or 0.5 (a group), a Zarr array, a 3D TIFF, a folder of TIFF planes or a
        dataset of an HDF5 file (``image.h5`` or ``image.h5/name``), as path or URL (http,
        https, s3; not TIFF and HDF5); or a zarr.Array, ndarray or dask array. Axes of plain
        arrays are zyx, czyx or tczyx by their number, or Zarr 3's ``dimension_names``.
    voxel_size
        (z, y, x) in micrometres, of the level that is opened. Needed where the metadata give
        none; takes the place of what they say.
    channel
        The channel to read.
    time
        Needed where there is more than one time point.
    level
        Pyramid level, 0 is full size.
    region
        Restricts the volume to a box, in voxels of that level.

    Raises
    ------
    VolumeError
        If it cannot be opened or trusted; says which key or file, and what to do.
    ConfigError
        If an option does not fit: channel, time or region outside, voxel_size not positive.
    EnvironmentFailedError
        If disk or network failed.
    """
    wanted = _Wanted(_checked_size(voxel_size), channel, time, level, region)
    stored = location_of(source)
    if stored is not None and not isinstance(source, str | Path):
        return _cropped(_open_path(stored, wanted), wanted)
    if isinstance(source, zarr.Array):
        return _cropped(_open_array(source, wanted), wanted)
    if isinstance(source, np.ndarray) or hasattr(source, "__dask_graph__"):
        return _cropped(_open_array(source, wanted), wanted)
    if not isinstance(source, str | Path):
        raise VolumeError(
            f"a {type(source).__name__} cannot be opened; give a path, URL, Zarr array or ndarray."
        )
    location = _normalised(source)
    return _cropped(_open_path(location, wanted), wanted)


def location_of(source: Any) -> str | None:
    """Path or URL of what is stored, a zarr.Array on disk included; None for other arrays."""
    if isinstance(source, zarr.Array) and isinstance(source.store, LocalStore):
        return join(str(Path(source.store.root).absolute()), source.path).rstrip("/")
    return str(source) if isinstance(source, str | Path) else None


def _cropped(volume: Volume, wanted: _Wanted) -> Volume:
    return volume if wanted.region is None else volume.crop(wanted.region)


def _checked_size(voxel_size: Sequence[float] | None) -> Size | None:
    if voxel_size is None:
        return None
    sizes = [float(value) for value in voxel_size]
    if len(sizes) != 3 or not all(math.isfinite(value) and value > 0 for value in sizes):
        raise ConfigError(
            f"voxel_size {tuple(sizes)} must be three numbers above 0, (z, y, x) in micrometres."
        )
    return (sizes[0], sizes[1], sizes[2])


def _normalised(source: str | Path) -> str:
    text = str(source)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if is_url(text):
        return text.rstrip("/")
    if "://" in text:
        raise VolumeError(f"{text} has an unknown scheme; http, https and s3 URLs can be read.")
    return str(absolute_path(text))


def _open_path(location: str, wanted: _Wanted) -> Volume:
    if not is_url(location):
        path = Path(location)
        try:
            is_folder, exists = path.is_dir(), path.exists()
        except OSError as error:
            raise VolumeError(f"{location} cannot be looked up ({error}).") from error
        inside = None if is_folder else hdf5_parts(path)
        if inside is not None:
            return _open_hdf5(path, inside, wanted)
        if not exists:
            raise VolumeError(f"{location} does not exist.")
        if is_tiff(path):
            return _open_tiff(path, wanted)
        if not is_folder:
            hint = " Convert it to OME-Zarr or TIFF." if path.suffix in _CONVERT_FIRST else ""
            raise VolumeError(f"{location} is a file, but no TIFF that can be read.{hint}")
    info = array_info(location)
    if info is not None:
        return _open_plain(info, wanted)
    attributes = group_attributes(location)
    if attributes is None:
        raise VolumeError(
            f"{location} holds no image: no Zarr metadata (zarr.json, .zgroup or .zarray)"
            + ("." if is_url(location) else " and no TIFF planes.")
        )
    if "multiscales" not in attributes:
        return _open_path(find_image(location, attributes), wanted)
    return _open_multiscale(parse_multiscale(location, attributes), wanted)


def _open_multiscale(multiscale: Multiscale, wanted: _Wanted) -> Volume:
    level = multiscale.level(wanted.level)
    location = level_location(multiscale, level)
    check_inside(multiscale.location, location)
    info = array_info(location)
    if info is None:
        raise VolumeError(
            f"{multiscale.location} lists the level {level.path!r}, but {location} is no array."
        )
    if len(info.shape) != len(multiscale.axes):
        raise VolumeError(
            f"{location} has shape {info.shape} for the axes {''.join(multiscale.axes)!r}; "
            "metadata and array do not match."
        )
    if wanted.voxel_size is None:
        size, origin = multiscale.voxel_size(wanted.level)
    else:
        size, origin = wanted.voxel_size, (0.0, 0.0, 0.0)
    axes = "".join(multiscale.axes)
    return _zarr_volume(
        multiscale.location,
        info,
        axes,
        (size, origin),
        wanted,
        channels=multiscale.channels,
        is_label=multiscale.is_label,
        metadata=(multiscale.location,),
    )


def _open_plain(info: ArrayInfo, wanted: _Wanted) -> Volume:
    """A Zarr array by its own path; a level of an image keeps what the image says of it."""
    folder, name = parent(info.location)
    if wanted.voxel_size is None and wanted.level == 0 and folder:
        attributes = group_attributes(folder)
        if attributes and "multiscales" in attributes:
            multiscale = parse_multiscale(folder, attributes)
            for number, level in enumerate(multiscale.levels):
                if level.path == name:
                    wanted = _Wanted(None, wanted.channel, wanted.time, number, wanted.region)
                    return _open_multiscale(multiscale, wanted)
    if wanted.level != 0:
        raise VolumeError(f"{info.location} is one array, so it has no level {wanted.level}.")
    axes = _plain_axes(info)
    size = _needed_size(info.location, wanted)
    return _zarr_volume(info.location, info, axes, (size, (0.0, 0.0, 0.0)), wanted)


def _needed_size(location: str, wanted: _Wanted) -> Size:
    if wanted.voxel_size is None:
        raise VoxelSizeError(
            f"{location} is an array without a voxel size. Give voxel_size (z, y, x) in "
            "micrometres."
        )
    return wanted.voxel_size


def _plain_axes(info: ArrayInfo) -> str:
    names = info.dimension_names
    letters = [] if names is None else [str(name).lower() for name in names]
    if letters and all(letter in _PLAIN_AXES[5] and len(letter) == 1 for letter in letters):
        check_axes(info.location, tuple(letters))
        return "".join(letters)
    return _axes_by_number(info.location, info.shape)


def _axes_by_number(location: str, shape: tuple[int, ...]) -> str:
    if len(shape) not in _PLAIN_AXES:
        raise VolumeError(
            f"{location} has {len(shape)} dimensions (shape {shape}); only 3D images can be read, "
            "as zyx, czyx or tczyx."
        )
    return _PLAIN_AXES[len(shape)]


def _zarr_volume(
    location: str,
    info: ArrayInfo,
    axes: str,
    geometry: tuple[Size, Size],
    wanted: _Wanted,
    *,
    channels: tuple[str, ...] = (),
    is_label: bool = False,
    metadata: tuple[str, ...] = (),
) -> Volume:
    check_separator(info)
    opened = open_zarr(info.location)
    if tuple(opened.shape) != info.shape:
        raise VolumeError(f"{info.location} opens with shape {opened.shape}, not {info.shape}.")
    source = ZarrSource(info.location, axes, metadata)
    sizes = dict(zip(axes, info.shape, strict=True))
    chunk = dict(zip(axes, info.chunk_shape, strict=True))
    return _make_volume(
        location,
        source,
        "zarr",
        sizes,
        chunk,
        info.dtype,
        geometry,
        wanted,
        channels=channels,
        is_label=is_label,
    )


def _make_volume(
    location: str,
    source: Source,
    kind: Kind,
    sizes: dict[str, int],
    chunk: dict[str, int],
    dtype: np.dtype[Any],
    geometry: tuple[Size, Size],
    wanted: _Wanted,
    *,
    channels: tuple[str, ...] = (),
    is_label: bool = False,
) -> Volume:
    """A volume of one channel and time, chosen and checked."""
    n_channels, n_times = sizes.get("c", 1), sizes.get("t", 1)
    check_channel(location, wanted.channel, n_channels)
    names = tuple(
        channels[number] if number < len(channels) else f"channel {number}"
        for number in range(n_channels)
    )
    return Volume(
        location=location,
        shape=_zyx(sizes),
        dtype=read_dtype(dtype),
        voxel_size=geometry[0],
        origin=geometry[1],
        offset=(0, 0, 0),
        channels=names,
        channel=wanted.channel,
        time=_chosen_time(location, wanted.time, n_times),
        level=wanted.level,
        chunk_shape=_zyx(chunk),
        kind=kind,
        source=source,
        is_label=is_label,
        n_times=n_times,
    )


def _zyx(values: dict[str, int]) -> Triple:
    return (values["z"], values["y"], values["x"])


def _chosen_time(location: str, time: int | None, n_times: int) -> int:
    if time is None:
        if n_times > 1:
            raise ConfigError(
                f"{location} has {n_times} time points; give time, 0 to {n_times - 1}."
            )
        return 0
    if not 0 <= time < n_times:
        raise ConfigError(f"time {time} is not in {location}; its times are 0 to {n_times - 1}.")
    return time


def _open_array(array: Any, wanted: _Wanted) -> Volume:
    location = "<memory>"
    if wanted.level != 0:
        raise VolumeError(f"{location} is one array, so it has no level {wanted.level}.")
    if array.dtype.kind not in "buif" or array.dtype.itemsize > 8:
        raise VolumeError(
            f"{location} has the data type {array.dtype}; only bool, integers and floats of up to "
            "64 bits can be read."
        )
    axes = _axes_by_number(location, tuple(array.shape))
    sizes = dict(zip(axes, array.shape, strict=True))
    chunks = getattr(array, "chunksize", getattr(array, "chunks", array.shape))
    chunk = dict(zip(axes, chunks, strict=True))
    geometry = (_needed_size(location, wanted), (0.0, 0.0, 0.0))
    source = ArraySource(array, axes)
    return _make_volume(location, source, "array", sizes, chunk, array.dtype, geometry, wanted)


def _open_tiff(path: Path, wanted: _Wanted) -> Volume:
    if wanted.level != 0:
        raise VolumeError(f"{path} is a TIFF, so it has no level {wanted.level}.")
    found = tiff_volume(path)
    size = found.voxel_size if wanted.voxel_size is None else wanted.voxel_size
    if size is None:
        raise VoxelSizeError(
            f"{path} states no voxel size that can be trusted (resolution tags are not). Give "
            "voxel_size (z, y, x) in micrometres."
        )
    return _make_volume(
        str(path),
        found.source,
        "tiff",
        found.sizes,
        found.chunk,
        found.dtype,
        (size, (0.0, 0.0, 0.0)),
        wanted,
        channels=found.channels,
    )


def _open_hdf5(path: Path, inside: tuple[Path, str], wanted: _Wanted) -> Volume:
    if wanted.level != 0:
        raise VolumeError(f"{path} is HDF5, so it has no level {wanted.level}.")
    found = hdf5_volume(*inside)
    size = found.voxel_size or _needed_size(str(path), wanted)
    geometry = (wanted.voxel_size or size, (0.0, 0.0, 0.0))
    return _make_volume(
        str(path), found.source, "hdf5", found.sizes, found.chunk, found.dtype, geometry, wanted
    )
