"""Merging of touching labels by the mean intensity of their common border.

The border of two cells are their pairs of voxels that share a face. A pair counts with the
mean of its two intensities, (I_a + I_b) / 2, and two cells are one if the mean over their
border is in a range: what is bright between two cells is no gap but one cell's inside.
Sums are of integers, so they can be added up in any order and any cut.

Contacts are a sparse graph: one row (a, b), a < b, with a sum and a count for each pair of
cells that touch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.instances.clean_up.pooling import united_one_by_one
from cellseg3d_dist.instances.components import find, union


@dataclass(frozen=True, eq=False)
class Borders:
    """Borders of pairs of cells.

    Attributes
    ----------
    pairs : ndarray, int64, (n, 2)
        Ids of two cells, the smaller first; each pair once, ascending.
    sums : ndarray, int64, (n,)
        Sums of I_a + I_b over the pairs of voxels, in units of 1 / scale.
    counts : ndarray, int64, (n,)
        Pairs of voxels.
    """

    pairs: npt.NDArray[np.int64]
    sums: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    @classmethod
    def none(cls) -> Borders:
        """No border."""
        return cls(np.empty((0, 2), np.int64), np.empty(0, np.int64), np.empty(0, np.int64))

    @classmethod
    def added(cls, parts: list[Borders]) -> Borders:
        """Borders of several places, added up."""
        if not parts:
            return cls.none()
        pairs = np.concatenate([part.pairs for part in parts])
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        pairs = pairs[order]
        first = np.ones(len(pairs), bool)
        first[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
        at = np.flatnonzero(first)
        if not at.size:
            return cls.none()
        sums = np.concatenate([part.sums for part in parts])[order]
        counts = np.concatenate([part.counts for part in parts])[order]
        return cls(pairs[at], np.add.reduceat(sums, at), np.add.reduceat(counts, at))

    def means(self, scale: float) -> npt.NDArray[np.float64]:
        """Mean of (I_a + I_b) / 2 of each border, in units of the image."""
        return self.sums / (2 * scale * self.counts)


def quantising_scale(dtype: npt.DTypeLike, largest: float) -> float:
    """The power of two that makes intensities integers: 1 for integers of up to 32 bits.

    Parameters
    ----------
    largest : float
        Largest magnitude in the whole volume, the same for every block.

    >>> quantising_scale("uint16", 4095), quantising_scale("float32", 1.0)
    (1.0, 536870912.0)
    """
    kind = np.dtype(dtype)
    if (kind.kind in "bui" and kind.itemsize <= 4) or not np.isfinite(largest) or largest <= 0:
        return 1.0
    return float(2.0 ** min(30 - frexp(largest)[1], 1000))


def borders(
    labels: npt.NDArray[np.int32],
    ids: npt.NDArray[np.int64],
    image: npt.NDArray[np.generic],
    scale: float,
    counted: tuple[int, int, int] | None = None,
) -> Borders:
    """Borders in an array.

    Parameters
    ----------
    labels : ndarray, int32, (z, y, x)
        0 is background, i the cell ``ids[i - 1]``.
    ids : ndarray, int64
        Ascending.
    image : ndarray, shape of ``labels``
    scale : float
        See :func:`quantising_scale`.
    counted : (int, int, int), optional
        Pairs count whose first voxel is in this box from the origin, so that each pair of a
        volume counts in one block.
    """
    if scale == 1.0 and image.dtype.kind in "bui":
        quanta = image.astype(np.int64)
    else:
        quanta = np.rint(image.astype(np.float64) * scale).astype(np.int64)
    keys, sums = _pairs(labels, quanta, *(counted or labels.shape))
    order = np.argsort(keys, kind="stable")
    keys, sums = keys[order], sums[order]
    at = np.flatnonzero(np.concatenate((keys[:1] == keys[:1], keys[1:] != keys[:-1])))
    if not at.size:
        return Borders.none()
    counts = np.diff(np.append(at, keys.size))
    low, high = keys[at] >> np.uint64(32), keys[at] & np.uint64(0xFFFFFFFF)
    local = np.stack((low, high), 1).astype(np.int64)
    return Borders(ids[local - 1], np.add.reduceat(sums, at), counts)


@numba.njit(cache=True, nogil=True)
def _pairs(labels, quanta, mz, my, mx):  # type: ignore[no-untyped-def]
    """Key (smaller label, larger label) and I_a + I_b of every pair of touching voxels."""
    nz, ny, nx = labels.shape
    keys = np.empty(1024, np.uint64)
    sums = np.empty(1024, np.int64)
    n = 0
    for z in range(mz):
        for y in range(my):
            for x in range(mx):
                own = labels[z, y, x]
                if own == 0:
                    continue
                for dz, dy, dx in ((0, 0, 1), (0, 1, 0), (1, 0, 0)):
                    zz, yy, xx = z + dz, y + dy, x + dx
                    if zz == nz or yy == ny or xx == nx:
                        continue
                    other = labels[zz, yy, xx]
                    if other == 0 or other == own:
                        continue
                    if n == keys.size:
                        keys = np.concatenate((keys, np.empty_like(keys)))
                        sums = np.concatenate((sums, np.empty_like(sums)))
                    low, high = np.uint64(min(own, other)), np.uint64(max(own, other))
                    keys[n] = (low << np.uint64(32)) | high
                    sums[n] = quanta[z, y, x] + quanta[zz, yy, xx]
                    n += 1
    return keys[:n].copy(), sums[:n].copy()


def united_cells(
    n: int, found: Borders, scale: float, low: float, high: float, *, brightest_first: bool
) -> npt.NDArray[np.int64]:
    """The smallest id of the united cell that each of the cells 1..n becomes part of.

    Parameters
    ----------
    low, high : float
        The range of mean intensities, both ends included, in units of the image.
    brightest_first : bool
        Unite one pair at a time: that of the largest mean in the range (in a tie, of the
        smallest ids, by the first of the pair, then the second); borders of the united
        cell with others are added up; until no border is in the range. Else all pairs in
        the range are united at once.
    """
    if brightest_first:
        # means of sum / count are 2 scale times those of the image
        limits = (low * 2 * scale, high * 2 * scale)
        return united_one_by_one(n, found.pairs, found.sums, found.counts, limits)
    means = found.means(scale)
    wanted = (means >= low) & (means <= high)
    smallest: npt.NDArray[np.int64] = _smallest(n, found.pairs[wanted])
    return smallest


@numba.njit(cache=True, nogil=True)
def _smallest(n, pairs):  # type: ignore[no-untyped-def]
    parent = np.arange(n + 1)
    for i in range(pairs.shape[0]):
        union(parent, pairs[i, 0], pairs[i, 1])
    for a in range(n + 1):
        parent[a] = find(parent, a)
    return parent[1:]
