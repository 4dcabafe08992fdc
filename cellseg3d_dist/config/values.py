"""Values of options: lengths, volumes, boxes, as people write them, and as they are kept."""

from __future__ import annotations

import functools
import math
import re
from importlib import metadata
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from cellseg3d_dist.grid import Triple

Floats = tuple[float, float, float]
Bounds = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
#: Labellers that come with this package; their programs are installed apart.
LABELLERS = ("cellpose", "stardist")
_MICROMETRES = re.compile(r"^\s*([-+.\deE]+?)\s*(um|µm|μm)\s*$")
_CUBIC = re.compile(r"^\s*([-+.\deE]+?)\s*(um3|um\^3|µm3|µm³|um³|μm3|μm³)\s*$")
_BYTES = re.compile(r"^\s*(\d+(?:\.\d*)?(?:e\+?\d+)?)\s*([kmgt]?)(i?)b?\s*$", re.IGNORECASE)


class Length(BaseModel):
    """A length in micrometres, or in voxels of the finest axis."""

    model_config = ConfigDict(frozen=True)
    value: float
    in_micrometres: bool

    def voxels(self, voxel_size: Floats) -> Floats:
        """The length along each axis, in voxels of that axis."""
        unit = 1.0 if self.in_micrometres else min(voxel_size)
        z, y, x = (self.value * unit / size for size in voxel_size)
        return (z, y, x)

    def __str__(self) -> str:
        return f"{self.value:g}um" if self.in_micrometres else f"{self.value:g}"


class CellVolume(BaseModel):
    """The volume of a cell in voxels, or in cubic micrometres."""

    model_config = ConfigDict(frozen=True)
    value: float
    in_micrometres: bool

    def voxels(self, voxel_size: Floats) -> float:
        """The volume in voxels, not rounded."""
        return self.value / math.prod(voxel_size) if self.in_micrometres else self.value

    def __str__(self) -> str:
        return f"{self.value:g}um3" if self.in_micrometres else f"{self.value:g}"


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{text!r} is not a finite number of at least 0")
    return value


def _length(value: object) -> object:
    if isinstance(value, Length):
        return value
    found = _MICROMETRES.match(str(value))
    return Length(value=_number(found[1] if found else str(value)), in_micrometres=bool(found))


def _cell_volume(value: object) -> object:
    if value is None or isinstance(value, CellVolume):
        return value
    found = _CUBIC.match(str(value))
    return CellVolume(value=_number(found[1] if found else str(value)), in_micrometres=bool(found))


def _three(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _region(value: object) -> object:
    return [part.split(":") for part in value.split(",")] if isinstance(value, str) else value


def _memory(value: object) -> object:
    """Bytes of ``2GB``, ``1.5 GiB`` or a plain number."""
    found = _BYTES.match(str(value))
    if value is None or found is None:
        return value
    number = float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(
        found[2].lower() or " "
    )
    return int(number) if math.isfinite(number) else value


def _whole(value: object) -> object:
    """Digits as a number: options of the command line come as text."""
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


def _pairs(value: object) -> object:
    """``a=1,b=2`` as a mapping."""
    if not isinstance(value, str):
        return value
    parts = [part.partition("=") for part in value.split(",") if part.strip()]
    return {key.strip().replace("-", "_"): number.strip() for key, _, number in parts}


def _values(value: object) -> object:
    """``a=1,b=true,c=x`` as a mapping of numbers, truths and words."""
    pairs = _pairs(value)
    if pairs is value:
        return value
    assert isinstance(pairs, dict)
    return {key: _plain_value(text) for key, text in pairs.items()}


def _plain_value(text: str) -> int | float | bool | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@functools.cache
def labeller_entry_points() -> dict[str, metadata.EntryPoint]:
    """Labellers of other installed packages, by name."""
    return {point.name: point for point in metadata.entry_points(group="cellseg3d_dist.labellers")}


def _labeller(name: str) -> str:
    """A name that can be that of a labeller; whether it is there shows when it is loaded."""
    where, colon, attribute = name.rpartition(":")
    if colon and where and attribute:
        return name
    if name in LABELLERS or name in labeller_entry_points():
        return name
    raise ValueError(f"{name!r} names no labeller")


def _times(value: object) -> object:
    """One time point as a number; several as ``all`` or ``first:stop``."""
    if isinstance(value, str) and value != "all" and not value.strip().isdecimal():
        first, colon, stop = value.partition(":")
        if not (colon and first.isdecimal() and stop.isdecimal() and int(first) < int(stop)):
            raise ValueError("not in order")
        return f"{int(first)}:{int(stop)}"
    value = _whole(value)
    if isinstance(value, int) and value < 0:
        raise ValueError("negative")
    return value


def _text(value: object) -> object:
    """A version that YAML took for a number, as text."""
    return str(value) if isinstance(value, float) else value


def _positive_size(value: Floats | None) -> Floats | None:
    if value is not None and not all(math.isfinite(v) and v > 0 for v in value):
        raise ValueError("not positive")
    return value


def _positive_block(value: Triple) -> Triple:
    if min(value) < 1:
        raise ValueError("not positive")
    return value


def _ordered(value: Bounds) -> Bounds:
    if not all(0 <= a < b for a, b in value):
        raise ValueError("not ordered")
    return value


Triplet = Annotated[tuple[int, int, int], BeforeValidator(_three)]
BlockText = Annotated[Triplet, AfterValidator(_positive_block)]
RegionText = Annotated[Bounds, BeforeValidator(_region), AfterValidator(_ordered)]
LengthText = Annotated[Length, BeforeValidator(_length)]
VolumeText = Annotated[CellVolume | None, BeforeValidator(_cell_volume)]
LabellerName = Annotated[str, AfterValidator(_labeller)]
ValuesText = Annotated[dict[str, int | float | bool | str] | None, BeforeValidator(_values)]
TimesText = Annotated[int | str | None, BeforeValidator(_times)]
PairsText = Annotated[dict[str, float] | None, BeforeValidator(_pairs)]
BytesText = Annotated[int | None, BeforeValidator(_memory)]
SizeText = Annotated[Floats | None, BeforeValidator(_three), AfterValidator(_positive_size)]
Connectivity = Annotated[Literal[6, 18, 26], BeforeValidator(_whole)]
Version = Annotated[Literal["0.5", "0.4"], BeforeValidator(_text)]

A_LENGTH = "a length of at least 0 such as 3.2um, or 1.5 for voxels of the finest axis"
A_VOLUME = "a volume of at least 0 such as 200um3, or 30 for voxels"
A_COUNT = "a whole number of at least 0"


def option(expected: str, default: Any = None, **limits: Any) -> Any:
    """A key with what its value must be, as error messages say it."""
    return Field(default, description=expected, **limits)


def plain(value: Any) -> Any:
    """A value as YAML has it."""
    if isinstance(value, BaseModel):
        return str(value)
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return ",".join(f"{a}:{b}" for a, b in value)
    return [plain(part) for part in value] if isinstance(value, tuple) else value
