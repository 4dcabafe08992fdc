"""The command that searches settings: tune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cellseg3d_dist.cli.options import (
    Batch,
    Channel,
    Connectivity,
    Decoder,
    Device,
    Flips,
    Instances,
    Level,
    MinVolume,
    Model,
    OutlineSigma,
    RegionBox,
    SpotSigma,
    Threads,
    Threshold,
    Time,
    VoxelSize,
    count,
    option,
)
from cellseg3d_dist.cli.terminal import progress_bar

_OUTPUTS = ("images", "labels", "out", "score", "criterion", "sweeps", "write_card", "overwrite")


def tune(
    ctx: typer.Context,
    images: Annotated[
        str, typer.Argument(metavar="IMAGE", help="Image, folder of images, or a pattern.")
    ],
    labels: Annotated[
        str, typer.Argument(metavar="LABELS", help="Its true labels, or those of all, by name.")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="Config file to write.")
    ] = Path("tuned.yaml"),
    model: Model = None,
    instances: Instances = None,
    score: Annotated[
        str, option("What is maximised: mean_f1, f1 (at 0.5) or dice [mean_f1].", "NAME")
    ] = "mean_f1",
    criterion: Annotated[
        str, option("Overlap that F1 is of: iou, iot or iop [iou].", "NAME")
    ] = "iou",
    sweeps: Annotated[str | None, option("Over all settings, at most [6].", "N")] = None,
    threshold: Threshold = None,
    spot_sigma: SpotSigma = None,
    outline_sigma: OutlineSigma = None,
    decoder: Decoder = None,
    connectivity: Connectivity = None,
    min_volume: MinVolume = None,
    voxel_size: VoxelSize = None,
    channel: Channel = None,
    time: Time = None,
    level: Level = None,
    region: RegionBox = None,
    device: Device = None,
    batch: Batch = None,
    threads: Threads = None,
    flips: Flips = None,
    write_card: Annotated[
        bool,
        typer.Option("--write-card", help="Also put them on the card of a model of your own."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
) -> None:
    """Search the settings that find labelled cells best. Writes a config for segment.

    Settings given, such as --threshold, are where the search starts.
    """
    from cellseg3d_dist.tuning import tune as run
    from cellseg3d_dist.tuning.cards import own_card
    from cellseg3d_dist.tuning.cards import write_card as put
    from cellseg3d_dist.tuning.result import new_files

    options = {k: v for k, v in ctx.params.items() if k not in _OUTPUTS}
    config, picture = new_files(out, overwrite)
    if write_card:
        own_card(model or "intensity")
    how: dict[str, Any] = {"score": score, "criterion": criterion}
    if sweeps is not None:
        how["sweeps"] = count(sweeps, "--sweeps")
    with progress_bar() as progress:
        result = run(images, labels, progress=progress, **how, **options)
    result.write(config, picture)
    for line in result.lines():
        typer.echo(line)
    typer.echo(f"config  {config}\npicture {picture}")
    if write_card:
        typer.echo(f"card    {put(result, result.config['model'])}")
