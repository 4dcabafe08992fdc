"""Options against the image they are for, before anything is planned or created."""

from __future__ import annotations

import numpy as np

from cellseg3d_dist.config import SegmentConfig
from cellseg3d_dist.engine.cell_tables import check_fucci
from cellseg3d_dist.engine.clean_up_plan import check_clean_up
from cellseg3d_dist.engine.prepared import check_preprocessing
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.volumes import Volume

#: Largest smoothing along any axis, in voxels.
MAX_SIGMA = 256


def check_options(config: SegmentConfig, volume: Volume) -> None:
    """Refuse options that mean nothing for this image.

    Raises
    ------
    ConfigError
        With the option, its value and its range.
    """
    _check_sigmas(config, volume)
    _check_threshold(config, volume)
    _check_cell_volumes(config, volume)
    _check_flood_halo(config, volume)
    check_preprocessing(config, volume)
    check_fucci(config, volume)
    check_clean_up(config, volume)


def _check_sigmas(config: SegmentConfig, volume: Volume) -> None:
    for name in ("spot_sigma", "outline_sigma"):
        length = getattr(config, name)
        widest = max(length.voxels(volume.voxel_size))
        if widest > MAX_SIGMA:
            raise ConfigError(
                f"{name} {length} is {widest:.4g} voxels along one axis (voxel_size "
                f"{volume.voxel_size} um), over the limit of {MAX_SIGMA}. Use a smaller one, or "
                f"a coarser --level."
            )


def _check_threshold(config: SegmentConfig, volume: Volume) -> None:
    # a network's foreground is 0..1, see engine.method
    if config.model != "intensity" or config.threshold is None or config.threshold == "otsu":
        return
    limits = np.finfo(np.float32) if volume.dtype.kind == "f" else np.iinfo(volume.dtype)
    if not limits.min <= config.threshold <= limits.max:
        raise ConfigError(
            f"threshold {config.threshold:g} is outside the range of {volume.dtype}, "
            f"{limits.min:g} to {limits.max:g}. Give one in the image's units, or otsu."
        )


def _check_cell_volumes(config: SegmentConfig, volume: Volume) -> None:
    smallest, largest = config.min_volume, config.max_volume
    if smallest is None or largest is None:
        return
    if smallest.voxels(volume.voxel_size) > largest.voxels(volume.voxel_size):
        raise ConfigError(
            f"min_volume {smallest} is above max_volume {largest} (voxel_size "
            f"{volume.voxel_size} um), so no cell would be left. Give a smaller min_volume."
        )


def _check_flood_halo(config: SegmentConfig, volume: Volume) -> None:
    """The result is exact with any halo; one as large as the block is a mistake of units."""
    if config.flood_halo is None or config.block_shape is None:
        return
    for name, n, block in zip("zyx", volume.shape, config.block_shape, strict=True):
        if block < n and config.flood_halo >= block:
            raise ConfigError(
                f"flood_halo {config.flood_halo} is not below block_shape {config.block_shape} "
                f"along {name} (voxels). Leave flood_halo out, or use larger blocks."
            )
