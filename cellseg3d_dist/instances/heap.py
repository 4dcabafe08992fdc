"""A binary heap of whole numbers in an array, the smallest first; for kernels."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def push(heap, n, entry):  # type: ignore[no-untyped-def]
    """Add to a binary heap of n entries; the heap, which may have moved."""
    if n == heap.size:
        heap = np.concatenate((heap, np.empty_like(heap)))
    while n > 0 and heap[(n - 1) >> 1] > entry:
        heap[n] = heap[(n - 1) >> 1]
        n = (n - 1) >> 1
    heap[n] = entry
    return heap


@numba.njit(cache=True, nogil=True)
def drop(heap, n):  # type: ignore[no-untyped-def]
    """Take the smallest of n entries off the heap."""
    n -= 1
    entry = heap[n]
    i = 0
    while 2 * i + 1 < n:
        child = 2 * i + 1
        if child + 1 < n and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= entry:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = entry
