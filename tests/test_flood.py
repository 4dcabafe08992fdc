"""The flood and its settling against plain dilations, and the stop rule."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import NEVER, flood_plain

from cellseg3d_dist.instances.flood import UNREACHED, flood, settle


def random_seeds(rng, mask, n):
    """Some voxels of the mask in random order, so that labels follow no geometry."""
    inside = np.flatnonzero(mask)
    return rng.permutation(inside)[:n]


def as_sources(seeds, shape):
    sources = np.zeros(shape, np.int64)
    sources.ravel()[seeds] = np.arange(1, seeds.size + 1)
    return sources


def assert_as_plain(mask, seeds):
    labels, arrival = flood(mask.astype(np.uint8), seeds)
    expected, came = flood_plain(mask, as_sources(seeds, mask.shape))
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(arrival, came)


@given(
    st.tuples(*[st.integers(1, 12)] * 3),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.15, 0.35, 0.6, 1.0]),
    st.integers(0, 40),
)
@settings(max_examples=150, deadline=None)
def test_flood_is_that_of_plain_dilations(shape, seed, density, n):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < density
    assert_as_plain(mask, random_seeds(rng, mask, n))


def diagonal_chain(n):
    mask = np.zeros((n, n, n), bool)
    mask[np.arange(n), np.arange(n), np.arange(n)] = True
    return mask


@pytest.mark.parametrize("end", [0, -1])
def test_a_diagonal_chain_of_ten_voxels_is_flooded_to_its_end(end):
    # diamond steps never move along it: one idle step must not end the flood
    mask = diagonal_chain(10)
    seed = np.flatnonzero(mask)[[end]]
    labels, arrival = flood(mask.astype(np.uint8), seed)
    assert (labels[mask] == 1).all()
    steps = np.arange(10) * 2 - 1
    steps[0] = 0
    np.testing.assert_array_equal(arrival[mask], steps if end == 0 else steps[::-1])
    assert_as_plain(mask, seed)


def test_a_tie_goes_to_the_larger_label():
    mask = np.ones((1, 1, 5), np.uint8)
    assert flood(mask, np.array([0, 4]))[0].ravel().tolist() == [1, 1, 2, 2, 2]
    assert flood(mask, np.array([4, 0]))[0].ravel().tolist() == [2, 2, 2, 1, 1]


def test_boxes_and_diamonds_alternate():
    mask = np.ones((9, 9, 9), np.uint8)
    _, arrival = flood(mask, np.array([4 * 81 + 4 * 9 + 4]))
    assert (arrival[3:6, 3:6, 3:6] <= 1).all()
    assert arrival[2, 4, 4] == 2
    assert arrival[2, 2, 2] == 3
    assert arrival[2, 3, 3] == 2


def test_what_no_seed_reaches_stays_empty():
    mask = np.zeros((3, 3, 9), np.uint8)
    mask[1, 1, :3] = mask[1, 1, 5:] = 1
    labels, arrival = flood(mask, np.array([(1 * 3 + 1) * 9]))
    assert labels.sum() == 3
    assert (arrival[1, 1, 5:] == UNREACHED).all()


def test_no_seed_and_no_voxel():
    assert not flood(np.ones((3, 4, 5), np.uint8), np.empty(0, np.int64))[0].any()
    assert flood(np.ones((3, 0, 5), np.uint8), np.empty(0, np.int64))[0].shape == (3, 0, 5)


@given(st.tuples(*[st.integers(2, 9)] * 3), st.integers(0, 2**32 - 1), st.integers(0, 63))
@settings(max_examples=80, deadline=None)
def test_the_unknown_ring_is_a_larger_label_all_around(shape, seed, faces):
    rng = np.random.default_rng(seed)
    ring = tuple((bool(faces >> 2 * a & 1), bool(faces >> 2 * a + 1 & 1)) for a in range(3))
    mask = rng.random(shape) < 0.6
    seeds = random_seeds(rng, mask, 12)
    labels, arrival = flood(mask.astype(np.uint8), seeds, ring)
    width = [(int(low), int(high)) for low, high in ring]
    unknown = seeds.size + 1
    sources = np.pad(as_sources(seeds, shape), width, constant_values=unknown)
    expected, came = flood_plain(np.pad(mask, width), sources)
    inner = tuple(slice(a, a + n) for (a, _), n in zip(width, shape, strict=True))
    np.testing.assert_array_equal(labels, expected[inner])
    np.testing.assert_array_equal(arrival, came[inner])


def settled(labels, arrival, is_open):
    """Labels and arrivals after settling the open voxels, sources as they are."""
    source = ~is_open & (arrival != UNREACHED)
    state = np.where(is_open, 0, np.where(source, labels, -1)).astype(np.int32)
    state = np.pad(state, 1, constant_values=-1)
    times = np.pad(np.where(source, arrival, UNREACHED), 1, constant_values=UNREACHED)
    settle(state, times)
    inner = (slice(1, -1),) * 3
    return np.maximum(state[inner], 0), np.where(is_open, times[inner], arrival)


@given(st.tuples(*[st.integers(1, 10)] * 3), st.integers(0, 2**32 - 1), st.integers(0, 40))
@settings(max_examples=120, deadline=None)
def test_settling_is_a_flood_from_sources_that_appear_at_their_step(shape, seed, latest):
    rng = np.random.default_rng(seed)
    is_open = rng.random(shape) < 0.5
    known = ~is_open & (rng.random(shape) < 0.3)
    labels = np.where(known, rng.integers(1, 2**30, shape), 0)
    arrival = np.where(known, rng.integers(0, latest + 1, shape), NEVER).astype(np.int32)
    found, came = settled(labels, arrival, is_open)
    expected, expected_came = flood_plain(is_open, labels, arrival)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(came, expected_came)


def test_settling_a_flooded_volume_from_any_part_of_it_gives_it_back():
    rng = np.random.default_rng(6)
    mask = rng.random((12, 12, 12)) < 0.5
    labels, arrival = flood(mask.astype(np.uint8), random_seeds(rng, mask, 20))
    is_open = (labels > 0) & (arrival > 0) & (rng.random(mask.shape) < 0.8)
    again, came = settled(labels, arrival, is_open)
    np.testing.assert_array_equal(again, labels)
    np.testing.assert_array_equal(came, arrival)


def test_settling_leaves_sources_as_they_are_also_at_equal_steps():
    labels = np.array([[[0, 9, 3, 5]]])
    arrival = np.array([[[NEVER, 0, 1, 1]]], np.int32)
    found, came = settled(labels, arrival, labels == 0)
    assert found.ravel().tolist() == [9, 9, 3, 5]
    assert came.ravel().tolist() == [1, 0, 1, 1]
