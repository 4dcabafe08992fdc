"""What blocks wrote for the merge, read in parts: their fragments and their contacts."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.records import read_record, record_path
from cellseg3d_dist.grid import Block

#: Blocks of a part.
PART_BLOCKS = 256
#: Files are read at a time, as those of a shared disk come late.
_THREADS = 4

Part = TypeVar("Part")


@dataclass(frozen=True)
class Objects:
    """Fragments of some blocks, by ascending number.

    Attributes
    ----------
    numbers, counts : ndarray, int64, (n_blocks,)
        Each block's number, and how many fragments it has.
    names : ndarray, uint64, (n,)
    sizes : ndarray of integers, (n,)
    """

    numbers: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    names: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Touching:
    """Pairs of fragments of some blocks and of others.

    Attributes
    ----------
    blocks, neighbours : ndarray, int64, (n,)
        Numbers of the blocks of each pair.
    pairs : ndarray, uint32, (n, 2)
        Labels in ``blocks`` and in ``neighbours``.
    """

    blocks: npt.NDArray[np.int64]
    neighbours: npt.NDArray[np.int64]
    pairs: npt.NDArray[np.uint32]


def objects_in_parts(fragments: Fragments, blocks: Iterable[Block]) -> Iterator[Objects]:
    """Names and sizes of the blocks' fragments; blocks are by ascending number."""

    def read(part: list[Block]) -> Objects:
        found = [fragments.objects(block) for block in part]
        there = [(b.number, f) for b, f in zip(part, found, strict=True) if f is not None]
        return Objects(
            np.array([number for number, _ in there], np.int64),
            np.array([f["names"].size for _, f in there], np.int64),
            np.concatenate([np.empty(0, np.uint64), *(f["names"] for _, f in there)]),
            np.concatenate([np.empty(0, np.int64), *(f["sizes"] for _, f in there)]),
        )

    return _read_ahead(read, blocks)


def contacts_in_parts(folder: Path, blocks: Iterable[Block]) -> Iterator[Touching]:
    """Contacts that the blocks wrote into ``folder``."""

    def read(part: list[Block]) -> Touching:
        found = [read_record(record_path(folder, block)) for block in part]
        counts = [len(f["pairs"]) for f in found]
        return Touching(
            np.repeat([block.number for block in part], counts),
            np.concatenate([np.empty(0, np.int64), *(f["neighbour"] for f in found)]),
            np.concatenate([np.empty((0, 2), np.uint32), *(f["pairs"] for f in found)]),
        )

    return _read_ahead(read, blocks)


def _read_ahead(read: Callable[[list[Block]], Part], blocks: Iterable[Block]) -> Iterator[Part]:
    """Parts in order, a few of them read ahead by threads."""
    rest, waiting = iter(blocks), deque[Future[Part]]()
    with ThreadPoolExecutor(_THREADS) as threads:
        try:
            while part := list(itertools.islice(rest, PART_BLOCKS)):
                waiting.append(threads.submit(read, part))
                if len(waiting) > 2 * _THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
