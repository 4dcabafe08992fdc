"""An image that goes through the steps of preprocessing whenever a region of it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cellseg3d_dist.config import SegmentConfig
from cellseg3d_dist.config.preprocessing import Preprocess
from cellseg3d_dist.config.values import Length
from cellseg3d_dist.engine import memory
from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.memory import BlockMemory
from cellseg3d_dist.engine.stages.curves import curve_bytes, tile_blocks
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import BlockGrid, Region
from cellseg3d_dist.preprocessing import (
    Background,
    Constants,
    Equalise,
    Gamma,
    Median,
    OpenBall,
    Step,
    TileGrid,
    apply_steps,
    halo_of,
)
from cellseg3d_dist.volumes import Volume

Size = tuple[float, float, float]

#: Largest radius of a ball along any axis, in voxels.
MAX_RADIUS = 32
#: Fewest voxels of a tile: a histogram of fewer says nothing.
MIN_TILE = 512


def steps_of(preprocess: Preprocess | None, voxel_size: Size) -> tuple[Step, ...]:
    """The steps for voxels of this size, in order."""
    if preprocess is None:
        return ()
    steps: list[Step] = []
    for name, value in preprocess.steps:
        if isinstance(value, Length):
            radius = value.voxels(voxel_size)
            steps.append(Median(radius) if name == "median" else OpenBall(radius))
        elif name == "background":
            steps.append(Background(value, preprocess.background_of_range))
        elif name == "gamma":
            steps.append(Gamma(value))
        else:
            z, y, x = (max(1, round(n)) for n in preprocess.clahe_tile.voxels(voxel_size))
            steps.append(Equalise(value, (z, y, x)))
    return tuple(steps)


def check_preprocessing(config: SegmentConfig, volume: Volume) -> None:
    """Refuse balls and tiles that mean nothing for voxels of this size.

    Raises
    ------
    ConfigError
        With the step, its value and its range.
    """
    if config.preprocess is None:
        return
    of = f"(voxel_size {volume.voxel_size} um)"
    for name, value in config.preprocess.steps:
        if isinstance(value, Length):
            widest = max(value.voxels(volume.voxel_size))
            if not 1 <= widest <= MAX_RADIUS:
                raise ConfigError(
                    f"preprocess {name}={value} is a radius of {widest:.4g} voxels {of}, outside "
                    f"1 to {MAX_RADIUS}. Give another radius, or leave the step out."
                )
    for step in steps_of(config.preprocess, volume.voxel_size):
        if isinstance(step, Equalise) and Region.whole(step.tile).size < MIN_TILE:
            raise ConfigError(
                f"preprocess clahe_tile={config.preprocess.clahe_tile} is a tile of {step.tile} "
                f"voxels {of}, fewer than {MIN_TILE} in all. Give larger tiles."
            )


@dataclass(frozen=True)
class PreparedSource:
    """Regions of an image after some steps; what is read is the region with the steps' halo."""

    raw: ImageInput
    steps: tuple[Step, ...]
    constants: Constants

    def read(self, region: Region, channel: int, time: int) -> np.ndarray[Any, Any]:
        """Voxels of a region, float32."""
        read = region.expand(halo_of(self.steps), self.constants.shape)
        return apply_steps(self.raw.read(read), region, self.steps, self.constants)

    def signature(self, *, files: bool) -> list[Any]:
        """Of the image, and its steps."""
        return [self.raw.volume.fingerprint(files=files), [str(step) for step in self.steps]]


def prepared_input(raw: ImageInput, steps: Sequence[Step], constants: Constants) -> ImageInput:
    """An image as it is after some steps."""
    source = PreparedSource(raw, tuple(steps), constants)
    return replace(raw, volume=replace(seen_volume(raw.volume), source=source))


def seen_volume(volume: Volume) -> Volume:
    """What a preprocessed volume is like: one channel of float32."""
    return replace(
        volume,
        dtype=np.dtype(np.float32),
        offset=(0, 0, 0),
        channels=volume.channels[volume.channel : volume.channel + 1] or ("",),
        channel=0,
    )


def with_preprocessing(
    stages: Sequence[BlockMemory], config: SegmentConfig, volume: Volume, grid: BlockGrid
) -> list[BlockMemory]:
    """Memory of the stages that read the image, which prepare what they read first."""
    steps = steps_of(config.preprocess, volume.voxel_size)
    if not steps:
        return list(stages)
    network = config.model != "intensity"
    reading = {"predict"} if network else {"threshold", "peaks", "seeds", "label", "redo"}
    halo, itemsize, out = halo_of(steps), volume.dtype.itemsize, []
    tiles = [TileGrid(volume.shape, s.tile) for s in steps if isinstance(s, Equalise)]
    curves = sum(curve_bytes(one, grid.block_shape) for one in tiles)
    for stage in stages:
        if stage.stage == "survey":
            surveying = replace(stage, stage="survey-prepared")
            out.append(memory.smoothing("survey", grid, (0, 0, 0), itemsize))
            for one in tiles:
                counting = memory.counting("clahe", tile_blocks(one))
                out.append(memory.preparing(counting, grid.shape, halo, itemsize, 0))
            out.append(memory.preparing(surveying, grid.shape, halo, itemsize, curves))
        elif stage.stage in reading:
            out.append(memory.preparing(stage, grid.shape, halo, itemsize, curves))
        else:
            out.append(stage)
    return out
