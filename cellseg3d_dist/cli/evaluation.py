"""The command that scores predictions: evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cellseg3d_dist.cli.options import (
    AsJson,
    BlockShape,
    Level,
    MemoryLimit,
    RegionBox,
    Scheduler,
    Time,
    VoxelSize,
    Workers,
    option,
    switch,
)
from cellseg3d_dist.cli.terminal import progress_bar

_OWN = ("labels_true", "labels_pred", "out", "names", "mask", "regions", "boxes", "confidences",
        "overwrite", "as_json")  # fmt: skip


def evaluate(
    ctx: typer.Context,
    labels_true: Annotated[
        str,
        typer.Argument(
            metavar="LABELS_TRUE", help="True labels, a folder of such images, or true points."
        ),
    ],
    labels_pred: Annotated[
        list[str],
        typer.Argument(
            metavar="LABELS_PRED...", help="Predicted labels, run folders, or folders by name."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Scores to write, JSON.")
    ] = None,
    names: Annotated[str | None, option("Of the predictions [from paths].", "A,B,...")] = None,
    thresholds: Annotated[
        str | None, option("Overlaps that make a match [0.1 to 0.9].", "T,T,...")
    ] = None,
    criteria: Annotated[
        str | None, option("What overlap is: iou, iot, iop [all].", "NAME,...")
    ] = None,
    mask: Annotated[str | None, option("Only count where this image is not 0.", "PATH")] = None,
    region: RegionBox = None,
    boxes: Annotated[
        str | None, option("Only count in these boxes: CSV, JSON or text.", "FILE|BOX;BOX")
    ] = None,
    ignore: Annotated[
        str | None, option("True label whose voxels do not count, such as 255.", "LABEL")
    ] = None,
    regions: Annotated[
        str | None, option("Anatomical regions as labels: cells of each are counted.", "PATH")
    ] = None,
    confidences: Annotated[
        str | None,
        option("Columns label, score, for AP: a table of each prediction.", "FILE,..."),
    ] = None,
    classes: Annotated[bool, switch("Labels are classes: scores of each class.")] = False,
    thesis: Annotated[
        bool, switch("Also the score per nucleus with its bounding box; reads twice.")
    ] = False,
    distance: Annotated[
        str | None, option("Match centroids up to it [for points 15um].", "LENGTH")
    ] = None,
    first_voxel: Annotated[
        str | None, option("Coordinate of the first voxel in lists of points [0].", "0|1")
    ] = None,
    voxel_size: VoxelSize = None,
    level: Level = None,
    time: Time = None,
    block_shape: BlockShape = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    memory_limit: MemoryLimit = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
    as_json: AsJson = False,
) -> None:
    """Score predicted labels against true ones."""
    from cellseg3d_dist.evaluation import evaluate as run

    options: dict[str, Any] = {
        key: value for key, value in ctx.params.items() if key not in _OWN and value is not None
    }
    called = None if names is None else [name.strip() for name in names.split(",")]
    with progress_bar() as progress:
        found = run(
            labels_true,
            labels_pred,
            out,
            names=called,
            mask=mask,
            regions=regions,
            boxes=boxes,
            confidences=None if confidences is None else confidences.split(","),
            overwrite=overwrite,
            progress=progress,
            **options,
        )
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1))
        return
    _show(found.predictions)
    if out is not None:
        typer.echo(f"scores {out}")


def _show(predictions: Any) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cellseg3d_dist.evaluation.tables import tables_of

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    for title, heads, rows in tables_of(predictions):
        table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
        for number, head in enumerate(heads):
            table.add_column(Text(head), justify="right" if number else "left")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
        console.print()
