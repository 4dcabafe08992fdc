"""Changes of patches: one geometry for image and labels, true in micrometres, repeatable."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.networks.normalisation import CEILING
from cellseg3d_dist.training.augmentation import Augmentation, augment, mirror_read
from cellseg3d_dist.training.warp import Elastic, Warp, draw_elastic

SPATIAL = ("rotation", "scaling", "shear", "elastic")
ALWAYS = replace(Augmentation.none(), flip=0.5, quarter_turns=1.0, **dict.fromkeys(SPATIAL, 1.0))
RIGID = replace(Augmentation.none(), flip=0.5, quarter_turns=1.0)


def seeded(seed):
    return np.random.default_rng(seed)


def balls(shape, voxel_size, radius, seed=0, number=4):
    """Balls of a radius in micrometres, one label each."""
    rng = seeded(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1) * voxel_size
    labels = np.zeros(shape, np.int32)
    for label in range(1, number + 1):
        centre = rng.uniform(0.2, 0.8, 3) * shape * voxel_size
        labels[((grid - centre) ** 2).sum(-1) < radius**2] = label
    return labels


def by_scipy(warp, source, centre, shape, order):
    """The same resampling by scipy, from the definition of the warp."""
    p = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")).astype(float)
    middle = (np.array(shape) - 1) / 2
    moved = p - middle[:, None, None, None]
    if warp.elastic is not None:
        moved = moved + displacement(warp.elastic, p)
    at = np.einsum("ij,jzyx->izyx", warp.matrix, moved) + centre[:, None, None, None]
    return ndimage.map_coordinates(source, at, order=order, mode="mirror", prefilter=False)


def displacement(elastic, p):
    """The spline's values at voxels, by scipy's cubic B-spline of the control points."""
    at = [
        (p[i] - elastic.start[i]) / elastic.spacing[i] + 1 for i in range(3)
    ]  # the second point of each axis lies at the start
    return np.stack(
        [
            ndimage.map_coordinates(elastic.control[..., c], at, order=3, prefilter=False)
            for c in range(3)
        ]
    )


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(*[st.integers(1, 14)] * 3),
    isotropic=st.booleans(),
)
def test_warps_are_scipys_for_image_and_labels(seed, shape, isotropic):
    rng = seeded(seed)
    source_shape = (15, 13, 17)
    image = rng.random(source_shape, np.float32)
    labels = rng.integers(0, 50, source_shape).astype(np.int32)
    size = (1.0, 1.0, 1.0) if isotropic else (2.5, 1.0, 1.0)
    augmentation = replace(ALWAYS, elastic=0.5, elastic_magnitude=0.4)
    warp = augmentation.draw_warp(rng, shape, size, halo=2)
    centre = rng.uniform(0, 14, 3)
    found = warp.image(lambda e: mirror_read(image, e), centre, shape)
    np.testing.assert_allclose(found, by_scipy(warp, image, centre, shape, 1), atol=2e-5)
    found_labels, inside = warp.labels(
        lambda e: mirror_read(labels, e), centre, shape, 0, source_shape
    )
    # a point half way between voxels may be rounded either way
    same = found_labels == by_scipy(warp, labels, centre, shape, 0)
    assert same.mean() > 0.99
    padded = np.pad(np.ones(source_shape, np.float32), 40)
    expected = by_scipy(warp, padded, centre + 40, shape, 0) > 0
    assert (inside == expected).mean() > 0.99


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32), halo=st.integers(0, 5))
def test_the_halo_of_labels_changes_nothing_inside(seed, halo):
    rng = seeded(seed)
    shape, source_shape = (5, 8, 7), (12, 14, 11)
    labels = rng.integers(0, 9, source_shape).astype(np.int32)
    warp = ALWAYS.draw_warp(rng, shape, (2.0, 1.0, 1.0), halo=halo)
    centre = rng.uniform(3, 9, 3)

    def read(extents):
        return mirror_read(labels, extents)

    plain, inside = warp.labels(read, centre, shape, 0, source_shape)
    wide, wide_inside = warp.labels(read, centre, shape, halo, source_shape)
    cut = tuple(slice(halo, halo + n) for n in shape)
    assert (wide[cut] == plain).all()
    assert (wide_inside[cut] == inside).all()


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    size=st.sampled_from([(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (1.0, 2.0, 3.0)]),
)
def test_image_and_labels_move_alike(seed, shape, size):
    labels = seeded(seed + 1).integers(0, 99, shape)
    image, moved, inside = augment(labels.astype(np.float32), labels, seeded(seed), size, RIGID)
    assert (image == moved).all()
    assert image.shape == moved.shape == inside.shape == shape
    if size == (1.0, 2.0, 3.0):
        assert inside.all()
        assert sorted(moved.ravel()) == sorted(labels.ravel())


def test_interpolated_images_follow_their_labels():
    size = (2.0, 1.0, 1.0)
    labels = balls((24, 48, 48), size, 8.0)
    for seed in range(6):
        image, moved, _ = augment(
            (labels > 0).astype(np.float32), labels, seeded(seed), size, ALWAYS
        )
        inside = ndimage.binary_erosion(moved > 0)
        outside = ~ndimage.binary_dilation(moved > 0, np.ones((3, 3, 3)))
        assert (image[inside] > 0.4).all()
        assert (image[outside] < 0.6).all()
        assert set(np.unique(moved)) <= set(np.unique(labels))


@pytest.mark.parametrize("size", [(1.0, 1.0, 1.0), (2.5, 0.8, 0.8), (1.0, 0.5, 0.6)])
def test_a_ball_stays_a_ball_in_micrometres(size):
    shape = tuple(round(40 / s) for s in size)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    from_middle = (grid - (np.array(shape) - 1) / 2) * size
    ball = ((from_middle**2).sum(-1) < 12**2).astype(np.int32)
    turned = replace(RIGID, rotation=1.0, tilt_degrees=90.0)
    for seed in range(5):
        _, moved, inside = augment(ball.astype(np.float32), ball, seeded(seed), size, turned)
        moved *= inside  # without mirror images in the corners
        # the same ball but for rounding at its surface
        assert (moved != ball).sum() < 0.12 * ball.sum()
        covariance = np.cov(from_middle[moved > 0].T)
        variances = np.linalg.eigvalsh(covariance)
        assert variances.max() / variances.min() < 1.12


def test_quarter_turns_only_in_planes_of_equal_voxel_size():
    def planes(size, stored=None):
        seen = set()
        for seed in range(40):
            warp = RIGID.draw_warp(seeded(seed), (8, 8, 8), size, stored_size=stored)
            assert warp.is_rigid_on_voxels
            seen.add(tuple(np.abs(warp.matrix).argmax(axis=0).tolist()))
        return seen

    assert planes((2.0, 0.8, 0.8)) == {(0, 1, 2), (0, 2, 1)}
    assert planes((1.0, 0.7, 0.5)) == {(0, 1, 2)}
    assert len(planes((1.0, 1.0, 1.0))) == 6
    # sections that were far apart are blurred along z, also after resampling
    assert planes((1.0, 1.0, 1.0), (3.0, 1.0, 1.0)) == {(0, 1, 2), (0, 2, 1)}


def test_scaling_makes_cells_larger_and_smaller_by_its_factor():
    size = (1.0, 1.0, 1.0)
    ball = balls((40, 40, 40), size, 9.0, number=1)
    for factor in (0.8, 1.25):
        grown = replace(Augmentation.none(), scaling=1.0, scaling_range=(factor, factor))
        warp = grown.draw_warp(seeded(0), ball.shape, size)
        centre = np.argwhere(ball).mean(0)
        moved, inside = warp.labels(
            lambda e: mirror_read(ball, e), centre, ball.shape, 0, ball.shape
        )
        assert (moved[inside] > 0).sum() / (ball > 0).sum() == pytest.approx(factor**3, rel=0.05)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32), size=st.sampled_from([(1.0, 1.0, 1.0), (3.0, 1.0, 0.7)]))
def test_elastic_never_folds(seed, size):
    rng = seeded(seed)
    shape = (12, 20, 22)
    elastic = draw_elastic(rng, shape, 0, tuple(6.0 / s for s in size), 9.0)
    p = np.stack(np.meshgrid(*[np.arange(0, n, 1.0) for n in shape], indexing="ij"))
    moved = p + displacement(elastic, p)
    for axis in range(3):
        # a point further along an axis stays further along it
        assert (np.diff(moved[axis], axis=axis) > 0).all()
    # orientation is kept
    jacobian = np.stack([np.stack(np.gradient(moved[c]), 0) for c in range(3)])
    assert (np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1))) > 0).all()
    assert (np.abs(displacement(elastic, p)) <= elastic.reach[:, None, None, None] + 1e-9).all()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 9))
def test_outside_is_known_and_mirrored(seed, n):
    labels = np.arange(1, n**3 + 1, dtype=np.int32).reshape(n, n, n)
    shape = (7, 9, 8)
    warp = Warp(np.eye(3))
    low = np.array([-2.0, -3.0, -4.0])
    centre = low + (np.array(shape) - 1) / 2
    slightly = Warp(np.eye(3), Elastic(np.zeros((9, 9, 9, 3)), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0)))
    expected = np.zeros(shape, bool)
    expected[2 : 2 + n, 3 : 3 + n, 4 : 4 + n] = True
    for one in (warp, slightly):
        moved, inside = one.labels(lambda e: mirror_read(labels, e), centre, shape, 0, (n, n, n))
        assert (inside == expected).all()
        index = [np.abs(np.arange(m) + int(a)) for m, a in zip(shape, low, strict=True)]
        if n >= 6:
            folded = [np.minimum(i, 2 * n - 2 - i) for i in index]
            assert (moved == labels[np.ix_(*folded)]).all()
        assert (
            moved[inside] == labels[tuple(np.argwhere(inside).T + low[:, None].astype(int))]
        ).all()


def test_intensity_stays_in_range_and_moves_nothing():
    strong = replace(
        Augmentation.none(),
        **dict.fromkeys(("gain", "gamma", "shift", "blur", "noise", "missing"), 1.0),
    )
    image = seeded(0).random((12, 30, 28), np.float32)
    kept = image.copy()
    for seed in range(20):
        changed = strong.change_intensity(image, seeded(seed), (2.0, 1.0, 1.0))
        again = strong.change_intensity(image, seeded(seed), (2.0, 1.0, 1.0))
        assert (changed == again).all()
        assert changed.dtype == np.float32
        assert changed.shape == image.shape
        assert changed.min() >= 0
        assert changed.max() <= CEILING
        assert not np.array_equal(changed, image)
    assert (image == kept).all()
    assert Augmentation.none().change_intensity(image, seeded(0), (1, 1, 1)) is image


def test_missing_parts_are_sections_or_boxes():
    image = np.ones((20, 30, 40), np.float32)
    missing = replace(Augmentation.none(), missing=1.0, missing_share=0.2)
    kinds = set()
    for seed in range(40):
        changed = missing.change_intensity(image, seeded(seed), (1, 1, 1)) < 1
        extents = [int(np.ptp(found)) + 1 for found in np.nonzero(changed)]
        assert changed.sum() == np.prod(extents)
        sections = extents[1:] == [30, 40]
        kinds.add(sections)
        assert extents[0] <= 4
        assert sections or (extents[1] <= 6 and extents[2] <= 8)
    assert kinds == {True, False}


def test_none_changes_nothing():
    labels = seeded(1).integers(0, 9, (5, 6, 7))
    image = seeded(2).random((5, 6, 7), np.float32)
    same, moved, inside = augment(image, labels, seeded(0), (1, 1, 1), Augmentation.none())
    assert (same == image).all()
    assert (moved == labels).all()
    assert inside.all()


def test_options_of_a_configuration():
    made = Augmentation.of_options({"flip": 0, "gain_range": [0.5, 2], "elastic": 1})
    assert made == replace(Augmentation(), flip=0.0, gain_range=(0.5, 2.0), elastic=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flips": 1}, "no option flips. Did you mean flip"),
        ({"zzz": 1}, "There are flip"),
        ({"flip": "often"}, "'often' must be a number"),
        ({"flip": True}, "must be a number"),
        ({"gain_range": 2}, "must be two numbers"),
        ({"flip": 1.5}, "flip 1.5 is a probability"),
        ({"gain_range": (2, 1)}, r"gain_range \(2, 1\)"),
        ({"elastic_magnitude": 0.5}, "must be 0 to 0.4"),
        ({"elastic_spacing": 0}, "must be above 0"),
        ({"noise_sigma": -1}, "must be 0 to 1.5"),
        ({"rotation": float("nan")}, "must be a number"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        Augmentation.of_options(options)
