"""From a spec and a region to its image and labels, the same bits whatever the region.

The nuclei are drawn on the region grown by the reach of the blur. Every voxel then passes
the same operations in the same order: blur along z, y, x; illumination and background,
interpolated from nodes that lie at fixed places of the volume; noise hashed from the
voxel's position.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region, Triple
from cellseg3d_dist.phantoms.anatomy import Scene, ambience, scene_of
from cellseg3d_dist.phantoms.hashing import STEP_X, mix, normal, position_state
from cellseg3d_dist.phantoms.nuclei import nuclei
from cellseg3d_dist.phantoms.spec import PhantomSpec

_NODE_UM = 8.0
_OFFSET = np.float32(16.0)
_READ_VARIANCE = np.float32(16.0)
_CHROMATIN, _SHOT = np.uint64(0x1F83D9AB), np.uint64(0x5BE0CD19)
CORE, FALL = 1.5, 1.4
_CLUMP = np.uint64(61)


def render(
    spec: PhantomSpec, region: Region
) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], NDArray[np.uint32]]:
    """Image and labels of one region of the volume.

    Parameters
    ----------
    spec : PhantomSpec
    region : Region
        Voxels of the whole volume. Peak memory is about 16 bytes per voxel of it and its halo.

    Returns
    -------
    image : (z, y, x) uint8 or uint16
        0 where there is neither tissue nor its rim, at least 1 elsewhere.
    labels : (z, y, x) uint32
        A voxel in several ellipsoids belongs to the one whose normalised distance is the
        least, the lower label where equal.

    Raises
    ------
    ConfigError
        If the region is not inside the volume.

    Examples
    --------
    >>> image, labels = render(PhantomSpec(shape=(32, 32, 32)), Region((8, 8, 8), (12, 16, 24)))
    >>> image.shape, image.dtype, labels.dtype
    ((4, 8, 16), dtype('uint16'), dtype('uint32'))
    """
    if region.is_empty or region.intersect(Region.whole(spec.shape)) != region:
        raise ConfigError(
            f"Phantom region {region.start} to {region.stop} must be inside the volume of shape "
            f"{spec.shape} and have at least 1 voxel."
        )
    image = np.zeros(region.shape, spec.dtype)
    labels = np.zeros(region.shape, np.uint32)
    scene = scene_of(spec)
    node_step = _node_step(spec)
    nodes = _nodes(scene, region.start, region.stop, node_step)
    if nodes[..., 0].min() >= 0.0:
        return image, labels
    taps = _kernels(spec)
    halo = (len(taps[0]) - 1, len(taps[1]) - 1, len(taps[2]) - 1)
    start = tuple(a - h for a, h in zip(region.start, halo, strict=True))
    stop = tuple(b + h for b, h in zip(region.stop, halo, strict=True))
    grown = Region((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    found = nuclei(spec, grown)
    owner = np.full(grown.shape, -1, np.int32)
    light = np.ones(grown.shape, np.float32)
    _draw(found.centres, found.forms, found.reach, grown.start, owner, light)
    _fill(scene.seed, grown.start, owner, found.brightness, light)
    levels = np.float32(0.125 if spec.dtype == "uint8" else 1.0)
    top = np.float32(np.iinfo(image.dtype).max)
    _expose(scene.seed, region.start, light, taps, nodes, node_step, spec.noise, levels, top, image)
    z, y, x = halo
    inner = owner[z : z + labels.shape[0], y : y + labels.shape[1], x : x + labels.shape[2]]
    _name(inner, found.labels, labels)
    return image, labels


def _node_step(spec: PhantomSpec) -> Triple:
    z, y, x = (max(1, round(_NODE_UM / v)) for v in spec.voxel_size)
    return (z, y, x)


@lru_cache(maxsize=16)
def _kernels(
    spec: PhantomSpec,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Half of the Gaussian along each axis, centre first, in steps of 2**-12.

    The rounding makes the taps the same under every library's ``exp``.
    """
    halves = []
    for sigma in (b / v for b, v in zip(spec.blur, spec.voxel_size, strict=True)):
        radius = math.ceil(3 * sigma)
        weights = [math.exp(-0.5 * (n / sigma) ** 2) if n else 1.0 for n in range(radius + 1)]
        total = weights[0] + 2 * sum(weights[1:])
        side = [round(4096 * w / total) / 4096 for w in weights[1:]]
        halves.append(np.array([1 - 2 * sum(side), *side], np.float32))
    return halves[0], halves[1], halves[2]


@njit(cache=True, nogil=True)
def _nodes(scene: Scene, start: Triple, stop: Triple, step: Triple) -> NDArray[np.float32]:
    """Ambience at the nodes around a region; node n of an axis lies at voxel n * step."""
    first = (start[0] // step[0], start[1] // step[1], start[2] // step[2])
    nz = (stop[0] - 1) // step[0] + 2 - first[0]
    ny = (stop[1] - 1) // step[1] + 2 - first[1]
    nx = (stop[2] - 1) // step[2] + 2 - first[2]
    nodes = np.empty((nz, ny, nx, 3), np.float32)
    for k in range(nz):
        z = (first[0] + k) * step[0] * scene.voxel_size[0]
        for j in range(ny):
            y = (first[1] + j) * step[1] * scene.voxel_size[1]
            for i in range(nx):
                x = (first[2] + i) * step[2] * scene.voxel_size[2]
                values = ambience(scene, z, y, x)
                nodes[k, j, i, 0] = values[0]
                nodes[k, j, i, 1] = values[1]
                nodes[k, j, i, 2] = values[2]
    return nodes


@njit(cache=True, nogil=True)
def _draw(
    centres: NDArray[np.int64],
    forms: NDArray[np.float32],
    reach: NDArray[np.int64],
    start: Triple,
    owner: NDArray[np.int32],
    nearest: NDArray[np.float32],
) -> None:
    """Give every voxel of an ellipsoid to the nearest one, the first of equals.

    ``nearest`` comes filled with 1 and leaves with the squared normalised distance.
    """
    nz, ny, nx = owner.shape
    two = np.float32(2.0)
    for n in range(len(centres)):
        cz, cy, cx = centres[n, 0] - start[0], centres[n, 1] - start[1], centres[n, 2] - start[2]
        zz, yy, xx, zy, zx, yx = forms[n]
        x_from, x_to = max(0, cx - reach[n, 2]), min(nx, cx + reach[n, 2] + 1)
        for z in range(max(0, cz - reach[n, 0]), min(nz, cz + reach[n, 0] + 1)):
            dz = np.float32(z - cz)
            for y in range(max(0, cy - reach[n, 1]), min(ny, cy + reach[n, 1] + 1)):
                dy = np.float32(y - cy)
                plane = zz * dz * dz + yy * dy * dy + two * zy * dz * dy
                slope = two * (zx * dz + yx * dy)
                for x in range(x_from, x_to):
                    dx = np.float32(x - cx)
                    distance = plane + dx * (slope + xx * dx)
                    if distance < nearest[z, y, x]:
                        nearest[z, y, x] = distance
                        owner[z, y, x] = n


@njit(cache=True, nogil=True)
def _fill(
    seed: np.uint64,
    start: Triple,
    owner: NDArray[np.int32],
    brightness: NDArray[np.float32],
    light: NDArray[np.float32],
) -> None:
    """Turn squared distance into emitted light: a bright core, with clumps of chromatin."""
    nz, ny, nx = owner.shape
    plain, clump = np.float32(0.82), np.float32(2.26)
    core, fall = np.float32(CORE), np.float32(FALL)
    for z in range(nz):
        for y in range(ny):
            state = position_state(seed ^ _CHROMATIN, start[0] + z, start[1] + y, start[2])
            for x in range(nx):
                n = owner[z, y, x]
                value = np.float32(0.0)
                if n >= 0:
                    bits = mix(state + np.uint64(x) * STEP_X)
                    value = brightness[n] * (core - fall * light[z, y, x])
                    value *= clump if bits >> _CLUMP == np.uint64(0) else plain
                light[z, y, x] = value


@njit(cache=True, nogil=True)
def _name(owner: NDArray[np.int32], names: NDArray[np.uint32], labels: NDArray[np.uint32]) -> None:
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                n = owner[z, y, x]
                if n >= 0:
                    labels[z, y, x] = names[n]


@njit(cache=True, nogil=True)
def _expose(
    seed: np.uint64,
    start: Triple,
    light: NDArray[np.float32],
    taps: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    nodes: NDArray[np.float32],
    step: Triple,
    noise: float,
    levels: np.float32,
    top: np.float32,
    image: NDArray[np.uint16],
) -> None:
    """Blur, illuminate, add background, offset and noise, and round to grey levels."""
    nz, ny, nx = image.shape
    wide = light.shape[2]
    plane = np.empty((light.shape[1], wide), np.float32)
    row = np.empty(wide, np.float32)
    sharp = np.empty(nx, np.float32)
    ambient = np.empty((3, nodes.shape[2]), np.float32)
    for z in range(nz):
        _blur_plane(light, z, taps[0], plane)
        for y in range(ny):
            _blur_row(plane, y, taps[1], row)
            _blur_line(row, taps[2], sharp)
            _ambient_line(nodes, start, step, z, y, ambient)
            state = position_state(seed ^ _SHOT, start[0] + z, start[1] + y, start[2])
            _expose_line(
                sharp,
                ambient,
                start[2],
                step[2],
                state,
                np.float32(noise),
                levels,
                top,
                image[z, y],
            )


@njit(cache=True, nogil=True)
def _blur_plane(
    light: NDArray[np.float32], z: int, taps: NDArray[np.float32], plane: NDArray[np.float32]
) -> None:
    """Plane ``z`` of the blur along the first axis."""
    radius = len(taps) - 1
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            plane[y, x] = taps[0] * light[z + radius, y, x]
        for n in range(1, radius + 1):
            for x in range(plane.shape[1]):
                plane[y, x] += taps[n] * (light[z + radius - n, y, x] + light[z + radius + n, y, x])


@njit(cache=True, nogil=True)
def _blur_row(
    plane: NDArray[np.float32], y: int, taps: NDArray[np.float32], row: NDArray[np.float32]
) -> None:
    """Row ``y`` of the blur along the second axis."""
    radius = len(taps) - 1
    for x in range(len(row)):
        row[x] = taps[0] * plane[y + radius, x]
    for n in range(1, radius + 1):
        for x in range(len(row)):
            row[x] += taps[n] * (plane[y + radius - n, x] + plane[y + radius + n, x])


@njit(cache=True, nogil=True)
def _blur_line(
    row: NDArray[np.float32], taps: NDArray[np.float32], line: NDArray[np.float32]
) -> None:
    """Blur along the last axis."""
    radius = len(taps) - 1
    for x in range(len(line)):
        line[x] = taps[0] * row[x + radius]
    for n in range(1, radius + 1):
        for x in range(len(line)):
            line[x] += taps[n] * (row[x + radius - n] + row[x + radius + n])


@njit(cache=True, nogil=True)
def _ambient_line(
    nodes: NDArray[np.float32],
    start: Triple,
    step: Triple,
    z: int,
    y: int,
    ambient: NDArray[np.float32],
) -> None:
    """Interpolate the nodes along z and y."""
    k, j = (start[0] + z) // step[0], (start[1] + y) // step[1]
    fz = np.float32(start[0] + z - k * step[0]) / np.float32(step[0])
    fy = np.float32(start[1] + y - j * step[1]) / np.float32(step[1])
    k -= start[0] // step[0]
    j -= start[1] // step[1]
    for i in range(nodes.shape[2]):
        for c in range(3):
            low = nodes[k, j, i, c] + fy * (nodes[k, j + 1, i, c] - nodes[k, j, i, c])
            high = nodes[k + 1, j, i, c] + fy * (nodes[k + 1, j + 1, i, c] - nodes[k + 1, j, i, c])
            ambient[c, i] = low + fz * (high - low)


@njit(cache=True, nogil=True)
def _expose_line(
    sharp: NDArray[np.float32],
    ambient: NDArray[np.float32],
    start: int,
    step: int,
    state: np.uint64,
    noise: np.float32,
    levels: np.float32,
    top: np.float32,
    line: NDArray[np.uint16],
) -> None:
    one, half = np.float32(1.0), np.float32(0.5)
    first = start // step
    for x in range(len(line)):
        i = (start + x) // step
        fx = np.float32(start + x - i * step) / np.float32(step)
        i -= first
        if ambient[0, i] + fx * (ambient[0, i + 1] - ambient[0, i]) >= np.float32(0.0):
            continue
        background = ambient[1, i] + fx * (ambient[1, i + 1] - ambient[1, i])
        gain = ambient[2, i] + fx * (ambient[2, i + 1] - ambient[2, i])
        signal = gain * (sharp[x] + background)
        deviate = normal(mix(state + np.uint64(x) * STEP_X))
        value = _OFFSET + signal
        value += deviate * np.sqrt(noise * signal + _READ_VARIANCE * min(noise, one))
        line[x] = int(min(top, max(one, levels * value + half)))
