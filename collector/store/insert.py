"""One insert: batches become a block in ClickHouse's own format, and the block goes to the store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from clickhouse_connect.driver import Client

from collector.store.native import block
from schemas.column import Table


class _Buffers:
    """A file of buffers: clickhouse-connect copies from it without joining them first."""

    def __init__(self, buffers: list[memoryview]) -> None:
        self._left = iter(buffers)

    def read(self, _size: int = -1) -> memoryview | bytes:
        return next(self._left, b"")


def insert(client: Client, table: Table, batches: list[pa.RecordBatch], token: str, group: int = 0) -> None:
    """Insert the batches as one block; a second insert with the same token stores nothing.

    `group` goes into the column `rollup_group` of `flows`.  Blocks.  Raises ValueError if the batches do not fit the
    table, else the driver's errors.
    """
    if group:
        batches = [
            batch.append_column("rollup_group", pa.array(np.full(batch.num_rows, group, np.uint64)))
            for batch in batches
        ]
    names, buffers = block(table, batches)
    if not buffers:
        return
    settings = {"insert_deduplication_token": token}
    # The driver's types allow for less than the driver.
    body: Any
    nowhere: Any = None
    if client.uri.startswith("chdb:"):
        body = _Buffers(buffers)
        client.raw_insert(table.name, names, body, settings, "Native")
    else:
        body = _request(table, names, buffers)
        client.raw_insert(nowhere, None, body, settings)


def _request(table: Table, names: list[str], buffers: list[memoryview]) -> memoryview:
    """The statement and its rows, in one piece: a request whose connection breaks is sent again as a whole.

    numpy takes memory without clearing it and copies while other threads go on.  To join bytes, or to make a bytearray
    of that size, keeps them waiting, the event loop too: for 0.2 s, and for 0.04 s or, on busy cores, 0.15 s.
    """
    columns = ", ".join(f"`{name}`" for name in names)
    parts = [memoryview(f"INSERT INTO {table.name} ({columns}) FORMAT Native\n".encode()), *buffers]
    body = np.empty(sum(part.nbytes for part in parts), np.uint8)
    at = 0
    for part in parts:
        body[at : at + part.nbytes] = np.frombuffer(part, np.uint8)
        at += part.nbytes
    return body.data
