"""What a network predicts so that instances can be decoded, by name."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.representations.representation import Representation

#: Module and class of each representation; a module is imported when it is asked for.
REPRESENTATIONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "foreground": ("foreground", "Foreground"),
        "boundary": ("boundary", "Boundary"),
        "bcd": ("bcd", "Bcd"),
        "star": ("star", "Star"),
        "flow": ("flow", "Flow"),
    }
)


def representation(name: str, **options: Any) -> Representation:
    """The representation of this name.

    Parameters
    ----------
    name : str
        A key of ``REPRESENTATIONS``.
    **options
        Fields of its class.

    Raises
    ------
    ConfigError
        If the name, an option or an option's value is unknown.

    Examples
    --------
    >>> representation("bcd", distance="paper").channels
    ('foreground', 'contour', 'distance')
    """
    if name not in REPRESENTATIONS:
        raise ConfigError(
            f"representation {name!r} is unknown. Use one of {', '.join(REPRESENTATIONS)}."
        )
    module, class_name = REPRESENTATIONS[name]
    kind = getattr(importlib.import_module(f"{__name__}.{module}"), class_name)
    _check_keys(f"representation {name}", options, _fields(kind))
    # lists come from JSON and YAML; fields are tuples
    made: Representation = kind(**{key: _frozen(value) for key, value in options.items()})
    return made


def decoding_parameters(of: Representation, given: Mapping[str, Any]) -> Any:
    """Parameters of a representation's ``decode``: its defaults with some replaced.

    Raises
    ------
    ConfigError
        If a parameter is unknown or its value cannot be used.
    """
    defaults = of.parameters
    _check_keys(f"{of.name}: decoding", given, _fields(type(defaults)))
    return dataclasses.replace(defaults, **{key: _frozen(value) for key, value in given.items()})


def _fields(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind) if field.init]


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_keys(what: str, given: Iterable[str], known: list[str]) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            has = f"there is {', '.join(known)}" if known else "there are none"
            raise ConfigError(f"{what} has no option {key!r}; {has}.{hint}")


__all__ = ["REPRESENTATIONS", "Representation", "decoding_parameters", "representation"]
