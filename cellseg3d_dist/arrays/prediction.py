"""A network's prediction, lazily."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from cellseg3d_dist.arrays.sources import Array, Image, Key, Reader, Source, source_of
from cellseg3d_dist.engine.network import Network
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.grid import Region
from cellseg3d_dist.measuring import intensity

if TYPE_CHECKING:
    from cellseg3d_dist.networks.predictor import Tiling

Counts = intensity.SparseCounts


def predict(
    image: Image,
    model: str | Path,
    *,
    voxel_size: Sequence[float] | None = None,
    constants: tuple[float, float] | None = None,
    device: str = "cpu",
    batch: int | None = None,
    chunks: Any = None,
) -> Any:
    """Predict an image with a network; the result does not depend on the chunks.

    One task per block, which loads the weights once per process and uses one thread, for
    the whole process, on the CPU. Without ``constants`` another task per block counts its
    values, and a third one of types that have more than 16 bits.

    Parameters
    ----------
    image : dask array, Volume, path, Zarr array or ndarray, (z, y, x)
        Real numbers. Floats are read as float32, and what is not finite as 0.
    model : str or path
        A name, or a file that every worker can read.
    voxel_size : (z, y, x) in micrometres, optional
        That of a stored image is known. The image is resampled to the network's, and the
        prediction back.
    constants : (float, float), optional
        Values that are 0 and 1 to the network; by default the model's percentiles of the
        whole image.
    device : 'cpu', 'cuda' or 'cuda:N'
    batch : int, optional
        Patches computed at a time; default is 1 on the CPU and 4 on a GPU.
    chunks : optional
        Blocks to compute in, and chunks of the result along (z, y, x), as in
        :func:`smooth`. Small ones cost more: a patch at a face is computed for every block
        that it owns voxels of.

    Returns
    -------
    dask.array.Array, uint8, (C, z, y, x)
        The channels that the model's representation stores, 255 is 1.

    Raises
    ------
    WeightsError
        If the model cannot be found or its files not be used.
    ConfigError
        If no voxel size is known, or constants are not ascending.
    EnvironmentFailedError
        If CUDA was asked for and is not there.
    """
    # torch is loaded only where a network is used
    from cellseg3d_dist.networks.cards import resolve
    from cellseg3d_dist.networks.device import check_device
    from cellseg3d_dist.networks.predictor import Tiling
    from cellseg3d_dist.networks.weights import load_model

    source = source_of(image, voxel_size, chunks)
    spacing = source.voxel_size
    if spacing is None:
        raise ConfigError("voxel_size is unknown. Give (z, y, x) in micrometres.")
    check_device(device)
    loaded = load_model(model)
    network = Network(
        weights=str(resolve(model).weights),
        digest=loaded.digest,
        device=device,
        batch=batch or (1 if device == "cpu" else 4),
        threads=1,
        flips=False,
    )
    source = source.for_halo(loaded.card.halo)
    tiling = Tiling.of(loaded, source.cut.shape, spacing)
    n_channels = len(loaded.representation.channels)
    scale: Any = constants
    tasks: dict[Key, Any] = {}
    if constants is None:
        wanted = (loaded.card.normalisation.low, loaded.card.normalisation.high)
        scale, tasks = _percentiles(source, wanted)
    elif not constants[0] < constants[1]:
        raise ConfigError(f"constants {constants} must be two numbers, the smaller first.")
    decides = (source.token, spacing, network, loaded.card.to_json(), constants)
    name = f"predict-{tokenize(*decides)}"
    for block in source.cut.blocks():
        region = block.write_region
        reader, keys = source.read(tiling.source(region))
        task = Prediction(reader, network, tiling, region, n_channels)
        tasks[(name, 0, *block.index)] = (task, scale, *keys)
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=source.collections)
    return da.Array(graph, name, chunks=((n_channels,), *source.cut.chunks), dtype=np.uint8)


@dataclass(frozen=True)
class Prediction:
    """Predicts one block."""

    reader: Reader
    network: Network
    tiling: Tiling
    region: Region
    n_channels: int

    def __call__(self, constants: tuple[float, float], *pieces: Array) -> npt.NDArray[np.uint8]:
        """From the pieces of the image that the block depends on."""
        image = self.reader(*pieces)
        low, high = constants
        forward = self.network.forward()
        found = self.tiling.predict(lambda _region: image, self.region, (low, high), forward)
        return found[: self.n_channels]


def _percentiles(source: Source, wanted: tuple[float, float]) -> tuple[Key, dict[Key, Any]]:
    """Key of two percentiles of the whole image, and the tasks that lead to it."""
    token = tokenize(source.token, wanted)
    name = f"percentiles-{token}"
    ranks = tuple(intensity.rank_of(p, Region.whole(source.cut.shape).size) for p in wanted)
    tasks: dict[Key, Any] = {}
    upper: list[Key] = []
    lower: list[Key] = []
    chosen = f"bins-{token}"
    exact = intensity.is_single_pass(source.dtype)
    for block in source.cut.blocks():
        reader, keys = source.read(block.write_region)
        upper.append((f"upper-{token}", *block.index))
        tasks[upper[-1]] = (partial(_count, reader), *keys)
        if not exact:
            lower.append((f"lower-{token}", *block.index))
            tasks[lower[-1]] = (partial(_count_lower, reader), chosen, *keys)
    tasks[chosen] = (partial(_bins, ranks), upper)
    tasks[name] = (partial(_values, source.dtype), chosen, lower)
    return name, tasks


def _count(reader: Reader, *pieces: Array) -> Counts:
    return intensity.count(reader(*pieces))


def _bins(ranks: tuple[int, ...], counts: Sequence[Counts]) -> list[tuple[int, int]]:
    """For each rank its bin, and the rank inside that."""
    dense = _summed(counts)
    return [intensity.bin_of_rank(dense, rank) for rank in ranks]


def _count_lower(reader: Reader, bins: Sequence[tuple[int, int]], *pieces: Array) -> list[Counts]:
    image = reader(*pieces)
    return [intensity.count_lower(image, upper) for upper, _ in bins]


def _values(
    dtype: np.dtype[Any], bins: Sequence[tuple[int, int]], lower: Sequence[Sequence[Counts]]
) -> tuple[float, ...]:
    if intensity.is_single_pass(dtype):
        return tuple(float(intensity.value_of_bin(chosen, dtype)) for chosen, _ in bins)
    found = []
    for number, (upper, inside) in enumerate(bins):
        low, _ = intensity.bin_of_rank(_summed([counts[number] for counts in lower]), inside)
        found.append(intensity.value_of_bits(upper, low))
    return tuple(found)


def _summed(parts: Sequence[Counts]) -> intensity.Counts:
    dense = np.zeros(intensity.N_BINS, np.int64)
    for part in parts:
        dense[part.bins] += part.counts
    return dense
