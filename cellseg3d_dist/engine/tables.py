"""Tables of a whole run: plain arrays that the driver writes and workers map into memory."""

from __future__ import annotations

import functools
from pathlib import Path
from types import TracebackType
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

#: Bytes of a file before its array; room for the length of any.
_HEAD_BYTES = 128


def save_table(folder: Path, name: str, array: npt.NDArray[Any]) -> None:
    """Write ``folder/name.npy``, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{name}.partial.npy"
    np.save(partial, array)
    partial.replace(folder / f"{name}.npy")


class TableWriter:
    """Writes ``folder/name.npy``, of one axis, part by part, whole or not at all.

    Attributes
    ----------
    n : int
        Elements so far.
    """

    def __init__(self, folder: Path, name: str, dtype: npt.DTypeLike) -> None:
        self._path = folder / f"{name}.npy"
        self._dtype = np.dtype(dtype)
        self._crc = 0
        self.n = 0

    def __enter__(self) -> TableWriter:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.with_suffix(".partial.npy").open("wb")
        self._file.write(self._head())
        return self

    def append(self, part: npt.NDArray[Any]) -> None:
        """Write the next elements."""
        data = np.ascontiguousarray(part, self._dtype)
        self._file.write(data.view(np.uint8).data)
        self._crc = google_crc32c.extend(self._crc, data.view(np.uint8))
        self.n += data.size

    @property
    def digest(self) -> str:
        """Checksum (crc32c) of the elements, their type and number, as 8 hex digits."""
        return f"{google_crc32c.extend(self._crc, f'{self._dtype.str}{self.n}'.encode()):08x}"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._file.seek(0)
            self._file.write(self._head())
        self._file.close()
        if kind is None:
            self._path.with_suffix(".partial.npy").replace(self._path)

    def _head(self) -> bytes:
        says = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.n,)}
        start = b"\x93NUMPY\x01\x00" + (_HEAD_BYTES - 10).to_bytes(2, "little")
        return start + repr(says).encode().ljust(_HEAD_BYTES - 11) + b"\n"


def table(folder: Path, name: str) -> npt.NDArray[Any]:
    """A table as it is now, read-only and mapped into memory."""
    path = folder / f"{name}.npy"
    return _mapped(str(path), path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _mapped(path: str, changed: int) -> npt.NDArray[Any]:
    mapped: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    return mapped
