"""Which files are meant, and which labels belong to which image."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellseg3d_dist.errors import ConfigError
from cellseg3d_dist.paths import absolute_path

#: A path, a URL, or an array.
Given = Any

_ENDING = re.compile(r"(\.ome)?\.(zarr|tiff?|btf|tf8)$", re.IGNORECASE)
_TIFFS = (".tif", ".tiff", ".btf", ".tf8")
_ZARR_FILES = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


def name_of(location: str) -> str:
    """Name of a file without its ending."""
    return _ENDING.sub("", location.rstrip("/").rsplit("/", 1)[-1])


def listed(given: Given | Sequence[Given], what: str) -> list[Given]:
    """Files of a folder, pattern, path or list of these, in the order of their names.

    A folder of TIFF files is a list of volumes; folders in it that are Zarr count as one
    each. URLs and arrays are taken as they are.

    Raises
    ------
    ConfigError
        If there is none, or one is named twice.
    """
    parts = list(given) if isinstance(given, list | tuple) else [given]
    found: list[Given] = []
    for part in parts:
        found += _expanded(part, what)
    if not found:
        raise ConfigError(f"no {what} were given.")
    paths = [path for path in found if isinstance(path, str)]
    twice = next((path for number, path in enumerate(paths) if path in paths[:number]), None)
    if twice is not None:
        raise ConfigError(f"{twice} is named twice among the {what}.")
    return found


def _expanded(part: Given, what: str) -> list[Given]:
    if not isinstance(part, str | Path):
        return [part]
    text = str(part)
    if "://" in text:
        return [text]
    path = absolute_path(text)
    if glob.has_magic(text) and not path.exists():
        matches = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
        names = sorted(map(str, matches), key=_natural)
        chosen = [name for name in names if _is_volume(Path(name))]
        if not chosen:
            raise ConfigError(f"no TIFF or Zarr matches {text} ({what}).")
        return chosen
    if not path.is_dir() or _is_zarr(path):
        return [str(path)]
    with os.scandir(path) as entries:
        names = sorted((entry.path for entry in entries), key=_natural)
    chosen = [name for name in names if _is_volume(Path(name))]
    if not chosen:
        raise ConfigError(f"folder {path} holds no TIFF or Zarr ({what}).")
    return chosen


def _is_zarr(path: Path) -> bool:
    return any((path / name).exists() for name in _ZARR_FILES)


def _is_volume(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    return _is_zarr(path) if path.is_dir() else path.suffix.lower() in _TIFFS


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


#: What is paired, as messages call it.
Kinds = tuple[str, str]
_KINDS: Kinds = ("image", "label image")


def matched(images: Sequence[Given], labels: Sequence[Given], kinds: Kinds = _KINDS) -> list[Given]:
    """The labels of each image, by name; one image and one label image are a pair anyway.

    Raises
    ------
    ConfigError
        If one has no partner, or more than one.
    """
    arrays = [not isinstance(item, str) for item in (*images, *labels)]
    if any(arrays) or (len(images) == len(labels) == 1):
        if len(images) != len(labels):
            raise ConfigError(
                f"{len(images)} {kinds[0]}s and {len(labels)} {kinds[1]}s were given; arrays are "
                "paired by position, one for one."
            )
        return list(labels)
    image_names, label_names = _names(images), _names(labels)
    partner = _same(image_names, label_names)
    if partner is None:
        partner = _best_affix(image_names, label_names)
    return [labels[number] for number in _complete(partner, images, labels, kinds)]


def _names(paths: Sequence[str]) -> list[str]:
    """Names that tell files apart: with their folders where the names alone do not."""
    names = [name_of(path) for path in paths]
    if len(set(names)) == len(names):
        return names
    common = os.path.commonpath(paths) if len(paths) > 1 else ""
    return [_ENDING.sub("", os.path.relpath(path, common)) for path in paths]


_Partner = list[list[int]]


def _same(images: list[str], labels: list[str]) -> _Partner | None:
    """Partners by equal names, if any is equal."""
    partner = _by_key(images, labels)
    return partner if any(partner) else None


def _by_key(images: list[str], labels: list[str]) -> _Partner:
    numbers: dict[str, list[int]] = {}
    for number, key in enumerate(labels):
        numbers.setdefault(key, []).append(number)
    return [numbers.get(key, []) for key in images]


def _best_affix(images: list[str], labels: list[str]) -> _Partner:
    """Partners after taking off what all names on one side, or on each side, have more."""
    tried = [_by_key(_core(images), _core(labels))]
    for before, after in _affixes(images, labels):
        tried.append(_by_key([before + name + after for name in images], labels))
    for before, after in _affixes(labels, images):
        tried.append(_by_key(images, [before + name + after for name in labels]))
    return max(tried, key=lambda partner: sum(len(found) == 1 for found in partner))


def _affixes(shorter: list[str], longer: list[str]) -> list[tuple[str, str]]:
    """What names of ``longer`` have before and after a name of ``shorter``, each once."""
    seen: dict[tuple[str, str], None] = {}
    # the first names show the rule; all of them would take the square of their number
    for name in longer[:3]:
        for part in shorter:
            if part in name:
                before, _, after = name.partition(part)
                seen[before, after] = None
    return list(seen)


def _core(names: list[str]) -> list[str]:
    before = _n_common(names)
    after = _n_common([name[before:][::-1] for name in names])
    return [name[before : len(name) - after] for name in names]


def _n_common(names: list[str]) -> int:
    """How many characters all names start with."""
    first, last = min(names), max(names)
    pairs = enumerate(zip(first, last, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(first), len(last)))


def _complete(
    partner: _Partner, images: Sequence[str], labels: Sequence[str], kinds: Kinds
) -> list[int]:
    """One label image for each image, each used once."""
    one, other = kinds
    for image, found in zip(images, partner, strict=True):
        if len(found) > 1:
            names = " and ".join(labels[number] for number in found)
            raise ConfigError(f"{one} {image} has several {other}s: {names}. Keep one.")
        if not found:
            raise ConfigError(
                f"{one} {image} has no {other} among the {len(labels)} given. Name it like the "
                f"{one}, or leave the {one} out."
            )
    chosen = [found[0] for found in partner]
    for number, label in enumerate(labels):
        uses = [image for image, pick in zip(images, chosen, strict=True) if pick == number]
        if len(uses) > 1:
            raise ConfigError(f"labels {label} fit several {one}s: {' and '.join(uses)}.")
        if not uses:
            raise ConfigError(
                f"labels {label} have no {one} among the {len(images)} given. Leave them out, or "
                f"give their {one}."
            )
    return chosen
