"""The watershed against a plain one and scikit-image's, and the soundness of its certificate."""

import heapq
import itertools

import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.segmentation import watershed as watershed_of_skimage

from cellseg3d_dist.errors import ConfigError, VolumeError
from cellseg3d_dist.instances.levels import levels_of
from cellseg3d_dist.instances.watershed import (
    UNREACHED,
    watershed_flood,
    watershed_settle,
)

REACHES = {6: 1, 18: 2, 26: 3}
ABOVE_ALL = (-(2**40), 0)


def around(voxel, shape, connectivity):
    """Neighbours of a voxel."""
    for step in itertools.product((-1, 0, 1), repeat=3):
        if 0 < sum(map(abs, step)) <= REACHES[connectivity]:
            other = tuple(v + s for v, s in zip(voxel, step, strict=True))
            if all(0 <= o < n for o, n in zip(other, shape, strict=True)):
                yield other


def watershed_plain(mask, levels, sources, connectivity=6, keys=None):
    """Labels and keys (level, steps): shortest paths first, then labels in their order.

    ``sources`` are labels (0 for none) of voxels whose key is their level and 0 steps, or
    that of ``keys``; they need not lie in the mask.
    """
    best, heap = {}, []
    for voxel in zip(*np.nonzero(sources), strict=True):
        key = (int(levels[voxel]), 0) if keys is None else keys[voxel]
        heapq.heappush(heap, (key, voxel))
        best[voxel] = key
    done = []
    while heap:
        key, voxel = heapq.heappop(heap)
        if best[voxel] != key:
            continue
        done.append((key, voxel))
        for other in around(voxel, mask.shape, connectivity):
            if sources[other] or not mask[other]:
                continue
            height = int(levels[other])
            further = (key[0], key[1] + 1) if height <= key[0] else (height, 0)
            if other not in best or further < best[other]:
                best[other] = further
                heapq.heappush(heap, (further, other))
    labels = np.array(sources, np.int64)
    for _, voxel in done:
        if not sources[voxel]:
            near = [o for o in around(voxel, mask.shape, connectivity) if o in best]
            first = min(best[other] for other in near)
            labels[voxel] = max(labels[other] for other in near if best[other] == first)
    arrival = np.full(mask.shape, UNREACHED)
    for voxel, (level, steps) in best.items():
        arrival[voxel] = level * 2**32 + steps
    return labels, arrival


def random_case(rng, low=1, high=9):
    """A mask, levels with many ties or none, and seeds of one or more voxels."""
    shape = tuple(int(n) for n in rng.integers(low, high, 3))
    mask = rng.random(shape) < rng.choice([0.4, 0.7, 1.0])
    n_levels = int(rng.choice([1, 2, 4, 30, 10**6]))
    levels = rng.integers(-n_levels, n_levels, shape).astype(np.int32) * rng.choice([1, 900])
    at = rng.permutation(np.flatnonzero(mask))[: int(rng.integers(0, 9))]
    labels = rng.integers(1, 6, at.size).astype(np.int32)
    return mask, levels.astype(np.int32), at, labels, int(rng.choice([6, 18, 26]))


def as_sources(at, labels, shape):
    sources = np.zeros(shape, np.int64)
    sources.ravel()[at] = labels
    return sources


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_watershed_is_the_plain_one(seed):
    mask, levels, at, labels, connectivity = random_case(np.random.default_rng(seed))
    found, arrival = watershed_flood(
        mask.view(np.uint8), levels, at, labels=labels, connectivity=connectivity
    )
    sources = as_sources(at, labels, mask.shape)
    expected, keys = watershed_plain(mask, levels, sources, connectivity)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(arrival, keys)


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.integers(1, 14)] * 3),
    st.sampled_from([6, 18, 26]),
    st.sampled_from([np.uint16, np.int32, np.float32, np.float64]),
)
@settings(max_examples=120, deadline=None)
def test_without_ties_it_is_scikit_image(seed, shape, connectivity, dtype):
    rng = np.random.default_rng(seed)
    image = (rng.permutation(np.prod(shape)).reshape(shape) * 3).astype(dtype)
    mask = rng.random(shape) < rng.choice([0.5, 0.8, 1.0])
    at = rng.permutation(np.flatnonzero(mask))[: int(rng.integers(0, 9))]
    labels = np.arange(1, at.size + 1, dtype=np.int32)
    markers = as_sources(at, labels, shape)
    expected = watershed_of_skimage(image, markers, mask=mask, connectivity=REACHES[connectivity])
    found, _ = watershed_flood(mask.view(np.uint8), levels_of(image), at, connectivity=connectivity)
    np.testing.assert_array_equal(found, expected)


def random_hills(rng, low=8, high=30):
    """Smooth hills of few or many levels, most of their lowest places seeds."""
    shape = tuple(int(n) for n in rng.integers(low, high, 3))
    image = ndi.gaussian_filter(rng.normal(size=shape), rng.uniform(0.3, 1.5))
    ranks = image.ravel().argsort().argsort().reshape(shape)
    levels = (ranks * int(rng.choice([3, 9, 40, image.size])) // image.size).astype(np.int32)
    mask = ndi.gaussian_filter(rng.normal(size=shape), 1) < rng.choice([0.1, 9])
    lowest = (ndi.minimum_filter(levels, 3) == levels) & mask & (rng.random(shape) < 0.7)
    return mask, levels, np.flatnonzero(lowest), int(rng.choice([6, 18, 26]))


@pytest.mark.parametrize("seed", range(4))
def test_no_proven_voxel_is_ever_wrong(seed):
    rng = np.random.default_rng(seed)
    proven = n_open = 0
    for _ in range(300):
        mask, levels, at, connectivity = random_hills(rng)
        # labels are names, one seed each
        labels = rng.permutation(at.size).astype(np.int32) + 1
        whole, keys = watershed_flood(
            mask.view(np.uint8), levels, at, labels=labels, connectivity=connectivity
        )
        start = [int(rng.integers(0, n // 3)) for n in mask.shape]
        stop = [int(rng.integers(2 * n // 3, n + 1)) for n in mask.shape]
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        ring = tuple((a > 0, b < n) for a, b, n in zip(start, stop, mask.shape, strict=True))
        inside = as_sources(at, labels, mask.shape)[box]
        own = np.flatnonzero(inside)
        found, arrival = watershed_flood(
            np.ascontiguousarray(mask[box]).view(np.uint8),
            np.ascontiguousarray(levels[box]),
            own,
            ring,
            inside.ravel()[own].astype(np.int32),
            connectivity,
        )
        is_open = found == inside.max(initial=0) + 1
        np.testing.assert_array_equal(found[~is_open], whole[box][~is_open])
        np.testing.assert_array_equal(arrival[~is_open], keys[box][~is_open])
        proven += int((~is_open & mask[box]).sum())
        n_open += int(is_open.sum())
    assert proven > 50_000
    assert n_open > 50_000


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_settling_is_a_flood_from_sources_that_join_at_their_key(seed):
    rng = np.random.default_rng(seed)
    is_open, levels, _, _, connectivity = random_case(rng)
    known = ~is_open & (rng.random(is_open.shape) < 0.5)
    labels = np.where(known, rng.integers(1, 2**30, known.shape), 0)
    high = int(levels.max(initial=0)) + 2
    key_levels = rng.integers(-high, high, known.shape)
    steps = rng.integers(0, 6, known.shape)
    keys = {tuple(v): (int(key_levels[tuple(v)]), int(steps[tuple(v)])) for v in np.argwhere(known)}
    state = np.where(is_open, 0, np.where(known, labels, -1)).astype(np.int32)
    times = np.where(known, key_levels.astype(np.int64) * 2**32 + steps, UNREACHED)
    padded = np.pad(state, 1, constant_values=-1)
    padded_times = np.pad(times, 1, constant_values=UNREACHED)
    watershed_settle(padded, padded_times, np.pad(levels, 1), connectivity)
    expected, expected_keys = watershed_plain(is_open, levels, labels, connectivity, keys)
    inner = (slice(1, -1),) * 3
    np.testing.assert_array_equal(padded[inner][is_open], expected[is_open])
    np.testing.assert_array_equal(padded_times[inner][is_open], expected_keys[is_open])


def test_a_tie_goes_to_the_larger_label_and_steps_start_anew_where_the_level_rises():
    mask = np.ones((1, 1, 7), np.uint8)
    levels = np.array([[[0, 0, 0, 0, 0, 0, 0]]], np.int32)
    found, arrival = watershed_flood(mask, levels, np.array([0, 6]))
    assert found.ravel().tolist() == [1, 1, 1, 2, 2, 2, 2]
    assert arrival.ravel().tolist() == [0, 1, 2, 3, 2, 1, 0]
    levels[0, 0, 2] = 5
    found, arrival = watershed_flood(mask, levels, np.array([0, 6]))
    # the left one comes to the pass at step 1, the right one at step 3
    assert found.ravel().tolist() == [1, 1, 1, 2, 2, 2, 2]
    assert arrival[0, 0, 2] == 5 * 2**32


def test_nothing_to_flood():
    empty = np.empty(0, np.int64)
    levels = np.zeros((3, 4, 5), np.int32)
    found, arrival = watershed_flood(np.ones((3, 4, 5), np.uint8), levels, empty)
    assert not found.any()
    assert (arrival == UNREACHED).all()
    assert not watershed_flood(np.zeros((3, 4, 5), np.uint8), levels, empty)[0].any()
    nothing = np.ones((3, 0, 5), np.uint8)
    assert watershed_flood(nothing, nothing.astype(np.int32), empty)[0].shape == (3, 0, 5)


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=60, deadline=None)
def test_levels_keep_the_order_of_any_landscape(seed, downhill):
    rng = np.random.default_rng(seed)
    for dtype in (np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.bool_):
        values = rng.integers(0, 2**64, 50, np.uint64).astype(dtype)
        assert_ordered(values, downhill)
    floats = rng.integers(0, 2**32, 200, np.uint64).astype(np.uint32).view(np.float32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45], np.float32)
    assert_ordered(np.append(floats[~np.isnan(floats)], special), downhill)


def assert_ordered(values, downhill):
    levels = levels_of(values, downhill=downhill)
    assert levels.dtype == np.int32
    ranks = np.unique(values, return_inverse=True)[1]
    expected = np.unique(levels, return_inverse=True)[1]
    np.testing.assert_array_equal(expected, ranks.max() - ranks if downhill else ranks)


def test_what_cannot_be_flooded():
    ones = np.ones((2, 2, 2), np.uint8)
    with pytest.raises(ConfigError, match="connectivity 7 is unknown"):
        watershed_flood(ones, ones.astype(np.int32), np.array([0]), connectivity=7)
    huge, low = (np.broadcast_to(t(1), (2048, 1024, 1024)) for t in (np.uint8, np.int32))
    with pytest.raises(VolumeError, match="in blocks"):
        watershed_flood(huge, low, np.array([0]))
