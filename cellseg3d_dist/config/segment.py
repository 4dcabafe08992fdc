"""The configuration of a run."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo
from pydantic import field_validator as validates

from cellseg3d_dist.config.clean_up import CleanUpText
from cellseg3d_dist.config.fucci import FUCCI, FucciText
from cellseg3d_dist.config.preprocessing import PREPROCESS, PreprocessText
from cellseg3d_dist.config.reading import read_yaml, validated
from cellseg3d_dist.config.values import (
    A_COUNT,
    A_LENGTH,
    A_VOLUME,
    BlockText,
    BytesText,
    Connectivity,
    LabellerName,
    Length,
    LengthText,
    PairsText,
    RegionText,
    SizeText,
    TimesText,
    ValuesText,
    Version,
    VolumeText,
    option,
    plain,
)
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.paths import absolute_path

#: The bundled network that was trained without labels.
DEFAULT_MODEL = "nuclei-wnet3d"


#: Methods of this package that find instances; any other name is a labeller's.
InstanceMethod = Literal["components", "voronoi-otsu", "watershed", "decode"]
METHODS = get_args(InstanceMethod)


class SegmentConfig(BaseModel):
    """Everything that ``segment`` can be told. What decides the labels is `deciding`."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    image: str = Field(description="a path or URL")
    model: str = option("intensity, the name of a model, or a path", DEFAULT_MODEL, min_length=1)
    instances: InstanceMethod | LabellerName | None = option(
        "decode, voronoi-otsu, watershed or components, or a labeller: cellpose, stardist, the "
        "name of an installed one, module:name or path/to/file.py:function"
    )
    labeller_options: ValuesText = option("names and values, such as model=nuclei,diameter=8")
    overlap_halo: LengthText | None = option(A_LENGTH)
    overlap_threshold: float | None = option("a number from 0 to 1", ge=0, le=1)
    threshold: float | Literal["otsu"] | None = option(
        "otsu, or a number in the image's units, 0 to 1 for a network"
    )
    decoder: PairsText = option("names and numbers, such as seed_foreground=0.8,min_voxels=30")
    preprocess: PreprocessText = option(PREPROCESS)
    spot_sigma: LengthText = option(A_LENGTH, Length(value=3.2, in_micrometres=True))
    outline_sigma: LengthText = option(A_LENGTH, Length(value=2.0, in_micrometres=True))
    seeds: Literal["spots", "threshold", "hmaxima", "distance"] | None = option(
        "spots, threshold, hmaxima or distance"
    )
    seed_threshold: float | None = option("a number in the image's units, 0 to 1 for a network")
    min_seed_voxels: int | None = option("a whole number of at least 1", ge=1)
    h: float | None = option(
        "a height above 0, in the image's units (0 to 1 for a network), or micrometres of distance",
        gt=0,
        allow_inf_nan=False,
    )
    connectivity: Connectivity = option("6, 18 or 26", 6)
    min_volume: VolumeText = option(A_VOLUME)
    max_volume: VolumeText = option(A_VOLUME)
    clean_up: CleanUpText = option("steps such as closing=8,fill-holes,split")
    voxel_size: SizeText = option("three numbers above 0, z,y,x in micrometres, such as 5,1,1")
    channel: int = option(A_COUNT, 0, ge=0)
    time: TimesText = option("a time point such as 3, several such as 0:5, or all")
    level: int = option(A_COUNT, 0, ge=0)
    region: RegionText | None = option(
        "z0:z1,y0:y1,x0:x1 in voxels, with 0 <= start < stop, such as 0:64,0:512,100:200"
    )
    mask: str | None = option("a path or URL")
    labels_true: str | None = option("a path or URL")
    earlier_run: str | None = option("a run folder whose prediction is used again")

    block_shape: BlockText | None = option(
        "three whole numbers of at least 1, z,y,x in voxels, such as 128,128,128"
    )
    flood_halo: int | None = option("a whole number of voxels from 1 to 4096", ge=1, le=4096)
    workers: int | None = option("a whole number of processes from 1 to 4096", ge=1, le=4096)
    scheduler: str | None = option("an address such as tcp://127.0.0.1:8786, or a scheduler file")
    memory_limit: BytesText = option("bytes per worker above 0, such as 2GB or 1.5GiB", ge=1)
    executor: Literal["dask", "serial"] = option("dask or serial", "dask")
    backend: Literal["numba", "opencl"] = option("numba or opencl", "numba")
    device: Literal["cpu", "cuda"] = option("cpu or cuda", "cpu")
    batch: int | None = option("a whole number of patches from 1 to 256", ge=1, le=256)
    threads: int = option("a whole number of threads from 1 to 256", 1, ge=1, le=256)
    flips: bool = option("true or false", False)
    compat: Literal["cellseg3d"] | None = option("cellseg3d")
    ome_zarr: Version = option("0.5 or 0.4", "0.5")
    fucci: FucciText = option(FUCCI)
    csv: bool = option("true or false", False)
    keep_work: bool = option("true or false", False)

    @validates("*", mode="before")
    @classmethod
    def _no_truth(cls, value: object, info: ValidationInfo) -> object:
        """YAML's yes and no are not 1 and 0."""
        if isinstance(value, bool) and info.field_name not in ("csv", "keep_work", "flips"):
            raise ValueError("a truth value")
        return value

    @validates("threshold", "seed_threshold")
    @classmethod
    def _finite(cls, value: float | str | None) -> float | str | None:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("not finite")
        return value

    @property
    def time_point(self) -> int | None:
        """The one time point of a run; None is the only one there is."""
        assert not isinstance(self.time, str)
        return self.time

    def times(self, n_times: int) -> range | None:
        """Several time points of so many; None where one is asked for, or there is one.

        Raises
        ------
        ConfigError
            If they are not all there.
        """
        if (n_times == 1 and self.time in (None, "all", "0:1")) or isinstance(self.time, int):
            return None
        first, stop = 0, n_times
        if self.time not in (None, "all"):
            first, stop = (int(part) for part in str(self.time).split(":"))
        if stop > n_times:
            raise ConfigError(
                f"time {self.time} is not in {self.image}; its times are 0 to {n_times - 1}."
            )
        return range(first, stop)

    @property
    def region_box(self) -> Region | None:
        """The region as a box."""
        if self.region is None:
            return None
        (z0, z1), (y0, y1), (x0, x1) = self.region
        return Region((z0, y0, x0), (z1, y1, x1))

    @property
    def labels_outside(self) -> bool:
        """Whether a labeller finds the instances, not a method of this package."""
        return self.instances is not None and self.instances not in METHODS

    def located(self, models: Collection[str]) -> SegmentConfig:
        """The same with absolute paths, so that it means the same in any working folder.

        ``models`` are names that are no paths, even where there is a file or folder so called.
        """
        paths = {key: getattr(self, key) for key in ("image", "mask", "labels_true", "earlier_run")}
        for key in ("scheduler", "model"):
            given = getattr(self, key)
            if given and given not in models and Path(given).exists():
                paths[key] = given
        changed = {
            key: str(absolute_path(path))
            for key, path in paths.items()
            if path and "://" not in path
        }
        where, _, name = (self.instances or "").rpartition(":")
        if where.endswith(".py"):
            changed["instances"] = f"{absolute_path(where)}:{name}"
        return self.model_copy(update=changed)

    def to_yaml(self) -> str:
        """The resolved configuration, in the form that ``--config`` reads."""
        return str(yaml.safe_dump(self.plain(), sort_keys=False))

    def plain(self) -> dict[str, Any]:
        """Keys and values as in YAML, unset ones left out."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {key: plain(value) for key, value in values.items() if value is not None}

    def deciding(self) -> dict[str, Any]:
        """The part that decides labels and cells; the rest only how they are computed."""
        how = {
            "block_shape", "flood_halo", "workers", "scheduler", "memory_limit", "executor",
            "ome_zarr", "csv", "keep_work", "labels_true", "earlier_run",
        }  # fmt: skip
        if self.model == "intensity":
            how |= {"batch", "threads", "flips"} | (set() if self.labels_outside else {"device"})
        if not self.labels_outside:
            how |= {"labeller_options", "overlap_halo", "overlap_threshold"}
        return {key: value for key, value in self.plain().items() if key not in how}


def make_config(given: Mapping[str, Any], where: str = "") -> SegmentConfig:
    """Validate options of ``segment``, as :func:`validated` does."""
    return validated(SegmentConfig, given, where)


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
