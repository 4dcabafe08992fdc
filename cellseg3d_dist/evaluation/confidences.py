"""How sure a prediction is of each of its labels, for the average precision."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.metrics.precision import Confidences
from cellseg3d_dist.paths import absolute_path

_COLUMNS = ("score", "confidence", "probability")


@dataclass(frozen=True)
class GivenConfidences:
    """Confidences of one prediction, and a digest of the file they are from."""

    path: Path
    values: Confidences
    digest: str


def read_confidences(path: str | Path) -> GivenConfidences:
    """Read a table with a column ``label`` and one of score, confidence or probability.

    Parameters
    ----------
    path : path
        CSV, TSV or Parquet.

    Raises
    ------
    BadInputError
        If it cannot be read or lacks a column.
    """
    file = absolute_path(path)
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:32]
        table = _table(file)
    except OSError as error:
        raise BadInputError(f"confidences {file} cannot be read: {error.strerror}.") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        text = " ".join(str(error).split())
        raise BadInputError(f"confidences {file} cannot be read: {text}.") from error
    names = {name.strip().lower(): name for name in table.column_names}
    value = next((name for name in _COLUMNS if name in names), None)
    if "label" not in names or value is None:
        raise BadInputError(
            f"confidences {file} must have the columns label and score; it has "
            f"{', '.join(table.column_names)!s:.80}."
        )
    labels, values = (_numbers(file, table, names[name]) for name in ("label", value))
    if len(labels) and labels.min() < 0:
        raise BadInputError(f"confidences {file} have the label {labels.min():g}, below 0.")
    found = Confidences(labels.astype(np.uint64), values.astype(np.float64))
    return GivenConfidences(file, found, digest)


def _table(file: Path) -> Any:
    if file.suffix.lower() == ".parquet":
        return pq.read_table(file)
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    return pa_csv.read_csv(file, parse_options=pa_csv.ParseOptions(delimiter=delimiter))


def _numbers(file: Path, table: Any, name: str) -> Any:
    column = table.column(name).to_numpy()
    if column.dtype.kind not in "iuf" or not np.isfinite(column).all():
        raise BadInputError(f"confidences {file}: column {name} is not all numbers.")
    return column
