"""Datasets in HDF5 files.

::

    image.h5            the only dataset with 3 to 5 axes
    image.h5/volumes/raw   a dataset by its path, where there are several

Axes are zyx, czyx or tczyx by their number. The only voxel size that is trusted is the
attribute ``element_size_um`` of the dataset, (z, y, x) in micrometres, as ilastik and the
HDF5 plugin of ImageJ write it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellseg3d_dist.errors import EnvironmentFailedError, VolumeError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.volumes.checks import MAX_VOXELS
from cellseg3d_dist.volumes.multiscales import Size
from cellseg3d_dist.volumes.storage import naming_errors, native
from cellseg3d_dist.volumes.volume import region_text

_SUFFIXES = (".h5", ".hdf5", ".hdf")
_MAGIC = b"\x89HDF\r\n\x1a\n"
_AXES = {3: "zyx", 4: "czyx", 5: "tczyx"}
# names that are listed where a dataset has to be chosen
_MOST_NAMES = 8


@dataclass(frozen=True)
class Hdf5Volume:
    """What a dataset says of itself; sizes and chunk by axis (t, c, z, y, x)."""

    source: Hdf5Source
    sizes: dict[str, int]
    chunk: dict[str, int]
    dtype: np.dtype[Any]
    voxel_size: Size | None


@dataclass(frozen=True)
class Hdf5Source:
    """One dataset, opened anew for each region: blocks are large, and no handle is shared."""

    path: str
    dataset: str
    axes: str

    def read(self, region: Region, channel: int, time: int) -> np.ndarray[Any, Any]:
        """Voxels of a region; only the chunks that it touches are decoded."""
        where: dict[str, Any] = dict(zip("zyx", region.slices, strict=True))
        where |= {"c": channel, "t": time}
        what = f"{self.path}/{self.dataset}, region {region_text(region)}"
        with naming_errors(f"{what} cannot be read"), _opened(Path(self.path)) as file:
            return native(file[self.dataset][tuple(where[axis] for axis in self.axes)])

    def signature(self, *, files: bool) -> list[Any]:
        """Size and time of the file."""
        found = Path(self.path).stat() if files else None
        stamp = () if found is None else (found.st_size, found.st_mtime_ns)
        return [self.path, self.dataset, *stamp]


def hdf5_parts(path: Path) -> tuple[Path, str] | None:
    """The HDF5 file that a path leads to or into, and what is named inside it."""
    for file in (path, *path.parents):
        if file.suffix.lower() in _SUFFIXES and file.is_file():
            return file, path.relative_to(file).as_posix() if file != path else ""
    return None


def hdf5_volume(file: Path, dataset: str) -> Hdf5Volume:
    """Metadata of a dataset.

    Raises
    ------
    VolumeError
        If the file is none of HDF5 or damaged, or the dataset is not there, not 3D or of a
        type that cannot be read, or one has to be chosen.
    EnvironmentFailedError
        If h5py is not installed, or the disk failed.
    """
    with naming_errors(f"{file} cannot be opened as HDF5"):
        with file.open("rb") as raw:
            if raw.read(len(_MAGIC)) != _MAGIC:
                raise VolumeError(f"{file} is no HDF5 file.")
        with _opened(file) as opened:
            name = dataset or _only_dataset(file, opened)
            found = opened.get(name)
            if found is None or not hasattr(found, "shape"):
                raise VolumeError(f"{file} has no dataset {name!r}; it has {_listed(opened)}.")
            return _described(file, name, found)


def _described(file: Path, name: str, found: Any) -> Hdf5Volume:
    dtype, shape = np.dtype(found.dtype), tuple(int(n) for n in found.shape or ())
    if len(shape) not in _AXES:
        raise VolumeError(
            f"{file}/{name} has {len(shape)} dimensions (shape {shape}); only 3D images can be "
            "read, as zyx, czyx or tczyx."
        )
    if np.prod(shape, dtype=object) > MAX_VOXELS:
        raise VolumeError(f"{file}/{name} has the impossible shape {shape}.")
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise VolumeError(
            f"{file}/{name} has the data type {dtype}; only bool, integers and floats of up to 64 "
            "bits can be read."
        )
    axes = _AXES[len(shape)]
    # what is stored in one piece is read row by row
    chunk = found.chunks or (*(1 for _ in shape[:-2]), *shape[-2:])
    return Hdf5Volume(
        Hdf5Source(str(file), name, axes),
        dict(zip(axes, shape, strict=True)),
        dict(zip(axes, (int(n) for n in chunk), strict=True)),
        dtype,
        _voxel_size(found.attrs.get("element_size_um")),
    )


def _opened(file: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise EnvironmentFailedError(
            f"{file} needs h5py, which is not installed. Run: pip install h5py"
        ) from error
    return h5py.File(file, "r")


def _names(opened: Any) -> list[str]:
    """Paths of all datasets with 3 to 5 axes."""
    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        if len(getattr(item, "shape", None) or ()) in _AXES:
            found.append(name)

    opened.visititems(visit)
    return found


def _listed(opened: Any) -> str:
    names = _names(opened)
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return (", ".join(names[:_MOST_NAMES]) + more) or "none with 3 to 5 axes"


def _only_dataset(file: Path, opened: Any) -> str:
    names = _names(opened)
    if len(names) == 1:
        return names[0]
    if not names:
        raise VolumeError(f"{file} holds no dataset with 3 to 5 axes.")
    raise VolumeError(
        f"{file} holds {len(names)} datasets: {_listed(opened)}. Give one, such as "
        f"{file}/{names[0]}."
    )


def _voxel_size(stated: Any) -> Size | None:
    sizes = np.ravel(np.asarray([] if stated is None else stated))
    if sizes.size != 3 or sizes.dtype.kind not in "uif":
        return None
    z, y, x = (float(value) for value in sizes)
    return (z, y, x) if all(0 < value < np.inf for value in (z, y, x)) else None
