"""The network's input: image values between two constants of the whole volume, as 0 to 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

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
