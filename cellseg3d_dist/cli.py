"""The command line: options in, one call, lines and an exit code out; no logic."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from cellseg3d_dist import __version__
from cellseg3d_dist.errors import BadInputError, CellSegError
from cellseg3d_dist.options import (
    AsJson,
    BlockShape,
    Channel,
    Config,
    FloodHalo,
    Image,
    Instances,
    Level,
    MemoryLimit,
    Out,
    OutlineSigma,
    RegionBox,
    Scheduler,
    SpotSigma,
    Threshold,
    Time,
    VoxelSize,
    Workers,
    count,
    option,
    sizes,
    switch,
    triple,
)

if TYPE_CHECKING:
    from cellseg3d_dist.segmentation import RunResult

app = typer.Typer(
    name="cellseg3d-dist",
    help="Find and measure every cell in large 3D microscopy, block by block.",
    epilog="Exit codes: 0 done, 2 bad input or option, 3 some blocks failed (resume OUT goes "
    "on), 4 disk, cluster or device failed, 130 and 143 stopped by a signal.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)
# typer is built on click, or on a copy of it that it brings along
_UsageError = cast(type[Any], typer.BadParameter.__mro__[1])
_ClickError = cast(type[Any], typer.BadParameter.__mro__[2])


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given, over those of the config file."""
    from cellseg3d_dist.config import read_config

    config = options.pop("config")
    base = read_config(config) if config is not None else {}
    # IMAGE is always given
    base.pop("image", None)
    return base | {key: value for key, value in options.items() if value is not None}


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    from cellseg3d_dist.engine.progress import TerminalProgress

    with TerminalProgress() as progress:
        yield progress


@app.command()
def segment(
    ctx: typer.Context,
    image: Image,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Run folder to create.")],
    config: Config = None,
    model: Annotated[
        str | None, option("Where the foreground comes from: intensity [intensity].", "MODEL")
    ] = None,
    instances: Instances = None,
    threshold: Threshold = None,
    spot_sigma: SpotSigma = None,
    outline_sigma: OutlineSigma = None,
    connectivity: Annotated[
        str | None, option("6, 18 or 26 neighbours, for components [6].", "N")
    ] = None,
    min_volume: Annotated[
        str | None, option("Drop smaller cells: 200um3, or voxels.", "VOLUME")
    ] = None,
    max_volume: Annotated[
        str | None, option("Drop larger cells: 5000um3, or voxels.", "VOLUME")
    ] = None,
    voxel_size: VoxelSize = None,
    channel: Channel = None,
    time: Time = None,
    level: Level = None,
    region: RegionBox = None,
    mask: Annotated[
        str | None, option("Image that is not 0 where cells are sought.", "PATH")
    ] = None,
    labels_true: Annotated[str | None, option("True labels, to score against.", "PATH")] = None,
    block_shape: BlockShape = None,
    flood_halo: FloodHalo = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    memory_limit: MemoryLimit = None,
    executor: Annotated[str | None, option("dask, or serial to debug [dask].", "NAME")] = None,
    backend: Annotated[str | None, option("numba or opencl [numba].", "NAME")] = None,
    device: Annotated[str | None, option("cpu [cpu].", "NAME")] = None,
    ome_zarr: Annotated[str | None, option("OME-Zarr written: 0.5 or 0.4 [0.5].", "N")] = None,
    csv: Annotated[bool | None, switch("Write cells.csv too [no].")] = None,
    keep_work: Annotated[bool | None, switch("Keep intermediate files [no].")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run in OUT.")
    ] = False,
) -> None:
    """Find and measure every cell of IMAGE. Labels, table and report go to OUT."""
    from cellseg3d_dist import segmentation

    options = {k: v for k, v in ctx.params.items() if k not in ("image", "out", "overwrite")}
    given = _given(**options)
    with _progress() as progress:
        result = segmentation.segment(
            image, out, overwrite=overwrite, progress=progress, command=_command(), **given
        )
    _done(result)


@app.command()
def resume(
    out: Out, workers: Workers = None, scheduler: Scheduler = None, memory_limit: MemoryLimit = None
) -> None:
    """Go on with a run where it stopped. Finished blocks are checked and kept."""
    from cellseg3d_dist import segmentation

    with _progress() as progress:
        result = segmentation.resume(
            out,
            progress=progress,
            workers=workers,
            scheduler=scheduler,
            memory_limit=memory_limit,
        )
    _done(result)


@app.command()
def status(out: Out, as_json: AsJson = False) -> None:
    """Show how far a run is: stages, blocks, failures."""
    from cellseg3d_dist.engine.status import describe, lines

    found = describe(out)
    typer.echo(json.dumps(found, indent=1) if as_json else "\n".join(lines(found)))


@app.command()
def plan(
    ctx: typer.Context,
    image: Image,
    config: Config = None,
    instances: Instances = None,
    threshold: Threshold = None,
    spot_sigma: SpotSigma = None,
    outline_sigma: OutlineSigma = None,
    voxel_size: VoxelSize = None,
    channel: Channel = None,
    time: Time = None,
    level: Level = None,
    region: RegionBox = None,
    block_shape: BlockShape = None,
    flood_halo: FloodHalo = None,
    workers: Workers = None,
    memory_limit: MemoryLimit = None,
    as_json: AsJson = False,
) -> None:
    """Show what segment would do, and create nothing. Blocks, memory, disk and time."""
    from cellseg3d_dist import segmentation

    options = {k: v for k, v in ctx.params.items() if k not in ("image", "as_json")}
    made = segmentation.plan(image, **_given(**options))
    typer.echo(json.dumps(made.to_dict(), indent=1) if as_json else "\n".join(made.lines()))


@app.command()
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


@app.command()
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
    with _progress() as progress:
        made = run(
            src, dst, labels=labels, ome_zarr=ome_zarr, workers=count(workers), progress=progress,
            voxel_size=sizes(voxel_size), time=count(time, "--time", 0),
        )  # fmt: skip
    typer.echo(made)


@app.command()
def report(out: Out) -> None:
    """Write report.html of a finished run again."""
    from cellseg3d_dist.config import make_config, read_yaml
    from cellseg3d_dist.engine.folder import RunFolder
    from cellseg3d_dist.report.run import rewrite_report

    folder = RunFolder(out)
    folder.status()
    typer.echo(rewrite_report(out, make_config(read_yaml(folder.config), str(folder.config))))


@app.command()
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
    with _progress() as progress:
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
    typer.echo(f"{made.n_cells} cells\n{made.image}\n{made.labels}")


@app.command()
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
    with _progress() as progress:
        for line in run(out, shape=size, real=real, workers=n_workers, progress=progress):
            if heading:
                typer.echo(shown.format(*heading))
                heading = ()
            truth = "" if line.n_true is None else line.n_true
            f1 = "" if line.f1 is None else f"{line.f1:.3f}"
            result = line.result
            typer.echo(shown.format(line.name, result.n_cells, truth, f1, result.report))


def _command() -> str:
    return shlex.join(["cellseg3d-dist", *sys.argv[1:]])


def _done(result: RunResult) -> None:
    typer.echo(
        f"{result.n_cells} cells, {result.executed} blocks executed\n"
        f"labels {result.labels}\ncells  {result.cells}\nreport {result.report}"
    )


def _version(value: bool) -> None:
    if value:
        typer.echo(f"cellseg3d-dist {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; errors become one line on stderr and an exit code."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    # libraries log what the error line already says; runs log to their own files
    logging.getLogger().addHandler(logging.NullHandler())
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run with these arguments and return the exit code."""
    command: Any = typer.main.get_command(app)
    try:
        # not its main(), which has exit codes of its own for signals and closed pipes
        with command.make_context("cellseg3d-dist", list(arguments or ["--help"])) as context:
            command.invoke(context)
        sys.stdout.flush()
        return 0
    except typer.Exit as error:
        return error.exit_code if arguments else 2
    except _ClickError as error:
        return _fail(_with_help(error), 2)
    except CellSegError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt as error:
        number = int(getattr(error, "signal_number", signal.SIGINT))
        go_on = getattr(error, "go_on", "")
        text = f"stopped by {signal.Signals(number).name}."
        if go_on:
            text += f" Finished blocks are kept; {go_on}"
        return _fail(text, 128 + number)
    except BrokenPipeError:
        # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _with_help(error: Any) -> str:
    text = " ".join(error.format_message().split())
    if isinstance(error, _UsageError) and error.ctx is not None:
        text = text if text[-1:] in ".?!" else f"{text}."
        text += f" See: {error.ctx.command_path} --help"
    return text


def _fail(text: str, code: int) -> int:
    """One line: what is in a path or key may hold anything."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    typer.echo(f"error: {shown}", err=True)
    return code
