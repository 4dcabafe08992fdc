"""Sparse assignment by shortest augmenting paths: most hits first, then the largest sum.

Gains are pairs (hit, score) compared in that order, an ordered group in which the Hungarian
method holds as it does for numbers; no weight has to stand for "more than any sum of scores".
Rows join in two phases (Jonker and Volgenant 1987, here on a sparse graph): they bid for
their best column and push one another out, as far as that settles quickly, and the rest
search a shortest augmenting path. A row may stay alone at no gain, which ends most searches
next to where they start.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

_NONE = -1
_BIDS_PER_ROW = 8


class Graph(NamedTuple):
    """Pairs of rows and columns, sorted by row.

    Attributes
    ----------
    row_starts : (n_rows + 1,) int64
        Where the pairs of each row start.
    rows, columns, hits : (n,) int64
        Row, column and gain of first rank (0 or 1) of each pair.
    scores : (n,) float64
        Gain of second rank, not negative.
    """

    row_starts: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    hits: NDArray[np.int64]
    scores: NDArray[np.float64]


class _State(NamedTuple):
    """Prices of either side in both ranks, and who is matched by which pair, -1 for none."""

    row_hits: NDArray[np.int64]
    row_scores: NDArray[np.float64]
    column_hits: NDArray[np.int64]
    column_scores: NDArray[np.float64]
    pair_of_row: NDArray[np.int64]
    pair_of_column: NDArray[np.int64]


class _Search(NamedTuple):
    """How far each column is from the row that searches, and by which pair it is reached."""

    hits: NDArray[np.int64]
    scores: NDArray[np.float64]
    reached_by: NDArray[np.int64]
    done: NDArray[np.bool_]
    touched: NDArray[np.int64]
    path: NDArray[np.int64]


@njit(cache=True, nogil=True)
def assign(graph: Graph, n_columns: int) -> NDArray[np.int64]:
    """The pair of each row in a best one-to-one matching, -1 where it stays alone."""
    n_rows = len(graph.row_starts) - 1
    state = _State(
        np.zeros(n_rows, np.int64),
        np.zeros(n_rows, np.float64),
        np.zeros(n_columns, np.int64),
        np.zeros(n_columns, np.float64),
        np.full(n_rows, _NONE, np.int64),
        np.full(n_columns, _NONE, np.int64),
    )
    search = _Search(
        np.zeros(n_columns, np.int64),
        np.zeros(n_columns, np.float64),
        np.full(n_columns, _NONE, np.int64),
        np.zeros(n_columns, np.bool_),
        np.empty(n_columns, np.int64),
        np.empty(n_columns, np.int64),
    )
    heap = [(np.int64(0), np.float64(0.0), np.int64(0))]
    for row in _bid(graph, state):
        heap.clear()
        _join(row, graph, state, search, heap)
    return state.pair_of_row


@njit(cache=True, nogil=True)
def _less(hits_a: int, score_a: float, hits_b: int, score_b: float) -> bool:
    return hits_a < hits_b or (hits_a == hits_b and score_a < score_b)


@njit(cache=True, nogil=True)
def _bid(graph: Graph, state: _State) -> NDArray[np.int64]:
    """Match rows by bids; those that still wait when the bids are used up."""
    n_rows = len(graph.row_starts) - 1
    waiting = np.arange(n_rows)[::-1].copy()
    n_waiting = n_rows
    late = np.empty(n_rows, np.int64)
    n_late = 0
    bids = _BIDS_PER_ROW * n_rows
    while n_waiting:
        n_waiting -= 1
        row = waiting[n_waiting]
        best, best_hits, best_score = _NONE, np.int64(0), 0.0
        next_hits, next_score = np.int64(0), 0.0
        for pair in range(graph.row_starts[row], graph.row_starts[row + 1]):
            c = graph.columns[pair]
            hits = -graph.hits[pair] - state.column_hits[c]
            score = -graph.scores[pair] - state.column_scores[c]
            if _less(hits, score, best_hits, best_score):
                next_hits, next_score = best_hits, best_score
                best, best_hits, best_score = pair, hits, score
            elif _less(hits, score, next_hits, next_score):
                next_hits, next_score = hits, score
        state.row_hits[row], state.row_scores[row] = best_hits, best_score
        if best == _NONE:
            continue
        c = graph.columns[best]
        owner = state.pair_of_column[c]
        if owner != _NONE:
            # a tie pushes nobody out, or two rows would do so for ever
            if bids <= 0 or not _less(best_hits, best_score, next_hits, next_score):
                late[n_late] = row
                n_late += 1
                continue
            bids -= 1
            state.pair_of_row[graph.rows[owner]] = _NONE
            waiting[n_waiting] = graph.rows[owner]
            n_waiting += 1
        state.column_hits[c] -= next_hits - best_hits
        state.column_scores[c] -= next_score - best_score
        state.row_hits[row], state.row_scores[row] = next_hits, next_score
        state.pair_of_row[row] = state.pair_of_column[c] = best
    return late[:n_late]


@njit(cache=True, nogil=True)
def _join(
    first: int,
    graph: Graph,
    state: _State,
    search: _Search,
    heap: list[tuple[np.int64, np.float64, np.int64]],
) -> None:
    """Let one row in along the shortest path to a free column, or to a row best left alone."""
    _price(first, graph, state)
    n_touched, n_path = 0, 0
    row, at_hits, at_score = first, np.int64(0), 0.0
    alone, end_hits, end_score = first, -state.row_hits[first], -state.row_scores[first]
    end = _NONE
    while True:
        n_touched = _reach(
            row, at_hits, at_score, end_hits, end_score, graph, state, search, n_touched, heap
        )
        while len(heap) and search.done[heap[0][2]]:
            heappop(heap)
        if not len(heap) or not _less(heap[0][0], heap[0][1], end_hits, end_score):
            break
        at_hits, at_score, c = heappop(heap)
        if state.pair_of_column[c] == _NONE:
            end, end_hits, end_score = int(c), at_hits, at_score
            break
        search.done[c] = True
        search.path[n_path] = c
        n_path += 1
        row = graph.rows[state.pair_of_column[c]]
        stay_hits, stay_score = at_hits - state.row_hits[row], at_score - state.row_scores[row]
        if _less(stay_hits, stay_score, end_hits, end_score):
            alone, end_hits, end_score = row, stay_hits, stay_score
    _reprice(first, end_hits, end_score, n_path, graph, state, search)
    if end != _NONE:
        _augment(search.reached_by[end], graph, state, search)
    elif alone != first:
        freed = state.pair_of_row[alone]
        state.pair_of_row[alone] = _NONE
        _augment(search.reached_by[graph.columns[freed]], graph, state, search)
    for n in range(n_touched):
        search.reached_by[search.touched[n]] = _NONE
        search.done[search.touched[n]] = False


@njit(cache=True, nogil=True)
def _price(row: int, graph: Graph, state: _State) -> None:
    """The price of a row that comes in: its least reduced cost, at most that of staying alone."""
    best_hits, best_score = np.int64(0), 0.0
    for pair in range(graph.row_starts[row], graph.row_starts[row + 1]):
        c = graph.columns[pair]
        hits = -graph.hits[pair] - state.column_hits[c]
        score = -graph.scores[pair] - state.column_scores[c]
        if _less(hits, score, best_hits, best_score):
            best_hits, best_score = hits, score
    state.row_hits[row], state.row_scores[row] = best_hits, best_score


@njit(cache=True, nogil=True)
def _reach(
    row: int,
    at_hits: int,
    at_score: float,
    end_hits: int,
    end_score: float,
    graph: Graph,
    state: _State,
    search: _Search,
    n_touched: int,
    heap: list[tuple[np.int64, np.float64, np.int64]],
) -> int:
    """Note the columns next to a row that are nearer than before, and than the end."""
    for pair in range(graph.row_starts[row], graph.row_starts[row + 1]):
        c = graph.columns[pair]
        if search.done[c]:
            continue
        hits = at_hits - graph.hits[pair] - state.row_hits[row] - state.column_hits[c]
        score = at_score - graph.scores[pair] - state.row_scores[row] - state.column_scores[c]
        if not _less(hits, score, end_hits, end_score):
            continue
        new = search.reached_by[c] == _NONE
        if new or _less(hits, score, search.hits[c], search.scores[c]):
            if new:
                search.touched[n_touched] = c
                n_touched += 1
            search.hits[c], search.scores[c], search.reached_by[c] = hits, score, pair
            heappush(heap, (hits, score, c))
    return n_touched


@njit(cache=True, nogil=True)
def _reprice(
    first: int,
    end_hits: int,
    end_score: float,
    n_path: int,
    graph: Graph,
    state: _State,
    search: _Search,
) -> None:
    """Move the prices so that all along the path is tight."""
    state.row_hits[first] += end_hits
    state.row_scores[first] += end_score
    for n in range(n_path):
        c = search.path[n]
        row = graph.rows[state.pair_of_column[c]]
        state.row_hits[row] += end_hits - search.hits[c]
        state.row_scores[row] += end_score - search.scores[c]
        state.column_hits[c] -= end_hits - search.hits[c]
        state.column_scores[c] -= end_score - search.scores[c]


@njit(cache=True, nogil=True)
def _augment(pair: int, graph: Graph, state: _State, search: _Search) -> None:
    """Match along the path that ends with ``pair``, back to the row that comes in."""
    while pair != _NONE:
        row, column = graph.rows[pair], graph.columns[pair]
        freed = state.pair_of_row[row]
        state.pair_of_row[row] = state.pair_of_column[column] = pair
        pair = search.reached_by[graph.columns[freed]] if freed != _NONE else _NONE
