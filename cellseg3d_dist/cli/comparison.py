"""The command that compares predictions by their scores: compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellseg3d_dist.cli.options import option

if TYPE_CHECKING:
    from cellseg3d_dist.comparison import Comparison

#: Columns where there is no terminal that has a width.
_WIDTH = 160
#: From here there is room between columns.
_ROOMY = 100


def compare(
    scores: Annotated[
        list[str],
        typer.Argument(metavar="SCORES...", help="Files of evaluate, or runs with true labels."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FOLDER", help="For page, figures and tables."),
    ] = None,
    names: Annotated[str | None, option("Of all predictions [their own].", "A,B,...")] = None,
    by: Annotated[
        str | None,
        option("What is tested: F1 by image, threshold or both [image, of three].", "NAME"),
    ] = None,
    criterion: Annotated[
        str, option("Overlap that F1 is of: iou, iot or iop [iou].", "NAME")
    ] = "iou",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier comparison in FOLDER.")
    ] = False,
) -> None:
    """Compare predictions by their scores: statistics, plots, tables and a page."""
    from cellseg3d_dist.comparison import compare as run

    called = None if names is None else [name.strip() for name in names.split(",")]
    found = run(*scores, out=out, names=called, by=by, criterion=criterion, overwrite=overwrite)
    _show(found)
    if found.page is not None:
        typer.echo(found.page)


def _show(found: Comparison) -> None:
    from rich.console import Console

    from cellseg3d_dist.comparison import tables, words

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    basis = found.basis
    _print(console, "as a whole", *tables.scores_table(basis))
    _print(console, f"F1 by {words.overlap(basis)} threshold", *tables.curve_table(basis))
    _print(console, "values tested", *tables.groups_table(found.test))
    if found.test.significant:
        _print(console, "pairs", *tables.pairs_table(found.test), names=2)
    for line in (*found.statements, *found.cautions):
        console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _print(
    console: Any, title: str, head: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1
) -> None:
    """A table whose numbers are whole on a narrow terminal too; its first columns are folded."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    gap = 1 if console.width >= _ROOMY else 0
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, gap))
    for number, name in enumerate(head):
        table.add_column(
            Text(name.replace("@", "\n@")),
            justify="left" if number < names else "right",
            overflow="fold",
            min_width=None if number < names else max(len(row[number]) for row in rows),
        )
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
