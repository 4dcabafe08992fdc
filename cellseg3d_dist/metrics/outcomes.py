"""What became of every instance: found, fused, split, missed, or made up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellseg3d_dist.metrics.contingency import ContingencyTable, summed
from cellseg3d_dist.metrics.overlaps import Overlaps


@dataclass(frozen=True)
class Outcomes:
    """Counts by a rule of one half (CellSeg3D's evaluation, Achard et al. 2024).

    A predicted instance *holds* a true one if it has more than half of its voxels; at most
    one does. Every true instance is exactly one of found, fused, split and missed.

    Attributes
    ----------
    found : int
        True instances held by a prediction that holds no other.
    fused : int
        True instances held by a prediction that holds others too.
    split : int
        True instances that no single prediction holds, but of whose voxels more than half
        are in predictions. CellSeg3D counts them as not found.
    missed : int
        All other true instances. CellSeg3D's not found is split + missed.
    artifacts : int
        Predicted instances of which more than half of the voxels are true background.
    """

    found: int
    fused: int
    split: int
    missed: int
    artifacts: int


def outcomes(table: ContingencyTable | Overlaps) -> Outcomes:
    """Counts of a table of the whole volume."""
    overlaps = Overlaps.of(table)
    held = 2 * overlaps.shared > overlaps.sizes_true[overlaps.rows]
    n_held = np.bincount(overlaps.columns[held], minlength=overlaps.n_pred)
    covered = summed(overlaps.rows, overlaps.shared, overlaps.n_true)
    inside = summed(overlaps.columns, overlaps.shared, overlaps.n_pred)
    found = int(np.count_nonzero(n_held == 1))
    fused = int(n_held[n_held > 1].sum())
    split = int(np.count_nonzero(2 * covered > overlaps.sizes_true)) - found - fused
    return Outcomes(
        found=found,
        fused=fused,
        split=split,
        missed=overlaps.n_true - found - fused - split,
        artifacts=int(np.count_nonzero(2 * inside < overlaps.sizes_pred)),
    )
