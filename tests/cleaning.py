"""Helpers of tests of clean-up: labels stored as fragments in any cut, and cleaned up there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from segmenting import store

from cellseg3d_dist.config import make_config
from cellseg3d_dist.engine.clean_up import clean_up
from cellseg3d_dist.engine.executors import SerialExecutor
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.inputs import ImageInput, MaskInput
from cellseg3d_dist.engine.job import Job
from cellseg3d_dist.engine.merge import merge_fragments
from cellseg3d_dist.engine.method import resolve_method
from cellseg3d_dist.engine.plan import make_plan
from cellseg3d_dist.engine.progress import NoProgress
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.grid import Region, Selection
from cellseg3d_dist.instances.spots import names_of_seeds
from cellseg3d_dist.volumes import open_volume


@dataclass
class CleanedUp:
    """What a clean-up in blocks found."""

    labels: np.ndarray
    facts: list[dict[str, Any]]
    executed: dict[str, int]
    failed: dict[int, Any]


def named(labels):
    """Labels 1..n in the order of the names of their first voxels (x slowest), and the names."""
    values, first = np.unique(labels, return_index=True)
    first, values = first[values > 0], values[values > 0]
    names = names_of_seeds(first.astype(np.int64), Region.whole(labels.shape), labels.shape)
    order = np.argsort(names)
    table = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
    table[values[order]] = np.arange(1, order.size + 1)
    return table[labels], names[order]


def clean_up_in_blocks(
    folder, labels, names, steps, block_shape, *, image=None, mask=None, voxel_size=(1.0, 1.0, 1.0),
    executor=None, stored=False,
):  # fmt: skip
    """Clean up labels that are cut into blocks, as a run does; again in one folder resumes."""
    image = np.zeros(labels.shape, np.uint8) if image is None else image
    values = image if mask is None else image[mask]
    config = make_config(
        {
            "image": "<memory>", "voxel_size": voxel_size, "block_shape": block_shape,
            "executor": "serial", "model": "intensity", "clean_up": steps,
        }
    )  # fmt: skip
    method = resolve_method(config)
    if stored:
        image = store(folder.with_suffix(".zarr"), image, voxel_size)
    volume = open_volume(image, voxel_size=voxel_size)
    inside = None
    if mask is not None:
        there = open_volume(mask.astype(np.uint8), voxel_size=voxel_size)
        inside = MaskInput.fitting(there, labels.shape, (0, 0, 0))
    run_folder = RunFolder(folder)
    resumed = folder.exists()
    folder.mkdir(exist_ok=True)
    run_folder.write_status({"status": "running"})
    runner = Runner(run_folder, executor or SerialExecutor(shuffle=0), NoProgress(), {}, resumed)
    job = Job(
        config, make_plan(method, volume), ImageInput(volume, inside), None, run_folder, runner,
        method,
    )  # fmt: skip
    job.facts["survey"] = {"minimum": values.min(initial=0), "maximum": values.max(initial=0)}
    fragments, labelled = _stored(run_folder.work, job.grid, labels, names)
    merged = merge_fragments(fragments, labelled, None, run_folder.work / "merge", None, None)
    cells = clean_up(job, fragments, labelled, merged)
    found = np.zeros(labels.shape, np.int64)
    for block in cells.blocks:
        table = np.append(0, cells.stored.ids_of(block))
        found[block.write_region.slices] = table[cells.fragments.read(block)]
    assert cells.merged.n_cells == found.max(initial=0) == np.unique(found[found > 0]).size
    executed = {summary.stage: summary.executed for summary in runner.summaries}
    return CleanedUp(found, job.facts.get("clean_up", []), executed, runner.failed)


def _stored(work, grid, labels, names):
    """Fragments as a flood leaves them: blocks without a cell have none."""
    fragments, passes = Fragments(work, grid), np.zeros(grid.n_blocks, np.uint8)
    for block in grid.blocks():
        part = labels[block.write_region.slices]
        present = np.unique(part[part > 0])
        if present.size:
            own = np.searchsorted(present, part) + 1
            own = np.where(part > 0, own, 0).astype(np.uint32)
            fragments.write("label", block, own, names[present - 1])
            passes[block.number] = 1
    work.mkdir(exist_ok=True)
    fragments.set_passes(passes)
    return fragments, Selection(grid, np.flatnonzero(passes))
