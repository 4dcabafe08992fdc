"""Open label images, and check that they fit each other; no voxel is read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from cellseg3d_dist.config.evaluate import EvaluateConfig
from cellseg3d_dist.engine.inputs import MaskInput
from cellseg3d_dist.engine.stages.score import Counted, LabelPair
from cellseg3d_dist.errors import ConfigError, LabelsError, VolumeError, VoxelSizeError
from cellseg3d_dist.evaluation.points import distance_in_um, known_size
from cellseg3d_dist.evaluation.sources import Image
from cellseg3d_dist.grid import Region
from cellseg3d_dist.volumes import Volume, open_volume
from cellseg3d_dist.volumes.multiscales import Size

#: Relative difference above which voxel sizes are different.
_SAME_SIZE = 0.01


@dataclass(frozen=True)
class Opened:
    """A label image, and the voxel size that is known of it, if any."""

    volume: Volume
    voxel_size: Size | None


def open_labels(source: Any, what: str, config: EvaluateConfig, level: int) -> Opened:
    """Open what is given as labels.

    Raises
    ------
    VolumeError, ConfigError
        If it cannot be opened, or level or time are not there.
    LabelsError
        If it is no label image.
    """
    opened = _opened(source, config, level, 0)
    volume = opened.volume
    if volume.n_times > 1:
        opened = _opened(source, config, level, config.time)
    if volume.dtype.kind not in "ui":
        raise LabelsError(
            f"{what} {volume.location} is {volume.dtype}, not integer. Give a label image: 0 for "
            f"background and one number per cell."
        )
    if len(volume.channels) > 1:
        raise LabelsError(
            f"{what} {volume.location} has {len(volume.channels)} channels; a label image has one."
        )
    return opened


def _opened(source: Any, config: EvaluateConfig, level: int, time: int | None) -> Opened:
    try:
        volume = open_volume(source, voxel_size=config.voxel_size, level=level, time=time)
    except VoxelSizeError:
        return Opened(open_volume(source, voxel_size=(1, 1, 1), level=level, time=time), None)
    return Opened(volume, volume.voxel_size)


@dataclass(frozen=True)
class Beside:
    """What belongs to one image of a data set besides its labels, as given."""

    mask: Any = None
    regions: Any = None


@dataclass(frozen=True)
class OpenedPair:
    """A pair ready to be counted, with the voxel size that is known of it."""

    pair: LabelPair
    voxel_size: Size | None
    volumes: tuple[Volume, ...]


def open_measured(source: Any, mask: Any, config: EvaluateConfig, *, known: bool) -> OpenedPair:
    """Open predicted labels whose centroids are wanted, for true points.

    Raises
    ------
    BadInputError
        As :func:`open_pair`.
    """
    opened = open_labels(source, "labels_pred", config, config.level)
    whole = opened.volume
    pred = whole.crop(config.region_box) if config.region_box else whole
    within = _beside(mask, "mask", whole, pred, config)
    read = [pred, *([] if within is None else [within.volume])]
    counted = Counted(within, _boxes(config, whole, pred))
    pair = LabelPair(None, pred, _digest(read, known), counted, measured=True)
    return OpenedPair(pair, opened.voxel_size, tuple(read))


def open_pair(image: Image, beside: Beside, config: EvaluateConfig, *, known: bool) -> OpenedPair:
    """Open an image's labels on both sides, and what decides which voxels are counted.

    ``known`` says whether what is read is to be told apart from anything else.

    Raises
    ------
    BadInputError
        If something cannot be opened, or shapes, voxel sizes or boxes do not fit.
    """
    opened = open_labels(image.labels_true, "labels_true", config, config.level)
    whole = opened.volume
    true = whole.crop(config.region_box) if config.region_box else whole
    found, pred = _fitting(image.labels_pred, opened, true, config)
    if config.time and max(whole.n_times, pred.n_times) == 1:
        raise ConfigError(f"time {config.time} is not in {whole.location}; it has one time point.")
    size = _common_size(opened, found)
    mask = _beside(beside.mask, "mask", whole, true, config)
    regions = _beside(beside.regions, "regions image", whole, true, config)
    counted = Counted(mask, _boxes(config, whole, true), config.ignore)
    read = [true, pred, *(one.volume for one in (mask, regions) if one is not None)]
    measured = config.distance is not None
    if measured:
        distance_in_um(config, known_size(size))
    pair = LabelPair(
        true, pred, _digest(read, known), counted, regions, measured, boxed=config.thesis
    )
    return OpenedPair(pair, size, tuple(read))


def _digest(read: list[Volume], known: bool) -> str:
    if not known:
        return ""
    return hashlib.sha256(" ".join(v.fingerprint() for v in read).encode()).hexdigest()[:32]


def _fitting(
    source: Any, opened: Opened, true: Volume, config: EvaluateConfig
) -> tuple[Opened, Volume]:
    """Predicted labels of the true ones' shape, at their level or, where they are not, at 0."""
    whole = opened.volume
    first: VolumeError | ConfigError | None = None
    for level in dict.fromkeys((config.level, 0)):
        try:
            found = open_labels(source, "labels_pred", config, level)
        except VolumeError as error:
            if level == 0:
                raise first or error from None
            first = error
            continue
        volume = found.volume
        if volume.shape == whole.shape:
            return found, volume.crop(config.region_box) if config.region_box else volume
        if volume.shape == true.shape:
            # a run on the region has labels of just that
            return found, volume
        first = first or ConfigError(
            f"labels_true {whole.location} has shape {true.shape}, labels_pred {volume.location} "
            f"{volume.shape}. Labels can only be compared on the same voxels: give --region or "
            f"--level where one is a part or a level of the other."
        )
    assert first is not None
    raise first


def _common_size(true: Opened, pred: Opened) -> Size | None:
    if true.voxel_size is None or pred.voxel_size is None:
        return true.voxel_size or pred.voxel_size
    pairs = list(zip(true.voxel_size, pred.voxel_size, strict=True))
    if any(abs(a - b) > _SAME_SIZE * max(a, b) for a, b in pairs):
        raise ConfigError(
            f"labels_true {true.volume.location} has voxels of {_um(true.voxel_size)} um, "
            f"labels_pred {pred.volume.location} of {_um(pred.voxel_size)} um. Give those that "
            f"belong together, or the right --voxel-size."
        )
    return true.voxel_size


def _um(size: Size) -> str:
    return ",".join(f"{value:g}" for value in size)


def _beside(
    source: Any, what: str, whole: Volume, true: Volume, config: EvaluateConfig
) -> MaskInput | None:
    if source is None:
        return None
    volume = open_volume(source, voxel_size=(1, 1, 1), time=0)
    if volume.n_times > 1:
        volume = open_volume(source, voxel_size=(1, 1, 1), time=config.time)
    if what != "mask" and volume.dtype.kind not in "ui":
        raise LabelsError(
            f"{what} {volume.location} is {volume.dtype}, not integer. Give a label image of "
            f"anatomical regions."
        )
    return MaskInput.fitting(volume, whole.shape, true.offset, what)


def _boxes(config: EvaluateConfig, whole: Volume, true: Volume) -> tuple[Region, ...]:
    boxes = []
    for box in config.box_regions:
        if box.intersect(Region.whole(whole.shape)) != box:
            start, stop = box.start, box.stop
            shown = ",".join(f"{a}:{b}" for a, b in zip(start, stop, strict=True))
            raise ConfigError(f"box {shown} is not inside {whole.location} of shape {whole.shape}.")
        z, y, x = (t - w for t, w in zip(true.offset, whole.offset, strict=True))
        inside = box.shift((-z, -y, -x)).intersect(Region.whole(true.shape))
        if not inside.is_empty:
            boxes.append(inside)
    if config.boxes and not boxes:
        raise ConfigError("no box has a voxel in the region. Give boxes in it.")
    return tuple(boxes)
