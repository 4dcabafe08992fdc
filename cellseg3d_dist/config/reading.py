"""Configurations from files and options: read, checked, and refused in one line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from cellseg3d_dist.errors import ConfigError

_Model = TypeVar("_Model", bound=BaseModel)
_LARGEST_CONFIG = 1 << 16
_DEEPEST_CONFIG = 8


def validated(model: type[_Model], given: Mapping[str, Any], where: str = "") -> _Model:
    """Validate options as a model, whose fields' descriptions say what values must be.

    Raises
    ------
    ConfigError
        One line with every wrong key, its value and what it should be; an unknown key
        with the nearest known one.
    """
    prefix = f"config {where}: " if where else ""
    try:
        return model.model_validate(dict(given))
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from None
    except ValidationError as error:
        lines = _lines(error, given, model.model_fields)
        raise ConfigError(prefix + "; ".join(lines) + ".") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Keys of a config file.

    Raises
    ------
    ConfigError
        If it cannot be read, is no mapping of plain values, uses tags or aliases, or is
        over 64 KiB.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(_LARGEST_CONFIG + 1)
    except OSError as error:
        raise ConfigError(f"config {path} cannot be read: {error.strerror}.") from error
    if len(text) > _LARGEST_CONFIG:
        raise ConfigError(
            f"config {path} is larger than {_LARGEST_CONFIG // 1024} KiB, so it is no config."
        )
    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
                raise ConfigError(f"config {path} uses YAML tags or aliases. Write plain values.")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST_CONFIG:
                raise ConfigError(f"config {path} is nested too deeply, so it is no config.")
        content = yaml.safe_load(text)
    # ValueError: a number of thousands of digits, an impossible date
    except (yaml.YAMLError, ValueError) as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"config {path} is no plain YAML: {detail}.") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"config {path} must be a mapping of option names to values.")
    return {key.replace("-", "_"): value for key, value in content.items()}


def _lines(
    error: ValidationError, given: Mapping[str, Any], known: Mapping[str, FieldInfo]
) -> list[str]:
    lines: dict[str, str] = {}
    for item in error.errors():
        key = str(item["loc"][0])
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            lines[key] = f"unknown option {key[:80]!r} ({hint})"
        elif item["type"] == "missing" and len(item["loc"]) == 1:
            lines[key] = f"option {key} is missing"
        else:
            shown = repr(given[key])
            shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
            lines[key] = f"{key} {shown} must be {known[key].description}"
    return list(lines.values())
