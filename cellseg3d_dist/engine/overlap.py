"""Instances by a labeller: blocks are labelled with a halo, and merged by overlap."""

from __future__ import annotations

import numpy as np

from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.job import Job
from cellseg3d_dist.engine.records import digest
from cellseg3d_dist.engine.stages.labeller import LabelByLabeller, SharedZones
from cellseg3d_dist.engine.stages.overlaps import FindOverlaps
from cellseg3d_dist.engine.stages.survey import SurveyResult
from cellseg3d_dist.grid import Selection

#: The largest value of a network's stored foreground.
_STORED_ONE = 255.0


def label_by_overlap(job: Job, fragments: Fragments, survey: SurveyResult) -> Selection:
    """Call the labeller on every block and find overlaps; the blocks that have fragments.

    Which cells are found in a block may depend on what it sees, so that, as an exception,
    the labels may depend on the cut; `run.json` and the report say so.
    """
    assert job.method.labeller is not None
    selection = _inside(job, survey)
    zones = SharedZones(fragments.folder / "shared", job.grid, job.plan.flood_halo)
    facts = job.method.labeller.facts()
    constants = _constants(job, survey)
    stage = LabelByLabeller(job.source, fragments, zones, job.method.labeller, facts, constants)
    digests = np.zeros(job.grid.n_blocks, "S8")
    passes = np.zeros(job.grid.n_blocks, np.uint8)
    for record in job.runner.run(stage, selection):
        passes[record["block"]] = 1
        digests[record["block"]] = digest(np.array(sorted(record["sides"].values()), "S8"))
    fragments.set_passes(passes)
    labelled = selection.only(np.flatnonzero(passes))
    threshold = job.config.overlap_threshold
    assert threshold is not None
    finding = FindOverlaps(fragments, zones, fragments.folder, threshold, digest(passes, digests))
    found, united, refused = [], 0, 0
    for record in job.runner.run(finding, labelled):
        found.append(record["block"])
        united += record["overlaps"]
        refused += record["refused"]
    job.facts["overlap"] = {
        "labeller": facts,
        "halo": list(zones.halo),
        "threshold": threshold,
        "constants": constants,
        "united": united,
        "refused": refused,
        "depends_on_cut": job.grid.n_blocks > 1,
    }
    return labelled.only(found)


def _inside(job: Job, survey: SurveyResult) -> Selection:
    """Blocks that have voxels inside the mask."""
    known = ~np.isnan(survey.block_maximum)
    selection = Selection(job.grid, np.flatnonzero(known)).without(list(job.runner.failed))
    outside = int((~known).sum()) - len(job.runner.failed)
    job.facts["blocks"] = {
        "total": job.grid.n_blocks,
        "occupied": len(selection),
        "below_threshold": 0,
        "outside_mask": max(0, outside),
    }
    return selection


def _constants(job: Job, survey: SurveyResult) -> tuple[float, float] | None:
    """Values of the whole volume that are 0 and 1 to a labeller that wants percentiles."""
    assert job.method.labeller is not None
    wanted = getattr(job.method.labeller.load(), "percentiles", None)
    if wanted is None or not survey.percentiles:
        return None
    if job.foreground is not None:
        return 0.0, _STORED_ONE
    low, high = (survey.percentiles[p] for p in wanted)
    # bright cells may fill less than the upper percentile leaves
    return low, high if high > low else max(survey.maximum, low + 1)
