"""Images with their labels, opened and checked, with the constants that normalise them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import BlockGrid, Region, ceil_div
from cellseg3d_dist.measuring import intensity
from cellseg3d_dist.training.matching import Given, listed, matched, name_of
from cellseg3d_dist.volumes import Volume, open_volume

#: Voxels that are read at a time where a volume is gone through once.
_SLAB_VOXELS = 1 << 22
_LARGEST_SLAB = 1 << 26


@dataclass(frozen=True)
class Pair:
    """An image with its labels, if it has any.

    Attributes
    ----------
    low, high : float
        Values of the image that are 0 and 1 to the network.
    """

    image: Volume
    labels: Volume | None
    low: float
    high: float

    @property
    def name(self) -> str:
        """Of the image's file."""
        return name_of(self.image.location)


def find_pairs(
    images: Given | Sequence[Given],
    labels: Given | Sequence[Given] | None = None,
    *,
    voxel_size: Sequence[float] | None = None,
    channel: int = 0,
    time: int | None = None,
    level: int = 0,
    percentiles: tuple[float, float] = (1.0, 99.8),
) -> list[Pair]:
    """Open images and their labels and find the constants of each image.

    Parameters
    ----------
    images, labels : path, URL, pattern, folder, array, or a list of these
        Files are paired by name: equal, or with something that all labels' names have more
        (``_labels``), or all images' (``_image``). Arrays are paired by position. Without
        ``labels`` the images are for training that needs none.
    voxel_size : (float, float, float), optional
        Micrometres, needed where files state none; takes the place of what they say.
    channel, time, level
        What of an image to read. Labels are read at the same time, and at level 0 if their
        shape fits there, else at the same level.
    percentiles : (float, float)
        Of the whole image, as 0 and 1 to the network: the value at the rank rounded down,
        as a run's survey has it. What is not finite counts as 0.

    Raises
    ------
    ConfigError
        If there is no file, a partner is missing or ambiguous, shapes differ, or labels are
        not integer.
    VolumeError
        If a file cannot be opened.
    """
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise ConfigError(
            f"percentiles ({low:g}, {high:g}) must be two numbers from 0 to 100, the smaller first."
        )
    found = listed(images, "images")
    partners = [None] * len(found) if labels is None else matched(found, listed(labels, "labels"))
    pairs = []
    for source, partner in zip(found, partners, strict=True):
        image = open_volume(source, voxel_size=voxel_size, channel=channel, time=time, level=level)
        _check_image(image)
        opened = None if partner is None else _open_labels(partner, image)
        pairs.append(Pair(image, opened, *percentiles_of(image, percentiles)))
    return pairs


def _check_image(image: Volume) -> None:
    if min(image.shape) < 1:
        raise ConfigError(f"image {image.location} has no voxels (shape {image.shape}).")
    if image.is_label:
        raise ConfigError(
            f"image {image.location} is a label image by its metadata. Give it as labels, and the "
            "microscope's image as the image."
        )


def _open_labels(source: Given, image: Volume) -> Volume:
    labels = open_volume(source, voxel_size=image.voxel_size, time=image.time)
    if image.level and labels.shape != image.shape:
        labels = open_volume(
            source, voxel_size=image.voxel_size, time=image.time, level=image.level
        )
    if labels.kind != "array" and labels.location == image.location:
        raise ConfigError(f"{labels.location} is given as image and as its labels.")
    if labels.dtype.kind not in "ui":
        raise ConfigError(
            f"labels {labels.location} are {labels.dtype}, not integer. Give label images: 0 for "
            "background and one number per cell."
        )
    if labels.shape != image.shape:
        raise ConfigError(
            f"labels {labels.location} have shape {labels.shape}, the image {image.location} "
            f"{image.shape}. Give labels of the same shape."
        )
    return labels


def split(pairs: Sequence[Pair], fraction: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs for training and for validation, by file, at random.

    Parameters
    ----------
    fraction : float
        Share of the files that go to validation, at least one; 0 for none.

    Raises
    ------
    ConfigError
        If the fraction is not in [0, 1), or leaves nothing to train on.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"validation share {fraction:g} must be at least 0 and below 1.")
    if fraction == 0:
        return list(pairs), []
    if len(pairs) < 2:
        raise ConfigError(
            f"{len(pairs)} file cannot be split into training and validation. Give validation "
            "files of their own, or a validation share of 0."
        )
    count = min(max(1, round(fraction * len(pairs))), len(pairs) - 1)
    order = np.random.default_rng(seed).permutation(len(pairs))
    chosen = set(order[:count].tolist())
    train = [pair for number, pair in enumerate(pairs) if number not in chosen]
    return train, [pairs[number] for number in sorted(chosen)]


def check_disjoint(train: Sequence[Pair], validation: Sequence[Pair]) -> None:
    """Refuse files that are in both.

    Raises
    ------
    ConfigError
        With the first one.
    """
    known = {pair.image.location for pair in train if pair.image.kind != "array"}
    for pair in validation:
        if pair.image.location in known:
            raise ConfigError(
                f"{pair.image.location} is given for training and for validation. Scores on what "
                "was trained on say nothing; leave it out of one."
            )


def slabs(volume: Volume, multiple: int = 1) -> Iterator[Region]:
    """Regions that cover a volume once, each about 4 million voxels of whole chunks.

    ``multiple`` is what their starts are a multiple of.
    """
    block = [ceil_div(c, multiple) * multiple for c in volume.chunk_shape]
    for axis in (2, 1, 0):
        room = _SLAB_VOXELS // int(np.prod(block, dtype=np.int64))
        whole = ceil_div(volume.shape[axis], block[axis])
        block[axis] *= max(1, min(room, whole))
    while np.prod(block, dtype=np.int64) > _LARGEST_SLAB and max(block) > multiple:
        # chunks as large as whole planes are decoded more than once instead
        longest = block.index(max(block))
        block[longest] = ceil_div(block[longest], 2 * multiple) * multiple
    grid = BlockGrid(volume.shape, (block[0], block[1], block[2]))
    return (part.write_region for part in grid.blocks())


def read_finite(volume: Volume, region: Region) -> npt.NDArray[Any]:
    """Voxels of a region; what is not finite is 0."""
    image = volume.read(region)
    if image.dtype.kind == "f":
        image[~np.isfinite(image)] = 0
    return image


def percentiles_of(volume: Volume, percentiles: tuple[float, float]) -> tuple[float, float]:
    """Exact percentiles of a whole volume, read slab by slab: twice, or once up to 16 bits."""
    counts = np.zeros(intensity.N_BINS, np.int64)
    for region in slabs(volume):
        part = intensity.count(read_finite(volume, region))
        counts[part.bins] += part.counts
    n_voxels = int(np.prod(volume.shape, dtype=np.int64))
    ranks = [intensity.rank_of(percentile, n_voxels) for percentile in percentiles]
    chosen = [intensity.bin_of_rank(counts, rank) for rank in ranks]
    if intensity.is_single_pass(volume.dtype):
        low, high = (float(intensity.value_of_bin(upper, volume.dtype)) for upper, _ in chosen)
        return low, high
    lower = {upper: np.zeros(intensity.N_BINS, np.int64) for upper, _ in chosen}
    for region in slabs(volume):
        image = read_finite(volume, region)
        for upper, found in lower.items():
            part = intensity.count_lower(image, upper)
            found[part.bins] += part.counts
    values = []
    for upper, inside in chosen:
        last, _ = intensity.bin_of_rank(lower[upper], inside)
        values.append(intensity.value_of_bits(upper, last))
    return values[0], values[1]
