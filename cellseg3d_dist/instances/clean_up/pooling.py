"""Merging of touching labels one pair at a time, the brightest border first.

After each union the borders of the two cells with a third are one border: sums and counts
are added. The next pair is that of the largest mean in the range; of equal means, that of
the smallest ids (a cell's id is the smallest of those it was united from). The outcome
depends on that order, which is why all pairs are united at once by default.
"""

from __future__ import annotations

import heapq
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.instances.components import find


def united_one_by_one(
    n: int,
    pairs: npt.NDArray[np.int64],
    sums: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    limits: tuple[float, float],
) -> npt.NDArray[np.int64]:
    """The smallest id of the united cell that each of the cells 1..n becomes part of.

    Parameters
    ----------
    pairs : ndarray, int64, (m, 2)
        Ids of cells that touch, each pair once.
    sums, counts : ndarray, int64, (m,)
        The mean of a border is sum / count.
    limits : (float, float)
        Smallest and largest mean of a border that is merged.
    """
    # a cell may be named by another than the smallest id while its borders are pooled
    smallest: npt.NDArray[np.int64] = _united(n, pairs, sums.copy(), counts.copy(), *limits)
    return smallest


@numba.njit(cache=True, nogil=True)
def _key(a, b):  # type: ignore[no-untyped-def]
    return (np.uint64(min(a, b)) << np.uint64(32)) | np.uint64(max(a, b))


@numba.njit(cache=True, nogil=True)
def _offered(heap, edge, a, b, names, sums, counts, low, high):  # type: ignore[no-untyped-def]
    """Put a border on the heap if its mean is in the range, with what its state is known by."""
    mean = sums[edge] / counts[edge]
    if low <= mean <= high:
        one, other = min(names[a], names[b]), max(names[a], names[b])
        heapq.heappush(heap, (-mean, one, other, edge, counts[edge]))


@numba.njit(cache=True, nogil=True)
def _united(n, pairs, sums, counts, low, high):  # type: ignore[no-untyped-def]
    m = pairs.shape[0]
    parent = np.arange(n + 1)
    names = np.arange(n + 1)
    degree = np.zeros(n + 1, np.int64)
    # each cell's borders are a chain: slots 2 e and 2 e + 1 are the two ends of border e
    first = np.full(n + 1, -1, np.int64)
    last = np.full(n + 1, -1, np.int64)
    following = np.full(2 * m, -1, np.int64)
    edge_of: dict[Any, Any] = {_key(0, 0): np.int64(-1)}
    heap = [(0.0, np.int64(0), np.int64(0), np.int64(-1), np.int64(0))]
    heap.pop()
    e: Any
    for e in range(m):
        for end in range(2):
            cell, slot = pairs[e, end], 2 * e + end
            if first[cell] < 0:
                first[cell] = slot
            else:
                following[last[cell]] = slot
            last[cell] = slot
            degree[cell] += 1
        edge_of[_key(pairs[e, 0], pairs[e, 1])] = e
        _offered(heap, e, pairs[e, 0], pairs[e, 1], names, sums, counts, low, high)
    alive = np.ones(m, np.bool_)
    while heap:
        _, one, other, edge, count = heapq.heappop(heap)
        a, b = find(parent, pairs[edge, 0]), find(parent, pairs[edge, 1])
        current = names[a] + names[b] == one + other and min(names[a], names[b]) == one
        if not alive[edge] or counts[edge] != count or not current:
            continue
        if degree[a] < degree[b]:
            a, b = b, a
        # b, of fewer borders, becomes part of a
        alive[edge] = False
        parent[b] = a
        renamed = names[b] < names[a]
        names[a] = min(names[a], names[b])
        slot = first[b]
        while slot >= 0:
            e = slot // 2
            if alive[e]:
                c = find(parent, pairs[e, 1 - slot % 2])
                key = _key(a, c)
                known = edge_of[key] if key in edge_of else np.int64(-1)
                if known >= 0 and alive[known] and known != e:
                    sums[known] += sums[e]
                    counts[known] += counts[e]
                    alive[e] = False
                    e = known
                else:
                    edge_of[key] = e
                _offered(heap, e, a, c, names, sums, counts, low, high)
            slot = following[slot]
        if renamed:
            # what a touched already is known by a's former name
            slot = first[a]
            while slot >= 0:
                e = slot // 2
                if alive[e]:
                    c = find(parent, pairs[e, 1 - slot % 2])
                    _offered(heap, e, a, c, names, sums, counts, low, high)
                slot = following[slot]
        if first[b] >= 0:
            following[last[a]] = first[b]
            last[a] = last[b]
            degree[a] += degree[b]
    out = np.empty(n, np.int64)
    for i in range(n):
        out[i] = names[find(parent, i + 1)]
    return out
