"""From a prediction to fragments, by the representation that the network was trained for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine import labelling
from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.job import Job
from cellseg3d_dist.engine.records import digest
from cellseg3d_dist.engine.seeding import threshold_seeds
from cellseg3d_dist.engine.stage import Stage
from cellseg3d_dist.engine.stages.candidates import CandidateFiles, FindCandidates, Known
from cellseg3d_dist.engine.stages.follow import Assign, Ends, Follow, total_arrivals
from cellseg3d_dist.engine.stages.paint import Paint
from cellseg3d_dist.engine.stages.predicted import Predicted
from cellseg3d_dist.engine.stages.seeds import (
    PredictedGround,
    SeededFlooding,
    SeededRepresentation,
    SpotFlooding,
)
from cellseg3d_dist.engine.stages.suppress import States, Suppress, SuppressAgain
from cellseg3d_dist.engine.tables import save_table
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Selection
from cellseg3d_dist.representations.following import FlowParameters, reach
from cellseg3d_dist.representations.seeded import above, growth_of
from cellseg3d_dist.representations.sinks import sinks
from cellseg3d_dist.representations.star import Star
from cellseg3d_dist.volumes import StoredArray

Maxima = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]


def decode(job: Job, fragments: Fragments, prediction: StoredArray) -> Selection:
    """Decode instances block by block; the blocks that have fragments.

    Fragments are named globally, so that the merge by name makes them whole. The labels are
    those of the representation's ``decode`` on the whole prediction, with the foreground (of
    stars: the probability, and in the end the labels) 0 outside the image's mask.
    """
    represents = job.method.representation
    if hasattr(represents, "masks"):
        return _seeded(job, fragments, prediction)
    if isinstance(represents, Star):
        return _stars(job, fragments, Predicted(prediction, job.image), represents)
    if isinstance(job.method.parameters, FlowParameters):
        return _flows(job, fragments, Predicted(prediction, job.image))
    raise ConfigError(f"representation {represents} cannot be decoded in blocks.")


def _seeded(job: Job, fragments: Fragments, prediction: StoredArray) -> Selection:
    """Seeds are whole components, merged and filtered by size first; then they flood."""
    represents = cast(SeededRepresentation, job.method.representation)
    parameters = job.method.parameters
    ground = PredictedGround(prediction, job.image, represents, parameters)
    growth = growth_of(parameters.watershed)
    selection = _occupied(job, represents, parameters)
    if getattr(parameters, "spot_sigma", 0):
        sigma = represents.spot_sigma(parameters, job.image.volume.voxel_size)
        spotted = SpotFlooding(ground, represents.spot_channel, sigma, growth)
        return labelling.flood(job, fragments, selection, spotted, f"{sigma}-{growth}")
    seeds = threshold_seeds(job, ground, selection, parameters.min_seed_voxels)
    flooding = SeededFlooding(ground, seeds, growth)
    return labelling.flood(job, fragments, selection, flooding, f"{seeds.digest}-{growth}")


def _occupied(job: Job, represents: SeededRepresentation, parameters: Any) -> Selection:
    """Blocks that can have foreground, which grows with every channel that decides it."""

    def has_foreground(maxima: Maxima) -> bool:
        return bool(represents.masks(maxima.reshape(-1, 1, 1, 1), parameters)[1].any())

    return note_blocks(job, _whose(job, has_foreground))


def _whose(job: Job, wanted: Callable[[Maxima], bool]) -> Selection:
    """Predicted blocks chosen by the largest value of each channel."""
    numbers = [n for n, maxima in job.maxima.items() if wanted(np.array(maxima, np.uint8))]
    selection = Selection(job.grid, np.array(sorted(numbers), np.int64))
    return selection.without(list(job.runner.failed))


def note_blocks(job: Job, selection: Selection) -> Selection:
    """Note how many blocks are decoded, and why others are not."""
    predicted = len(job.maxima)
    outside = job.grid.n_blocks - predicted - len(job.runner.failed)
    job.facts["blocks"] = {
        "total": job.grid.n_blocks,
        "occupied": len(selection),
        "below_threshold": predicted - len(selection),
        "outside_mask": max(0, outside),
    }
    return selection


def _labelled(job: Job, fragments: Fragments, stage: Stage, selection: Selection) -> Selection:
    """Run the stage that makes fragments; the blocks that have them."""
    done = {record["block"] for record in job.runner.run(stage, selection)}
    labelled = selection.only(done)
    passes = np.zeros(job.grid.n_blocks, np.uint8)
    passes[labelled.numbers] = 1
    fragments.set_passes(passes)
    return labelled


def _stars(job: Job, fragments: Fragments, predicted: Predicted, star: Star) -> Selection:
    """Candidates are suppressed in blocks and rounds; what is kept is painted."""
    threshold, work = job.method.parameters.threshold, job.folder.work
    files = CandidateFiles(work / "candidates", job.grid)
    peaks = CandidateFiles(job.predicted_in.peaks, job.grid)
    finding = FindCandidates(predicted, peaks, files, threshold)
    counts = np.zeros(job.grid.n_blocks, np.int64)
    digests = np.zeros(job.grid.n_blocks, "S8")
    for record in job.runner.run(
        finding, _whose(job, lambda m: bool(m[0] >= int(255 * threshold)))
    ):
        counts[record["block"]] = record["candidates"]
        digests[record["block"]] = record["digest"]
    suppressed = _suppressed(job, files, star, counts, digests)
    size = job.image.volume.voxel_size
    reached = {
        block.number
        for one in suppressed.blocks
        for block in job.grid.overlapping(
            one.write_region.expand(star.stencil(size).half, job.grid.shape)
        )
    }
    selection = _whose(job, lambda m: True).only(reached)
    painting = Paint(suppressed.stage, suppressed.rounds, job.image, fragments)
    return _labelled(job, fragments, painting, note_blocks(job, selection))


@dataclass(frozen=True)
class _Suppressed:
    """The suppression's last stage but for its rounds, and the blocks with candidates."""

    stage: Suppress
    rounds: int
    blocks: Selection


def _suppressed(
    job: Job, files: CandidateFiles, star: Star, counts: Counts, digests: npt.NDArray[np.bytes_]
) -> _Suppressed:
    """Suppress until no candidate is open; a block that fails takes its candidates with it."""
    having = Selection(job.grid, np.flatnonzero(counts))
    folder = job.folder.work / "suppression"
    while True:
        takes_part = np.zeros(job.grid.n_blocks, np.bool_)
        takes_part[having.numbers] = True
        # states of other candidates must not be taken up
        upstream = digest(takes_part, digests[having.numbers])
        save_table(folder, f"known-{upstream}", takes_part)
        stage = Suppress(
            Known(files, folder, upstream),
            States(folder / upstream),
            star,
            job.image.volume.voxel_size,
            job.method.parameters.overlap,
        )
        n_open = np.full(job.grid.n_blocks, -1, np.int64)
        for record in job.runner.run(stage, having):
            n_open[record["block"]] = record["open"]
        lost = having.only(np.flatnonzero(n_open < 0))
        n_open = np.maximum(n_open, 0)
        certificate = {
            "of": "candidates",
            "voxels": int(counts[having.numbers].sum()),
            "open_first": int(n_open.sum()),
            "redone": 0,
            "exchanged": int(np.count_nonzero(n_open)),
        }
        rounds = 0
        if not len(lost):
            rounds, lost = _rounds(job, stage, n_open)
        if not len(lost):
            job.facts["certificate"] = certificate | {
                "rounds": rounds,
                "open_last": int(n_open.sum()),
            }
            return _Suppressed(stage, rounds, having)
        having = having.without(lost.numbers.tolist())


def _rounds(job: Job, stage: Suppress, n_open: Counts) -> tuple[int, Selection]:
    """Rounds until no candidate is open, or until a block fails; how many, and what failed."""
    active, rounds = Selection(job.grid, np.flatnonzero(n_open)), 0
    while len(active):
        rounds += 1
        done, touched = set(), set()
        for record in job.runner.run(SuppressAgain(stage, rounds), active):
            number = record["block"]
            done.add(number)
            n_open[number] = record["open"]
            if record["digest"] is not None:
                touched |= set(stage.reaching(job.grid.block(number)).numbers.tolist()) - {number}
        lost = active.without(done)
        if len(lost):
            return rounds, lost
        active = Selection(job.grid, np.flatnonzero(n_open)).only(touched)
    return rounds, active


def _flows(job: Job, fragments: Fragments, predicted: Predicted) -> Selection:
    """Voxels are followed to their ends; the ends of all blocks make sinks, which name them."""
    parameters, work = job.method.parameters, job.folder.work
    ends = Ends(work / "ends")
    occupied = note_blocks(job, _whose(job, lambda m: bool(above(m[:1], parameters.threshold)[0])))
    attempts = _followed(job, predicted, ends, occupied)
    followed = occupied.only(np.flatnonzero(attempts))
    job.runner.progress.say("sinks        on the driver")
    arrived = total_arrivals(
        ends.arrivals(block, attempt)
        for block in followed
        for attempt in range(attempts[block.number])
    )
    found = sinks(arrived, job.grid.shape, parameters)
    save_table(work / "sinks", "positions", found.positions)
    save_table(work / "sinks", "names", found.names)
    assigning = Assign(ends, work / "sinks", digest(found.positions, found.names), fragments)
    return _labelled(job, fragments, assigning, followed)


def _followed(job: Job, predicted: Predicted, ends: Ends, selection: Selection) -> Counts:
    """Follow every voxel of the blocks to its end; attempts that each block took, 0 if failed."""
    parameters, size = job.method.parameters, job.image.volume.voxel_size
    most = reach(size, parameters)
    z, y, x = (min(h, m) for h, m in zip(job.plan.flood_halo, most, strict=True))
    stage = Follow(predicted, ends, size, parameters, (z, y, x))
    attempts = np.zeros(job.grid.n_blocks, np.int64)
    certificate = {"voxels": 0, "open_first": 0, "redone": 0, "exchanged": 0, "rounds": 0}
    active = selection
    while len(active):
        n_open = np.zeros(job.grid.n_blocks, np.int64)
        before, attempts[active.numbers] = attempts.copy(), 0
        for record in job.runner.run(stage, active):
            number = record["block"]
            attempts[number] = before[number] + 1
            n_open[number] = record["open"]
            if stage.attempt == 0:
                certificate["voxels"] += record["voxels"]
        if stage.attempt == 0:
            certificate["open_first"] = int(n_open.sum())
            certificate["redone"] = int(np.count_nonzero(n_open))
        active = Selection(job.grid, np.flatnonzero(n_open))
        stage = stage.again(most)
    job.facts["certificate"] = certificate | {"open_last": 0}
    return attempts
