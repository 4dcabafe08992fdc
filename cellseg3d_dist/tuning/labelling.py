"""From the settings of a trial to tables of voxels, each image predicted once before.

Labels are what ``segment`` makes of the same image with the same settings: its kernels,
its units and its rules, on whole images in memory. What trials share is kept: smoothed
images, and the table before small cells are dropped.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.config import CellVolume, SegmentConfig, make_config
from cellseg3d_dist.engine.method import Method
from cellseg3d_dist.engine.pipeline import STORED_ONE
from cellseg3d_dist.engine.progress import Progress
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import BlockGrid, Region, Triple
from cellseg3d_dist.instances.components import components
from cellseg3d_dist.instances.filters import NO_CROP, Crop, Sigma, gaussian
from cellseg3d_dist.instances.threshold import count_bins, otsu
from cellseg3d_dist.instances.voronoi import NumbaKernels, VoronoiSpec, voronoi_otsu
from cellseg3d_dist.metrics.contingency import ContingencyTable, contingency
from cellseg3d_dist.networks.resampling import Size
from cellseg3d_dist.representations import decoding_parameters
from cellseg3d_dist.training.pairs import percentiles_of
from cellseg3d_dist.tuning.samples import Sample
from cellseg3d_dist.tuning.scoring import without_small

#: Values by the names of what is searched, as a config file has them.
Settings = Mapping[str, Any]
#: Smoothed images kept of each image: those of spots and outlines, and one that is tried.
_KEPT = 3
_PREDICTED_AT_A_TIME: Triple = (256, 256, 256)


class Labeller(Protocol):
    """Labels of one image by settings, and the voxels below which they are dropped."""

    def labels(self, settings: Settings) -> npt.NDArray[np.uint32]:
        """Labels 1..n (z, y, x) with the smallest still there."""
        ...

    def fewest(self, settings: Settings) -> int:
        """Cells of fewer voxels are dropped."""
        ...

    def deciding(self, settings: Settings) -> tuple[Any, ...]:
        """The settings that :meth:`labels` depends on."""
        ...


@dataclass
class Smoothed:
    """A source's last few Gaussians."""

    source: npt.NDArray[Any]
    _kept: OrderedDict[Sigma, npt.NDArray[np.float32]] = field(default_factory=OrderedDict)

    def __call__(
        self, image: npt.NDArray[Any], sigma: Sigma, crop: Crop = NO_CROP
    ) -> npt.NDArray[np.float32]:
        """In the place of :func:`.filters.gaussian`, for the whole source only."""
        assert image is self.source
        assert crop == NO_CROP
        if sigma not in self._kept:
            self._kept[sigma] = gaussian(image, sigma)
        self._kept.move_to_end(sigma)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[sigma]


@dataclass
class Thresholded:
    """Voronoi-Otsu or components of an image, or of a network's foreground (0 to 255).

    Attributes
    ----------
    unit : float
        What a threshold of 1 is in ``source``.
    """

    source: npt.NDArray[Any]
    voxel_size: Size
    config: SegmentConfig
    unit: float
    _smoothed: Smoothed = field(init=False)

    def __post_init__(self) -> None:
        self._smoothed = Smoothed(self.source)

    def labels(self, settings: Settings) -> npt.NDArray[np.uint32]:
        """As the engine's label stage."""
        config = configured(self.config, settings)
        outline = config.outline_sigma.voxels(self.voxel_size)
        threshold = self._threshold(config.threshold, outline)
        if config.instances == "components":
            return components(self._mask(threshold, outline), config.connectivity)[0]
        spec = VoronoiSpec(config.spot_sigma.voxels(self.voxel_size), outline, threshold)
        return voronoi_otsu(self.source, spec, NumbaKernels(gaussian=self._smoothed))

    def fewest(self, settings: Settings) -> int:
        """By ``min_volume``."""
        return fewest_of(configured(self.config, settings).min_volume, self.voxel_size)

    def deciding(self, settings: Settings) -> tuple[Any, ...]:
        """All but ``min_volume``."""
        return tuple(value for key, value in settings.items() if key != "min_volume")

    def otsu(self, outline: Sigma) -> float:
        """Otsu's threshold, in the source's units."""
        smoothed = self._smoothed(self.source, outline)
        values = smoothed if any(outline) else self.source
        low, high = float(values.min()), float(values.max())
        return otsu(count_bins(smoothed, low, high), low, high) if high > low else high

    def _threshold(self, given: float | str | None, outline: Sigma) -> float:
        if given == "otsu":
            return self.otsu(outline)
        assert given is not None
        return float(given) * self.unit

    def _mask(self, threshold: float, outline: Sigma) -> npt.NDArray[np.bool_]:
        if any(outline):
            return np.asarray(self._smoothed(self.source, outline) > np.float32(threshold))
        return np.asarray(self.source > threshold)


@dataclass(frozen=True)
class Decoded:
    """Instances by the network's representation."""

    channels: npt.NDArray[np.uint8]
    voxel_size: Size
    method: Method

    def labels(self, settings: Settings) -> npt.NDArray[np.uint32]:
        """As the representation decodes a whole volume."""
        represents = self.method.representation
        assert represents is not None
        # no decoder uses it but to drop labels at its end, as the engine's merge does
        given = vars(self.method.parameters) | dict(settings) | {"min_voxels": 1}
        parameters = decoding_parameters(represents, given)
        return represents.decode(self.channels, self.voxel_size, parameters)

    def fewest(self, settings: Settings) -> int:
        """By ``min_voxels``."""
        return int(settings["min_voxels"])

    def deciding(self, settings: Settings) -> tuple[Any, ...]:
        """All but ``min_voxels``."""
        return tuple(value for key, value in settings.items() if key != "min_voxels")


@dataclass
class Judged:
    """An image with its labels: settings in, table out."""

    labeller: Labeller
    labels_true: npt.NDArray[Any]
    _last: tuple[tuple[Any, ...], ContingencyTable] | None = None

    def table(self, settings: Settings) -> ContingencyTable:
        """Voxels of each pair of a true and a predicted label."""
        deciding = self.labeller.deciding(settings)
        if self._last is None or self._last[0] != deciding:
            found = contingency(self.labels_true, self.labeller.labels(settings))
            self._last = (deciding, found)
        return without_small(self._last[1], self.labeller.fewest(settings))


def configured(config: SegmentConfig, settings: Settings) -> SegmentConfig:
    """The configuration with the settings of a trial, read as those of a file."""
    given = config.plain() | dict(settings)
    return make_config({key: value for key, value in given.items() if value is not None})


def fewest_of(smallest: CellVolume | None, voxel_size: Size) -> int:
    """Voxels of the smallest cell that is kept, the engine's rounding."""
    return 0 if smallest is None else math.ceil(smallest.voxels(voxel_size) - 1e-9)


def labellers(
    method: Method, samples: Sequence[Sample], progress: Progress
) -> list[Thresholded] | list[Decoded]:
    """What finds the instances of each image; a network predicts each once, here."""
    if method.config.instances == "watershed" or method.labeller is not None:
        raise ConfigError(
            f"instances {method.config.instances!r} cannot be tuned. Use voronoi-otsu or "
            f"components, or decode with the decoder's watershed=1."
        )
    if method.network is None:
        return [Thresholded(s.read(), s.voxel_size, method.config, 1.0) for s in samples]
    progress.start("predict", len(samples), 0)
    predicted = []
    for sample in samples:
        channels = _predicted(method, sample)
        if not method.decodes:
            channels = channels[method.foreground_channel].copy()
        predicted.append(channels)
        progress.advance(sample.n_voxels)
    progress.finish()
    pairs = list(zip(predicted, samples, strict=True))
    if method.decodes:
        return [Decoded(channels, s.voxel_size, method) for channels, s in pairs]
    config = method.config
    return [Thresholded(channel, s.voxel_size, config, STORED_ONE) for channel, s in pairs]


def _predicted(method: Method, sample: Sample) -> npt.NDArray[np.uint8]:
    """Stored channels (C, z, y, x), the same bits as those of a run."""
    from cellseg3d_dist.networks.predictor import Tiling

    network, card, represents = method.network, method.card, method.representation
    assert network is not None
    assert card is not None
    assert represents is not None
    if network.compat is not None:
        raise ConfigError(f"compat {network.compat} is to compare with; it cannot be tuned.")
    constants = percentiles_of(sample.image, (card.normalisation.low, card.normalisation.high))
    image, forward = sample.read(), network.forward()
    tiling = Tiling.of(network.model(), sample.image.shape, sample.voxel_size)
    channels = np.zeros((len(represents.channels), *image.shape), np.uint8)

    def read(region: Region) -> npt.NDArray[Any]:
        return image[region.slices]

    for block in BlockGrid(sample.image.shape, _PREDICTED_AT_A_TIME).blocks():
        region = block.write_region
        channels[(slice(None), *region.slices)] = tiling.predict(read, region, constants, forward)
    return channels
