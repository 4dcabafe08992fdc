"""Fronts on disk: the (arrival step, name) of every voxel of an open block, round by round.

Round 0 is what the last flood left, round r what the exchange's round r made of it. A
block has a file only for rounds that changed it, so the newest file of an earlier round
is its state. Within a round only files of earlier, complete rounds are read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.records import read_record, record_digest, record_path, write_record
from cellseg3d_dist.grid import Block, Triple
from cellseg3d_dist.instances.flood import UNREACHED
from cellseg3d_dist.instances.voronoi import FloodedBlock
from cellseg3d_dist.merging.contacts import faces_of, side_of

Names = npt.NDArray[np.uint64]
Arrival = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Fronts:
    """The fronts of one labelling, in ``work``.

    Attributes
    ----------
    upstream : str
        Digest of which blocks are open; rounds of another set of blocks are not read.
    """

    folder: Path
    fragments: Fragments
    upstream: str = ""

    def begin(self, block: Block, found: FloodedBlock) -> str:
        """Write round 0 of a block with its mask and open voxels; the digest."""
        names = np.concatenate((np.zeros(1, np.uint64), found.names))[found.labels]
        arrival = np.where(found.is_open, UNREACHED, found.arrival).astype(np.int32)
        write_record(self._fixed(block), mask=found.mask, is_open=found.is_open)
        return self.write(block, 0, names, arrival)

    def write(self, block: Block, round_number: int, names: Names, arrival: Arrival) -> str:
        """Write a round of a block: all its voxels, and its faces apart for neighbours."""
        write_record(self._file(block, round_number, "faces"), **_shown(names, arrival))
        return write_record(self._file(block, round_number, "all"), names=names, arrival=arrival)

    def intact(self, block: Block, round_number: int, digest: str) -> bool:
        """Whether a round of a block is there unchanged."""
        return (
            record_digest(self._file(block, round_number, "all")) == digest
            and record_digest(self._file(block, round_number, "faces")) is not None
            and record_digest(self._fixed(block)) is not None
        )

    def fixed(self, block: Block) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """A block's mask and its open voxels."""
        arrays = read_record(self._fixed(block))
        return arrays["mask"], arrays["is_open"]

    def before(self, block: Block, round_number: int) -> tuple[Names, Arrival]:
        """A block's state before a round."""
        arrays = read_record(self._file(block, self._newest(block, round_number), "all"))
        return arrays["names"], arrays["arrival"]

    def shown(self, block: Block, offset: Triple, round_number: int) -> tuple[Names, Arrival]:
        """What a block, open or not, shows towards ``offset`` before a round."""
        newest = self._newest(block, round_number)
        if newest >= 0:
            arrays = read_record(self._file(block, newest, "faces"))
        else:
            arrays = self._closed_faces(block)
        names = {key.removeprefix("names_"): a for key, a in arrays.items() if "names_" in key}
        arrival = {
            key.removeprefix("arrival_"): a for key, a in arrays.items() if "arrival_" in key
        }
        return side_of(names, offset), side_of(arrival, offset)

    def _closed_faces(self, block: Block) -> dict[str, npt.NDArray[Any]]:
        faces, objects = self.fragments.faces(block), self.fragments.objects(block)
        if faces is None or objects is None:
            shape = block.write_region.shape
            nothing = np.zeros(shape, np.uint64)
            return _shown(nothing, np.full(shape, UNREACHED, np.int32))
        table = np.concatenate((np.zeros(1, np.uint64), objects["names"]))
        named = {f"names_{key}": table[plane] for key, plane in faces.items() if "_" not in key}
        return named | {key: plane for key, plane in faces.items() if "_" in key}

    def _newest(self, block: Block, round_number: int) -> int:
        """The newest round before this one that wrote the block, -1 for none."""
        try:
            names = os.listdir(self._folder(block))  # noqa: PTH208 - names are all that is wanted
        except FileNotFoundError:
            return -1
        there = {f"{self._round(n)}.all.rec": n for n in range(round_number)}
        return max((there[name] for name in names if name in there), default=-1)

    def _file(self, block: Block, round_number: int, part: str) -> Path:
        return self._folder(block) / f"{self._round(round_number)}.{part}.rec"

    def _round(self, number: int) -> str:
        return f"{self.upstream}-{number}" if number else "begin"

    def _folder(self, block: Block) -> Path:
        return record_path(self.folder, block).with_suffix("")

    def _fixed(self, block: Block) -> Path:
        return self._folder(block) / "fixed.rec"


def _shown(names: Names, arrival: Arrival) -> dict[str, npt.NDArray[Any]]:
    planes = {f"names_{key}": plane for key, plane in faces_of(names).items()}
    return planes | {f"arrival_{key}": plane for key, plane in faces_of(arrival).items()}
