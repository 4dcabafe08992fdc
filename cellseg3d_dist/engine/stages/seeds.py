"""Seeds: components of a prediction's seed mask, before they are merged across blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.engine.tables import table
from cellseg3d_dist.grid import Block, Region, Triple
from cellseg3d_dist.instances.components import components, names_of_first_voxels
from cellseg3d_dist.instances.filters import Sigma, kernel_radius
from cellseg3d_dist.instances.growth import BOX_AND_DIAMOND, Growth
from cellseg3d_dist.instances.spots import names_of_seeds
from cellseg3d_dist.instances.voronoi import FloodedBlock, flood_block, flood_from_spots
from cellseg3d_dist.volumes import StoredArray

Mask = npt.NDArray[np.bool_]


class SeededRepresentation(Protocol):
    """A representation whose seeds and foreground are decided voxel by voxel."""

    def masks(self, prediction: npt.NDArray[np.uint8], parameters: Any) -> tuple[Mask, Mask]:
        """Seeds and foreground of stored channels (C, z, y, x)."""
        ...

    @property
    def spot_channel(self) -> int:
        """Stored channel whose maxima may seed cells, where there is one."""
        ...

    def spot_sigma(self, parameters: Any, voxel_size: tuple[float, float, float]) -> Sigma:
        """Smoothing of that channel in voxels; zeros where thresholds make the seeds."""
        ...


@dataclass(frozen=True)
class Masks:
    """Seeds and foreground of any region of a stored prediction."""

    prediction: StoredArray
    image: ImageInput
    representation: SeededRepresentation
    parameters: Any

    def read(self, region: Region) -> tuple[Mask, Mask]:
        """Where seeds are, inside the foreground, and where the foreground is."""
        channels = self.prediction.read(region)
        seeds, foreground = self.representation.masks(channels, self.parameters)
        within = self.image.within(region)
        if within is not None:
            foreground = foreground & within
        return seeds & foreground, foreground

    def decides(self) -> BlockRecord:
        """Every parameter."""
        return {"decoder": vars(self.parameters)}


@dataclass(frozen=True)
class LabelSeeds:
    """26-connected components of the seeds of each block."""

    masks: Masks
    fragments: Fragments
    name: str = "seeds"

    def decides(self) -> BlockRecord:
        """Parameters and block shape."""
        return {
            "block_shape": list(self.fragments.grid.block_shape),
            **self.masks.decides(),
        }

    def run(self, block: Block) -> BlockRecord:
        """Label one block's seeds."""
        seeds, _ = self.masks.read(block.write_region)
        labels, first = components(seeds, 26)
        names = names_of_first_voxels(first, block.write_region, self.fragments.grid.shape)
        return self.fragments.write("label", block, labels, names)

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's seeds are intact."""
        return self.fragments.intact("label", block, record)


@dataclass(frozen=True)
class SeededFlooding:
    """Whole seeds, merged and filtered by size, flood the foreground.

    Attributes
    ----------
    lookup : Path
        Folder of the seeds' merge: final id of every fragment, and each id's name.
    """

    masks: Masks
    seeds: Fragments
    lookup: Path
    lookup_digest: str

    @property
    def filter_halo(self) -> Triple:
        """None: masks are decided voxel by voxel."""
        return (0, 0, 0)

    @property
    def growth(self) -> Growth:
        """By distance."""
        return BOX_AND_DIAMOND

    def decides(self) -> BlockRecord:
        """Seeds and parameters."""
        return {"seeds": self.lookup_digest, **self.masks.decides()}

    def flooded(self, block: Block, flood_region: Region, shape: Triple) -> FloodedBlock:
        """Flood one block from the seeds of all blocks that it reads from."""
        _, foreground = self.masks.read(flood_region)
        voxels, ids = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for there, final in self._seeds_in(flood_region):
            voxels.append(there)
            ids.append(final)
        seeds, final_ids = np.concatenate(voxels), np.concatenate(ids)
        present, owners = np.unique(final_ids, return_inverse=True)
        names = _flood_names(self._names()[present - 1], shape)
        order = np.argsort(names)
        rank = np.empty(order.size, np.int64)
        rank[order] = np.arange(order.size)
        mask = foreground.view(np.uint8)
        return flood_block(
            mask, seeds, rank[owners], names[order], flood_region, block.write_region, shape
        )

    def _seeds_in(
        self, region: Region
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Raveled voxels in the region, and final ids, of the seeds of each block there."""
        final, offsets = table(self.lookup, "final"), table(self.lookup, "offsets")
        for block in self.seeds.grid.overlapping(region):
            labels = self.seeds.read(block)
            if labels is None:
                continue
            part = block.write_region.intersect(region)
            inside = labels[part.within(block.write_region).slices]
            where = np.nonzero(inside)
            own = np.asarray(final[offsets[block.number] : offsets[block.number + 1]], np.int64)
            ids = own[inside[where].astype(np.int64) - 1]
            kept = ids > 0
            start = part.within(region).start
            z, y, x = (axis[kept] + s for axis, s in zip(where, start, strict=True))
            yield np.ravel_multi_index((z, y, x), region.shape).astype(np.int64), ids[kept]

    def _names(self) -> npt.NDArray[np.uint64]:
        names: npt.NDArray[np.uint64] = table(self.lookup, "names")
        return names


def _flood_names(names: npt.NDArray[np.uint64], shape: Triple) -> npt.NDArray[np.uint64]:
    """Names of components (first voxels, z-major) as names of a flood's seeds (x-major)."""
    return names_of_seeds(names.astype(np.int64), Region.whole(shape), shape)


@dataclass(frozen=True)
class SpotFlooding:
    """Maxima of a smoothed channel flood the foreground.

    Attributes
    ----------
    channel : int
        Of the prediction, highest in the middle of cells.
    sigma : (float, float, float)
        Smoothing in voxels.
    """

    masks: Masks
    channel: int
    sigma: Sigma

    @property
    def filter_halo(self) -> Triple:
        """The filter's radius, and a voxel to compare with."""
        z, y, x = (radius + 1 for radius in kernel_radius(self.sigma))
        return (z, y, x)

    @property
    def growth(self) -> Growth:
        """By distance."""
        return BOX_AND_DIAMOND

    def decides(self) -> BlockRecord:
        """Parameters of the decoder."""
        return self.masks.decides()

    def flooded(self, block: Block, flood_region: Region, shape: Triple) -> FloodedBlock:
        """Flood one block."""
        _, foreground = self.masks.read(flood_region)
        region = flood_region.expand(self.filter_halo, shape)
        depth = self.masks.prediction.read(region, self.channel)
        mask = foreground.view(np.uint8)
        return flood_from_spots(
            depth, mask, region, flood_region, block.write_region, shape, self.sigma
        )
