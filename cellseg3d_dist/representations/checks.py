"""Checks of options and parameters that representations share."""

from __future__ import annotations

from math import isfinite

from cellseg3d_dist.errors import ConfigError


def is_number(value: object) -> bool:
    """Whether this is a finite number and not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def check_fractions(what: str, **values: float) -> None:
    """Refuse thresholds that are not within 0..1.

    Raises
    ------
    ConfigError
        Naming the threshold.
    """
    for name, value in values.items():
        if not (is_number(value) and 0 <= value <= 1):
            raise ConfigError(f"{what}: {name} {value!r} must be a number within 0..1.")


def check_lengths(what: str, **values: float) -> None:
    """Refuse lengths in micrometres that are below 0 or not finite.

    Raises
    ------
    ConfigError
        Naming the length.
    """
    for name, value in values.items():
        if not (is_number(value) and value >= 0):
            raise ConfigError(f"{what}: {name} {value!r} must be micrometres of at least 0.")


def check_weights(what: str, **values: float) -> None:
    """Refuse weights and exponents that are below 0 or not finite.

    Raises
    ------
    ConfigError
        Naming the weight.
    """
    for name, value in values.items():
        if not (is_number(value) and value >= 0):
            raise ConfigError(f"{what}: {name} {value!r} must be a number of at least 0.")


def check_voxels(what: str, **values: int) -> None:
    """Refuse sizes that are not whole numbers of at least 1.

    Raises
    ------
    ConfigError
        Naming the size.
    """
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{what}: {name} {value!r} must be a whole number of at least 1.")


def check_switches(what: str, **values: int) -> None:
    """Refuse switches that are not 0 or 1.

    Raises
    ------
    ConfigError
        Naming the switch.
    """
    for name, value in values.items():
        if value not in (0, 1):
            raise ConfigError(f"{what}: {name} {value!r} must be 0 or 1.")
