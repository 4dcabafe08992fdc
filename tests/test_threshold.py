"""Otsu from mergeable counts: numpy's bins, scikit-image's threshold, any cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.filters import threshold_otsu

from cellseg3d_dist.instances.threshold import N_BINS, count_bins, otsu

seeds = st.integers(0, 2**32 - 1)


def bimodal(rng, shape, scale):
    low, high = rng.normal(0.3, 0.1, shape), rng.normal(0.8, 0.1, shape)
    return (np.where(rng.random(shape) < 0.7, low, high) * scale).astype(np.float32)


def otsu_plain(counts, centres):
    """Between-class variance of every split, one after the other."""
    best, chosen = -1.0, centres[0]
    for cut in range(N_BINS - 1):
        a, b = counts[: cut + 1], counts[cut + 1 :]
        if a.sum() == 0 or b.sum() == 0:
            between = 0.0
        else:
            mean_a = (a * centres[: cut + 1]).sum() / a.sum()
            mean_b = (b * centres[cut + 1 :]).sum() / b.sum()
            between = float(a.sum()) * float(b.sum()) * (mean_a - mean_b) ** 2
        if between > best * (1 + 1e-12):
            best, chosen = between, centres[cut]
    return chosen


@given(seeds, st.sampled_from([1.0, 300.0, 60_000.0]))
@settings(max_examples=30, deadline=None)
def test_every_voxel_is_in_the_nearest_bin(seed, scale):
    image = bimodal(np.random.default_rng(seed), (9, 8, 7), scale)
    low, high = float(image.min()), float(image.max())
    counts = count_bins(image, low, high)
    assert counts.sum() == image.size
    assert counts[0] >= 1
    assert counts[-1] >= 1
    place = (image.astype(np.float64) - low) * 255 / (high - low)
    exact = np.bincount(np.floor(place + 0.5).astype(int).ravel(), minlength=N_BINS)
    # float32 may move a voxel that lies on an edge by one bin
    assert np.abs(np.cumsum(counts - exact)).max() <= 2


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_otsu_is_the_best_of_all_splits(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 1000, N_BINS) * (rng.random(N_BINS) < 0.5)
    counts[[0, -1]] += 1
    low, high = float(np.float32(rng.normal() * 100)), 0.0
    high = float(np.float32(low + rng.random() * 1000 + 1))
    centres = low + np.arange(N_BINS) * (high - low) / 255
    # the same bin: centres are rounded to float32, far finer than their distance
    a_thousandth = (centres[1] - centres[0]) / 1000
    assert otsu(counts, low, high) == pytest.approx(otsu_plain(counts, centres), abs=a_thousandth)


@given(seeds, st.sampled_from([1.0, 300.0, 60_000.0]))
@settings(max_examples=20, deadline=None)
def test_otsu_is_scikit_images_on_the_same_counts(seed, scale):
    image = bimodal(np.random.default_rng(seed), (12, 11, 10), scale)
    low, high = float(image.min()), float(image.max())
    counts = count_bins(image, low, high)
    centres = np.linspace(low, high, N_BINS)
    expected = threshold_otsu(hist=(counts.astype(np.float64), centres))
    assert otsu(counts, low, high) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_otsu_parts_two_clear_classes():
    image = np.full((10, 10, 10), 20, np.float32)
    image[:3] = 200
    threshold = otsu(count_bins(image, 20.0, 200.0), 20.0, 200.0)
    assert 20 <= threshold < 200
    np.testing.assert_array_equal(image > np.float32(threshold), image == 200)


def test_counts_of_parts_add_up_to_those_of_the_whole():
    rng = np.random.default_rng(0)
    image = bimodal(rng, (13, 12, 11), 4000.0)
    low, high = float(image.min()), float(image.max())
    whole = count_bins(image, low, high)
    parts = [image[:5], image[5:, :7], image[5:, 7:]]
    np.testing.assert_array_equal(sum(count_bins(p, low, high) for p in parts), whole)
    within = rng.random(image.shape) < 0.5
    inside, outside = count_bins(image, low, high, within), count_bins(image, low, high, ~within)
    np.testing.assert_array_equal(inside + outside, whole)


def test_counts_of_a_whole_brain_do_not_round_the_threshold_away():
    image = bimodal(np.random.default_rng(1), (20, 20, 20), 1000.0)
    low, high = float(image.min()), float(image.max())
    counts = count_bins(image, low, high)
    assert otsu(counts * 10**9, low, high) == otsu(counts, low, high)


@pytest.mark.parametrize("value", [0.0, -3.5, 700.0])
def test_a_constant_volume_has_no_foreground(value):
    threshold = otsu(np.zeros(N_BINS, np.int64), value, value)
    assert not (np.float32(value) > np.float32(threshold))
