"""Plans of volumes that are not there yet, and what a run would cost by the rates of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import cellseg3d_dist
from cellseg3d_dist.config import SegmentConfig, make_config
from cellseg3d_dist.costs import Cost, CostModel, RunRecord, fit
from cellseg3d_dist.engine.checks import check_options
from cellseg3d_dist.engine.inputs import open_inputs
from cellseg3d_dist.engine.method import Method, resolve_method
from cellseg3d_dist.engine.plan import Plan, make_plan
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region, Triple
from cellseg3d_dist.segmentation.preparing import Order
from cellseg3d_dist.volumes import Volume

#: What a volume that is not there is taken to be stored in.
_CHUNK: Triple = (64, 64, 64)
_DTYPES = ("uint8", "uint16", "uint32", "int16", "int32", "float32")
#: Keys of the configuration that say which voxels, not what is done with them.
_WHICH = {"image", "region", "mask", "channel", "time", "level", "voxel_size"}
#: Keys by which a run is of another kind.
_KIND = ("model", "instances", "device")


@dataclass(frozen=True)
class Estimate:
    """A plan, and what it is predicted to cost.

    Attributes
    ----------
    plan : Plan
    cost : Cost or None
        Where runs were given to measure by.
    """

    plan: Plan
    cost: Cost | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON: the plan's, and ``cost``."""
        cost = {} if self.cost is None else {"cost": self.cost.to_dict()}
        return self.plan.to_dict() | cost

    def lines(self) -> list[str]:
        """For people."""
        return [*self.plan.lines(), *([] if self.cost is None else self.cost.lines())]


def estimate(
    image: Any = None,
    measured: Sequence[str | Path | RunRecord] = (),
    *,
    shape: Triple | None = None,
    dtype: str = "uint16",
    occupied: float | None = None,
    **options: Any,
) -> Estimate:
    """What :func:`cellseg3d_dist.segment` would do and cost. Nothing is created.

    Parameters
    ----------
    image : path, URL or array, optional
        As for :func:`cellseg3d_dist.segment`.
    measured : sequence of paths
        Finished runs of the same method, see :func:`cellseg3d_dist.costs.fit`. Unless
        ``memory_limit`` is given, it is that of the largest of them.
    shape : (int, int, int), optional
        Voxels of a volume that is not there yet, in place of ``image``; then ``voxel_size``
        is needed.
    dtype : str
        Of that volume.
    occupied : float, optional
        Share of the volume in blocks with foreground, if it is not that of the runs.
    **options
        Keys of :class:`cellseg3d_dist.config.SegmentConfig`.

    Raises
    ------
    BadInputError
        If there is neither image nor shape, an option cannot be used, or a run cannot be
        measured by.
    """
    if (image is None) == (shape is None):
        raise ConfigError("a plan needs an image, or the shape of a volume that is to come.")
    if occupied is not None and not measured:
        raise ConfigError("occupied only matters with a measured run. Give one, or leave it out.")
    model = fit(*measured) if measured else None
    if model is not None and options.get("memory_limit") is None:
        options["memory_limit"] = model.largest.memory_limit
    if image is None:
        assert shape is not None
        volume = imagined(shape, options.get("voxel_size"), dtype)
        method = resolve_method(make_config(options | {"image": "<planned>"}))
        return _estimate(method, volume, 1, model, occupied)
    order = Order.of(image, options)
    times = order.times()
    first = order.single() if times is None else order.at(times.start)
    method = resolve_method(first.config)
    volume = open_inputs(method.config, first.stored).volume
    return _estimate(method, volume, 1 if times is None else len(times), model, occupied)


def _estimate(
    method: Method, volume: Volume, n_times: int, model: CostModel | None, occupied: float | None
) -> Estimate:
    check_options(method.config, volume)
    each = make_plan(method, volume)
    plan = replace(
        each, n_times=n_times, disk_bytes=n_times * each.disk_bytes, hours=n_times * each.hours
    )
    if model is None:
        return Estimate(plan)
    notes = unlike(model.largest, method.config, volume)
    scored = method.config.labels_true is not None
    cost = model.predict(plan, occupied=occupied, with_scores=scored)
    plan = replace(plan, hours=cost.hours.expected)
    return Estimate(plan, replace(cost, notes=(*notes, *cost.notes)))


def unlike(run: RunRecord, config: SegmentConfig, volume: Volume) -> list[str]:
    """Where a run that was measured is unlike what is planned, each as one line.

    Raises
    ------
    ConfigError
        If it is of another model, method or device.
    """
    was, now = dict(run.deciding), config.deciding()
    for key in _KIND:
        if was.get(key) != now.get(key):
            raise ConfigError(
                f"{run.name} was made with {key} {was.get(key, 'none')}, planned is "
                f"{now.get(key, 'none')}. Measure by a run of the same method."
            )
    notes = []
    if run.version != cellseg3d_dist.__version__:
        notes.append(f"measured with version {run.version}, this is {cellseg3d_dist.__version__}")
    keys = sorted((was.keys() | now.keys()) - _WHICH - set(_KIND))
    notes += [
        f"measured with {key} {was.get(key, 'none')}, planned with {now.get(key, 'none')}"
        for key in keys
        if was.get(key) != now.get(key)
    ]
    if run.dtype and run.dtype != str(volume.dtype):
        notes.append(f"measured on {run.dtype}, planned for {volume.dtype}")
    if volume.kind == "tiff" and "convert" not in run.by_stage:
        notes.append("the TIFF is copied first, which was not measured")
    return notes


@dataclass(frozen=True)
class _Nowhere:
    """The voxels of a volume that is not there."""

    def read(self, region: Region, channel: int, time: int) -> Any:
        raise ConfigError("a volume that is only planned has no voxels.")

    def signature(self, *, files: bool) -> list[Any]:
        return []


def imagined(shape: Triple, voxel_size: Any, dtype: str = "uint16") -> Volume:
    """A volume to plan for, stored as Zarr in chunks of 64.

    Raises
    ------
    ConfigError
        If it could not be.
    """
    given = make_config({"image": "<planned>", "voxel_size": voxel_size}).voxel_size
    if given is None:
        raise ConfigError("a plan for a shape needs voxel_size, z,y,x in micrometres.")
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype {dtype!r} must be one of {', '.join(_DTYPES)}.")
    z, y, x = (float(size) for size in given)
    return Volume(
        location="<planned>",
        shape=shape,
        dtype=np.dtype(dtype),
        voxel_size=(z, y, x),
        origin=(0.0, 0.0, 0.0),
        offset=(0, 0, 0),
        channels=("intensity",),
        channel=0,
        time=0,
        level=0,
        chunk_shape=_CHUNK,
        kind="zarr",
        source=_Nowhere(),
    )
