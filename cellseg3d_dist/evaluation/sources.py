"""What is compared with what: one image or many, one prediction or several, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellseg3d_dist.engine.folder import RunFolder
from cellseg3d_dist.errors import BadInputError, ConfigError, VolumeError
from cellseg3d_dist.paths import absolute_path
from cellseg3d_dist.training.matching import Given, listed, matched, name_of
from cellseg3d_dist.volumes import location_of, open_volume

_KINDS = ("labels_true", "labels_pred")


@dataclass(frozen=True)
class Image:
    """One image of a data set: what is given as its true and as its predicted labels."""

    labels_true: Given
    labels_pred: Given


@dataclass(frozen=True)
class Prediction:
    """One prediction, of one image or of all images of a data set.

    Attributes
    ----------
    name : str
    labels_true, labels_pred : str
        As given.
    images : tuple of Image
    is_set : bool
        Whether they are a data set, be it of one image.
    """

    name: str
    labels_true: str
    labels_pred: str
    images: tuple[Image, ...]
    is_set: bool

    @property
    def texts(self) -> tuple[str, str, str]:
        """Name, and where the labels are."""
        return self.name, self.labels_true, self.labels_pred


def predictions_of(
    labels_true: Any, labels_pred: Any, names: Sequence[str] | None = None
) -> list[Prediction]:
    """Pair what is given.

    Parameters
    ----------
    labels_true : path, URL, pattern, folder, array, or a list of these
        A list, a pattern or a folder of images is a data set.
    labels_pred : the same, or several of them
        A mapping of names to predictions; a list of predictions, or where ``labels_true`` is a
        list itself, a list of the same length for one prediction, or of such lists.
    names : sequence of str, optional
        Of the predictions, by default from their paths.

    Raises
    ------
    ConfigError
        If there is nothing, or an image has no partner.
    """
    true, is_set = _images(labels_true, "labels_true")
    several = _several(labels_pred, isinstance(labels_true, list | tuple))
    if not several:
        raise ConfigError("no labels_pred were given.")
    texts = [_text(one) for one in several.values()]
    called = _names(list(several), texts, names)
    found = []
    for name, text, one in zip(called, texts, several.values(), strict=True):
        pred, _ = _images(one, "labels_pred")
        if not is_set and len(pred) != 1:
            raise ConfigError(
                f"labels_true {_text(labels_true)} is one image, labels_pred {text} are "
                f"{len(pred)}. Give the folder of all true label images, or one prediction."
            )
        partners = matched(true, pred, _KINDS)
        images = tuple(Image(t, p) for t, p in zip(true, partners, strict=True))
        found.append(Prediction(name, _text(labels_true), text, images, is_set))
    return found


def _several(labels_pred: Any, by_position: bool) -> dict[str, Any]:
    """Predictions by name; a number where they have none."""
    if isinstance(labels_pred, Mapping):
        return {str(key): value for key, value in labels_pred.items()}
    given = list(labels_pred) if isinstance(labels_pred, list | tuple) else [labels_pred]
    if by_position and not any(isinstance(one, list | tuple) for one in given):
        given = [given]
    return {f" {number}": one for number, one in enumerate(given)}


def _text(given: Any) -> str:
    if isinstance(given, list | tuple):
        return ", ".join(_text(one) for one in given[:3]) + (", ..." if len(given) > 3 else "")
    return str(given) if isinstance(given, str | Path) else location_of(given) or "<memory>"


def _names(keys: list[str], texts: list[str], names: Sequence[str] | None) -> list[str]:
    """Names that tell predictions apart: with their folders where the last part does not."""
    if names is not None:
        found = [str(name).strip() for name in names]
        if len(found) != len(keys) or len(set(found)) != len(found) or not all(found):
            raise ConfigError(
                f"names {', '.join(found)!r} must be {len(keys)} different names, one for each "
                "prediction."
            )
        return found
    found = []
    for key, text in zip(keys, texts, strict=True):
        parts = [part for part in text.rstrip("/").split("/") if part]
        if parts and len(parts) > 1 and parts[-1] == "labels.ome.zarr":
            parts.pop()
        last = name_of(parts[-1]) if parts else ""
        last = "prediction" if text == "<memory>" else last
        found.append(last if key.startswith(" ") else key)
    return _told_apart(found, texts)


def _told_apart(names: list[str], locations: list[str]) -> list[str]:
    for depth in range(2, 6):
        if len(set(names)) == len(names):
            return names
        if len(set(locations)) < len(names):
            break
        names = ["/".join(text.rstrip("/").split("/")[-depth:]) for text in locations]
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]


def names_of_images(locations: Sequence[str]) -> list[str]:
    """Different names for images, from where their true labels are."""
    return _told_apart([name_of(location) for location in locations], list(locations))


def _images(given: Any, what: str) -> tuple[list[Given], bool]:
    """The images that are meant, and whether they are a data set, be it of one image."""
    parts = list(given) if isinstance(given, list | tuple) else [given]
    parts = [image for part in parts for image in _runs_in(part)]
    if len(parts) == 1 and _is_one(parts[0]):
        return parts, isinstance(given, list | tuple)
    return listed(parts, what), True


def _runs_in(given: Any) -> list[Any]:
    """Labels of a run folder, or of all run folders in a folder; else what is given."""
    if not isinstance(given, str | Path) or "://" in str(given):
        return [given]
    path = absolute_path(given)
    if not path.is_dir():
        return [given]
    if (path / "run.json").is_file():
        return [_labels_of(path)]
    runs = sorted(child.parent for child in path.glob("*/run.json"))
    return [_labels_of(run) for run in runs] or [given]


def _labels_of(path: Path) -> str:
    folder = RunFolder(path)
    status = folder.status()["status"]
    if not folder.labels.exists() or status != "complete":
        raise BadInputError(
            f"run {path} is {status}, so its labels are not whole. Finish it: {folder.go_on}"
        )
    return str(folder.labels)


def _is_one(given: Any) -> bool:
    """Whether a path is one image, though it may be a folder; arrays and URLs are."""
    if not isinstance(given, str | Path) or "://" in str(given):
        return True
    path = absolute_path(given)
    if not path.is_dir():
        # a pattern; what is missing is told when it is opened
        return path.exists() or not any(c in str(given) for c in "*?[")
    try:
        open_volume(path, voxel_size=(1, 1, 1), time=0)
    except VolumeError:
        return any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray"))
    return True
