"""The option ``preprocess``: steps in the order given, as people write them."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, model_validator

from cellseg3d_dist.config.values import Length, LengthText

#: What each step's value is.
_NUMBERS = ("background", "gamma", "clahe")
_LENGTHS = ("median", "tophat")
_LENGTH: TypeAdapter[Length] = TypeAdapter(LengthText)
#: Side of CLAHE's tiles where none is given.
DEFAULT_TILE = Length(value=64, in_micrometres=False)

PREPROCESS = (
    "steps in order: background (grey value, or 0 to 100%), gamma (0.1 to 10), clahe (above 0, "
    "to 1; tiles by clahe_tile), median and tophat (lengths), such as "
    "background=7,gamma=0.8,clahe=0.01,clahe_tile=50um,median=1,tophat=3um"
)


class Preprocess(BaseModel):
    """Steps of preprocessing, each at most once, in order.

    Attributes
    ----------
    steps : tuple of (str, float or Length)
    background_of_range : bool
        Whether ``background`` is a share of the range, 0 to 1.
    clahe_tile : Length
        Side of the tiles.
    """

    model_config = ConfigDict(frozen=True)
    steps: tuple[tuple[str, float | Length], ...]
    background_of_range: bool = False
    clahe_tile: Length = DEFAULT_TILE

    @model_validator(mode="after")
    def _in_range(self) -> Preprocess:
        given = dict(self.steps)
        if len(given) < len(self.steps):
            raise ValueError("a step is given twice")
        most = 1.0 if self.background_of_range else math.inf
        limits = {"background": (-math.inf, most), "gamma": (0.1, 10.0), "clahe": (0.0, 1.0)}
        for name, (low, high) in limits.items():
            value = given.get(name, high)
            if not (isinstance(value, float) and low <= value <= high):
                raise ValueError(f"{name} is out of range")
            if name in given and (not math.isfinite(value) or (name == "clahe" and value == 0)):
                raise ValueError(f"{name} is out of range")
        return self

    def __str__(self) -> str:
        parts = []
        for name, value in self.steps:
            text = str(value) if isinstance(value, Length) else f"{value:.12g}"
            if name == "background" and self.background_of_range:
                text = f"{100 * float(str(value)):.12g}%"
            parts.append(f"{name}={text}")
            if name == "clahe":
                parts.append(f"clahe_tile={self.clahe_tile}")
        return ",".join(parts)


def _preprocess(value: object) -> object:
    if value is None or isinstance(value, Preprocess):
        return value
    pairs = list(_pairs(value))
    if not pairs:
        return None
    given: dict[str, Any] = {}
    steps: list[tuple[str, float | Length]] = []
    for name, text in pairs:
        if name == "clahe_tile":
            given[name] = _LENGTH.validate_python(text)
        elif name in _LENGTHS:
            steps.append((name, _LENGTH.validate_python(text)))
        elif name in _NUMBERS:
            share = name == "background" and text.endswith("%")
            given["background_of_range"] = given.get("background_of_range", False) or share
            steps.append((name, float(text.rstrip("%")) / 100 if share else float(text)))
        else:
            raise ValueError(f"unknown step {name}")
    if "clahe_tile" in given and "clahe" not in dict(steps):
        raise ValueError("clahe_tile without clahe")
    return Preprocess(steps=tuple(steps), **given)


def _pairs(value: object) -> list[tuple[str, str]]:
    """Names and values of ``a=1,b=2``, of a mapping, or of a list of either."""
    if isinstance(value, dict):
        found = [(str(key), str(one)) for key, one in value.items()]
    elif isinstance(value, list | tuple):
        return [pair for part in value for pair in _pairs(part)]
    elif isinstance(value, str):
        parts = [part.partition("=") for part in value.split(",") if part.strip()]
        found = [(key, text) for key, _, text in parts]
    else:
        raise ValueError("neither text, a list nor a mapping")
    return [(key.strip().replace("-", "_"), text.strip()) for key, text in found]


PreprocessText = Annotated[Preprocess | None, BeforeValidator(_preprocess)]
