"""What each block does for :func:`~cellseg3d_dist.arrays.labelling.label`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.arrays.settling import Front, front_of
from cellseg3d_dist.arrays.sources import Array, Reader
from cellseg3d_dist.grid import Block, Triple
from cellseg3d_dist.instances.components import REACH, components, names_of_first_voxels
from cellseg3d_dist.instances.voronoi import VoronoiSpec, compact, voronoi_otsu_block
from cellseg3d_dist.merging.contacts import Faces, contacts, faces_of, side_of

Indices = npt.NDArray[np.int64]

#: Type of final labels.
LABELS = np.dtype(np.uint32)


class Runs(NamedTuple):
    """An array as its runs of equal values in raster order, 12 bytes each."""

    values: npt.NDArray[np.uint32]
    lengths: Indices


class Record(NamedTuple):
    """What the merge is told of a block's fragments, in the order of their labels.

    Of a flood with its front; of components first with faces, and then with contacts
    (own label, number of the other block, its label) in their place.
    """

    names: npt.NDArray[np.uint64]
    sizes: Indices
    front: Front | None = None
    faces: Faces | None = None
    pairs: Indices | None = None


class Lookup(NamedTuple):
    """What the merge tells the blocks: final ids of fragments, and of open voxels."""

    final: npt.NDArray[np.uint32]
    offsets: Indices
    open_voxels: Indices
    open_final: npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Flood:
    """Voronoi-Otsu in one block: fragments by name, and what its halo leaves open."""

    reader: Reader
    block: Block
    shape: Triple
    spec: VoronoiSpec
    halo: Triple

    def __call__(self, threshold: Any, *pieces: Array) -> tuple[Runs, Record]:
        """From the threshold and the image's pieces."""
        region = self.block.write_region
        around = region.expand((1, 1, 1), self.shape)
        flood_region = region.expand(self.halo, self.shape)
        found = voronoi_otsu_block(
            self.reader(*pieces),
            flood_region.expand(self.spec.filter_halo, self.shape),
            flood_region,
            around,
            self.shape,
            replace(self.spec, threshold=float(threshold)),
        )
        own = found.labels[region.within(around).slices]
        labels, names = compact(np.ascontiguousarray(own).view(np.int32), found.names)
        front = front_of(found, around, region, self.shape, min(self.halo))
        return runs_of(labels), Record(names, _sizes(labels, names.size), front)


@dataclass(frozen=True)
class Components:
    """Connected components of one block's foreground, with its faces."""

    block: Block
    shape: Triple
    connectivity: int

    def __call__(self, smoothed: npt.NDArray[np.float32], threshold: Any) -> tuple[Runs, Record]:
        """From the smoothed block and the threshold."""
        labels, first = components(smoothed > np.float32(threshold), self.connectivity)
        names = names_of_first_voxels(first, self.block.write_region, self.shape)
        return runs_of(labels), Record(names, _sizes(labels, names.size), faces=faces_of(labels))


@dataclass(frozen=True)
class Contacts:
    """A block's record with its contacts in place of its faces.

    Attributes
    ----------
    sides : tuple of (offset, block number)
        Of the neighbours whose records are given.
    """

    sides: tuple[tuple[Triple, int], ...]
    connectivity: int

    def __call__(self, record: Record, *others: Record) -> Record:
        """From the block's record and its neighbours'."""
        found = [np.empty((0, 3), np.int64)]
        for (offset, number), other in zip(self.sides, others, strict=True):
            if record.faces is not None and other.faces is not None:
                z, y, x = (-o for o in offset)
                own, theirs = side_of(record.faces, offset), side_of(other.faces, (z, y, x))
                pairs = contacts(own, theirs, offset, REACH[self.connectivity])
                found.append(np.insert(pairs.astype(np.int64), 1, number, axis=1))
        return record._replace(faces=None, pairs=np.concatenate(found))


@dataclass(frozen=True)
class Finish:
    """The final labels of one block."""

    block: Block
    shape: Triple

    def __call__(
        self, fragments: tuple[Runs, Record], lookup: Lookup
    ) -> npt.NDArray[np.unsignedinteger]:
        """From the block's fragments and the merge."""
        runs, record = fragments
        table = np.zeros(record.names.size + 1, LABELS)
        start = lookup.offsets[self.block.number]
        table[1:] = lookup.final[start : start + record.names.size]
        region = self.block.write_region
        labels = np.repeat(table[runs.values], runs.lengths).reshape(region.shape)
        if record.front is not None and record.front.open_voxels.size:
            voxels = record.front.open_voxels
            where = np.unravel_index(voxels, self.shape)
            local = tuple(a - s for a, s in zip(where, region.start, strict=True))
            labels[local] = lookup.open_final[np.searchsorted(lookup.open_voxels, voxels)]
        return labels


def record_of(fragments: tuple[Runs, Record]) -> Record:
    """The part of a block's result that others need: no voxels."""
    return fragments[1]


def runs_of(labels: Array) -> Runs:
    """Runs of equal labels."""
    flat = labels.ravel()
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    return Runs(flat[starts], np.diff(starts, append=flat.size))


def _sizes(labels: npt.NDArray[np.uint32], n: int) -> Indices:
    return np.bincount(labels.ravel(), minlength=n + 1)[1:].astype(np.int64)
