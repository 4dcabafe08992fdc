"""The image in a form that blocks can read their part of."""

from __future__ import annotations

from typing import Any

from cellseg3d_dist.config import SegmentConfig
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.inputs import ImageInput, Inputs, open_inputs
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.engine.stages.convert import Convert
from cellseg3d_dist.errors import BlocksFailedError
from cellseg3d_dist.grid import Selection
from cellseg3d_dist.volumes import open_volume
from cellseg3d_dist.volumes.convert import create_conversion, plan_conversion


def store_array(
    folder: RunFolder, config: SegmentConfig, stored: Any
) -> tuple[SegmentConfig, Inputs]:
    """Write an array in memory, or a lazy one, into the run folder, where workers can read it."""
    volume = open_volume(stored, voxel_size=config.voxel_size, time=config.time_point)
    conversion = create_conversion(volume, folder.work / "array.ome.zarr", n_levels=1)
    for block in conversion.grid.blocks():
        conversion.run(block.write_region)
    config = config.model_copy(update={"image": conversion.image.path, "time": None})
    inputs = open_inputs(config, None)
    folder.config.write_text(config.to_yaml())
    folder.update_status(**inputs.fingerprints(), deciding=config.deciding())
    return config, inputs


def readable(
    folder: RunFolder, config: SegmentConfig, inputs: Inputs, runner: Runner
) -> ImageInput:
    """The image in a form that blocks can read their part of: TIFF is converted first."""
    volume = inputs.volume
    if volume.kind != "tiff":
        return ImageInput(volume, inputs.mask)
    whole = open_volume(
        config.image, voxel_size=config.voxel_size, channel=config.channel, time=config.time_point
    )
    path = folder.work / "image.ome.zarr"
    make = plan_conversion if path.exists() else create_conversion
    stage = Convert(make(whole, path, n_levels=1))
    list(runner.run(stage, Selection.all(stage.conversion.grid)))
    if runner.failed:
        block, name, error = next(iter(runner.failed.values()))
        raise BlocksFailedError(f"{block} of {name} failed: {error} When mended, {folder.go_on}")
    copied = open_volume(path, channel=config.channel)
    region = config.region_box
    return ImageInput(copied.crop(region) if region else copied, inputs.mask)
