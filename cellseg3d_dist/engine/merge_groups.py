"""The merge on the workers: what the driver does between the stages.

It unites only roots of groups that have edges to other groups, and copies what the groups
wrote into the tables of the lookup, part by part.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.groups import Groups
from cellseg3d_dist.engine.merge_result import MergeResult
from cellseg3d_dist.engine.records import digest
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.engine.stage import BlockRecord, Stage
from cellseg3d_dist.engine.stages.merging import Across, Inside
from cellseg3d_dist.engine.stages.ranking import Cells, Final, Rank
from cellseg3d_dist.engine.tables import TableWriter, save_table, table
from cellseg3d_dist.errors import EnvironmentFailedError
from cellseg3d_dist.grid import BlockGrid, Selection, ceil_div
from cellseg3d_dist.merging.across import Spanning, settled
from cellseg3d_dist.merging.union_find import Limits, label_dtype

#: Cells whose names one task sorts.
RANGE_CELLS = 1 << 22


def merge_in_groups(
    fragments: Fragments,
    labelled: Selection,
    edges_from: Path | None,
    folder: Path,
    limits: Limits,
    runner: Runner,
    size: int,
) -> MergeResult:
    """Merge on the workers, in groups of ``size`` blocks, and write the lookup.

    The tables are those of a merge in one process, byte for byte.

    Raises
    ------
    EnvironmentFailedError
        If a group could not be done.
    """
    upstream = _upstream(runner, labelled)
    groups = Groups(fragments, edges_from, folder / f"groups-{upstream}-{size}", size, upstream)
    save_table(groups.folder, "blocks", labelled.numbers)
    name = "-".join(folder.relative_to(runner.folder.work).parts)
    inside = _records(runner, Inside(groups, f"{name}-inside"), groups.all)
    n_roots = np.array([record["roots"] for record in inside], np.int64)
    save_table(groups.folder, "first-roots", np.concatenate(([0], np.cumsum(n_roots))))
    _records(runner, Across(groups, f"{name}-across"), groups.all)
    united, n_small, n_large = _unite(groups, limits)
    cells = Cells(groups, limits, united, f"{name}-cells")
    named = _records(runner, cells, groups.all)
    ranges = _split(groups, inside)
    ranked = _records(runner, Rank(cells, f"{name}-rank"), ranges)
    n_before = np.concatenate(([0], np.cumsum([record["n"] for record in ranked])))
    save_table(groups.folder, "first-ranks", n_before.astype(np.int64))
    _records(runner, Final(cells, f"{name}-final"), groups.all)
    n_cells = int(n_before[-1])
    return MergeResult(
        n_cells,
        sum(record["fragments"] for record in inside),
        n_small + sum(record["too_small"] for record in named),
        n_large + sum(record["too_large"] for record in named),
        label_dtype(n_cells),
        folder,
        _copy(groups, len(ranges), folder, label_dtype(n_cells)),
    )


def _upstream(runner: Runner, labelled: Selection) -> str:
    """Digest of everything that decided fragments and contacts."""
    text = json.dumps(runner.decided, sort_keys=True).encode()
    return digest(np.frombuffer(text, np.uint8), labelled.numbers)


def _records(runner: Runner, stage: Stage, selection: Selection) -> list[BlockRecord]:
    """Run a stage and give its records in order; without all of them there is no merge."""
    failed = dict(runner.failed)
    records = sorted(runner.run(stage, selection), key=lambda record: int(record["block"]))
    if len(records) < len(selection):
        lost = next(what for what in runner.failed.values() if what[1] == stage.name)
        # their numbers are not those of the volume's blocks
        runner.failed.clear()
        runner.failed.update(failed)
        raise EnvironmentFailedError(
            f"{stage.name}: part {lost[0].number} of {len(selection)} failed ({lost[2]}). "
            f"Finished parts are kept; {runner.folder.go_on}"
        )
    return records


def _unite(groups: Groups, limits: Limits) -> tuple[str, int, int]:
    """Unite the roots that have edges to other groups; digest of the tables; cells dropped."""
    parts = [Spanning(**groups.read("spanning", group.number)) for group in groups.all]
    found = settled(Spanning.joined(parts), limits)
    for part in ("ids", "names", "counted"):
        save_table(groups.folder, f"spanning-{part}", getattr(found, part))
    united = digest(found.ids, found.names, found.counted)
    return united, found.n_too_small, found.n_too_large


def _split(groups: Groups, inside: list[BlockRecord]) -> Selection:
    """Ranges of names with about equally many roots, from samples of each group's."""
    n_ranges = ceil_div(max(1, sum(record["roots"] for record in inside)), RANGE_CELLS)
    samples = [np.array(record["sample"], np.uint64) for record in inside]
    shares = [
        np.full(sample.size, record["roots"] / max(1, sample.size))
        for sample, record in zip(samples, inside, strict=True)
    ]
    names = np.concatenate(samples)
    order = np.argsort(names, kind="stable")
    below = np.cumsum(np.concatenate(shares)[order])
    wanted = np.arange(1, n_ranges) * (below[-1] / n_ranges if below.size else 0)
    at = np.minimum(np.searchsorted(below, wanted), names.size - 1)
    splitters = np.unique(names[order][at])
    save_table(groups.folder, "splitters", splitters)
    return Selection.all(BlockGrid((splitters.size + 1, 1, 1), (1, 1, 1)))


def _copy(groups: Groups, n_ranges: int, folder: Path, dtype: np.dtype[np.unsignedinteger]) -> str:
    """Write the lookup's tables from the parts; their digest."""
    with TableWriter(folder, "names", np.uint64) as names:
        for i in range(n_ranges):
            names.append(np.load(groups.folder / "ranked" / f"{i}.npy"))
    counts: npt.NDArray[np.int64] = np.zeros(groups.fragments.grid.n_blocks + 1, np.int64)
    with TableWriter(folder, "final", dtype) as final:
        for group in groups.all:
            final.append(np.load(groups.folder / "final" / f"{group.number}.npy"))
            numbers = table(groups.folder, "blocks")[
                group.number * groups.size : (group.number + 1) * groups.size
            ]
            found = groups.read("counts", group.number)["counts"]
            counts[numbers + 1] = np.maximum(found, 0)
    offsets = np.cumsum(counts)
    save_table(folder, "offsets", offsets)
    return f"{final.digest}-{digest(offsets)}"
