"""Seeds by height: rounds of reconstruction until nothing changes, then peaks as seeds."""

from __future__ import annotations

import numpy as np

from cellseg3d_dist.engine.job import Job
from cellseg3d_dist.engine.records import digest
from cellseg3d_dist.engine.seeding import merged_seeds
from cellseg3d_dist.engine.stages.hmaxima import (
    NEVER,
    LabelPeaks,
    Landscape,
    Reconstruct,
    ShownLevels,
)
from cellseg3d_dist.engine.stages.seeds import MergedSeeds
from cellseg3d_dist.engine.tables import save_table
from cellseg3d_dist.grid import Selection


def peak_seeds(job: Job, landscape: Landscape, selection: Selection, h: float) -> MergedSeeds:
    """Peaks of a landscape that are at least so high, of the volume as in one piece.

    Parameters
    ----------
    selection : Selection
        Blocks that may have foreground.
    h : float
        In the landscape's units, above 0.
    """
    everyone = selection
    while True:
        levels, rounds, lost = _rounds(job, landscape, everyone, h)
        if not len(lost):
            break
        # what rounds made with these blocks must not be taken up
        everyone = everyone.without(lost.numbers.tolist())
    seeds = merged_seeds(
        job,
        lambda fragments: LabelPeaks(landscape, levels, h, "seeds", fragments),
        everyone,
        1,
    )
    job.facts["seeds"] |= {"h": h, "rounds": rounds}
    return seeds


def _rounds(
    job: Job, landscape: Landscape, everyone: Selection, h: float
) -> tuple[ShownLevels, int, Selection]:
    """Rounds until nothing changes, or until a block fails; how many, and what failed."""
    folder = job.folder.work / "peaks"
    latest = np.full(job.grid.n_blocks, NEVER, np.int32)
    digests = np.zeros(job.grid.n_blocks, "S8")
    active, rounds = everyone, 0
    while True:
        key = digest(latest, digests)
        save_table(folder, f"latest-{key}", latest)
        levels = ShownLevels(folder, job.grid, key)
        if not len(active):
            return levels, rounds, active
        stage = Reconstruct(landscape, levels, h, f"peaks-{rounds}", rounds)
        records = list(job.runner.run(stage, active))
        lost = active.without({record["block"] for record in records})
        if len(lost):
            return levels, rounds, lost
        touched: set[int] = set()
        for record in records:
            latest[record["block"]] = rounds
            digests[record["block"]] = record["digest"]
            if record["changed"]:
                block = job.grid.block(record["block"])
                touched |= {neighbour.number for _, neighbour in job.grid.neighbours(block)}
        active, rounds = everyone.only(touched), rounds + 1
