"""Boxes that were annotated: as text, as a file, or as numbers."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellseg3d_dist.errors import ConfigError

_COLUMNS = ("z0", "z1", "y0", "y1", "x0", "x1")
_LARGEST = 1 << 24


def read_boxes(given: str | Path | Sequence[Any]) -> list[Any]:
    """Boxes as ``evaluate``'s configuration takes them.

    Parameters
    ----------
    given : text, path or sequence
        ``z0:z1,y0:y1,x0:x1`` with ``;`` between boxes; a CSV file with the columns z0, z1, y0,
        y1, x0, x1; a JSON file with a list of boxes, each ``[[z0, z1], [y0, y1], [x0, x1]]``;
        or such a list.

    Raises
    ------
    ConfigError
        If a file cannot be read, or there is no box.
    """
    if isinstance(given, str | Path):
        path = Path(given).expanduser()
        if str(path).lower().endswith((".csv", ".tsv", ".json")):
            found = _from_file(path)
        else:
            found = [part.strip() for part in str(given).split(";") if part.strip()]
    else:
        found = list(given)
        if len(found) == 3 and all(_is_axis(axis) for axis in found):
            found = [found]
    if not found:
        raise ConfigError(f"boxes {given!s:.80} hold no box.")
    return found


def _is_axis(axis: Any) -> bool:
    return isinstance(axis, list | tuple) and len(axis) == 2 and isinstance(axis[0], int)


def _from_file(path: Path) -> list[Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise ConfigError(f"boxes {path} are over {_LARGEST >> 20} MiB, so it is no such file.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"boxes {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"boxes {path} are no text.") from error
    if path.suffix.lower() == ".json":
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"boxes {path} are no JSON ({error}).") from None
        if not isinstance(found, list):
            raise ConfigError(f"boxes {path} must be a list of [[z0, z1], [y0, y1], [x0, x1]].")
        return found
    rows = csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix == ".tsv" else ",")
    names = {name.strip().lower(): name for name in rows.fieldnames or () if name}
    if not all(column in names for column in _COLUMNS):
        raise ConfigError(f"boxes {path} must have the columns {', '.join(_COLUMNS)}.")
    boxes = []
    for number, row in enumerate(rows, 2):
        try:
            a, b, c, d, e, f = (int(row[names[column]] or "") for column in _COLUMNS)
        except (TypeError, ValueError):
            raise ConfigError(f"boxes {path}, line {number}: {row} are no whole numbers.") from None
        boxes.append(((a, b), (c, d), (e, f)))
    return boxes
