"""Predict: the network's channels of each block, 8 bits each, as if from the whole volume."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.network import Network
from cellseg3d_dist.engine.records import digest
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.engine.stages.candidates import CandidateFiles, peaks
from cellseg3d_dist.engine.stages.predicted import masked
from cellseg3d_dist.grid import Block, Triple
from cellseg3d_dist.volumes import StoredArray

if TYPE_CHECKING:
    from cellseg3d_dist.networks.predictor import Tiling


@dataclass(frozen=True)
class Predict:
    """Reads what the block's patches need, runs them, writes the block of the prediction.

    Attributes
    ----------
    constants : (float, float)
        Values of the image that are 0 and 1 to the network, of the whole volume.
    reach : (int, int, int)
        A block farther than this from the mask is not predicted.
    sparse : dict or None
        Of a representation with sparse candidates: the parameters of their choice. Then only
        the first channel is stored.
    """

    image: ImageInput
    prediction: StoredArray
    folder: Path
    network: Network
    constants: tuple[float, float]
    reach: Triple
    sparse: dict[str, Any] | None = None
    name: str = "predict"

    def decides(self) -> BlockRecord:
        """Weights, device, batch, torch, constants and block shape."""
        return {
            "block_shape": list(self.prediction.grid.block_shape),
            "constants": list(self.constants),
            "sparse": self.sparse,
            **self.network.decides(),
        }

    def run(self, block: Block) -> BlockRecord:
        """Predict one block."""
        region = block.write_region
        near = self.image.within(region.expand(self.reach, self.prediction.shape))
        if near is not None and not near.any():
            return {"digest": None, "maxima": [], "peaks": None}
        forward = self.network.forward()
        if self.network.compat is None:
            predicted = self._tiling().predict(self.image.read, region, self.constants, forward)
        else:
            from cellseg3d_dist.networks.compat import cellseg3d_channels

            predicted = cellseg3d_channels(self.network.model(), self.image.read(region))
        channels = predicted if self.sparse is None else predicted[:1].copy()
        self.prediction.write(region, channels)
        maxima = channels.max(axis=(1, 2, 3), initial=0)
        return {
            "digest": digest(channels),
            "maxima": maxima.tolist(),
            "peaks": None if self.sparse is None else self._write_peaks(block, predicted),
            "halved": forward.halved,
        }

    def _tiling(self) -> Tiling:
        from cellseg3d_dist.networks.predictor import Tiling

        volume = self.image.volume
        return Tiling.of(self.network.model(), volume.shape, volume.voxel_size)

    def _write_peaks(self, block: Block, predicted: npt.NDArray[np.uint8]) -> str:
        assert self.sparse is not None
        region, shape = block.write_region, self.prediction.shape
        inside = masked(predicted, self.image.within(region))
        return self.peaks.write(block, peaks(inside, region, shape, **self.sparse))

    @property
    def peaks(self) -> CandidateFiles:
        """Where sparse candidates go."""
        return CandidateFiles(self.folder / "peaks", self.prediction.grid)

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's prediction is intact."""
        if record["digest"] is None:
            return True
        fine = digest(self.prediction.read(block.write_region)) == record["digest"]
        return fine and (record["peaks"] is None or self.peaks.intact(block, record["peaks"]))
