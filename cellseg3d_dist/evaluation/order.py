"""Everything an evaluation reads, opened and checked; nothing exists of it yet."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import cellseg3d_dist
from cellseg3d_dist.config.evaluate import EvaluateConfig
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.evaluation.confidences import GivenConfidences, read_confidences
from cellseg3d_dist.evaluation.opening import Beside, OpenedPair, open_measured, open_pair
from cellseg3d_dist.evaluation.points import (
    GivenPoints,
    are_points,
    distance_in_um,
    known_size,
    refuse,
)
from cellseg3d_dist.evaluation.sources import Prediction
from cellseg3d_dist.training.matching import listed, matched
from cellseg3d_dist.volumes import Volume, location_of


@dataclass(frozen=True)
class PointTruth:
    """True points, and of each prediction its points, or None where it is a label image."""

    true: GivenPoints
    pred: tuple[GivenPoints | None, ...]


@dataclass(frozen=True)
class Order:
    """What is asked for.

    Attributes
    ----------
    images : tuple of tuples of OpenedPair
        Of each prediction.
    made_from : dict
        Everything that decides the scores, as text.
    points : PointTruth or None
        Where truth is a list of points.
    confidences : tuple of GivenConfidences
        Of each prediction, or none.
    """

    config: EvaluateConfig
    predictions: tuple[Prediction, ...]
    images: tuple[tuple[OpenedPair, ...], ...]
    made_from: dict[str, str]
    points: PointTruth | None = None
    confidences: tuple[GivenConfidences, ...] = ()

    @property
    def volumes(self) -> list[Volume]:
        """All that is read."""
        return [volume for images in self.images for one in images for volume in one.volumes]

    @property
    def locations(self) -> list[str]:
        """Paths and URLs of it."""
        found = [volume.location for volume in self.volumes if volume.kind != "array"]
        if self.points is not None:
            found += [str(one.path) for one in (self.points.true, *self.points.pred) if one]
        return found

    @property
    def in_memory(self) -> bool:
        """Whether some of it cannot be sent to other processes."""
        return any(volume.kind == "array" for volume in self.volumes)

    @property
    def n_voxels(self) -> int:
        """Of all pairs."""
        return sum(prod(one.pair.labels_pred.shape) for images in self.images for one in images)


def open_order(
    config: EvaluateConfig,
    predictions: Sequence[Prediction],
    beside: Mapping[str, Any],
    *,
    known: bool,
) -> Order:
    """Open all images, and read all points.

    ``beside`` are mask, regions and confidences as given.

    Raises
    ------
    BadInputError
        If something cannot be opened or does not fit.
    """
    mask, regions = beside["mask"], beside["regions"]
    if are_points(predictions[0].images[0].labels_true):
        images, points = _open_points(config, predictions, mask, regions, known=known)
    else:
        points, opened = None, []
        for prediction in predictions:
            true = [image.labels_true for image in prediction.images]
            masks = _for_each(mask, true, "mask")
            areas = _for_each(regions, true, "regions image")
            opened.append(
                tuple(
                    open_pair(image, Beside(m, r), config, known=known)
                    for image, m, r in zip(prediction.images, masks, areas, strict=True)
                )
            )
        images = tuple(opened)
    digests = [one.pair.digest for found in images for one in found]
    if points is not None:
        digests += [one.digest for one in (points.true, *points.pred) if one is not None]
    sure = _confidences(beside["confidences"], predictions, points)
    digests += [one.digest for one in sure]
    made_from = config.deciding() | {
        "version": cellseg3d_dist.__version__,
        "names": ", ".join(one.name for one in predictions),
        "labels_true": predictions[0].labels_true,
        "labels_pred": "; ".join(one.labels_pred for one in predictions),
        "mask": _text(mask),
        "regions": _text(regions),
        "confidences": _text(beside["confidences"]),
        "read": _hash(digests),
    }
    return Order(config, tuple(predictions), images, made_from, points, sure)


def _confidences(
    given: Any, predictions: Sequence[Prediction], points: PointTruth | None
) -> tuple[GivenConfidences, ...]:
    if given is None:
        return ()
    files = list(given) if isinstance(given, list | tuple) else [given]
    if len(files) != len(predictions):
        raise ConfigError(
            f"{len(files)} confidences for {len(predictions)} predictions. Give one file for each."
        )
    if points is not None or any(one.is_set for one in predictions):
        raise ConfigError("confidences are for label images of one volume. Leave them out.")
    return tuple(read_confidences(file) for file in files)


def _open_points(
    config: EvaluateConfig,
    predictions: Sequence[Prediction],
    mask: Any,
    regions: Any,
    *,
    known: bool,
) -> tuple[tuple[tuple[OpenedPair, ...], ...], PointTruth]:
    """Points on the true side; on the other label images, or points too."""
    given = [prediction.images[0].labels_pred for prediction in predictions]
    refuse(config, mask, regions, given)
    true = GivenPoints.of(predictions[0].images[0].labels_true, config)
    pred = tuple(GivenPoints.of(one, config) if are_points(one) else None for one in given)
    images = tuple(
        () if points else (open_measured(one, mask, config, known=known),)
        for one, points in zip(given, pred, strict=True)
    )
    for found, points in zip(images, pred, strict=True):
        size = found[0].voxel_size if found else config.voxel_size
        in_voxels = points is None or "voxels" in (points.points.unit, true.points.unit)
        distance_in_um(config, known_size(size) if in_voxels else size)
    return images, PointTruth(true, pred)


def _for_each(given: Any, true: Sequence[Any], kind: str) -> list[Any]:
    """The one for all images where that is one array or file of one image; else by name."""
    if given is None:
        return [None] * len(true)
    if len(true) == 1 and not isinstance(given, list | tuple):
        return [given]
    found: list[Any] = matched(true, listed(given, f"{kind}s"), ("labels_true", kind))
    return found


def _text(given: Any) -> str:
    if given is None:
        return "none"
    if isinstance(given, list | tuple):
        return ", ".join(_text(one) for one in given)
    return location_of(given) or "<memory>"


def _hash(parts: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:32]
