"""A pair of image and labels on the network's voxel grid, read region by region."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.grid import Region, Triple
from cellseg3d_dist.networks.lattice import mirrored
from cellseg3d_dist.networks.normalisation import normalise
from cellseg3d_dist.networks.resampling import Axis, Resampling, Size
from cellseg3d_dist.training.pairs import Pair, read_finite
from cellseg3d_dist.training.warp import Extents

#: Volumes up to this many bytes, as they are in memory, are kept whole.
KEPT_WHOLE = 64 * 2**20

#: Label of voxels that say nothing, inside this package.
IGNORED = -1


@dataclass
class Kept:
    """Small volumes in memory, each read once, up to a number of bytes in all.

    What came first stays: with random access nothing is gained by replacing it.
    """

    limit: int
    _arrays: dict[tuple[int, str], npt.NDArray[Any]] = field(default_factory=dict)
    _bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(
        self, key: tuple[int, str], n_bytes: int, make: Callable[[], npt.NDArray[Any]]
    ) -> npt.NDArray[Any] | None:
        """The array of this key; None where it has to be read by regions."""
        if n_bytes > KEPT_WHOLE:
            return None
        with self._lock:
            if key not in self._arrays:
                if self._bytes + n_bytes > self.limit:
                    return None
                self._arrays[key] = make()
                self._bytes += n_bytes
            return self._arrays[key]


@dataclass(frozen=True, eq=False)
class GridPair:
    """A pair as the network sees it: normalised and at its voxel size.

    Attributes
    ----------
    number : int
        Tells it from others in ``kept``.
    ignore : int or None
        The label of what nobody annotated; it reads as :data:`IGNORED`.
    """

    pair: Pair
    number: int
    resampling: Resampling
    ignore: int | None
    kept: Kept

    @classmethod
    def of(
        cls, pair: Pair, number: int, voxel_size: Size | None, ignore: int | None, kept: Kept
    ) -> GridPair:
        """At ``voxel_size``, or at the pair's own."""
        own = pair.image.voxel_size
        resampling = Resampling.between(pair.image.shape, own, voxel_size or own)
        return cls(pair, number, resampling, ignore, kept)

    @property
    def shape(self) -> Triple:
        """In voxels of the network's grid."""
        return self.resampling.shape

    @property
    def voxel_size(self) -> Size:
        """Micrometres, of the network's grid."""
        sizes = zip(self.pair.image.voxel_size, self.resampling.axes, strict=True)
        z, y, x = (size * axis.scale for size, axis in sizes)
        return (z, y, x)

    def image(self, extents: Extents) -> npt.NDArray[np.float32]:
        """Normalised voxels of extents, mirrored where they reach beyond the volume."""
        return self._mirrored(extents, "image", self._image)

    def labels(self, extents: Extents) -> npt.NDArray[np.int32]:
        """Labels of extents, mirrored likewise; ids are told apart, not kept, if over 2^31."""
        return self._mirrored(extents, "labels", self._labels)

    def to_grid(self, position: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Where a voxel of the stored volume lies on the network's grid."""
        scale = np.array([axis.scale for axis in self.resampling.axes])
        moved: npt.NDArray[np.float64] = (position + 0.5) / scale - 0.5
        return moved

    def _mirrored(
        self, extents: Extents, which: str, read: Callable[[Region], npt.NDArray[Any]]
    ) -> npt.NDArray[Any]:
        whole = Region.whole(self.shape)
        kept = self.kept.get((self.number, which), 4 * prod(self.shape), lambda: read(whole))
        if all(a >= 0 and b <= n for (a, b), n in zip(extents, self.shape, strict=True)):
            (a, b), (c, d), (e, f) = extents
            region = Region((a, c, e), (b, d, f))
            return read(region) if kept is None else kept[region.slices]
        index = [mirrored(extent, n) for extent, n in zip(extents, self.shape, strict=True)]
        if kept is not None:
            return kept[np.ix_(*index)]
        low = [int(i.min()) for i in index]
        high = [int(i.max()) + 1 for i in index]
        part = read(Region((low[0], low[1], low[2]), (high[0], high[1], high[2])))
        return part[np.ix_(*(i - a for i, a in zip(index, low, strict=True)))]

    def _image(self, region: Region) -> npt.NDArray[np.float32]:
        source = self.resampling.source(region)
        stored = read_finite(self.pair.image, source)
        image = normalise(stored, self.pair.low, self.pair.high)
        if self.resampling.is_identity:
            return image
        return self.resampling.apply(image, source, region)

    def _labels(self, region: Region) -> npt.NDArray[np.int32]:
        volume = self.pair.labels
        assert volume is not None
        if self.resampling.is_identity:
            return told_apart(volume.read(region), self.ignore)
        spans = zip(self.resampling.axes, region.start, region.stop, strict=True)
        index = [_nearest(axis, a, b) for axis, a, b in spans]
        low = [int(i[0]) for i in index]
        high = [int(i[-1]) + 1 for i in index]
        source = Region((low[0], low[1], low[2]), (high[0], high[1], high[2]))
        labels = told_apart(volume.read(source), self.ignore)
        return labels[np.ix_(*(i - a for i, a in zip(index, low, strict=True)))]


def _nearest(axis: Axis, start: int, stop: int) -> npt.NDArray[np.intp]:
    """The stored voxels that hold the centres of voxels ``[start, stop)`` of the grid."""
    index = np.floor((np.arange(start, stop) + 0.5) * axis.scale).astype(np.intp)
    clipped: npt.NDArray[np.intp] = np.clip(index, 0, axis.n_in - 1)
    return clipped


def told_apart(labels: npt.NDArray[Any], ignore: int | None) -> npt.NDArray[np.int32]:
    """Labels as int32, what is ignored as :data:`IGNORED`; renumbered where ids are too large."""
    ignored = None if ignore is None else labels == ignore
    if labels.size and labels.max() > np.iinfo(np.int32).max:
        rest = labels if ignored is None else np.where(ignored, 0, labels)
        if rest.max() > np.iinfo(np.int32).max:
            ids, number = np.unique(rest, return_inverse=True)
            rest = number.reshape(labels.shape) + (ids[0] != 0)
        small = rest.astype(np.int32)
    else:
        small = labels.astype(np.int32)
    if ignored is not None:
        small[ignored] = IGNORED
    return small
