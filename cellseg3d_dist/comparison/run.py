"""The comparison of predictions, from their scores documents to a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cellseg3d_dist.comparison.basis import choose_basis
from cellseg3d_dist.comparison.folder import new_folder, write
from cellseg3d_dist.comparison.reading import Source, read_predictions
from cellseg3d_dist.comparison.result import Comparison
from cellseg3d_dist.metrics.statistics import compare_groups


def compare(
    *scores: Source,
    out: str | Path | None = None,
    names: Sequence[str] | None = None,
    by: str | None = None,
    criterion: str = "iou",
    overwrite: bool = False,
) -> Comparison:
    """Compare predictions by their scores, with the tests of CellSeg3D's paper.

    Kruskal-Wallis over all predictions and, where it is significant, two-sided Conover-Iman
    tests of all pairs with the correction of Holm and Bonferroni (Achard et al. 2025), with
    effect sizes.

    Parameters
    ----------
    *scores : path, mapping, or anything with ``to_dict``
        Scores documents: files that ``evaluate`` wrote, run folders with true labels, or what
        ``evaluate`` returned. One may hold several predictions.
    out : path, optional
        Folder to create for page, figures (PNG, SVG), tables (CSV) and results (JSON).
    names : sequence of str, optional
        Of all predictions, in their order; by default what the documents call them.
    by : 'image', 'threshold' or 'both', optional
        What a value of the tests is: the mean F1 of an image; the F1 of the whole at a threshold;
        the F1 of each image at each threshold. By default images, where there are three.
    criterion : 'iou', 'iot' or 'iop'
        Overlap that F1 is of.
    overwrite : bool
        Replace an earlier comparison in ``out``.

    Returns
    -------
    Comparison

    Raises
    ------
    BadInputError
        If a document is missing or none, names are not different, or nothing is common.
    OutputError
        If ``out`` may not be created or replaced.
    EnvironmentFailedError
        If ``out`` cannot be written.

    Examples
    --------
    >>> def document(name, values):
    ...     rows = [{"criterion": "iou", "threshold": (i + 1) / 10, "f1": f1}
    ...             for i, f1 in enumerate(values)]
    ...     return {"name": name, "matching": rows}
    >>> found = compare(document("a", [0.9, 0.8, 0.7]), document("b", [0.5, 0.4, 0.3]))
    >>> round(found.test.h, 2), round(found.test.p, 3)
    (3.86, 0.05)
    """
    predictions = read_predictions(scores, names)
    basis = choose_basis(predictions, by, criterion)
    folder = None if out is None else new_folder(out, overwrite)
    found = Comparison(basis, compare_groups(basis.groups()))
    return found if folder is None else replace(found, page=write(found, folder))
