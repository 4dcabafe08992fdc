"""Labels tidied slice by slice, as options of the boundary representation."""

import numpy as np
import pytest
import scipy.ndimage as ndi

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.representations import representation
from cellseg3d_dist.representations.slices import smoothed_outlines, without_small_areas


def blobs(seed, shape=(4, 40, 44)):
    field = ndi.gaussian_filter(np.random.default_rng(seed).normal(size=shape), (0.5, 1.5, 1.5))
    parts, n = ndi.label(field > 0.12)
    return (np.random.default_rng(seed).integers(0, 5, n + 1) * (np.arange(n + 1) > 0))[
        parts
    ].astype(np.int32)


@pytest.mark.parametrize("least", [2, 20])
def test_small_areas_go_from_each_slice(least):
    labels = blobs(1)
    expected = labels.copy()
    for z in range(len(labels)):
        for label in np.unique(labels[z][labels[z] > 0]):
            areas, n = ndi.label(labels[z] == label, np.ones((3, 3)))
            for area in range(1, n + 1):
                if (areas == area).sum() < least:
                    expected[z][areas == area] = 0
    assert (expected != labels).any()
    np.testing.assert_array_equal(without_small_areas(labels, least), expected)


@pytest.mark.parametrize("radius", [1, 2])
def test_outlines_are_the_median_of_each_label(radius):
    labels = blobs(2)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = (y**2 + x**2 <= radius**2).astype(float)[None]
    there = ndi.correlate(np.ones(labels.shape), disc, mode="constant")
    expected = np.zeros_like(labels)
    for label in np.unique(labels):
        n = ndi.correlate((labels == label).astype(float), disc, mode="constant")
        expected[2 * n > there] = label
    np.testing.assert_array_equal(smoothed_outlines(labels, radius), expected)


def test_edges_of_the_thesis():
    """Small areas dropped, outlines smoothed, the edge is the dilation less the mask."""
    labels = np.zeros((2, 20, 24), np.int32)
    labels[:, 4:12, 4:12] = 1
    labels[0, 16:18, 18:22] = 2
    labels[:, 8, 12] = 1
    kind = representation("boundary", edge="outer", min_slice_area=20, smoothing=2)
    background, edge, nucleus = kind.encode(labels, (9.0, 1.0, 1.0)) > 0
    mask = smoothed_outlines(np.where(labels == 1, 1, 0).astype(np.int32), 2) > 0
    assert not mask[0, 8, 12]
    np.testing.assert_array_equal(nucleus, mask)
    cross = ndi.generate_binary_structure(2, 1)[None]
    np.testing.assert_array_equal(edge, ndi.binary_dilation(mask, cross) & ~mask)
    assert background[0, 16:18, 18:22].all()
    assert kind.encode_halo == 23
    assert representation("boundary").encode_halo == 1


@pytest.mark.parametrize("options", [{"min_slice_area": -1}, {"smoothing": 1.5}])
def test_sizes_that_mean_nothing_are_refused(options):
    with pytest.raises(ConfigError, match="boundary"):
        representation("boundary", **options)
