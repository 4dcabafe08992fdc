"""How much work a cut makes: voxels that blocks read, with their halos.

A block of b voxels reads up to b + 2h along an axis, fewer at the faces of the volume, so
that the same voxels cost more in smaller blocks::

    |<- h ->|<------ b ------>|<- h ->|
            |   write_region  |
"""

from __future__ import annotations

import re

from cellseg3d_dist.grid import Triple, ceil_div


def family(stage: str) -> str:
    """Name of a stage without the number of its level or round.

    >>> family("pyramid-3"), family("survey-foreground")
    ('pyramid', 'survey-foreground')
    """
    return re.sub(r"-\d+$", "", stage)


def read_share(shape: Triple, block_shape: Triple, halo: Triple) -> float:
    """Voxels that all blocks of a grid read, over those of the volume; at least 1.

    >>> read_share((10, 10, 20), (10, 10, 10), (4, 4, 4))
    1.4
    """
    product = 1.0
    for n, b, h in zip(shape, block_shape, halo, strict=True):
        read = sum(min(n, a + b + h) - max(0, a - h) for a in range(0, n, b))
        product *= read / max(n, 1)
    return product


def cut_share(block_shape: Triple, shape: Triple) -> float:
    """Area of cuts per voxel, to which the number of cut cells is proportional."""
    axes = zip(shape, block_shape, strict=True)
    return sum((ceil_div(n, b) - 1) / max(n, 1) for n, b in axes)
