"""Rollups: the stored rows of `flows`, summed per window and pair in memory, and the sums stored about every 10 s.

    writer ── group? ──► opened in the store                       so that a service that is killed finds, at its next
       │                                                            start, the rows that it stored but did not sum
       └─ stored ──► PairSums.add ──► window over, or memory full ──► take ──► insert into `pair_10s_in` ──► done
                     one thread                                              a thread with its own connection

Every row that the store acknowledged is summed once: the sums of a group have one deduplication token, and what is
not marked `done` is read back from `flows` and summed again with the same token.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
from clickhouse_connect.driver import Client

from collector.interfaces import Call, Clock
from collector.log import get_log
from collector.metrics import Metrics
from collector.rollup.groups import GroupStore, StoreRows
from collector.rollup.settings import RollupSettings
from collector.rollup.sums import PairSums, warm_up
from collector.stopping import cancel
from collector.store_errors import first_line
from schemas.rollups import LEVELS

SECOND_US = 1_000_000
WINDOW_US = LEVELS["10s"] * SECOND_US
CHECK_SECONDS = 0.5

NO_TABLES_YET = (60, 81)
"""ClickHouse error codes for an unknown table and an unknown database: the writer creates them when it starts."""

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)

_log = get_log("rollup")


@dataclass
class RollupGroup:
    """Inserts whose sums are stored together."""

    number: int
    opened: float = 0.0
    """By the monotonic clock."""
    end_us: int = 0
    """Rows received this late end the group."""
    rows: int = 0
    newest_us: int = 0
    oldest_us: int = 0
    """Times of receipt."""
    broken: bool = False
    """Some rows could not be summed: all will be read back."""
    sums: pa.RecordBatch | None = None
    """None: to be read back from the store."""


class Rollups:
    """The stage that sums stored rows.  A component, and the writer's `Rollup`.

    Must start before the writer and stop after it.  `sum_call` and `store_call` run blocking calls on two workers;
    `connect` opens a client with the service's database selected; `store_rows` inserts; `again` returns whether to
    retry after an error of the store; `rolled` is called with the newest and oldest time of receipt of rows whose sums
    are stored.  A group of inserts ends when rows are stored that were received `lateness_seconds` after the end of a
    window, or by the clock `idle_seconds` later.  `key` is the secret of `PairSums`.
    """

    def __init__(
        self,
        settings: RollupSettings,
        metrics: Metrics,
        sum_call: Call,
        store_call: Call,
        connect: Callable[[], Client],
        store_rows: StoreRows,
        again: Callable[[BaseException], bool],
        rolled: Callable[[int, int], None],
        *,
        lateness_seconds: float,
        idle_seconds: float,
        clock_us: Clock,
        key: int,
    ) -> None:
        self._settings = settings
        self._key = key
        self._lateness_us = round(lateness_seconds * SECOND_US)
        self._idle_us = round(idle_seconds * SECOND_US)
        self._sum_call = sum_call
        self._store_call = store_call
        self._store = GroupStore(settings.service, connect, store_rows)
        self._again = again
        self._rolled = rolled
        self._clock_us = clock_us
        self._sums = PairSums(settings.max_sums, settings.max_connections, key=key)
        self._open: RollupGroup | None = None
        self._ours: set[int] | None = set()
        """Groups opened before what a former run left is known; None from then on."""
        self._settled = asyncio.Event()
        """No insert of a former run is in doubt: its groups have all the rows that they will ever have."""
        self._held = False
        """An insert with the open group's number is under way."""
        self._to_sum: asyncio.Queue[tuple[RollupGroup, Sequence[pa.RecordBatch]]] = asyncio.Queue()
        """Rows to sum, in order; no batches: the group has ended, take its sums."""
        self._summed_some = asyncio.Event()
        self._ending = 0
        """Groups that have ended, whose sums are not taken yet."""
        self._waiting: deque[RollupGroup] = deque()
        """Groups whose sums are to be stored, oldest first."""
        self._work = asyncio.Event()
        self._flushed = asyncio.Event()
        """No sums wait for the store."""
        self._flushed.set()
        self._tasks: list[asyncio.Task[None]] = []
        self._summed = metrics.counter("rollup_rows_total", "Rows of flows whose sums are stored.")
        self._groups = metrics.counter("rollup_groups_total", "Groups of inserts, by how they ended.", ("result",))
        for result in ("done", "read_back", "failed"):
            self._groups.labels(result)
        self._unsummed = metrics.counter(
            "rollup_unsummed_rows_total", "Stored rows that are in no rollup: too many sums at once, or sums refused."
        )
        self._retries = metrics.counter("rollup_retries_total", "Inserts of sums tried again.")
        self._add_time = metrics.histogram("rollup_add_seconds", "Time to sum the rows of one insert.", SECONDS)
        self._store_time = metrics.histogram("rollup_store_seconds", "Time to store the sums of a group.", SECONDS)
        metrics.gauge("rollup_waiting_groups", "Groups whose sums wait for the store.").set_function(
            lambda: len(self._waiting)
        )

    @property
    def pending(self) -> bool:
        """Whether stored rows wait to be summed, or their sums to be stored."""
        summing = self._held or not self._to_sum.empty() or (self._open is not None and self._open.rows > 0)
        return summing or self._ending > 0 or bool(self._waiting)

    @property
    def recovering(self) -> bool:
        """Whether what a former run left is still unknown."""
        return self._ours is not None

    async def __aenter__(self) -> Self:
        steps = {"sum": self._sum_all(), "flush": self._flush(), "watch": self._watch()}
        self._tasks = [asyncio.create_task(step, name=f"rollup-{name}") for name, step in steps.items()]
        return self

    async def __aexit__(self, *error: object) -> None:
        # A group with an unanswered insert stays open: the next start reads it back.
        self._end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.stop_seconds):
                await self._to_sum.join()
                await self._flushed.wait()
        tasks, self._tasks = self._tasks, []
        await cancel(*tasks)
        if self.pending:
            _log.info("sums left for the next start")
            return  # the worker may still be busy with them
        await self._store_call(self._store.close)

    async def group(self) -> int:
        """Return the number of the open group, stored before any row has it.  Raises the driver's errors."""
        if self._open is None:
            number = secrets.randbits(63) | 1
            if self._ours is not None:
                self._ours.add(number)
            await self._store_call(self._store.open, number)
            self._open = RollupGroup(number, opened=time.monotonic())
        self._held = True
        return self._open.number

    async def stored(self, group: int, batches: Sequence[pa.RecordBatch], /) -> None:
        """Sum these rows, while the writer goes on; wait while rows of more than one insert are not summed."""
        # No await before the rows are queued, or the group might end without them.
        self._held = False
        opened = self._open
        if opened is None or opened.number != group or not batches:
            return
        self._note(opened, batches)
        self._to_sum.put_nowait((opened, batches))
        if opened.newest_us >= opened.end_us or self._sums.full:
            self._end()
        while self._to_sum.qsize() > 1:
            self._summed_some.clear()
            await self._summed_some.wait()

    def settled(self) -> None:
        """Note that what a former run sent is stored or given up: its groups can be read back."""
        self._settled.set()

    def _note(self, group: RollupGroup, batches: Sequence[pa.RecordBatch]) -> None:
        """Note the times of receipt."""
        spans = [pc.min_max(batch.column("time_received").cast(pa.int64())).as_py() for batch in batches]
        newest, oldest = max(span["max"] for span in spans), min(span["min"] for span in spans)
        if not group.rows:
            group.end_us = ((newest - self._lateness_us) // WINDOW_US + 1) * WINDOW_US + self._lateness_us
            group.oldest_us = oldest
        group.newest_us = max(group.newest_us, newest)
        group.oldest_us = min(group.oldest_us, oldest)
        group.rows += sum(batch.num_rows for batch in batches)

    def _end(self) -> None:
        """End the open group, unless an insert with its number is under way."""
        group = self._open
        if group is None or self._held or not group.rows:
            return
        self._open = None
        self._ending += 1
        self._to_sum.put_nowait((group, ()))

    async def _watch(self) -> None:
        """End groups by the clock where no rows come."""
        longest = (WINDOW_US + self._lateness_us + self._idle_us) / SECOND_US
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            group = self._open
            if group is None:
                continue
            idle_us = self._clock_us() - self._idle_us
            # The second condition is for a clock that was set back.
            if idle_us >= group.end_us or time.monotonic() - group.opened > longest:
                self._end()

    async def _sum_all(self) -> None:
        """Sum rows and take sums, in the order in which they were stored."""
        try:
            await self._sum_call(warm_up)
        except Exception as error:  # noqa: BLE001 - what cannot be compiled fails again, and is counted, with rows
            _log.error("sums not compiled", error=repr(error)[:300])
        while True:
            group, batches = await self._to_sum.get()
            if batches:
                await self._sum(group, batches)
            else:
                await self._take(group)
            self._to_sum.task_done()
            self._summed_some.set()

    async def _sum(self, group: RollupGroup, batches: Sequence[pa.RecordBatch]) -> None:
        begun = time.monotonic()
        try:
            group.broken |= not await self._sum_call(self._add, batches)
        except Exception as error:  # noqa: BLE001 - a defect here must not stop rows
            group.broken = True
            _log.sampled("rows not summed: they will be read back", key=type(error).__name__, error=repr(error)[:300])
        self._add_time.observe(time.monotonic() - begun)

    def _add(self, batches: Sequence[pa.RecordBatch]) -> bool:
        """Return whether all rows found room.  Blocks."""
        return all(self._sums.add(batch) is None for batch in batches)

    async def _take(self, group: RollupGroup) -> None:
        try:
            sums = await self._sum_call(self._sums.take)
        except Exception as error:  # noqa: BLE001 - as above
            # What the sums still hold would count in the next group.
            self._sums = PairSums(self._settings.max_sums, self._settings.max_connections, key=self._key)
            _log.sampled("sums not taken: rows will be read back", key=type(error).__name__, error=repr(error)[:300])
        else:
            if not group.broken and len(self._waiting) < self._settings.waiting_groups:
                group.sums = sums
        self._ending -= 1
        self._waiting.append(group)
        self._flushed.clear()
        self._work.set()

    async def _flush(self) -> None:
        """Store the sums of groups, oldest first, retrying as often as necessary."""
        await self._recover()
        while True:
            while self._waiting:
                await self._finish(self._waiting[0])
                self._waiting.popleft()
            self._flushed.set()
            self._work.clear()
            await self._work.wait()

    async def _recover(self) -> None:
        """Find what a former run left."""
        await self._settled.wait()
        while True:
            try:
                numbers = await self._store_call(self._store.left_open)
            except Exception as error:  # noqa: BLE001 - the store may not be there yet
                if getattr(error, "code", None) in NO_TABLES_YET:
                    await asyncio.sleep(CHECK_SECONDS)
                    continue
                _log.sampled(
                    "the store does not say yet which sums are missing", key="recover", error=first_line(error)
                )
                await asyncio.sleep(self._settings.retry_seconds)
                continue
            ours, self._ours = self._ours or set(), None
            left = [RollupGroup(number) for number in numbers if number not in ours]
            if left:
                _log.info("summing rows that a former run stored", groups=len(left))
            self._waiting.extendleft(reversed(left))
            if left:
                self._flushed.clear()
            return

    async def _finish(self, group: RollupGroup) -> None:
        begun = time.monotonic()
        read_back = group.sums is None
        while True:
            try:
                state = await self._store_call(self._finish_blocking, group)
                break
            except Exception as error:  # noqa: BLE001 - every kind of failure must leave the rollups running
                if not self._again(error):
                    _log.sampled(
                        "sums refused by the store", severity="error", group=group.number, error=first_line(error)
                    )
                    state = "failed"
                    self._unsummed.inc(group.rows)
                    with contextlib.suppress(Exception):  # then it stays open, and is retried at the next start
                        await self._store_call(self._store.end, group.number, state, group.rows)
                    break
                self._retries.inc()
                _log.sampled("sums wait for the store", key=type(error).__name__, error=first_line(error))
                await asyncio.sleep(self._settings.retry_seconds)
        self._groups.labels("read_back" if read_back and state == "done" else state).inc()
        if state == "done":
            self._summed.inc(group.rows)
            self._store_time.observe(time.monotonic() - begun)
        if group.newest_us:
            self._rolled(group.newest_us, group.oldest_us)

    def _finish_blocking(self, group: RollupGroup) -> str:
        sums = group.sums
        if sums is None:
            # A group ends when three quarters of the room are taken: twice the room holds all that came after.
            again = PairSums(2 * self._settings.max_sums, 2 * self._settings.max_connections, key=self._key)
            over = self._store.read_back(group.number, again)
            self._unsummed.inc(over)
            group.rows = again.rows
            sums = again.take()
        if sums.num_rows:
            self._store.store(group.number, sums)
        self._store.end(group.number, "done", group.rows)
        return "done"
