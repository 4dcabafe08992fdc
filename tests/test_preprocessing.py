"""Preprocessing: each step against a plain reference, and blocks against the whole."""

import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.exposure import equalize_adapthist

from cellseg3d_dist.grid import BlockGrid, Region
from cellseg3d_dist.preprocessing import (
    Background,
    Constants,
    Equalise,
    Gamma,
    Median,
    OpenBall,
    TileGrid,
    apply_steps,
    halo_of,
)
from cellseg3d_dist.preprocessing.balls import ball
from cellseg3d_dist.preprocessing.equalisation import N_BINS, curve, histogram


class Curves:
    """Curves of all tiles of an image in memory."""

    def __init__(self, image, tiles, clip, low, high):
        self.curves = np.empty((*tiles.counts, N_BINS + 1), np.float32)
        for index in np.ndindex(*tiles.counts):
            part = image[tiles.region(index).slices]
            self.curves[index] = curve(histogram(part, low, high), clip)

    def read(self, box):
        return self.curves[box.slices]


def smooth(shape, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    image = ndi.gaussian_filter(rng.normal(size=shape), 2, mode="nearest")
    image = 1000 * (image - image.min()) / max(np.ptp(image), 1e-9)
    return image.astype(dtype)


def whole(image, steps, low=0.0, high=None, tables=None):
    high = float(image.max()) if high is None else high
    found = Constants(image.shape, low, high, tables)
    return apply_steps(image, Region.whole(image.shape), steps, found)


def test_background_is_zero_below_the_threshold():
    image = np.array([[[0, 6, 7, 255]]], np.uint8)
    assert whole(image, [Background(7)]).tolist() == [[[0, 0, 7, 255]]]
    assert whole(image, [Background(0.5, of_range=True)]).tolist() == [[[0, 0, 0, 255]]]


def test_gamma_is_a_power_of_the_range():
    image = smooth((5, 6, 7))
    expected = 500 * (image.astype(np.float64) / 500) ** 0.8
    np.testing.assert_array_equal(
        whole(image, [Gamma(0.8)], high=500.0), expected.astype(np.float32)
    )
    assert whole(image, [Gamma(0.8)], high=0.0).tobytes() == image.tobytes()


def test_a_ball_has_the_radius_of_each_axis():
    assert len(ball((0.2, 0.9, 0.0))) == 1
    assert len(ball((2.0, 2.0, 2.0))) == 33
    flat = ball((0.5, 2.0, 2.0))
    assert len(flat) == 13
    assert not flat[:, 0].any()


@pytest.mark.parametrize("radius", [(1, 1, 1), (0.5, 2, 2), (1, 2.5, 3), (2, 2, 2)])
def test_median_and_opening_equal_scipy(radius):
    image = np.random.default_rng(1).integers(0, 99, (7, 9, 11)).astype(np.uint16)
    offsets = ball(radius)
    reach = offsets.max(0)
    footprint = np.zeros(2 * reach + 1, bool)
    footprint[tuple((offsets + reach).T)] = True
    median = ndi.median_filter(image, footprint=footprint, mode="nearest")
    np.testing.assert_array_equal(whole(image, [Median(radius)]), median)
    opened = ndi.grey_opening(image, footprint=footprint, mode="nearest")
    np.testing.assert_array_equal(whole(image, [OpenBall(radius)]), opened)
    tophat = ndi.white_tophat(image, footprint=footprint, mode="nearest")
    np.testing.assert_array_equal(whole(image, [OpenBall(radius)]), image - tophat)


def test_the_top_hat_takes_small_dots_and_leaves_cells():
    z, y, x = np.mgrid[:24, :24, :24] - 12
    image = np.where(z**2 + y**2 + x**2 <= 49, 100, 10).astype(np.uint8)
    dotted = image.copy()
    dotted[4, 5, 20] = dotted[12, 12, 12] = 255
    opened = whole(dotted, [OpenBall((2, 2, 2))])
    np.testing.assert_array_equal(opened, whole(image, [OpenBall((2, 2, 2))]))
    assert (opened[z**2 + y**2 + x**2 <= 36] == 100).all()


def test_tiles_cover_the_volume_once():
    for shape, tile in (((64, 150, 10), (32, 64, 64)), ((9, 7, 5), (4, 2, 1))):
        tiles, seen = TileGrid(shape, tile), np.zeros(shape, int)
        for index in np.ndindex(*tiles.counts):
            seen[tiles.region(index).slices] += 1
        assert (seen == 1).all()


def equalised_plainly(image, tiles, clip, low, high):
    """The definition voxel by voxel."""
    curves = Curves(image, tiles, clip, low, high).curves.astype(np.float64)
    out = np.empty(image.shape, np.float32)
    for voxel in np.ndindex(*image.shape):
        value = float(image[voxel])
        if not low < value < high:
            out[voxel] = image[voxel]
            continue
        place = (value - low) * (N_BINS / (high - low))
        b = min(int(place), N_BINS - 1)
        total = 0.0
        sums = []
        for dz in (0, 1):
            rows = []
            for dy in (0, 1):
                ends = []
                for dx in (0, 1):
                    at = [(v + 0.5) / t - 0.5 for v, t in zip(voxel, tiles.tile, strict=True)]
                    index = tuple(
                        int(np.clip(np.floor(a) + d, 0, n - 1))
                        for a, d, n in zip(at, (dz, dy, dx), tiles.counts, strict=True)
                    )
                    c = curves[index]
                    ends.append(c[b] + (place - b) * (c[b + 1] - c[b]))
                w = [a - np.floor(a) for a in at]
                rows.append((1 - w[2]) * ends[0] + w[2] * ends[1])
            sums.append((1 - w[1]) * rows[0] + w[1] * rows[1])
        total = (1 - w[0]) * sums[0] + w[0] * sums[1]
        out[voxel] = low + (high - low) * total
    return out


@pytest.mark.parametrize("clip", [0.01, 0.1, 1.0])
def test_equalisation_equals_its_definition(clip):
    image, tiles = smooth((9, 13, 17), 3), TileGrid((9, 13, 17), (4, 5, 6))
    tables = Curves(image, tiles, clip, 0.0, 900.0)
    got = whole(image, [Equalise(clip, tiles.tile)], high=900.0, tables=tables)
    np.testing.assert_array_equal(got, equalised_plainly(image, tiles, clip, 0.0, 900.0))


def test_equalisation_is_like_that_of_scikit_image():
    image = smooth((32, 48, 48), 5)
    image *= np.linspace(0.2, 1, 48, dtype=np.float32)
    tiles = TileGrid(image.shape, (8, 12, 12))
    high = float(image.max())
    tables = Curves(image, tiles, 0.02, 0.0, high)
    got = whole(image, [Equalise(0.02, tiles.tile)], tables=tables)
    other = equalize_adapthist(image / high, kernel_size=tiles.tile, clip_limit=0.02)
    assert np.corrcoef(got.ravel(), other.ravel())[0, 1] > 0.97
    assert got[..., :12].std() > 2 * image[..., :12].std()


def test_a_low_limit_leaves_the_image_as_it_is():
    image, tiles = smooth((8, 9, 10)), TileGrid((8, 9, 10), (4, 4, 4))
    tables = Curves(image, tiles, 1e-9, 0.0, 1000.0)
    got = whole(image, [Equalise(1e-9, (4, 4, 4))], high=1000.0, tables=tables)
    np.testing.assert_allclose(got, image, rtol=1e-5, atol=1e-3)


def test_equalisation_is_monotone_and_keeps_what_is_beyond_the_range():
    tiles = TileGrid((1, 1, 4000), (1, 1, 8000))
    image = np.linspace(0, 4000, 4000, dtype=np.float32).reshape(1, 1, -1)
    tables = Curves(image**2, tiles, 0.05, 0.0, 3000.0)
    got = whole(image, [Equalise(0.05, tiles.tile)], high=3000.0, tables=tables)
    assert (np.diff(got) >= 0).all()
    np.testing.assert_array_equal(got[image >= 3000], image[image >= 3000])


STEPS = st.lists(
    st.sampled_from(
        [
            Background(300.0),
            Background(0.2, of_range=True),
            Gamma(0.7),
            Equalise(0.05, (4, 5, 6)),
            Median((1, 1, 1)),
            Median((0.5, 1.5, 1.5)),
            OpenBall((1, 1.5, 2)),
        ]
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    block=st.tuples(*[st.integers(1, 9)] * 3),
    steps=STEPS,
    seed=st.integers(0, 9),
)
def test_blocks_equal_the_whole(shape, block, steps, seed):
    image = smooth(shape, seed, np.uint16)
    tables = Curves(image.astype(np.float32), TileGrid(shape, (4, 5, 6)), 0.05, 0.0, 900.0)
    found = Constants(shape, 0.0, 900.0, tables)
    expected = apply_steps(image, Region.whole(shape), steps, found)
    got = np.empty(shape, np.float32)
    for one in BlockGrid(shape, block).blocks():
        region = one.write_region.expand(halo_of(steps), shape)
        got[one.write_region.slices] = apply_steps(
            image[region.slices], one.write_region, steps, found
        )
    assert got.tobytes() == expected.tobytes()
