"""Several time points in one run folder: each a run of its own, joined when they are done.

::

    OUT/t0003/              the run of time point 3, as any other run folder
    OUT/labels.ome.zarr     all their labels, (t, z, y, x)
    OUT/cells.parquet       all their cells, with a column ``time``
    OUT/run.json            ``times``: the time points
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cellseg3d_dist.config import SegmentConfig
from cellseg3d_dist.engine.finished import label_journals
from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.engine.journal import read_journal
from cellseg3d_dist.engine.records import digest, file_digest
from cellseg3d_dist.engine.runner import Runner
from cellseg3d_dist.engine.stages.join_times import JoinTime
from cellseg3d_dist.grid import Selection, Triple
from cellseg3d_dist.measuring.writing import write_csv, write_series
from cellseg3d_dist.volumes import StoredImage, create_image, open_volume, plan_image

#: Rows of the table that are read at a time.
_ROWS = 1 << 20


@dataclass(frozen=True)
class Series:
    """The run folder of several time points."""

    folder: RunFolder
    times: range

    @classmethod
    def of(cls, path: Path) -> Series | None:
        """The series in a run folder; None where it is a run of one time point.

        Raises
        ------
        OutputError
            If it is no run folder.
        """
        folder = RunFolder(path)
        times = folder.status().get("times")
        return None if times is None else cls(folder, range(times[0], times[-1] + 1))

    def part(self, time: int) -> RunFolder:
        """The run folder of one time point."""
        return RunFolder(self.folder.path / f"t{time:04d}", part_of=self.folder.path)

    @property
    def parts(self) -> dict[int, RunFolder]:
        """Run folders that have results."""
        found = {time: self.part(time) for time in self.times}
        return {time: part for time, part in found.items() if part.cells.exists()}


def join_cells(series: Series, config: SegmentConfig) -> dict[str, Any]:
    """Write the table of all cells; what ``run.json`` says of it."""
    folder = series.folder
    rows = write_series(folder.cells, _tables(series))
    if config.csv:
        write_csv(folder.path / "cells.csv", _tables(series), ascending=False)
    return {"cells": rows, "cells_digest": file_digest(folder.cells)}


def _tables(series: Series) -> Iterator[pa.Table]:
    metadata = {"unit": "", "description": "time point, counted from 0"}
    field = pa.field("time", pa.int32(), nullable=False, metadata=metadata)
    for time, part in series.parts.items():
        with pq.ParquetFile(part.cells) as file:
            schema = file.schema_arrow.insert(1, field)
            yield schema.empty_table()
            for batch in file.iter_batches(_ROWS):
                column = pa.array(np.full(batch.num_rows, time, np.int32))
                yield pa.Table.from_arrays(
                    [batch.column(0), column, *batch.columns[1:]], schema=schema
                )


def join_labels(series: Series, config: SegmentConfig, runner: Runner) -> None:
    """Copy the labels of all time points into one image.

    Raises
    ------
    Interrupted
        If a stop was requested.
    """
    parts = series.parts
    volumes = {time: open_volume(part.labels) for time, part in parts.items()}
    if not volumes:
        return
    dtype = max((volume.dtype for volume in volumes.values()), key=lambda dtype: dtype.itemsize)
    block_shape = _block_shape(next(iter(parts.values())))
    image = _image(series, config, next(iter(volumes.values())), block_shape, dtype)
    for time, part in parts.items():
        at = image.at(series.times.index(time))
        journals = label_journals(part)
        for level, target in enumerate(at.levels):
            _, records = read_journal(part.journal(journals[level]))
            numbers = np.array(sorted(record["block"] for record in records), np.int64)
            digests = sorted((record["block"], record["digest"]) for record in records)
            made_from = digest(np.frombuffer(repr(digests).encode(), np.uint8))
            source = open_volume(part.labels, level=level)
            stage = JoinTime(source, target, made_from, f"labels-t{time:04d}-{level}")
            list(runner.run(stage, Selection(target.grid, numbers)))
    image.sweep()


def _block_shape(part: RunFolder) -> Triple:
    z, y, x = part.status()["plan"]["block_shape"]
    return (z, y, x)


def _image(
    series: Series, config: SegmentConfig, like: Any, block_shape: Triple, dtype: np.dtype[Any]
) -> StoredImage:
    """The image of all labels; made anew where a label no longer fits its type."""
    path = series.folder.labels
    how: dict[str, Any] = dict(  # noqa: C408
        shape=like.shape,
        dtype=dtype,
        block_shape=block_shape,
        voxel_size=like.voxel_size,
        origin=like.origin,
        kind="labels",
        format=config.ome_zarr,
        times=series.times,
    )
    image = plan_image(path, **how)
    if path.exists() and open_volume(path, time=0).dtype != dtype:
        shutil.rmtree(path)
    if not path.exists():
        create_image(path, **how, name="labels")
    return image


def describe_parts(series: Series) -> list[dict[str, Any]]:
    """Time, status, cells and failed blocks of each time point."""
    found = []
    for time in series.times:
        part = series.part(time)
        status: dict[str, Any] = {"status": "waiting"}
        if part.status_file.exists():
            status = part.status()
        facts = status.get("facts", {})
        found.append(
            {
                "time": time,
                "folder": part.path.name,
                "status": status["status"],
                "cells": facts.get("cells"),
                "threshold": facts.get("threshold", {}).get("value"),
                "failed_blocks": status.get("failed_blocks", []),
            }
        )
    return found


def totals(parts: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Cells, and time points that are complete."""
    return {
        "cells": sum(part["cells"] or 0 for part in parts),
        "complete": sum(part["status"] == "complete" for part in parts),
    }
