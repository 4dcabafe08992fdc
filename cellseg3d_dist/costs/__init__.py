"""A model of cost: fitted to finished runs, it predicts time, memory and disk of another.

>>> from cellseg3d_dist.costs import fit
>>> fit("region", "small_region").predict(plan("brain.ome.zarr", workers=64))  # doctest: +SKIP

:func:`cellseg3d_dist.segmentation.estimate` does both and checks that the runs fit.
"""

from __future__ import annotations

from cellseg3d_dist.costs.fitting import CostModel, fit
from cellseg3d_dist.costs.predicted import Cost, Range
from cellseg3d_dist.costs.records import RunRecord

__all__ = ["Cost", "CostModel", "Range", "RunRecord", "fit"]
