"""Scores of predictions, by the package's ``evaluate``."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from cellseg3d_dist import evaluate

Labels = np.ndarray[Any, np.dtype[Any]]


def pooled(labels_true: Sequence[Labels], labels_pred: Sequence[Labels]) -> dict[str, Any]:
    """The scores document of volumes whose counts are added up."""
    one = len(labels_true) == 1
    found = evaluate(labels_true[0], labels_pred[0]) if one else evaluate(
        list(labels_true), list(labels_pred)
    )  # fmt: skip
    return found.to_dict()


def planes_apart(labels: Labels) -> Labels:
    """Labels whose every plane along z has ids of its own.

    Scores of such labels are those of a data set of planes, pooled. StarDist's
    ``matching_dataset`` takes lists of images; given two volumes it goes through their planes.
    CellSeg3D's F1 were made so: its notebooks count 3,385 true objects in the volume of the
    visual cortex, which holds 485 cells, and 4,906 in one of the mouse skull.
    """
    step = int(labels.max(initial=0)) + 1
    planes = np.arange(len(labels), dtype=np.uint64)[:, None, None] * np.uint64(step)
    return np.where(labels > 0, labels.astype(np.uint64) + planes, 0).astype(np.uint64)


def f1_curve(document: dict[str, Any]) -> list[float]:
    """F1 at IoU 0.1 to 0.9, then their mean."""
    curve = [s["f1"] for s in document["matching"] if s["criterion"] == "iou"]
    return [*curve, statistics.fmean(curve)]


def counts(document: dict[str, Any], threshold: float = 0.5) -> dict[str, int]:
    """Hits and misses at one IoU."""
    for score in document["matching"]:
        if score["criterion"] == "iou" and abs(score["threshold"] - threshold) < 1e-9:
            return {key: score[key] for key in ("tp", "fp", "fn")}
    raise KeyError(threshold)
