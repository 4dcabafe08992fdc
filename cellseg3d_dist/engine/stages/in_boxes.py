"""In boxes: voxels of each true label's partner in its bounding box, for the thesis score.

The second pass of :mod:`cellseg3d_dist.metrics.boxes`. The driver writes for each block the
boxes that reach into it; the block counts there, and counts of the blocks add up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.records import (
    digest,
    read_record,
    record_digest,
    record_path,
    write_record,
)
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.engine.stages.score import LabelPair, Totals
from cellseg3d_dist.grid import Block, BlockGrid, Selection
from cellseg3d_dist.metrics.boxes import BoundingBoxes, partners, voxels_in_boxes


@dataclass(frozen=True)
class InBoxes:
    """Per block: voxels of partners in the boxes that reach into it."""

    pair: LabelPair
    grid: BlockGrid
    folder: Path
    wanted: str
    name: str = "in-boxes"

    @classmethod
    def prepared(
        cls, pair: LabelPair, grid: BlockGrid, totals: Totals, folder: Path, name: str
    ) -> tuple[InBoxes, Selection]:
        """Write which boxes are looked into where; the stage, and the blocks that have any."""
        assert totals.boxes is not None
        boxes, partner = totals.boxes, partners(totals.tables["pairs"])
        box, number = _reached(boxes, partner, grid)
        order = np.lexsort((box, number))
        box, number = box[order], number[order]
        numbers, first = np.unique(number, return_index=True)
        stage = cls(pair, grid, folder, digest(boxes.start, boxes.stop, partner), name)
        last = np.append(first, len(box))[1:]
        for which, start, stop in zip(numbers, first, last, strict=True):
            rows = box[start:stop]
            write_record(
                stage._path("wanted", grid.block(int(which))),
                index=rows,
                start=boxes.start[rows],
                stop=boxes.stop[rows],
                partner=partner[rows],
            )
        return stage, Selection(grid, numbers)

    def _path(self, what: str, block: Block) -> Path:
        return record_path(self.folder / self.name / what, block)

    def decides(self) -> BlockRecord:
        """The pair, the boxes and the block shape."""
        shape = list(self.grid.block_shape)
        return {"wanted": self.wanted, "block_shape": shape, **self.pair.decides()}

    def run(self, block: Block) -> BlockRecord:
        """Count one block."""
        wanted = read_record(self._path("wanted", block))
        region, pred = self.pair.counted_pred(block.write_region)
        boxes = BoundingBoxes(np.empty(0, np.uint64), wanted["start"], wanted["stop"])
        counts = voxels_in_boxes(pred, boxes, wanted["partner"], region.start)
        path = self._path("found", block)
        return {"digest": write_record(path, index=wanted["index"], counts=counts)}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's counts are intact."""
        return bool(record_digest(self._path("found", block)) == record["digest"])

    def total(self, records: Iterable[BlockRecord], n_true: int) -> npt.NDArray[np.int64]:
        """The count of each true label."""
        total = np.zeros(n_true, np.int64)
        for record in records:
            found = read_record(self._path("found", self.grid.block(record["block"])))
            total[found["index"]] += found["counts"]
        return total


def _reached(
    boxes: BoundingBoxes, partner: npt.NDArray[np.uint64], grid: BlockGrid
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs of a box, by its position, and the number of a block that it reaches into."""
    block, (_, ny, nx) = np.asarray(grid.block_shape), grid.n_blocks_per_axis
    rows = np.flatnonzero(partner)
    low = boxes.start[rows] // block
    spans = (boxes.stop[rows] - 1) // block - low + 1
    n = spans.prod(1)
    which = np.repeat(np.arange(len(rows)), n)
    nth = np.arange(int(n.sum())) - np.repeat(np.cumsum(n) - n, n)
    _, along_y, along_x = spans[which].T
    index = np.stack([nth // (along_y * along_x), nth // along_x % along_y, nth % along_x], 1)
    z, y, x = (low[which] + index).T
    return rows[which], (z * ny + y) * nx + x
