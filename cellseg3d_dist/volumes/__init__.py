"""Stored volumes: open, create, validate, downsample, convert.

The only package that imports zarr, ome-zarr, tifffile or h5py.
"""

from cellseg3d_dist.volumes.convert import Conversion, create_conversion
from cellseg3d_dist.volumes.create import create_image, create_scratch, plan_image
from cellseg3d_dist.volumes.opening import location_of, open_volume
from cellseg3d_dist.volumes.pyramid import downsample, level_factors, level_shape, source_region
from cellseg3d_dist.volumes.storage import limit_threads
from cellseg3d_dist.volumes.stored import StoredArray, StoredImage
from cellseg3d_dist.volumes.volume import Volume

__all__ = [
    "Conversion",
    "StoredArray",
    "StoredImage",
    "Volume",
    "create_conversion",
    "create_image",
    "create_scratch",
    "downsample",
    "level_factors",
    "level_shape",
    "limit_threads",
    "location_of",
    "open_volume",
    "plan_image",
    "source_region",
]
