"""The configuration of a run: every command-line option is a key here and in one YAML file."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic import field_validator as validates

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region, Triple

Floats = tuple[float, float, float]
_MICROMETRES = re.compile(r"^\s*([-+.\deE]+?)\s*(um|µm|μm)\s*$")
_CUBIC = re.compile(r"^\s*([-+.\deE]+?)\s*(um3|um\^3|µm3|µm³|um³|μm3|μm³)\s*$")
_LARGEST_CONFIG = 1 << 20


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


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not {what}") from None
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{text!r} must be a finite number of at least 0")
    return value


def _length(value: object) -> object:
    if isinstance(value, Length | Mapping):
        return value
    found = _MICROMETRES.match(str(value))
    what = "a length such as 3.2um or 1.5 (voxels)"
    number = _number(found[1] if found else str(value), what)
    return Length(value=number, in_micrometres=bool(found))


def _cell_volume(value: object) -> object:
    if value is None or isinstance(value, CellVolume | Mapping):
        return value
    found = _CUBIC.match(str(value))
    what = "a volume such as 200um3 or 30 (voxels)"
    number = _number(found[1] if found else str(value), what)
    return CellVolume(value=number, in_micrometres=bool(found))


def _three(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _region(value: object) -> object:
    if not isinstance(value, str):
        return value
    parts = [part.split(":") for part in value.split(",")]
    if len(parts) != 3 or any(len(part) != 2 for part in parts):
        raise ValueError(f"{value!r} is not z0:z1,y0:y1,x0:x1")
    return parts


def _memory(value: object) -> object:
    """Bytes of ``2GB``, ``1.5 GiB`` or a plain number."""
    found = re.match(r"^\s*([.\d]+)\s*([kMGT]?)(i?)B?\s*$", str(value))
    if value is None or found is None:
        return value
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** " kMGT".index(found[2] or " "))


Triplet = Annotated[tuple[int, int, int], BeforeValidator(_three)]
RegionText = Annotated[
    tuple[tuple[int, int], tuple[int, int], tuple[int, int]], BeforeValidator(_region)
]
LengthText = Annotated[Length, BeforeValidator(_length)]
VolumeText = Annotated[CellVolume | None, BeforeValidator(_cell_volume)]


class SegmentConfig(BaseModel):
    """Everything that ``segment`` can be told. What decides the labels is `deciding`."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    image: str
    model: Literal["intensity"] = "intensity"
    instances: Literal["components", "voronoi-otsu"] = "voronoi-otsu"
    threshold: float | Literal["otsu"] = "otsu"
    spot_sigma: LengthText = Length(value=3.2, in_micrometres=True)
    outline_sigma: LengthText = Length(value=2.0, in_micrometres=True)
    connectivity: Literal[6, 18, 26] = 6
    min_volume: VolumeText = None
    max_volume: VolumeText = None
    voxel_size: Annotated[Floats | None, BeforeValidator(_three)] = None
    channel: int = Field(0, ge=0)
    time: int | None = Field(None, ge=0)
    level: int = Field(0, ge=0)
    region: RegionText | None = None
    mask: str | None = None
    labels_true: str | None = None

    block_shape: Triplet | None = None
    flood_halo: Annotated[int | None, Field(ge=1, le=4096)] = None
    workers: Annotated[int | None, Field(ge=1, le=4096)] = None
    scheduler: str | None = None
    memory_limit: Annotated[int | None, BeforeValidator(_memory), Field(ge=1)] = None
    executor: Literal["dask", "serial"] = "dask"
    backend: Literal["numba", "opencl"] = "numba"
    device: Literal["cpu"] = "cpu"
    ome_zarr: Literal["0.5", "0.4"] = "0.5"
    csv: bool = False
    keep_work: bool = False

    @validates("threshold")
    @classmethod
    def _finite(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("must be a finite number or 'otsu'")
        return value

    @validates("voxel_size")
    @classmethod
    def _positive_size(cls, value: Floats | None) -> Floats | None:
        if value is not None and not all(math.isfinite(v) and v > 0 for v in value):
            raise ValueError("must be three numbers above 0, in micrometres")
        return value

    @validates("block_shape")
    @classmethod
    def _positive_block(cls, value: Triple | None) -> Triple | None:
        if value is not None and min(value) < 1:
            raise ValueError("must be at least 1 voxel along each axis")
        return value

    @validates("region")
    @classmethod
    def _ordered(cls, value: Any) -> Any:
        if value is not None and not all(0 <= a < b for a, b in value):
            raise ValueError("must have 0 <= start < stop along each axis")
        return value

    @property
    def region_box(self) -> Region | None:
        """The region as a box."""
        if self.region is None:
            return None
        (z0, z1), (y0, y1), (x0, x1) = self.region
        return Region((z0, y0, x0), (z1, y1, x1))

    def to_yaml(self) -> str:
        """The resolved configuration, in the form that ``--config`` reads."""
        return str(yaml.safe_dump(self.plain(), sort_keys=False))

    def plain(self) -> dict[str, Any]:
        """Keys and values as in YAML, unset ones left out."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {key: _plain(value) for key, value in values.items() if value is not None}

    def deciding(self) -> dict[str, Any]:
        """The part that decides labels and cells; the rest only how they are computed."""
        how = {
            "block_shape", "flood_halo", "workers", "scheduler", "memory_limit", "executor",
            "device", "ome_zarr", "csv", "keep_work", "labels_true",
        }  # fmt: skip
        return {key: value for key, value in self.plain().items() if key not in how}


def _plain(value: Any) -> Any:
    if isinstance(value, Length | CellVolume):
        return str(value)
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return ",".join(f"{a}:{b}" for a, b in value)
    return list(value) if isinstance(value, tuple) else value


def make_config(given: Mapping[str, Any], where: str = "") -> SegmentConfig:
    """Validate options.

    Raises
    ------
    ConfigError
        One line with every wrong key, its value and what it should be; an unknown key
        with the nearest known one.
    """
    try:
        return SegmentConfig.model_validate(dict(given))
    except ValidationError as error:
        prefix = f"{where}: " if where else ""
        raise ConfigError(prefix + "; ".join(_lines(error))) from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Keys of a config file.

    Raises
    ------
    ConfigError
        If it cannot be read, is no mapping of plain values, uses tags or aliases, or is
        over 1 MiB.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"config {path} cannot be read: {error.strerror}.") from error
    if len(text) > _LARGEST_CONFIG:
        raise ConfigError(f"config {path} has {len(text)} bytes, over the limit of 1 MiB.")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ConfigError(f"config {path} uses YAML aliases. Write the values out.")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"config {path} is no plain YAML: {detail}.") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"config {path} must be a mapping of option names to values.")
    return {key.replace("-", "_"): value for key, value in content.items()}


def _lines(error: ValidationError) -> list[str]:
    known = list(SegmentConfig.model_fields)
    lines: dict[str, str] = {}
    for item in error.errors():
        key = str(item["loc"][0]) if item["loc"] else "config"
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, known, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            lines[key] = f"unknown option {key}.{hint}"
        elif item["type"] == "missing":
            lines[key] = f"option {key} is missing"
        else:
            message = item["msg"].removeprefix("Value error, ")
            lines.setdefault(key, f"{key} = {item['input']!r}: {message}")
    return list(lines.values())
