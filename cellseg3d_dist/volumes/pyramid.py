r"""Smaller copies of a volume: which levels, from which voxels, by which rule.

Level n is made from level n-1 alone, block by block: a block of level n needs exactly the
voxels of :func:`source_region`, so levels can be written in any order within a level::

    level n-1   0 1 2 3 4 5 6        shape 7, factor 2
                \_/ \_/ \_/  |
    level n      0   1   2   3        shape 4; the last voxel sees one voxel only

Images take the mean of the voxels seen, labels the most frequent label. Both are centred on
the voxels seen, so both move the centre of voxel 0 by (factor - 1) / 2 voxels.
"""

from __future__ import annotations

from typing import Any, Literal

import numba
import numpy as np

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region, Triple, ceil_div
from cellseg3d_dist.volumes.multiscales import Size

ImageKind = Literal["labels", "image"]

SMALLEST_LEVEL = 128
"""Levels are added until no axis is longer than this, in voxels."""


def level_factors(
    shape: Triple, voxel_size: Size, n_levels: int | None = None
) -> tuple[Triple, ...]:
    """Factors from each level to the next: 2 along the fine axes, else 1.

    An axis is halved where its voxel size is less than twice the finest one's, so voxels
    grow towards cubes and then stay so.

    Parameters
    ----------
    shape, voxel_size
        Of level 0, in (z, y, x).
    n_levels
        Levels in all, level 0 included; by default until no axis is over 128 voxels.

    Returns
    -------
    tuple of (z, y, x)
        One per level after level 0.

    Examples
    --------
    >>> level_factors((100, 600, 600), (5.0, 1.0, 1.0))
    ((1, 2, 2), (1, 2, 2), (2, 2, 2))
    """
    if n_levels is not None and n_levels < 1:
        raise ConfigError(f"n_levels {n_levels} must be at least 1.")
    factors: list[Triple] = []
    size = voxel_size
    while len(factors) + 1 < n_levels if n_levels is not None else max(shape) > SMALLEST_LEVEL:
        long = [v for v, n in zip(size, shape, strict=True) if n > 1]
        finest = min(long, default=0.0)
        z, y, x = (2 if n > 1 and v < 2 * finest else 1 for v, n in zip(size, shape, strict=True))
        factors.append((z, y, x))
        shape = level_shape(shape, (z, y, x))
        size = (size[0] * z, size[1] * y, size[2] * x)
    return tuple(factors)


def level_shape(shape: Triple, factors: Triple) -> Triple:
    """Shape of the next level; a last voxel that sees fewer voxels counts."""
    z, y, x = (ceil_div(n, f) for n, f in zip(shape, factors, strict=True))
    return (z, y, x)


def source_region(region: Region, factors: Triple, source_shape: Triple) -> Region:
    """The voxels of level n-1 that a region of level n is made from."""
    start = tuple(a * f for a, f in zip(region.start, factors, strict=True))
    stop = tuple(min(b * f, n) for b, f, n in zip(region.stop, factors, source_shape, strict=True))
    return Region((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def downsample(
    array: np.ndarray[Any, Any], factors: Triple, kind: ImageKind
) -> np.ndarray[Any, Any]:
    """A smaller copy of an array whose first voxel starts a cell of the factors.

    Parameters
    ----------
    array
        (z, y, x) or (c, z, y, x); labels of an unsigned type, images of any real type.
    factors
        Along z, y, x.
    kind
        ``"image"``: mean, rounded half up for integers; a NaN makes its mean NaN.
        ``"labels"``: the most frequent label; on a tie any label before background, then
        the smallest, so thin cells last and the order of voxels does not matter.

    Returns
    -------
    ndarray
        Shape rounded up, same type.
    """
    if array.ndim == 4:
        return np.stack([downsample(channel, factors, kind) for channel in array])
    if factors == (1, 1, 1):
        return array.copy()
    z, y, x = array.shape
    out = np.empty(level_shape((z, y, x), factors), array.dtype)
    if out.size == 0:
        return out
    if kind == "labels":
        _mode(array, out, *factors)
    elif array.dtype.kind == "f":
        _mean_float(array, out, *factors)
    else:
        _mean_integer(array, out, *factors)
    return out


@numba.njit(cache=True, nogil=True)
def _mode(array, out, fz, fy, fx):  # type: ignore[no-untyped-def]  # pragma: no cover
    values = np.empty(fz * fy * fx, array.dtype)
    nz, ny, nx = array.shape
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                n = 0
                same = True
                for a in range(z * fz, min(z * fz + fz, nz)):
                    for b in range(y * fy, min(y * fy + fy, ny)):
                        for c in range(x * fx, min(x * fx + fx, nx)):
                            values[n] = array[a, b, c]
                            same = same and values[n] == values[0]
                            n += 1
                best = values[0]
                if not same:
                    most = 0
                    for i in range(n):
                        value = values[i]
                        count = 0
                        for j in range(n):
                            if values[j] == value:
                                count += 1
                        better = value != 0 and (best == 0 or value < best)
                        if count > most or (count == most and better):
                            most = count
                            best = value
                out[z, y, x] = best


@numba.njit(cache=True, nogil=True)
def _mean_float(array, out, fz, fy, fx):  # type: ignore[no-untyped-def]  # pragma: no cover
    nz, ny, nx = array.shape
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                total = 0.0
                n = 0
                for a in range(z * fz, min(z * fz + fz, nz)):
                    for b in range(y * fy, min(y * fy + fy, ny)):
                        for c in range(x * fx, min(x * fx + fx, nx)):
                            total += array[a, b, c]
                            n += 1
                out[z, y, x] = total / n


@numba.njit(cache=True, nogil=True)
def _mean_integer(array, out, fz, fy, fx):  # type: ignore[no-untyped-def]  # pragma: no cover
    nz, ny, nx = array.shape
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                z1, y1, x1 = min(z * fz + fz, nz), min(y * fy + fy, ny), min(x * fx + fx, nx)
                n = (z1 - z * fz) * (y1 - y * fy) * (x1 - x * fx)
                # differences to the first voxel, so that sums of large 64-bit values do not wrap
                base = array[z * fz, y * fy, x * fx]
                total = np.int64(0)
                for a in range(z * fz, z1):
                    for b in range(y * fy, y1):
                        for c in range(x * fx, x1):
                            total += np.int64(array[a, b, c]) - np.int64(base)
                out[z, y, x] = np.int64(base) + (total + n // 2) // n
