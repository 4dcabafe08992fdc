"""The configuration of a training: every option of ``train`` is a key here and in its YAML."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic import field_validator as validates

from cellseg3d_dist.config import Floats, Triplet, validated
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Triple
from cellseg3d_dist.networks.cards import known
from cellseg3d_dist.paths import absolute_path

SELF_SUPERVISED = "wnet3d"
Fraction = Annotated[float, Field(ge=0, le=1)]
_SWITCHES = ("deterministic", "augmentation", "tensorboard", "pictures")
_A_COUNT = "a whole number of at least 1"
_POSITIVE = "a number above 0"
_PATHS = "paths of images, folders or patterns, comma separated"


def _several(value: object) -> object:
    """Paths of one comma separated text."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [str(item) for item in value] if isinstance(value, list | tuple) else value


def _numbers(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _mapping(value: object) -> object:
    """``name=value,name=value`` with values as YAML reads them."""
    if not isinstance(value, str):
        return _listed(value)
    # commas inside brackets belong to a value
    parts = [part for part in re.split(r",(?![^\[]*\])", value) if part.strip()]
    pairs = [part.partition("=") for part in parts]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError("no mapping")
    return {key.strip().replace("-", "_"): yaml.safe_load(text) for key, _, text in pairs}


def _listed(value: object) -> object:
    """The same with lists for tuples, as YAML has it."""
    if isinstance(value, dict):
        return {str(key): _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


def _key(expected: str, default: Any = None, **limits: Any) -> Any:
    """A key with what its value must be, as error messages say it."""
    return Field(default, description=expected, **limits)


Paths = Annotated[tuple[str, ...], BeforeValidator(_several)]
Options = Annotated[dict[str, Any], BeforeValidator(_mapping)]
_OPTIONS = "a mapping such as name=value,name=value"


class TrainConfig(BaseModel):
    """Everything that ``train`` can be told. What decides the weights is `deciding`."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    images: Paths = Field(description=_PATHS)
    labels: Paths = _key(f"{_PATHS}, as many as images", ())
    validation_images: Paths = _key(_PATHS, ())
    validation_labels: Paths = _key(f"{_PATHS}, as many as validation_images", ())
    validation_fraction: float = _key("a share of the images from 0 to below 1", 0.2, ge=0, lt=1)
    ignore: int | None = _key("the value of labels that are not annotated, such as 65535")
    channel: int = _key("a whole number of at least 0", 0, ge=0)
    voxel_size: Annotated[Floats | None, BeforeValidator(_numbers)] = _key(
        "three numbers above 0, z,y,x in micrometres, such as 5,1,1"
    )
    train_voxel_size: Annotated[Floats | None, BeforeValidator(_numbers)] = _key(
        "three numbers above 0, z,y,x in micrometres, such as 2,1,1"
    )

    architecture: str = _key("the name of an architecture", "residual_unet", min_length=1)
    architecture_options: Options = _key(_OPTIONS, {})
    representation: str = _key("the name of a representation", "bcd", min_length=1)
    representation_options: Options = _key(_OPTIONS, {})
    objective_options: Options = _key(_OPTIONS, {})
    weights: str | None = _key("the name or file of weights to start from")

    patch: Triplet = _key("three whole numbers of at least 1, z,y,x in voxels", (64, 64, 64))
    halo: Triplet = _key("three whole numbers of at least 0, z,y,x in voxels", (16, 16, 16))
    batch: int = _key(_A_COUNT, 2, ge=1, le=4096)
    foreground_share: Fraction = _key("a share from 0 to 1", 0.7)
    augmentation: bool = _key("true or false", True)
    augmentation_options: Options = _key(_OPTIONS, {})

    steps: int = _key(_A_COUNT, 5000, ge=1)
    steps_per_epoch: int = _key(_A_COUNT, 100, ge=1)
    validate_every: int = _key("a number of epochs of at least 1", 5, ge=1)
    early_stopping: int | None = _key("a number of validations of at least 1", ge=1)
    score: Literal["mean_f1", "f1", "dice"] | None = _key("mean_f1, f1 or dice")
    learning_rate: float = _key(_POSITIVE, 1e-3, gt=0)
    weight_decay: float = _key("a number of at least 0", 1e-4, ge=0)
    optimizer: Literal["adamw", "adam", "sgd"] = _key("adamw, adam or sgd", "adamw")
    schedule: Literal["cosine", "constant"] = _key("cosine or constant", "cosine")
    warm_up: Fraction = _key("a share of the steps from 0 to 1", 0.05)
    gradient_clip: float = _key("a norm of at least 0; 0 is none", 1.0, ge=0)
    ema: float = _key("a decay from 0 (none) to below 1", 0.995, ge=0, lt=1)
    seed: int = _key("a whole number of at least 0", 0, ge=0, lt=2**63)
    deterministic: bool = _key("true or false", False)
    amp: Literal["auto", "off", "bf16", "fp16"] = _key("auto, off, bf16 or fp16", "auto")

    device: Literal["cpu", "cuda"] = _key("cpu or cuda", "cpu")
    threads: int | None = _key("a whole number of threads of at least 1", ge=1, le=4096)
    loaders: int = _key("a whole number of threads from 1 to 256", 1, ge=1, le=256)
    tensorboard: bool = _key("true or false", True)
    pictures: bool = _key("true or false", True)

    name: str | None = _key("a name for the card", min_length=1, max_length=100)
    licence: str = _key("a licence of the weights", "unspecified", min_length=1)
    data_licence: str = _key("the licence of the training data", "unspecified", min_length=1)

    @validates("*", mode="before")
    @classmethod
    def _no_truth(cls, value: object, info: ValidationInfo) -> object:
        """YAML's yes and no are not 1 and 0."""
        if isinstance(value, bool) and info.field_name not in _SWITCHES:
            raise ValueError("a truth value")
        return value

    @validates("learning_rate", "weight_decay", "gradient_clip")
    @classmethod
    def _finite(cls, value: float) -> float:
        if not math.isfinite(value):
            raise ValueError("not finite")
        return value

    @validates("voxel_size", "train_voxel_size")
    @classmethod
    def _positive_size(cls, value: Floats | None) -> Floats | None:
        if value is not None and not all(math.isfinite(v) and v > 0 for v in value):
            raise ValueError("not positive")
        return value

    @validates("patch")
    @classmethod
    def _positive_patch(cls, value: Triple) -> Triple:
        if min(value) < 1:
            raise ValueError("not positive")
        return value

    @validates("halo")
    @classmethod
    def _no_negative_halo(cls, value: Triple) -> Triple:
        if min(value) < 0:
            raise ValueError("negative")
        return value

    @validates("images")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("none")
        return value

    @property
    def self_supervised(self) -> bool:
        """Whether the network learns from images alone."""
        return self.architecture == SELF_SUPERVISED and not self.labels

    @property
    def n_epochs(self) -> int:
        """Epochs, the last of which may be short."""
        return -(-self.steps // self.steps_per_epoch)

    def inputs(self) -> list[str]:
        """All paths that are read."""
        return [
            *self.images, *self.labels, *self.validation_images, *self.validation_labels
        ]  # fmt: skip

    def located(self) -> TrainConfig:
        """The same with absolute paths, so that it means the same in any working folder."""
        keys = ("images", "labels", "validation_images", "validation_labels")
        found: dict[str, Any] = {key: tuple(map(_absolute, getattr(self, key))) for key in keys}
        for key in ("labels", "validation_labels"):
            found[key] = tuple(map(_labels_of_run, found[key]))
        if self.weights and self.weights not in known() and Path(self.weights).exists():
            found["weights"] = str(absolute_path(self.weights))
        return self.model_copy(update=found)

    def plain(self) -> dict[str, Any]:
        """Keys and values as in YAML, unset ones left out."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in values.items()
            if value is not None
        }

    def to_yaml(self) -> str:
        """The resolved configuration, in the form that ``--config`` reads."""
        return str(yaml.safe_dump(self.plain(), sort_keys=False))

    def deciding(self) -> dict[str, Any]:
        """The part that decides the weights; the rest says where and how they are computed."""
        how = {"threads", "loaders", "tensorboard", "pictures", "name", "licence", "data_licence"}
        if not self.deterministic:
            how.add("device")
        return {key: value for key, value in self.plain().items() if key not in how}


def _absolute(path: str) -> str:
    return path if "://" in path else str(absolute_path(path))


def _labels_of_run(path: str) -> str:
    """The labels of a run folder that is given for them."""
    labels = Path(path) / "labels.ome.zarr"
    return str(labels) if (Path(path) / "run.json").is_file() and labels.is_dir() else path


def make_train_config(given: Mapping[str, Any], where: str = "") -> TrainConfig:
    """Validate options of ``train``.

    Raises
    ------
    ConfigError
        One line with every wrong key, or with keys that do not go together.
    """
    config = validated(TrainConfig, given, where)
    prefix = f"config {where}: " if where else ""
    for images, labels in (("images", "labels"), ("validation_images", "validation_labels")):
        if getattr(config, labels) and not getattr(config, images):
            raise ConfigError(f"{prefix}{labels} is given without {images}. Give both.")
    if config.validation_images and not (config.validation_labels or config.self_supervised):
        raise ConfigError(f"{prefix}validation_images need validation_labels to be scored with.")
    if any(2 * h >= p for h, p in zip(config.halo, config.patch, strict=True)):
        raise ConfigError(
            f"{prefix}halo {config.halo} leaves no core in patches of {config.patch} voxels. Use "
            f"less than half of the patch."
        )
    if config.amp in ("bf16", "fp16") and config.device == "cpu":
        raise ConfigError(f"{prefix}amp {config.amp} needs device cuda. Leave it at auto.")
    if not config.labels and config.architecture != SELF_SUPERVISED:
        raise ConfigError(
            f"{prefix}architecture {config.architecture} needs labels. Give labels, or train "
            f"{SELF_SUPERVISED}, which learns from images alone."
        )
    return config
