"""Merging by name: fragments of one seed, seen from several blocks, are one cell.

A seed lies in the write region of one block, its owner, which as a rule has a fragment of
it. Any other block's fragment of that name is joined to the owner's by a search in the
owner's sorted names alone, never in those of the whole volume.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import BlockGrid
from cellseg3d_dist.instances.spots import position_of_seeds
from cellseg3d_dist.merging.union_find import join


def owners_of(names: npt.NDArray[np.uint64], grid: BlockGrid) -> npt.NDArray[np.int64]:
    """Numbers of the blocks that seeds of these names lie in."""
    z, y, x = position_of_seeds(names, grid.shape)
    bz, by, bx = grid.block_shape
    _, ny, nx = grid.n_blocks_per_axis
    owners: npt.NDArray[np.int64] = ((z // bz) * ny + y // by) * nx + x // bx
    return owners


def edges_by_name(
    names: npt.NDArray[np.uint64],
    offsets: npt.NDArray[np.int64],
    owners: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Edges between fragments of one name.

    Parameters
    ----------
    names : ndarray, uint64, (n,)
        Names of all fragments, block after block, ascending within a block.
    offsets : ndarray, int64, (n_blocks + 1,)
        Where each block's fragments begin in ``names``.
    owners : ndarray, int64, (n,)
        Number of the block that each name's seed lies in.

    Returns
    -------
    ndarray, int64, (m, 2)
        Dense ids. Where the owner has no such fragment (its block failed), the
        fragments of that name are joined to each other.
    """
    block = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
    foreign = np.flatnonzero(owners != block)
    target = _searched(names, offsets, owners, foreign)
    found = target >= 0
    edges = np.stack((foreign[found], target[found]), 1)
    orphans = foreign[~found]
    return np.concatenate((edges, edges_of_orphans(orphans, names[orphans])))


def edges_of_orphans(
    orphans: npt.NDArray[np.int64], names: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """Edges between fragments of one name, none of which is its owner's.

    Parameters
    ----------
    orphans : ndarray, int64, (n,)
        Dense ids.
    names : ndarray, uint64, (n,)
    """
    order = np.argsort(names, kind="stable")
    same = names[order[1:]] == names[order[:-1]]
    return np.stack((orphans[order[1:]][same], orphans[order[:-1]][same]), 1).astype(np.int64)


def unite_by_name(
    parent: npt.NDArray[np.integer[Any]],
    names: npt.NDArray[np.uint64],
    offsets: npt.NDArray[np.int64],
    grid: BlockGrid,
    first: int = 0,
) -> npt.NDArray[np.int64]:
    """Join fragments to that of their name in the block that owns it.

    Parameters
    ----------
    parent : ndarray of integers, (n,)
        Of a union-find; changed in place.
    names : ndarray, uint64, (n,)
        Names of seeds (:func:`cellseg3d_dist.instances.spots.names_of_seeds`) of the
        fragments of consecutive blocks, ascending within a block.
    offsets : ndarray, int64, (n_blocks + 1,)
        Where each block's fragments begin in ``names``.
    grid : BlockGrid
    first : int
        Number of the first of these blocks.

    Returns
    -------
    ndarray, int64
        Dense ids of fragments whose owner has no such fragment or is not among the blocks.
    """
    found: npt.NDArray[np.int64] = _united(
        parent,
        names,
        offsets,
        np.array(grid.shape, np.uint64),
        np.array(grid.block_shape, np.uint64),
        np.array(grid.n_blocks_per_axis, np.uint64),
        first,
    )
    return found


@numba.njit(cache=True, nogil=True)
def _searched(names, offsets, owners, foreign):  # type: ignore[no-untyped-def]
    target = np.empty(foreign.size, np.int64)
    for i in range(foreign.size):
        owner = owners[foreign[i]]
        target[i] = _search(names, names[foreign[i]], offsets[owner], offsets[owner + 1])
    return target


@numba.njit(cache=True, nogil=True)
def _search(names, name, low, stop):  # type: ignore[no-untyped-def]
    """Position of a name in the sorted ``names[low:stop]``, -1 where it is not there."""
    end = stop
    while low < end:
        middle = (low + end) >> 1
        if names[middle] < name:
            low = middle + 1
        else:
            end = middle
    return low if low < stop and names[low] == name else -1


# divisors are never 0, and a check for it would cost as much as a division
@numba.njit(cache=True, nogil=True, error_model="numpy")
def _united(parent, names, offsets, shape, block_shape, n_blocks, first):  # type: ignore[no-untyped-def]
    nz, ny = shape[0], shape[1]
    bz, by, bx = block_shape
    _, my, mx = n_blocks
    missing = np.empty(1024, np.int64)
    n_missing = 0
    for block in range(offsets.size - 1):
        number = np.uint64(first + block)
        for a in range(offsets[block], offsets[block + 1]):
            index = names[a] - np.uint64(1)
            row = index // nz
            z = (index - row * nz) // bz
            x = row // ny
            y = (row - x * ny) // by
            owner = (z * my + y) * mx + x // bx
            if owner == number:
                continue
            at = np.int64(owner) - first
            there = -1
            if 0 <= at < offsets.size - 1:
                there = _search(names, names[a], offsets[at], offsets[at + 1])
            if there >= 0:
                join(parent, a, there)
                continue
            if n_missing == missing.size:
                missing = np.concatenate((missing, np.empty_like(missing)))
            missing[n_missing] = a
            n_missing += 1
    return missing[:n_missing].copy()
