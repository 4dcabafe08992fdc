"""Star-convex objects on the voxel grid: which voxels one contains, painting, overlap.

An object is a centre voxel and a distance along each ray. Between rays the surface is
interpolated: a direction lies in the cone of one face of the rays' convex hull, and its
distance is the mean of the face's three distances, weighted by the direction's barycentric
coordinates. (Flat faces would cut a seventh off a ball with 32 rays.) A voxel is inside if
its centre is not farther from the object's centre than the surface is.

Every centre is a voxel, so face and weights depend on the offset between two voxels alone:
they are worked out once for all offsets, as integers, in a :class:`Stencil`. From there on
everything is integer arithmetic on global positions and the same from whichever block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region, Triple
from cellseg3d_dist.representations.rays import Rays, faces_of
from cellseg3d_dist.representations.representation import Size

#: Weights of a face's corners add up to this.
_ONE = 4096
#: Stored distances are this at the longest.
LEVELS = 255
#: Distances in units may be off by less.
ROUNDING = 1e-6
_NEVER = np.int32(2**31 - 1)
#: Offsets of a stencil: 16 bytes each.
_MAX_OFFSETS = 2**26


@dataclass(frozen=True, eq=False)
class Stencil:
    """For every offset from a centre: the rays around it and the distance they must reach.

    Attributes
    ----------
    spacing : (float, float, float)
        Size (z, y, x) of a voxel in units.
    max_distance : float
        The longest distance in units, stored as 255.
    needed : ndarray, int32, (2 hz + 1, 2 hy + 1, 2 hx + 1)
        An offset is inside if the weighted sum of the stored distances is at least this.
    corners, weights : ndarray, int16, (..., 3)
        Ray numbers and their weights, 4096 in all.
    """

    spacing: Size
    max_distance: float
    needed: npt.NDArray[np.int32]
    corners: npt.NDArray[np.int16]
    weights: npt.NDArray[np.int16]

    @property
    def half(self) -> Triple:
        """Voxels (z, y, x) an object can reach from its centre, at most."""
        z, y, x = (n // 2 for n in self.needed.shape)
        return (z, y, x)

    @property
    def overlap_halo(self) -> Triple:
        """Voxels (z, y, x) between the centres of two objects that overlap, at most."""
        farthest = 2 * self.max_distance + 2 * ROUNDING
        z, y, x = (int(np.floor(farthest / s)) for s in self.spacing)
        return (z, y, x)

    def extents(self, distances: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """Voxels (n, 3) that objects of these stored distances (n, n_rays) reach, at most."""
        farthest = distances.max(axis=1, initial=0).astype(np.float64)
        units = farthest * (self.max_distance / LEVELS)
        found = np.floor(units[:, None] / np.array(self.spacing) + 1e-9).astype(np.int64)
        most: npt.NDArray[np.int64] = np.minimum(found, np.array(self.half))
        return most


@lru_cache(maxsize=4)
def stencil(rays: Rays, spacing: Size, max_distance: float) -> Stencil:
    """The stencil of a set of rays on a grid of voxels of this size.

    Raises
    ------
    ConfigError
        If it would have more than 2**26 offsets (1 GiB).
    """
    half = [int(np.floor(max_distance / s + 1e-9)) for s in spacing]
    shape = tuple(2 * h + 1 for h in half)
    if np.prod(shape, dtype=np.float64) > _MAX_OFFSETS:
        raise ConfigError(
            f"star: max_distance {max_distance:g} reaches over {half} voxels, in all more than "
            f"{_MAX_OFFSETS} offsets; use coarser voxels or a smaller max_distance."
        )
    faces = faces_of(rays)
    # columns of each matrix: the three corners of a face
    corners = np.array(rays, np.float64)[faces].transpose(0, 2, 1)
    needed = np.full(shape, _NEVER, np.int32)
    around = np.zeros((*shape, 3), np.int16)
    weights = np.zeros((*shape, 3), np.int16)
    _fill(
        np.array(spacing, np.float64),
        float(max_distance),
        np.ascontiguousarray(np.linalg.inv(corners)),
        faces,
        needed,
        around,
        weights,
    )
    return Stencil(spacing, float(max_distance), needed, around, weights)


@numba.njit(cache=True, nogil=True)
def _fill(spacing, longest, inverses, faces, needed, corners, weights):  # type: ignore[no-untyped-def]
    nz, ny, nx = needed.shape
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                oz = (z - nz // 2) * spacing[0]
                oy = (y - ny // 2) * spacing[1]
                ox = (x - nx // 2) * spacing[2]
                distance = np.sqrt(oz * oz + oy * oy + ox * ox)
                if distance > longest:
                    continue
                face = _face_of(inverses, oz, oy, ox)
                m = inverses[face]
                a = max(0.0, m[0, 0] * oz + m[0, 1] * oy + m[0, 2] * ox)
                b = max(0.0, m[1, 0] * oz + m[1, 1] * oy + m[1, 2] * ox)
                c = max(0.0, m[2, 0] * oz + m[2, 1] * oy + m[2, 2] * ox)
                total = a + b + c
                # the centre itself has no direction: any weights do
                first = np.int16(_ONE * a / total) if total > 0 else np.int16(_ONE)
                second = np.int16(_ONE * b / total) if total > 0 else np.int16(0)
                weights[z, y, x, 0] = first
                weights[z, y, x, 1] = second
                weights[z, y, x, 2] = _ONE - first - second
                for k in range(3):
                    corners[z, y, x, k] = faces[face, k]
                needed[z, y, x] = np.int32(np.ceil(distance * (_ONE * LEVELS / longest) - 1e-6))


@numba.njit(cache=True, nogil=True)
def _face_of(inverses, z, y, x):  # type: ignore[no-untyped-def]
    """The face whose cone holds the direction most clearly, the first of equals."""
    found = 0
    most = -np.inf
    for face in range(inverses.shape[0]):
        m = inverses[face]
        least = min(
            m[0, 0] * z + m[0, 1] * y + m[0, 2] * x,
            m[1, 0] * z + m[1, 1] * y + m[1, 2] * x,
            m[2, 0] * z + m[2, 1] * y + m[2, 2] * x,
        )
        if least > most:
            most = least
            found = face
    return found


@numba.njit(cache=True, nogil=True)
def _inside(needed, corners, weights, distances, z, y, x):  # type: ignore[no-untyped-def]
    """Whether an object of these distances contains the voxel at this index of the stencil."""
    around = corners[z, y, x]
    weight = weights[z, y, x]
    reached = (
        np.int32(weight[0]) * np.int32(distances[around[0]])
        + np.int32(weight[1]) * np.int32(distances[around[1]])
        + np.int32(weight[2]) * np.int32(distances[around[2]])
    )
    return reached >= needed[z, y, x]


def sizes(distances: npt.NDArray[np.uint8], shape: Stencil) -> npt.NDArray[np.int64]:
    """Voxels in each object of stored distances (n, n_rays), wherever it lies."""
    found: npt.NDArray[np.int64] = _sizes(
        distances, shape.extents(distances), shape.needed, shape.corners, shape.weights
    )
    return found


@numba.njit(cache=True, nogil=True)
def _sizes(distances, extents, needed, corners, weights):  # type: ignore[no-untyped-def]
    hz, hy, hx = needed.shape[0] // 2, needed.shape[1] // 2, needed.shape[2] // 2
    found = np.zeros(distances.shape[0], np.int64)
    for i in range(distances.shape[0]):
        ez, ey, ex = extents[i, 0], extents[i, 1], extents[i, 2]
        for z in range(hz - ez, hz + ez + 1):
            for y in range(hy - ey, hy + ey + 1):
                for x in range(hx - ex, hx + ex + 1):
                    if _inside(needed, corners, weights, distances[i], z, y, x):
                        found[i] += 1
    return found


def paint(
    region: Region,
    positions: npt.NDArray[np.int64],
    distances: npt.NDArray[np.uint8],
    shape: Stencil,
) -> npt.NDArray[np.int32]:
    """Paint objects on a region of the volume; a voxel is the first object's that contains it.

    Parameters
    ----------
    region : Region
        Where to paint. Objects whose centre is farther away than ``shape.half`` cannot
        matter.
    positions : ndarray, int64, (n, 3)
        Global voxels of the centres, the best object first.
    distances : ndarray, uint8, (n, n_rays)
        Their stored distances.
    shape : Stencil

    Returns
    -------
    ndarray, int32, shape of ``region``
        1 + the object's number in ``positions``, 0 where there is none.
    """
    painted = np.zeros(region.shape, np.int32)
    _paint(
        painted,
        np.array(region.start, np.int64),
        positions,
        distances,
        shape.extents(distances),
        shape.needed,
        shape.corners,
        shape.weights,
    )
    return painted


@numba.njit(cache=True, nogil=True)
def _paint(painted, start, positions, distances, extents, needed, corners, weights):  # type: ignore[no-untyped-def]
    nz, ny, nx = painted.shape
    hz, hy, hx = needed.shape[0] // 2, needed.shape[1] // 2, needed.shape[2] // 2
    for i in range(positions.shape[0]):
        cz = positions[i, 0] - start[0]
        cy = positions[i, 1] - start[1]
        cx = positions[i, 2] - start[2]
        ez, ey, ex = extents[i, 0], extents[i, 1], extents[i, 2]
        for z in range(max(0, cz - ez), min(nz, cz + ez + 1)):
            for y in range(max(0, cy - ey), min(ny, cy + ey + 1)):
                for x in range(max(0, cx - ex), min(nx, cx + ex + 1)):
                    if painted[z, y, x] == 0 and _inside(
                        needed,
                        corners,
                        weights,
                        distances[i],
                        z - cz + hz,
                        y - cy + hy,
                        x - cx + hx,
                    ):
                        painted[z, y, x] = i + 1


@numba.njit(cache=True, nogil=True)
def share_more(i, j, positions, distances, extents, needed, corners, weights, limit):  # type: ignore[no-untyped-def]
    """Whether objects i and j have more than ``limit`` voxels in common."""
    hz, hy, hx = needed.shape[0] // 2, needed.shape[1] // 2, needed.shape[2] // 2
    low = np.maximum(positions[i] - extents[i], positions[j] - extents[j])
    high = np.minimum(positions[i] + extents[i], positions[j] + extents[j])
    iz, iy, ix = hz - positions[i, 0], hy - positions[i, 1], hx - positions[i, 2]
    jz, jy, jx = hz - positions[j, 0], hy - positions[j, 1], hx - positions[j, 2]
    common = 0
    for z in range(low[0], high[0] + 1):
        for y in range(low[1], high[1] + 1):
            for x in range(low[2], high[2] + 1):
                if _inside(
                    needed, corners, weights, distances[i], z + iz, y + iy, x + ix
                ) and _inside(needed, corners, weights, distances[j], z + jz, y + jy, x + jx):
                    common += 1
                    if common > limit:
                        return True
    return False
