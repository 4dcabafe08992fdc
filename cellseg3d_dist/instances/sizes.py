"""Voxels of each label of a block."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt


def sizes_of(labels: npt.NDArray[Any], n: int) -> npt.NDArray[np.int64]:
    """How many voxels each of the labels 1..n has.

    Parameters
    ----------
    labels : ndarray, unsigned or signed integers
        0 (background) to n.
    """
    sizes: npt.NDArray[np.int64] = _count(np.ascontiguousarray(labels).reshape(-1), n)
    return sizes


@numba.njit(cache=True, nogil=True)
def _count(labels, n):  # type: ignore[no-untyped-def]
    sizes = np.zeros(n + 1, np.int64)
    at = 0
    while at < labels.size:
        # runs of one label are the rule: one addition for each
        label = labels[at]
        begin = at
        while at < labels.size and labels[at] == label:
            at += 1
        sizes[label] += at - begin
    return sizes[1:]
