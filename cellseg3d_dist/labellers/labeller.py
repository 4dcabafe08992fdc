"""What a labeller is, a function as one, and what its labels must be."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.errors import LabellerError
from cellseg3d_dist.grid import Triple

Size = tuple[float, float, float]
Options = Mapping[str, Any]

#: Halo of a labeller that names none, in voxels of the finest axis.
HALO = 16
#: Memory of a labeller that names none, in bytes per voxel of the region it is given.
BYTES_PER_VOXEL = 96


@runtime_checkable
class Labeller(Protocol):
    """Finds the cells of a region. The same region must give the same labels again.

    A labeller may have these attributes too:

    ``percentiles`` : (float, float)
        The image comes as float32 with these percentiles of the whole volume at 0 and 1, so
        that a block is not normalised by itself. Without them it comes as it is stored.
    ``all_channels`` : bool
        The image comes as (C, z, y, x), every channel as it is stored; one (z, y, x) otherwise.
    ``bytes_per_voxel``, ``fixed_bytes`` : int
        Memory it needs per voxel of the image, and for its weights and libraries; by default
        96 and 0.

    A region whose voxels are all equal is not given to it: there is nothing to find.
    """

    def halo(self, voxel_size: Size) -> Triple:
        """Voxels (z, y, x) beyond a block that it should see: more than a cell's diameter."""
        ...

    def label(self, image: npt.NDArray[Any], voxel_size: Size) -> npt.NDArray[Any]:
        """Integer labels (z, y, x) of an image; 0 is background, ids may have gaps.

        Parameters
        ----------
        image : ndarray, (z, y, x) or (C, z, y, x)
        voxel_size : (z, y, x) in micrometres
        """
        ...

    def facts(self) -> dict[str, Any]:
        """Name, versions, parameters: all that decides its labels, as JSON."""
        ...


@dataclass(frozen=True)
class FunctionLabeller:
    """A plain function ``f(image, voxel_size, **options) -> labels``.

    What a :class:`Labeller` may have as attributes is taken from the function's.

    Attributes
    ----------
    origin : dict
        Where the function comes from, for :meth:`facts`.
    """

    function: Callable[..., Any]
    options: Options = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        if name in ("percentiles", "all_channels", "bytes_per_voxel", "fixed_bytes"):
            return getattr(self.function, name)
        raise AttributeError(name)

    def halo(self, voxel_size: Size) -> Triple:
        """The default: 16 voxels of the finest axis."""
        return default_halo(voxel_size)

    def label(self, image: npt.NDArray[Any], voxel_size: Size) -> npt.NDArray[Any]:
        """What the function returns."""
        found: npt.NDArray[Any] = self.function(image, voxel_size, **self.options)
        return found

    def facts(self) -> dict[str, Any]:
        """Its name, its source's checksum, its options."""
        return {**self.origin, "options": dict(self.options)}


def default_halo(voxel_size: Size) -> Triple:
    """:data:`HALO` voxels of the finest axis, along the others as many as are as long.

    >>> default_halo((4.0, 1.0, 1.0))
    (4, 16, 16)
    """
    return voxels_of(HALO * min(voxel_size), voxel_size)


def voxels_of(length: float, voxel_size: Size) -> Triple:
    """Whole voxels that a length in micrometres takes along each axis, at least 1."""
    z, y, x = (max(1, math.ceil(length / size - 1e-9)) for size in voxel_size)
    return (z, y, x)


def memory_of(labeller: Labeller) -> tuple[int, int]:
    """Bytes per voxel of the region it is given, and fixed ones."""
    per_voxel = getattr(labeller, "bytes_per_voxel", BYTES_PER_VOXEL)
    return int(per_voxel), int(getattr(labeller, "fixed_bytes", 0))


def labels_by(
    labeller: Labeller, image: npt.NDArray[Any], voxel_size: Size
) -> npt.NDArray[np.integer[Any]]:
    """Call a labeller and check what it hands back.

    Raises
    ------
    LabellerError
        If it raises, or returns something other than labels of the image's voxels.
    """
    name, shape = labeller.facts().get("name", "labeller"), image.shape[-3:]
    try:
        found = labeller.label(image, voxel_size)
    # what it does is not ours: it may even try to leave the process
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())[:500]
        raise LabellerError(
            f"labeller {name} raised {type(error).__name__}: {text or 'no message'}"
        ) from error
    return checked_labels(found, shape, f"labeller {name} returned")


def checked_labels(found: Any, shape: tuple[int, ...], what: str) -> npt.NDArray[np.integer[Any]]:
    """Labels as an array of native integers; ``what`` begins the message where they are none.

    Raises
    ------
    LabellerError
        If the shape differs, they are not integers, or one is negative.
    """
    labels = np.asarray(found)
    if labels.shape != shape:
        kind = f"labels of shape {labels.shape}" if labels.ndim else f"a {type(found).__name__}"
        raise LabellerError(f"{what} {kind}, not of shape {shape}.")
    if labels.dtype.kind not in "ui":
        raise LabellerError(
            f"{what} labels of {labels.dtype}, not integers. Give an id for each cell and 0 for "
            f"background."
        )
    lowest = int(labels.min(initial=0))
    if lowest < 0:
        raise LabellerError(f"{what} the id {lowest}. Ids must be 0 or above.")
    return labels.astype(labels.dtype.newbyteorder("="), copy=False)


def source_digest(function: Any) -> str | None:
    """Checksum (sha256) of the file that a function or class is written in; None if unknown."""
    try:
        path = inspect.getsourcefile(function)
        return None if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except (TypeError, OSError):
        return None
