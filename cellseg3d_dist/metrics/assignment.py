"""One-to-one assignment on sparse pairs: the optimum of a dense Hungarian, without the matrix.

The sought matching has the most pairs at or above the threshold (hits) and, among those
matchings, the largest sum of scores over all its pairs. Two exact steps make it cheap:

1. A *dominant* pair is settled at once. Take (t, p) and the best other pair of t and of p.
   If their scores add up to no more than that of (t, p), and one of them is below the
   threshold, then swapping them for (t, p) loses neither sum nor hits: where (t, p) itself
   is below the threshold, so are they. Settling removes t and p, which may make others
   dominant. What is settled at one threshold is so at every higher one: thresholds are
   taken in rising order, and each starts from what the last left.
2. The few pairs that are left are matched by shortest augmenting paths, which stay within
   their connected group (:mod:`cellseg3d_dist.metrics.augmenting`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellseg3d_dist.metrics.augmenting import assign


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of instances with a score; each (row, column) at most once, sorted by row.

    Attributes
    ----------
    rows, columns : (n,) int64
        Index of the true and of the predicted instance.
    scores : (n,) float64
        Not negative.
    n_rows, n_columns : int
        Number of true and predicted instances, those without a pair included.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    scores: NDArray[np.float64]
    n_rows: int
    n_columns: int


def match_pairs(
    pairs: Pairs, thresholds: Sequence[float], *, unique_from_half: bool
) -> list[NDArray[np.float64]]:
    """Scores of the matched pairs that reach each threshold, sorted.

    Parameters
    ----------
    pairs : Pairs
    thresholds : floats
    unique_from_half : bool
        Whether two pairs of one instance can both score 0.5 or more only where both are
        exactly 0.5 and nothing else competes, as for IoU.
    """
    matched: list[NDArray[np.float64]] = [np.empty(0)] * len(thresholds)
    settled, rest = np.empty(0), pairs
    for n in np.argsort(thresholds, kind="stable"):
        threshold = float(thresholds[n])
        if unique_from_half and threshold >= 0.5:
            found = rest.scores[_first_hits(rest.rows, rest.columns, rest.scores, threshold)]
        else:
            rest, dominant = _without_dominant(rest, threshold)
            settled = np.concatenate([settled, dominant])
            found = rest.scores[_best_matching(rest, threshold)]
        both = np.concatenate([settled, found])
        matched[n] = np.sort(both[both >= threshold])
    return matched


def _without_dominant(pairs: Pairs, threshold: float) -> tuple[Pairs, NDArray[np.float64]]:
    """The pairs that step 1 leaves, of fewer instances, and the scores of those it settles."""
    row_starts, column_starts = (
        starts(pairs.rows, pairs.n_rows),
        starts(pairs.columns, pairs.n_columns),
    )
    settled, keep_row, keep_column = _settle(
        row_starts,
        column_starts,
        _grouped(pairs.columns, column_starts),
        pairs.rows,
        pairs.columns,
        pairs.scores,
        threshold,
    )
    keep = keep_row[pairs.rows] & keep_column[pairs.columns]
    new_row, new_column = np.cumsum(keep_row) - 1, np.cumsum(keep_column) - 1
    rest = Pairs(
        new_row[pairs.rows[keep]],
        new_column[pairs.columns[keep]],
        pairs.scores[keep],
        int(keep_row.sum()),
        int(keep_column.sum()),
    )
    return rest, pairs.scores[settled]


def _best_matching(pairs: Pairs, threshold: float) -> NDArray[np.int64]:
    """Indices of the pairs of a best matching."""
    chosen = assign(
        starts(pairs.rows, pairs.n_rows),
        pairs.rows,
        pairs.columns,
        (pairs.scores >= threshold).astype(np.int64),
        pairs.scores,
        pairs.n_columns,
    )
    return chosen[chosen >= 0]


@njit(cache=True, nogil=True)
def starts(index: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Where the entries of each of ``n`` groups start once they are sorted by ``index``."""
    ends = np.zeros(n + 1, np.int64)
    for i in index:
        ends[i + 1] += 1
    for i in range(n):
        ends[i + 1] += ends[i]
    return ends


@njit(cache=True, nogil=True)
def _grouped(index: NDArray[np.int64], start: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions sorted by ``index``, in their order where it is equal."""
    at = start[:-1].copy()
    order = np.empty(len(index), np.int64)
    for n in range(len(index)):
        order[at[index[n]]] = n
        at[index[n]] += 1
    return order


@njit(cache=True, nogil=True)
def _first_hits(
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    scores: NDArray[np.float64],
    threshold: float,
) -> NDArray[np.int64]:
    """Pairs that reach the threshold, the first of each row and column."""
    found = np.flatnonzero(scores >= threshold)
    if not len(found):
        return found
    busy_row = np.zeros(rows[found].max() + 1, np.bool_)
    busy_column = np.zeros(columns[found].max() + 1, np.bool_)
    n = 0
    for pair in found:
        if not (busy_row[rows[pair]] or busy_column[columns[pair]]):
            busy_row[rows[pair]] = busy_column[columns[pair]] = True
            found[n] = pair
            n += 1
    return found[:n]


@njit(cache=True, nogil=True)
def _settle(
    row_starts: NDArray[np.int64],
    column_starts: NDArray[np.int64],
    by_column: NDArray[np.int64],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    scores: NDArray[np.float64],
    threshold: float,
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Dominant pairs in the order found, and the rows and columns that still have a pair.

    Instances, rows first, wait on a stack, each at most once; those next to a settled pair
    are looked at again.
    """
    n_rows, n_columns = len(row_starts) - 1, len(column_starts) - 1
    stack = np.arange(n_rows + n_columns)[::-1].copy()
    waits = np.ones(n_rows + n_columns, np.bool_)
    height = n_rows + n_columns
    free_row, free_column = np.ones(n_rows, np.bool_), np.ones(n_columns, np.bool_)
    settled = np.empty(min(n_rows, n_columns), np.int64)
    n_settled = 0
    while height:
        height -= 1
        node = stack[height]
        waits[node] = False
        # the best pair of the instance; a dominant one is best on both of its sides
        best = -1
        if node < n_rows:
            if not free_row[node]:
                continue
            for pair in range(row_starts[node], row_starts[node + 1]):
                if free_column[columns[pair]] and (best < 0 or scores[pair] > scores[best]):
                    best = pair
        else:
            c = node - n_rows
            if not free_column[c]:
                continue
            for k in range(column_starts[c], column_starts[c + 1]):
                pair = by_column[k]
                if free_row[rows[pair]] and (best < 0 or scores[pair] > scores[best]):
                    best = pair
        if best < 0:
            if node < n_rows:
                free_row[node] = False
            else:
                free_column[node - n_rows] = False
            continue
        r, c = rows[best], columns[best]
        row_other, column_other = -1.0, -1.0
        for pair in range(row_starts[r], row_starts[r + 1]):
            if pair != best and free_column[columns[pair]]:
                row_other = max(row_other, scores[pair])
        for k in range(column_starts[c], column_starts[c + 1]):
            pair = by_column[k]
            if pair != best and free_row[rows[pair]]:
                column_other = max(column_other, scores[pair])
        if min(row_other, column_other) >= max(threshold, 0.0) or (
            max(row_other, 0.0) + max(column_other, 0.0) > scores[best]
        ):
            continue
        settled[n_settled] = best
        n_settled += 1
        free_row[r] = free_column[c] = False
        for k in range(column_starts[c], column_starts[c + 1]):
            other = rows[by_column[k]]
            if free_row[other] and not waits[other]:
                waits[other] = True
                stack[height] = other
                height += 1
        for pair in range(row_starts[r], row_starts[r + 1]):
            other = columns[pair]
            if free_column[other] and not waits[n_rows + other]:
                waits[n_rows + other] = True
                stack[height] = n_rows + other
                height += 1
    return settled[:n_settled], free_row, free_column
