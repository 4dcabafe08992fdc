"""The sets: parameters of the papers, and what is run on each.

Voxel sizes are those of EmbedSeg's notebooks, of CellSeg3D (mesoSPIM) and of NucMM's Table 1.
A network is told ``seen_as``, where nuclei would otherwise be far smaller than any it knows.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cellseg3d_dist.metrics.boxes import thesis_score_of
from paper_sets import layouts, published
from paper_sets.layouts import Found, LayoutError, Pair
from paper_sets.protocol import (
    Array,
    Sigmas,
    Size,
    best_threshold,
    cleaned_up,
    cropped,
    foreground,
    halved,
    otsu_mask,
    own_cells,
    read,
    read_labels,
    voronoi_otsu,
)
from paper_sets.scoring import counts, f1_curve, planes_apart, pooled

#: Planes of the visual cortex without artifacts: CellSeg3D, notebook "splits_benchmark".
CLEAN_PLANES = 50
#: Where no paper has any.
_SIGMAS = Sigmas(1.0, 2.0)


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    model: str = "nuclei-wnet3d"
    compat: str | None = None
    downsample: int | None = None
    train: Callable[[str, tuple[Pair, ...], Size], str] | None = None

    @property
    def has_network(self) -> bool:
        """Whether there is more than the image."""
        return self.model != "intensity"


@dataclass(frozen=True)
class PaperSet:
    """A published set.

    Attributes
    ----------
    find : where its files lie
    run : from files and options to rows of figures
    voxel_size : (z, y, x) in micrometres, as stored
    seen_as : voxel size that a network is told, if another
    downsample : voxels a side that become one
    threshold : of WNet3D's foreground, as published
    sigmas : of Voronoi-Otsu, voxels after down-sampling
    clean_up : steps, where the paper has them
    """

    key: str
    title: str
    find: Callable[[Path], Found]
    run: Callable[[PaperSet, Found, Options], dict[str, Any]]
    voxel_size: Size
    seen_as: Size | None = None
    downsample: int = 1
    threshold: float = 0.5
    sigmas: Sigmas = _SIGMAS
    clean_up: str | None = None


def prepared(chosen: PaperSet, pair: Pair, options: Options) -> tuple[Array, Array]:
    """A volume and its labels, cropped and down-sampled where the paper does so."""
    image, labels = read(pair.image), read_labels(pair.labels)
    if image.shape != labels.shape:
        raise LayoutError(f"{pair.image} is {image.shape}, but {pair.labels} {labels.shape}.")
    factor = chosen.downsample if options.downsample is None else options.downsample
    if chosen.downsample > 1:
        image, labels = cropped(image, labels)
    return halved(image, labels, factor)


def told(chosen: PaperSet, options: Options) -> Size:
    """The voxel size that a network is told."""
    factor = chosen.downsample if options.downsample is None else options.downsample
    z, y, x = chosen.seen_as or chosen.voxel_size
    return (z * factor, y * factor, x * factor)


def model_for(chosen: PaperSet, found: Found, name: str, options: Options) -> str:
    """The model named, or one trained on what is not scored."""
    pairs = found.train.get(name) or found.train.get("") or ()
    if options.train is None or not pairs:
        return options.model
    return options.train(name or chosen.key, pairs, chosen.seen_as or chosen.voxel_size)


def instances(chosen: PaperSet, found: Found, options: Options) -> dict[str, Any]:
    """F1 by IoU of Otsu's mask and of a network's, Voronoi-Otsu; CellSeg3D, Table S1."""
    predictions: dict[str, list[Array]] = {}
    truths = []
    model = model_for(chosen, found, "", options)
    size, notes = told(chosen, options), list(found.notes)
    sought = None
    if options.has_network and found.tuned:
        ready = [prepared(chosen, pair, options) for pair in found.tuned]
        sought = best_threshold(
            [(foreground(image, model, size, options.compat), labels) for image, labels in ready]
        )
        notes.append(f"threshold with the largest Dice on {found.tuned[0].name}: {sought:g}")
    shown = "trained" if model != options.model else Path(model).stem
    for pair in found.scored:
        image, labels = prepared(chosen, pair, options)
        truths.append(labels)
        ours = {"Otsu": voronoi_otsu(otsu_mask(image), chosen.sigmas)}
        if options.has_network:
            predicted = foreground(image, model, size, options.compat)
            for value in dict.fromkeys((chosen.threshold, sought)):
                if value is not None:
                    cells = voronoi_otsu(predicted > value, chosen.sigmas)
                    ours[f"{shown} > {value:g}"] = cells
            if chosen.clean_up:
                # all are judged by the network's foreground, Otsu's too
                for name, cells in list(ours.items()):
                    ours[f"{name}, cleaned up"] = cleaned_up(cells, predicted, chosen.clean_up)
            ours[f"{shown}, own cells"] = own_cells(image, model, size, {})
        for name, cells in ours.items():
            predictions.setdefault(name, []).append(cells)
    rows = []
    flat = [planes_apart(labels) for labels in truths]
    for name, found_cells in predictions.items():
        whole = pooled(truths, found_cells)
        planes = pooled(flat, [planes_apart(labels) for labels in found_cells])
        rows.append({
            "name": name, "by_plane": f1_curve(planes), "in_3d": f1_curve(whole),
            "counts_by_plane": counts(planes), "counts_in_3d": counts(whole),
            "dice": whole["foreground"]["dice"],
        })  # fmt: skip
    return {
        "kind": "instances", "rows": rows, "notes": notes,
        "n_true_by_plane": sum(map(_n_labels, flat)), "n_true": sum(map(_n_labels, truths)),
        "published_n_true_by_plane": published.N_TRUE_BY_PLANE[chosen.key],
        "published_counts_by_plane": published.COUNTS[chosen.key],
        "published": published.F1_BY_PLANE[chosen.key],
    }  # fmt: skip


def mesospim(chosen: PaperSet, found: Found, options: Options) -> dict[str, Any]:
    """Dice of each held-out volume and F1 by IoU; CellSeg3D, figures 1b and 2a."""
    columns: dict[str, list[float]] = {}
    rows: dict[str, list[tuple[Array, Array]]] = {}
    cells = {}
    for pair in found.scored:
        image, labels = prepared(chosen, pair, options)
        cells[pair.name] = _n_labels(labels)
        ours = {"Otsu": voronoi_otsu(otsu_mask(image), chosen.sigmas)}
        if options.has_network:
            model, size = model_for(chosen, found, pair.name, options), told(chosen, options)
            name = "trained on the others" if model != options.model else model
            predicted = foreground(image, model, size, options.compat)
            ready = [prepared(chosen, p, options) for p in _tuned_on(found, pair)]
            sought = best_threshold(
                [(foreground(i, model, size, options.compat), t) for i, t in ready]
            ) if ready else chosen.threshold  # fmt: skip
            ours[f"{name} > {chosen.threshold:g}"] = voronoi_otsu(
                predicted > chosen.threshold, chosen.sigmas
            )
            ours[f"{name}, threshold sought"] = voronoi_otsu(predicted > sought, chosen.sigmas)
            ours[f"{name}, own cells"] = own_cells(image, model, size, {})
        for name, labels_pred in ours.items():
            truth, kept = labels, labels_pred
            dice = [_dice(truth, kept)]
            if pair.name == "visual" and len(truth) > CLEAN_PLANES:
                dice.append(_dice(truth[:CLEAN_PLANES], kept[:CLEAN_PLANES]))
            columns.setdefault(name, []).append(dice[0])
            columns.setdefault(f"{name}, artifacts cropped", []).append(dice[-1])
            rows.setdefault(name, []).append((truth, kept))
    curves = []
    for name, both in rows.items():
        truths, found_cells = [a for a, _ in both], [b for _, b in both]
        planes = pooled([planes_apart(a) for a in truths], [planes_apart(b) for b in found_cells])
        whole = pooled(truths, found_cells)
        curves.append({"name": name, "by_plane": f1_curve(planes), "in_3d": f1_curve(whole)})
    return {
        "kind": "mesospim", "volumes": [pair.name for pair in found.scored], "rows": curves,
        "dice": {name: _spread(values) for name, values in columns.items()},
        "cells": cells, "published_cells": published.MESOSPIM_CELLS,
        "published_dice": published.MESOSPIM_DICE,
        "published_by_volume": published.MESOSPIM_DICE_BY_VOLUME, "notes": list(found.notes),
    }  # fmt: skip


def _tuned_on(found: Found, pair: Pair) -> tuple[Pair, ...]:
    """Volumes for the threshold: those that this one is held out from."""
    return found.train.get(pair.name, ())[:2]


def nucmm(chosen: PaperSet, found: Found, options: Options) -> dict[str, Any]:
    """AP50 and AP75 over all chunks; NucMM, Table 2."""
    model, size = model_for(chosen, found, "", options), told(chosen, options)
    truths, cells = [], []
    for pair in found.scored:
        image, labels = prepared(chosen, pair, options)
        truths.append(labels)
        own = options.has_network
        cells.append(
            own_cells(image, model, size, {}) if own
            else voronoi_otsu(otsu_mask(image), chosen.sigmas)
        )  # fmt: skip
    ap = pooled(truths, cells)["average_precision"]["all"]
    name = "Otsu" if not options.has_network else Path(model).stem
    if model != options.model:
        name = "U3D-BCD of ours"
    return {
        "kind": "nucmm", "rows": [{"name": name, "ap": [ap["ap50"], ap["ap75"], ap["mean"]]}],
        "chunks": len(truths), "n_true": sum(map(_n_labels, truths)),
        "published": published.NUCMM_AP[chosen.key], "notes": list(found.notes),
    }  # fmt: skip


def spheroids(chosen: PaperSet, found: Found, options: Options) -> dict[str, Any]:
    """The score of the thesis by channel; thesis, Table 7."""
    scores: dict[str, dict[str, list[float]]] = {}
    for pair in found.scored:
        image, labels = prepared(chosen, pair, options)
        channel = next(c for c in published.CHANNELS if c.lower() in pair.name.lower())
        ours = {"Otsu": voronoi_otsu(otsu_mask(image), chosen.sigmas)}
        if options.has_network:
            ours[options.model] = own_cells(image, options.model, told(chosen, options), {})
        for name, cells in ours.items():
            scores.setdefault(name, {}).setdefault(channel, []).append(
                thesis_score_of(labels, cells)
            )
    rows = []
    for name, by_channel in scores.items():
        means = [statistics.fmean(by_channel[c]) if c in by_channel else None
                 for c in published.CHANNELS]  # fmt: skip
        there = [value for value in means if value is not None]
        rows.append({"name": name, "score": [statistics.fmean(there), *means]})
    return {"kind": "spheroids", "rows": rows, "published": published.SPHEROIDS,
            "notes": list(found.notes)}  # fmt: skip


def _n_labels(labels: Array) -> int:
    return int(np.count_nonzero(np.unique(labels)))


def _dice(labels_true: Array, labels_pred: Array) -> float:
    true, pred = labels_true > 0, labels_pred > 0
    whole = int(true.sum()) + int(pred.sum())
    return 2 * int((true & pred).sum()) / whole if whole else 0.0


def _spread(values: list[float]) -> dict[str, Any]:
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"values": values, "mean": statistics.fmean(values), "sd": spread}


def _embedseg(
    key: str, title: str, volumes: tuple[str, str], size: Size, **parameters: Any
) -> PaperSet:
    find = partial(layouts.embedseg, title=title, volume=volumes[0], tuned=volumes[1])
    return PaperSet(key, title, find, instances, size, downsample=2, **parameters)


SETS = {
    chosen.key: chosen
    for chosen in (
        # a nucleus has 2 to 3 voxels across; networks here know some 6 of 1.6 um
        PaperSet(
            "mesospim", "mesoSPIM", layouts.mesospim, mesospim, (5.0, 5.26, 5.26),
            seen_as=(1.6, 1.6, 1.6), threshold=0.6, sigmas=Sigmas(0.65, 0.65),
        ),
        _embedseg(
            "mouse-skull", "Mouse-Skull-Nuclei-CBG", ("X1", "X2_left"), (0.2, 0.073, 0.073),
            threshold=0.45, sigmas=Sigmas(1.0, 15.0), clean_up="mouse-skull",
        ),
        _embedseg(
            "platynereis", "Platynereis-Nuclei-CBG", ("dataset_hdf5_100_0", "dataset_hdf5_150_0"),
            (2.031, 0.406, 0.406), threshold=0.55, sigmas=Sigmas(0.5, 2.75),
        ),
        _embedseg(
            "platynereis-ish", "Platynereis-ISH-Nuclei-CBG", ("X01", "X02_train"),
            (0.4501, 0.4499, 0.4499), threshold=0.55, sigmas=Sigmas(0.5, 2.0),
        ),
        PaperSet(
            "nucmm-z", "Zebrafish (NucMM-Z)", partial(layouts.nucmm, title="Zebrafish (NucMM-Z)"),
            nucmm, (0.48, 0.51, 0.51),
        ),
        PaperSet(
            "nucmm-m", "Mouse (NucMM-M)", partial(layouts.nucmm, title="Mouse (NucMM-M)"),
            nucmm, (0.72, 0.72, 0.72),
        ),
        # the thesis gives no voxel size; this one makes its nuclei about as large as others
        PaperSet(
            "spheroids", "Spheroids (FUCCI)", layouts.spheroids, spheroids, (2.0, 1.0, 1.0),
        ),
    )
}  # fmt: skip
