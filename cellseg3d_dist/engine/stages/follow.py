"""Follow: where each foreground voxel ends along a predicted flow; assign: the sink it is in.

A block follows its voxels through a halo. What leaves that is *open*, and followed again
with a larger halo; with the halo of :func:`~.following.reach` nothing is. The ends of all
blocks make the sinks of the volume, on the driver; from these each block takes the names
of its fragments.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.records import read_record, record_digest, record_path, write_record
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.engine.stages.predicted import Predicted
from cellseg3d_dist.engine.tables import table
from cellseg3d_dist.grid import Block, Region, Triple
from cellseg3d_dist.representations.following import FlowParameters, Followed, follow
from cellseg3d_dist.representations.representation import Size
from cellseg3d_dist.representations.sinks import Arrivals, Sinks, assign, merge_arrivals

Index = npt.NDArray[np.uint32]

#: Ends that wait to be added up, at least.
_PENDING = 1 << 20


@dataclass(frozen=True)
class Ends:
    """Where voxels of each block end, attempt by attempt, in a folder of records.

    The first attempt has all foreground voxels of a block, the next the open ones of the
    one before. A voxel's end is kept as 1 + its place among the block's different ends, 0
    where it is open.
    """

    folder: Path

    def write(self, block: Block, attempt: int, followed: Followed) -> dict[str, str]:
        """Write an attempt; the digests."""
        closed = ~followed.is_open
        positions, inverse, counts = np.unique(
            followed.ends[closed], return_inverse=True, return_counts=True
        )
        index = np.zeros(followed.ends.size, np.uint32)
        index[closed] = inverse + 1
        # a block has fewer than 2**32 voxels
        voxels = followed.voxels.astype(np.uint32)
        arrived = self._path("arrivals", block, attempt)
        return {
            "ends": write_record(self._path("ends", block, attempt), voxels=voxels, index=index),
            "arrivals": write_record(arrived, positions=positions, counts=counts),
        }

    def read(self, block: Block, attempt: int) -> tuple[Index, Index]:
        """Raveled voxels in the write region, and the index of each one's end."""
        arrays = read_record(self._path("ends", block, attempt))
        return arrays["voxels"], arrays["index"]

    def arrivals(self, block: Block, attempt: int) -> Arrivals:
        """How many voxels that were followed in an attempt end where."""
        return Arrivals(**read_record(self._path("arrivals", block, attempt)))

    def intact(self, block: Block, attempt: int, digests: dict[str, str]) -> bool:
        """Whether an attempt's records are there unchanged."""
        return all(
            record_digest(self._path(part, block, attempt)) == digest
            for part, digest in digests.items()
        )

    def _path(self, part: str, block: Block, attempt: int) -> Path:
        return record_path(self.folder / f"{part}-{attempt}", block)


def total_arrivals(parts: Iterable[Arrivals]) -> Arrivals:
    """Add up the arrivals of all blocks, holding few more than there are different ends."""
    total, pending, n_pending = merge_arrivals([]), [], 0
    for part in parts:
        pending.append(part)
        n_pending += part.positions.size
        if n_pending > max(total.positions.size, _PENDING):
            total, pending, n_pending = merge_arrivals([total, *pending]), [], 0
    return merge_arrivals([total, *pending])


@dataclass(frozen=True)
class Follow:
    """One attempt to follow the voxels of a block.

    Attributes
    ----------
    halo : (int, int, int)
        Voxels read beyond those that are followed.
    attempt : int
        0 follows all foreground, a later one what the one before left open.
    """

    predicted: Predicted
    ends: Ends
    voxel_size: Size
    parameters: FlowParameters
    halo: Triple
    attempt: int = 0

    @property
    def name(self) -> str:
        """One journal per attempt."""
        return f"follow-{self.attempt}" if self.attempt else "follow"

    def again(self, most: Triple) -> Follow:
        """The next attempt: twice the halo, as far as voxels can get at ``most``."""
        z, y, x = (min(max(1, 2 * h), m) for h, m in zip(self.halo, most, strict=True))
        return replace(self, halo=(z, y, x), attempt=self.attempt + 1)

    def decides(self) -> BlockRecord:
        """Block shape, halo and parameters."""
        return {
            "block_shape": list(self.predicted.prediction.block_shape),
            "halo": list(self.halo),
            "decoder": vars(self.parameters),
        }

    def run(self, block: Block) -> BlockRecord:
        """Follow one block's voxels."""
        if self.attempt:
            voxels, index = self.ends.read(block, self.attempt - 1)
            followed = self._again(block.write_region, voxels[index == 0].astype(np.int64))
        else:
            followed = self._follow(block.write_region)
        return {
            "voxels": int(followed.voxels.size),
            "open": int(np.count_nonzero(followed.is_open)),
            "digests": self.ends.write(block, self.attempt, followed),
        }

    def _again(self, region: Region, voxels: npt.NDArray[np.int64]) -> Followed:
        """Follow some voxels, given and returned by their index in a region."""
        at = np.stack(np.unravel_index(voxels, region.shape))
        z, y, x = (int(low) for low in at.min(axis=1))
        stop_z, stop_y, stop_x = (int(high) + 1 for high in at.max(axis=1))
        # open voxels mostly lie along one face: nothing beyond their halo need be read
        box = Region((z, y, x), (stop_z, stop_y, stop_x))
        moved = tuple(at - np.array(box.start)[:, None])
        there = np.ravel_multi_index(moved, box.shape).astype(np.int64)
        followed = self._follow(box.shift(region.start), there)
        return Followed(voxels, followed.ends, followed.is_open)

    def _follow(self, inner: Region, voxels: npt.NDArray[np.int64] | None = None) -> Followed:
        shape = self.predicted.prediction.shape
        region = inner.expand(self.halo, shape)
        channels = self.predicted.read(region)
        return follow(channels, region, inner, shape, self.voxel_size, self.parameters, voxels)

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's ends are intact."""
        return self.ends.intact(block, self.attempt, record["digests"])


@dataclass(frozen=True)
class Assign:
    """Fragments of one block: its foreground voxels by the sink they end in.

    Attributes
    ----------
    folder : Path
        Tables of the volume's sinks.
    sinks : str
        Their digest.
    """

    ends: Ends
    folder: Path
    sinks: str
    fragments: Fragments
    name: str = "label"

    def decides(self) -> BlockRecord:
        """Block shape and sinks."""
        return {
            "block_shape": list(self.fragments.grid.block_shape),
            "sinks": self.sinks,
        }

    def run(self, block: Block) -> BlockRecord:
        """Assign one block's voxels."""
        found = Sinks(table(self.folder, "positions"), table(self.folder, "names"))
        parts = []
        attempt, is_open = 0, True
        while is_open:
            voxels, index = self.ends.read(block, attempt)
            names = assign(self.ends.arrivals(block, attempt).positions, found)
            parts.append((voxels, index, names))
            attempt, is_open = attempt + 1, not index.all()
        present = np.unique(np.concatenate([names for _, _, names in parts]))
        present = present[present > 0]
        labels = np.zeros(block.write_region.shape, np.uint32)
        for voxels, index, names in parts:
            numbers = np.zeros(names.size + 1, np.uint32)
            numbers[1:] = np.where(names > 0, np.searchsorted(present, names) + 1, 0)
            labels.reshape(-1)[voxels] = numbers[index]
        return self.fragments.write("label", block, labels, present)

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's fragments are intact."""
        return self.fragments.intact("label", block, record)
