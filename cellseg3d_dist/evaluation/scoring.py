"""From the tables of images to one scores document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg3d_dist.config.evaluate import EvaluateConfig
from cellseg3d_dist.engine.stages.score import Totals
from cellseg3d_dist.evaluation.confidences import GivenConfidences
from cellseg3d_dist.evaluation.opening import OpenedPair
from cellseg3d_dist.evaluation.points import distance_in_um, in_um
from cellseg3d_dist.evaluation.sources import Prediction, names_of_images
from cellseg3d_dist.metrics.counting import count_errors
from cellseg3d_dist.metrics.datasets import summarise_images
from cellseg3d_dist.metrics.points import PointScore, match_points
from cellseg3d_dist.metrics.summary import Scored, summarise

#: What ``voxels_in_boxes`` counted of one image, where it was wanted.
InBox = NDArray[np.int64] | None


def scored(
    prediction: Prediction,
    images: Sequence[OpenedPair],
    totals: Sequence[Totals],
    config: EvaluateConfig,
    in_boxes: Sequence[InBox],
    confidences: GivenConfidences | None,
) -> dict[str, Any]:
    """The document of one prediction: of its one image, or pooled, with each image and a mean."""
    if not prediction.is_set:
        whole = _summarised(
            prediction.texts, images[0], totals[0], config, in_boxes[0], confidences
        )
        return _chosen(whole.to_dict(), config)
    names = names_of_images([one.volumes[0].location for one in images])
    each = [
        _summarised((name, *(v.location for v in one.volumes[:2])), one, found, config, inside)
        for name, one, found, inside in zip(names, images, totals, in_boxes, strict=True)
    ]
    pairs = [found.tables["pairs"] for found in totals]
    name, labels_true, labels_pred = prediction.texts
    whole = summarise_images(
        each,
        pairs,
        name=name,
        labels_true=labels_true,
        labels_pred=labels_pred,
        thresholds=config.thresholds,
        in_box=[inside for inside in in_boxes if inside is not None] if config.thesis else None,
        classes=pairs if config.classes else None,
    )
    return _chosen(whole.to_dict(), config)


def _summarised(
    texts: Sequence[str],
    opened: OpenedPair,
    totals: Totals,
    config: EvaluateConfig,
    in_box: InBox,
    confidences: GivenConfidences | None = None,
) -> Scored:
    name, labels_true, labels_pred = texts
    tables = totals.tables
    regions = None
    if "true_regions" in tables:
        regions = count_errors(tables["true_regions"], tables["pred_regions"])
    return summarise(
        tables["pairs"],
        name=name,
        labels_true=labels_true,
        labels_pred=labels_pred,
        thresholds=config.thresholds,
        confidences=None if confidences is None else confidences.values,
        in_box=in_box,
        classes=tables["pairs"] if config.classes else None,
        points=_centroids(opened, totals, config),
        regions=regions,
    )


def _centroids(opened: OpenedPair, totals: Totals, config: EvaluateConfig) -> PointScore | None:
    """Centroids of both sides matched, where a distance was given."""
    if config.distance is None or not totals.measures:
        return None
    size = opened.voxel_size
    true, pred = (in_um(totals.measures[side].centroids, size) for side in ("true", "pred"))
    return match_points(true, pred, distance_in_um(config, size))


def _chosen(document: dict[str, Any], config: EvaluateConfig) -> dict[str, Any]:
    """Without the criteria that were not asked for."""
    parts = [document, *document.get("images", ()), document.get("mean", {})]
    for part in parts:
        if "matching" in part:
            part["matching"] = [s for s in part["matching"] if s["criterion"] in config.criteria]
    return document
