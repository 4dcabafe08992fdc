"""Sparse assignment by shortest augmenting paths: most hits first, then the largest sum.

Gains are pairs (hit, score) compared in that order, an ordered group in which the Hungarian
method holds as it does for numbers; no weight has to stand for "more than any sum of scores".
Rows join one by one (Jonker and Volgenant 1987, here on a sparse graph). A row may stay
alone at no gain, which ends most searches next to where they start.
"""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np
from numba import njit
from numpy.typing import NDArray

_NONE = -1


@njit(cache=True, nogil=True)
def _less(hits_a: int, score_a: float, hits_b: int, score_b: float) -> bool:
    return hits_a < hits_b or (hits_a == hits_b and score_a < score_b)


@njit(cache=True, nogil=True)
def _first_dual(
    start: int,
    stop: int,
    columns: NDArray[np.int64],
    hits: NDArray[np.int64],
    scores: NDArray[np.float64],
    column_hits: NDArray[np.int64],
    column_scores: NDArray[np.float64],
) -> tuple[int, float]:
    """The dual of a new row: its least reduced cost, at most that of staying alone."""
    best_hits, best_score = np.int64(0), 0.0
    for pair in range(start, stop):
        c = columns[pair]
        cost_hits, cost_score = -hits[pair] - column_hits[c], -scores[pair] - column_scores[c]
        if _less(cost_hits, cost_score, best_hits, best_score):
            best_hits, best_score = cost_hits, cost_score
    return best_hits, best_score


@njit(cache=True, nogil=True)
def _augment(
    pair: int,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    pair_of_row: NDArray[np.int64],
    pair_of_column: NDArray[np.int64],
    reached_by: NDArray[np.int64],
) -> None:
    """Match along the path that ends with ``pair``, back to the row that was alone."""
    while pair != _NONE:
        freed = pair_of_row[rows[pair]]
        pair_of_row[rows[pair]] = pair
        pair_of_column[columns[pair]] = pair
        pair = reached_by[columns[freed]] if freed != _NONE else _NONE


@njit(cache=True, nogil=True)
def assign(
    row_starts: NDArray[np.int64],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    hits: NDArray[np.int64],
    scores: NDArray[np.float64],
    n_columns: int,
) -> NDArray[np.int64]:
    """The pair of each row in a best one-to-one matching, -1 where it stays alone.

    Parameters
    ----------
    row_starts : (n_rows + 1,) int64
        Where the pairs of each row start.
    rows, columns, hits : (n,) int64
        Row, column and gain of first rank (0 or 1) of each pair, sorted by row.
    scores : (n,) float64
        Gain of second rank, not negative.
    n_columns : int
    """
    n_rows = len(row_starts) - 1
    row_hits, row_scores = np.zeros(n_rows, np.int64), np.zeros(n_rows)
    column_hits, column_scores = np.zeros(n_columns, np.int64), np.zeros(n_columns)
    pair_of_row = np.full(n_rows, _NONE, np.int64)
    pair_of_column = np.full(n_columns, _NONE, np.int64)
    reached_by = np.full(n_columns, _NONE, np.int64)
    far_hits, far_scores = np.zeros(n_columns, np.int64), np.zeros(n_columns)
    done = np.zeros(n_columns, np.bool_)
    touched = np.empty(n_columns, np.int64)
    path = np.empty(n_columns, np.int64)
    heap = [(np.int64(0), 0.0, np.int64(0))]
    heap.clear()
    for first in range(n_rows):
        row_hits[first], row_scores[first] = _first_dual(
            row_starts[first],
            row_starts[first + 1],
            columns,
            hits,
            scores,
            column_hits,
            column_scores,
        )
        n_touched, n_path = 0, 0
        row, at_hits, at_score = first, np.int64(0), 0.0
        alone, end_hits, end_score = first, -row_hits[first], -row_scores[first]
        end = _NONE
        while True:
            for pair in range(row_starts[row], row_starts[row + 1]):
                c = columns[pair]
                if done[c]:
                    continue
                d_hits = at_hits - hits[pair] - row_hits[row] - column_hits[c]
                d_score = at_score - scores[pair] - row_scores[row] - column_scores[c]
                if not _less(d_hits, d_score, end_hits, end_score):
                    continue
                new = reached_by[c] == _NONE
                if new or _less(d_hits, d_score, far_hits[c], far_scores[c]):
                    if new:
                        touched[n_touched] = c
                        n_touched += 1
                    far_hits[c], far_scores[c], reached_by[c] = d_hits, d_score, pair
                    heappush(heap, (d_hits, d_score, c))
            while len(heap) and done[heap[0][2]]:
                heappop(heap)
            if not len(heap) or not _less(heap[0][0], heap[0][1], end_hits, end_score):
                break
            at_hits, at_score, c = heappop(heap)
            if pair_of_column[c] == _NONE:
                end, end_hits, end_score = c, at_hits, at_score
                break
            done[c] = True
            path[n_path] = c
            n_path += 1
            row = rows[pair_of_column[c]]
            s_hits, s_score = at_hits - row_hits[row], at_score - row_scores[row]
            if _less(s_hits, s_score, end_hits, end_score):
                alone, end_hits, end_score = row, s_hits, s_score
        row_hits[first] += end_hits
        row_scores[first] += end_score
        for n in range(n_path):
            c = path[n]
            row = rows[pair_of_column[c]]
            row_hits[row] += end_hits - far_hits[c]
            row_scores[row] += end_score - far_scores[c]
            column_hits[c] -= end_hits - far_hits[c]
            column_scores[c] -= end_score - far_scores[c]
        if end != _NONE:
            _augment(reached_by[end], rows, columns, pair_of_row, pair_of_column, reached_by)
        elif alone != first:
            freed = pair_of_row[alone]
            pair_of_row[alone] = _NONE
            _augment(
                reached_by[columns[freed]],
                rows,
                columns,
                pair_of_row,
                pair_of_column,
                reached_by,
            )
        for n in range(n_touched):
            reached_by[touched[n]] = _NONE
            done[touched[n]] = False
        heap.clear()
    return pair_of_row
