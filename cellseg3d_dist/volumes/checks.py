"""Array metadata, checked before anything is opened: one small checker per rule."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cellseg3d_dist.errors import VolumeError
from cellseg3d_dist.volumes.storage import JSONObject, is_url, join, naming_errors, read_json

MAX_VOXELS = 2**47
"""Most voxels of one array; a whole mouse brain at 0.5 um has about 2^42."""
MAX_CHUNK_BYTES = 2**31
"""Most bytes of one decoded chunk."""

_V3_TYPES = {
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
}
_V3_CODECS = {"bytes", "endian", "blosc", "gzip", "zstd", "crc32c", "transpose", "sharding_indexed"}
# these build Python objects from the bytes of a chunk
_OBJECT_CODECS = {"pickle", "json2", "msgpack2", "vlen-utf8", "vlen-bytes", "vlen-array"}


@dataclass(frozen=True)
class ArrayInfo:
    """What the metadata of one stored array says.

    Attributes
    ----------
    shape, chunk_shape
        Along all stored axes; the chunk is the unit of reading, within a shard if any.
    dtype
        Stored type, with its byte order.
    dimension_names
        From Zarr 3, or None.
    """

    location: str
    zarr_format: int
    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    dimension_names: tuple[str | None, ...] | None


def array_info(location: str) -> ArrayInfo | None:
    """Checked metadata of the array at a location, or None where there is no array.

    Raises
    ------
    VolumeError
        If the metadata is damaged, or says something that is refused.
    """
    meta = read_json(location, "zarr.json")
    if meta is not None:
        if meta.get("node_type") == "group":
            return None
        return _info_v3(location, meta)
    meta = read_json(location, ".zarray")
    return None if meta is None else _info_v2(location, meta)


def _info_v3(location: str, meta: JSONObject) -> ArrayInfo:
    if meta.get("zarr_format") != 3 or meta.get("node_type") != "array":
        raise VolumeError(
            f"{location}/zarr.json is of an unknown format (zarr_format "
            f"{meta.get('zarr_format')!r}, node_type {meta.get('node_type')!r})."
        )
    data_type = meta.get("data_type")
    if not isinstance(data_type, str) or data_type not in _V3_TYPES:
        raise _refused_type(location, data_type)
    shape = _integers(location, "shape", meta.get("shape"), least=0)
    grid = meta.get("chunk_grid")
    if not isinstance(grid, dict) or grid.get("name") != "regular":
        raise VolumeError(f"{location} has a chunk_grid that is not 'regular'.")
    chunk = _integers(location, "chunk_shape", _configuration(grid).get("chunk_shape"), least=1)
    dtype = np.dtype(data_type)
    for codec in _codecs_v3(location, meta.get("codecs")):
        if codec["name"] == "sharding_indexed":
            inner = _configuration(codec).get("chunk_shape")
            chunk = _integers(location, "chunk_shape of the shard", inner, least=1)
        if codec["name"] in ("bytes", "endian") and _configuration(codec).get("endian") == "big":
            dtype = dtype.newbyteorder(">")
    names = meta.get("dimension_names")
    if names is not None and (not isinstance(names, list) or len(names) != len(shape)):
        raise VolumeError(f"{location} has dimension_names {names!r} for {len(shape)} dimensions.")
    _check_sizes(location, shape, chunk, dtype)
    return ArrayInfo(location, 3, shape, chunk, dtype, None if names is None else tuple(names))


def _info_v2(location: str, meta: JSONObject) -> ArrayInfo:
    if meta.get("zarr_format") != 2:
        raise VolumeError(
            f"{location}/.zarray is of an unknown zarr_format {meta.get('zarr_format')!r}."
        )
    try:
        dtype = np.dtype(meta.get("dtype") if isinstance(meta.get("dtype"), str) else "O")
    except (TypeError, ValueError) as error:
        raise _refused_type(location, meta.get("dtype")) from error
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise _refused_type(location, meta.get("dtype"))
    shape = _integers(location, "shape", meta.get("shape"), least=0)
    chunk = _integers(location, "chunks", meta.get("chunks"), least=1)
    for codec in [meta.get("compressor"), *(meta.get("filters") or [])]:
        if codec is not None:
            name = codec.get("id") if isinstance(codec, dict) else codec
            _check_numcodec(location, name)
    _check_sizes(location, shape, chunk, dtype)
    return ArrayInfo(location, 2, shape, chunk, dtype, None)


def _configuration(extension: JSONObject) -> JSONObject:
    value = extension.get("configuration")
    return value if isinstance(value, dict) else {}


def _codecs_v3(location: str, codecs: object) -> Iterator[JSONObject]:
    """All codecs of a pipeline, those inside a shard after the sharding codec."""
    if not isinstance(codecs, list) or not codecs:
        raise VolumeError(f"{location} has no list of codecs in its zarr.json.")
    for item in codecs:
        codec = {"name": item} if isinstance(item, str) else item
        name = codec.get("name") if isinstance(codec, dict) else None
        if not isinstance(codec, dict) or not isinstance(name, str):
            raise VolumeError(f"{location} has a codec without a name: {str(item)[:80]}.")
        if name.startswith("numcodecs."):
            _check_numcodec(location, name.removeprefix("numcodecs."))
        elif name not in _V3_CODECS:
            _check_registered(location, name)
        yield codec
        if name == "sharding_indexed":
            yield from _codecs_v3(location, _configuration(codec).get("codecs"))


def _check_registered(location: str, name: str) -> None:
    from zarr.registry import get_codec_class

    if name in _OBJECT_CODECS:
        raise _refused_codec(location, name)
    try:
        get_codec_class(name)
    except (LookupError, ValueError) as error:
        raise _unknown_codec(location, name) from error


def _check_numcodec(location: str, name: object) -> None:
    import numcodecs.registry

    if name in _OBJECT_CODECS:
        raise _refused_codec(location, name)
    known = {*numcodecs.registry.codec_registry, *numcodecs.registry.entries}
    if name not in known:
        raise _unknown_codec(location, name)


def _refused_codec(location: str, name: object) -> VolumeError:
    return VolumeError(f"{location} uses the codec {name!r}, refused: it builds Python objects.")


def _unknown_codec(location: str, name: object) -> VolumeError:
    return VolumeError(
        f"{location} uses the unknown codec {str(name)[:80]!r}. Install the package that "
        "provides it, or store the array with blosc, zstd or gzip."
    )


def _refused_type(location: str, data_type: object) -> VolumeError:
    return VolumeError(
        f"{location} has the data type {str(data_type)[:80]!r}. Only bool, integers and floats "
        "of up to 64 bits can be read."
    )


def _integers(location: str, key: str, value: object, least: int) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise VolumeError(f"{location} has no list {key!r} in its metadata: {str(value)[:80]}.")
    for item in value:
        if not isinstance(item, int) or isinstance(item, bool) or item < least:
            raise VolumeError(
                f"{location} has {key} {str(value)[:80]}; each must be an integer of at "
                f"least {least}."
            )
    return tuple(value)


def _check_sizes(
    location: str, shape: tuple[int, ...], chunk: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    if len(shape) != len(chunk):
        raise VolumeError(f"{location} has shape {shape} but chunks {chunk}.")
    if prod(shape) > MAX_VOXELS:
        raise VolumeError(
            f"{location} has the impossible shape {shape}: {prod(shape):.3g} voxels, over the "
            f"limit of {MAX_VOXELS:.3g}. The metadata is damaged."
        )
    n_bytes = prod(chunk) * dtype.itemsize
    if n_bytes > MAX_CHUNK_BYTES:
        raise VolumeError(
            f"{location} has chunks of {chunk} {dtype}: {n_bytes / 2**30:.3g} GiB each, over the "
            f"limit of {MAX_CHUNK_BYTES / 2**30:.3g} GiB. Store it in smaller chunks."
        )


def check_separator(info: ArrayInfo) -> None:
    """Refuse an array whose chunk files are named with another separator than it says.

    Such an array would read as all zeros. Only local folders are looked into.
    """
    if is_url(info.location) or len(info.shape) < 2:
        return
    if info.zarr_format == 2:
        meta = read_json(info.location, ".zarray") or {}
        separator = meta.get("dimension_separator", ".")
    else:
        meta = read_json(info.location, "zarr.json") or {}
        encoding = meta.get("chunk_key_encoding")
        if not isinstance(encoding, dict) or encoding.get("name") != "default":
            return
        separator = _configuration(encoding).get("separator", "/")
    found = _separators(info.location)
    if found and separator not in found:
        name = ".zarray" if info.zarr_format == 2 else "zarr.json"
        raise VolumeError(
            f"{join(info.location, name)} says that chunks are named with {separator!r}, but they "
            f"are named with {found.pop()!r}: it would read as zeros. Correct the separator."
        )


def _separators(folder: str) -> set[str]:
    """Separators in the names of the first chunk files or folders, ``0.0.0`` or ``c/0/0/0``."""
    found = set()
    with naming_errors(f"{folder} cannot be listed"), os.scandir(folder) as entries:
        for entry in itertools.islice(entries, 100):
            if re.fullmatch(r"(c\.)?\d+(\.\d+)+", entry.name):
                found.add(".")
            elif re.fullmatch(r"c|\d+", entry.name) and entry.is_dir():
                found.add("/")
    return found
