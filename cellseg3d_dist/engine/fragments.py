"""Fragments on disk: block-local labels, their names and sizes, and each block's faces.

A block is labelled in a first pass and may be redone or settled in later ones. Each pass
writes its own records, so that what an earlier pass wrote and journalled
stays as it was; a small table says which pass holds a block's final fragments.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.records import read_record, record_digest, record_path, write_record
from cellseg3d_dist.grid import Block, BlockGrid
from cellseg3d_dist.instances.sizes import sizes_of
from cellseg3d_dist.merging.contacts import Faces, faces_of

Pass = Literal["label", "redo", "settled"]
PASSES: tuple[Pass, ...] = ("label", "redo", "settled")
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Fragments:
    """The fragments of one run, in ``work/``."""

    folder: Path
    grid: BlockGrid

    def write(
        self,
        which: Pass,
        block: Block,
        labels: npt.NDArray[np.uint32],
        names: npt.NDArray[np.uint64],
        arrival: npt.NDArray[Any] | None = None,
        sizes: npt.NDArray[np.int64] | None = None,
    ) -> dict[str, Any]:
        """Write a block's fragments 1..m, their names and its faces; its record.

        ``arrival`` (of a flood) is kept on the faces, for neighbours that are open.
        ``sizes`` are what limits of whole objects are about, by default their voxels.
        """
        faces: Faces = faces_of(labels)
        if arrival is not None:
            faces |= {f"arrival_{key}": plane for key, plane in faces_of(arrival).items()}
        if sizes is None:
            sizes = sizes_of(labels, names.size)
        written = {
            "labels": write_record(self._path("labels", which, block), labels=labels),
            "objects": write_record(self._path("objects", which, block), names=names, sizes=sizes),
            "faces": write_record(self._path("faces", which, block), **faces),
        }
        return {"fragments": int(names.size), "digests": written}

    def intact(self, which: Pass, block: Block, record: dict[str, Any]) -> bool:
        """Whether all that a block wrote is there unchanged."""
        return all(
            record_digest(self._path(part, which, block)) == digest
            for part, digest in record["digests"].items()
        )

    def set_passes(self, passes: npt.NDArray[np.uint8]) -> None:
        """Say which pass holds each block: 0 none, else 1 + its index in ``PASSES``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / "passes.partial.npy"
        np.save(partial, passes)
        partial.replace(self.folder / "passes.npy")

    def pass_of(self, block: Block) -> Pass | None:
        """The pass that holds a block's final fragments, None where it has none."""
        path = self.folder / "passes.npy"
        found = int(_passes(str(path), path.stat().st_mtime_ns)[block.number])
        return PASSES[found - 1] if found else None

    def read(self, block: Block) -> npt.NDArray[np.uint32] | None:
        """A block's fragments; None where it was skipped or failed."""
        which = self.pass_of(block)
        if which is None:
            return None
        found: npt.NDArray[np.uint32] = read_record(self._path("labels", which, block))["labels"]
        return found

    def objects(self, block: Block) -> Arrays | None:
        """Names and sizes of a block's fragments."""
        which = self.pass_of(block)
        return None if which is None else read_record(self._path("objects", which, block))

    def faces(self, block: Block) -> Arrays | None:
        """Labels, and arrivals of a flood, on a block's faces."""
        which = self.pass_of(block)
        return None if which is None else read_record(self._path("faces", which, block))

    def _path(self, part: str, which: Pass, block: Block) -> Path:
        return record_path(self.folder / f"{part}-{which}", block)


@functools.lru_cache(maxsize=4)
def _passes(path: str, changed: int) -> npt.NDArray[np.uint8]:
    passes: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return passes
