"""The option ``fucci``: the two channels that report the cell cycle."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, FiniteFloat, model_validator

FUCCI = (
    "red=CHANNEL,green=CHANNEL (numbers from 0, or names), and red_threshold and "
    "green_threshold in image units where Otsu over cells is not wanted"
)


class Fucci(BaseModel):
    """Channels of the reporters, by number or name; thresholds of cells' means.

    Attributes
    ----------
    red, green : str
    red_threshold, green_threshold : float or None
        In image units; None is Otsu's over all cells.
    """

    model_config = ConfigDict(frozen=True)
    red: str
    green: str
    red_threshold: FiniteFloat | None = None
    green_threshold: FiniteFloat | None = None

    @model_validator(mode="after")
    def _two(self) -> Fucci:
        if not self.red or not self.green or self.red == self.green:
            raise ValueError("not two channels")
        return self

    def __str__(self) -> str:
        values = ((name, getattr(self, name)) for name in type(self).model_fields)
        return ",".join(
            f"{name}={value if isinstance(value, str) else format(value, '.12g')}"
            for name, value in values
            if value is not None
        )


def _fucci(value: object) -> object:
    if isinstance(value, str):
        parts = [part.partition("=") for part in value.split(",") if part.strip()]
        value = {key.strip().replace("-", "_"): text.strip() for key, _, text in parts}
    if not isinstance(value, dict):
        return value
    if unknown := value.keys() - Fucci.model_fields:
        raise ValueError(f"unknown keys {unknown}")
    # a channel's number is a name too
    return {k: str(v) if k in ("red", "green") else v for k, v in value.items()} or None


FucciText = Annotated[Fucci | None, BeforeValidator(_fucci)]
