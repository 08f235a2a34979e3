"""A shard of a cluster, for inserts only: ClickHouse's native protocol in front of a database that answers over HTTP.

chDB sends to other servers and is none itself.  So a Distributed table of one engine finds its second shard here, over
a real connection, and what arrives is inserted into a database of its own.  It speaks an old revision of the protocol,
whose blocks are what FORMAT Native has.  `fail` lets the shard die at a point of the insert.

Packets (ClickHouse, src/Core/Protocol.h and src/Server/TCPHandler.cpp), from the client: 0 Hello, 1 Query, 2 Data,
4 Ping, 5 TablesStatusRequest; from the server: 0 Hello, 1 Data, 2 Exception, 4 Pong, 5 EndOfStream, 9 TablesStatus.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

REVISION = 54440
"""Settings as text; no secret between servers, no blocks with other serialisations."""

BLOCK_INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"
END_OF_ROWS = b"\x02\x00" + BLOCK_INFO + b"\x00\x00"
"""A Data packet without columns and rows."""


@dataclass
class Shard:
    """What the shard does and has seen."""

    insert: Callable[[str, bytes, dict[str, str]], None]
    """Stores a statement's rows (FORMAT Native) with these settings."""
    header: Callable[[str], bytes]
    """An empty block with the columns of an INSERT."""
    fail: str = ""
    """`away`: nobody answers.  `end`: it dies when all rows have arrived, without an answer.  `lost`: after storing."""
    settings: list[dict[str, str]] = field(default_factory=list)
    """Of each insert that arrived whole."""


@contextlib.contextmanager
def listening() -> Iterator[tuple[int, Callable[[Shard], None]]]:
    """A free port, and how to say what answers there."""
    shards: list[Shard] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            if shards and shards[0].fail != "away":
                with contextlib.suppress(ConnectionError, EOFError):
                    _serve(self.connection, shards[0])

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], shards.append
    finally:
        server.shutdown()
        server.server_close()


class _Stream:
    """Reads what the protocol is made of."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rb")

    def octets(self, count: int) -> bytes:
        found = self._file.read(count)
        if len(found) < count:
            raise EOFError
        return found

    def number(self) -> int:
        value = shift = 0
        while True:
            octet = self.octets(1)[0]
            value |= (octet & 0x7F) << shift
            shift += 7
            if octet < 0x80:
                return value

    def text(self) -> str:
        return self.octets(self.number()).decode()

    def rows(self) -> bytes:
        """The blocks until the empty one, without what stands around them."""
        found = b""
        while not found.endswith(END_OF_ROWS):
            found += self._file.read1(2**20) or self.octets(1)
        return found.removesuffix(END_OF_ROWS)


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    return bytes([*out, value])


def _text(value: str) -> bytes:
    return _number(len(value.encode())) + value.encode()


def _serve(connection: socket.socket, shard: Shard) -> None:
    stream = _Stream(connection)
    while True:
        packet = stream.number()
        if packet == 0:
            stream.text(), [stream.number() for _ in range(3)], [stream.text() for _ in range(3)]
            hello = _text("stand-in") + _number(20) + _number(10) + _number(REVISION)
            connection.sendall(b"\x00" + hello + _text("UTC") + _text("shard") + _number(1))
        elif packet == 4:
            connection.sendall(b"\x04")
        elif packet == 5:
            tables = [(stream.text(), stream.text()) for _ in range(stream.number())]
            known = b"".join(_text(database) + _text(table) + b"\x00" for database, table in tables)
            connection.sendall(b"\x09" + _number(len(tables)) + known)
        elif packet == 1:
            if shard.fail == "away" or not _query(stream, connection, shard):
                return
        else:
            raise AssertionError(f"packet {packet}")


def _query(stream: _Stream, connection: socket.socket, shard: Shard) -> bool:
    """Answer one INSERT.  Whether the connection goes on."""
    stream.text()
    if stream.octets(1)[0]:  # who asked first
        [stream.text() for _ in range(3)]
        over_tcp = stream.octets(1) == b"\x01"
        if over_tcp:
            [stream.text() for _ in range(3)], [stream.number() for _ in range(3)]
        stream.text()
        if over_tcp:
            stream.number()
    settings = {}
    while name := stream.text():
        stream.number()
        settings[name] = stream.text()
    stream.number()
    stream.number()
    sql = stream.text()
    assert stream.octets(len(END_OF_ROWS)) == END_OF_ROWS  # no external tables
    try:
        connection.sendall(b"\x01\x00" + BLOCK_INFO + shard.header(sql))
        rows = stream.rows()
        assert rows.startswith(b"\x02\x00" + BLOCK_INFO)
        assert rows.count(b"\x02\x00" + BLOCK_INFO) == 1
        shard.settings.append(settings)
        if shard.fail == "end":
            return False
        shard.insert(sql, rows.removeprefix(b"\x02\x00" + BLOCK_INFO), settings)
    except Exception as error:  # noqa: BLE001 - whatever it is, the client is to hear of it
        connection.sendall(b"\x02" + (1002).to_bytes(4, "little") + _text("Error") + _text(repr(error)) + b"\x00\x00")
        return False
    if shard.fail == "lost":
        return False
    connection.sendall(b"\x05")
    return True


def kept(settings: dict[str, Any], *names: str) -> dict[str, str]:
    """Those of the settings that a shard takes over."""
    return {name: str(settings[name]) for name in names if name in settings}
