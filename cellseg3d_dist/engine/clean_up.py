"""Clean-up of labels across blocks, between the merge and the final labels.

Every step takes cells (fragments and their lookup) to cells. Steps that move outlines, and
the split, write new fragments; those that drop or unite whole cells only change the
lookup. Each step's result is that of the step on the volume in one piece, which is
:func:`cellseg3d_dist.instances.clean_up.clean_up`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum_filter

from cellseg3d_dist.config.clean_up import (
    Artifacts,
    ClearBorder,
    Closing,
    FillHoles,
    MergeTouching,
    Size,
    Smooth,
    Split,
    Step,
)
from cellseg3d_dist.engine import labelling, prediction
from cellseg3d_dist.engine.block_records import contacts_in_parts, objects_in_parts
from cellseg3d_dist.engine.cells import StoredCells
from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.job import Job
from cellseg3d_dist.engine.merge import merge_fragments
from cellseg3d_dist.engine.merge_result import MergeResult
from cellseg3d_dist.engine.records import digest
from cellseg3d_dist.engine.stages import clean_up as stages
from cellseg3d_dist.engine.stages.clean_up import Records
from cellseg3d_dist.engine.tables import TableWriter, save_table, table
from cellseg3d_dist.grid import BlockGrid, Selection, Triple, ceil_div
from cellseg3d_dist.instances.clean_up.chain import STORED_ONE, reshaping
from cellseg3d_dist.instances.clean_up.filtering import (
    faces_across,
    labels_on_faces,
    volume_limits,
    within_limits,
)
from cellseg3d_dist.instances.clean_up.holes import united
from cellseg3d_dist.instances.clean_up.touching import Borders, quantising_scale, united_cells
from cellseg3d_dist.instances.components import components
from cellseg3d_dist.merging.contacts import unite_by_contact
from cellseg3d_dist.merging.union_find import Forest, Limits, label_dtype, roots

Numbers = npt.NDArray[np.int64]
#: Fragments that are looked up at a time.
_PART = 1 << 22
#: Borders of blocks that are held before they are added up.
_MOST_BORDERS = 1 << 23


@dataclass(frozen=True)
class Cells:
    """Cells between two steps.

    Attributes
    ----------
    fragments : Fragments
    blocks : Selection
        Blocks that have fragments.
    merged : MergeResult
        The lookup; its digest tells these cells from any others.
    notes : dict
        What the step that made them found, for the run's facts.
    """

    fragments: Fragments
    blocks: Selection
    merged: MergeResult
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def stored(self) -> StoredCells:
        """As stages read them."""
        return StoredCells(self.fragments, self.merged.lookup, self.merged.lookup_digest)


@dataclass(frozen=True)
class _At:
    """A step's place in the run: its number, and the folder that is its own."""

    job: Job
    number: int

    @property
    def folder(self) -> Path:
        return self.job.folder.work / "clean-up" / str(self.number)

    def stage(self, name: str) -> str:
        """Name of a stage of this step."""
        return f"{name}-{self.number}"

    @property
    def fragments(self) -> Fragments:
        return Fragments(self.folder / "fragments", self.job.grid)


def clean_up(job: Job, fragments: Fragments, labelled: Selection, merged: MergeResult) -> Cells:
    """All steps of the configuration in order; facts get the cells before and after each."""
    cells = Cells(fragments, labelled, merged)
    steps = job.config.clean_up or ()
    if steps:
        job.facts["clean_up"] = []
    for number, step in enumerate(steps, 1):
        before = cells.merged.n_cells
        job.runner.progress.say(f"clean-up     {step}")
        # blocks that failed since are background
        cells = replace(cells, blocks=cells.blocks.without(list(job.runner.failed)), notes={})
        cells = _after(step, cells, _At(job, number))
        counts = {"cells_before": before, "cells_after": cells.merged.n_cells}
        job.facts["clean_up"].append({"step": str(step)} | counts | cells.notes)
    return cells


@singledispatch
def _after(step: Step, cells: Cells, at: _At) -> Cells:
    """Cells after one step."""
    raise NotImplementedError(step.name)


@_after.register(Closing)
@_after.register(Smooth)
def _reshaped(step: Closing | Smooth, cells: Cells, at: _At) -> Cells:
    job, halo = at.job, reshaping(step, at.job.image.volume.voxel_size).halo
    selection = _reached(job.grid, cells.blocks, halo).without(list(job.runner.failed))
    stage = stages.Reshape(cells.stored, at.stage(step.name), at.fragments, job.image, step)
    return _renamed(cells, at, selection.only(_done(job, stage, selection)))


def _reached(grid: BlockGrid, blocks: Selection, halo: Triple) -> Selection:
    """Blocks with a voxel within a halo of some blocks."""
    there = np.zeros(grid.n_blocks, np.bool_)
    there[blocks.numbers] = True
    sides = [2 * ceil_div(h, b) + 1 for h, b in zip(halo, grid.block_shape, strict=True)]
    near = there.reshape(grid.n_blocks_per_axis)
    if near.size:
        near = maximum_filter(near, sides, mode="constant")
    return Selection(grid, np.flatnonzero(near))


@_after.register
def _(step: FillHoles, cells: Cells, at: _At) -> Cells:
    job, holes = at.job, Fragments(at.folder / "holes", at.job.grid)
    records, name = Records(at.folder / "owners"), at.stage("hole-contacts")
    outside = _outside(job.grid, cells.blocks)
    while True:
        selection = Selection(job.grid, np.flatnonzero(~outside))
        key = digest(outside)
        save_table(at.folder, f"outside-{key}", outside)
        finding = stages.FindHoles(cells.stored, at.stage("holes"), holes, records, at.folder, key)
        upstream = f"{cells.merged.lookup_digest}-{key}"
        found = labelling.by_contact(job, finding, holes, selection, 6, name, upstream=upstream)
        lost = selection.without(found.numbers.tolist())
        if not len(lost):
            break
        # of a block that failed nothing is known: no hole ends there
        outside[lost.numbers] = True
    limits = volume_limits(step, job.image.volume.voxel_size)
    filler, offsets, n_filled = _fillers(holes, records, found, job.folder.work / name, limits)
    save_table(at.folder, "filler", filler)
    save_table(at.folder, "offsets", offsets)
    filling = stages.FillHoles(
        cells.stored, at.stage("fill"), at.fragments, job.image, holes, at.folder,
        digest(filler, offsets),
    )  # fmt: skip
    filled = _renamed(cells, at, found.only(_done(job, filling, found)))
    return replace(filled, notes={"holes": n_filled})


def _outside(grid: BlockGrid, blocks: Selection) -> npt.NDArray[np.bool_]:
    """Blocks that are background all over, connected to the volume's faces by such blocks."""
    empty = np.ones(grid.n_blocks, np.bool_)
    empty[blocks.numbers] = False
    labels, _ = components(empty.reshape(grid.n_blocks_per_axis), 6)
    return np.isin(labels, labels_on_faces(labels, faces_across("zyx"))).reshape(-1)


def _fillers(
    holes: Fragments,
    records: Records,
    blocks: Selection,
    contacts: Path,
    limits: tuple[int | None, int | None],
) -> tuple[Numbers, Numbers, int]:
    """The cell that fills each component of the background, 0 for none; offsets; holes."""
    forest, counts = Forest(Limits()), np.zeros(blocks.grid.n_blocks + 1, np.int64)
    sizes, owners = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for part in objects_in_parts(holes, blocks):
        forest.add(part.names, part.sizes)
        counts[part.numbers + 1] = part.counts
        sizes.append(part.sizes)
    for block in blocks:
        owners.append(records.read(block)["owners"])
    offsets, known = np.cumsum(counts), np.zeros(blocks.grid.n_blocks, np.bool_)
    known[blocks.numbers] = True
    for found in contacts_in_parts(contacts, blocks):
        unite_by_contact(forest.parent, found.blocks, found.neighbours, found.pairs, offsets, known)
    n = forest.n_fragments
    groups = roots(forest.parent).astype(np.int64)
    owner = united(groups + 1, np.concatenate(owners), n)
    size = np.bincount(groups, np.concatenate(sizes), minlength=n).astype(np.int64)
    owner[(owner < 0) | ~within_limits(size, limits)] = 0
    return owner[groups], offsets, int(np.count_nonzero(owner))


@_after.register
def _(step: MergeTouching, cells: Cells, at: _At) -> Cells:
    source, unit = _seen(step, at.job)
    survey = at.job.facts["survey"]
    largest = max(abs(survey["minimum"]), abs(survey["maximum"]))
    scale = quantising_scale(source.volume.dtype, largest)
    stage = stages.SumBorders(
        cells.stored, at.stage("borders"), Records(at.folder / "borders"), source, scale
    )
    found = cells.blocks.only(_done(at.job, stage, cells.blocks))
    total = _added(stage.borders(block) for block in found)
    smallest = united_cells(
        cells.merged.n_cells, total, scale, step.low * unit, step.highest * unit,
        brightest_first=step.order == "brightest-first",
    )  # fmt: skip
    return replace(_renumbered(cells, at, smallest, found), notes={"borders": len(total.pairs)})


def _seen(step: MergeTouching, job: Job) -> tuple[ImageInput, float]:
    """The image whose borders count, and its value of 1 in the step's units."""
    of = step.of or ("foreground" if job.method.predicts else "image")
    if of == "image":
        return job.image, 1.0
    return prediction.foreground_of(job), STORED_ONE


def _added(parts: Iterator[Borders]) -> Borders:
    total, waiting, n = Borders.none(), [], 0
    for part in parts:
        waiting.append(part)
        n += len(part.pairs)
        if n > _MOST_BORDERS:
            total, waiting, n = Borders.added([total, *waiting]), [], 0
    return Borders.added([total, *waiting])


@_after.register
def _(step: Split, cells: Cells, at: _At) -> Cells:
    job, owners, name = at.job, Records(at.folder / "owners"), at.stage("split-contacts")
    stage = stages.SplitCells(
        cells.stored, at.stage("split"), at.fragments, owners, step.connectivity
    )
    found = labelling.by_contact(
        job, stage, at.fragments, cells.blocks, step.connectivity, name,
        upstream=cells.merged.lookup_digest, owners=owners.folder,
    )  # fmt: skip
    lookup = at.folder / "lookup"
    merged = merge_fragments(at.fragments, found, job.folder.work / name, lookup, None, None)
    return _keyed(cells, replace(cells, fragments=at.fragments, blocks=found), merged)


@_after.register(Size)
@_after.register(Artifacts)
def _filtered(step: Size | Artifacts, cells: Cells, at: _At) -> Cells:
    n, lookup = cells.merged.n_cells, cells.merged.lookup
    final, offsets = table(lookup, "final"), table(lookup, "offsets")
    sizes = np.zeros(n + 1, np.int64)
    for part in objects_in_parts(cells.fragments, cells.blocks):
        starts = np.repeat(offsets[part.numbers], part.counts)
        firsts = np.repeat(np.cumsum(part.counts) - part.counts, part.counts)
        places = starts + np.arange(part.sizes.size) - firsts
        np.add.at(sizes, np.asarray(final[places], np.int64), part.sizes)
    limits = volume_limits(step, at.job.image.volume.voxel_size)
    kept = within_limits(sizes[1:], limits)
    return _renumbered(cells, at, np.where(kept, np.arange(1, n + 1), 0), cells.blocks)


@_after.register
def _(step: ClearBorder, cells: Cells, at: _At) -> Cells:
    job, faces = at.job, faces_across(step.axes)
    records = Records(at.folder / "on-faces")
    stage = stages.FindOnFaces(cells.stored, at.stage("on-faces"), records, faces)
    numbers = [
        block.number
        for block in cells.blocks
        if any(stages.on_face(block, face, job.grid.shape) for face in faces)
    ]
    there = cells.blocks.only(numbers)
    done = there.only(_done(job, stage, there))
    kept = np.arange(cells.merged.n_cells + 1)
    for block in done:
        kept[records.read(block)["ids"]] = 0
    blocks = cells.blocks.without(there.without(done.numbers.tolist()).numbers.tolist())
    return _renumbered(cells, at, kept[1:], blocks)


def _done(job: Job, stage: Any, selection: Selection) -> set[int]:
    return {record["block"] for record in job.runner.run(stage, selection)}


def _renamed(cells: Cells, at: _At, blocks: Selection) -> Cells:
    """The lookup of new fragments, which are named by the cells they are part of."""
    fragments, n = at.fragments, cells.merged.n_cells
    passes = np.zeros(blocks.grid.n_blocks, np.uint8)
    passes[blocks.numbers] = 1
    fragments.set_passes(passes)
    there = np.zeros(n + 1, np.bool_)
    counts = np.zeros(blocks.grid.n_blocks + 1, np.int64)
    for part in objects_in_parts(fragments, blocks):
        there[part.names.astype(np.int64)] = True
        counts[part.numbers + 1] = part.counts
    rank = np.cumsum(there).astype(label_dtype(int(np.count_nonzero(there))))
    lookup, offsets = at.folder / "lookup", np.cumsum(counts)
    with TableWriter(lookup, "final", rank.dtype) as final:
        for part in objects_in_parts(fragments, blocks):
            final.append(rank[part.names.astype(np.int64)])
    save_table(lookup, "offsets", offsets)
    save_table(lookup, "names", table(cells.merged.lookup, "names")[there[1:]])
    merged = _result(cells, rank, int(offsets[-1]), lookup, f"{final.digest}-{digest(offsets)}")
    return _keyed(cells, replace(cells, fragments=fragments, blocks=blocks), merged)


def _renumbered(cells: Cells, at: _At, smallest: Numbers, blocks: Selection) -> Cells:
    """The lookup of the same fragments when cells are dropped or united.

    ``smallest`` is, of each cell 1..n, the smallest id of what it becomes part of, or 0.
    """
    before, lookup = cells.merged.lookup, at.folder / "lookup"
    kept = np.flatnonzero(smallest == np.arange(1, smallest.size + 1)) + 1
    rank = np.zeros(smallest.size + 1, label_dtype(kept.size))
    rank[kept] = np.arange(1, kept.size + 1)
    rank[1:] = rank[smallest]
    old, offsets = table(before, "final"), np.array(table(before, "offsets"))
    with TableWriter(lookup, "final", rank.dtype) as final:
        for start in range(0, old.size, _PART):
            final.append(rank[old[start : start + _PART]])
    save_table(lookup, "offsets", offsets)
    save_table(lookup, "names", table(before, "names")[kept - 1])
    merged = _result(cells, rank, old.size, lookup, f"{final.digest}-{digest(offsets)}")
    return _keyed(cells, replace(cells, blocks=blocks), merged)


def _result(
    cells: Cells, rank: npt.NDArray[Any], n_fragments: int, lookup: Path, found: str
) -> MergeResult:
    return replace(
        cells.merged,
        n_cells=int(rank.max(initial=0)),
        n_fragments=n_fragments,
        dtype=rank.dtype,
        lookup=lookup,
        lookup_digest=found,
    )


def _keyed(before: Cells, after: Cells, merged: MergeResult) -> Cells:
    """Cells whose key also tells what they were made from, as fragments do not show it."""
    text = f"{before.merged.lookup_digest} {merged.lookup_digest}"
    key = digest(np.frombuffer(text.encode(), np.uint8), after.blocks.numbers)
    kept = replace(
        merged,
        n_too_small=before.merged.n_too_small,
        n_too_large=before.merged.n_too_large,
        lookup_digest=key,
    )
    return replace(after, merged=kept)
