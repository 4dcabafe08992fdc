"""Gaussian smoothing whose value at a voxel does not depend on the block it is computed in.

Each output is one sum over the taps in a fixed order in float32 (fused multiply-add, x
before y before z: clEsperanto's arithmetic), so that any block that holds the whole kernel
gives the same bits. Edges are clamped; a caller who reads a
region inside the volume therefore has to read the kernel's radius more on each side.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba.extending import intrinsic

from cellseg3d_dist.grid import Triple

Sigma = tuple[float, float, float]
Crop = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
NO_CROP: Crop = ((0, 0), (0, 0), (0, 0))


def kernel_radius(sigma: Sigma) -> Triple:
    """Voxels read beyond each side by :func:`gaussian`, per axis.

    The kernel has int(8 sigma) taps made odd, clEsperanto's rule, and none for sigma 0.

    >>> kernel_radius((0.65, 2.0, 0.0))
    (2, 8, 0)
    """
    z, y, x = ((int(8 * s) // 2) if s > 0 else 0 for s in sigma)
    return (z, y, x)


def gaussian(
    image: npt.NDArray[Any], sigma: Sigma, crop: Crop = NO_CROP
) -> npt.NDArray[np.float32]:
    """Separable Gaussian of ``image`` in float32, edges clamped.

    Parameters
    ----------
    image : ndarray, (z, y, x)
        Any real dtype; converted to float32.
    sigma : (float, float, float)
        Standard deviation in voxels along z, y, x; 0 leaves an axis as it is.
    crop : ((int, int), (int, int), (int, int))
        Voxels not wanted at the low and high end of each axis. They are read but not
        computed, which is what makes halos affordable.

    Returns
    -------
    ndarray, float32
        Shape of ``image`` less the crop.
    """
    radius = kernel_radius(sigma)
    out: npt.NDArray[Any] = image
    for axis, kernel in ((2, _along_x), (1, _along_y), (0, _along_z)):
        low, high = crop[axis]
        n = out.shape[axis] - low - high
        if radius[axis] == 0:
            index = [slice(None)] * 3
            index[axis] = slice(low, low + n)
            out = out[tuple(index)]
        else:
            out = kernel(np.ascontiguousarray(out), _taps(sigma[axis]), low, n)
    return np.ascontiguousarray(out, dtype=np.float32)


def _taps(sigma: float) -> npt.NDArray[np.float32]:
    """Weights before division by their sum, each rounded once to float32."""
    radius = int(8 * sigma) // 2
    v = np.arange(-radius, radius + 1, dtype=np.float32)
    s = np.float32(sigma)
    exponent = (v * v) / (np.float32(-2) * s * s)
    return np.exp(exponent.astype(np.float64)).astype(np.float32)


@intrinsic
def _fma(typingctx, a, b, c):  # type: ignore[no-untyped-def]
    """Compute a * b + c rounded once: the same bits on every processor, and clEsperanto's."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.fma(*args)

    return numba.float32(numba.float32, numba.float32, numba.float32), generate


@numba.njit(cache=True, nogil=True)
def _tap_sum(taps):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for v in range(taps.size):
        total += taps[v]
    return total


@numba.njit(cache=True, nogil=True)
def _along_x(image, taps, low, n):  # type: ignore[no-untyped-def]
    nz, ny, nx = image.shape
    c = taps.size // 2
    norm = _tap_sum(taps)
    out = np.empty((nz, ny, n), np.float32)
    line = np.empty(n + 2 * c, np.float32)
    acc = np.empty(n, np.float32)
    for z in range(nz):
        for y in range(ny):
            for i in range(n + 2 * c):
                line[i] = np.float32(image[z, y, min(max(i + low - c, 0), nx - 1)])
            acc[:] = 0
            for v in range(taps.size):
                h = taps[v]
                for i in range(n):
                    acc[i] = _fma(h, line[i + v], acc[i])
            for i in range(n):
                out[z, y, i] = acc[i] / norm
    return out


@numba.njit(cache=True, nogil=True)
def _along_y(image, taps, low, n):  # type: ignore[no-untyped-def]
    nz, ny, nx = image.shape
    c = taps.size // 2
    norm = _tap_sum(taps)
    out = np.empty((nz, n, nx), np.float32)
    acc = np.empty(nx, np.float32)
    for z in range(nz):
        for j in range(n):
            acc[:] = 0
            for v in range(taps.size):
                h = taps[v]
                row = image[z, min(max(j + low + v - c, 0), ny - 1)]
                for i in range(nx):
                    acc[i] = _fma(h, np.float32(row[i]), acc[i])
            for i in range(nx):
                out[z, j, i] = acc[i] / norm
    return out


@numba.njit(cache=True, nogil=True)
def _along_z(image, taps, low, n):  # type: ignore[no-untyped-def]
    nz, ny, nx = image.shape
    c = taps.size // 2
    norm = _tap_sum(taps)
    out = np.empty((n, ny, nx), np.float32)
    acc = np.empty(nx, np.float32)
    # y outside: the rows of all taps of one y stay in the cache while z moves on
    for y in range(ny):
        for k in range(n):
            acc[:] = 0
            for v in range(taps.size):
                h = taps[v]
                row = image[min(max(k + low + v - c, 0), nz - 1), y]
                for i in range(nx):
                    acc[i] = _fma(h, np.float32(row[i]), acc[i])
            for i in range(nx):
                out[k, y, i] = acc[i] / norm
    return out
