"""A stored prediction as decoders see it: nothing is foreground outside the image's mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.grid import Region
from cellseg3d_dist.volumes import StoredArray

Channels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Predicted:
    """A stored prediction whose first channel, the foreground, is 0 outside the mask."""

    prediction: StoredArray
    image: ImageInput

    def read(self, region: Region) -> Channels:
        """All stored channels (C, z, y, x) of a region."""
        return masked(self.prediction.read(region), self.image.within(region))


def masked(channels: Channels, within: npt.NDArray[np.bool_] | None) -> Channels:
    """Channels with the first set to 0 outside the mask, in place; None is everywhere."""
    if within is not None:
        channels[0] *= within
    return channels
