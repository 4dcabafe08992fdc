"""Voronoi-Otsu labelling, on a whole volume or on a block with a certificate.

Spots of the image smoothed with ``spot_sigma`` seed a flood (:mod:`.flood`) inside the
image smoothed with ``outline_sigma`` above a global threshold; mask components without a
spot stay 0. Regions of one block, each cut at the volume's faces::

    read region   image read; filters are exact only away from its inner faces
      └ flood region   mask, spots and flood; the unknown ring lies just outside
          └ write region   labels kept: proven, or open

Labels of a block are 1..m in the order of their names; a name is the global position of
the seed (:func:`.spots.names_of_seeds`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Region, Triple
from cellseg3d_dist.instances.filters import Crop, Sigma, gaussian, kernel_radius
from cellseg3d_dist.instances.flood import UNREACHED, Sides, flood
from cellseg3d_dist.instances.growth import BOX_AND_DIAMOND, Growth, Levels, never
from cellseg3d_dist.instances.spots import names_of_seeds, spots


class Kernels(Protocol):
    """The three steps that a backend may replace, see :mod:`.filters`, `.spots`, `.flood`."""

    @property
    def gaussian(self) -> Callable[..., npt.NDArray[np.float32]]:
        """Smooth."""
        ...

    @property
    def spots(self) -> Callable[..., npt.NDArray[np.int64]]:
        """Find seeds."""
        ...

    @property
    def flood(self) -> Callable[..., tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]]:
        """Grow seeds."""
        ...


@dataclass(frozen=True)
class NumbaKernels:
    """The default kernels."""

    gaussian: Callable[..., npt.NDArray[np.float32]] = gaussian
    spots: Callable[..., npt.NDArray[np.int64]] = spots
    flood: Callable[..., tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]] = flood


NUMBA = NumbaKernels()


@dataclass(frozen=True)
class VoronoiSpec:
    """What decides a Voronoi-Otsu labelling, sigmas in voxels (z, y, x)."""

    spot_sigma: Sigma
    outline_sigma: Sigma
    threshold: float

    @property
    def filter_halo(self) -> Triple:
        """Voxels beyond the flood region that its mask and spots depend on."""
        spot, outline = kernel_radius(self.spot_sigma), kernel_radius(self.outline_sigma)
        z, y, x = (max(s + 1, o) for s, o in zip(spot, outline, strict=True))
        return (z, y, x)

    def default_flood_halo(self) -> Triple:
        """A flood halo that proves nearly every voxel: about one cell's diameter."""
        scale = (max(pair) for pair in zip(self.spot_sigma, self.outline_sigma, strict=True))
        z, y, x = (6 + round(2.5 * s) for s in scale)
        return (z, y, x)


@dataclass(frozen=True)
class FloodedBlock:
    """A block's labels with their certificate.

    Attributes
    ----------
    labels : ndarray, uint32, shape of the write region
        1..m by ascending name; 0 outside the mask, where nothing reaches, where open.
    names : ndarray, uint64, (m,)
        Global names of the labels.
    arrival : ndarray, integer
        When the label came, in the flood's own measure: steps, or keys of a watershed.
    is_open : ndarray, bool
        True where the result depends on voxels beyond the flood region.
    mask : ndarray, uint8
        The foreground.
    levels : ndarray, int32, or None
        The landscape of a watershed.
    """

    labels: npt.NDArray[np.uint32]
    names: npt.NDArray[np.uint64]
    arrival: npt.NDArray[Any]
    is_open: npt.NDArray[np.bool_]
    mask: npt.NDArray[np.uint8]
    levels: Levels = None

    @property
    def known_arrival(self) -> npt.NDArray[Any]:
        """Arrivals, "never" where open."""
        dtype = self.arrival.dtype
        known: npt.NDArray[Any] = np.where(self.is_open, dtype.type(never(dtype)), self.arrival)
        return known


def voronoi_otsu_block(
    image: npt.NDArray[Any],
    read_region: Region,
    flood_region: Region,
    write_region: Region,
    shape: Triple,
    spec: VoronoiSpec,
    within: npt.NDArray[Any] | None = None,
    kernels: Kernels = NUMBA,
) -> FloodedBlock:
    """Label one block.

    Parameters
    ----------
    image : ndarray, (z, y, x)
        The image on ``read_region``, which is ``flood_region`` grown by
        ``spec.filter_halo`` and cut at the volume's faces.
    flood_region, write_region : Region
        Where the flood runs, and the part of it that is kept.
    shape : (int, int, int)
        The volume's shape.
    within : ndarray or None
        Non-zero on ``flood_region`` where cells are sought; None is everywhere.
    """
    mask = foreground(image, read_region, flood_region, spec, kernels)
    if within is not None:
        mask &= (within != 0).view(np.uint8)
    seeds, names = seeds_at_spots(
        image, mask, read_region, flood_region, shape, spec.spot_sigma, kernels
    )
    flooded = kernels.flood(mask, seeds, ring_of(flood_region, shape))
    return keep(flooded, names, mask, write_region.within(flood_region))


def seeds_at_spots(
    image: npt.NDArray[Any],
    mask: npt.NDArray[np.uint8],
    read_region: Region,
    flood_region: Region,
    shape: Triple,
    sigma: Sigma,
    kernels: Kernels = NUMBA,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """Local maxima of a smoothed image inside a mask.

    Parameters
    ----------
    image : ndarray, (z, y, x)
        On ``read_region``, which is ``flood_region`` grown by the filter's radius and one
        voxel, and cut at the volume's faces.
    mask : ndarray, uint8, shape of ``flood_region``
    sigma : (float, float, float)
        In voxels.

    Returns
    -------
    seeds : ndarray, int64, (n,)
        Raveled voxels of ``flood_region``, by ascending name.
    names : ndarray, uint64, (n,)
    """
    spot_region = flood_region.expand((1, 1, 1), shape)
    smoothed = kernels.gaussian(image, sigma, crop_to(read_region, spot_region))
    seeds = kernels.spots(smoothed, mask, flood_region.within(spot_region).start)
    names = names_of_seeds(seeds, flood_region, shape)
    order = np.argsort(names)
    return seeds[order], names[order]


def flood_block(
    mask: npt.NDArray[np.uint8],
    seeds: npt.NDArray[np.int64],
    owners: npt.NDArray[np.int64],
    names: npt.NDArray[np.uint64],
    flood_region: Region,
    write_region: Region,
    shape: Triple,
    growth: Growth = BOX_AND_DIAMOND,
    levels: Levels = None,
) -> FloodedBlock:
    """Flood one block from seeds of several voxels each.

    Parameters
    ----------
    mask : ndarray, uint8, shape of ``flood_region``
    seeds : ndarray, int64, (n,)
        Raveled seed voxels in ``flood_region``, inside the mask.
    owners : ndarray, int64, (n,)
        Index in ``names`` of the seed that each voxel belongs to.
    names : ndarray, uint64, (m,)
        Global names of seeds, ascending; the larger one wins a tie.
    growth, levels
        How they grow, and through which landscape on ``flood_region`` where that matters.
    """
    labels = (owners + 1).astype(np.int32)
    ring = ring_of(flood_region, shape)
    flooded, arrival = growth.flood(mask, seeds, ring, labels, levels)
    # the unknown is one more than the largest label here, which may not be the last name's
    unknown = int(labels.max(initial=0)) + 1
    flooded[flooded == unknown] = names.size + 1
    return keep((flooded, arrival), names, mask, write_region.within(flood_region), levels)


def keep(
    flooded: tuple[npt.NDArray[np.int32], npt.NDArray[Any]],
    names: npt.NDArray[np.uint64],
    mask: npt.NDArray[np.uint8],
    inside: Region,
    levels: Levels = None,
) -> FloodedBlock:
    """What a block keeps of a flood: ``inside`` is its write region in the flood region."""
    labels, arrival = flooded
    inner = inside.slices
    kept = labels[inner]
    is_open = kept == names.size + 1
    closed = np.where(is_open, np.int32(0), kept)
    dense, kept_names = compact(closed, names)
    around = None if levels is None else levels[inner].copy()
    return FloodedBlock(
        dense, kept_names, arrival[inner].copy(), is_open, mask[inner].copy(), around
    )


def foreground(
    image: npt.NDArray[Any],
    read_region: Region,
    region: Region,
    spec: VoronoiSpec,
    kernels: Kernels = NUMBA,
) -> npt.NDArray[np.uint8]:
    """Mask, 0 or 1, of ``region``: the image smoothed for outlines is above the threshold."""
    smoothed = kernels.gaussian(image, spec.outline_sigma, crop_to(read_region, region))
    return (smoothed > np.float32(spec.threshold)).view(np.uint8)


def crop_to(outer: Region, inner: Region) -> Crop:
    """Voxels of ``outer`` below and above ``inner``, per axis."""
    z, y, x = (
        (i0 - o0, o1 - i1)
        for o0, o1, i0, i1 in zip(outer.start, outer.stop, inner.start, inner.stop, strict=True)
    )
    return (z, y, x)


def ring_of(region: Region, shape: Triple) -> Sides:
    """The faces of ``region`` beyond which the volume goes on."""
    z, y, x = ((a > 0, b < n) for a, b, n in zip(region.start, region.stop, shape, strict=True))
    return (z, y, x)


def compact(
    labels: npt.NDArray[np.int32], names: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]:
    """Renumber to the labels that occur, keeping their order, with their names."""
    dense, used = _compact(labels, names.size)
    return dense, names[used]


@numba.njit(cache=True, nogil=True)
def _compact(labels, n):  # type: ignore[no-untyped-def]
    flat = labels.reshape(-1)
    used = np.zeros(n + 1, np.bool_)
    for i in range(flat.size):
        used[flat[i]] = True
    used[0] = False
    rank = np.zeros(n + 1, np.uint32)
    count = 0
    for i in range(1, n + 1):
        if used[i]:
            count += 1
            rank[i] = count
    dense = np.empty(labels.shape, np.uint32)
    flat_dense = dense.reshape(-1)
    for i in range(flat.size):
        flat_dense[i] = rank[flat[i]]
    return dense, used[1:]


def voronoi_otsu(
    image: npt.NDArray[Any], spec: VoronoiSpec, kernels: Kernels = NUMBA
) -> npt.NDArray[np.uint32]:
    """Label a whole volume in memory: one block without halos.

    Returns
    -------
    ndarray, uint32, shape of ``image``
        1..n in the x-major order of seeds, as clEsperanto's prototype numbers them.
    """
    z, y, x = image.shape
    shape = (z, y, x)
    if 0 in shape:
        return np.zeros(shape, np.uint32)
    whole = Region.whole(shape)
    return voronoi_otsu_block(image, whole, whole, whole, shape, spec, kernels=kernels).labels


__all__ = [
    "NUMBA",
    "UNREACHED",
    "FloodedBlock",
    "Kernels",
    "VoronoiSpec",
    "compact",
    "flood_block",
    "foreground",
    "seeds_at_spots",
    "voronoi_otsu",
    "voronoi_otsu_block",
]
