"""What a run reads: image, mask and truth, with the policy for missing values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.config import SegmentConfig
from cellseg3d_dist.engine.records import digest
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region, Triple, ceil_div
from cellseg3d_dist.volumes import Volume, open_volume


@dataclass(frozen=True)
class MaskInput:
    """A mask of the image's shape, or one that is coarser by whole factors.

    Raises
    ------
    ConfigError
        If the shapes do not fit.
    """

    volume: Volume
    factors: Triple
    offset: Triple

    @classmethod
    def fitting(
        cls, volume: Volume, full_shape: Triple, offset: Triple, what: str = "mask"
    ) -> MaskInput:
        """A mask for an image whose stored level has ``full_shape``, read from ``offset`` on."""
        factors = []
        for n, m in zip(full_shape, volume.shape, strict=True):
            factor = max(1, round(n / m)) if m else 0
            if not m or (ceil_div(n, factor) != m and n // factor != m):
                raise ConfigError(
                    f"{what} {volume.location} has shape {volume.shape}, the image {full_shape}. "
                    f"Give a {what} of that shape or one that is smaller by whole factors."
                )
            factors.append(factor)
        z, y, x = factors
        return cls(volume, (z, y, x), offset)

    def read(self, region: Region) -> npt.NDArray[np.bool_]:
        """Where the mask is not 0, each of its voxels repeated over the image's."""
        inside: npt.NDArray[np.bool_] = self.values(region) != 0
        return inside

    def values(self, region: Region) -> npt.NDArray[Any]:
        """What is stored, each voxel repeated over the image's."""
        stored = region.shift(self.offset)
        last = (n - 1 for n in self.volume.shape)
        index = [
            np.minimum(np.arange(a, b) // f, m)
            for a, b, f, m in zip(stored.start, stored.stop, self.factors, last, strict=True)
        ]
        low = tuple(int(i[0]) for i in index)
        high = tuple(int(i[-1]) + 1 for i in index)
        coarse = self.volume.read(Region((low[0], low[1], low[2]), (high[0], high[1], high[2])))
        z, y, x = (i - a for i, a in zip(index, low, strict=True))
        repeated: npt.NDArray[Any] = coarse[np.ix_(z, y, x)]
        return repeated


@dataclass(frozen=True)
class ImageInput:
    """The image and where in it cells are sought. Values that are not finite count as 0."""

    volume: Volume
    mask: MaskInput | None = None

    def read(self, region: Region, channel: int | None = None) -> npt.NDArray[Any]:
        """Voxels of a region; NaN and infinite ones are 0, see :meth:`n_not_finite`."""
        image = self.volume.read(region, channel)
        if image.dtype.kind == "f":
            bad = ~np.isfinite(image)
            if bad.any():
                image[bad] = 0
        return image

    def n_not_finite(self, region: Region) -> int:
        """Voxels of a region that are NaN or infinite."""
        if self.volume.dtype.kind != "f":
            return 0
        return int(np.count_nonzero(~np.isfinite(self.volume.read(region))))

    def within(self, region: Region) -> npt.NDArray[np.bool_] | None:
        """Where cells are sought; None is everywhere."""
        return None if self.mask is None else self.mask.read(region)


def input_digest(channels: Sequence[npt.NDArray[Any]], within: npt.NDArray[np.bool_] | None) -> str:
    """Checksum of what a block was made from: voxels of its write region, and the mask."""
    return digest(*channels) if within is None else digest(*channels, within)


@dataclass(frozen=True)
class Inputs:
    """Everything a run reads, opened and checked."""

    volume: Volume
    mask: MaskInput | None
    labels_true: Volume | None

    def locations(self, config: SegmentConfig) -> list[str]:
        """Paths and URLs of all, as given and where found."""
        given = [text for text in (config.image, config.mask, config.labels_true) if text]
        found = [v.location for v in (self.volume, self.labels_true) if v is not None]
        return [text for text in given + found if text != "<memory>"]

    def fingerprints(self) -> dict[str, dict[str, str]]:
        """What ``run.json`` keeps to tell a changed input by."""
        return {"fingerprint": self.fingerprint(), "metadata": self.fingerprint(files=False)}

    def fingerprint(self, *, files: bool = True) -> dict[str, str]:
        """Of image and mask, see :meth:`Volume.fingerprint`."""
        found = {"image": self.volume.fingerprint(files=files)}
        if self.mask is not None:
            found["mask"] = self.mask.volume.fingerprint(files=files)
        return found


def open_inputs(config: SegmentConfig, stored: np.ndarray[Any, Any] | None) -> Inputs:
    """Open image, mask and truth, and check that they fit each other."""
    opened = open_volume(
        config.image if stored is None else stored,
        voxel_size=config.voxel_size,
        channel=config.channel,
        time=config.time_point,
        level=config.level,
    )
    volume = opened.crop(config.region_box) if config.region_box else opened
    mask = None
    if config.mask is not None:
        stored_mask = _at_time(config.mask, config.voxel_size or (1, 1, 1), config)
        mask = MaskInput.fitting(stored_mask, opened.shape, volume.offset)
    truth = None
    if config.labels_true is not None:
        truth = _at_time(config.labels_true, volume.voxel_size, config)
        if truth.dtype.kind not in "ui":
            raise ConfigError(f"labels_true {config.labels_true} is {truth.dtype}, not integer.")
        if truth.shape == opened.shape and config.region_box:
            truth = truth.crop(config.region_box)
        if truth.shape != volume.shape:
            raise ConfigError(
                f"labels_true {config.labels_true} has shape {truth.shape}, the image "
                f"{volume.shape}. Give labels of the same shape."
            )
    return Inputs(volume, mask, truth)


def _at_time(path: str, voxel_size: Sequence[float], config: SegmentConfig) -> Volume:
    """What belongs to the image's time point, where there are several of it too."""
    opened = open_volume(path, voxel_size=voxel_size, time=0)
    if opened.n_times == 1:
        return opened
    return open_volume(path, voxel_size=voxel_size, time=config.time_point)


def inputs_exist(config: SegmentConfig) -> bool:
    """Whether the files of image, mask and earlier run are there; of a URL, always."""
    given = [text for text in (config.image, config.mask, config.earlier_run) if text]
    return all("://" in text or Path(text).exists() for text in given)
