"""The folder of a comparison: page, figures and tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from cellseg3d_dist.comparison import tables
from cellseg3d_dist.comparison.page import figures_and_page
from cellseg3d_dist.comparison.result import KIND, PROGRAM, Comparison
from cellseg3d_dist.errors import EnvironmentFailedError, OutputError
from cellseg3d_dist.measuring.writing import replacing
from cellseg3d_dist.paths import absolute_path

#: Results for programs, and the mark of a folder that may be replaced.
RESULT = "comparison.json"
PAGE = "comparison.html"


def write(comparison: Comparison, folder: Path) -> Path:
    """Write page, figures and tables into a folder that :func:`new_folder` allowed.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    EnvironmentFailedError
        If it cannot be written.
    """
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for name, content in _files(comparison):
            with replacing(folder / name) as part:
                part.write_bytes(content)
    except OSError as error:
        where = error.filename or folder
        raise EnvironmentFailedError(f"{where} cannot be written: {error.strerror}.") from error
    return folder / PAGE


def _files(comparison: Comparison) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file."""
    # the mark first, so that what a stop leaves behind can be replaced
    yield RESULT, json.dumps(comparison.to_dict(), indent=1, ensure_ascii=False).encode()
    yield "scores.csv", tables.tidy_csv(comparison.predictions).encode()
    yield "pairs.csv", tables.pairs_csv(comparison.test).encode()
    figures, page = figures_and_page(comparison)
    for name, content in figures.items():
        yield f"figures/{name}", content
    yield PAGE, page.encode()


def new_folder(out: str | Path, overwrite: bool) -> Path:
    """A folder that a comparison may be written to; nothing is created.

    Raises
    ------
    OutputError
        If it holds anything that may not be replaced.
    """
    folder = absolute_path(out)
    if not folder.exists() and not folder.is_symlink():
        return folder
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file. Give a folder that does not exist.")
    try:
        empty = not any(folder.iterdir())
    except OSError as error:
        raise OutputError(f"{folder} cannot be read: {error.strerror}.") from error
    if empty:
        return folder
    if not _is_ours(folder):
        raise OutputError(f"{folder} is not empty and holds no comparison. Give another folder.")
    if not overwrite:
        raise OutputError(f"{folder} holds a comparison. Give another folder, or --overwrite.")
    return folder


def _is_ours(folder: Path) -> bool:
    try:
        content = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return (
        isinstance(content, dict)
        and content.get("program") == PROGRAM
        and content.get("kind") == KIND
    )
