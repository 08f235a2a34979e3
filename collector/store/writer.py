"""The writer: collects batches by table, inserts them one at a time, repeats what failed, and counts what is lost.

    offer ──► pending batches per table ──► one insert (size or age reached) ──► store
              bounded in octets; full:       a token per insert, the same for     transient error: again, later
              newest dropped                 every attempt: stored once           permanent: dropped, counted

`Backlog` is where a spool on disk can take the place of the memory queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from clickhouse_connect.driver import Client

from collector.log import get_log
from collector.metrics import Metrics
from collector.ports import Call, Rollup
from collector.store.client import first_line, open_client, transient
from collector.store.errors import StoreUnreachableError
from collector.store.native import block, columns_of
from collector.store.settings import StoreSettings
from collector.store.setup import check, set_up
from schemas.column import Table
from schemas.flows import FLOWS
from schemas.tables import TABLES

ROOM = 0.75
"""`ready` waits until the queue is filled less than this: filling it to the brim again and again costs more."""

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)

INSERT_SETTINGS = {
    # Asynchronous inserts would answer before the rows are stored.
    "async_insert": 0,
    # A repeated insert adds nothing to the rollups, too, and adds what a failed attempt left out.
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    # Rollup rows of one block are aggregated already; merging them once more before they are written takes a third of
    # the insert's time (figures: bench/results).
    "optimize_on_insert": 0,
}
"""ClickHouse settings of the connection that inserts."""

_log = get_log("store")


class Backlog:
    """Batches of one table that wait, oldest first."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.rows = 0
        self.since = 0.0
        """When the oldest arrived, by the monotonic clock."""
        self._batches: deque[tuple[float, pa.RecordBatch]] = deque()

    def add(self, batch: pa.RecordBatch, now: float) -> None:
        """Put a batch behind the others."""
        if not self._batches:
            self.since = now
        self._batches.append((now, batch))
        self.rows += batch.num_rows

    def take(self, limit: int) -> list[pa.RecordBatch]:
        """Remove the oldest batches with the same columns, of at most `limit` rows in all; a longer one is cut."""
        taken: list[pa.RecordBatch] = []
        room = limit
        while self._batches and room > 0:
            arrived, batch = self._batches[0]
            if taken and batch.schema.names != taken[0].schema.names:
                break
            if batch.num_rows > room:
                if taken:
                    break
                self._batches[0] = (arrived, batch.slice(room))
                batch = batch.slice(0, room)
            else:
                self._batches.popleft()
            taken.append(batch)
            room -= batch.num_rows
        self.rows -= limit - room
        self.since = self._batches[0][0] if self._batches else 0.0
        return taken


class Writer:
    """Stores batches of rows.  A component: entering connects and sets up the tables, leaving drains.

    All methods are for the event loop's thread; what blocks goes through `call`.
    """

    def __init__(self, settings: StoreSettings, metrics: Metrics, call: Call, rollup: Rollup | None = None) -> None:
        """`rollup` is told of the rows of `flows` that are stored."""
        self._settings = settings
        self._rollup = rollup
        self._call = call
        self._client: Client | None = None
        self._backlogs = {table.name: Backlog(table) for table in TABLES}
        self._octets = 0
        self._token = uuid4().hex
        self._inserts = 0
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._draining = False
        self._task: asyncio.Task[None] | None = None
        self._problem: str | None = None
        self._stored = metrics.counter("store_rows_total", "Rows stored.", ("table",))
        self._batches = metrics.counter("store_batches_total", "Inserts done.", ("table",))
        self._dropped = metrics.counter("store_dropped_rows_total", "Rows lost at the store.", ("table", "reason"))
        self._retries = metrics.counter("store_retries_total", "Inserts tried again.", ("table",))
        self._seconds = metrics.histogram("store_insert_seconds", "Time of one insert.", SECONDS, ("table",))
        self._lag = metrics.histogram(
            "store_lag_seconds", "Receipt of the oldest datagram of an insert to its rows being stored.", SECONDS
        )
        metrics.gauge("store_queue_octets", "Octets of rows waiting for the store.").set_function(lambda: self._octets)
        metrics.gauge("store_up", "1 if the last attempt to store went well.").set_function(
            lambda: float(self._problem is None)
        )
        for table in TABLES:
            self._stored.labels(table.name)
        self.dropped_rows = 0

    @property
    def queue_octets(self) -> int:
        """Octets of rows waiting or in flight."""
        return self._octets

    def waiting(self, table: str) -> bool:
        """Whether rows of `table` wait."""
        return self._backlogs[table].rows > 0

    @property
    def problem(self) -> str | None:
        """Why rows are not being stored now, None if they are."""
        return self._problem

    async def __aenter__(self) -> Self:
        """Connect and set up the tables.

        A server that does not answer yet is asked again later: rows wait.  Raises StoreError for everything else.
        """
        try:
            self._client = await self._call(self._open)
        except StoreUnreachableError as error:
            self._fail(error)
        self._task = asyncio.create_task(self._run(), name="store")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        await self.drain(self._settings.drain_seconds)

    def offer(self, table: str, batch: pa.RecordBatch, /) -> bool:
        """Queue rows of `table`, or drop and count them if the queue is full or the writer is stopping.

        Raises KeyError for a table that does not exist.
        """
        backlog = self._backlogs[table]
        if not batch.num_rows:
            return True
        octets = batch.nbytes
        if self._draining or self._octets + octets > self._settings.queue_octets:
            self._drop(table, batch.num_rows, "stopping" if self._draining else "queue_full")
            self._room.clear()
            return False
        try:
            columns_of(backlog.table, batch.schema)
        except ValueError as error:
            self._drop(table, batch.num_rows, "wrong_columns")
            _log.sampled("rows do not fit their table", key=table, error=str(error))
            return False
        backlog.add(batch, time.monotonic())
        self._octets += octets
        if self._octets > ROOM * self._settings.queue_octets:
            self._room.clear()
        self._work.set()
        return True

    async def ready(self) -> None:
        """Wait until there is room again."""
        await self._room.wait()

    async def drain(self, deadline_seconds: float) -> None:
        """Take no more, store what is queued, and close; what is left at the deadline is dropped and counted."""
        self._draining = True
        self._work.set()
        task, self._task = self._task, None
        if task is not None:
            await asyncio.wait({task}, timeout=deadline_seconds)
            if not task.done():
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for backlog in self._backlogs.values():
            if backlog.rows:
                self._drop(backlog.table.name, backlog.rows, "stopping")
                backlog.take(backlog.rows)
        self._octets = 0
        self._room.set()
        client, self._client = self._client, None
        if client is not None:
            await self._call(client.close)

    def _open(self) -> Client:
        """Connect; create or check the tables.  Blocks."""
        client = open_client(self._settings, INSERT_SETTINGS)
        try:
            if self._settings.schema_setup:
                for line in set_up(client, self._settings):
                    _log.info("schema set up", did=line)
            else:
                check(client, self._settings)
                client.database = self._settings.database
        except Exception as error:
            client.close()
            if transient(error):
                raise StoreUnreachableError(first_line(error)) from error
            raise
        return client

    async def _run(self) -> None:
        while True:
            backlog = await self._due()
            if backlog is None:
                return
            batches = backlog.take(self._settings.batch_rows)
            rows = sum(batch.num_rows for batch in batches)
            octets = sum(batch.nbytes for batch in batches)
            try:
                await self._store(backlog.table, batches, rows)
            except asyncio.CancelledError:
                self._drop(backlog.table.name, rows, "stopping")
                raise
            finally:
                self._octets = max(0, self._octets - octets)
                if self._octets <= ROOM * self._settings.queue_octets:
                    self._room.set()

    async def _due(self) -> Backlog | None:
        """Wait for a table whose rows are enough, or old enough; None once all is stored at the stop."""
        settings = self._settings
        while True:
            self._work.clear()
            waiting = [backlog for backlog in self._backlogs.values() if backlog.rows]
            if not waiting and self._draining:
                return None
            now = time.monotonic()
            oldest = min(waiting, key=lambda backlog: backlog.since, default=None)
            if oldest is not None and (self._draining or now - oldest.since >= settings.batch_age_seconds):
                return oldest
            full = max(waiting, key=lambda backlog: backlog.rows, default=None)
            if full is not None and full.rows >= settings.batch_rows:
                return full
            wait = None if oldest is None else oldest.since + settings.batch_age_seconds - now
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._work.wait()

    async def _store(self, table: Table, batches: list[pa.RecordBatch], rows: int) -> None:
        """Insert; after a transient error, again, as often as it takes."""
        self._inserts += 1
        token = f"{self._token}-{self._inserts}"
        rollup = self._rollup if table is FLOWS else None
        group: int | None = None
        for pause in self._pauses():
            begun = time.monotonic()
            try:
                if self._client is None:
                    self._client = await self._call(self._open)
                if rollup is not None and group is None:
                    # Asked for once: an attempt whose answer was lost may have stored the rows with this number.
                    group = await rollup.group()
                await self._call(insert, self._client, table, batches, token, group or 0)
            except Exception as error:  # noqa: BLE001 - every kind of failure must leave the writer running
                if not transient(error):
                    _log.error(
                        "rows dropped: refused by the store", table=table.name, rows=rows, error=first_line(error)
                    )
                    self._drop(table.name, rows, "refused")
                    if rollup is not None and group is not None:
                        await rollup.stored(group, [])
                    return
                self._fail(error)
                self._retries.labels(table.name).inc()
                await asyncio.sleep(pause)
                continue
            self._done(table, batches, rows, time.monotonic() - begun)
            if rollup is not None and group is not None:
                await rollup.stored(group, batches)
            return

    def _pauses(self) -> Iterator[float]:
        """Seconds to wait after each failed attempt: doubling, shortened at random so that writers do not march."""
        longest = self._settings.retry_longest_seconds
        pause = self._settings.retry_first_seconds
        while True:
            yield min(pause, longest) * random.uniform(0.5, 1)  # noqa: S311 - not a secret
            pause = min(pause * 2, longest)

    def _done(self, table: Table, batches: list[pa.RecordBatch], rows: int, seconds: float) -> None:
        if self._problem is not None:
            _log.info("rows are being stored again", table=table.name)
        self._problem = None
        self._stored.labels(table.name).inc(rows)
        self._batches.labels(table.name).inc()
        self._seconds.labels(table.name).observe(seconds)
        if "time_received" in batches[0].schema.names:
            oldest = min(pc.min(batch.column("time_received").cast(pa.int64())).as_py() for batch in batches)
            self._lag.observe(max(0.0, time.time() - oldest / 1e6))

    def _fail(self, error: BaseException) -> None:
        self._problem = first_line(error)
        _log.sampled("the store does not take rows: they wait", key=type(error).__name__, error=self._problem)

    def _drop(self, table: str, rows: int, reason: str) -> None:
        self.dropped_rows += rows
        self._dropped.labels(table, reason).inc(rows)


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
    buffers = block(table, batches)
    if not buffers:
        return
    names = [column.name for column in columns_of(table, batches[0].schema)]
    body: Any = _Buffers(buffers) if client.uri.startswith("chdb:") else b"".join(buffers)
    client.raw_insert(table.name, names, body, {"insert_deduplication_token": token}, "Native")
