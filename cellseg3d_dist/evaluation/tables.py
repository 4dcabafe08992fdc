"""Scores as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

#: Title, heads of the columns, rows.
Table = tuple[str, list[str], list[list[str]]]
#: Images of a data set that are shown one by one.
MOST_IMAGES = 30


def tables_of(predictions: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """Tables of one prediction or several, a row each; then the images of data sets."""
    rows = []
    for one in predictions:
        rows.append((_name(one, "pooled"), one))
        if "mean" in one:
            rows.append((f"{one['name']}, mean of images", one["mean"]))
    matched = [row for row in rows if row[1].get("matching")]
    if matched:
        yield _table("scores", matched, _SCORES)
        yield _table("objects", matched, _OBJECTS)
        for criterion in dict.fromkeys(s["criterion"] for s in matched[0][1]["matching"]):
            yield _by_threshold(criterion, matched)
    yield from _special(predictions, rows)
    for one in predictions:
        images = one.get("images", ())
        if images and images[0].get("matching"):
            shown = [(image["name"], image) for image in images[:MOST_IMAGES]]
            left = len(images) - len(shown)
            more = f", the first {len(shown)} of {len(images)}" if left else ""
            yield _table(f"images of {one['name']}{more}", shown, _SCORES)


def _special(
    predictions: Sequence[Mapping[str, Any]], rows: list[tuple[str, Mapping[str, Any]]]
) -> Iterator[Table]:
    pointed = [row for row in rows if row[1].get("points")]
    if pointed:
        distance = pointed[0][1]["points"]["distance_um"]
        yield _table(f"centroids within {distance:g} um", pointed, _POINTS)
    for one in predictions:
        if one.get("classes"):
            yield _entries(f"classes of {one['name']}", one["classes"])
        if one.get("regions"):
            yield _entries(f"regions of {one['name']}", one["regions"])


def _name(one: Mapping[str, Any], what: str) -> str:
    return f"{one['name']}, {what}" if "images" in one else str(one["name"])


def _at(key: str, threshold: float) -> Any:
    def value(one: Mapping[str, Any]) -> Any:
        own = one["matching"][0]["criterion"]
        found = [s for s in one["matching"] if s["criterion"] == own]
        return next((s[key] for s in found if abs(s["threshold"] - threshold) < 1e-9), None)

    return value


def _mean_f1(one: Mapping[str, Any]) -> float:
    own = one["matching"][0]["criterion"]
    return float(np.mean([s["f1"] for s in one["matching"] if s["criterion"] == own]))


def _in(*path: str) -> Any:
    def value(one: Any) -> Any:
        for key in path:
            one = None if one is None else one.get(key)
        return one

    return value


_SCORES = {
    "F1 at 0.5": _at("f1", 0.5),
    "precision": _at("precision", 0.5),
    "recall": _at("recall", 0.5),
    "PQ": _at("panoptic_quality", 0.5),
    "mean F1": _mean_f1,
    "AP50": _in("average_precision", "all", "ap50"),
    "AP75": _in("average_precision", "all", "ap75"),
    "Dice": _in("foreground", "dice"),
    "IoU": _in("foreground", "iou"),
    "SEG": _in("coverage", "seg"),
    "MUCov": _in("coverage", "mucov"),
    "VI": _in("partition", "vi"),
    "rand error": _in("partition", "adapted_rand_error"),
}
_OBJECTS = {
    "true": _in("n_true"),
    "predicted": _in("n_pred"),
    "found": _in("outcomes", "found"),
    "fused": _in("outcomes", "fused"),
    "split": _in("outcomes", "split"),
    "missed": _in("outcomes", "missed"),
    "artifacts": _in("outcomes", "artifacts"),
    "voxels": _in("voxels"),
}
_POINTS = {key: _in("points", key) for key in
           ("tp", "fp", "fn", "precision", "recall", "f1", "mean_distance_um")}  # fmt: skip


def _table(
    title: str, rows: Sequence[tuple[str, Mapping[str, Any]]], columns: Mapping[str, Any]
) -> Table:
    return (
        title,
        ["", *columns],
        [[name, *(_shown(value(one)) for value in columns.values())] for name, one in rows],
    )


def _by_threshold(criterion: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    own = {
        name: {s["threshold"]: s["f1"] for s in one["matching"] if s["criterion"] == criterion}
        for name, one in rows
    }
    thresholds = list(dict.fromkeys(t for found in own.values() for t in found))
    title = f"F1 by {criterion[0].upper()}{criterion[1]}{criterion[2].upper()}"
    cells = [[name, *(_shown(found.get(t)) for t in thresholds)] for name, found in own.items()]
    return title, ["", *(f"{t:g}" for t in thresholds)], cells


def _entries(title: str, entries: Sequence[Mapping[str, Any]]) -> Table:
    heads = list(entries[0])
    return title, heads, [[_shown(entry[head]) for head in heads] for entry in entries]


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
