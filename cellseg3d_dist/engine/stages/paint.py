"""Paint: kept star-convex objects of all blocks in reach become a block's fragments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.inputs import ImageInput
from cellseg3d_dist.engine.stage import BlockRecord
from cellseg3d_dist.engine.stages.candidates import inside, joined
from cellseg3d_dist.engine.stages.suppress import Suppress
from cellseg3d_dist.grid import Block, Region
from cellseg3d_dist.instances.sizes import sizes_of
from cellseg3d_dist.representations.polyhedra import paint
from cellseg3d_dist.representations.suppression import KEPT, Candidates


@dataclass(frozen=True)
class Paint:
    """Fragments of one block, named by their objects' centres.

    Attributes
    ----------
    rounds : int
        The last round of the suppression.
    """

    suppress: Suppress
    rounds: int
    image: ImageInput
    fragments: Fragments
    name: str = "label"

    def decides(self) -> BlockRecord:
        """Block shape and which candidates are kept."""
        return {
            "block_shape": list(self.fragments.grid.block_shape),
            "rounds": self.rounds,
            **self.suppress.decides(),
        }

    def run(self, block: Block) -> BlockRecord:
        """Paint one block."""
        region, geometry = block.write_region, self.suppress.stencil()
        kept = self._kept(region.expand(geometry.half, self.fragments.grid.shape))
        order = kept.order()
        distances = kept.distances[order]
        painted = paint(region, kept.positions[order], distances, geometry)
        within = self.image.within(region)
        if within is not None:
            painted *= within
        seen = np.zeros(len(kept), np.bool_)
        seen[order] = sizes_of(painted, len(kept)) > 0
        # objects are in the order of names here, and of probabilities where painted
        numbers = np.zeros(len(kept) + 1, np.uint32)
        numbers[1:] = np.cumsum(seen)[order]
        return self.fragments.write("label", block, numbers[painted], kept.names[seen])

    def _kept(self, region: Region) -> Candidates:
        """Kept candidates whose centre is in a region."""
        parts = []
        for block in self.suppress.known.blocks(region):
            found = self.suppress.known.files.read(block)
            _, states = self.suppress.states.after(block, self.rounds)
            parts.append(found.take(inside(found, region) & (states == KEPT)))
        return joined(parts)

    def verify(self, block: Block, record: BlockRecord) -> bool:
        """Whether the block's fragments are intact."""
        return self.fragments.intact("label", block, record)
