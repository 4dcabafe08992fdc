"""Whether scores of several methods differ: tests on ranks, effect sizes, intervals.

The tests are those of CellSeg3D (Achard et al. 2025): Kruskal-Wallis over all methods and, where
that is significant, two-sided Conover-Iman tests of all pairs with the step-down correction of
Holm and Bonferroni.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellseg3d_dist.errors import BadInputError

#: Level of significance.
ALPHA = 0.05
#: Fewest values of a group that are tested.
LEAST = 3
#: Up to here the chi-square distribution is a rough stand-in for that of H.
FEW = 5
RESAMPLES = 5_000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """Values of one method.

    Attributes
    ----------
    name : str
    n : int
        Values.
    mean, median, q1, q3 : float
        Mean, median, first and third quartile.
    """

    name: str
    n: int
    mean: float
    median: float
    q1: float
    q3: float


@dataclass(frozen=True)
class Pair:
    """Two methods against each other.

    Attributes
    ----------
    first, second : str
    difference : float
        Median of the first less that of the second.
    delta : float
        Cliff's delta: how much more often a value of the first is above one of the second than
        below, -1 to 1 (Cliff 1993).
    p : float or None
        Conover-Iman, two-sided, corrected; None where pairs are not tested.
    """

    first: str
    second: str
    difference: float
    delta: float
    p: float | None

    @property
    def significant(self) -> bool:
        """Whether p is below 0.05."""
        return self.p is not None and self.p < ALPHA


@dataclass(frozen=True)
class GroupTest:
    """What tests say about the values of several methods.

    Attributes
    ----------
    groups : tuple of Group
    pairs : tuple of Pair
        All pairs, in the order of the groups.
    h, p : float or None
        Kruskal-Wallis statistic, corrected for ties, and its p; None where there is no test.
    epsilon_squared : float or None
        h / (n - 1): share of the variance of ranks that the groups explain, 0 to 1
        (Tomczak and Tomczak 2014).
    reason : str
        Why there is no test, of all groups or of pairs; else empty.
    """

    groups: tuple[Group, ...]
    pairs: tuple[Pair, ...]
    h: float | None
    p: float | None
    epsilon_squared: float | None
    reason: str

    @property
    def n(self) -> int:
        """Values of all groups."""
        return sum(group.n for group in self.groups)

    @property
    def significant(self) -> bool:
        """Whether the groups differ, p below 0.05."""
        return self.p is not None and self.p < ALPHA


def compare_groups(groups: Mapping[str, Sequence[float]]) -> GroupTest:
    """Test whether values of several methods come from one distribution.

    Parameters
    ----------
    groups : mapping of str to floats
        Values of each method; groups may differ in size.

    Returns
    -------
    GroupTest
        Without tests, and with the reason, for fewer than two groups, fewer than three values in
        a group, or values that are all equal. Pairs are tested only where the groups differ, as
        in the paper.

    Raises
    ------
    BadInputError
        If a group is empty or a value not finite.

    Examples
    --------
    >>> test = compare_groups({"a": [0.8, 0.7, 0.75], "b": [0.4, 0.5, 0.3], "c": [0.6, 0.2, 0.1]})
    >>> round(test.h, 3), round(test.p, 3), round(test.pairs[0].delta, 2)
    (5.6, 0.061, 1.0)
    """
    values = {name: _checked(name, group) for name, group in groups.items()}
    described = tuple(_described(name, group) for name, group in values.items())
    arrays = list(values.values())
    reason = _untestable(arrays)
    h = p = epsilon_squared = None
    tested: dict[tuple[int, int], float] = {}
    if not reason:
        h, p = kruskal_wallis(arrays)
        epsilon_squared = min(1.0, h / (sum(map(len, arrays)) - 1))
        if p >= ALPHA:
            reason = "The methods do not differ significantly, so pairs are not tested."
        elif all(np.ptp(group) == 0 for group in arrays):
            reason = "No method's values vary, so pairs cannot be tested."
        else:
            matrix = conover_iman(arrays)
            tested = {(i, j): float(matrix[i, j]) for i, j in _pairs(len(arrays))}
    pairs = tuple(
        Pair(
            described[i].name,
            described[j].name,
            described[i].median - described[j].median,
            cliffs_delta(arrays[i], arrays[j]),
            tested.get((i, j)),
        )
        for i, j in _pairs(len(arrays))
    )
    return GroupTest(described, pairs, h, p, epsilon_squared, reason)


def kruskal_wallis(groups: Sequence[Floats]) -> tuple[float, float]:
    """H and p of the Kruskal-Wallis test (Kruskal and Wallis 1952), corrected for ties.

    p is that of a chi-square distribution with one degree of freedom less than groups.
    """
    from scipy.stats import kruskal

    found = kruskal(*groups)
    return float(found.statistic), float(found.pvalue)


def conover_iman(groups: Sequence[Floats]) -> Floats:
    """Conover-Iman p of all pairs, two-sided, with the correction of Holm and Bonferroni.

    Mean ranks R of groups of n_i and n_j of N values are compared by
    t = (R_i - R_j) / sqrt(S² (N - 1 - H) / (N - k) (1 / n_i + 1 / n_j)) with N - k degrees of
    freedom (Conover and Iman 1979; S² is the variance of all ranks), by scikit-posthocs.

    Returns
    -------
    (k, k) float64
        Symmetric, 1 on the diagonal.
    """
    from scikit_posthocs import posthoc_conover

    # values that groups have no spread around make t infinite
    with np.errstate(divide="ignore"):
        return np.asarray(posthoc_conover([list(g) for g in groups], p_adjust="holm"), np.float64)


def cliffs_delta(first: ArrayLike, second: ArrayLike) -> float:
    """P(a > b) - P(a < b) over all pairs of a value of each group.

    >>> cliffs_delta([1, 2, 3], [0, 2, 0])
    0.6666666666666666
    """
    a, b = np.asarray(first, np.float64), np.sort(np.asarray(second, np.float64))
    below, up_to = np.searchsorted(b, a, "left"), np.searchsorted(b, a, "right")
    return float(below.sum() - (len(b) - up_to).sum()) / (len(a) * len(b))


def bootstrap_interval(
    values: ArrayLike, level: float = 0.95, resamples: int = RESAMPLES
) -> tuple[Floats, Floats]:
    """Percentile interval of the mean (Efron 1979), the same at every call.

    Parameters
    ----------
    values : (n,) or (n, m) float
        A row per image; images are drawn with all their values.
    level : float
        Share of resampled means inside.
    resamples : int

    Returns
    -------
    low, high : () or (m,) float64
        NaN where there is one image only.
    """
    rows = np.asarray(values, np.float64)
    n = len(rows)
    if n < 2:
        return np.full(rows.shape[1:], np.nan), np.full(rows.shape[1:], np.nan)
    random = np.random.default_rng(0)
    means = np.empty((resamples, *rows.shape[1:]))
    # how often each image is drawn, instead of copies of it
    step = max(1, 10_000_000 // n)
    for start in range(0, resamples, step):
        part = means[start : start + step]
        part[:] = random.multinomial(n, np.full(n, 1 / n), size=len(part)) @ rows / n
    edge = (1 - level) / 2
    low, high = np.quantile(means, (edge, 1 - edge), axis=0)
    return np.asarray(low), np.asarray(high)


def _pairs(n: int) -> list[tuple[int, int]]:
    return list(combinations(range(n), 2))


def _checked(name: str, group: Sequence[float]) -> Floats:
    values = np.asarray(group, np.float64)
    if values.ndim != 1 or not values.size:
        raise BadInputError(f"Group {name!r} must be one or more values in a row.")
    if not np.isfinite(values).all():
        raise BadInputError(f"Group {name!r} has values that are not finite.")
    return values


def _described(name: str, values: Floats) -> Group:
    q1, median, q3 = (float(v) for v in np.quantile(values, (0.25, 0.5, 0.75)))
    return Group(name, len(values), float(values.mean()), median, q1, q3)


def _untestable(groups: Sequence[Floats]) -> str:
    if len(groups) < 2:
        return "One method only: there is nothing to compare it with."
    fewest = min(map(len, groups))
    if fewest < LEAST:
        return f"Too few values for a test: {fewest} of a method; at least {LEAST} are needed."
    if np.ptp(np.concatenate(groups)) == 0:
        return "All values are equal: there is nothing to test."
    return ""
