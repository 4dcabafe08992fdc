"""Checks of a clean-up's steps for an image, and the memory that its stages need."""

from __future__ import annotations

from math import prod

from cellseg3d_dist.config import SegmentConfig
from cellseg3d_dist.config.clean_up import (
    MAX_RADIUS,
    Artifacts,
    Closing,
    FillHoles,
    MergeTouching,
    Size,
    Smooth,
    Split,
)
from cellseg3d_dist.engine.memory import WORKER_BYTES, BlockMemory, largest_region
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import BlockGrid, Region, Triple
from cellseg3d_dist.instances.clean_up.chain import reshaping
from cellseg3d_dist.instances.clean_up.filtering import volume_limits
from cellseg3d_dist.volumes import Volume

#: Bytes a voxel of what is read: labels, as they were and as they will be, and a filter's copies.
_READ_BYTES = 24
#: Of the write region: fragments of a neighbour as they are read, new ones and their records.
_WRITE_BYTES = 26


def check_clean_up(config: SegmentConfig, volume: Volume) -> None:
    """Refuse steps that mean nothing for this image.

    Raises
    ------
    ConfigError
        With the step, its value and its range.
    """
    for step in config.clean_up or ():
        if isinstance(step, Smooth):
            _check_radius(step, volume)
        if isinstance(step, Size):
            smallest, largest = volume_limits(step, volume.voxel_size)
            if smallest is not None and largest is not None and smallest > largest:
                raise ConfigError(
                    f"clean_up {step}: min_volume {step.min_volume} is above max_volume "
                    f"{step.max_volume} (voxel_size {volume.voxel_size} um), so no cell would be "
                    f"left. Give a smaller min_volume."
                )
        if isinstance(step, MergeTouching):
            _check_source(step, config)


def _check_radius(step: Smooth, volume: Volume) -> None:
    radius = step.radius.voxels(volume.voxel_size)
    if max(radius) > MAX_RADIUS:
        raise ConfigError(
            f"clean_up {step.name}: radius {step.radius} is {max(radius):.4g} voxels along one "
            f"axis (voxel_size {volume.voxel_size} um), over the limit of {MAX_RADIUS}. Use a "
            f"smaller one, or a coarser --level."
        )
    if max(radius) < 1 - 1e-9:
        raise ConfigError(
            f"clean_up {step.name}: radius {step.radius} is {max(radius):.4g} voxels (voxel_size "
            f"{volume.voxel_size} um), below 1, so nothing would change. Use a larger one."
        )


def _check_source(step: MergeTouching, config: SegmentConfig) -> None:
    network = config.model != "intensity"
    if step.of == "foreground" and not network:
        raise ConfigError(
            f"clean_up {step.name} of foreground needs a network's foreground. Give --model, or "
            f"{step.name}=LOW:HIGH:image in the image's units."
        )
    if step.of != "image" and network and not 0 <= step.low <= 1:
        raise ConfigError(
            f"clean_up {step.name}: low {step.low:g} is outside 0 to 1, the range of a network's "
            f"foreground. Give one inside, or {step.name}=LOW:HIGH:image in the image's units."
        )


def clean_up_disk(config: SegmentConfig, voxels: int) -> int:
    """Bytes of the fragments that steps leave until the run is complete, as they compress."""
    copies = {Closing: 1, Smooth: 1, FillHoles: 2, Split: 1}
    return sum(copies.get(type(step), 0) for step in config.clean_up or ()) * (4 * voxels // 3)


def clean_up_memory(config: SegmentConfig, volume: Volume, grid: BlockGrid) -> list[BlockMemory]:
    """Projected memory of the stages of a clean-up, the largest of each kind."""
    write = Region.whole(largest_region(grid, (0, 0, 0))).size
    itemsize = max(volume.dtype.itemsize, 1)
    found: dict[str, BlockMemory] = {}

    def add(stage: str, own: int, halo: Triple = (0, 0, 0)) -> None:
        made = BlockMemory(stage, WORKER_BYTES + own, largest_region(grid, halo), halo)
        if stage not in found or found[stage].n_bytes < made.n_bytes:
            found[stage] = made

    for step in config.clean_up or ():
        if isinstance(step, Closing | Smooth):
            how = reshaping(step, volume.voxel_size)
            read = prod(
                min(n + 2 * how.beyond, b + 2 * h)
                for n, b, h in zip(grid.shape, grid.block_shape, how.halo, strict=True)
            )
            add(step.name, _READ_BYTES * read + _WRITE_BYTES * write, how.halo)
        elif isinstance(step, FillHoles):
            add("holes", 36 * write, (1, 1, 1))
            add("fill", 36 * write)
        elif isinstance(step, MergeTouching):
            # labels, the image as integers, and a key and a sum of pairs that are all borders
            add("borders", (20 + itemsize) * write + 48 * write, (1, 1, 1))
        elif isinstance(step, Split):
            add("split", 40 * write)
        elif not isinstance(step, Size | Artifacts):
            add("on-faces", write)
    return list(found.values())
