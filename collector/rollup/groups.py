"""Groups of inserts in the store: opened before their first row is stored, done when their sums are.

All calls block and raise the driver's errors.  The secret in the hashes of connections is kept here, too, since it must
outlive the process like the groups (`connection_key`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from uuid import UUID

import pyarrow as pa
from clickhouse_connect.driver import Client

from collector.log import get_log
from collector.rollup.plan import Rows
from collector.rollup.sums import PairSums
from collector.store_reader import KeptClient
from schemas.column import ADDRESS, ENUM, NAME, NAMED_UUID, Column, Table
from schemas.flows import FLOWS
from schemas.rollups import GROUPS, PAIR_INPUT

OCTETS = 16

_log = get_log("rollup")


def connection_key(file: Path) -> int:
    """Return the secret in the hashes of connections, from `file`: 32 hexadecimal digits, generated if there is no such
    file.

    It stays the same over restarts, so that a connection keeps its hash.  If it cannot be read or written, it is of
    this run only, which is logged: connections of the window in which the service was restarted then count twice.
    """
    try:
        if not file.exists():
            _make(file)
        return _read(file)
    except (OSError, ValueError) as error:
        _log.warning("no lasting key for connections: set rollup.key_file", file=str(file), error=str(error))
        return secrets.randbits(8 * OCTETS)


def _make(file: Path) -> None:
    """Write a new key, under another name first: a kill in between must not leave half a key.  Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = file.with_name(f"{file.name}.{secrets.token_hex(4)}.tmp")
    temporary.touch(0o600)
    try:
        temporary.write_text(secrets.token_hex(OCTETS) + "\n", encoding="ascii")
        with contextlib.suppress(FileExistsError):  # another service was quicker: use its key
            os.link(temporary, file)
    finally:
        temporary.unlink()


def _read(file: Path) -> int:
    """Read the key.  Raises ValueError if the file does not hold one, OSError."""
    text = file.read_text(encoding="ascii").strip()
    if len(text) != 2 * OCTETS:
        raise ValueError(f"expected {2 * OCTETS} hexadecimal digits")
    return int(text, 16)


StoreRows = Callable[[Client, Table, list[pa.RecordBatch], str], None]
"""Inserts batches of one table as one block, once per token."""

LOOKBACK_DAYS = 7
"""How old a group may be that is still summed after a start: as long as rows of `flows` live by default."""

SPAN_US = 86_400_000_000
"""Rows of a group were received at most this long before it was opened (they waited) or after (it stayed open)."""


class GroupStore:
    """The reader and writer of groups.  One client, made when first needed, and again after an error."""

    def __init__(self, service: str, connect: Callable[[], Client], store_rows: StoreRows) -> None:
        self._service = service
        self._store_rows = store_rows
        self._client = KeptClient(connect)

    def close(self) -> None:
        """Release the store."""
        self._client.close()

    def open(self, group: int) -> None:
        """Note that rows of this group are about to be stored."""
        self._note(group, "open", 0)

    def end(self, group: int, state: str, rows: int) -> None:
        """Note that the group is `done`, or that its sums were refused: `failed`."""
        self._note(group, state, rows)

    def store(self, group: int, sums: pa.RecordBatch) -> None:
        """Store the sums of a group; a second call with the same group stores nothing."""
        with self._client.use() as client:
            # A group has one block of sums, however often it is summed, so its number identifies the block.
            self._store_rows(client, PAIR_INPUT, [as_input(sums)], f"rollup-{group}")

    def left_open(self) -> list[int]:
        """Return groups of this service that a former run did not finish, oldest first."""
        with self._client.use() as client:
            rows = client.query(
                "SELECT rollup_group FROM rollup_groups "
                "WHERE service = {service:String} AND time > now() - toIntervalDay({days:UInt32}) "
                "GROUP BY rollup_group HAVING countIf(state != 'open') = 0 ORDER BY min(time)",
                parameters={"service": self._service, "days": LOOKBACK_DAYS},
            ).result_rows
        return [int(number) for (number,) in rows]

    def read_back(self, group: int, sums: PairSums) -> int:
        """Add the stored rows of a group to `sums`.  Return how many did not fit."""
        over = 0
        with self._client.use() as client:
            opened_us = int(
                client.query(
                    "SELECT toUnixTimestamp64Micro(min(time)) FROM rollup_groups WHERE rollup_group = {group:UInt64}",
                    parameters={"group": group},
                ).result_rows[0][0]
            )
            for batch in rows_of(client, group, opened_us - SPAN_US, opened_us + SPAN_US):
                left = sums.add(batch)
                over += left.num_rows if left is not None else 0
        return over

    def _note(self, group: int, state: str, rows: int) -> None:
        row = {
            "time": [time.time_ns() // 1000],
            "rollup_group": [group],
            "service": [self._service],
            "state": [state],
            "flow_rows": [rows],
        }
        with self._client.use() as client:
            self._store_rows(client, GROUPS, [GROUPS.batch(row)], f"rollup-{group}-{state}")


def as_input(sums: pa.RecordBatch) -> pa.RecordBatch:
    """Return sums as rows of `pair_10s_in`, whose times have 4 octets."""
    seconds = sums.column("time").cast(pa.int64()).cast(pa.uint32())
    columns = [seconds if name == "time" else sums.column(name) for name in PAIR_INPUT.arrow().names]
    return pa.RecordBatch.from_arrays(columns, schema=PAIR_INPUT.arrow())


def rows_of(client: Client, group: int, since_us: int, until_us: int) -> Iterator[pa.RecordBatch]:
    """Yield the stored rows of a group, received between these times, as they were before they were stored."""
    columns = [FLOWS[name] for name in Rows._fields]
    chosen = ", ".join(f"{_as_arrow(column)} AS {column.name}_" for column in columns)
    sql = (
        f"SELECT {chosen} FROM flows "  # noqa: S608 - columns of the schema
        "WHERE rollup_group = {group:UInt64} AND time_received >= fromUnixTimestamp64Micro({since:Int64}) "
        "AND time_received <= fromUnixTimestamp64Micro({until:Int64})"
    )
    stream = client.query_arrow_stream(
        sql,
        parameters={"group": group, "since": since_us, "until": until_us},
        settings={"output_format_arrow_low_cardinality_as_dictionary": 1, "output_format_arrow_string_as_string": 1},
    )
    with stream as tables:
        for table in tables:
            batches = table.to_batches() if isinstance(table, pa.Table) else [table]
            for batch in batches:
                yield pa.RecordBatch.from_arrays(
                    [_as_flows(column, array) for column, array in zip(columns, batch.columns, strict=True)],
                    schema=pa.schema([(column.name, column.arrow) for column in columns]),
                )


def _as_arrow(column: Column) -> str:
    """Return SQL that converts a column to a type that Arrow has."""
    if column.arrow == ENUM:
        return f"toInt8({column.name})"
    if column.arrow == NAMED_UUID:
        return f"toLowCardinality(toString({column.name}))"
    if column.clickhouse.startswith("DateTime64"):
        return f"toUnixTimestamp64Micro({column.name})"
    if column.arrow == ADDRESS:
        return f"toFixedString(reinterpretAsString({column.name}), 16)"
    return column.name


def _as_flows(column: Column, array: pa.Array) -> pa.Array:
    """Apply the inverse of `_as_arrow`."""
    if column.arrow == ENUM:
        return pa.DictionaryArray.from_arrays(array, pa.array(column.names))
    if column.arrow in (NAME, NAMED_UUID):
        encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
        keys: Sequence[str | None] = encoded.dictionary.to_pylist()
        texts = ["" if key is None else key for key in keys]
        values = (
            pa.array(texts, pa.string())
            if column.arrow == NAME
            else pa.array([UUID(text).bytes if text else bytes(16) for text in texts], pa.binary(16))
        )
        return pa.DictionaryArray.from_arrays(encoded.indices.cast(pa.int32()), values)
    return array.cast(column.arrow)
