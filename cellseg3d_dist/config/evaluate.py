"""The options of an evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic import field_validator as validates

from cellseg3d_dist.config.values import (
    A_COUNT,
    A_LENGTH,
    BlockText,
    BytesText,
    LengthText,
    RegionText,
    SizeText,
    option,
    plain,
)
from cellseg3d_dist.grid import Region


def _listed(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


Numbers = Annotated[tuple[float, ...], BeforeValidator(_listed)]
Words = Annotated[tuple[Literal["iou", "iot", "iop"], ...], BeforeValidator(_listed)]
THRESHOLDS = tuple(round(0.1 * i, 1) for i in range(1, 10))
A_BOX = "z0:z1,y0:y1,x0:x1 in voxels, with 0 <= start < stop, such as 0:64,0:512,100:200"


class EvaluateConfig(BaseModel):
    """Everything that ``evaluate`` can be told besides what to read."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    thresholds: Numbers = option("numbers above 0, at most 1, such as 0.5,0.75", THRESHOLDS)
    criteria: Words = option("some of iou, iot and iop", ("iou", "iot", "iop"))
    classes: bool = option("true or false", False)
    thesis: bool = option("true or false", False)
    ignore: int | None = option("a whole number")
    region: RegionText | None = option(A_BOX)
    boxes: tuple[RegionText, ...] = option(f"boxes, each {A_BOX}", ())
    distance: LengthText | None = option(A_LENGTH)
    first_voxel: int = option("0 or 1", 0, ge=0, le=1)
    voxel_size: SizeText = option("three numbers above 0, z,y,x in micrometres, such as 5,1,1")
    level: int = option(A_COUNT, 0, ge=0)
    time: int | None = option(A_COUNT, ge=0)

    block_shape: BlockText | None = option(
        "three whole numbers of at least 1, z,y,x in voxels, such as 128,128,128"
    )
    workers: int | None = option("a whole number of processes from 1 to 4096", ge=1, le=4096)
    scheduler: str | None = option("an address such as tcp://127.0.0.1:8786, or a scheduler file")
    memory_limit: BytesText = option("bytes per worker above 0, such as 2GB or 1.5GiB", ge=1)
    executor: Literal["dask", "serial"] | None = option("dask or serial")

    @validates("thresholds")
    @classmethod
    def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(0 < one <= 1 for one in value):
            raise ValueError("out of range")
        return tuple(sorted(set(value)))

    @validates("criteria")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("none")
        return tuple(dict.fromkeys(value))

    @property
    def region_box(self) -> Region | None:
        """The region as a box."""
        return None if self.region is None else _box(self.region)

    @property
    def box_regions(self) -> tuple[Region, ...]:
        """The boxes."""
        return tuple(_box(one) for one in self.boxes)

    def deciding(self) -> dict[str, str]:
        """The part that decides scores, as text; what is not set is left out."""
        how = {"block_shape", "workers", "scheduler", "memory_limit", "executor"}
        values = {key: getattr(self, key) for key in type(self).model_fields if key not in how}
        boxes = values.pop("boxes")
        given = {key: str(plain(value)) for key, value in values.items() if value is not None}
        return given | ({"boxes": ";".join(str(plain(box)) for box in boxes)} if boxes else {})


def _box(bounds: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]) -> Region:
    (z0, z1), (y0, y1), (x0, x1) = bounds
    return Region((z0, y0, x0), (z1, y1, x1))
