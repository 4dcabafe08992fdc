"""Labels from two masks: whole seed components that grow inside a foreground.

Both masks are voxelwise functions of the stored prediction, compared in integers, so that
a block's masks are a part of the volume's. What spans blocks, the components of seeds and
their sizes, is one object here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Region
from cellseg3d_dist.instances.filters import Sigma
from cellseg3d_dist.instances.growth import BOX_AND_DIAMOND, Growth, Watershed
from cellseg3d_dist.instances.levels import levels_of
from cellseg3d_dist.instances.seeded import Terrain, flood_spots, grow_components
from cellseg3d_dist.instances.sizes import sizes_of

Masks = tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]


def above(channel: npt.NDArray[Any], threshold: float) -> npt.NDArray[np.bool_]:
    """Where stored values (0..255) are above a fraction of 255.

    >>> above(np.array([127, 128], np.uint8), 0.5)
    array([False,  True])
    """
    # a whole number is above a limit if it is above the limit's whole part
    limit = math.floor(threshold * 255)
    return np.ones(channel.shape, bool) if limit < 0 else channel > np.uint8(min(limit, 255))


def below(channel: npt.NDArray[Any], threshold: float) -> npt.NDArray[np.bool_]:
    """Where stored values (0..255) are below a fraction of 255."""
    limit = math.ceil(threshold * 255)
    return np.ones(channel.shape, bool) if limit > 255 else channel < np.uint8(max(limit, 0))


def decode_seeded(
    seeds: npt.NDArray[np.bool_],
    foreground: npt.NDArray[np.bool_],
    min_seed_voxels: int = 1,
    min_voxels: int = 1,
    landscape: npt.NDArray[Any] | None = None,
) -> npt.NDArray[np.uint32]:
    """Grow seed components inside a foreground.

    Seeds are 26-connected components; those with fewer than ``min_seed_voxels`` are
    dropped as a whole, the others grow, and labels with fewer than ``min_voxels`` are
    dropped. Foreground that no seed reaches stays 0.

    Parameters
    ----------
    seeds, foreground : ndarray, bool, (z, y, x)
        Seeds lie in the foreground.
    min_seed_voxels, min_voxels : int
    landscape : ndarray, optional
        Seeds grow by a watershed, its high values first; without it by distance.

    Returns
    -------
    ndarray, uint32, (z, y, x)
        1..n in the order of names; a component's name is that of its first voxel in
        raster order, see :func:`.spots.names_of_seeds`, and the larger wins a tie.
    """
    growth, ground = _ground(foreground, landscape)
    grown, n = grow_components(seeds, ground, min_seed_voxels, growth)
    return _large(grown, n, min_voxels)


def growth_of(watershed: bool) -> Growth:
    """How a decoder's seeds grow: through a landscape, or by distance."""
    return Watershed() if watershed else BOX_AND_DIAMOND


def _ground(
    foreground: npt.NDArray[np.bool_], landscape: npt.NDArray[Any] | None
) -> tuple[Growth, Terrain]:
    levels = None if landscape is None else levels_of(landscape, downhill=True)
    mask = np.ascontiguousarray(foreground).view(np.uint8)
    return growth_of(landscape is not None), Terrain(mask, levels)


def decode_spots(
    depth: npt.NDArray[Any],
    foreground: npt.NDArray[np.bool_],
    sigma: Sigma,
    min_voxels: int = 1,
    landscape: npt.NDArray[Any] | None = None,
) -> npt.NDArray[np.uint32]:
    """Grow the local maxima of a smoothed channel inside a foreground.

    Parameters
    ----------
    depth : ndarray, (z, y, x)
        Highest in the middle of cells.
    foreground : ndarray, bool, (z, y, x)
    sigma : (float, float, float)
        Smoothing in voxels.
    min_voxels : int
        Labels with fewer are dropped.
    landscape : ndarray, optional
        As for :func:`decode_seeded`.

    Returns
    -------
    ndarray, uint32, (z, y, x)
        1..n in the order of names, see :func:`.spots.names_of_seeds`.
    """
    z, y, x = foreground.shape
    shape = (z, y, x)
    if not foreground.any():
        return np.zeros(shape, np.uint32)
    whole = Region.whole(shape)
    growth, ground = _ground(foreground, landscape)
    found = flood_spots(depth, ground, whole, whole, whole, shape, sigma, growth)
    return _large(found.labels, found.names.size, min_voxels)


def _large(labels: npt.NDArray[Any], n: int, min_voxels: int) -> npt.NDArray[np.uint32]:
    """Labels with at least so many voxels, renumbered in their order."""
    large = sizes_of(labels, n) >= min_voxels
    final = np.zeros(n + 1, np.uint32)
    final[1:] = np.where(large, np.cumsum(large), 0)
    renumbered: npt.NDArray[np.uint32] = final[labels]
    return renumbered
