"""3D TIFF and folders of TIFF planes, read plane by plane and strip by strip.

The resolution tags of TIFF hold pixels per inch or nonsense and say nothing of z, so only
OME-XML's physical sizes are taken as a voxel size.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from cellseg3d_dist.errors import VolumeError
from cellseg3d_dist.grid import Region, ceil_div
from cellseg3d_dist.volumes.checks import MAX_VOXELS
from cellseg3d_dist.volumes.multiscales import MICROMETRES, Size
from cellseg3d_dist.volumes.storage import naming_errors, native
from cellseg3d_dist.volumes.volume import Source, region_text

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")
# names that a writer gives to an axis it knows nothing about
_UNKNOWN_AXES = "QIR"


@dataclass(frozen=True)
class TiffVolume:
    """What a TIFF says of itself; sizes and chunk by axis (t, c, z, y, x)."""

    source: Source
    sizes: dict[str, int]
    chunk: dict[str, int]
    dtype: np.dtype[Any]
    voxel_size: Size | None
    channels: tuple[str, ...]


def is_tiff(path: Path) -> bool:
    """Whether this is a TIFF file (by its first bytes) or a folder of them without Zarr."""
    try:
        if path.is_dir():
            zarr_files = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
            return bool(_planes(path)) and not any((path / name).exists() for name in zarr_files)
        with path.open("rb") as file:
            return file.read(4) in _MAGIC
    except OSError as error:
        raise VolumeError(f"{path} cannot be read ({error}).") from error


def tiff_volume(path: Path) -> TiffVolume:
    """Metadata of a TIFF file or of a folder of planes.

    Raises
    ------
    VolumeError
        If it is damaged, not 3D, of a type that cannot be read, or its planes differ.
    """
    if path.is_dir():
        return _folder_volume(path)
    with naming_errors(f"{path} cannot be opened as TIFF"):
        layout = _layout(str(path), _file_stamp(path))
    _check_type(path, layout.dtype)
    source = TiffSource(str(path))
    sizes = dict(zip(layout.axes, layout.shape, strict=True))
    return TiffVolume(
        source, sizes, _chunk(layout), layout.dtype, layout.voxel_size, layout.channels
    )


@dataclass(frozen=True)
class TiffSource:
    """The first series of a TIFF file, opened once per process."""

    path: str

    def read(self, region: Region, channel: int, time: int) -> np.ndarray[Any, Any]:
        """Voxels of a region; only the strips or tiles it touches are decoded."""
        with naming_errors(f"{self.path}, region {region_text(region)} cannot be read"):
            layout = _layout(self.path, _file_stamp(Path(self.path)))
            if layout.mapped is not None:
                return _read_mapped(layout, region, channel, time)
            return _read_pages(layout, region, channel, time)

    def signature(self, *, files: bool) -> list[Any]:
        """Size and time of the file."""
        return [self.path, *(_file_stamp(Path(self.path)) if files else ())]


@dataclass(frozen=True)
class PlanesSource:
    """A folder with one TIFF file per plane."""

    folder: str
    names: tuple[str, ...]
    plane_shape: tuple[int, int]
    dtype: np.dtype[Any]

    def read(self, region: Region, channel: int, time: int) -> np.ndarray[Any, Any]:
        """Voxels of a region, from the planes it touches."""
        out = np.empty(region.shape, native(np.empty(0, self.dtype)).dtype)
        for row, z in enumerate(range(region.start[0], region.stop[0])):
            path = Path(self.folder) / self.names[z]
            with naming_errors(f"{path} cannot be read"), tifffile.TiffFile(path) as file:
                page = file.pages[0]
                if tuple(page.shape) != self.plane_shape or page.dtype != self.dtype:
                    raise ValueError(
                        f"plane is {page.dtype} {page.shape}, the first one {self.dtype} "
                        f"{self.plane_shape}"
                    )
                out[row] = native(_read_page(page, region.slices[1:]))
        return out

    def signature(self, *, files: bool) -> list[Any]:
        """Name, size and time of each plane."""
        if not files:
            return list(self.names)
        return [[name, *_file_stamp(Path(self.folder) / name)] for name in self.names]


@dataclass(frozen=True, eq=False)
class _Layout:
    """An open series: axes by letter, and how its pages follow each other."""

    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    page_axes: str
    pages: Any
    mapped: np.ndarray[Any, Any] | None
    voxel_size: Size | None
    channels: tuple[str, ...]
    strip: tuple[int, int]


def _file_stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return (found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=8)
def _layout(path: str, _stamp: tuple[int, int]) -> _Layout:
    file = tifffile.TiffFile(path)
    if not file.series:
        raise ValueError("it holds no image")
    series = file.series[0]
    axes = _axes(path, series.axes.upper())
    shape = tuple(int(n) for n in series.shape)
    size = np.prod(shape, dtype=object)
    if size > MAX_VOXELS:
        raise ValueError(f"impossible shape {shape}")
    page = series.keyframe
    n_page = len(page.shape)
    mapped = None
    if series.dataoffset is not None:
        dtype = np.dtype(file.byteorder + series.dtype.char)
        mapped = np.memmap(path, dtype, "r", series.dataoffset, shape)
    elif len(series.pages) != np.prod(shape[: len(shape) - n_page], dtype=object):
        raise ValueError(f"it has {len(series.pages)} pages for shape {shape}; truncated")
    voxel_size, channels = _ome(file.ome_metadata if file.is_ome else None)
    height, width = shape[axes.index("y")], shape[axes.index("x")]
    strip = (
        (int(page.tilelength), int(page.tilewidth))
        if page.is_tiled
        else (min(int(page.rowsperstrip), height), width)
    )
    return _Layout(
        axes,
        shape,
        np.dtype(series.dtype),
        axes[len(shape) - n_page :],
        series.pages,
        mapped,
        voxel_size,
        channels,
        strip,
    )


def _axes(path: str, axes: str) -> str:
    """Axes in this package's letters; one axis of unknown meaning is z."""
    known = axes
    if "C" not in known:
        known = known.replace("S", "C")
    unknown = [axis for axis in known if axis in _UNKNOWN_AXES]
    if "Z" not in known and len(unknown) == 1:
        known = known.replace(unknown[0], "Z")
    letters = known.lower()
    if not set("zyx") <= set(letters) <= set("tczyx") or len(set(letters)) != len(letters):
        raise VolumeError(
            f"{path} has axes {axes!r}; only 3D images (z, y, x, with optional channel and time) "
            "can be read. If one of them is really z, correct that in the file."
        )
    return letters


def _chunk(layout: _Layout) -> dict[str, int]:
    return {"z": 1, "y": layout.strip[0], "x": layout.strip[1]}


def _check_type(path: Path, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise VolumeError(
            f"{path} has the data type {dtype}; only bool, integers and floats of up to 64 bits "
            "can be read."
        )


def _read_mapped(layout: _Layout, region: Region, channel: int, time: int) -> np.ndarray[Any, Any]:
    assert layout.mapped is not None
    where: dict[str, Any] = dict(zip("zyx", region.slices, strict=True)) | {"c": channel, "t": time}
    part = layout.mapped[tuple(where[axis] for axis in layout.axes)]
    kept = [axis for axis in layout.axes if axis in "zyx"]
    # a copy, so that the caller never holds the file open or writes to it
    return native(np.array(part.transpose([kept.index(axis) for axis in "zyx"])))


def _read_pages(layout: _Layout, region: Region, channel: int, time: int) -> np.ndarray[Any, Any]:
    leading = layout.axes[: len(layout.axes) - len(layout.page_axes)]
    sizes = layout.shape[: len(leading)]
    out = np.empty(region.shape, native(np.empty(0, layout.dtype)).dtype)
    place: dict[str, int] = {"c": channel, "t": time}
    for row, z in enumerate(range(region.start[0], region.stop[0])):
        place["z"] = z
        number = 0
        for axis, n in zip(leading, sizes, strict=True):
            number = number * n + place[axis]
        page = layout.pages[number]
        if page is None:
            raise ValueError(f"page {number} is missing")
        if layout.page_axes == "yx":
            out[row] = native(_read_page(page, region.slices[1:]))
        else:
            where: dict[str, Any] = dict(zip("zyx", region.slices, strict=True))
            where |= {**place, "z": z}
            part = (
                page.asarray(squeeze=False)
                if page.ndim != len(layout.page_axes)
                else page.asarray()
            )
            out[row] = native(part.reshape(page.shape)[tuple(where[a] for a in layout.page_axes)])
    return out


def _read_page(page: Any, where: tuple[slice, slice]) -> np.ndarray[Any, Any]:
    """A rectangle of one grey plane; decodes only the strips or tiles it touches."""
    keyframe = page.keyframe
    rows, columns = where
    if keyframe.is_tiled:
        height, width = int(keyframe.tilelength), int(keyframe.tilewidth)
    else:
        height, width = int(keyframe.rowsperstrip), int(keyframe.imagewidth)
    per_row = ceil_div(int(keyframe.imagewidth), width)
    n_segments = per_row * ceil_div(int(keyframe.imagelength), height)
    # JPEG needs tables of the page; anything unusual is left to tifffile as a whole
    if len(page.dataoffsets) != n_segments or int(keyframe.compression) in (6, 7, 34892, 33007):
        plane: np.ndarray[Any, Any] = page.asarray()[where]
        return plane
    out = np.zeros((rows.stop - rows.start, columns.stop - columns.start), keyframe.dtype)
    for i in range(rows.start // height, ceil_div(rows.stop, height)):
        for j in range(columns.start // width, ceil_div(columns.stop, width)):
            segment = _segment(page, keyframe.decode, i * per_row + j)
            if segment is not None:
                _paste(out, segment, (i * height - rows.start, j * width - columns.start))
    return out


def _segment(page: Any, decode: Callable[..., Any], index: int) -> np.ndarray[Any, Any] | None:
    handle = page.parent.filehandle
    with handle.lock:
        if handle.closed:
            handle.open()
        n_bytes = page.databytecounts[index]
        handle.seek(page.dataoffsets[index])
        data = handle.read(n_bytes) if n_bytes else None
    if data is not None and len(data) < n_bytes:
        raise ValueError(f"strip {index} is truncated: {len(data)} of {n_bytes} bytes")
    segment = decode(data, index)[0]
    return None if segment is None else np.asarray(segment)[0, :, :, 0]


def _paste(out: np.ndarray[Any, Any], part: np.ndarray[Any, Any], corner: tuple[int, int]) -> None:
    """Copy where the two overlap; the corner may be negative."""
    top, left = (max(0, n) for n in corner)
    bottom = min(out.shape[0], corner[0] + part.shape[0])
    right = min(out.shape[1], corner[1] + part.shape[1])
    out[top:bottom, left:right] = part[
        top - corner[0] : bottom - corner[0], left - corner[1] : right - corner[1]
    ]


def _ome(xml: str | None) -> tuple[Size | None, tuple[str, ...]]:
    """Voxel size in micrometres and channel names from OME-XML, where all three are given."""
    if not xml:
        return None, ()
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None, ()
    pixels = root.find(".//{*}Pixels")
    if pixels is None:
        return None, ()
    names = tuple(
        channel.get("Name") or f"channel {number}"
        for number, channel in enumerate(pixels.findall("{*}Channel"))
    )
    sizes = []
    for axis in "ZYX":
        factor = MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "um"))
        try:
            value = float(pixels.get(f"PhysicalSize{axis}", "nan"))
        except ValueError:
            return None, names
        if factor is None or not 0 < value < np.inf:
            return None, names
        sizes.append(value * factor)
    return (sizes[0], sizes[1], sizes[2]), names


def _planes(folder: Path) -> list[str]:
    """Names of the TIFF files in a folder, numbers in their natural order."""
    names = [
        path.name
        for path in folder.iterdir()
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
    ]
    return sorted(names, key=_natural)


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def _folder_volume(folder: Path) -> TiffVolume:
    names = _planes(folder)
    found = []
    for name in (names[0], names[-1]):
        path = folder / name
        with naming_errors(f"{path} cannot be opened as TIFF"), tifffile.TiffFile(path) as file:
            if not file.series:
                raise ValueError("it holds no image")
            found.append((tuple(file.series[0].shape), np.dtype(file.series[0].dtype)))
    (shape, dtype), last = found
    if len(shape) != 2:
        raise VolumeError(
            f"{folder} holds TIFF files of shape {shape}, not planes; give one of its "
            f"{len(names)} files, such as {names[0]}."
        )
    if last != found[0]:
        raise VolumeError(
            f"{folder} holds planes that differ: {names[0]} is {dtype} {shape}, {names[-1]} is "
            f"{last[1]} {last[0]}."
        )
    _check_type(folder / names[0], dtype)
    sizes = {"z": len(names), "y": int(shape[0]), "x": int(shape[1])}
    chunk = {"z": 1, "y": sizes["y"], "x": sizes["x"]}
    source = PlanesSource(str(folder), tuple(names), (sizes["y"], sizes["x"]), dtype)
    return TiffVolume(source, sizes, chunk, dtype, None, ())
