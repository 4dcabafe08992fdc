"""Score: contingency tables of true and predicted labels, block by block, of any pairs of images.

A block reads both label images once and writes how often each pair of labels meets. Where
anatomical regions are given it also writes how often labels of each side meet each region.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.inputs import MaskInput
from cellseg3d_dist.engine.records import read_record, record_digest, record_path, write_record
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.errors import LabelsError
from cellseg3d_dist.grid import Block, BlockGrid, JoinedGrids, Region, Selection
from cellseg3d_dist.metrics.contingency import ContingencyTable, contingency
from cellseg3d_dist.volumes import StoredArray, Volume

#: Which labels a table is of: both sides, or one side and the anatomical regions.
KINDS = ("pairs", "true_regions", "pred_regions")


@dataclass(frozen=True)
class Counted:
    """Which voxels of a volume are counted.

    Attributes
    ----------
    mask : MaskInput or None
        Those where it is not 0.
    boxes : tuple of Region
        Those in any of the boxes; none is the whole volume.
    ignore : int or None
        Not those of this true label.
    """

    mask: MaskInput | None = None
    boxes: tuple[Region, ...] = ()
    ignore: int | None = None

    def part_of(self, region: Region) -> Region:
        """The smallest box with all voxels of a region that may be counted."""
        if not self.boxes:
            return region
        parts = [part for box in self.boxes if not (part := region.intersect(box)).is_empty]
        if not parts:
            return Region(region.start, region.start)
        z, y, x = (min(part.start[axis] for part in parts) for axis in range(3))
        c, b, a = (max(part.stop[axis] for part in parts) for axis in range(3))
        return Region((z, y, x), (c, b, a))

    def within(self, region: Region, true: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
        """Where voxels of a region are counted; None is everywhere."""
        found: npt.NDArray[np.bool_] | None = None
        if self.boxes and not any(region.intersect(box) == region for box in self.boxes):
            found = np.zeros(region.shape, bool)
            for box in self.boxes:
                part = region.intersect(box)
                if not part.is_empty:
                    found[part.within(region).slices] = True
        if self.mask is not None:
            inside = self.mask.read(region)
            found = inside if found is None else found & inside
        if self.ignore is not None and true.dtype.kind in "ui":
            limits = np.iinfo(true.dtype)
            if limits.min <= self.ignore <= limits.max:
                kept = true != true.dtype.type(self.ignore)
                found = kept if found is None else found & kept
        return found

    def decides(self) -> BlockRecord:
        """As JSON; what the mask is belongs to what is read."""
        boxes = [[*box.start, *box.stop] for box in self.boxes]
        return {"boxes": boxes, "ignore": self.ignore}


@dataclass(frozen=True)
class LabelPair:
    """True and predicted labels of one volume, and what of them is counted.

    Attributes
    ----------
    digest : str
        Of everything that is read.
    regions : MaskInput or None
        Anatomical regions, as labels.
    """

    labels_true: Volume
    labels_pred: Volume | StoredArray
    digest: str
    counted: Counted = field(default_factory=Counted)
    regions: MaskInput | None = None

    def tables(self, region: Region) -> dict[str, ContingencyTable]:
        """Tables of a region.

        Raises
        ------
        LabelsError
            If a label is negative.
        """
        region = self.counted.part_of(region)
        true, pred = self.labels_true.read(region), self.labels_pred.read(region)
        within = None if region.is_empty else self.counted.within(region, true)
        if within is not None:
            true, pred = true[within], pred[within]
        _check("labels_true", self.labels_true, true)
        _check("labels_pred", self.labels_pred, pred)
        found = {"pairs": contingency(true, pred)}
        if self.regions is not None:
            where = true if region.is_empty else self.regions.values(region)
            where = where if within is None else where[within]
            _check("regions", self.regions.volume, where)
            found["true_regions"] = contingency(true, where)
            found["pred_regions"] = contingency(pred, where)
        return found

    def decides(self) -> BlockRecord:
        """Everything that decides the tables."""
        return {"read": self.digest, **self.counted.decides()}


def _check(name: str, source: Volume | StoredArray, labels: npt.NDArray[Any]) -> None:
    if labels.dtype.kind == "i" and labels.size and (least := int(labels.min())) < 0:
        where = source.location if isinstance(source, Volume) else source.path
        raise LabelsError(
            f"{name} {where} has the label {least}; labels must not be negative"
            + (f" (--ignore {least} leaves those voxels out)." if name == "labels_true" else ".")
        )


@dataclass(frozen=True)
class Score:
    """Per block: how often each pair of true and predicted label meets."""

    pairs: tuple[LabelPair, ...]
    grids: tuple[BlockGrid, ...]
    folder: Path
    name: str = "score"

    @property
    def grid(self) -> JoinedGrids:
        """Blocks of all pairs."""
        return JoinedGrids(self.grids)

    @property
    def blocks(self) -> Selection:
        """Blocks with voxels that may be counted."""
        chosen, first = [np.empty(0, np.int64)], 0
        for pair, grid in zip(self.pairs, self.grids, strict=True):
            numbers = np.arange(grid.n_blocks)
            if pair.counted.boxes:
                touched = {b.number for box in pair.counted.boxes for b in grid.overlapping(box)}
                numbers = np.array(sorted(touched), np.int64)
            chosen.append(first + numbers)
            first += grid.n_blocks
        return Selection(self.grid, np.concatenate(chosen))

    def decides(self) -> BlockRecord:
        """The labels on both sides, what is counted of them, and the block shapes."""
        return {
            "block_shapes": [list(grid.block_shape) for grid in self.grids],
            "pairs": [pair.decides() for pair in self.pairs],
        }

    def run(self, block: Block) -> BlockRecord:
        """Count one block."""
        which, own = self.grid.locate(block.number)
        tables = self.pairs[which].tables(own.write_region)
        arrays = {
            f"{kind}.{column}": array
            for kind, table in tables.items()
            for column, array in table.to_arrays().items()
        }
        return {"digest": write_record(self._path(block.number), **arrays)}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's table is intact."""
        return bool(record_digest(self._path(block.number)) == record["digest"])

    def _path(self, number: int) -> Path:
        which, own = self.grid.locate(number)
        return record_path(self.folder / self.name / str(which), own)

    def totals(self, records: Iterable[BlockRecord]) -> list[dict[str, ContingencyTable]]:
        """The tables of each pair's whole volume."""
        numbers: list[list[int]] = [[] for _ in self.pairs]
        for record in records:
            numbers[self.grid.locate(record["block"])[0]].append(record["block"])
        kinds = [KINDS if pair.regions is not None else KINDS[:1] for pair in self.pairs]
        return [
            {kind: ContingencyTable.merge(self._tables(kind, own)) for kind in wanted}
            for wanted, own in zip(kinds, numbers, strict=True)
        ]

    def _tables(self, kind: str, numbers: Iterable[int]) -> Iterator[ContingencyTable]:
        for number in sorted(numbers):
            arrays = read_record(self._path(number))
            yield ContingencyTable.from_arrays(
                {
                    key.removeprefix(f"{kind}."): array
                    for key, array in arrays.items()
                    if key.startswith(f"{kind}.")
                }
            )
