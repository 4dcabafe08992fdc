"""Otsu's global threshold from a histogram of 256 bins, in clEsperanto's arithmetic."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

N_BINS = 256


def count_bins(
    smoothed: npt.NDArray[np.float32],
    low: float,
    high: float,
    within: npt.NDArray[Any] | None = None,
) -> npt.NDArray[np.int64]:
    """Histogram between the whole volume's extremes.

    Bin int((v - low) * 255 / (high - low) + 0.5), left to right in float32 and the last
    sum in float64.

    Parameters
    ----------
    smoothed : ndarray, float32
    low, high : float
        Minimum and maximum over the whole volume, as float32; ``high`` above ``low``.
    within : ndarray or None
        Non-zero where voxels count.

    Returns
    -------
    ndarray, int64, (256,)
    """
    values = smoothed.ravel() if within is None else smoothed[within != 0]
    counts: npt.NDArray[np.int64] = _count(values, np.float32(low), np.float32(high))
    return counts


@numba.njit(cache=True, nogil=True)
def _count(values, low, high):  # type: ignore[no-untyped-def]
    counts = np.zeros(256, np.int64)
    span = high - low
    for i in range(values.size):
        scaled = (values[i] - low) * np.float32(255) / span
        counts[np.int64(np.float64(scaled) + 0.5)] += 1
    return counts


def otsu(counts: npt.NDArray[np.int64], low: float, high: float) -> float:
    """The threshold that parts the histogram into two classes (Otsu 1979).

    Parameters
    ----------
    counts : ndarray, int64, (256,)
        From :func:`count_bins`.
    low, high : float
        The extremes it was counted between.

    Returns
    -------
    float
        A bin's centre, rounded to float32: foreground is above it. ``high``, with no
        foreground, where the volume is constant.
    """
    if not high > low:
        return float(high)
    centres = np.arange(N_BINS) * float(np.float32(high) - np.float32(low)) / 255 + float(low)
    # scikit-image casts counts to float32, too coarse for the voxels of a whole brain
    n = counts.astype(np.float64)
    below, above = np.cumsum(n), np.cumsum(n[::-1])[::-1]
    mean_below = np.cumsum(n * centres) / np.maximum(below, 1)
    mean_above = np.cumsum((n * centres)[::-1])[::-1] / np.maximum(above, 1)
    between = below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return float(np.float32(centres[int(np.argmax(between))]))
