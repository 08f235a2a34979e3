"""Takes batches of agents' results: each once, over retries and restarts of either side.

An agent numbers its batches, and tries one until it has an answer, so what it sends is newer than what was taken of the
same run of it, or the same.  The last number of each run is kept here, and is in the rows: after a start the store is
asked once, when all that a former run of the service left is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pyarrow as pa

from collector.interfaces import Call, Clock, EndNamer, ResultsRefusedError, Sink
from collector.log import get_log
from collector.metrics import Metrics
from collector.probe.results import MOST_AGE_US, Results, ResultsError, parse
from collector.store_errors import first_line
from collector.store_reader import Bounds
from schemas.probes import PROBES

AT_ONCE = 8
"""Batches that are held at a time: 8 MiB, and a multiple of that while one is read."""
BUSY_SECONDS, UNSURE_SECONDS = 1, 2
"""When an agent may come again: there was no room, or the store has not said what it has."""
ROWS_PER_SECOND, ROWS_AT_ONCE = 50.0, 20_000.0
"""Rows of an agent: 500 sessions, and what it kept while there was no collector."""
MOST_RUNS = 8
"""Runs of an agent whose last batch is remembered."""
BOUNDS = Bounds(seconds=60)
KNOWN = (
    "SELECT agent, boot, max(batch) AS last FROM probes WHERE time >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') "
    "GROUP BY agent, boot ORDER BY max(time)"
)

_log = get_log("probe")

Rows = Callable[[str, dict[str, Any]], Awaitable[list[dict[str, Any]]]]
"""Asks the store: SQL, parameters."""


class Intake:
    """The intake.  `call` runs a function on a thread; `left` says whether rows of a former run wait for the store."""

    def __init__(
        self,
        metrics: Metrics,
        call: Call,
        sink: Sink,
        name: EndNamer,
        rows: Rows,
        left: Callable[[], bool],
        *,
        clock_us: Clock,
    ) -> None:
        self._call = call
        self._sink = sink
        self._name = name
        self._rows = rows
        self._left = left
        self._clock_us = clock_us
        self._places = AT_ONCE
        self._turn = asyncio.Lock()
        self._last: defaultdict[str, OrderedDict[int, int]] = defaultdict(OrderedDict)
        """Last batch of each run of each agent; agents are as many as tokens."""
        self._asked = False
        self._allowance: dict[str, tuple[float, int]] = {}
        """Rows that an agent may send, and as of when (µs)."""
        self._batches = metrics.counter(
            "probe_batches_total", "Batches of agents' results, by what happened to them.", ("outcome",)
        )
        self._taken = metrics.counter("probe_rows_total", "Rows of agents' results that were taken.")
        for outcome in ("taken", "known", "invalid", "rate", "busy", "unsure", "queue_full"):
            self._batches.labels(outcome)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places.  Raises ResultsRefusedError."""
        if not self._places:
            raise self._refuse("busy", 503, "too many batches at once", BUSY_SECONDS)
        self._places -= 1
        try:
            yield
        finally:
            self._places += 1

    async def take(self, agent: str, body: bytes, /) -> int:
        """Take a batch; return its rows.  Raises ResultsRefusedError."""
        async with self._turn:
            await self._ask()
            now_us = self._clock_us()
            try:
                results, rows = await self._call(self._read, agent, body, now_us)
            except ResultsError as error:
                _log.sampled("results of an agent refused", key=agent, agent=agent, error=str(error))
                raise self._refuse("invalid", 422, str(error)) from error
            runs = self._last[agent]
            if results.batch <= runs.get(results.boot, 0):
                raise self._refuse("known", 409, "the batch was taken before")
            self._allow(agent, results.rows, now_us)
            if not self._sink.offer(PROBES.name, rows):
                raise self._refuse("queue_full", 503, "the store takes no more", BUSY_SECONDS)
            self._remember(agent, results.boot, results.batch)
            self._allowance[agent] = (self._allowance[agent][0] - results.rows, now_us)
        self._batches.labels("taken").inc()
        self._taken.inc(results.rows)
        return results.rows

    def _read(self, agent: str, body: bytes, now_us: int) -> tuple[Results, pa.RecordBatch]:
        results = parse(body, now_us)
        return results, self._name(results.table(agent))

    async def _ask(self) -> None:
        """Learn from the store what was taken before the start.  Raises ResultsRefusedError until it has said so."""
        if self._asked:
            return
        if self._left():
            raise self._refuse("unsure", 503, "rows of a former run are not stored yet", UNSURE_SECONDS)
        try:
            found = await self._rows(KNOWN, {"since": self._clock_us() - MOST_AGE_US})
        except Exception as error:
            _log.sampled("the store does not say which results it has: agents wait", error=first_line(error))
            raise self._refuse("unsure", 503, "the store does not answer", UNSURE_SECONDS) from error
        for row in found:
            self._remember(row["agent"], row["boot"], row["last"])
        self._asked = True

    def _remember(self, agent: str, boot: int, batch: int) -> None:
        runs = self._last[agent]
        runs[boot] = batch
        runs.move_to_end(boot)
        while len(runs) > MOST_RUNS:
            runs.popitem(last=False)

    def _allow(self, agent: str, rows: int, now_us: int) -> None:
        """Fill the agent's bucket.  Raises ResultsRefusedError if there are not so many in it."""
        there, since_us = self._allowance.get(agent, (ROWS_AT_ONCE, now_us))
        there = min(ROWS_AT_ONCE, there + max(0, now_us - since_us) * ROWS_PER_SECOND / 1e6)
        self._allowance[agent] = (there, now_us)
        if there < rows:
            seconds = int((rows - there) / ROWS_PER_SECOND) + 1
            raise self._refuse("rate", 429, f"more than {ROWS_PER_SECOND:g} rows/s of this agent", seconds)

    def _refuse(self, outcome: str, status: int, message: str, seconds: int = 0) -> ResultsRefusedError:
        self._batches.labels(outcome).inc()
        return ResultsRefusedError(status, message, seconds)
