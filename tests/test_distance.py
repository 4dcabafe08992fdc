"""Capped distances: against scipy, and blocks against the whole."""

import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg3d_dist.grid import BlockGrid, Region
from cellseg3d_dist.instances.distance import capped_distance, distance_halo
from cellseg3d_dist.instances.hmaxima import h_maxima


def blobs(shape, seed, share=0.3):
    field = ndi.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.0)
    return (field > np.quantile(field, share)).astype(np.uint8)


@pytest.mark.parametrize("voxel_size", [(1.0, 1.0, 1.0), (5.0, 1.0, 1.5)])
@pytest.mark.parametrize("cap", [2.0, 7.3])
def test_distances_equal_scipy(voxel_size, cap):
    mask = blobs((12, 17, 19), 3)
    whole = Region.whole(mask.shape)
    expected = np.minimum(ndi.distance_transform_edt(mask, voxel_size), cap)
    found = capped_distance(mask, whole, whole, cap, voxel_size)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_without_background_all_is_at_the_cap():
    mask, whole = np.ones((3, 4, 5), np.uint8), Region.whole((3, 4, 5))
    assert (capped_distance(mask, whole, whole, 3.0, (1.0, 1.0, 1.0)) == 3).all()


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    block=st.tuples(*[st.integers(1, 7)] * 3),
    seed=st.integers(0, 99),
    cap=st.sampled_from([0.5, 2.0, 3.7]),
    voxel_size=st.sampled_from([(1.0, 1.0, 1.0), (2.1, 0.7, 0.7), (0.3, 1.1, 0.9)]),
)
def test_blocks_equal_the_whole(shape, block, seed, cap, voxel_size):
    mask, whole = blobs(shape, seed), Region.whole(shape)
    expected = capped_distance(mask, whole, whole, cap, voxel_size)
    found = np.empty(shape, np.float32)
    for one in BlockGrid(shape, block).blocks():
        region = one.write_region.expand(distance_halo(cap, voxel_size), shape)
        found[one.write_region.slices] = capped_distance(
            mask[region.slices], region, one.write_region, cap, voxel_size
        )
    assert found.tobytes() == expected.tobytes()


def test_touching_balls_have_a_peak_each():
    z, y, x = np.mgrid[:20, :20, :40].astype(float)
    mask = np.zeros((20, 20, 40), np.uint8)
    for centre in (11, 28):
        mask[(z - 10) ** 2 + (y - 10) ** 2 + (x - centre) ** 2 <= 81] = 1
    whole = Region.whole(mask.shape)
    distance = capped_distance(mask, whole, whole, 20.0, (1.0, 1.0, 1.0))
    assert ndi.label(h_maxima(distance, mask, 1.0))[1] == 2
    assert ndi.label(h_maxima(distance, mask, 12.0))[1] == 1
    # deeper than the cap is one plateau
    low = capped_distance(mask, whole, whole, 3.0, (1.0, 1.0, 1.0))
    assert ndi.label(h_maxima(low, mask, 1.0))[1] == 1
