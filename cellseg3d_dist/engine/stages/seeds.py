"""Seeds and the ground they grow on: of a prediction, or of what is thresholded."""

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
from cellseg3d_dist.instances.backends import kernels_of
from cellseg3d_dist.instances.components import components, names_of_first_voxels
from cellseg3d_dist.instances.filters import Sigma, kernel_radius
from cellseg3d_dist.instances.growth import Growth
from cellseg3d_dist.instances.levels import levels_of
from cellseg3d_dist.instances.seeded import Terrain, flood_spots, outline, terrain
from cellseg3d_dist.instances.spots import names_of_seeds
from cellseg3d_dist.instances.voronoi import FloodedBlock, VoronoiSpec, flood_block
from cellseg3d_dist.volumes import StoredArray

Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]
Names = npt.NDArray[np.uint64]


class Growable(Protocol):
    """Foreground and landscape of any region: what seeds grow in."""

    @property
    def filter_halo(self) -> Triple:
        """Voxels beyond a region that they depend on."""
        ...

    def terrain(self, region: Region) -> Terrain:
        """Where the foreground is, and the landscape where seeds grow through one."""
        ...

    def decides(self) -> BlockRecord:
        """What decides them."""
        ...


class Ground(Growable, Protocol):
    """One that also has seeds by a threshold."""

    def seeds(self, region: Region) -> Mask:
        """Where seeds are, inside the foreground."""
        ...


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

    def landscape(
        self, prediction: npt.NDArray[np.uint8], parameters: Any
    ) -> npt.NDArray[np.uint8] | None:
        """What a watershed floods, its high values first; None: cells grow by distance."""
        ...


@dataclass(frozen=True)
class PredictedGround:
    """Seeds and foreground of a stored prediction, by its representation."""

    prediction: StoredArray
    image: ImageInput
    representation: SeededRepresentation
    parameters: Any

    @property
    def filter_halo(self) -> Triple:
        """None: all is decided voxel by voxel."""
        return (0, 0, 0)

    def seeds(self, region: Region) -> Mask:
        """Where seeds are, inside the foreground."""
        seeds, foreground = self._masks(region, self.prediction.read(region))
        return seeds & foreground

    def terrain(self, region: Region) -> Terrain:
        """Where the foreground is, and the landscape of a watershed."""
        channels = self.prediction.read(region)
        _, foreground = self._masks(region, channels)
        landscape = self.representation.landscape(channels, self.parameters)
        levels = None if landscape is None else levels_of(landscape, downhill=True)
        return Terrain(foreground.view(np.uint8), levels)

    def _masks(self, region: Region, channels: npt.NDArray[np.uint8]) -> tuple[Mask, Mask]:
        seeds, foreground = self.representation.masks(channels, self.parameters)
        within = self.image.within(region)
        return seeds, foreground if within is None else foreground & within

    def decides(self) -> BlockRecord:
        """Every parameter."""
        return {"decoder": vars(self.parameters)}


@dataclass(frozen=True)
class OutlinedGround:
    """What lies above a threshold after smoothing; seeds lie above another one."""

    image: ImageInput
    spec: VoronoiSpec
    seed_threshold: float
    backend: str = "numba"

    @property
    def filter_halo(self) -> Triple:
        """Of the smoothing."""
        return kernel_radius(self.spec.outline_sigma)

    def seeds(self, region: Region) -> Mask:
        """Where seeds are, inside the foreground."""
        outlined = self._outlined(region)
        ground = terrain(outlined, self.spec.threshold, self.image.within(region))
        seeds: Mask = (outlined > np.float32(self.seed_threshold)) & (ground.mask != 0)
        return seeds

    def terrain(self, region: Region) -> Terrain:
        """The foreground, high values first."""
        return terrain(self._outlined(region), self.spec.threshold, self.image.within(region))

    def _outlined(self, region: Region) -> npt.NDArray[Any]:
        wide = region.expand(self.filter_halo, self.image.volume.shape)
        return outline(self.image.read(wide), wide, region, self.spec, kernels_of(self.backend))

    def decides(self) -> BlockRecord:
        """Both thresholds; the sigma is in the configuration."""
        return {"threshold": self.spec.threshold, "seed_threshold": self.seed_threshold}


@dataclass(frozen=True)
class LabelSeeds:
    """26-connected components of the seeds of each block."""

    ground: Ground
    fragments: Fragments
    name: str = "seeds"

    def decides(self) -> BlockRecord:
        """Parameters and block shape."""
        return {
            "block_shape": list(self.fragments.grid.block_shape),
            **self.ground.decides(),
        }

    def run(self, block: Block) -> BlockRecord:
        """Label one block's seeds."""
        labels, first = components(self.ground.seeds(block.write_region), 26)
        names = names_of_first_voxels(first, block.write_region, self.fragments.grid.shape)
        return self.fragments.write("label", block, labels, names)

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's seeds are intact."""
        return self.fragments.intact("label", block, record)


@dataclass(frozen=True)
class MergedSeeds:
    """Whole seeds: fragments of all blocks, merged and filtered.

    Attributes
    ----------
    fragments : Fragments
        Of the seeds, named by their voxels' raveled index in the volume.
    lookup : Path
        Folder of their merge: final id of every fragment, and each id's name.
    digest : str
        Of the lookup.
    """

    fragments: Fragments
    lookup: Path
    digest: str

    def within(self, region: Region, shape: Triple) -> tuple[Indices, Indices, Names]:
        """Seeds of all blocks that a region has a part in.

        Returns
        -------
        voxels : ndarray, int64, (n,)
            Raveled in the region.
        owners : ndarray, int64, (n,)
            Index of each voxel's seed in ``names``.
        names : ndarray, uint64, (m,)
            Ascending names of a flood's seeds, see :func:`.spots.names_of_seeds`.
        """
        voxels, ids = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for there, final in self._parts(region):
            voxels.append(there)
            ids.append(final)
        present, owners = np.unique(np.concatenate(ids), return_inverse=True)
        first = table(self.lookup, "names")[present - 1].astype(np.int64)
        # first voxels, z-major, as names of a flood's seeds, x-major
        names = names_of_seeds(first, Region.whole(shape), shape)
        order = np.argsort(names)
        rank = np.empty(order.size, np.int64)
        rank[order] = np.arange(order.size)
        return np.concatenate(voxels), rank[owners], names[order]

    def _parts(self, region: Region) -> Iterator[tuple[Indices, Indices]]:
        """Raveled voxels in the region, and final ids, of the seeds of each block there."""
        final, offsets = table(self.lookup, "final"), table(self.lookup, "offsets")
        for block in self.fragments.grid.overlapping(region):
            labels = self.fragments.read(block)
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


@dataclass(frozen=True)
class SeededFlooding:
    """Whole seeds grow on a ground."""

    ground: Growable
    seeds: MergedSeeds
    growth: Growth

    @property
    def filter_halo(self) -> Triple:
        """Of the ground; seeds are known."""
        return self.ground.filter_halo

    def decides(self) -> BlockRecord:
        """Seeds and ground."""
        return {"seeds": self.seeds.digest, **self.ground.decides()}

    def flooded(self, block: Block, flood_region: Region, shape: Triple) -> FloodedBlock:
        """Flood one block from the seeds of all blocks that it reads from."""
        ground = self.ground.terrain(flood_region)
        voxels, owners, names = self.seeds.within(flood_region, shape)
        return flood_block(
            ground.mask, voxels, owners, names, flood_region, block.write_region, shape,
            self.growth, ground.levels,
        )  # fmt: skip


@dataclass(frozen=True)
class SpotFlooding:
    """Maxima of a smoothed channel grow in the foreground.

    Attributes
    ----------
    channel : int
        Of the prediction, highest in the middle of cells.
    sigma : (float, float, float)
        Smoothing in voxels.
    """

    ground: PredictedGround
    channel: int
    sigma: Sigma
    growth: Growth

    @property
    def filter_halo(self) -> Triple:
        """The filter's radius, and a voxel to compare with."""
        z, y, x = (radius + 1 for radius in kernel_radius(self.sigma))
        return (z, y, x)

    def decides(self) -> BlockRecord:
        """Parameters of the decoder."""
        return self.ground.decides()

    def flooded(self, block: Block, flood_region: Region, shape: Triple) -> FloodedBlock:
        """Flood one block."""
        ground = self.ground.terrain(flood_region)
        region = flood_region.expand(self.filter_halo, shape)
        depth = self.ground.prediction.read(region, self.channel)
        return flood_spots(
            depth, ground, region, flood_region, block.write_region, shape, self.sigma, self.growth
        )
