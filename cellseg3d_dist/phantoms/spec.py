"""What a phantom is made of: every number that decides a voxel, validated once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Triple

DTYPES = ("uint8", "uint16")
MAX_STRETCH = 1.25
"""Longest semi-axis of a nucleus over its mean radius."""


@dataclass(frozen=True)
class PhantomSpec:
    """A procedural brain; equal specs give equal bits, on any machine and in any cut.

    Lengths are micrometres. Grey levels are those of the uint16 image; a uint8 image holds
    an eighth of them.

    Parameters
    ----------
    shape : (z, y, x) voxels
    seed : int
        0 to 2**63 - 1.
    voxel_size : (z, y, x) um
    dtype : 'uint8' or 'uint16'
    diameter, diameter_spread : float
        Mean and standard deviation of the nuclear diameter (of a sphere of equal volume);
        cut at three deviations.
    spacing : float
        Mean distance of neighbours where tissue is packed; twice that elsewhere. Packed
        nuclei touch when it is below the diameter.
    density : float
        Scales the probability that a place of tissue holds a nucleus, 0 to 1.
    crowding : float
        How much of the tissue is packed: none at 0, a few patches at the default, all at 1.
    region_size : float
        Size of the dense, sparse and empty regions of tissue.
    extent : float
        Diameter of the brain over the size of the volume, per axis. From 2.5 up, tissue
        fills the volume.
    brightness, background : float
        Mean grey levels of nuclei and of tissue autofluorescence.
    noise : float
        Variance of the shot noise per grey level of signal; 0 is none.
    blur : (z, y, x) um
        Standard deviation of the optical blur.

    Raises
    ------
    ConfigError
        If a value is out of range.
    """

    shape: Triple
    seed: int = 0
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    dtype: str = "uint16"
    diameter: float = 9.0
    diameter_spread: float = 0.8
    spacing: float = 9.5
    density: float = 1.0
    crowding: float = 0.05
    region_size: float = 90.0
    extent: float = 0.94
    brightness: float = 420.0
    background: float = 18.0
    noise: float = 7.0
    blur: tuple[float, float, float] = (0.8, 0.5, 0.5)

    def __post_init__(self) -> None:
        # lists and numpy numbers would make equal specs unequal, or unhashable
        z, y, x = (int(n) for n in _three("shape", self.shape))
        object.__setattr__(self, "shape", (z, y, x))
        object.__setattr__(self, "voxel_size", _floats("voxel_size", self.voxel_size))
        object.__setattr__(self, "blur", _floats("blur", self.blur))
        object.__setattr__(self, "dtype", str(self.dtype))
        if min(self.shape) < 1:
            raise ConfigError(f"Phantom shape {self.shape} needs at least 1 voxel per axis.")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"Phantom seed {self.seed} must be from 0 to 2**63 - 1.")
        if self.dtype not in DTYPES:
            raise ConfigError(f"Phantom dtype {self.dtype!r} must be one of {', '.join(DTYPES)}.")
        self._check_range("voxel_size", min(self.voxel_size), above=0.0)
        self._check_range("blur", min(self.blur), least=0.0)
        self._check_range("diameter", self.diameter, above=0.0)
        self._check_range("diameter_spread", self.diameter_spread, 0.0, self.diameter / 4)
        # closer, two centres could be the same voxel
        least = max(1.2 * max(self.voxel_size), 1.6 * min(self.voxel_size))
        self._check_range("spacing", self.spacing, least=least)
        self._check_range("density", self.density, 0.0, 1.0)
        self._check_range("crowding", self.crowding, 0.0, 1.0)
        self._check_range("region_size", self.region_size, above=0.0)
        self._check_range("extent", self.extent, above=0.0)
        self._check_range("background", self.background, 0.0, 2000.0)
        self._check_range("brightness", self.brightness, 0.0, 20000.0)
        self._check_range("noise", self.noise, 0.0, 1000.0)
        widest = max(b / v for b, v in zip(self.blur, self.voxel_size, strict=True))
        self._check_range("blur in voxels", widest, 0.0, 20.0)

    @property
    def max_radius(self) -> float:
        """Longest semi-axis that any nucleus can have, in um."""
        return 0.5 * MAX_STRETCH * (self.diameter + 3 * self.diameter_spread)

    @staticmethod
    def _check_range(
        name: str,
        value: float,
        least: float = -math.inf,
        most: float = math.inf,
        above: float = -math.inf,
    ) -> None:
        if not (math.isfinite(value) and least <= value <= most and value > above):
            low = f"above {above:g}" if above > -math.inf else f"at least {least:g}"
            high = f" and at most {most:g}" if most < math.inf else ""
            raise ConfigError(f"Phantom {name} {value:g} must be {low}{high}.")


def _three(name: str, values: Sequence[Any]) -> Sequence[Any]:
    if len(values) != 3:
        raise ConfigError(f"Phantom {name} {tuple(values)} must have 3 values (z, y, x).")
    return values


def _floats(name: str, values: Sequence[Any]) -> tuple[float, float, float]:
    z, y, x = (float(v) for v in _three(name, values))
    return (z, y, x)
