"""Fronts on disk: the (arrival, name) of every voxel of an open block, round by round.

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
from cellseg3d_dist.instances.exchange import Front, Shown
from cellseg3d_dist.instances.growth import Growth, Levels, never
from cellseg3d_dist.instances.voronoi import FloodedBlock
from cellseg3d_dist.merging.contacts import Faces, faces_of, side_of


@dataclass(frozen=True)
class Fronts:
    """The fronts of one labelling, in ``work``.

    Attributes
    ----------
    growth : Growth
        How labels grow.
    upstream : str
        Digest of which blocks are open; rounds of another set of blocks are not read.
    """

    folder: Path
    fragments: Fragments
    growth: Growth
    upstream: str = ""

    def begin(self, block: Block, found: FloodedBlock) -> str:
        """Write round 0 of a block, its open voxels and their landscape; the digest."""
        landscape = {} if found.levels is None else {"levels": found.levels}
        write_record(self._fixed(block), is_open=found.is_open, **landscape)
        return self.write(block, 0, Front(found.labels, found.names, found.known_arrival))

    def write(self, block: Block, round_number: int, front: Front) -> str:
        """Write a round of a block: all its voxels, and its faces apart for neighbours."""
        shown = _shown(faces_of(front.labels), faces_of(front.arrival), front.names)
        write_record(self._file(block, round_number, "faces"), **shown)
        return write_record(self._file(block, round_number, "all"), **vars(front))

    def intact(self, block: Block, round_number: int, digest: str) -> bool:
        """Whether a round of a block is there unchanged."""
        return (
            record_digest(self._file(block, round_number, "all")) == digest
            and record_digest(self._file(block, round_number, "faces")) is not None
            and record_digest(self._fixed(block)) is not None
        )

    def fixed(self, block: Block) -> tuple[npt.NDArray[np.bool_], Levels]:
        """A block's open voxels, and the landscape where there is one."""
        found = read_record(self._fixed(block))
        return found["is_open"], found.get("levels")

    def before(self, block: Block, round_number: int) -> Front:
        """A block's state before a round."""
        return Front(**read_record(self._file(block, self._newest(block, round_number), "all")))

    def shown(self, block: Block, offset: Triple, round_number: int) -> Shown:
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
            nothing = np.zeros(block.write_region.shape, np.uint32)
            dtype = self.growth.arrival
            unreached = np.full(block.write_region.shape, never(dtype), dtype)
            return _shown(faces_of(nothing), faces_of(unreached), np.empty(0, np.uint64))
        arrival = {key.removeprefix("arrival_"): a for key, a in faces.items() if "_" in key}
        labels = {key: plane for key, plane in faces.items() if "_" not in key}
        return _shown(labels, arrival, objects["names"])

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


def _shown(
    labels: Faces, arrival: Faces, names: npt.NDArray[np.uint64]
) -> dict[str, npt.NDArray[Any]]:
    """Faces with names in place of labels, and arrivals."""
    table = np.append(np.zeros(1, np.uint64), names)
    named = {f"names_{key}": table[plane] for key, plane in labels.items()}
    return named | {f"arrival_{key}": plane for key, plane in arrival.items()}
