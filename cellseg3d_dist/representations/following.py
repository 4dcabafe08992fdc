"""Voxels followed along a flow to their sinks, block by block and exact.

Three steps, each a pure function:

1. :func:`follow`: each foreground voxel of a block's write region moves along the flow
   for a fixed number of steps; where it ends is a voxel of the volume. Positions are
   integers (1/1024 voxel) and so is all that is done with them, so that an end depends
   neither on the region's origin nor on the machine. A voxel is *open* if its way needs a
   voxel that the read region lacks; with the halo of :func:`reach` none is.
2. :func:`arrivals` counts the ends of a block, a small record; the records of all blocks
   added up by :func:`merge_arrivals` are those of the whole volume, and :func:`sinks`
   groups them.
3. :func:`assign` gives each voxel the name of the group it ended in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region, Triple, ceil_div
from cellseg3d_dist.instances.spots import names_of_seeds

Size = tuple[float, float, float]

_BITS = 10  # of a position below the voxel
_GAIN_BITS = 26  # of a step below the voxel
_SHIFT = 2 * _BITS + _GAIN_BITS  # three weights and a gain, back to a position


@dataclass(frozen=True)
class FlowParameters:
    """How labels are decoded from a foreground and a flow.

    Attributes
    ----------
    threshold : float
        Voxels of a larger foreground (0..1) are followed.
    n_iterations : int
        Steps each voxel takes.
    step : float
        Length of a step where the flow is 1, in voxels of the finest axis, at most 1.
    min_arrivals : int
        A sink is where at least this many voxels end in the 3 x 3 x 3 box around a voxel.
    min_voxels : int
        Objects of fewer voxels are dropped.
    """

    threshold: float = 0.5
    n_iterations: int = 60
    step: float = 1.0
    min_arrivals: int = 10
    min_voxels: int = 0

    def __post_init__(self) -> None:
        limits = {
            "threshold": (0 <= self.threshold <= 1, "0 to 1"),
            "n_iterations": (0 <= self.n_iterations <= 10_000, "0 to 10000"),
            "step": (0 < self.step <= 1, "above 0 and at most 1 voxel of the finest axis"),
            "min_arrivals": (self.min_arrivals >= 1, "1 or more voxels"),
            "min_voxels": (self.min_voxels >= 0, "0 or more voxels"),
        }
        for name, (is_legal, legal) in limits.items():
            if not is_legal:
                raise ConfigError(
                    f"Flow decoding: {name} {getattr(self, name)} cannot be used. Use {legal}."
                )


@dataclass(frozen=True, eq=False)
class Followed:
    """Where the foreground voxels of a write region end.

    Attributes
    ----------
    voxels : ndarray, int64, (n,)
        Raveled indices in the write region, ascending.
    ends : ndarray, int64, (n,)
        Raveled indices in the whole volume; -1 for open voxels.
    is_open : ndarray, bool, (n,)
        Whether the way of a voxel leaves the region that was read.
    """

    voxels: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    is_open: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Arrivals:
    """How many voxels end where.

    Attributes
    ----------
    positions : ndarray, int64, (n,)
        Raveled indices in the whole volume, ascending.
    counts : ndarray, int64, (n,)
        Voxels that end there.
    """

    positions: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sinks:
    """Ends that belong to a sink.

    Attributes
    ----------
    positions : ndarray, int64, (n,)
        Raveled indices in the whole volume, ascending.
    names : ndarray, uint64, (n,)
        Global name of the sink of each.
    """

    positions: npt.NDArray[np.int64]
    names: npt.NDArray[np.uint64]


def reach(voxel_size: Size, parameters: FlowParameters) -> Triple:
    """Halo with which no voxel is open: the longest way, and one voxel to interpolate."""
    longest = [
        (255 * 2 ** (3 * _BITS) * int(gain) + 2 ** (_SHIFT - 1)) >> _SHIFT
        for gain in _gains(voxel_size, parameters)
    ]
    z, y, x = (ceil_div(parameters.n_iterations * step, 2**_BITS) + 1 for step in longest)
    return (z, y, x)


def _gains(voxel_size: Size, parameters: FlowParameters) -> npt.NDArray[np.int64]:
    """Voxels moved along each axis by a flow of 1/255, in 2**-26."""
    voxels = parameters.step * min(voxel_size) / np.asarray(voxel_size, np.float64)
    gains: npt.NDArray[np.int64] = np.rint(voxels * 2**_GAIN_BITS / 255).astype(np.int64)
    return gains


def is_foreground(channel: npt.NDArray[np.uint8], threshold: float) -> npt.NDArray[np.bool_]:
    """Where a stored foreground is above a threshold of 0..1."""
    found: npt.NDArray[np.bool_] = channel > int(255 * threshold)
    return found


def follow(
    prediction: npt.NDArray[np.uint8],
    region: Region,
    write_region: Region,
    shape: Triple,
    voxel_size: Size,
    parameters: FlowParameters,
    voxels: npt.NDArray[np.int64] | None = None,
) -> Followed:
    """Where the foreground voxels of ``write_region`` end.

    A voxel starts at its own centre. A step adds the trilinear interpolation of the flow,
    which is 0 outside the foreground, times ``parameters.step``. At the volume's faces
    positions are clamped; a step to a place whose nearest voxel is not foreground is not
    made. The end is the nearest voxel of the last place.

    Parameters
    ----------
    prediction : ndarray, uint8, (4, z, y, x)
        Foreground and flow along z, y and x (0 is -1, 255 is 1) on ``region``.
    region, write_region : Region
        What is known, and the part of it whose voxels are followed.
    shape : (int, int, int)
        The volume's shape.
    voxel_size : (float, float, float)
        Size of a voxel along (z, y, x), in any unit.
    parameters : FlowParameters
        Threshold, steps and their length.
    voxels : ndarray, int64, optional
        Raveled indices in the write region of the voxels to follow, if not all.
    """
    packed = np.ascontiguousarray(np.moveaxis(prediction, 0, -1))
    packed[..., 0] = is_foreground(prediction[0], parameters.threshold)
    inner = write_region.within(region)
    if voxels is None:
        voxels = np.flatnonzero(packed[(*inner.slices, 0)])
    start = np.asarray(region.start, np.int64)
    ends, is_open = _follow(
        packed,
        voxels,
        np.asarray([inner.start, inner.stop], np.int64),
        start,
        np.asarray(shape, np.int64),
        _gains(voxel_size, parameters),
        parameters.n_iterations,
    )
    return Followed(voxels, ends, is_open)


@numba.njit(cache=True, nogil=True)
def _follow(packed, voxels, inner, start, shape, gains, n_iterations):  # type: ignore[no-untyped-def]
    ends = np.empty(voxels.size, np.int64)
    is_open = np.zeros(voxels.size, np.bool_)
    low = (-start) << _BITS
    high = (shape - 1 - start) << _BITS
    _, ny, nx = inner[1] - inner[0]
    place = np.empty(3, np.int64)
    for k in range(voxels.size):
        voxel = voxels[k]
        place[0] = (inner[0, 0] + voxel // (ny * nx)) << _BITS
        place[1] = (inner[0, 1] + voxel // nx % ny) << _BITS
        place[2] = (inner[0, 2] + voxel % nx) << _BITS
        if _walk(packed, place, low, high, gains, n_iterations):
            z = start[0] + _nearest(place[0])
            y = start[1] + _nearest(place[1])
            x = start[2] + _nearest(place[2])
            ends[k] = (z * shape[1] + y) * shape[2] + x
        else:
            ends[k] = -1
            is_open[k] = True
    return ends, is_open


@numba.njit(cache=True, nogil=True, inline="always")
def _nearest(place):  # type: ignore[no-untyped-def]
    return (place + (1 << (_BITS - 1))) >> _BITS


@numba.njit(cache=True, nogil=True)
def _walk(packed, place, low, high, gains, n_iterations):  # type: ignore[no-untyped-def]
    """Move ``place`` to its end; False if a voxel outside ``packed`` is needed."""
    nz, ny, nx, _ = packed.shape
    half = 1 << (_SHIFT - 1)
    pz, py, px = place
    before_z, before_y, before_x = pz, py, px
    for step in range(n_iterations):
        is_known, fz, fy, fx = _flow_at(packed, pz, py, px)
        if not is_known:
            return False
        z = min(max(pz + ((fz * gains[0] + half) >> _SHIFT), low[0]), high[0])
        y = min(max(py + ((fy * gains[1] + half) >> _SHIFT), low[1]), high[1])
        x = min(max(px + ((fx * gains[2] + half) >> _SHIFT), low[2]), high[2])
        if z == pz and y == py and x == px:
            break
        iz, iy, ix = _nearest(z), _nearest(y), _nearest(x)
        if iz < 0 or iy < 0 or ix < 0 or iz >= nz or iy >= ny or ix >= nx:
            return False
        if packed[iz, iy, ix, 0] == 0:
            break
        if z == before_z and y == before_y and x == before_x:
            # back and forth from here on: only the parity of what is left counts
            if (n_iterations - step) % 2 == 1:
                pz, py, px = z, y, x
            break
        before_z, before_y, before_x = pz, py, px
        pz, py, px = z, y, x
    place[0], place[1], place[2] = pz, py, px
    return True


@numba.njit(cache=True, nogil=True)
def _flow_at(packed, pz, py, px):  # type: ignore[no-untyped-def]
    """Flow of foreground interpolated at a place, in 1/255 * 2**-30; whether it is known."""
    nz, ny, nx, _ = packed.shape
    one = 1 << _BITS
    z, y, x = pz >> _BITS, py >> _BITS, px >> _BITS
    rz, ry, rx = pz & (one - 1), py & (one - 1), px & (one - 1)
    fz, fy, fx = 0, 0, 0
    for dz in range(2):
        wz = rz if dz else one - rz
        for dy in range(2):
            wzy = wz * (ry if dy else one - ry)
            for dx in range(2):
                weight = wzy * (rx if dx else one - rx)
                if weight == 0:
                    continue
                iz, iy, ix = z + dz, y + dy, x + dx
                if iz < 0 or iy < 0 or ix < 0 or iz >= nz or iy >= ny or ix >= nx:
                    return False, 0, 0, 0
                if packed[iz, iy, ix, 0]:
                    fz += weight * (2 * np.int64(packed[iz, iy, ix, 1]) - 255)
                    fy += weight * (2 * np.int64(packed[iz, iy, ix, 2]) - 255)
                    fx += weight * (2 * np.int64(packed[iz, iy, ix, 3]) - 255)
    return True, fz, fy, fx


def arrivals(ends: npt.NDArray[np.int64]) -> Arrivals:
    """Count the ends of voxels (none of them open)."""
    positions, counts = np.unique(ends, return_counts=True)
    return Arrivals(positions, counts.astype(np.int64))


def merge_arrivals(parts: Sequence[Arrivals]) -> Arrivals:
    """Add up the arrivals of several blocks, in any order."""
    positions = np.concatenate([np.empty(0, np.int64), *(part.positions for part in parts)])
    counts = np.concatenate([np.empty(0, np.int64), *(part.counts for part in parts)])
    unique, inverse = np.unique(positions, return_inverse=True)
    total = np.zeros(unique.size, np.int64)
    np.add.at(total, inverse, counts)
    return Arrivals(unique, total)


def sinks(arrived: Arrivals, shape: Triple, parameters: FlowParameters) -> Sinks:
    """Group ends to sinks.

    An end is *strong* if at least ``min_arrivals`` voxels end in the 3 x 3 x 3 box around
    it. Sinks are the 26-connected groups of strong ends, named by the first voxel of each
    (:func:`~cellseg3d_dist.instances.spots.names_of_seeds`). A weak end joins the sink of
    the nearest strong end in its box, of equally near ones that of the smaller name; a weak
    end without one belongs to nothing.

    Parameters
    ----------
    arrived : Arrivals
        The ends of the whole volume.
    shape : (int, int, int)
        The volume's shape.
    parameters : FlowParameters
        ``min_arrivals``.
    """
    positions = arrived.positions
    size = np.asarray(shape, np.int64)
    strong = _mass(positions, arrived.counts, size) >= parameters.min_arrivals
    n = positions.size
    one, other = _touching(positions, strong, size)
    graph = coo_array((np.ones(one.size, np.bool_), (one, other)), shape=(n, n))
    _, group = connected_components(graph, directed=False)
    own = names_of_seeds(positions, Region.whole(shape), shape)
    smallest = np.full(n, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, group, own)
    names = np.where(strong, smallest[group], np.uint64(0))
    _join_weak(positions, strong, names, size)
    kept = names > 0
    return Sinks(positions[kept], names[kept])


@numba.njit(cache=True, nogil=True)
def _neighbour(positions, i, dz, dy, dx, size):  # type: ignore[no-untyped-def]
    """Where the neighbour of the end ``i`` lies in the sorted ``positions``, or -1."""
    nz, ny, nx = size
    at = positions[i]
    z, y, x = at // (ny * nx) + dz, at // nx % ny + dy, at % nx + dx
    if z < 0 or y < 0 or x < 0 or z >= nz or y >= ny or x >= nx:
        return -1
    wanted = (z * ny + y) * nx + x
    found = np.searchsorted(positions, wanted)
    if found < positions.size and positions[found] == wanted:
        return found
    return -1


@numba.njit(cache=True, nogil=True)
def _mass(positions, counts, size):  # type: ignore[no-untyped-def]
    """Arrivals in the 3 x 3 x 3 box around each end."""
    mass = np.zeros(positions.size, np.int64)
    for i in range(positions.size):
        for dz in range(-1, 2):
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    j = _neighbour(positions, i, dz, dy, dx, size)
                    if j >= 0:
                        mass[i] += counts[j]
    return mass


@numba.njit(cache=True, nogil=True)
def _touching(positions, strong, size):  # type: ignore[no-untyped-def]
    """The 26-connected pairs of strong ends, each once."""
    pairs = [(np.int64(0), np.int64(0)) for _ in range(0)]
    for i in range(positions.size):
        if not strong[i]:
            continue
        for dz in range(-1, 1):
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    if dz * 9 + dy * 3 + dx >= 0:
                        continue
                    j = _neighbour(positions, i, dz, dy, dx, size)
                    if j >= 0 and strong[j]:
                        pairs.append((np.int64(i), np.int64(j)))
    one = np.empty(len(pairs), np.int64)
    other = np.empty(len(pairs), np.int64)
    for k in range(len(pairs)):
        one[k], other[k] = pairs[k]
    return one, other


@numba.njit(cache=True, nogil=True)
def _join_weak(positions, strong, names, size):  # type: ignore[no-untyped-def]
    """Give weak ends the name of the nearest strong end around them."""
    for i in range(positions.size):
        if strong[i]:
            continue
        nearest = 4
        for dz in range(-1, 2):
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    distance = dz * dz + dy * dy + dx * dx
                    if distance > nearest:
                        continue
                    j = _neighbour(positions, i, dz, dy, dx, size)
                    if j < 0 or not strong[j]:
                        continue
                    if distance < nearest or names[j] < names[i]:
                        nearest = distance
                        names[i] = names[j]


def assign(ends: npt.NDArray[np.int64], found: Sinks) -> npt.NDArray[np.uint64]:
    """Name of the sink that each voxel ended in, 0 where it is none."""
    if not found.positions.size:
        return np.zeros(ends.shape, np.uint64)
    at = np.minimum(np.searchsorted(found.positions, ends), found.positions.size - 1)
    names: npt.NDArray[np.uint64] = np.where(
        found.positions[at] == ends, found.names[at], np.uint64(0)
    )
    return names


def number(
    names: npt.NDArray[np.uint64], found: Sinks, parameters: FlowParameters
) -> npt.NDArray[np.uint32]:
    """Labels 1..n, in the order of names, of the objects of at least ``min_voxels``.

    Parameters
    ----------
    names : ndarray, uint64
        Sink of each voxel of the whole volume, 0 for none.
    found : Sinks
        Where the names come from.
    parameters : FlowParameters
        ``min_voxels``.
    """
    order = np.concatenate([np.zeros(1, np.uint64), np.unique(found.names)])
    dense = np.searchsorted(order, names)
    kept = np.bincount(dense, minlength=order.size) >= max(parameters.min_voxels, 1)
    kept[0] = False
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.uint32)
    labels: npt.NDArray[np.uint32] = numbers[dense]
    return labels


def decode(
    prediction: npt.NDArray[np.uint8], voxel_size: Size, parameters: FlowParameters
) -> npt.NDArray[np.uint32]:
    """Labels 1..n (z, y, x) of a whole volume in memory."""
    _, nz, ny, nx = prediction.shape
    shape = (nz, ny, nx)
    whole = Region.whole(shape)
    followed = follow(prediction, whole, whole, shape, voxel_size, parameters)
    found = sinks(arrivals(followed.ends), shape, parameters)
    labels = np.zeros(shape, np.uint32)
    names = assign(followed.ends, found)
    labels.ravel()[followed.voxels] = number(names, found, parameters)
    return labels
