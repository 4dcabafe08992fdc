"""Tables of a whole run: plain arrays that the driver writes and workers map into memory."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def save_table(folder: Path, name: str, array: npt.NDArray[Any]) -> None:
    """Write ``folder/name.npy``, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{name}.partial.npy"
    np.save(partial, array)
    partial.replace(folder / f"{name}.npy")


def table(folder: Path, name: str) -> npt.NDArray[Any]:
    """A table as it is now, read-only and mapped into memory."""
    path = folder / f"{name}.npy"
    return _mapped(str(path), path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _mapped(path: str, changed: int) -> npt.NDArray[Any]:
    mapped: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    return mapped
