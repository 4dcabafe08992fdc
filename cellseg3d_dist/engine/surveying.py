"""Surveys of a run: what must be known of a whole image, the image itself or what is made of it."""

from __future__ import annotations

from typing import Any

from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.job import Job
from cellseg3d_dist.engine.stages.survey import (
    Percentiles,
    Survey,
    SurveyResult,
    reduce_percentiles,
    reduce_survey,
    upper_bins_wanted,
)
from cellseg3d_dist.engine.surveyed import save_survey
from cellseg3d_dist.grid import Selection
from cellseg3d_dist.instances.filters import Sigma
from cellseg3d_dist.measuring import intensity


def survey_of(
    job: Job, image: ImageInput, smooth: Sigma | None, of: str = "", percentiles: bool = True
) -> SurveyResult:
    """Survey an image.

    Parameters
    ----------
    smooth : (float, float, float) or None
        Smoothing whose extremes are wanted.
    of : str
        Sets apart the records of several surveys of one run.
    percentiles : bool
        Whether they are wanted where they take a second pass.
    """
    suffix = f"-{of}" if of else ""
    found = None
    if job.earlier is not None:
        found = job.earlier.survey(f"survey{suffix}", job.grid, smooth)
    if found is None:
        found = _survey(job, image, smooth, of, suffix, percentiles)
    save_survey(job.folder.surveys / f"survey{suffix}.npz", found, job.grid, smooth)
    return found


def _survey(
    job: Job, image: ImageInput, smooth: Sigma | None, of: str, suffix: str, percentiles: bool
) -> SurveyResult:
    folder = job.folder.work / of if of else job.folder.work
    everything = Selection.all(job.grid).without(list(job.runner.failed))
    stage = Survey(image, job.grid, folder, smooth, f"survey{suffix}")
    result = reduce_survey(stage, job.runner.run(stage, everything))
    if not percentiles or intensity.is_single_pass(image.volume.dtype) or not result.voxels:
        return result
    bins = upper_bins_wanted(result)
    second = Percentiles(image, job.grid, folder, bins, f"percentiles{suffix}")
    sound = everything.without(list(job.runner.failed))
    return reduce_percentiles(second, job.runner.run(second, sound), result)


def survey_facts(result: SurveyResult) -> dict[str, Any]:
    """For ``run.json``."""
    return {
        "voxels": result.voxels,
        "not_finite": result.not_finite,
        "minimum": result.minimum,
        "maximum": result.maximum,
        "smoothed_minimum": result.smooth_minimum,
        "smoothed_maximum": result.smooth_maximum,
        "percentiles": {f"{key:g}": value for key, value in result.percentiles.items()},
    }
