"""Label: from image or prediction to fragments, by components or by a certified flood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cellseg3d_dist.engine.fragments import Fragments, Pass
from cellseg3d_dist.engine.front import Fronts
from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.grid import Block, Region, Triple
from cellseg3d_dist.instances.backends import kernels_of
from cellseg3d_dist.instances.components import components, names_of_first_voxels
from cellseg3d_dist.instances.filters import Sigma, gaussian, kernel_radius
from cellseg3d_dist.instances.growth import BOX_AND_DIAMOND, Growth, Watershed
from cellseg3d_dist.instances.seeded import watershed_block
from cellseg3d_dist.instances.voronoi import (
    FloodedBlock,
    VoronoiSpec,
    crop_to,
    voronoi_otsu_block,
)


@dataclass(frozen=True)
class LabelComponents:
    """Connected components of the smoothed image above the threshold, without a flood."""

    image: ImageInput
    fragments: Fragments
    outline_sigma: Sigma
    threshold: float
    connectivity: int
    name: str = "label"

    @property
    def halo(self) -> Triple:
        """Voxels read beyond the block."""
        return kernel_radius(self.outline_sigma)

    def decides(self) -> BlockRecord:
        """Block shape and threshold."""
        return {
            "block_shape": list(self.fragments.grid.block_shape),
            "threshold": self.threshold,
        }

    def run(self, block: Block) -> BlockRecord:
        """Label one block."""
        grid = self.fragments.grid
        region = grid.read_region(block, self.halo)
        image = self.image.read(region)
        if any(self.outline_sigma):
            image = gaussian(image, self.outline_sigma, crop_to(region, block.write_region))
            mask = image > np.float32(self.threshold)
        else:
            mask = image > self.threshold
        within = self.image.within(block.write_region)
        if within is not None:
            mask &= within
        labels, first = components(mask, self.connectivity)
        names = names_of_first_voxels(first, block.write_region, grid.shape)
        return self.fragments.write("label", block, labels, names)

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's fragments are intact."""
        return self.fragments.intact("label", block, record)


class Flooding(Protocol):
    """A way to make mask and seeds of a region and to flood it, see :mod:`.instances.flood`."""

    @property
    def filter_halo(self) -> Triple:
        """Voxels beyond the flood region that mask and seeds depend on."""
        ...

    @property
    def growth(self) -> Growth:
        """How labels grow."""
        ...

    def flooded(self, block: Block, flood_region: Region, shape: Triple) -> FloodedBlock:
        """One block's labels with their certificate."""
        ...

    def decides(self) -> BlockRecord:
        """What decides the result."""
        ...


@dataclass(frozen=True)
class VoronoiFlooding:
    """Voronoi-Otsu: spots of the smoothed image flood what is above the threshold."""

    image: ImageInput
    spec: VoronoiSpec
    backend: str = "numba"

    @property
    def filter_halo(self) -> Triple:
        """Of its filters."""
        return self.spec.filter_halo

    @property
    def growth(self) -> Growth:
        """By distance."""
        return BOX_AND_DIAMOND

    def flooded(self, block: Block, flood_region: Region, shape: Triple) -> FloodedBlock:
        """Read and label one block."""
        region = flood_region.expand(self.filter_halo, shape)
        return voronoi_otsu_block(
            self.image.read(region),
            region,
            flood_region,
            block.write_region,
            shape,
            self.spec,
            self.image.within(flood_region),
            kernels_of(self.backend),
        )

    def decides(self) -> BlockRecord:
        """The threshold; sigmas are in the configuration."""
        return {"threshold": self.spec.threshold}


@dataclass(frozen=True)
class WatershedFlooding:
    """Spots of the smoothed image flood what is above the threshold, high values first."""

    image: ImageInput
    spec: VoronoiSpec
    growth: Watershed
    backend: str = "numba"

    @property
    def filter_halo(self) -> Triple:
        """Of its filters."""
        return self.spec.filter_halo

    def flooded(self, block: Block, flood_region: Region, shape: Triple) -> FloodedBlock:
        """Read and label one block."""
        region = flood_region.expand(self.filter_halo, shape)
        return watershed_block(
            self.image.read(region),
            region,
            flood_region,
            block.write_region,
            shape,
            self.spec,
            self.growth,
            self.image.within(flood_region),
            kernels_of(self.backend),
        )

    def decides(self) -> BlockRecord:
        """The threshold; sigmas and connectivity are in the configuration."""
        return {"threshold": self.spec.threshold}


@dataclass(frozen=True)
class LabelFlood:
    """A flood in blocks; the second pass redoes open blocks with twice the halo.

    Attributes
    ----------
    flood_halo : (int, int, int)
        Voxels beyond the block that the flood runs through.
    keep_front : bool
        Keep the fronts of blocks with open voxels, for the exchange.
    """

    flooding: Flooding
    fragments: Fragments
    fronts: Fronts
    flood_halo: Triple
    keep_front: bool
    which: Pass = "label"

    @property
    def name(self) -> str:
        """The pass."""
        return self.which

    @property
    def halo(self) -> Triple:
        """Voxels read beyond the block."""
        pairs = zip(self.flood_halo, self.flooding.filter_halo, strict=True)
        z, y, x = (flood + filters for flood, filters in pairs)
        return (z, y, x)

    def decides(self) -> BlockRecord:
        """Block shape, halo, and what the flooding says."""
        return {
            "block_shape": list(self.fragments.grid.block_shape),
            "flood_halo": list(self.flood_halo),
            "keep_front": self.keep_front,
            **self.flooding.decides(),
        }

    def run(self, block: Block) -> BlockRecord:
        """Label one block and certify it."""
        shape = self.fragments.grid.shape
        flood_region = block.write_region.expand(self.flood_halo, shape)
        found = self.flooding.flooded(block, flood_region, shape)
        record = self.fragments.write(
            self.which, block, found.labels, found.names, found.known_arrival
        )
        n_open = int(np.count_nonzero(found.is_open))
        record |= {"open": n_open, "foreground": int(np.count_nonzero(found.mask))}
        if n_open and self.keep_front:
            record["front"] = self.fronts.begin(block, found)
        return record

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's fragments, and its front where it has one, are intact."""
        fine = self.fragments.intact(self.which, block, record)
        return fine and ("front" not in record or self.fronts.intact(block, 0, record["front"]))
