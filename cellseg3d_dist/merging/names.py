"""Merging by name: fragments of one seed, seen from several blocks, are one cell.

A seed lies in the write region of one block, its owner, which always has a fragment of
it. Any other block's fragment of that name is joined to the owner's by a search in the
owner's sorted names alone, never in those of the whole volume.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt


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
    target = _search(names, offsets, owners, foreign)
    orphans = foreign[target < 0]
    found = target >= 0
    edges = np.stack((foreign[found], target[found]), 1)
    if orphans.size:
        orphans = orphans[np.argsort(names[orphans], kind="stable")]
        same = names[orphans[1:]] == names[orphans[:-1]]
        edges = np.concatenate((edges, np.stack((orphans[1:][same], orphans[:-1][same]), 1)))
    return edges.astype(np.int64)


@numba.njit(cache=True, nogil=True)
def _search(names, offsets, owners, foreign):  # type: ignore[no-untyped-def]
    target = np.empty(foreign.size, np.int64)
    for i in range(foreign.size):
        name = names[foreign[i]]
        low = offsets[owners[foreign[i]]]
        stop = offsets[owners[foreign[i]] + 1]
        high = stop
        while low < high:
            middle = (low + high) // 2
            if names[middle] < name:
                low = middle + 1
            else:
                high = middle
        target[i] = low if low < stop and names[low] == name else -1
    return target
