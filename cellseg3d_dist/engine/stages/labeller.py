"""Label by a labeller: it is called on the read region; what neighbours share is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.records import read_record, record_digest, record_path, write_record
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.errors import EnvironmentFailedError
from cellseg3d_dist.grid import Block, BlockGrid, Region, Triple
from cellseg3d_dist.instances.components import names_of_first_voxels
from cellseg3d_dist.labellers import LabellerSource
from cellseg3d_dist.labellers.labeller import labels_by
from cellseg3d_dist.merging.contacts import FACE_KEYS
from cellseg3d_dist.merging.overlap import Labels, Reach, seen, side_key


@dataclass(frozen=True)
class SharedZones:
    """What blocks found in the zones that they share with their neighbours, on disk."""

    folder: Path
    grid: BlockGrid
    halo: Triple

    def reach(self, block: Block) -> Reach:
        """A block's regions."""
        return Reach(block.write_region, self.grid.read_region(block, self.halo), self.halo)

    def write(self, block: Block, labels: Labels, n_written: int) -> dict[str, str]:
        """Write the sides of a block's read region; their digests.

        Labels up to ``n_written`` are the block's fragments, the others lie in its halo.
        """
        written = np.array([n_written])
        return {
            key: write_record(self._path(key, block), labels=side, written=written)
            for key, side in self.reach(block).sides(labels).items()
        }

    def shared(self, block: Block, offset: Triple) -> tuple[Labels, int]:
        """What a block found in the zone shared with a neighbour; how many are fragments."""
        side = read_record(self._path(side_key(offset), block))
        return self.reach(block).shared(side["labels"], offset), int(side["written"][0])

    def intact(self, block: Block, digests: dict[str, str]) -> bool:
        """Whether all sides of a block are there unchanged."""
        return all(record_digest(self._path(key, block)) == digests[key] for key in FACE_KEYS)

    def _path(self, key: str, block: Block) -> Path:
        return record_path(self.folder / key, block)


@dataclass(frozen=True)
class LabelByLabeller:
    """Fragments of one block, and what its neighbours need to find overlaps.

    Attributes
    ----------
    facts : dict
        Of the labeller, as the driver found it; a worker that finds another is refused.
    constants : (float, float) or None
        Values of the image that become 0 and 1, for a labeller that wants percentiles.
    """

    image: ImageInput
    fragments: Fragments
    zones: SharedZones
    labeller: LabellerSource
    facts: dict[str, Any]
    constants: tuple[float, float] | None
    name: str = "label"

    def decides(self) -> BlockRecord:
        """The labeller, block shape, halo and constants: the labels depend on the cut."""
        return {
            "labeller": self.facts,
            "block_shape": list(self.fragments.grid.block_shape),
            "halo": list(self.zones.halo),
            "constants": None if self.constants is None else list(self.constants),
        }

    def run(self, block: Block) -> BlockRecord:
        """Label one block."""
        reach = self.zones.reach(block)
        write = block.write_region.within(reach.read)
        found = seen(self._labels(block, reach.read), write)
        shape = self.fragments.grid.shape
        names = names_of_first_voxels(found.first, block.write_region, shape)
        own = np.ascontiguousarray(found.labels[write.slices])
        # what lies in the halo alone is higher
        record = self.fragments.write("label", block, own, names)
        return record | {"sides": self.zones.write(block, found.labels, names.size)}

    def _labels(self, block: Block, read: Region) -> npt.NDArray[np.integer[Any]]:
        within = self.image.within(read)
        if within is not None and not within[block.write_region.within(read).slices].any():
            return np.zeros(read.shape, np.uint8)
        image = self._image(read)
        if image.min() == image.max():
            return np.zeros(read.shape, np.uint8)
        labeller = self.labeller.load()
        if self.labeller.facts() != self.facts:
            raise EnvironmentFailedError(
                f"labeller {self.labeller.name} on a worker differs from the driver's. Give all "
                f"workers the same files and versions."
            )
        labels = labels_by(labeller, image, self.image.volume.voxel_size)
        return labels if within is None else np.where(within, labels, 0)

    def _image(self, read: Region) -> npt.NDArray[Any]:
        labeller = self.labeller.load()
        if getattr(labeller, "all_channels", False):
            channels = range(len(self.image.volume.channels))
            return np.stack([self.image.read(read, channel) for channel in channels])
        image = self.image.read(read)
        if self.constants is None:
            return image
        low, high = self.constants
        scaled = image.astype(np.float32) - np.float32(low)
        scaled /= np.float32(high - low)
        return scaled

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether fragments and sides are intact."""
        fine = self.fragments.intact("label", block, record)
        return fine and self.zones.intact(block, record["sides"])
