"""From fragments to cells: union-find over dense ids, size filter, final ids by name.

A fragment's dense id is its block's offset plus its local label less one. Fragments and
edges are taken in parts, and final ids are given out in parts. Memory is 12 bytes a
fragment, 4 more with limits of size, and 8 more a cell while they are numbered; edges are
never held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Names = npt.NDArray[np.uint64]
Edges = npt.NDArray[np.integer[Any]]

#: In place of a name: not a root, or its cell is dropped.
NO_CELL = np.uint64(2**64 - 1)
#: Names are sorted in buckets of about this many, which a core's cache holds.
_BUCKET = 1 << 13
#: More buckets than this are slower to fill than large ones are to sort.
_MOST_BUCKET_BITS = 16


@dataclass(frozen=True)
class Limits:
    """Limits for whole cells in voxels, both allowed values themselves; None is no limit."""

    min_volume: int | None = None
    max_volume: int | None = None

    @property
    def least(self) -> int:
        """Voxels of the smallest cell that is kept."""
        return max(self.min_volume or 0, 0)

    @property
    def most(self) -> int:
        """Voxels of the largest cell that is kept."""
        largest: int = np.iinfo(np.int64).max
        return largest if self.max_volume is None else max(self.max_volume, -1)

    @property
    def cap(self) -> int:
        """A size from which on sizes need not be told apart; 0 where none matters."""
        return self.least if self.max_volume is None else max(self.least, self.most + 1)

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Type that holds the sum of two capped sizes."""
        return np.dtype(np.uint32 if self.cap < 2**31 else np.uint64)


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
    names: Names
    n_cells: int
    n_too_small: int
    n_too_large: int


@dataclass(frozen=True)
class Numbered:
    """Final ids of a forest's fragments, given out in parts.

    Attributes
    ----------
    parent : ndarray
        Root of each fragment.
    rank : ndarray, the smallest unsigned type that holds ``n_cells``
        Final id of each root, 0 if its cell was dropped by size.
    """

    parent: npt.NDArray[np.integer[Any]]
    rank: npt.NDArray[np.unsignedinteger]
    n_cells: int
    n_too_small: int
    n_too_large: int

    def final(self, start: int, stop: int) -> npt.NDArray[np.unsignedinteger]:
        """Final ids of the fragments from ``start`` on, before ``stop``."""
        part: npt.NDArray[np.unsignedinteger] = self.rank[self.parent[start:stop]]
        return part


def label_dtype(n: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type that holds ids up to ``n``.

    >>> label_dtype(255), label_dtype(256)
    (dtype('uint8'), dtype('uint16'))
    """
    return np.dtype(np.min_scalar_type(n))


class Forest:
    """Fragments that are united along edges, then numbered by their cells' smallest names.

    First all fragments are added, then all edges, both in parts; then :meth:`number`.

    Parameters
    ----------
    limits : Limits
    expected : int
        Room for this many is set aside at first, of which only what is filled takes memory.
    """

    def __init__(self, limits: Limits, expected: int = 0) -> None:
        self._limits = limits
        self._names = np.empty(expected, np.uint64)
        self._sizes = np.empty(expected if limits.cap else 0, limits.dtype)
        self._parent: npt.NDArray[np.integer[Any]] | None = None
        self.n_fragments = 0

    @property
    def names(self) -> Names:
        """Names of the fragments added so far."""
        return self._names[: self.n_fragments]

    @property
    def parent(self) -> npt.NDArray[np.integer[Any]]:
        """A fragment of the same cell with a dense id that is not larger; no more are added."""
        if self._parent is None:
            self._parent = singletons(self.n_fragments)
        return self._parent

    def add(self, names: Names, sizes: npt.NDArray[Any]) -> None:
        """Add the next fragments, of any voxel counts ``sizes``."""
        stop = self.n_fragments + names.size
        if stop > self._names.size:
            room = max(stop, 2 * self._names.size, 1024)
            self._names = _moved(self._names, self.n_fragments, room)
            if self._limits.cap:
                self._sizes = _moved(self._sizes, self.n_fragments, room)
        self._names[self.n_fragments : stop] = names
        if self._limits.cap:
            held = self._sizes[self.n_fragments : stop]
            np.minimum(sizes, self._limits.cap, out=held, casting="unsafe")
        self.n_fragments = stop

    def unite(self, edges: Edges) -> None:
        """Unite the pairs of dense ids ``edges``, (m, 2)."""
        unite(self.parent, edges)

    def number(self, keep: Callable[[Names], Any]) -> Numbered:
        """Drop cells by size and number the others 1..n by their smallest name.

        The names of the cells are handed to ``keep``, ascending, part by part. The forest
        is empty afterwards.
        """
        parent, names, sizes = self.parent, self.names, self._sizes[: self.n_fragments]
        self._names, self._sizes = np.empty(0, np.uint64), np.empty(0, self._limits.dtype)
        _collapse(parent, names, sizes, self._limits.cap)
        small, large = _drop(names, sizes, self._limits.least, self._limits.most)
        del sizes
        n_cells = int(np.count_nonzero(names != NO_CELL))
        parts = in_order(names, n_cells)
        # the sort has a copy of them
        del names
        rank = np.zeros(parent.size, label_dtype(n_cells))
        at = 0
        for roots, part in parts:
            _put(rank, roots, at + 1)
            at += part.size
            keep(part)
        return Numbered(parent, rank, n_cells, small, large)


def merge(
    names: Names,
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
    forest = Forest(Limits(min_volume, max_volume), names.size)
    forest.add(names, sizes)
    forest.unite(edges)
    kept = [np.empty(0, np.uint64)]
    found = forest.number(kept.append)
    return Merged(
        found.final(0, names.size),
        np.concatenate(kept),
        found.n_cells,
        found.n_too_small,
        found.n_too_large,
    )


def singletons(n: int) -> npt.NDArray[np.integer[Any]]:
    """Each of n fragments as its own root."""
    return np.arange(n, dtype=np.uint32 if n <= 2**32 else np.int64)


def unite(parent: npt.NDArray[np.integer[Any]], edges: Edges) -> None:
    """Unite pairs of dense ids, (m, 2), in place."""
    _unite(parent, edges)


def roots(parent: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.integer[Any]]:
    """The parents, each made its fragment's root, in place."""
    _flatten(parent)
    return parent


def in_order(names: Names, n_cells: int) -> Iterator[tuple[npt.NDArray[np.integer[Any]], Names]]:
    """Positions and names of the cells in ascending order of name, in parts.

    Parameters
    ----------
    names : ndarray, uint64, (n,)
        :data:`NO_CELL` where there is no cell.
    n_cells : int
        How many others there are.

    Notes
    -----
    Names are cast into buckets by their highest bits. Within one, the rest of a name and
    its position make one 64-bit word, so that a plain sort of words orders both.
    """
    low, high = _extent(names)
    bits = max(high - low, 0).bit_length() if n_cells else 0
    bucket_bits = max(bits - 32, min((n_cells // _BUCKET).bit_length(), bits, 14))
    if bucket_bits > _MOST_BUCKET_BITS or names.size > 2**32:
        return _in_order_plain(names)
    shift = np.uint64(bits - bucket_bits)
    starts, words = _cast(names, np.uint64(low), shift, 1 << bucket_bits, n_cells)
    return _in_order_of_buckets(starts, words, low, int(shift))


def _in_order_of_buckets(
    starts: npt.NDArray[np.int64], words: Names, low: int, shift: int
) -> Iterator[tuple[npt.NDArray[np.integer[Any]], Names]]:
    for bucket in range(starts.size - 1):
        part = words[starts[bucket] : starts[bucket + 1]]
        if part.size:
            part.sort()
            first = np.uint64(low + (bucket << shift))
            yield part.astype(np.uint32), (part >> np.uint64(32)) + first


def _in_order_plain(names: Names) -> Iterator[tuple[npt.NDArray[np.integer[Any]], Names]]:
    """For names that are farther apart than the voxels of any volume."""
    there = np.flatnonzero(names != NO_CELL)
    order = there[np.argsort(names[there], kind="stable")]
    yield order, names[order]


def _moved(array: npt.NDArray[Any], n: int, room: int) -> npt.NDArray[Any]:
    larger = np.empty(room, array.dtype)
    larger[:n] = array[:n]
    return larger


@numba.njit(cache=True, nogil=True)
def root(parent, a):  # type: ignore[no-untyped-def]
    """The root of a fragment; paths to it are halved on the way."""
    while parent[a] != a:
        parent[a] = parent[parent[a]]
        a = parent[a]
    return a


@numba.njit(cache=True, nogil=True)
def join(parent, a, b):  # type: ignore[no-untyped-def]
    """Unite the cells of two fragments: the smaller root becomes the parent."""
    a = root(parent, a)
    b = root(parent, b)
    if a < b:
        parent[b] = a
    else:
        parent[a] = b


@numba.njit(cache=True, nogil=True)
def _unite(parent, edges):  # type: ignore[no-untyped-def]
    for i in range(edges.shape[0]):
        join(parent, edges[i, 0], edges[i, 1])


@numba.njit(cache=True, nogil=True)
def _flatten(parent):  # type: ignore[no-untyped-def]
    # every parent is at most its child, so one sweep upwards flattens all trees
    for a in range(parent.size):
        parent[a] = parent[parent[a]]


@numba.njit(cache=True, nogil=True)
def _collapse(parent, names, sizes, cap):  # type: ignore[no-untyped-def]
    """Flatten; a root gets its cell's smallest name and size up to ``cap``, others none."""
    for a in range(parent.size):
        top = parent[parent[a]]
        parent[a] = top
        if top == a:
            continue
        names[top] = min(names[top], names[a])
        names[a] = NO_CELL
        if sizes.size:
            sizes[top] = min(np.int64(sizes[top]) + np.int64(sizes[a]), cap)


@numba.njit(cache=True, nogil=True)
def _drop(names, sizes, least, most):  # type: ignore[no-untyped-def]
    small = large = 0
    for a in range(sizes.size):
        if names[a] == NO_CELL:
            continue
        is_small = np.int64(sizes[a]) < least
        is_large = np.int64(sizes[a]) > most
        small += is_small
        large += is_large
        if is_small or is_large:
            names[a] = NO_CELL
    return small, large


@numba.njit(cache=True, nogil=True)
def _extent(names):  # type: ignore[no-untyped-def]
    low, high = NO_CELL, np.uint64(0)
    for a in range(names.size):
        if names[a] != NO_CELL:
            low = min(low, names[a])
            high = max(high, names[a])
    return low, high


@numba.njit(cache=True, nogil=True)
def _cast(names, low, shift, n_buckets, n_cells):  # type: ignore[no-untyped-def]
    starts = np.zeros(n_buckets + 1, np.int64)
    for a in range(names.size):
        if names[a] != NO_CELL:
            starts[np.int64((names[a] - low) >> shift) + 1] += 1
    starts = np.cumsum(starts)
    at = starts.copy()
    words = np.empty(n_cells, np.uint64)
    rest = (np.uint64(1) << shift) - np.uint64(1)
    for a in range(names.size):
        if names[a] != NO_CELL:
            key = names[a] - low
            bucket = np.int64(key >> shift)
            words[at[bucket]] = ((key & rest) << np.uint64(32)) | np.uint64(a)
            at[bucket] += 1
    return starts, words


@numba.njit(cache=True, nogil=True)
def _put(rank, roots, first):  # type: ignore[no-untyped-def]
    for i in range(roots.size):
        rank[roots[i]] = first + i
