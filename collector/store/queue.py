"""The queue of inserts before the store, oldest first: each in memory, in a file of the spool, or both."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from uuid import uuid4

import pyarrow as pa

from collector.interfaces import Call
from collector.log import get_log
from collector.metrics import Metrics
from collector.store.settings import StoreSettings
from collector.store.spool import Insert, Spool
from collector.store_errors import first_line
from schemas.column import Table
from schemas.tables import TABLES

_log = get_log("spool")


class InsertQueue:
    """The queue, for the event loop's thread; disk access goes through `call`, one call at a time."""

    def __init__(
        self,
        settings: StoreSettings,
        metrics: Metrics,
        call: Call,
        *,
        lost: Callable[[str, int, str], None],
        freed: Callable[[int], None],
    ) -> None:
        """`lost` counts rows of a table by reason; `freed` is called with the octets of rows that have left memory."""
        self._limit = settings.spool_bytes
        self._call = call
        self._lost = lost
        self._freed = freed
        self._spool = Spool(settings.spool, fsync=settings.spool_fsync == "segment")
        self._inserts: deque[Insert] = deque()
        self._by_table = dict.fromkeys((table.name for table in TABLES), 0)
        self._disk = asyncio.Lock()
        """Held while a file is written, renamed, read or removed, so that the state here matches the disk."""
        self._run = uuid4().hex
        self._number = 0
        self.file_bytes = 0
        """Disk space that the files take."""
        self.problem: str | None = None
        """Why rows that should be on the disk wait in memory; None if none do."""
        self._declare(metrics)

    def _declare(self, metrics: Metrics) -> None:
        metrics.gauge("spool_bytes", "Disk that rows take which the store has not taken yet.").set_function(
            lambda: self.file_bytes
        )
        metrics.gauge("spool_limit_bytes", "With more on the disk, the oldest rows are dropped.").set(self._limit)
        metrics.gauge("spool_inserts", "Inserts waiting for the store, in memory and on the disk.").set_function(
            lambda: len(self._inserts)
        )
        self._written = metrics.counter("spool_rows_total", "Rows written to the disk.", ("table",))
        self._failures = metrics.counter("spool_failures_total", "Files that could not be written or removed.")
        self._halves = metrics.counter(
            "spool_half_files_total", "Half-written files found at the start: their rows were never taken over."
        )

    def __len__(self) -> int:
        return len(self._inserts)

    @property
    def head(self) -> Insert | None:
        """The oldest insert: the one to store next, or being stored."""
        return self._inserts[0] if self._inserts else None

    @property
    def unwritten(self) -> Insert | None:
        """The oldest insert without a file.  Only the head and the newest can have none: others wait in their files."""
        ends = (self._inserts[0], self._inserts[-1]) if self._inserts else ()
        return next((insert for insert in ends if not insert.file_bytes), None)

    def waiting(self, table: str) -> bool:
        """Return whether rows of `table` are in the queue."""
        return self._by_table[table] > 0

    def in_memory(self) -> Iterator[Insert]:
        """Inserts that would be lost if the process ended now."""
        return (insert for insert in tuple(self._inserts) if not insert.file_bytes)

    async def open(self) -> None:
        """Lock the spool's directory and take over what a former run left there.  Raises StoreError."""
        inserts, halves = await self._call(self._spool.open)
        for insert in inserts:
            self._inserts.append(insert)
            self._by_table[insert.table.name] += 1
            self.file_bytes += insert.file_bytes
        self._number = inserts[-1].number if inserts else 0
        self._halves.inc(halves)
        if inserts or halves:
            _log.info(
                "rows of a former run wait for the store",
                inserts=len(inserts),
                rows=sum(insert.rows for insert in inserts),
                half_files=halves,
            )

    async def close(self) -> None:
        """Release the directory; files stay for the next start."""
        await self._call(self._spool.close)

    def add(self, table: Table, batches: list[pa.RecordBatch]) -> Insert:
        """Append rows from memory to the queue."""
        self._number += 1
        rows = sum(batch.num_rows for batch in batches)
        octets = sum(batch.nbytes for batch in batches)
        insert = Insert(self._number, table, rows, self._run, batches=batches, queue_bytes=octets)
        self._inserts.append(insert)
        self._by_table[table.name] += 1
        return insert

    async def rows(self, insert: Insert) -> list[pa.RecordBatch]:
        """Return the rows of the head, from memory or its file.  Raises BrokenSegmentError or OSError."""
        if insert.batches is None:
            async with self._disk:
                insert.batches = await self._call(self._spool.read, insert)
        return insert.batches

    async def assign(self, insert: Insert, group: int) -> None:
        """Give an insert its group, in its file's name too: before its first attempt.  Raises OSError."""
        async with self._disk:
            if insert.file_bytes:
                await self._call(self._spool.assign, insert, group)
            insert.group = group

    async def keep(self, insert: Insert) -> bool:
        """Write an insert to the disk, unless it is there already.  A failure is counted, and returns False."""
        async with self._disk:
            if insert.file_bytes or insert.batches is None:
                return True
            try:
                insert.file_bytes = await self._call(self._spool.write, insert)
            except Exception as error:  # noqa: BLE001 - the rows stay in memory, whatever the disk says
                self._failures.inc()
                self.problem = first_line(error)
                _log.sampled(
                    "rows cannot be written to the spool: they wait in memory", key="write", error=self.problem
                )
                return False
            self.problem = None
            self.file_bytes += insert.file_bytes
            self._written.labels(insert.table.name).inc(insert.rows)
            if insert is not self.head:
                insert.batches = None
                self._free(insert)
            await self._make_room()
        return True

    async def finish(self, insert: Insert) -> None:
        """Remove the head: it is stored, or given up."""
        async with self._disk:
            await self._forget(insert)
        if not self._inserts:
            self.problem = None

    async def _make_room(self) -> None:
        """Drop the oldest inserts while the files take more than the limit; never the head: it may be stored."""
        while self.file_bytes > self._limit:
            behind = (self._inserts[at] for at in range(1, len(self._inserts)))
            oldest = next((insert for insert in behind if insert.file_bytes), None)
            if oldest is None:
                return
            _log.sampled("the spool is full: the oldest rows are dropped", key="full", limit_bytes=self._limit)
            self._lost(oldest.table.name, oldest.rows, "spool_full")
            await self._forget(oldest)

    async def _forget(self, insert: Insert) -> None:
        self._inserts.remove(insert)
        self._by_table[insert.table.name] -= 1
        insert.batches = None
        self._free(insert)
        if insert.file_bytes:
            self.file_bytes -= insert.file_bytes
            try:
                await self._call(self._spool.remove, insert)
            except OSError as error:
                self._failures.inc()
                _log.sampled(
                    "remove this file by hand, or its rows are sent again at the next start",
                    severity="error",
                    file=insert.file_name,
                    error=first_line(error),
                )

    def _free(self, insert: Insert) -> None:
        octets, insert.queue_bytes = insert.queue_bytes, 0
        self._freed(octets)
