"""Edges of labels and distances to them, right where labels touch.

A voxel outside the array is unknown and makes no edge: a cell that a patch cuts keeps its
shape, as far as the patch's halo shows it.
"""

from __future__ import annotations

import itertools
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Size = tuple[float, float, float]

#: An axis whose voxels are longer than this many of the finest ones has no edges along it
#: between cell and background: they would take most of a cell.
COARSE = 2.0
#: Ids up to this many per voxel index an array as they are.
SPARSE = 4

#: Which voxels are edge; what touches is edge under each of them.
EDGES = ("inner", "outer", "touching")


def relative_size(voxel_size: Size) -> Size:
    """Voxel size in units of the finest axis.

    >>> relative_size((5.0, 1.0, 2.0))
    (5.0, 1.0, 2.0)
    """
    finest = min(voxel_size)
    z, y, x = (size / finest for size in voxel_size)
    return (z, y, x)


def as_indices(labels: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int32], int]:
    """Labels that can index an array, and the largest; what is not above 0 is background.

    Ids may have gaps or use all 64 bits; the order of ids is kept.

    Parameters
    ----------
    labels : ndarray, bool or integers, (z, y, x)
    """
    if labels.size == 0:
        return np.zeros(labels.shape, np.int32), 0
    top = int(labels.max())
    if np.issubdtype(labels.dtype, np.signedinteger) and int(labels.min()) < 0:
        labels = np.maximum(labels, 0)
        top = max(top, 0)
    if top <= SPARSE * labels.size and top < 2**31:
        return np.ascontiguousarray(labels, dtype=np.int32), top
    ids, ranks = np.unique(labels, return_inverse=True)
    first = 0 if ids[0] == 0 else 1
    dense = ranks.reshape(labels.shape).astype(np.int32) + np.int32(first)
    return dense, ids.size - 1 + first


def edges(labels: npt.NDArray[np.int32], voxel_size: Size, kind: str) -> npt.NDArray[np.bool_]:
    """Edge voxels of labels.

    Parameters
    ----------
    labels : ndarray, int32, (z, y, x)
        From :func:`as_indices`.
    voxel_size : (float, float, float)
        Along an axis more than ``COARSE`` times as coarse as the finest, background makes
        no edge.
    kind : {"inner", "outer", "touching"}
        Voxels of a label with a face neighbour in the background; voxels of the background
        with a face neighbour in a label; neither. In all of them voxels of a label with
        one of the 26 neighbours in another label, so that what remains of two labels
        never touches, not even at a corner.

    Returns
    -------
    ndarray, bool, (z, y, x)
    """
    z, y, x = (size <= COARSE for size in relative_size(voxel_size))
    out = np.zeros(labels.shape, np.bool_)
    for dz, dy, dx in itertools.product((0, 1), (-1, 0, 1), (-1, 0, 1)):
        # each pair of neighbours once: the second comes later in raster order
        if (dz, dy, dx) > (0, 0, 0):
            is_face = abs(dz) + abs(dy) + abs(dx) == 1
            borders = is_face and bool((dz and z) or (dy and y) or (dx and x))
            _mark(labels, out, dz, dy, dx, borders and kind == "inner", borders and kind == "outer")
    return out


@numba.njit(cache=True, nogil=True)
def _mark(labels, out, dz, dy, dx, inner, outer):  # type: ignore[no-untyped-def]
    """Mark pairs of neighbours at this offset: both of two labels, or one beside background."""
    nz, ny, nx = labels.shape
    for z in range(nz - dz):
        for y in range(max(0, -dy), min(ny, ny - dy)):
            for x in range(max(0, -dx), min(nx, nx - dx)):
                a = labels[z, y, x]
                b = labels[z + dz, y + dy, x + dx]
                if a == b:
                    continue
                touching = a > 0 and b > 0
                if touching or (inner and a > 0) or (outer and a == 0):
                    out[z, y, x] = True
                if touching or (inner and b > 0) or (outer and b == 0):
                    out[z + dz, y + dy, x + dx] = True


def squared_distances(
    labels: npt.NDArray[np.int32], voxel_size: Size, background: bool = False
) -> npt.NDArray[np.float32]:
    """Squared distance of each voxel's centre to the nearest one with another label.

    The exact Euclidean transform of every label at once: one pass along each axis, within
    runs of one label (Felzenszwalb and Huttenlocher 2012, for many labels).

    Parameters
    ----------
    labels : ndarray, int32, (z, y, x)
        From :func:`as_indices`.
    background : bool
        Whether the background's distances to the labels are wanted too.

    Returns
    -------
    ndarray, float32, (z, y, x)
        In squared voxels of the finest axis; infinite in a label that fills the array; 0
        in the background unless it was asked for.
    """
    z, y, x = (np.float32(size) ** 2 for size in relative_size(voxel_size))
    out = np.empty(labels.shape, np.float32)
    _along_x(labels, out, x, background)
    for axis, weight in ((1, y), (0, z)):
        # the axis to walk along comes second; views, no copies
        order = (0, 1, 2) if axis == 1 else (1, 0, 2)
        before = out.copy()
        _across(labels.transpose(order), before.transpose(order), out.transpose(order), weight)
    return out


@numba.njit(cache=True, nogil=True)
def _along_x(labels, out, weight, background):  # type: ignore[no-untyped-def]
    nz, ny, nx = labels.shape
    for z in range(nz):
        for y in range(ny):
            begin = 0
            while begin < nx:
                label = labels[z, y, begin]
                end = begin + 1
                while end < nx and labels[z, y, end] == label:
                    end += 1
                for x in range(begin, end):
                    if label == 0 and not background:
                        out[z, y, x] = 0
                        continue
                    steps = np.float32(np.inf)
                    if begin > 0:
                        steps = np.float32(x - begin + 1)
                    if end < nx:
                        steps = min(steps, np.float32(end - x))
                    out[z, y, x] = weight * steps * steps
                begin = end


@numba.njit(cache=True, nogil=True)
def _across(labels, before, after, weight):  # type: ignore[no-untyped-def]
    """Minimum over the second axis of what stands there plus the squared way to it.

    Each voxel looks outward until its label ends or the way alone is too long.
    """
    n0, n1, n2 = labels.shape
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                best = before[i, j, k]
                if best == 0:
                    after[i, j, k] = 0
                    continue
                own = labels[i, j, k]
                low, high = True, True
                step = 1
                while (low or high) and weight * np.float32(step * step) < best:
                    way = weight * np.float32(step * step)
                    if low:
                        low = j >= step
                        if low and labels[i, j - step, k] != own:
                            best = min(best, way)
                            low = False
                        elif low:
                            best = min(best, before[i, j - step, k] + way)
                    if high:
                        high = j + step < n1
                        if high and labels[i, j + step, k] != own:
                            best = min(best, way)
                            high = False
                        elif high:
                            best = min(best, before[i, j + step, k] + way)
                    step += 1
                after[i, j, k] = best


def largest_of_each(
    values: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], n: int
) -> npt.NDArray[np.float32]:
    """Largest value in each of the labels 0..n, 0 where a label does not occur."""
    largest: npt.NDArray[np.float32] = _largest(values.reshape(-1), labels.reshape(-1), n)
    return largest


@numba.njit(cache=True, nogil=True)
def _largest(values, labels, n):  # type: ignore[no-untyped-def]
    out = np.zeros(n + 1, np.float32)
    for i in range(labels.size):
        out[labels[i]] = max(out[labels[i]], values[i])
    return out
