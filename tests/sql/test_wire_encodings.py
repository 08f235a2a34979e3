"""Compressed bodies of requests: bombs, broken and cut ones, and encodings within encodings."""

from __future__ import annotations

import gzip
import subprocess
import sys
import zlib
from collections.abc import Callable

import lz4.frame
import pytest

from collector.sql.guard import QueryRefusedError
from collector.sql.wire import decompress

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LIMIT = 1 << 20
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "lz4": lz4.frame.compress,
    "zstd": zstd.compress,
}
QUERY = b"SELECT count() FROM flows WHERE bytes > 1000 LIMIT 100"


@pytest.mark.parametrize("encoding", PACK)
def test_a_body_is_unpacked_up_to_the_limit(encoding: str) -> None:
    assert decompress(PACK[encoding](QUERY), encoding, len(QUERY)) == QUERY
    assert decompress(PACK[encoding](QUERY), encoding.upper(), len(QUERY)) == QUERY
    with pytest.raises(QueryRefusedError, match="longer than"):
        decompress(PACK[encoding](QUERY + b"0"), encoding, len(QUERY))


@pytest.mark.parametrize("encoding", PACK)
def test_a_body_that_is_cut_or_followed_by_more_is_refused(encoding: str) -> None:
    """`LIMIT 100` that lost its end asks something else."""
    packed = PACK[encoding](QUERY)
    for wrong in (packed[:-1], packed[: len(packed) // 2], packed + b"x", packed + packed, QUERY):
        with pytest.raises(QueryRefusedError, match="not (one whole stream of )?" + encoding):
            decompress(wrong, encoding, LIMIT)


@pytest.mark.parametrize("encoding", ["gzip, gzip", "gzip, zstd", "br", "identity, gzip", ""])
def test_encodings_within_encodings_and_others_are_refused(encoding: str) -> None:
    with pytest.raises(QueryRefusedError, match="Unknown Content-Encoding"):
        decompress(gzip.compress(gzip.compress(QUERY)), encoding, LIMIT)


def bomb(encoding: str) -> int:
    """Unpack 1 GiB of zeros under the limit; returns what that added to the resident memory, in KiB."""
    from resource import RUSAGE_SELF, getrusage

    if encoding == "zstd":
        wide = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.compression_level: 1}
        packer = zstd.ZstdCompressor(options=wide)
        packed = b"".join(packer.compress(bytes(1 << 24)) for _ in range(64)) + packer.flush()
    elif encoding == "lz4":
        frame = lz4.frame.LZ4FrameCompressor(block_size=lz4.frame.BLOCKSIZE_MAX4MB)
        packed = frame.begin() + b"".join(frame.compress(bytes(1 << 24)) for _ in range(64)) + frame.flush()
    else:
        deflater = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
        packed = b"".join(deflater.compress(bytes(1 << 24)) for _ in range(64)) + deflater.flush()
    before = getrusage(RUSAGE_SELF).ru_maxrss
    try:
        decompress(packed, encoding, LIMIT)
    except QueryRefusedError:
        return getrusage(RUSAGE_SELF).ru_maxrss - before
    raise AssertionError("it was unpacked")


@pytest.mark.parametrize("encoding", PACK)
def test_a_bomb_takes_no_more_memory_than_the_limit(encoding: str) -> None:
    code = f"from tests.sql.test_wire_encodings import bomb; print(bomb({encoding!r}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) < 24 * 1024  # KiB: the limit, and what the library works with
