"""ClickHouse's own compression: what clients take is in tests/clients; here what comes from them, hostile or broken."""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest
from clickhouse_cityhash.cityhash import CityHash128

from collector.sql.guard import QueryRefusedError
from collector.sql.wire import BLOCK_BYTES, METHODS, compress_blocks, decompress_blocks, readable_block

LIMIT = 1 << 20
QUERY = b"SELECT count() FROM flows WHERE bytes > 1000 LIMIT 100"

# `SELECT 1` behind its checksum, put together by hand from the layout of a block.
KNOWN = {
    "NONE": bytes.fromhex("02" "11000000" "08000000") + b"SELECT 1",
    "LZ4": bytes.fromhex("82" "12000000" "08000000" "80") + b"SELECT 1",
}  # fmt: skip


def block(kind: int, packed: bytes, length: int, packed_length: int | None = None) -> bytes:
    """A block whose checksum is right, whatever else it says."""
    head = struct.pack("<BII", kind, 9 + len(packed) if packed_length is None else packed_length, length)
    both = CityHash128(head + packed)
    return struct.pack("<QQ", both >> 64, both & (2**64 - 1)) + head + packed


@pytest.mark.parametrize("method", METHODS)
def test_what_is_packed_is_unpacked(method: str) -> None:
    data = b"".join(b"%d\t" % number for number in range(400_000))
    assert len(data) > 2 * BLOCK_BYTES

    packed = compress_blocks([data[:1000], memoryview(data)[1000:]], method.lower())

    assert len(packed) == -(-len(data) // BLOCK_BYTES)
    assert decompress_blocks(b"".join(packed), len(data)) == data
    assert method == "NONE" or sum(map(len, packed)) < 0.7 * len(data)
    with pytest.raises(QueryRefusedError, match="longer than"):
        decompress_blocks(b"".join(packed), len(data) - 1)


@pytest.mark.parametrize("method", KNOWN)
def test_a_block_is_as_written_down(method: str) -> None:
    (packed,) = compress_blocks([b"SELECT 1"], method)
    assert packed[16:] == KNOWN[method]


@pytest.mark.parametrize("length", [0, 1, 14, 15, 16, 269, 270, 271, 1000])
def test_a_readable_block_is_lz4_and_shows_its_text(length: int) -> None:
    text = bytes(65 + number % 26 for number in range(length))
    packed = readable_block(text)

    assert packed.endswith(text)
    assert decompress_blocks(packed, LIMIT) == text


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(QueryRefusedError, match="'DEFLATE_QPL' is not offered: LZ4, LZ4HC, ZSTD, NONE"):
        compress_blocks([QUERY], "DEFLATE_QPL")


@pytest.mark.parametrize("method", METHODS)
def test_what_is_cut_or_changed_is_refused(method: str) -> None:
    """A query that lost its end asks something else."""
    (packed,) = compress_blocks([QUERY], method)
    for wrong in (*(packed[:end] for end in range(1, len(packed))), packed + b"x", packed + packed[:30]):
        with pytest.raises(QueryRefusedError, match="is not ClickHouse's block compression"):
            decompress_blocks(wrong, LIMIT)
    for at in range(len(packed)):
        with pytest.raises(QueryRefusedError):
            decompress_blocks(packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :], LIMIT)
    assert decompress_blocks(packed + packed, LIMIT) == QUERY + QUERY


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (block(0x02, b"abc", 2), "as long as its head says"),
        (block(0x02, b"abc", 4), "as long as its head says"),
        (block(0x02, b"", 0, packed_length=8), "ends within a block"),
        (block(0x02, b"abc", 3, packed_length=2**32 - 1), "ends within a block"),
        (block(0x82, b"\xf0\xff\xff", 10), "cannot be unpacked"),
        (block(0x82, b"", 10), "cannot be unpacked"),
        (block(0x90, b"nonsense", 10), "cannot be unpacked"),
        (block(0x91, b"abc", 3), "method 0x91: not known"),
        (block(0x02, b"abc", 2**32 - 1), "longer than"),
    ],
)
def test_heads_that_lie_are_refused(wrong: bytes, why: str) -> None:
    with pytest.raises(QueryRefusedError, match=why):
        decompress_blocks(wrong, LIMIT)


def bomb(method: str) -> int:
    """Unpack blocks that say they are small and hold 1 GiB of zeros; returns what that added in memory, in KiB."""
    from resource import RUSAGE_SELF, getrusage

    import lz4.block
    from backports import zstd

    if method == "LZ4":
        packed, kind = lz4.block.compress(bytes(1 << 28), store_size=False), 0x82
    else:
        wide = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.compression_level: 1}
        packer = zstd.ZstdCompressor(options=wide)
        packed, kind = b"".join(packer.compress(bytes(1 << 24)) for _ in range(64)) + packer.flush(), 0x90
    body = block(kind, packed, LIMIT)
    before = getrusage(RUSAGE_SELF).ru_maxrss
    try:
        decompress_blocks(body, LIMIT)
    except QueryRefusedError:
        return getrusage(RUSAGE_SELF).ru_maxrss - before
    raise AssertionError("it was unpacked")


@pytest.mark.parametrize("method", ["LZ4", "ZSTD"])
def test_a_bomb_takes_no_more_memory_than_the_limit(method: str) -> None:
    code = f"from tests.sql.test_wire_blocks import bomb; print(bomb({method!r}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) < 24 * 1024  # KiB: the limit, and what the library works with
