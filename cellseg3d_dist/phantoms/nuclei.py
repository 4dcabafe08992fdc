"""The nuclei: a few at most per cell of a lattice, so that any of them is found by arithmetic.

A cell of the lattice is two spacings wide. In dense tissue it holds up to eight nuclei that
touch, elsewhere two at most. Each layer and row is shifted by a random part of a cell::

    layer 0   |  o  | o o |     |o    |     layer 1    |   o |     | o   |
              | o   | o o |   o |    o|                |o    |  o  |    o|
                 | o   |  o  | o o |                 |     | o   | o o |o    |
                 |   o |o    | o o |                 |  o  |   o | o o |   o |

Centres are whole voxels and jitter is limited, so that no two are the same: every nucleus
owns at least its centre. Labels are 1..N in the raster order of the lattice; the number of
nuclei before every 32nd cell of each row is counted once per spec.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region, Triple
from cellseg3d_dist.phantoms.anatomy import SIDE, Scene, occupancy, outline, scene_of
from cellseg3d_dist.phantoms.hashing import mix, normal, position_state, uniform
from cellseg3d_dist.phantoms.spec import MAX_STRETCH, PhantomSpec

_STRIDE = 32
_MOST = 8
_LATTICE, _SHIFTS = np.uint64(0x7F4A7C15F39CC060), np.uint64(0xF39CC0605CEDC834)


@dataclass(frozen=True)
class Nuclei:
    """The nuclei whose ellipsoid can touch a region, in the order of their labels.

    Attributes
    ----------
    labels : (n,) uint32
    centres : (n, 3) int64
        Voxel of the whole volume, (z, y, x).
    forms : (n, 6) float32
        zz, yy, xx, zy, zx, yx of the quadratic form of an offset in voxels that is 1 on the
        nucleus' surface.
    reach : (n, 3) int64
        Voxels from the centre to the farthest voxel of the ellipsoid along each axis.
    brightness : (n,) float32
        Grey levels.
    """

    labels: NDArray[np.uint32]
    centres: NDArray[np.int64]
    forms: NDArray[np.float32]
    reach: NDArray[np.int64]
    brightness: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Numbering:
    """Nuclei before every 32nd cell of each row of the lattice, and in all."""

    before: NDArray[np.uint32]
    total: int


def lattice_shape(spec: PhantomSpec) -> Triple:
    """Cells of the lattice that can hold a nucleus of the volume."""
    z, y, x = (
        int(n * v / (2 * spec.spacing)) + 2
        for n, v in zip(spec.shape, spec.voxel_size, strict=True)
    )
    return (z, y, x)


@lru_cache(maxsize=4)
def numbering(spec: PhantomSpec) -> Numbering:
    """Count the nuclei, about 10**7 cells a second; kept for the last four specs.

    Raises
    ------
    ConfigError
        If there are more nuclei than uint32 can name.
    """
    before = _count(scene_of(spec), lattice_shape(spec))
    flat = before.ravel()
    total = int(flat.sum())
    if total > np.iinfo(np.uint32).max:
        raise ConfigError(
            f"Phantom of shape {spec.shape} has {total} nuclei, over the {2**32 - 1} that uint32 "
            f"labels can name. Use a larger spacing than {spec.spacing:g} um or a smaller shape."
        )
    ends = np.cumsum(flat)
    first = (ends - flat).astype(np.uint32).reshape(before.shape)
    first.setflags(write=False)
    return Numbering(first, total)


def count(spec: PhantomSpec) -> int:
    """Number of nuclei N of the whole volume; its labels are 1..N.

    >>> count(PhantomSpec(shape=(40, 40, 40), density=0.0))
    0
    """
    return numbering(spec).total


def nuclei(spec: PhantomSpec, region: Region) -> Nuclei:
    """The nuclei that can have a voxel in ``region``, which may reach beyond the volume."""
    scene = scene_of(spec)
    low, high = [], []
    cells = lattice_shape(spec)
    for axis in range(3):
        reach = spec.max_radius / spec.voxel_size[axis] + 1
        pitch = 2 * scene.pitch[axis]
        low.append(min(max(math.floor((region.start[axis] - reach) / pitch) - 1, 0), cells[axis]))
        high.append(min(max(math.ceil((region.stop[axis] + reach) / pitch) + 2, 0), cells[axis]))
    return Nuclei(
        *_gather(
            scene,
            numbering(spec).before,
            (low[0], low[1], low[2]),
            (high[0], high[1], high[2]),
        )
    )


@njit(cache=True, nogil=True)
def _side(
    cell: np.uint64, state: np.uint64, half: int, axis: int, dense: bool, jitter: float, roam: float
) -> float:
    """Offset of a nucleus from its cell's centre along an axis, in spacings.

    Packed: its eighth of the cell, with jitter. Loose: anywhere within ``roam``, the second
    nucleus half way round from the first, so that they never touch.
    """
    if dense:
        shift: float = (2.0 * uniform(mix(state + np.uint64(axis))) - 1.0) * jitter
        return SIDE * (2 * half - 1) + shift
    turn: float = uniform(mix(cell ^ np.uint64(axis))) + 0.5 * half
    return roam * (2.0 * (turn - math.floor(turn)) - 1.0)


@njit(cache=True, nogil=True)
def _in_tissue(scene: Scene, z: int, y: int, x: int) -> bool:
    if not (0 <= z < scene.shape[0] and 0 <= y < scene.shape[1] and 0 <= x < scene.shape[2]):
        return False
    size = scene.voxel_size
    rho: float = outline(scene, (z + 0.5) * size[0], (y + 0.5) * size[1], (x + 0.5) * size[2])[1]
    return rho < 1.0


@njit(cache=True, nogil=True)
def _fill_cell(
    scene: Scene, k: int, j: int, i: int, centres: NDArray[np.int64], states: NDArray[np.uint64]
) -> int:
    """Write centre voxels and random states of a cell's nuclei; returns how many."""
    layer = mix(position_state(scene.seed ^ _SHIFTS, k, 0, 0))
    row = mix(position_state(scene.seed ^ _SHIFTS, k, j, 1))
    z = 2.0 * scene.pitch[0] * k
    y = 2.0 * scene.pitch[1] * (j + uniform(layer) - 0.5)
    x = 2.0 * scene.pitch[2] * (i + uniform(row) - 0.5)
    um_z, um_y, um_x = z * scene.voxel_size[0], y * scene.voxel_size[1], x * scene.voxel_size[2]
    level = occupancy(scene, outline(scene, um_z, um_y, um_x)[1], um_z, um_y, um_x)
    if level <= 0.0:
        return 0
    dense = level > 1.0 - scene.crowding
    chance = scene.density * (0.92 if dense else 0.2 + 0.75 * level)
    cell = mix(position_state(scene.seed ^ _LATTICE, k, j, i))
    n = 0
    for part in range(0, _MOST, 1 if dense else _MOST - 1):
        state = mix(cell + np.uint64(part))
        if uniform(state) >= chance:
            continue
        z_side = _side(cell, state, part >> 2, 1, dense, scene.jitter[0], scene.roam[0])
        y_side = _side(cell, state, part >> 1 & 1, 2, dense, scene.jitter[1], scene.roam[1])
        x_side = _side(cell, state, part & 1, 3, dense, scene.jitter[2], scene.roam[2])
        cz = math.floor(z + z_side * scene.pitch[0])
        cy = math.floor(y + y_side * scene.pitch[1])
        cx = math.floor(x + x_side * scene.pitch[2])
        if _in_tissue(scene, cz, cy, cx):
            centres[n, 0], centres[n, 1], centres[n, 2] = cz, cy, cx
            states[n] = state
            n += 1
    return n


@njit(cache=True, nogil=True)
def _count(scene: Scene, cells: Triple) -> NDArray[np.int64]:
    counts = np.zeros((cells[0], cells[1], -(-cells[2] // _STRIDE)), np.int64)
    centres, states = np.empty((_MOST, 3), np.int64), np.empty(_MOST, np.uint64)
    for k in range(cells[0]):
        for j in range(cells[1]):
            for i in range(cells[2]):
                counts[k, j, i // _STRIDE] += _fill_cell(scene, k, j, i, centres, states)
    return counts


@njit(cache=True, nogil=True)
def _gather(
    scene: Scene, before: NDArray[np.uint32], low: Triple, high: Triple
) -> tuple[
    NDArray[np.uint32],
    NDArray[np.int64],
    NDArray[np.float32],
    NDArray[np.int64],
    NDArray[np.float32],
]:
    cells = max(0, high[0] - low[0]) * max(0, high[1] - low[1]) * max(0, high[2] - low[2])
    labels = np.empty(_MOST * cells, np.uint32)
    centres = np.empty((_MOST * cells, 3), np.int64)
    forms = np.empty((_MOST * cells, 6), np.float32)
    reach = np.empty((_MOST * cells, 3), np.int64)
    brightness = np.empty(_MOST * cells, np.float32)
    found, states = np.empty((_MOST, 3), np.int64), np.empty(_MOST, np.uint64)
    n = 0
    first = low[2] // _STRIDE
    for k in range(low[0], high[0]):
        for j in range(low[1], high[1]):
            if cells == 0:
                continue
            label = np.int64(before[k, j, first])
            for i in range(first * _STRIDE, high[2]):
                added = _fill_cell(scene, k, j, i, found, states)
                for m in range(added if i >= low[2] else 0):
                    labels[n] = label + m + 1
                    centres[n] = found[m]
                    brightness[n] = _shape_nucleus(scene, states[m], forms[n], reach[n])
                    n += 1
                label += added
    return labels[:n], centres[:n], forms[:n], reach[:n], brightness[:n]


@njit(cache=True, nogil=True)
def _shape_nucleus(
    scene: Scene, state: np.uint64, form: NDArray[np.float32], reach: NDArray[np.int64]
) -> float:
    """Fill the form and reach of one nucleus; returns its brightness."""
    deviation = min(3.0, max(-3.0, float(normal(mix(state + np.uint64(4))))))
    radius = 0.5 * (scene.diameter + scene.spread * deviation)
    long = 1.0 + (MAX_STRETCH - 1.0) * uniform(mix(state + np.uint64(5)))
    middle = 0.9 + 0.2 * uniform(mix(state + np.uint64(6)))
    axes = (radius * long, radius * middle, radius / (long * middle))
    # four normals, normalised, are a uniform rotation (Muller 1959; Shoemake 1992)
    w = float(normal(mix(state + np.uint64(7)))) + 1e-6
    a = float(normal(mix(state + np.uint64(8))))
    b = float(normal(mix(state + np.uint64(9))))
    c = float(normal(mix(state + np.uint64(10))))
    scale = 1.0 / math.sqrt(w * w + a * a + b * b + c * c)
    w, a, b, c = w * scale, a * scale, b * scale, c * scale
    rows = (
        (1 - 2 * (b * b + c * c), 2 * (a * b - c * w), 2 * (a * c + b * w)),
        (2 * (a * b + c * w), 1 - 2 * (a * a + c * c), 2 * (b * c - a * w)),
        (2 * (a * c - b * w), 2 * (b * c + a * w), 1 - 2 * (a * a + b * b)),
    )
    pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    for n in range(6):
        p, q = pairs[n]
        total = 0.0
        for axis in range(3):
            total += rows[p][axis] * rows[q][axis] / (axes[axis] * axes[axis])
        form[n] = total * scene.voxel_size[p] * scene.voxel_size[q]
    for p in range(3):
        extent = 0.0
        for axis in range(3):
            extent += rows[p][axis] * rows[p][axis] * axes[axis] * axes[axis]
        reach[p] = int(math.sqrt(extent) / scene.voxel_size[p]) + 1
    u = uniform(mix(state + np.uint64(11)))
    # one in eight is dim, a few are very bright
    relative: float = 0.45 + u if u < 0.125 else 0.7 + 0.35 * u + 0.35 * u * u * u * u
    return scene.brightness * relative
