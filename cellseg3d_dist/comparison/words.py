"""Sentences of the comparison: what was tested, what came out, what to beware of."""

from __future__ import annotations

from collections.abc import Iterator

from cellseg3d_dist.comparison.basis import Basis
from cellseg3d_dist.comparison.columns import plotted
from cellseg3d_dist.metrics.statistics import ALPHA, FEW, GroupTest, Pair
from cellseg3d_dist.report.text import plural
from cellseg3d_dist.report.words import criterion_name

#: Intervals of more predictions are bars instead of bands.
MOST_BANDS = 5
REFERENCES = (
    "Kruskal, W. H. and Wallis, W. A. (1952). Use of ranks in one-criterion variance analysis. "
    "Journal of the American Statistical Association 47, 583-621.",
    "Conover, W. J. and Iman, R. L. (1979). On multiple-comparisons procedures. Technical report "
    "LA-7677-MS, Los Alamos Scientific Laboratory.",
    "Holm, S. (1979). A simple sequentially rejective multiple test procedure. Scandinavian "
    "Journal of Statistics 6, 65-70.",
    "Cliff, N. (1993). Dominance statistics: ordinal analyses to answer ordinal questions. "
    "Psychological Bulletin 114, 494-509.",
    "Achard, C. et al. (2025). CellSeg3D, self-supervised 3D cell segmentation for fluorescence "
    "microscopy. eLife, doi 10.7554/eLife.99848.",
)


def p_value(p: float | None) -> str:
    """A p as papers write it.

    >>> p_value(0.03412), p_value(2e-7), p_value(1.0), p_value(None)
    ('0.0341', '2.0e-07', '1', '')
    """
    if p is None:
        return ""
    if p >= 0.9995:
        return "1"
    return f"{p:.3g}" if p >= 1e-4 else f"{p:.1e}"


def values_tested(basis: Basis) -> str:
    """What a value is, and how many there are."""
    overlap = criterion_name(basis.criterion)
    count = plural(len(basis.thresholds), "threshold")
    low, high = basis.thresholds[0], basis.thresholds[-1]
    spread = f"{count} of {overlap} ({low:g} to {high:g})"
    n_images = plural(len(basis.images), "image")
    if basis.by == "image":
        return f"by image: a value is the mean F1 of one image over {spread}; {n_images} a method"
    if basis.by == "threshold":
        return f"by threshold: a value is the F1 of the whole at one threshold; {spread} a method"
    return (
        f"by image and threshold: a value is the F1 of one image at one threshold; {n_images} "
        f"times {spread} a method"
    )


def outcome(test: GroupTest) -> Iterator[str]:
    """What came out of the tests."""
    if test.h is None or test.p is None or test.epsilon_squared is None:
        yield test.reason
        return
    verdict = "the methods differ" if test.significant else "no significant difference"
    yield (
        f"Kruskal-Wallis over {len(test.groups)} methods, n = {test.n}: "
        f"H({len(test.groups) - 1}) = {test.h:.2f}, p = {p_value(test.p)}, ε² = "
        f"{test.epsilon_squared:.2f}: {verdict} (level {ALPHA:g})."
    )
    if test.reason:
        yield test.reason
    else:
        yield (
            f"Conover-Iman for all pairs, two-sided, Holm-Bonferroni over "
            f"{plural(len(test.pairs), 'pair')}: {_pairs(test)}"
        )


def _pairs(test: GroupTest) -> str:
    found = [pair for pair in test.pairs if pair.significant]
    if not found:
        return "no pair differs significantly."
    listed = "; ".join(_pair(pair) for pair in found[:6])
    more = f"; {len(found) - 6} more" if len(found) > 6 else ""
    verb = "differs" if len(found) == 1 else "differ"
    return f"{len(found)} {verb} significantly: {listed}{more}."


def _pair(pair: Pair) -> str:
    a, b = (pair.first, pair.second) if pair.delta >= 0 else (pair.second, pair.first)
    return f"{a} above {b} (p = {p_value(pair.p)}, δ = {abs(pair.delta):.2f})"


def cautions(basis: Basis, test: GroupTest) -> Iterator[str]:
    """What the tests cannot know."""
    yield from basis.notes
    if len(test.groups) < 2:
        return
    if basis.by != "image" and len(basis.thresholds) > 1:
        yield (
            "The values are not independent: what is found at one threshold of an image mostly is "
            "at the next, so p is no more than a guide. This is how CellSeg3D's paper pools them; "
            + (
                "compare by image where there are several."
                if basis.by == "both" or not basis.images
                else "compare by image for independent values."
            )
        )
    if basis.by != "threshold":
        yield (
            "All methods saw the same images, which the test takes for independent: differences "
            "that hold image by image but are small against those between images go unseen."
        )
    smallest = min(group.n for group in test.groups)
    if test.h is not None and smallest < FEW:
        yield f"Only {smallest} values a method: p, from the chi-square distribution, is rough."


def intervals(basis: Basis) -> str:
    """What lines and bands of the F1 curves are."""
    if len(basis.images) > 1:
        many = len(basis.predictions) > MOST_BANDS
        return (
            f"Mean over {plural(len(basis.images), 'image')} with its 95 % bootstrap interval "
            f"(images drawn with replacement)."
            + (" Points at one threshold stand side by side." if many else "")
        )
    return "Of each prediction as a whole; no interval, as there are no single images."


def effect_words() -> tuple[tuple[str, str], ...]:
    """What the numbers of the tests are."""
    return (
        ("p", "Kruskal-Wallis: chance of ranks this uneven if all methods were alike. Pairs: "
         "Conover-Iman's t test on mean ranks, corrected for the number of pairs."),
        ("ε²", "H / (n - 1), the share of the variance of ranks that the methods explain: 0 none, "
         "1 all."),
        ("δ", "Cliff's delta: how much more often a value of the first is above one of the "
         "second than below. 1 is always above, 0 no difference, -1 always below."),
        ("median difference", "median of the first method less that of the second."),
    )  # fmt: skip


def overlap(basis: Basis) -> str:
    """The criterion as papers write it."""
    return criterion_name(basis.criterion)


def captions(basis: Basis) -> dict[str, str]:
    """What each plot shows, by its key."""
    images = plural(len(basis.images), "image")
    counts = "Bars are predicted cells, upright lines the true number."
    if len(basis.images) > 1:
        counts = "Each marker is an image; on the dashed line the numbers agree."
    return {
        "f1": intervals(basis),
        "scores": "Each prediction as a whole; the cells of all images count together.",
        "boxes": (
            f"Each dot is one of {images}. Boxes reach from the first to the third quartile with "
            f"the median as a line, whiskers to the last value within 1.5 times that range."
        ),
        "outcomes": (
            "True cells: found, where a predicted one holds more than half of it and no other; "
            "fused, where it holds others too; split, where only several together hold more than "
            "half; else missed. Artifacts are predicted cells that lie mostly in true background."
        ),
        "counts": counts,
    }


def cards(basis: Basis) -> list[dict[str, str]]:
    """Headline numbers: name, value, a line below."""
    out = []
    for column in plotted(basis):
        known = {p.name: column.value(p.whole) for p in basis.predictions}
        values = {name: value for name, value in known.items() if value is not None}
        name = max(values, key=lambda key: values[key])
        out.append({"name": f"best {column.name}", "value": f"{values[name]:.3f}", "sub": name})
    return out


def definitions() -> tuple[tuple[str, str], ...]:
    """Of numbers that are no columns."""
    return (
        ("true, found", "cells of the truth and of the prediction"),
        ("as a whole", "of an image, or of all images of a data set with their cells counted "
         "together; a mean over images instead gives each image one vote"),
        ("95 % bootstrap interval", "of the mean, as images are drawn with replacement 5,000 "
         "times (Efron 1979): how far it depends on which images there were"),
    )  # fmt: skip
