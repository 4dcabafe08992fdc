"""The network's input: image values between two constants of the whole volume, as 0 to 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.measuring import intensity

#: Largest value a network is given: very bright voxels say no more than bright ones.
CEILING = 1.5


def normalise(image: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.float32]:
    """``(image - low) / (high - low)``, clipped to [0, CEILING]; 0 where high <= low.

    Parameters
    ----------
    image : ndarray
        Any integer or float type.
    low, high : float
        Percentiles of the whole volume, so that neither camera offset nor gain matter.
    """
    if not high > low:
        return np.zeros(image.shape, np.float32)
    scaled = (image.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(scaled, 0, CEILING, out=scaled)


def percentiles(image: npt.NDArray[Any], low: float, high: float) -> tuple[float, float]:
    """Two percentiles of a whole image: the values of its voxels at their ranks.

    Defined as in the survey of a run, see :mod:`~cellseg3d_dist.measuring.intensity`: types
    other than 8 and 16-bit integers are taken as float32.

    Examples
    --------
    >>> percentiles(np.arange(101, dtype=np.uint8), 1, 99.8)
    (1.0, 99.0)
    """
    exact = intensity.is_single_pass(image.dtype)
    values = image.ravel() if exact else image.ravel().astype(np.float32)
    first, last = (intensity.rank_of(percentile, values.size) for percentile in (low, high))
    placed = np.partition(values, (first, last))
    return float(placed[first]), float(placed[last])
