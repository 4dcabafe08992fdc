"""Seeds that may span blocks, as whole objects, before anything grows from them."""

from __future__ import annotations

from collections.abc import Callable

from cellseg3d_dist.engine import labelling
from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.job import Job
from cellseg3d_dist.engine.merge import merge_fragments
from cellseg3d_dist.engine.stage import Stage
from cellseg3d_dist.engine.stages.seeds import Ground, LabelSeeds, MergedSeeds
from cellseg3d_dist.grid import Selection


def threshold_seeds(
    job: Job, ground: Ground, selection: Selection, min_voxels: int | None
) -> MergedSeeds:
    """Seeds by a threshold: whole components with at least so many voxels."""
    return merged_seeds(job, lambda seeds: LabelSeeds(ground, seeds), selection, min_voxels)


def merged_seeds(
    job: Job,
    stage: Callable[[Fragments], Stage],
    selection: Selection,
    min_voxels: int | None = None,
) -> MergedSeeds:
    """Label seeds block by block, merge those that touch, drop small ones.

    Parameters
    ----------
    stage
        Makes the stage that writes each block's seeds to the fragments it is given:
        26-connected components, named by their first voxel (:func:`.names_of_first_voxels`).
    selection : Selection
        Blocks that may have seeds.
    min_voxels : int or None
        Of a whole seed.
    """
    seeds = Fragments(job.folder.work / "seeds", job.grid)
    found = labelling.by_contact(job, stage(seeds), seeds, selection, 26, "seed-contacts")
    job.runner.progress.say("seeds        merged on the driver")
    merged = merge_fragments(
        seeds,
        found,
        job.folder.work / "seed-contacts",
        job.folder.work / "seeds" / "merge",
        min_voxels,
        None,
        job.runner,
    )
    job.facts["seeds"] = merged.to_dict()
    return MergedSeeds(seeds, merged.lookup, merged.lookup_digest)
