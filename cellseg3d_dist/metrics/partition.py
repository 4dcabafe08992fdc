"""Two label images as partitions of the voxels: variation of information, adapted Rand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cellseg3d_dist.metrics.contingency import ContingencyTable, ranked, summed


@dataclass(frozen=True)
class Partition:
    """How far two partitions differ.

    Attributes
    ----------
    vi_split, vi_merge : float
        H(pred | true) and H(true | pred) in bits (base 2) over all voxels, background being
        one segment of either side (Meila 2007; order and base of scikit-image). Splits raise
        the first, merges the second.
    vi : float
        Their sum.
    adapted_rand_error, adapted_rand_precision, adapted_rand_recall : float
        Over pairs of voxels outside the true background (Arganda-Carreras et al. 2015):
        with S the pairs that both images join, precision is S over the pairs that the
        predicted one joins, recall S over those that the true one joins, the error 1 - 2 S
        over the sum of both. Predicted background is a segment. scikit-image (up to 0.26)
        returns the same error, and precision and recall under each other's name. Where no
        pair is joined both are 0 and the error is 1.
    """

    vi_split: float
    vi_merge: float
    vi: float
    adapted_rand_error: float
    adapted_rand_precision: float
    adapted_rand_recall: float


def partition_scores(table: ContingencyTable) -> Partition:
    """Variation of information and adapted Rand error of a table of the whole volume."""
    ids_true, row = ranked(table.labels_true)
    ids_pred, column = ranked(table.labels_pred)
    inside = table.labels_true > 0
    shared = table.voxels[inside]
    split = _conditional_entropy(table.voxels, row, summed(row, table.voxels, len(ids_true)))
    merge = _conditional_entropy(table.voxels, column, summed(column, table.voxels, len(ids_pred)))
    joined = _joined(shared)
    joined_true = _joined(summed(row[inside], shared, len(ids_true)))
    joined_pred = _joined(summed(column[inside], shared, len(ids_pred)))
    both = joined_true + joined_pred
    return Partition(
        vi_split=split,
        vi_merge=merge,
        vi=split + merge,
        adapted_rand_error=1 - 2 * joined / both if both else 1.0,
        adapted_rand_precision=joined / joined_pred if joined_pred else 0.0,
        adapted_rand_recall=joined / joined_true if joined_true else 0.0,
    )


@njit(cache=True, nogil=True)
def _conditional_entropy(
    voxels: NDArray[np.int64], index: NDArray[np.int64], sizes: NDArray[np.int64]
) -> float:
    """Bits still unknown of the pair of a voxel where the segment on one side is known."""
    n_voxels, bits, lost = 0, 0.0, 0.0
    for n in range(len(voxels)):
        n_voxels += voxels[n]
        # log of the ratio, not the difference of logs, so that 0 stays exactly 0; what a
        # sum of many terms rounds off is carried along (Kahan 1965)
        term = voxels[n] * np.log2(sizes[index[n]] / voxels[n]) - lost
        total = bits + term
        lost = (total - bits) - term
        bits = total
    return bits / n_voxels if n_voxels else 0.0


def _joined(sizes: NDArray[np.int64]) -> float:
    """Ordered pairs of voxels within segments; floats, as the squares of a brain pass int64."""
    return float((sizes.astype(np.float64) * (sizes - 1)).sum())
