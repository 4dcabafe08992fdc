"""Write the cell table: one Parquet file, or CSV with scikit-image's names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

_CSV_NAMES = {"volume": "area", "label": "label"} | {
    f"{name}_{axis}{suffix}": f"{new}-{number}"
    for name, suffix, new, first in (
        ("centroid", "", "centroid", 0),
        ("bbox", "_min", "bbox", 0),
        ("bbox", "_max", "bbox", 3),
    )
    for number, axis in enumerate("zyx", start=first)
}


def write_cells(
    path: str | os.PathLike[str], tables: Iterable[pa.Table], *, row_group_size: int = 1 << 20
) -> int:
    """Stream cell tables into one Parquet file, sorted by label.

    The file appears under its name only when it is whole.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    tables : iterable of pyarrow.Table
        From :func:`~cellseg3d_dist.measuring.table.cell_table`, in ascending label order;
        at least one, which may have no row.
    row_group_size : int
        Rows per Parquet row group.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    ValueError
        If there is no table or labels do not ascend.
    """

    def open_writer(part: Path, schema: pa.Schema) -> Any:
        # read back by label range: sorted labels delta-encode to almost nothing
        return pa.parquet.ParquetWriter(
            part, schema, compression="zstd", sorting_columns=[pa.parquet.SortingColumn(0)]
        )

    def write(writer: Any, table: pa.Table) -> None:
        writer.write_table(table, row_group_size=row_group_size)

    return _stream(Path(path), _ascending(tables), open_writer, write)


def write_series(path: str | os.PathLike[str], tables: Iterable[pa.Table]) -> int:
    """Stream the cell tables of several time points into one Parquet file.

    Each table has a column ``time`` and is sorted by label; arguments, result and errors are
    those of :func:`write_cells`, but that labels begin anew with each time point.
    """

    def open_writer(part: Path, schema: pa.Schema) -> Any:
        return pa.parquet.ParquetWriter(part, schema, compression="zstd")

    def write(writer: Any, table: pa.Table) -> None:
        writer.write_table(table)

    return _stream(Path(path), iter(tables), open_writer, write)


def write_csv(
    path: str | os.PathLike[str], tables: Iterable[pa.Table], *, ascending: bool = True
) -> int:
    """Stream cell tables into one CSV file with scikit-image's column names.

    ``label``, ``area`` (voxels), ``centroid-0`` .. ``centroid-2`` (z, y, x), ``bbox-0`` ..
    ``bbox-5`` (minima, then maxima); all other columns keep their names. Arguments, result
    and errors as :func:`write_cells`. ``ascending`` tells that labels must ascend.
    """

    def open_writer(part: Path, schema: pa.Schema) -> Any:
        return pa.csv.CSVWriter(part, schema)

    def write(writer: Any, table: pa.Table) -> None:
        writer.write_table(table)

    def renamed() -> Iterator[pa.Table]:
        for table in _ascending(tables) if ascending else tables:
            yield table.rename_columns([_CSV_NAMES.get(n, n) for n in table.column_names])

    return _stream(Path(path), renamed(), open_writer, write)


def _ascending(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same tables, checked: labels rise from one to the next."""
    last = 0
    for table in tables:
        if table.num_rows:
            first = table["label"][0].as_py()
            if first <= last:
                raise ValueError(f"cell tables out of order: label {first} after {last}")
            last = table["label"][-1].as_py()
        yield table


def _stream(
    path: Path,
    tables: Iterator[pa.Table],
    open_writer: Callable[[Path, pa.Schema], Any],
    write: Callable[[Any, pa.Table], None],
) -> int:
    """Write tables one after another, then give the file its name; count the rows."""
    first = next(tables, None)
    if first is None:
        raise ValueError("no cell table to write, not even an empty one")
    rows: int = 0
    with replacing(path) as part, open_writer(part, first.schema) as writer:
        write(writer, first)
        rows += int(first.num_rows)
        for table in tables:
            write(writer, table)
            rows += int(table.num_rows)
    return rows


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A neighbouring file to write; it takes the name ``path`` when the body succeeds."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
