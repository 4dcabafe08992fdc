"""A procedural brain with known cells, of any size, computed block by block.

``render(spec, region)`` is a pure function: cutting a volume into blocks and rendering each
gives the bits of rendering it whole, so the exact label image of a volume too large for
memory is known everywhere. ``phantom(dst, shape)`` stores one.
"""

from __future__ import annotations

from cellseg3d_dist.phantoms.nuclei import Nuclei, count, nuclei
from cellseg3d_dist.phantoms.rendering import render
from cellseg3d_dist.phantoms.spec import PhantomSpec
from cellseg3d_dist.phantoms.writing import Phantom, phantom

__all__ = ["Nuclei", "Phantom", "PhantomSpec", "count", "nuclei", "phantom", "render"]
