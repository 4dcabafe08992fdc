"""The merge: small records of all blocks in, one lookup per block out.

It is done on the driver, or on the workers in groups of blocks where there are too many
fragments or records for one process; both give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.block_records import (
    Objects,
    Touching,
    contacts_in_parts,
    objects_in_parts,
)
from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.memory import GROUP_FRAGMENTS
from cellseg3d_dist.engine.merge_groups import merge_in_groups
from cellseg3d_dist.engine.merge_result import MergeResult
from cellseg3d_dist.engine.records import digest
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.engine.tables import TableWriter, save_table
from cellseg3d_dist.grid import BlockGrid, Selection
from cellseg3d_dist.merging.contacts import unite_by_contact
from cellseg3d_dist.merging.names import edges_of_orphans, unite_by_name
from cellseg3d_dist.merging.union_find import Forest, Limits

#: One process merges up to about this many fragments, at 24 bytes each.
MOST_FRAGMENTS = 120_000_000
#: It reads the records of up to this many blocks, one after the other.
MOST_BLOCKS = 20_000
#: Blocks that are looked at to know how many fragments there will be.
_SAMPLE = 32
#: Fragments written at a time.
_PART = 1 << 20


def merge_fragments(
    fragments: Fragments,
    labelled: Selection,
    edges_from: Path | None,
    folder: Path,
    min_volume: int | None,
    max_volume: int | None,
    runner: Runner | None = None,
) -> MergeResult:
    """Merge the fragments of all labelled blocks and write the lookup.

    Parameters
    ----------
    labelled : Selection
        Blocks that have fragments.
    edges_from : Path or None
        Folder of contact records to merge by contact; None merges by name.
    folder : Path
        Where the lookup goes.
    min_volume, max_volume : int or None
        Limits for whole cells, in voxels.
    runner : Runner or None
        What runs the merge's stages on the workers, if there is too much for this process.
    """
    limits = Limits(min_volume, max_volume)
    each = _fragments_per_block(fragments, labelled)
    expected = round(each * len(labelled))
    if runner is not None and (expected > MOST_FRAGMENTS or len(labelled) > MOST_BLOCKS):
        size = max(1, min(len(labelled), round(GROUP_FRAGMENTS / max(each, 1))))
        return merge_in_groups(fragments, labelled, edges_from, folder, limits, runner, size)

    def contacts() -> Iterator[Touching]:
        assert edges_from is not None
        return contacts_in_parts(edges_from, labelled)

    return merge_parts(
        objects_in_parts(fragments, labelled),
        contacts if edges_from is not None else None,
        fragments.grid,
        folder,
        limits,
        round(1.1 * expected),
    )


def _fragments_per_block(fragments: Fragments, labelled: Selection) -> float:
    """About how many fragments a block has, from a few of them."""
    some = labelled.numbers[:: max(1, len(labelled) // _SAMPLE)]
    objects = [fragments.objects(block) for block in Selection(labelled.grid, some)]
    return sum(0 if o is None else o["names"].size for o in objects) / max(1, some.size)


def merge_parts(
    objects: Iterable[Objects],
    contacts: Callable[[], Iterable[Touching]] | None,
    grid: BlockGrid,
    folder: Path,
    limits: Limits,
    expected: int = 0,
) -> MergeResult:
    """Merge in this process what comes in parts, and write the lookup.

    Parameters
    ----------
    objects : iterable of Objects
        By ascending block number.
    contacts : callable or None
        Gives the contacts, once all objects are there; None merges by name.
    folder : Path
        Where the lookup goes.
    expected : int
        About how many fragments there will be; more are taken too.
    """
    forest = Forest(limits, expected)
    counts = np.full(grid.n_blocks, -1, np.int64)
    for found in objects:
        counts[found.numbers] = found.counts
        forest.add(found.names, found.sizes)
    # blocks without fragments of their own failed or were skipped
    known = counts >= 0
    offsets = np.concatenate(([0], np.cumsum(np.maximum(counts, 0))))
    if contacts is None:
        orphans = unite_by_name(forest.parent, forest.names, offsets, grid)
        forest.unite(edges_of_orphans(orphans, forest.names[orphans]))
    else:
        for part in contacts():
            unite_by_contact(
                forest.parent, part.blocks, part.neighbours, part.pairs, offsets, known
            )
    return _write(forest, offsets, folder)


def _write(forest: Forest, offsets: npt.NDArray[np.int64], folder: Path) -> MergeResult:
    n = forest.n_fragments
    with TableWriter(folder, "names", np.uint64) as names:
        numbered = forest.number(names.append)
    with TableWriter(folder, "final", numbered.rank.dtype) as final:
        for start in range(0, n, _PART):
            final.append(numbered.final(start, min(n, start + _PART)))
    save_table(folder, "offsets", offsets)
    return MergeResult(
        numbered.n_cells,
        n,
        numbered.n_too_small,
        numbered.n_too_large,
        numbered.rank.dtype,
        folder,
        f"{final.digest}-{digest(offsets)}",
    )
