"""ClickHouse's own compression, which clients ask for with `compress=1` and announce with `decompress=1`.

A stream is blocks, one after the other; there is no end mark.  A block is, numbers little-endian:

    16 octets  CityHash128 (version 1.0.2) of all that follows
     1 octet   how it is compressed: `LZ4`, `ZSTD` or `PLAIN`
     4 octets  length from the octet before on, so 9 more than the compressed data
     4 octets  length of the data
               the data, compressed

Everything here blocks.  Source: ClickHouse, `src/Compression/CompressedWriteBuffer.cpp` and `CompressionInfo.h`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator

from collector.http import Octets, in_pieces
from collector.store.encodings import WINDOW_LOG
from collector.store.guard import RefusedError

PLAIN, LZ4, ZSTD = 0x02, 0x82, 0x90

METHODS = {"LZ4": LZ4, "LZ4HC": LZ4, "ZSTD": ZSTD, "NONE": PLAIN}
"""Values of `network_compression_method` that are served.  What unpacks LZ4 unpacks LZ4HC."""
DEFAULT_METHOD = "LZ4"
"""The drivers for Java read no other, and name none."""

BLOCK_OCTETS = 2**20
"""Of the data in one block: ClickHouse's own `max_compress_block_size`."""

_HASH = struct.Struct("<QQ")
_HEAD = struct.Struct("<BII")


def compress_blocks(parts: Iterable[Octets], method: str) -> list[bytes]:
    """Buffers, one after the other, as a stream of blocks.  Raises RefusedError for a method that is not served."""
    name = method.upper()
    if name not in METHODS:
        raise RefusedError(
            f"network_compression_method {method[:40]!r} is not offered: {', '.join(METHODS)}", 432, "UNKNOWN_CODEC"
        )
    pack = _packer(METHODS[name])
    blocks = []
    for data in _gathered(parts):
        packed = pack(data)
        block = _HEAD.pack(METHODS[name], _HEAD.size + len(packed), len(data)) + packed
        blocks.append(_checksum(block) + block)
    return blocks


def readable_block(text: bytes) -> bytes:
    """A text as one block of LZ4 that is all literals: some drivers (JDBC V2) look for a message without unpacking."""
    length = len(text)
    more = length - 15
    lengths = b"\xff" * (more // 255) + bytes([more % 255]) if more >= 0 else b""
    packed = bytes([min(length, 15) << 4]) + lengths + text
    block = _HEAD.pack(LZ4, _HEAD.size + len(packed), length) + packed
    return _checksum(block) + block


def decompress_blocks(body: bytes, limit: int) -> bytes:
    """The data of a stream of blocks.

    Raises RefusedError if it is broken, not all there, or longer than `limit`; no more is unpacked.
    """
    data, at = bytearray(), 0
    while at < len(body):
        begin = at + _HASH.size
        if len(body) < begin + _HEAD.size:
            raise _broken("it ends within the head of a block")
        kind, packed_length, length = _HEAD.unpack_from(body, begin)
        end = begin + packed_length
        if packed_length < _HEAD.size or end > len(body):
            raise _broken("it ends within a block")
        if body[at:begin] != _checksum(body[begin:end]):
            raise _broken("the checksum of a block is wrong")
        if len(data) + length > limit:
            raise RefusedError(f"The request is longer than {limit} octets", 307, "TOO_MANY_BYTES")
        data += _unpack(kind, body[begin + _HEAD.size : end], length)
        at = end
    return bytes(data)


def _gathered(parts: Iterable[Octets]) -> Iterator[bytes]:
    """The octets of buffers, in order, BLOCK_OCTETS at a time."""
    gathered = bytearray()
    for piece in in_pieces(parts):
        gathered += piece
        while len(gathered) >= BLOCK_OCTETS:
            yield bytes(gathered[:BLOCK_OCTETS])
            del gathered[:BLOCK_OCTETS]
    if gathered:
        yield bytes(gathered)


def _packer(kind: int) -> Callable[[bytes], bytes]:
    if kind == LZ4:
        import lz4.block  # noqa: PLC0415 - comes with clickhouse-connect

        return lambda data: bytes(lz4.block.compress(data, store_size=False))
    if kind == ZSTD:
        from backports import zstd  # noqa: PLC0415 - comes with clickhouse-connect

        return lambda data: zstd.compress(data, 1)
    return bytes


def _unpack(kind: int, packed: bytes, length: int) -> bytes:
    """The data of one block, of which the head says how long it is."""
    try:
        if kind == LZ4:
            import lz4.block  # noqa: PLC0415

            data = bytes(lz4.block.decompress(packed, uncompressed_size=length))
        elif kind == ZSTD:
            from backports import zstd  # noqa: PLC0415

            unpacker = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})
            data = unpacker.decompress(packed, length + 1)
            if not unpacker.eof or unpacker.unused_data:
                raise _broken("a block is not one whole frame of zstd")
        elif kind == PLAIN:
            data = packed
        else:
            raise RefusedError(f"A block is compressed by method {kind:#04x}: not known", 432, "UNKNOWN_CODEC")
    except RefusedError:
        raise
    except Exception as error:
        raise _broken("a block cannot be unpacked") from error
    if len(data) != length:
        raise _broken("a block is not as long as its head says")
    return data


def _checksum(block: bytes) -> bytes:
    from clickhouse_cityhash.cityhash import CityHash128  # noqa: PLC0415 - an extra: only the embedded store needs it

    both: int = CityHash128(block)
    return _HASH.pack(both >> 64, both & 0xFFFF_FFFF_FFFF_FFFF)


def _broken(why: str) -> RefusedError:
    return RefusedError(f"The body is not ClickHouse's block compression: {why}", 271, "CANNOT_DECOMPRESS")
