"""Scores of a network on whole volumes, predicted as they will be when it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.metrics.contingency import ContingencyTable, contingency
from cellseg3d_dist.metrics.scores import THRESHOLDS, foreground_scores, matching
from cellseg3d_dist.networks.predictor import predict_array
from cellseg3d_dist.networks.resampling import Size
from cellseg3d_dist.networks.weights import Model


@dataclass(frozen=True, eq=False)
class ValidationVolume:
    """A whole volume with its labels, in memory.

    Attributes
    ----------
    image : (z, y, x)
        As stored.
    labels : int (z, y, x)
    constants : (float, float)
        Values of the image that are 0 and 1 to the network.
    """

    name: str
    image: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    voxel_size: Size
    constants: tuple[float, float]


def predicted(
    model: Model, volume: ValidationVolume, device: str, parameters: Any
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """Stored channels (C, z, y, x) and labels (z, y, x) of a volume."""
    channels = predict_array(
        model, volume.image, volume.voxel_size, constants=volume.constants, device=device
    )
    labels = model.representation.decode(channels, volume.voxel_size, parameters)
    return channels, labels


def scores_of(tables: Sequence[ContingencyTable], score: str) -> dict[str, float]:
    """Scores over all cells of all volumes; ``score`` is the one to be maximised.

    Returns
    -------
    dict
        ``mean_f1`` over IoU 0.1 to 0.9, ``f1`` at IoU 0.5, ``dice`` of the foreground,
        ``cells`` (predicted) and ``cells_true``, ``score``.
    """
    counts = {threshold: np.zeros(3, np.int64) for threshold in THRESHOLDS}
    for table in tables:
        for found in matching(table):
            counts[found.threshold] += (found.tp, found.fp, found.fn)
    f1 = {}
    for threshold, (tp, fp, fn) in counts.items():
        f1[threshold] = float(2 * tp / max(int(2 * tp + fp + fn), 1))
    tp, fp, fn = counts[0.5]
    # cells of different volumes do not meet, so tables add up voxel by voxel
    foreground = foreground_scores(ContingencyTable.merge(tables))
    values = {
        "mean_f1": float(np.mean(list(f1.values()))),
        "f1": f1[0.5],
        "dice": foreground.dice,
        "cells": float(tp + fp),
        "cells_true": float(tp + fn),
    }
    return {**values, "score": values[score]}


def table_of(
    labels_true: npt.NDArray[Any], labels_pred: npt.NDArray[Any], ignore: int | None
) -> ContingencyTable:
    """The contingency table of the annotated voxels.

    A predicted cell of which more than half is not annotated is neither right nor wrong, so
    it is left out.

    Parameters
    ----------
    ignore : int or None
        Value of ``labels_true`` where nothing is known.
    """
    if ignore is None:
        return contingency(labels_true, labels_pred)
    unknown = labels_true == ignore
    labels_true = np.where(unknown, 0, labels_true)
    sizes = np.bincount(labels_pred.ravel())
    within = np.bincount(labels_pred[unknown].ravel(), minlength=len(sizes))
    left_out = 2 * within > sizes
    left_out[0] = False
    known = np.where(left_out[labels_pred], 0, labels_pred)[~unknown]
    return contingency(labels_true[~unknown], known)
