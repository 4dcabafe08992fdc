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
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from dask.base import tokenize

from cellseg3d_dist.arrays.filtering import Width, spacing_for, threshold_argument, widths_of
from cellseg3d_dist.arrays.settling import Front, front_of, settle
from cellseg3d_dist.arrays.sources import (
    Array,
    Cut,
    Image,
    Key,
    Reader,
    Source,
    lazy_array,
    source_of,
)
from cellseg3d_dist.config import CellVolume, SegmentConfig, make_config
from cellseg3d_dist.errors import VolumeError
from cellseg3d_dist.grid import Block, Region, Triple
from cellseg3d_dist.instances.components import REACH, components, names_of_first_voxels
from cellseg3d_dist.instances.spots import position_of_seeds
from cellseg3d_dist.instances.voronoi import (
    VoronoiSpec,
    compact,
    foreground,
    voronoi_otsu_block,
)
from cellseg3d_dist.merging.contacts import Faces, contacts, faces_of, side_of
from cellseg3d_dist.merging.names import edges_by_name
from cellseg3d_dist.merging.union_find import Merged, merge

Indices = npt.NDArray[np.int64]
LABELS = np.dtype(np.uint32)


class Runs(NamedTuple):
    """An array as its runs of equal values in raster order."""

    values: npt.NDArray[Any]
    lengths: Indices


class Record(NamedTuple):
    """What the merge is told of a block's fragments, in the order of their labels."""

    names: npt.NDArray[np.uint64]
    sizes: Indices
    front: Front | None = None
    faces: Faces | None = None
    pairs: Indices | None = None
    """Contacts: own label, number of the other block, its label."""


class Lookup(NamedTuple):
    """What the merge tells the blocks: final ids of fragments, and of open voxels."""

    final: npt.NDArray[np.uint32]
    offsets: Indices
    open_voxels: Indices
    open_final: npt.NDArray[np.uint32]


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
    between, runs of labels stay in memory (8 to 12 bytes each; about 0.5 bytes per voxel
    for nuclei in tissue). A dask array's chunks stay in memory from the threshold's first
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
    outline = widths_of("outline_sigma", outline_sigma, source.voxel_size)
    value, reads = threshold_argument(source, outline, threshold)
    limits = _volume_limits(config, source)
    if config.instances == "components":
        spec = VoronoiSpec((0.0, 0.0, 0.0), outline, 0.0)
        token = tokenize(source.token, spec, value, config.connectivity, limits)
        tasks, records = _component_tasks(source, spec, value, REACH[config.connectivity], token)
    else:
        spec = VoronoiSpec(widths_of("spot_sigma", spot_sigma, source.voxel_size), outline, 0.0)
        halo = (flood_halo,) * 3 if flood_halo else spec.default_flood_halo()
        token = tokenize(source.token, spec, value, halo, limits)
        tasks, records = _flood_tasks(source, spec, value, halo, token)
    merged, name = f"merge-{token}", f"label-{token}"
    tasks[merged] = (partial(_merge, source.cut, limits), records)
    for block in source.cut.blocks():
        fragments = (f"fragments-{token}", *block.index)
        finish = partial(_finish, block, source.cut.shape)
        tasks[(name, *block.index)] = (finish, fragments, merged)
    return lazy_array(name, tasks, [*source.collections, *reads], source.cut, LABELS)


def _volume_limits(config: SegmentConfig, source: Source) -> tuple[int | None, int | None]:
    def voxels(option: str, volume: CellVolume) -> float:
        return volume.voxels(spacing_for(option, volume, source.voxel_size))

    low, high = config.min_volume, config.max_volume
    return (
        None if low is None else math.ceil(voxels("min_volume", low) - 1e-9),
        None if high is None else math.floor(voxels("max_volume", high) + 1e-9),
    )


def _flood_tasks(
    source: Source, spec: VoronoiSpec, threshold: Any, halo: Triple, token: str
) -> tuple[dict[Key, Any], list[Key]]:
    tasks: dict[Key, Any] = {}
    records: list[Key] = []
    z, y, x = (a + b for a, b in zip(halo, spec.filter_halo, strict=True))
    for block in source.cut.blocks():
        reader, keys = source.read(block.write_region, (z, y, x))
        fragments = (f"fragments-{token}", *block.index)
        records.append((f"record-{token}", *block.index))
        tasks[fragments] = (Flood(reader, block, source.cut.shape, spec, halo), threshold, *keys)
        tasks[records[-1]] = (_record, fragments)
    return tasks, records


def _component_tasks(
    source: Source, spec: VoronoiSpec, threshold: Any, reach: int, token: str
) -> tuple[dict[Key, Any], list[Key]]:
    tasks: dict[Key, Any] = {}
    joined: list[Key] = []
    for block in source.cut.blocks():
        reader, keys = source.read(block.write_region, spec.filter_halo)
        fragments = (f"fragments-{token}", *block.index)
        record = (f"record-{token}", *block.index)
        tasks[fragments] = (
            Components(reader, block, source.cut.shape, spec, reach), threshold, *keys
        )  # fmt: skip
        tasks[record] = (_record, fragments)
        after = list(source.cut.neighbours_after(block, reach))
        sides = tuple((offset, source.cut.number(index)) for offset, index in after)
        others = [(f"record-{token}", *index) for _, index in after]
        joined.append((f"contacts-{token}", *block.index))
        tasks[joined[-1]] = (partial(_contacts, sides, reach), record, *others)
    return tasks, joined


@dataclass(frozen=True)
class Flood:
    """Voronoi-Otsu in one block: fragments by name, and what its halo leaves open."""

    reader: Reader
    block: Block
    shape: Triple
    spec: VoronoiSpec
    halo: Triple

    def __call__(self, threshold: Any, *pieces: Array) -> tuple[Runs, Record]:
        """From the threshold and the image's pieces."""
        region = self.block.write_region
        around = region.expand((1, 1, 1), self.shape)
        flood_region = region.expand(self.halo, self.shape)
        found = voronoi_otsu_block(
            self.reader(*pieces),
            flood_region.expand(self.spec.filter_halo, self.shape),
            flood_region,
            around,
            self.shape,
            replace(self.spec, threshold=float(threshold)),
        )
        own = found.labels[region.within(around).slices]
        labels, names = compact(np.ascontiguousarray(own).view(np.int32), found.names)
        front = front_of(found, around, region, self.shape, min(self.halo))
        return _runs(labels), Record(names, _sizes(labels, names.size), front)


@dataclass(frozen=True)
class Components:
    """Connected components of one block's foreground, with its faces."""

    reader: Reader
    block: Block
    shape: Triple
    spec: VoronoiSpec
    reach: int

    def __call__(self, threshold: Any, *pieces: Array) -> tuple[Runs, Record]:
        """From the threshold and the image's pieces."""
        region = self.block.write_region
        spec = replace(self.spec, threshold=float(threshold))
        read_region = region.expand(spec.filter_halo, self.shape)
        mask = foreground(self.reader(*pieces), read_region, region, spec)
        connectivity = next(c for c, reach in REACH.items() if reach == self.reach)
        labels, first = components(mask, connectivity)
        names = names_of_first_voxels(first, region, self.shape)
        return _runs(labels), Record(names, _sizes(labels, names.size), faces=faces_of(labels))


def _runs(labels: Array) -> Runs:
    flat = labels.ravel()
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    return Runs(flat[starts], np.diff(starts, append=flat.size))


def _sizes(labels: npt.NDArray[np.uint32], n: int) -> Indices:
    return np.bincount(labels.ravel(), minlength=n + 1)[1:].astype(np.int64)


def _record(fragments: tuple[Runs, Record]) -> Record:
    return fragments[1]


def _contacts(
    sides: tuple[tuple[Triple, int], ...], reach: int, record: Record, *others: Record
) -> Record:
    """A block's record with its contacts in place of its faces."""
    found = [np.empty((0, 3), np.int64)]
    for (offset, number), other in zip(sides, others, strict=True):
        if record.faces is None or other.faces is None:
            continue
        z, y, x = (-o for o in offset)
        pairs = contacts(
            side_of(record.faces, offset), side_of(other.faces, (z, y, x)), offset, reach
        )
        found.append(np.insert(pairs.astype(np.int64), 1, number, axis=1))
    return record._replace(faces=None, pairs=np.concatenate(found))


def _merge(cut: Cut, limits: tuple[int | None, int | None], records: list[Record]) -> Lookup:
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
    home = own[np.searchsorted(names[own], reached)]
    np.add.at(sizes, home, 1)
    return home


def _checked(merged: Merged) -> npt.NDArray[np.uint32]:
    if merged.n_cells > np.iinfo(LABELS).max:
        raise VolumeError(
            f"{merged.n_cells} cells do not fit the type of the labels, {LABELS}. "
            "Raise min_volume or the threshold, or label parts of the volume."
        )
    return merged.final.astype(LABELS)


def _finish(
    block: Block, shape: Triple, fragments: tuple[Runs, Record], lookup: Lookup
) -> npt.NDArray[np.uint32]:
    """The final labels of one block."""
    runs, record = fragments
    table = np.zeros(record.names.size + 1, LABELS)
    start = lookup.offsets[block.number]
    table[1:] = lookup.final[start : start + record.names.size]
    region: Region = block.write_region
    labels = np.repeat(table[runs.values], runs.lengths).reshape(region.shape)
    if record.front is not None and record.front.open_voxels.size:
        voxels = record.front.open_voxels
        local = (a - s for a, s in zip(np.unravel_index(voxels, shape), region.start, strict=True))
        labels[tuple(local)] = lookup.open_final[np.searchsorted(lookup.open_voxels, voxels)]
    return labels
