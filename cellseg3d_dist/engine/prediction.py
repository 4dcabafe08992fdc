"""The network's prediction of the whole volume, as an image in the run folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.job import Job
from cellseg3d_dist.engine.records import digest
from cellseg3d_dist.engine.stages.predict import Predict
from cellseg3d_dist.engine.stages.survey import SurveyResult
from cellseg3d_dist.grid import Selection
from cellseg3d_dist.volumes import StoredArray, StoredImage, create_image, open_volume, plan_image

if TYPE_CHECKING:
    from collections.abc import Iterable


def predict(job: Job, survey: SurveyResult) -> StoredArray:
    """Predict every block that can matter, and note what was computed in the run's facts.

    Blocks, constants and the network decide the stages that come after, so that their
    journals are begun anew where the prediction changes.
    """
    network, card = job.method.network, job.method.card
    assert network is not None
    assert card is not None
    image = _stored(job)
    low, high = (
        survey.percentiles.get(p, 0.0) for p in (card.normalisation.low, card.normalisation.high)
    )
    stage = Predict(
        job.seen,
        image.levels[0],
        job.folder.work,
        network,
        (low, high),
        job.plan.reach,
        job.plan.sparse,
    )
    records = list(job.runner.run(stage, Selection.all(job.grid)))
    digests = sorted((r["block"], str(r["digest"]), str(r["peaks"])) for r in records)
    whole = digest(np.frombuffer(repr(digests).encode(), np.uint8))
    job.runner.header = job.runner.header | {"prediction": whole}
    job.facts["model"] = job.method.facts() | {"constants": [low, high], "prediction": whole}
    job.maxima = _maxima(records)
    return image.levels[0]


def _maxima(records: Iterable[dict[str, Any]]) -> dict[int, list[int]]:
    return {record["block"]: record["maxima"] for record in records if record["maxima"]}


def foreground_of(job: Job) -> ImageInput:
    """The stored channel that stands for the foreground, with the image's mask."""
    channel = job.method.foreground_channel
    volume = open_volume(job.folder.prediction, channel=channel)
    return ImageInput(volume, job.image.mask)


def _stored(job: Job) -> StoredImage:
    """The image the prediction goes to, created where it is not there yet."""
    how: dict[str, Any] = dict(  # noqa: C408
        shape=job.grid.shape,
        dtype=np.uint8,
        block_shape=job.grid.block_shape,
        voxel_size=job.image.volume.voxel_size,
        origin=job.image.volume.origin,
        n_levels=1,
        kind="image",
        format=job.config.ome_zarr,
        channels=job.method.stored_channels,
    )
    if job.folder.prediction.exists():
        return plan_image(job.folder.prediction, **how)
    return create_image(job.folder.prediction, **how, name="prediction")
