"""Cells that span groups of blocks: what is left to unite once each group is united.

Each group unites its own fragments to *roots*. Only roots with an edge to another group
are looked at here; all others are whole cells already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.merging.names import edges_of_orphans
from cellseg3d_dist.merging.union_find import NO_CELL, Limits, roots, singletons, unite

Ids = npt.NDArray[np.int64]
Names = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Spanning:
    """Roots with edges to other groups.

    Attributes
    ----------
    ids : ndarray, int64, (n,)
        Numbers of the roots among all groups'.
    names : ndarray, uint64, (n,)
        Smallest name of the root's fragments.
    sizes : ndarray, int64, (n,)
        Their voxels.
    edges : ndarray, int64, (m, 2)
        Pairs of ``ids`` that belong to one cell.
    orphans : ndarray, int64, (k,)
        Roots, by their ids, with a fragment whose owner has none of its name.
    orphan_names : ndarray, uint64, (k,)
        These names.
    """

    ids: Ids
    names: Names
    sizes: Ids
    edges: Ids
    orphans: Ids
    orphan_names: Names

    @classmethod
    def of(
        cls, roots: list[tuple[Ids, Names, Ids]], edges: Ids, orphans: Ids, orphan_names: Names
    ) -> Spanning:
        """With ids, names and sizes in parts; a root that is in several is one."""
        ids, names, sizes = (np.concatenate(column) for column in zip(*roots, strict=True))
        unique, first = np.unique(ids, return_index=True)
        return cls(unique, names[first], sizes[first], edges, orphans, orphan_names)

    @classmethod
    def joined(cls, parts: list[Spanning]) -> Spanning:
        """Those of several groups."""
        return cls.of(
            [(part.ids, part.names, part.sizes) for part in parts],
            np.concatenate([part.edges for part in parts]),
            np.concatenate([part.orphans for part in parts]),
            np.concatenate([part.orphan_names for part in parts]),
        )


@dataclass(frozen=True)
class Settled:
    """What becomes of roots with edges to other groups.

    Attributes
    ----------
    ids : ndarray, int64, (n,)
        Of the roots, ascending.
    names : ndarray, uint64, (n,)
        Smallest name of the root's cell, :data:`NO_CELL` if it is dropped by size.
    counted : ndarray, bool, (n,)
        True at one root of each cell that is kept.
    n_too_small, n_too_large : int
        Cells dropped by either limit.
    """

    ids: Ids
    names: Names
    counted: npt.NDArray[np.bool_]
    n_too_small: int
    n_too_large: int


def settled(spanning: Spanning, limits: Limits) -> Settled:
    """Unite the roots and apply the limits to their cells."""
    ids, n = spanning.ids, spanning.ids.size
    parent = singletons(n)
    unite(parent, np.searchsorted(ids, spanning.edges))
    orphans = edges_of_orphans(np.searchsorted(ids, spanning.orphans), spanning.orphan_names)
    unite(parent, orphans)
    cell = roots(parent)
    names, sizes = totals(cell, spanning.names, spanning.sizes)
    is_cell = cell == np.arange(n)
    small, large = sizes < limits.least, sizes > limits.most
    dropped = small | large
    return Settled(
        ids,
        np.where(dropped, NO_CELL, names)[cell],
        is_cell & ~dropped,
        int(np.count_nonzero(small & is_cell)),
        int(np.count_nonzero(large & is_cell)),
    )


def totals(
    cell: npt.NDArray[np.integer[Any]], names: Names, sizes: npt.NDArray[np.integer[Any]]
) -> tuple[Names, Ids]:
    """Smallest name and summed size at each position that is the ``cell`` of some.

    Parameters
    ----------
    cell : ndarray of integers, (n,)
        Position of the fragment that stands for each one's cell.
    names : ndarray, uint64, (n,)
    sizes : ndarray of integers, (n,)
    """
    smallest = np.full(names.size, NO_CELL)
    np.minimum.at(smallest, cell, names)
    total = np.zeros(names.size, np.int64)
    np.add.at(total, cell, sizes)
    return smallest, total
