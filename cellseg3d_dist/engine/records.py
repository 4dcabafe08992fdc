"""Small arrays of one block on disk: names, faces, partial tables, histograms.

A record is one file, written under a temporary name and renamed, so it is there whole or
not at all; a checksum over its bytes finds damage.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs.blosc import compress, decompress

from cellseg3d_dist.errors import EnvironmentFailedError
from cellseg3d_dist.grid import Block

_MAGIC = b"c3dr"


def digest(*arrays: npt.NDArray[Any]) -> str:
    """Checksum (crc32c) of the bytes, shapes and types of arrays, as 8 hex digits."""
    crc = 0
    for array in arrays:
        head = f"{array.dtype.str}{array.shape}".encode()
        crc = google_crc32c.extend(crc, head)
        crc = google_crc32c.extend(crc, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return f"{crc:08x}"


def record_path(folder: Path, block: Block) -> Path:
    """File of a block in a folder of records; folders of one z index each stay small."""
    z, y, x = block.index
    return folder / str(z) / f"{y}.{x}.rec"


def write_record(path: Path, **arrays: npt.NDArray[Any]) -> str:
    """Write arrays as one file, whole or not at all, and return its digest."""
    parts: list[bytes] = []
    for name, array in arrays.items():
        data = np.ascontiguousarray(array)
        head = f"{name}|{data.dtype.str}|{','.join(map(str, data.shape))}".encode()
        # labels are runs of equal words, which shuffling the bytes only tears apart
        shuffle = 0 if data.ndim == 3 else 1
        packed = compress(data, b"lz4", 1, shuffle) if data.nbytes else b""
        parts += [struct.pack("<II", len(head), len(packed)) + head, packed]
    payload = b"".join(parts)
    crc = google_crc32c.value(payload)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with _created(partial) as file:
        file.write(_MAGIC + struct.pack("<I", crc))
        file.write(payload)
    partial.replace(path)
    return f"{crc:08x}"


def _created(path: Path) -> BinaryIO:
    """A new file; its folder is made only where it turns out to be missing."""
    try:
        return path.open("wb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")


def read_record(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of a record.

    Raises
    ------
    EnvironmentFailedError
        If the file is missing or its bytes do not match its checksum.
    """
    payload = _payload(path)
    arrays: dict[str, npt.NDArray[Any]] = {}
    at = 0
    while at < len(payload):
        n_head, n_packed = struct.unpack_from("<II", payload, at)
        at += 8
        name, dtype, shape_text = payload[at : at + n_head].decode().split("|")
        at += n_head
        shape = tuple(int(n) for n in shape_text.split(",") if n)
        raw = decompress(memoryview(payload)[at : at + n_packed]) if n_packed else b""
        at += n_packed
        arrays[name] = np.frombuffer(raw, dtype).reshape(shape)
    return arrays


def record_digest(path: Path) -> str | None:
    """Digest of a record on disk, None where it is missing or damaged."""
    try:
        return f"{google_crc32c.value(_payload(path)):08x}"
    except EnvironmentFailedError:
        return None


def _payload(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise EnvironmentFailedError(
            f"{path} is missing from the run folder. Resume the run to make it again."
        ) from error
    intact = len(data) >= 8 and data[:4] == _MAGIC
    if not intact or struct.unpack_from("<I", data, 4)[0] != google_crc32c.value(data[8:]):
        raise EnvironmentFailedError(
            f"{path} is damaged (its checksum differs). Resume the run to make it again."
        )
    return data[8:]
