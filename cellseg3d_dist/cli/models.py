"""Commands about networks: models list, models show, models convert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cellseg3d_dist.cli.options import AsJson, option, sizes, switch
from cellseg3d_dist.errors import BadInputError

app = typer.Typer(
    name="models",
    help="List, show and convert networks.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)

_LISTED = "{:<24} {:<14} {:<14} {:>16} {:>7}  {}"


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the networks that come with this package."""
    from cellseg3d_dist.networks.cards import bundled, read_card, resolve

    found = [(resolve(name), name) for name in bundled()]
    cards = [(name, read_card(at.card), at.weights.stat().st_size) for at, name in found]
    if as_json:
        shown = [{"name": n, "bytes": size, "card": _plain(card)} for n, card, size in cards]
        typer.echo(json.dumps(shown, indent=1))
        return
    typer.echo(
        _LISTED.format("name", "architecture", "represents", "voxel size um", "MB", "scores")
    )
    for name, card, size in cards:
        voxels = ",".join(f"{value:g}" for value in card.voxel_size)
        scores = ", ".join(f"{key} {_short(value)}" for key, value in card.scores.items())
        typer.echo(
            _LISTED.format(
                name, card.architecture, card.representation, voxels, f"{size / 1e6:.1f}", scores
            )
        )


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(metavar="MODEL", help="Name, .safetensors file, folder or hub address.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show what a network is, how it was trained, and that its file is whole."""
    from cellseg3d_dist.networks.cards import read_card, read_weights, resolve

    at = resolve(name)
    card = read_card(at.card)
    content, _ = read_weights(at, card)
    if as_json:
        typer.echo(json.dumps(_plain(card), indent=1))
        return
    facts = _plain(card) | {"file": str(at.weights), "size": f"{len(content) / 1e6:.1f} MB"}
    for line in _lines(facts):
        typer.echo(line)


@app.command()
def convert(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A .pth file: tensors only.")
    ],
    dst: Annotated[
        Path, typer.Argument(metavar="DST", help="Writes DST.safetensors and DST.json.")
    ],
    architecture: Annotated[
        str | None, option("What it must be [from its tensors].", "NAME")
    ] = None,
    architecture_option: Annotated[
        list[str] | None,
        option("Option of the architecture, may be repeated: legacy_merging=false.", "NAME=VALUE"),
    ] = None,
    representation: Annotated[str, option("What it predicts [foreground].", "NAME")] = "foreground",
    foreground_channel: Annotated[
        int | None, option("Class that is foreground [the bright one].", "N", min=0)
    ] = None,
    voxel_size: Annotated[
        str | None, option("Micrometres trained at [5,5.26,5.26].", "Z,Y,X")
    ] = None,
    input_scale: Annotated[
        float | None,
        option("What bright voxels were in its training [100 for WNet3D, else 1].", "X"),
    ] = None,
    threshold: Annotated[float | None, option("Foreground is above it, 0 to 1 [0.5].", "T")] = None,
    licence: Annotated[str | None, option("Of the weights [unspecified].", "TEXT")] = None,
    half: Annotated[bool, switch("Store 16-bit floats [no].")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that exist.")
    ] = False,
) -> None:
    """Convert a checkpoint of CellSeg3D, without running code in it."""
    from cellseg3d_dist.networks.checkpoints import convert_checkpoint

    card = convert_checkpoint(
        checkpoint,
        dst,
        architecture=architecture,
        architecture_options=_pairs(architecture_option or []),
        representation=representation,
        foreground_channel=foreground_channel,
        half=half,
        overwrite=overwrite,
        voxel_size=sizes(voxel_size),
        input_scale=input_scale,
        threshold=threshold,
        licence=licence,
    )
    for line in _lines(_plain(card)):
        typer.echo(line)


def _pairs(given: list[str]) -> dict[str, Any]:
    """``name=value`` with values as JSON, or as text."""
    pairs: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise BadInputError(f"--architecture-option {text!r} must be NAME=VALUE.")
        try:
            pairs[name.replace("-", "_")] = json.loads(value)
        except (ValueError, RecursionError):
            pairs[name.replace("-", "_")] = value
    return pairs


def _plain(card: Any) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(card.to_json())
    return plain


def _lines(facts: dict[str, Any]) -> list[str]:
    """Keys and values, one to a line; what is empty is left out."""
    return [f"{key:<24} {_short(value)}" for key, value in facts.items() if value not in ({}, "")]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ",".join(_short(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
