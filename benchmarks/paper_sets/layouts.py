"""Where the files of each set lie, as it is distributed.

Confirmed from the EmbedSeg repository (its notebooks ``01-data`` and ``03-predict``) and from
loaders of NucMM in other projects: folders and the form of names. Not confirmed, and therefore
taken in several forms: the names of masks of Mouse-Skull and Platynereis-ISH (matched by what
follows the first letter, else by order, as EmbedSeg pairs them), the archive of the mesoSPIM
set (only names like ``c5image.tif`` and folders ``labels`` beside the images are known from
CellSeg3D's notebooks), and the spheroids, which are not distributed. NucMM's labels for testing
are not among its files: its validation chunks take their place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paper_sets.published import CHANNELS

EMBEDSEG = """\
{folder}
  train/images/*.tif  train/masks/*.tif      ({volume}, {tuned}, ...)
  test/images/*.tif   test/masks/*.tif       the same inside download/ or {title}/
"""
MESOSPIM = """\
{folder}
  c1*.tif .. c5*.tif, visual*.tif            or inside images/ or volumes/
  labels/c1*.tif .. labels/visual*.tif       or inside masks/, or *label*.tif beside the images
"""
NUCMM = """\
{folder}/{title}
  Image/train/img_Z_Y_X.h5   Label/train/seg_Z_Y_X.h5
  Image/val/img_Z_Y_X.h5     Label/val/seg_Z_Y_X.h5    (test/ too, where there is one)
"""
SPHEROIDS = """\
{folder}
  images/*Cy3*.tif  images/*GFP*.tif  images/*Hoechst*.tif
  labels/  with the same names
"""
_TIFF = (".tif", ".tiff")
_STORED = (*_TIFF, ".h5", ".hdf5")
_MASK_PREFIX = re.compile(r"^(mask|label|labels|seg|img|image|gt)[_-]|^[xy](?=\d)", re.IGNORECASE)


class LayoutError(Exception):
    """The folder is not what the set is distributed as; draws what is expected."""


@dataclass(frozen=True)
class Pair:
    """An image and its labels."""

    name: str
    image: Path
    labels: Path


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes
    ----------
    scored : pairs that the figures are of
    tuned : pairs that parameters are sought on
    train : pairs to train on, by the name of the scored pair that they are for, or "" for all
    notes : lines on what differs from the paper
    """

    scored: tuple[Pair, ...]
    tuned: tuple[Pair, ...] = ()
    train: dict[str, tuple[Pair, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def expected(drawing: str, folder: Path, what: str, **words: str) -> LayoutError:
    """The error for a folder that is something else."""
    drawn = drawing.format(folder=folder, **words).rstrip()
    return LayoutError(f"{folder} does not hold {what}. Expected:\n{drawn}")


def embedseg(folder: Path, title: str, volume: str, tuned: str) -> Found:
    """One of the sets of EmbedSeg: the volume of the paper, or what is in ``test``."""
    words = {"title": title, "volume": volume, "tuned": tuned}
    pairs: dict[str, list[Pair]] = {}
    for root in (folder, folder / title):
        for part in ("test", "train", "val"):
            for where in (root / part, root / "download" / part):
                # download/ may hold the same again
                if not pairs.get(part):
                    pairs[part] = _paired(where / "images", where / "masks")
    every = list({p.name: p for part in pairs.values() for p in part}.values())
    if not every:
        raise expected(EMBEDSEG, folder, f"{title} (no images with masks)", **words)
    chosen = [pair for pair in every if pair.name == volume]
    sought = [pair for pair in every if pair.name == tuned]
    notes = []
    if not chosen:
        chosen = pairs["test"] or every
        notes.append(f"{volume}, which the paper scores, is not here: {_names(chosen)} instead")
    if not sought:
        notes.append(f"{tuned}, which the paper finds its threshold on, is not here")
    rest = tuple(pair for pair in every if pair not in chosen)
    return Found(tuple(chosen), tuple(sought), {"": rest} if rest else {}, tuple(notes))


def mesospim(folder: Path) -> Found:
    """Volumes c1 to c5 and visual; each held-out one has the others to train on."""
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for place in (folder, *(folder / name for name in ("images", "volumes", "image", "raw"))):
        for path in _files(place, _TIFF):
            known = _region(path)
            into = labels if "label" in path.stem.lower() else images
            if known and known not in into:
                into[known] = path
    for place in (folder / name for name in ("labels", "masks", "label", "gt")):
        for path in _files(place, _TIFF):
            known = _region(path)
            if known and known not in labels:
                labels[known] = path
    pairs = {key: Pair(key, images[key], labels[key]) for key in sorted({*images} & {*labels})}
    scored = tuple(pairs[key] for key in ("visual", "c5", "c3") if key in pairs)
    if not scored:
        raise expected(MESOSPIM, folder, "the mesoSPIM set (no visual, c5 or c3 with labels)")
    train = {one.name: tuple(p for p in pairs.values() if p is not one) for one in scored}
    missing = [key for key in ("visual", "c5", "c3") if key not in pairs]
    notes = (f"without {', '.join(missing)}, which the paper holds out too",) if missing else ()
    tuned = tuple(pair for key, pair in pairs.items() if key not in ("visual", "c5", "c3"))
    return Found(scored, tuned, {k: v for k, v in train.items() if v}, notes)


def nucmm(folder: Path, title: str) -> Found:
    """Chunks of one of the two volumes."""
    roots = [r for base in (folder, folder / "NucMM-Release", folder / "NucMM") for r in
             (base / title, base / title.replace(" ", ""))] + [folder]  # fmt: skip
    root = next((r for r in roots if (r / "Image").is_dir() and (r / "Label").is_dir()), None)
    parts: dict[str, list[Pair]] = {}
    if root is not None:
        for part in ("train", "val", "test"):
            parts[part] = _paired(root / "Image" / part, root / "Label" / part)
    scored = parts.get("test") or parts.get("val")
    if not scored:
        raise expected(NUCMM, folder, f"{title} (no chunks with labels)", title=title)
    notes = () if parts["test"] else (
        "labels for testing (90 % of the volume) are not distributed: these are scores of the "
        "validation chunks (5 %), the published ones are of the rest",
    )  # fmt: skip
    train = {"": tuple(parts["train"])} if parts["train"] else {}
    tuned = tuple(parts["val"]) if parts["test"] else ()
    return Found(tuple(scored), tuned, train, notes)


def spheroids(folder: Path) -> Found:
    """Volumes of one channel each, named after it."""
    pairs = [
        pair
        for pair in _paired(folder / "images", folder / "labels")
        if any(channel.lower() in pair.name.lower() for channel in CHANNELS)
    ]
    if not pairs:
        raise expected(SPHEROIDS, folder, "spheroids (no images with labels of a channel)")
    return Found(tuple(pairs), notes=("the thesis' images are not distributed",))


def _region(path: Path) -> str | None:
    found = re.search(r"(?<![a-z])(c[1-5]|visual)", path.stem.lower())
    return found[1] if found else None


def _files(folder: Path, endings: Sequence[str]) -> Iterator[Path]:
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in endings and not path.name.startswith("."):
                yield path


def _paired(images: Path, labels: Path) -> list[Pair]:
    """Files of two folders by name without what tells images from labels, else by order."""
    first, second = list(_files(images, _STORED)), list(_files(labels, _STORED))
    by_key = {_key(path): path for path in second}
    found = [Pair(path.stem, path, by_key[_key(path)]) for path in first if _key(path) in by_key]
    if len(found) < len(first) and len(first) == len(second):
        return [Pair(a.stem, a, b) for a, b in zip(first, second, strict=True)]
    return found


def _key(path: Path) -> str:
    return _MASK_PREFIX.sub("", path.stem).lower()


def _names(pairs: Sequence[Pair]) -> str:
    return ", ".join(pair.name for pair in pairs)
