"""The state of a training on disk: written whole or not at all, read without running code."""

from __future__ import annotations

import os
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cellseg3d_dist.errors import EnvironmentFailedError, OutputError, WeightsError

_VERSION = 1


@dataclass
class Progressed:
    """Where a training is, apart from its tensors.

    Attributes
    ----------
    step : int
        Steps done.
    sums : dict
        Of the loss and its parts since the epoch began, over ``counted`` steps.
    best : float or None
        Highest score so far, reached at ``best_step``.
    stale : int
        Validations since.
    scores : dict
        Of the last validation; ``best_scores`` of the best.
    """

    step: int = 0
    counted: int = 0
    sums: dict[str, float] | None = None
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    scores: dict[str, float] | None = None
    best_scores: dict[str, float] | None = None


def write_checkpoint(
    path: Path, progressed: Progressed, deciding: dict[str, Any], tensors: dict[str, Any]
) -> None:
    """Replace a checkpoint; at any moment the old one or the new one is there.

    Parameters
    ----------
    deciding
        The configuration, to be compared when the training is resumed.
    tensors
        State of the network, the averaged network, the optimiser and the scaler.

    Raises
    ------
    EnvironmentFailedError
        If the disk failed.
    """
    partial = path.with_name(f"{path.name}.partial")
    content = {
        "version": _VERSION, "progressed": asdict(progressed), "deciding": deciding, **tensors
    }  # fmt: skip
    try:
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    # torch reports a full disk as a RuntimeError
    except (OSError, RuntimeError) as error:
        raise EnvironmentFailedError(
            f"{path} cannot be written: {' '.join(str(error).split())}. Free space; the "
            f"checkpoint before it is kept."
        ) from error


def read_checkpoint(path: Path, deciding: dict[str, Any]) -> tuple[Progressed, dict[str, Any]]:
    """A checkpoint of the same configuration.

    Raises
    ------
    OutputError
        If it was made with another configuration; with what differs.
    WeightsError
        If it cannot be read.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        version, before = content["version"], content["deciding"]
        progressed = Progressed(**content["progressed"])
    except FileNotFoundError:
        raise WeightsError(
            f"{path} does not exist: the training ended before its first checkpoint. Start anew."
        ) from None
    except (
        OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError
    ) as error:  # fmt: skip
        detail = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path} is no readable checkpoint: {detail}. Start anew.") from error
    if version != _VERSION:
        raise WeightsError(f"{path} has version {version}, not {_VERSION}. Start anew.")
    if changed := differences(before, deciding):
        raise OutputError(
            f"{path.parent.parent} cannot be resumed: {'; '.join(changed)}. Undo that, or start a "
            f"new training."
        )
    return progressed, content


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What changed between two configurations, in words."""
    return [
        f"{key} was {before.get(key, 'not set')!r} and is {now.get(key, 'not set')!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
