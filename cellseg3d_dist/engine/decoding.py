"""From a prediction to fragments, by the representation that the network was trained for."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from cellseg3d_dist.engine import labelling
from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.job import Job
from cellseg3d_dist.engine.merge import merge_fragments
from cellseg3d_dist.engine.stages.seeds import (
    LabelSeeds,
    Masks,
    SeededFlooding,
    SeededRepresentation,
)
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Selection
from cellseg3d_dist.volumes import StoredArray


def decode(job: Job, fragments: Fragments, prediction: StoredArray) -> Selection:
    """Decode instances block by block; the blocks that have fragments.

    Fragments are named globally, so that the merge by name makes them whole.
    """
    represents = job.method.representation
    if hasattr(represents, "masks"):
        return _seeded(job, fragments, prediction)
    raise ConfigError(f"representation {represents} cannot be decoded in blocks.")


def _seeded(job: Job, fragments: Fragments, prediction: StoredArray) -> Selection:
    """Seeds are whole components, merged and filtered by size first; then they flood."""
    represents = cast(SeededRepresentation, job.method.representation)
    parameters = job.method.parameters
    masks = Masks(prediction, job.image, represents, parameters)
    selection = _occupied(job, represents, parameters)
    seeds = Fragments(job.folder.work / "seeds", job.grid)
    stage = LabelSeeds(masks, seeds)
    found = labelling.by_contact(job, stage, seeds, selection, 26, "seed-contacts")
    job.runner.progress.say("seeds        merged on the driver")
    merged = merge_fragments(
        seeds,
        found,
        job.folder.work / "seed-contacts",
        job.folder.work / "seeds" / "merge",
        parameters.min_seed_voxels,
        None,
    )
    job.facts["seeds"] = merged.to_dict()
    flooding = SeededFlooding(masks, seeds, merged.lookup, merged.lookup_digest)
    return labelling.flood(job, fragments, selection, flooding, merged.lookup_digest)


def _occupied(job: Job, represents: SeededRepresentation, parameters: Any) -> Selection:
    """Blocks that can have foreground, which grows with every channel that decides it."""
    occupied = []
    for number, maxima in job.maxima.items():
        values = np.array(maxima, np.uint8).reshape(-1, 1, 1, 1)
        if represents.masks(values, parameters)[1].any():
            occupied.append(number)
    selection = Selection(job.grid, np.array(sorted(occupied), np.int64))
    return note_blocks(job, selection.without(list(job.runner.failed)))


def note_blocks(job: Job, selection: Selection) -> Selection:
    """Note how many blocks are decoded, and why others are not."""
    predicted = len(job.maxima)
    outside = job.grid.n_blocks - predicted - len(job.runner.failed)
    job.facts["blocks"] = {
        "total": job.grid.n_blocks,
        "occupied": len(selection),
        "below_threshold": predicted - len(selection),
        "outside_mask": max(0, outside),
    }
    return selection
