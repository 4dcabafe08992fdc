"""One resampling for every change of a patch's shape: flips, turns, affine and elastic.

Voxel p of a patch comes from ``centre + matrix (p - middle + displacement(p))`` of the
source, both on the same voxel grid. The displacement is a uniform cubic B-spline over
coarse control points (a free-form deformation, Rueckert et al. 1999); with control points
displaced by no more than 0.4 of their spacing it cannot fold (Choi and Lee 2000).
Flips and quarter turns alone move voxels and interpolate nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Triple
from cellseg3d_dist.networks.resampling import Size

Matrix = npt.NDArray[np.float64]
Extents = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
#: Gives voxels of extents that may reach beyond the volume.
Read = Callable[[Extents], npt.NDArray[Any]]

#: Largest displacement of a control point in units of the spacing, so that nothing folds.
LARGEST_DISPLACEMENT = 0.4


@dataclass(frozen=True, eq=False)
class Elastic:
    """Displacements of control points.

    Attributes
    ----------
    control : ndarray, float64, (nz, ny, nx, 3)
        In voxels of the patch.
    spacing : (float, float, float)
        Voxels between control points.
    start : (float, float, float)
        Voxel of the patch where the control grid starts, its second point on each axis.
    """

    control: npt.NDArray[np.float64]
    spacing: Size
    start: Size

    @property
    def reach(self) -> npt.NDArray[np.float64]:
        """Largest displacement along each axis; the spline never exceeds its points."""
        reach: npt.NDArray[np.float64] = np.abs(self.control).max(axis=(0, 1, 2))
        return reach


@dataclass(frozen=True, eq=False)
class Warp:
    """Where each voxel of a patch comes from.

    Attributes
    ----------
    matrix : ndarray, float64, (3, 3)
        From voxels of the patch to voxels of the source.
    elastic : Elastic or None
    """

    matrix: Matrix
    elastic: Elastic | None = None

    @property
    def is_rigid_on_voxels(self) -> bool:
        """Whether it only flips and turns by quarters, so that voxels map to voxels."""
        entries = np.abs(self.matrix)
        whole = ((entries == 0) | (entries == 1)).all() and (entries.sum(axis=0) == 1).all()
        return self.elastic is None and bool(whole)

    def footprint(self, shape: Triple) -> npt.NDArray[np.float64]:
        """Voxels of the source along each axis that a patch of this shape spans."""
        return np.abs(self.matrix) @ np.array(shape, np.float64)

    def extents(self, centre: npt.NDArray[np.float64], shape: Triple, halo: int) -> Extents:
        """The box of the source that a patch with ``halo`` on each side comes from."""
        half = (np.array(shape) - 1) / 2 + halo
        if self.elastic is not None:
            half = half + self.elastic.reach
        reach = np.abs(self.matrix) @ half
        low = np.floor(centre - reach + _ROUNDING).astype(int)
        high = np.ceil(centre + reach - _ROUNDING).astype(int) + 1
        (a, b, c), (d, e, f) = low.tolist(), high.tolist()
        return ((a, d), (b, e), (c, f))

    def image(
        self, read: Read, centre: npt.NDArray[np.float64], shape: Triple
    ) -> npt.NDArray[np.float32]:
        """A patch of a float image around ``centre`` of the source, interpolated linearly."""
        extents = self.extents(centre, shape, 0)
        source = read(extents)
        if self.is_rigid_on_voxels:
            return np.array(self._moved(source), np.float32, order="C")
        out = np.empty(shape, np.float32)
        origin = np.array([low for low, _ in extents], np.float64)
        _linear(np.ascontiguousarray(source, np.float32), out, *self._mapping(centre, origin, out))
        return out

    def labels(
        self, read: Read, centre: npt.NDArray[np.float64], shape: Triple, halo: int, volume: Triple
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """A patch of labels with ``halo`` on each side, of the nearest voxels.

        Returns
        -------
        labels : ndarray, int32, ``shape`` + 2 ``halo``
        inside : ndarray, bool
            Where the source is inside its volume of shape ``volume``.
        """
        extents = self.extents(centre, shape, halo)
        source = read(extents)
        wide = (shape[0] + 2 * halo, shape[1] + 2 * halo, shape[2] + 2 * halo)
        if self.is_rigid_on_voxels:
            ranges = [np.arange(a, b) for a, b in extents]
            z, y, x = ((r >= 0) & (r < n) for r, n in zip(ranges, volume, strict=True))
            within = z[:, None, None] & y[:, None] & x
            return np.array(self._moved(source), np.int32, order="C"), self._moved(within).copy()
        out, inside = np.empty(wide, np.int32), np.empty(wide, np.bool_)
        origin = np.array([low for low, _ in extents], np.float64)
        bounds = np.array(volume, np.float64)
        mapping = self._mapping(centre, origin, out, halo)
        _nearest(np.ascontiguousarray(source, np.int32), out, inside, bounds - origin, *mapping)
        return out, inside

    def _moved(self, source: npt.NDArray[Any]) -> npt.NDArray[Any]:
        axes = np.abs(self.matrix).argmax(axis=0)
        signs = self.matrix[axes, range(3)]
        moved = source.transpose(tuple(axes.tolist()))
        return moved[tuple(slice(None, None, int(sign)) for sign in signs)]

    def _mapping(
        self,
        centre: npt.NDArray[np.float64],
        origin: npt.NDArray[np.float64],
        out: npt.NDArray[Any],
        halo: int = 0,
    ) -> tuple[Any, ...]:
        """What the kernels need to find the source of voxel (0, 0, 0) and onwards."""
        middle = (np.array(out.shape) - 1) / 2
        first = centre - self.matrix @ middle - origin
        if self.elastic is None:
            empty = np.zeros((0, 0, 0, 3))
            return origin, self.matrix, first, empty, np.ones(3), np.zeros(3)
        spacing = np.array(self.elastic.spacing)
        shift = -float(halo) - np.array(self.elastic.start)
        return origin, self.matrix, first, self.elastic.control, spacing, shift


# positions that are whole but for rounding must not read a voxel more
_ROUNDING = 1e-6


def draw_elastic(
    rng: np.random.Generator, shape: Triple, halo: int, spacing: Size, magnitude: float
) -> Elastic:
    """Random displacements, uniform up to ``magnitude`` of the spacing along each axis."""
    counts = [
        math.floor((n + 2 * halo - 1) / step) + 4 for n, step in zip(shape, spacing, strict=True)
    ]
    drawn = rng.uniform(-1, 1, (*counts, 3)) * min(magnitude, LARGEST_DISPLACEMENT)
    start = (-float(halo), -float(halo), -float(halo))
    return Elastic(drawn * np.array(spacing), spacing, start)


@numba.njit(cache=True, nogil=True)
def _spline(u, weights):  # type: ignore[no-untyped-def]
    v = 1.0 - u
    weights[0] = v * v * v / 6.0
    weights[1] = (3.0 * u * u * u - 6.0 * u * u + 4.0) / 6.0
    weights[2] = (3.0 * v * v * v - 6.0 * v * v + 4.0) / 6.0
    weights[3] = u * u * u / 6.0


@numba.njit(cache=True, nogil=True)
def _row_splines(n, spacing, shift):  # type: ignore[no-untyped-def]
    """Weights (n, 4) of the control points from ``first`` (n,) on, for the voxels of a row."""
    first, weights = np.empty(n, np.int64), np.empty((n, 4))
    for x in range(n):
        t = (x + shift) / spacing
        first[x] = int(np.floor(t))
        _spline(t - first[x], weights[x])
    return first, weights


@numba.njit(cache=True, nogil=True)
def _displacements(control, spacing, shift, z, y, first, weights, line, out):  # type: ignore[no-untyped-def]
    """Displacements (n, 3) of a row of voxels; ``line`` is scratch (nx, 3)."""
    wz, wy = np.empty(4), np.empty(4)
    tz, ty = (z + shift[0]) / spacing[0], (y + shift[1]) / spacing[1]
    iz, iy = int(np.floor(tz)), int(np.floor(ty))
    _spline(tz - iz, wz)
    _spline(ty - iy, wy)
    line[:] = 0.0
    for a in range(4):
        for b in range(4):
            w = wz[a] * wy[b]
            for n in range(line.shape[0]):
                for c in range(3):
                    line[n, c] += w * control[iz + a, iy + b, n, c]
    for x in range(out.shape[0]):
        i = first[x]
        for c in range(3):
            out[x, c] = (
                weights[x, 0] * line[i, c]
                + weights[x, 1] * line[i + 1, c]
                + weights[x, 2] * line[i + 2, c]
                + weights[x, 3] * line[i + 3, c]
            )


@numba.njit(cache=True, nogil=True)
def _linear(source, out, origin, matrix, first, control, spacing, shift):  # type: ignore[no-untyped-def]
    nz, ny, nx = source.shape
    moved = np.zeros((out.shape[2], 3))
    line = np.zeros((control.shape[2], 3))
    start, weights = _row_splines(out.shape[2] if control.size else 0, spacing[2], shift[2])
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            if control.size:
                _displacements(control, spacing, shift, z, y, start, weights, line, moved)
            for x in range(out.shape[2]):
                a, b, c = z + moved[x, 0], y + moved[x, 1], x + moved[x, 2]
                sz = first[0] + matrix[0, 0] * a + matrix[0, 1] * b + matrix[0, 2] * c
                sy = first[1] + matrix[1, 0] * a + matrix[1, 1] * b + matrix[1, 2] * c
                sx = first[2] + matrix[2, 0] * a + matrix[2, 1] * b + matrix[2, 2] * c
                sz = min(max(sz, 0.0), nz - 1.0)
                sy = min(max(sy, 0.0), ny - 1.0)
                sx = min(max(sx, 0.0), nx - 1.0)
                z0, y0, x0 = int(sz), int(sy), int(sx)
                z1, y1, x1 = min(z0 + 1, nz - 1), min(y0 + 1, ny - 1), min(x0 + 1, nx - 1)
                fz, fy, fx = np.float32(sz - z0), np.float32(sy - y0), np.float32(sx - x0)
                p = source[z0, y0, x0] + fx * (source[z0, y0, x1] - source[z0, y0, x0])
                q = source[z0, y1, x0] + fx * (source[z0, y1, x1] - source[z0, y1, x0])
                r = source[z1, y0, x0] + fx * (source[z1, y0, x1] - source[z1, y0, x0])
                s = source[z1, y1, x0] + fx * (source[z1, y1, x1] - source[z1, y1, x0])
                p += fy * (q - p)
                r += fy * (s - r)
                out[z, y, x] = p + fz * (r - p)


@numba.njit(cache=True, nogil=True)
def _nearest(source, out, inside, bounds, origin, matrix, first, control, spacing, shift):  # type: ignore[no-untyped-def]
    nz, ny, nx = source.shape
    moved = np.zeros((out.shape[2], 3))
    line = np.zeros((control.shape[2], 3))
    start, weights = _row_splines(out.shape[2] if control.size else 0, spacing[2], shift[2])
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            if control.size:
                _displacements(control, spacing, shift, z, y, start, weights, line, moved)
            for x in range(out.shape[2]):
                a, b, c = z + moved[x, 0], y + moved[x, 1], x + moved[x, 2]
                sz = first[0] + matrix[0, 0] * a + matrix[0, 1] * b + matrix[0, 2] * c
                sy = first[1] + matrix[1, 0] * a + matrix[1, 1] * b + matrix[1, 2] * c
                sx = first[2] + matrix[2, 0] * a + matrix[2, 1] * b + matrix[2, 2] * c
                iz = int(np.floor(sz + 0.5))
                iy = int(np.floor(sy + 0.5))
                ix = int(np.floor(sx + 0.5))
                inside[z, y, x] = (
                    -origin[0] <= iz < bounds[0]
                    and -origin[1] <= iy < bounds[1]
                    and -origin[2] <= ix < bounds[2]
                )
                iz = min(max(iz, 0), nz - 1)
                iy = min(max(iy, 0), ny - 1)
                ix = min(max(ix, 0), nx - 1)
                out[z, y, x] = source[iz, iy, ix]
