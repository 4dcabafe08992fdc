"""Write ``report.html``: one file to mail, without scripts or anything to download."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cellseg3d_dist.errors import VolumeError
from cellseg3d_dist.report import figures, panels, text, words
from cellseg3d_dist.report.cells import Cells, read_cells
from cellseg3d_dist.report.data import ReportData
from cellseg3d_dist.report.methods import methods
from cellseg3d_dist.report.page import embedded, render, write_page
from cellseg3d_dist.report.seams import SeamCheck, seam_check

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def write_report(path: str | os.PathLike[str], data: ReportData) -> Path:
    """Write the report, whole or not at all.

    Parameters
    ----------
    path : path
        Of the HTML file; replaced if it exists.
    data : ReportData

    Returns
    -------
    Path

    Raises
    ------
    VolumeError
        If the cell table cannot be read.
    """
    target = Path(path)
    write_page(target, render_report(data))
    return target


def render_report(data: ReportData) -> str:
    """The report as one HTML text; every value is escaped."""
    cells = read_cells(data.cells_path, data.offset)
    seams = seam_check(
        cells.centroid, cells.volume, data.block_shape, data.shape, voxel_size=data.voxel_size
    )
    values = {
        **_header(data, cells, seams),
        **_pictures(data, cells),
        **_sizes(cells),
        **_scores(data),
        **_trust(data, cells, seams),
        **_methods(data, cells),
        **_run(data),
    }
    values["contents"] = list(_contents(values))
    return render("cellseg3d_dist.report", "report.html.j2", values)


def _contents(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Anchors of the sections that are on the page."""
    if values["failed"]:
        yield "failed", "Failed blocks"
    if values["projections"]:
        yield "projections", "Volume"
    yield from (("slices", "Cells"), ("density", "Density"), ("sizes", "Size and intensity"))
    if values["scores"]:
        yield "scores", "Scores"
    yield "trust", "Completeness and seams"
    if values["threshold_text"]:
        yield "threshold", "Threshold"
    yield from (("methods", "Methods"), ("run", "Run"))


def _header(data: ReportData, cells: Cells, seams: SeamCheck) -> dict[str, Any]:
    facts = [
        data.image_path,
        f"{text.product(data.shape)} voxels of {text.product(data.voxel_size)} µm (z, y, x)",
        data.finished,
    ]
    cards = words.cards(data, cells)
    warnings = list(data.warnings)
    if seams.shows:
        warnings.append("Cells near block faces differ from their neighbours: see the seam check.")
    return {
        "title": data.title,
        "status": data.status,
        "complete": data.status.upper() == "COMPLETE" and not data.failed_blocks,
        "subtitle": " · ".join(fact for fact in facts if fact),
        "failed": data.failed_blocks,
        "statements": data.statements,
        "warnings": warnings,
        "cards": cards,
        # one row of up to five, else two even rows
        "card_columns": len(cards) if len(cards) <= 5 else -(-len(cards) // 2),
        "footer": words.footer(data),
    }


def _pictures(data: ReportData, cells: Cells) -> dict[str, Any]:
    if 0 in data.shape:
        nothing = "The volume has no voxels."
        return {
            "projections": "", "extent_text": nothing, "slices_text": nothing, "slices": [],
            "dots": False, "density": "",
        }  # fmt: skip
    window = panels.window_shape(cells, data)
    slices, unreadable = _slices(cells, data)
    place = "the place with most cells" if cells.total else "the middle of the volume"
    size = text.product([n * s for n, s in zip(window, data.voxel_size, strict=True)])
    return {
        "projections": embedded(panels.projections_figure(data.projections, data.extent_um))
        if data.projections
        else "",
        "extent_text": f"The volume measures {text.product(data.extent_um)} µm (z, y, x).",
        "slices_text": unreadable or f"Slices through {place}, a window of {size} µm (z, y, x).",
        "slices": slices,
        "dots": cells.total <= panels.MAX_DOTS,
        "density": embedded(panels.density_figure(cells, data)) if cells.total else "",
    }


def _slices(cells: Cells, data: ReportData) -> tuple[list[dict[str, str]], str]:
    """The slices; or, of an image that cannot be read there, none and why."""
    try:
        made = panels.slice_figures(cells, data)
    except VolumeError as error:
        return [], f"The slices cannot be shown: {error}"
    shown = [{"axes": s.axes, "where": s.where, "image": embedded(s.image)} for s in made]
    return shown, ""


def _sizes(cells: Cells) -> dict[str, Any]:
    if cells.total == 0:
        return {"histograms": [], "quantiles": [], "quantile_names": [], "sample_text": ""}
    columns = {"volume (µm³)": cells.volume_um3, "equivalent diameter (µm)": cells.diameter_um}
    columns["sphericity"] = cells.sphericity
    for name, values in cells.intensity.items():
        channel = name.removeprefix("intensity_mean").lstrip("_")
        columns[f"mean intensity, {channel}" if channel else "mean intensity"] = values
    shown = [name for name in columns if name not in ("equivalent diameter (µm)", "sphericity")]
    quantiles = []
    for name, values in columns.items():
        known = values[np.isfinite(values)]
        found = np.quantile(known, QUANTILES) if known.size else [float("nan")] * len(QUANTILES)
        quantiles.append({"name": name, "values_": [text.number(float(v)) for v in found]})
    sample = ""
    if cells.weight > 1:
        sample = f"From an even random sample of {cells.volume.size:,} of {cells.total:,} cells."
    return {
        "histograms": [
            {
                "name": name,
                "image": embedded(figures.histogram_figure(columns[name], name, cells.weight)),
            }
            for name in shown
        ],
        "quantiles": quantiles,
        "quantile_names": ["5 %", "25 %", "median", "75 %", "95 %"],
        "sample_text": sample,
    }


def _scores(data: ReportData) -> dict[str, Any]:
    if not data.matching:
        return {"scores": "", "scores_text": "", "score_rows": []}
    criteria = [str(row.get("criterion", "")) for row in data.matching]
    criterion = next((c for c in criteria if c.lower() == "iou"), criteria[0])
    rows = []
    for row in data.matching:
        counts = [f"{int(row[key]):,}" for key in ("tp", "fp", "fn")]
        values = [row.get(key) for key in ("precision", "recall", "f1", "panoptic_quality")]
        rows.append(
            [
                words.criterion_name(str(row.get("criterion", ""))),
                f"{float(row['threshold']):.2f}",
                *counts,
                *("" if v is None else f"{float(v):.3f}" for v in values),
            ]
        )
    return {
        "scores": embedded(figures.scores_figure(data.matching, criterion)),
        "scores_text": words.scores(data, criterion),
        "score_rows": rows,
    }


def _trust(data: ReportData, cells: Cells, seams: SeamCheck) -> dict[str, Any]:
    return {
        "completeness": words.completeness(data, cells),
        "certificate": words.certificate(data),
        "seams_show": seams.shows,
        "seams_text": words.seams(seams),
        "seams": embedded(figures.seam_figure(seams)) if seams.profile is not None else "",
        "seams_caption": words.seams_caption(seams),
    }


def _methods(data: ReportData, cells: Cells) -> dict[str, Any]:
    paragraph, references = methods(data, cells.total, cells.touching_border)
    threshold = ""
    if data.threshold is not None and data.threshold.counts is not None:
        threshold = embedded(figures.threshold_figure(data.threshold))
    return {
        "methods": paragraph,
        "references": references,
        "threshold": threshold,
        "threshold_text": words.threshold(data),
    }


def _run(data: ReportData) -> dict[str, Any]:
    longest = max((t.seconds for t in data.timings), default=0.0) or 1.0
    return {
        "timings": [
            {
                "stage": t.stage,
                "blocks": f"{t.blocks:,}",
                "time": text.duration(t.seconds),
                "speed": "" if t.mvoxel_per_s is None else text.number(t.mvoxel_per_s),
                "percent": f"{100 * t.seconds / longest:.1f}",
            }
            for t in data.timings
        ],
        "command": data.command,
        "versions": list(data.versions.items()),
        "config": data.config_yaml.rstrip(),
    }
