"""Contacts: pairs of labels of two neighbouring blocks that touch across their border.

Each block keeps the labels of its six faces. Two blocks that share a face, an edge or a
corner compare the planes, lines or voxels they have in common::

        block A | block B          offset of B from A: (0, 0, 1)
          . a a | b .              a touches b: the pair (a, b)
          . . a | . c              a touches c only where corners count (18 or 26)
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Triple
from cellseg3d_dist.merging.union_find import join

Pairs = npt.NDArray[np.uint32]
Faces = dict[str, npt.NDArray[Any]]

#: Keys of a block's faces: axis and end.
FACE_KEYS = ("z0", "z1", "y0", "y1", "x0", "x1")


def faces_of(array: npt.NDArray[Any]) -> Faces:
    """The six outermost planes of a block's array, by :data:`FACE_KEYS`."""
    return {
        f"{name}{end}": np.ascontiguousarray(np.take(array, -end, axis=axis))
        for axis, name in enumerate("zyx")
        for end in (0, 1)
    }


def side_of(faces: Faces, offset: Triple) -> npt.NDArray[Any]:
    """The plane, line or voxel of a block that looks towards ``offset``, as a 3D array.

    Along an axis of offset -1 or 1 it is one voxel thick, along one of 0 whole.
    """
    axis = next(i for i, o in enumerate(offset) if o)
    plane = np.expand_dims(faces[f"{'zyx'[axis]}{int(offset[axis] > 0)}"], axis)
    index = tuple(
        slice(None) if o == 0 or i == axis else (slice(0, 1) if o < 0 else slice(-1, None))
        for i, o in enumerate(offset)
    )
    return np.ascontiguousarray(plane[index])


def contacts(
    side_a: npt.NDArray[np.uint32], side_b: npt.NDArray[np.uint32], offset: Triple, reach: int
) -> Pairs:
    """Unique pairs of labels that touch.

    Parameters
    ----------
    side_a, side_b : ndarray, uint32
        What block A shows towards B (``side_of(faces_a, offset)``) and B towards A.
    offset : (int, int, int)
        Index of B less that of A, each -1, 0 or 1.
    reach : {1, 2, 3}
        The number of axes along which touching voxels may differ (6, 18, 26 neighbours).

    Returns
    -------
    ndarray, uint32, (n, 2)
        Sorted pairs (label in A, label in B), without background.
    """
    slack = reach - sum(abs(o) for o in offset)
    if slack < 0:
        return np.empty((0, 2), np.uint32)
    packed = np.unique(_touching(side_a, side_b, slack))
    return np.stack((packed >> np.uint64(32), packed & np.uint64(0xFFFFFFFF)), 1).astype(np.uint32)


def unite_by_contact(
    parent: npt.NDArray[np.integer[Any]],
    blocks: npt.NDArray[np.int64],
    neighbours: npt.NDArray[np.int64],
    pairs: Pairs,
    offsets: npt.NDArray[np.int64],
    known: npt.NDArray[np.bool_],
    first: int = 0,
) -> npt.NDArray[np.int64]:
    """Join the fragments of pairs whose blocks are both among consecutive blocks.

    Parameters
    ----------
    parent : ndarray of integers, (n,)
        Of a union-find over the fragments of the blocks; changed in place.
    blocks, neighbours : ndarray, int64, (m,)
        Numbers of the blocks of each pair.
    pairs : ndarray, uint32, (m, 2)
        Labels in ``blocks`` and in ``neighbours``.
    offsets : ndarray, int64, (n_blocks + 1,)
        Where each block's fragments begin.
    known : ndarray, bool, (n_blocks,)
        Blocks whose pairs are wanted: one that failed since has no fragments.
    first : int
        Number of the first of the blocks.

    Returns
    -------
    ndarray, int64
        Positions of pairs that have a block that is not among these.
    """
    found: npt.NDArray[np.int64] = _joined(parent, blocks, neighbours, pairs, offsets, known, first)
    return found


@numba.njit(cache=True, nogil=True)
def _joined(parent, blocks, neighbours, pairs, offsets, known, first):  # type: ignore[no-untyped-def]
    outside = np.empty(1024, np.int64)
    n = 0
    for i in range(pairs.shape[0]):
        a, b = blocks[i] - first, neighbours[i] - first
        if 0 <= a < known.size and 0 <= b < known.size:
            if known[a] and known[b]:
                join(parent, offsets[a] + pairs[i, 0] - 1, offsets[b] + pairs[i, 1] - 1)
            continue
        if n == outside.size:
            outside = np.concatenate((outside, np.empty_like(outside)))
        outside[n] = i
        n += 1
    return outside[:n].copy()


@numba.njit(cache=True, nogil=True)
def _touching(a, b, slack):  # type: ignore[no-untyped-def]
    found = np.empty(1024, np.uint64)
    n = 0
    for z in range(a.shape[0]):
        for y in range(a.shape[1]):
            for x in range(a.shape[2]):
                if a[z, y, x] == 0:
                    continue
                for dz in range(-1, 2):
                    for dy in range(-1, 2):
                        for dx in range(-1, 2):
                            if abs(dz) + abs(dy) + abs(dx) > slack:
                                continue
                            zz, yy, xx = z + dz, y + dy, x + dx
                            if zz < 0 or yy < 0 or xx < 0:
                                continue
                            if zz >= b.shape[0] or yy >= b.shape[1] or xx >= b.shape[2]:
                                continue
                            other = b[zz, yy, xx]
                            if other == 0:
                                continue
                            pair = (np.uint64(a[z, y, x]) << np.uint64(32)) | np.uint64(other)
                            if n > 0 and found[n - 1] == pair:
                                continue
                            if n == found.size:
                                found = np.concatenate((found, np.empty_like(found)))
                            found[n] = pair
                            n += 1
    return found[:n]
