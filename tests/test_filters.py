"""The Gaussian: against scipy within rounding, and the same bits whatever is read around."""

import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg3d_dist.instances.filters import gaussian, kernel_radius

SIGMAS = [(0.0, 0.0, 0.0), (0.65, 0.65, 0.65), (2.0, 2.0, 2.0), (0.4, 1.7, 0.0), (3.0, 0.1, 0.9)]


def by_scipy(image, sigma):
    out = image.astype(np.float64)
    for axis, (s, radius) in enumerate(zip(sigma, kernel_radius(sigma), strict=True)):
        if radius:
            out = ndi.gaussian_filter1d(out, s, axis, radius=radius, mode="nearest")
    return out


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_gaussian_is_scipys_within_rounding(sigma, dtype):
    rng = np.random.default_rng(3)
    image = (rng.random((17, 14, 21)) * 250).astype(dtype)
    found = gaussian(image, sigma)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_scipy(image, sigma), rtol=3e-6, atol=1e-4)


def test_gaussian_of_negative_values_and_of_one_voxel():
    rng = np.random.default_rng(4)
    image = rng.normal(-5, 20, (9, 8, 7)).astype(np.float32)
    np.testing.assert_allclose(
        gaussian(image, (1, 1, 1)), by_scipy(image, (1, 1, 1)), rtol=1e-5, atol=1e-4
    )
    one = np.array([[[7]]], np.uint8)
    np.testing.assert_allclose(gaussian(one, (2, 2, 2)), [[[7]]], rtol=1e-6)


def test_kernel_radius_is_that_of_an_odd_kernel_of_eight_sigma():
    for sigma in np.arange(0, 6, 0.05):
        taps = int(8 * sigma)
        odd = taps if taps % 2 else taps + 1
        expected = (odd - 1) // 2 if sigma > 0 else 0
        assert kernel_radius((sigma, 0, sigma)) == (expected, 0, expected)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_crop_is_the_crop_of_the_whole_bit_for_bit(data):
    shape = data.draw(st.tuples(*[st.integers(1, 18)] * 3))
    sigma = data.draw(st.tuples(*[st.sampled_from([0.0, 0.3, 0.65, 1.0, 1.9])] * 3))
    dtype = data.draw(st.sampled_from([np.uint8, np.uint16, np.float32]))
    start = data.draw(st.tuples(*[st.integers(0, n - 1) for n in shape]))
    stop = data.draw(st.tuples(*[st.integers(a + 1, n) for a, n in zip(start, shape, strict=True)]))
    more = data.draw(st.integers(0, 3))
    seed = data.draw(st.integers(0, 2**32 - 1))
    image = (np.random.default_rng(seed).random(shape) * 255).astype(dtype)
    whole = gaussian(image, sigma)
    # what a block reads: its region, the radius and perhaps more, cut at the faces
    low = [max(0, a - r - more) for a, r in zip(start, kernel_radius(sigma), strict=True)]
    high = [min(n, b + r + more) for b, r, n in zip(stop, kernel_radius(sigma), shape, strict=True)]
    read = image[tuple(map(slice, low, high))]
    crop = tuple((a - lo, hi - b) for a, b, lo, hi in zip(start, stop, low, high, strict=True))
    np.testing.assert_array_equal(
        gaussian(read, sigma, crop), whole[tuple(map(slice, start, stop))]
    )


def test_one_voxel_less_than_the_radius_is_not_enough():
    rng = np.random.default_rng(0)
    image = rng.random((20, 20, 20)).astype(np.float32)
    sigma = (1.0, 1.0, 1.0)
    whole = gaussian(image, sigma)[10:14]
    exact = gaussian(image[6:18], sigma, ((4, 4), (0, 0), (0, 0)))
    short = gaussian(image[7:18], sigma, ((3, 4), (0, 0), (0, 0)))
    np.testing.assert_array_equal(exact, whole)
    assert not np.array_equal(short, whole)
