"""Labels of whole cells, lazily: blocks, one merge, blocks.

::

    image ─ flood or components ─┬─ runs of labels ────────────────────┬─ labels 1..N
            one task per block   └─ record: names, sizes, open ─ merge ┘

A block's labels wait for the merge as runs along x, about a tenth of their voxels' size.
Only records, a few bytes per fragment, reach the merge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from dask.base import tokenize

from cellseg3d_dist.arrays.filtering import (
    Width,
    smoothing,
    spacing_for,
    threshold_argument,
    widths_of,
)
from cellseg3d_dist.arrays.fragments import (
    LABELS,
    Components,
    Contacts,
    Finish,
    Flood,
    Indices,
    Lookup,
    Record,
    record_of,
)
from cellseg3d_dist.arrays.settling import settle
from cellseg3d_dist.arrays.sources import Cut, Image, Key, Source, lazy_array, source_of
from cellseg3d_dist.config import CellVolume, SegmentConfig, make_config
from cellseg3d_dist.errors import ConfigError, VolumeError
from cellseg3d_dist.grid import Triple
from cellseg3d_dist.instances.components import REACH
from cellseg3d_dist.instances.filters import Sigma, kernel_radius
from cellseg3d_dist.instances.spots import position_of_seeds
from cellseg3d_dist.instances.voronoi import VoronoiSpec
from cellseg3d_dist.merging.names import edges_by_name
from cellseg3d_dist.merging.union_find import Merged, merge


def label(
    image: Image,
    instances: str = "voronoi-otsu",
    *,
    spot_sigma: Width = "3.2um",
    outline_sigma: Width = "2um",
    threshold: Any = "otsu",
    connectivity: int = 6,
    min_volume: float | str | None = None,
    max_volume: float | str | None = None,
    voxel_size: Sequence[float] | None = None,
    flood_halo: int | None = None,
    chunks: Any = None,
) -> Any:
    """Label the cells of an image; the labels do not depend on the chunks.

    Three tasks per block for Voronoi-Otsu, four for components, and two more for Otsu's
    threshold, whether ``image`` is a dask array or stored.

    Parameters
    ----------
    image : dask array, Volume, path, Zarr array or ndarray, (z, y, x)
        As in :func:`smooth`.
    instances : 'voronoi-otsu' or 'components'
        Spots grown to cells inside the foreground, or the foreground's connected components.
    spot_sigma, outline_sigma : float, str or (float, float, float)
        Smoothing before spots are sought, and before the threshold; see :func:`smooth`.
    threshold : 'otsu', float or dask array of no dimension
        Foreground is above it, in units of the image.
    connectivity : {6, 18, 26}
        Of components.
    min_volume, max_volume : float or str, optional
        Limits of whole cells in voxels, or ``"200um3"``.
    voxel_size : (z, y, x) in micrometres, optional
        Needed for lengths in micrometres; that of a stored image is known.
    flood_halo : int, optional
        Voxels that a flood looks beyond its block. It decides time and memory, not labels.
    chunks : optional
        As in :func:`smooth`.

    Returns
    -------
    dask.array.Array, uint32
        0 is background, cells are 1..N: the array that
        :func:`cellseg3d_dist.instances.voronoi.voronoi_otsu`, or ``scipy.ndimage.label`` on
        the foreground, makes of the whole image.

    Raises
    ------
    ConfigError
        If an option cannot be used.
    VolumeError
        When computed, if there are more than 2^32 - 1 cells.

    Notes
    -----
    All labels depend on the merge, so every block is computed before the first is done. In
    between, runs of labels stay in memory: 12 bytes each, 0.2 per voxel of a phantom of
    packed nuclei. A dask array's chunks stay in memory from the threshold's first
    pass to the flood, unless the threshold is a number. The merge holds about 100 bytes
    per fragment, and 90 per voxel that a block's halo leaves open. For volumes beyond
    memory there is :func:`cellseg3d_dist.segment`.

    Examples
    --------
    >>> import dask.array as da
    >>> image = da.zeros((4, 8, 8), chunks=4)
    >>> image[1:3, 2:6, 2:6] = 1.0
    >>> labels = label(image, "components", outline_sigma=0, threshold=0.5)
    >>> labels.max().compute().item(), labels.chunks
    (1, ((4,), (4, 4), (4, 4)))
    """
    source = source_of(image, voxel_size, chunks)
    given = {
        "instances": instances,
        "connectivity": connectivity,
        "flood_halo": flood_halo,
        "min_volume": min_volume,
        "max_volume": max_volume,
    }
    config = make_config({"image": "<array>", **given})
    if config.instances not in ("voronoi-otsu", "components"):
        raise ConfigError(
            f"instances {instances!r} is not among the lazy ones, voronoi-otsu and components. "
            f"Labels of blocks by anything else are united by cellseg3d_dist.merge."
        )
    outline = widths_of("outline_sigma", outline_sigma, source.voxel_size)
    limits = _volume_limits(config, source)
    if config.instances == "components":
        source = source.for_halo(kernel_radius(outline))
        value, reads = threshold_argument(source, outline, threshold)
        token = tokenize(source.token, outline, value, config.connectivity, limits)
        tasks, records = _component_tasks(source, outline, value, config.connectivity, token)
    else:
        spec = VoronoiSpec(widths_of("spot_sigma", spot_sigma, source.voxel_size), outline, 0.0)
        halo = (flood_halo,) * 3 if flood_halo else spec.default_flood_halo()
        source = source.for_halo(_sum(halo, spec.filter_halo))
        value, reads = threshold_argument(source, outline, threshold)
        token = tokenize(source.token, spec, value, halo, limits)
        tasks, records = _flood_tasks(source, spec, value, halo, token)
    merged, name = f"merge-{token}", f"label-{token}"
    tasks[merged] = (partial(merge_records, source.cut, limits), records)
    for block in source.cut.blocks():
        fragments = (f"fragments-{token}", *block.index)
        tasks[(name, *block.index)] = (Finish(block, source.cut.shape), fragments, merged)
    return lazy_array(name, tasks, [*source.collections, *reads], source.cut, LABELS)


def _volume_limits(config: SegmentConfig, source: Source) -> tuple[int | None, int | None]:
    def voxels(option: str, volume: CellVolume) -> float:
        return volume.voxels(spacing_for(option, volume, source.voxel_size))

    low, high = config.min_volume, config.max_volume
    return (
        None if low is None else math.ceil(voxels("min_volume", low) - 1e-9),
        None if high is None else math.floor(voxels("max_volume", high) + 1e-9),
    )


def _sum(a: Triple, b: Triple) -> Triple:
    z, y, x = (m + n for m, n in zip(a, b, strict=True))
    return (z, y, x)


def _flood_tasks(
    source: Source, spec: VoronoiSpec, threshold: Any, halo: Triple, token: str
) -> tuple[dict[Key, Any], list[Key]]:
    """Fragments and records of a flood, and the keys that the merge is given."""
    tasks: dict[Key, Any] = {}
    records: list[Key] = []
    for block in source.cut.blocks():
        reader, keys = source.read(block.write_region, _sum(halo, spec.filter_halo))
        fragments = (f"fragments-{token}", *block.index)
        records.append((f"record-{token}", *block.index))
        tasks[fragments] = (Flood(reader, block, source.cut.shape, spec, halo), threshold, *keys)
        tasks[records[-1]] = (record_of, fragments)
    return tasks, records


def _component_tasks(
    source: Source, outline: Sigma, threshold: Any, connectivity: int, token: str
) -> tuple[dict[Key, Any], list[Key]]:
    """Fragments, records and contacts of components, and the keys that the merge is given."""
    tasks: dict[Key, Any] = {}
    joined: list[Key] = []
    for block in source.cut.blocks():
        fragments = (f"fragments-{token}", *block.index)
        record = (f"record-{token}", *block.index)
        find = Components(block, source.cut.shape, connectivity)
        tasks[fragments] = smoothing(source, block, outline, find, threshold)
        tasks[record] = (record_of, fragments)
        after = list(source.cut.neighbours_after(block, REACH[connectivity]))
        sides = tuple((offset, source.cut.number(index)) for offset, index in after)
        others = [(f"record-{token}", *index) for _, index in after]
        joined.append((f"contacts-{token}", *block.index))
        tasks[joined[-1]] = (Contacts(sides, connectivity), record, *others)
    return tasks, joined


def merge_records(cut: Cut, limits: tuple[int | None, int | None], records: list[Record]) -> Lookup:
    """Fragments of all blocks to cells, open voxels settled."""
    names = np.concatenate([record.names for record in records])
    sizes = np.concatenate([record.sizes for record in records])
    offsets = np.cumsum([0, *(record.names.size for record in records)], dtype=np.int64)
    open_voxels, open_names = settle([r.front for r in records if r.front], cut.shape)
    home = np.empty(0, np.int64)
    if records[0].front is None:
        edges = np.concatenate([_edges(number, offsets, r) for number, r in enumerate(records)])
    else:
        owners = cut.owners(*position_of_seeds(names, cut.shape))
        edges = edges_by_name(names, offsets, owners)
        home = _add_open(names, sizes, owners, offsets, open_names)
    merged = merge(names, sizes, edges, *limits)
    final = _checked(merged)
    open_final = np.zeros(open_voxels.size, LABELS)
    open_final[open_names != 0] = final[home]
    return Lookup(final, offsets, open_voxels, open_final)


def _edges(number: int, offsets: Indices, record: Record) -> Indices:
    pairs = np.empty((0, 3), np.int64) if record.pairs is None else record.pairs
    own, other = offsets[number] + pairs[:, 0] - 1, offsets[pairs[:, 1]] + pairs[:, 2] - 1
    return np.stack((own, other), 1).astype(np.int64)


def _add_open(
    names: npt.NDArray[np.uint64],
    sizes: Indices,
    owners: Indices,
    offsets: Indices,
    open_names: npt.NDArray[np.uint64],
) -> Indices:
    """Count settled voxels to the fragment at their seed; its dense id for each of them."""
    reached = open_names[open_names != 0]
    if not reached.size:
        return np.empty(0, np.int64)
    block = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
    own = np.flatnonzero(owners == block)
    own = own[np.argsort(names[own])]
    home: Indices = own[np.searchsorted(names[own], reached)]
    np.add.at(sizes, home, 1)
    return home


def _checked(merged: Merged) -> npt.NDArray[np.uint32]:
    if merged.n_cells > np.iinfo(LABELS).max:
        raise VolumeError(
            f"{merged.n_cells} cells do not fit the type of the labels, {LABELS}. "
            "Raise min_volume or the threshold, or label parts of the volume."
        )
    return merged.final.astype(LABELS)
