"""Blocks that trade faces to the fixpoint give the volume in one piece, however it winds."""

import numpy as np
import pytest
from reference import voronoi_otsu_plain
from test_voronoi import in_a_block, random_case, whole_names

from cellseg3d_dist.grid import BlockGrid
from cellseg3d_dist.instances.exchange import Front, exchange_round
from cellseg3d_dist.instances.flood import UNREACHED
from cellseg3d_dist.instances.voronoi import VoronoiSpec, voronoi_otsu
from cellseg3d_dist.merging.contacts import faces_of, side_of

SHARP = (0.0, 0.0, 0.0)


def exchanged(image, spec, grid, halo, order=None):
    """Names of all voxels after the exchange; how many were open before it, and rounds."""
    fronts, is_open = {}, {}
    for block in grid.blocks():
        found = in_a_block(image, spec, block.write_region, halo)
        arrival = np.where(found.is_open, UNREACHED, found.arrival)
        fronts[block.number] = Front(found.labels, found.names, arrival)
        is_open[block.number] = found.is_open
    n_open = sum(int(o.sum()) for o in is_open.values())
    rounds, changed = 0, True
    while changed:
        rounds += 1
        changed, fresh = False, {}
        for block in grid.blocks() if order is None else order(grid, rounds):
            n = block.number
            if not is_open[n].any():
                continue
            shown = {
                offset: shown_by(fronts[other.number], tuple(-o for o in offset))
                for offset, other in grid.neighbours(block)
            }
            fresh[n] = exchange_round(fronts[n], is_open[n], shown)
            changed |= not fresh[n].same_as(fronts[n])
            if order is not None:  # at once: neighbours see it in the same round
                fronts[n] = fresh[n]
        fronts |= fresh
    whole = np.zeros(grid.shape, np.uint64)
    for block in grid.blocks():
        whole[block.write_region.slices] = named(fronts[block.number])
    return whole, n_open, rounds


def named(front):
    return np.append(np.uint64(0), front.names)[front.labels]


def shown_by(front, offset):
    return side_of(faces_of(named(front)), offset), side_of(faces_of(front.arrival), offset)


def assert_exact(image, spec, grid, halo, order=None):
    found, n_open, rounds = exchanged(image, spec, grid, halo, order)
    truth = voronoi_otsu_plain(image, spec)
    np.testing.assert_array_equal(found, whole_names(image, spec)[truth])
    return n_open, rounds


@pytest.mark.parametrize("seed", range(4))
def test_random_volumes_with_tiny_halos(seed):
    rng = np.random.default_rng(seed)
    n_open = 0
    for _ in range(20):
        image, spec = random_case(rng, 4, 20)
        grid = BlockGrid(image.shape, tuple(int(n) for n in rng.integers(3, 12, 3)))
        n_open += assert_exact(image, spec, grid, tuple(int(h) for h in rng.integers(0, 2, 3)))[0]
    assert n_open > 500


def test_the_order_of_blocks_does_not_matter_nor_when_their_answer_is_seen():
    rng = np.random.default_rng(9)

    def shuffled(grid, rounds):
        return (grid.block(int(n)) for n in rng.permutation(grid.n_blocks))

    for _ in range(8):
        image, spec = random_case(rng, 10, 18)
        grid = BlockGrid(image.shape, (5, 6, 4))
        assert_exact(image, spec, grid, (0, 0, 0), shuffled)


def serpentine(n):
    """Voxels, in order, of a path one voxel wide that winds through a whole cube."""
    rows = [(z, y) for z in range(0, n, 2) for y in range(0, n, 2)[:: 1 if z % 4 == 0 else -1]]
    path = []
    for number, (z, y) in enumerate(rows):
        xs = range(n) if number % 2 == 0 else range(n - 1, -1, -1)
        path += [(z, y, x) for x in xs]
        if number + 1 < len(rows):
            after = rows[number + 1]
            path.append(((z + after[0]) // 2, (y + after[1]) // 2, xs[-1]))
    return np.array(path)


@pytest.mark.parametrize("block_shape", [(4, 4, 4), (3, 5, 6), (11, 2, 11)])
def test_a_serpentine_through_every_block_is_one_cell(block_shape):
    path = serpentine(11)
    image = np.zeros((11, 11, 11), np.float32)
    image[tuple(path.T)] = 1000 - np.arange(len(path))
    spec = VoronoiSpec(SHARP, SHARP, 0.5)
    grid = BlockGrid(image.shape, block_shape)
    labels = voronoi_otsu(image, spec)
    assert labels.max() == 1
    assert all((labels[b.write_region.slices] > 0).any() for b in grid.blocks())
    n_open, rounds = assert_exact(image, spec, grid, (0, 0, 0))
    # the path comes by blocks again and again: far more rounds than there are blocks on an axis
    assert n_open > len(path) * 0.7
    assert rounds > 10


@pytest.mark.parametrize("spot", [(0, 0, 0), (7, 7, 7), (14, 2, 9)])
def test_one_cell_that_fills_the_volume(spot):
    at = np.indices((15, 15, 15)) - np.array(spot).reshape(3, 1, 1, 1)
    image = (100 - np.abs(at).max(axis=0)).astype(np.float32)
    spec = VoronoiSpec(SHARP, SHARP, 0.5)
    assert voronoi_otsu(image, spec).max() == 1
    n_open, rounds = assert_exact(image, spec, BlockGrid(image.shape, (4, 5, 3)), (1, 1, 1))
    assert n_open > image.size // 2
    assert rounds > 2


def test_cells_that_span_twenty_seven_blocks():
    rng = np.random.default_rng(4)
    centres = np.array([[10, 10, 10], [10, 30, 12], [30, 11, 28], [29, 30, 29]])
    at = np.indices((40, 40, 40)).reshape(3, -1).T
    distance = np.linalg.norm(at[:, None] - centres[None], axis=2).min(axis=1).reshape((40,) * 3)
    image = (100 - distance + rng.random(distance.shape) * 0.05).astype(np.float32)
    image[distance > 16] = 0
    spec = VoronoiSpec((1.0,) * 3, SHARP, 0.5)
    grid = BlockGrid(image.shape, (7, 8, 9))
    labels = voronoi_otsu(image, spec)
    largest = np.argmax(np.bincount(labels.ravel())[1:]) + 1
    assert sum((labels[b.write_region.slices] == largest).any() for b in grid.blocks()) >= 27
    n_open, _ = assert_exact(image, spec, grid, (2, 2, 2))
    assert n_open > 0
