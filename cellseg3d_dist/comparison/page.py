"""The page of a comparison: one file with figures, tables, tests in words and definitions."""

from __future__ import annotations

from typing import Any

import cellseg3d_dist
from cellseg3d_dist.comparison import tables, words
from cellseg3d_dist.comparison.columns import columns
from cellseg3d_dist.comparison.plots import Plot, draw
from cellseg3d_dist.comparison.result import Comparison
from cellseg3d_dist.report.drawing import DPI, png, svg
from cellseg3d_dist.report.page import embedded, render
from cellseg3d_dist.report.text import plural

#: Images that the page lists; all are in the CSV.
MOST_IMAGES = 200
#: Pixels of a PNG, as multiples of its width on the page.
_SHARPER = 2


def figures_and_page(comparison: Comparison) -> tuple[dict[str, bytes], str]:
    """Figures as PNG and SVG, by file name, and the page as HTML."""
    figures: dict[str, bytes] = {}
    shown = []
    for plot in draw(comparison.basis, words.captions(comparison.basis)):
        plot.figure.set_dpi(_SHARPER * DPI)
        image = png(plot.figure)
        # what was laid out stays so
        plot.figure.set_layout_engine("none")
        figures |= {f"{plot.key}.png": image, f"{plot.key}.svg": svg(plot.figure)}
        shown.append(_shown(plot, image))
    values = _values(comparison, shown)
    return figures, render("cellseg3d_dist.comparison", "page.html.j2", values)


def _shown(plot: Plot, image: bytes) -> dict[str, str]:
    return {
        "key": plot.key,
        "title": plot.title,
        "caption": plot.caption,
        "image": embedded(image),
        "width": f"{plot.figure.get_figwidth() * 100:.0f}",
    }


def _values(comparison: Comparison, plots: list[dict[str, str]]) -> dict[str, Any]:
    basis, test = comparison.basis, comparison.test
    tested = test.p is not None
    verdict = "NOT TESTED"
    if tested:
        verdict = "METHODS DIFFER" if test.significant else "NO SIGNIFICANT DIFFERENCE"
    several = len(basis.images) > 1
    images = tables.images_table(basis) if several else ([], [])
    contents = [(plot["key"], plot["title"]) for plot in plots]
    contents += [("tests", "Statistics"), ("tables", "Tables"), ("numbers", "Definitions")]
    cards = words.cards(basis)
    return {
        "title": f"Comparison of {plural(len(basis.predictions), 'prediction')}",
        "subtitle": ", ".join(basis.names),
        "verdict": verdict,
        "contents": contents,
        "cards": cards,
        "plots": plots,
        "statements": comparison.statements,
        "cautions": comparison.cautions,
        "tested": tested,
        "groups": tables.groups_table(test),
        "pairs": tables.pairs_table(test),
        "effects": words.effect_words(),
        "scores": tables.scores_table(basis),
        "means": tables.means_table(basis) if several else None,
        "curve": tables.curve_table(basis),
        "overlap": words.overlap(basis),
        "images": (images[0], images[1][:MOST_IMAGES]) if several else None,
        "more_images": max(0, len(images[1]) - MOST_IMAGES),
        "definitions": [(c.name, c.meaning) for c in columns(basis)] + list(words.definitions()),
        "references": words.REFERENCES,
        "sources": [(p.name, p.source, p.labels_true) for p in basis.predictions],
        "footer": f"Made by cellseg3d_dist {cellseg3d_dist.__version__}.",
    }
