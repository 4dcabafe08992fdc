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
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellseg3d_dist.metrics.augmenting import Graph, assign


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
    column_starts = starts(pairs.columns, pairs.n_columns)
    sides = _Sides(
        starts(pairs.rows, pairs.n_rows),
        column_starts,
        _grouped(pairs.columns, column_starts),
        pairs.rows,
        pairs.columns,
        pairs.scores,
        np.ones(pairs.n_rows, bool),
        np.ones(pairs.n_columns, bool),
    )
    settled = _settle(sides, threshold)
    keep_row, keep_column = sides.free_row, sides.free_column
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
    graph = Graph(
        starts(pairs.rows, pairs.n_rows),
        pairs.rows,
        pairs.columns,
        (pairs.scores >= threshold).astype(np.int64),
        pairs.scores,
    )
    chosen: NDArray[np.int64] = assign(graph, pairs.n_columns)
    matched: NDArray[np.int64] = chosen[chosen >= 0]
    return matched


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


class _Sides(NamedTuple):
    """The pairs as a graph, and which of its instances are still free."""

    row_starts: NDArray[np.int64]
    column_starts: NDArray[np.int64]
    by_column: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    scores: NDArray[np.float64]
    free_row: NDArray[np.bool_]
    free_column: NDArray[np.bool_]


@njit(cache=True, nogil=True)
def _best_two(row: int, column: int, sides: _Sides) -> tuple[int, float]:
    """Best free pair of a row, or where that is -1 of a column, and the next best's score.

    -1 stands for no pair in both.
    """
    best, best_score, next_score = -1, -1.0, -1.0
    of_row = row >= 0
    index, start = (row, sides.row_starts) if of_row else (column, sides.column_starts)
    for k in range(start[index], start[index + 1]):
        pair = k if of_row else sides.by_column[k]
        free = (
            sides.free_column[sides.columns[pair]] if of_row else sides.free_row[sides.rows[pair]]
        )
        score = sides.scores[pair]
        if free and score > best_score:
            best, best_score, next_score = pair, score, best_score
        elif free and score > next_score:
            next_score = score
    return best, next_score


@njit(cache=True, nogil=True)
def _settle(sides: _Sides, threshold: float) -> NDArray[np.int64]:
    """Dominant pairs in the order found; what is left free still has a pair.

    Instances, rows first, wait on a stack, each at most once; those next to a settled pair
    are looked at again.
    """
    n_rows, n_columns = len(sides.free_row), len(sides.free_column)
    stack = np.arange(n_rows + n_columns)[::-1].copy()
    waits = np.ones(n_rows + n_columns, np.bool_)
    height = n_rows + n_columns
    settled = np.empty(min(n_rows, n_columns), np.int64)
    n_settled = 0
    while height:
        height -= 1
        node = stack[height]
        waits[node] = False
        is_row = node < n_rows
        row, column = (node, -1) if is_row else (-1, node - n_rows)
        if not (sides.free_row[row] if is_row else sides.free_column[column]):
            continue
        # a dominant pair is the best on both of its sides
        best, other = _best_two(row, column, sides)
        if best < 0:
            if is_row:
                sides.free_row[row] = False
            else:
                sides.free_column[column] = False
            continue
        r, c = sides.rows[best], sides.columns[best]
        rival, across = _best_two(-1, c, sides) if is_row else _best_two(r, -1, sides)
        if rival != best:
            across = sides.scores[rival]
        if min(other, across) >= max(threshold, 0.0) or (
            max(other, 0.0) + max(across, 0.0) > sides.scores[best]
        ):
            continue
        settled[n_settled] = best
        n_settled += 1
        sides.free_row[r] = sides.free_column[c] = False
        height = _wake(r, c, sides, waits, stack, height)
    return settled[:n_settled]


@njit(cache=True, nogil=True)
def _wake(
    row: int,
    column: int,
    sides: _Sides,
    waits: NDArray[np.bool_],
    stack: NDArray[np.int64],
    height: int,
) -> int:
    """Put the free instances next to a settled pair on the stack."""
    n_rows = len(sides.free_row)
    for k in range(sides.column_starts[column], sides.column_starts[column + 1]):
        node = sides.rows[sides.by_column[k]]
        if sides.free_row[node] and not waits[node]:
            waits[node] = True
            stack[height] = node
            height += 1
    for pair in range(sides.row_starts[row], sides.row_starts[row + 1]):
        node = n_rows + sides.columns[pair]
        if sides.free_column[sides.columns[pair]] and not waits[node]:
            waits[node] = True
            stack[height] = node
            height += 1
    return height
