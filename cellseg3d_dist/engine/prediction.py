"""The network's prediction of the whole volume, as an image in the run folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.job import Job
from cellseg3d_dist.engine.journal import read_journal
from cellseg3d_dist.engine.records import digest
from cellseg3d_dist.engine.stages.candidates import CandidateFiles
from cellseg3d_dist.engine.stages.check_prediction import CheckPrediction
from cellseg3d_dist.engine.stages.predict import Predict
from cellseg3d_dist.engine.stages.survey import SurveyResult
from cellseg3d_dist.errors import OutputError
from cellseg3d_dist.grid import Selection
from cellseg3d_dist.volumes import StoredArray, StoredImage, create_image, open_volume, plan_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def predict(job: Job, survey: SurveyResult) -> StoredArray:
    """Predict every block that can matter, and note what was computed in the run's facts.

    Blocks, constants and the network decide the stages that come after, so that their
    journals are begun anew where the prediction changes.
    """
    network, card = job.method.network, job.method.card
    if network is None:
        return _predicted_before(job)
    assert card is not None
    image = _stored(job)
    low, high = (
        survey.percentiles.get(p, 0.0) for p in (card.normalisation.low, card.normalisation.high)
    )
    stage = Predict(
        job.seen,
        image.levels[0],
        job.folder.path,
        network,
        (low, high),
        job.plan.reach,
        job.plan.sparse,
    )
    records = list(job.runner.run(stage, Selection.all(job.grid)))
    _note(job, records, [low, high])
    return image.levels[0]


def _note(job: Job, records: Sequence[dict[str, Any]], constants: list[float]) -> str:
    """Note what was predicted; digest of all of it."""
    digests = sorted((r["block"], str(r["digest"]), str(r["peaks"])) for r in records)
    whole = digest(np.frombuffer(repr(digests).encode(), np.uint8))
    job.runner.header = job.runner.header | {"prediction": whole}
    job.facts["model"] = job.method.facts() | {"constants": constants, "prediction": whole}
    job.maxima = _maxima(records)
    return whole


def _maxima(records: Iterable[dict[str, Any]]) -> dict[int, list[int]]:
    return {record["block"]: record["maxima"] for record in records if record["maxima"]}


def _predicted_before(job: Job) -> StoredArray:
    """The prediction of an earlier run, after its checksums.

    Raises
    ------
    OutputError
        If it is damaged or not all there.
    """
    assert job.earlier is not None
    source = job.earlier.predicted
    folder = source.folder
    image = plan_image(folder.prediction, **_description(job, source.config.ome_zarr))
    _, records = read_journal(folder.journal("predict"))
    whole = _note(job, records, source.model["constants"])
    peaks = CandidateFiles(folder.peaks, job.grid)
    stage = CheckPrediction(image.levels[0], peaks, job.folder.work / "predicted", whole)
    stage.expect(records)
    sound = Selection.all(job.grid).without(list(job.runner.failed))
    list(job.runner.run(stage, sound))
    damaged = [block for block, name, _ in job.runner.failed.values() if name == stage.name]
    if damaged or len(records) != job.grid.n_blocks:
        where = ", ".join(str(block) for block in damaged[:3]) or "its journal"
        raise OutputError(
            f"{folder.prediction} is damaged ({where}). To mend it, {folder.go_on}; then "
            f"{job.folder.go_on}"
        )
    return image.levels[0]


def foreground_of(job: Job) -> ImageInput:
    """The stored channel that stands for the foreground, with the image's mask."""
    channel = job.method.foreground_channel
    volume = open_volume(job.predicted_in.prediction, channel=channel)
    return ImageInput(volume, job.image.mask)


def _stored(job: Job) -> StoredImage:
    """The image the prediction goes to, created where it is not there yet."""
    how = _description(job, job.config.ome_zarr)
    if job.folder.prediction.exists():
        return plan_image(job.folder.prediction, **how)
    return create_image(job.folder.prediction, **how, name="prediction")


def _description(job: Job, format: str) -> dict[str, Any]:
    return {
        "shape": job.grid.shape,
        "dtype": np.uint8,
        "block_shape": job.grid.block_shape,
        "voxel_size": job.image.volume.voxel_size,
        "origin": job.image.volume.origin,
        "n_levels": 1,
        "kind": "image",
        "format": format,
        "channels": job.method.stored_channels,
    }
