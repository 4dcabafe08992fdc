"""Seeds that grow inside a foreground: on a block with a certificate, or on a whole volume.

Seeds are spots of a smoothed image, or components of a mask that is surer than the
foreground. A watershed grows them through the *terrain*: what the foreground is cut from,
its heights first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Region, Triple
from cellseg3d_dist.instances.components import components
from cellseg3d_dist.instances.filters import Sigma
from cellseg3d_dist.instances.flood import NO_RING
from cellseg3d_dist.instances.growth import BOX_AND_DIAMOND, Growth, Levels, Watershed
from cellseg3d_dist.instances.levels import levels_of
from cellseg3d_dist.instances.sizes import sizes_of
from cellseg3d_dist.instances.spots import names_of_seeds
from cellseg3d_dist.instances.voronoi import (
    NUMBA,
    FloodedBlock,
    Kernels,
    VoronoiSpec,
    crop_to,
    keep,
    ring_of,
    seeds_at_spots,
)


@dataclass(frozen=True)
class Terrain:
    """Where cells are, and the landscape they are flooded through.

    Attributes
    ----------
    mask : ndarray, uint8, (z, y, x)
        The foreground, 0 or 1.
    levels : ndarray, int32, (z, y, x), or None
        Of a watershed, see :func:`.levels.levels_of`.
    """

    mask: npt.NDArray[np.uint8]
    levels: Levels = None


def outline(
    image: npt.NDArray[Any],
    read_region: Region,
    region: Region,
    spec: VoronoiSpec,
    kernels: Kernels = NUMBA,
) -> npt.NDArray[Any]:
    """The image on ``region``, smoothed for outlines; as it is where there is no smoothing."""
    crop = crop_to(read_region, region)
    if any(spec.outline_sigma) or image.dtype.kind == "f" or image.dtype.itemsize > 2:
        smoothed: npt.NDArray[Any] = kernels.gaussian(image, spec.outline_sigma, crop)
        return smoothed
    return image[region.within(read_region).slices]


def terrain(
    outlined: npt.NDArray[Any], threshold: float, within: npt.NDArray[Any] | None = None
) -> Terrain:
    """What is above the threshold, high values first.

    Parameters
    ----------
    outlined : ndarray, (z, y, x)
        Of :func:`outline`.
    threshold : float
    within : ndarray or None
        Non-zero where cells are sought; None is everywhere.
    """
    mask = (outlined > np.float32(threshold)).view(np.uint8)
    if within is not None:
        mask &= (within != 0).view(np.uint8)
    return Terrain(mask, levels_of(outlined, downhill=True))


def watershed_block(
    image: npt.NDArray[Any],
    read_region: Region,
    flood_region: Region,
    write_region: Region,
    shape: Triple,
    spec: VoronoiSpec,
    growth: Watershed,
    within: npt.NDArray[Any] | None = None,
    kernels: Kernels = NUMBA,
) -> FloodedBlock:
    """Flood one block from spots, as :func:`.voronoi.voronoi_otsu_block` but downhill."""
    ground = terrain(
        outline(image, read_region, flood_region, spec, kernels), spec.threshold, within
    )
    return flood_spots(
        image, ground, read_region, flood_region, write_region, shape, spec.spot_sigma, growth,
        kernels,
    )  # fmt: skip


def flood_spots(
    image: npt.NDArray[Any],
    ground: Terrain,
    read_region: Region,
    flood_region: Region,
    write_region: Region,
    shape: Triple,
    sigma: Sigma,
    growth: Growth,
    kernels: Kernels = NUMBA,
) -> FloodedBlock:
    """Grow the local maxima of a smoothed image, see :func:`.voronoi.seeds_at_spots`."""
    seeds, names = seeds_at_spots(
        image, ground.mask, read_region, flood_region, shape, sigma, kernels
    )
    ring = ring_of(flood_region, shape)
    flooded = growth.flood(ground.mask, seeds, ring, levels=ground.levels)
    return keep(flooded, names, ground.mask, write_region.within(flood_region), ground.levels)


def watershed_from_spots(
    image: npt.NDArray[Any], spec: VoronoiSpec, connectivity: int = 6
) -> npt.NDArray[np.uint32]:
    """Watershed of a whole volume in memory, from spots inside what is above the threshold.

    Parameters
    ----------
    image : ndarray, (z, y, x)
        Cells are bright.
    spec : VoronoiSpec
        Smoothing before spots and before outlines, which are also the landscape.
    connectivity : {6, 18, 26}

    Returns
    -------
    ndarray, uint32, shape of ``image``
        1..n in the x-major order of spots.
    """
    z, y, x = image.shape
    shape = (z, y, x)
    if 0 in shape:
        return np.zeros(shape, np.uint32)
    whole = Region.whole(shape)
    growth = Watershed(connectivity)
    return watershed_block(image, whole, whole, whole, shape, spec, growth).labels


def watershed_from_threshold(
    image: npt.NDArray[Any],
    spec: VoronoiSpec,
    seed_threshold: float,
    min_seed_voxels: int = 1,
    connectivity: int = 6,
) -> npt.NDArray[np.uint32]:
    """Watershed of a whole volume in memory, from components above a second threshold.

    With 0.9 for seeds, 0.5 for the foreground and no smoothing these are CellSeg3D's rules
    (Achard et al. 2025), but for its removal of small cells.

    Parameters
    ----------
    image, spec, connectivity
        As for :func:`watershed_from_spots`.
    seed_threshold : float
        Seeds are the 26-connected components of what is above it, in the foreground.
    min_seed_voxels : int
        Seeds with fewer are dropped.

    Returns
    -------
    ndarray, uint32, shape of ``image``
        1..n in the x-major order of the first voxels of seeds.
    """
    if image.size == 0:
        return np.zeros(image.shape, np.uint32)
    z, y, x = image.shape
    whole = Region.whole((z, y, x))
    outlined = outline(image, whole, whole, spec)
    ground = terrain(outlined, spec.threshold)
    seeds = (outlined > np.float32(seed_threshold)) & (ground.mask != 0)
    labels, _ = grow_components(seeds, ground, min_seed_voxels, Watershed(connectivity))
    return labels.astype(np.uint32)


def grow_components(
    seeds: npt.NDArray[np.bool_],
    ground: Terrain,
    min_seed_voxels: int = 1,
    growth: Growth = BOX_AND_DIAMOND,
) -> tuple[npt.NDArray[np.int32], int]:
    """Grow the components of seeds in a whole volume.

    Parameters
    ----------
    seeds : ndarray, bool, (z, y, x)
        Inside the mask; 26-connected components with fewer than ``min_seed_voxels`` are
        dropped as a whole.
    ground : Terrain
    growth : Growth

    Returns
    -------
    labels : ndarray, int32, (z, y, x)
        1..n in the order of names; a component's name is that of its first voxel in raster
        order, see :func:`.spots.names_of_seeds`. 0 where no seed comes.
    n : int
    """
    z, y, x = seeds.shape
    shape = (z, y, x)
    parts, first = components(seeds, 26)
    kept = sizes_of(parts, first.size) >= min_seed_voxels
    order = np.argsort(names_of_seeds(first[kept], Region.whole(shape), shape))
    # order[i] is the component that comes i-th
    numbers = np.zeros(first.size + 1, np.int32)
    numbers[np.flatnonzero(kept)[order] + 1] = np.arange(1, order.size + 1, dtype=np.int32)
    at = np.flatnonzero(parts)
    labels = numbers[parts.reshape(-1)[at]]
    del parts
    at, labels = at[labels > 0], labels[labels > 0]
    grown, _ = growth.flood(ground.mask, at, NO_RING, labels, ground.levels)
    return grown, order.size
