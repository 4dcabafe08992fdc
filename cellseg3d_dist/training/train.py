"""Train a network: files in; weights with cards, and a record of how they came about, out."""

from __future__ import annotations

import contextlib
import datetime
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import cellseg3d_dist
from cellseg3d_dist.config import read_yaml
from cellseg3d_dist.errors import EnvironmentFailedError, OutputError
from cellseg3d_dist.paths import absolute_path
from cellseg3d_dist.training.config import TrainConfig, make_train_config
from cellseg3d_dist.training.distributed import Processes, device_of, joined
from cellseg3d_dist.training.loop import Trainer
from cellseg3d_dist.training.preparing import prepared
from cellseg3d_dist.training.records import (
    Listener,
    Silent,
    TrainFolder,
    check_new_folder,
    create_folder,
)
from cellseg3d_dist.training.self_supervised import SelfSupervised
from cellseg3d_dist.training.steps import torch_settings
from cellseg3d_dist.training.supervised import Supervised

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
        config, objective = prepared(config, out)
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
    threads: int | str | None = None,
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
        config, objective = prepared(config, folder.path)
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


def _trainer(
    config: TrainConfig,
    objective: Supervised | SelfSupervised,
    folder: TrainFolder,
    device: torch.device,
    processes: Processes,
    listener: Listener | None,
) -> Trainer:
    heard = listener if listener is not None and processes.leads else Silent()
    training = dict(objective.card.training)
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
