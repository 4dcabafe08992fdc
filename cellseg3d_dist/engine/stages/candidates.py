"""Candidates: star-convex objects at the peaks of a predicted probability, block by block.

What a network predicts besides the probability is kept at peaks alone: first at the
*peaks* of a block on its own, from the memory of the prediction; then those remain that
are peaks of the volume, by the stored probability of one voxel around the block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.records import read_record, record_digest, record_path, write_record
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.engine.stages.predicted import Channels, Predicted
from cellseg3d_dist.engine.tables import table
from cellseg3d_dist.grid import Block, BlockGrid, Region, Triple
from cellseg3d_dist.instances.spots import names_of_seeds, position_of_seeds
from cellseg3d_dist.representations.suppression import Candidates, candidates


def peaks(channels: Channels, region: Region, shape: Triple, threshold: float) -> Candidates:
    """Candidates of a region if there were nothing beyond it; among them all of the volume's.

    Parameters
    ----------
    channels : ndarray, uint8, (1 + n_rays, z, y, x)
        Probability and distances on ``region``.
    shape : (int, int, int)
        The volume's shape.
    threshold : float
        Least probability, 0..1.
    """
    alone = Region.whole(region.shape)
    found = candidates(channels, alone, alone, region.shape, threshold)
    z, y, x = found.positions.T
    index = np.ravel_multi_index((z, y, x), region.shape).astype(np.int64)
    return Candidates(
        # x-major in region and volume alike, so the order stays
        names_of_seeds(index, region, shape),
        found.positions + np.array(region.start, np.int64),
        found.probability,
        found.distances,
    )


@dataclass(frozen=True)
class CandidateFiles:
    """Candidates of each block, in a folder of records."""

    folder: Path
    grid: BlockGrid

    def write(self, block: Block, found: Candidates) -> str:
        """Write a block's candidates; the digest."""
        return write_record(
            record_path(self.folder, block),
            names=found.names,
            probability=found.probability,
            distances=found.distances,
        )

    def read(self, block: Block) -> Candidates:
        """A block's candidates, by name."""
        arrays = read_record(record_path(self.folder, block))
        positions = np.stack(position_of_seeds(arrays["names"], self.grid.shape), axis=1)
        return Candidates(positions=positions, **arrays)

    def intact(self, block: Block, digest: str) -> bool:
        """Whether a block's candidates are there unchanged."""
        return record_digest(record_path(self.folder, block)) == digest


@dataclass(frozen=True)
class FindCandidates:
    """Those of a block's peaks that no voxel of another block betters."""

    predicted: Predicted
    peaks: CandidateFiles
    candidates: CandidateFiles
    threshold: float
    name: str = "candidates"

    def decides(self) -> BlockRecord:
        """Block shape and threshold."""
        return {
            "block_shape": list(self.candidates.grid.block_shape),
            "threshold": self.threshold,
        }

    def run(self, block: Block) -> BlockRecord:
        """Find one block's candidates."""
        shape = self.candidates.grid.shape
        region = block.write_region.expand((1, 1, 1), shape)
        probability = self.predicted.read(region)[:1]
        known = candidates(probability, region, block.write_region, shape, self.threshold)
        of_block = self.peaks.read(block)
        found = of_block.take(np.isin(of_block.names, known.names))
        return {"candidates": len(found), "digest": self.candidates.write(block, found)}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's candidates are intact."""
        return self.candidates.intact(block, record["digest"])


@dataclass(frozen=True)
class Known:
    """The candidates that take part: those of some blocks.

    Attributes
    ----------
    folder : Path
        Holds a table of which blocks have candidates, named by ``upstream``.
    upstream : str
        Digest of what decides them.
    """

    files: CandidateFiles
    folder: Path
    upstream: str

    @property
    def grid(self) -> BlockGrid:
        """The cut."""
        return self.files.grid

    def blocks(self, region: Region) -> Iterator[Block]:
        """Blocks that have candidates and lie, in part, in a region."""
        takes_part = table(self.folder, f"known-{self.upstream}")
        return (block for block in self.grid.overlapping(region) if takes_part[block.number])

    def within(self, region: Region) -> Candidates:
        """All candidates whose centre is in a region."""
        parts = []
        for block in self.blocks(region):
            found = self.files.read(block)
            parts.append(found.take(inside(found, region)))
        return joined(parts)


def joined(parts: list[Candidates]) -> Candidates:
    """Candidates of several blocks, by name; there may be no block at all."""
    return Candidates.join(parts) if parts else _NONE


_NONE = Candidates(
    np.empty(0, np.uint64),
    np.empty((0, 3), np.int64),
    np.empty(0, np.uint8),
    np.empty((0, 0), np.uint8),
)


def inside(found: Candidates, region: Region) -> npt.NDArray[np.bool_]:
    """Which candidates have their centre in a region."""
    start, stop = np.array(region.start), np.array(region.stop)
    beyond = (found.positions < start) | (found.positions >= stop)
    within: npt.NDArray[np.bool_] = np.count_nonzero(beyond, axis=1) == 0
    return within
