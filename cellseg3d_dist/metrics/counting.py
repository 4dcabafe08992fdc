"""Numbers of cells per region, true and predicted.

A cell belongs to the region that holds most of its voxels, of several with as many to the one
with the lowest label. Region 0 is where no region is, and counts like one. Which voxels of a
cell lie where is a contingency table of the cells' labels and the regions', so that blocks
merge as everywhere::

    in_true = contingency(labels_true, regions)      in_pred = contingency(labels_pred, regions)
    count_errors(in_true, in_pred)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellseg3d_dist.metrics.contingency import ContingencyTable, ranked


@dataclass(frozen=True)
class RegionCount:
    """Cells of one region.

    Attributes
    ----------
    region : int
        Its label; 0 is outside of all.
    n_true, n_pred : int
        Cells that belong to it.
    error : int
        n_pred - n_true.
    relative_error : float or None
        error / n_true; null where there is no true cell.
    """

    region: int
    n_true: int
    n_pred: int
    error: int
    relative_error: float | None

    @classmethod
    def of(cls, region: int, n_true: int, n_pred: int) -> RegionCount:
        """With the errors worked out."""
        error = n_pred - n_true
        return cls(region, n_true, n_pred, error, error / n_true if n_true else None)


def count_errors(in_true: ContingencyTable, in_pred: ContingencyTable) -> tuple[RegionCount, ...]:
    """Cells of every region that occurs, by label; region 0 only where a cell lies there.

    Parameters
    ----------
    in_true, in_pred : ContingencyTable
        Of true and predicted cells (first labels) against regions (second labels).
    """
    seen = np.union1d(in_true.labels_pred, in_pred.labels_pred)
    regions = seen.astype(np.uint64)
    n_true, n_pred = (_counts(_homes(table), regions) for table in (in_true, in_pred))
    return tuple(
        RegionCount.of(int(region), t, p)
        for region, t, p in zip(regions, n_true.tolist(), n_pred.tolist(), strict=True)
        if region or t or p
    )


def _homes(table: ContingencyTable) -> NDArray[np.uint64]:
    """The region of each cell."""
    inside = table.labels_true > 0
    _, cell = ranked(table.labels_true[inside])
    region, voxels = table.labels_pred[inside], table.voxels[inside]
    # the first row of each cell is that of its home; rows come sorted by region
    order = np.lexsort((-voxels, cell))
    first = np.flatnonzero(np.diff(cell[order], prepend=-1))
    homes: NDArray[np.uint64] = region[order][first]
    return homes


def _counts(homes: NDArray[np.uint64], regions: NDArray[np.uint64]) -> NDArray[np.int64]:
    return np.bincount(np.searchsorted(regions, homes), minlength=len(regions))
