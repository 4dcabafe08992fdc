"""Steps of the clean-up of labels, as people write them: one text, or a list in YAML.

::

    closing=8,fill-holes,split=26          values of a step, in order, are parted by colons
    merge-touching=0.35:1:foreground       (size=30: and size=:5000 leave one out)

    clean_up:                              the same in YAML
      - closing: 8
      - fill-holes
      - merge-touching: {low: 0.35, high: 1, of: foreground}
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from cellseg3d_dist.config.values import (
    Connectivity,
    Length,
    LengthText,
    VolumeText,
    option,
)
from cellseg3d_dist.errors import ConfigError

#: Largest radius of a step in voxels; a block reads up to twice as many beyond each side.
MAX_RADIUS = 64
#: Most steps of one clean-up.
MAX_STEPS = 32

_A_VOLUME = "a volume of at least 0 such as 500um3, or 30 for voxels"


class Step(BaseModel):
    """One step of a clean-up with its parameters; in text the first is written ``name=value``."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)
    #: As users write it.
    name: ClassVar[str]

    def __str__(self) -> str:
        values = []
        for key, field in type(self).model_fields.items():
            value = getattr(self, key)
            # 900 and not 900.0
            text = repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
            values.append("" if value is None or value == field.default else text)
        text = ":".join(values).rstrip(":")
        return f"{self.name}={text}" if text else self.name

    @classmethod
    def keys(cls) -> list[str]:
        """Parameters in the order in which text gives them."""
        return list(cls.model_fields)


class Closing(Step):
    """Cells grow by ``radius`` steps and what they cover together shrinks as much again."""

    name = "closing"
    radius: int = Field(description=f"a whole number of voxels from 1 to {MAX_RADIUS}",
                        ge=1, le=MAX_RADIUS)  # fmt: skip


class FillHoles(Step):
    """Background that one cell encloses becomes part of it."""

    name = "fill-holes"
    max_volume: VolumeText = option(_A_VOLUME)


class MergeTouching(Step):
    """Cells whose common border is as bright as ``low`` to ``high`` on average become one."""

    name = "merge-touching"
    low: float = Field(description="a finite number", allow_inf_nan=False)
    high: float | None = option("a finite number, not below low", allow_inf_nan=False)
    of: Literal["foreground", "image"] | None = option("foreground or image")
    order: Literal["at-once", "brightest-first"] = option("at-once or brightest-first", "at-once")

    @property
    def highest(self) -> float:
        """The upper end of the range."""
        return math.inf if self.high is None else self.high


class Smooth(Step):
    """Every voxel takes the label that most voxels within ``radius`` of it have."""

    name = "smooth"
    radius: LengthText = option(
        "a length above 0 such as 2um, or 1.5 for voxels of the finest axis",
        Length(value=1.5, in_micrometres=False),
    )


class Size(Step):
    """Cells smaller than ``min_volume`` or larger than ``max_volume`` are dropped."""

    name = "size"
    min_volume: VolumeText = option(_A_VOLUME)
    max_volume: VolumeText = option(_A_VOLUME)


class Artifacts(Step):
    """Cells of ``volume`` or more are dropped."""

    name = "artifacts"
    volume: VolumeText = Field(description=_A_VOLUME)


class Split(Step):
    """Each connected component of a cell becomes a cell."""

    name = "split"
    connectivity: Connectivity = option("6, 18 or 26", 6)


def _axes(value: object) -> object:
    text = "".join(value) if isinstance(value, list | tuple) else value
    if isinstance(text, str) and text and set(text) <= set("zyx"):
        return "".join(axis for axis in "zyx" if axis in text)
    raise ValueError("no axes")


class ClearBorder(Step):
    """Cells that touch the volume's faces, across the given axes, are dropped."""

    name = "clear-border"
    axes: Annotated[str, BeforeValidator(_axes)] = option("axes out of zyx, such as yx", "zyx")


STEPS: dict[str, type[Step]] = {
    kind.name: kind
    for kind in (Closing, FillHoles, MergeTouching, Smooth, Size, Artifacts, Split, ClearBorder)
}
#: The recipe of CellSeg3D for the Mouse-Skull nuclei: its border intensities of 35 to 100 on a
#: scale of 1 to 100 are foregrounds of 34/99 to 1.
PRESETS: dict[str, tuple[Step, ...]] = {
    "mouse-skull": (Closing(radius=8), MergeTouching(low=34 / 99, high=1.0, of="foreground")),
}


def steps_of(given: object) -> tuple[Step, ...]:
    """Steps of a text or a list.

    Raises
    ------
    ConfigError
        With the step or parameter, what it should be, and the nearest known name.
    """
    if given is None:
        return ()
    if isinstance(given, str):
        given = [part for part in (p.strip() for p in given.split(",")) if part]
    if isinstance(given, Step | Mapping) or not isinstance(given, Sequence):
        raise ConfigError(
            f"clean_up {_shown(given)} must be a list of steps, such as closing=8,fill-holes. "
            f"Known are {_known()}."
        )
    steps = [step for item in given for step in _of_item(item)]
    if len(steps) > MAX_STEPS:
        raise ConfigError(f"clean_up has {len(steps)} steps, over the limit of {MAX_STEPS}.")
    return tuple(steps)


def _of_item(item: object) -> tuple[Step, ...]:
    if isinstance(item, Step):
        return (item,)
    if isinstance(item, str):
        name, given, text = item.partition("=")
        return _made(name.strip(), text.split(":") if given else [])
    if isinstance(item, Mapping) and len(item) == 1:
        ((name, value),) = item.items()
        if isinstance(name, str):
            return _made(name, value if isinstance(value, Mapping) else [value])
    raise ConfigError(
        f"clean_up {_shown(item)} must be a step such as split, closing=8, or in YAML "
        f"'closing: 8'. Known are {_known()}."
    )


def _made(name: str, values: Mapping[Any, Any] | Sequence[Any]) -> tuple[Step, ...]:
    key = name.replace("_", "-").lower()
    if key in PRESETS:
        if list(values) not in ([], [None]):
            raise ConfigError(f"clean_up {key} is a preset and takes no value.")
        return PRESETS[key]
    if key not in STEPS:
        near = difflib.get_close_matches(key, [*STEPS, *PRESETS], 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {_known()}"
        raise ConfigError(f"clean_up has no step {_shown(name)} ({hint}).")
    kind = STEPS[key]
    if not isinstance(values, Mapping):
        if len(values) > len(kind.keys()):
            raise ConfigError(
                f"clean_up {key} takes at most {len(kind.keys())} values "
                f"({':'.join(kind.keys()) or 'none'}), not {len(values)}."
            )
        values = dict(zip(kind.keys(), values, strict=False))
    given = {str(k).replace("-", "_"): _unset(v) for k, v in values.items()}
    step = _validated(kind, {k: v for k, v in given.items() if v is not None})
    _check(step)
    return (step,)


def _unset(value: object) -> object:
    value = value.strip() if isinstance(value, str) else value
    if isinstance(value, bool):
        return str(value).lower()
    return None if value == "" else value


def _validated(kind: type[Step], given: dict[str, Any]) -> Step:
    known = kind.model_fields
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        items = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    item = items[0]
    key = str(item["loc"][0])
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known) or 'none'}"
        raise ConfigError(f"clean_up {kind.name} has no parameter {_shown(key)} ({hint}).")
    if item["type"] == "missing":
        raise ConfigError(
            f"clean_up {kind.name} needs {key}, {known[key].description}, such as "
            f"{kind.name}={_EXAMPLES.get(kind.name, '')}."
        )
    raise ConfigError(
        f"clean_up {kind.name}: {key} {_shown(given[key])} must be {known[key].description}."
    )


_EXAMPLES = {"closing": "8", "merge-touching": "0.35:1", "artifacts": "500"}


def _check(step: Step) -> None:
    """Parameters that are wrong together."""
    if isinstance(step, MergeTouching) and step.highest < step.low:
        raise ConfigError(
            f"clean_up {step.name}: high {step.high:g} is below low {step.low:g}, so no border "
            f"is in the range. Give low first."
        )
    if isinstance(step, Smooth) and step.radius.value == 0:
        raise ConfigError(f"clean_up {step.name}: radius {step.radius} must be above 0.")
    if isinstance(step, Size) and step.min_volume is None and step.max_volume is None:
        raise ConfigError(
            f"clean_up {step.name} needs min_volume or max_volume, such as {step.name}=30:5000."
        )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _known() -> str:
    return ", ".join([*STEPS, *PRESETS])


def _configured(given: object) -> tuple[Step, ...] | None:
    return steps_of(given) or None


CleanUpText = Annotated[tuple[Step, ...] | None, BeforeValidator(_configured)]
