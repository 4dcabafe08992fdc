"""The steps of preprocessing, and how a region of an image goes through several of them.

A step turns an image on a region into the image on the region less the step's halo, in
float32, by what the voxels around are and by constants of the whole volume. Halo is missing
only at the volume's own faces, where the nearest voxel stands in::

    read      |----------------------|
    median     |--------------------|      halo 1
    opening        |------------|          halo 2 r
    wanted         |------------|
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Region, Triple
from cellseg3d_dist.preprocessing.balls import (
    Radius,
    ball_radius,
    dilation,
    erosion,
    median,
)
from cellseg3d_dist.preprocessing.equalisation import Curves, TileGrid, equalised

Image = npt.NDArray[np.float32]
NO_HALO: Triple = (0, 0, 0)


class Tables(Protocol):
    """Where the curves of an equalisation's tiles are."""

    def read(self, tiles: Region) -> Curves:
        """Curves (kz, ky, kx, bins + 1) of a box of tiles."""
        ...


@dataclass(frozen=True)
class Constants:
    """What steps must know of the whole volume.

    Attributes
    ----------
    shape : (int, int, int)
        The volume's.
    low, high : float
        The range of its grey values: 0, or the least value where that is negative, to the
        99.9th percentile.
    tables : Tables or None
        Of the equalisation, where there is one.
    """

    shape: Triple
    low: float
    high: float
    tables: Tables | None = None


class Step(Protocol):
    """One step; a small frozen value."""

    @property
    def halo(self) -> Triple:
        """Voxels beyond a region that its result depends on."""
        ...

    def apply(self, image: Image, region: Region, wanted: Region, constants: Constants) -> Image:
        """The result on ``wanted``; ``region`` is that with halo, cut at the volume's faces."""
        ...

    def __str__(self) -> str:
        """As the option ``preprocess`` has it."""
        ...


@dataclass(frozen=True)
class Background:
    """Values below a threshold become 0.

    Attributes
    ----------
    threshold : float
        In the image's units, or a share of the range.
    of_range : bool
        Whether it is a share.
    """

    threshold: float
    of_range: bool = False
    halo: Triple = NO_HALO

    def apply(self, image: Image, region: Region, wanted: Region, constants: Constants) -> Image:
        """As :meth:`Step.apply`."""
        limit = self.threshold
        if self.of_range:
            limit = constants.low + self.threshold * (constants.high - constants.low)
        return np.where(image < np.float32(limit), np.float32(0), image)

    def __str__(self) -> str:
        share = f"{100 * self.threshold:g}%"
        return f"background={share if self.of_range else format(self.threshold, 'g')}"


@dataclass(frozen=True)
class Gamma:
    """Values to the power of gamma, in units of the range: below 1 brightens what is dark."""

    gamma: float
    halo: Triple = NO_HALO

    def apply(self, image: Image, region: Region, wanted: Region, constants: Constants) -> Image:
        """As :meth:`Step.apply`."""
        out = np.ascontiguousarray(image).copy()
        if constants.high > constants.low:
            _power(out.reshape(-1), self.gamma, constants.low, constants.high)
        return out

    def __str__(self) -> str:
        return f"gamma={self.gamma:g}"


@dataclass(frozen=True)
class Equalise:
    """Contrast-limited adaptive histogram equalisation, see :mod:`.equalisation`.

    Attributes
    ----------
    clip : float
        Largest share of a tile's voxels in one bin.
    tile : (int, int, int)
        Shape of a tile in voxels.
    """

    clip: float
    tile: Triple
    halo: Triple = NO_HALO

    def apply(self, image: Image, region: Region, wanted: Region, constants: Constants) -> Image:
        """As :meth:`Step.apply`."""
        assert constants.tables is not None
        tiles = TileGrid(constants.shape, self.tile)
        around = tiles.around(region)
        curves = constants.tables.read(around)
        return equalised(image, region, tiles, curves, around.start, constants.low, constants.high)

    def __str__(self) -> str:
        return f"clahe={self.clip:g} (tiles of {'x'.join(map(str, self.tile))} voxels)"


@dataclass(frozen=True)
class Median:
    """Median over a ball.

    Attributes
    ----------
    radius : (float, float, float)
        In voxels of each axis.
    """

    radius: Radius

    @property
    def halo(self) -> Triple:
        """The ball's radius."""
        return ball_radius(self.radius)

    def apply(self, image: Image, region: Region, wanted: Region, constants: Constants) -> Image:
        """As :meth:`Step.apply`."""
        return median(_padded(image, region, wanted, self.halo), self.radius)

    def __str__(self) -> str:
        return f"median={_voxels(self.radius)}"


@dataclass(frozen=True)
class OpenBall:
    """The image less its white top-hat, which is its opening by a ball.

    The white top-hat is what an opening takes away: bright dots that the ball does not fit
    into.

    Attributes
    ----------
    radius : (float, float, float)
        In voxels of each axis.
    """

    radius: Radius

    @property
    def halo(self) -> Triple:
        """Twice the ball's radius."""
        z, y, x = (2 * r for r in ball_radius(self.radius))
        return (z, y, x)

    def apply(self, image: Image, region: Region, wanted: Region, constants: Constants) -> Image:
        """As :meth:`Step.apply`."""
        reach = ball_radius(self.radius)
        between = wanted.expand(reach, constants.shape)
        eroded = erosion(_padded(image, region, between, reach), self.radius)
        return dilation(_padded(eroded, between, wanted, reach), self.radius)

    def __str__(self) -> str:
        return f"tophat={_voxels(self.radius)}"


def halo_of(steps: Sequence[Step]) -> Triple:
    """Voxels beyond a region that the result of several steps depends on."""
    z, y, x = (sum(step.halo[axis] for step in steps) for axis in range(3))
    return (z, y, x)


def apply_steps(
    image: npt.NDArray[Any], wanted: Region, steps: Sequence[Step], constants: Constants
) -> Image:
    """A region of the image after all steps, in their order.

    Parameters
    ----------
    image : ndarray, any real type
        On ``wanted`` grown by :func:`halo_of` the steps and cut at the volume's faces.
    wanted : Region
    steps : sequence of Step
    constants : Constants

    Returns
    -------
    ndarray, float32
        On ``wanted``; the same whatever region it is part of.
    """
    region = wanted.expand(halo_of(steps), constants.shape)
    out: Image = image.astype(np.float32)
    for i, step in enumerate(steps):
        inner = wanted.expand(halo_of(steps[i + 1 :]), constants.shape)
        out = step.apply(out, region, inner, constants)
        region = inner
    return out


def _padded(image: Image, region: Region, wanted: Region, halo: Triple) -> Image:
    """The image on ``wanted`` with the whole halo, the nearest voxel repeated where it ends."""
    axes = zip(region.start, region.stop, wanted.start, wanted.stop, halo, strict=True)
    lacking = [(a - (c - h), (d + h) - b) for a, b, c, d, h in axes]
    return np.ascontiguousarray(np.pad(image, lacking, mode="edge") if image.size else image)


def _voxels(radius: Radius) -> str:
    return f"{max(radius):.4g} voxels"


@numba.njit(cache=True, nogil=True)
def _power(values, gamma, low, high):  # type: ignore[no-untyped-def]
    # one number at a time in double precision: the same bits wherever a voxel lies
    for i in range(values.size):
        share = (np.float64(values[i]) - low) / (high - low)
        values[i] = low + (high - low) * max(share, 0.0) ** gamma
