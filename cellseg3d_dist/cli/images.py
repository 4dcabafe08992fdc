"""Commands about images: info, convert, phantom, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cellseg3d_dist.cli.options import (
    Time,
    VoxelSize,
    Workers,
    count,
    option,
    sizes,
    switch,
    triple,
)
from cellseg3d_dist.cli.terminal import progress_bar
from cellseg3d_dist.errors import BadInputError


def info(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Image, path or URL.")],
    voxel_size: VoxelSize = None,
) -> None:
    """Show what a stored image is: shape, type, voxel size, channels."""
    from cellseg3d_dist.volumes import open_volume

    volume = open_volume(path, voxel_size=sizes(voxel_size))
    for name, unit in (("location", ""), ("kind", ""), ("shape", " voxels (z, y, x)"),
                       ("dtype", ""), ("voxel_size", " um (z, y, x)"), ("origin", " um"),
                       ("channels", ""), ("chunk_shape", " voxels"), ("is_label", "")):  # fmt: skip
        typer.echo(f"{name:<12} {getattr(volume, name)}{unit}")


def convert(
    src: Annotated[str, typer.Argument(metavar="SRC", help="TIFF, Zarr or OME-Zarr; path or URL.")],
    dst: Annotated[Path, typer.Argument(metavar="DST", help="OME-Zarr image to create.")],
    voxel_size: VoxelSize = None,
    time: Time = None,
    labels: Annotated[bool, typer.Option("--labels", help="Write a label image.")] = False,
    ome_zarr: Annotated[str, option("OME-Zarr written: 0.5 or 0.4 [0.5].", "N")] = "0.5",
    workers: Workers = None,
) -> None:
    """Copy a volume into OME-Zarr with a pyramid."""
    from cellseg3d_dist.conversion import convert as run

    if ome_zarr not in ("0.5", "0.4"):
        raise BadInputError(f"--ome-zarr {ome_zarr!r} must be 0.5 or 0.4.")
    with progress_bar() as progress:
        made = run(
            src, dst, labels=labels, ome_zarr=ome_zarr, workers=count(workers), progress=progress,
            voxel_size=sizes(voxel_size), time=count(time, "--time", 0),
        )  # fmt: skip
    typer.echo(made)


def phantom(
    dst: Annotated[Path, typer.Argument(metavar="DST", help="Folder to create.")],
    shape: Annotated[str, option("Voxels [256,256,256].", "Z,Y,X")] = "256,256,256",
    seed: Annotated[int, option("Another seed is another brain [0].", "N", min=0)] = 0,
    voxel_size: Annotated[str, option("Micrometres [1,1,1].", "Z,Y,X")] = "1,1,1",
    dtype: Annotated[str, option("uint8 or uint16 [uint16].", "TYPE")] = "uint16",
    spacing: Annotated[
        float | None, option("Micrometres between packed nuclei [9.5].", "LENGTH")
    ] = None,
    density: Annotated[
        float | None, option("Share of places that hold a nucleus, 0 to 1 [1].", "X")
    ] = None,
    block_shape: Annotated[str, option("Voxels [128,128,128].", "Z,Y,X")] = "128,128,128",
    workers: Workers = None,
) -> None:
    """Make a procedural brain of any size with its exact labels."""
    from cellseg3d_dist.phantoms import phantom as run

    numbers = {"spacing": spacing, "density": density}
    more: dict[str, Any] = {key: value for key, value in numbers.items() if value is not None}
    with progress_bar() as progress:
        made = run(
            dst,
            triple(shape, "--shape"),
            seed,
            voxel_size=sizes(voxel_size),
            dtype=dtype,
            block_shape=triple(block_shape, "--block-shape"),
            workers=count(workers),
            progress=progress,
            **more,
        )
    if not made.n_cells:
        typer.echo(f"the tissue in {shape} voxels has no room for a cell: use a larger --shape")
    typer.echo(f"{made.n_cells} cells\n{made.image}\n{made.labels}")


def demo(
    out: Annotated[
        Path, typer.Argument(metavar="[OUT]", help="Folder to create [demo].", show_default=False)
    ] = Path("demo"),
    shape: Annotated[str, option("Of the phantom, voxels [192,256,256].", "Z,Y,X")] = (
        "192,256,256"
    ),
    real: Annotated[bool, switch("Also real volumes, downloaded by pip [real].")] = True,
    workers: Workers = None,
) -> None:
    """Show segment on a phantom and on real volumes. Scores where cells are known."""
    from cellseg3d_dist.demo import demo as run

    size, n_workers = triple(shape, "--shape"), count(workers)
    shown = "{:<12} {:>8} {:>8} {:>14}  {}"
    heading: tuple[str, ...] = ("sample", "cells", "true", "F1 at IoU 0.5", "report")
    with progress_bar() as progress:
        for line in run(out, shape=size, real=real, workers=n_workers, progress=progress):
            if heading:
                typer.echo(shown.format(*heading))
                heading = ()
            truth = "" if line.n_true is None else line.n_true
            f1 = "" if line.f1 is None else f"{line.f1:.3f}"
            result = line.result
            typer.echo(shown.format(line.name, result.n_cells, truth, f1, result.report))
