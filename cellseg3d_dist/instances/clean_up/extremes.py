"""Largest values of neighbourhoods; neighbours outside the array do not exist."""

from __future__ import annotations

from typing import TypeVar

import numba
import numpy as np
import numpy.typing as npt

_T = TypeVar("_T", np.int32, np.uint8)


def largest_in_box(array: npt.NDArray[_T], times: int = 1) -> npt.NDArray[_T]:
    """Largest value of the 3 x 3 x 3 box around each voxel; of a larger box by repetition."""
    for _ in range(times):
        array = _max_along_z(_max_along_y(_max_along_x(array)))
    return array


def largest_in_diamond(array: npt.NDArray[_T]) -> npt.NDArray[_T]:
    """Largest value of each voxel and its 6 face neighbours."""
    largest: npt.NDArray[_T] = _max_of_diamond(array)
    return largest


@numba.njit(cache=True, nogil=True)
def _max_along_x(a):  # type: ignore[no-untyped-def]
    nz, ny, nx = a.shape
    out = np.empty_like(a)
    for z in range(nz):
        for y in range(ny):
            row, to = a[z, y], out[z, y]
            for x in range(nx):
                to[x] = max(row[max(x - 1, 0)], row[x], row[min(x + 1, nx - 1)])
    return out


@numba.njit(cache=True, nogil=True)
def _max_along_y(a):  # type: ignore[no-untyped-def]
    nz, ny, nx = a.shape
    out = np.empty_like(a)
    for z in range(nz):
        for y in range(ny):
            low, row, high, to = a[z, max(y - 1, 0)], a[z, y], a[z, min(y + 1, ny - 1)], out[z, y]
            for x in range(nx):
                to[x] = max(low[x], row[x], high[x])
    return out


@numba.njit(cache=True, nogil=True)
def _max_along_z(a):  # type: ignore[no-untyped-def]
    nz, ny, nx = a.shape
    out = np.empty_like(a)
    for z in range(nz):
        for y in range(ny):
            low, row, high, to = a[max(z - 1, 0), y], a[z, y], a[min(z + 1, nz - 1), y], out[z, y]
            for x in range(nx):
                to[x] = max(low[x], row[x], high[x])
    return out


@numba.njit(cache=True, nogil=True)
def _max_of_diamond(a):  # type: ignore[no-untyped-def]
    nz, ny, nx = a.shape
    out = np.empty_like(a)
    for z in range(nz):
        for y in range(ny):
            row, to = a[z, y], out[z, y]
            before, after = a[z, max(y - 1, 0)], a[z, min(y + 1, ny - 1)]
            above, below = a[max(z - 1, 0), y], a[min(z + 1, nz - 1), y]
            for x in range(nx):
                along = max(row[max(x - 1, 0)], row[x], row[min(x + 1, nx - 1)])
                to[x] = max(along, before[x], after[x], above[x], below[x])
    return out
