"""Spots against brute force, plateaus and ties included, and their global names."""

import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import number_spots, spots_plain

from cellseg3d_dist.grid import Region
from cellseg3d_dist.instances.spots import names_of_seeds, position_of_seeds, spots


def found(smoothed, mask, margin=(0, 0, 0)):
    return spots(smoothed.astype(np.float32), mask.astype(np.uint8), margin)


@given(
    st.tuples(*[st.integers(1, 11)] * 3),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 5, 1000]),
    st.sampled_from([0.0, 0.3, 0.8]),
)
@settings(max_examples=150, deadline=None)
def test_spots_are_those_of_the_plain_search(shape, seed, levels, empty):
    rng = np.random.default_rng(seed)
    smoothed = np.floor(rng.random(shape) * levels).astype(np.float32)
    mask = rng.random(shape) >= empty
    expected = np.flatnonzero(spots_plain(smoothed, mask))
    np.testing.assert_array_equal(found(smoothed, mask), expected)


def test_a_plateau_that_is_a_box_has_one_spot_the_first_in_x_major_order():
    smoothed = np.zeros((6, 7, 8))
    smoothed[2:4, 3:5, 4:6] = 5
    seeds = found(smoothed, smoothed > 0)
    assert [tuple(v) for v in np.argwhere(spots_plain(smoothed, smoothed > 0))] == [(2, 3, 4)]
    assert np.unravel_index(seeds, smoothed.shape) == (2, 3, 4)


def test_a_constant_volume_has_the_spot_at_its_origin():
    assert found(np.ones((4, 5, 6)), np.ones((4, 5, 6))).tolist() == [0]


def test_a_larger_neighbour_outside_the_mask_still_counts():
    smoothed = np.zeros((3, 3, 3))
    smoothed[1, 1, 1], smoothed[1, 1, 2] = 3, 4
    mask = np.zeros((3, 3, 3))
    mask[1, 1, 1] = 1
    assert found(smoothed, mask).size == 0


def test_two_spots_never_touch():
    rng = np.random.default_rng(0)
    smoothed = np.floor(rng.random((20, 20, 20)) * 3)
    chosen = np.zeros(smoothed.shape, bool)
    chosen.ravel()[found(smoothed, np.ones(smoothed.shape))] = True
    assert chosen.sum() == ndi.label(chosen, np.ones((3, 3, 3)))[1] > 50


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(3, 12)] * 3), st.data())
@settings(max_examples=60, deadline=None)
def test_spots_of_a_part_are_those_of_the_whole(seed, shape, data):
    rng = np.random.default_rng(seed)
    smoothed = np.floor(ndi.gaussian_filter(rng.random(shape), 0.5) * 9).astype(np.float32)
    mask = rng.random(shape) < 0.8
    start = data.draw(st.tuples(*[st.integers(0, n - 1) for n in shape]))
    stop = data.draw(st.tuples(*[st.integers(a + 1, n) for a, n in zip(start, shape, strict=True)]))
    region = Region(start, stop)
    around = region.expand((1, 1, 1), shape)
    part = found(smoothed[around.slices], mask[region.slices], region.within(around).start)
    whole = spots_plain(smoothed, mask)[region.slices]
    np.testing.assert_array_equal(part, np.flatnonzero(whole))


def test_more_spots_than_the_first_buffer_holds():
    smoothed = np.zeros((40, 41, 42))
    smoothed[::2, ::2, ::2] = 1
    mask = np.ones(smoothed.shape)
    seeds = found(smoothed, mask)
    expected = np.flatnonzero(spots_plain(smoothed, mask))
    assert seeds.size > 8192
    np.testing.assert_array_equal(seeds, expected)


def test_names_order_seeds_as_x_major_numbering_does_and_tell_the_position():
    shape, region = (11, 9, 13), Region((3, 2, 4), (10, 9, 12))
    chosen = np.zeros(shape, bool)
    chosen[region.slices] = np.random.default_rng(1).random(region.shape) < 0.2
    seeds = np.flatnonzero(chosen[region.slices])
    names = names_of_seeds(seeds, region, shape)
    z, y, x = position_of_seeds(names, shape)
    assert set(zip(z, y, x, strict=True)) == set(map(tuple, np.argwhere(chosen)))
    expected = number_spots(chosen)[z, y, x]
    np.testing.assert_array_equal(np.argsort(np.argsort(names)) + 1, expected)
    assert names.min() >= 1


@pytest.mark.parametrize("shape", [(40_000, 50_000, 60_000), (1, 1, 1)])
def test_names_hold_for_volumes_of_any_size(shape):
    corner = Region(tuple(n - 1 for n in shape), shape)
    names = names_of_seeds(np.zeros(1, np.int64), corner, shape)
    assert int(names[0]) == shape[0] * shape[1] * shape[2]
    assert [int(v[0]) for v in position_of_seeds(names, shape)] == [n - 1 for n in shape]
