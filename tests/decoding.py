"""Helpers of tests that decode a prediction in blocks: a run whose network is an array."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from segmenting import store

from cellseg3d_dist.config import make_config
from cellseg3d_dist.engine.decoding import decode
from cellseg3d_dist.engine.executors import SerialExecutor
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.inputs import ImageInput, MaskInput
from cellseg3d_dist.engine.method import Method
from cellseg3d_dist.engine.pipeline import Pipeline
from cellseg3d_dist.engine.plan import make_plan
from cellseg3d_dist.engine.prediction import _maxima, _stored
from cellseg3d_dist.engine.progress import NoProgress
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.engine.stage import Outcome
from cellseg3d_dist.engine.stages.predict import Predict
from cellseg3d_dist.grid import Selection
from cellseg3d_dist.volumes import open_volume


@dataclass(frozen=True)
class NoNetwork:
    """In place of a network."""

    compat: str | None = None

    def decides(self):
        return {}

    def forward(self):
        return SimpleNamespace(halved=0)


@dataclass(frozen=True)
class PredictFromFile(Predict):
    """Predicts what a file holds."""

    file: Path = Path()

    def _tiling(self):
        whole = np.load(self.file, mmap_mode="r")

        def predict(read, region, constants, forward):
            return np.array(whole[(slice(None), *region.slices)])

        return SimpleNamespace(predict=predict)


class Failing(SerialExecutor):
    """Fails some blocks of some stages, or stops everything once it has done so many."""

    def __init__(self, bad=None, last=None):
        super().__init__(shuffle=1)
        self.bad, self.left = bad or {}, last

    def run(self, stage, blocks):
        for outcome in super().run(stage, blocks):
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise KeyboardInterrupt
            if outcome.block.number in self.bad.get(stage.name, ()):
                yield Outcome.of_error(outcome.block, ValueError("bad"))
            else:
                yield outcome


@dataclass
class Decoded:
    """What a run found."""

    labels: np.ndarray
    facts: dict[str, Any]
    executed: dict[str, int]
    failed: dict[int, Any]


def decode_in_blocks(
    folder: Path,
    represents,
    parameters,
    prediction,
    block_shape,
    *,
    voxel_size=(1.0, 1.0, 1.0),
    mask=None,
    executor=None,
    flood_halo=3,
) -> Decoded:
    """Store a prediction (C, z, y, x) and decode it, as a run does; again in one folder resumes."""
    shape = prediction.shape[1:]
    config = make_config(
        {
            "image": "", "voxel_size": voxel_size, "block_shape": block_shape,
            "executor": "serial", "flood_halo": flood_halo,
        }
    )  # fmt: skip
    config = config.model_copy(update={"instances": "decode"})
    method = Method(config, representation=represents, parameters=parameters)
    inside = None
    if mask is not None:
        stored = open_volume(mask.astype(np.uint8), voxel_size=voxel_size)
        inside = MaskInput.fitting(stored, shape, (0, 0, 0))
    run_folder = RunFolder(folder)
    resumed = run_folder.prediction.exists()
    if not resumed:
        folder.mkdir()
        store(folder / "image.ome.zarr", np.zeros(shape, np.uint8), voxel_size)
    image = ImageInput(open_volume(folder / "image.ome.zarr"), inside)
    run_folder.write_status({"status": "running"})
    runner = Runner(run_folder, executor or SerialExecutor(shuffle=0), NoProgress(), {}, resumed)
    job = Pipeline(config, make_plan(method, image.volume), image, None, run_folder, runner, method)
    stored = _predict(job, prediction, resumed)
    fragments = Fragments(run_folder.work, job.grid)
    labelled = decode(job, fragments, stored)
    merged = job.merge(fragments, labelled)
    labels = np.zeros(shape, np.int64)
    final, offsets = (np.load(merged.lookup / f"{name}.npy") for name in ("final", "offsets"))
    for block in labelled:
        table = np.append(0, final[offsets[block.number] : offsets[block.number + 1]])
        labels[block.write_region.slices] = table[fragments.read(block)]
    executed = {summary.stage: summary.executed for summary in runner.summaries}
    return Decoded(labels, job.facts, executed, runner.failed)


def _predict(job, prediction, resumed):
    """Predict with a runner that does not fail."""
    file = job.folder.path / "prediction.npy"
    if not resumed:
        np.save(file, prediction)
    image = _stored(job)
    stage = PredictFromFile(
        job.image, image.levels[0], job.folder.path, NoNetwork(), (0, 1), job.plan.reach,
        job.plan.sparse, file=file,
    )  # fmt: skip
    runner = Runner(job.folder, SerialExecutor(), NoProgress(), {}, resumed)
    job.maxima = _maxima(runner.run(stage, Selection.all(job.grid)))
    return image.levels[0]
