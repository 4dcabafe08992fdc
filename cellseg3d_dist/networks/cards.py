"""Cards: what a file of weights is, in JSON beside it; and how a name leads to both."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic import field_validator as validates
from pydantic import model_validator as validates_all

from cellseg3d_dist.config import Floats, validated
from cellseg3d_dist.errors import BadInputError, ConfigError, WeightsError
from cellseg3d_dist.grid import Triple
from cellseg3d_dist.networks import hub
from cellseg3d_dist.paths import absolute_path

BUNDLED = Path(__file__).parent / "weights"
_LARGEST_CARD = 1 << 20
_LARGEST_WEIGHTS = 4 << 30
_LARGEST_OPTION = 4096
_CHECKPOINTS = (".pth", ".pt", ".ckpt", ".tar", ".bin")
_NAME = r"^[A-Za-z0-9][A-Za-z0-9 ._+-]*$"
_IDENTIFIER = r"^[a-z][a-z0-9_]*$"


def _key(expected: str, *default: Any, **limits: Any) -> Any:
    """A key with what its value must be, as error messages say it."""
    return Field(*default, description=expected, **limits)


class Normalisation(BaseModel):
    """Percentiles of the whole volume that are 0 and 1 to the network."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    low: float = _key("a percentage", 1.0, ge=0, le=100)
    high: float = _key("a percentage", 99.8, ge=0, le=100)

    @validates_all(mode="after")
    def _ordered(self) -> Normalisation:
        if not self.low < self.high:
            raise ValueError("not ordered")
        return self


def _lists(value: Any) -> Any:
    """Tuples as lists: JSON has no others."""
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


_JSON = TypeAdapter(dict[str, JsonValue], config=ConfigDict(allow_inf_nan=False))
Options = Annotated[
    dict[str, Any], BeforeValidator(lambda value: _JSON.validate_python(_lists(value)))
]
_OPTIONS = f"a mapping of names to plain values, numbers up to {_LARGEST_OPTION}"
_Size = Annotated[int, Field(ge=1, le=2048)]
_Margin = Annotated[int, Field(ge=0, le=1024)]


class Card(BaseModel):
    """What weights are, how they were made, and what their input and output mean.

    Attributes
    ----------
    architecture, architecture_options
        What :func:`~.registry.build` is called with.
    representation, representation_options
        What the output means.
    foreground_channel : int or None
        Channel of the output that is foreground, for networks that were trained without
        labels and whose classes have no order of their own; the same in
        representation_options.
    input_scale : float
        What the value 1 of a normalised image was to the network in its training.
    axes : str
        Order of the axes in its training.
    voxel_size : (float, float, float)
        Micrometres (z, y, x) of the training data: other volumes are resampled to it.
    upsample : bool
        Whether volumes of coarser voxels are resampled too; if not, the network's grid is as
        much coarser as the volume's finest axis is, for networks that know small nuclei.
    patch, halo : (int, int, int)
        Voxels (z, y, x) given to the network at a time, and those at each of their sides
        that are cropped off.
    threshold : float or None
        Foreground is above it, 0 to 1.
    decoder : dict
        Parameters of the representation's decoder that differ from its defaults.
    sha256 : str
        Of the file of weights; set when it is written.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = _key("a name of letters, digits and . _ + -", pattern=_NAME, max_length=100)
    architecture: str = _key("the name of an architecture", pattern=_IDENTIFIER, max_length=40)
    architecture_options: Options = _key(_OPTIONS, {})
    representation: str = _key("the name of a representation", pattern=_IDENTIFIER, max_length=40)
    representation_options: Options = _key(_OPTIONS, {})
    in_channels: int = _key("a whole number from 1 to 16", 1, ge=1, le=16)
    foreground_channel: int | None = _key(
        "a whole number, that of representation_options", None, ge=0, le=1023
    )
    normalisation: Normalisation = _key(
        "two percentages low < high, such as 1 and 99.8", Normalisation()
    )
    input_scale: float = _key("a number from 1e-6 to 1e6", 1.0, ge=1e-6, le=1e6)
    axes: Literal["zyx", "xyz"] = _key("zyx or xyz", "zyx")
    voxel_size: Floats = _key("three numbers above 0, z,y,x in micrometres")
    upsample: bool = _key("true or false", True)
    patch: tuple[_Size, _Size, _Size] = _key("three whole numbers from 1 to 2048", (64, 64, 64))
    halo: tuple[_Margin, _Margin, _Margin] = _key(
        "three whole numbers from 0 to less than half of the patch", (16, 16, 16)
    )
    blending: Literal["crop", "gaussian"] = _key("crop or gaussian", "crop")
    threshold: float | None = _key("a number from 0 to 1", None, ge=0, le=1)
    decoder: Options = _key(_OPTIONS, {})
    training: Options = _key("a mapping of names to plain values", {})
    scores: Options = _key("a mapping of names to plain values", {})
    licence: str = _key("the licence of the weights", "unspecified", min_length=1, max_length=200)
    sha256: str = _key("64 hexadecimal digits", "", pattern=r"^([0-9a-f]{64})?$")
    version: Literal[1] = _key("1, the version of cards that is known here", 1)

    @validates("voxel_size")
    @classmethod
    def _positive(cls, value: Floats) -> Floats:
        if not all(1e-4 <= size <= 1e4 for size in value):
            raise ValueError("not positive")
        return value

    @validates("patch")
    @classmethod
    def _small_enough(cls, value: Triple) -> Triple:
        if math.prod(value) > 1 << 28:
            raise ValueError("too large")
        return value

    @validates("halo")
    @classmethod
    def _leaves_a_core(cls, value: Triple, info: ValidationInfo) -> Triple:
        patch = info.data.get("patch")
        if patch is not None and any(2 * h >= p for h, p in zip(value, patch, strict=True)):
            raise ValueError("no core")
        return value

    @validates("architecture_options", "representation_options", "decoder")
    @classmethod
    def _bounded(cls, value: Options) -> Options:
        if any(abs(number) > _LARGEST_OPTION for number in _numbers(value)):
            raise ValueError("too large")
        return value

    @validates("foreground_channel")
    @classmethod
    def _told_once(cls, value: int | None, info: ValidationInfo) -> int | None:
        options = info.data.get("representation_options", {})
        last = 1 if options.get("classes") == 2 else 0
        if value is not None and options.get("foreground_channel", last) != value:
            raise ValueError("told twice")
        return value

    @validates("normalisation", mode="before")
    @classmethod
    def _as_one(cls, value: object) -> Normalisation:
        """Errors of the whole key, not of its parts."""
        try:
            return Normalisation.model_validate(value)
        except ValidationError:
            raise ValueError("no normalisation") from None

    def grid_for(self, voxel_size: Floats) -> Floats:
        """Voxel size that a volume is given to the network at."""
        if self.upsample:
            return self.voxel_size
        coarser = max(1.0, min(voxel_size) / min(self.voxel_size))
        z, y, x = (coarser * size for size in self.voxel_size)
        return (z, y, x)

    def to_json(self) -> str:
        """The card as it is stored, and as it may be put into another program."""
        values = self.model_dump(mode="json", exclude_none=True)
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def _numbers(value: JsonValue) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in _numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, int | float) else []


def read_card(path: str | Path) -> Card:
    """The card in a file.

    Raises
    ------
    WeightsError
        If it cannot be read, is over 1 MiB, is no JSON, or has a wrong, missing or unknown key.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(_LARGEST_CARD + 1)
    except OSError as error:
        raise WeightsError(f"card {path} cannot be read: {error.strerror}.") from error
    if len(text) > _LARGEST_CARD:
        raise WeightsError(f"card {path} is larger than {_LARGEST_CARD >> 20} MiB, so it is none.")
    try:
        values = json.loads(text)
    # RecursionError: nested thousands deep
    except (ValueError, RecursionError) as error:
        detail = " ".join(str(error).split())[:120]
        raise WeightsError(f"card {path} is no JSON: {detail}.") from None
    if not isinstance(values, dict):
        raise WeightsError(f"card {path} must be a mapping of keys to values.")
    return make_card(values, str(path))


def make_card(values: dict[str, Any], where: str = "") -> Card:
    """A card of these values.

    Raises
    ------
    WeightsError
        Every wrong, missing or unknown key in one line.
    """
    try:
        return validated(Card, values)
    except ConfigError as error:
        raise WeightsError(f"card {where}: {error}" if where else f"card: {error}") from None


@dataclass(frozen=True)
class Located:
    """Files of weights and card."""

    weights: Path
    card: Path


def read_weights(located: Located, card: Card) -> tuple[bytes, str]:
    """Bytes of a file of weights and their SHA-256, which is that of the card.

    Raises
    ------
    WeightsError
        If it cannot be read, is empty, over 4 GiB, not fetched by git-lfs, a checkpoint,
        or not the file that the card tells of.
    """
    path = located.weights
    content = read_file(path)
    # safetensors: eight bytes of length, then JSON
    if content[8:9] != b"{" and content.startswith((b"PK\x03\x04", b"\x80")):
        raise WeightsError(
            f"weights {path} are a checkpoint, not safetensors. Convert them: "
            f"cellseg3d-dist models convert."
        )
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.sha256:
        told = f"{card.sha256[:12]}..." if card.sha256 else "none"
        raise WeightsError(
            f"weights {path} have the SHA-256 {digest[:12]}..., their card tells of {told}. The "
            f"file is truncated or damaged, or one of the two was changed without the other."
        )
    return content, digest


def read_file(path: Path) -> bytes:
    """Bytes of weights or of a checkpoint; what is checked is what is used.

    Raises
    ------
    WeightsError
        If it cannot be read, is empty, over 4 GiB or not fetched by git-lfs.
    """
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= _LARGEST_WEIGHTS else b""
    except OSError as error:
        raise WeightsError(f"weights {path} cannot be read: {error.strerror}.") from error
    if size > _LARGEST_WEIGHTS:
        raise WeightsError(
            f"weights {path} of {size / 2**30:.1f} GiB are larger than "
            f"{_LARGEST_WEIGHTS >> 30} GiB."
        )
    if not content:
        raise WeightsError(f"weights {path} are empty.")
    if content.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"weights {path} are a git-lfs pointer, not the file itself. Run git lfs pull."
        )
    return content


def bundled() -> tuple[str, ...]:
    """Names of the weights that come with this package."""
    return tuple(sorted(path.stem for path in BUNDLED.glob("*.safetensors")))


def known() -> tuple[str, ...]:
    """Names that ``--model`` takes, whatever files of these names there are."""
    return ("intensity", *bundled())


def resolve(name: str | Path) -> Located:
    """Files that a name stands for.

    Parameters
    ----------
    name
        Of bundled weights; or a path to a ``.safetensors`` file, to its ``.json`` card, or
        to a folder with one of each; or ``hub:owner/repository@revision/file.safetensors``.

    Raises
    ------
    WeightsError
        If there is nothing of that name; with the known names, the nearest first.
    """
    text = str(name)
    if text.startswith("hub:"):
        return Located(*hub.fetch(text))
    if text in bundled():
        return _pair(BUNDLED / f"{text}.safetensors")
    try:
        path = absolute_path(text)
    except BadInputError:
        raise _unknown(text) from None
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise WeightsError(
                f"folder {path} holds {len(found)} .safetensors files where one is needed. "
                f"Name the file."
            )
        return _pair(found[0])
    if path.suffix in (".safetensors", ".json"):
        return _pair(path.with_suffix(".safetensors"))
    without_suffix = path.with_name(path.name + ".safetensors")
    if without_suffix.is_file():
        return _pair(without_suffix)
    if path.suffix in _CHECKPOINTS:
        raise WeightsError(
            f"model {path} is a checkpoint. Convert it first: "
            f"cellseg3d-dist models convert {path.name} {path.stem}."
        )
    raise _unknown(text)


def _pair(weights: Path) -> Located:
    card = weights.with_suffix(".json")
    for path, what in ((weights, "weights"), (card, "their card")):
        if not path.is_file():
            raise WeightsError(
                f"model {weights.stem}: {what} {path} cannot be found. A model is a "
                f".safetensors file and a .json card of the same name."
            )
    return Located(weights, card)


def _unknown(text: str) -> WeightsError:
    near = difflib.get_close_matches(text, known(), len(known()), 0.5)
    names = [*near, *(name for name in known() if name not in near)]
    hint = f"Did you mean {near[0]}? " if near else ""
    shown = re.sub(r"\s+", " ", text)[:120]
    return WeightsError(
        f"there is no model {shown!r}. {hint}Known are {', '.join(names)}, paths to .safetensors "
        f"files, and hub:owner/repository@revision/file.safetensors."
    )
