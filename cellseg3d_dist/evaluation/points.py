"""True points in place of true labels: centroids of predicted labels, or points, against them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.config.evaluate import EvaluateConfig
from cellseg3d_dist.config.values import Length
from cellseg3d_dist.engine.stages.score import LabelPair
from cellseg3d_dist.errors import ConfigError, VoxelSizeError
from cellseg3d_dist.grid import BlockGrid, Region
from cellseg3d_dist.metrics.points import match_points
from cellseg3d_dist.paths import absolute_path
from cellseg3d_dist.volumes.multiscales import Size
from cellseg3d_dist.volumes.points import Points, is_point_file, read_points

#: Distance up to which points match, where none is given.
DISTANCE = Length(value=15.0, in_micrometres=True)
#: Blocks in which points are looked up in a mask.
_BLOCK = (64, 256, 256)


@dataclass(frozen=True)
class GivenPoints:
    """Points of a file.

    Attributes
    ----------
    digest : str
        Of the file's bytes.
    """

    path: Path
    points: Points
    digest: str

    @classmethod
    def of(cls, path: str | Path, config: EvaluateConfig) -> GivenPoints:
        """Read a file.

        Raises
        ------
        BadInputError
            If it cannot be read.
        """
        found = absolute_path(path)
        points = read_points(found, first_voxel=config.first_voxel)
        return cls(found, points, hashlib.sha256(found.read_bytes()).hexdigest()[:32])


def are_points(given: Any) -> bool:
    """Whether a file of points is given."""
    return isinstance(given, str | Path) and "://" not in str(given) and is_point_file(given)


def in_um(positions: npt.NDArray[np.float64], size: Size | None) -> npt.NDArray[np.float64]:
    """Positions in voxels as micrometres.

    Raises
    ------
    VoxelSizeError
        If the voxel size is not known.
    """
    scaled: npt.NDArray[np.float64] = positions * np.asarray(known_size(size))
    return scaled


def known_size(size: Size | None) -> Size:
    """A voxel size that has to be there.

    Raises
    ------
    VoxelSizeError
        If it is not known.
    """
    if size is None:
        raise VoxelSizeError(
            "distances need a voxel size, and the files state none. Give --voxel-size z,y,x in "
            "micrometres."
        )
    return size


def distance_in_um(config: EvaluateConfig, size: Size | None) -> float:
    """Largest distance of a match; in voxels it is of the finest axis."""
    distance = config.distance or DISTANCE
    found = distance.value if distance.in_micrometres else distance.value * min(known_size(size))
    if not found > 0:
        raise ConfigError(f"distance {distance} must be above 0.")
    return found


def against_points(
    texts: tuple[str, str, str],
    true: Points,
    pred: Points,
    pair: LabelPair | None,
    size: Size | None,
    config: EvaluateConfig,
) -> dict[str, Any]:
    """The document of predicted positions against true ones.

    Parameters
    ----------
    pair : LabelPair or None
        Of the predicted labels, whose counted voxels decide which true points count.
    """
    both_um = true.unit == pred.unit == "um"
    voxel: Size = (1.0, 1.0, 1.0) if both_um and size is None else known_size(size)
    positions = true.in_um(voxel)
    if pair is not None:
        positions = positions[_counted(pair, positions / np.asarray(voxel))]
    predicted = pred.in_um(voxel)
    score = match_points(positions, predicted, distance_in_um(config, size))
    name, labels_true, labels_pred = texts
    return {
        "name": name,
        "labels_true": labels_true,
        "labels_pred": labels_pred,
        "n_true": len(positions),
        "n_pred": len(predicted),
        "matching": [],
        "points": asdict(score),
    }


def _counted(pair: LabelPair, positions: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which positions, in voxels of the stored level, lie in a voxel that is counted."""
    volume = pair.labels_pred
    offset = np.asarray(getattr(volume, "offset", (0, 0, 0)))
    voxel = np.floor(positions + 0.5).astype(np.int64) - offset
    found: npt.NDArray[np.bool_] = ((voxel >= 0) & (voxel < volume.shape)).all(1)
    if pair.counted.mask is None and not pair.counted.boxes:
        return found
    grid = BlockGrid(volume.shape, _BLOCK)
    index = voxel // np.asarray(_BLOCK)
    number = np.ravel_multi_index(
        tuple(np.where(found[:, None], index, 0).T), grid.n_blocks_per_axis
    )
    for which in np.unique(number[found]):
        region = grid.block(int(which)).write_region
        here = np.flatnonzero(found & (number == which))
        found[here] = _within(pair, region, voxel[here])
    return found


def _within(pair: LabelPair, region: Region, voxel: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    within = pair.counted.within(region, np.empty(0, np.float32))
    if within is None:
        return np.ones(len(voxel), bool)
    at = tuple((voxel - np.asarray(region.start)).T)
    inside: npt.NDArray[np.bool_] = within[at]
    return inside


def refuse(config: EvaluateConfig, mask: Any, regions: Any, labels_pred: Sequence[Any]) -> None:
    """Refuse what means nothing for true points.

    Raises
    ------
    ConfigError
        With the option.
    """
    for name, value in (("ignore", config.ignore), ("regions", regions)):
        if value is not None:
            raise ConfigError(f"{name} needs true labels; labels_true is a list of points.")
    if config.classes:
        raise ConfigError("classes need true labels; labels_true is a list of points.")
    if any(are_points(one) for one in labels_pred):
        for name, value in (("mask", mask), ("region", config.region), ("boxes", config.boxes)):
            if value not in (None, ()):
                raise ConfigError(f"{name} needs a label image; both sides are lists of points.")
