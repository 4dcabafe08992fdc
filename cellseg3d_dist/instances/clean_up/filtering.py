"""Filters of whole cells: by volume, and by the volume's faces that they touch."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.config.clean_up import Artifacts, FillHoles, Size
from cellseg3d_dist.config.values import CellVolume, Floats

#: A face of an array: an axis, and 0 or -1 for its low or high end.
Face = tuple[int, int]


def volume_limits(
    step: Size | Artifacts | FillHoles, voxel_size: Floats
) -> tuple[int | None, int | None]:
    """Smallest and largest volume that are within a step's limits, in voxels; None is none."""
    if isinstance(step, Artifacts):
        assert step.volume is not None
        return None, _at_least(step.volume, voxel_size) - 1
    smallest = step.min_volume if isinstance(step, Size) else None
    largest = step.max_volume
    return (
        None if smallest is None else _at_least(smallest, voxel_size),
        None if largest is None else math.floor(largest.voxels(voxel_size) + 1e-9),
    )


def _at_least(volume: CellVolume, voxel_size: Floats) -> int:
    return math.ceil(volume.voxels(voxel_size) - 1e-9)


def within_limits(
    sizes: npt.NDArray[np.int64], limits: tuple[int | None, int | None]
) -> npt.NDArray[np.bool_]:
    """Which volumes are within limits, both ends included."""
    smallest, largest = limits
    kept = sizes >= (smallest or 0)
    if largest is not None:
        kept &= sizes <= largest
    return kept


def faces_across(axes: str) -> tuple[Face, ...]:
    """Both faces of a volume across each of the axes, which are letters of zyx."""
    return tuple(("zyx".index(axis), end) for axis in axes for end in (0, -1))


def labels_on_faces(
    labels: npt.NDArray[np.integer], faces: tuple[Face, ...]
) -> npt.NDArray[np.int64]:
    """The labels, ascending and without background, of the outermost voxels at some faces."""
    planes = [np.empty(0, np.int64)]
    for axis, end in faces if labels.size else ():
        planes.append(np.unique(np.take(labels, end, axis=axis)).astype(np.int64))
    found = np.unique(np.concatenate(planes))
    return found[found > 0]
