"""Merging by overlap: zones, mutual bests, and whole cells of dense tissue once each."""

import itertools

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

import cellseg3d_dist
from cellseg3d_dist.errors import ConfigError, LabellerError
from cellseg3d_dist.grid import BlockGrid, Region
from cellseg3d_dist.merging.overlap import Reach, overlaps, seen, side_key

OFFSETS = [o for o in itertools.product((-1, 0, 1), repeat=3) if any(o)]
seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 7)


# what a block has seen


@given(seeds, st.tuples(sides, sides, sides), st.sampled_from([3, 40, 10**6, 2**40]))
@settings(max_examples=60, deadline=None)
def test_labels_are_numbered_by_position(seed, shape, span):
    rng = np.random.default_rng(seed)
    ids = np.concatenate(([0], rng.choice(span, min(span, 6), replace=False) + 1))
    labels = rng.choice(ids, shape)
    start = tuple(int(rng.integers(0, n)) for n in shape)
    stop = tuple(int(rng.integers(a + 1, n + 1)) for a, n in zip(start, shape, strict=True))
    write = Region(start, stop)
    found = seen(labels, write)
    own = labels[write.slices].ravel()
    order = [i for i in dict.fromkeys(own.tolist()) if i]
    written = len(order)
    order += [i for i in dict.fromkeys(labels.ravel().tolist()) if i and i not in order]
    number = {0: 0} | {label: n + 1 for n, label in enumerate(order)}
    expected = np.vectorize(number.get, otypes=[np.uint32])(labels)
    np.testing.assert_array_equal(found.labels, expected)
    assert found.first.tolist() == [own.tolist().index(i) for i in order[:written]]


@given(seeds, st.tuples(sides, sides, sides), st.tuples(sides, sides, sides))
@settings(max_examples=60, deadline=None)
def test_zones_are_what_both_blocks_have_read(seed, block_shape, halo):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 18, 3))
    grid = BlockGrid(shape, block_shape)
    volume = np.arange(np.prod(shape), dtype=np.uint32).reshape(shape)
    block = grid.block(int(rng.integers(grid.n_blocks)))

    def shared(block, offset):
        reach = Reach(block.write_region, grid.read_region(block, halo), halo)
        sides = reach.sides(volume[reach.read.slices])
        return reach.shared(sides[side_key(offset)], offset)

    for offset, neighbour in grid.neighbours(block):
        common = grid.read_region(block, halo).intersect(grid.read_region(neighbour, halo))
        np.testing.assert_array_equal(shared(block, offset), volume[common.slices])
        back = tuple(-o for o in offset)
        np.testing.assert_array_equal(shared(neighbour, back), volume[common.slices])


# pairs


def pairs_plainly(a, b, threshold):
    count = {}
    for pair in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True):
        count[pair] = count.get(pair, 0) + 1
    common = {pair: n for pair, n in count.items() if all(pair)}
    found = []
    for (i, j), n in common.items():
        best_i = min(((-m, q) for (p, q), m in common.items() if p == i))[1]
        best_j = min(((-m, p) for (p, q), m in common.items() if q == j))[1]
        union = (a == i).sum() + (b == j).sum() - n
        if best_i == j and best_j == i and n / union >= threshold:
            found.append((i, j))
    return sorted(found)


@given(seeds, st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_pairs_are_mutual_bests_over_the_threshold(seed, threshold):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 6, 3)
    a, b = rng.integers(0, 5, (2, *shape)).astype(np.uint32)
    b = np.where(rng.random(shape) < 0.6, a, b)
    found = overlaps(a, b, threshold)
    assert [tuple(pair) for pair in found.pairs.tolist()] == pairs_plainly(a, b, threshold)
    assert len(set(found.pairs[:, 0].tolist())) == len(found.pairs)
    assert len(set(found.pairs[:, 1].tolist())) == len(found.pairs)


def test_labels_that_only_touch_or_share_little_stay_apart():
    a = np.array([[[1, 1, 1, 1, 2, 2, 2, 2]]], np.uint32)
    b = np.array([[[3, 3, 3, 3, 3, 4, 4, 4]]], np.uint32)
    # 3 reaches over into 2 by a voxel: both have a better partner
    assert overlaps(a, b).pairs.tolist() == [[1, 3], [2, 4]]
    b = np.array([[[3, 3, 3, 3, 3, 3, 3, 3]]], np.uint32)
    assert overlaps(a, b, 0.4).pairs.tolist() == [[1, 3]]
    assert overlaps(a, b, 0.6).pairs.tolist() == []
    assert overlaps(a, b, 0.6).refused == 2


# whole volumes


def cells(rng, shape, n):
    """Touching convex cells of up to 9 voxels that fill most of a volume."""
    points = rng.uniform(0, shape, (n, 3))
    grid = np.indices(shape).reshape(3, -1).T
    distance = ((grid[:, None] - points[None]) ** 2).sum(-1)
    nearest = distance.argmin(1)
    labels = np.where(distance.min(1) <= 4.4**2, nearest + 1, 0)
    return labels.reshape(shape)


def blocks_of(truth, block_shape, halo, rng):
    """What a perfect labeller would see in each block, under ids of its own."""
    grid = BlockGrid(truth.shape, block_shape)
    found = {}
    for block in grid.blocks():
        part = truth[grid.read_region(block, (halo,) * 3).slices]
        ids = np.concatenate(([0], rng.permutation(10 * truth.max())[: truth.max()] + 1))
        found[block.index] = ids[part]
    return found


def same_partition(one, other):
    pairs = np.unique(np.stack((one.ravel(), other.ravel())), axis=1)
    return len(np.unique(one)) == pairs.shape[1] == len(np.unique(other))


def computed(lazy):
    with dask.config.set(scheduler="sync"):
        return lazy.compute()


@given(seeds, st.tuples(*[st.integers(5, 14)] * 3), st.integers(3, 5))
@settings(max_examples=12, deadline=None)
def test_a_perfect_labeller_gives_the_truth_whatever_the_cut(seed, block_shape, halo):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 3, 3) * block_shape + rng.integers(halo, 6, 3))
    shape = tuple(
        n if n % b == 0 or n % b >= halo else n - n % b
        for n, b in zip(shape, block_shape, strict=True)
    )
    truth = cells(rng, shape, max(2, int(np.prod(shape) / 150)))
    found = computed(cellseg3d_dist.merge(blocks_of(truth, block_shape, halo, rng), halo))
    # a cell that is no longer than its blocks' common zone is there once; none is fused
    assert same_partition(found, truth)
    first = [np.flatnonzero(found == i)[0] for i in range(1, found.max() + 1)]
    assert first == sorted(first)


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_a_labeller_that_misses_cut_cells_finds_each_whole_one_once(seed):
    """Cells that reach the edge of what a block reads are not found, as many programs do."""
    rng = np.random.default_rng(seed)
    shape, block_shape, halo = (20, 20, 20), (10, 10, 10), 6
    truth = cells(rng, shape, 50)
    grid = BlockGrid(shape, block_shape)
    found = blocks_of(truth, block_shape, halo, rng)
    whole = set()
    for block in grid.blocks():
        read = grid.read_region(block, (halo,) * 3)
        part, labels = truth[read.slices], found[block.index]
        for label, box in enumerate(ndi.find_objects(truth), 1):
            if box is None:
                continue
            inside = all(
                (s.start >= a and (s.stop <= b or b == n))
                for s, a, b, n in zip(box, read.start, read.stop, shape, strict=True)
            )
            if inside:
                whole.add((label, block.index))
            else:
                labels[part == label] = 0
    merged = computed(cellseg3d_dist.merge(found, halo))
    for label in {label for label, _ in whole}:
        ids = np.unique(merged[truth == label])
        assert len(ids[ids > 0]) <= 1, "a cell in two"
    for label in range(1, merged.max() + 1):
        assert len(np.unique(truth[merged == label])) == 1, "two cells in one"


@pytest.mark.parametrize("halo", [2, 4])
def test_cells_at_corners_of_eight_blocks_come_out_once(halo):
    truth = np.zeros((12, 12, 12), int)
    truth[4:8, 4:8, 4:8] = 1
    truth[4:8, 4:8, 8:10] = 2
    truth[2:4, 2:10, 2:10] = 3
    found = blocks_of(truth, (6, 6, 6), halo, np.random.default_rng(0))
    assert same_partition(computed(cellseg3d_dist.merge(found, halo)), truth)


def test_a_label_in_the_halo_alone_is_dropped_but_not_given_away():
    # the left block sees 1 and the halo's 2 apart; the right one sees 8 where 2 is
    left = np.array([[[0, 0, 1, 1, 2, 2, 2]]])
    right = np.array([[[0, 0, 8, 8, 8, 8, 8]]])
    merged = cellseg3d_dist.merge({(0, 0, 0): left, (0, 0, 1): right}, (0, 0, 3))
    # 8 overlaps 2 best, which is written nowhere: 1 and 8 stay two cells
    np.testing.assert_array_equal(computed(merged), [[[0, 0, 1, 1, 2, 2, 2, 2]]])


def test_a_dask_array_of_blocks_or_stored_blocks_give_the_same(tmp_path):
    rng = np.random.default_rng(1)
    truth = cells(rng, (16, 20, 24), 60)
    lazy = da.from_array(truth, chunks=(8, 10, 12))

    def relabelled(block):
        return np.where(block > 0, 7 * block + 3, 0)

    overlapping = da.overlap.overlap(lazy, 4, boundary="none").map_blocks(relabelled, dtype=int)
    one = cellseg3d_dist.merge(overlapping, 4)
    assert one.chunks == lazy.chunks
    stored = {}
    for index in np.ndindex(*overlapping.numblocks):
        path = tmp_path / "-".join(map(str, index))
        stored[index] = zarr.create_array(path, data=overlapping.blocks[index].compute())
    another = cellseg3d_dist.merge(stored, (4, 4, 4))
    with dask.config.set(scheduler="threads"):
        np.testing.assert_array_equal(one.compute(), another.compute())
    assert same_partition(one.compute(), truth)
    sizes = np.bincount(one.compute().ravel())[1:]
    large = cellseg3d_dist.merge(overlapping, 4, min_volume=int(np.median(sizes))).compute()
    assert large.max() == np.count_nonzero(sizes >= int(np.median(sizes)))


@pytest.mark.parametrize(
    ("blocks", "halo", "match"),
    [
        ({}, 1, "no blocks"),
        (np.zeros((4, 4, 4), int), 1, "ndarray, not a dask array"),
        ({(0, 0, 1): np.zeros((2, 2, 2), int)}, 1, r"block \(0, 0, 0\) .* is missing"),
        ({(0, 0, 0): np.zeros((2, 2), int)}, 1, r"has shape \(2, 2\)"),
        ({(0, 0, 0): np.zeros((2, 2, 2), int)}, -1, "at least 0"),
        (da.zeros((4, 4, 4), chunks=(4, 4, 1), dtype=int), 1, "too thin for a halo of 1"),
    ],
)
def test_blocks_that_make_no_grid_are_refused(blocks, halo, match):
    with pytest.raises(ConfigError, match=match):
        cellseg3d_dist.merge(blocks, halo)


def test_blocks_of_another_length_or_threshold_are_refused():
    blocks = {(0, 0, i): np.zeros((2, 2 + i, 4), int) for i in range(2)}
    with pytest.raises(ConfigError, match="others of its place along y are 2 long"):
        cellseg3d_dist.merge(blocks, 1)
    with pytest.raises(ConfigError, match="threshold 2 must be"):
        cellseg3d_dist.merge(blocks, 1, threshold=2)


def test_what_is_no_label_image_is_refused_when_computed():
    floats = da.zeros((4, 4, 4), chunks=4)
    with pytest.raises(LabellerError, match=r"block \(0, 0, 0\) holds labels of float64"):
        computed(cellseg3d_dist.merge(floats, 1))
    negative = da.full((4, 4, 4), -3, chunks=4)
    with pytest.raises(LabellerError, match="the id -3"):
        computed(cellseg3d_dist.merge(negative, 1))
