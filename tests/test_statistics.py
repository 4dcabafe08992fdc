"""Tests of ranks, effect sizes and intervals against scipy, scikit-posthocs and the formulas."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scikit_posthocs
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.metrics.statistics import (
    bootstrap_interval,
    cliffs_delta,
    compare_groups,
    conover_iman,
)

# F1 at IoU 0.1 to 0.9 of Otsu, Cellpose, StarDist and WNet3D, and what was published of their
# Kruskal-Wallis test: Table S1 of Achard et al. 2025. (It prints p = 0.69 for the first, where
# its H = 1.6 has 0.66.)
PUBLISHED = {
    "Platynereis-ISH": (
        1.6, 0.66,
        (0.872, 0.847, 0.817, 0.772, 0.706, 0.605, 0.474, 0.246, 0.026),
        (0.896, 0.866, 0.832, 0.778, 0.698, 0.576, 0.362, 0.117, 0.010),
        (0.841, 0.822, 0.786, 0.686, 0.536, 0.326, 0.110, 0.011, 0.0),
        (0.876, 0.856, 0.834, 0.790, 0.729, 0.632, 0.492, 0.249, 0.034),
    ),
    "Platynereis": (
        3.06, 0.38,
        (0.798, 0.773, 0.733, 0.702, 0.663, 0.590, 0.507, 0.336, 0.077),
        (0.691, 0.663, 0.624, 0.594, 0.553, 0.497, 0.417, 0.290, 0.062),
        (0.850, 0.833, 0.803, 0.764, 0.700, 0.611, 0.492, 0.272, 0.019),
        (0.838, 0.808, 0.778, 0.739, 0.695, 0.617, 0.512, 0.338, 0.059),
    ),
    "Mouse-Skull": (
        15.8, 0.001,
        (0.667, 0.634, 0.596, 0.566, 0.495, 0.427, 0.369, 0.276, 0.097),
        (0.137, 0.111, 0.077, 0.054, 0.038, 0.028, 0.020, 0.014, 0.006),
        (0.573, 0.533, 0.411, 0.253, 0.135, 0.065, 0.020, 0.003, 0.0),
        (0.766, 0.732, 0.669, 0.572, 0.455, 0.355, 0.254, 0.175, 0.033),
    ),
    "Mouse-Skull, post-processed": (
        10.13, 0.018,
        (0.695, 0.668, 0.647, 0.612, 0.543, 0.490, 0.428, 0.334, 0.137),
        (0.386, 0.362, 0.339, 0.312, 0.266, 0.228, 0.189, 0.120, 0.027),
        (0.689, 0.649, 0.557, 0.407, 0.276, 0.174, 0.073, 0.010, 0.0),
        (0.807, 0.783, 0.763, 0.725, 0.637, 0.534, 0.428, 0.296, 0.073),
    ),
}  # fmt: skip
# tenths have ties
VALUES = st.lists(st.integers(0, 10).map(lambda n: n / 10), min_size=3, max_size=8)


def of_published(name):
    return dict(zip("ABCD", PUBLISHED[name][2:], strict=True))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_kruskal_wallis(name):
    test = compare_groups(of_published(name))
    h, p = PUBLISHED[name][:2]
    # as many digits as are printed
    assert test.h == pytest.approx(h, abs=0.006 if h != 15.8 else 0.05)
    assert test.p == pytest.approx(p, abs=0.006 if p > 0.1 else 0.0006)
    assert test.significant == (p < 0.05)


@settings(max_examples=40, deadline=None)
@given(st.lists(VALUES, min_size=2, max_size=4))
def test_equals_scipy_and_scikit_posthocs(groups):
    if len({value for group in groups for value in group}) == 1:
        return
    test = compare_groups({f"g{i}": group for i, group in enumerate(groups)})
    wanted = scipy.stats.kruskal(*groups)
    assert (test.h, test.p) == (wanted.statistic, wanted.pvalue)
    assert [g.median for g in test.groups] == [np.median(group) for group in groups]
    if test.reason:
        assert all(pair.p is None for pair in test.pairs)
        return
    table = pd.DataFrame(
        [(f"g{i}", v) for i, g in enumerate(groups) for v in g], columns=["g", "v"]
    )
    found = scikit_posthocs.posthoc_conover(table, val_col="v", group_col="g", p_adjust="holm")
    assert [pair.p for pair in test.pairs] == [found.loc[p.first, p.second] for p in test.pairs]


def conover_by_hand(groups):
    """All pairs by the formulas of Conover and Iman (1979) and Holm (1979), in plain Python."""
    values = sorted(v for group in groups for v in group)
    rank = {v: values.index(v) + (values.count(v) + 1) / 2 for v in values}
    sums = [sum(rank[v] for v in group) for group in groups]
    squares = sum(rank[v] ** 2 for v in values)
    n, k = len(values), len(groups)
    variance = (squares - n * (n + 1) ** 2 / 4) / (n - 1)
    between = sum(s**2 / len(g) for s, g in zip(sums, groups, strict=True))
    h = (between - n * (n + 1) ** 2 / 4) / variance
    p = {}
    for i in range(k):
        for j in range(i + 1, k):
            spread = variance * (n - 1 - h) / (n - k) * (1 / len(groups[i]) + 1 / len(groups[j]))
            difference = abs(sums[i] / len(groups[i]) - sums[j] / len(groups[j]))
            p[i, j] = 2 * scipy.stats.t.sf(difference / math.sqrt(spread), n - k)
    corrected, highest = {}, 0.0
    for place, pair in enumerate(sorted(p, key=lambda pair: p[pair])):
        highest = max(highest, min(1.0, (len(p) - place) * p[pair]))
        corrected[pair] = highest
    return h, corrected


@pytest.mark.parametrize(
    "groups",
    [
        of_published("Mouse-Skull").values(),
        [[0.9, 0.8, 0.8, 0.7, 0.95], [0.5, 0.5, 0.4, 0.8], [0.1, 0.2, 0.2, 0.3, 0.5, 0.4]],
    ],
    ids=["published", "ties and sizes"],
)
def test_conover_iman_by_its_formula(groups):
    groups = list(groups)
    h, wanted = conover_by_hand(groups)
    test = compare_groups(dict(enumerate(groups)))
    assert test.h == pytest.approx(h, rel=1e-12)
    assert {(p.first, p.second): p.p for p in test.pairs} == pytest.approx(wanted, rel=1e-9)


def test_conover_iman_with_a_pencil():
    # ranks 1..9: H = 12 / 90 * (36 + 225 + 576) / 3 - 30 = 7.2; S² = 7.5;
    # t = 3 / sqrt(7.5 * 0.8 / 6 * 2 / 3) = 3.674 and twice that, with 6 degrees of freedom
    groups = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    test = compare_groups(dict(zip("abc", groups, strict=True)))
    assert test.h == pytest.approx(7.2)
    assert test.epsilon_squared == pytest.approx(0.9)
    p = conover_iman([np.array(group, float) for group in groups])
    near, far = 2 * scipy.stats.t.sf([3.6742346, 7.3484692], 6)
    assert (p[0, 2], p[0, 1], p[1, 2]) == pytest.approx((3 * far, 2 * near, 2 * near), rel=1e-6)


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ({"a": [0.1, 0.2, 0.3]}, "One method only"),
        ({"a": [0.1, 0.2, 0.3], "b": [0.1, 0.2]}, "Too few values for a test: 2 of a method"),
        ({"a": [0.5] * 4, "b": [0.5] * 4}, "All values are equal"),
        ({"a": [0.1] * 4, "b": [0.5] * 4, "c": [0.6] * 4}, "No method's values vary"),
        ({"a": [0.1, 0.5, 0.9], "b": [0.2, 0.4, 0.8]}, "do not differ significantly"),
    ],
)
def test_what_cannot_be_tested_says_why(groups, reason):
    test = compare_groups(groups)
    assert reason in test.reason
    assert all(pair.p is None and not pair.significant for pair in test.pairs)
    assert len(test.pairs) == len(groups) * (len(groups) - 1) // 2


@pytest.mark.parametrize("values", [[], [0.1, math.nan, 0.3], [[0.1, 0.2]]])
def test_groups_that_are_none(values):
    with pytest.raises(BadInputError, match="Group 'a'"):
        compare_groups({"a": values})


@settings(max_examples=40, deadline=None)
@given(VALUES, VALUES)
def test_cliffs_delta_counts_pairs(first, second):
    above = sum((a > b) - (a < b) for a in first for b in second)
    assert cliffs_delta(first, second) == above / (len(first) * len(second))
    assert cliffs_delta(first, second) == -cliffs_delta(second, first)


def test_bootstrap_is_scipys():
    values = np.random.default_rng(1).beta(4, 2, (25, 3))
    low, high = bootstrap_interval(values)
    wanted = scipy.stats.bootstrap((values,), np.mean, method="percentile", random_state=3)
    # of 5,000 random means each
    assert np.allclose(low, wanted.confidence_interval.low, atol=0.004)
    assert np.allclose(high, wanted.confidence_interval.high, atol=0.004)
    assert np.array_equal(bootstrap_interval(values), (low, high))


def test_bootstrap_of_few_and_equal_values():
    assert np.isnan(bootstrap_interval([[0.5, 0.6]])).all()
    assert bootstrap_interval([0.25] * 4) == (0.25, 0.25)
    low, high = bootstrap_interval([0.0, 1.0])
    assert (low, high) == (0.0, 1.0)
