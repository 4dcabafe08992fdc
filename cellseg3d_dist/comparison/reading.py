"""Reading scores documents: what ``evaluate`` and runs with true labels write."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from cellseg3d_dist.comparison.prediction import Key, Prediction, Scores
from cellseg3d_dist.errors import BadInputError
from cellseg3d_dist.paths import absolute_path
from cellseg3d_dist.report.text import plain

#: What a run leaves in its folder.
SCORES = "scores.json"
#: A document in memory, or something that gives one.
Source = str | Path | Mapping[str, Any] | Any

#: Characters of a name.
_LONGEST = 200
_NOT_VALUES = ("name", "labels_true", "labels_pred", "matching", "images", "mean", "evaluated")
#: Of which a scores document has some.
_SECTIONS = ("matching", "foreground", "classes", "points")
_ELEMENT_NAMES = ("region", "label", "name")


def read_predictions(
    sources: Sequence[Source], names: Sequence[str] | None = None
) -> tuple[Prediction, ...]:
    """The predictions of several documents, in their order.

    Parameters
    ----------
    sources : sequence
        Files, run folders, documents as mappings, or anything with a ``to_dict``.
    names : sequence of str, optional
        Of all predictions, in their order; by default what the documents call them, and the
        folder or file where they do not.

    Raises
    ------
    BadInputError
        If one is missing or no scores document, or names are not one for each and different.
    """
    if not sources:
        raise BadInputError("There is nothing to compare: give a scores.json or a run folder.")
    found = tuple(prediction for source in sources for prediction in _read(source))
    if names is not None:
        if len(names) != len(found):
            raise BadInputError(
                f"{len(names)} names for {len(found)} predictions "
                f"({', '.join(p.name for p in found)}). Give one for each, in this order."
            )
        called = [plain(name, _LONGEST) for name in names]
        found = tuple(replace(p, name=name) for p, name in zip(found, called, strict=True))
    _check_names(found)
    return found


def _check_names(found: Sequence[Prediction]) -> None:
    name, count = Counter(prediction.name for prediction in found).most_common(1)[0]
    if count > 1:
        where = ", ".join(p.source for p in found if p.name == name)
        raise BadInputError(
            f"{count} predictions are named {name!r} ({where}). "
            f"Tell them apart: names (--names) A,B,... for all {len(found)} predictions."
        )
    if any(not prediction.name.strip() for prediction in found):
        raise BadInputError("A name is empty. Give each prediction one with names (--names).")


def _read(source: Source) -> Iterator[Prediction]:
    if isinstance(source, str | Path):
        path = absolute_path(source)
        where, content = str(source), _content(path)
        path = path / SCORES if path.is_dir() else path
        fallback = path.parent.name if path.name == SCORES else path.stem
    else:
        where, fallback = "the document", "prediction"
        content = source.to_dict() if hasattr(source, "to_dict") else source
    try:
        yield from _predictions(content, where, fallback)
    except RecursionError:
        raise BadInputError(f"{where} is nested too deeply to be a scores document.") from None


def _content(path: Path) -> Any:
    if path.is_dir():
        if not (path / SCORES).exists():
            raise BadInputError(
                f"{path} has no {SCORES}: it is no run with true labels (--labels-true). "
                f"Give the file that evaluate wrote."
            )
        path = path / SCORES
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInputError(f"{path} does not exist.") from None
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise BadInputError(f"{path} is not a scores document: no JSON ({reason}).") from None


def _predictions(content: Any, where: str, fallback: str) -> Iterator[Prediction]:
    if isinstance(content, Mapping) and isinstance(content.get("predictions"), list):
        documents = content["predictions"]
        if not documents:
            raise BadInputError(f"{where} is a scores document without predictions.")
        for number, document in enumerate(documents):
            at = f"{where}: predictions[{number}]"
            yield _prediction(document, at, where, f"{fallback} {number + 1}")
    else:
        yield _prediction(content, where, where, fallback)


def _prediction(document: Any, where: str, source: str, fallback: str) -> Prediction:
    name = document.get("name") if isinstance(document, Mapping) else None
    whole = _scores(document, where, str(name or fallback))
    images = document.get("images") or ()
    if not isinstance(images, list | tuple):
        raise BadInputError(f"{where}: images is no list, so this is not a scores document.")
    parts = []
    for number, image in enumerate(images):
        at = f"{where}: images[{number}]"
        called = image.get("name") if isinstance(image, Mapping) else None
        parts.append(_scores(image, at, str(called or number)))
    twice = [name for name, n in Counter(part.name for part in parts).items() if n > 1]
    if twice:
        raise BadInputError(f"{where} has several images named {twice[0]!r}.")
    truth = str(document.get("labels_true") or "")
    return Prediction(whole.name, source, whole, tuple(parts), truth)


def _scores(document: Any, where: str, name: str) -> Scores:
    known = isinstance(document, Mapping) and any(key in document for key in _SECTIONS)
    if not known or not isinstance(document.get("matching", []), list | tuple):
        raise BadInputError(
            f"{where} is not a scores document: it has no list called matching. "
            f"evaluate writes such files, and segment with --labels-true."
        )
    # in one printable line
    name = plain(name, _LONGEST)
    values = dict(_matching(document.get("matching", []), where))
    for key, value in document.items():
        if key not in _NOT_VALUES:
            values |= _flat("", str(key), value)
    return Scores(name, values)


def _matching(rows: Sequence[Any], where: str) -> Iterator[tuple[Key, float]]:
    for number, row in enumerate(rows):
        at = f"{where}: matching[{number}]"
        if not isinstance(row, Mapping):
            raise BadInputError(f"{at} is no set of scores, so this is not a scores document.")
        criterion, threshold = row.get("criterion"), row.get("threshold")
        if not isinstance(criterion, str) or threshold is None or not _is_number(threshold):
            raise BadInputError(f"{at} lacks a criterion or a threshold.")
        if not _is_number(row.get("f1")) or not 0 <= row["f1"] <= 1:
            raise BadInputError(f"{at}: f1 {row.get('f1')!r} is no number from 0 to 1.")
        for metric, value in row.items():
            if metric not in ("criterion", "threshold") and _is_number(value):
                # 0.3 written as 0.30000000000000004 is the same threshold
                yield (criterion.lower(), round(float(threshold), 6), str(metric)), float(value)


def _flat(section: str, name: str, value: Any) -> dict[Key, float]:
    """All numbers of a part of a document; names below its sections are joined by points."""
    if _is_number(value):
        return {(section, None, name): float(value)}
    if isinstance(value, Mapping):
        parts = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(_element(part, number), part) for number, part in enumerate(value)]
    else:
        return {}
    found: dict[Key, float] = {}
    for key, part in parts:
        found |= _flat(section or name, f"{name}.{key}" if section else key, part)
    return found


def _element(value: Any, number: int) -> str:
    if isinstance(value, Mapping):
        for key in _ELEMENT_NAMES:
            if isinstance(value.get(key), str | int):
                return str(value[key])
    return str(number)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
