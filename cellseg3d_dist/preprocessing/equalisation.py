"""Contrast-limited adaptive histogram equalisation (CLAHE) on tiles fixed to the volume.

Each tile has a histogram, which is cut at a limit and summed to a curve from 0 to 1; a voxel
goes through the curves of the eight tiles whose centres surround it, weighted by nearness
(Zuiderveld, Graphics Gems IV, 1994). Two things differ from the usual form, so that 16-bit
and float images do not turn into 256 steps: between the edges of bins a curve is a straight
line, and what was cut is spread evenly in one go. Grey values above the range are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Region, Triple

#: Bins of a tile's histogram.
N_BINS = 256

Curves = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TileGrid:
    """Tiles of one shape from the volume's corner on; the last of an axis takes the rest.

    The rest is half a tile to one and a half, so that no histogram is of a few voxels.

    >>> TileGrid((64, 150, 10), (32, 64, 64)).counts
    (2, 2, 1)
    """

    shape: Triple
    tile: Triple

    @property
    def counts(self) -> Triple:
        """Tiles along each axis."""
        z, y, x = (max(1, (n + t // 2) // t) for n, t in zip(self.shape, self.tile, strict=True))
        return (z, y, x)

    def region(self, index: Triple) -> Region:
        """Voxels of the tile at this index."""
        axes = list(zip(index, self.counts, self.tile, self.shape, strict=True))
        start = tuple(i * t for i, _, t, _ in axes)
        stop = tuple(n if i == count - 1 else (i + 1) * t for i, count, t, n in axes)
        return Region((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))

    def starting_in(self, region: Region) -> Region:
        """Tiles whose first voxel lies in a region, as a box of indices."""
        start, stop = [], []
        for a, b, t, count in zip(region.start, region.stop, self.tile, self.counts, strict=True):
            first = min(count, -(-a // t))
            start.append(first)
            stop.append(max(first, min(count, -(-b // t))))
        return Region((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))

    def around(self, region: Region) -> Region:
        """Tiles whose curves decide a region, as a box of indices."""
        start, stop = [], []
        for axis in range(3):
            below, above, _ = self.weights(axis, region.start[axis], region.stop[axis])
            start.append(int(below[0]))
            stop.append(int(above[-1]) + 1)
        return Region((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))

    def weights(
        self, axis: int, start: int, stop: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Tile below and above each voxel along an axis, and how near it is to the one above."""
        tile, last = self.tile[axis], self.counts[axis] - 1
        place = (np.arange(start, stop) + 0.5) / tile - 0.5
        floor = np.floor(place)
        below = np.clip(floor, 0, last).astype(np.int64)
        above = np.clip(floor + 1, 0, last).astype(np.int64)
        return below, above, place - floor


def histogram(values: npt.NDArray[np.float32], low: float, high: float) -> npt.NDArray[np.int64]:
    """Counts in :data:`N_BINS` equal bins from ``low`` to ``high``; what is beyond is in the last.

    Parameters
    ----------
    values : ndarray, float32
        Of any shape, contiguous.
    """
    counts = np.zeros(N_BINS, np.int64)
    if high > low:
        _count(np.ascontiguousarray(values).reshape(-1), low, N_BINS / (high - low), counts)
    return counts


def curve(counts: npt.NDArray[np.int64], clip: float) -> Curves:
    """The curve of a tile at the edges of its bins, from 0 to 1.

    Parameters
    ----------
    counts : ndarray, int64, (N_BINS,)
        A tile's histogram; of no voxel, the curve is a straight line.
    clip : float
        Largest share of the tile's voxels in one bin; what is above is spread over all bins.
        1 cuts nothing; the nearer to 0, the less the image changes.

    Returns
    -------
    ndarray, float32, (N_BINS + 1,)
    """
    total = int(counts.sum())
    edges = np.linspace(0, 1, N_BINS + 1)
    if total:
        kept = np.minimum(counts, clip * total)
        kept += (total - kept.sum()) / N_BINS
        edges[1:] = np.cumsum(kept) / total
        edges[-1] = 1.0
    return edges.astype(np.float32)


def equalised(
    image: npt.NDArray[np.float32],
    region: Region,
    tiles: TileGrid,
    curves: Curves,
    first: Triple,
    low: float,
    high: float,
) -> npt.NDArray[np.float32]:
    """The image through its tiles' curves.

    Parameters
    ----------
    image : ndarray, float32
        On ``region`` of the volume.
    curves : ndarray, float32, (kz, ky, kx, N_BINS + 1)
        Of all tiles :meth:`TileGrid.around` the region, from tile ``first`` on.
    low, high : float
        The range of the histograms.
    """
    if not high > low or not image.size:
        return image.copy()
    index = [
        tiles.weights(axis, a, b)
        for axis, (a, b) in enumerate(zip(region.start, region.stop, strict=True))
    ]
    below = [axis[0] - f for axis, f in zip(index, first, strict=True)]
    above = [axis[1] - f for axis, f in zip(index, first, strict=True)]
    out = np.empty(image.shape, np.float32)
    _through(
        np.ascontiguousarray(image), out, curves, low, high,
        below[0], above[0], index[0][2], below[1], above[1], index[1][2],
        below[2], above[2], index[2][2],
    )  # fmt: skip
    return out


@numba.njit(cache=True, nogil=True)
def _count(values, low, per_bin, counts):  # type: ignore[no-untyped-def]
    for i in range(values.size):
        place = (np.float64(values[i]) - low) * per_bin
        counts[int(min(max(place, 0.0), counts.size - 1.0))] += 1


@numba.njit(cache=True, nogil=True)
def _through(  # type: ignore[no-untyped-def]
    image, out, curves, low, high, z0, z1, zw, y0, y1, yw, x0, x1, xw
):
    n_bins = curves.shape[3] - 1
    per_bin = n_bins / (high - low)
    for z in range(image.shape[0]):
        for y in range(image.shape[1]):
            near, right = curves[z0[z], y0[y]], curves[z0[z], y1[y]]
            down, far = curves[z1[z], y0[y]], curves[z1[z], y1[y]]
            wz, wy = zw[z], yw[y]
            for x in range(image.shape[2]):
                value = np.float64(image[z, y, x])
                if value >= high or value <= low:
                    out[z, y, x] = image[z, y, x]
                    continue
                place = (value - low) * per_bin
                b = min(int(place), n_bins - 1)
                f = place - b
                a, c, w = x0[x], x1[x], xw[x]
                top = (1 - wy) * _between(near, a, c, w, b, f) + wy * _between(right, a, c, w, b, f)
                bottom = (1 - wy) * _between(down, a, c, w, b, f) + wy * _between(
                    far, a, c, w, b, f
                )
                out[z, y, x] = low + (high - low) * ((1 - wz) * top + wz * bottom)


@numba.njit(cache=True, nogil=True)
def _between(row, a, c, w, b, f):  # type: ignore[no-untyped-def]
    """Two tiles' curves at one grey value, weighted."""
    left = row[a, b] + f * (np.float64(row[a, b + 1]) - row[a, b])
    right = row[c, b] + f * (np.float64(row[c, b + 1]) - row[c, b])
    return (1 - w) * left + w * right
