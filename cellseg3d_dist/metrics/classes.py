"""Scores per class, where labels are classes and not instances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellseg3d_dist.metrics.contingency import ContingencyTable, ranked, summed


@dataclass(frozen=True)
class ClassScore:
    """One class against all others, voxel by voxel; 0 where a denominator is 0.

    Attributes
    ----------
    label : int
        The class; 0 is background, a class like any other.
    voxels_true, voxels_pred : int
        Voxels of the class on either side.
    dice, iou, precision, recall, accuracy : float
        2 tp / (2 tp + fp + fn), which is F1 too; tp / (tp + fp + fn); tp / (tp + fp);
        tp / (tp + fn); (tp + tn) / all.
    """

    label: int
    voxels_true: int
    voxels_pred: int
    dice: float
    iou: float
    precision: float
    recall: float
    accuracy: float


def class_scores(table: ContingencyTable) -> tuple[ClassScore, ...]:
    """Scores of every class that occurs on either side, by label."""
    labels, index = ranked(np.concatenate([table.labels_true, table.labels_pred]))
    true, pred = np.split(index, 2)
    same = true == pred
    sums = [
        summed(true, table.voxels, len(labels)),
        summed(pred, table.voxels, len(labels)),
        summed(true[same], table.voxels[same], len(labels)),
    ]
    n = table.n_voxels
    return tuple(
        _score(int(label), int(t), int(p), int(tp), n)
        for label, t, p, tp in zip(labels, *sums, strict=True)
    )


def _score(label: int, true: int, pred: int, tp: int, n: int) -> ClassScore:
    union = true + pred - tp
    return ClassScore(
        label=label,
        voxels_true=true,
        voxels_pred=pred,
        dice=2 * tp / (true + pred),
        iou=tp / union,
        precision=tp / pred if pred else 0.0,
        recall=tp / true if true else 0.0,
        accuracy=(n - union + tp) / n,
    )
