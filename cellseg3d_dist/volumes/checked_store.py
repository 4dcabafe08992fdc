"""A store to read from that hands no truncated chunk to a codec.

Blosc believes the lengths in its header: given half a chunk it reads whatever lies behind it
in memory and returns that as voxels, another time something else.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import zarr
from zarr.abc.store import RangeByteRequest, Store
from zarr.storage import WrapperStore

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

_BLOSC_HEADER = 16


class CheckedStore(WrapperStore[Store]):
    """Another store, to read from; bytes that are fewer than they should be are refused.

    Attributes
    ----------
    is_blosc : bool
        Whether whole chunks are Blosc frames.
    """

    is_blosc = False

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Bytes of a key, None where there is none.

        Raises
        ------
        ValueError
            If they are fewer than was asked for, or than the Blosc header says.
        """
        value: Buffer | None = await self._store.get(key, prototype, byte_range)
        if value is None:
            return None
        least = 0
        if isinstance(byte_range, RangeByteRequest):
            least = byte_range.end - byte_range.start
        elif byte_range is None and self.is_blosc and key[-1:].isdigit():
            least = _blosc_length(value[:_BLOSC_HEADER].to_bytes())
        if len(value) < least:
            raise ValueError(f"chunk {key} has {len(value)} of {least} bytes; it is truncated")
        return value


def _blosc_length(header: bytes) -> int:
    """Bytes of a Blosc frame: a little-endian word at 12, in c-blosc's header format."""
    if len(header) < _BLOSC_HEADER:
        return _BLOSC_HEADER
    return int(struct.unpack_from("<I", header, 12)[0])


def opened_checked(store: Store) -> zarr.Array:
    """The array at the root of a store, to read from, behind a :class:`CheckedStore`."""
    array = zarr.open_array(store=CheckedStore(store), mode="r")
    names = [type(codec).__name__.lower() for codec in array.compressors]
    compressing = [name for name in names if "crc32c" not in name]
    # a shard is no frame itself; its chunks are asked for by range
    array.store.is_blosc = array.shards is None and compressing[-1:] in (["blosc"], ["blosccodec"])
    return array
