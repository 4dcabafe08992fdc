"""The cell table of a run, from the blocks' partial statistics."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from cellseg3d_dist.config import SegmentConfig
from cellseg3d_dist.engine.job import Job
from cellseg3d_dist.engine.records import file_digest
from cellseg3d_dist.engine.stages.relabel import Relabel
from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.measuring.fucci import STATES, Reporters, otsu_over_cells, with_states
from cellseg3d_dist.measuring.partial import PartialCells
from cellseg3d_dist.measuring.reduce import reduce_partials
from cellseg3d_dist.measuring.table import cell_table, mean_columns
from cellseg3d_dist.measuring.writing import write_cells, write_csv
from cellseg3d_dist.volumes import Volume

#: Cells held at a time while the table is written.
TABLE_ROWS = 1_000_000


def write_tables(job: Job, relabel: Relabel, records: list[dict[str, Any]], n_cells: int) -> None:
    """Write the tables of a run, and note in its facts what is in them.

    Parameters
    ----------
    relabel, records
        The stage that measured, and its finished blocks.
    """

    def tables() -> Iterator[pa.Table]:
        return _tables(job, relabel, records, n_cells)

    reporters = _reporters(job, tables)
    counts = np.zeros(len(STATES), np.int64)

    def with_cycle() -> Iterator[pa.Table]:
        counts[:] = 0
        for table in tables():
            if reporters is not None:
                table, found = with_states(table, reporters)
                counts[:] += found
            yield table

    job.facts["cells"] = write_cells(job.folder.cells, with_cycle())
    job.facts["cells_digest"] = file_digest(job.folder.cells)
    if reporters is not None:
        job.facts["fucci"]["cells"] = dict(zip(STATES, counts.tolist(), strict=True))
    if job.config.csv:
        write_csv(job.folder.path / "cells.csv", with_cycle())


def _tables(
    job: Job, relabel: Relabel, records: list[dict[str, Any]], n_cells: int
) -> Iterator[pa.Table]:
    volume = job.image.volume
    blocks = [job.grid.block(record["block"]) for record in records]
    sources = [partial(relabel.cells, block) for block in blocks]
    spans = [(record["first"], record["last"]) for record in records]
    parts: Iterator[PartialCells] = reduce_partials(
        sources, n_cells, TABLE_ROWS, spans=spans, n_channels=len(volume.channels)
    )
    for part in parts:
        yield cell_table(
            part,
            voxel_size=volume.voxel_size,
            shape=volume.shape,
            offset=volume.offset,
            origin=volume.origin,
            channels=volume.channels,
            scales=relabel.scales,
        )


def _reporters(job: Job, tables: Any) -> Reporters | None:
    """The reporters' columns and thresholds, those of Otsu found first."""
    fucci = job.config.fucci
    if fucci is None:
        return None
    red, green = reporter_columns(job.config, job.image.volume)
    given = {red: fucci.red_threshold, green: fucci.green_threshold}
    wanted = tuple(name for name, value in given.items() if value is None)
    found = otsu_over_cells(tables, wanted) if wanted else {}
    values = {name: found[name] if value is None else value for name, value in given.items()}
    job.facts["fucci"] = {
        color: {
            "column": name,
            "threshold": values[name],
            "how": "otsu" if name in found else "given",
        }
        for color, name in (("red", red), ("green", green))
    }
    return Reporters(red, green, values[red], values[green])


def reporter_columns(config: SegmentConfig, volume: Volume) -> tuple[str, str]:
    """Columns of the reporters' mean intensities.

    Raises
    ------
    ConfigError
        If a channel is not there, or both are the same.
    """
    assert config.fucci is not None
    names = volume.channels
    found = []
    for color in ("red", "green"):
        wanted = getattr(config.fucci, color)
        if wanted.isdecimal() and int(wanted) < len(names):
            found.append(int(wanted))
        elif names.count(wanted) == 1:
            found.append(names.index(wanted))
        else:
            known = ", ".join(f"{i} {name!r}" for i, name in enumerate(names))
            raise ConfigError(
                f"fucci {color}={wanted} is no channel of {volume.location}. Give one of {known}."
            )
    if found[0] == found[1]:
        raise ConfigError(f"fucci red and green are the same channel, {found[0]}. Give two.")
    columns = mean_columns(names)
    return columns[found[0]], columns[found[1]]


def check_fucci(config: SegmentConfig, volume: Volume) -> None:
    """Refuse reporters that are not there, see :func:`reporter_columns`."""
    if config.fucci is not None:
        reporter_columns(config, volume)
