"""Labellers: what finds cells in a block and hands back nothing but labels.

A labeller is an installed program (StarDist, Cellpose), another package's entry point in
the group ``cellseg3d_dist.labellers``, or a function of one's own. Blocks are merged by
overlap (:mod:`cellseg3d_dist.merging.overlap`).
"""

from cellseg3d_dist.labellers.finding import LabellerSource, names
from cellseg3d_dist.labellers.labeller import Labeller, default_halo

__all__ = ["Labeller", "LabellerSource", "default_halo", "names"]
