"""What predicting a volume costs: memory of a block, seconds of one core, bytes on disk."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from cellseg3d_dist.engine import memory
from cellseg3d_dist.engine.memory import BlockMemory, PredictedBytes
from cellseg3d_dist.engine.method import Method
from cellseg3d_dist.grid import BlockGrid, Region, Triple
from cellseg3d_dist.volumes import Volume

if TYPE_CHECKING:
    from cellseg3d_dist.networks.predictor import Tiling

#: Arithmetic that networks reached on one core and on one GPU, operations a second.
FLOPS = {"cpu": 4e10, "cuda": 2e13}


@dataclass(frozen=True)
class PredictedCost:
    """Of the predict stage; ``patches`` of all blocks, those of several counted in each."""

    memory: BlockMemory
    patches: int
    seconds: float
    disk_bytes: int


def predicted_costs(method: Method, volume: Volume, grid: BlockGrid) -> PredictedCost:
    """Cost of predicting a volume in these blocks."""
    # torch is loaded only where a network is used
    from cellseg3d_dist.networks.cost import cost_of
    from cellseg3d_dist.networks.predictor import Tiling

    card, network, represents = method.card, method.network, method.representation
    assert card is not None
    assert network is not None
    assert represents is not None
    tiling = Tiling.from_card(card, volume.shape, volume.voxel_size)
    cost = cost_of(network.model())
    middle = grid.block(grid.number(_middle(grid))).write_region
    wanted = tiling.network_region(middle)
    held = tuple(b - a for a, b in tiling.lattice.extents(wanted))
    z, y, x = held
    on_gpu = network.device.startswith("cuda")
    sizes = PredictedBytes(
        itemsize=volume.dtype.itemsize,
        channels=represents.n_outputs,
        batch=network.batch,
        activations=0 if on_gpu else cost.activation_bytes,
        weights=cost.weight_bytes,
        resampled=not tiling.resampling.is_identity,
    )
    projected = memory.predicting(grid, tiling.source(middle).shape, wanted.shape, (z, y, x), sizes)
    patches = _patches(tiling, grid)
    flips = 8 if network.flips else 1
    rate = FLOPS["cuda" if on_gpu else "cpu"]
    stored = prod(Region.whole(volume.shape).shape) * len(method.stored_channels)
    seconds = flips * patches * cost.flops / rate
    return PredictedCost(projected, patches, seconds, stored // 2)


def _patches(tiling: Tiling, grid: BlockGrid) -> int:
    """Patches of all blocks: the product of those along each axis."""

    def of(index: Triple) -> int:
        region = grid.block(grid.number(index)).write_region
        return tiling.lattice.patches_of(tiling.network_region(region))

    nz, ny, nx = grid.n_blocks_per_axis
    first = of((0, 0, 0))
    along = (
        sum(of((i, 0, 0)) for i in range(nz)),
        sum(of((0, i, 0)) for i in range(ny)),
        sum(of((0, 0, i)) for i in range(nx)),
    )
    return prod(along) // max(first, 1) ** 2


def _middle(grid: BlockGrid) -> tuple[int, int, int]:
    # not the last of two, which may be a small rest
    z, y, x = ((n - 1) // 2 for n in grid.n_blocks_per_axis)
    return (z, y, x)
