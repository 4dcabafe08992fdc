"""Peaks by height, block by block: reconstruction by exchange of faces, then seeds of peaks.

Each round every block that may change takes what its neighbours last showed on their faces,
reconstructs, and shows its own. Files are by round, so that a block run twice or late writes
the same bytes again; which round a neighbour's faces are of, the driver says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.config.values import Length
from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.records import read_record, record_digest, record_path, write_record
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.engine.stages.seeds import Growable
from cellseg3d_dist.engine.tables import table
from cellseg3d_dist.grid import Block, BlockGrid, Region, Triple
from cellseg3d_dist.instances.backends import kernels_of
from cellseg3d_dist.instances.components import names_of_first_voxels
from cellseg3d_dist.instances.distance import capped_distance, distance_halo
from cellseg3d_dist.instances.filters import kernel_radius
from cellseg3d_dist.instances.hmaxima import NOTHING, Image, peaks, reconstructed
from cellseg3d_dist.instances.levels import levels_of
from cellseg3d_dist.instances.seeded import Terrain, outline
from cellseg3d_dist.instances.voronoi import VoronoiSpec
from cellseg3d_dist.merging.contacts import Faces, faces_of, side_of

Mask = npt.NDArray[np.uint8]
#: A block of which nothing was shown yet.
NEVER = -1


class Landscape(Growable, Protocol):
    """What peaks are sought in, and what they grow through."""

    def read(self, region: Region) -> tuple[Image, Mask]:
        """Values and foreground of a region."""
        ...


@dataclass(frozen=True)
class OutlinedLandscape:
    """The image as its foreground is found: after smoothing, or a network's foreground.

    Attributes
    ----------
    spec : VoronoiSpec
        Its threshold and its smoothing before outlines.
    """

    image: ImageInput
    spec: VoronoiSpec
    backend: str = "numba"

    @property
    def filter_halo(self) -> Triple:
        """Of the smoothing."""
        return kernel_radius(self.spec.outline_sigma)

    def read(self, region: Region) -> tuple[Image, Mask]:
        """Values and foreground of a region."""
        wide = region.expand(self.filter_halo, self.image.volume.shape)
        kernels = kernels_of(self.backend)
        outlined = outline(self.image.read(wide), wide, region, self.spec, kernels)
        mask = outlined > np.float32(self.spec.threshold)
        within = self.image.within(region)
        if within is not None:
            mask &= within
        return outlined.astype(np.float32), mask.view(np.uint8)

    def terrain(self, region: Region) -> Terrain:
        """The foreground, high values first."""
        values, mask = self.read(region)
        return Terrain(mask, levels_of(values, downhill=True))

    def decides(self) -> BlockRecord:
        """The threshold; the sigma is in the configuration."""
        return {"threshold": self.spec.threshold}


@dataclass(frozen=True)
class DistanceLandscape:
    """How deep in the foreground a voxel is, up to a cap.

    Attributes
    ----------
    outlined : OutlinedLandscape
        Has the foreground.
    cap : float
        In micrometres.
    """

    outlined: OutlinedLandscape
    cap: float

    @property
    def filter_halo(self) -> Triple:
        """The cap, and what the foreground depends on."""
        reach = distance_halo(self.cap, self._size)
        z, y, x = (a + b for a, b in zip(reach, self.outlined.filter_halo, strict=True))
        return (z, y, x)

    @property
    def _size(self) -> tuple[float, float, float]:
        return self.outlined.image.volume.voxel_size

    def read(self, region: Region) -> tuple[Image, Mask]:
        """Distances and foreground of a region."""
        shape = self.outlined.image.volume.shape
        wide = region.expand(distance_halo(self.cap, self._size), shape)
        _, mask = self.outlined.read(wide)
        values = capped_distance(mask, wide, region, self.cap, self._size)
        return values, np.ascontiguousarray(mask[region.within(wide).slices])

    def terrain(self, region: Region) -> Terrain:
        """The foreground, its depths first."""
        values, mask = self.read(region)
        return Terrain(mask, levels_of(values, downhill=True))

    def decides(self) -> BlockRecord:
        """Cap and threshold."""
        return {"cap": self.cap, **self.outlined.decides()}


def distance_cap(spot_sigma: Length, voxel_size: tuple[float, float, float]) -> float:
    """Depth in micrometres beyond which all is one peak: far more than a cell's.

    Four times the spots' sigma, as far as their filter reaches, and at least eight voxels of
    the finest axis.
    """
    finest = min(voxel_size)
    sigma = spot_sigma.value * (1.0 if spot_sigma.in_micrometres else finest)
    return max(4 * sigma, 8 * finest)


@dataclass(frozen=True)
class ShownLevels:
    """Faces of the reconstruction, by round, as the driver last knew them.

    Attributes
    ----------
    key : str
        Of ``latest-KEY.npy``: the round of each block's last faces, or ``NEVER``.
    """

    folder: Path
    grid: BlockGrid
    key: str

    def of(self, block: Block) -> Faces | None:
        """A block's last faces; None of one that showed none."""
        latest = int(table(self.folder, f"latest-{self.key}")[block.number])
        return None if latest == NEVER else read_record(self.path(block, latest))

    def path(self, block: Block, number: int) -> Path:
        """File of a block's faces of one round."""
        return record_path(self.folder / f"round-{number}", block)

    def around(self, block: Block) -> Image:
        """The reconstruction on the voxels around a block, as far as it is known."""
        out = np.full([n + 2 for n in block.write_region.shape], NOTHING, np.float32)
        for offset, neighbour in self.grid.neighbours(block):
            faces = self.of(neighbour)
            if faces is None:
                continue
            z, y, x = (-o for o in offset)
            index = [
                slice(1, -1) if o == 0 else slice(0, 1) if o < 0 else slice(-1, None)
                for o in offset
            ]
            out[tuple(index)] = side_of(faces, (z, y, x))
        return out


@dataclass(frozen=True)
class _Peaks:
    """What both stages share.

    Attributes
    ----------
    h : float
        Height in the landscape's units.
    """

    landscape: Landscape
    levels: ShownLevels
    h: float
    name: str

    def decides(self) -> BlockRecord:
        """Landscape, height, and what neighbours showed."""
        return {
            "block_shape": list(self.levels.grid.block_shape),
            "h": self.h,
            "levels": self.levels.key,
            **self.landscape.decides(),
        }


@dataclass(frozen=True)
class Reconstruct(_Peaks):
    """One round of one block: its faces, and whether they are others than before."""

    number: int

    def run(self, block: Block) -> BlockRecord:
        """Reconstruct one block."""
        values, mask = self.landscape.read(block.write_region)
        around = self.levels.around(block)
        faces = faces_of(reconstructed(values, mask, self.h, around))
        before = self.levels.of(block)
        if before is None:
            changed = any((plane > NOTHING).any() for plane in faces.values())
        else:
            changed = any(not np.array_equal(faces[key], before[key]) for key in faces)
        digest = write_record(self.levels.path(block, self.number), **faces)
        return {"digest": digest, "changed": changed}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the faces are intact."""
        return bool(record_digest(self.levels.path(block, self.number)) == record["digest"])


@dataclass(frozen=True)
class LabelPeaks(_Peaks):
    """Parts of peaks of each block, with their tops for sizes: what has no top is no peak."""

    fragments: Fragments

    def run(self, block: Block) -> BlockRecord:
        """Label one block's peaks."""
        values, mask = self.landscape.read(block.write_region)
        level = reconstructed(values, mask, self.h, self.levels.around(block))
        labels, first, tops = peaks(values, level, self.h)
        names = names_of_first_voxels(first, block.write_region, self.levels.grid.shape)
        return self.fragments.write("label", block, labels, names, sizes=tops)

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's peaks are intact."""
        return self.fragments.intact("label", block, record)
