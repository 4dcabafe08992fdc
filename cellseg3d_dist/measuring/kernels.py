"""Compiled loops of the cell statistics: one pass over the voxels, run by run along x."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[Any]

Q_LIMIT = 2**31
"""Largest magnitude of a quantised float intensity: its square then fits 62 bits."""


@njit(cache=True, nogil=True)
def geometry(fragments: Array, sums: Array, box_min: Array, box_max: Array) -> bool:
    """Add voxel counts, coordinate sums and second moments of each fragment.

    Parameters
    ----------
    fragments : (z, y, x) uint32
        Fragments 1..n, 0 is background.
    sums : (n, 10) int64, changed in place
        Voxels, z, y, x, zz, yy, xx, zy, zx, yx; block coordinates.
    box_min, box_max : (n, 3) int32, changed in place
        Bounding box, max excluded.

    Returns
    -------
    bool
        False when a fragment above n was met.
    """
    n = sums.shape[0]
    depth, height, width = fragments.shape
    for z in range(depth):
        for y in range(height):
            row = fragments[z, y]
            x = 0
            while x < width:
                fragment = row[x]
                if fragment == 0:
                    x += 1
                    continue
                first = x
                while x < width and row[x] == fragment:
                    x += 1
                i = np.int64(fragment) - 1
                if i >= n:
                    return False
                count = x - first
                sum_x = count * (first + x - 1) // 2
                # sum of k^2 for k < m is (m - 1) m (2m - 1) / 6
                sum_xx = (x - 1) * x * (2 * x - 1) // 6
                sum_xx -= (first - 1) * first * (2 * first - 1) // 6
                s = sums[i]
                s[0] += count
                s[1] += count * z
                s[2] += count * y
                s[3] += sum_x
                s[4] += count * z * z
                s[5] += count * y * y
                s[6] += sum_xx
                s[7] += count * z * y
                s[8] += sum_x * z
                s[9] += sum_x * y
                low = box_min[i]
                high = box_max[i]
                low[0] = min(low[0], z)
                low[1] = min(low[1], y)
                low[2] = min(low[2], first)
                high[0] = max(high[0], z + 1)
                high[1] = max(high[1], y + 1)
                high[2] = max(high[2], x)
    return True


@njit(cache=True, nogil=True)
def integer_intensity(
    fragments: Array, image: Array, q_sum: Array, high: Array, low: Array, least: Array, most: Array
) -> None:
    """Add sum, 128-bit sum of squares, min and max of an integer image up to 32 bit.

    Parameters
    ----------
    fragments : (z, y, x) uint32
        Fragments 1..n, 0 is background; checked by :func:`geometry`.
    image : (z, y, x) integer of at most 32 bit
    q_sum : (n,) int64; high, low : (n,) uint64; least, most : (n,) float64
        Changed in place.
    """
    depth, height, width = fragments.shape
    for z in range(depth):
        for y in range(height):
            row = fragments[z, y]
            values = image[z, y]
            x = 0
            while x < width:
                fragment = row[x]
                if fragment == 0:
                    x += 1
                    continue
                total = np.int64(0)
                carry = np.uint64(0)
                square = np.uint64(0)
                smallest = np.int64(values[x])
                largest = smallest
                while x < width and row[x] == fragment:
                    q = np.int64(values[x])
                    total += q
                    size = np.uint64(abs(q))
                    term = size * size
                    square += term
                    if square < term:
                        carry += np.uint64(1)
                    smallest = min(smallest, q)
                    largest = max(largest, q)
                    x += 1
                i = np.int64(fragment) - 1
                q_sum[i] += total
                low[i] += square
                if low[i] < square:
                    carry += np.uint64(1)
                high[i] += carry
                least[i] = min(least[i], np.float64(smallest))
                most[i] = max(most[i], np.float64(largest))


@njit(cache=True, nogil=True)
def float_intensity(
    fragments: Array,
    image: Array,
    scale: float,
    q_sum: Array,
    high: Array,
    low: Array,
    least: Array,
    most: Array,
) -> bool:
    """As :func:`integer_intensity` for floats, on ``q = rint(value * scale)``.

    A value that is not finite adds nothing to the sums and makes the fragment's min and
    max NaN, which :mod:`~cellseg3d_dist.measuring.table` carries on to mean and sum.

    Returns
    -------
    bool
        False when a quantised value is over :data:`Q_LIMIT`.
    """
    depth, height, width = fragments.shape
    for z in range(depth):
        for y in range(height):
            row = fragments[z, y]
            values = image[z, y]
            for x in range(width):
                if row[x] == 0:
                    continue
                i = np.int64(row[x]) - 1
                value = np.float64(values[x]) + 0.0  # -0.0 becomes 0.0: bits do not tell order
                if value - value != 0.0:
                    least[i] = np.nan
                    most[i] = np.nan
                    continue
                scaled = np.rint(value * scale)
                if abs(scaled) > Q_LIMIT:
                    return False
                q = np.int64(scaled)
                q_sum[i] += q
                term = np.uint64(q * q)
                low[i] += term
                if low[i] < term:
                    high[i] += np.uint64(1)
                # a NaN stays, as every comparison with it is false
                if value < least[i]:
                    least[i] = value
                if value > most[i]:
                    most[i] = value
    return True


@njit(cache=True, nogil=True)
def _multiply(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """128-bit product of two uint64 as (high, low), from four 32-bit products."""
    mask = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    a_low, a_high = a & mask, a >> shift
    b_low, b_high = b & mask, b >> shift
    low = a_low * b_low
    middle = a_high * b_low + (low >> shift)
    other = a_low * b_high + (middle & mask)
    high = a_high * b_high + (middle >> shift) + (other >> shift)
    return high, (other << shift) | (low & mask)


@njit(cache=True, nogil=True)
def standard_deviation(voxels: Array, q_sum: Array, high: Array, low: Array) -> Array:
    """Population standard deviation of q per row, without cancellation.

    With c the rounded mean and r = sum(q) - n c, sum((q - c)^2) = sum(q^2) - c (sum(q) + r)
    is computed exactly in 128 bits before anything is rounded to float64.

    Parameters
    ----------
    voxels, q_sum : (n,) int64
    high, low : (n,) uint64
        128-bit sums of squares.

    Returns
    -------
    (n,) float64
    """
    out = np.empty(voxels.size, dtype=np.float64)
    for i in range(voxels.size):
        n = voxels[i]
        c = np.int64(np.rint(q_sum[i] / n))
        r = q_sum[i] - n * c
        off_high, off_low = _multiply(np.uint64(abs(c)), np.uint64(abs(q_sum[i] + r)))
        centred_low = low[i] - off_low
        centred_high = high[i] - off_high
        if low[i] < off_low:
            centred_high -= np.uint64(1)
        centred = np.float64(centred_high) * 2.0**64 + np.float64(centred_low)
        out[i] = np.sqrt(max(0.0, centred / n - (r / n) ** 2))
    return out
