"""The merge on the workers, in groups of consecutive blocks.

::

    inside   each group unites its own fragments to roots
    across   each group finds the other groups' roots that its roots have edges to
             (the driver unites these)
    cells    each group gives its roots the names of their cells
    rank     ranges of names, of all groups, are sorted
    final    each group's fragments get their cells' places in that order

A group is a block of a grid of its own, and so is a range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.block_records import contacts_in_parts, objects_in_parts
from cellseg3d_dist.engine.groups import Arrays, Groups, Numbers
from cellseg3d_dist.engine.records import (
    record_digest,
    write_record,
)
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.engine.tables import table
from cellseg3d_dist.grid import Block, Selection
from cellseg3d_dist.merging.across import Spanning, totals
from cellseg3d_dist.merging.contacts import unite_by_contact
from cellseg3d_dist.merging.names import owners_of, unite_by_name
from cellseg3d_dist.merging.union_find import roots, singletons

#: Names that a group tells the driver, to find ranges of about equally many.
_SAMPLE = 64


@dataclass(frozen=True)
class Inside:
    """Unite the fragments of a group; keep its roots and its edges to other groups."""

    groups: Groups
    name: str

    def decides(self) -> BlockRecord:
        """What was merged, and in which groups."""
        return self.groups.decides()

    def run(self, block: Block) -> BlockRecord:
        """Do one group."""
        own = _Own.read(self.groups, block.number)
        parent = singletons(own.names.size)
        found = own.by_name(parent) if self.groups.edges_from is None else own.by_contact(parent)
        top = roots(parent)
        is_root = top == np.arange(top.size)
        number = np.cumsum(is_root) - 1
        root = number[top].astype(np.uint32)
        smallest, total = totals(top, own.names, own.sizes)
        names = smallest[is_root]
        near, far_block, far_label, orphans = found
        order = np.lexsort((far_label, far_block, root[near]))
        rows = (root[near][order], far_block[order], far_label[order].astype(np.uint32))
        new = np.ones(order.size, np.bool_)
        new[1:] = np.any([row[1:] != row[:-1] for row in rows], 0)
        written: dict[str, Arrays] = {
            "counts": {"counts": own.counts},
            "roots": {"root": root, "names": names, "sizes": total[is_root]},
            "outer": {
                "root": rows[0][new],
                "block": rows[1][new],
                "label": rows[2][new],
                "orphan_root": root[orphans],
                "orphan_name": own.names[orphans],
            },
        }
        return {
            "digests": {
                part: write_record(self.groups.path(part, block), **arrays)
                for part, arrays in written.items()
            },
            "fragments": int(root.size),
            "roots": int(names.size),
            "sample": _sample(names),
        }

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether all that the group wrote is intact."""
        return all(
            record_digest(self.groups.path(part, block)) == digest
            for part, digest in record["digests"].items()
        )


def _sample(names: npt.NDArray[np.uint64]) -> list[int]:
    if not names.size:
        return []
    at = np.linspace(0, names.size - 1, min(_SAMPLE, names.size)).astype(np.int64)
    return [int(name) for name in np.partition(names, np.unique(at))[at]]


#: Positions of fragments; blocks and labels (from 0) in other groups; positions of orphans.
_Edges = tuple[Numbers, Numbers, Numbers, Numbers]


@dataclass(frozen=True)
class _Own:
    """The fragments of a group; ``offsets`` are of all numbers from ``first`` to its last."""

    groups: Groups
    blocks: Selection
    counts: Numbers
    offsets: Numbers
    known: npt.NDArray[np.bool_]
    names: npt.NDArray[np.uint64]
    sizes: Numbers

    @classmethod
    def read(cls, groups: Groups, group: int) -> _Own:
        blocks = groups.blocks(group)
        parts = list(objects_in_parts(groups.fragments, blocks))
        first, last = int(blocks.numbers[0]), int(blocks.numbers[-1])
        counts = np.full(last - first + 1, -1, np.int64)
        for part in parts:
            counts[part.numbers - first] = part.counts
        return cls(
            groups,
            blocks,
            counts[blocks.numbers - first],
            np.concatenate(([0], np.cumsum(np.maximum(counts, 0)))),
            counts >= 0,
            np.concatenate([np.empty(0, np.uint64), *(part.names for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *(part.sizes for part in parts)]),
        )

    @property
    def first(self) -> int:
        return int(self.blocks.numbers[0])

    def by_contact(self, parent: npt.NDArray[Any]) -> _Edges:
        """Unite what touches inside; what touches other groups."""
        assert self.groups.edges_from is not None
        near, block, label = ([np.empty(0, np.int64)] for _ in range(3))
        for part in contacts_in_parts(self.groups.edges_from, self.blocks):
            outside = unite_by_contact(
                parent, part.blocks, part.neighbours, part.pairs, self.offsets, self.known,
                self.first,
            )  # fmt: skip
            here = self.known[part.blocks[outside] - self.first]
            rows = outside[here & self.groups.has(part.neighbours[outside])]
            pairs = part.pairs[rows].astype(np.int64) - 1
            near.append(self.offsets[part.blocks[rows] - self.first] + pairs[:, 0])
            block.append(part.neighbours[rows])
            label.append(pairs[:, 1])
        parts = (np.concatenate(near), np.concatenate(block), np.concatenate(label))
        return (*parts, np.empty(0, np.int64))

    def by_name(self, parent: npt.NDArray[Any]) -> _Edges:
        """Unite what has one name inside; what other groups own, and what no block has."""
        grid = self.groups.fragments.grid
        missing = unite_by_name(parent, self.names, self.offsets, grid, self.first)
        owners = owners_of(self.names[missing], grid)
        beyond = (owners < self.first) | (owners > int(self.blocks.numbers[-1]))
        beyond &= self.groups.has(owners)
        label = np.full(missing.size, -1, np.int64)
        rows = np.flatnonzero(beyond)
        rows = rows[np.argsort(owners[rows], kind="stable")]
        starts = np.flatnonzero(np.diff(owners[rows], prepend=-1))
        for part in np.split(rows, starts[1:]) if rows.size else []:
            objects = self.groups.fragments.objects(grid.block(int(owners[part[0]])))
            if objects is not None and objects["names"].size:
                theirs, wanted = objects["names"], self.names[missing[part]]
                at = np.minimum(np.searchsorted(theirs, wanted), theirs.size - 1)
                label[part] = np.where(theirs[at] == wanted, at, -1)
        there = label >= 0
        return missing[there], owners[there], label[there], missing[~there]


@dataclass(frozen=True)
class Across:
    """Find the roots of other groups that a group's roots have edges to.

    ``first-roots`` in the groups' folder is the table of where each group's roots begin.
    """

    groups: Groups
    name: str

    def decides(self) -> BlockRecord:
        """What was merged, and in which groups."""
        return self.groups.decides()

    def run(self, block: Block) -> BlockRecord:
        """Do one group."""
        spanning = self._spanning(block.number)
        path = self.groups.path("spanning", block)
        return {"digest": write_record(path, **vars(spanning)), "roots": spanning.ids.size}

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether what the group wrote is intact."""
        return bool(record_digest(self.groups.path("spanning", block)) == record["digest"])

    def _spanning(self, group: int) -> Spanning:
        first = table(self.groups.folder, "first-roots")
        outer, own = self.groups.read("outer", group), self.groups.read("roots", group)
        theirs, position = self.groups.place(outer["block"])
        edges, ends = [np.empty((0, 2), np.int64)], []
        for other in np.unique(theirs):
            rows = np.flatnonzero(theirs == other)
            far, roots_there = self._far(int(other), position[rows], outer["label"][rows])
            near = outer["root"][rows].astype(np.int64)[far >= 0]
            far = far[far >= 0]
            edges.append(np.stack((first[group] + near, first[other] + far), 1))
            ends.append(_ends(far, first[other], roots_there))
        all_edges = np.unique(np.concatenate(edges), axis=0)
        orphans = outer["orphan_root"].astype(np.int64)
        near = np.concatenate((all_edges[:, 0] - first[group], orphans))
        ends.append(_ends(near, first[group], own))
        return Spanning.of(ends, all_edges, first[group] + orphans, outer["orphan_name"])

    def _far(
        self, other: int, position: Numbers, label: npt.NDArray[np.uint32]
    ) -> tuple[Numbers, Arrays]:
        """Numbers of another group's roots of some fragments, -1 for none; and its roots."""
        counts = self.groups.read("counts", other)["counts"]
        found = self.groups.read("roots", other)
        starts = np.cumsum(np.maximum(counts, 0)) - np.maximum(counts, 0)
        there = label < counts[position]
        far = np.full(label.size, -1, np.int64)
        far[there] = found["root"][starts[position[there]] + label[there]]
        return far, found


def _ends(at: Numbers, first: int, found: Arrays) -> tuple[Numbers, Any, Numbers]:
    """Ids, names and sizes of some roots of a group."""
    unique = np.unique(at)
    return first + unique, found["names"][unique], found["sizes"][unique]
