"""Surveys on disk: small results of the whole image that a later run can take over."""

from __future__ import annotations

import contextlib
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from cellseg3d_dist.engine.stages.survey import SurveyResult
from cellseg3d_dist.grid import BlockGrid
from cellseg3d_dist.instances.filters import Sigma


def save_survey(path: Path, result: SurveyResult, grid: BlockGrid, smoothing: Sigma | None) -> None:
    """Write a survey, whole or not at all."""
    arrays: dict[str, Any] = {"made_of": _made_of(grid, smoothing)}
    for field in fields(result):
        value = getattr(result, field.name)
        if field.name == "percentiles":
            value = np.array([[key, found] for key, found in value.items()]).reshape(-1, 2)
        if field.name == "projections":
            for axis, plane in zip("zyx", value, strict=True):
                arrays[f"projection_{axis}"] = plane
        else:
            arrays[field.name] = np.asarray(value)
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f"{path.stem}.partial.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(path)


def load_survey(path: Path, grid: BlockGrid, smoothing: Sigma | None) -> SurveyResult | None:
    """A stored survey; None where there is none of these blocks and this smoothing."""
    unreadable = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    with contextlib.suppress(*unreadable), np.load(path, allow_pickle=False) as stored:
        if not np.array_equal(stored["made_of"], _made_of(grid, smoothing)):
            return None
        found = {field.name: _value(field.name, stored) for field in fields(SurveyResult)}
        return SurveyResult(**found)
    return None


def _made_of(grid: BlockGrid, smoothing: Sigma | None) -> np.ndarray[Any, Any]:
    return np.array([*grid.shape, *grid.block_shape, *(smoothing or (0.0, 0.0, 0.0))])


def _value(name: str, stored: Any) -> Any:
    if name == "projections":
        return tuple(stored[f"projection_{axis}"] for axis in "zyx")
    if name == "percentiles":
        return {float(key): float(value) for key, value in stored[name]}
    found = stored[name]
    if name == "magnitudes":
        return tuple(found.tolist())
    return found.item() if found.ndim == 0 else found
