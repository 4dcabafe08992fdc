"""The command train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellseg3d_dist.cli.options import Channel, Config, VoxelSize, option, switch
from cellseg3d_dist.cli.terminal import command_line
from cellseg3d_dist.errors import BadInputError

if TYPE_CHECKING:
    from cellseg3d_dist.training.train import TrainResult

_OF_RESUME = ("device", "threads")


def train(
    ctx: typer.Context,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to create.")],
    config: Config = None,
    images: Annotated[
        list[str] | None, option("Images: file, folder or pattern; may be repeated.", "PATH")
    ] = None,
    labels: Annotated[
        list[str] | None,
        option("Their labels, or run folders; none trains wnet3d without.", "PATH"),
    ] = None,
    validation_images: Annotated[
        list[str] | None, option("Images to score on [a share of the images].", "PATH")
    ] = None,
    validation_labels: Annotated[list[str] | None, option("Their labels.", "PATH")] = None,
    validation_fraction: Annotated[
        str | None, option("Share of the files to score on [0.2].", "X")
    ] = None,
    ignore: Annotated[
        str | None, option("Value of labels where nothing is annotated [none].", "N")
    ] = None,
    channel: Channel = None,
    voxel_size: VoxelSize = None,
    train_voxel_size: Annotated[
        str | None, option("Micrometres that all are resampled to [the images'].", "Z,Y,X")
    ] = None,
    architecture: Annotated[
        str | None, option("Kind of network, see docs [residual_unet].", "NAME")
    ] = None,
    architecture_options: Annotated[
        str | None, option("Of the network: widths=[16,32,64].", "A=1,B=2")
    ] = None,
    representation: Annotated[
        str | None, option("foreground, boundary, bcd, star or flow [bcd].", "NAME")
    ] = None,
    representation_options: Annotated[
        str | None, option("Of the representation and its loss.", "A=1,B=2")
    ] = None,
    objective_options: Annotated[
        str | None, option("Of the loss without labels: w_rec=0.01.", "A=1,B=2")
    ] = None,
    weights: Annotated[str | None, option("Weights to start from: name or file.", "MODEL")] = None,
    patch: Annotated[str | None, option("Voxels of a patch [64,64,64].", "Z,Y,X")] = None,
    halo: Annotated[
        str | None, option("Cropped off each side of a patch when predicting [16,16,16].", "Z,Y,X")
    ] = None,
    batch: Annotated[str | None, option("Patches of a step, per process [2].", "N")] = None,
    foreground_share: Annotated[
        str | None, option("Share of patches placed on a cell [0.7].", "X")
    ] = None,
    augmentation: Annotated[bool | None, switch("Change patches at random [yes].")] = None,
    augmentation_options: Annotated[
        str | None, option("Of the changes: noise=0.5,elastic=0.", "A=1,B=2")
    ] = None,
    steps: Annotated[str | None, option("Batches to train on [5000].", "N")] = None,
    steps_per_epoch: Annotated[str | None, option("Batches of an epoch [100].", "N")] = None,
    validate_every: Annotated[str | None, option("Epochs between scores [5].", "N")] = None,
    early_stopping: Annotated[
        str | None, option("Stop after so many scores without a better one [never].", "N")
    ] = None,
    score: Annotated[
        str | None, option("To be maximised: mean_f1, f1 or dice [mean_f1].", "NAME")
    ] = None,
    learning_rate: Annotated[str | None, option("Highest learning rate [0.001].", "X")] = None,
    weight_decay: Annotated[str | None, option("Weight decay [0.0001].", "X")] = None,
    optimizer: Annotated[str | None, option("adamw, adam or sgd [adamw].", "NAME")] = None,
    schedule: Annotated[str | None, option("cosine or constant [cosine].", "NAME")] = None,
    warm_up: Annotated[
        str | None, option("Share of the steps until the highest rate [0.05].", "X")
    ] = None,
    gradient_clip: Annotated[
        str | None, option("Largest norm of the gradient, 0 for any [1].", "X")
    ] = None,
    ema: Annotated[
        str | None, option("Decay of the averaged weights, 0 for none [0.995].", "X")
    ] = None,
    seed: Annotated[str | None, option("Of everything random [0].", "N")] = None,
    deterministic: Annotated[
        bool | None, switch("The same weights each time on the same device, slower [no].")
    ] = None,
    amp: Annotated[
        str | None, option("Mixed precision on a GPU: auto, off, bf16 or fp16 [auto].", "NAME")
    ] = None,
    device: Annotated[str | None, option("cpu or cuda [cpu].", "NAME")] = None,
    threads: Annotated[str | None, option("CPU threads of the network [cores].", "N")] = None,
    loaders: Annotated[str | None, option("Threads that make batches [1].", "N")] = None,
    tensorboard: Annotated[
        bool | None, switch("Write TensorBoard's files where it is installed [yes].")
    ] = None,
    pictures: Annotated[bool | None, switch("Draw inputs and outputs [yes].")] = None,
    name: Annotated[str | None, option("Name in the card [OUT's].", "NAME")] = None,
    licence: Annotated[str | None, option("Licence of the weights.", "NAME")] = None,
    data_licence: Annotated[str | None, option("Licence of the training data.", "NAME")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training in OUT.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier training in OUT.")
    ] = False,
) -> None:
    """Train a network on images and labels, or wnet3d on images alone."""
    from cellseg3d_dist.training.config import TrainConfig, make_train_config
    from cellseg3d_dist.training.records import Terminal
    from cellseg3d_dist.training.train import resume as go_on
    from cellseg3d_dist.training.train import train as begin

    options = {
        key: value
        for key, value in ctx.params.items()
        if key in TrainConfig.model_fields and value not in (None, [], ())
    }
    if resume:
        _done(go_on(out, listener=Terminal(), **_for_resume(options, config, overwrite)))
        return
    made = make_train_config(_read(config) | options)
    _done(begin(made, out, listener=Terminal(), overwrite=overwrite, command=command_line()))


def _read(config: Path | None) -> dict[str, Any]:
    from cellseg3d_dist.config import read_config
    from cellseg3d_dist.training.config import TrainConfig

    # images may be given on the command line
    return {} if config is None else read_config(config, TrainConfig, {"images": ["-"]})


def _for_resume(options: dict[str, Any], config: Path | None, overwrite: bool) -> dict[str, Any]:
    """What may be given when a training goes on."""
    other = [f"--{key.replace('_', '-')}" for key in options if key not in _OF_RESUME]
    other += ["--config"] * (config is not None) + ["--overwrite"] * overwrite
    if other:
        raise BadInputError(
            f"--resume goes on as OUT/train.yaml says, so it takes no {', '.join(other)}. Leave "
            f"these out, or start a new training."
        )
    return options


def _done(result: TrainResult) -> None:
    from cellseg3d_dist.training.distributed import Processes

    if not Processes.of_environment().leads:
        return
    shown = [f"{key} {value:.3f}" for key, value in result.scores.items() if key != "score"]
    typer.echo(f"{result.steps} steps; best: {', '.join(shown) or 'not scored'}")
    typer.echo(f"best {result.best}\nlast {result.last}")
