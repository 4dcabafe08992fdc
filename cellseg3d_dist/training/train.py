"""Train a network: files in; weights with cards, and a record of how they came about, out."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import difflib
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import cellseg3d_dist
from cellseg3d_dist.config import read_yaml
from cellseg3d_dist.errors import ConfigError, EnvironmentFailedError, OutputError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.networks.cards import Card, make_card
from cellseg3d_dist.networks.registry import build, divisor, for_inference
from cellseg3d_dist.networks.resampling import Size
from cellseg3d_dist.networks.weights import load_model
from cellseg3d_dist.paths import absolute_path
from cellseg3d_dist.representations import Representation, representation
from cellseg3d_dist.training.augmentation import Augmentation
from cellseg3d_dist.training.config import TrainConfig, make_train_config
from cellseg3d_dist.training.distributed import Processes, device_of, joined
from cellseg3d_dist.training.loop import Trainer
from cellseg3d_dist.training.objective import Objective
from cellseg3d_dist.training.pairs import Pair, check_disjoint, find_pairs, read_finite, split
from cellseg3d_dist.training.patches import PatchSampler
from cellseg3d_dist.training.records import (
    Listener,
    Silent,
    TrainFolder,
    check_new_folder,
    create_folder,
)
from cellseg3d_dist.training.steps import torch_settings
from cellseg3d_dist.training.supervised import Supervised
from cellseg3d_dist.training.validation import ValidationVolume, check_score

#: Voxel sizes closer than this, as a ratio, are trained on as one.
_EQUAL = 0.02
_REPORTED = ("numpy", "torch", "monai", "scipy", "numba", "zarr")


@dataclass(frozen=True)
class TrainResult:
    """What a training left behind.

    Attributes
    ----------
    folder : Path
    steps : int
        Trained, over all sittings.
    scores : dict
        Of the best validation; empty where there was none.
    """

    folder: Path
    steps: int
    scores: dict[str, float]

    @property
    def best(self) -> Path:
        """Weights of the best validation, or of the last step without one."""
        return TrainFolder(self.folder).best

    @property
    def last(self) -> Path:
        """Weights of the last step."""
        return TrainFolder(self.folder).last


@dataclass(frozen=True)
class Data:
    """Volumes to train on and to validate with."""

    train: list[Pair]
    validation: list[Pair]
    voxel_size: Size


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    listener: Listener | None = None,
    overwrite: bool = False,
    command: str | None = None,
) -> TrainResult:
    """Train a network from the first step.

    Parameters
    ----------
    config : TrainConfig
        Made by :func:`~.config.make_train_config`.
    out : path
        Folder to create; must not exist unless ``overwrite`` replaces an earlier training.
    listener : Listener, optional
        Silent by default.

    Raises
    ------
    BadInputError
        If configuration, data or output cannot be used, or the training diverged.
    EnvironmentFailedError
        If disk or device failed; the training can be resumed.
    """
    out = absolute_path(out)
    config = config.located()
    processes = Processes.of_environment()
    device = device_of(config.device, processes)
    with torch_settings(config.deterministic, config.threads), joined(processes, device):
        if processes.leads:
            check_new_folder(out, config.inputs(), overwrite)
        config, objective = _prepared(config, out)
        command = command or shlex.join(sys.argv)
        if processes.leads:
            with _naming_disk_errors(TrainFolder(out)):
                folder = create_folder(out, _first_status(command))
                folder.config.write_text(config.to_yaml())
        # the others must not look for files before they are there
        processes.any(0)
        trainer = _trainer(config, objective, TrainFolder(out), device, processes, listener)
        return _run(trainer, command)


def resume(
    out: str | Path,
    *,
    listener: Listener | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> TrainResult:
    """Go on with a training from its last checkpoint; a finished one trains nothing.

    Parameters
    ----------
    device, threads
        In place of those it was begun with. Another device gives other numbers, so it is
        refused for a deterministic training.

    Raises
    ------
    OutputError
        If ``out`` is no training, or its configuration has changed since.
    WeightsError
        If the checkpoint cannot be read.
    """
    folder = TrainFolder(absolute_path(out))
    status = folder.status()
    given = read_yaml(folder.config)
    changes = {"device": device, "threads": threads}
    given |= {key: value for key, value in changes.items() if value is not None}
    config = make_train_config(given, str(folder.config))
    if status.get("version") != cellseg3d_dist.__version__:
        raise OutputError(
            f"{folder.path} was made by version {status.get('version')}, this is "
            f"{cellseg3d_dist.__version__}. Resume it with that version, or start anew."
        )
    processes = Processes.of_environment()
    torch_device = device_of(config.device, processes)
    with torch_settings(config.deterministic, config.threads), joined(processes, torch_device):
        config, objective = _prepared(config, folder.path)
        trainer = _trainer(config, objective, folder, torch_device, processes, listener)
        trainer.resume()
        return _run(trainer, str(status.get("command", "")))


def _run(trainer: Trainer, command: str) -> TrainResult:
    folder, leads = trainer.folder, trainer.processes.leads
    trainer.card = {**trainer.card, "command": command}
    with _naming_disk_errors(folder):
        if leads:
            folder.update_status(status="running")
        try:
            done = trainer.run()
        except BaseException as error:
            if leads:
                stopped = isinstance(error, KeyboardInterrupt)
                status = "interrupted" if stopped else "failed"
                with contextlib.suppress(OSError):
                    folder.update_status(status=status, ended=_now(), **trainer.facts())
            raise
        if leads:
            folder.update_status(status="complete", ended=_now(), **trainer.facts())
    return TrainResult(folder.path, done.step, done.best_scores or {})


def _prepared(config: TrainConfig, out: Path) -> tuple[TrainConfig, Objective]:
    """The objective, and the configuration with what the data decided; nothing is created."""
    check_score(config.score)
    config, network, meaning = _network(config)
    data = _data(config)
    if not data.validation:
        # so that a resumed training does not split again
        config = config.model_copy(update={"validation_fraction": 0.0})
    config = config.model_copy(update={"train_voxel_size": data.voxel_size})
    card = _card(config, meaning, data, out)
    sampler = PatchSampler(
        data.train,
        None if config.self_supervised else meaning,
        config.patch,
        config.batch,
        voxel_size=config.train_voxel_size,
        augmentation=_augmentation(config),
        seed=config.seed,
        ignore=config.ignore,
        foreground_share=config.foreground_share,
    )
    volumes = [_validation_volume(pair) for pair in data.validation]
    if not config.self_supervised:
        return config, Supervised(
            network, meaning, sampler, card, volumes, config.score, config.ignore
        )
    from cellseg3d_dist.training.self_supervised import SelfSupervised

    return config, SelfSupervised(
        network, meaning, sampler, card, volumes, config.score, config.ignore,
        **config.objective_options,
    )  # fmt: skip


def _network(config: TrainConfig) -> tuple[TrainConfig, torch.nn.Module, Representation]:
    """A new network, or the one to start from with the options of its card."""
    if config.weights is None:
        meaning = representation(config.representation, **config.representation_options)
        torch.manual_seed(config.seed)
        network = build(
            config.architecture, 1, meaning.n_outputs, **config.architecture_options
        )
        return config, network if config.self_supervised else for_inference(network), meaning
    model = load_model(config.weights)
    card, given = model.card, config.model_fields_set
    known = {
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
    return config.model_copy(update=known), model.network, model.representation


def _data(config: TrainConfig) -> Data:
    """Pairs, opened and checked, and the voxel size that they are trained at."""
    how: dict[str, Any] = {"voxel_size": config.voxel_size, "channel": config.channel}
    found = find_pairs(list(config.images), list(config.labels) or None, **how)
    if config.validation_images:
        validation = find_pairs(
            list(config.validation_images), list(config.validation_labels), **how
        )
        check_disjoint(found, validation)
    elif config.self_supervised or (
        len(found) == 1 and "validation_fraction" not in config.model_fields_set
    ):
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


def _augmentation(config: TrainConfig) -> Augmentation:
    if not config.augmentation:
        return Augmentation.none()
    known = [item.name for item in dataclasses.fields(Augmentation)]
    for key in config.augmentation_options:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"augmentation has no option {key!r} ({hint}).")
    values = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config.augmentation_options.items()
    }
    try:
        return Augmentation(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"augmentation_options {values} cannot be used: {error}.") from None


def _card(config: TrainConfig, meaning: Representation, data: Data, out: Path) -> Card:
    step = divisor(config.architecture, config.architecture_options)
    if any(n % d for n, d in zip(config.patch, step, strict=True)):
        raise ConfigError(
            f"patch {config.patch} must be multiples of {step} for {config.architecture}."
        )
    name = config.name or re.sub(r"[^A-Za-z0-9._+-]+", "-", out.name).strip("-._+") or "trained"
    training: dict[str, Any] = {
        "method": "self-supervised" if config.self_supervised else "supervised",
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
            "representation": config.representation,
            "representation_options": config.representation_options,
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
    if pair.labels is None:
        raise ConfigError(f"validation image {pair.image.location} has no labels. Give them.")
    whole = Region.whole(pair.image.shape)
    return ValidationVolume(
        pair.name, read_finite(pair.image, whole), pair.labels.read(whole),
        pair.image.voxel_size, (pair.low, pair.high),
    )  # fmt: skip


def _trainer(
    config: TrainConfig,
    objective: Objective,
    folder: TrainFolder,
    device: torch.device,
    processes: Processes,
    listener: Listener | None,
) -> Trainer:
    heard = listener if listener is not None and processes.leads else Silent()
    card = getattr(objective, "card", None)
    training = dict(card.training) if card is not None else {}
    return Trainer(objective, config, folder, device, processes, heard, training)


def _first_status(command: str) -> dict[str, Any]:
    versions = {"python": sys.version.split()[0]}
    for name in _REPORTED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "status": "running", "version": cellseg3d_dist.__version__, "started": _now(),
        "command": command, "versions": versions,
    }  # fmt: skip


@contextlib.contextmanager
def _naming_disk_errors(folder: TrainFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentFailedError(
            f"{error.filename or folder.path}: {error.strerror or error}. Free space or fix "
            f"access, then {folder.go_on}"
        ) from error


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
