"""Stages of a clean-up: what steps read and write of each block.

Labels are read through the lookup of the step before, so every rule sees whole cells.
Steps that move outlines write new fragments, named by the ids of their cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.config.clean_up import Closing, Smooth
from cellseg3d_dist.engine.cells import Ids, Labels, StoredCells
from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.records import read_record, record_digest, record_path, write_record
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.engine.tables import table
from cellseg3d_dist.grid import Block, Region
from cellseg3d_dist.instances.clean_up.chain import reshaping
from cellseg3d_dist.instances.clean_up.filtering import Face
from cellseg3d_dist.instances.clean_up.holes import OPEN, enclosing
from cellseg3d_dist.instances.clean_up.touching import Borders, borders
from cellseg3d_dist.instances.components import (
    components,
    components_of_labels,
    names_of_first_voxels,
)
from cellseg3d_dist.instances.sizes import sizes_of


@dataclass(frozen=True)
class Records:
    """Small arrays of each block in a folder of their own."""

    folder: Path

    def write(self, block: Block, **arrays: npt.NDArray[Any]) -> str:
        """Write a block's arrays; their digest."""
        return write_record(record_path(self.folder, block), **arrays)

    def read(self, block: Block) -> dict[str, npt.NDArray[Any]]:
        """A block's arrays."""
        return read_record(record_path(self.folder, block))

    def intact(self, block: Block, digest: str) -> bool:
        """Whether they are there unchanged."""
        return record_digest(record_path(self.folder, block)) == digest


@dataclass(frozen=True)
class _OnCells:
    """What stages of a clean-up share."""

    cells: StoredCells
    name: str

    def decides(self) -> BlockRecord:
        """Block shape and the cells before; parameters are in the configuration."""
        return {
            "block_shape": list(self.cells.fragments.grid.block_shape),
            "cells": self.cells.key,
        }


@dataclass(frozen=True)
class _WithFragments(_OnCells):
    """A stage that writes new fragments, each named by the id of its cell."""

    fragments: Fragments
    image: ImageInput

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's fragments are intact."""
        return self.fragments.intact("label", block, record)

    def _write(self, block: Block, labels: Labels, ids: Ids) -> BlockRecord:
        """Write labels, of which 0 is background and i the cell ``ids[i - 1]``."""
        within = self.image.within(block.write_region)
        if within is not None:
            labels = labels * within
        there = np.flatnonzero(sizes_of(labels, ids.size))
        places = np.zeros(ids.size + 1, np.uint32)
        places[there + 1] = np.arange(1, there.size + 1)
        return self.fragments.write("label", block, places[labels], ids[there].astype(np.uint64))


@dataclass(frozen=True)
class Reshape(_WithFragments):
    """Closing or smoothing: outlines move, by rules that look no farther than a halo."""

    step: Closing | Smooth

    def run(self, block: Block) -> BlockRecord:
        """Reshape the cells of one block."""
        how = reshaping(self.step, self.image.volume.voxel_size)
        region = self.cells.fragments.grid.read_region(block, how.halo)
        labels, ids = self.cells.read(region)
        if labels.any():
            labels = how.of(labels, region, self.cells.fragments.grid.shape)
        inner = block.write_region.within(region).slices
        return self._write(block, np.ascontiguousarray(labels[inner]), ids)


@dataclass(frozen=True)
class FindHoles(_OnCells):
    """Components of the background of each block, and the cell that each touches.

    Attributes
    ----------
    holes : Fragments
        The components.
    owners : Records
        ``owners``: id of the only cell that touches a component, or 0 or ``OPEN``.
    known : Path
        Folder of ``outside-KEY.npy``: blocks that are background, or nothing is known of,
        and that are connected to the volume's faces by such.
    key : str
    """

    holes: Fragments
    owners: Records
    known: Path
    key: str

    def decides(self) -> BlockRecord:
        """Also which blocks lie outside."""
        return super().decides() | {"outside": self.key}

    def run(self, block: Block) -> BlockRecord:
        """Find the background's components in one block."""
        around, ids = self.cells.around(block)
        outside, grid = table(self.known, f"outside-{self.key}"), self.holes.grid
        for offset, neighbour in grid.neighbours(block):
            if sum(map(abs, offset)) == 1 and outside[neighbour.number]:
                index = [slice(1, -1) if o == 0 else slice(-1, None) if o > 0 else slice(0, 1)
                         for o in offset]  # fmt: skip
                around[tuple(index)] = OPEN
        found, first = components(around[1:-1, 1:-1, 1:-1] == 0, 6)
        owners = enclosing(found, first.size, around).astype(np.int64)
        owners[owners > 0] = ids[owners[owners > 0] - 1]
        names = names_of_first_voxels(first, block.write_region, grid.shape)
        record = self.holes.write("label", block, found, names)
        return record | {"owners": self.owners.write(block, owners=owners)}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's components are intact."""
        intact = self.holes.intact("label", block, record)
        return intact and self.owners.intact(block, record["owners"])


@dataclass(frozen=True)
class FillHoles(_WithFragments):
    """Holes become part of the cell around them.

    Attributes
    ----------
    fillers : Path
        Folder with ``filler.npy`` (the cell that fills each component, 0 for none) and
        ``offsets.npy``.
    key : str
        Digest of both.
    """

    holes: Fragments
    fillers: Path
    key: str

    def decides(self) -> BlockRecord:
        """Also what is filled."""
        return super().decides() | {"fillers": self.key}

    def run(self, block: Block) -> BlockRecord:
        """Fill the holes of one block."""
        labels, ids = self.cells.read(block.write_region)
        holes = self.holes.read(block)
        filler, offsets = table(self.fillers, "filler"), table(self.fillers, "offsets")
        own = np.asarray(filler[offsets[block.number] : offsets[block.number + 1]], np.int64)
        if holes is not None and own.any():
            # a hole may be filled by a cell of which this block has nothing else
            all_ids = np.unique(np.concatenate((ids, own[own > 0])))
            labels = np.append(0, np.searchsorted(all_ids, ids) + 1).astype(np.int32)[labels]
            filling = np.where(own > 0, np.searchsorted(all_ids, own) + 1, 0)
            labels += np.append(0, filling).astype(np.int32)[holes]
            ids = all_ids
        return self._write(block, labels, ids)


@dataclass(frozen=True)
class SplitCells(_OnCells):
    """Connected components of the cells of each block.

    Attributes
    ----------
    owners : Records
        ``owners``: id of the cell that each component is part of.
    """

    fragments: Fragments
    owners: Records
    connectivity: int

    def run(self, block: Block) -> BlockRecord:
        """Split the cells of one block."""
        labels, ids = self.cells.read(block.write_region)
        found, first = components_of_labels(labels, self.connectivity)
        names = names_of_first_voxels(first, block.write_region, self.fragments.grid.shape)
        record = self.fragments.write("label", block, found, names)
        owners = ids[labels.reshape(-1)[first] - 1]
        return record | {"owners": self.owners.write(block, owners=owners)}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's components are intact."""
        intact = self.fragments.intact("label", block, record)
        return intact and self.owners.intact(block, record["owners"])


@dataclass(frozen=True)
class _WithRecords(_OnCells):
    """A stage that writes small records alone."""

    records: Records

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's record is intact."""
        return self.records.intact(block, record["digest"])


@dataclass(frozen=True)
class SumBorders(_WithRecords):
    """Sums of intensities on the borders between cells.

    Attributes
    ----------
    source : ImageInput
        What is summed.
    scale : float
        See :func:`cellseg3d_dist.instances.clean_up.touching.quantising_scale`.
    """

    source: ImageInput
    scale: float

    def decides(self) -> BlockRecord:
        """Also how intensities are summed."""
        return super().decides() | {"scale": self.scale}

    def run(self, block: Block) -> BlockRecord:
        """Sum the borders whose first voxels are in one block."""
        around, ids = self.cells.around(block)
        write = block.write_region
        z, y, x = (min(b + 1, n) for b, n in zip(write.stop, self._shape, strict=True))
        region = Region(write.start, (z, y, x))
        nz, ny, nx = region.shape
        labels = np.ascontiguousarray(around[1 : 1 + nz, 1 : 1 + ny, 1 : 1 + nx])
        # edges and corners beyond the block, which no pair needs
        np.maximum(labels, 0, out=labels)
        found = borders(labels, ids, self.source.read(region), self.scale, write.shape)
        digest = self.records.write(block, **vars(found))
        return {"digest": digest, "borders": len(found.pairs)}

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.cells.fragments.grid.shape

    def borders(self, block: Block) -> Borders:
        """The borders that a block found."""
        return Borders(**self.records.read(block))


@dataclass(frozen=True)
class FindOnFaces(_WithRecords):
    """Cells of a block that touch the volume's faces across some axes."""

    faces: tuple[Face, ...]

    def run(self, block: Block) -> BlockRecord:
        """Find the cells of one block."""
        planes = self.cells.fragments.faces(block)
        ids = self.cells.ids_of(block)
        found = [np.empty(0, np.int64)]
        for face in self.faces:
            if planes is not None and on_face(block, face, self.cells.fragments.grid.shape):
                plane = np.unique(planes[f"{'zyx'[face[0]]}{-face[1]}"])
                found.append(ids[plane[plane > 0].astype(np.int64) - 1])
        cells = np.unique(np.concatenate(found))
        return {"digest": self.records.write(block, ids=cells[cells > 0])}


def on_face(block: Block, face: Face, shape: tuple[int, int, int]) -> bool:
    """Whether a block has voxels at a face of the volume."""
    axis, end = face
    write = block.write_region
    return write.stop[axis] == shape[axis] if end else write.start[axis] == 0
