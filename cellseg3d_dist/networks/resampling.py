"""Linear resampling between voxel sizes, exact under the cut.

The value of an output voxel is a sum over taps that its global index alone decides, so it
does not matter which part of the volume is in memory. Centres are aligned: output voxel i
lies at ``(i + 0.5) * scale - 0.5`` of the input. Where the output is coarser the linear
kernel is stretched to its voxels, so that nothing is skipped; voxels beyond the volume
take the value of its face.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Region, Triple

Size = tuple[float, float, float]

#: A voxel size this close to the wanted one, as a ratio, is taken as it is.
TOLERANCE = 1.15


@dataclass(frozen=True)
class Axis:
    """One axis of a resampling: n_in voxels of ``scale`` = output / input voxel size."""

    n_in: int
    n_out: int
    scale: float

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Input voxels that output voxels ``[start, stop)`` are made of."""
        if self.scale == 1.0:
            return start, stop
        index, _ = self.taps(start, stop)
        return int(index.min()), int(index.max()) + 1

    def taps(self, start: int, stop: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Global input voxels and weights, (stop - start, n_taps) each."""
        centre = (np.arange(start, stop) + 0.5) * self.scale - 0.5
        reach = max(1.0, self.scale)
        first = np.floor(centre - reach).astype(np.int64) + 1
        index = first[:, None] + np.arange(math.ceil(2 * reach))
        weight = np.maximum(0.0, 1 - np.abs(index - centre[:, None]) / reach)
        weight /= weight.sum(1, keepdims=True)
        return np.clip(index, 0, self.n_in - 1), weight.astype(np.float32)


@dataclass(frozen=True)
class Resampling:
    """From one voxel grid of a volume to another, and back by :meth:`inverse`."""

    axes: tuple[Axis, Axis, Axis]

    @classmethod
    def between(cls, shape: Triple, voxel_size: Size, wanted: Size) -> Resampling:
        """To ``wanted`` micrometres; an axis within :data:`TOLERANCE` of it stays as it is."""
        made = []
        for n, size, target in zip(shape, voxel_size, wanted, strict=True):
            ratio = target / size
            if 1 / TOLERANCE <= ratio <= TOLERANCE:
                made.append(Axis(n, n, 1.0))
            else:
                made.append(Axis(n, max(1, round(n / ratio)), ratio))
        z, y, x = made
        return cls((z, y, x))

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return all(axis.scale == 1.0 for axis in self.axes)

    @property
    def shape(self) -> Triple:
        """Of the output volume."""
        z, y, x = (axis.n_out for axis in self.axes)
        return (z, y, x)

    def inverse(self) -> Resampling:
        """The way back."""
        z, y, x = (Axis(a.n_out, a.n_in, 1 / a.scale) for a in self.axes)
        return Resampling((z, y, x))

    def source(self, region: Region) -> Region:
        """The input voxels that ``region`` of the output is made of."""
        pairs = zip(self.axes, region.start, region.stop, strict=True)
        spans = [axis.span(a, b) for axis, a, b in pairs]
        (z0, z1), (y0, y1), (x0, x1) = spans
        return Region((z0, y0, x0), (z1, y1, x1))

    def apply(
        self, source: npt.NDArray[np.float32], held: Region, region: Region
    ) -> npt.NDArray[np.float32]:
        """Output voxels of ``region`` from input voxels of ``held``, which has their source.

        Parameters
        ----------
        source : ndarray, float32, shape of ``held``, or with more axes before
        """
        result = source
        for number, axis in enumerate(self.axes):
            a, b = region.start[number], region.stop[number]
            low, high = axis.span(a, b)
            dim = source.ndim - 3 + number
            if axis.scale == 1.0:
                cut = slice(low - held.start[number], high - held.start[number])
                result = result[(slice(None),) * dim + (cut,)]
                continue
            index, weight = axis.taps(a, b)
            flat = np.ascontiguousarray(np.moveaxis(result, dim, 0))
            rows = flat.reshape(flat.shape[0], -1)
            summed = _weighted(rows, index - held.start[number], weight)
            result = np.moveaxis(summed.reshape(b - a, *flat.shape[1:]), 0, dim)
        return np.ascontiguousarray(result)


@numba.njit(cache=True, nogil=True)
def _weighted(rows, index, weight):  # type: ignore[no-untyped-def]
    out = np.zeros((index.shape[0], rows.shape[1]), np.float32)
    for i in range(index.shape[0]):
        for k in range(index.shape[1]):
            w = weight[i, k]
            if w != 0.0:
                row = rows[index[i, k]]
                for j in range(row.size):
                    out[i, j] += w * row[j]
    return out
