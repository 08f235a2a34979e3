"""Content encodings of the SQL endpoint: what HTTP clients may send and get compressed.  Everything here blocks.

Answers are compressed piece by piece: a library lets other threads run while it compresses, but not while it puts
together what came of it, and 100 MB of that would hold up the event loop.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from collector.http import Octets, in_pieces
from collector.store.guard import RefusedError


class Compressor(Protocol):
    """As zlib's."""

    def compress(self, data: Octets, /) -> bytes:
        """What comes out of the next part."""

    def flush(self) -> bytes:
        """The rest."""


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
    """Python's own from 3.14 on, before that the same from PyPI."""
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
"""Encodings we can send, the cheapest for the collector first."""


def compress(parts: Sequence[Octets], encoding: str) -> list[bytes]:
    """Buffers, one after the other, in an encoding of `COMPRESSORS`."""
    compressor = COMPRESSORS[encoding]()
    packed = [compressor.compress(piece) for piece in in_pieces(parts)]
    return [part for part in (*packed, compressor.flush()) if part]


WINDOW_LOG = 23
"""2 to the power of this is what zstd may keep of a body while it unpacks it: what RFC 8878 asks all to have."""


def _unpacker(encoding: str) -> Any:
    """Unpacks up to so many octets: `decompress(body, limit)`; `eof` and `unused_data` tell how it ended."""
    if encoding in ("gzip", "deflate"):
        return zlib.decompressobj(47)  # 32 + 15: either header
    if encoding == "lz4":
        import lz4.frame  # noqa: PLC0415

        return lz4.frame.LZ4FrameDecompressor()
    if encoding == "zstd":
        zstd = _zstd_library()
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})
    raise RefusedError(f"Unknown Content-Encoding {encoding[:40]!r}", 48, "NOT_IMPLEMENTED")


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """A request's body as it was before compression, once.

    Raises RefusedError if it is broken, not all there, followed by more, or longer than `limit`; no more is unpacked.
    """
    unpacker = _unpacker(encoding.lower())
    try:
        data: bytes = unpacker.decompress(body, limit + 1)
    except Exception as error:
        raise RefusedError(f"The body is not {encoding}", 271, "CANNOT_DECOMPRESS") from error
    if len(data) > limit:
        raise RefusedError(f"The request is longer than {limit} octets", 307, "TOO_MANY_BYTES")
    if not unpacker.eof or unpacker.unused_data:
        # A query that lost its end may be another query.
        raise RefusedError(f"The body is not one whole stream of {encoding}", 271, "CANNOT_DECOMPRESS")
    return data
