"""How a pair of label images is cut into blocks: whole stored chunks, as memory allows."""

from __future__ import annotations

from math import prod

from cellseg3d_dist.engine import memory
from cellseg3d_dist.engine.memory import BlockMemory
from cellseg3d_dist.engine.plan import CHUNKS_IN_FLIGHT, SHARE
from cellseg3d_dist.engine.stages.score import LabelPair
from cellseg3d_dist.errors import MemoryLimitError
from cellseg3d_dist.grid import BlockGrid, Triple, ceil_div
from cellseg3d_dist.volumes import Volume

#: Most voxels of a block; more would not be faster.
MOST_VOXELS = 1 << 24
#: Fewest that a block is made of while workers have nothing to do.
FEWEST_VOXELS = 1 << 21


def cut(
    pair: LabelPair, limit: int, workers: int, block_shape: Triple | None = None
) -> tuple[BlockGrid, BlockMemory]:
    """The blocks of a pair, and what one of them needs.

    Raises
    ------
    MemoryLimitError
        If a block needs more than a worker may use.
    """
    shape = pair.labels_pred.shape
    if block_shape is not None:
        grid = BlockGrid(shape, block_shape)
        need = _memory(pair, grid)
        if need.n_bytes > limit * SHARE:
            raise MemoryLimitError(_over(need, block_shape, limit, "a smaller --block-shape"))
        return grid, need
    chunks = [volume.chunk_shape for volume in _volumes(pair)]
    z, y, x = (max(1, min(n, max(axis))) for n, *axis in zip(shape, *chunks, strict=True))
    unit: Triple = (z, y, x)
    wanted = prod(shape) // (4 * workers)
    most = min(MOST_VOXELS, max(FEWEST_VOXELS, wanted))
    while prod(unit) > 1:
        need = _memory(pair, BlockGrid(shape, unit))
        if prod(unit) <= MOST_VOXELS and need.n_bytes <= limit * SHARE:
            break
        # chunks that are too large are read more than once
        unit = _scaled(unit, max(range(3), key=lambda axis: unit[axis]), 0.5)
    need = _memory(pair, BlockGrid(shape, unit))
    if need.n_bytes > limit * SHARE:
        raise MemoryLimitError(_over(need, unit, limit, "fewer workers"))
    while (larger := _larger(unit, shape)) != unit and prod(larger) <= most:
        grown = _memory(pair, BlockGrid(shape, larger))
        if grown.n_bytes > limit * SHARE:
            break
        unit, need = larger, grown
    return BlockGrid(shape, unit), need


def _larger(block: Triple, shape: Triple) -> Triple:
    """Twice as long along the shortest axis that is cut."""
    cut_axes = [axis for axis in range(3) if block[axis] < shape[axis]]
    if not cut_axes:
        return block
    return _scaled(block, min(cut_axes, key=lambda axis: block[axis]), 2)


def _scaled(block: Triple, axis: int, factor: float) -> Triple:
    sides = list(block)
    sides[axis] = ceil_div(sides[axis], 2) if factor < 1 else 2 * sides[axis]
    return (sides[0], sides[1], sides[2])


def _volumes(pair: LabelPair) -> list[Volume]:
    return [v for v in (pair.labels_pred, pair.labels_true) if isinstance(v, Volume)]


def _memory(pair: LabelPair, grid: BlockGrid) -> BlockMemory:
    volumes = _volumes(pair)
    if pair.regions is not None:
        volumes.append(pair.regions.volume)
    counted = pair.counted
    masked = counted.mask is not None or bool(counted.boxes) or counted.ignore is not None
    chunks = max(prod(v.chunk_shape) * v.dtype.itemsize for v in volumes)
    in_memory = all(volume.kind == "array" for volume in volumes)
    return memory.scoring(
        grid,
        tuple(volume.dtype.itemsize for volume in volumes),
        masked=masked,
        boxed=pair.boxed,
        chunks=0 if in_memory else CHUNKS_IN_FLIGHT * chunks,
    )


def _over(need: BlockMemory, block: Triple, limit: int, remedy: str) -> str:
    return (
        f"a block of {block} needs {need.n_bytes / 2**30:.2f} GiB, over {SHARE:.0%} of the "
        f"memory_limit {limit / 2**30:.2f} GiB per worker. Use {remedy} or a larger memory limit."
    )
