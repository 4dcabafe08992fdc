"""Survey: what must be known of the whole volume before any block can be labelled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.inputs import ImageInput, input_digest
from cellseg3d_dist.engine.records import (
    read_record,
    record_digest,
    record_path,
    write_record,
)
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.grid import Block, BlockGrid, Region, Triple, ceil_div
from cellseg3d_dist.instances.filters import Sigma, gaussian, kernel_radius
from cellseg3d_dist.instances.voronoi import crop_to
from cellseg3d_dist.measuring import intensity

Plane = npt.NDArray[Any]

#: Longest side of the maximum projections, in pixels.
PROJECTION_PIXELS = 1024
#: Percentiles kept: display limits and normalisation constants.
PERCENTILES = (0.1, 1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0, 99.8, 99.9)


@dataclass(frozen=True)
class Survey:
    """Per block: extremes, histogram, projections; extremes of the smoothed image if asked.

    Attributes
    ----------
    outline_sigma : (float, float, float) or None
        Smoothing whose extremes are wanted.
    """

    image: ImageInput
    grid: BlockGrid
    folder: Path
    outline_sigma: Sigma | None
    name: str = "survey"

    @property
    def halo(self) -> Triple:
        """Voxels read beyond the block."""
        return kernel_radius(self.outline_sigma) if self.outline_sigma else (0, 0, 0)

    def decides(self) -> BlockRecord:
        """Block shape and smoothing."""
        return {"block_shape": list(self.grid.block_shape), "outline_sigma": self.outline_sigma}

    def run(self, block: Block) -> BlockRecord:
        """Survey one block."""
        region = self.grid.read_region(block, self.halo)
        image = self.image.read(region)
        own = image[block.write_region.within(region).slices]
        within = self.image.within(block.write_region)
        counted = own if within is None else own[within]
        counts = intensity.count(own, within)
        steps = projection_steps(self.grid.shape)
        planes = {
            f"projection_{name}": _project(own, block.write_region, axis, steps)
            for axis, name in enumerate("zyx")
        }
        path = record_path(self.folder / "survey", block)
        record: BlockRecord = {
            "voxels": int(counted.size),
            "min": float(counted.min()) if counted.size else None,
            "max": float(counted.max()) if counted.size else None,
            "not_finite": self.image.n_not_finite(block.write_region),
            "read_is_zero": not image.any(),
            "digest": write_record(path, bins=counts.bins, counts=counts.counts, **planes),
            "input": input_digest([own], within),
        }
        if len(self.image.volume.channels) > 1 and own.dtype.kind == "f":
            record["magnitudes"] = self._magnitudes(block)
        if self.outline_sigma and counted.size:
            low, high = self._smoothed_extremes(image, region, block, within)
            record |= {"smooth_min": low, "smooth_max": high}
        return record

    def _magnitudes(self, block: Block) -> list[float]:
        """Largest magnitude of every channel, which the sums of floats are scaled by."""
        channels = range(len(self.image.volume.channels))
        read = (self.image.read(block.write_region, channel) for channel in channels)
        return [float(np.abs(image).max(initial=0)) for image in read]

    def _smoothed_extremes(
        self,
        image: npt.NDArray[Any],
        region: Region,
        block: Block,
        within: npt.NDArray[np.bool_] | None,
    ) -> tuple[float, float]:
        if not image.any():
            return 0.0, 0.0
        assert self.outline_sigma is not None
        smoothed = gaussian(image, self.outline_sigma, crop_to(region, block.write_region))
        values = smoothed if within is None else smoothed[within]
        return float(values.min()), float(values.max())

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's histogram and projections are intact."""
        return bool(record_digest(record_path(self.folder / "survey", block)) == record["digest"])


@dataclass(frozen=True)
class SurveyResult:
    """The survey of the whole volume; what is not finite counts as 0.

    Attributes
    ----------
    voxels : int
        Voxels where cells are sought.
    minimum, maximum, smooth_minimum, smooth_maximum : float
        Over those voxels, 0 where there are none.
    counts : ndarray, int64, (65536,)
        Histogram, see :mod:`cellseg3d_dist.measuring.intensity`.
    percentiles : dict
        Exact values of :data:`PERCENTILES`; empty until a second pass for floats.
    projections : three 2D arrays
        Maxima along z, y and x in steps of :func:`projection_steps`.
    magnitudes : tuple of float
        Largest magnitude of each channel; only the surveyed one's where all are integer.
    block_voxels : ndarray, int64, (n_blocks,)
        Voxels of each block where cells are sought.
    block_maximum : ndarray, float64, (n_blocks,)
        Largest smoothed value (or value, where nothing was smoothed) of each block; NaN
        where no voxel is sought or the block failed.
    """

    voxels: int
    not_finite: int
    minimum: float
    maximum: float
    smooth_minimum: float
    smooth_maximum: float
    counts: npt.NDArray[np.int64]
    percentiles: dict[float, float]
    projections: tuple[Plane, Plane, Plane]
    magnitudes: tuple[float, ...]
    block_voxels: npt.NDArray[np.int64]
    block_maximum: npt.NDArray[np.float64]
    zero_blocks: npt.NDArray[np.bool_]


def reduce_survey(stage: Survey, records: Iterable[BlockRecord]) -> SurveyResult:
    """Combine the blocks' surveys; independent of their order and of the cut."""
    shape, steps = stage.grid.shape, projection_steps(stage.grid.shape)
    z, y, x = (max(1, ceil_div(n, s)) for n, s in zip(shape, steps, strict=True))
    planes = [np.zeros(pair, stage.image.volume.dtype) for pair in ((y, x), (z, x), (z, y))]
    filled = [np.zeros(plane.shape, bool) for plane in planes]
    counts = np.zeros(intensity.N_BINS, np.int64)
    block_maximum = np.full(stage.grid.n_blocks, np.nan)
    block_voxels = np.zeros(stage.grid.n_blocks, np.int64)
    magnitudes = np.zeros(len(stage.image.volume.channels))
    zero = np.zeros(stage.grid.n_blocks, bool)
    voxels = not_finite = 0
    lows: list[float] = []
    highs: list[float] = []
    smooth_lows: list[float] = []
    smooth_highs: list[float] = []
    for record in records:
        block = stage.grid.block(record["block"])
        arrays = read_record(record_path(stage.folder / "survey", block))
        counts[arrays["bins"]] += arrays["counts"]
        for axis, name in enumerate("zyx"):
            _paste(planes[axis], filled[axis], arrays[f"projection_{name}"], block, axis, steps)
        voxels += record["voxels"]
        block_voxels[block.number] = record["voxels"]
        magnitudes = np.maximum(magnitudes, record.get("magnitudes", 0.0))
        not_finite += record["not_finite"]
        zero[block.number] = record["read_is_zero"]
        if record["voxels"]:
            lows.append(float(record["min"]))
            highs.append(float(record["max"]))
            smooth_lows.append(record.get("smooth_min", lows[-1]))
            smooth_highs.append(record.get("smooth_max", highs[-1]))
            block_maximum[block.number] = smooth_highs[-1]
    largest = max(abs(min(lows, default=0.0)), abs(max(highs, default=0.0)))
    result = SurveyResult(
        voxels=voxels,
        not_finite=not_finite,
        minimum=min(lows, default=0.0),
        maximum=max(highs, default=0.0),
        smooth_minimum=min(smooth_lows, default=0.0),
        smooth_maximum=max(smooth_highs, default=0.0),
        counts=counts,
        percentiles={},
        projections=(planes[0], planes[1], planes[2]),
        # each channel's own: a large one's would leave a small one few digits
        magnitudes=tuple(np.where(magnitudes > 0, magnitudes, largest).tolist()),
        block_voxels=block_voxels,
        block_maximum=block_maximum,
        zero_blocks=zero,
    )
    if not intensity.is_single_pass(stage.image.volume.dtype):
        return result
    return replace(result, percentiles=_exact_percentiles(result, stage.image.volume.dtype))


def _exact_percentiles(result: SurveyResult, dtype: npt.DTypeLike) -> dict[float, float]:
    if not result.voxels:
        return {}
    found = {}
    for percentile in PERCENTILES:
        rank = intensity.rank_of(percentile, result.voxels)
        chosen, _ = intensity.bin_of_rank(result.counts, rank)
        found[percentile] = float(intensity.value_of_bin(chosen, dtype))
    return found


@dataclass(frozen=True)
class Percentiles:
    """The second pass for floats: lower halves of the bits in the bins that matter."""

    image: ImageInput
    grid: BlockGrid
    folder: Path
    upper_bins: tuple[int, ...]
    name: str = "percentiles"

    def decides(self) -> BlockRecord:
        """Block shape and bins."""
        return {"block_shape": list(self.grid.block_shape), "upper_bins": list(self.upper_bins)}

    def run(self, block: Block) -> BlockRecord:
        """Count one block."""
        image = self.image.read(block.write_region)
        within = self.image.within(block.write_region)
        arrays: dict[str, npt.NDArray[Any]] = {}
        for upper in self.upper_bins:
            counts = intensity.count_lower(image, upper, within)
            arrays |= {f"bins_{upper}": counts.bins, f"counts_{upper}": counts.counts}
        return {"digest": write_record(record_path(self.folder / self.name, block), **arrays)}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's counts are intact."""
        return bool(record_digest(record_path(self.folder / self.name, block)) == record["digest"])


def upper_bins_wanted(result: SurveyResult) -> tuple[int, ...]:
    """The bins of the first pass that the percentiles fall in."""
    if not result.voxels:
        return ()
    ranks = (intensity.rank_of(p, result.voxels) for p in PERCENTILES)
    return tuple(sorted({intensity.bin_of_rank(result.counts, rank)[0] for rank in ranks}))


def reduce_percentiles(
    stage: Percentiles, records: Iterable[BlockRecord], result: SurveyResult
) -> SurveyResult:
    """The survey with exact percentiles of a float image."""
    lower = {upper: np.zeros(intensity.N_BINS, np.int64) for upper in stage.upper_bins}
    for record in records:
        arrays = read_record(
            record_path(stage.folder / stage.name, stage.grid.block(record["block"]))
        )
        for upper, counts in lower.items():
            counts[arrays[f"bins_{upper}"]] += arrays[f"counts_{upper}"]
    found = {}
    for percentile in PERCENTILES:
        rank = intensity.rank_of(percentile, result.voxels)
        upper, inside = intensity.bin_of_rank(result.counts, rank)
        low, _ = intensity.bin_of_rank(lower[upper], inside)
        found[percentile] = intensity.value_of_bits(upper, low)
    return replace(result, percentiles=found)


def projection_steps(shape: Triple) -> Triple:
    """Voxels per pixel of the maximum projections, along each axis."""
    z, y, x = (max(1, ceil_div(n, PROJECTION_PIXELS)) for n in shape)
    return (z, y, x)


def _project(own: npt.NDArray[Any], region: Region, axis: int, steps: Triple) -> Plane:
    plane = own.max(axis=axis)
    for i, a in enumerate(other for other in range(3) if other != axis):
        start, stop, step = region.start[a], region.stop[a], steps[a]
        # bins are counted from the volume's corner, the block may start inside one
        edges = np.arange(start // step + 1, ceil_div(stop, step)) * step - start
        plane = np.maximum.reduceat(plane, np.concatenate(([0], edges)), axis=i)
    return np.ascontiguousarray(plane)


def _paste(
    whole: Plane,
    filled: npt.NDArray[np.bool_],
    part: Plane,
    block: Block,
    axis: int,
    steps: Triple,
) -> None:
    first = [block.write_region.start[a] // steps[a] for a in range(3) if a != axis]
    index = tuple(slice(f, f + n) for f, n in zip(first, part.shape, strict=True))
    whole[index] = np.where(filled[index], np.maximum(whole[index], part), part)
    filled[index] = True
