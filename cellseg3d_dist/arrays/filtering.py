"""Smoothing, Otsu's threshold and foreground, lazily.

Nothing smoothed is kept for a later step: extremes, histogram and mask each smooth again,
which costs less than 4 bytes of memory for every voxel of the volume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from dask.base import tokenize
from pydantic import TypeAdapter, ValidationError

from cellseg3d_dist.arrays.sources import (
    Image,
    Key,
    Reader,
    Source,
    Spacing,
    lazy_array,
    source_of,
)
from cellseg3d_dist.config import CellVolume, Length, LengthText, make_config
from cellseg3d_dist.errors import ConfigError, VolumeError
from cellseg3d_dist.grid import Block
from cellseg3d_dist.instances.filters import Crop, Sigma, gaussian, kernel_radius
from cellseg3d_dist.instances.threshold import N_BINS, count_bins, otsu
from cellseg3d_dist.instances.voronoi import crop_to

Width = float | str | Sequence[float]
"""Voxels, ``"3.2um"``, or voxels along (z, y, x)."""

_LENGTH: TypeAdapter[Length] = TypeAdapter(LengthText)


def smooth(
    image: Image, sigma: Width, *, voxel_size: Sequence[float] | None = None, chunks: Any = None
) -> Any:
    """Gaussian smoothing; the bits do not depend on the chunks.

    One task per block.

    Parameters
    ----------
    image : dask array, Volume, path, Zarr array or ndarray, (z, y, x)
        Real numbers. Floats are read as float32, and what is not finite as 0.
    sigma : float, str or (float, float, float)
        A number is voxels of the finest axis (of every axis where no voxel size is known);
        ``"3.2um"`` micrometres; three numbers are voxels along z, y, x. 0 is none.
    voxel_size : (z, y, x) in micrometres, optional
        That of a stored image is known.
    chunks : optional
        Blocks to compute in, and chunks of the result, as in :mod:`dask.array`. Default are
        a dask array's own, and of a stored image multiples of its own up to 8 million
        voxels; blocks thinner than the halo are joined.

    Returns
    -------
    dask.array.Array, float32
        :func:`cellseg3d_dist.instances.filters.gaussian` of the whole image.

    Examples
    --------
    >>> import dask.array as da
    >>> smooth(da.ones((8, 8, 8), chunks=4), 1.5).compute().max().item()
    1.0
    """
    source = source_of(image, voxel_size, chunks)
    widths = widths_of("sigma", sigma, source.voxel_size)
    source = source.for_halo(kernel_radius(widths))
    name = f"smooth-{tokenize(source.token, widths)}"
    tasks: dict[Key, Any] = {
        (name, *b.index): smoothing(source, b, widths, _itself) for b in source.cut.blocks()
    }
    return lazy_array(name, tasks, source.collections, source.cut, np.float32)


def otsu_threshold(
    image: Image, sigma: Width, *, voxel_size: Sequence[float] | None = None, chunks: Any = None
) -> Any:
    """Otsu's threshold of the whole smoothed image; it does not depend on the chunks.

    Two tasks per block: the extremes, then a histogram of 256 bins between them. A dask
    array's chunks are kept in between, or computed twice; a stored image is read twice.

    Parameters
    ----------
    image, sigma, voxel_size, chunks
        As in :func:`smooth`.

    Returns
    -------
    dask.array.Array, float32, ()
        Foreground is above it. ``float(...)`` computes it, once for all.

    Raises
    ------
    VolumeError
        When computed, if the smoothed values are too large for float32.
    """
    source = source_of(image, voxel_size, chunks)
    widths = widths_of("sigma", sigma, source.voxel_size)
    return threshold_of(source.for_halo(kernel_radius(widths)), widths)


def foreground(
    image: Image,
    sigma: Width,
    threshold: Any = "otsu",
    *,
    voxel_size: Sequence[float] | None = None,
    chunks: Any = None,
) -> Any:
    """Where the smoothed image is above a threshold.

    One task per block, and those of :func:`otsu_threshold`.

    Parameters
    ----------
    image, sigma, voxel_size, chunks
        As in :func:`smooth`.
    threshold : 'otsu', float or dask array of no dimension

    Returns
    -------
    dask.array.Array, bool
    """
    source = source_of(image, voxel_size, chunks)
    widths = widths_of("sigma", sigma, source.voxel_size)
    source = source.for_halo(kernel_radius(widths))
    value, reads = threshold_argument(source, widths, threshold)
    name = f"foreground-{tokenize(source.token, widths, value)}"
    tasks: dict[Key, Any] = {
        (name, *b.index): smoothing(source, b, widths, _is_above, value)
        for b in source.cut.blocks()
    }
    return lazy_array(name, tasks, [*source.collections, *reads], source.cut, bool)


def widths_of(option: str, width: Width, voxel_size: Spacing | None) -> Sigma:
    """A width in voxels along z, y, x.

    Raises
    ------
    ConfigError
        If it is negative or not finite, or in micrometres of unknown voxels.
    """
    if not isinstance(width, str) and np.ndim(width) == 1:
        widths = tuple(float(value) for value in np.asarray(width))
        if len(widths) != 3 or not all(math.isfinite(value) and value >= 0 for value in widths):
            raise ConfigError(f"{option} {widths} must be one or three numbers of at least 0.")
        return (widths[0], widths[1], widths[2])
    try:
        length = _LENGTH.validate_python(width)
    except ValidationError:
        raise ConfigError(
            f"{option} {width!r} must be a length of at least 0, in voxels or as 3.2um, "
            "or three in voxels along (z, y, x)."
        ) from None
    return length.voxels(spacing_for(option, length, voxel_size))


def spacing_for(option: str, given: Length | CellVolume, voxel_size: Spacing | None) -> Spacing:
    """The voxel size that an option is converted with; any where it is in voxels already.

    Raises
    ------
    ConfigError
        If it is in micrometres and the voxel size is not known.
    """
    if given.in_micrometres and voxel_size is None:
        raise ConfigError(
            f"{option} {given} needs voxel_size, (z, y, x) in micrometres; or give it in voxels."
        )
    return voxel_size or (1.0, 1.0, 1.0)


def threshold_argument(source: Source, widths: Sigma, threshold: Any) -> tuple[Any, list[Any]]:
    """What a task is given as threshold, a number or a key, and the collections it is from."""
    if isinstance(threshold, str) and threshold == "otsu":
        threshold = threshold_of(source, widths)
    if hasattr(threshold, "__dask_graph__"):
        if getattr(threshold, "shape", None) != ():
            raise ConfigError("threshold must be 'otsu', a number or a dask array of no dimension.")
        return (threshold.name,), [threshold]
    if isinstance(threshold, np.generic | np.ndarray):
        threshold = threshold.item()
    value = make_config({"image": "<array>", "threshold": threshold}).threshold
    if not isinstance(value, float):
        raise ConfigError("threshold must be 'otsu', a number or a dask array of no dimension.")
    return value, []


def threshold_of(source: Source, widths: Sigma) -> Any:
    """Otsu's threshold of a source smoothed by ``widths`` voxels."""
    token = tokenize(source.token, widths)
    name, limits = f"otsu-{token}", f"limits-{token}"
    tasks: dict[Key, Any] = {}
    extremes: list[Key] = []
    counts: list[Key] = []
    for block in source.cut.blocks():
        extremes.append((f"extremes-{token}", *block.index))
        tasks[extremes[-1]] = smoothing(source, block, widths, _extremes)
        counts.append((f"counts-{token}", *block.index))
        tasks[counts[-1]] = smoothing(source, block, widths, _counts, limits)
    tasks[limits] = (_limits, extremes)
    tasks[(name,)] = (_otsu, limits, counts)
    return lazy_array(name, tasks, source.collections, None, np.float32)


def smoothing(
    source: Source, block: Block, widths: Sigma, then: Any, *given: Any
) -> tuple[Any, ...]:
    """A task that smooths one block and hands it on; ``given`` are values or keys for it."""
    halo = kernel_radius(widths)
    reader, keys = source.read(block.write_region, halo)
    region = block.write_region.expand(halo, source.cut.shape)
    crop = crop_to(region, block.write_region)
    return (Smoothing(reader, widths, crop, then, len(given)), *given, *keys)


@dataclass(frozen=True)
class Smoothing:
    """Smooths what is wanted of a region and returns ``then(smoothed, *given)``."""

    reader: Reader
    widths: Sigma
    crop: Crop
    then: Any
    n_given: int

    def __call__(self, *arguments: Any) -> Any:
        """From the arguments of ``then``, and the region's pieces."""
        image = self.reader(*arguments[self.n_given :])
        smoothed = gaussian(image, self.widths, self.crop)
        del image
        return self.then(smoothed, *arguments[: self.n_given])


def _itself(smoothed: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return smoothed


def _is_above(smoothed: npt.NDArray[np.float32], threshold: Any) -> npt.NDArray[np.bool_]:
    return smoothed > np.float32(threshold)


def _extremes(smoothed: npt.NDArray[np.float32]) -> tuple[float, float]:
    return float(smoothed.min()), float(smoothed.max())


def _limits(extremes: list[tuple[float, float]]) -> tuple[float, float]:
    low = min(low for low, _ in extremes)
    high = max(high for _, high in extremes)
    if not high - low <= float(np.finfo(np.float32).max):
        raise VolumeError(
            f"The smoothed image runs from {low:g} to {high:g}, too far for a float32 histogram. "
            "Scale the image or give a threshold."
        )
    return low, high


def _counts(
    smoothed: npt.NDArray[np.float32], limits: tuple[float, float]
) -> npt.NDArray[np.int64]:
    low, high = limits
    return count_bins(smoothed, low, high) if high > low else np.zeros(N_BINS, np.int64)


def _otsu(
    limits: tuple[float, float], counts: list[npt.NDArray[np.int64]]
) -> npt.NDArray[np.float32]:
    return np.asarray(otsu(np.sum(counts, axis=0), *limits), np.float32)
