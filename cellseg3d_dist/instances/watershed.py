"""Seeded watershed: labels rise through a landscape of levels, on a volume or on a block.

A path from a seed arrives at a voxel with a *key* (level, steps): the highest level on its
way, and the steps it took since it came up to that level. A voxel's key is the smallest of
any path. Its label is that of the neighbour with the smallest key, the one that comes by
first; of several such, the largest label. Keys grow along a path, and a better start never
makes a worse end, so keys and labels are unique however the volume is cut. Without equal
levels they are those of :func:`skimage.segmentation.watershed`.

*certificate*
    The region is ringed by an *unknown* label that is larger than any other and was there
    before everything else. A voxel with a real label has it from neighbours with real
    labels only, none of which anything outside can have reached sooner: it is proven.
*settling*
    Open voxels are flooded again with what neighbouring blocks say of their faces as
    sources that join when their key comes up, until no block's answer changes.

Voxels wait in one bucket per level, or per few levels, which a small heap puts in order. A
voxel is one word: -1 - its level before a label comes; then the label above the number of
the *front*, all voxels of one key, that it came with.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.errors import ConfigError, VolumeError
from cellseg3d_dist.instances.components import REACH
from cellseg3d_dist.instances.flood import NO_RING, Sides, neighbours
from cellseg3d_dist.instances.heap import drop, push

#: Arrival key of a voxel that no seed has reached.
UNREACHED = np.int64(2**63 - 1)
#: Levels that have a bucket each; more than these share buckets.
MAX_BUCKETS = 2**16
#: Neighbours of each connectivity.
_COUNTS = {1: 6, 2: 18, 3: 26}
#: The part of a word that holds a front; its lowest bit says that a label may still be beaten.
_LOW = 0xFFFFFFFF


def watershed_flood(
    mask: npt.NDArray[np.uint8],
    levels: npt.NDArray[np.int32],
    seeds: npt.NDArray[np.int64],
    ring: Sides = NO_RING,
    labels: npt.NDArray[np.int32] | None = None,
    connectivity: int = 6,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Flood a landscape from seeds inside a mask.

    Parameters
    ----------
    mask : ndarray, uint8, (z, y, x)
        Non-zero where labels may grow.
    levels : ndarray, int32, shape of ``mask``
        Of :func:`.levels.levels_of`.
    seeds : ndarray, int64, (n,)
        Raveled indices of seed voxels, all inside the mask, none twice.
    ring : three pairs of bool
        The faces (low, high) of each axis beyond which voxels exist but are unknown.
    labels : ndarray, int32, (n,), optional
        Label of each seed voxel, 1 or more; by default seed i has label i + 1.
    connectivity : {6, 18, 26}
        Neighbours by face; by face or edge; by face, edge or corner.

    Returns
    -------
    flooded : ndarray, int32, shape of ``mask``
        0 outside the mask and where no seed reaches; one more than the largest label where
        the unknown came first, that is, where the result depends on voxels not seen.
    arrival : ndarray, int64, shape of ``mask``
        Key of the voxel, level * 2^32 + steps; ``UNREACHED`` where no label came.

    Raises
    ------
    ConfigError
        If the connectivity is none of the three.
    VolumeError
        If there are 2^31 voxels or more; such a volume is labelled in blocks.
    """
    n_neighbours = _checked(connectivity, mask.shape)
    if labels is None:
        labels = np.arange(1, seeds.size + 1, dtype=np.int32)
    base, top, n_voxels = _range(mask, levels)
    shift = _shift(base, top)
    words, start = _words(mask, levels, base, shift, ((top - base) >> shift) + 1)
    queue, fill = _queue(n_voxels, shift), start[:-1].copy()
    _place(words, shift, seeds, labels, np.array(ring, np.uint8), fill, queue)
    none = np.empty(0, np.int64)
    keys = _grow(words, n_neighbours, base, shift, start, fill, queue, none, none)
    del queue
    return _labels(words), _arrivals(words, keys)


def watershed_settle(
    state: npt.NDArray[np.int32],
    times: npt.NDArray[np.int64],
    levels: npt.NDArray[np.int32],
    connectivity: int = 6,
) -> None:
    """Flood open voxels from sources that join when their key comes up, in place.

    Parameters
    ----------
    state : ndarray, int32, (z, y, x)
        0 where the answer is sought, the label (larger wins) of a source, -1 elsewhere;
        -1 in the outermost voxels. Afterwards 0 is where nothing reaches.
    times : ndarray, int64
        Keys of sources, ``UNREACHED`` elsewhere. Afterwards those of the voxels that were
        open; what sources held is lost.
    levels : ndarray, int32
        Of open voxels; others are not looked at.
    """
    n_neighbours = _checked(connectivity, state.shape)
    found, n_open, base, top = _sources(state, times, levels, n_neighbours)
    shift = _shift(base, top)
    n_buckets = ((top - base) >> shift) + 1
    words, start = _words_around(state, times, levels, found, base, shift, n_buckets)
    queue = _queue(n_open + found.size, shift)
    joins = times.reshape(-1)[found]
    order = np.argsort(joins, kind="stable")
    sources = (found[order], joins[order])
    keys = _grow(words, n_neighbours, base, shift, start, start[:-1].copy(), queue, *sources)
    _take(words, keys, state, times)


def _checked(connectivity: int, shape: tuple[int, ...]) -> int:
    """Number of neighbours."""
    if connectivity not in REACH:
        raise ConfigError(f"connectivity {connectivity} is unknown. Use 6, 18 or 26.")
    if np.prod([n + 2 for n in shape]) >= 2**31:
        raise VolumeError(
            f"a watershed of {shape} voxels at once is over the limit of 2^31. Label it in blocks."
        )
    return _COUNTS[REACH[connectivity]]


def _shift(base: int, top: int) -> int:
    """Bits of a level that its bucket leaves out."""
    return max(0, (top - base).bit_length() - (MAX_BUCKETS.bit_length() - 1))


def _queue(n: int, shift: int) -> npt.NDArray[Any]:
    """Room for n voxels; with their levels where those of one bucket differ."""
    return np.empty(n, np.int64 if shift else np.int32)


@numba.njit(cache=True, nogil=True)
def _range(mask, levels):  # type: ignore[no-untyped-def]
    """Lowest and highest level in the mask, and its number of voxels."""
    base, top, n = np.int64(2**31), np.int64(-(2**31) - 1), 0
    for z in range(mask.shape[0]):
        for y in range(mask.shape[1]):
            for x in range(mask.shape[2]):
                if mask[z, y, x]:
                    level = np.int64(levels[z, y, x])
                    base = min(base, level)
                    top = max(top, level)
                    n += 1
    return (base, top, n) if n else (np.int64(0), np.int64(0), 0)


@numba.njit(cache=True, nogil=True)
def _words(mask, levels, base, shift, n_buckets):  # type: ignore[no-untyped-def]
    """Words of all voxels, padded by one, 0 outside the mask; and where each bucket begins."""
    nz, ny, nx = mask.shape
    state = np.zeros((nz + 2, ny + 2, nx + 2), np.int64)
    counts = np.zeros(n_buckets + 1, np.int64)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                if mask[z, y, x]:
                    level = np.int64(levels[z, y, x]) - base
                    state[z + 1, y + 1, x + 1] = -1 - level
                    counts[(level >> shift) + 1] += 1
    return state, np.cumsum(counts)


@numba.njit(cache=True, nogil=True)
def _place(state, shift, seeds, labels, faces, fill, queue):  # type: ignore[no-untyped-def]
    """Put seeds, and voxels on faces that the unknown takes, into their buckets."""
    nz, ny, nx = state.shape[0] - 2, state.shape[1] - 2, state.shape[2] - 2
    unknown = np.int64(0)
    for i in range(seeds.size):
        unknown = max(unknown, np.int64(labels[i]))
        z, y, x = seeds[i] // (ny * nx), seeds[i] // nx % ny, seeds[i] % nx
        _put(state, z, y, x, np.int64(labels[i]), shift, fill, queue)
    unknown += 1
    for z in range(nz):
        on_z = (z == 0 and faces[0, 0]) or (z == nz - 1 and faces[0, 1])
        for y in range(ny):
            on_y = (y == 0 and faces[1, 0]) or (y == ny - 1 and faces[1, 1])
            for x in range(nx):
                on_x = (x == 0 and faces[2, 0]) or (x == nx - 1 and faces[2, 1])
                if (on_z or on_y or on_x) and state[z + 1, y + 1, x + 1] < 0:
                    _put(state, z, y, x, unknown, shift, fill, queue)


@numba.njit(cache=True, nogil=True)
def _put(state, z, y, x, label, shift, fill, queue):  # type: ignore[no-untyped-def]
    """Give an empty voxel a label and put it into its bucket."""
    _, ny, nx = state.shape
    level = -1 - state[z + 1, y + 1, x + 1]
    state[z + 1, y + 1, x + 1] = label << 32
    bucket = level >> shift
    queue[fill[bucket]] = _entry(level, ((z + 1) * ny + y + 1) * nx + x + 1)
    fill[bucket] += 1


@numba.njit(cache=True, nogil=True)
def _entry(level, voxel):  # type: ignore[no-untyped-def]
    """A voxel under its level, in order also above 2^31; a short queue keeps the voxel alone."""
    return ((level - 2**31) << 32) | voxel


@numba.njit(cache=True, nogil=True)
def _grow(state, n_neighbours, base, shift, start, fill, queue, late, joins):  # type: ignore[no-untyped-def]
    """Flood until nothing is left to do, in place; the key of each front.

    Bucket b of ``queue`` begins at ``start[b]``, with room for all voxels of its levels,
    and holds what lies before ``fill[b]``. What was taken out of buckets is kept from the
    beginning on: it comes from levels so far, so it never reaches a bucket still to come.
    ``late`` are sources that join at the keys ``joins``, ascending.
    """
    word = state.reshape(-1)
    offsets = neighbours(state.shape[1], state.shape[2])[:n_neighbours]
    keys = np.empty(max(queue.size if shift > 0 else 0, 1024) + 1, np.int64)
    keys[0] = UNREACHED
    heap = np.empty(1024, np.int64)
    end, joined, front = 0, 0, 0
    for bucket in range(fill.size):
        n_heap = 0
        if shift > 0:
            for i in range(start[bucket], fill[bucket]):
                heap = push(heap, n_heap, queue[i])
                n_heap += 1
        again = True
        while again:
            first = end
            level = np.int64(bucket) << shift
            if shift == 0:
                for i in range(start[bucket], fill[bucket]):
                    queue[end] = queue[i]
                    end += 1
                again = False
            else:
                level = (heap[0] >> 32) + 2**31 if n_heap > 0 else np.int64(2**33)
                if joined < late.size:
                    level = min(level, (joins[joined] >> 32) - base)
                if level >> shift != bucket:
                    break
                while n_heap > 0 and (heap[0] >> 32) + 2**31 == level:
                    queue[end] = heap[0]
                    end += 1
                    drop(heap, n_heap)
                    n_heap -= 1
            key = (level + base) << 32
            while True:
                if first == end:
                    # nothing moves until the next source of this level
                    if joined == late.size or joins[joined] >> 32 != level + base:
                        break
                    key = joins[joined]
                while joined < late.size and joins[joined] <= key:
                    queue[end] = late[joined]
                    end += 1
                    joined += 1
                front += 1
                if front == keys.size:
                    keys = np.concatenate((keys, np.empty_like(keys)))
                keys[front] = key
                stop = end
                tag = np.int64(front) << 1 | 1
                for i in range(first, stop):
                    voxel = np.int64(queue[i]) & _LOW
                    label = word[voxel] >> 32 << 32
                    word[voxel] = label | (tag - 1)
                    own = label | tag
                    for k in range(n_neighbours):
                        other = voxel + offsets[k]
                        found = word[other]
                        if found < 0:
                            word[other] = own
                            height = -1 - found
                            if height <= level:
                                queue[end] = other
                                end += 1
                            elif height >> shift == bucket:
                                heap = push(heap, n_heap, _entry(height, other))
                                n_heap += 1
                            else:
                                queue[fill[height >> shift]] = _entry(height, other)
                                fill[height >> shift] += 1
                        elif found < own and found & _LOW == tag:
                            word[other] = own
                first = stop
                key += 1
    return keys


@numba.njit(cache=True, nogil=True)
def _labels(state):  # type: ignore[no-untyped-def]
    """Labels of words, without the outermost voxels."""
    nz, ny, nx = state.shape
    labels = np.empty((nz - 2, ny - 2, nx - 2), np.int32)
    for z in range(nz - 2):
        for y in range(ny - 2):
            for x in range(nx - 2):
                labels[z, y, x] = max(state[z + 1, y + 1, x + 1], 0) >> 32
    return labels


@numba.njit(cache=True, nogil=True)
def _arrivals(state, keys):  # type: ignore[no-untyped-def]
    """Keys of words, without the outermost voxels."""
    nz, ny, nx = state.shape
    arrival = np.empty((nz - 2, ny - 2, nx - 2), np.int64)
    for z in range(nz - 2):
        for y in range(ny - 2):
            for x in range(nx - 2):
                arrival[z, y, x] = keys[(max(state[z + 1, y + 1, x + 1], 0) & _LOW) >> 1]
    return arrival


@numba.njit(cache=True, nogil=True)
def _sources(state, times, levels, n_neighbours):  # type: ignore[no-untyped-def]
    """Sources with an open neighbour, the number of open voxels, lowest and highest level."""
    label = state.reshape(-1)
    time = times.reshape(-1)
    height = levels.reshape(-1)
    offsets = neighbours(state.shape[1], state.shape[2])[:n_neighbours]
    found = np.empty(1024, np.int64)
    n, n_open = 0, 0
    base, top = np.int64(2**31), np.int64(-(2**31) - 1)
    for voxel in range(label.size):
        if label[voxel] == 0:
            n_open += 1
            base = min(base, np.int64(height[voxel]))
            top = max(top, np.int64(height[voxel]))
        if label[voxel] <= 0:
            continue
        for k in range(n_neighbours):
            if label[voxel + offsets[k]] == 0:
                if n == found.size:
                    found = np.concatenate((found, np.empty_like(found)))
                found[n] = voxel
                n += 1
                base = min(base, time[voxel] >> 32)
                top = max(top, time[voxel] >> 32)
                break
    if n_open == 0:
        base, top = np.int64(0), np.int64(0)
    return found[:n].copy(), n_open, base, top


@numba.njit(cache=True, nogil=True)
def _words_around(state, times, levels, found, base, shift, n_buckets):  # type: ignore[no-untyped-def]
    """Words of open voxels and sources, and where each bucket begins."""
    words = np.zeros(state.shape, np.int64)
    counts = np.zeros(n_buckets + 1, np.int64)
    label, time = state.reshape(-1), times.reshape(-1)
    height, word = levels.reshape(-1), words.reshape(-1)
    for voxel in range(label.size):
        if label[voxel] == 0:
            level = np.int64(height[voxel]) - base
            word[voxel] = -1 - level
            counts[(level >> shift) + 1] += 1
    for i in range(found.size):
        word[found[i]] = np.int64(label[found[i]]) << 32
        counts[(((time[found[i]] >> 32) - base) >> shift) + 1] += 1
    return words, np.cumsum(counts)


@numba.njit(cache=True, nogil=True)
def _take(words, keys, state, times):  # type: ignore[no-untyped-def]
    """Labels and keys of voxels that were open."""
    word, label, time = words.reshape(-1), state.reshape(-1), times.reshape(-1)
    for voxel in range(label.size):
        if label[voxel] == 0:
            reached = max(word[voxel], 0)
            label[voxel] = reached >> 32
            time[voxel] = keys[(reached & _LOW) >> 1]
