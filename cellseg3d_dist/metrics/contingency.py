"""How many voxels carry each pair of labels: all that a score needs to know of two images.

A table is data, so that a volume of any size is scored block by block: one table per block,
merged in any order and grouping, then the formulas of :mod:`cellseg3d_dist.metrics.scores`
on the one that is left. A block's table has as many rows as pairs of labels that meet in it::

    labels_true  0 0 3 3 3          true  pred  voxels
    labels_pred  0 7 7 7 0    ->       0     0       1
                                       0     7       1
                                       3     0       1
                                       3     7       2
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellseg3d_dist.errors import BadInputError

_MIX_TRUE = np.uint64(0x9E3779B97F4A7C15)
_MIX_PRED = np.uint64(0xC2B2AE3D27D4EB4F)
_SHIFT = np.uint64(29)
_FEW_GAPS = 16
"""Largest id over number of rows up to which ids are ranked through a table of all ids."""
_MERGED_TOGETHER = 4_000_000
"""Rows that wait before tables are merged, 96 MB; above it, as many as are merged already."""


@dataclass(frozen=True, eq=False)
class ContingencyTable:
    """Voxels of each pair of labels that occurs, sorted by true, then predicted label.

    Background is label 0 and has its rows like any other.

    Attributes
    ----------
    labels_true, labels_pred : (n,) uint64
    voxels : (n,) int64
        At least 1.
    """

    labels_true: NDArray[np.uint64]
    labels_pred: NDArray[np.uint64]
    voxels: NDArray[np.int64]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ContingencyTable):
            return NotImplemented
        return (
            np.array_equal(self.labels_true, other.labels_true)
            and np.array_equal(self.labels_pred, other.labels_pred)
            and np.array_equal(self.voxels, other.voxels)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def n_voxels(self) -> int:
        """Voxels counted, background included."""
        return int(self.voxels.sum())

    def sizes_true(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Sorted true labels without background, and their volumes in voxels."""
        return _sizes(self.labels_true, self.voxels)

    def sizes_pred(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Sorted predicted labels without background, and their volumes in voxels."""
        return _sizes(self.labels_pred, self.voxels)

    @classmethod
    def merge(cls, tables: Iterable[ContingencyTable]) -> ContingencyTable:
        """Sum of tables, in any order and grouping; the empty table for none."""
        total = cls(np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.int64))
        waiting: list[ContingencyTable] = []
        n_waiting = 0
        for table in tables:
            waiting.append(table)
            n_waiting += len(table.voxels)
            if n_waiting > max(len(total.voxels), _MERGED_TOGETHER):
                total, waiting, n_waiting = _concatenated([total, *waiting]), [], 0
        return _concatenated([total, *waiting]) if waiting else total

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The columns by name, to be stored."""
        return {
            "labels_true": self.labels_true,
            "labels_pred": self.labels_pred,
            "voxels": self.voxels,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ContingencyTable:
        """The inverse of :meth:`to_arrays`.

        Raises
        ------
        BadInputError
            If a column is missing, the lengths differ or the rows are not sorted and unique.
        """
        names = ("labels_true", "labels_pred", "voxels")
        missing = [name for name in names if name not in arrays]
        if missing:
            raise BadInputError(f"Contingency table lacks the columns {', '.join(missing)}.")
        true = np.asarray(arrays["labels_true"]).astype(np.uint64, copy=False)
        pred = np.asarray(arrays["labels_pred"]).astype(np.uint64, copy=False)
        voxels = np.asarray(arrays["voxels"]).astype(np.int64, copy=False)
        if true.ndim != 1 or not true.shape == pred.shape == voxels.shape:
            raise BadInputError(
                f"Contingency table columns have shapes {true.shape}, {pred.shape} and "
                f"{voxels.shape}; they must be three of the same length."
            )
        ahead = (true[1:] > true[:-1]) | ((true[1:] == true[:-1]) & (pred[1:] > pred[:-1]))
        if not (ahead.all() and (voxels > 0).all()):
            raise BadInputError(
                "Contingency table rows must be sorted, without repeats, with at least 1 voxel."
            )
        return cls(true, pred, voxels)


def contingency(labels_true: NDArray[Any], labels_pred: NDArray[Any]) -> ContingencyTable:
    """Count the voxels of each pair of labels.

    Parameters
    ----------
    labels_true, labels_pred : integer or bool arrays of one shape
        Any number of axes; 0 is background, gaps and ids up to 2**64 - 1 are fine.

    Raises
    ------
    BadInputError
        If the shapes differ, a dtype is not integer or a label is negative.

    Examples
    --------
    >>> table = contingency(np.array([0, 0, 3, 3, 3]), np.array([0, 7, 7, 7, 0]))
    >>> table.labels_true, table.labels_pred, table.voxels
    (array([0, 0, 3, 3], dtype=uint64), array([0, 7, 0, 7], dtype=uint64), array([1, 1, 1, 2]))
    """
    true, pred = np.asarray(labels_true), np.asarray(labels_pred)
    if true.shape != pred.shape:
        raise BadInputError(
            f"labels_true has shape {true.shape} and labels_pred {pred.shape}; "
            "labels can only be compared on the same voxels."
        )
    pairs = _count_pairs(_plain("labels_true", true), _plain("labels_pred", pred))
    return _summed(*pairs)


def _plain(name: str, labels: NDArray[Any]) -> NDArray[Any]:
    """Flat, contiguous, native labels of a type that compiled code knows."""
    if labels.dtype == bool:
        labels = labels.view(np.uint8)
    if labels.dtype.kind not in "iu":
        raise BadInputError(f"{name} has dtype {labels.dtype}; labels must be integers.")
    if labels.dtype.kind == "i":
        least = int(labels.min()) if labels.size else 0
        if least < 0:
            raise BadInputError(f"{name} has the label {least}; labels must not be negative.")
        labels = labels.astype(labels.dtype.newbyteorder("="), copy=False)
        labels = labels.view(f"u{labels.dtype.itemsize}")
    flat = np.ascontiguousarray(labels, labels.dtype.newbyteorder("=")).ravel()
    # one compiled kernel for the two smallest types: they are rare and cheap to widen
    return flat.astype(np.uint16) if flat.dtype == np.uint8 else flat


def ranked(labels: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Sorted distinct labels, and the rank of each label among them.

    In linear time where the labels have few gaps.
    """
    largest = int(labels.max()) if len(labels) else 0
    if largest > _FEW_GAPS * len(labels):
        ids, index = np.unique(labels, return_inverse=True)
        return ids, index
    seen = np.zeros(largest + 1, bool)
    seen[labels] = True
    rank = np.cumsum(seen) - 1
    return np.flatnonzero(seen).astype(np.uint64), rank[labels]


def _concatenated(tables: list[ContingencyTable]) -> ContingencyTable:
    return _summed(
        np.concatenate([t.labels_true for t in tables]),
        np.concatenate([t.labels_pred for t in tables]),
        np.concatenate([t.voxels for t in tables]),
    )


def _sizes(
    labels: NDArray[np.uint64], voxels: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    inside = labels > 0
    ids, index = ranked(labels[inside])
    return ids, summed(index, voxels[inside], len(ids))


@njit(cache=True, nogil=True)
def summed(index: NDArray[np.int64], voxels: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Voxels of each of ``n`` indices."""
    sums = np.zeros(n, np.int64)
    for i in range(len(index)):
        sums[index[i]] += voxels[i]
    return sums


def _summed(
    true: NDArray[np.uint64], pred: NDArray[np.uint64], voxels: NDArray[np.int64]
) -> ContingencyTable:
    """Sort the rows and add up those of the same pair."""
    order = _order(true, pred)
    true, pred, voxels = true[order], pred[order], voxels[order]
    first = np.ones(len(true), bool)
    first[1:] = (true[1:] != true[:-1]) | (pred[1:] != pred[:-1])
    if not first.all():
        starts = np.flatnonzero(first)
        true, pred, voxels = true[starts], pred[starts], np.add.reduceat(voxels, starts)
    return ContingencyTable(true, pred, voxels)


def _order(true: NDArray[np.uint64], pred: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Positions sorted by true, then predicted label; one key of both where they fit in it."""
    if not len(true):
        return np.empty(0, np.int64)
    bits = int(pred.max()).bit_length()
    if int(true.max()).bit_length() + bits > 64:
        return np.lexsort((pred, true))
    # tables come sorted, and those of blocks far apart share no label: runs to be merged
    return np.argsort((true << np.uint64(bits)) | pred, kind="stable")


@njit(cache=True, nogil=True)
def _slot(
    true: np.uint64,
    pred: np.uint64,
    slot_true: NDArray[np.uint64],
    slot_pred: NDArray[np.uint64],
    slot_voxels: NDArray[np.int64],
) -> np.int64:
    """Where the pair is, or the empty place for it; the table's length is a power of two."""
    mask = np.uint64(len(slot_true) - 1)
    mixed = (true ^ (pred * _MIX_PRED)) * _MIX_TRUE
    place = (mixed ^ (mixed >> _SHIFT)) & mask
    while slot_voxels[place] and (slot_true[place] != true or slot_pred[place] != pred):
        place = (place + np.uint64(1)) & mask
    return np.int64(place)


@njit(cache=True, nogil=True)
def _count_pairs(
    true: NDArray[Any], pred: NDArray[Any]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
    """Pairs and their counts, unsorted: runs of equal pairs are added to an open hash table."""
    slot_true, slot_pred = np.empty(1024, np.uint64), np.empty(1024, np.uint64)
    slot_voxels = np.zeros(1024, np.int64)
    used, at = 0, 0
    while at < len(true):
        end = at + 1
        while end < len(true) and true[end] == true[at] and pred[end] == pred[at]:
            end += 1
        t, p = np.uint64(true[at]), np.uint64(pred[at])
        place = _slot(t, p, slot_true, slot_pred, slot_voxels)
        used += slot_voxels[place] == 0
        slot_true[place], slot_pred[place] = t, p
        slot_voxels[place] += end - at
        at = end
        if 2 * used > len(slot_true):
            slot_true, slot_pred, slot_voxels = _grown(slot_true, slot_pred, slot_voxels)
    filled = np.flatnonzero(slot_voxels)
    return slot_true[filled], slot_pred[filled], slot_voxels[filled]


@njit(cache=True, nogil=True)
def _grown(
    slot_true: NDArray[np.uint64], slot_pred: NDArray[np.uint64], slot_voxels: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
    """The same hash table with four times the places."""
    size = 4 * len(slot_true)
    new_true, new_pred = np.empty(size, np.uint64), np.empty(size, np.uint64)
    new_voxels = np.zeros(size, np.int64)
    for n in range(len(slot_true)):
        if slot_voxels[n]:
            place = _slot(slot_true[n], slot_pred[n], new_true, new_pred, new_voxels)
            new_true[place], new_pred[place] = slot_true[n], slot_pred[n]
            new_voxels[place] = slot_voxels[n]
    return new_true, new_pred, new_voxels
