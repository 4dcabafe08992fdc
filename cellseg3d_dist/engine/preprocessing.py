"""Preprocessing of a run: constants and curves of the whole volume, and the image they make."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.job import Job
from cellseg3d_dist.engine.prepared import prepared_input, steps_of
from cellseg3d_dist.engine.records import digest
from cellseg3d_dist.engine.stages.curves import MakeCurves, StoredCurves
from cellseg3d_dist.engine.stages.survey import SurveyResult
from cellseg3d_dist.errors import BlocksFailedError
from cellseg3d_dist.grid import Selection
from cellseg3d_dist.preprocessing import Constants, Equalise, TileGrid

#: Percentile that ends the range of grey values.
RANGE_PERCENTILE = 99.9


def prepare(job: Job, survey: SurveyResult) -> ImageInput:
    """The image after the run's steps; constants and steps go into the run's facts.

    They decide the stages that come after, so that their journals are begun anew where the
    image changes.

    Raises
    ------
    BlocksFailedError
        If the histogram of a tile cannot be had.
    """
    shape = job.image.volume.shape
    steps = steps_of(job.config.preprocess, job.image.volume.voxel_size)
    low, high = grey_range(survey)
    constants = Constants(shape, low, high)
    key = ""
    for i, step in enumerate(steps):
        if isinstance(step, Equalise):
            before = prepared_input(job.image, steps[:i], constants)
            constants, key = _with_curves(job, before, step, constants)
    said = [str(step) for step in steps]
    whole = digest(np.frombuffer(repr((said, low, high, key)).encode(), np.uint8))
    job.runner.header = job.runner.header | {"preprocessing": whole}
    job.facts["preprocessing"] = {"steps": said, "range": [low, high]}
    return prepared_input(job.image, steps, constants)


def grey_range(survey: SurveyResult) -> tuple[float, float]:
    """From 0, or the least value below, to nearly the greatest: one bright dot decides nothing."""
    high = survey.percentiles.get(RANGE_PERCENTILE, survey.maximum)
    low = min(0.0, survey.minimum)
    return low, high if high > low else survey.maximum


def _with_curves(
    job: Job, before: ImageInput, step: Equalise, constants: Constants
) -> tuple[Constants, str]:
    """Constants with the curves of the equalisation's tiles, and a checksum of all of them."""
    tiles = TileGrid(constants.shape, step.tile)
    folder = job.folder.work / "clahe"
    stage = MakeCurves(before, tiles, folder, step.clip, constants.low, constants.high)
    records = list(job.runner.run(stage, Selection.all(stage.grid)))
    for block, name, error in job.runner.failed.values():
        # blocks of this stage are not those of the run, so that none can be left out
        if name == stage.name:
            raise BlocksFailedError(
                f"{block} of {name} failed: {error} When mended, {job.folder.go_on}"
            )
    digests = sorted((record["block"], str(record["digest"])) for record in records)
    key = digest(np.frombuffer(repr(digests).encode(), np.uint8))
    return replace(constants, tables=StoredCurves(tiles, folder, key)), key
