"""Cells at seams and away from them: merges compared on dense touching nuclei.

Every merge gets what the same labeller (Voronoi-Otsu, one threshold) finds in blocks with a
halo. The truth is known by construction. Used by merging.py.
"""

from __future__ import annotations

import functools
import math
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from cellseg3d_dist.engine.executors import SerialExecutor
from cellseg3d_dist.grid import BlockGrid
from cellseg3d_dist.instances.voronoi import VoronoiSpec, voronoi_otsu
from cellseg3d_dist.metrics.contingency import contingency

Labels = npt.NDArray[np.integer[Any]]

#: Smoothing for nuclei of 11 voxels, and voxels read beyond a block.
SPOT, OUTLINE, HALO = 1.5, 0.5, 14
#: A cell is at a seam if its centre is this near to a face of a block: about its radius. A
#: nearest voxel would choose large cells, which are found more often.
NEAR = 6
#: Share of a cell that a label must have to count as a piece of it.
PIECE = 0.1


def label_nuclei(image: npt.NDArray[Any], voxel_size: Any, threshold: float) -> Labels:
    """The labeller: Voronoi-Otsu with a threshold that is given."""
    spec = VoronoiSpec((SPOT,) * 3, (OUTLINE,) * 3, threshold)
    return voronoi_otsu(np.ascontiguousarray(image), spec)


@dataclass(frozen=True)
class Result:
    """Labels of one merge, with its cost.

    ``seconds`` are CPU time of labelling, merging and relabelling, ``driver_bytes`` what the
    merge held at most where it ran.
    """

    name: str
    labels: Labels
    seconds: float
    merge_seconds: float
    driver_bytes: int


def watched(work: Callable[[], Any]) -> tuple[Any, float, int]:
    """What a function gives, its CPU seconds, and the most memory that its arrays held."""
    tracemalloc.start()
    began = time.process_time()
    try:
        found = work()
        return found, time.process_time() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def in_one_piece(image: npt.NDArray[Any], threshold: float) -> Result:
    """The whole volume in memory: nothing to merge."""
    began = time.process_time()
    labels = label_nuclei(image, None, threshold)
    return Result("one piece in memory", labels, time.process_time() - began, 0.0, 0)


class Timed(SerialExecutor):
    """Blocks one after the other; CPU seconds of each stage."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}

    def _one(self, stage: Any, block: Any) -> Any:
        began = time.process_time()
        outcome = super()._one(stage, block)
        spent = time.process_time() - began
        self.seconds[stage.name] = self.seconds.get(stage.name, 0.0) + spent
        return outcome


def ours(name: str, image: Path, out: Path, block: int, **how: Any) -> Result:
    """The main job, block after block in this process."""
    from cellseg3d_dist.config import make_config
    from cellseg3d_dist.engine.folder import RunFolder
    from cellseg3d_dist.engine.inputs import ImageInput
    from cellseg3d_dist.engine.method import resolve_method
    from cellseg3d_dist.engine.pipeline import Pipeline
    from cellseg3d_dist.engine.plan import make_plan
    from cellseg3d_dist.engine.progress import NoProgress
    from cellseg3d_dist.engine.runner import Runner
    from cellseg3d_dist.grid import Region
    from cellseg3d_dist.volumes import open_volume

    settings = {"image": str(image), "model": "intensity", "block_shape": (block,) * 3}
    method = resolve_method(make_config(settings | how))
    volume, folder = open_volume(image), RunFolder(out)
    folder.work.mkdir(parents=True)
    folder.write_status({"status": "running"})
    executor = Timed()
    runner = Runner(folder, executor, NoProgress(), {})
    plan = make_plan(method, volume)
    job = Pipeline(method.config, plan, ImageInput(volume), None, folder, runner, method)
    spent: list[tuple[float, int]] = []
    merge = job.merge

    def watched_merge(*args: Any) -> Any:
        found, seconds, peak = watched(functools.partial(merge, *args))
        spent.append((seconds, peak))
        return found

    job.merge = watched_merge  # type: ignore[method-assign]
    job.run()
    counted = ("label", "redo", "settle", "overlaps", "relabel")
    seconds = sum(
        s for n, s in executor.seconds.items() if n in counted or n.startswith("exchange")
    )
    stored = open_volume(folder.labels)
    labels = stored.read(Region.whole(stored.shape))
    (merge_seconds, peak) = spent[0]
    return Result(name, labels, seconds + merge_seconds, merge_seconds, peak)


@dataclass(frozen=True)
class Blocks:
    """Blocks labelled one by one with a halo, ids made unique, halos cut off."""

    grid: BlockGrid
    labels: npt.NDArray[np.uint32]
    n: int
    seconds: float

    @classmethod
    def label(cls, image: npt.NDArray[Any], block: int, threshold: float) -> Blocks:
        """Label an image block by block."""
        z, y, x = image.shape
        grid = BlockGrid((z, y, x), (block,) * 3)
        labels, n, began = np.zeros(image.shape, np.uint32), 0, time.process_time()
        for one in grid.blocks():
            read = grid.read_region(one, (HALO,) * 3)
            found = label_nuclei(image[read.slices], None, threshold)
            own = found[one.write_region.within(read).slices]
            ids, number = np.unique(own, return_inverse=True)
            new = np.where(ids > 0, n + np.cumsum(ids > 0), 0).astype(np.uint32)
            labels[one.write_region.slices] = new[number.reshape(own.shape)]
            n += int((ids > 0).sum())
        return cls(grid, labels, n, time.process_time() - began)

    def faces(self) -> Iterator[tuple[int, Labels]]:
        """Axis, and two planes of labels, of every face between two blocks."""
        counts = self.grid.n_blocks_per_axis
        for block in self.grid.blocks():
            for axis in range(3):
                if block.index[axis] + 1 < counts[axis]:
                    index = list(block.write_region.slices)
                    stop = block.write_region.stop[axis]
                    index[axis] = slice(stop - 1, stop + 1)
                    yield axis, self.labels[tuple(index)]


def by_dask_image(blocks: Blocks) -> Result:
    """dask-image's own rule: labels that touch across a face, at any voxel, are one."""
    import dask.array as da
    from dask_image.ndmeasure._utils import _label

    lazy = da.from_array(blocks.labels, chunks=blocks.grid.block_shape)

    def merge() -> Any:
        structure = ndi.generate_binary_structure(3, 1)
        graph = _label.label_adjacency_graph(lazy, structure, blocks.n)
        found = _label.connected_components_delayed(graph)
        return found.compute(scheduler="synchronous")

    new, seconds, peak = watched(merge)
    began = time.process_time()
    labels = _label.relabel_blocks(lazy, da.from_array(new, chunks=-1))
    labels = labels.compute(scheduler="synchronous")
    spent = blocks.seconds + seconds + time.process_time() - began
    return Result("dask-image", labels, spent, seconds, peak)


def by_cellpose(blocks: Blocks) -> Result:
    """The distributed merge of cellpose, its own code where it is installed."""
    try:
        from cellpose.contrib import distributed_segmentation as theirs
    except ImportError:
        return _relabelled("cellpose's rule, our stand-in", blocks, _eroded_touch)

    def merge() -> Any:
        indices, faces = [], []
        for block in blocks.grid.blocks():
            indices.append(block.index)
            faces.append(theirs.block_faces(blocks.labels[block.write_region.slices]))
        return theirs.determine_merge_relabeling(indices, faces, np.arange(1, blocks.n + 1))

    return _relabelled("cellpose distributed", blocks, lambda _: merge())


def _relabelled(name: str, blocks: Blocks, merge: Callable[[Blocks], Any]) -> Result:
    new, seconds, peak = watched(lambda: merge(blocks))
    began = time.process_time()
    labels = np.where(blocks.labels > 0, np.asarray(new)[blocks.labels], 0)
    spent = blocks.seconds + seconds + time.process_time() - began
    return Result(name, labels, spent, seconds, peak)


def _eroded_touch(blocks: Blocks) -> Labels:
    """Labels that touch across a face once each is shrunk by a voxel within its plane."""
    pairs = [np.empty((0, 2), np.int64)]
    for axis, two in blocks.faces():
        a, b = (_shrunk(np.take(two, side, axis)) for side in (0, 1))
        both = (a > 0) & (b > 0)
        pairs.append(np.unique(np.stack((a[both], b[both]), 1).astype(np.int64), axis=0))
    i, j = np.concatenate(pairs).T
    graph = sp.coo_matrix((np.ones(i.size), (i, j)), shape=(blocks.n + 1,) * 2)
    return connected_components(graph, directed=False)[1]


def _shrunk(plane: Labels) -> Labels:
    gradient = np.linalg.norm(np.gradient(plane.astype(np.float64)), axis=0)
    kept = np.where(gradient > 0, 0, plane)
    return np.where(ndi.distance_transform_edt(kept) <= 1.0, 0, kept)


def near_seams(true: Labels, block: int) -> npt.NDArray[np.bool_]:
    """Cells, by their label, whose centre is near to a face between two blocks."""
    n = int(true.max())
    near = np.zeros(n + 1, np.bool_)
    sizes = np.maximum(np.bincount(true.ravel(), minlength=n + 1), 1)
    for axis, length in enumerate(true.shape):
        at = np.arange(length).reshape([-1 if i == axis else 1 for i in range(3)])
        weights = np.broadcast_to(at + 0.5, true.shape).ravel()
        centre = np.bincount(true.ravel(), weights, n + 1) / sizes
        faces = np.arange(block, length, block)
        near |= (np.abs(centre[:, None] - faces) < NEAR).any(1)
    return near


def numbered_by_place(labels: Labels) -> Labels:
    """The same labels, numbered in the order of their first voxels."""
    _, first, number = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number.reshape(labels.shape)]


def judged(true: Labels, result: Result, whole: Labels, block: int) -> dict[str, Any]:
    """Share of true cells found, cut and fused, at seams and away from them.

    A cell is found if a label overlaps it with IoU 0.5, cut if several labels that are
    mostly it have a tenth of it each, fused if its main label is also another cell's; it is
    lost if it is found in ``whole``, labelled in one piece, but not here.
    """
    n = int(true.max())
    at_seam, inner = near_seams(true, block), np.ones(n + 1, np.bool_)
    for axis in range(3):
        inner[np.unique(np.take(true, [0, -1], axis))] = False
    inner[0] = False
    cells = _fate(true, result.labels)
    cells["lost"] = _fate(true, whole)["recall"] & ~cells["recall"]
    answer: dict[str, Any] = {}
    for where, of in (("seam", inner & at_seam), ("interior", inner & ~at_seam)):
        count = int(of.sum())
        answer[where] = {"cells": count}
        for key, has in cells.items():
            answer[where][key] = float(has[of].mean()) if count else math.nan
    return answer


def _fate(true: Labels, labels: Labels) -> dict[str, npt.NDArray[np.bool_]]:
    """Which true cells, by their label, are found, cut and fused."""
    n = int(true.max())
    sizes = np.bincount(true.ravel(), minlength=n + 1)
    table = contingency(true, labels.astype(np.uint64))
    ids, pred_sizes = table.sizes_pred()
    both = (table.labels_true > 0) & (table.labels_pred > 0)
    t, p = table.labels_true[both].astype(np.int64), table.labels_pred[both]
    voxels, whole = table.voxels[both], pred_sizes[np.searchsorted(ids, p)]
    iou = voxels / (sizes[t] + whole - voxels)
    found = np.bincount(t[iou >= 0.5], minlength=n + 1) > 0
    pieces = (voxels >= PIECE * sizes[t]) & (2 * voxels > whole)
    cut = np.bincount(t[pieces], minlength=n + 1) > 1
    main = 2 * voxels > sizes[t]
    _, label, cells = np.unique(p[main], return_inverse=True, return_counts=True)
    fused = np.bincount(t[main], weights=cells[label] > 1, minlength=n + 1) > 0
    return {"recall": found, "cut": cut, "fused": fused}
