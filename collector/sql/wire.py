"""Bodies of the SQL endpoint in the form of ClickHouse's clients: compression, and the Native format's revision.

- HTTP's content encodings: `compress`, `decompress`.  - ClickHouse's own compression, which clients request with
`compress=1` and announce with `decompress=1`:
  `compress_blocks`, `decompress_blocks`.
- Native results as newer clients request them (`client_protocol_version`), from those of the engine:
  `raise_revision`.

All calls block.
"""

from __future__ import annotations

import re
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from collector.http.server import Octets, in_pieces
from collector.sql.guard import QueryRefusedError


class Compressor(Protocol):
    """A compressor like zlib's."""

    def compress(self, data: Octets, /) -> bytes:
        """Return the output for the next part."""

    def flush(self) -> bytes:
        """Return the rest."""


class _Lz4:
    def __init__(self) -> None:
        import lz4.frame  # noqa: PLC0415 - only where a client takes it

        self._frame = lz4.frame.LZ4FrameCompressor()
        self._begin: bytes = self._frame.begin()

    def compress(self, data: Octets, /) -> bytes:
        begin, self._begin = self._begin, b""
        return begin + bytes(self._frame.compress(data))

    def flush(self) -> bytes:
        return self._begin + bytes(self._frame.flush())


def _zstd() -> Compressor:
    compressor: Compressor = _zstd_library().ZstdCompressor(1)
    return compressor


def _zstd_library() -> Any:
    """Return Python's own module from 3.14 on, before that the same from PyPI."""
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415 - only where a client takes it
    else:
        from backports import zstd  # noqa: PLC0415
    return zstd


COMPRESSORS: dict[str, Callable[[], Compressor]] = {
    "zstd": _zstd,
    "lz4": _Lz4,
    "gzip": lambda: zlib.compressobj(1, wbits=31),
    "deflate": lambda: zlib.compressobj(1),
}
"""Encodings that the endpoint sends, the cheapest for the collector first."""


def compress(parts: Sequence[Octets], encoding: str) -> list[bytes]:
    """Compress buffers, one after the other, in an encoding of `COMPRESSORS`.

    They are compressed piece by piece: a library lets other threads run while it compresses, but not while it joins its
    output, and 100 MB of that would hold up the event loop.
    """
    compressor = COMPRESSORS[encoding]()
    packed = [compressor.compress(piece) for piece in in_pieces(parts)]
    return [part for part in (*packed, compressor.flush()) if part]


WINDOW_LOG = 23
"""Log2 of the zstd window when unpacking a body: RFC 8878 recommends that all decoders support it."""


def _unpacker(encoding: str) -> Any:
    """Return the decompressor of an encoding: `decompress(body, limit)`; `eof` and `unused_data` show how it ended."""
    if encoding in ("gzip", "deflate"):
        return zlib.decompressobj(47)  # 32 + 15: either header
    if encoding == "lz4":
        import lz4.frame  # noqa: PLC0415

        return lz4.frame.LZ4FrameDecompressor()
    if encoding == "zstd":
        zstd = _zstd_library()
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})
    raise QueryRefusedError(f"Unknown Content-Encoding {encoding[:40]!r}", 48, "NOT_IMPLEMENTED")


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Return a request's body decompressed once.

    Raises QueryRefusedError if it is broken, incomplete, followed by more, or longer than `limit`; no more is unpacked.
    """
    unpacker = _unpacker(encoding.lower())
    try:
        data: bytes = unpacker.decompress(body, limit + 1)
    except Exception as error:
        raise QueryRefusedError(f"The body is not {encoding}", 271, "CANNOT_DECOMPRESS") from error
    if len(data) > limit:
        raise QueryRefusedError(f"The request is longer than {limit} octets", 307, "TOO_MANY_BYTES")
    if not unpacker.eof or unpacker.unused_data:
        # A query without its end may be another query.
        raise QueryRefusedError(f"The body is not one whole stream of {encoding}", 271, "CANNOT_DECOMPRESS")
    return data


PLAIN, LZ4, ZSTD = 0x02, 0x82, 0x90

METHODS = {"LZ4": LZ4, "LZ4HC": LZ4, "ZSTD": ZSTD, "NONE": PLAIN}
"""Values of `network_compression_method` that are served.  A decoder of LZ4 also decodes LZ4HC."""
DEFAULT_METHOD = "LZ4"
"""The default: drivers for Java read no other, and name none."""

BLOCK_BYTES = 2**20
"""Octets of data in one block: ClickHouse's own `max_compress_block_size`."""

_HASH = struct.Struct("<QQ")
_HEAD = struct.Struct("<BII")


def compress_blocks(parts: Iterable[Octets], method: str) -> list[bytes]:
    """Write buffers, one after the other, as a stream of blocks.  Raises QueryRefusedError for a method that is not
    served.

    There is no end mark.  A block is, numbers little-endian:

        16 octets  CityHash128 (version 1.0.2) of all that follows
         1 octet   how it is compressed: `LZ4`, `ZSTD` or `PLAIN`
         4 octets  length from the octet before on, so 9 more than the compressed data
         4 octets  length of the data
                   the data, compressed

    Source: ClickHouse, `src/Compression/CompressedWriteBuffer.cpp` and `CompressionInfo.h`.
    """
    name = method.upper()
    if name not in METHODS:
        raise QueryRefusedError(
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
    """Return a text as one block of LZ4 with only literals: some drivers (JDBC V2) look for a message without
    unpacking."""
    length = len(text)
    more = length - 15
    lengths = b"\xff" * (more // 255) + bytes([more % 255]) if more >= 0 else b""
    packed = bytes([min(length, 15) << 4]) + lengths + text
    block = _HEAD.pack(LZ4, _HEAD.size + len(packed), length) + packed
    return _checksum(block) + block


def decompress_blocks(body: bytes, limit: int) -> bytes:
    """Return the data of a stream of blocks.

    Raises QueryRefusedError if it is broken, incomplete, or longer than `limit`; no more is unpacked.
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
            raise QueryRefusedError(f"The request is longer than {limit} octets", 307, "TOO_MANY_BYTES")
        data += _unpack(kind, body[begin + _HEAD.size : end], length)
        at = end
    return bytes(data)


def _gathered(parts: Iterable[Octets]) -> Iterator[bytes]:
    """Yield the octets of buffers, in order, BLOCK_BYTES at a time."""
    gathered = bytearray()
    for piece in in_pieces(parts):
        gathered += piece
        while len(gathered) >= BLOCK_BYTES:
            yield bytes(gathered[:BLOCK_BYTES])
            del gathered[:BLOCK_BYTES]
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
    """Return the data of one block, whose length is in its head."""
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
            raise QueryRefusedError(f"A block is compressed by method {kind:#04x}: not known", 432, "UNKNOWN_CODEC")
    except QueryRefusedError:
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


def _broken(why: str) -> QueryRefusedError:
    return QueryRefusedError(f"The body is not ClickHouse's block compression: {why}", 271, "CANNOT_DECOMPRESS")


CUSTOM_SERIALIZATION = 54454
"""First revision that is served.  Clients that request a lower one also understand revision 0."""

# Field 1: is_overflows, 0.  Field 2: bucket number, −1.  Field 0: the end.
_BLOCK_INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"

_WIDTHS = {
    "Bool": 1, "Int8": 1, "UInt8": 1, "Enum8": 1, "Nothing": 1,
    "Int16": 2, "UInt16": 2, "Enum16": 2, "Date": 2, "BFloat16": 2,
    "Int32": 4, "UInt32": 4, "Float32": 4, "DateTime": 4, "Date32": 4, "IPv4": 4, "Decimal32": 4, "Time": 4,
    "Int64": 8, "UInt64": 8, "Float64": 8, "DateTime64": 8, "Decimal64": 8, "Time64": 8,
    "Int128": 16, "UInt128": 16, "UUID": 16, "IPv6": 16, "Decimal128": 16,
    "Int256": 32, "UInt256": 32, "Decimal256": 32,
}  # fmt: skip
_TYPE = re.compile(r"(\w+)(?:\((.*)\))?\Z", re.DOTALL)
_FIELD_NAME = re.compile(r"(?:`[^`]*`|\w+) (?=\w)")


def raise_revision(body: Octets, revision: int) -> Sequence[Octets]:
    """Convert `body`, blocks of the Native format at revision 0, to `revision`: in parts, most of them in `body`'s own
    memory.

    clickhouse-go, and so Grafana, reads the Native format of a server's TCP protocol also over HTTP.  It differs by a
    header before each block (from revision 51903) and by an octet after each column's type (from 54454).  chDB only
    writes revision 0, so the columns' lengths must be walked to know where the next one begins.  Raises
    QueryRefusedError for a column type whose layout is not known here.

    Source: ClickHouse, "Native protocol" and "Native format" specifications.
    """
    if revision < CUSTOM_SERIALIZATION:
        return [body]
    body = memoryview(body)
    walk = _Walk(body)
    out: list[Octets] = []
    while walk.at < len(body):
        begin = walk.at
        columns, rows = walk.varuint(), walk.varuint()
        out += [_BLOCK_INFO, body[begin : walk.at]]
        for _ in range(columns):
            begin = walk.at
            walk.skip_text()
            kind = walk.text()
            out += [body[begin : walk.at], b"\x00"]
            begin = walk.at
            if rows:
                walk.prefix(kind)
                walk.values(kind, rows)
            out.append(body[begin : walk.at])
    return [part for part in out if len(part)]


class _Walk:
    """A position in blocks that the engine wrote."""

    def __init__(self, body: memoryview) -> None:
        self.body = body
        self.at = 0

    def varuint(self) -> int:
        number = shift = 0
        while True:
            octet = self.body[self.at]
            self.at += 1
            number |= (octet & 0x7F) << shift
            if octet < 0x80:
                return number
            shift += 7

    def skip_text(self) -> None:
        length = self.varuint()
        self.at += length

    def text(self) -> str:
        length = self.varuint()
        self.at += length
        return str(self.body[self.at - length : self.at], "utf-8")

    def uint64(self) -> int:
        self.at += 8
        return int.from_bytes(self.body[self.at - 8 : self.at], "little")

    def prefix(self, kind: str) -> None:
        """Skip what precedes the values of a column: the version of each dictionary in it."""
        name, inner = _parts(kind)
        if name == "LowCardinality":
            self.at += 8
        elif name in ("Array", "Nullable", "Map", "Tuple", "SimpleAggregateFunction"):
            for part in inner[1:] if name == "SimpleAggregateFunction" else inner:
                self.prefix(part)

    def values(self, kind: str, rows: int) -> None:
        """Skip the values of `rows` rows."""
        name, inner = _parts(kind)
        if name in _WIDTHS or name.startswith("Interval"):
            self.at += _WIDTHS.get(name, 8) * rows
        elif name == "String":
            for _ in range(rows):
                self.skip_text()
        elif name == "FixedString":
            self.at += int(inner[0]) * rows
        elif name == "Decimal":
            digits = int(inner[0])
            self.at += (4 if digits <= 9 else 8 if digits <= 18 else 16 if digits <= 38 else 32) * rows
        elif name == "Nullable":
            self.at += rows
            self.values(inner[0], rows)
        elif name in ("Array", "Map"):
            self.at += 8 * (rows - 1)
            elements = self.uint64()
            for part in inner:
                if elements:
                    self.values(part, elements)
        elif name == "Tuple":
            for part in inner:
                self.values(part, rows)
        elif name == "SimpleAggregateFunction":
            self.values(inner[-1], rows)
        elif name == "LowCardinality":
            self._low_cardinality(inner[0])
        else:
            raise QueryRefusedError(
                f"Type {kind[:80]} cannot be sent at this client's protocol version: use toString",
                48,
                "NOT_IMPLEMENTED",
            )

    def _low_cardinality(self, kind: str) -> None:
        width = 1 << (self.uint64() & 0xFF)
        nested, inner = _parts(kind)
        keys = self.uint64()
        self.values(inner[0] if nested == "Nullable" else kind, keys)
        rows = self.uint64()
        self.at += width * rows


def _parts(kind: str) -> tuple[str, list[str]]:
    """Return the name of a type and its arguments, without the names of tuple elements."""
    match = _TYPE.match(kind)
    if match is None:
        raise QueryRefusedError(f"Type {kind[:80]} is not understood", 48, "NOT_IMPLEMENTED")
    name, inside = match[1], match[2]
    if inside is None or name.startswith(("Enum", "DateTime")):
        return name, []
    parts, depth, quoted, begin = [], 0, False, 0
    for position, character in enumerate(inside):
        if character in "'`":
            quoted = not quoted
        elif not quoted and character == "(":
            depth += 1
        elif not quoted and character == ")":
            depth -= 1
        elif not quoted and depth == 0 and character == ",":
            parts.append(inside[begin:position].strip())
            begin = position + 1
    parts.append(inside[begin:].strip())
    if name == "Tuple":
        parts = [_FIELD_NAME.sub("", part, count=1) if _FIELD_NAME.match(part) else part for part in parts]
    return name, parts
