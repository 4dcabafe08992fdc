"""Predict: the network's channels of each block, 8 bits each, as if from the whole volume."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.network import Network
from cellseg3d_dist.engine.records import digest, record_digest, record_path, write_record
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.grid import Block, Region, Triple
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
        Of a representation with sparse candidates: the parameters of their choice.
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
        region, shape = block.write_region, self.prediction.shape
        within = self.image.within(region.expand(self.reach, shape))
        if within is not None and not within.any():
            return {"digest": None, "maxima": [], "candidates": None}
        forward = self.network.forward()
        tiling = self._tiling()
        candidates = None
        if self.sparse is None:
            channels = tiling.predict(self.image.read, region, self.constants, forward)
        else:
            held = region.expand((1, 1, 1), shape)
            predicted = tiling.predict(self.image.read, held, self.constants, forward)
            candidates = self._write_candidates(block, predicted, held)
            inner = region.within(held).slices
            channels = np.ascontiguousarray(predicted[(slice(0, 1), *inner)])
        self.prediction.write(region, channels)
        maxima = channels.max(axis=(1, 2, 3), initial=0)
        return {
            "digest": digest(channels),
            "maxima": maxima.tolist(),
            "candidates": candidates,
            "halved": forward.halved,
        }

    def _tiling(self) -> Tiling:
        from cellseg3d_dist.networks.predictor import Tiling

        volume = self.image.volume
        return Tiling.of(self.network.model(), volume.shape, volume.voxel_size)

    def _write_candidates(
        self, block: Block, predicted: npt.NDArray[np.uint8], held: Region
    ) -> str:
        raise NotImplementedError

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's prediction is intact."""
        if record["digest"] is None:
            return True
        fine = digest(self.prediction.read(block.write_region)) == record["digest"]
        path = record_path(self.folder / "candidates", block)
        return bool(
            fine and (record["candidates"] is None or record_digest(path) == record["candidates"])
        )


__all__ = ["Predict", "write_record"]
