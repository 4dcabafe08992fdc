"""The report of several time points: cells over time, and the way to each one's own report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from cellseg3d_dist.report.drawing import MAIN, figure, note, png, style
from cellseg3d_dist.report.page import embedded, render, write_page


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
    values = {
        "title": Path(image).name or image,
        "image": image,
        "parts": parts,
        "complete": all(part["status"] == "complete" for part in parts),
        "cells": sum(part["cells"] or 0 for part in parts),
        "plot": embedded(_plot(parts)),
    }
    target = out / "report.html"
    write_page(target, render("cellseg3d_dist.report", "series.html.j2", values))
    return target


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
