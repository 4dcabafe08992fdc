"""From occupied blocks to final fragments: label, certify, redo, exchange, settle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from cellseg3d_dist.engine.fragments import PASSES, Fragments
from cellseg3d_dist.engine.front import Fronts
from cellseg3d_dist.engine.job import Job
from cellseg3d_dist.engine.records import digest
from cellseg3d_dist.engine.stage import Stage
from cellseg3d_dist.engine.stages.contacts import Contacts
from cellseg3d_dist.engine.stages.exchange import Exchange, Settle
from cellseg3d_dist.engine.stages.label import (
    Flooding,
    LabelComponents,
    LabelFlood,
    VoronoiFlooding,
)
from cellseg3d_dist.grid import Selection
from cellseg3d_dist.instances.voronoi import VoronoiSpec


def label(job: Job, fragments: Fragments, selection: Selection, threshold: float) -> Selection:
    """Label the selected blocks by the configured method; the blocks that have fragments."""
    if job.config.instances == "components":
        return _components(job, fragments, selection, threshold)
    spec = VoronoiSpec(job.plan.spot_sigma, job.plan.outline_sigma, threshold)
    flooding = VoronoiFlooding(job.source, spec, job.config.backend)
    return flood(job, fragments, selection, flooding, repr(threshold))


def _components(
    job: Job, fragments: Fragments, selection: Selection, threshold: float
) -> Selection:
    stage = LabelComponents(
        job.source, fragments, job.plan.outline_sigma, threshold, job.config.connectivity
    )
    return by_contact(job, stage, fragments, selection, job.config.connectivity, "contacts")


def by_contact(
    job: Job,
    stage: Stage,
    fragments: Fragments,
    selection: Selection,
    connectivity: int,
    name: str,
    *,
    upstream: str = "",
    owners: Path | None = None,
) -> Selection:
    """Run a stage that labels components, and find their contacts, kept under ``name``.

    ``upstream`` tells components of other cells apart; with a folder of ``owners`` only
    components of one owner are contacts.
    """
    done = {record["block"] for record in job.runner.run(stage, selection)}
    labelled = selection.only(done)
    passes = np.zeros(fragments.grid.n_blocks, np.uint8)
    passes[labelled.numbers] = 1
    fragments.set_passes(passes)
    contacts = Contacts(
        fragments, job.folder.work, connectivity, f"{upstream}{digest(passes)}", name, owners
    )
    found = {record["block"] for record in job.runner.run(contacts, labelled)}
    return labelled.only(found)


def flood(
    job: Job, fragments: Fragments, selection: Selection, flooding: Flooding, key: str
) -> Selection:
    """Flood the selected blocks, redo and exchange what stays open; blocks with fragments.

    ``key`` keeps the fronts of floods with other thresholds or seeds apart.
    """
    fronts = Fronts(job.folder.work / f"fronts-{key}", fragments, flooding.growth)
    first = LabelFlood(
        flooding, fragments, fronts, job.plan.flood_halo, keep_front=not job.plan.redo
    )
    passes = np.zeros(fragments.grid.n_blocks, np.uint8)
    open_voxels = np.zeros(fragments.grid.n_blocks, np.int64)
    certificate = {"voxels": 0, "open_first": 0, "redone": 0, "exchanged": 0, "rounds": 0}
    for record in job.runner.run(first, selection):
        passes[record["block"]] = 1
        open_voxels[record["block"]] = record["open"]
        certificate["voxels"] += record["foreground"]
        certificate["open_first"] += record["open"]
    labelled = Selection(fragments.grid, np.flatnonzero(passes))
    if job.plan.redo and open_voxels.any():
        again = _redo(job, fragments, fronts, first, open_voxels, passes)
        certificate["redone"] = again
    fragments.set_passes(passes)
    if open_voxels.any():
        certificate["open_after_redo"] = int(open_voxels.sum())
        certificate["exchanged"] = int(np.count_nonzero(open_voxels))
        certificate["rounds"] = _exchange(job, fragments, fronts, open_voxels, passes)
        fragments.set_passes(passes)
    job.facts["certificate"] = certificate | {"open_last": int(open_voxels.sum())}
    return labelled


def _redo(
    job: Job,
    fragments: Fragments,
    fronts: Fronts,
    first: LabelFlood,
    open_voxels: np.ndarray[tuple[int], np.dtype[np.int64]],
    passes: np.ndarray[tuple[int], np.dtype[np.uint8]],
) -> int:
    """Redo open blocks with twice the halo, in place of the tables; how many."""
    z, y, x = (2 * h for h in first.flood_halo)
    stage = replace(first, flood_halo=(z, y, x), keep_front=True, which="redo")
    selection = Selection(fragments.grid, np.flatnonzero(open_voxels))
    for record in job.runner.run(stage, selection):
        passes[record["block"]] = 1 + PASSES.index("redo")
        open_voxels[record["block"]] = record["open"]
    # a block whose redo failed has no front; it is listed as failed
    for number in job.runner.failed:
        open_voxels[number] = 0
        passes[number] = 0
    return len(selection)


def _exchange(
    job: Job,
    fragments: Fragments,
    fronts: Fronts,
    open_voxels: np.ndarray[tuple[int], np.dtype[np.int64]],
    passes: np.ndarray[tuple[int], np.dtype[np.uint8]],
) -> int:
    """Exchange faces until no block changes, then write the fragments; rounds taken."""
    everyone = Selection(fragments.grid, np.flatnonzero(open_voxels))
    while True:
        named = replace(fronts, upstream=digest(passes, open_voxels))
        rounds, lost = _rounds(job, fragments, named, everyone)
        if not lost:
            break
        # what rounds made without these blocks must not be taken up once they work again
        passes[lost] = 0
        open_voxels[lost] = 0
        everyone = everyone.without(lost)
        fragments.set_passes(passes)
    settled = [r["block"] for r in job.runner.run(Settle(fragments, named, rounds), everyone)]
    passes[everyone.numbers] = 0
    passes[settled] = 1 + PASSES.index("settled")
    open_voxels[everyone.numbers] = 0
    return rounds


def _rounds(
    job: Job, fragments: Fragments, fronts: Fronts, everyone: Selection
) -> tuple[int, list[int]]:
    """Rounds until nothing changes, or until a block fails; how many, and what failed."""
    active, rounds = everyone, 0
    while len(active):
        rounds += 1
        records = list(job.runner.run(Exchange(fragments, fronts, rounds), active))
        lost = active.without({record["block"] for record in records})
        if len(lost):
            return rounds, lost.numbers.tolist()
        changed = everyone.only([record["block"] for record in records if record["changed"]])
        touched = {
            neighbour.number
            for block in changed
            for _, neighbour in fragments.grid.neighbours(block)
        }
        active = everyone.only(touched)
    return rounds, []
