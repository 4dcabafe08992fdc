"""The report of several time points: cells over time, and the way to each one's own report."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.ticker import MaxNLocator

from cellseg3d_dist.measuring.writing import replacing
from cellseg3d_dist.report.drawing import MAIN, figure, note, png, style


def write_series_report(out: Path, image: str, parts: Sequence[dict[str, Any]]) -> Path:
    """Write ``report.html`` of a series.

    Parameters
    ----------
    out : Path
        Its run folder.
    image : str
        Where the image lies.
    parts : sequence of dict
        Of each time point: ``time``, ``folder``, ``status``, ``cells``, ``threshold`` and
        ``failed_blocks``.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    package = resources.files("cellseg3d_dist.report")
    source = package.joinpath("series.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(source).render(
        title=Path(image).name or image,
        image=image,
        css=_style(package.joinpath("report.html.j2").read_text(encoding="utf-8")),
        parts=parts,
        complete=all(part["status"] == "complete" for part in parts),
        cells=sum(part["cells"] or 0 for part in parts),
        plot="data:image/png;base64," + base64.b64encode(_plot(parts)).decode("ascii"),
    )
    target = out / "report.html"
    with replacing(target) as part_file:
        part_file.write_text(page, encoding="utf-8")
    return target


def _style(report: str) -> str:
    """What a run's report looks like."""
    return report.partition("<style>")[2].partition("</style>")[0]


def _plot(parts: Sequence[dict[str, Any]]) -> bytes:
    made = figure(900, 300, layout="constrained")
    axes = made.add_subplot()
    known = [(part["time"], part["cells"]) for part in parts if part["cells"] is not None]
    if known:
        times, cells = np.array(known).T
        axes.plot(times, cells, color=MAIN, marker="o", markersize=4)
        axes.set_ylim(0, max(1, cells.max()) * 1.1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        style(axes, "time point", "cells")
    else:
        note(axes, "no time point has results")
    return png(made, 64)
