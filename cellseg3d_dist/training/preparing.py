"""From a configuration to what is trained: data found and checked, the network built."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.networks.cards import Card, make_card
from cellseg3d_dist.networks.registry import build, divisor, for_inference
from cellseg3d_dist.networks.resampling import Size
from cellseg3d_dist.networks.weights import AsTrained, load_model
from cellseg3d_dist.representations import Representation, representation
from cellseg3d_dist.training.augmentation import Augmentation
from cellseg3d_dist.training.config import TrainConfig
from cellseg3d_dist.training.pairs import Pair, check_disjoint, find_pairs, read_finite, split
from cellseg3d_dist.training.patches import PatchSampler
from cellseg3d_dist.training.self_supervised import (
    FLIPS_AND_TURNS,
    SelfSupervised,
    make_wnet_loss,
)
from cellseg3d_dist.training.supervised import Supervised
from cellseg3d_dist.training.validation import ValidationVolume

#: Voxel sizes closer than this, as a ratio, are trained on as one.
_EQUAL = 0.02
#: Classes of a WNet3D: cells and the rest.
_CLASSES = 2


@dataclass(frozen=True)
class Data:
    """Volumes to train on and to validate with, and the voxel size of the network."""

    train: list[Pair]
    validation: list[Pair]
    voxel_size: Size


def prepared(config: TrainConfig, out: Path) -> tuple[TrainConfig, Supervised | SelfSupervised]:
    """What is trained, and the configuration with what weights and data decided.

    Nothing is created.

    Raises
    ------
    BadInputError
        If data, weights or options cannot be used.
    """
    config, network, meaning = _network(config)
    _check_patch(config)
    data = _data(config)
    decided: dict[str, Any] = {"train_voxel_size": data.voxel_size}
    if not data.validation:
        if config.early_stopping is not None:
            raise ConfigError(
                "early_stopping needs volumes to score on. Give validation images, or leave it out."
            )
        # so that a resumed training does not split again
        decided["validation_fraction"] = 0.0
    config = config.model_copy(update=decided)
    card = _card(config, meaning, data, out)
    volumes = [_validation_volume(pair) for pair in data.validation if pair.labels is not None]
    if meaning is None:
        unlabelled = [pair for pair in data.validation if pair.labels is None]
        return config, SelfSupervised(
            network,
            _sampler(config, data.train, None, _augmentation(config)),
            card,
            make_wnet_loss(config.objective_options),
            _sampler(config, unlabelled, None, Augmentation.none()) if unlabelled else None,
            volumes,
            config.score or "dice",
            config.ignore,
        )
    if config.objective_options:
        raise ConfigError(
            f"objective_options are for training without labels; {meaning.name} takes its own as "
            f"representation_options."
        )
    sampler = _sampler(config, data.train, meaning, _augmentation(config))
    return config, Supervised(
        network, meaning, sampler, card, volumes, config.score or "mean_f1", config.ignore
    )


def _network(
    config: TrainConfig,
) -> tuple[TrainConfig, torch.nn.Module, Representation | None]:
    """A new network, or the one to start from with the options of its card."""
    if config.weights is None:
        return config, *_new_network(config)
    model = load_model(config.weights)
    if isinstance(model.network, AsTrained):
        raise ConfigError(
            f"weights {config.weights} were converted from a checkpoint with another input scale "
            f"or order of axes, which training does not keep. Start from other weights."
        )
    card, given = model.card, config.model_fields_set
    known: dict[str, Any] = {
        "architecture": card.architecture,
        "architecture_options": dict(card.architecture_options),
        "representation": card.representation,
        "representation_options": dict(card.representation_options),
    }
    for key, value in known.items():
        if key in given and getattr(config, key) != value:
            raise ConfigError(
                f"{key} {getattr(config, key)!r} is not that of the weights {config.weights}, "
                f"{value!r}. Leave it out."
            )
    like = {"patch": card.patch, "halo": card.halo, "train_voxel_size": card.voxel_size}
    known |= {key: value for key, value in like.items() if key not in given}
    config = config.model_copy(update=known)
    if not config.labels:
        network, _ = _new_network(config)
        # only the encoder is stored; the decoder is learned anew
        for_inference(network).load_state_dict(model.network.state_dict())
        return config, network, None
    return config, model.network, model.representation


def _new_network(config: TrainConfig) -> tuple[torch.nn.Module, Representation | None]:
    torch.manual_seed(config.seed)
    options = config.architecture_options
    if config.self_supervised:
        return build(config.architecture, 1, _CLASSES, **options), None
    meaning = representation(config.representation, **config.representation_options)
    return for_inference(build(config.architecture, 1, meaning.n_outputs, **options)), meaning


def _check_patch(config: TrainConfig) -> None:
    step = divisor(config.architecture, config.architecture_options)
    if any(n % d for n, d in zip(config.patch, step, strict=True)):
        raise ConfigError(
            f"patch {config.patch} must be multiples of {step} for {config.architecture}."
        )


def _data(config: TrainConfig) -> Data:
    """Pairs, opened and checked, and the voxel size that they are trained at."""
    how: dict[str, Any] = {"voxel_size": config.voxel_size, "channel": config.channel}
    found = find_pairs(list(config.images), list(config.labels) or None, **how)
    alone = len(found) == 1 and "validation_fraction" not in config.model_fields_set
    if config.validation_images:
        labels = list(config.validation_labels) or None
        validation = find_pairs(list(config.validation_images), labels, **how)
        check_disjoint(found, validation)
    elif alone:
        validation = []
    else:
        found, validation = split(found, config.validation_fraction, config.seed)
    return Data(found, validation, config.train_voxel_size or _common_size(found))


def _common_size(pairs: Sequence[Pair]) -> Size:
    first = pairs[0].image
    for pair in pairs:
        sizes = zip(pair.image.voxel_size, first.voxel_size, strict=True)
        if any(abs(a / b - 1) > _EQUAL for a, b in sizes):
            raise ConfigError(
                f"voxel sizes differ: {first.location} has {first.voxel_size} um, "
                f"{pair.image.location} {pair.image.voxel_size}. Give train_voxel_size, which all "
                f"are resampled to."
            )
    return first.voxel_size


def _sampler(
    config: TrainConfig,
    pairs: Sequence[Pair],
    meaning: Representation | None,
    augmentation: Augmentation,
) -> PatchSampler:
    return PatchSampler(
        pairs,
        meaning,
        config.patch,
        config.batch,
        voxel_size=config.train_voxel_size,
        augmentation=augmentation,
        seed=config.seed,
        ignore=config.ignore,
        foreground_share=config.foreground_share,
    )


def _augmentation(config: TrainConfig) -> Augmentation:
    if not config.augmentation:
        return Augmentation.none()
    usual = vars(FLIPS_AND_TURNS) if config.self_supervised else {}
    return Augmentation.of_options({**usual, **config.augmentation_options})


def _card(config: TrainConfig, meaning: Representation | None, data: Data, out: Path) -> Card:
    name = config.name or re.sub(r"[^A-Za-z0-9._+-]+", "-", out.name).strip("-._+") or "trained"
    training: dict[str, Any] = {
        "method": "self-supervised" if meaning is None else "supervised",
        "images": [_short(pair) for pair in data.train],
        "validation_images": [_short(pair) for pair in data.validation],
        "data_licence": config.data_licence,
        "batch": config.batch,
        "learning_rate": config.learning_rate,
    }
    if config.weights:
        training["started_from"] = Path(config.weights).stem
    return make_card(
        {
            "name": name,
            "architecture": config.architecture,
            "architecture_options": config.architecture_options,
            "representation": "foreground" if meaning is None else config.representation,
            "representation_options": {} if meaning is None else config.representation_options,
            "voxel_size": data.voxel_size,
            "patch": config.patch,
            "halo": config.halo,
            "training": training,
            "licence": config.licence,
        }
    )


def _short(pair: Pair) -> str:
    """The end of a path: a card is for others, to whom the rest says nothing."""
    return "/".join(pair.image.location.rstrip("/").split("/")[-2:])


def _validation_volume(pair: Pair) -> ValidationVolume:
    assert pair.labels is not None
    whole = Region.whole(pair.image.shape)
    return ValidationVolume(
        pair.name, read_finite(pair.image, whole), pair.labels.read(whole),
        pair.image.voxel_size, (pair.low, pair.high),
    )  # fmt: skip
