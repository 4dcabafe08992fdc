"""What a comparison found, and the folder it is written to."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cellseg3d_dist
from cellseg3d_dist.comparison import tables, words
from cellseg3d_dist.comparison.basis import Basis
from cellseg3d_dist.comparison.prediction import Prediction
from cellseg3d_dist.errors import EnvironmentFailedError, OutputError
from cellseg3d_dist.measuring.writing import replacing
from cellseg3d_dist.metrics.statistics import GroupTest
from cellseg3d_dist.paths import absolute_path

if TYPE_CHECKING:
    from pandas import DataFrame

PROGRAM, KIND = "cellseg3d_dist", "comparison"
#: Its results for programs, and the mark of a folder that may be replaced.
RESULT = "comparison.json"
PAGE = "comparison.html"


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes
    ----------
    basis : Basis
        What was compared: predictions, criterion, common thresholds and images.
    test : GroupTest
        Kruskal-Wallis, Conover-Iman, effect sizes.
    page : Path or None
        The HTML page, where a folder was asked for.
    """

    basis: Basis
    test: GroupTest
    page: Path | None = None

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """In the order given."""
        return self.basis.predictions

    @cached_property
    def statements(self) -> tuple[str, ...]:
        """What was tested and what came out, in sentences."""
        return (f"Tested {words.values_tested(self.basis)}.", *words.outcome(self.test))

    @cached_property
    def cautions(self) -> tuple[str, ...]:
        """What was left out, and what the tests cannot know."""
        return tuple(words.cautions(self.basis, self.test))

    def frame(self) -> DataFrame:
        """Every value as a table: prediction, image, criterion, threshold, metric, value."""
        from pandas import DataFrame

        return DataFrame(list(tables.tidy(self.predictions)), columns=list(tables.TIDY))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "program": PROGRAM,
            "kind": KIND,
            "version": cellseg3d_dist.__version__,
            "predictions": [{"name": p.name, "source": p.source} for p in self.predictions],
            "criterion": self.basis.criterion,
            "thresholds": list(self.basis.thresholds),
            "images": list(self.basis.images),
            "by": self.basis.by,
            "test": dataclasses.asdict(self.test),
            "statements": list(self.statements),
            "cautions": list(self.cautions),
        }

    def write(self, folder: Path) -> Path:
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
        # matplotlib and its fonts only where something is drawn
        from cellseg3d_dist.comparison.page import files

        try:
            (folder / "figures").mkdir(parents=True, exist_ok=True)
            for name, content in self._files(files(self)):
                with replacing(folder / name) as part:
                    part.write_bytes(content)
        except OSError as error:
            where = error.filename or folder
            raise EnvironmentFailedError(f"{where} cannot be written: {error.strerror}.") from error
        return folder / PAGE

    def _files(self, drawn: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        # the mark first, so that what a stop leaves behind can be replaced
        yield RESULT, json.dumps(self.to_dict(), indent=1, ensure_ascii=False).encode()
        yield "scores.csv", tables.tidy_csv(self.predictions).encode()
        yield "pairs.csv", tables.pairs_csv(self.test).encode()
        yield from drawn


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
