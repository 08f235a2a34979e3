"""The writer: collects batches by table, inserts them one at a time, retries failed inserts, and counts losses.

    offer ──► batches per table ──► queue of inserts ─► the oldest insert ──► store
              bounded in bytes;     size or age reached;   same token and        transient error: again, later
              full: newest dropped  a file each while the  group with every      permanent: dropped, counted
                                    store does not take    attempt: stored       (`errors.py` says which is which)
                                    them; too many files:  once
                                    oldest dropped

While the store answers, nothing is written to the disk and the queue has one insert.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
from clickhouse_connect.driver import Client
from clickhouse_connect.driver import exceptions as driver

from collector.interfaces import Call, Rollup
from collector.log import get_log
from collector.metrics import Metrics
from collector.stopping import Stop
from collector.store.client import open_client
from collector.store.errors import BrokenSegmentError, Patience, StoreUnreachableError, free_rows_of, transient
from collector.store.native import columns_of
from collector.store.native import insert as insert_block
from collector.store.queue import InsertQueue
from collector.store.settings import StoreSettings
from collector.store.setup import check, describe, set_up
from collector.store.spool import Insert
from collector.store_errors import first_line
from schemas.column import Table
from schemas.flows import FLOWS
from schemas.tables import TABLES


class Backlog:
    """Batches of one table that wait, oldest first."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.rows = 0
        self.since = 0.0
        """When the oldest arrived, by the monotonic clock."""
        self._batches: deque[tuple[float, pa.RecordBatch]] = deque()

    def add(self, batch: pa.RecordBatch, now: float) -> None:
        """Append a batch."""
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


ROOM = 0.75
"""`ready` waits until the queue is filled less than this: filling it completely each time costs more."""

SPILL_SECONDS = 0.25
"""How often to check whether rows must go to the disk."""

SPOOL_SECONDS = 4.0
"""Part of a stop kept for writing to the spool what is not stored."""

FAILING_STOP_SECONDS = 1.0
"""How long a stop waits for a store that already fails: the rows are as safe in the spool."""

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)

INSERT_SETTINGS = {
    # Asynchronous inserts would answer before the rows are stored.
    "async_insert": 0,
    # A Distributed table would answer before its shards have the rows, and keep them on one server's disk until then.
    "distributed_foreground_insert": 1,
    # A repeated insert adds nothing twice to the rollups either, but adds what a failed attempt left out.
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    # Rollup rows of one block are aggregated already; merging them once more before they are written takes a third of
    # the insert's time.
    "optimize_on_insert": 0,
}
"""ClickHouse settings of the connection for inserts."""

_log = get_log("store")


class Writer:
    """The writer of batches of rows.  A component: entering connects and sets up the tables, leaving drains.

    All methods are for the event loop's thread; blocking calls go through `call`, those on the spool's files through
    `spool_call`.
    """

    def __init__(
        self,
        settings: StoreSettings,
        metrics: Metrics,
        call: Call,
        spool_call: Call,
        rollup: Rollup | None = None,
        stop: Stop | None = None,
        claim: Callable[[], None] = lambda: None,
    ) -> None:
        """`rollup` gets the stored rows of `flows`; `stop` is that of the service.

        `claim` is called before anything is stored; what it raises prevents the writer from opening.
        """
        self._settings = settings
        self._claim = claim
        self._stop = stop or Stop()
        self._rollup = rollup
        self._call = call
        self._client: Client | None = None
        self._backlogs = {table.name: Backlog(table) for table in TABLES}
        self._bytes = 0
        self._line = InsertQueue(settings, metrics, spool_call, lost=self._drop, freed=self._freed)
        self._patience = Patience()
        self._attempt_since: float | None = None
        """When the attempt under way began, by the monotonic clock."""
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._draining = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._problem: str | None = None
        self._failing_since: float | None = None
        """When the first of the failed attempts since the last success failed, by the monotonic clock."""
        self._declare(metrics)
        self.dropped_rows = 0

    def _declare(self, metrics: Metrics) -> None:
        self._stored = metrics.counter("store_rows_total", "Rows stored.", ("table",))
        self._batches = metrics.counter("store_batches_total", "Inserts done.", ("table",))
        self._dropped = metrics.counter("store_dropped_rows_total", "Rows lost at the store.", ("table", "reason"))
        self._retries = metrics.counter("store_retries_total", "Inserts tried again.", ("table",))
        self._seconds = metrics.histogram("store_insert_seconds", "Time of one insert.", SECONDS, ("table",))
        self._lag = metrics.histogram(
            "store_lag_seconds", "Receipt of the oldest datagram of an insert to its rows being stored.", SECONDS
        )
        metrics.gauge("store_queue_bytes", "Octets of rows waiting for the store.").set_function(lambda: self._bytes)
        metrics.gauge("store_up", "1 if the last attempt to store went well.").set_function(
            lambda: float(self._problem is None)
        )
        for table in TABLES:
            self._stored.labels(table.name)

    @property
    def queue_bytes(self) -> int:
        """Octets of rows in memory, waiting or in flight."""
        return self._bytes

    @property
    def spool_bytes(self) -> int:
        """Disk space of rows that wait for the store."""
        return self._line.file_bytes

    def waiting(self, table: str) -> bool:
        """Return whether rows of `table` wait, in memory or on the disk, or are in flight."""
        return self._backlogs[table].rows > 0 or self._line.waiting(table)

    @property
    def problem(self) -> str | None:
        """Why rows are not being stored now, None if they are."""
        return self._problem

    @property
    def away_seconds(self) -> float:
        """For how long the store has not accepted rows, or not answered; 0 while all is well."""
        since = [one for one in (self._failing_since, self._attempt_since) if one is not None]
        return time.monotonic() - min(since) if since else 0.0

    @property
    def spool_ratio(self) -> float:
        """How full the spool is."""
        return self.spool_bytes / self._settings.spool_bytes

    @property
    def spool_problem(self) -> str | None:
        """Why rows that should be on the disk wait in memory; None if none do."""
        return self._line.problem

    async def __aenter__(self) -> Self:
        """Lock the spool, connect, and set up the tables.

        If a server does not answer yet, the connection is retried later: rows wait.  Raises StoreError for everything
        else.
        """
        await self._line.open()
        try:
            self._client = await self._call(self._open)
        except StoreUnreachableError as error:
            self._fail(error)
        except BaseException:
            await self._line.close()
            raise
        self._tasks = {
            asyncio.create_task(self._run(), name="store"),
            asyncio.create_task(self._spill(), name="spill"),
        }
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.drain(self._settings.drain_seconds)

    def offer(self, table: str, batch: pa.RecordBatch, /) -> bool:
        """Queue rows of `table`, or drop and count them if the queue is full or the writer is stopping.

        Raises KeyError for a table that does not exist.
        """
        backlog = self._backlogs[table]
        if not batch.num_rows:
            return True
        octets = batch.nbytes
        if self._draining or self._bytes + octets > self._settings.queue_bytes:
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
        self._bytes += octets
        if self._bytes > ROOM * self._settings.queue_bytes:
            self._room.clear()
        self._work.set()
        return True

    async def ready(self) -> None:
        """Wait until there is room again."""
        await self._room.wait()

    async def drain(self, deadline_seconds: float) -> None:
        """Accept no more, store what is in memory, and close; what is left at the deadline goes to the spool.

        An insert whose answer is still awaited goes there, too: the next start repeats it with the same token.
        """
        self._draining = True
        self._work.set()
        if self._problem is not None and self._line.problem is None:
            deadline_seconds = min(deadline_seconds, FAILING_STOP_SECONDS)
        tasks, self._tasks = self._tasks, set()
        hanging: set[asyncio.Future[None]] = set()
        if tasks:
            hanging = await self._stop.wait(tasks, deadline_seconds, reserve_seconds=SPOOL_SECONDS)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for insert in self._line.in_memory():
            await self._keep_at_stop(insert)
        for backlog in self._backlogs.values():
            while backlog.rows:
                await self._keep_at_stop(self._take(backlog))
        await self._line.close()
        self._bytes = 0
        self._room.set()
        client, self._client = self._client, None
        if client is not None and not hanging:  # else its thread may still be busy
            await self._call(client.close)

    async def _keep_at_stop(self, insert: Insert) -> None:
        if not await self._line.keep(insert):
            self._drop(insert.table.name, insert.rows, "stopping")

    def _describe(self, client: Client) -> None:
        """Write the meaning of columns into the store.  Rows do not wait for it: a user may not be allowed to."""
        try:
            described = describe(client, self._settings)
        except driver.Error as error:
            _log.warning("columns are not described", error=first_line(error))
            return
        if described:
            _log.info("columns described", tables=len(described))

    def _open(self) -> Client:
        """Connect; create or check the tables.  Blocks."""
        self._claim()
        client = open_client(self._settings, INSERT_SETTINGS)
        try:
            if self._settings.schema_setup:
                for line in set_up(client, self._settings):
                    _log.info("schema set up", did=line)
                self._describe(client)
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
        """Store one insert after the other."""
        while (insert := await self._next()) is not None:
            await self._store(insert)

    async def _next(self) -> Insert | None:
        """Return the oldest insert, once there is one; None at the stop, when only files are left."""
        while True:
            self._work.clear()
            head = self._line.head
            if self._rollup is not None and (head is None or not head.group):
                # Only an insert that a former run sent has a group before it comes here.
                self._rollup.settled()
            if head is not None:
                return None if self._draining and head.file_bytes else head
            if self._draining and not any(backlog.rows for backlog in self._backlogs.values()):
                return None
            backlog, wait = self._due()
            if backlog is not None:
                return self._take(backlog)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._work.wait()

    def _due(self) -> tuple[Backlog | None, float | None]:
        """Return a table with enough or old enough rows; else the seconds until there is one, None if there are no
        rows."""
        settings = self._settings
        waiting = [backlog for backlog in self._backlogs.values() if backlog.rows]
        if not waiting:
            return None, None
        oldest = min(waiting, key=lambda backlog: backlog.since)
        age = time.monotonic() - oldest.since
        if self._draining or age >= settings.batch_age_seconds:
            return oldest, None
        full = max(waiting, key=lambda backlog: backlog.rows)
        if full.rows >= settings.batch_rows:
            return full, None
        return None, settings.batch_age_seconds - age

    def _take(self, backlog: Backlog) -> Insert:
        return self._line.add(backlog.table, backlog.take(self._settings.batch_rows))

    async def _spill(self) -> None:
        """Write to the disk what is due while the store does not accept it; it then waits behind all older rows."""
        while not self._draining:
            await asyncio.sleep(SPILL_SECONDS)
            while self._late():
                insert = self._line.unwritten
                if insert is None:
                    backlog, _ = self._due()
                    if backlog is None:
                        break
                    insert = self._take(backlog)
                if not await self._line.keep(insert):
                    break  # the disk is full: once more after a pause

    def _late(self) -> bool:
        """Return whether rows must not wait in memory: others wait before them, or the store fails or hangs."""
        if self._line.head is None or self._draining:
            return False
        since = self._attempt_since
        hanging = since is not None and time.monotonic() - since > self._settings.spool_after_seconds
        return len(self._line) > 1 or self._problem is not None or hanging

    async def _store(self, insert: Insert) -> None:
        """Store an insert; after an error that is not the rows' fault, retry as often as necessary."""
        rollup = self._rollup if insert.table is FLOWS else None
        for pause in self._pauses():
            self._attempt_since = begun = time.monotonic()
            try:
                batches = await self._line.rows(insert)
                await self._attempt(insert, batches, rollup)
            except Exception as error:  # noqa: BLE001 - every kind of failure must leave the writer running
                self._attempt_since = None
                batches = []  # kept in a file or given up, the rows need not be in memory
                free_rows_of(error)
                if self._patience.again(error, insert.table.name):
                    self._fail(error)
                    self._retries.labels(insert.table.name).inc()
                    await self._line.keep(insert)
                    await asyncio.sleep(pause)
                    continue
                self._refused(insert, error)
            else:
                self._done(insert.table, batches, insert.rows, time.monotonic() - begun)
            self._attempt_since = None
            group = insert.group
            await self._line.finish(insert)
            if rollup is not None and group:
                await rollup.stored(group, batches)
            return

    async def _attempt(self, due: Insert, batches: list[pa.RecordBatch], rollup: Rollup | None) -> None:
        """Try to store an insert once.  Raises what prevents it."""
        if self._client is None:
            try:
                self._client = await self._call(self._open)
            except Exception as error:
                # Whatever is wrong with the store, the rows are not the cause.
                raise StoreUnreachableError(first_line(error)) from error
        if rollup is not None and not due.group:
            # Requested once: an attempt whose answer was lost may have stored the rows with this number.
            await self._line.assign(due, await rollup.group())
        await self._call(insert_block, self._client, due.table, batches, due.token, due.group)

    def _pauses(self) -> Iterator[float]:
        """Yield the seconds to wait after each failed attempt: doubling, shortened at random so that writers do not
        retry in step."""
        longest = self._settings.max_retry_seconds
        pause = self._settings.min_retry_seconds
        while True:
            yield min(pause, longest) * random.uniform(0.5, 1)  # noqa: S311 - not a secret
            pause = min(pause * 2, longest)

    def _done(self, table: Table, batches: list[pa.RecordBatch], rows: int, seconds: float) -> None:
        if self._problem is not None:
            _log.sampled("rows are being stored again", key=table.name, severity="info")
        self._problem = None
        self._failing_since = None
        self._stored.labels(table.name).inc(rows)
        self._batches.labels(table.name).inc()
        self._seconds.labels(table.name).observe(seconds)
        if "time_received" in batches[0].schema.names:
            oldest = min(pc.min(batch.column("time_received").cast(pa.int64())).as_py() for batch in batches)
            self._lag.observe(max(0.0, time.time() - oldest / 1e6))

    def _fail(self, error: BaseException) -> None:
        if self._failing_since is None:
            self._failing_since = time.monotonic()
        self._problem = first_line(error)
        _log.sampled("the store does not take rows: they wait", key=type(error).__name__, error=self._problem)

    def _refused(self, insert: Insert, error: BaseException) -> None:
        reason = "spool_broken" if isinstance(error, BrokenSegmentError) else "refused"
        table, problem = insert.table.name, first_line(error)
        _log.sampled("rows dropped", key=table, severity="error", reason=reason, rows=insert.rows, error=problem)
        self._drop(table, insert.rows, reason)

    def _freed(self, octets: int) -> None:
        """Note that rows of this size have left memory."""
        self._bytes = max(0, self._bytes - octets)
        if self._bytes <= ROOM * self._settings.queue_bytes:
            self._room.set()

    def _drop(self, table: str, rows: int, reason: str) -> None:
        self.dropped_rows += rows
        self._dropped.labels(table, reason).inc(rows)
