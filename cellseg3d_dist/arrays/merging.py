"""Labels of overlapping blocks to labels of whole cells, lazily: merging by overlap.

::

    labels of blocks with halo ─┬─ runs of labels ───────────────────────────┬─ labels 1..N
                                └─ record: names, sizes, zones ─ overlaps ─ merge ┘
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from cellseg3d_dist.arrays.fragments import LABELS, Finish, Record, Runs, record_of, runs_of
from cellseg3d_dist.arrays.labelling import merge_records
from cellseg3d_dist.arrays.sources import Cut, Key, lazy_array
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Block, Triple
from cellseg3d_dist.instances.components import names_of_first_voxels
from cellseg3d_dist.instances.sizes import sizes_of
from cellseg3d_dist.labellers.labeller import checked_labels
from cellseg3d_dist.merging.overlap import THRESHOLD, Reach, overlaps, seen, side_key


def merge(
    blocks: Any,
    halo: int | Triple,
    *,
    threshold: float = THRESHOLD,
    min_volume: int | None = None,
    max_volume: int | None = None,
) -> Any:
    """Merge the labels of overlapping blocks into one label image, lazily.

    Two labels of neighbouring blocks are one cell if each is the other's best overlap in the
    voxels that both blocks hold, and the overlap is large enough
    (:mod:`cellseg3d_dist.merging.overlap`). Beyond its halo a block keeps its own labels; a
    label that lies in the halo alone is dropped. The labels may depend on the blocks, but not
    on their ids, nor on the order in which they are computed.

    Parameters
    ----------
    blocks : dask array, or mapping of (int, int, int) to arrays
        Integer labels (z, y, x) of each block with its halo, ids of its own; 0 is background.
        A dask array has one block per chunk, as ``dask.array.overlap.overlap(image, halo,
        boundary="none").map_blocks(...)`` makes it. A mapping has a NumPy or Zarr array for
        every index of a grid of blocks, from (0, 0, 0).
    halo : int or (z, y, x)
        Voxels that a block holds of each neighbour. At the volume's faces there are none.
    threshold : float
        Least overlap over union, 0 to 1.
    min_volume, max_volume : int, optional
        Limits of whole cells, in voxels.

    Returns
    -------
    dask.array.Array, uint32
        Of the volume without overlaps, a chunk per block; cells are 1..N by their first
        voxel.

    Raises
    ------
    ConfigError
        If the blocks make no grid, or are thinner than the halo.
    LabellerError
        When computed, if a block holds something other than labels.

    Examples
    --------
    >>> left = np.array([[[1, 1, 0, 2, 2]]])
    >>> right = np.array([[[9, 9, 9, 0]]])
    >>> merged = merge({(0, 0, 0): left, (0, 0, 1): right}, halo=(0, 0, 1))
    >>> merged.compute()
    array([[[1, 1, 0, 2, 2, 2, 0]]], dtype=uint32)
    """
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold {threshold:g} must be a number from 0 to 1.")
    z, y, x = (halo,) * 3 if isinstance(halo, int) else halo
    if min(z, y, x) < 0:
        raise ConfigError(f"halo {halo} must be voxels of at least 0.")
    if isinstance(blocks, Mapping):
        sizes, arrays = _sizes(blocks), dict(blocks)
        keys: dict[Triple, Any] = {index: (_whole, array) for index, array in arrays.items()}
        collections, named = [], tokenize(arrays)
    elif isinstance(blocks, da.Array) and blocks.ndim == 3:
        sizes, collections, named = blocks.chunks, [blocks], blocks.name
        indices = np.ndindex(*blocks.numblocks)
        keys = {(a, b, c): (blocks.name, a, b, c) for a, b, c in indices}
    else:
        raise ConfigError(
            f"blocks are a {type(blocks).__name__}, not a dask array (z, y, x) or a mapping of "
            f"indices to arrays."
        )
    cut = _cut(sizes, (z, y, x))
    limits = (min_volume, max_volume)
    token = tokenize(named, sizes, (z, y, x), threshold, limits)
    tasks, joined = _tasks(cut, (z, y, x), threshold, keys, token)
    merged, name = f"merge-{token}", f"merged-{token}"
    tasks[merged] = (partial(merge_records, cut, limits), joined)
    for block in cut.blocks():
        fragments = (f"fragments-{token}", *block.index)
        tasks[(name, *block.index)] = (Finish(block, cut.shape), fragments, merged)
    return lazy_array(name, tasks, collections, cut, LABELS)


def _whole(array: Any) -> Any:
    return array[...]


def _sizes(blocks: Mapping[Any, Any]) -> tuple[tuple[int, ...], ...]:
    """Lengths of blocks along each axis, halo included."""
    if not blocks:
        raise ConfigError("there are no blocks to merge.")
    counts = [max(index[axis] for index in blocks) + 1 for axis in range(3)]
    lengths: list[dict[int, int]] = [{}, {}, {}]
    for index in np.ndindex(*counts):
        if index not in blocks:
            raise ConfigError(f"block {index} of {tuple(counts)} is missing. Give every block.")
        shape = tuple(blocks[index].shape)
        if len(shape) != 3:
            raise ConfigError(f"block {index} has shape {shape}, not (z, y, x).")
        for axis, (place, length) in enumerate(zip(index, shape, strict=True)):
            if lengths[axis].setdefault(place, length) != length:
                raise ConfigError(
                    f"block {index} has shape {shape}; others of its place along {'zyx'[axis]} "
                    f"are {lengths[axis][place]} long."
                )
    return tuple(tuple(axis[n] for n in range(len(axis))) for axis in lengths)


def _cut(sizes: tuple[tuple[int, ...], ...], halo: Triple) -> Cut:
    """The blocks without their halos."""
    found = []
    for name, axis, h in zip("zyx", sizes, halo, strict=True):
        last = len(axis) - 1
        own = tuple(n - h * ((i > 0) + (i < last)) for i, n in enumerate(axis))
        if min(own) < max(1, h if last else 0):
            raise ConfigError(
                f"blocks of {axis} voxels along {name} are too thin for a halo of {h} on each "
                f"side that has a neighbour: {own} are left, which must be no less than the halo."
            )
        found.append(own)
    z, y, x = found
    return Cut((z, y, x))


def _tasks(
    cut: Cut, halo: Triple, threshold: float, keys: Mapping[Triple, Any], token: str
) -> tuple[dict[Key, Any], list[Key]]:
    """Fragments, records and overlaps, and the keys that the merge is given."""
    tasks: dict[Key, Any] = {}
    joined: list[Key] = []
    for block in cut.blocks():
        fragments = (f"fragments-{token}", *block.index)
        record = (f"record-{token}", *block.index)
        reach = _reach(block, halo, cut.shape)
        tasks[fragments] = (Kept(block, reach, cut.shape), keys[block.index])
        tasks[record] = (record_of, fragments)
        after = list(cut.neighbours_after(block, 3))
        others = [(f"record-{token}", *index) for _, index in after]
        beside = tuple(
            (offset, cut.number(index), _reach(cut.block(index), halo, cut.shape))
            for offset, index in after
        )
        joined.append((f"overlaps-{token}", *block.index))
        tasks[joined[-1]] = (Overlapping(reach, beside, threshold), record, *others)
    return tasks, joined


def _reach(block: Block, halo: Triple, shape: Triple) -> Reach:
    return Reach(block.write_region, block.write_region.expand(halo, shape), halo)


@dataclass(frozen=True)
class Kept:
    """A block's own fragments, and what it found in the zones shared with neighbours."""

    block: Block
    reach: Reach
    shape: Triple

    def __call__(self, found: Any) -> tuple[Runs, Record]:
        """From the labels of the block with its halo."""
        read = self.reach.read
        given = checked_labels(found, read.shape, f"block {self.block.index} holds")
        write = self.block.write_region
        labels, first = seen(given, write.within(read))
        names = names_of_first_voxels(first, write, self.shape)
        own = np.ascontiguousarray(labels[write.within(read).slices])
        sizes = sizes_of(own, names.size)
        return runs_of(own), Record(names, sizes, faces=dict(self.reach.sides(labels)))


@dataclass(frozen=True)
class Overlapping:
    """A block's record with its overlaps in place of its zones.

    Attributes
    ----------
    beside : tuple of (offset, block number, reach)
        Of the neighbours whose records are given.
    """

    reach: Reach
    beside: tuple[tuple[Triple, int, Reach], ...]
    threshold: float

    def __call__(self, record: Record, *others: Record) -> Record:
        """From the block's record and its neighbours'."""
        found = [np.empty((0, 3), np.int64)]
        for (offset, number, reach), other in zip(self.beside, others, strict=True):
            assert record.faces is not None
            assert other.faces is not None
            z, y, x = (-o for o in offset)
            own = self.reach.shared(record.faces[side_key(offset)], offset)
            theirs = reach.shared(other.faces[side_key((z, y, x))], (z, y, x))
            pairs = overlaps(own, theirs, self.threshold).pairs
            # labels of a halo alone unite nothing
            written = (pairs <= (record.names.size, other.names.size)).all(axis=1)
            found.append(np.insert(pairs[written].astype(np.int64), 1, number, axis=1))
        return record._replace(faces=None, pairs=np.concatenate(found))
