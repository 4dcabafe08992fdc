"""Copy a volume into OME-Zarr, block by block; planning is pure, any executor can run it.

Planes of a TIFF are stored whole or in strips as wide as the image, so a small block would
decode all of each plane it touches. A conversion block is therefore several write blocks side
by side: as wide as the image, then as high as memory allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellseg3d_dist.errors import MemoryLimitError
from cellseg3d_dist.grid import BlockGrid, Region, Triple, ceil_div
from cellseg3d_dist.volumes.create import Format, create_image, plan_image
from cellseg3d_dist.volumes.pyramid import ImageKind
from cellseg3d_dist.volumes.stored import StoredImage
from cellseg3d_dist.volumes.volume import Volume

MEMORY_LIMIT = 2**30
"""Bytes of one conversion block, input and encoded copy."""


@dataclass(frozen=True)
class Conversion:
    """A volume on its way into an image; picklable where the volume is.

    Attributes
    ----------
    grid
        Conversion blocks, each a whole number of the image's write blocks.
    """

    volume: Volume
    image: StoredImage
    grid: BlockGrid

    def run(self, region: Region) -> np.ndarray[Any, Any]:
        """Copy one block of :attr:`grid` into level 0, all channels, and return it.

        Raises
        ------
        VolumeError
            If the source cannot be decoded there.
        EnvironmentFailedError
            If a disk failed.
        """
        if self.image.channels is None:
            array = self.volume.read(region)
        else:
            count = len(self.image.channels)
            array = np.stack([self.volume.read(region, channel) for channel in range(count)])
        self.image.levels[0].write(region, array)
        return array


def create_conversion(
    volume: Volume,
    path: str | Path,
    *,
    block_shape: Triple = (128, 128, 128),
    kind: ImageKind = "image",
    format: Format = "0.5",
    n_levels: int | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Conversion:
    """Create the image and plan the copy; pyramid levels are written afterwards.

    The image has the volume's channels, voxel size and origin, and its type as read (float64
    becomes float32).

    Raises
    ------
    OutputError
        If the path exists.
    MemoryLimitError
        If even one write block is over the limit.
    """
    conversion = plan_conversion(
        volume,
        path,
        block_shape=block_shape,
        kind=kind,
        format=format,
        n_levels=n_levels,
        memory_limit=memory_limit,
    )
    create_image(path, **_described(volume, block_shape, kind, format, n_levels))
    return conversion


def plan_conversion(
    volume: Volume,
    path: str | Path,
    *,
    block_shape: Triple = (128, 128, 128),
    kind: ImageKind = "image",
    format: Format = "0.5",
    n_levels: int | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Conversion:
    """What :func:`create_conversion` returns for the same arguments; touches no file."""
    shape = conversion_shape(volume, block_shape, memory_limit)
    image = plan_image(path, **_described(volume, block_shape, kind, format, n_levels))
    return Conversion(volume, image, BlockGrid(volume.shape, shape))


def _described(
    volume: Volume, block_shape: Triple, kind: ImageKind, format: Format, n_levels: int | None
) -> dict[str, Any]:
    return {
        "shape": volume.shape,
        "dtype": volume.dtype,
        "block_shape": block_shape,
        "voxel_size": volume.voxel_size,
        "origin": volume.origin,
        "n_levels": n_levels,
        "kind": kind,
        "format": format,
        "channels": volume.channels if len(volume.channels) > 1 else None,
    }


def conversion_shape(volume: Volume, block_shape: Triple, memory_limit: int) -> Triple:
    """Shape of a conversion block: write blocks side by side along x, then y.

    Raises
    ------
    MemoryLimitError
        If even one write block is over the limit.
    """
    voxel = 2 * volume.dtype.itemsize * len(volume.channels)
    z, y, x = (min(b, max(1, n)) for b, n in zip(block_shape, volume.shape, strict=True))
    if z * y * x * voxel > memory_limit:
        raise MemoryLimitError(
            f"one block of {block_shape} {volume.dtype} with {len(volume.channels)} channels needs "
            f"{z * y * x * voxel / 2**30:.3g} GiB, over the limit of "
            f"{memory_limit / 2**30:.3g} GiB. Use a smaller block_shape."
        )
    if volume.kind != "tiff":
        return block_shape
    columns = ceil_div(max(1, volume.shape[2]), block_shape[2])
    n_x = min(columns, memory_limit // (z * y * x * voxel))
    wide = min(n_x * block_shape[2], max(1, volume.shape[2]))
    rows = ceil_div(max(1, volume.shape[1]), block_shape[1])
    n_y = min(rows, memory_limit // (z * y * wide * voxel))
    return (block_shape[0], max(1, n_y) * block_shape[1], n_x * block_shape[2])
