"""The lazy interface: dask arrays in, dask arrays out, for other people's pipelines.

Every function builds a graph and computes nothing. What it computes does not depend on
the chunks, on the scheduler (threads, processes, distributed), or on whether the image is
a dask array or stored; a stored image (a :class:`~cellseg3d_dist.volumes.Volume` or path)
is read block by block by the tasks themselves, halo included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dask.base import tokenize

from cellseg3d_dist.arrays.cells import measure
from cellseg3d_dist.arrays.filtering import foreground, otsu_threshold, smooth
from cellseg3d_dist.arrays.labelling import label
from cellseg3d_dist.arrays.merging import merge
from cellseg3d_dist.arrays.prediction import predict
from cellseg3d_dist.arrays.sources import Image, lazy_array, source_of

__all__ = [
    "foreground",
    "from_volume",
    "label",
    "measure",
    "merge",
    "otsu_threshold",
    "predict",
    "smooth",
]


def from_volume(
    volume: Image, chunks: Any = None, *, voxel_size: Sequence[float] | None = None
) -> Any:
    """A stored image as a dask array; one task per block, which reads it.

    For :func:`smooth`, :func:`label` and the others give the volume itself: their tasks
    then read their own halos and nothing passes between workers.

    Parameters
    ----------
    volume : Volume, path or Zarr array
    chunks : optional
        As in :mod:`dask.array`; default are multiples of the stored chunks, up to 8
        million voxels.
    voxel_size : (z, y, x) in micrometres, optional
        Where the image is stored without one.

    Returns
    -------
    dask.array.Array, (z, y, x)
        Of the volume's type; values that are not finite are 0.
    """
    source = source_of(volume, voxel_size, chunks)
    name = f"volume-{tokenize(source.token)}"
    tasks: dict[Any, Any] = {}
    for block in source.cut.blocks():
        reader, keys = source.read(block.write_region)
        tasks[(name, *block.index)] = (reader, *keys)
    return lazy_array(name, tasks, source.collections, source.cut, source.dtype)
