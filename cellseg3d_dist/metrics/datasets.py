"""A data set of several images: all instances pooled, and means over the images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.metrics.contingency import ContingencyTable
from cellseg3d_dist.metrics.counting import RegionCount
from cellseg3d_dist.metrics.points import PointScore, point_score
from cellseg3d_dist.metrics.precision import SIZE_LIMITS, Confidences
from cellseg3d_dist.metrics.scores import THRESHOLDS
from cellseg3d_dist.metrics.summary import Scored, summarise

# what tells the entries of a list apart; all else in them is averaged
_KEYS = ("criterion", "threshold", "label", "region")
_SAME = (*_KEYS, "distance_um")


def summarise_images(
    images: Sequence[Scored],
    tables: Sequence[ContingencyTable],
    *,
    name: str = "",
    labels_true: str = "",
    labels_pred: str = "",
    thresholds: Sequence[float] = THRESHOLDS,
    confidences: Sequence[Confidences] | None = None,
    size_limits: tuple[int, int] = SIZE_LIMITS,
    in_box: Sequence[NDArray[np.int64]] | None = None,
    classes: Sequence[ContingencyTable] | None = None,
) -> Scored:
    """Scores of a data set: pooled, with those of every image and their mean.

    Parameters
    ----------
    images : sequence of Scored
        One per image.
    tables, confidences, in_box, classes : sequences
        What each image was scored from, in the same order.
    name, labels_true, labels_pred, thresholds, size_limits
        As for :func:`~cellseg3d_dist.metrics.summary.summarise`.
    """
    if len(images) != len(tables) or not images:
        raise BadInputError(
            f"{len(images)} scored images and {len(tables)} tables; a data set needs one "
            "table for each of at least one image."
        )
    pooled = summarise(
        pool(tables),
        name=name,
        labels_true=labels_true,
        labels_pred=labels_pred,
        thresholds=thresholds,
        confidences=None if confidences is None else pool_confidences(tables, confidences),
        size_limits=size_limits,
        in_box=None if in_box is None else np.concatenate(list(in_box)),
        classes=None if classes is None else ContingencyTable.merge(classes),
        points=_pooled_points([s.points for s in images if s.points is not None]),
        regions=_pooled_regions(images),
    )
    return dataclasses.replace(pooled, images=tuple(images), mean=mean_of(images))


def pool(tables: Iterable[ContingencyTable]) -> ContingencyTable:
    """One table of all images, each label renumbered so that no two images share one.

    Instances keep their order: those of the first image come first. Background stays 0.
    """
    parts: list[ContingencyTable] = []
    n_true = n_pred = 0
    for table in tables:
        ids_true, ids_pred = table.sizes_true()[0], table.sizes_pred()[0]
        parts.append(
            ContingencyTable(
                _renumbered(table.labels_true, ids_true, n_true),
                _renumbered(table.labels_pred, ids_pred, n_pred),
                table.voxels,
            )
        )
        n_true, n_pred = n_true + len(ids_true), n_pred + len(ids_pred)
    return ContingencyTable.merge(parts)


def pool_confidences(
    tables: Sequence[ContingencyTable], confidences: Sequence[Confidences]
) -> Confidences:
    """Confidences of the labels as :func:`pool` renumbers them; of others they are dropped."""
    labels, values, n_pred = [], [], 0
    for table, sure in zip(tables, confidences, strict=True):
        ids = table.sizes_pred()[0]
        known = np.isin(sure.labels, ids)
        labels.append(_renumbered(sure.labels[known], ids, n_pred))
        values.append(np.asarray(sure.values, np.float64)[known])
        n_pred += len(ids)
    return Confidences(np.concatenate(labels), np.concatenate(values))


def mean_of(images: Sequence[Scored]) -> dict[str, Any]:
    """Mean of every number over the images, in the layout of ``Scored.to_dict``.

    Names and paths are left out; a value that an image does not have (null, a class that
    does not occur) is left out of its mean.
    """
    plain = [image.to_dict() for image in images]
    for document in plain:
        for key in ("name", "labels_true", "labels_pred", "images", "mean"):
            document.pop(key, None)
    mean: dict[str, Any] = _mean(plain)
    return mean


def _renumbered(
    labels: NDArray[np.uint64], ids: NDArray[np.uint64], before: int
) -> NDArray[np.uint64]:
    rank = np.searchsorted(ids, labels) + 1 + before
    return np.where(labels > 0, rank, 0).astype(np.uint64)


def _pooled_points(scores: list[PointScore]) -> PointScore | None:
    if not scores:
        return None
    tp, fp, fn = (sum(getattr(s, name) for s in scores) for name in ("tp", "fp", "fn"))
    total = sum(s.mean_distance_um * s.tp for s in scores)
    return point_score(scores[0].distance_um, tp, fp, fn, total)


def _pooled_regions(images: Sequence[Scored]) -> tuple[RegionCount, ...] | None:
    counted = [image.regions for image in images if image.regions is not None]
    if not counted:
        return None
    sums: dict[int, list[int]] = {}
    for count in (count for regions in counted for count in regions):
        held = sums.setdefault(count.region, [0, 0])
        held[0] += count.n_true
        held[1] += count.n_pred
    return tuple(RegionCount.of(region, *sums[region]) for region in sorted(sums))


def _mean(values: list[Any]) -> Any:
    """Mean of plain values of one layout."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    if isinstance(there[0], dict):
        keys = list(dict.fromkeys(key for value in there for key in value))
        return {
            key: next(v[key] for v in there if key in v)
            if key in _SAME
            else _mean([v.get(key) for v in there])
            for key in keys
        }
    if isinstance(there[0], list):
        groups: dict[Any, list[Any]] = {}
        for entry in (entry for value in there for entry in value):
            groups.setdefault(tuple(entry.get(key) for key in _KEYS), []).append(entry)
        return [_mean(group) for group in groups.values()]
    return float(np.mean(there))
