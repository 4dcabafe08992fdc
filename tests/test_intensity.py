"""Exact percentiles from mergeable histograms, against numpy, for any cut and any outlier."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg3d_dist.measuring import intensity

PERCENTILES = (0.0, 0.1, 1.0, 25.0, 50.0, 75.0, 99.0, 99.9, 100.0)


def dense(parts):
    counts = np.zeros(intensity.N_BINS, np.int64)
    for part in parts:
        counts[part.bins] += part.counts
    return counts


def percentile_of(parts, percentile, within=None):
    """As the survey does it: one pass for small integers, two for the rest."""
    masks = [None] * len(parts) if within is None else within
    upper = dense([intensity.count(p, w) for p, w in zip(parts, masks, strict=True)])
    chosen, inside = intensity.bin_of_rank(upper, intensity.rank_of(percentile, int(upper.sum())))
    if intensity.is_single_pass(parts[0].dtype):
        return intensity.value_of_bin(chosen, parts[0].dtype)
    lower = dense([intensity.count_lower(p, chosen, w) for p, w in zip(parts, masks, strict=True)])
    low, rest = intensity.bin_of_rank(lower, inside)
    assert 0 <= rest < lower[low]
    return intensity.value_of_bits(chosen, low)


def lower_percentile(values, percentile):
    """The sorted value at the rank rounded down, without interpolation."""
    return np.sort(values, axis=None)[int(percentile / 100 * (values.size - 1))]


def random_image(rng, dtype, shape=(9, 8, 11)):
    if np.dtype(dtype).kind in "ui":
        info = np.iinfo(dtype)
        return rng.integers(max(info.min, -30_000), min(info.max, 60_000) + 1, shape).astype(dtype)
    image = rng.normal(-2, 50, shape).astype(dtype)
    image.ravel()[:3] = (3e38, -1e38, 1e-40)  # outliers and a subnormal
    return image


DTYPES = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("percentile", PERCENTILES)
def test_percentiles_are_exact_values_of_the_image(dtype, percentile):
    image = random_image(np.random.default_rng(1), dtype)
    found = percentile_of([image], percentile)
    assert found == lower_percentile(image, percentile)
    assert found == np.percentile(image.astype(np.float64), percentile, method="lower")


@given(st.integers(0, 2**32 - 1), st.sampled_from(DTYPES), st.floats(0, 100))
@settings(max_examples=100, deadline=None)
def test_neither_cut_nor_order_nor_mask_matters(seed, dtype, percentile):
    rng = np.random.default_rng(seed)
    image = random_image(rng, dtype)
    within = rng.random(image.shape) < 0.6
    cut = int(rng.integers(1, 9))
    parts, masks = [image[cut:], image[:cut]], [within[cut:], within[:cut]]
    assert percentile_of(parts, percentile) == lower_percentile(image, percentile)
    if within.any():
        expected = lower_percentile(image[within], percentile)
        assert percentile_of(parts, percentile, masks) == expected


def test_one_outlier_does_not_coarsen_the_rest():
    image = np.linspace(0, 1, 10_001, dtype=np.float32).reshape(1, 73, 137)
    image = np.append(image.ravel(), np.float32(3e38)).reshape(1, 1, -1)
    assert percentile_of([image], 50) == pytest.approx(0.5, abs=1e-4)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
@settings(max_examples=100, deadline=None)
def test_bits_sort_as_numbers_do_and_come_back(values):
    array = np.array(values, np.float32)
    ordered = intensity._ordered(array)
    order = np.argsort(ordered, kind="stable")
    np.testing.assert_array_equal(array[order], np.sort(array))
    for value, bits in zip(array, ordered, strict=True):
        assert intensity.value_of_bits(int(bits) >> 16, int(bits) & 0xFFFF) == value


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
def test_extreme_integers_have_their_own_bins(dtype):
    info = np.iinfo(dtype)
    image = np.array([info.min, info.max, info.max], dtype).reshape(1, 1, 3)
    counts = dense([intensity.count(image)])
    assert counts.sum() == 3
    assert intensity.value_of_bin(int(np.flatnonzero(counts)[0]), dtype) == info.min
    assert intensity.value_of_bin(int(np.flatnonzero(counts)[-1]), dtype) == info.max


def test_nothing_counted_is_an_empty_histogram():
    found = intensity.count(np.ones((2, 2, 2), np.uint16), np.zeros((2, 2, 2), bool))
    assert found.bins.size == found.counts.size == 0
