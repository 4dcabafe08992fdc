"""Projected memory of a block in each stage, before a voxel is read.

Every figure counts the arrays that are alive together at a stage's fullest moment, with
R, F and W the voxels of read, flood and write region and i the bytes of an image voxel.
The projections are kept above what is measured, and within twice of it for blocks that
dwarf a bare worker.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cellseg3d_dist.grid import BlockGrid, Region, Triple
from cellseg3d_dist.representations.representation import Size
from cellseg3d_dist.representations.star import Star

#: Freed memory that a worker keeps for its next block (its allocator's trim threshold).
KEPT_BYTES = 128 * 2**20
#: Bytes of a worker process that has loaded everything and holds no block.
WORKER_BYTES = 330 * 2**20 + KEPT_BYTES
#: Of one offset of a star's stencil: distance needed, three corners, three weights.
OFFSET_BYTES = 16
#: Fewer voxels than to one candidate in any prediction of cells.
VOXELS_PER_CANDIDATE = 64
#: More than the candidates that one overlaps.
PAIRS_PER_CANDIDATE = 8
#: Voxels along an axis that are counted at a time for the equalisation's tiles.
PIECE = 128
#: Of a voxel of W while a watershed's front is exchanged: labels, keys, landscape and words.
EXCHANGED = 58
#: Fragments that one task merges, of more blocks than one process reads the records of.
GROUP_FRAGMENTS = 1 << 22
#: Of each of them: names, sizes, parents, roots, and an edge to another group.
FRAGMENT_BYTES = 100
#: What torch and the network's code add to a worker.
TORCH_BYTES = 420 * 2**20


@dataclass(frozen=True)
class PredictedBytes:
    """Sizes that decide the memory of a prediction, in bytes where not counts."""

    itemsize: int
    channels: int
    batch: int
    activations: int
    weights: int
    resampled: bool


@dataclass(frozen=True)
class BlockMemory:
    """Projected peak of one worker in one stage.

    Attributes
    ----------
    stage : str
    n_bytes : int
        Of the process, its own size included.
    read_region : (int, int, int)
        Largest region read.
    halo : (int, int, int)
    """

    stage: str
    n_bytes: int
    read_region: Triple
    halo: Triple


def largest_region(grid: BlockGrid, halo: Triple) -> Triple:
    """Shape of the largest region read by a block with this halo."""
    z, y, x = (
        min(n, b + 2 * h) for n, b, h in zip(grid.shape, grid.block_shape, halo, strict=True)
    )
    return (z, y, x)


def _voxels(grid: BlockGrid, halo: Triple) -> int:
    return Region.whole(largest_region(grid, halo)).size


def smoothing(stage: str, grid: BlockGrid, halo: Triple, itemsize: int) -> BlockMemory:
    """Survey and threshold: the image, two passes of the filter, and counts of the block."""
    read, write = _voxels(grid, halo), _voxels(grid, (0, 0, 0))
    is_float = itemsize > 2
    own = read * (itemsize + 8 + is_float) + write * (itemsize + (12 if is_float else 2))
    return BlockMemory(stage, WORKER_BYTES + own, largest_region(grid, halo), halo)


def counting(stage: str, grid: BlockGrid) -> BlockMemory:
    """Histograms of the equalisation's tiles: a piece of the image at a time."""
    z, y, x = (min(n, PIECE) for n in grid.shape)
    n_bytes = WORKER_BYTES + 16 * Region.whole((z, y, x)).size
    return BlockMemory(stage, n_bytes, (z, y, x), (0, 0, 0))


def preparing(
    stage: BlockMemory, shape: Triple, halo: Triple, itemsize: int, curves: int
) -> BlockMemory:
    """A stage that reads a preprocessed image: first R with the steps' halo, then the stage.

    The image as stored and as float32, and for a ball with its edges, a copy, and the result.
    """
    z, y, x = (min(n, r + 2 * h) for n, r, h in zip(shape, stage.read_region, halo, strict=True))
    a, b, c = (s + h for s, h in zip(stage.halo, halo, strict=True))
    steps = Region.whole((z, y, x)).size * (itemsize + 20) + curves
    # a network stays loaded while its next patch is prepared
    beside = stage.n_bytes - WORKER_BYTES if stage.stage == "predict" else 0
    n_bytes = max(stage.n_bytes, WORKER_BYTES + steps + beside)
    return BlockMemory(stage.stage, n_bytes, (z, y, x), (a, b, c))


def voronoi(
    stage: str, grid: BlockGrid, flood_halo: Triple, filter_halo: Triple, itemsize: int
) -> BlockMemory:
    """Voronoi-Otsu: filters on R with the mask of F, then the flood on F, then W's fragments."""
    z, y, x = (f + h for f, h in zip(flood_halo, filter_halo, strict=True))
    read, flood, write = (_voxels(grid, h) for h in ((z, y, x), flood_halo, (0, 0, 0)))
    image = read * (itemsize + (itemsize > 2))
    filtering = image + 8 * read + 2 * flood
    # mask 1, labels 4, arrival 4, and a queue of 4 that a full mask would need
    flooding = image + 13 * flood
    keeping = image + 9 * flood + 14 * write
    n_bytes = WORKER_BYTES + max(filtering, flooding, keeping, 26 * write)
    return BlockMemory(stage, n_bytes, largest_region(grid, (z, y, x)), (z, y, x))


def watershed(
    stage: str, grid: BlockGrid, flood_halo: Triple, filter_halo: Triple, itemsize: int, spots: bool
) -> BlockMemory:
    """Watershed: filters on R with mask and landscape of F, then the flood on F, W's fragments.

    Without ``spots`` the image is not held any more when the flood begins.
    """
    z, y, x = (f + h for f, h in zip(flood_halo, filter_halo, strict=True))
    read, flood, write = (_voxels(grid, h) for h in ((z, y, x), flood_halo, (0, 0, 0)))
    image = read * (itemsize + (itemsize > 2))
    filtering = image + 8 * read + 10 * flood
    n_bytes = max(filtering, (image if spots else 0) + _flooding(flood), EXCHANGED * write)
    return BlockMemory(stage, WORKER_BYTES + n_bytes, largest_region(grid, (z, y, x)), (z, y, x))


def _flooding(flood: int) -> int:
    """Mask 1, landscape 4, words 8, queue 8, keys 8; or words, keys, labels 4, arrival 8."""
    return 33 * flood


def components(stage: str, grid: BlockGrid, halo: Triple, itemsize: int) -> BlockMemory:
    """Components: filters on R, then mask, runs and fragments of W."""
    read, write = _voxels(grid, halo), _voxels(grid, (0, 0, 0))
    image = read * (itemsize + (itemsize > 2))
    n_bytes = WORKER_BYTES + image + max(8 * read, 22 * write)
    return BlockMemory(stage, n_bytes, largest_region(grid, halo), halo)


def predicting(
    grid: BlockGrid, read: Triple, network: Triple, held: Triple, n: PredictedBytes
) -> BlockMemory:
    """Predict: the image read, the network's input twice, its channels, and a batch of patches.

    ``read`` is in voxels of the image, ``held`` (input) and ``network`` (output) in those of
    the network's grid.
    """
    write = _voxels(grid, (0, 0, 0))
    made, given = Region.whole(network).size, Region.whole(held).size
    image = Region.whole(read).size * (n.itemsize + 4) + 8 * given
    channels = n.channels * (4 * made + (8 * write if n.resampled else 0) + 2 * write)
    own = max(image + channels, Region.whole(read).size * (n.itemsize + 4) + 12 * given)
    n_bytes = WORKER_BYTES + TORCH_BYTES + n.weights + n.batch * n.activations + own
    return BlockMemory("predict", n_bytes, read, (0, 0, 0))


def checking(grid: BlockGrid, channels: int) -> BlockMemory:
    """Check a prediction: channels of W and their encoded form."""
    n_bytes = WORKER_BYTES + 2 * channels * _voxels(grid, (0, 0, 0))
    return BlockMemory("check-prediction", n_bytes, grid.block_shape, (0, 0, 0))


def seeding(grid: BlockGrid, channels: int) -> BlockMemory:
    """Seeds: channels, masks and components of W."""
    write = _voxels(grid, (0, 0, 0))
    return BlockMemory("seeds", WORKER_BYTES + write * (channels + 26), grid.block_shape, (0, 0, 0))


def decoding(
    stage: str, grid: BlockGrid, flood_halo: Triple, channels: int, *, watershed: bool = False
) -> BlockMemory:
    """Seeded flood: channels and masks of F, seeds, then the flood on F and W's fragments."""
    flood, write = _voxels(grid, flood_halo), _voxels(grid, (0, 0, 0))
    own = flood * (2 * channels + 18) + 14 * write
    if watershed:
        own = flood * (2 * channels + 5) + max(_flooding(flood), EXCHANGED * write)
    n_bytes = WORKER_BYTES + own
    return BlockMemory(stage, n_bytes, largest_region(grid, flood_halo), flood_halo)


def star_decoding(grid: BlockGrid, star: Star, voxel_size: Size) -> list[BlockMemory]:
    """Candidates, those in reach with their pairs, and the fragments painted from them."""
    geometry, n_rays = star.stencil(voxel_size), star.n_rays
    near, write = _voxels(grid, (1, 1, 1)), _voxels(grid, (0, 0, 0))
    # probability, mask, and as float32 with what comes of it
    finding = 10 * near + _candidates(write, n_rays)
    z, y, x = (2 * h for h in geometry.half)
    wide = geometry.overlap_halo
    around, painting = (
        _voxels(grid, wide),
        26 * write + _candidates(_voxels(grid, (z, y, x)), n_rays),
    )
    shape = [("candidates", (1, 1, 1), finding), ("suppress", wide, _candidates(around, n_rays))]
    fixed = WORKER_BYTES + geometry.needed.size * OFFSET_BYTES
    return [
        BlockMemory(stage, fixed + own, largest_region(grid, halo), halo)
        for stage, halo, own in [*shape, ("label", geometry.half, painting)]
    ]


def _candidates(voxels: int, n_rays: int) -> int:
    """Bytes of the candidates in a region while they are read, joined, sorted and paired."""
    return voxels // VOXELS_PER_CANDIDATE * (4 * (n_rays + 33) + 16 * PAIRS_PER_CANDIDATE)


def flow_decoding(grid: BlockGrid, first: Triple, farthest: Triple) -> list[BlockMemory]:
    """Channels of R and their packed copy, ends of W and their sorted copies; fragments of W."""
    write, stages = _voxels(grid, (0, 0, 0)), []
    for stage, halo in (("follow", first), ("follow-again", farthest)):
        n_bytes = WORKER_BYTES + 11 * _voxels(grid, halo) + 64 * write
        stages.append(BlockMemory(stage, n_bytes, largest_region(grid, halo), halo))
    return [*stages, BlockMemory("label", WORKER_BYTES + 30 * write, grid.block_shape, (0, 0, 0))]


def peaks(stage: str, grid: BlockGrid, halo: Triple, itemsize: int) -> BlockMemory:
    """Peaks by height: filters or distances on R, then levels, states and parts of W."""
    read, write = _voxels(grid, halo), _voxels(grid, (0, 0, 0))
    image = read * (itemsize + (itemsize > 2))
    n_bytes = WORKER_BYTES + max(image + 34 * read, 40 * write)
    return BlockMemory(stage, n_bytes, largest_region(grid, halo), halo)


def with_depth(stage: BlockMemory, itemsize: int) -> BlockMemory:
    """A flood whose landscape is depth, which is found on all of R first."""
    read = Region.whole(stage.read_region).size
    depth = WORKER_BYTES + read * (itemsize + (itemsize > 2) + 34)
    return replace(stage, n_bytes=max(stage.n_bytes, depth))


def relabelling(grid: BlockGrid, itemsize: int, n_channels: int) -> BlockMemory:
    """Relabel: fragments, labels, their encoded form, and every channel of W."""
    write = _voxels(grid, (0, 0, 0))
    n_bytes = WORKER_BYTES + write * (16 + n_channels * (itemsize + (itemsize > 2)))
    return BlockMemory("relabel", n_bytes, grid.block_shape, (0, 0, 0))


def merging(grid: BlockGrid) -> BlockMemory:
    """Merge on the workers: names, sizes, roots and edges of a group of fragments."""
    n_bytes = WORKER_BYTES + FRAGMENT_BYTES * GROUP_FRAGMENTS
    return BlockMemory("merge", n_bytes, grid.block_shape, (0, 0, 0))


def pyramid(grid: BlockGrid) -> BlockMemory:
    """Pyramid: 64 planes of four blocks of the level below, and the block made of them."""
    z, y, x = (min(n, 2 * b) for n, b in zip(grid.shape, grid.block_shape, strict=True))
    n_bytes = WORKER_BYTES + 6 * min(z, 64) * y * x + 8 * _voxels(grid, (0, 0, 0))
    return BlockMemory("pyramid", n_bytes, (min(z, 64), y, x), (0, 0, 0))


def scoring(
    grid: BlockGrid,
    itemsizes: tuple[int, ...] = (4, 4),
    *,
    masked: bool = False,
    boxed: bool = False,
    chunks: int = 0,
) -> BlockMemory:
    """Score: label images of W as read, chunks of them, and the pairs; what a mask picks.

    Labels whose boxes are sought are made wide, and ranked.
    """
    voxel = 2 * sum(itemsizes) + 8 + masked * (3 + sum(itemsizes)) + 40 * boxed
    n_bytes = WORKER_BYTES + voxel * _voxels(grid, (0, 0, 0)) + chunks
    return BlockMemory("score", n_bytes, largest_region(grid, (0, 0, 0)), (0, 0, 0))
