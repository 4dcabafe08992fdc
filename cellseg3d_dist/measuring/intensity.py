"""Histograms of a whole volume's intensity: exact, mergeable, independent of the cut.

8 and 16-bit integers have one bin per value. Everything else is read as float32, whose
bits are made to sort like the numbers and split into two halves of 16 (a radix): the
upper halves are counted first, then, in a second pass over the volume, the lower halves
of the voxels in the few upper bins that the wanted percentiles fall in. No outlier can
collapse the bins, as it does with bins between minimum and maximum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

N_BINS = 1 << 16
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SparseCounts:
    """Bins that are not empty, ascending, with their counts."""

    bins: npt.NDArray[np.uint32]
    counts: Counts

    @classmethod
    def of(cls, dense: Counts) -> SparseCounts:
        """From a count for every bin."""
        bins = np.flatnonzero(dense)
        return cls(bins.astype(np.uint32), dense[bins])


def is_single_pass(dtype: npt.DTypeLike) -> bool:
    """Whether values of this type have a bin each."""
    kind = np.dtype(dtype)
    return kind.kind in "ui" and kind.itemsize <= 2


def count(image: npt.NDArray[Any], within: npt.NDArray[np.bool_] | None = None) -> SparseCounts:
    """Histogram by value (8 and 16-bit integers) or by the upper half of the bits."""
    values = image.ravel() if within is None else image[within]
    if is_single_pass(image.dtype):
        low = int(np.iinfo(image.dtype).min)
        return SparseCounts.of(_count16(values, low))
    return SparseCounts.of(_count16((_ordered(values) >> np.uint32(16)).astype(np.uint16), 0))


def count_lower(
    image: npt.NDArray[Any], upper: int, within: npt.NDArray[np.bool_] | None = None
) -> SparseCounts:
    """Histogram of the lower half of the bits of voxels whose upper half is ``upper``."""
    bits = _ordered(image.ravel() if within is None else image[within])
    lower = bits[(bits >> np.uint32(16)) == np.uint32(upper)] & np.uint32(0xFFFF)
    return SparseCounts.of(_count16(lower.astype(np.uint16), 0))


def rank_of(percentile: float, n: int) -> int:
    """Position (from 0) in sorted order of a percentile of n voxels, rounded down."""
    return min(int(percentile / 100 * (n - 1)), n - 1)


def bin_of_rank(dense: Counts, rank: int) -> tuple[int, int]:
    """The bin that holds the voxel of this rank, and that voxel's rank inside the bin."""
    cumulative = np.cumsum(dense)
    chosen = int(np.searchsorted(cumulative, rank, side="right"))
    return chosen, rank - int(cumulative[chosen] - dense[chosen])


def value_of_bin(bin_number: int, dtype: npt.DTypeLike) -> int:
    """The value that a bin stands for, for 8 and 16-bit integers."""
    return bin_number + int(np.iinfo(np.dtype(dtype)).min)


def value_of_bits(upper: int, lower: int) -> float:
    """The float32 of two halves of ordered bits."""
    bits = np.uint32((upper << 16) | lower)
    flipped = bits ^ np.uint32(0x80000000) if bits & np.uint32(0x80000000) else ~bits
    return float(np.array([flipped], np.uint32).view(np.float32)[0])


def _ordered(values: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Bits of float32 that sort as the numbers do."""
    bits = values.astype(np.float32).view(np.uint32)
    sign = bits >> np.uint32(31)
    flip = np.where(sign == 1, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    return bits ^ flip


@numba.njit(cache=True, nogil=True)
def _count16(values, low):  # type: ignore[no-untyped-def]
    counts = np.zeros(65536, np.int64)
    for i in range(values.size):
        counts[np.int64(values[i]) - low] += 1
    return counts
