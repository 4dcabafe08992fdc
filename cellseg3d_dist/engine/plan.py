"""The plan of a run: blocks, halos, memory and disk, checked before anything is created."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, cast

from cellseg3d_dist.config import SegmentConfig
from cellseg3d_dist.engine import memory
from cellseg3d_dist.engine.clean_up_plan import clean_up_disk, clean_up_memory
from cellseg3d_dist.engine.clusters import Resources, default_memory_limit, default_workers
from cellseg3d_dist.engine.labeller_cost import check_overlap_halo, labelling_memory, overlap_halo
from cellseg3d_dist.engine.memory import BlockMemory
from cellseg3d_dist.engine.merge import MOST_BLOCKS
from cellseg3d_dist.engine.method import Method
from cellseg3d_dist.engine.predicted_cost import predicted_costs
from cellseg3d_dist.engine.prepared import seen_volume, with_preprocessing
from cellseg3d_dist.engine.seed_options import PEAKS
from cellseg3d_dist.engine.stages.hmaxima import distance_cap
from cellseg3d_dist.engine.stages.seeds import SeededRepresentation
from cellseg3d_dist.errors import ConfigError, EnvironmentFailedError, MemoryLimitError
from cellseg3d_dist.grid import BlockGrid, Region, Triple, ceil_div
from cellseg3d_dist.instances.distance import distance_halo
from cellseg3d_dist.instances.filters import Sigma, kernel_radius
from cellseg3d_dist.instances.voronoi import VoronoiSpec
from cellseg3d_dist.representations.following import FlowParameters, reach
from cellseg3d_dist.representations.star import Star
from cellseg3d_dist.volumes import Volume

#: Wanted block sides, largest first; whole chunks of 64 so that a block is a shard.
BLOCK_SIDES = (256, 192, 128, 64)
#: Voxels beyond a block that a decoder's flood runs through: more than most cells' radius.
DECODING_HALO: Triple = (16, 16, 16)
#: Share of a worker's limit that a block may be projected to use.
SHARE = 0.8
#: Most blocks of a run; each costs the driver a few bytes.
MAX_BLOCKS = 20_000_000
#: Chunks that a worker decodes at a time, see `volumes.limit_threads`.
CHUNKS_IN_FLIGHT = 4
#: Mvoxel/s of one core for a whole run, measured on light-sheet data; for the estimate only.
MVOXELS_PER_CORE_SECOND = 3.0


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes
    ----------
    shape, block_shape : (int, int, int)
    n_blocks : int
    spot_sigma, outline_sigma : (float, float, float)
        In voxels of each axis.
    flood_halo : (int, int, int)
        Of the first pass; the redo uses twice as much. Of a labeller: what it sees more.
    redo : bool
        Whether the redo fits the memory limit; if not, the exchange settles open voxels.
    stages : tuple of BlockMemory
        Projected memory of each stage.
    memory_limit : int
        Bytes per worker.
    disk_bytes : int
        Upper bound of what the run writes, before compression of labels.
    hours : float
        Estimate from measured rates.
    reach : (int, int, int)
        Voxels beyond the mask whose prediction labels depend on.
    sparse : dict or None
        How a network's sparse candidates are chosen, where it has any.
    n_times : int
        Time points that are done so, one after the other.
    patches : int
        That a network takes, those that several blocks need counted in each.
    """

    shape: Triple
    block_shape: Triple
    n_blocks: int
    spot_sigma: Sigma
    outline_sigma: Sigma
    flood_halo: Triple
    redo: bool
    stages: tuple[BlockMemory, ...]
    memory_limit: int
    workers: int
    disk_bytes: int
    hours: float
    reach: Triple = (0, 0, 0)
    sparse: dict[str, Any] | None = None
    n_times: int = 1
    patches: int = 0

    @property
    def grid(self) -> BlockGrid:
        """The cut."""
        return BlockGrid(self.shape, self.block_shape)

    @property
    def peak(self) -> BlockMemory:
        """The stage that needs most."""
        return max(self.stages, key=lambda stage: stage.n_bytes)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        blocks = "1 block" if self.n_blocks == 1 else f"{self.n_blocks} blocks"
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        volume = f"a volume of {_by(self.shape)}"
        if self.n_times > 1:
            volume = f"each of {self.n_times} time points of {_by(self.shape)}"
        yield f"{blocks} of {_by(self.block_shape)} voxels in {volume}, {workers}"
        yield f"about {_duration(self.hours)}, up to {self.disk_bytes / 1e9:.2f} GB on disk"
        yield f"memory per worker, limit {self.memory_limit / 2**30:.2f} GiB:"
        for stage in self.stages:
            yield (
                f"  {stage.stage:<17} {stage.n_bytes / 2**30:.2f} GiB, "
                f"reads {_by(stage.read_region)} voxels"
            )


def make_plan(method: Method, volume: Volume, resources: Resources | None = None) -> Plan:
    """Plan a run and check its memory.

    Parameters
    ----------
    method, volume
        What to do with which image.
    resources : Resources or None
        Of a cluster that is there already; None plans for an own local one.

    Raises
    ------
    MemoryLimitError
        If a block would need more than a worker may use, with the block shape that fits.
    """
    config = method.config
    workers = 1 if config.executor == "serial" else config.workers or default_workers()
    if resources is not None:
        workers = resources.workers
    limit = config.memory_limit or (
        resources.memory_limit if resources is not None else default_memory_limit(workers)
    )
    block_shape = config.block_shape
    if block_shape is None and config.compat is not None:
        block_shape = _block_of(max(volume.shape), volume.shape)
    if block_shape is not None:
        _check_cut(config, volume, block_shape)
        plan = _plan_for(method, volume, block_shape, workers, limit)
        if plan.peak.n_bytes > limit * SHARE:
            raise MemoryLimitError(_over_limit(plan, method, volume))
        return plan
    for side in BLOCK_SIDES:
        plan = _plan_for(method, volume, _block_of(side, volume.shape), workers, limit)
        fits = plan.peak.n_bytes <= limit * SHARE
        if fits and (plan.n_blocks >= 4 * workers or side <= 128):
            return plan
    if fits:
        return plan
    raise MemoryLimitError(_over_limit(plan, method, volume))


def _check_cut(config: SegmentConfig, volume: Volume, block_shape: Triple) -> None:
    n_blocks = BlockGrid(volume.shape, block_shape).n_blocks
    if n_blocks > MAX_BLOCKS:
        raise ConfigError(
            f"block_shape {block_shape} cuts the volume of {volume.shape} into {n_blocks} blocks, "
            f"over the limit of {MAX_BLOCKS}. Use larger blocks."
        )
    if config.compat is not None and n_blocks > 1:
        raise ConfigError(
            f"compat {config.compat} depends on the cut: block_shape {block_shape} makes "
            f"{n_blocks} blocks of {volume.shape}. Use one block, or a --region."
        )


def planned_before(now: Plan, before: dict[str, Any]) -> Plan:
    """The plan of an earlier sitting: what decides what blocks write stays as it was."""
    z, y, x = before["flood_halo"]
    return replace(now, flood_halo=(z, y, x), redo=bool(before["redo"]))


def check_disk(plan: Plan, out: Path) -> None:
    """Refuse a run that the disk cannot hold.

    Raises
    ------
    EnvironmentFailedError
        With what is needed and what is free.
    """
    parent = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(parent).free
    if plan.disk_bytes > free:
        raise EnvironmentFailedError(
            f"the run may write {plan.disk_bytes / 1e9:.1f} GB, {parent} has "
            f"{free / 1e9:.1f} GB free. Free space or choose another disk."
        )


def _by(shape: Triple) -> str:
    return "x".join(map(str, shape))


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return "1 minute"
    return f"{hours * 60:.0f} minutes" if hours < 2 else f"{hours:.0f} hours"


def _block_of(side: int, shape: Triple) -> Triple:
    z, y, x = (min(side, max(1, ceil_div(n, 64)) * 64) for n in shape)
    return (z, y, x)


def _plan_for(
    method: Method, volume: Volume, block_shape: Triple, workers: int, limit: int
) -> Plan:
    config, grid = method.config, BlockGrid(volume.shape, block_shape)
    outline = config.outline_sigma.voxels(volume.voxel_size)
    spec = VoronoiSpec(config.spot_sigma.voxels(volume.voxel_size), outline, 0.0)
    flood_halo = DECODING_HALO if method.decodes else spec.default_flood_halo()
    if config.flood_halo is not None:
        flood_halo = (config.flood_halo,) * 3
    if method.labeller is not None:
        outline = (0.0, 0.0, 0.0)
        spec, flood_halo = VoronoiSpec(outline, outline, 0.0), overlap_halo(method, volume)
        check_overlap_halo(flood_halo, grid)
    seen = volume if config.preprocess is None else seen_volume(volume)
    stages, redo = _finding(method, seen, grid, spec, flood_halo, limit * SHARE)
    stages = with_preprocessing(stages, config, volume, grid)
    itemsize = volume.dtype.itemsize
    stages += clean_up_memory(config, volume, grid)
    if grid.n_blocks > MOST_BLOCKS:
        stages.append(memory.merging(grid))
    stages.append(memory.relabelling(grid, itemsize, len(volume.channels)))
    stages = [_with_decoding(stage, volume) for stage in stages]
    predicting = None
    if method.network is not None:
        predicting = predicted_costs(method, seen, grid)
        stages[1:1] = with_preprocessing([predicting.memory], config, volume, grid)
    elif method.predicts:
        stages.insert(1, memory.checking(grid, len(method.stored_channels)))
    stages.append(memory.pyramid(grid))
    if config.labels_true is not None:
        stages.append(memory.scoring(grid))
    voxels = volume.shape[0] * volume.shape[1] * volume.shape[2]
    # fragments and labels compress at least fivefold in practice; a raw copy is not made
    disk = 2 * 4 * voxels // 3 + 50_000_000 + clean_up_disk(config, voxels)
    if volume.kind != "zarr":
        disk += voxels * itemsize * len(volume.channels)
    hours = voxels / (MVOXELS_PER_CORE_SECOND * 1e6 * workers) / 3600
    if predicting is not None:
        disk += predicting.disk_bytes
        hours += predicting.seconds / workers / 3600
    return Plan(
        shape=volume.shape,
        block_shape=block_shape,
        n_blocks=grid.n_blocks,
        spot_sigma=spec.spot_sigma,
        outline_sigma=outline,
        flood_halo=flood_halo,
        redo=redo,
        stages=tuple(stages),
        memory_limit=limit,
        workers=workers,
        disk_bytes=disk,
        hours=hours,
        reach=_reach(method, volume, flood_halo, spec),
        sparse=method.sparse,
        patches=0 if predicting is None else predicting.patches,
    )


def _reach(method: Method, volume: Volume, flood_halo: Triple, spec: VoronoiSpec) -> Triple:
    """Voxels beyond the mask that labels depend on; a decoder masks the prediction first."""
    if not method.decodes:
        halos = zip(flood_halo, spec.filter_halo, strict=True)
        z, y, x = (flood + filters for flood, filters in halos)
    elif getattr(method.parameters, "spot_sigma", 0):
        represents = cast(SeededRepresentation, method.representation)
        sigma = represents.spot_sigma(method.parameters, volume.voxel_size)
        # and a voxel to compare with
        z, y, x = (radius + 1 for radius in kernel_radius(sigma))
    else:
        z, y, x = 0, 0, 0
    return (z, y, x)


def _finding(
    method: Method,
    volume: Volume,
    grid: BlockGrid,
    spec: VoronoiSpec,
    flood_halo: Triple,
    most: float,
) -> tuple[list[BlockMemory], bool]:
    """Memory of the stages that find instances; whether the redo fits into ``most`` bytes."""
    config, radius = method.config, kernel_radius(spec.outline_sigma)
    surveyed = (0, 0, 0) if method.predicts else radius
    stages = [memory.smoothing("survey", grid, surveyed, volume.dtype.itemsize)]
    if method.labeller is not None:
        return stages + labelling_memory(method, volume, grid, flood_halo), False
    if method.decodes:
        decoding, redo = _decoding(method, volume, grid, flood_halo, most)
        return stages + decoding, redo
    # a network's foreground is stored in 8 bits
    itemsize = 1 if method.predicts else volume.dtype.itemsize
    if method.predicts:
        stages.append(memory.smoothing("survey-foreground", grid, radius, itemsize))
    if config.threshold == "otsu":
        stages.append(memory.smoothing("threshold", grid, radius, itemsize))
    if config.instances == "components":
        return [*stages, memory.components("label", grid, radius, itemsize)], False
    z, y, x = (2 * h for h in flood_halo)
    if config.instances == "watershed":
        spots = config.seeds == "spots"
        filters = spec.filter_halo if spots else radius
        if config.seeds == "distance":
            cap = distance_cap(config.spot_sigma, volume.voxel_size)
            reach = distance_halo(cap, volume.voxel_size)
            a, b, c = (one + other for one, other in zip(filters, reach, strict=True))
            filters = (a, b, c)
        if config.seeds in PEAKS:
            stages.append(memory.peaks("peaks", grid, filters, itemsize))
            stages.append(memory.peaks("seeds", grid, filters, itemsize))
        elif not spots:
            stages.append(memory.components("seeds", grid, radius, itemsize))
        stages.append(memory.watershed("label", grid, flood_halo, filters, itemsize, spots))
        again = memory.watershed("redo", grid, (z, y, x), filters, itemsize, spots)
        if config.seeds == "distance":
            stages[-1] = memory.with_depth(stages[-1], itemsize)
            again = memory.with_depth(again, itemsize)
    else:
        stages.append(memory.voronoi("label", grid, flood_halo, spec.filter_halo, itemsize))
        again = memory.voronoi("redo", grid, (z, y, x), spec.filter_halo, itemsize)
    redo = again.n_bytes <= most
    return stages + ([again] if redo else []), redo


def _decoding(
    method: Method, volume: Volume, grid: BlockGrid, flood_halo: Triple, most: float
) -> tuple[list[BlockMemory], bool]:
    """Memory of the stages that decode a prediction; whether there is a redo of a flood."""
    represents, parameters = method.representation, method.parameters
    assert represents is not None
    if isinstance(represents, Star):
        return memory.star_decoding(grid, represents, volume.voxel_size), False
    if isinstance(parameters, FlowParameters):
        farthest = reach(volume.voxel_size, parameters)
        return memory.flow_decoding(grid, flood_halo, farthest), False
    channels = len(represents.channels)
    z, y, x = (2 * h for h in flood_halo)
    through = bool(parameters.watershed)
    label = memory.decoding("label", grid, flood_halo, channels, watershed=through)
    again = memory.decoding("redo", grid, (z, y, x), channels, watershed=through)
    redo = again.n_bytes <= most
    return [memory.seeding(grid, channels), label, *([again] if redo else [])], redo


def _with_decoding(stage: BlockMemory, volume: Volume) -> BlockMemory:
    """With the stored chunks that are decoded while a block is read: whole ones, whatever part."""
    chunk = Region.whole(volume.chunk_shape).size * volume.dtype.itemsize
    read = Region.whole(stage.read_region)
    touched = prod(
        1 + ceil_div(n - 1, c) for n, c in zip(read.shape, volume.chunk_shape, strict=True) if n
    )
    reading = read.size * volume.dtype.itemsize + min(touched, CHUNKS_IN_FLIGHT) * chunk
    return replace(stage, n_bytes=max(stage.n_bytes, memory.WORKER_BYTES + reading))


def _over_limit(plan: Plan, method: Method, volume: Volume) -> str:
    need, limit = plan.peak.n_bytes, plan.memory_limit
    region = "x".join(map(str, plan.peak.read_region))
    text = (
        f"a block of {plan.block_shape} needs {need / 2**30:.2f} GiB in stage "
        f"{plan.peak.stage} (read_region {region}, {volume.dtype}, halo {plan.peak.halo}), over "
        f"{SHARE:.0%} of memory_limit {limit / 2**30:.2f} GiB per worker."
    )
    for side in (192, 128, 96, 64, 48, 32, 16):
        if method.labeller is not None and side <= max(plan.flood_halo):
            break
        smaller = _block_of(side, volume.shape) if side >= 64 else (side, side, side)
        fitting = _plan_for(method, volume, smaller, plan.workers, limit)
        if fitting.peak.n_bytes <= limit * SHARE:
            return f"{text} Use --block-shape {','.join(map(str, smaller))} or fewer workers."
    return (
        f"{text} Use fewer workers, a larger memory_limit, or smaller stored chunks than "
        f"{volume.chunk_shape}."
    )
