"""Lists of points: CSV or TSV with named columns, and the XML of cellfinder.

Coordinates are taken by the names of their columns, in any order and case: ``z, y, x``,
``centroid_z`` .. (our cell tables), ``centroid-0`` .. (scikit-image) or ``axis-0`` .. (napari).
Columns whose names end in ``_um`` are micrometres.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from cellseg3d_dist.errors import BadInputError

PointUnit = Literal["voxels", "um"]
_AXES = "zyx"
_PATTERNS = (
    "{axis}",
    "{axis}_um",
    "centroid_{axis}",
    "centroid_{axis}_um",
    "centroid-{n}",
    "axis-{n}",
)
_NAMES = tuple(
    tuple(pattern.format(axis=axis, n=n) for n, axis in enumerate(_AXES)) for pattern in _PATTERNS
)
_CELL_TYPE = "2"
_SHOWN = 60


@dataclass(frozen=True, eq=False)
class Points:
    """Points of one file.

    Attributes
    ----------
    positions : (n, 3) float64
        (z, y, x); in voxels the centre of the first voxel is 0.
    unit : 'voxels' or 'um'
    """

    positions: NDArray[np.float64]
    unit: PointUnit

    def in_um(self, voxel_size: tuple[float, float, float]) -> NDArray[np.float64]:
        """Positions in micrometres, for a voxel size (z, y, x) in micrometres."""
        if self.unit == "um":
            return self.positions
        return self.positions * np.asarray(voxel_size, np.float64)


def is_point_file(path: str | Path) -> bool:
    """Whether a path ends as a list of points does: .csv, .tsv, .txt or .xml."""
    return Path(path).suffix.lower() in (".csv", ".tsv", ".txt", ".xml")


def read_points(path: str | Path, *, unit: PointUnit | None = None, first_voxel: int = 0) -> Points:
    """Read a list of points.

    Parameters
    ----------
    path : str or Path
        ``.xml`` is read as cellfinder's: markers of type 2 (cells), or all of them where no
        marker has that type (candidates); their coordinates are voxels. Any other file is
        text with a header, its columns parted by commas, semicolons or tabs.
    unit : 'voxels' or 'um', optional
        Unit of the coordinates; without, what the names of the columns say, else voxels.
    first_voxel : 0 or 1
        Coordinate of the first voxel along each axis, subtracted from voxel coordinates.

    Raises
    ------
    BadInputError
        If the file is missing, unreadable, lacks an axis or has a coordinate that is no number.
    """
    file = Path(path)
    if first_voxel not in (0, 1):
        raise BadInputError(f"First voxel {first_voxel} of {file} must be 0 or 1.")
    if not file.is_file():
        raise BadInputError(f"{file} is not a file; points are read from CSV, TSV or XML files.")
    try:
        if file.suffix.lower() == ".xml":
            positions, named = _read_xml(file), None
        else:
            positions, named = _read_table(file)
    except OSError as error:
        raise BadInputError(f"{file} cannot be read: {error.strerror or error}.") from error
    bad = np.flatnonzero(~np.isfinite(positions).all(1))
    if len(bad):
        raise BadInputError(
            f"Point {bad[0] + 1} of {file} has a coordinate that is missing or not finite."
        )
    if unit is not None and named is not None and unit != named:
        raise BadInputError(
            f"{file} names its columns in {named}, but its unit was given as {unit}; "
            "leave the unit out."
        )
    unit = unit or named or "voxels"
    return Points(positions - first_voxel if unit == "voxels" else positions, unit)


def _read_table(file: Path) -> tuple[NDArray[np.float64], PointUnit | None]:
    header, delimiter = _header(file)
    known = {name.strip().lower(): name for name in reversed(header)}
    names = next((names for names in _NAMES if all(name in known for name in names)), None)
    if names is None:
        shown = delimiter.join(header)[:_SHOWN].replace("\t", " ")
        raise BadInputError(
            f"{file} has no columns z, y and x; its first line must name them and is {shown!r}."
        )
    columns = [known[name] for name in names]
    try:
        table = pa_csv.read_csv(
            file,
            parse_options=pa_csv.ParseOptions(delimiter=delimiter),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.float64()), include_columns=columns
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeDecodeError) as error:
        raise BadInputError(f"{file} cannot be read: {_one_line(error)}.") from error
    arrays = [table.column(name).to_numpy() for name in columns]
    positions = np.stack(arrays, 1).astype(np.float64) if len(table) else np.empty((0, 3))
    return positions, "um" if names[0].endswith("_um") else None


def _header(file: Path) -> tuple[list[str], str]:
    """Names of the columns and what parts them: the mark that is most frequent."""
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        first = lines.readline(100_000)
    delimiter = max(",;\t", key=first.count)
    return next(csv.reader([first], delimiter=delimiter), []), delimiter


def _read_xml(file: Path) -> NDArray[np.float64]:
    cells: list[tuple[float, float, float]] = []
    others: list[tuple[float, float, float]] = []
    try:
        for kind, point in _markers(file):
            (cells if kind == _CELL_TYPE else others).append(point)
    except ElementTree.ParseError as error:
        raise BadInputError(f"{file} is not XML: {_one_line(error)}.") from error
    return np.array(cells or others, np.float64).reshape(-1, 3)


def _markers(file: Path) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """Type and position of each marker, element by element: files of a brain are large."""
    kind, found = "", False
    for event, element in ElementTree.iterparse(file, events=("start", "end")):
        if event == "start":
            found = found or element.tag in ("CellCounter_Marker_File", "Marker_Data")
        elif element.tag == "Type":
            kind = (element.text or "").strip()
        elif element.tag == "Marker":
            try:
                z, y, x = (float(element.findtext(f"Marker{axis}") or "") for axis in "ZYX")
            except ValueError as error:
                raise BadInputError(
                    f"{file} has a marker without numbers as MarkerX, MarkerY and MarkerZ."
                ) from error
            yield kind, (z, y, x)
        if event == "end" and element.tag in ("Marker", "Marker_Type"):
            element.clear()
    if not found:
        raise BadInputError(f"{file} holds no markers of cells; it must be cellfinder's XML.")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
