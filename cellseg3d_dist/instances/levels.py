"""Landscapes as whole numbers in the order in which they flood."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def levels_of(landscape: npt.NDArray[Any], *, downhill: bool = False) -> npt.NDArray[np.int32]:
    """Landscape values as whole numbers in the same order.

    Parameters
    ----------
    landscape : ndarray, (z, y, x)
        Integers of up to 32 bits; anything else is taken as float32, of which the bits are
        put in order. Without NaN.
    downhill : bool
        Flood high values first, as of an intensity, a probability or a depth.

    Returns
    -------
    ndarray, int32
        Low levels flood first.

    Examples
    --------
    >>> levels_of(np.array([3, 250], np.uint8), downhill=True)
    array([  -4, -251], dtype=int32)
    >>> np.argsort(levels_of(np.array([0.5, -np.inf, -2.0, 0.0, 1e-30], np.float32)))
    array([1, 2, 3, 4, 0])
    """
    kind, size = landscape.dtype.kind, landscape.dtype.itemsize
    if kind == "b" or (kind in "ui" and size <= 2) or (kind == "i" and size == 4):
        levels = landscape.astype(np.int32)
    elif kind == "u" and size == 4:
        levels = (landscape ^ np.uint32(2**31)).view(np.int32)
    else:
        # + 0 makes -0 and 0 one level
        bits = (landscape.astype(np.float32) + np.float32(0)).view(np.int32)
        # of negative values all bits but the sign count backwards
        levels = np.where(bits < 0, bits ^ np.int32(2**31 - 1), bits)
    return ~levels if downhill else levels
