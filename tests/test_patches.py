"""Patches: repeatable, read by regions, aligned with what they were drawn from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.networks.normalisation import normalise
from cellseg3d_dist.networks.resampling import Resampling
from cellseg3d_dist.training import reading
from cellseg3d_dist.training.annotated import annotated
from cellseg3d_dist.training.augmentation import Augmentation
from cellseg3d_dist.training.pairs import Pair
from cellseg3d_dist.training.patches import PatchSampler
from cellseg3d_dist.training.reading import told_apart
from cellseg3d_dist.volumes import open_volume

SIZE = (2.0, 1.0, 1.0)
NONE = Augmentation.none()


@dataclass(frozen=True)
class Distance:
    """A representation whose encoding looks a few voxels around."""

    name: str = "distance"
    encode_halo: int = 4

    def encode(self, labels, voxel_size):
        eroded = ndimage.minimum_filter(labels, 2 * self.encode_halo + 1, mode="mirror")
        return np.stack([labels, eroded]).astype(np.float32)


@dataclass
class Counting:
    """A source that remembers what was read."""

    inner: Any
    regions: list

    def read(self, region, channel, time):
        self.regions.append(region)
        return self.inner.read(region, channel, time)

    def signature(self, *, files):
        return self.inner.signature(files=files)


def counted(volume):
    return replace(volume, source=Counting(volume.source, []))


def pair_of(image, labels=None, size=SIZE, low=0.0, high=100.0):
    opened = None if labels is None else open_volume(labels, voxel_size=size)
    return Pair(open_volume(image, voxel_size=size), opened, low, high)


def random_pair(seed=0, shape=(20, 30, 25), **options):
    """Labels in blobs, and an image of their numbers."""
    rng = np.random.default_rng(seed)
    labels = (ndimage.zoom(rng.random([-(-n // 5) for n in shape]), 5, order=0) * 40).astype(int)
    labels = np.where(labels > 20, labels, 0)[tuple(slice(n) for n in shape)].astype(np.uint16)
    return pair_of(labels.copy(), labels, high=1.0, **options)


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("image", "target", "valid")
    )


def test_batches_depend_on_seed_and_step_alone():
    pairs = [random_pair(0), random_pair(1, (9, 40, 33))]
    first = PatchSampler(pairs, Distance(), (8, 16, 16), 3, seed=5)
    wanted = [first.batch(step) for step in range(6)]
    assert wanted[0].image.shape == (3, 1, 8, 16, 16)
    assert wanted[0].target.shape == (3, 2, 8, 16, 16)
    assert wanted[0].valid.shape == (3, 1, 8, 16, 16)
    assert {a.dtype for a in vars(wanted[0]).values()} == {np.dtype(np.float32)}
    # another order, nothing kept in memory, threads
    again = PatchSampler(pairs, Distance(), (8, 16, 16), 3, seed=5, cache_bytes=0)
    assert all(same(again.batch(step), wanted[step]) for step in (5, 0, 3))
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(again.batch, range(2, 6)))
    assert all(same(a, b) for a, b in zip(found, wanted[2:], strict=True))
    other = PatchSampler(pairs, Distance(), (8, 16, 16), 3, seed=6)
    assert not same(other.batch(0), wanted[0])
    assert not same(wanted[0], wanted[1])


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 20), st.integers(1, 24), st.integers(1, 24)),
    patch=st.tuples(*[st.integers(1, 12)] * 3),
    turns=st.booleans(),
)
def test_image_and_targets_are_aligned(seed, shape, patch, turns):
    labels = np.random.default_rng(seed).integers(0, 1000, shape).astype(np.uint16)
    labels.flat[0] = 7
    pair = pair_of(labels, labels, high=1000.0)
    augmentation = replace(NONE, flip=0.5, quarter_turns=1.0) if turns else NONE
    sampler = PatchSampler([pair], Distance(), patch, 2, augmentation=augmentation, seed=1)
    for step in range(3):
        batch = sampler.batch(step)
        np.testing.assert_allclose(batch.image[:, 0] * 1000, batch.target[:, 0], atol=1e-3)
        fits = all(p <= n for p, n in zip(patch, shape, strict=True))
        if fits and not turns:
            assert batch.valid.all()
        expected = np.prod([min(p, n) for p, n in zip(patch, shape, strict=True)])
        if not turns:
            assert (batch.valid.sum(axis=(1, 2, 3, 4)) == expected).all()


def test_targets_are_cut_from_those_of_the_whole():
    pair = random_pair(3)
    labels = pair.labels.read(Region.whole(pair.labels.shape))
    whole = Distance().encode(labels, SIZE)
    sampler = PatchSampler([pair], Distance(), (5, 7, 6), 1, augmentation=NONE)
    windows = np.lib.stride_tricks.sliding_window_view(whole, (5, 7, 6), axis=(1, 2, 3))
    for step in range(5):
        batch = sampler.batch(step)
        found = (windows == batch.target[0][:, None, None, None]).all(axis=(0, 4, 5, 6))
        assert found.any()


def test_large_volumes_are_read_by_regions(monkeypatch):
    monkeypatch.setattr(reading, "KEPT_WHOLE", 1000)
    pair = random_pair(0, (60, 90, 80))
    pair = replace(pair, image=counted(pair.image), labels=counted(pair.labels))
    sampler = PatchSampler([pair], Distance(), (8, 16, 16), 1)
    pair.labels.source.regions.clear()
    kept = PatchSampler([random_pair(0, (60, 90, 80))], Distance(), (8, 16, 16), 1)
    for step in range(10):
        batch = sampler.batch(step)
        assert same(batch, kept.batch(step))
    # turned, sheared and enlarged, with the halo, a patch spans no more than this
    spans = [max(r.shape) for v in (pair.image, pair.labels) for r in v.source.regions]
    assert max(spans) < 60
    assert max(r.size for r in pair.image.source.regions) < 60 * 90 * 80 / 4


def test_small_volumes_are_read_once_up_to_a_limit():
    pairs = []
    for seed in range(3):
        pair = random_pair(seed)
        pairs.append(replace(pair, image=counted(pair.image), labels=counted(pair.labels)))
    n_bytes = 4 * 20 * 30 * 25
    sampler = PatchSampler(pairs, Distance(), (4, 4, 4), 4, cache_bytes=4 * n_bytes)
    for pair in pairs:
        pair.labels.source.regions.clear()
    for step in range(10):
        sampler.batch(step)
    reads = [[len(v.source.regions) for v in (p.image, p.labels)] for p in pairs]
    assert sum(n == 1 for pair in reads for n in pair) == 4
    assert all(n > 1 for pair in reads for n in pair if n != 1)


def test_ignored_voxels_are_not_valid():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (16, 20, 20)).astype(np.int16)
    labels[8:] = -1
    pair = pair_of(np.where(labels < 0, 50, labels), labels, high=100.0)
    sampler = PatchSampler([pair], Distance(), (8, 8, 8), 2, augmentation=NONE, ignore=-1)
    for step in range(10):
        batch = sampler.batch(step)
        ignored = np.isclose(batch.image, 0.5)
        assert (batch.valid == ~ignored).all()
        assert (batch.target[:, :1][ignored] == 0).all()
        assert batch.valid.any(axis=(1, 2, 3, 4)).all()


def test_patches_are_placed_where_somebody_annotated():
    labels = np.full((64, 96, 96), 65535, np.uint16)
    labels[10:14, 20:26, 70:75] = 0
    labels[11, 22:25, 72] = 9
    pair = pair_of(np.zeros(labels.shape, np.uint8), labels)
    for share in (0.0, 1.0):
        sampler = PatchSampler(
            [pair], Distance(), (8, 16, 16), 1, ignore=65535, foreground_share=share
        )
        assert all(sampler.batch(step).valid.sum() > 0 for step in range(10))


def test_patches_are_placed_on_cells():
    labels = np.zeros((70, 100, 90), np.uint16)
    labels[40:44, 80:86, 10:16] = 3
    pair = pair_of(labels, labels, high=3.0)
    shares = []
    for share in (0.0, 0.5, 1.0):
        sampler = PatchSampler(
            [pair], Distance(), (16, 16, 16), 20, augmentation=NONE, foreground_share=share
        )
        shares.append((sampler.batch(0).target[:, 0] > 0).mean(axis=(1, 2, 3)))
    assert (shares[2] >= 0.01).all()
    assert 3 <= (shares[1] > 0).sum() < 20
    assert (shares[0] > 0).sum() < 5


def test_without_labels_patches_hold_bright_voxels():
    image = np.zeros((60, 80, 80), np.uint8)
    image[20:40, :30, :30] = 100
    pair = pair_of(image)

    def bright(share):
        sampler = PatchSampler(
            [pair], None, (8, 8, 8), 60, foreground_share=share, augmentation=NONE
        )
        batch = sampler.batch(0)
        assert batch.target is None
        assert batch.valid is None
        return int((batch.image.max(axis=(1, 2, 3, 4)) > 0).sum())

    assert bright(1.0) > 2 * bright(0.0)
    empty = PatchSampler([pair_of(image * 0)], None, (8, 8, 8), 2, augmentation=NONE)
    assert not empty.batch(0).image.any()


@settings(deadline=None, max_examples=15)
@given(
    size=st.tuples(*[st.sampled_from([0.5, 0.8, 1.0, 2.0, 2.7])] * 3),
    shape=st.tuples(*[st.integers(3, 24)] * 3),
)
def test_resampled_patches_are_those_that_are_predicted(size, shape):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, shape).astype(np.uint8)
    labels = rng.integers(0, 9, shape).astype(np.uint8)
    labels.flat[0] = 1
    pair = pair_of(image, labels, size=size, low=10.0, high=150.0)
    resampling = Resampling.between(shape, size, (1.0, 1.0, 1.0))
    sampler = PatchSampler(
        [pair], Distance(), resampling.shape, 1, voxel_size=(1.0, 1.0, 1.0), augmentation=NONE
    )
    whole = Region.whole(shape)
    wanted = normalise(image, 10.0, 150.0)
    if not resampling.is_identity:
        wanted = resampling.apply(wanted, whole, Region.whole(resampling.shape))
    batch = sampler.batch(0)
    assert batch.valid.all()
    assert np.array_equal(batch.image[0, 0], wanted)
    assert set(np.unique(batch.target[0, 0])) <= set(np.unique(labels))
    no_cache = PatchSampler(
        [pair],
        Distance(),
        (2, 2, 2),
        2,
        voxel_size=(1.0, 1.0, 1.0),
        cache_bytes=0,
    )
    assert same(
        no_cache.batch(1),
        PatchSampler([pair], Distance(), (2, 2, 2), 2, voxel_size=(1.0, 1.0, 1.0)).batch(1),
    )


def test_labels_resample_to_the_voxel_that_holds_the_centre():
    labels = np.repeat(np.arange(1, 9, dtype=np.uint16), 2)[:, None, None] * np.ones((1, 4, 4), int)
    pair = pair_of(labels, labels.astype(np.uint16), size=(1.0, 1.0, 1.0), high=1.0)
    sampler = PatchSampler(
        [pair], Distance(encode_halo=0), (8, 4, 4), 1, voxel_size=(2.0, 1.0, 1.0), augmentation=NONE
    )
    assert sampler.batch(0).target[0, 0, :, 0, 0].tolist() == list(range(1, 9))


def test_constant_images_and_values_that_are_not_finite():
    image = np.full((6, 8, 8), 5, np.float32)
    image[0, 0, 0] = np.nan
    image[3, 3, 3] = np.inf
    sampler = PatchSampler([pair_of(image, low=5.0, high=5.0)], None, (6, 8, 8), 1)
    assert (sampler.batch(0).image <= 1.5).all()
    plain = PatchSampler([pair_of(image, low=0.0, high=5.0)], None, (6, 8, 8), 1, augmentation=NONE)
    found = plain.batch(0).image[0, 0]
    assert found[0, 0, 0] == found[3, 3, 3] == 0
    assert (found == 1).sum() == image.size - 2


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_large_ids_are_told_apart(dtype):
    labels = np.array([[[0, 2**40, 2**40 + 1, 5, 2**62]]], dtype)
    found = told_apart(labels, None)
    assert found.dtype == np.int32
    assert found.ravel()[0] == 0
    assert len(set(found.ravel().tolist())) == 5
    assert told_apart(labels, 2**62).ravel()[-1] == -1
    assert told_apart(labels[..., 1:3], None).min() == 1


@settings(deadline=None, max_examples=20)
@given(
    shape=st.tuples(*[st.integers(1, 70)] * 3),
    density=st.sampled_from([0.0, 0.001, 0.5]),
    seed=st.integers(0, 2**32),
)
def test_places_are_labelled_voxels(shape, density, seed):
    rng = np.random.default_rng(seed)
    labels = (rng.random(shape) < density).astype(np.uint8)
    labels[tuple(n // 2 for n in shape)] = 4
    found = annotated(pair_of(labels, labels), None)
    assert found.cells.total == np.count_nonzero(labels)
    assert found.known is None
    for _ in range(10):
        assert labels[tuple(found.cells.draw(rng).astype(int))] > 0
    known = annotated(pair_of(labels, labels), 0).known
    assert known.total == np.count_nonzero(labels)


def test_bad_labels_are_refused():
    zeros = np.zeros((6, 8, 8), np.int16)
    negative = zeros.copy()
    negative[1, 2, 3] = -2
    cases = [
        (zeros, None, "no labelled cell in 1 label images"),
        (negative, None, "hold the label -2; labels are 0 or more. To leave"),
        (negative - 2, -2, "hold the label -4; labels are 0 or more.$"),
        (zeros, 0, "nothing but the ignored label 0"),
    ]
    for labels, ignore, message in cases:
        with pytest.raises(ConfigError, match=message):
            PatchSampler([pair_of(zeros, labels)], Distance(), (4, 4, 4), 1, ignore=ignore)
    # one of several may have no cell
    PatchSampler([pair_of(zeros, zeros), random_pair()], Distance(), (4, 4, 4), 4).batch(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": []}, "no image to train on"),
        ({"patch": (4, 4, 0)}, r"patch \(4, 4, 0\) must be"),
        ({"batch": 0}, "batch 0 must be at least 1"),
        ({"seed": -1}, "seed -1"),
        ({"foreground_share": 2}, "foreground_share 2 must be 0 to 1"),
        ({"pairs": [pair_of(np.zeros((3, 3, 3), np.uint8))]}, "has no labels, which distance"),
    ],
)
def test_arguments_that_cannot_be(options, message):
    given_options = {"pairs": [random_pair()], "patch": (4, 4, 4), "batch": 1, **options}
    with pytest.raises(ConfigError, match=message):
        PatchSampler(representation=Distance(), **given_options)
