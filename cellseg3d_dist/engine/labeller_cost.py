"""What a labeller takes: its halo and its memory."""

from __future__ import annotations

import math

from cellseg3d_dist.engine.memory import WORKER_BYTES, BlockMemory, largest_region
from cellseg3d_dist.engine.method import Method
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import BlockGrid, Region, Triple
from cellseg3d_dist.labellers.labeller import memory_of
from cellseg3d_dist.volumes import Volume


def overlap_halo(method: Method, volume: Volume) -> Triple:
    """Voxels beyond a block that a labeller sees: as configured, or as it says itself."""
    assert method.labeller is not None
    given = method.config.overlap_halo
    if given is None:
        z, y, x = method.labeller.load().halo(volume.voxel_size)
    else:
        z, y, x = (max(1, math.ceil(n - 1e-9)) for n in given.voxels(volume.voxel_size))
    return (z, y, x)


def check_overlap_halo(halo: Triple, grid: BlockGrid) -> None:
    """Refuse a halo that reaches beyond the neighbours: only neighbours are merged."""
    for name, n, block, h in zip("zyx", grid.shape, grid.block_shape, halo, strict=True):
        if block < n and h >= block:
            raise ConfigError(
                f"overlap_halo {halo} is not below block_shape {grid.block_shape} along {name} "
                f"(voxels). Use larger blocks or a smaller --overlap-halo."
            )


def labelling_memory(
    method: Method, volume: Volume, grid: BlockGrid, halo: Triple
) -> list[BlockMemory]:
    """Memory of the labeller, with R and W the voxels of read and write region, and of overlaps.

    Labels: the image and what the labeller takes for R, then labels of 8 bytes as they
    came and renumbered, the sides, and W's fragments. Overlaps: two sides and their copies.
    """
    assert method.labeller is not None
    labeller = method.labeller.load()
    per_voxel, fixed = memory_of(labeller)
    shape = largest_region(grid, halo)
    read, write = Region.whole(shape).size, Region.whole(grid.block_shape).size
    sides = [read // n * min(n, 2 * h) for n, h in zip(shape, halo, strict=True) if n]
    itemsize = volume.dtype.itemsize if method.network is None else 1
    if getattr(labeller, "all_channels", False):
        itemsize *= len(volume.channels)
    scaled = 8 if getattr(labeller, "percentiles", None) else 0
    image = read * (itemsize + scaled)
    after = image + 24 * read + 8 * sum(sides) + 14 * write
    own = WORKER_BYTES + fixed + max(image + (8 + per_voxel) * read, after)
    finding = WORKER_BYTES + 24 * max(sides, default=0)
    return [
        BlockMemory("label", own, shape, halo),
        BlockMemory("overlaps", finding, shape, halo),
    ]
