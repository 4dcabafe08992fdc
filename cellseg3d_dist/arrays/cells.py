"""The cell table, lazily."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from cellseg3d_dist.arrays.sources import (
    Array,
    Image,
    Key,
    Reader,
    Source,
    Spacing,
    source_of,
)
from cellseg3d_dist.errors import ConfigError, VolumeError
from cellseg3d_dist.grid import Triple
from cellseg3d_dist.measuring import (
    PartialCells,
    cell_table,
    intensity_scale,
    measure_fragments,
    merge,
)
from cellseg3d_dist.volumes import Volume


def measure(
    labels: Image, image: Image | None = None, *, voxel_size: Sequence[float] | None = None
) -> Any:
    """Measure the cells of a label image; the table does not depend on the chunks.

    One task per block of ``labels``, one more where ``image`` holds floats or 64-bit
    integers, and one that merges them: it holds about 200 bytes per cell and per piece of a
    cell that a block cuts.

    Parameters
    ----------
    labels : dask array, Volume, path, Zarr array or ndarray, (z, y, x), integer
        Whole cells 1..N, 0 is background; gaps are fine.
    image : as labels, any real type, optional
        Intensities to measure, cut into chunks of any shape. Values that are not finite
        count as 0.
    voxel_size : (z, y, x) in micrometres, optional
        Needed where neither labels nor image are stored with one.

    Returns
    -------
    dask.delayed.Delayed
        Of a pyarrow.Table, see :func:`cellseg3d_dist.measuring.cell_table`. In one
        ``dask.compute`` give it after the arrays: dask groups results by kind.

    Raises
    ------
    ConfigError
        If shapes differ, labels are no integers or no voxel size is known.

    Examples
    --------
    >>> import dask.array as da
    >>> labels = da.ones((4, 6, 6), chunks=3, dtype="uint32")
    >>> table = measure(labels, voxel_size=(2, 1, 1)).compute()
    >>> table["volume"].to_pylist(), table["volume_um3"].to_pylist()
    ([144], [288.0])
    """
    shown = None if image is None else source_of(image, voxel_size)
    cells = source_of(labels, voxel_size if shown is None else shown.voxel_size)
    if cells.dtype.kind not in "bui":
        raise ConfigError(f"labels of {cells.dtype} are not integers.")
    if shown is not None and shown.cut.shape != cells.cut.shape:
        raise ConfigError(
            f"labels have shape {cells.cut.shape}, the image {shown.cut.shape}. They must be equal."
        )
    if cells.voxel_size is None:
        raise ConfigError("voxel_size is unknown. Give (z, y, x) in micrometres.")
    return _table(cells, shown, cells.voxel_size)


def _table(cells: Source, shown: Source | None, spacing: Spacing) -> Any:
    token = tokenize(cells.token, shown.token if shown else None, spacing)
    name = f"cells-{token}"
    scale, tasks = (1.0, {}) if shown is None else _scale_of_image(shown, token)
    pieces: list[Key] = []
    for block in cells.cut.blocks():
        reader, keys = cells.read(block.write_region)
        seen, more = (None, []) if shown is None else shown.read(block.write_region)
        pieces.append((f"pieces-{token}", *block.index))
        tasks[pieces[-1]] = (
            Measure(reader, len(keys), seen, block.write_region.start),
            scale,
            *keys,
            *more,
        )
    tasks[name] = (partial(_merged, _geometry(cells, shown, spacing)), scale, pieces)
    reads = cells.collections + (shown.collections if shown else [])
    return Delayed(name, HighLevelGraph.from_collections(name, tasks, dependencies=reads))


def _scale_of_image(shown: Source, token: str) -> tuple[Any, dict[Key, Any]]:
    """The scale of the intensities, or its key where it takes tasks to know the largest."""
    if shown.dtype.kind in "bui" and shown.dtype.itemsize <= 4:
        return 1.0, {}
    scale = f"scale-{token}"
    tasks: dict[Key, Any] = {}
    largest: list[Key] = []
    for block in shown.cut.blocks():
        reader, keys = shown.read(block.write_region)
        largest.append((f"largest-{token}", *block.index))
        tasks[largest[-1]] = (partial(_largest, reader), *keys)
    tasks[scale] = (partial(_scale_of, shown.dtype), largest)
    return scale, tasks


def _geometry(cells: Source, shown: Source | None, spacing: Spacing) -> dict[str, Any]:
    volume = next((s.image for s in (shown, cells) if s and isinstance(s.image, Volume)), None)
    channels = () if shown is None else ("intensity",)
    if shown is not None and isinstance(shown.image, Volume):
        channels = (shown.image.channels[shown.image.channel],)
    where = {} if volume is None else {"offset": volume.offset, "origin": volume.origin}
    return {"voxel_size": spacing, "shape": cells.cut.shape, "channels": channels} | where


@dataclass(frozen=True)
class Measure:
    """Statistics of the labels in one block."""

    labels: Reader
    n_pieces: int
    image: Reader | None
    start: Triple

    def __call__(self, scale: float, *pieces: Array) -> dict[str, npt.NDArray[Any]]:
        """From the pieces of labels and image."""
        labels = self.labels(*pieces[: self.n_pieces])
        if labels.dtype.kind == "i" and labels.min() < 0:
            raise VolumeError(f"labels in the block at voxel {self.start} are negative.")
        channels = [] if self.image is None else [self.image(*pieces[self.n_pieces :])]
        dense, present = _dense(labels)
        found = measure_fragments(
            dense, present.size, channels, self.start, [scale] * len(channels)
        )
        return found.relabelled(present).to_arrays()


def _dense(labels: Array) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]:
    """Labels as 1..n, with 0 kept, and the label that each stands for."""
    flat = labels.ravel()
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    present, inverse = np.unique(flat[starts], return_inverse=True)
    ranks = np.arange(1, present.size + 1, dtype=np.uint32)
    if present[0] == 0:
        present, ranks = present[1:], ranks - np.uint32(1)
    lengths = np.diff(starts, append=flat.size)
    return np.repeat(ranks[inverse], lengths).reshape(labels.shape), present.astype(np.uint64)


def _largest(reader: Reader, *pieces: Array) -> float:
    image = reader(*pieces)
    return max(float(image.max()), -float(image.min()))


def _scale_of(dtype: np.dtype[Any], largest: list[float]) -> float:
    return intensity_scale(dtype, max(largest))


def _merged(
    geometry: dict[str, Any], scale: float, pieces: list[dict[str, npt.NDArray[Any]]]
) -> pa.Table:
    cells = merge(PartialCells.from_arrays(piece) for piece in pieces)
    return cell_table(cells, scales=[scale] * len(geometry["channels"]), **geometry)
