"""Spots: local maxima in the 3 x 3 x 3 box, the seeds of Voronoi-Otsu.

A voxel is a spot if no neighbour is larger and no neighbour that comes before it in
x-major order (x slowest, z fastest: clEsperanto's) is equal. Two spots therefore never
touch. Neighbours outside the volume do not exist.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Region, Triple


def spots(
    smoothed: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8], margin: Triple
) -> npt.NDArray[np.int64]:
    """Raveled indices in ``mask`` of the spots inside it, in raster order.

    Parameters
    ----------
    smoothed : ndarray, float32
        The smoothed image on the mask's region and, where the volume goes on, one voxel
        more on each side.
    mask : ndarray, uint8
        Non-zero is foreground.
    margin : (int, int, int)
        Where ``mask[0, 0, 0]`` lies in ``smoothed``: 1 along an axis where the volume
        goes on below, else 0.
    """
    found: npt.NDArray[np.int64] = _spots(smoothed, mask, *margin)
    return found


@numba.njit(cache=True, nogil=True)
def _is_spot(smoothed, z, y, x):  # type: ignore[no-untyped-def]
    nz, ny, nx = smoothed.shape
    value = smoothed[z, y, x]
    for dx in range(-1, 2):
        for dy in range(-1, 2):
            for dz in range(-1, 2):
                zz, yy, xx = z + dz, y + dy, x + dx
                if zz < 0 or yy < 0 or xx < 0 or zz >= nz or yy >= ny or xx >= nx:
                    continue
                other = smoothed[zz, yy, xx]
                if other > value:
                    return False
                before = dx < 0 or (dx == 0 and (dy < 0 or (dy == 0 and dz < 0)))
                if other == value and before:
                    return False
    return True


@numba.njit(cache=True, nogil=True)
def _spots(smoothed, mask, mz, my, mx):  # type: ignore[no-untyped-def]
    nz, ny, nx = mask.shape
    found = np.empty(1024, np.int64)
    n = 0
    for z in range(nz):
        for y in range(ny):
            row = smoothed[z + mz, y + my]
            for x in range(nx):
                if mask[z, y, x] == 0:
                    continue
                # most voxels are on a slope along x: one look settles them
                value = row[x + mx]
                if x + mx > 0 and row[x + mx - 1] >= value:
                    continue
                if x + mx + 1 < row.size and row[x + mx + 1] > value:
                    continue
                if _is_spot(smoothed, z + mz, y + my, x + mx):
                    if n == found.size:
                        found = np.concatenate((found, np.empty_like(found)))
                    found[n] = (z * ny + y) * nx + x
                    n += 1
    return found[:n].copy()


def names_of_seeds(
    seeds: npt.NDArray[np.int64], region: Region, shape: Triple
) -> npt.NDArray[np.uint64]:
    """Global names of seeds: one more than the x-major index in the whole volume.

    x-major (x slowest) because the larger name wins a tie of the flood, and ties are
    broken in clEsperanto's order. 0 is left for "none".

    Parameters
    ----------
    seeds : ndarray, int64
        Raveled (z-major) indices in ``region``.
    region : Region
        The box the seeds are counted in.
    shape : (int, int, int)
        The volume's shape.
    """
    local = np.unravel_index(seeds, region.shape)
    z, y, x = (
        np.asarray(axis, np.uint64) + np.uint64(start)
        for axis, start in zip(local, region.start, strict=True)
    )
    nz, ny, _ = shape
    return (x * np.uint64(ny) + y) * np.uint64(nz) + z + np.uint64(1)


def position_of_seeds(
    names: npt.NDArray[np.uint64], shape: Triple
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Voxels (z, y, x) in the volume of the seeds with these names."""
    nz, ny, _ = shape
    index = names.astype(np.int64) - 1
    return index % nz, index // nz % ny, index // (nz * ny)
