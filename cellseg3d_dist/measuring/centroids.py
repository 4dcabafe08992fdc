"""Centroids of labels: sums of coordinates, block by block, exact in any order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from cellseg3d_dist.grid import Triple


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
        where = np.flatnonzero(labels)
        ids, index = np.unique(labels.ravel()[where], return_inverse=True)
        sums = _sum(index, where, labels.shape[1], labels.shape[2], len(ids))
        voxels = sums[:, 3].copy()
        moved = sums[:, :3] + voxels[:, None] * np.asarray(start, np.int64)
        return cls(ids.astype(np.uint64), voxels, moved)

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
def _sum(
    index: npt.NDArray[np.int64], where: npt.NDArray[np.int64], ny: int, nx: int, n: int
) -> npt.NDArray[np.int64]:
    sums = np.zeros((n, 4), np.int64)
    for i in range(len(where)):
        row, at = index[i], where[i]
        sums[row, 0] += at // (ny * nx)
        sums[row, 1] += at // nx % ny
        sums[row, 2] += at % nx
        sums[row, 3] += 1
    return sums
