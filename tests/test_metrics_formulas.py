"""Every score against an independent reference: libraries where they have it, else loops."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import skimage.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.grid import BlockGrid
from cellseg3d_dist.metrics.boxes import (
    BoundingBoxes,
    bounding_boxes,
    partners,
    thesis_score,
    thesis_score_of,
    voxels_in_boxes,
)
from cellseg3d_dist.metrics.classes import class_scores
from cellseg3d_dist.metrics.contingency import ContingencyTable, contingency
from cellseg3d_dist.metrics.counting import count_errors
from cellseg3d_dist.metrics.coverage import coverage
from cellseg3d_dist.metrics.outcomes import outcomes
from cellseg3d_dist.metrics.partition import partition_scores
from cellseg3d_dist.metrics.precision import Confidences, average_precision
from cellseg3d_dist.metrics.scores import CRITERIA, THRESHOLDS, matching
from cellseg3d_dist.metrics.summary import summarise

SHAPE = (5, 6, 8)
FAR = 2**32 + 11


def pair(kind):
    """Two label images with gaps in their ids, of one of the kinds that go wrong."""
    kind, _, seed = kind.partition(", ")
    rng = np.random.default_rng(int(seed or 0))
    coarse = rng.integers(0, 6, (2, 3, 4)).repeat(3, 0).repeat(2, 1).repeat(2, 2)
    true = coarse[: SHAPE[0]].astype(np.uint64) * np.uint64(3)
    noise = rng.integers(0, 9, SHAPE).astype(np.uint64) * np.uint64(5)
    nothing = np.zeros_like(true)
    return {
        "random": (true, np.where(rng.random(SHAPE) < 0.3, noise, true)),
        "noise": (noise, noise[::-1].copy()),
        "shifted": (true, np.roll(true, 1, 2)),
        "empty": (nothing, nothing),
        "no truth": (nothing, true),
        "no prediction": (true, nothing),
        "far ids": (true * np.uint64(FAR), noise * np.uint64(2**33)),
        "identical": (true, true),
        "disjoint": (np.where(true > 6, true, 0), np.where(true <= 6, true, 0)),
        "one to many": (np.minimum(true, 1), true),
        "many to one": (true, np.minimum(true, 1)),
    }[kind]


KINDS = ("random", "noise", "shifted", "empty", "no truth", "no prediction", "far ids")
KINDS += ("identical", "disjoint", "one to many", "many to one")
KINDS += tuple(f"{kind}, {seed}" for kind in ("random", "noise", "shifted") for seed in (1, 2, 3))
every_kind = pytest.mark.parametrize("kind", KINDS)


def masks(labels):
    return {int(i): labels == i for i in np.unique(labels) if i}


def ious(true, pred):
    return {
        (t, p): (a & b).sum() / (a | b).sum()
        for t, a in masks(true).items()
        for p, b in masks(pred).items()
    }


def mean(values):
    return math.fsum(values) / len(values) if values else 0.0


def close(value):
    return pytest.approx(value, rel=1e-12, abs=1e-12)


def small_ids(labels):
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape) + (labels.min() > 0)


@every_kind
def test_coverage(kind):
    true, pred = pair(kind)
    score, iou = coverage(contingency(true, pred)), ious(true, pred)
    a, b = masks(true), masks(pred)
    seg = [next((iou[t, p] for p in b if (a[t] & b[p]).sum() > a[t].sum() / 2), 0.0) for t in a]
    assert score.seg == close(mean(seg))
    assert score.mucov == close(mean([max((iou[t, p] for t in a), default=0.0) for p in b]))
    best = [max((iou[t, p] for p in b), default=0.0) for t in a]
    assert score.true_coverage == close(mean(best))


@every_kind
def test_partition(kind):
    true, pred = pair(kind)
    score = partition_scores(contingency(true, pred))
    small = small_ids(true), small_ids(pred)
    split, merge = skimage.metrics.variation_of_information(*small)
    assert (score.vi_split, score.vi_merge) == (close(split), close(merge))
    assert score.vi == close(split + merge)
    if not true.any():
        assert score.adapted_rand_error == 1.0
        return
    # the library's precision is what its own description calls recall
    error, recall, precision = skimage.metrics.adapted_rand_error(*small)
    assert score.adapted_rand_error == close(error)
    assert score.adapted_rand_precision == close(precision)
    assert score.adapted_rand_recall == close(recall)


def test_adapted_rand_precision_is_that_of_the_prediction():
    # all that is split is joined in the truth: what the prediction joins is right
    true, pred = np.ones(100, int), np.repeat([1, 2, 3, 4], 25)
    score = partition_scores(contingency(true, pred))
    assert score.adapted_rand_precision == 1.0
    assert score.adapted_rand_recall == close(4 * 25 * 24 / (100 * 99))


def test_pairs_of_voxels_of_a_whole_brain_do_not_overflow():
    half = np.array([10**12], np.int64)
    one = np.ones(1, np.uint64)
    score = partition_scores(ContingencyTable(one, one, half))
    assert (score.adapted_rand_precision, score.adapted_rand_recall) == (1.0, 1.0)


@every_kind
def test_classes(kind):
    true, pred = pair(kind)
    sklearn = pytest.importorskip("sklearn.metrics")
    labels = np.union1d(true, pred)
    found = class_scores(contingency(true, pred))
    assert [s.label for s in found] == labels.tolist()
    for score in found:
        a, b = true.ravel() == score.label, pred.ravel() == score.label
        assert (score.voxels_true, score.voxels_pred) == (a.sum(), b.sum())
        assert score.dice == close(sklearn.f1_score(a, b))
        assert score.iou == close(sklearn.jaccard_score(a, b))
        assert score.precision == close(sklearn.precision_score(a, b, zero_division=0))
        assert score.recall == close(sklearn.recall_score(a, b, zero_division=0))
        assert score.accuracy == close(sklearn.accuracy_score(a, b))


@every_kind
def test_classes_by_loops(kind):
    true, pred = pair(kind)
    for score in class_scores(contingency(true, pred)):
        a, b = true == score.label, pred == score.label
        tp, fp, fn = (int(m.sum()) for m in (a & b, b & ~a, a & ~b))
        assert score.dice == 2 * tp / (2 * tp + fp + fn)
        assert score.iou == tp / (tp + fp + fn)
        assert score.precision == (tp / (tp + fp) if tp + fp else 0)
        assert score.recall == (tp / (tp + fn) if tp + fn else 0)
        assert score.accuracy == (a == b).mean()


@every_kind
def test_outcomes(kind):
    true, pred = pair(kind)
    a, b = masks(true), masks(pred)
    held = {p: [t for t in a if 2 * (a[t] & b[p]).sum() > a[t].sum()] for p in b}
    found = sum(len(h) == 1 for h in held.values())
    fused = sum(len(h) for h in held.values() if len(h) > 1)
    covered = sum(2 * ((true == t) & (pred > 0)).sum() > m.sum() for t, m in a.items())
    score = outcomes(contingency(true, pred))
    assert (score.found, score.fused) == (found, fused)
    assert score.split == covered - found - fused
    assert score.missed == len(a) - covered
    assert score.artifacts == sum(2 * (true[m] == 0).sum() > m.sum() for m in b.values())


def test_outcomes_of_one_of_each():
    true = np.repeat([1, 2, 3, 0, 4, 5, 0], 10)
    pred = np.repeat([7, 8, 8, 9, 10, 11, 0, 0], [10, 10, 10, 10, 5, 5, 10, 10])
    score = outcomes(contingency(true, pred))
    assert dataclasses.asdict(score) == {
        "found": 1,
        "fused": 2,
        "split": 1,
        "missed": 1,
        "artifacts": 1,
    }


def brute_precision(true, pred, order, lowest, highest):
    """AP at each IoU: hits in turn, then the envelope, by the letter."""
    iou, a, b = ious(true, pred), masks(true), masks(pred)
    inside = {t: lowest < m.sum() <= highest for t, m in a.items()}
    averages = []
    for limit in np.linspace(0.5, 0.95, 10):
        taken, curve, tp, fp = set(), [], 0, 0
        for p in order:
            best = max(a, key=lambda t, p=p: (iou[t, p], -t), default=None)
            hit = best is not None and iou[best, p] >= limit and best not in taken
            if hit:
                taken.add(best)
            tp += hit and inside[best]
            fp += not hit and lowest < b[p].sum() <= highest
            curve.append((tp / max(1, sum(inside.values())), tp / (tp + fp) if tp + fp else 0.0))
        reached = [
            max((precision for recall, precision in curve if recall >= r), default=0.0)
            for r in np.linspace(0, 1, 101)
        ]
        averages.append(mean(reached))
    if not any(inside.values()):
        return None
    return averages[0], averages[5], mean(averages), (averages[0] + averages[5]) / 2


@every_kind
@pytest.mark.parametrize("given_scores", [False, True])
def test_average_precision(kind, given_scores):
    true, pred = pair(kind)
    b = masks(pred)
    rng = np.random.default_rng(3)
    sure = {p: float(rng.integers(0, 3)) for p in b}
    if given_scores:
        confidences = Confidences(np.array([*b, 999], np.uint64), np.array([*sure.values(), 1.0]))
        order = sorted(b, key=lambda p: (-sure[p], p))
    else:
        confidences = None
        order = sorted(b, key=lambda p: (-b[p].sum(), p))
    found = average_precision(contingency(true, pred), confidences, (12, 24))
    ranges = {"all": (0, 1e9), "small": (0, 12), "medium": (12, 24), "large": (24, 1e9)}
    assert list(found) == list(ranges)
    for name, limits in ranges.items():
        expected = brute_precision(true, pred, order, *limits)
        if expected is None:
            assert dataclasses.astuple(found[name]) == (None,) * 4
        else:
            assert dataclasses.astuple(found[name]) == close(expected)


def test_wrong_confidences_are_refused():
    table = contingency(np.array([1, 2, 0]), np.array([4, 5, 5]))
    for labels, values, message in (
        ([4], [1.0], "1 predicted labels have no confidence, the first is 5"),
        ([4, 5, 4], [1.0, 1.0, 1.0], "Label 4 has two"),
        ([4, 5], [1.0, math.nan], "Label 5 has the confidence NaN"),
    ):
        with pytest.raises(BadInputError, match=message):
            average_precision(table, Confidences(np.array(labels, np.uint64), np.array(values)))


def thesis_by_loops(true, pred):
    total = []
    for mask in masks(true).values():
        counts = {p: int((b & mask).sum()) for p, b in masks(pred).items()}
        partner = max(counts, key=lambda p: (counts[p], -p), default=None)
        if partner is None or not counts[partner]:
            total.append(0.0)
            continue
        where = np.argwhere(mask)
        box = tuple(slice(a, b + 1) for a, b in zip(where.min(0), where.max(0), strict=True))
        b = pred == partner
        full = 2 * (mask & b).sum() / (mask.sum() + b.sum())
        inside = 2 * (mask & b).sum() / (mask.sum() + b[box].sum())
        total.append((0.95 * inside + 1.05 * full) / 2)
    return mean(total)


@every_kind
def test_thesis_score(kind):
    true, pred = pair(kind)
    assert thesis_score_of(true, pred) == close(thesis_by_loops(true, pred))


@every_kind
def test_regions(kind):
    true, pred = pair(kind)
    regions = np.random.default_rng(5).integers(0, 3, SHAPE) * 7
    found = count_errors(contingency(true, regions), contingency(pred, regions))
    homes = [
        [int(np.bincount(regions[m]).argmax()) for m in masks(labels).values()]
        for labels in (true, pred)
    ]
    for count in found:
        t, p = (home.count(count.region) for home in homes)
        assert (count.n_true, count.n_pred, count.error) == (t, p, p - t)
        assert count.relative_error == ((p - t) / t if t else None)
    assert sum(c.n_true for c in found) == len(masks(true))
    assert {7, 14} <= {c.region for c in found}


@settings(max_examples=8, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    block=st.tuples(*(st.integers(min(2, n), n) for n in SHAPE)),
    order=st.randoms(use_true_random=False),
)
def test_no_score_depends_on_the_cut(kind, block, order):
    true, pred = pair(kind)
    regions = np.random.default_rng(5).integers(0, 3, SHAPE)
    blocks = list(BlockGrid(SHAPE, block).blocks())
    order.shuffle(blocks)

    def merged(first, second):
        parts = [
            contingency(first[b.write_region.slices], second[b.write_region.slices]) for b in blocks
        ]
        half = len(parts) // 2
        return ContingencyTable.merge([ContingencyTable.merge(parts[half:]), *parts[:half]])

    table, whole = merged(true, pred), contingency(true, pred)
    boxes = BoundingBoxes.merge(
        bounding_boxes(true[b.write_region.slices], b.write_region.start) for b in blocks
    )
    in_box = np.zeros(len(boxes.labels), np.int64)
    for b in blocks:
        region = b.write_region
        in_box += voxels_in_boxes(pred[region.slices], boxes, partners(table), region.start)
    assert thesis_score(table, in_box) == thesis_score_of(true, pred)
    assert summarise(table, in_box=in_box, classes=table) == summarise(
        whole, in_box=in_box, classes=whole
    )
    cut = count_errors(merged(true, regions), merged(pred, regions))
    assert cut == count_errors(contingency(true, regions), contingency(pred, regions))


@every_kind
@pytest.mark.filterwarnings("ignore")
def test_matching_is_that_of_stardist(kind):
    reference = pytest.importorskip("stardist.matching")
    true, pred = pair(kind)
    small = small_ids(true), small_ids(pred)
    for criterion in CRITERIA:
        for ours in matching(contingency(true, pred), THRESHOLDS, criterion):
            theirs = reference.matching(*small, thresh=ours.threshold, criterion=criterion)
            assert (ours.tp, ours.fp, ours.fn) == (theirs.tp, theirs.fp, theirs.fn)
            for name in ("precision", "recall", "f1", "accuracy"):
                assert getattr(ours, name) == close(getattr(theirs, name))
            # its scores are float32; of matchings with as many hits and as large a sum it
            # may take another
            tie = kind.startswith("noise") or (kind.startswith("random") and criterion != "iou")
            for name in ("mean_matched_score", "mean_true_score", "panoptic_quality"):
                if not tie:
                    assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-6)
