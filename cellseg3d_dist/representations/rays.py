"""Rays of star-convex objects: their directions, and their lengths in a label image.

Directions are unit vectors (z, y, x) in physical space, spread evenly over the sphere on a
Fibonacci lattice, so that in voxels they are squashed along a coarse axis (as in StarDist:
Weigert et al., WACV 2020). Lengths are in *units*, and so is ``spacing``, the size (z, y, x)
of a voxel. What lies outside the volume is not part of any object.
"""

from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull, QhullError

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.representations.representation import Size

#: Unit vectors (z, y, x), hashable.
Rays = tuple[Size, ...]

#: Decimals kept of a direction, so that it is the same on any machine and in any card.
_DECIMALS = 6


@lru_cache(maxsize=16)
def fibonacci_rays(n_rays: int) -> Rays:
    """Directions on a Fibonacci lattice: equal steps in z, golden angle around it.

    Raises
    ------
    ConfigError
        If there are fewer than 4, which enclose nothing.
    """
    if n_rays < 4:
        raise ConfigError(f"n_rays {n_rays} of a star is too few; use 4 or more")
    i = np.arange(n_rays)
    z = 1 - (2 * i + 1) / n_rays
    angle = i * np.pi * (3 - np.sqrt(5))
    rho = np.sqrt(1 - z * z)
    directions = np.stack((z, rho * np.sin(angle), rho * np.cos(angle)), axis=1)
    return tuple((a, b, c) for a, b, c in directions.round(_DECIMALS).tolist())


@lru_cache(maxsize=16)
def faces_of(rays: Rays) -> npt.NDArray[np.int64]:
    """Triangles (n, 3) of ray numbers, the faces of the rays' convex hull, sorted.

    Raises
    ------
    ConfigError
        If the rays are not unit vectors all around the origin.
    """
    points = np.array(rays, np.float64)
    try:
        hull = ConvexHull(points)
    except (QhullError, ValueError) as error:
        raise ConfigError(
            f"the {len(rays)} rays of a star do not span the space; use fibonacci_rays"
        ) from error
    around = hull.vertices.size == len(rays) and bool((hull.equations[:, 3] < -1e-6).all())
    if not around or not np.allclose(np.linalg.norm(points, axis=1), 1, atol=1e-4):
        raise ConfigError(
            f"the {len(rays)} rays of a star are not different unit vectors all around the "
            "centre; use fibonacci_rays"
        )
    faces = np.sort(hull.simplices, axis=1).astype(np.int64)
    ordered: npt.NDArray[np.int64] = faces[np.lexsort(faces.T[::-1])]
    return ordered


def ray_lengths(
    labels: npt.NDArray[np.int32],
    rays: Rays,
    spacing: Size,
    longest: float,
    out: npt.NDArray[np.float32],
) -> None:
    """Write the distance from each voxel's centre to its object's border along each ray.

    The border is where the ray enters the first voxel that is not the object's (Amanatides
    and Woo, 1987, exact).

    Parameters
    ----------
    labels : ndarray, int32, (z, y, x)
        0 is background.
    rays : tuple of n unit vectors
    spacing : (float, float, float)
        Size of a voxel.
    longest : float
        Lengths end here.
    out : ndarray, float32, (n, z, y, x)
        In the unit of ``spacing``; 0 in the background.
    """
    voxels_per_unit = np.array(rays, np.float64) / np.array(spacing, np.float64)
    _ray_lengths(labels, voxels_per_unit, longest, out)


@numba.njit(cache=True, nogil=True)
def _ray_lengths(labels, voxels_per_unit, longest, out):  # type: ignore[no-untyped-def]
    nz, ny, nx = labels.shape
    for ray in range(voxels_per_unit.shape[0]):
        direction = voxels_per_unit[ray]
        length = out[ray]
        for z in range(nz):
            for y in range(ny):
                for x in range(nx):
                    if labels[z, y, x] == 0:
                        length[z, y, x] = 0
                    else:
                        length[z, y, x] = _length(labels, z, y, x, direction, longest)


@numba.njit(cache=True, nogil=True)
def _length(labels, z, y, x, direction, longest):  # type: ignore[no-untyped-def]
    """Walk from voxel to voxel until the label changes."""
    nz, ny, nx = labels.shape
    own = labels[z, y, x]
    vz, vy, vx = direction[0], direction[1], direction[2]
    # distance between two faces of an axis along the ray, and to the next face
    pz = 1 / abs(vz) if vz != 0 else np.inf
    py = 1 / abs(vy) if vy != 0 else np.inf
    px = 1 / abs(vx) if vx != 0 else np.inf
    tz, ty, tx = 0.5 * pz, 0.5 * py, 0.5 * px
    sz = 1 if vz > 0 else -1
    sy = 1 if vy > 0 else -1
    sx = 1 if vx > 0 else -1
    while True:
        if tz <= ty and tz <= tx:
            t = tz
            z += sz
            tz += pz
        elif ty <= tx:
            t = ty
            y += sy
            ty += py
        else:
            t = tx
            x += sx
            tx += px
        if t >= longest:
            return longest
        if z < 0 or y < 0 or x < 0 or z >= nz or y >= ny or x >= nx or labels[z, y, x] != own:
            return t
