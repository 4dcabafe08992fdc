"""Commands about runs: segment, plan, resume, relabel, status, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellseg3d_dist.cli.options import (
    AsJson,
    Backend,
    Batch,
    BlockShape,
    Channel,
    CleanUp,
    Compat,
    Config,
    Connectivity,
    Csv,
    Decoder,
    Device,
    Executor,
    Flips,
    FloodHalo,
    Fucci,
    Height,
    Image,
    Instances,
    KeepWork,
    LabellerOptions,
    LabelsTrue,
    Level,
    MaxVolume,
    MemoryLimit,
    MinSeedVoxels,
    MinVolume,
    Model,
    OmeZarr,
    Out,
    OutlineSigma,
    OverlapHalo,
    OverlapThreshold,
    Preprocess,
    RegionBox,
    Scheduler,
    Seeds,
    SeedThreshold,
    SpotSigma,
    Threads,
    Threshold,
    Times,
    VoxelSize,
    Workers,
    option,
    triple,
)
from cellseg3d_dist.cli.terminal import command_line, progress_bar

if TYPE_CHECKING:
    from cellseg3d_dist.segmentation import RunResult


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given, over those of the config file."""
    from cellseg3d_dist.config import read_config

    config = options.pop("config")
    base = read_config(config) if config is not None else {}
    # IMAGE is always given
    base.pop("image", None)
    return base | {key: value for key, value in options.items() if value is not None}


def segment(
    ctx: typer.Context,
    image: Image,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Run folder to create.")],
    config: Config = None,
    model: Model = None,
    instances: Instances = None,
    labeller_options: LabellerOptions = None,
    overlap_halo: OverlapHalo = None,
    overlap_threshold: OverlapThreshold = None,
    threshold: Threshold = None,
    preprocess: Preprocess = None,
    spot_sigma: SpotSigma = None,
    outline_sigma: OutlineSigma = None,
    decoder: Decoder = None,
    seeds: Seeds = None,
    h: Height = None,
    seed_threshold: SeedThreshold = None,
    min_seed_voxels: MinSeedVoxels = None,
    connectivity: Connectivity = None,
    min_volume: MinVolume = None,
    max_volume: MaxVolume = None,
    clean_up: CleanUp = None,
    voxel_size: VoxelSize = None,
    channel: Channel = None,
    time: Times = None,
    level: Level = None,
    region: RegionBox = None,
    mask: Annotated[
        str | None, option("Image that is not 0 where cells are sought.", "PATH")
    ] = None,
    labels_true: LabelsTrue = None,
    block_shape: BlockShape = None,
    flood_halo: FloodHalo = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    memory_limit: MemoryLimit = None,
    executor: Executor = None,
    backend: Backend = None,
    device: Device = None,
    batch: Batch = None,
    threads: Threads = None,
    flips: Flips = None,
    compat: Compat = None,
    ome_zarr: OmeZarr = None,
    fucci: Fucci = None,
    csv: Csv = None,
    keep_work: KeepWork = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run in OUT.")
    ] = False,
) -> None:
    """Find and measure every cell of IMAGE. Labels, table and report go to OUT."""
    from cellseg3d_dist import segmentation

    options = {k: v for k, v in ctx.params.items() if k not in ("image", "out", "overwrite")}
    given = _given(**options)
    with progress_bar() as progress:
        result = segmentation.segment(
            image, out, overwrite=overwrite, progress=progress, command=command_line(), **given
        )
    _done(result)


def resume(
    out: Out, workers: Workers = None, scheduler: Scheduler = None, memory_limit: MemoryLimit = None
) -> None:
    """Go on with a run where it stopped. Finished blocks are checked and kept."""
    from cellseg3d_dist import segmentation

    with progress_bar() as progress:
        result = segmentation.resume(
            out,
            progress=progress,
            workers=workers,
            scheduler=scheduler,
            memory_limit=memory_limit,
        )
    _done(result)


def relabel(
    ctx: typer.Context,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Run folder of a finished run.")],
    new: Annotated[
        Path | None,
        typer.Argument(
            metavar="NEW", help="Run folder to create [OUT/relabelled].", show_default=False
        ),
    ] = None,
    config: Config = None,
    instances: Instances = None,
    labeller_options: LabellerOptions = None,
    overlap_halo: OverlapHalo = None,
    overlap_threshold: OverlapThreshold = None,
    threshold: Threshold = None,
    spot_sigma: SpotSigma = None,
    outline_sigma: OutlineSigma = None,
    decoder: Decoder = None,
    seeds: Seeds = None,
    h: Height = None,
    seed_threshold: SeedThreshold = None,
    min_seed_voxels: MinSeedVoxels = None,
    connectivity: Connectivity = None,
    min_volume: MinVolume = None,
    max_volume: MaxVolume = None,
    clean_up: CleanUp = None,
    labels_true: LabelsTrue = None,
    flood_halo: FloodHalo = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    memory_limit: MemoryLimit = None,
    executor: Executor = None,
    backend: Backend = None,
    ome_zarr: OmeZarr = None,
    fucci: Fucci = None,
    csv: Csv = None,
    keep_work: KeepWork = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run in NEW.")
    ] = False,
) -> None:
    """Find the cells of a run again with other settings. Its prediction is read, not made."""
    from cellseg3d_dist import segmentation

    options = {k: v for k, v in ctx.params.items() if k not in ("out", "new", "overwrite")}
    given = _given(**options)
    with progress_bar() as progress:
        result = segmentation.relabel(
            out, new, overwrite=overwrite, progress=progress, command=command_line(), **given
        )
    _done(result)


def status(out: Out, as_json: AsJson = False) -> None:
    """Show how far a run is: stages, blocks, failures."""
    from cellseg3d_dist.engine.status import describe, lines

    found = describe(out)
    typer.echo(json.dumps(found, indent=1) if as_json else "\n".join(lines(found)))


def plan(
    ctx: typer.Context,
    image: Annotated[
        str | None,
        typer.Argument(
            metavar="IMAGE",
            help="OME-Zarr, Zarr array or TIFF; path or URL.",
            show_default=False,
        ),
    ] = None,
    shape: Annotated[
        str | None, option("In place of IMAGE: voxels of one that is to come.", "Z,Y,X")
    ] = None,
    dtype: Annotated[str, option("Type of that volume [uint16].", "TYPE")] = "uint16",
    measured: Annotated[
        list[str] | None,
        option("Finished run to predict time by; two of different size tell more.", "RUN"),
    ] = None,
    occupied: Annotated[
        float | None,
        option("Share of the volume in blocks with cells, 0-1 [as measured].", "X"),
    ] = None,
    config: Config = None,
    model: Model = None,
    instances: Instances = None,
    labeller_options: LabellerOptions = None,
    overlap_halo: OverlapHalo = None,
    overlap_threshold: OverlapThreshold = None,
    threshold: Threshold = None,
    preprocess: Preprocess = None,
    spot_sigma: SpotSigma = None,
    outline_sigma: OutlineSigma = None,
    seeds: Seeds = None,
    h: Height = None,
    seed_threshold: SeedThreshold = None,
    clean_up: CleanUp = None,
    voxel_size: VoxelSize = None,
    channel: Channel = None,
    time: Times = None,
    level: Level = None,
    region: RegionBox = None,
    device: Device = None,
    batch: Batch = None,
    flips: Flips = None,
    block_shape: BlockShape = None,
    flood_halo: FloodHalo = None,
    workers: Workers = None,
    memory_limit: MemoryLimit = None,
    as_json: AsJson = False,
) -> None:
    """Show what segment would do, and create nothing. Blocks, memory, disk and time."""
    from cellseg3d_dist import segmentation

    own = ("image", "shape", "dtype", "measured", "occupied", "as_json")
    options = {key: value for key, value in ctx.params.items() if key not in own}
    made = segmentation.estimate(
        image,
        measured or (),
        shape=None if shape is None else triple(shape, "--shape"),
        dtype=dtype,
        occupied=occupied,
        **_given(**options),
    )
    typer.echo(json.dumps(made.to_dict(), indent=1) if as_json else "\n".join(made.lines()))


def report(out: Out) -> None:
    """Write report.html of a finished run again."""
    from cellseg3d_dist.config import make_config, read_yaml
    from cellseg3d_dist.engine.folder import RunFolder
    from cellseg3d_dist.engine.series import Series, describe_parts
    from cellseg3d_dist.report.run import rewrite_report
    from cellseg3d_dist.report.series import write_series_report

    folder = RunFolder(out)
    folder.status()
    series = Series.of(out)
    if series is not None:
        image = read_yaml(folder.config).get("image", "")
        typer.echo(write_series_report(out, str(image), describe_parts(series)))
        return
    typer.echo(rewrite_report(out, make_config(read_yaml(folder.config), str(folder.config))))


def _done(result: RunResult) -> None:
    typer.echo(
        f"{result.n_cells} cells, {result.executed} blocks executed\n"
        f"labels {result.labels}\ncells  {result.cells}\nreport {result.report}"
    )
