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
from cellseg3d_dist.measuring.centroids import CoordinateSums
from cellseg3d_dist.metrics.boxes import BoundingBoxes, bounding_boxes
from cellseg3d_dist.metrics.contingency import ContingencyTable, contingency
from cellseg3d_dist.volumes import StoredArray, Volume

#: Which labels a table is of: both sides, or one side and the anatomical regions.
KINDS = ("pairs", "true_regions", "pred_regions")
_SIDES = {
    "pairs": ("labels_true", "labels_pred"),
    "true_regions": ("labels_true", "regions"),
    "pred_regions": ("labels_pred", "regions"),
}


@dataclass(frozen=True)
class Totals:
    """What was counted of a whole volume.

    Attributes
    ----------
    tables : dict
        By :data:`KINDS`.
    measures : dict
        Coordinate sums of ``"true"`` and ``"pred"`` labels, where they were wanted.
    boxes : BoundingBoxes or None
        Of true labels, where they were.
    """

    tables: dict[str, ContingencyTable]
    measures: dict[str, CoordinateSums]
    boxes: BoundingBoxes | None = None


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
    labels_true : Volume or None
        None where truth is a list of points, and only predicted labels are measured.
    digest : str
        Of everything that is read.
    regions : MaskInput or None
        Anatomical regions, as labels.
    measured : bool
        Whether the centroids of labels are wanted too.
    boxed : bool
        Whether the bounding boxes of true labels are.
    """

    labels_true: Volume | None
    labels_pred: Volume | StoredArray
    digest: str
    counted: Counted = field(default_factory=Counted)
    regions: MaskInput | None = None
    measured: bool = False
    boxed: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """What tables there are."""
        if self.labels_true is None:
            return ()
        return KINDS if self.regions is not None else KINDS[:1]

    @property
    def sides(self) -> tuple[str, ...]:
        """Whose labels are measured."""
        if not self.measured:
            return ()
        return ("pred",) if self.labels_true is None else ("true", "pred")

    def count(self, region: Region) -> dict[str, npt.NDArray[Any]]:
        """Columns of all tables of a region, and of its labels' measures.

        Raises
        ------
        LabelsError
            If a label is negative.
        """
        region = self.counted.part_of(region)
        images = {"labels_pred": self.labels_pred.read(region)}
        if self.labels_true is not None:
            images["labels_true"] = self.labels_true.read(region)
        first = images.get("labels_true", images["labels_pred"])
        within = None if region.is_empty else self.counted.within(region, first)
        if self.regions is not None and self.labels_true is not None:
            images["regions"] = first if region.is_empty else self.regions.values(region)
        picked = {
            name: image if within is None else image[within] for name, image in images.items()
        }
        for name, labels in picked.items():
            _check(name, self._source(name), labels)
        found: dict[str, npt.NDArray[Any]] = {}
        for kind in self.kinds:
            one, other = _SIDES[kind]
            columns = contingency(picked[one], picked[other]).to_arrays()
            found |= {f"{kind}.{name}": column for name, column in columns.items()}
        for side in self.sides:
            labels = images[f"labels_{side}"]
            inside = labels if within is None else np.where(within, labels, 0)
            measures = vars(CoordinateSums.of(inside, region.start))
            found |= {f"{side}.{name}": column for name, column in measures.items()}
        if self.boxed:
            true = images["labels_true"]
            inside = true if within is None else np.where(within, true, 0)
            columns = vars(bounding_boxes(inside, region.start))
            found |= {f"boxes.{name}": column for name, column in columns.items()}
        return found

    def counted_pred(self, region: Region) -> tuple[Region, npt.NDArray[Any]]:
        """Predicted labels of the part of a region that may be counted, 0 where it is not."""
        region = self.counted.part_of(region)
        pred = self.labels_pred.read(region)
        true = pred if self.labels_true is None else self.labels_true.read(region)
        within = None if region.is_empty else self.counted.within(region, true)
        return region, pred if within is None else np.where(within, pred, 0)

    def _source(self, name: str) -> Volume | StoredArray:
        if name == "regions":
            assert self.regions is not None
            return self.regions.volume
        found = getattr(self, name)
        assert isinstance(found, Volume | StoredArray)
        return found

    def decides(self) -> BlockRecord:
        """Everything that decides the tables."""
        wanted = {"measured": self.measured, "boxed": self.boxed}
        return {"read": self.digest, **wanted, **self.counted.decides()}


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
        arrays = self.pairs[which].count(own.write_region)
        return {"digest": write_record(self._path(block.number), **arrays)}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's table is intact."""
        return bool(record_digest(self._path(block.number)) == record["digest"])

    def _path(self, number: int) -> Path:
        which, own = self.grid.locate(number)
        return record_path(self.folder / self.name / str(which), own)

    def totals(self, records: Iterable[BlockRecord]) -> list[Totals]:
        """What each pair's whole volume has."""
        numbers: list[list[int]] = [[] for _ in self.pairs]
        for record in records:
            numbers[self.grid.locate(record["block"])[0]].append(record["block"])
        return [
            Totals(
                {
                    kind: ContingencyTable.merge(
                        ContingencyTable.from_arrays(part) for part in self._parts(kind, own)
                    )
                    for kind in pair.kinds
                },
                {
                    side: CoordinateSums.merge(
                        CoordinateSums(**part) for part in self._parts(side, own)
                    )
                    for side in pair.sides
                },
                BoundingBoxes.merge(BoundingBoxes(**part) for part in self._parts("boxes", own))
                if pair.boxed
                else None,
            )
            for pair, own in zip(self.pairs, numbers, strict=True)
        ]

    def _parts(self, kind: str, numbers: Iterable[int]) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """Columns of one kind that the blocks wrote."""
        for number in sorted(numbers):
            arrays = read_record(self._path(number))
            yield {
                key.removeprefix(f"{kind}."): array
                for key, array in arrays.items()
                if key.startswith(f"{kind}.")
            }
