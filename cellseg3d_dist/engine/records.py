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
#: Bytes compressed at a time; Blosc takes less than 2 GiB.
_FRAME_BYTES = 1 << 30


def digest(*arrays: npt.NDArray[Any]) -> str:
    """Checksum (crc32c) of the bytes, shapes and types of arrays, as 8 hex digits."""
    crc = 0
    for array in arrays:
        head = f"{array.dtype.str}{array.shape}".encode()
        crc = google_crc32c.extend(crc, head)
        crc = google_crc32c.extend(crc, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return f"{crc:08x}"


def file_digest(path: Path) -> str | None:
    """Checksum (crc32c) of a file's bytes, None where there is no such file."""
    crc = 0
    try:
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                crc = google_crc32c.extend(crc, part)
    except FileNotFoundError:
        return None
    return f"{crc:08x}"


def record_path(folder: Path, block: Block) -> Path:
    """File of a block in a folder of records; folders of one z index each stay small."""
    z, y, x = block.index
    return folder / str(z) / f"{y}.{x}.rec"


def write_record(path: Path, **arrays: npt.NDArray[Any]) -> str:
    """Write arrays as one file, whole or not at all, and return its digest."""
    data = packed(**arrays)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with _created(partial) as file:
        file.write(data)
    partial.replace(path)
    return f"{struct.unpack_from('<I', data, 4)[0]:08x}"


def packed(**arrays: npt.NDArray[Any]) -> bytes:
    """The bytes of a record."""
    parts: list[bytes] = []
    for name, array in arrays.items():
        data = np.asarray(array, order="C")
        frames = _frames(data)
        shape, sizes = (",".join(map(str, numbers)) for numbers in (data.shape, map(len, frames)))
        # the type comes last, as that of bytes holds the separator
        head = f"{name}|{shape}|{sizes}|{data.dtype.str}".encode()
        parts += [struct.pack("<I", len(head)), head, *frames]
    payload = b"".join(parts)
    return b"".join((_MAGIC, struct.pack("<I", google_crc32c.value(payload)), payload))


def _frames(data: npt.NDArray[Any]) -> list[bytes]:
    """An array compressed, in parts where it is very large."""
    flat = data.reshape(-1)
    step = max(1, _FRAME_BYTES // data.itemsize)
    # labels are runs of equal words, which shuffling the bytes only tears apart
    shuffle = 0 if data.ndim == 3 else 1
    return [compress(flat[i : i + step], b"lz4", 1, shuffle) for i in range(0, flat.size, step)]


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
    payload = memoryview(_payload(path))
    arrays: dict[str, npt.NDArray[Any]] = {}
    at = 0
    while at < len(payload):
        (n_head,) = struct.unpack_from("<I", payload, at)
        at += 4 + n_head
        name, shape, sizes, dtype = bytes(payload[at - n_head : at]).decode().split("|", 3)
        frames = []
        for size in map(int, filter(None, sizes.split(","))):
            frames.append(np.frombuffer(decompress(payload[at : at + size]), dtype))
            at += size
        flat = frames[0] if len(frames) == 1 else np.concatenate([np.empty(0, dtype), *frames])
        arrays[name] = flat.reshape([int(n) for n in shape.split(",") if n])
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
