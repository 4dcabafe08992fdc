"""A run's watershed: where it starts, and the ground that it floods."""

from __future__ import annotations

from cellseg3d_dist.engine import labelling
from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.job import Job
from cellseg3d_dist.engine.seeding import threshold_seeds
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
    assert config.seed_threshold is not None
    ground = OutlinedGround(job.source, spec, config.seed_threshold * unit, config.backend)
    seeds = threshold_seeds(job, ground, selection, config.min_seed_voxels)
    flooding = SeededFlooding(ground, seeds, growth)
    return labelling.flood(job, fragments, selection, flooding, f"{seeds.digest}-{threshold!r}")
