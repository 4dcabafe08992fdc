"""Relabel: fragments become final labels, and each cell's partial statistics, in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.inputs import ImageInput, input_digest
from cellseg3d_dist.engine.records import (
    digest,
    read_record,
    record_digest,
    record_path,
    write_record,
)
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.engine.tables import table
from cellseg3d_dist.grid import Block
from cellseg3d_dist.measuring.partial import PartialCells, measure_fragments
from cellseg3d_dist.volumes import StoredArray


@dataclass(frozen=True)
class Relabel:
    """Labels and statistics of one block from its fragments and the merge.

    Attributes
    ----------
    lookup : Path
        Folder with ``final.npy`` (final id of every fragment of the volume) and
        ``offsets.npy`` (where each block's begin); a block reads its own slice.
    lookup_digest : str
        Of both, so that a changed merge starts the stage anew.
    scales : one float per channel
        From :func:`cellseg3d_dist.measuring.partial.intensity_scale`.
    """

    image: ImageInput
    fragments: Fragments
    labels: StoredArray
    folder: Path
    lookup: Path
    lookup_digest: str
    scales: tuple[float, ...]
    name: str = "relabel"

    def decides(self) -> BlockRecord:
        """Block shape, the merge, and how intensities are summed."""
        return {
            "block_shape": list(self.fragments.grid.block_shape),
            "lookup": self.lookup_digest,
            "scales": list(self.scales),
        }

    def run(self, block: Block) -> BlockRecord:
        """Relabel and measure one block."""
        fragments = self.fragments.read(block)
        if fragments is None:
            raise FileNotFoundError(f"{block} has no fragments")
        # read before anything is written: a block that fails is 0 in the labels
        channels = [
            self.image.read(block.write_region, channel) for channel in range(len(self.scales))
        ]
        final = self._final(block)
        labels = _looked_up(fragments, final, self.labels.dtype)
        self.labels.write(block.write_region, labels)
        measured = measure_fragments(
            fragments, final.size, channels, block.write_region.start, self.scales
        )
        cells = measured.relabelled(final)
        path = record_path(self.folder / "cells", block)
        return {
            "digest": digest(labels),
            "cells": write_record(path, **cells.to_arrays()),
            "first": int(cells.label[0]) if cells.n_rows else 0,
            "last": int(cells.label[-1]) if cells.n_rows else 0,
            # the survey knows one channel
            "input": input_digest(channels, self.image.within(block.write_region))
            if len(channels) > 1
            else None,
        }

    def _final(self, block: Block) -> npt.NDArray[np.unsignedinteger]:
        # mapped: of tables of the whole volume only this block's part is read
        final, offsets = table(self.lookup, "final"), table(self.lookup, "offsets")
        return np.array(final[offsets[block.number] : offsets[block.number + 1]])

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's labels and statistics are intact."""
        path = record_path(self.folder / "cells", block)
        return bool(
            record_digest(path) == record["cells"]
            and digest(self.labels.read(block.write_region)) == record["digest"]
        )

    def cells(self, block: Block) -> PartialCells:
        """A finished block's partial statistics."""
        return PartialCells.from_arrays(read_record(record_path(self.folder / "cells", block)))


def _looked_up(
    fragments: npt.NDArray[np.uint32],
    final: npt.NDArray[np.unsignedinteger],
    dtype: np.dtype[np.unsignedinteger],
) -> npt.NDArray[np.unsignedinteger]:
    table = np.zeros(final.size + 1, dtype)
    table[1:] = final
    labels = np.empty(fragments.shape, dtype)
    _take(fragments.reshape(-1), table, labels.reshape(-1))
    return labels


@numba.njit(cache=True, nogil=True)
def _take(fragments, table, labels):  # type: ignore[no-untyped-def]
    for i in range(fragments.size):
        labels[i] = table[fragments[i]]
