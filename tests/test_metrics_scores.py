"""Scores against a dense matching over the full matrix of overlaps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.grid import BlockGrid
from cellseg3d_dist.metrics import assignment
from cellseg3d_dist.metrics.contingency import ContingencyTable, contingency
from cellseg3d_dist.metrics.overlaps import Overlaps
from cellseg3d_dist.metrics.scores import CRITERIA, foreground_scores, matching

FIELDS = [
    "criterion",
    "threshold",
    "tp",
    "fp",
    "fn",
    "precision",
    "recall",
    "f1",
    "accuracy",
    "panoptic_quality",
    "mean_matched_score",
    "mean_true_score",
]


def overlap_matrix(true, pred, criterion):
    """(n_true, n_pred) scores, by a loop over masks."""
    masks_true = [true == i for i in np.unique(true) if i]
    masks_pred = [pred == i for i in np.unique(pred) if i]
    matrix = np.zeros((len(masks_true), len(masks_pred)))
    for r, a in enumerate(masks_true):
        for c, b in enumerate(masks_pred):
            whole = {"iou": a | b, "iot": a, "iop": b}[criterion]
            matrix[r, c] = (a & b).sum() / whole.sum()
    return matrix


def dense_matching(matrix, threshold):
    """(tp, least, most): hits, and their summed scores over the optima that tie."""
    n = min(matrix.shape)
    if n == 0:
        return 0, 0.0, 0.0
    hit = matrix >= threshold
    results = []
    for sign in (-1e-7, 1e-7):
        cost = -hit.astype(float) - matrix / (2 * n) - sign * matrix * hit
        r, c = linear_sum_assignment(cost)
        ok = hit[r, c]
        results.append((int(ok.sum()), float(matrix[r, c][ok].sum())))
    assert results[0][0] == results[1][0]
    return results[0][0], results[0][1] - 1e-12, results[1][1] + 1e-12


def close(value):
    return pytest.approx(value, rel=1e-12, abs=1e-12)


def check(true, pred, thresholds, criterion):
    matrix = overlap_matrix(true, pred, criterion)
    n_true, n_pred = matrix.shape
    for score in matching(contingency(true, pred), thresholds, criterion):
        tp, least, most = dense_matching(matrix, score.threshold)
        assert (score.tp, score.fp, score.fn) == (tp, n_pred - tp, n_true - tp)
        total = score.mean_matched_score * tp
        assert least <= total <= most
        assert score.mean_true_score == close(total / n_true if n_true else 0)
        assert score.precision == close(tp / n_pred if n_pred else 0)
        assert score.recall == close(tp / n_true if n_true else 0)
        union = n_true + n_pred
        assert score.f1 == close(2 * tp / union if union else 0)
        assert score.accuracy == close(tp / (union - tp) if union else 0)
        assert score.panoptic_quality == close(2 * total / union if union else 0)


def random_pair(seed, size=60, ids=8, moved=0.3):
    """Two labellings of a line that overlap in many ways."""
    rng = np.random.default_rng(seed)
    true = np.repeat(rng.integers(0, ids, size // 3), 3)
    pred = np.roll(np.repeat(rng.integers(0, ids, size // 3), 3), rng.integers(0, 3))
    keep = rng.random(size) > moved
    return true, np.where(keep, true, pred) * 7


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    moved=st.sampled_from([0.1, 0.4, 0.7, 1.0]),
    ids=st.sampled_from([2, 5, 12, 25]),
    threshold=st.sampled_from([0.05, 0.1, 0.2, 0.25, 0.3, 1 / 3, 0.4, 0.5, 0.7, 1.0]),
    criterion=st.sampled_from(CRITERIA),
)
def test_matching_equals_the_dense_one(seed, moved, ids, threshold, criterion):
    true, pred = random_pair(seed, ids=ids, moved=moved)
    check(true, pred, [threshold], criterion)


def test_augmenting_paths_alone_find_the_optimum(monkeypatch):
    # without the pairs that are settled ahead
    monkeypatch.setattr(
        assignment, "_without_dominant", lambda pairs, threshold: (pairs, np.empty(0))
    )
    for seed in range(40):
        true, pred = random_pair(seed, ids=5 + seed % 15, moved=0.8)
        for criterion in CRITERIA:
            check(true, pred, [0.05, 0.15, 0.3, 0.5], criterion)


def test_something_is_left_for_augmenting_paths(monkeypatch):
    # the settled pairs must not hide that the last step works
    left = []
    rest = assignment._best_matching
    monkeypatch.setattr(
        assignment, "_best_matching", lambda p, t: left.append(len(p.rows)) or rest(p, t)
    )
    for seed in range(10):
        true, pred = random_pair(seed, ids=6, moved=0.8)
        check(true, pred, [0.1], "iou")
    assert max(left) > 10


def test_cells_tangled_with_their_neighbours():
    # one connected group in which nearly every pair is a hit and few are dominant
    rng = np.random.default_rng(0)
    cell, rows, columns, shared = np.arange(400), [], [], []
    for step in (0, 0, 1, 7, 8, 49, 50, 56, 57):
        there = cell + step < len(cell)
        rows.append(cell[there])
        columns.append(cell[there] + step)
        shared.append(rng.integers(1, 1000, there.sum()))
    labels = (np.concatenate(side).astype(np.uint64) + np.uint64(1) for side in (rows, columns))
    part = ContingencyTable(*labels, np.concatenate(shared))
    overlaps = Overlaps.of(ContingencyTable.merge([part, part]))
    for criterion in CRITERIA:
        matrix = np.zeros((overlaps.n_true, overlaps.n_pred))
        matrix[overlaps.rows, overlaps.columns] = overlaps.scores(criterion)
        for score in matching(overlaps, (0.05, 0.1, 0.2, 0.4), criterion):
            tp, least, most = dense_matching(matrix, score.threshold)
            assert score.tp == tp
            assert least - 1e-9 <= score.mean_matched_score * tp <= most + 1e-9


def test_half_overlaps_match_once():
    # one true cell of 10 in two predicted halves: both score exactly 0.5
    true = np.ones(10, int)
    pred = np.repeat([1, 2], 5)
    (score,) = matching(contingency(true, pred), [0.5])
    assert (score.tp, score.fp, score.fn) == (1, 1, 0)
    (score,) = matching(contingency(pred, true), [0.5])
    assert (score.tp, score.fp, score.fn) == (1, 0, 1)


def test_most_hits_come_before_the_best_hit():
    # greedily taking the best pair (1, 1) would leave 2 and 2 without a partner
    true = np.array([1] * 10 + [2] * 4 + [1] * 6)
    pred = np.array([1] * 10 + [1] * 4 + [2] * 6)
    check(true, pred, [0.2, 0.25, 0.3], "iou")
    assert matching(contingency(true, pred), [0.25])[0].tp == 2
    assert matching(contingency(true, pred), [0.4])[0].tp == 1


def test_identical_and_disjoint_images():
    labels = np.repeat([0, 4, 0, 9, 2**33, 0], 5).astype(np.uint64)
    (score,) = matching(contingency(labels, labels), [1.0])
    assert (score.tp, score.fp, score.fn) == (3, 0, 0)
    perfect = ("precision", "recall", "f1", "accuracy", "panoptic_quality", "mean_matched_score")
    assert all(getattr(score, name) == 1.0 for name in perfect)
    (score,) = matching(contingency(labels, np.roll(labels, 5) * (labels == 0)), [0.1])
    assert (score.tp, score.fp, score.fn) == (0, 2, 3)
    assert score.f1 == score.panoptic_quality == score.mean_matched_score == 0.0


def test_empty_images_score_zero():
    nothing, one = np.zeros(9, np.uint8), np.ones(9, np.uint8)
    for true, pred, counts in (
        (nothing, nothing, (0, 0, 0)),
        (nothing, one, (0, 1, 0)),
        (one, nothing, (0, 0, 1)),
    ):
        for score in matching(contingency(true, pred), [0.1, 0.5]):
            assert (score.tp, score.fp, score.fn) == counts
            assert dataclasses.astuple(score)[5:] == (0.0,) * 7
    assert matching(ContingencyTable.merge([]), [0.5])[0].f1 == 0.0


def test_fields_have_the_names_that_scores_json_uses():
    scores = matching(contingency(np.ones(3, int), np.ones(3, int)), criterion="iot")
    assert [f.name for f in dataclasses.fields(scores[0])] == FIELDS
    assert [s.threshold for s in scores] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert all(type(v) in (str, int, float) for v in dataclasses.astuple(scores[0]))
    assert scores[0].criterion == "iot"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), block=st.integers(1, 60))
def test_scores_do_not_depend_on_the_cut(seed, block):
    true, pred = (a.reshape(3, 4, 5) for a in random_pair(seed))
    whole = contingency(true, pred)
    grid = BlockGrid((3, 4, 5), (1 + block % 3, 1 + block % 4, 1 + block % 5))
    regions = [b.write_region.slices for b in grid.blocks()]
    parts = ContingencyTable.merge(contingency(true[r], pred[r]) for r in regions)
    for criterion in CRITERIA:
        assert matching(parts, criterion=criterion) == matching(whole, criterion=criterion)


def test_renaming_instances_changes_nothing():
    true, pred = random_pair(3)
    far = (true.astype(np.uint64) * np.uint64(2**40), pred.astype(np.uint64) + np.uint64(0))
    assert matching(contingency(*far)) == matching(contingency(true, pred))


def test_foreground_scores_are_voxel_wise():
    rng = np.random.default_rng(2)
    true, pred = rng.integers(0, 3, (2, 500))
    a, b = true > 0, pred > 0
    score = foreground_scores(contingency(true, pred))
    assert score.dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert score.iou == pytest.approx((a & b).sum() / (a | b).sum())
    assert score.precision == pytest.approx((a & b).sum() / b.sum())
    assert score.recall == pytest.approx((a & b).sum() / a.sum())
    assert score.accuracy == pytest.approx((a == b).mean())
    nothing = foreground_scores(contingency(true * 0, pred * 0))
    assert dataclasses.astuple(nothing) == (0.0, 0.0, 0.0, 0.0, 1.0)


def test_bad_thresholds_and_criteria_are_refused():
    table = contingency(np.ones(3, int), np.ones(3, int))
    for threshold in (0.0, -0.5, 1.1, float("nan")):
        with pytest.raises(BadInputError, match="threshold"):
            matching(table, [threshold])
    with pytest.raises(BadInputError, match="iou, iot, iop"):
        matching(table, [0.5], "dice")
