"""Threshold: the histogram of the smoothed image between its global extremes, for Otsu."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.grid import Block, BlockGrid, Triple
from cellseg3d_dist.instances.filters import Sigma, gaussian, kernel_radius
from cellseg3d_dist.instances.threshold import N_BINS, count_bins
from cellseg3d_dist.instances.voronoi import crop_to


@dataclass(frozen=True)
class Threshold:
    """Per block: 256 bins between the volume's smoothed extremes."""

    image: ImageInput
    grid: BlockGrid
    outline_sigma: Sigma
    low: float
    high: float
    name: str = "threshold"

    @property
    def halo(self) -> Triple:
        """Voxels read beyond the block."""
        return kernel_radius(self.outline_sigma)

    def decides(self) -> BlockRecord:
        """Block shape, smoothing and extremes."""
        return {
            "block_shape": list(self.grid.block_shape),
            "outline_sigma": list(self.outline_sigma),
            "low": self.low,
            "high": self.high,
        }

    def run(self, block: Block) -> BlockRecord:
        """Count one block."""
        region = self.grid.read_region(block, self.halo)
        image = self.image.read(region)
        smoothed = gaussian(image, self.outline_sigma, crop_to(region, block.write_region))
        within = self.image.within(block.write_region)
        return {"counts": count_bins(smoothed, self.low, self.high, within).tolist()}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """The counts are in the journal, which has its own checksums."""
        return True


def total_counts(
    records: Iterable[BlockRecord], n_zero_voxels: int, low: float, high: float
) -> npt.NDArray[np.int64]:
    """Histogram of the whole volume; voxels of skipped all-zero blocks count as 0."""
    counts = np.zeros(N_BINS, np.int64)
    for record in records:
        counts += np.asarray(record["counts"], np.int64)
    if n_zero_voxels:
        zero = np.zeros(1, np.float32)
        counts += count_bins(zero, low, high) * n_zero_voxels
    return counts
