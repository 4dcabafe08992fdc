"""The scores document: what is returned, written and read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellseg3d_dist.errors import OutputError


@dataclass(frozen=True)
class Evaluation:
    """Scores of one prediction or several.

    Attributes
    ----------
    predictions : tuple of dict
        One scores document each, as in the file.
    executed : int
        Blocks that were counted for it; 0 where the file was there.
    seconds, cpu_seconds : float
        That counting took, and of processor time of all workers.
    peak_rss : int
        Largest memory of a worker, in bytes.
    """

    predictions: tuple[Mapping[str, Any], ...]
    executed: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss: int = 0

    def to_dict(self) -> dict[str, Any]:
        """One scores document, or ``{"predictions": [...]}``."""
        if len(self.predictions) == 1:
            return dict(self.predictions[0])
        return {"predictions": [dict(one) for one in self.predictions]}

    def __getitem__(self, key: str) -> Any:
        """A part of the document, such as ``evaluation["matching"]``."""
        return self.to_dict()[key]


def write(evaluation: Evaluation, path: Path, made_from: Mapping[str, str]) -> None:
    """Write the file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    content = evaluation.to_dict() | {"evaluated": dict(made_from)}
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def finished(path: Path, made_from: Mapping[str, str], *, overwrite: bool) -> Evaluation | None:
    """The scores that a file holds, if they are those that are asked for; None if it is not there.

    Raises
    ------
    OutputError
        If it holds anything else, unless it is a scores file and ``overwrite``.
    """
    if not path.exists() and not path.is_symlink():
        if not path.parent.is_dir():
            raise OutputError(f"output {path}: there is no folder {path.parent}. Create it first.")
        return None
    if not path.is_file():
        raise OutputError(f"output {path} exists and is no file. Choose another name.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        before = content.pop("evaluated")
        predictions = content.get("predictions", [content])
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        raise OutputError(
            f"output {path} exists and was not written by evaluate. Choose another name."
        ) from None
    if overwrite:
        return None
    if before != dict(made_from):
        raise OutputError(
            f"output {path} exists with other scores: {_difference(before, made_from)}. Choose "
            f"another name; --overwrite replaces it."
        )
    return Evaluation(tuple(predictions))


def _difference(before: Any, now: Mapping[str, str]) -> str:
    if not isinstance(before, Mapping):
        return "of an unknown evaluation"
    changes = "; ".join(
        f"{key} was {_short(before.get(key))} and is {_short(now.get(key))}"
        for key in sorted((before.keys() | now.keys()) - {"read"})
        if before.get(key) != now.get(key)
    )
    return changes or "the files have changed since"


def _short(value: Any) -> str:
    """A value as text; of a long one, such as a path, what tells it from others."""
    text = "not set" if value is None else str(value)
    return text if len(text) <= 120 else f"...{text[-117:]}"
