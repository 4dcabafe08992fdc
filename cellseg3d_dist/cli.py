"""The command line: options in, one call, lines and an exit code out; no logic."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import click
import typer
from rich.console import Console
from rich.table import Table

from cellseg3d_dist import __version__
from cellseg3d_dist.errors import BadInputError, CellSegError

app = typer.Typer(
    name="cellseg3d-dist",
    help="Find and measure every cell in large 3D microscopy, block by block.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
_out = Console(highlight=False, soft_wrap=True)

Out = Annotated[Path, typer.Argument(help="Run folder.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Worker processes of the own cluster.")]
Three = Annotated[str | None, typer.Option(metavar="Z,Y,X")]


def _option(help: str, metavar: str | None = None) -> Any:
    return typer.Option(help=help, metavar=metavar, show_default=False)


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given, under those of the config file."""
    from cellseg3d_dist.config import read_yaml

    config = options.pop("config")
    base = read_yaml(config) if config is not None else {}
    return base | {key: value for key, value in options.items() if value is not None}


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    from cellseg3d_dist.engine.progress import TerminalProgress

    with TerminalProgress() as progress:
        yield progress


@app.command()
def segment(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(help="OME-Zarr, Zarr array or TIFF; path or URL.")],
    out: Annotated[Path, typer.Argument(help="Run folder to create.")],
    config: Annotated[Path | None, _option("YAML with the same keys; options win.")] = None,
    model: Annotated[str | None, _option("Where the foreground comes from [intensity].")] = None,
    instances: Annotated[str | None, _option("voronoi-otsu or components [voronoi-otsu].")] = None,
    threshold: Annotated[str | None, _option("otsu or a number in image units [otsu].")] = None,
    spot_sigma: Annotated[str | None, _option("Smoothing before spots [3.2um].", "LENGTH")] = None,
    outline_sigma: Annotated[
        str | None, _option("Smoothing before the threshold [2um].", "LENGTH")
    ] = None,
    connectivity: Annotated[str | None, _option("6, 18 or 26, for components [6].")] = None,
    min_volume: Annotated[str | None, _option("Smallest cell, voxels or um3.", "VOLUME")] = None,
    max_volume: Annotated[str | None, _option("Largest cell, voxels or um3.", "VOLUME")] = None,
    voxel_size: Annotated[str | None, _option("Micrometres.", "Z,Y,X")] = None,
    channel: Annotated[int | None, _option("Channel to segment [0].")] = None,
    time: Annotated[int | None, _option("Time point, needed where there are several.")] = None,
    level: Annotated[int | None, _option("Pyramid level [0].")] = None,
    region: Annotated[str | None, _option("Part of the volume.", "Z0:Z1,Y0:Y1,X0:X1")] = None,
    mask: Annotated[str | None, _option("Image that is not 0 where cells are sought.")] = None,
    labels_true: Annotated[str | None, _option("True labels, to score against.")] = None,
    block_shape: Annotated[str | None, _option("Any shape [from memory].", "Z,Y,X")] = None,
    flood_halo: Annotated[int | None, _option("Voxels [from the sigmas].")] = None,
    workers: Annotated[int | None, _option("Worker processes [cores].")] = None,
    scheduler: Annotated[str | None, _option("Address or file of a Dask scheduler.")] = None,
    memory_limit: Annotated[str | None, _option("Per worker, such as 2GB [from RAM].")] = None,
    executor: Annotated[str | None, _option("dask, or serial for debugging [dask].")] = None,
    backend: Annotated[str | None, _option("numba or opencl [numba].")] = None,
    device: Annotated[str | None, _option("cpu [cpu].")] = None,
    ome_zarr: Annotated[str | None, _option("Version written, 0.5 or 0.4 [0.5].")] = None,
    csv: Annotated[bool | None, _option("Write cells.csv too.")] = None,
    keep_work: Annotated[bool | None, _option("Keep intermediate files.")] = None,
    overwrite: Annotated[bool, _option("Replace an earlier run in OUT.")] = False,
) -> None:
    """Find and measure every cell of IMAGE; labels, table and report go to OUT."""
    from cellseg3d_dist import segmentation

    options = dict(ctx.params)
    for name in ("image", "out", "overwrite"):
        options.pop(name)
    given = _given(**options) | {}
    given.pop("image", None)
    with _progress() as progress:
        result = segmentation.segment(
            image, out, overwrite=overwrite, progress=progress, command=_command(), **given
        )
    _done(result)


@app.command()
def resume(out: Out) -> None:
    """Go on with a run where it stopped; finished blocks are checked and kept."""
    from cellseg3d_dist import segmentation

    with _progress() as progress:
        result = segmentation.resume(out, progress=progress)
    _done(result)


@app.command()
def status(
    out: Out, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False
) -> None:
    """How far a run is: stages, blocks, failures."""
    from cellseg3d_dist.engine.status import describe, lines

    found = describe(out)
    _out.print(json.dumps(found, indent=1) if as_json else "\n".join(lines(found)), markup=False)


@app.command()
def plan(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(help="OME-Zarr, Zarr array or TIFF; path or URL.")],
    config: Annotated[Path | None, _option("YAML as for segment.")] = None,
    instances: Annotated[str | None, _option("As for segment.")] = None,
    threshold: Annotated[str | None, _option("As for segment.")] = None,
    spot_sigma: Annotated[str | None, _option("As for segment.")] = None,
    outline_sigma: Annotated[str | None, _option("As for segment.")] = None,
    voxel_size: Annotated[str | None, _option("Micrometres.", "Z,Y,X")] = None,
    channel: Annotated[int | None, _option("As for segment.")] = None,
    time: Annotated[int | None, _option("As for segment.")] = None,
    level: Annotated[int | None, _option("As for segment.")] = None,
    region: Annotated[str | None, _option("As for segment.")] = None,
    block_shape: Annotated[str | None, _option("As for segment.", "Z,Y,X")] = None,
    flood_halo: Annotated[int | None, _option("As for segment.")] = None,
    workers: Annotated[int | None, _option("As for segment.")] = None,
    memory_limit: Annotated[str | None, _option("As for segment.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """What segment would do: blocks, memory, disk and hours. Creates nothing."""
    from cellseg3d_dist import segmentation

    options = dict(ctx.params)
    options.pop("as_json")
    options.pop("image")
    given = _given(**options)
    given.pop("image", None)
    made = segmentation.plan(image, **given)
    if as_json:
        _out.print(json.dumps(made.to_dict(), indent=1), markup=False)
        return
    _out.print(
        f"{made.n_blocks} blocks of {made.block_shape} in a volume of {made.shape}, "
        f"{made.workers} workers\n"
        f"about {made.hours:.2g} h, up to {made.disk_bytes / 1e9:.2f} GB on disk\n"
        f"memory per worker, limit {made.memory_limit / 2**30:.2f} GiB:",
        markup=False,
    )
    for stage in made.stages:
        region_text = "x".join(map(str, stage.read_region))
        _out.print(f"  {stage.stage:<10} {stage.n_bytes / 2**30:.2f} GiB, reads {region_text}")


@app.command()
def info(
    path: Annotated[str, typer.Argument(help="Path or URL.")],
    voxel_size: Annotated[str | None, _option("Micrometres.", "Z,Y,X")] = None,
) -> None:
    """What a stored image is: shape, type, voxel size, channels."""
    from cellseg3d_dist.volumes import open_volume

    sizes = [float(v) for v in _split(voxel_size)] if voxel_size else None
    volume = open_volume(path, voxel_size=sizes)
    table = Table(show_header=False, box=None)
    for name in ("location", "kind", "shape", "dtype", "voxel_size", "origin", "channels",
                 "chunk_shape", "is_label"):  # fmt: skip
        table.add_row(name, str(getattr(volume, name)))
    _out.print(table)


@app.command()
def convert(
    src: Annotated[str, typer.Argument(help="TIFF, Zarr or OME-Zarr; path or URL.")],
    dst: Annotated[Path, typer.Argument(help="OME-Zarr image to create.")],
    voxel_size: Annotated[str | None, _option("Micrometres.", "Z,Y,X")] = None,
    time: Annotated[int | None, _option("Time point, needed where there are several.")] = None,
    labels: Annotated[bool, _option("Write a label image.")] = False,
    ome_zarr: Annotated[str, _option("Version written, 0.5 or 0.4 [0.5].")] = "0.5",
    workers: Annotated[int | None, _option("Worker processes [cores].")] = None,
) -> None:
    """Copy a volume into OME-Zarr with a pyramid."""
    from cellseg3d_dist.conversion import convert as run

    if ome_zarr not in ("0.5", "0.4"):
        raise BadInputError(f"--ome-zarr {ome_zarr!r} must be 0.5 or 0.4.")
    sizes = [float(v) for v in _split(voxel_size)] if voxel_size else None
    with _progress() as progress:
        made = run(
            src, dst, labels=labels, ome_zarr=ome_zarr, workers=workers, progress=progress,
            voxel_size=sizes, time=time,
        )  # fmt: skip
    _out.print(f"{made}", markup=False)


@app.command()
def report(out: Out) -> None:
    """Write report.html of a finished run again."""
    from cellseg3d_dist.config import make_config, read_yaml
    from cellseg3d_dist.engine.folder import RunFolder
    from cellseg3d_dist.report.run import rewrite_report

    folder = RunFolder(out)
    folder.status()
    made = rewrite_report(out, make_config(read_yaml(folder.config), str(folder.config)))
    _out.print(f"{made}", markup=False)


@app.command()
def phantom(
    dst: Annotated[Path, typer.Argument(help="Folder to create.")],
    shape: Annotated[str, typer.Option(metavar="Z,Y,X", help="Voxels.")] = "256,256,256",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    voxel_size: Annotated[str, typer.Option(metavar="Z,Y,X", help="Micrometres.")] = "1,1,1",
    dtype: Annotated[str, typer.Option(help="uint8 or uint16.")] = "uint16",
    spacing: Annotated[float | None, _option("Micrometres between packed nuclei.")] = None,
    density: Annotated[float | None, _option("0 to 1.")] = None,
    block_shape: Annotated[str, typer.Option(metavar="Z,Y,X")] = "128,128,128",
    workers: Annotated[int | None, _option("Worker processes [cores].")] = None,
) -> None:
    """Make a procedural brain of any size with its exact labels."""
    from cellseg3d_dist.phantoms import phantom as run

    numbers = {"spacing": spacing, "density": density}
    more: dict[str, Any] = {key: value for key, value in numbers.items() if value is not None}
    z, y, x = (_int(v, "--voxel-size", float) for v in _split(voxel_size))
    with _progress() as progress:
        made = run(
            dst,
            _triple(shape, "--shape"),
            seed,
            voxel_size=(z, y, x),
            dtype=dtype,
            block_shape=_triple(block_shape, "--block-shape"),
            workers=workers,
            progress=progress,
            **more,
        )
    _out.print(f"{made.n_cells} cells\n{made.image}\n{made.labels}", markup=False)


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="Folder to create.")] = Path("demo"),
    shape: Annotated[str, typer.Option(metavar="Z,Y,X", help="Of the phantom.")] = "192,256,256",
    real: Annotated[bool, typer.Option(help="Also real volumes, brought by pip.")] = True,
    workers: Annotated[int | None, _option("Worker processes [cores].")] = None,
) -> None:
    """Show the main job on a phantom with known cells and on real volumes."""
    from cellseg3d_dist.demo import demo as run

    table = Table("sample", "cells", "true", "F1 at IoU 0.5", "report")
    with _progress() as progress:
        for line in run(
            out, shape=_triple(shape, "--shape"), real=real, workers=workers, progress=progress
        ):
            truth = "" if line.n_true is None else str(line.n_true)
            f1 = "" if line.f1 is None else f"{line.f1:.3f}"
            table.add_row(line.name, str(line.result.n_cells), truth, f1, str(line.result.report))
    _out.print(table)


def _split(text: str) -> list[str]:
    parts = text.split(",")
    if len(parts) != 3:
        raise BadInputError(f"{text!r} must be three numbers, such as 1,1,1.")
    return parts


def _int(text: str, name: str, kind: type[int] | type[float]) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise BadInputError(f"{name}: {text!r} is not a number.") from None


def _triple(text: str, name: str) -> tuple[int, int, int]:
    z, y, x = (cast(int, _int(part, name, int)) for part in _split(text))
    if min(z, y, x) < 1:
        raise BadInputError(f"{name} {text!r} must be at least 1 along each axis.")
    return (z, y, x)


def _command() -> str:
    import shlex

    return shlex.join(["cellseg3d-dist", *sys.argv[1:]])


def _done(result: Any) -> None:
    _out.print(
        f"{result.n_cells} cells, {result.executed} blocks executed\n"
        f"labels {result.labels}\ncells  {result.cells}\nreport {result.report}",
        markup=False,
    )


def _version(value: bool) -> None:
    if value:
        _out.print(f"cellseg3d-dist {__version__}", markup=False)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; errors become one line on stderr and an exit code.

    0 done, 2 bad input, 3 some blocks failed, 4 environment, 130 and 143 signals.
    """
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run with these arguments and return the exit code."""
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments, prog_name="cellseg3d-dist", standalone_mode=False)
        return int(code or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2
    except click.ClickException as error:
        return _fail(" ".join(error.format_message().split()), 2)
    except CellSegError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.exceptions.Abort) as error:
        number = int(getattr(error, "signal_number", signal.SIGINT))
        return _fail("stopped. Go on with: cellseg3d-dist resume OUT", 128 + number)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fail(text: str, code: Literal[1, 2, 3, 4] | int) -> int:
    click.echo(f"error: {text}", err=True)
    return code
