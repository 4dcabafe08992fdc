"""Distance to the background, up to a cap: the landscape of cells told apart by shape alone.

A distance transform without a cap is not local: a voxel's value may hang on a voxel at the
other end of the volume. Up to a cap, a halo of the cap is enough, and what lies deeper is a
plateau, which is one peak (:mod:`.hmaxima`).
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Region, Triple

Size = tuple[float, float, float]


def distance_halo(cap: float, voxel_size: Size) -> Triple:
    """Voxels beyond a region that its distances depend on.

    >>> distance_halo(4.0, (2.0, 1.0, 0.9))
    (2, 4, 5)
    """
    z, y, x = (math.ceil(cap / size) for size in voxel_size)
    return (z, y, x)


def capped_distance(
    mask: npt.NDArray[np.uint8], region: Region, wanted: Region, cap: float, voxel_size: Size
) -> npt.NDArray[np.float32]:
    """Distance of each voxel's centre to the nearest one that is 0, at most ``cap``.

    The exact Euclidean transform, one axis after the other; sums are of squares in a fixed
    order, so a voxel's value has the same bits whatever region it is computed in.

    Parameters
    ----------
    mask : ndarray, uint8
        On ``region``: ``wanted`` grown by :func:`distance_halo` and cut at the volume's
        faces. Beyond the volume there is no background.
    cap : float
        In the units of ``voxel_size``.
    voxel_size : (float, float, float)

    Returns
    -------
    ndarray, float32, shape of ``wanted``
        0 in the background.
    """
    most = float(cap) ** 2
    z, y, x = (size * size for size in voxel_size)
    inner = wanted.within(region).slices
    squares = _along_x(np.ascontiguousarray(mask), x, most)[:, :, inner[2]]
    squares = _across(np.ascontiguousarray(squares), y, most)[:, inner[1]]
    # the axis to walk along comes second
    turned = np.ascontiguousarray(squares.transpose(1, 0, 2))
    squares = _across(turned, z, most).transpose(1, 0, 2)[inner[0]]
    depth: npt.NDArray[np.float32] = np.sqrt(squares).astype(np.float32)
    return depth


@numba.njit(cache=True, nogil=True)
def _along_x(mask, weight, most):  # type: ignore[no-untyped-def]
    nz, ny, nx = mask.shape
    out = np.empty((nz, ny, nx), np.float64)
    for z in range(nz):
        for y in range(ny):
            steps = np.inf
            for x in range(nx):
                steps = 0.0 if mask[z, y, x] == 0 else steps + 1
                out[z, y, x] = min(most, weight * steps * steps)
            steps = np.inf
            for x in range(nx - 1, -1, -1):
                steps = 0.0 if mask[z, y, x] == 0 else steps + 1
                out[z, y, x] = min(out[z, y, x], weight * steps * steps)
    return out


@numba.njit(cache=True, nogil=True)
def _across(before, weight, most):  # type: ignore[no-untyped-def]
    """Least sum, over the second axis, of what stands there and the squared way to it."""
    n0, n1, n2 = before.shape
    out = before.copy()
    for i in range(n0):
        for j in range(n1):
            for step in range(1, n1):
                way = weight * (np.float64(step) * np.float64(step))
                if way >= most:
                    break
                for other in (j - step, j + step):
                    if 0 <= other < n1:
                        for k in range(n2):
                            out[i, j, k] = min(out[i, j, k], before[i, other, k] + way)
    return out
