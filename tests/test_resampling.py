"""Resampling of any part of a volume is that part of the resampled volume."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lattice import regions

from cellseg3d_dist.grid import Region
from cellseg3d_dist.networks.resampling import TOLERANCE, Resampling

few = settings(max_examples=40, deadline=None)
sizes = st.sampled_from([0.3, 0.5, 1.0, 1.1, 1.5, 2.0, 3.7])
spacings = st.tuples(sizes, sizes, sizes)
shapes = st.tuples(*[st.integers(1, 13)] * 3)
seeds = st.integers(0, 2**32 - 1)


def dense(n_in, n_out, scale):
    """The resampling of one axis as a matrix, voxel by voxel in double precision."""
    matrix = np.zeros((n_out, n_in))
    reach = max(1.0, scale)
    for i in range(n_out):
        centre = (i + 0.5) * scale - 0.5
        row = np.zeros(n_in)
        for j in range(int(np.floor(centre - reach)) - 1, int(np.ceil(centre + reach)) + 2):
            row[min(max(j, 0), n_in - 1)] += max(0.0, 1 - abs(j - centre) / reach)
        matrix[i] = row / row.sum()
    return matrix


def resampled(resampling, image):
    return resampling.apply(image, Region.whole(image.shape[-3:]), Region.whole(resampling.shape))


@st.composite
def cases(draw):
    resampling = Resampling.between(draw(shapes), draw(spacings), draw(spacings))
    return resampling, draw(regions(resampling.shape)), draw(seeds)


@few
@given(cases(), st.booleans())
def test_any_region_is_the_crop_of_the_whole(case, with_channels):
    resampling, region, seed = case
    shape = tuple(axis.n_in for axis in resampling.axes)
    leading = (2,) if with_channels else ()
    image = np.random.default_rng(seed).random((*leading, *shape), np.float32)
    held = resampling.source(region)
    part = image[(..., *held.slices)]
    found = resampling.apply(part, held, region)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, resampled(resampling, image)[(..., *region.slices)])


@few
@given(shapes, spacings, spacings, seeds)
def test_the_whole_is_the_product_of_dense_matrices(shape, voxel_size, wanted, seed):
    resampling = Resampling.between(shape, voxel_size, wanted)
    image = np.random.default_rng(seed).random(shape, np.float32)
    matrices = [
        np.eye(a.n_in) if a.scale == 1.0 else dense(a.n_in, a.n_out, a.scale)
        for a in resampling.axes
    ]
    expected = np.einsum("zyx,az,by,cx->abc", image, *matrices)
    np.testing.assert_allclose(resampled(resampling, image), expected, atol=1e-5)


@few
@given(st.integers(1, 30), st.sampled_from([0.3, 0.5, 0.77, 0.8]), seeds)
def test_to_finer_voxels_it_is_linear_interpolation(n, scale, seed):
    line = np.random.default_rng(seed).random(n).astype(np.float32)
    resampling = Resampling.between((1, 1, n), (1, 1, 1), (1, 1, scale))
    places = (np.arange(resampling.shape[2]) + 0.5) * scale - 0.5
    expected = np.interp(places, np.arange(n), line)
    np.testing.assert_allclose(resampled(resampling, line[None, None])[0, 0], expected, atol=1e-6)


def test_halving_is_the_stretched_kernel_and_keeps_means():
    image = np.zeros((1, 1, 8), np.float32)
    image[0, 0, 4] = 1
    half = Resampling.between((1, 1, 8), (1, 1, 1), (1, 1, 2))
    np.testing.assert_allclose(resampled(half, image)[0, 0], [0, 0.125, 0.375, 0], atol=1e-7)


@few
@given(shapes, spacings, spacings)
def test_constants_stay_and_the_way_back_has_the_first_shape(shape, voxel_size, wanted):
    resampling = Resampling.between(shape, voxel_size, wanted)
    image = np.full(shape, np.float32(0.7))
    there = resampled(resampling, image)
    back = resampled(resampling.inverse(), there)
    assert back.shape == shape
    np.testing.assert_allclose(there, 0.7, rtol=1e-6)
    np.testing.assert_allclose(back, 0.7, rtol=1e-6)


def test_a_voxel_size_that_is_close_enough_changes_nothing():
    image = np.random.default_rng(0).random((3, 4, 5), np.float32)
    for z, y in itertools.product((1.0, 1 / (TOLERANCE - 0.01), TOLERANCE - 0.01), repeat=2):
        close = Resampling.between((3, 4, 5), (1, 1, 1), (z, y, 1))
        assert close.is_identity
        np.testing.assert_array_equal(resampled(close, image), image)
    assert not Resampling.between((3, 4, 5), (1, 1, 1), (1.2, 1, 1)).is_identity


def test_a_slope_stays_where_it_is():
    """Centres are aligned: no shift by half a voxel."""
    ramp = np.broadcast_to(np.arange(24, dtype=np.float32), (2, 2, 24)).copy()
    # a stretched kernel is off by less than a tenth where its taps lie unevenly
    for wanted, off in ((0.5, 1e-4), (1.7, 0.1), (3.0, 1e-4)):
        resampling = Resampling.between((2, 2, 24), (1, 1, 1), (1, 1, wanted))
        inside = resampled(resampling, ramp)[0, 0]
        places = (np.arange(inside.size) + 0.5) * resampling.axes[2].scale - 0.5
        far = (places > 3) & (places < 20)
        np.testing.assert_allclose(inside[far], places[far], atol=off)
