"""The phantom: the cut does not show, and every nucleus is where it is said to be."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import BlockGrid, Region
from cellseg3d_dist.phantoms import PhantomSpec, count, nuclei, render

SPECS = {
    "plain": PhantomSpec(shape=(61, 70, 66), seed=5),
    "packed": PhantomSpec(shape=(40, 52, 45), seed=2, crowding=0.6, extent=2.5, dtype="uint8"),
    "anisotropic": PhantomSpec(
        shape=(20, 60, 50), voxel_size=(5.0, 1.3, 1.1), crowding=0.5, extent=1.2, blur=(4, 0.5, 0)
    ),
}


@pytest.fixture(scope="module", params=list(SPECS))
def whole(request):
    spec = SPECS[request.param]
    return (spec, *render(spec, Region.whole(spec.shape)))


@st.composite
def boxes(draw, shape):
    start = tuple(draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    return Region(start, stop)


@pytest.mark.parametrize("name", list(SPECS))
def test_any_region_equals_the_crop_of_the_whole(name):
    spec = SPECS[name]
    image, labels = render(spec, Region.whole(spec.shape))

    @settings(max_examples=12, deadline=None)
    @given(region=boxes(spec.shape))
    def check(region):
        part_image, part_labels = render(spec, region)
        np.testing.assert_array_equal(part_image, image[region.slices])
        np.testing.assert_array_equal(part_labels, labels[region.slices])

    check()


def test_blocks_far_from_the_origin_do_not_depend_on_the_rows_before_them():
    # the rows of this volume are several counted stretches of the lattice long
    spec = PhantomSpec(shape=(24, 24, 1900), extent=3.0, seed=9)
    image, labels = render(spec, Region.whole(spec.shape))
    assert labels.max() == count(spec)
    for block in BlockGrid(spec.shape, (24, 24, 311)).blocks():
        part_image, part_labels = render(spec, block.write_region)
        np.testing.assert_array_equal(part_image, image[block.write_region.slices])
        np.testing.assert_array_equal(part_labels, labels[block.write_region.slices])


def test_labels_are_1_to_n_without_a_gap(whole):
    spec, _, labels = whole
    n = count(spec)
    assert n > 10
    present = np.unique(labels)
    np.testing.assert_array_equal(present[present > 0], np.arange(1, n + 1))


def test_every_nucleus_owns_its_centre(whole):
    spec, _, labels = whole
    found = nuclei(spec, Region.whole(spec.shape))
    np.testing.assert_array_equal(found.labels, np.arange(1, count(spec) + 1))
    np.testing.assert_array_equal(labels[tuple(found.centres.T)], found.labels)


def test_labels_are_the_nearest_ellipsoid(whole):
    spec, _, labels = whole
    found = nuclei(spec, Region.whole(spec.shape))
    rng = np.random.default_rng(0)
    # half of the voxels anywhere, half next to a nucleus' surface
    voxels = rng.integers(0, spec.shape, (300, 3))
    near = found.centres[rng.integers(0, len(found.centres), 300)]
    voxels = np.concatenate([voxels, near + rng.integers(-3, 4, near.shape)])
    voxels = np.clip(voxels, 0, np.array(spec.shape) - 1)
    offset = (voxels[:, None] - found.centres[None]).astype(np.float64)
    zz, yy, xx, zy, zx, yx = found.forms.astype(np.float64).T
    dz, dy, dx = np.moveaxis(offset, -1, 0)
    distance = zz * dz**2 + yy * dy**2 + xx * dx**2
    distance += 2 * (zy * dz * dy + zx * dz * dx + yx * dy * dx)
    two = np.sort(distance, axis=1)[:, :2]
    clear = (np.abs(two[:, 0] - 1) > 1e-4) & (two[:, 1] - two[:, 0] > 1e-4)
    expected = np.where(two[:, 0] < 1, found.labels[distance.argmin(axis=1)], 0)
    assert clear.sum() > 500
    assert np.count_nonzero(expected[clear]) > 50
    np.testing.assert_array_equal(labels[tuple(voxels[clear].T)], expected[clear])


def test_volumes_have_the_size_that_was_asked_for():
    spec = PhantomSpec(shape=(64, 120, 120), voxel_size=(2.0, 1.0, 1.0), extent=2.5)
    labels = render(spec, Region.whole(spec.shape))[1]
    inner = np.unique(labels[6:-6, 12:-12, 12:-12])
    sizes = np.bincount(labels.ravel())[inner[inner > 0]] * 2.0
    # a nucleus cut by its neighbour is smaller, so the median and not the mean
    expected = math.pi / 6 * spec.diameter**3
    assert np.median(sizes) == pytest.approx(expected, rel=0.12)


def test_outside_is_exactly_zero_and_every_nucleus_was_seen():
    spec = PhantomSpec(shape=(80, 150, 150), seed=1, crowding=0.3)
    image, labels = render(spec, Region.whole(spec.shape))
    assert image[0, 0, 0] == 0
    assert image[40, 75, 75] > 0
    assert np.all(image[labels > 0] > 0)
    empty, no_labels = render(spec, Region((0, 0, 0), (8, 12, 12)))
    assert not empty.any()
    assert not no_labels.any()


def test_dense_tissue_touches_and_other_tissue_is_empty():
    spec = dataclasses.replace(SPECS["plain"], shape=(60, 120, 120), extent=2.5)

    def touching(crowding):
        crowded = dataclasses.replace(spec, crowding=crowding)
        labels = render(crowded, Region.whole(spec.shape))[1]
        groups = ndimage.label(labels > 0, np.ones((3, 3, 3)))[1]
        return groups / count(crowded)

    assert touching(1.0) < 0.5 < 0.8 < touching(0.0)
    assert count(dataclasses.replace(spec, density=0.0)) == 0


def test_seed_changes_everything_and_dtype_only_the_levels():
    spec = SPECS["plain"]
    region = Region((20, 20, 20), (40, 40, 40))
    image, labels = render(spec, region)
    other_image, other_labels = render(dataclasses.replace(spec, seed=6), region)
    assert (image != other_image).mean() > 0.8
    assert (labels != other_labels).any()
    small, same = render(dataclasses.replace(spec, dtype="uint8"), region)
    assert small.dtype == np.uint8
    np.testing.assert_array_equal(same, labels)
    assert np.abs(small.astype(int) * 8 - image.astype(int)).max() <= 8


def test_noise_is_white_and_of_the_stated_variance():
    spec = PhantomSpec(shape=(40, 60, 60), density=0.0, extent=3.0, background=400, noise=5.0)
    image = render(spec, Region.whole(spec.shape))[0].astype(float)
    clean = render(dataclasses.replace(spec, noise=0.0), Region.whole(spec.shape))[0].astype(float)
    noise = image - clean
    variance = 5.0 * (clean - 16) + 16
    assert np.mean(noise**2 / variance) == pytest.approx(1.0, abs=0.02)
    assert abs(noise.mean()) < 0.5
    for axis in range(3):
        ahead, behind = np.delete(noise, 0, axis), np.delete(noise, -1, axis)
        assert abs(np.corrcoef(ahead.ravel(), behind.ravel())[0, 1]) < 0.01


def test_a_classical_method_finds_most_nuclei():
    spec = PhantomSpec(shape=(100, 140, 140), seed=1)
    image, labels = render(spec, Region.whole(spec.shape))
    n = count(spec)
    smooth = ndimage.gaussian_filter(image.astype(np.float32), 2.0)
    spots = ndimage.gaussian_filter(image.astype(np.float32), 3.2)
    mask = smooth > threshold_otsu(smooth)
    peaks = (spots == ndimage.maximum_filter(spots, 3)) & mask
    seeds, found = ndimage.label(peaks, np.ones((3, 3, 3)))
    pred = watershed(np.zeros(image.shape, np.uint8), seeds, mask=mask)
    shared = np.zeros((n + 1, found + 1))
    np.add.at(shared, (labels.ravel(), pred.ravel()), 1)
    union = shared.sum(1)[1:, None] + shared.sum(0)[None, 1:] - shared[1:, 1:]
    matched = (shared[1:, 1:] > 0.5 * union).sum()
    assert 2 * matched / (n + found) > 0.75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (0, 4, 4)}, "shape"),
        ({"shape": (4, 4)}, "3 values"),
        ({"seed": -1}, "seed -1"),
        ({"dtype": "float32"}, "uint8, uint16"),
        ({"voxel_size": (0.0, 1.0, 1.0)}, "voxel_size 0 must be above 0"),
        ({"spacing": 1.0}, "spacing 1 must be at least 1.6"),
        ({"voxel_size": (9.0, 1.0, 1.0)}, "spacing 9.5 must be at least 10.8"),
        ({"diameter": float("nan")}, "diameter nan"),
        ({"density": 1.5}, "density 1.5 must be at least 0 and at most 1"),
        ({"blur": (30.0, 0.0, 0.0)}, "blur in voxels 30"),
    ],
)
def test_bad_specs_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        PhantomSpec(**{"shape": (8, 8, 8), **change})


@pytest.mark.parametrize(
    "region",
    [Region((0, 0, 0), (8, 8, 9)), Region((-1, 0, 0), (4, 4, 4)), Region((4, 4, 4), (4, 8, 8))],
)
def test_regions_outside_the_volume_are_refused(region):
    with pytest.raises(ConfigError, match="must be inside the volume"):
        render(PhantomSpec(shape=(8, 8, 8)), region)


def test_specs_from_lists_and_numpy_numbers_are_equal():
    spec = PhantomSpec(shape=[8, np.int64(9), 10], voxel_size=[1, 2, 3])
    assert spec == PhantomSpec(shape=(8, 9, 10), voxel_size=(1.0, 2.0, 3.0))
    assert hash(spec) == hash(PhantomSpec(shape=(8, 9, 10), voxel_size=(1.0, 2.0, 3.0)))


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 30)] * 3),
    voxel_size=st.tuples(*[st.sampled_from([0.5, 1.0, 2.5, 4.0])] * 3),
    spacing=st.sampled_from([6.5, 9.5]),
    seed=st.integers(0, 2**63 - 1),
)
def test_no_label_is_lost_in_any_small_volume(shape, voxel_size, spacing, seed):
    spec = PhantomSpec(
        shape, seed, voxel_size, spacing=spacing, crowding=0.8, extent=3.0, diameter=12.0
    )
    labels = render(spec, Region.whole(shape))[1]
    present = np.unique(labels)
    np.testing.assert_array_equal(present[present > 0], np.arange(1, count(spec) + 1))
