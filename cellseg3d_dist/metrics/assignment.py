"""One-to-one assignment on sparse pairs: the optimum of a dense Hungarian, without the matrix.

The sought matching has the most pairs at or above the threshold and, among those matchings,
the largest sum of scores over all its pairs. Three exact steps make it cheap:

1. A *dominant* pair is settled at once. Take (t, p) at or above the threshold, and the best
   other pair of t and of p. If not both of these reach the threshold, and their scores add
   up to no more than that of (t, p), then swapping them for (t, p) never loses.
2. What is left falls into connected groups; one without a pair at the threshold has no hits,
   and of a star (one instance against several) the best pair is the answer.
3. The few other groups are solved by scipy, each on its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

_DENSE_CELLS = 4_000_000
"""Largest group solved as a dense matrix, 32 MB of costs."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of instances with a score above 0; each (row, column) at most once.

    Attributes
    ----------
    rows, columns : (n,) int64
        Index of the true and of the predicted instance.
    scores : (n,) float64
        Above 0, at most 1.
    n_rows, n_columns : int
        Number of true and predicted instances, those without a pair included.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    scores: NDArray[np.float64]
    n_rows: int
    n_columns: int

    def only(self, keep: NDArray[np.bool_]) -> Pairs:
        """The pairs that ``keep`` marks, of the same instances."""
        return Pairs(
            self.rows[keep], self.columns[keep], self.scores[keep], self.n_rows, self.n_columns
        )


def match_pairs(pairs: Pairs, threshold: float, *, unique_from_half: bool) -> NDArray[np.float64]:
    """Scores of the matched pairs that reach the threshold, sorted.

    Parameters
    ----------
    pairs : Pairs
    threshold : float
    unique_from_half : bool
        Whether two pairs of one instance can both score 0.5 or more only where both are
        exactly 0.5 and nothing else competes, as for IoU.
    """
    if unique_from_half and threshold >= 0.5:
        hits = pairs.only(pairs.scores >= threshold)
        hits = hits.only(_first_of_each(hits.rows))
        hits = hits.only(_first_of_each(hits.columns))
        return np.sort(hits.scores)
    found = []
    rest = pairs
    while True:
        settled = _dominant(rest, threshold)
        if not settled.any():
            break
        found.append(rest.scores[settled])
        busy_row = np.zeros(rest.n_rows, bool)
        busy_column = np.zeros(rest.n_columns, bool)
        busy_row[rest.rows[settled]] = True
        busy_column[rest.columns[settled]] = True
        rest = rest.only(~(busy_row[rest.rows] | busy_column[rest.columns]))
    found.extend(_solve_groups(rest, threshold))
    return np.sort(np.concatenate([np.empty(0), *found]))


def _first_of_each(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    first = np.zeros(len(values), bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first


def _best_other(index: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each pair the best score among the other pairs of its instance; 0 if alone."""
    order = np.lexsort((-scores, index))
    sorted_index, sorted_scores = index[order], scores[order]
    first = np.ones(len(index), bool)
    first[1:] = sorted_index[1:] != sorted_index[:-1]
    starts = np.flatnonzero(first)
    lengths = np.diff(np.append(starts, len(index)))
    second = np.zeros(len(starts))
    second[lengths > 1] = sorted_scores[starts[lengths > 1] + 1]
    group = np.cumsum(first) - 1
    other = np.empty(len(index))
    other[order] = np.where(first, second[group], sorted_scores[starts][group])
    return other


def _dominant(pairs: Pairs, threshold: float) -> NDArray[np.bool_]:
    """Pairs of step 1, none sharing an instance."""
    row_other = _best_other(pairs.rows, pairs.scores)
    column_other = _best_other(pairs.columns, pairs.scores)
    settled: NDArray[np.bool_] = (
        (pairs.scores >= threshold)
        & ((row_other < threshold) | (column_other < threshold))
        & (row_other + column_other <= pairs.scores)
    )
    # two dominant pairs share an instance only where their scores are equal: keep one
    chosen = np.flatnonzero(settled)
    chosen = chosen[_first_of_each(pairs.rows[chosen])]
    chosen = chosen[_first_of_each(pairs.columns[chosen])]
    settled[:] = False
    settled[chosen] = True
    return settled


def _solve_groups(pairs: Pairs, threshold: float) -> list[NDArray[np.float64]]:
    """Steps 2 and 3."""
    if not len(pairs.scores):
        return []
    n = pairs.n_rows + pairs.n_columns
    links = coo_array(
        (np.ones(len(pairs.rows), bool), (pairs.rows, pairs.n_rows + pairs.columns)), (n, n)
    )
    group = connected_components(links, directed=False)[1][pairs.rows]
    hit = pairs.scores >= threshold
    hopeful = np.isin(group, np.unique(group[hit]))
    order = np.flatnonzero(hopeful)
    order = order[np.lexsort((-pairs.scores[order], group[order]))]
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    rows, columns = pairs.rows[order], pairs.columns[order]
    star = np.zeros(len(starts), bool)
    for index in (rows, columns):
        if len(starts):
            star |= np.minimum.reduceat(index, starts) == np.maximum.reduceat(index, starts)
    found = [pairs.scores[order[starts[star]]]]
    ends = np.append(starts[1:], len(order))
    for start, end in zip(starts[~star], ends[~star], strict=True):
        members = order[start:end]
        found.append(
            _solve(pairs.rows[members], pairs.columns[members], pairs.scores[members], threshold)
        )
    return found


def _solve(
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    scores: NDArray[np.float64],
    threshold: float,
) -> NDArray[np.float64]:
    """Scores of the hits of one group; its own size in place of min(n) changes no optimum."""
    row_ids, r = np.unique(rows, return_inverse=True)
    column_ids, c = np.unique(columns, return_inverse=True)
    shape = (len(row_ids), len(column_ids))
    gain = (scores >= threshold) + scores / (2 * min(shape))
    if shape[0] * shape[1] <= _DENSE_CELLS:
        cost = np.zeros(shape)
        value = np.zeros(shape)
        cost[r, c], value[r, c] = -gain, scores
        chosen = value[linear_sum_assignment(cost)]
    else:
        # a full matching must exist: every row gets a column of its own that gains nothing
        spare = np.arange(shape[0])
        weights = csr_array(
            (
                np.concatenate([2 - gain, np.full(shape[0], 2.0)]),
                (np.concatenate([r, spare]), np.concatenate([c, shape[1] + spare])),
            ),
            (shape[0], shape[1] + shape[0]),
        )
        value = csr_array((scores, (r, c)), weights.shape)
        at_row, at_column = min_weight_full_bipartite_matching(weights)
        chosen = np.asarray(value[at_row, at_column]).ravel()
    result: NDArray[np.float64] = chosen[chosen >= threshold]
    return result
