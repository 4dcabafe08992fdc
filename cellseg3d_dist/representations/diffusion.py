"""Flows by diffusion: unit vectors along which each voxel of an object finds its centre.

Heat enters at the voxel nearest an object's centroid, spreads to the six face neighbours
and is lost at the object's surface, as Cellpose does in 2D (Stringer et al. 2021). The
flow is the normalised gradient of log(1 + heat), in units of the finest axis. The six
pieces of a step are weighted by 1 / size^2, so that heat spreads alike along all axes of
an anisotropic volume.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from skimage.measure import label

from cellseg3d_dist.representations.representation import Size

#: A gradient smaller than this part of the heat is rounding, not a direction.
_ROUNDING = 1e-9


def flows(labels: npt.NDArray[Any], voxel_size: Size) -> npt.NDArray[np.float32]:
    """Flow of each voxel towards the centre of its object.

    The parts of a label that do not touch by a face are objects of their own, as they
    look to who sees the image only.

    Parameters
    ----------
    labels : ndarray, integers, (z, y, x)
        Objects are the values above 0.
    voxel_size : (float, float, float)
        Size of a voxel along (z, y, x), in any unit.

    Returns
    -------
    ndarray, float32, (3, z, y, x)
        Components along z, y and x of a unit vector in physical space; 0 outside objects,
        at centres where the directions cancel, and where no heat arrives.
    """
    found = np.zeros((3, *labels.shape), np.float32)
    if labels.size:
        inside = np.where(labels > 0, labels, 0).astype(np.int64)
        parts, n = label(inside, background=0, connectivity=1, return_num=True)  # type: ignore[no-untyped-call]
        ratio = np.asarray(voxel_size, np.float64) / min(voxel_size)
        _flows(np.ascontiguousarray(parts, np.int64), n, ratio, found)
    return found


@numba.njit(cache=True, nogil=True)
def _flows(parts, n, ratio, found):  # type: ignore[no-untyped-def]
    """Fill ``found`` object by object; ``ratio`` is the voxel size over the finest."""
    voxels, first = _voxels_of_parts(parts.ravel(), n)
    _, ny, nx = parts.shape
    for part in range(n):
        own = voxels[first[part] : first[part + 1]]
        zyx = np.empty((3, own.size), np.int64)
        for k in range(own.size):
            zyx[0, k] = own[k] // (ny * nx)
            zyx[1, k] = own[k] // nx % ny
            zyx[2, k] = own[k] % nx
        centre = _centre(zyx, ratio)
        extent = np.empty(3, np.int64)
        for axis in range(3):
            low = zyx[axis].min()
            extent[axis] = zyx[axis].max() - low + 1
            zyx[axis] -= low - 1  # one voxel of nothing around the box
        stride_z, stride_y = (extent[1] + 2) * (extent[2] + 2), extent[2] + 2
        at = zyx[0] * stride_z + zyx[1] * stride_y + zyx[2]
        heat = np.zeros((extent[0] + 2) * stride_z)
        _diffuse(heat, at, at[centre], stride_z, stride_y, ratio, 2 * extent.sum())
        _gradient(heat, at, stride_z, stride_y, ratio, own, found.reshape(3, -1))


@numba.njit(cache=True, nogil=True)
def _voxels_of_parts(parts, n):  # type: ignore[no-untyped-def]
    """Raveled voxels of the parts 1..n one after the other, and where each begins."""
    first = np.zeros(n + 2, np.int64)
    for part in parts:
        if part > 0:
            first[part + 1] += 1
    first = np.cumsum(first)
    voxels = np.empty(first[-1], np.int64)
    for at in range(parts.size):
        if parts[at] > 0:
            voxels[first[parts[at]]] = at
            first[parts[at]] += 1
    return voxels, first


@numba.njit(cache=True, nogil=True)
def _centre(zyx, ratio):  # type: ignore[no-untyped-def]
    """Which voxel is nearest the centroid in physical space, the first of equals."""
    n = zyx.shape[1]
    total = zyx.sum(axis=1)
    best, nearest = 0, np.inf
    for k in range(n):
        distance = 0.0
        for axis in range(3):
            # n times the distance: integers until the ratio comes in
            distance += ((n * zyx[axis, k] - total[axis]) * ratio[axis]) ** 2
        if distance < nearest:
            best, nearest = k, distance
    return best


@numba.njit(cache=True, nogil=True)
def _diffuse(heat, at, centre, sz, sy, ratio, n_iterations):  # type: ignore[no-untyped-def]
    """``n_iterations`` steps of the heat in the voxels ``at``; it is 0 all around."""
    weight = 1 / ratio**2
    wz, wy, wx = weight / (2 * weight.sum())
    new = np.empty(at.size)
    for _ in range(n_iterations):
        heat[centre] += 1
        for k in range(at.size):
            i = at[k]
            new[k] = (
                wz * (heat[i - sz] + heat[i + sz])
                + wy * (heat[i - sy] + heat[i + sy])
                + wx * (heat[i - 1] + heat[i + 1])
            )
        for k in range(at.size):
            heat[at[k]] = new[k]
    heat[centre] += 1


@numba.njit(cache=True, nogil=True)
def _gradient(heat, at, sz, sy, ratio, voxels, found):  # type: ignore[no-untyped-def]
    """Write the unit vectors of the voxels ``at`` to ``voxels`` of ``found``."""
    for k in range(at.size):
        heat[at[k]] = np.log1p(heat[at[k]])
    for k in range(at.size):
        i = at[k]
        gz = (heat[i + sz] - heat[i - sz]) / ratio[0]
        gy = (heat[i + sy] - heat[i - sy]) / ratio[1]
        gx = (heat[i + 1] - heat[i - 1]) / ratio[2]
        length = np.sqrt(gz * gz + gy * gy + gx * gx)
        if length > _ROUNDING * heat[i]:
            found[0, voxels[k]] = gz / length
            found[1, voxels[k]] = gy / length
            found[2, voxels[k]] = gx / length
