"""Median and morphological opening over a ball, in voxels that need not be cubes.

Outside the volume the nearest voxel inside stands in, which for a ball is the same as
leaving out what is outside when a least or greatest value is sought.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Triple

Image = npt.NDArray[np.float32]
Radius = tuple[float, float, float]

#: Up to so many voxels of a ball, whole rows are compared at a time; beyond, voxel by voxel.
_FEW = 64
#: Up to so many values are sorted by insertion, more are parted.
_SORTED = 20


def ball_radius(radius: Radius) -> Triple:
    """Whole voxels that a ball reaches along each axis.

    Parameters
    ----------
    radius : (float, float, float)
        In voxels of each axis.
    """
    z, y, x = (math.floor(r + 1e-9) for r in radius)
    return (z, y, x)


def ball(radius: Radius) -> npt.NDArray[np.int64]:
    """Offsets (n, 3) of the voxels whose centres are within a ball's radius, in raster order.

    Parameters
    ----------
    radius : (float, float, float)
        In voxels of each axis; below 1 an axis has its middle alone.

    >>> len(ball((1.0, 1.0, 1.0))), len(ball((0.4, 2.0, 2.0)))
    (7, 13)
    """
    reach = ball_radius(radius)
    axes = [np.arange(-n, n + 1) for n in reach]
    offsets = np.stack([o.ravel() for o in np.meshgrid(*axes, indexing="ij")], 1)
    # an axis that the ball does not reach along has only the offset 0
    scaled = offsets / np.maximum(np.array(radius), 1e-9)
    found: npt.NDArray[np.int64] = offsets[(scaled**2).sum(1) <= 1 + 1e-9].astype(np.int64)
    return found


def median(padded: Image, radius: Radius) -> Image:
    """Median over the ball around each voxel.

    Parameters
    ----------
    padded : ndarray, float32, (z, y, x)
        The image with :func:`ball_radius` voxels more on each side.
    radius : (float, float, float)
        In voxels of each axis.

    Returns
    -------
    ndarray, float32
        Without those voxels.
    """
    reach = ball_radius(radius)
    out = np.empty(_inner(padded, reach), np.float32)
    _, ny, nx = padded.shape
    flat = ball(radius) @ np.array([ny * nx, nx, 1])
    kernel = _median_of_rows if flat.size <= _FEW else _median
    kernel(padded.reshape(-1), padded.shape, flat, reach, out)
    return out


def erosion(padded: Image, radius: Radius) -> Image:
    """Least value over the ball around each voxel; sizes as for :func:`median`."""
    reach = ball_radius(radius)
    nz, ny, nx = _inner(padded, reach)
    # whole rows, margins too: contiguous ones become vector code
    out = np.full((nz, ny, padded.shape[2]), np.inf, np.float32)
    offsets = ball(radius)
    rows, lengths = np.unique(offsets[:, :2], axis=0, return_counts=True)
    _least(padded.copy(), rows + reach[:2], lengths // 2, out)
    return np.ascontiguousarray(out[:, :, reach[2] : reach[2] + nx])


def dilation(padded: Image, radius: Radius) -> Image:
    """Greatest value over the ball around each voxel; sizes as for :func:`median`."""
    return -erosion(-padded, radius)


def _inner(padded: Image, reach: Triple) -> Triple:
    z, y, x = (n - 2 * r for n, r in zip(padded.shape, reach, strict=True))
    return (z, y, x)


@numba.njit(cache=True, nogil=True)
def _median_of_rows(image, shape, offsets, reach, out):  # type: ignore[no-untyped-def]
    """Selection up to the middle, a row of voxels at a time: comparisons become vector code."""
    _, ny, nx = shape
    n, width = offsets.size, out.shape[2]
    rows = np.empty((n, width), np.float32)
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            at = ((z + reach[0]) * ny + y + reach[1]) * nx + reach[2]
            for i in range(n):
                _copy(image, at + offsets[i], rows[i])
            for i in range(n // 2 + 1):
                for j in range(i + 1, n):
                    _order(rows[i], rows[j])
            _copy(rows[n // 2], 0, out[z, y])


@numba.njit(cache=True, nogil=True)
def _copy(source, start, row):  # type: ignore[no-untyped-def]
    for x in range(row.size):
        row[x] = source[start + x]


@numba.njit(cache=True, nogil=True)
def _order(less, more):  # type: ignore[no-untyped-def]
    for x in range(less.size):
        a, b = less[x], more[x]
        less[x] = b if b < a else a
        more[x] = a if b < a else b


@numba.njit(cache=True, nogil=True)
def _median(image, shape, offsets, reach, out):  # type: ignore[no-untyped-def]
    _, ny, nx = shape
    values = np.empty(offsets.size, np.float32)
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            at = ((z + reach[0]) * ny + y + reach[1]) * nx + reach[2]
            for x in range(out.shape[2]):
                for i in range(offsets.size):
                    values[i] = image[at + x + offsets[i]]
                out[z, y, x] = _middle(values)


@numba.njit(cache=True, nogil=True)
def _middle(values):  # type: ignore[no-untyped-def]
    """Middle value of an odd number of them, whose order is lost."""
    low, high, middle = 0, values.size - 1, values.size // 2
    while high - low > _SORTED:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if middle <= j:
            high = j
        elif middle >= i:
            low = i
        else:
            return values[middle]
    for i in range(low + 1, high + 1):
        value, j = values[i], i
        while j > low and values[j - 1] > value:
            values[j] = values[j - 1]
            j -= 1
        values[j] = value
    return values[middle]


@numba.njit(cache=True, nogil=True)
def _least(image, rows, half, out):  # type: ignore[no-untyped-def]
    """Least values of windows along x grow from row length to row length, in place."""
    for k in range(half.max() + 1):
        if k > 0:
            _widen(image)
        for i in range(half.size):
            if half[i] != k:
                continue
            for z in range(out.shape[0]):
                for y in range(out.shape[1]):
                    _take_less(out[z, y], image[z + rows[i, 0], y + rows[i, 1]])


@numba.njit(cache=True, nogil=True)
def _take_less(out, other):  # type: ignore[no-untyped-def]
    for x in range(out.size):
        a, b = out[x], other[x]
        out[x] = b if b < a else a


@numba.njit(cache=True, nogil=True)
def _widen(image):  # type: ignore[no-untyped-def]
    """Windows along x come to reach one voxel more on each side."""
    nz, ny, nx = image.shape
    line = np.full(nx + 2, np.inf, np.float32)
    for z in range(nz):
        for y in range(ny):
            row = image[z, y]
            for x in range(nx):
                line[x + 1] = row[x]
            for x in range(nx):
                a, b = line[x], line[x + 2]
                a = b if b < a else a
                b = line[x + 1]
                row[x] = b if b < a else a
