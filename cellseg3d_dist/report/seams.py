"""Does the cut show? Cells near block faces compared with their neighbours a little off.

Along each axis, w voxels about one cell radius, every interior block face has a zone of
cells *near* it and two *flanks*::

            block face
                |
    ....|-------|-------|....      voxels along one axis
     flank  near|near  flank
         w    w | w    w

A seam splits, fuses, clips or loses cells, which changes their number or their size in the
near zone only. Comparing with the flanks rather than with all other cells keeps regional
differences of the tissue out. What difference chance makes is asked of the data: the whole
grid is shifted at random, many times, and p is the share of grids whose difference is at
least as large as that of the real one. Structure of the tissue itself moves the shifted
grids just as much, so it widens the null distribution and does not lower p.

All counts come from one histogram per axis folded by the block length, so a shift costs a
look-up and 10^7 cells cost little more than reading them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Triple

Floats = npt.NDArray[np.float64]
Status = Literal["tested", "no interior faces", "blocks too small", "too few cells"]

ALPHA = 0.01
"""A difference at or below this p is called out."""

MIN_NEAR = 10
"""Fewer cells than this expected near faces say nothing."""

PROFILE_CELLS = 40
"""Cells wanted per bin of the profile."""

_SIZE_SAMPLE = 200_000
"""Cells drawn to rank sizes; any monotone score makes a valid test."""


@dataclass(frozen=True, eq=False)
class SeamProfile:
    """Density of cells against distance to the nearest block face.

    Attributes
    ----------
    distance : (d,) float64
        Voxels, bin centres.
    density, low, high : (d,) float64
        Cells per voxel over the mean, and the central 95 % of the shifted grids.
    """

    distance: Floats
    density: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class SeamCheck:
    """Result of :func:`seam_check`.

    Attributes
    ----------
    status : str
        'tested', or why there is nothing to test; then all ratios and p are NaN.
    n_cells, n_faces : int
        Cells, and interior block faces over all axes.
    width : (z, y, x) voxels
        Near zone on each side of a face; 0 on an axis that was not tested.
    n_near, n_flank : int
        Cells in the zones, summed over axes.
    density_ratio : float
        Cells per voxel near faces over that in the flanks; 1 when the cut does not show.
    size_ratio : float
        Median volume of the cells near a face over that of the cells in flanks only.
    count_p, size_p : float
        Share of randomly shifted grids that differ at least as much, itself counted.
    n_shifts : int
    profile : SeamProfile or None
    """

    status: Status
    n_cells: int
    n_faces: int
    width: Triple = (0, 0, 0)
    n_near: int = 0
    n_flank: int = 0
    density_ratio: float = float("nan")
    size_ratio: float = float("nan")
    count_p: float = float("nan")
    size_p: float = float("nan")
    n_shifts: int = 0
    profile: SeamProfile | None = None

    @property
    def shows(self) -> bool:
        """Whether number or size of cells differs at faces, at :data:`ALPHA`."""
        return self.status == "tested" and min(self.count_p, self.size_p) <= ALPHA


def seam_check(
    centroids: npt.NDArray[Any],
    volumes: npt.NDArray[Any],
    block_shape: Triple,
    shape: Triple,
    *,
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0),
    n_shifts: int = 999,
    seed: int = 0,
) -> SeamCheck:
    """Test whether cells near interior block faces differ in number or size.

    Parameters
    ----------
    centroids : (n, 3) float
        z, y, x in voxels of the volume (0 is the centre of its first voxel).
    volumes : (n,) numbers
        Voxels of each cell.
    block_shape, shape : (z, y, x) voxels
    voxel_size : (z, y, x), any one unit
        Makes the zones equally wide in space.
    n_shifts : int
        Shifted grids; the smallest possible p is 1 / (n_shifts + 1).
    seed : int
        Of the shifts.

    Returns
    -------
    SeamCheck

    Notes
    -----
    With the flanks scaled to the voxels of the near zone and all sums over axes, the
    statistics are (near - flank) / sqrt(near + flank) and the difference of mean size ranks
    times sqrt(near + flank): both have the same spread whatever number of faces a shifted
    grid has inside the volume. Their distance from the mean over all grids, real and
    shifted, is ranked, which treats both directions alike. A margin of 2 w at the volume's
    own faces is left out, where cells are cut anyway.
    """
    centroids = np.asarray(centroids).reshape(-1, 3)
    volumes = np.asarray(volumes, dtype=np.float64).ravel()
    n_cells = volumes.size
    interior = [-(-n // b) - 1 if n > b else 0 for n, b in zip(shape, block_shape, strict=True)]
    n_faces = sum(interior)
    if n_faces == 0:
        return SeamCheck("no interior faces", n_cells, 0)
    if n_cells < 2 * MIN_NEAR:
        return SeamCheck("too few cells", n_cells, n_faces)
    width = _zone_width(volumes, block_shape, shape, voxel_size)
    axes = [a for a in range(3) if width[a]]
    if not axes:
        return SeamCheck("blocks too small", n_cells, n_faces)
    generator = np.random.default_rng(seed)
    ranks = _ranks(volumes, generator)
    folded = {
        a: _Folded.of(centroids[:, a], ranks, block_shape[a], shape[a], width[a]) for a in axes
    }
    tested = (width[0], width[1], width[2])
    if sum(float(f.near.mean()) for f in folded.values()) < MIN_NEAR:
        return SeamCheck("too few cells", n_cells, n_faces, tested)
    # row 0 is the real grid
    shifts = generator.integers(0, np.asarray(block_shape)[axes], (n_shifts + 1, len(axes)))
    shifts[0] = 0
    count, size = _statistics(list(folded.values()), shifts)
    near, flank = _membership(centroids, block_shape, shape, width)
    return SeamCheck(
        status="tested",
        n_cells=n_cells,
        n_faces=n_faces,
        width=tested,
        n_near=sum(int(f.near[0]) for f in folded.values()),
        n_flank=sum(int(f.flank[0]) for f in folded.values()),
        density_ratio=_density_ratio(list(folded.values())),
        size_ratio=_median_ratio(volumes[near], volumes[flank & ~near]),
        count_p=_p_value(count),
        size_p=_p_value(size),
        n_shifts=n_shifts,
        profile=_profile(list(folded.values()), shifts),
    )


def _zone_width(
    volumes: Floats, block_shape: Triple, shape: Triple, voxel_size: tuple[float, float, float]
) -> Triple:
    """One radius of the median cell per axis, at most a quarter block; 0 where untestable."""
    radius = np.cbrt(3 * np.median(volumes) * np.prod(voxel_size) / (4 * np.pi))
    out = []
    for n, b, spacing in zip(shape, block_shape, voxel_size, strict=True):
        w = int(min(max(1, np.rint(radius / spacing)), b // 4))
        # two zones must fit between the margins of the volume
        out.append(w if n > b and n >= 8 * w else 0)
    return (out[0], out[1], out[2])


def _ranks(volumes: Floats, generator: np.random.Generator) -> Floats:
    """Rank of each size in 0..1, ties alike, against a sample where there are many."""
    sample = volumes
    if volumes.size > _SIZE_SAMPLE:
        sample = generator.choice(volumes, _SIZE_SAMPLE, replace=False)
    sample = np.sort(sample)
    low = np.searchsorted(sample, volumes, side="left")
    high = np.searchsorted(sample, volumes, side="right")
    return np.asarray((low + high) / (2 * sample.size), dtype=np.float64)


@dataclass(frozen=True)
class _Folded:
    """Cells of one axis by voxel modulo the block length, and zone sums for every shift."""

    count: Floats
    exposure: Floats
    near: Floats
    flank: Floats
    near_exposure: Floats
    flank_exposure: Floats
    near_rank: Floats
    flank_rank: Floats

    @classmethod
    def of(cls, position: npt.NDArray[Any], ranks: Floats, b: int, n: int, w: int) -> _Folded:
        """Fold; with margins of 2 w, faces of the volume itself never have a zone."""
        voxel = np.floor(np.asarray(position, dtype=np.float64) + 0.5).astype(np.int64)
        inside = (voxel >= 2 * w) & (voxel < n - 2 * w)
        residue = voxel[inside] % b
        count = np.bincount(residue, minlength=b).astype(np.float64)
        rank = np.bincount(residue, weights=ranks[inside], minlength=b)
        exposure = np.bincount(np.arange(2 * w, n - 2 * w) % b, minlength=b).astype(np.float64)

        def zone(values: npt.NDArray[Any], reach: int) -> Floats:
            """Sum over [s - reach, s + reach) modulo b, for every shift s."""
            around = np.concatenate([values, values, values])
            total = np.concatenate([[0.0], np.cumsum(around)])
            s = np.arange(b) + b
            return np.asarray(total[s + reach] - total[s - reach])

        near = [zone(v, w) for v in (count, exposure, rank)]
        both = [zone(v, 2 * w) for v in (count, exposure, rank)]
        flank = [b - a for a, b in zip(near, both, strict=True)]
        return cls(count, exposure, near[0], flank[0], near[1], flank[1], near[2], flank[2])


def _statistics(axes: list[_Folded], shifts: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Standardised differences of number and of size rank, for each row of shifts."""
    near = np.zeros(len(shifts))
    flank, expected = near.copy(), near.copy()
    near_rank, flank_rank = near.copy(), near.copy()
    for axis, s in zip(axes, shifts.T, strict=True):
        near += axis.near[s]
        flank += axis.flank[s]
        expected += axis.flank[s] * axis.near_exposure[s] / np.maximum(axis.flank_exposure[s], 1)
        near_rank += axis.near_rank[s]
        flank_rank += axis.flank_rank[s]
    weight = np.sqrt(np.maximum(near + expected, 1))
    count = (near - expected) / weight
    size = (near_rank / np.maximum(near, 1) - flank_rank / np.maximum(flank, 1)) * weight
    # a zone without a cell has no size to compare
    return count, np.where((near > 0) & (flank > 0), size, 0.0)


def _density_ratio(axes: list[_Folded]) -> float:
    """Cells per voxel near the real faces over that in their flanks."""
    near, flank, near_voxels, flank_voxels = (
        sum(float(getattr(axis, name)[0]) for axis in axes)
        for name in ("near", "flank", "near_exposure", "flank_exposure")
    )
    if flank == 0 or near_voxels == 0:
        return float("nan")
    return (near / near_voxels) / (flank / flank_voxels)


def _p_value(statistic: Floats) -> float:
    """Two-sided permutation p of the first value among all."""
    away = np.abs(statistic - statistic.mean())
    # rounding must not tell equal grids apart
    return float(np.mean(away >= away[0] * (1 - 1e-9)))


def _membership(
    centroids: npt.NDArray[Any], block_shape: Triple, shape: Triple, width: Triple
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which cells are in a near zone, and which in a flank, of any axis."""
    near = np.zeros(len(centroids), dtype=np.bool_)
    flank = near.copy()
    for a in range(3):
        w, b, n = width[a], block_shape[a], shape[a]
        if w == 0:
            continue
        voxel = np.floor(centroids[:, a] + 0.5).astype(np.int64)
        inside = (voxel >= 2 * w) & (voxel < n - 2 * w)
        residue = voxel % b
        distance = np.minimum(residue, b - 1 - residue)
        near |= inside & (distance < w)
        flank |= inside & (distance >= w) & (distance < 2 * w)
    return near, flank


def _median_ratio(near: Floats, flank: Floats) -> float:
    if near.size == 0 or flank.size == 0:
        return float("nan")
    return float(np.median(near) / np.median(flank))


def _profile(axes: list[_Folded], shifts: npt.NDArray[np.int64]) -> SeamProfile:
    """Density against distance to the nearest face of each grid, all tested axes together."""
    reach = min(min(len(axis.count) // 2 for axis in axes), 48)
    found = np.zeros((len(shifts), reach))
    expected = found.copy()
    distance = np.arange(reach)
    for axis, s in zip(axes, shifts.T, strict=True):
        b = len(axis.count)
        rate = axis.count.sum() / max(axis.exposure.sum(), 1)
        for residue in ((s[:, None] + distance) % b, (s[:, None] - 1 - distance) % b):
            found += axis.count[residue]
            expected += axis.exposure[residue] * rate
    # bins wide enough that chance does not drown a seam
    mean = float(found[0].mean())
    step = int(np.clip(np.ceil(PROFILE_CELLS / max(mean, 1)), 1, max(1, reach // 6)))
    starts = np.arange(0, reach - reach % step, step)
    found = np.add.reduceat(found[:, : starts[-1] + step], starts, axis=1)
    expected = np.add.reduceat(expected[:, : starts[-1] + step], starts, axis=1)
    density = np.divide(found, expected, out=np.ones_like(found), where=expected > 0)
    low, high = np.quantile(density[1:], (0.025, 0.975), axis=0)
    middle = np.asarray(starts + step / 2, dtype=np.float64)
    return SeamProfile(middle, density[0], low, high)
