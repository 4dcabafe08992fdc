"""Evaluate: open and check everything, count pairs of labels block by block, score tables."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellseg3d_dist.config import validated
from cellseg3d_dist.config.evaluate import EvaluateConfig
from cellseg3d_dist.engine.clusters import check_cluster, default_memory_limit, default_workers
from cellseg3d_dist.engine.executors import SerialExecutor
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.production import (
    Production,
    check_destination,
    journals_of,
    producing,
)
from cellseg3d_dist.engine.progress import Progress
from cellseg3d_dist.engine.stages.in_boxes import InBoxes
from cellseg3d_dist.engine.stages.score import LabelPair, Score, Totals
from cellseg3d_dist.errors import BadInputError, MemoryLimitError
from cellseg3d_dist.evaluation.boxes import read_boxes
from cellseg3d_dist.evaluation.cutting import cut
from cellseg3d_dist.evaluation.document import Evaluation, finished, write
from cellseg3d_dist.evaluation.opening import OpenedPair
from cellseg3d_dist.evaluation.order import Order, open_order
from cellseg3d_dist.evaluation.points import against_points
from cellseg3d_dist.evaluation.scoring import scored
from cellseg3d_dist.evaluation.sources import predictions_of
from cellseg3d_dist.grid import BlockGrid, Triple
from cellseg3d_dist.paths import absolute_path
from cellseg3d_dist.volumes import limit_threads
from cellseg3d_dist.volumes.points import Points

if TYPE_CHECKING:
    from distributed import Client

#: Voxels of all images up to which own worker processes take longer to start than they save.
FEW_VOXELS = 1 << 26
#: Pairs whose blocks are done together; what they are travels with each block.
TOGETHER = 32


def evaluate(
    labels_true: Any,
    labels_pred: Any,
    out: str | Path | None = None,
    *,
    names: Sequence[str] | None = None,
    mask: Any = None,
    regions: Any = None,
    boxes: Any = None,
    confidences: Any = None,
    overwrite: bool = False,
    client: Client | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Evaluation:
    """Score predicted labels against true ones, block by block.

    Parameters
    ----------
    labels_true : path, URL, pattern, folder, array, or a list of these
        Integer labels, 0 for background. A list, a pattern or a folder is a data set.
    labels_pred : the same, or several of them
        Also the folder of a run, or of several. A mapping of names to predictions, or a list
        of them; where ``labels_true`` is a list, a list of the same length is one prediction.
    out : path, optional
        JSON file to write. While it is made its journal lies beside it, so that an interrupted
        call goes on; without it nothing is kept.
    names : sequence of str, optional
        Of the predictions.
    mask : path or array, optional
        Only voxels where it is not 0 count; of the labels' shape or smaller by whole factors.
    regions : path or array, optional
        Anatomical regions as labels, to count objects in each.
    boxes : sequence of boxes, text or path, optional
        Only voxels in any of these boxes count: ``((z0, z1), (y0, y1), (x0, x1))`` each, text
        with ``;`` between them, or a CSV or JSON file.
    confidences : path or sequence of paths, optional
        For the average precision, of each prediction of one image: CSV, TSV or Parquet with the
        columns label and score. Without, larger objects come first.
    overwrite : bool
        Replace ``out`` where it holds other scores.
    client : distributed.Client, optional
        Of a cluster; by default an own local one, or none where there is little to do.
        Arrays in memory are counted in this process.
    progress : Progress, optional
        Silent by default.
    **options
        Keys of :class:`cellseg3d_dist.config.evaluate.EvaluateConfig`: thresholds, criteria,
        classes, ignore, region, distance, voxel_size, level, time, workers, scheduler,
        memory_limit, block_shape, executor.

    Returns
    -------
    Evaluation

    Raises
    ------
    BadInputError
        If labels, options or output cannot be used; nothing is created.
    BlocksFailedError
        If stored bytes cannot be read.

    Examples
    --------
    >>> import numpy as np
    >>> labels_true = np.zeros((4, 8, 8), np.uint32)
    >>> labels_true[:, :3, :3], labels_true[:, 5:, 5:] = 1, 2
    >>> scores = evaluate(labels_true, np.where(labels_true == 1, 9, 0))
    >>> [(s["tp"], s["fp"], s["fn"]) for s in scores["matching"] if s["threshold"] == 0.5]
    [(1, 0, 1), (1, 0, 1), (1, 0, 1)]
    """
    given = {key: value for key, value in options.items() if value is not None}
    given |= {} if boxes is None else {"boxes": read_boxes(boxes)}
    config = validated(EvaluateConfig, given)
    predictions = predictions_of(labels_true, labels_pred, names)
    beside = {"mask": mask, "regions": regions, "confidences": confidences}
    order = open_order(config, predictions, beside, known=out is not None)
    if out is None:
        with tempfile.TemporaryDirectory(prefix="cellseg3d-dist-") as folder:
            path = Path(folder) / "scores.json"
            return _carry_out(order, path, client, progress, keep=False)
    path = absolute_path(out)
    done = finished(path, order.made_from, overwrite=overwrite)
    if done is not None:
        return done
    check_destination(path, order.made_from, order.locations, replace=overwrite)
    return _carry_out(order, path, client, progress, keep=True, replace=overwrite)


def _carry_out(
    order: Order,
    path: Path,
    client: Client | None,
    progress: Progress | None,
    *,
    keep: bool,
    replace: bool = False,
) -> Evaluation:
    """Count all blocks with a work folder beside ``path``, and write that where it is kept."""
    config = order.config
    how = _resources(order, client)
    cuts = _cuts(order, how, journals_of(path))
    with (
        producing(
            path,
            order.made_from,
            inputs=order.locations,
            client=client,
            scheduler=config.scheduler,
            workers=how.workers,
            memory_limit=how.memory_limit,
            progress=progress,
            executor=SerialExecutor() if how.here else None,
            replace=replace,
        ) as production,
        _given_up(path),
    ):
        production.runner.verify = True
        shapes = [[grid.block_shape for grid in grids] for grids in cuts]
        production.folder.update_status(block_shapes=shapes)
        limit_threads()
        found = []
        for number, (prediction, images, grids) in enumerate(
            zip(order.predictions, order.images, cuts, strict=True)
        ):
            of = f"-{number + 1}" if len(cuts) > 1 else ""
            totals = _count(production, f"score{of}", images, grids)
            if order.points is None:
                inside = _count_in_boxes(production, f"boxes{of}", images, grids, totals)
                sure = order.confidences[number] if order.confidences else None
                found.append(scored(prediction, images, totals, config, inside, sure))
            else:
                found.append(_against_points(order, number, totals))
        stages = production.runner.summaries
        result = Evaluation(
            tuple(found),
            executed=sum(stage.executed for stage in stages),
            seconds=sum(stage.seconds for stage in stages),
            cpu_seconds=sum(stage.cpu_seconds for stage in stages),
            peak_rss=max(stage.peak_rss for stage in stages) if stages else 0,
        )
        if keep:
            write(result, path, order.made_from)
        return result


def _cuts(order: Order, how: _Resources, begun: RunFolder) -> list[list[BlockGrid]]:
    """Blocks of all pairs: those of a call that was interrupted, where they still fit."""
    before = None
    if begun.path.exists() and begun.status().get("decides") == order.made_from:
        before = begun.status().get("block_shapes")
    return [
        [
            _cut(one.pair, how, order.config.block_shape, before and tuple(before[i][j]))
            for j, one in enumerate(images)
        ]
        for i, images in enumerate(order.images)
    ]


def _cut(
    pair: LabelPair, how: _Resources, wanted: Triple | None, before: Triple | None
) -> BlockGrid:
    if wanted is None and before is not None:
        with contextlib.suppress(MemoryLimitError):
            return cut(pair, how.memory_limit, how.workers, before)[0]
    return cut(pair, how.memory_limit, how.workers, wanted)[0]


def _against_points(order: Order, number: int, totals: Sequence[Totals]) -> dict[str, Any]:
    """The document of one prediction against true points."""
    assert order.points is not None
    given, pair, size = order.points.pred[number], None, order.config.voxel_size
    if given is not None:
        pred = given.points
    else:
        pair, size = order.images[number][0].pair, order.images[number][0].voxel_size
        offset = np.asarray(getattr(pair.labels_pred, "offset", (0, 0, 0)))
        pred = Points(totals[0].measures["pred"].centroids + offset, "voxels")
    texts = order.predictions[number].texts
    return against_points(texts, order.points.true.points, pred, pair, size, order.config)


def _count(
    production: Production, name: str, images: Sequence[OpenedPair], grids: Sequence[BlockGrid]
) -> list[Totals]:
    """What is counted of each image, some images at a time."""
    found: list[Totals] = []
    for first in range(0, len(images), TOGETHER):
        part = slice(first, first + TOGETHER)
        pairs = tuple(one.pair for one in images[part])
        own = f"{name}-from-{first + 1}" if len(images) > TOGETHER else name
        stage = Score(pairs, tuple(grids[part]), production.folder.work, own)
        found += stage.totals(production.run(stage, stage.blocks))
    return found


def _count_in_boxes(
    production: Production,
    name: str,
    images: Sequence[OpenedPair],
    grids: Sequence[BlockGrid],
    totals: Sequence[Totals],
) -> list[NDArray[np.int64] | None]:
    """For each image, where bounding boxes are wanted, what is in those of its true labels."""
    found: list[NDArray[np.int64] | None] = []
    for number, (one, grid, total) in enumerate(zip(images, grids, totals, strict=True)):
        if total.boxes is None:
            found.append(None)
            continue
        own = f"{name}-of-{number + 1}" if len(images) > 1 else name
        work = production.folder.work
        stage, blocks = InBoxes.prepared(one.pair, grid, total, work, own)
        found.append(stage.total(production.run(stage, blocks), len(total.boxes.labels)))
    return found


@contextlib.contextmanager
def _given_up(path: Path) -> Iterator[None]:
    """Nothing is left of a call whose labels, or what belongs to them, turn out to be none."""
    try:
        yield
    except BadInputError:
        shutil.rmtree(journals_of(path).path, ignore_errors=True)
        raise


@dataclass(frozen=True)
class _Resources:
    """Where blocks are counted: ``here`` is in this process."""

    workers: int
    memory_limit: int
    here: bool = False


def _resources(order: Order, client: Client | None) -> _Resources:
    config = order.config
    there = client is not None or config.scheduler or os.environ.get("DASK_SCHEDULER_ADDRESS")
    few = order.n_voxels <= FEW_VOXELS and config.workers is None and not there
    here = config.executor == "serial" or (config.executor is None and few)
    if here or order.in_memory:
        return _Resources(1, config.memory_limit or default_memory_limit(1), here=True)
    found = check_cluster(client, config.scheduler)
    workers = found.workers if found else config.workers or default_workers()
    own = found.memory_limit if found else default_memory_limit(workers)
    return _Resources(workers, config.memory_limit or own)
