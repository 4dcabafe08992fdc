"""A run's watershed: where it starts, and the ground that it floods."""

from __future__ import annotations

from cellseg3d_dist.engine import labelling
from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.job import Job
from cellseg3d_dist.engine.peaks import peak_seeds
from cellseg3d_dist.engine.seed_options import PEAKS
from cellseg3d_dist.engine.seeding import threshold_seeds
from cellseg3d_dist.engine.stages.hmaxima import (
    DistanceLandscape,
    Landscape,
    OutlinedLandscape,
    distance_cap,
)
from cellseg3d_dist.engine.stages.label import WatershedFlooding
from cellseg3d_dist.engine.stages.seeds import OutlinedGround, SeededFlooding
from cellseg3d_dist.grid import Selection
from cellseg3d_dist.instances.growth import Watershed
from cellseg3d_dist.instances.voronoi import VoronoiSpec


def watershed(
    job: Job, fragments: Fragments, selection: Selection, threshold: float, unit: float
) -> Selection:
    """Flood the selected blocks from the configured seeds; the blocks that have fragments.

    Parameters
    ----------
    threshold : float
        Foreground is above it, in units of ``job.source``.
    unit : float
        A seed threshold of 1 in the same units.
    """
    config = job.config
    spec = VoronoiSpec(job.plan.spot_sigma, job.plan.outline_sigma, threshold)
    growth = Watershed(config.connectivity)
    if config.seeds == "spots":
        spotted = WatershedFlooding(job.source, spec, growth, config.backend)
        return labelling.flood(job, fragments, selection, spotted, f"watershed-{threshold!r}")
    if config.seeds in PEAKS:
        return _from_peaks(job, fragments, selection, spec, unit)
    assert config.seed_threshold is not None
    ground = OutlinedGround(job.source, spec, config.seed_threshold * unit, config.backend)
    seeds = threshold_seeds(job, ground, selection, config.min_seed_voxels)
    flooding = SeededFlooding(ground, seeds, growth)
    return labelling.flood(job, fragments, selection, flooding, f"{seeds.digest}-{threshold!r}")


def _from_peaks(
    job: Job, fragments: Fragments, selection: Selection, spec: VoronoiSpec, unit: float
) -> Selection:
    """Flood from peaks by height, through the landscape that they are peaks of."""
    outlined = OutlinedLandscape(job.source, spec, job.config.backend)
    landscape: Landscape = outlined
    height = job.config.h
    if job.config.seeds == "distance":
        size = job.image.volume.voxel_size
        landscape = DistanceLandscape(outlined, distance_cap(job.config.spot_sigma, size))
        height, unit = height or min(size), 1.0
    assert height is not None
    seeds = peak_seeds(job, landscape, selection, height * unit)
    flooding = SeededFlooding(landscape, seeds, Watershed(job.config.connectivity))
    key = f"{seeds.digest}-{spec.threshold!r}"
    return labelling.flood(job, fragments, selection, flooding, key)
