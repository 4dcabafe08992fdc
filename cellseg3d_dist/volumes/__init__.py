"""Stored volumes: open, create, validate, downsample, convert.

The only package that imports zarr, ome-zarr or tifffile.
"""

from cellseg3d_dist.volumes.create import create_image, create_scratch
from cellseg3d_dist.volumes.opening import open_volume
from cellseg3d_dist.volumes.pyramid import downsample, level_factors, level_shape, source_region
from cellseg3d_dist.volumes.storage import limit_threads
from cellseg3d_dist.volumes.stored import StoredArray, StoredImage
from cellseg3d_dist.volumes.volume import Volume

__all__ = [
    "StoredArray",
    "StoredImage",
    "Volume",
    "create_image",
    "create_scratch",
    "downsample",
    "level_factors",
    "level_shape",
    "limit_threads",
    "open_volume",
    "source_region",
]
