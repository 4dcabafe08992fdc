"""From fragments to cells: union-find over dense ids, size filter, final ids by name.

A fragment's dense id is its block's offset plus its local label less one. Memory is about
40 bytes a fragment and one pass over the edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Merged:
    """The outcome of a merge.

    Attributes
    ----------
    final : ndarray, the smallest unsigned type that holds ``n_cells``, (n_fragments,)
        Final id of each fragment, 0 if its cell was dropped by size.
    names : ndarray, uint64, (n_cells,)
        Smallest name of each cell, ascending.
    n_cells, n_too_small, n_too_large : int
        Cells kept, and dropped by either limit.
    """

    final: npt.NDArray[np.unsignedinteger]
    names: npt.NDArray[np.uint64]
    n_cells: int
    n_too_small: int
    n_too_large: int


def label_dtype(n: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type that holds ids up to ``n``.

    >>> label_dtype(255), label_dtype(256)
    (dtype('uint8'), dtype('uint16'))
    """
    return np.dtype(np.min_scalar_type(n))


def merge(
    names: npt.NDArray[np.uint64],
    sizes: npt.NDArray[np.int64],
    edges: npt.NDArray[np.int64],
    min_volume: int | None = None,
    max_volume: int | None = None,
) -> Merged:
    """Unite fragments along edges and number the cells 1..n by their smallest name.

    Parameters
    ----------
    names : ndarray, uint64, (n,)
        Global names of the fragments. Distinct cells have distinct smallest names.
    sizes : ndarray, int64, (n,)
        Voxels of each fragment.
    edges : ndarray, int64, (m, 2)
        Pairs of dense ids that belong to one cell.
    min_volume, max_volume : int or None
        Limits for whole cells in voxels, both allowed values themselves.
    """
    parent = np.arange(names.size, dtype=np.int64)
    _unite(parent, edges)
    root_name, root_size = _totals(parent, names, sizes)
    roots = np.flatnonzero(parent == np.arange(names.size))
    volume = root_size[roots]
    small = volume < (min_volume or 0)
    large = volume > max_volume if max_volume is not None else np.zeros(roots.size, bool)
    kept = roots[~(small | large)]
    ordered = kept[np.argsort(root_name[kept], kind="stable")]
    rank = np.zeros(names.size, label_dtype(ordered.size))
    rank[ordered] = np.arange(1, ordered.size + 1)
    return Merged(
        rank[parent], root_name[ordered], int(ordered.size), int(small.sum()), int(large.sum())
    )


@numba.njit(cache=True, nogil=True)
def _root(parent, a):  # type: ignore[no-untyped-def]
    while parent[a] != a:
        parent[a] = parent[parent[a]]
        a = parent[a]
    return a


@numba.njit(cache=True, nogil=True)
def _unite(parent, edges):  # type: ignore[no-untyped-def]
    for i in range(edges.shape[0]):
        a = _root(parent, edges[i, 0])
        b = _root(parent, edges[i, 1])
        if a < b:
            parent[b] = a
        else:
            parent[a] = b
    # every parent is at most its child, so one sweep upwards flattens all trees
    for a in range(parent.size):
        parent[a] = parent[parent[a]]


@numba.njit(cache=True, nogil=True)
def _totals(parent, names, sizes):  # type: ignore[no-untyped-def]
    root_name = names.copy()
    root_size = np.zeros(parent.size, np.int64)
    for a in range(parent.size):
        root = parent[a]
        root_name[root] = min(root_name[root], names[a])
        root_size[root] += sizes[a]
    return root_name, root_size
