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
#: More rays than anyone needs.
MAX_RAYS = 1024


@lru_cache(maxsize=16)
def fibonacci_rays(n_rays: int) -> Rays:
    """Directions on a Fibonacci lattice: equal steps in z, golden angle around it.

    Raises
    ------
    ConfigError
        If there are fewer than 4, which enclose nothing, or more than 1024.
    """
    if not isinstance(n_rays, int) or not 4 <= n_rays <= MAX_RAYS:
        raise ConfigError(f"star: n_rays {n_rays!r} must be a whole number within 4..{MAX_RAYS}.")
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
            f"star: the {len(rays)} rays do not span the space; leave them out for even ones."
        ) from error
    around = hull.vertices.size == len(rays) and bool((hull.equations[:, 3] < -1e-6).all())
    if not around or not np.allclose(np.linalg.norm(points, axis=1), 1, atol=1e-4):
        raise ConfigError(
            f"star: the {len(rays)} rays are not different unit vectors all around the centre; "
            "leave them out for even ones."
        )
    faces = np.sort(hull.simplices, axis=1).astype(np.int64)
    ordered: npt.NDArray[np.int64] = faces[np.lexsort(faces.T[::-1])]
    return ordered


def ray_lengths(
    padded: npt.NDArray[np.int32],
    rays: Rays,
    spacing: Size,
    longest: float,
    lengths: npt.NDArray[np.float32],
) -> None:
    """Fill in the distance from each voxel's centre to its object's border along each ray.

    The border is where the ray enters the first voxel that is not the object's, exactly.

    Parameters
    ----------
    padded : ndarray, int32, (z + 2, y + 2, x + 2)
        Label image with one voxel of background all around; 0 is background.
    rays : tuple of n unit vectors
    spacing : (float, float, float)
        Size of a voxel.
    longest : float
        Lengths end here.
    lengths : ndarray, float32, (n, z, y, x)
        Where to write them, in the unit of ``spacing``; the background is left alone.
    """
    voxels_per_unit = np.array(rays, np.float64) / np.array(spacing, np.float64)
    _ray_lengths(padded, voxels_per_unit, longest, lengths)


@numba.njit(cache=True, nogil=True)
def _ray_lengths(padded, voxels_per_unit, longest, lengths):  # type: ignore[no-untyped-def]
    _, ny, nx = padded.shape
    labels = padded.ravel()
    inside = np.flatnonzero(labels)
    for ray in range(lengths.shape[0]):
        # all rays of a direction start at voxel centres and so take the same steps
        steps, entered = _walk(voxels_per_unit[ray], longest, ny * nx, nx)
        own = lengths[ray]
        for start in inside:
            label = labels[start]
            at = start + steps[0]
            k = 0
            # the last step is where lengths end; objects end before the padding does
            while labels[at] == label and k < steps.size - 1:
                k += 1
                at += steps[k]
            own[start // (ny * nx) - 1, start // nx % ny - 1, start % nx - 1] = entered[k]


@numba.njit(cache=True, nogil=True)
def _walk(direction, longest, stride_z, stride_y):  # type: ignore[no-untyped-def]
    """Steps between raveled indices along a ray from a voxel's centre, and their distances.

    The voxel traversal of Amanatides and Woo (1987). The last step is 0, at ``longest``.
    """
    strides = (stride_z, stride_y, 1)
    # distance along the ray between two faces of an axis, and to the next one
    apart = np.full(3, np.inf)
    ahead = np.full(3, np.inf)
    n = 1
    for axis in range(3):
        if direction[axis] != 0:
            apart[axis] = 1 / abs(direction[axis])
            ahead[axis] = 0.5 * apart[axis]
            n += int(longest * abs(direction[axis])) + 2
    steps = np.zeros(n, np.int64)
    entered = np.full(n, longest, np.float32)
    n = 0
    while True:
        nearest = np.argmin(ahead)
        if ahead[nearest] >= longest:
            return steps[: n + 1], entered[: n + 1]
        steps[n] = strides[nearest] if direction[nearest] > 0 else -strides[nearest]
        entered[n] = ahead[nearest]
        ahead[nearest] += apart[nearest]
        n += 1
