"""Downsampling against plain numpy, and by blocks against the whole."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cellseg3d_dist.grid import BlockGrid, Region
from cellseg3d_dist.volumes import downsample, level_factors, level_shape, source_region

factors = st.tuples(*[st.integers(1, 3)] * 3)
shapes = st.tuples(*[st.integers(1, 7)] * 3)


def cells(array, factor):
    """The voxels that each voxel of the smaller array sees."""
    shape = level_shape(array.shape, factor)
    for index in itertools.product(*map(range, shape)):
        box = tuple(slice(i * f, (i + 1) * f) for i, f in zip(index, factor, strict=True))
        yield index, array[box].ravel()


@settings(max_examples=60, deadline=None)
@given(factor=factors, data=st.data())
def test_mean(factor, data):
    dtype = data.draw(st.sampled_from(["uint8", "uint16", "int16", "uint64", "int64"]))
    limit = 2**60 if dtype.endswith("64") else np.iinfo(dtype).max
    low = -limit if dtype.startswith("i") else 0
    array = data.draw(arrays(dtype, data.draw(shapes), elements=st.integers(low, limit)))
    small = downsample(array, factor, "image")
    assert small.dtype == array.dtype
    for index, seen in cells(array, factor):
        total, n = sum(int(value) for value in seen), seen.size
        # half up, in exact integers
        assert int(small[index]) == (2 * total + n) // (2 * n)


@settings(max_examples=60, deadline=None)
@given(factor=factors, data=st.data())
def test_mode(factor, data):
    array = data.draw(arrays("uint32", data.draw(shapes), elements=st.integers(0, 3)))
    small = downsample(array, factor, "labels")
    assert small.dtype == array.dtype
    for index, seen in cells(array, factor):
        labels, counts = np.unique(seen, return_counts=True)
        best = labels[counts == counts.max()]
        expected = best[best > 0].min() if (best > 0).any() else 0
        assert small[index] == expected


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["labels", "image"]),
    factor=factors,
    block=st.tuples(*[st.integers(1, 5)] * 3),
    data=st.data(),
)
def test_blocks_give_the_whole(kind, factor, block, data):
    array = data.draw(arrays("uint16", data.draw(shapes), elements=st.integers(0, 5)))
    whole = downsample(array, factor, kind)
    made = np.zeros_like(whole)
    for part in BlockGrid(whole.shape, block).blocks():
        region = source_region(part.write_region, factor, array.shape)
        made[part.write_region.slices] = downsample(array[region.slices], factor, kind)
    np.testing.assert_array_equal(made, whole)


def test_floats_nan_and_channels():
    array = np.arange(2 * 2 * 4 * 6, dtype=np.float32).reshape(2, 2, 4, 6)
    expected = array.reshape(2, 1, 2, 2, 2, 3, 2).mean((2, 4, 6))
    np.testing.assert_allclose(downsample(array, (2, 2, 2), "image"), expected)
    array[0, 0, 0, 0] = np.nan
    small = downsample(array, (2, 2, 2), "image")
    assert np.isnan(small).sum() == 1
    assert np.isnan(small[0, 0, 0, 0])


def test_factor_one_is_a_copy_and_empty_is_legal():
    array = np.ones((2, 3, 4), np.uint8)
    same = downsample(array, (1, 1, 1), "image")
    assert not np.may_share_memory(same, array)
    assert downsample(np.ones((0, 3, 4), np.uint8), (2, 2, 2), "labels").shape == (0, 2, 2)
    assert source_region(Region((1, 0, 0), (2, 1, 1)), (2, 2, 2), (3, 1, 9)) == Region(
        (2, 0, 0), (3, 1, 2)
    )


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((100, 100, 100), (1, 1, 1), ()),
        ((129, 10, 10), (1, 1, 1), ((2, 2, 2),)),
        ((60, 600, 600), (5, 1, 1), ((1, 2, 2), (1, 2, 2), (2, 2, 2))),
        ((600, 1, 1), (10, 1, 1), ((2, 1, 1),) * 3),
        ((51, 300, 300), (1.75, 0.8, 0.8), ((1, 2, 2), (2, 2, 2))),
    ],
)
def test_levels(shape, size, expected):
    assert level_factors(shape, size) == expected
