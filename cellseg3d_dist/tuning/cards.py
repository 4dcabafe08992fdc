"""What a search found, put on the card of a model of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cellseg3d_dist.config import Length, make_config
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.networks import cards
from cellseg3d_dist.networks.cards import Card, make_card, read_card, resolve
from cellseg3d_dist.representations import representation
from cellseg3d_dist.tuning.result import TuneResult, write_whole


def own_card(model: str) -> Path:
    """The card of a model that is a file of one's own.

    Raises
    ------
    ConfigError
        If there is no card, or it came with the package or from a hub.
    WeightsError
        If there is no such model.
    """
    if model == "intensity":
        raise ConfigError("--write-card needs a network: intensity has no card. Give --model.")
    if model.startswith("hub:"):
        raise ConfigError(
            f"--write-card: {model} is a file of the hub's cache, which others may share. Copy its "
            f"two files and give the copy as --model."
        )
    path = resolve(model).card
    if path.parent.resolve() == cards.BUNDLED.resolve():
        raise ConfigError(
            f"--write-card: model {model} came with the package. Use the config file instead, or "
            f"copy {path.with_suffix('.safetensors').name} and {path.name} and give the copy."
        )
    return path


def write_card(result: TuneResult, model: str) -> Path:
    """Put decoder and threshold of the best settings on the model's card; its path.

    ``min_volume`` has no place there, it is in the config file alone.

    Raises
    ------
    ConfigError
        As :func:`own_card`, or if the settings have no place on this card.
    EnvironmentFailedError
        If the card cannot be written.
    """
    path = own_card(model)
    card = read_card(path)
    changed = make_card(card.model_dump(mode="json") | _keys(result.config, card), str(path))
    write_whole(path, changed.to_json().encode())
    return path


def _keys(config: dict[str, Any], card: Card) -> dict[str, Any]:
    meaning = representation(card.representation, **card.representation_options)
    if config["instances"] == "decode":
        return {"decoder": _differing(meaning.parameters, config["decoder"])}
    parsed = make_config({"image": "", **config})
    if card.representation != "foreground":
        # the card says how its own representation is decoded, not how another method works
        return {"threshold": parsed.threshold}
    decoder: dict[str, Any] = {**card.decoder, "threshold": parsed.threshold}
    for name in ("spot_sigma", "outline_sigma"):
        if name in config:
            decoder[name] = _micrometres(name, getattr(parsed, name))
    return {"threshold": parsed.threshold, "decoder": decoder}


def _differing(defaults: Any, found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if value != getattr(defaults, key)}


def _micrometres(name: str, length: Length) -> float:
    if not length.in_micrometres:
        raise ConfigError(
            f"--write-card: {name} {length} is in voxels, and a card has micrometres. Start the "
            f"search at a length such as --{name.replace('_', '-')} 3.2um."
        )
    return length.value
