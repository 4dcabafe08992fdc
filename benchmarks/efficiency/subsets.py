"""Volumes with labels, what is held out of them, and pieces of the rest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

BBBC050 = re.compile(r"Emb(\d+)_t\d+")
HELD_OUT_EMBRYOS = (9, 10, 11)


class UnusableError(Exception):
    """Input or OUT cannot be used; one line."""


@dataclass(frozen=True)
class Named:
    """An image, its labels, and what it belongs to."""

    name: str
    image: Path
    labels: Path
    group: str


@dataclass(frozen=True)
class Subset:
    """What is trained on and what is held out."""

    number: int
    train: tuple[Named, ...]
    test: tuple[Named, ...]


def find(images: Path, labels: Path) -> list[Named]:
    """Pairs of TIFF files whose names are equal, or where the labels' begins with the image's."""
    found = []
    tiffs = sorted(path for path in images.glob("*.tif*") if path.is_file())
    candidates = sorted(path for path in labels.glob("*.tif*") if path.is_file())
    for image in tiffs:
        own = [path for path in candidates if path.stem == image.stem] or [
            path for path in candidates if re.match(rf"{re.escape(image.stem)}(?!\d)", path.stem)
        ]
        if len(own) == 1:
            embryo = BBBC050.match(image.stem)
            group = f"Emb{embryo[1]}" if embryo else image.stem
            found.append(Named(image.stem, image, own[0], group))
    if len({pair.group for pair in found}) < 2:
        raise UnusableError(
            f"{images} and {labels} have {len(found)} pairs of volumes of one name; at least two "
            "are needed, such as images/a.tif and labels/a.tif, images/b.tif and labels/b.tif."
        )
    return found


def subsets_of(pairs: Sequence[Named], number: int) -> list[Subset]:
    """One volume held out after the other; embryos 09-11 of BBBC050."""
    embryos = [BBBC050.match(pair.name) for pair in pairs]
    if all(embryos):
        out = [f"Emb{n:02d}" for n in HELD_OUT_EMBRYOS]
        train_on = tuple(pair for pair in pairs if pair.group not in out)
        test_on = tuple(pair for pair in pairs if pair.group in out)
        if train_on and test_on:
            return [Subset(i, train_on, test_on) for i in range(number)]
    groups = sorted({pair.group for pair in pairs})
    made = []
    for i in range(number):
        # the last one first, as the paper holds out its last volume first
        held = groups[-1 - i % len(groups)]
        made.append(
            Subset(
                i,
                tuple(pair for pair in pairs if pair.group != held),
                tuple(pair for pair in pairs if pair.group == held),
            )
        )
    return made


def cut(pairs: Sequence[Named], least: Sequence[float], folder: Path) -> list[tuple[Path, Path]]:
    """Pieces of at least so many voxels along (z, y, x), as TIFF files."""
    made = []
    for pair in pairs:
        image, labels = tifffile.imread(pair.image), tifffile.imread(pair.labels)
        if image.shape != labels.shape or image.ndim != 3:
            raise UnusableError(f"{pair.image} is {image.shape}, but {pair.labels} {labels.shape}.")
        counts = [max(1, int(n // m)) for n, m in zip(image.shape, least, strict=True)]
        edges = [
            np.linspace(0, n, k + 1).astype(int) for n, k in zip(image.shape, counts, strict=True)
        ]
        for index in np.ndindex(*counts):
            where = tuple(slice(e[i], e[i + 1]) for e, i in zip(edges, index, strict=True))
            name = f"{pair.name}_{'_'.join(map(str, index))}.tif"
            paths = []
            for kind, array in (("images", image), ("labels", labels)):
                path = folder / kind / name
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    partial = path.with_suffix(".partial")
                    tifffile.imwrite(partial, np.ascontiguousarray(array[where]))
                    partial.rename(path)
                paths.append(path)
            made.append((paths[0], paths[1]))
    return made


def drawn(pieces: Sequence[Any], percent: float, seed: tuple[int, ...]) -> list[Any]:
    """A share of the pieces, at least one; those of a smaller share are among them."""
    order = np.random.default_rng(seed).permutation(len(pieces))
    n = max(1, round(len(pieces) * percent / 100))
    return [pieces[i] for i in sorted(order[:n])]
