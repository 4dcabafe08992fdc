"""Voxels followed along a flow, block by block and exact.

Each foreground voxel of a block's write region moves along the flow for a fixed number of
steps; where it ends is a voxel of the volume. Positions are integers (1/1024 voxel) and so
is all that is done with them, so that an end depends neither on the region's origin nor
on the machine. A voxel is *open* if its way needs a voxel that the read region lacks;
with the halo of :func:`reach` none is. What the ends are for: :mod:`.sinks`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region, Triple, ceil_div
from cellseg3d_dist.representations.checks import check_fractions, check_voxels, is_number
from cellseg3d_dist.representations.representation import Size
from cellseg3d_dist.representations.seeded import above

#: The most steps a voxel may take.
MAX_ITERATIONS = 1000

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

    Raises
    ------
    ConfigError
        If one of them cannot be used.
    """

    threshold: float = 0.5
    n_iterations: int = 60
    step: float = 1.0
    min_arrivals: int = 20
    min_voxels: int = 16

    def __post_init__(self) -> None:
        check_fractions("flow", threshold=self.threshold)
        check_voxels(
            "flow",
            n_iterations=self.n_iterations,
            min_arrivals=self.min_arrivals,
            min_voxels=self.min_voxels,
        )
        if not (is_number(self.step) and 0 < self.step <= 1):
            raise ConfigError(
                f"flow: step {self.step!r} must be above 0 and at most 1 voxel of the finest axis."
            )
        if self.n_iterations > MAX_ITERATIONS:
            raise ConfigError(
                f"flow: n_iterations {self.n_iterations} must be at most {MAX_ITERATIONS}, "
                "as a block reads as many voxels on each side."
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


def reach(voxel_size: Size, parameters: FlowParameters) -> Triple:
    """Halo with which no voxel is open: the way before the last step."""
    longest = [
        (255 * 2 ** (3 * _BITS) * int(gain) + 2 ** (_SHIFT - 1)) >> _SHIFT
        for gain in _gains(voxel_size, parameters)
    ]
    n = max(parameters.n_iterations - 1, 0)
    z, y, x = (ceil_div(n * step, 2**_BITS) for step in longest)
    return (z, y, x)


def _gains(voxel_size: Size, parameters: FlowParameters) -> npt.NDArray[np.int64]:
    """Voxels moved along each axis by a flow of 1/255, in 2**-26."""
    voxels = parameters.step * min(voxel_size) / np.asarray(voxel_size, np.float64)
    gains: npt.NDArray[np.int64] = np.rint(voxels * 2**_GAIN_BITS / 255).astype(np.int64)
    return gains


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
    which is 0 outside the foreground, times ``parameters.step``; at the volume's faces
    places are clamped. The end is the voxel nearest the last place. (Not to take steps out
    of the foreground, or the flow of the nearest voxel, lost 2 to 3 times as many voxels of
    noisy flows.)

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
    packed = np.array(np.moveaxis(prediction, 0, -1), order="C")
    packed[..., 0] = above(prediction[0], parameters.threshold)
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
    """Move ``place`` to its end; False if that needs a voxel outside ``packed``."""
    half = 1 << (_SHIFT - 1)
    pz, py, px = place
    seen_z, seen_y, seen_x, seen, next_seen = pz, py, px, 0, 2
    step, stop = 0, n_iterations
    while step < stop:
        is_known, fz, fy, fx = _flow_at(packed, pz, py, px)
        if not is_known:
            return False
        pz = min(max(pz + ((fz * gains[0] + half) >> _SHIFT), low[0]), high[0])
        py = min(max(py + ((fy * gains[1] + half) >> _SHIFT), low[1]), high[1])
        px = min(max(px + ((fx * gains[2] + half) >> _SHIFT), low[2]), high[2])
        step += 1
        if pz == seen_z and py == seen_y and px == seen_x:
            # round in circles from here on (Brent): only the rest of the last round counts
            stop = step + (stop - step) % (step - seen)
        elif step == next_seen:
            seen_z, seen_y, seen_x, seen, next_seen = pz, py, px, step, 2 * step
    place[0], place[1], place[2] = pz, py, px
    return True


@numba.njit(cache=True, nogil=True)
def _flow_at(packed, pz, py, px):  # type: ignore[no-untyped-def]
    """Flow of foreground interpolated at a place, in 1/255 * 2**-30; whether it is known."""
    nz, ny, nx, _ = packed.shape
    one = 1 << _BITS
    z, y, x = pz >> _BITS, py >> _BITS, px >> _BITS
    rz, ry, rx = pz & (one - 1), py & (one - 1), px & (one - 1)
    # corners of no weight are not needed: at a voxel's own centre it alone is
    mz, my, mx = min(rz, 1), min(ry, 1), min(rx, 1)
    if z < 0 or y < 0 or x < 0 or z + mz >= nz or y + my >= ny or x + mx >= nx:
        return False, 0, 0, 0
    fz, fy, fx = 0, 0, 0
    for dz in range(1 + mz):
        wz = rz if dz else one - rz
        for dy in range(1 + my):
            wzy = wz * (ry if dy else one - ry)
            for dx in range(1 + mx):
                corner = packed[z + dz, y + dy, x + dx]
                weight = wzy * (rx if dx else one - rx) * corner[0]
                fz += weight * (2 * np.int64(corner[1]) - 255)
                fy += weight * (2 * np.int64(corner[2]) - 255)
                fx += weight * (2 * np.int64(corner[3]) - 255)
    return True, fz, fy, fx
