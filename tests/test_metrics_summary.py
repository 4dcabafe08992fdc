"""All scores in one document, and data sets of several images."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.metrics.boxes import bounding_boxes, partners, voxels_in_boxes
from cellseg3d_dist.metrics.contingency import contingency
from cellseg3d_dist.metrics.counting import count_errors
from cellseg3d_dist.metrics.datasets import mean_of, pool, pool_confidences, summarise_images
from cellseg3d_dist.metrics.points import match_points
from cellseg3d_dist.metrics.precision import Confidences
from cellseg3d_dist.metrics.scores import matching
from cellseg3d_dist.metrics.summary import summarise

SCORED = ["name", "labels_true", "labels_pred", "n_true", "n_pred", "voxels", "matching"]
SCORED += ["foreground", "average_precision", "coverage", "partition", "outcomes", "thesis"]


def image(seed, n=5):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, n, (2, 3, 4)).repeat(3, 0).repeat(2, 1).repeat(2, 2)
    pred = np.where(rng.random(true.shape) < 0.3, rng.integers(0, n + 2, true.shape), true)
    return true * 3, pred * 2


def in_box(true, pred):
    return voxels_in_boxes(pred, bounding_boxes(true), partners(contingency(true, pred)))


def test_the_document_has_the_agreed_names():
    true, pred = image(0)
    table = contingency(true, pred)
    document = summarise(table, name="a", labels_true="t", labels_pred="p").to_dict()
    assert list(document) == SCORED
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["thesis"] is None
    criteria = [(m["criterion"], m["threshold"]) for m in document["matching"]]
    tenths = [n / 10 for n in range(1, 10)]
    assert criteria == [(c, t) for c in ("iou", "iot", "iop") for t in tenths]
    names = ["dice", "iou", "precision", "recall", "accuracy"]
    assert list(document["foreground"]) == names
    assert list(document["average_precision"]) == ["all", "small", "medium", "large"]
    assert list(document["average_precision"]["all"]) == ["ap50", "ap75", "ap50_95", "mean"]
    assert {"seg", "mucov"} <= set(document["coverage"])
    assert list(document["partition"]) == [
        "vi_split",
        "vi_merge",
        "vi",
        "adapted_rand_error",
        "adapted_rand_precision",
        "adapted_rand_recall",
    ]
    assert list(document["outcomes"]) == ["found", "fused", "split", "missed", "artifacts"]


def test_the_document_of_everything():
    true, pred = image(1)
    table = contingency(true, pred)
    regions = np.arange(true.size).reshape(true.shape) // 100
    points = np.random.default_rng(0).random((2, 9, 3))
    document = summarise(
        table,
        in_box=in_box(true, pred),
        classes=table,
        points=match_points(*points, 0.3),
        regions=count_errors(contingency(true, regions), contingency(pred, regions)),
    ).to_dict()
    assert list(document) == [*SCORED, "classes", "points", "regions"]
    assert 0 < document["thesis"] < 1
    assert [c["label"] for c in document["classes"]] == np.union1d(true, pred).tolist()
    keys = ["distance_um", "tp", "fp", "fn", "precision", "recall", "f1", "mean_distance_um"]
    assert list(document["points"]) == keys
    assert list(document["regions"][0]) == [
        "region",
        "n_true",
        "n_pred",
        "error",
        "relative_error",
    ]
    json.dumps(document, allow_nan=False)


def test_pooled_scores_are_those_of_images_side_by_side():
    pairs = [image(seed, 4 + seed) for seed in range(3)]
    tables = [contingency(*pair) for pair in pairs]
    side = np.concatenate([np.where(t, t + 1000 * n, 0) for n, (t, _) in enumerate(pairs)])
    found = np.concatenate([np.where(p, p + 1000 * n, 0) for n, (_, p) in enumerate(pairs)])
    boxes = [in_box(*pair) for pair in pairs]
    sure = [
        Confidences(t.sizes_pred()[0], np.random.default_rng(n).random(len(t.sizes_pred()[0])))
        for n, t in enumerate(tables)
    ]
    images = [
        summarise(t, name=str(n), in_box=boxes[n], confidences=sure[n])
        for n, t in enumerate(tables)
    ]
    whole = contingency(side, found)
    moved = Confidences(
        np.concatenate([s.labels + np.uint64(1000 * n) for n, s in enumerate(sure)]),
        np.concatenate([s.values for s in sure]),
    )
    pooled = summarise_images(images, tables, name="set", in_box=boxes, confidences=sure)
    expected = summarise(whole, name="set", in_box=in_box(side, found), confidences=moved)
    assert dataclasses.replace(pooled, images=None, mean=None) == expected
    assert [i["name"] for i in pooled.to_dict()["images"]] == ["0", "1", "2"]
    for score, *parts in zip(matching(pool(tables)), *map(matching, tables), strict=True):
        assert (score.tp, score.fp, score.fn) == tuple(
            sum(getattr(part, name) for part in parts) for name in ("tp", "fp", "fn")
        )


def test_means_leave_out_what_an_image_lacks():
    true, pred = image(0)
    only = contingency(np.minimum(true, 3), np.minimum(pred, 4))
    tables = [contingency(true, pred), only, contingency(true * 0, true * 0)]
    images = [summarise(table, classes=table) for table in tables]
    mean = mean_of(images)
    assert list(mean) == [*SCORED[3:], "classes"]
    assert mean["n_true"] == np.mean([image.n_true for image in images])
    # nothing to find in the third: it has no average precision, and an F1 of 0
    ap = [image.average_precision["all"].ap50 for image in images]
    assert ap[2] is None
    assert mean["average_precision"]["all"]["ap50"] == np.mean(ap[:2])
    assert mean["average_precision"]["large"]["ap50"] is None
    for n, row in enumerate(mean["matching"]):
        own = [image.matching[n] for image in images]
        assert (row["criterion"], row["threshold"]) == (own[0].criterion, own[0].threshold)
        assert row["f1"] == pytest.approx(np.mean([score.f1 for score in own]), rel=1e-12)
    by_label = {row["label"]: row["dice"] for row in mean["classes"]}
    assert by_label[0] == np.mean([image.classes[0].dice for image in images])
    ninth = [c.dice for image in images for c in image.classes if c.label == 9]
    assert by_label[9] == np.mean(ninth)


def test_points_and_regions_of_a_set_add_up():
    rng = np.random.default_rng(4)
    images, tables = [], []
    for seed in range(2):
        true, pred = image(seed)
        regions = np.arange(true.size).reshape(true.shape) // 150
        tables.append(contingency(true, pred))
        points = match_points(rng.random((20, 3)), rng.random((25, 3)), 0.2)
        counts = count_errors(contingency(true, regions), contingency(pred, regions))
        images.append(summarise(tables[-1], points=points, regions=counts))
    pooled = summarise_images(images, tables)
    assert pooled.points.tp == sum(i.points.tp for i in images)
    assert pooled.points.fn == 40 - pooled.points.tp
    assert pooled.points.f1 == 2 * pooled.points.tp / 90
    assert sum(r.n_true for r in pooled.regions) == sum(i.n_true for i in images)
    assert pooled.mean["points"]["distance_um"] == 0.2
    assert pooled.regions[1].error == sum(i.regions[1].error for i in images)


def test_a_set_needs_a_table_for_each_image():
    table = contingency(*image(0))
    with pytest.raises(BadInputError, match="1 scored images and 2 tables"):
        summarise_images([summarise(table)], [table, table])
    with pytest.raises(BadInputError, match="0 scored images"):
        summarise_images([], [])


def test_confidences_of_other_labels_are_dropped():
    table = contingency(np.array([1, 1]), np.array([5, 6]))
    sure = Confidences(np.array([5, 6, 7], np.uint64), np.array([0.1, 0.2, 0.3]))
    both = pool_confidences([table, table], [sure, sure])
    assert both.labels.tolist() == [1, 2, 3, 4]
    assert both.values.tolist() == [0.1, 0.2, 0.1, 0.2]
