"""The search of settings: it finds what was planted, and says what it is worth."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg3d_dist.config import make_config
from cellseg3d_dist.engine.method import Method
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.instances.filters import gaussian
from cellseg3d_dist.instances.voronoi import VoronoiSpec, voronoi_otsu
from cellseg3d_dist.metrics.contingency import contingency
from cellseg3d_dist.metrics.scores import THRESHOLDS, foreground_scores, matching
from cellseg3d_dist.representations import representation
from cellseg3d_dist.tuning import run, samples, tune
from cellseg3d_dist.tuning.grids import decoder_axes, rounded
from cellseg3d_dist.tuning.labelling import Decoded, Judged, Smoothed, Thresholded
from cellseg3d_dist.tuning.scoring import scores_of, without_small
from cellseg3d_dist.tuning.search import Axis, coordinate_search

SIZE = (2.0, 1.0, 1.0)


def blobs(seed=0, shape=(16, 30, 30), n=7):
    """Balls of a light image with noise, and their labels."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape) * np.array(SIZE).reshape(3, 1, 1, 1)
    labels = np.zeros(shape, np.uint16)
    image = rng.normal(100, 6, shape)
    for number in range(1, n + 1):
        centre = rng.uniform(4, np.array(shape) * SIZE - 4)
        square = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True))
        labels[(square < 16) & (labels == 0)] = number
        image += 120 * np.exp(-square / 18)
    return np.clip(image, 0, 65535).astype(np.uint16), labels


@st.composite
def separable(draw):
    """Axes, a gain for each value, and a start."""
    axes, gains = [], []
    for number in range(draw(st.integers(1, 4))):
        n = draw(st.integers(1, 9))
        axes.append(Axis(f"a{number}", tuple(range(n)), draw(st.integers(0, n - 1))))
        gains.append(draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)))
    start = {axis.name: draw(st.sampled_from(axis.values)) for axis in axes}
    return axes, gains, start


@given(separable())
@settings(max_examples=40, deadline=None)
def test_separable_scores_have_their_optimum_found(case):
    axes, gains, start = case

    def score_of(found):
        return sum(gain[found[axis.name]] for axis, gain in zip(axes, gains, strict=True))

    # all of the grid: the highest score, then each value as near to its default as can be
    every = [
        dict(zip((a.name for a in axes), values, strict=True))
        for values in itertools.product(*(axis.values for axis in axes))
    ]
    expected = min(
        every,
        key=lambda found: (
            -score_of(found),
            *((axis.steps_from_default(found[axis.name]), found[axis.name]) for axis in axes),
        ),
    )
    assert coordinate_search(axes, start, score_of, 5) == expected


def test_later_sweeps_stay_near_and_end_without_gain():
    axes = [Axis("a", tuple(range(20)), 0), Axis("b", tuple(range(20)), 0)]
    tried, sweeps = [], []

    def score_of(found):
        tried.append((found["a"], found["b"]))
        # a ridge: a follows b one step behind
        return min(found["a"], found["b"]) - abs(found["a"] - found["b"]) / 2

    found = coordinate_search(axes, {"a": 3, "b": 5}, score_of, 50, sweeps.append)
    assert [sweep.number for sweep in sweeps] == list(range(1, len(sweeps) + 1))
    assert sweeps[0].n_trials == 40
    assert all(sweep.n_trials <= 10 for sweep in sweeps[1:])
    assert len(tried) == 1 + sum(sweep.n_trials for sweep in sweeps)
    assert found["a"] == found["b"] == 5
    assert len(sweeps) == 2


def test_scores_are_counted_over_all_images():
    rng = np.random.default_rng(1)
    pairs = [rng.integers(0, 4, (2, 6, 20, 20)) for _ in range(3)]
    tables = [contingency(true, pred) for true, pred in pairs]
    found = scores_of(tables, "iou")
    # side by side in one image, with labels of their own
    true = np.concatenate([np.where(t > 0, t + 10 * i, 0) for i, (t, _) in enumerate(pairs)])
    pred = np.concatenate([np.where(p > 0, p + 10 * i, 0) for i, (_, p) in enumerate(pairs)])
    whole = contingency(true, pred)
    together = matching(whole, THRESHOLDS)
    assert found.mean_f1 == float(np.mean([score.f1 for score in together]))
    assert found.f1 == together[4].f1
    assert found.dice == foreground_scores(whole).dice
    assert found.cells == 9


def test_small_cells_become_background_in_the_table():
    rng = np.random.default_rng(2)
    true, pred = rng.integers(0, 3, (5, 9, 9)), rng.integers(0, 40, (5, 9, 9))
    sizes = np.bincount(pred.ravel())
    dropped = np.where(sizes[pred] < 10, 0, pred)
    assert without_small(contingency(true, pred), 10) == contingency(true, dropped)


def test_smoothed_images_are_kept_and_the_same():
    image, _ = blobs()
    smoothed = Smoothed(image)
    first = smoothed(image, (1.0, 2.0, 2.0))
    np.testing.assert_array_equal(first, gaussian(image, (1.0, 2.0, 2.0)))
    assert smoothed(image, (1.0, 2.0, 2.0)) is first
    for sigma in (0.5, 0.6, 0.7):
        smoothed(image, (sigma, sigma, sigma))
    assert smoothed(image, (1.0, 2.0, 2.0)) is not first


@pytest.mark.parametrize("name", ["boundary", "bcd", "flow", "star"])
def test_decoded_cells_are_those_of_the_decoder(name):
    options = {"n_rays": 8, "max_distance": 6.0} if name == "star" else {}
    meaning = representation(name, **options)
    rng = np.random.default_rng(3)
    _, labels = blobs()
    channels = rng.integers(0, 256, (len(meaning.channels), *labels.shape), dtype=np.uint8)
    channels[:, labels > 0] = np.maximum(channels[:, labels > 0], 150)
    parameters = dataclasses.replace(meaning.parameters, min_voxels=12)
    method = Method(
        make_config({"image": "", "instances": "decode"}), None, None, meaning, parameters
    )
    values = dataclasses.asdict(parameters)
    judged = Judged(Decoded(channels, SIZE, method), labels)
    for fewest in (12, 40, 1):
        plain = meaning.decode(channels, SIZE, dataclasses.replace(parameters, min_voxels=fewest))
        expected = contingency(labels, plain)
        found = judged.table(values | {"min_voxels": fewest})
        # numbers of labels differ, voxels do not
        np.testing.assert_array_equal(np.sort(found.voxels), np.sort(expected.voxels))
        assert len(found.sizes_pred()[0]) == len(expected.sizes_pred()[0])
    # every number is searched, cells' sizes last, around what the method has
    axes = decoder_axes(method)
    assert {axis.name for axis in axes} == set(values)
    assert axes[-1].name == "min_voxels"
    assert axes[-1].default == 12
    assert all(axis.default in axis.values for axis in axes)


def test_thresholded_is_voronoi_otsu():
    image, _ = blobs()
    config = make_config({"image": "", "instances": "voronoi-otsu", "threshold": "otsu"})
    one = Thresholded(image, SIZE, config, 1.0)
    found = one.labels({"spot_sigma": "2um", "outline_sigma": "1um", "threshold": 150.0})
    expected = voronoi_otsu(image, VoronoiSpec((1.0, 2.0, 2.0), (0.5, 1.0, 1.0), 150.0))
    np.testing.assert_array_equal(found, expected)
    assert one.fewest({"min_volume": "9um3"}) == math.ceil(4.5)
    assert one.fewest({"min_volume": None}) == 0


def test_dice_of_a_foreground():
    rng = np.random.default_rng(4)
    foreground = rng.integers(0, 256, (3, 5, 7), dtype=np.uint8)
    truth = rng.integers(0, 3, (3, 5, 7))
    curve = run.dice_curve([foreground], [truth])
    assert [t for t, _ in curve] == [round(0.05 * i, 2) for i in range(21)]
    for threshold, dice in curve:
        table = contingency(truth, (foreground > threshold * 255).astype(np.uint8))
        assert dice == foreground_scores(table).dice


@pytest.fixture(scope="module")
def planted():
    """Labels that are themselves what some settings find, and the search for these."""
    image, _ = blobs(5)
    truth = voronoi_otsu(image, VoronoiSpec((1.0, 2.0, 2.0), (0.45, 0.9, 0.9), 141.0))
    result = tune(
        image, truth.astype(np.int32), model="intensity", voxel_size=SIZE, spot_sigma="2um",
        outline_sigma="1um",
        threshold=141.0, sweeps=2, score="dice",
    )  # fmt: skip
    return image, truth, result


def test_planted_settings_are_found(planted):
    _, truth, result = planted
    assert truth.max() > 3
    assert result.best.scores.mean_f1 == 1.0
    assert result.best.scores.dice == 1.0
    assert result.config == {
        "model": "intensity", "instances": "voronoi-otsu", "threshold": 141.0,
        "spot_sigma": "2um", "outline_sigma": "0.9um",
    }  # fmt: skip
    assert result.gain == 1.0 - result.default.scores.dice > 0
    assert result.trials[0].scores == result.best.scores
    assert result.n_cells == truth.max()
    assert result.dice_threshold is None


def test_the_file_tells_what_was_found(planted):
    *_, result = planted
    text = result.to_yaml()
    assert yaml.safe_load(text) == result.config
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert any("mean_f1" in line and "1.0000" in line for line in comments)
    lines = list(result.lines())
    assert len(lines) == 1 + 10 + 1 + 1
    assert lines[0].split()[:4] == ["mean_f1", "f1", "dice", "cells"]
    assert lines[1].split()[:3] == ["1", "1.0000", "1.0000"]
    assert result.picture().startswith(b"\x89PNG")


def test_search_is_as_good_as_all_of_the_grid():
    image, truth = blobs(6)
    config = make_config({"image": "", "instances": "voronoi-otsu", "threshold": "otsu"})
    judged = Judged(Thresholded(image, SIZE, config, 1.0), truth)
    axes = [
        Axis("threshold", (110.0, 130.0, 150.0), 110.0),
        Axis("spot_sigma", ("0.3um", "1um", "2um", "9um"), "0.3um"),
        Axis("outline_sigma", ("0um", "1um", "4um"), "4um"),
    ]

    def score_of(found):
        return scores_of([judged.table(found | {"min_volume": None})], "iou").mean_f1

    default = {axis.name: axis.default for axis in axes}
    best = coordinate_search(axes, default, score_of, 4)
    every = itertools.product(*(axis.values for axis in axes))
    highest = max(score_of(dict(zip(default, values, strict=True))) for values in every)
    assert score_of(best) == highest > score_of(default)


def test_images_that_are_too_large_are_refused(monkeypatch):
    image, labels = blobs()
    monkeypatch.setattr(samples, "MOST_VOXELS", image.size - 1)
    with pytest.raises(ConfigError, match=r"14,400 voxels in all .* limit of 14,399.* --region"):
        tune(image, labels, voxel_size=SIZE)


@pytest.mark.parametrize(
    ("labels", "more", "match"),
    [
        (np.zeros((4, 5, 6), np.uint8), {}, "labels are empty"),
        (np.zeros((4, 5, 7), np.uint8), {}, r"labels .* \(4, 5, 7\), the image .* \(4, 5, 6\)"),
        (np.ones((4, 5, 6), np.float32), {}, "labels .* float32, not integer"),
        (np.full((4, 5, 6), -1, np.int32), {}, "label -1"),
        (np.ones((4, 5, 6), np.uint8), {"score": "f2"}, "score 'f2' is unknown"),
        (np.ones((4, 5, 6), np.uint8), {"criterion": "x"}, "criterion 'x' is unknown"),
        (np.ones((4, 5, 6), np.uint8), {"sweeps": 0}, "sweeps 0"),
        (np.ones((4, 5, 6), np.uint8), {"workers": 2}, "no option 'workers'"),
        (np.ones((4, 5, 6), np.uint8), {"instances": "decode"}, "needs a network"),
        (np.ones((4, 5, 6), np.uint8), {"region": "0:4,0:5,0:7"}, "region"),
    ],
)
def test_what_cannot_be_scored_is_refused(labels, more, match):
    image = np.zeros((4, 5, 6), np.uint8)
    with pytest.raises(ConfigError, match=match):
        tune(image, labels, **{"voxel_size": (1, 1, 1), "model": "intensity"} | more)


def test_rounding_keeps_digits():
    assert [rounded(v, 3) for v in (0.0, 1234.5, 0.012345, 3.2)] == [0.0, 1230.0, 0.0123, 3.2]
