"""Ways for labels to grow from seeds, alike for blocks, certificates and exchanges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.instances.flood import NO_RING, Sides, flood, settle
from cellseg3d_dist.instances.watershed import watershed_flood, watershed_settle

Labels = npt.NDArray[np.int32]
Levels = npt.NDArray[np.int32] | None
#: When a label came to a voxel, see :attr:`Growth.arrival`.
Arrival = npt.NDArray[Any]


class Growth(Protocol):
    """How labels grow. A voxel's arrival and label depend on those of its neighbours alone.

    Arrivals grow on any way, and a sooner start never makes a later end; of labels that
    come at once the largest wins.
    """

    @property
    def arrival(self) -> np.dtype[Any]:
        """Integer type of arrivals; its largest value is "never"."""
        ...

    def flood(
        self,
        mask: npt.NDArray[np.uint8],
        seeds: npt.NDArray[np.int64],
        ring: Sides = NO_RING,
        labels: Labels | None = None,
        levels: Levels = None,
    ) -> tuple[Labels, Arrival]:
        """Labels and arrivals of a region, see :func:`.flood.flood`."""
        ...

    def settle(self, state: Labels, times: Arrival, levels: Levels = None) -> None:
        """Flood open voxels from timed sources in place, see :func:`.flood.settle`."""
        ...


@dataclass(frozen=True)
class BoxAndDiamond:
    """Geodesic growth by alternating box and diamond steps; no landscape."""

    @property
    def arrival(self) -> np.dtype[Any]:
        """Steps."""
        return np.dtype(np.int32)

    def flood(
        self,
        mask: npt.NDArray[np.uint8],
        seeds: npt.NDArray[np.int64],
        ring: Sides = NO_RING,
        labels: Labels | None = None,
        levels: Levels = None,
    ) -> tuple[Labels, Arrival]:
        """As :func:`.flood.flood`."""
        return flood(mask, seeds, ring, labels)

    def settle(self, state: Labels, times: Arrival, levels: Levels = None) -> None:
        """As :func:`.flood.settle`."""
        settle(state, times)


@dataclass(frozen=True)
class Watershed:
    """Growth through a landscape, low levels first."""

    connectivity: int = 6

    @property
    def arrival(self) -> np.dtype[Any]:
        """Keys of level and steps."""
        return np.dtype(np.int64)

    def flood(
        self,
        mask: npt.NDArray[np.uint8],
        seeds: npt.NDArray[np.int64],
        ring: Sides = NO_RING,
        labels: Labels | None = None,
        levels: Levels = None,
    ) -> tuple[Labels, Arrival]:
        """As :func:`.watershed.watershed_flood`."""
        assert levels is not None
        return watershed_flood(mask, levels, seeds, ring, labels, self.connectivity)

    def settle(self, state: Labels, times: Arrival, levels: Levels = None) -> None:
        """As :func:`.watershed.watershed_settle`."""
        assert levels is not None
        watershed_settle(state, times, levels, self.connectivity)


BOX_AND_DIAMOND = BoxAndDiamond()


def never(arrival: np.dtype[Any]) -> int:
    """The arrival of a voxel that no label has reached."""
    return int(np.iinfo(arrival).max)
