"""Labelled crops in memory: opened and checked as ``segment`` would, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.config import SegmentConfig
from cellseg3d_dist.engine.inputs import ImageInput, open_inputs
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.networks.resampling import Size
from cellseg3d_dist.training.matching import listed, matched
from cellseg3d_dist.volumes import Volume, location_of, open_volume

#: Voxels of all images together that are kept in memory.
MOST_VOXELS = 512**3


@dataclass(frozen=True, eq=False)
class Sample:
    """An image and its labels, (z, y, x).

    Attributes
    ----------
    image : Volume
        Cropped to the region; its voxels are read when they are needed.
    labels : ndarray, integers
    """

    image: Volume
    labels: npt.NDArray[Any]

    @property
    def voxel_size(self) -> Size:
        """Micrometres."""
        return self.image.voxel_size

    @property
    def n_voxels(self) -> int:
        """Of the image."""
        return prod(self.image.shape)

    def read(self) -> npt.NDArray[Any]:
        """The image, what is not finite as 0."""
        return ImageInput(self.image).read(Region.whole(self.image.shape))


def open_samples(config: SegmentConfig, images: Any, labels: Any) -> list[Sample]:
    """Open images and their labels.

    Parameters
    ----------
    config : SegmentConfig
        Voxel size, channel, time, level and region.
    images, labels : path, URL, pattern, folder, array, or a list of these
        Files are paired by name as in training, arrays by position.

    Raises
    ------
    ConfigError
        If there is no partner, labels are not integer, of another shape or empty, or the
        images are too large to be kept in memory.
    VolumeError
        If a file cannot be opened.
    """
    found = listed(images, "images")
    partners = matched(found, listed(labels, "labels"))
    opened = []
    for image, partner in zip(found, partners, strict=True):
        at = location_of(image)
        whole = config.model_copy(update={"image": at or "<memory>", "region": None})
        volume = open_inputs(whole, image if at is None else None).volume
        if volume.is_label:
            raise ConfigError(
                f"image {volume.location} is a label image by its metadata. Give the image first, "
                f"then its labels."
            )
        truth = _labels(partner, volume, config)
        box = config.region_box
        opened.append((volume, truth) if box is None else (volume.crop(box), truth.crop(box)))
        if min(opened[-1][0].shape) < 1:
            raise ConfigError(f"image {volume.location} has no voxels (shape {volume.shape}).")
    _check_size([volume for volume, _ in opened])
    samples = [Sample(image, _read(truth)) for image, truth in opened]
    if not any(sample.labels.any() for sample in samples):
        where = opened[0][1].location if len(opened) == 1 else f"all {len(opened)} label images"
        within = " in the region given" if config.region else ""
        raise ConfigError(
            f"labels are empty: {where} hold no cell{within}, so there is nothing to score "
            f"against. Give labels with cells."
        )
    return samples


def _labels(source: Any, image: Volume, config: SegmentConfig) -> Volume:
    """Opened labels of a whole image."""
    labels = open_volume(source, voxel_size=image.voxel_size, time=config.time_point)
    if labels.dtype.kind not in "ui":
        raise ConfigError(
            f"labels {labels.location} are {labels.dtype}, not integer. Give a label image: 0 for "
            f"background and one number per cell."
        )
    if labels.kind != "array" and labels.location == image.location:
        raise ConfigError(f"{labels.location} is given as image and as its labels.")
    if labels.shape != image.shape:
        raise ConfigError(
            f"labels {labels.location} have shape {labels.shape}, the image {image.location} "
            f"{image.shape} voxels. Give labels of the same shape."
        )
    return labels


def _check_size(images: Sequence[Volume]) -> None:
    total = sum(prod(image.shape) for image in images)
    if total > MOST_VOXELS:
        largest = max(images, key=lambda image: prod(image.shape))
        raise ConfigError(
            f"{total:,} voxels in all (largest: {largest.location}, {largest.shape}) are over the "
            f"limit of {MOST_VOXELS:,}, as tuning keeps images in memory. Give --region "
            f"Z0:Z1,Y0:Y1,X0:X1 to tune on a part, or fewer images."
        )


def _read(labels: Volume) -> npt.NDArray[Any]:
    read = labels.read(Region.whole(labels.shape))
    least = int(read.min()) if read.dtype.kind == "i" else 0
    if least < 0:
        raise ConfigError(
            f"labels {labels.location} have the label {least}. Labels must not be negative."
        )
    return read


def median_volume(samples: Sequence[Sample]) -> float:
    """Median volume of the labelled cells, in cubic micrometres."""
    volumes = []
    for sample in samples:
        _, sizes = np.unique(sample.labels[sample.labels > 0], return_counts=True)
        volumes.append(sizes * prod(sample.voxel_size))
    return float(np.median(np.concatenate(volumes)))
