"""The brain without its cells: outline, regions of density, background, illumination.

Everything is a function of a position in micrometres. The outline is an ellipsoid that
fills the volume, with a wobble and a fissure along the middle of x::

      z,y                      rho < 1: tissue
       ^    .--^^--. .--^^--.
       |   (  ~~~   V   ~~~  )     hull < rim: the camera saw it
       |    '--__--' '--__--'      beyond: exactly 0
       +------------------------> x
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from cellseg3d_dist.phantoms.hashing import value_noise
from cellseg3d_dist.phantoms.spec import PhantomSpec

SIDE = 0.45
"""Distance of a nucleus' place from its cell's centre, per axis, in spacings."""
_WOBBLE = 0.14
_FISSURE = 0.2
_TISSUE, _OUTLINE, _REGIONS, _PATCHES, _LAYERS, _LIGHT = (
    np.uint64(n) for n in (0x5151, 0x6A09, 0xBB67, 0x3C6E, 0xA54F, 0x510E)
)


class Scene(NamedTuple):
    """A spec as plain numbers for compiled code; um, but pitch in voxels, jitter in pitches."""

    seed: np.uint64
    shape: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    rim: float
    pitch: tuple[float, float, float]
    jitter: tuple[float, float, float]
    roam: tuple[float, float, float]
    diameter: float
    spread: float
    density: float
    crowding: float
    region_size: float
    brightness: float
    background: float


def scene_of(spec: PhantomSpec) -> Scene:
    """The spec's numbers, derived ones included."""
    size = [n * v for n, v in zip(spec.shape, spec.voxel_size, strict=True)]
    radii = [0.5 * spec.extent * s for s in size]
    pitch = [spec.spacing / v for v in spec.voxel_size]
    # centres of neighbours must differ by a voxel: in a packed cell, and across cells
    jitter = [max(0.0, min(0.3, SIDE - 0.51 / p, 1.0 - SIDE - 0.51 / p)) for p in pitch]
    roam = [min(0.8, 1.0 - 0.51 / p) for p in pitch]
    return Scene(
        seed=np.uint64(spec.seed),
        shape=spec.shape,
        voxel_size=spec.voxel_size,
        centre=(0.5 * size[0], 0.5 * size[1], 0.5 * size[2]),
        radii=(radii[0], radii[1], radii[2]),
        rim=1.0 + 2.0 * spec.max_radius / min(radii),
        pitch=(pitch[0], pitch[1], pitch[2]),
        jitter=(jitter[0], jitter[1], jitter[2]),
        roam=(roam[0], roam[1], roam[2]),
        diameter=spec.diameter,
        spread=spec.diameter_spread,
        density=spec.density,
        crowding=spec.crowding,
        region_size=spec.region_size,
        brightness=spec.brightness,
        background=spec.background,
    )


@njit(cache=True, nogil=True)
def outline(scene: Scene, z: float, y: float, x: float) -> tuple[float, float]:
    """(hull, rho) of a position; rho is below 1 in tissue, hull is rho without the fissure."""
    vz = (z - scene.centre[0]) / scene.radii[0]
    vy = (y - scene.centre[1]) / scene.radii[1]
    vx = (x - scene.centre[2]) / scene.radii[2]
    hull = math.sqrt(vz * vz + vy * vy + vx * vx)
    if hull > 1.2 * scene.rim:
        return hull, hull
    wobble = value_noise(scene.seed ^ _OUTLINE, 1.7 * vz, 1.7 * vy, 1.7 * vx)
    hull *= 1.0 + _WOBBLE * (wobble - 0.5)
    # the fissure opens towards the surface and closes inside
    return hull, hull + _FISSURE * hull * hull / (1.0 + 400.0 * vx * vx)


@njit(cache=True, nogil=True)
def occupancy(scene: Scene, rho: float, z: float, y: float, x: float) -> float:
    """How crowded tissue is at this position: 0 empty, 1 packed."""
    if rho >= 1.0:
        return 0.0
    size = scene.region_size
    coarse = value_noise(scene.seed ^ _REGIONS, z / size, y / size, x / size)
    size *= 0.31
    fine = value_noise(scene.seed ^ _PATCHES, z / size, y / size, x / size)
    mixed = 0.7 * coarse + 0.3 * fine
    if mixed < 0.28:
        return 0.0
    depth = (1.0 - rho) * min(scene.radii)
    layer = value_noise(scene.seed ^ _LAYERS, 0.5, 0.5, depth / 30.0)
    level: float = min(1.0, (mixed - 0.28) / 0.45) * (0.6 + 0.4 * min(1.0, 1.8 * layer))
    return level


@njit(cache=True, nogil=True)
def ambience(scene: Scene, z: float, y: float, x: float) -> tuple[float, float, float]:
    """(hull - rim, background in grey levels, illumination gain) of a position."""
    hull, rho = outline(scene, z, y, x)
    if hull >= scene.rim:
        return hull - scene.rim, 0.0, 1.0
    size = 0.5 * scene.region_size
    light = value_noise(scene.seed ^ _LIGHT, z / size, y / size, x / size)
    grain = value_noise(scene.seed ^ _TISSUE, z / 14.0, y / 14.0, x / 14.0)
    # light enters from low x and is detected from low z
    gain = 1.1 - 0.12 * x / (2 * scene.centre[2]) - 0.2 * z / (2 * scene.centre[0])
    gain *= 0.85 + 0.3 * light
    # a soft surface, and a haze of out-of-focus light where cells are dense
    inside = min(1.0, max(0.0, 0.5 + (1.0 - rho) * min(scene.radii) / 12.0))
    haze = 0.3 * occupancy(scene, rho, z, y, x)
    return hull - scene.rim, scene.background * inside * (0.55 + 0.5 * grain + haze), gain
