"""Speed of the scores on a contingency table of many objects.

    python benchmarks/matching.py [--objects 10000000] [--blocks 4000] [--smoke] [--json FILE]

Builds the table of a dense tissue directly, without voxels: every cell meets its own
prediction and, by a few voxels, those of its neighbours; some cells are split, fused with
the next, missed or made up. Times every part of the scores on one core, checks a small table
of the same kind against a dense Hungarian matching, and cuts the table into blocks to time
their merging.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from cellseg3d_dist.metrics.contingency import ContingencyTable
from cellseg3d_dist.metrics.coverage import coverage
from cellseg3d_dist.metrics.outcomes import outcomes
from cellseg3d_dist.metrics.overlaps import CRITERIA, Criterion, Overlaps
from cellseg3d_dist.metrics.partition import partition_scores
from cellseg3d_dist.metrics.points import match_points
from cellseg3d_dist.metrics.precision import average_precision
from cellseg3d_dist.metrics.scores import THRESHOLDS, matching
from cellseg3d_dist.metrics.summary import summarise

T = TypeVar("T")


def made_table(n: int, seed: int) -> ContingencyTable:
    """Table of ``n`` true cells on a lattice, its ids in raster order with gaps."""
    rng = np.random.default_rng(seed)
    side = max(1, round(n ** (1 / 3)))
    volume = rng.lognormal(6.5, 0.4, n)
    fate = rng.choice(4, n, p=(0.88, 0.05, 0.04, 0.03))
    cell = np.arange(n)
    split, fused, missed = (np.flatnonzero(fate == f) for f in (1, 2, 3))
    # a fused cell takes the name of the next; its chain ends at the first that is not fused
    own = cell.copy()
    for i in fused[::-1]:
        own[i] = own[min(i + 1, n - 1)]
    there = np.ones(n, bool)
    there[missed] = False
    rows, columns, shared = [cell[there]], [own[there]], [volume[there] * share(rng, there.sum())]
    rows.append(split)
    columns.append(n + np.arange(len(split)))
    shared.append(volume[split] * rng.uniform(0.1, 0.5, len(split)))
    for step in (1, side, side * side):
        for sign in (1, -1):
            near = cell + sign * step
            meets = (rng.random(n) < 0.3) & (near >= 0) & (near < n)
            meets[meets] &= there[near[meets]]
            rows.append(cell[meets])
            columns.append(own[near[meets]])
            shared.append(volume[meets] * rng.exponential(0.04, meets.sum()))
    n_pred = n + len(split) + n // 30
    made_up = n + len(split) + np.arange(n // 30)
    predicted = np.unique(np.concatenate([own[there], columns[1], made_up]))
    rows += [cell, np.full(len(predicted), -1), [-1]]
    columns += [np.full(n, -1), predicted, [-1]]
    shared += [volume * rng.uniform(0.02, 0.4, n), rng.lognormal(5, 0.5, len(predicted)), [1e9]]
    names = np.concatenate([[0], 1 + np.sort(rng.choice(n_pred + n_pred // 5, n_pred, False))])
    true = names[1 + np.concatenate(rows)].astype(np.uint64)
    pred = names[1 + np.concatenate(columns)].astype(np.uint64)
    voxels = np.maximum(1, np.concatenate(shared)).astype(np.int64)
    return ContingencyTable.merge([ContingencyTable(true, pred, voxels)] * 2)


def made_points(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Points 10 um apart on average, and found ones 2 um off, a few missed or made up."""
    rng = np.random.default_rng(0)
    side = 10 * n ** (1 / 3)
    true = rng.random((n, 3)) * side
    found = (true + rng.normal(0, 2, (n, 3)))[rng.random(n) < 0.95]
    return true, np.concatenate([found, rng.random((n // 20, 3)) * side])


def share(rng: np.random.Generator, n: int) -> np.ndarray:
    """Parts of the cells that their own predictions cover."""
    return rng.beta(8, 3, n)


def cut(table: ContingencyTable, n_blocks: int, seed: int) -> list[ContingencyTable]:
    """The table as blocks count it: neighbours in few blocks, one row in seven in two."""
    rng = np.random.default_rng(seed)
    n = len(table.voxels)
    block = np.arange(n) * n_blocks // n
    halved = np.flatnonzero((rng.random(n) < 1 / 7) & (table.voxels > 1))
    part = table.voxels[halved] // 2
    voxels = table.voxels.copy()
    voxels[halved] -= part
    rows = np.concatenate([np.arange(n), halved])
    voxels = np.concatenate([voxels, part])
    block = np.concatenate([block, (block[halved] + 1) % n_blocks])
    order = np.argsort(block, kind="stable")
    rows, voxels = rows[order], voxels[order]
    ends = np.searchsorted(block[order], np.arange(n_blocks + 1))
    return [
        ContingencyTable(table.labels_true[rows[a:b]], table.labels_pred[rows[a:b]], voxels[a:b])
        for a, b in itertools.pairwise(ends)
    ]


def dense_matching(overlaps: Overlaps, criterion: Criterion, threshold: float) -> int:
    """Hits of a dense Hungarian matching, the definition."""
    scores = np.zeros((overlaps.n_true, overlaps.n_pred))
    scores[overlaps.rows, overlaps.columns] = overlaps.scores(criterion)
    cost = -1.0 * (scores >= threshold) - scores / (2 * min(scores.shape))
    chosen = scores[linear_sum_assignment(cost)]
    return int((chosen >= threshold).sum())


def checked(n: int) -> float:
    """Compare with the dense matching on small tables; seconds of both, as a ratio."""
    ours = theirs = 0.0
    for seed in range(3):
        overlaps = Overlaps.of(made_table(n, seed))
        for criterion in CRITERIA:
            began = time.perf_counter()
            found = [score.tp for score in matching(overlaps, THRESHOLDS, criterion)]
            ours += time.perf_counter() - began
            began = time.perf_counter()
            expected = [dense_matching(overlaps, criterion, t) for t in THRESHOLDS]
            theirs += time.perf_counter() - began
            if found != expected:
                raise SystemExit(f"{criterion}: hits {found}, a dense matching has {expected}")
    return theirs / ours


def measure(n: int, n_blocks: int) -> tuple[dict[str, int], dict[str, float]]:
    """How many objects, pairs and rows a table has, and seconds of every part."""
    table = made_table(n, 0)
    seconds: dict[str, float] = {}
    merge_and_compare(table, n_blocks, seconds)
    overlaps = timed(seconds, "graph of overlaps", Overlaps.of, table)
    counts = {
        "true": overlaps.n_true,
        "pred": overlaps.n_pred,
        "pairs": len(overlaps.rows),
        "rows": len(table.voxels),
    }
    for criterion in CRITERIA:
        name = f"matching, {criterion}, {len(THRESHOLDS)} thresholds"
        timed(seconds, name, matching, overlaps, THRESHOLDS, criterion)
    timed(seconds, "average precision, 4 ranges", average_precision, overlaps)
    timed(seconds, "SEG and MUCov", coverage, overlaps)
    timed(seconds, "variation of information, Rand", partition_scores, table)
    timed(seconds, "found, fused, split, missed", outcomes, overlaps)
    del overlaps
    timed(seconds, "all scores in one call", summarise, table)
    true, found = made_points(n // 10)
    timed(seconds, f"{n // 10} points within 5 um", match_points, true, found, 5.0)
    return counts, seconds


def merge_and_compare(table: ContingencyTable, n_blocks: int, seconds: dict[str, float]) -> None:
    """Time the merge of the table's blocks."""
    blocks = cut(table, n_blocks, 0)
    merged = timed(seconds, f"merge {n_blocks} block tables", ContingencyTable.merge, blocks)
    if merged != table:
        raise SystemExit("the merged block tables are not the table")


def timed(seconds: dict[str, float], name: str, work: Callable[..., T], *values: Any) -> T:
    """Note how long a call takes."""
    began = time.perf_counter()
    result = work(*values)
    seconds[name] = time.perf_counter() - began
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--objects", type=int, default=10_000_000, help="true cells")
    parser.add_argument("--blocks", type=int, default=4000, help="tables to merge")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, for a test")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    n, n_blocks = (20_000, 50) if options.smoke else (options.objects, options.blocks)
    ratio = checked(100 if options.smoke else 1000)
    print("equal to a dense Hungarian matching on 3 small tables, all criteria and thresholds")
    if not options.smoke:
        print(f"(1,000 objects a side: {ratio:,.0f} times as fast)")
    counts, seconds = measure(n, n_blocks)
    print(
        f"{counts['true']:,} true and {counts['pred']:,} predicted objects, "
        f"{counts['pairs']:,} pairs of them overlap, {counts['rows']:,} rows"
    )
    for name, value in seconds.items():
        print(f"| {name:34} | {value:8.2f} s |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"largest memory of the process {peak:.1f} GiB")
    if options.json:
        figures = {"objects": counts, "blocks": n_blocks, "seconds": seconds, "peak_gib": peak}
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
