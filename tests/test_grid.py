"""The block grid against brute force: every voxel once, neighbours, halos, selections."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import BlockGrid, Region, Selection, ceil_div

triples = st.tuples(*[st.integers(1, 13)] * 3)
shapes = st.tuples(*[st.integers(0, 13)] * 3)
halos = st.tuples(*[st.integers(0, 9)] * 3)
grids = st.builds(BlockGrid, shapes, triples)
corners = st.tuples(*[st.integers(-3, 16)] * 3)


def regions():
    return st.tuples(corners, corners).map(
        lambda pair: Region(tuple(map(min, *pair)), tuple(map(max, *pair)))
    )


def voxels_of(region):
    ranges = (range(a, b) for a, b in zip(region.start, region.stop, strict=True))
    return set(itertools.product(*ranges))


@given(grids)
@settings(deadline=None)
def test_write_regions_cover_each_voxel_exactly_once(grid):
    covered = np.zeros(grid.shape, int)
    owner = np.full(grid.shape, -1)
    for position, block in enumerate(grid.blocks()):
        assert block.number == position == grid.number(block.index)
        assert block == grid.block(block.number)
        assert not block.write_region.is_empty
        covered[block.write_region.slices] += 1
        owner[block.write_region.slices] = block.number
    assert (covered == 1).all()
    assert grid.n_blocks == len(list(grid.blocks())) == (owner.max() + 1 if owner.size else 0)


@given(grids, halos)
@settings(deadline=None)
def test_read_region_is_every_voxel_within_the_halo(grid, halo):
    for block in itertools.islice(grid.blocks(), 12):
        axes = zip(block.write_region.start, block.write_region.stop, halo, grid.shape, strict=True)
        near = [[i for i in range(n) if a - h <= i < b + h] for a, b, h, n in axes]
        assert voxels_of(grid.read_region(block, halo)) == set(itertools.product(*near))


@given(st.builds(BlockGrid, shapes, st.tuples(*[st.integers(3, 13)] * 3)))
@settings(deadline=None, max_examples=40)
def test_neighbours_are_the_blocks_that_touch(grid):
    blocks = list(grid.blocks())
    for block in blocks:
        grown = block.write_region.expand((1, 1, 1), grid.shape)
        touching = {
            other.number
            for other in blocks
            if other != block and not other.write_region.intersect(grown).is_empty
        }
        found = list(grid.neighbours(block))
        assert {other.number for _, other in found} == touching
        assert len(found) == len(touching)
        for offset, other in found:
            assert offset == tuple(b - a for a, b in zip(block.index, other.index, strict=True))
            back = tuple(-o for o in offset)
            assert (back, block) in list(grid.neighbours(other))


@given(grids, regions())
@settings(deadline=None)
def test_overlapping_finds_the_blocks_that_share_a_voxel(grid, region):
    wanted = voxels_of(region)
    expected = [b.number for b in grid.blocks() if voxels_of(b.write_region) & wanted]
    assert [b.number for b in grid.overlapping(region)] == expected


@given(regions(), regions(), shapes)
@settings(deadline=None)
def test_regions_behave_like_sets_of_voxels(a, b, shape):
    assert voxels_of(a.intersect(b)) == voxels_of(a) & voxels_of(b)
    assert a.intersect(b).is_empty == (not voxels_of(a) & voxels_of(b))
    assert a.size == len(voxels_of(a))
    moved = a.shift((2, -1, 5))
    assert voxels_of(moved) == {(z + 2, y - 1, x + 5) for z, y, x in voxels_of(a)}
    assert moved.within(moved).start == (0, 0, 0)
    assert moved.within(moved).shape == a.shape
    assert voxels_of(a.expand((0, 0, 0), shape)) <= voxels_of(Region.whole(shape))


def test_within_gives_the_index_into_a_read_array():
    volume = np.arange(9 * 8 * 7).reshape(9, 8, 7)
    outer, inner = Region((1, 2, 0), (8, 8, 6)), Region((3, 2, 4), (5, 7, 6))
    read = volume[outer.slices]
    np.testing.assert_array_equal(read[inner.within(outer).slices], volume[inner.slices])


@given(grids, st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
@settings(deadline=None)
def test_selection_acts_like_a_sorted_set_of_numbers(grid, some, others):
    everything = Selection.all(grid)
    assert [b.number for b in everything] == list(range(grid.n_blocks))
    chosen = everything.only(some)
    there = sorted(some & set(range(grid.n_blocks)))
    assert [b.number for b in chosen] == there
    assert len(chosen) == len(there)
    assert [b.number for b in chosen.without(others)] == sorted(set(there) - others)
    assert [b.number for b in chosen.only(others)] == sorted(set(there) & others)
    assert [b.number for b in chosen.slice(1, 4)] == there[1:4]


@pytest.mark.parametrize("block_shape", [(0, 4, 4), (4, -1, 4), (4, 4, 0)])
def test_block_shapes_below_one_voxel_are_refused(block_shape):
    with pytest.raises(ConfigError, match="at least 1 voxel"):
        BlockGrid((8, 8, 8), block_shape)


def test_a_block_number_outside_the_grid_is_refused():
    grid = BlockGrid((4, 4, 4), (3, 3, 3))
    assert grid.n_blocks == 8
    for number in (-1, 8):
        with pytest.raises(IndexError):
            grid.block(number)


@given(st.integers(0, 10**15), st.integers(1, 10**7))
def test_ceil_div_is_exact_for_large_integers(a, b):
    assert (ceil_div(a, b) - 1) * b < a <= ceil_div(a, b) * b or a == ceil_div(a, b) == 0
