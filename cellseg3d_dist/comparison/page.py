"""The page of a comparison: one file with figures, tables, tests in words and definitions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cellseg3d_dist
from cellseg3d_dist.comparison import tables, words
from cellseg3d_dist.comparison.columns import columns
from cellseg3d_dist.comparison.plots import Plot, draw
from cellseg3d_dist.comparison.result import PAGE, Comparison
from cellseg3d_dist.report.drawing import DPI, png, svg
from cellseg3d_dist.report.page import embedded, render
from cellseg3d_dist.report.text import plural

#: Images that the page lists; all are in the CSV.
MOST_IMAGES = 200
#: Of the PNG files, as multiples of the page's.
_SHARPER = 2


def files(comparison: Comparison) -> Iterator[tuple[str, bytes]]:
    """Figures as PNG and SVG, then the page: name and content of each."""
    plots = list(draw(comparison.basis, words.captions(comparison.basis)))
    shown = []
    for plot in plots:
        shown.append(_embedded(plot))
        plot.figure.set_dpi(_SHARPER * DPI)
        yield f"figures/{plot.key}.png", png(plot.figure)
        yield f"figures/{plot.key}.svg", svg(plot.figure)
    page = render("cellseg3d_dist.comparison", "page.html.j2", _values(comparison, shown))
    yield PAGE, page.encode()


def _embedded(plot: Plot) -> dict[str, str]:
    return {
        "key": plot.key,
        "title": plot.title,
        "caption": plot.caption,
        "image": embedded(png(plot.figure)),
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
        "differ": test.significant,
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
