"""The configuration of a run: every command-line option is a key here and in one YAML file."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)
from pydantic import field_validator as validates
from pydantic.fields import FieldInfo

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region, Triple
from cellseg3d_dist.paths import absolute_path

#: The bundled network that was trained without labels.
DEFAULT_MODEL = "nuclei-wnet3d"

Floats = tuple[float, float, float]
_Model = TypeVar("_Model", bound=BaseModel)
_MICROMETRES = re.compile(r"^\s*([-+.\deE]+?)\s*(um|µm|μm)\s*$")
_CUBIC = re.compile(r"^\s*([-+.\deE]+?)\s*(um3|um\^3|µm3|µm³|um³|μm3|μm³)\s*$")
_BYTES = re.compile(r"^\s*(\d+(?:\.\d*)?(?:e\+?\d+)?)\s*([kmgt]?)(i?)b?\s*$", re.IGNORECASE)
_LARGEST_CONFIG = 1 << 16
_DEEPEST_CONFIG = 8


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


def _text(value: object) -> object:
    """A version that YAML took for a number, as text."""
    return str(value) if isinstance(value, float) else value


Triplet = Annotated[tuple[int, int, int], BeforeValidator(_three)]
RegionText = Annotated[
    tuple[tuple[int, int], tuple[int, int], tuple[int, int]], BeforeValidator(_region)
]
LengthText = Annotated[Length, BeforeValidator(_length)]
VolumeText = Annotated[CellVolume | None, BeforeValidator(_cell_volume)]

_A_LENGTH = "a length of at least 0 such as 3.2um, or 1.5 for voxels of the finest axis"
_A_VOLUME = "a volume of at least 0 such as 200um3, or 30 for voxels"
_A_COUNT = "a whole number of at least 0"


def _key(expected: str, default: Any = None, **limits: Any) -> Any:
    """A key with what its value must be, as error messages say it."""
    return Field(default, description=expected, **limits)


class SegmentConfig(BaseModel):
    """Everything that ``segment`` can be told. What decides the labels is `deciding`."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    image: str = Field(description="a path or URL")
    model: str = _key("intensity, the name of a model, or a path", DEFAULT_MODEL, min_length=1)
    instances: Literal["components", "voronoi-otsu", "decode"] | None = _key(
        "decode, voronoi-otsu or components"
    )
    threshold: float | Literal["otsu"] | None = _key(
        "otsu, or a number in the image's units, 0 to 1 for a network"
    )
    decoder: Annotated[dict[str, float] | None, BeforeValidator(_pairs)] = _key(
        "names and numbers, such as seed_foreground=0.8,min_voxels=30"
    )
    spot_sigma: LengthText = _key(_A_LENGTH, Length(value=3.2, in_micrometres=True))
    outline_sigma: LengthText = _key(_A_LENGTH, Length(value=2.0, in_micrometres=True))
    connectivity: Annotated[Literal[6, 18, 26], BeforeValidator(_whole)] = _key("6, 18 or 26", 6)
    min_volume: VolumeText = _key(_A_VOLUME)
    max_volume: VolumeText = _key(_A_VOLUME)
    voxel_size: Annotated[Floats | None, BeforeValidator(_three)] = _key(
        "three numbers above 0, z,y,x in micrometres, such as 5,1,1"
    )
    channel: int = _key(_A_COUNT, 0, ge=0)
    time: int | None = _key(_A_COUNT, ge=0)
    level: int = _key(_A_COUNT, 0, ge=0)
    region: RegionText | None = _key(
        "z0:z1,y0:y1,x0:x1 in voxels, with 0 <= start < stop, such as 0:64,0:512,100:200"
    )
    mask: str | None = _key("a path or URL")
    labels_true: str | None = _key("a path or URL")

    block_shape: Triplet | None = _key(
        "three whole numbers of at least 1, z,y,x in voxels, such as 128,128,128"
    )
    flood_halo: int | None = _key("a whole number of voxels from 1 to 4096", ge=1, le=4096)
    workers: int | None = _key("a whole number of processes from 1 to 4096", ge=1, le=4096)
    scheduler: str | None = _key("an address such as tcp://127.0.0.1:8786, or a scheduler file")
    memory_limit: Annotated[int | None, BeforeValidator(_memory)] = _key(
        "bytes per worker above 0, such as 2GB or 1.5GiB", ge=1
    )
    executor: Literal["dask", "serial"] = _key("dask or serial", "dask")
    backend: Literal["numba", "opencl"] = _key("numba or opencl", "numba")
    device: Literal["cpu", "cuda"] = _key("cpu or cuda", "cpu")
    batch: int | None = _key("a whole number of patches from 1 to 256", ge=1, le=256)
    threads: int = _key("a whole number of threads from 1 to 256", 1, ge=1, le=256)
    flips: bool = _key("true or false", False)
    compat: Literal["cellseg3d"] | None = _key("cellseg3d")
    ome_zarr: Annotated[Literal["0.5", "0.4"], BeforeValidator(_text)] = _key("0.5 or 0.4", "0.5")
    csv: bool = _key("true or false", False)
    keep_work: bool = _key("true or false", False)

    @validates("*", mode="before")
    @classmethod
    def _no_truth(cls, value: object, info: ValidationInfo) -> object:
        """YAML's yes and no are not 1 and 0."""
        if isinstance(value, bool) and info.field_name not in ("csv", "keep_work", "flips"):
            raise ValueError("a truth value")
        return value

    @validates("threshold")
    @classmethod
    def _finite(cls, value: float | str | None) -> float | str | None:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("not finite")
        return value

    @validates("voxel_size")
    @classmethod
    def _positive_size(cls, value: Floats | None) -> Floats | None:
        if value is not None and not all(math.isfinite(v) and v > 0 for v in value):
            raise ValueError("not positive")
        return value

    @validates("block_shape")
    @classmethod
    def _positive_block(cls, value: Triple | None) -> Triple | None:
        if value is not None and min(value) < 1:
            raise ValueError("not positive")
        return value

    @validates("region")
    @classmethod
    def _ordered(cls, value: Any) -> Any:
        if value is not None and not all(0 <= a < b for a, b in value):
            raise ValueError("not ordered")
        return value

    @property
    def region_box(self) -> Region | None:
        """The region as a box."""
        if self.region is None:
            return None
        (z0, z1), (y0, y1), (x0, x1) = self.region
        return Region((z0, y0, x0), (z1, y1, x1))

    def located(self) -> SegmentConfig:
        """The same with absolute paths, so that it means the same in any working folder."""
        paths = {key: getattr(self, key) for key in ("image", "mask", "labels_true")}
        for key in ("scheduler", "model"):
            if getattr(self, key) and Path(getattr(self, key)).exists():
                paths[key] = getattr(self, key)
        return self.model_copy(
            update={
                key: str(absolute_path(path))
                for key, path in paths.items()
                if path and "://" not in path
            }
        )

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
            "ome_zarr", "csv", "keep_work", "labels_true",
        }  # fmt: skip
        if self.model == "intensity":
            how |= {"device", "batch", "threads", "flips"}
        return {key: value for key, value in self.plain().items() if key not in how}


def _plain(value: Any) -> Any:
    if isinstance(value, Length | CellVolume):
        return str(value)
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return ",".join(f"{a}:{b}" for a, b in value)
    return list(value) if isinstance(value, tuple) else value


def make_config(given: Mapping[str, Any], where: str = "") -> SegmentConfig:
    """Validate options of ``segment``, as :func:`validated` does."""
    return validated(SegmentConfig, given, where)


def validated(model: type[_Model], given: Mapping[str, Any], where: str = "") -> _Model:
    """Validate options as a model, whose fields' descriptions say what values must be.

    Raises
    ------
    ConfigError
        One line with every wrong key, its value and what it should be; an unknown key
        with the nearest known one.
    """
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        prefix = f"config {where}: " if where else ""
        lines = _lines(error, given, model.model_fields)
        raise ConfigError(prefix + "; ".join(lines) + ".") from None


def read_config(
    path: str | Path,
    model: type[BaseModel] = SegmentConfig,
    needed: Mapping[str, Any] = MappingProxyType({"image": ""}),
) -> dict[str, Any]:
    """Checked keys of a config file, as it gives them.

    Parameters
    ----------
    model
        What is configured.
    needed
        Values for keys that need not be in the file, as they are given elsewhere.

    Raises
    ------
    ConfigError
        As :func:`read_yaml` and :func:`validated`, naming the file.
    """
    given = read_yaml(path)
    validated(model, {**needed, **given}, str(path))
    return given


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
