"""Centroids of labels: sums of coordinates, block by block, exact in any order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from cellseg3d_dist.grid import Triple
from cellseg3d_dist.metrics.contingency import contingency


@dataclass(frozen=True, eq=False)
class CoordinateSums:
    """Voxels of labels and the sums of their coordinates, sorted by label.

    Attributes
    ----------
    labels : (n,) uint64
        Background left out.
    voxels : (n,) int64
    sums : (n, 3) int64
        Of (z, y, x), in voxels of the whole volume.
    """

    labels: npt.NDArray[np.uint64]
    voxels: npt.NDArray[np.int64]
    sums: npt.NDArray[np.int64]

    @classmethod
    def of(cls, labels: npt.NDArray[Any], start: Triple = (0, 0, 0)) -> CoordinateSums:
        """Of the labels of one block whose first voxel lies at ``start``."""
        volume = np.ascontiguousarray(labels, labels.dtype.newbyteorder("="))
        ids, voxels = contingency(volume, volume).sizes_true()
        sums = _sum(volume, ids) + voxels[:, None] * np.asarray(start, np.int64)
        return cls(ids, voxels, sums)

    @classmethod
    def merge(cls, parts: Iterable[CoordinateSums]) -> CoordinateSums:
        """Of the whole, from its blocks."""
        found = [part for part in parts if len(part.labels)]
        if not found:
            return cls(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty((0, 3), np.int64))
        labels, index = np.unique(np.concatenate([p.labels for p in found]), return_inverse=True)
        voxels, sums = np.zeros(len(labels), np.int64), np.zeros((len(labels), 3), np.int64)
        np.add.at(voxels, index, np.concatenate([p.voxels for p in found]))
        np.add.at(sums, index, np.concatenate([p.sums for p in found]))
        return cls(labels, voxels, sums)

    @property
    def centroids(self) -> npt.NDArray[np.float64]:
        """Mean coordinates (n, 3), in voxels."""
        return self.sums / np.maximum(self.voxels, 1)[:, None]


@njit(cache=True, nogil=True)
def _sum(labels: npt.NDArray[Any], ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Coordinates of each label summed, run by run of equal labels."""
    sums = np.zeros((len(ids), 3), np.int64)
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            x = 0
            while x < labels.shape[2]:
                label, end = labels[z, y, x], x + 1
                while end < labels.shape[2] and labels[z, y, end] == label:
                    end += 1
                if label != 0:
                    row, n = np.searchsorted(ids, np.uint64(label)), end - x
                    sums[row, 0] += z * n
                    sums[row, 1] += y * n
                    sums[row, 2] += (x + end - 1) * n // 2
                x = end
    return sums
