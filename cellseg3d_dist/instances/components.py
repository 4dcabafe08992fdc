"""Connected components of a mask, numbered by first voxel, and contacts between blocks.

Components need no halo: each block labels its own voxels, and fragments that touch
across a face, edge or corner of two blocks are one object (merging by contact, exact).
A component's name is the raveled index of its first voxel in the whole volume, the
smallest of its fragments' names, so final ids follow `scipy.ndimage.label`'s order.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region, Triple

#: Neighbours that touch, by connectivity: the largest number of axes that may differ.
REACH = {6: 1, 18: 2, 26: 3}


def components(
    mask: npt.NDArray[Any], connectivity: int = 6
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Label the connected components of ``mask``.

    Parameters
    ----------
    mask : ndarray, (z, y, x)
        Non-zero is foreground.
    connectivity : {6, 18, 26}
        Neighbours by face; by face or edge; by face, edge or corner.

    Returns
    -------
    labels : ndarray, uint32, shape of ``mask``
        1..n in the raster order of first voxels, 0 background.
    first : ndarray, int64, (n,)
        Raveled index in ``mask`` of each component's first voxel, ascending.

    Raises
    ------
    ConfigError
        If the connectivity is none of the three.
    """
    as_bytes = np.ascontiguousarray(mask != 0).view(np.uint8)
    return components_of_labels(as_bytes, connectivity)


def components_of_labels(
    labels: npt.NDArray[Any], connectivity: int = 6
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Label the connected components of each label: neighbours of other labels are apart.

    Parameters, returns and errors are those of :func:`components`.
    """
    if connectivity not in REACH:
        raise ConfigError(f"connectivity {connectivity} is unknown. Use 6, 18 or 26.")
    found, first = _label(labels, REACH[connectivity])
    return found, first


def names_of_first_voxels(
    first: npt.NDArray[np.int64], region: Region, shape: Triple
) -> npt.NDArray[np.uint64]:
    """Global names of a block's components: raveled indices in the whole volume.

    Parameters
    ----------
    first : ndarray, int64
        Raveled indices in the block's write region, ascending.
    region : Region
        That write region.
    shape : (int, int, int)
        The volume's shape.

    Returns
    -------
    ndarray, uint64
        Ascending, as raster order in a box is raster order in the volume.
    """
    z, y, x = np.unravel_index(first, region.shape)
    _, ny, nx = shape
    global_z, global_y, global_x = (
        np.asarray(axis, np.uint64) + np.uint64(start)
        for axis, start in zip((z, y, x), region.start, strict=True)
    )
    return (global_z * np.uint64(ny) + global_y) * np.uint64(nx) + global_x


@numba.njit(cache=True, nogil=True)
def find(parent, a):  # type: ignore[no-untyped-def]
    """The root of a, halving the path to it."""
    while parent[a] != a:
        parent[a] = parent[parent[a]]
        a = parent[a]
    return a


@numba.njit(cache=True, nogil=True)
def union(parent, a, b):  # type: ignore[no-untyped-def]
    """Unite the trees of a and b; the smaller root is that of both."""
    a = find(parent, a)
    b = find(parent, b)
    if a < b:
        parent[b] = a
    else:
        parent[a] = b


@numba.njit(cache=True, nogil=True)
def _grown(array):  # type: ignore[no-untyped-def]
    return np.concatenate((array, np.empty_like(array)))


@numba.njit(cache=True, nogil=True)
def _runs(mask):  # type: ignore[no-untyped-def]
    """Runs of one label along x: first and one past last x, and the first run of each row."""
    nz, ny, nx = mask.shape
    begin = np.empty(4096, np.int32)
    end = np.empty(4096, np.int32)
    row_first = np.empty(nz * ny + 1, np.int64)
    n = 0
    for row in range(nz * ny):
        row_first[row] = n
        line = mask[row // ny, row % ny]
        while n + nx >= begin.size:
            begin = _grown(begin)
            end = _grown(end)
        x = 0
        while x < nx:
            while x < nx and line[x] == 0:
                x += 1
            if x == nx:
                break
            begin[n] = x
            while x < nx and line[x] == line[begin[n]]:
                x += 1
            end[n] = x
            n += 1
    row_first[nz * ny] = n
    return begin[:n], end[:n], row_first


@numba.njit(cache=True, nogil=True)
def _join_rows(  # type: ignore[no-untyped-def]
    line, other, begin, end, parent, a, a_stop, b, b_stop, side
):
    """Union runs of one label in two rows that overlap, or touch within ``side`` voxels."""
    while a < a_stop and b < b_stop:
        near = begin[a] < end[b] + side and begin[b] < end[a] + side
        if near and line[begin[a]] == other[begin[b]]:
            union(parent, a, b)
        if end[a] < end[b]:
            a += 1
            continue
        # two runs that end together: what follows a at once touches b by its corner
        c = a + 1
        near = end[a] == end[b] and c < a_stop and begin[c] < end[b] + side
        if near and line[begin[c]] == other[begin[b]]:
            union(parent, c, b)
        b += 1


@numba.njit(cache=True, nogil=True)
def _label(mask, reach):  # type: ignore[no-untyped-def]
    """Union-find over runs; the smallest run, the first in raster order, is the root."""
    nz, ny, nx = mask.shape
    begin, end, row_first = _runs(mask)
    parent = np.arange(begin.size)
    for z in range(nz):
        for y in range(ny):
            row = z * ny + y
            for dz, dy in ((-1, -1), (-1, 0), (-1, 1), (0, -1)):
                side = min(reach - abs(dz) - abs(dy), 1)
                if side < 0 or z + dz < 0 or y + dy < 0 or y + dy >= ny:
                    continue
                other = row + dz * ny + dy
                _join_rows(
                    mask[z, y], mask[z + dz, y + dy],
                    begin, end, parent, row_first[row], row_first[row + 1],
                    row_first[other], row_first[other + 1], side,
                )  # fmt: skip
    labels = np.zeros((nz, ny, nx), np.uint32)
    dense = np.empty(begin.size, np.uint32)
    first = np.empty(begin.size, np.int64)
    n = 0
    for row in range(nz * ny):
        line = labels[row // ny, row % ny]
        for a in range(row_first[row], row_first[row + 1]):
            root = find(parent, a)
            if root == a:
                first[n] = np.int64(row) * nx + begin[a]
                n += 1
                dense[a] = n
            line[begin[a] : end[a]] = dense[root]
    return labels, first[:n].copy()
