"""The merge on the driver: small records of all blocks in, one lookup per block out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.records import digest, read_record, record_path
from cellseg3d_dist.engine.tables import save_table
from cellseg3d_dist.grid import BlockGrid, Selection
from cellseg3d_dist.instances.spots import position_of_seeds
from cellseg3d_dist.merging.names import edges_by_name
from cellseg3d_dist.merging.union_find import Merged, merge

Edges = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MergeResult:
    """Counts of the merge, and where its lookup lies.

    Attributes
    ----------
    lookup : Path
        Folder with ``final.npy``, ``offsets.npy`` and ``names.npy`` (of each final id).
    lookup_digest : str
        Of both arrays.
    """

    n_cells: int
    n_fragments: int
    n_too_small: int
    n_too_large: int
    dtype: np.dtype[np.unsignedinteger]
    lookup: Path
    lookup_digest: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "cells": self.n_cells,
            "fragments": self.n_fragments,
            "too_small": self.n_too_small,
            "too_large": self.n_too_large,
            "dtype": str(self.dtype),
        }


def merge_fragments(
    fragments: Fragments,
    labelled: Selection,
    edges_from: Path | None,
    folder: Path,
    min_volume: int | None,
    max_volume: int | None,
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
    """
    grid = fragments.grid
    counts = np.zeros(grid.n_blocks + 1, np.int64)
    names, sizes = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for block in labelled:
        objects = fragments.objects(block)
        if objects is not None:
            counts[block.number + 1] = objects["names"].size
            names.append(objects["names"])
            sizes.append(objects["sizes"])
    offsets = np.cumsum(counts)
    all_names, all_sizes = np.concatenate(names), np.concatenate(sizes)
    if edges_from is None:
        edges = edges_by_name(all_names, offsets, owners_of(all_names, grid))
    else:
        parts = list(_contact_edges(edges_from, labelled, offsets))
        edges = np.concatenate(parts) if parts else np.empty((0, 2), np.int64)
    merged = merge(all_names, all_sizes, edges, min_volume, max_volume)
    return _write(merged, offsets, folder)


def owners_of(names: npt.NDArray[np.uint64], grid: BlockGrid) -> npt.NDArray[np.int64]:
    """Numbers of the blocks that seeds of these names lie in."""
    z, y, x = position_of_seeds(names, grid.shape)
    bz, by, bx = grid.block_shape
    _, ny, nx = grid.n_blocks_per_axis
    owners: npt.NDArray[np.int64] = ((z // bz) * ny + y // by) * nx + x // bx
    return owners


def _contact_edges(
    folder: Path, labelled: Selection, offsets: npt.NDArray[np.int64]
) -> Iterator[Edges]:
    known = np.zeros(offsets.size - 1, bool)
    known[labelled.numbers] = True
    for block in labelled:
        record = read_record(record_path(folder, block))
        # a neighbour that failed since has no fragments
        there = known[record["neighbour"]]
        pairs = record["pairs"][there].astype(np.int64) - 1
        pairs[:, 0] += offsets[block.number]
        pairs[:, 1] += offsets[record["neighbour"][there]]
        yield pairs


def _write(merged: Merged, offsets: npt.NDArray[np.int64], folder: Path) -> MergeResult:
    save_table(folder, "final", merged.final)
    save_table(folder, "offsets", offsets)
    save_table(folder, "names", merged.names)
    return MergeResult(
        merged.n_cells,
        merged.final.size,
        merged.n_too_small,
        merged.n_too_large,
        merged.final.dtype,
        folder,
        digest(merged.final, offsets),
    )
