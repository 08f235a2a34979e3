"""Notify subscribers of the windows that have closed, after computing what is due for them.

    received rows ──► observe ──► Watermark ──► latency query ──► subscribers, one after the other
    clock ────────────────────────┘             with a deadline    each with a deadline

A store that is slow, stuck or absent costs its own results, never a window: results given up are counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Self

from clickhouse_connect.driver import Client

from collector.analyze.latency import LatencyRules, Result, store_latency
from collector.analyze.settings import AnalyzeSettings
from collector.analyze.watermark import SECOND_US, SHORTEST, Watermark, WatermarkRules
from collector.interfaces import Call, Clock, OnWindowClosed, Watched, WindowClosed
from collector.log import get_log
from collector.metrics import Metrics
from collector.stopping import cancel
from collector.store_errors import first_line
from collector.store_reader import KeptClient
from schemas.rollups import LEVEL_US

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)

STALE_WINDOWS = 6
"""Latency of a window this many windows behind the watermark is not computed any more: after a pause the service must
catch up, not run an hour's queries."""

_log = get_log("analyze")


class Windows:
    """The stage that closes windows.  A component: entering starts to watch, leaving ends it without closing more
    windows.

    All methods are for the event loop's thread.  `connect` opens a client with the service's database selected; it
    blocks, and is called through `call`.  `clock_us` is the system clock, µs since 1970.  `waiting` returns whether
    rows were received that are not in the rollups yet, `reach_us` how long before its receipt a record begins, `former`
    what the previous run watched.
    """

    def __init__(
        self,
        settings: AnalyzeSettings,
        metrics: Metrics,
        call: Call,
        connect: Callable[[], Client],
        *,
        clock_us: Clock,
        waiting: Callable[[], bool] = lambda: False,
        reach_us: Callable[[], int] = lambda: 0,
        former: Callable[[], Watched | None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._waiting = waiting
        self._reach_us = reach_us
        self._former = former
        self._call = call
        self._client = KeptClient(connect)
        self._clock_us = clock_us
        self._watermark = Watermark(
            WatermarkRules(
                lateness_us=round(settings.lateness_seconds * SECOND_US),
                idle_us=round(settings.idle_seconds * SECOND_US),
                step_us=round(settings.clock_step_seconds * SECOND_US),
                catch_up_windows=settings.catch_up_windows,
            )
        )
        self._rules = LatencyRules.of(settings)
        self._subscribers: list[tuple[str, OnWindowClosed]] = []
        self._late_subscribers: list[Callable[[int], None]] = []
        self._query: asyncio.Future[Result] | None = None
        """The latency query under way: still set after its deadline, for as long as its thread is busy."""
        self._task: asyncio.Task[None] | None = None
        self._counted = {"late": 0, **dict.fromkeys(LEVEL_US, 0)}
        self._declare(metrics)

    def _declare(self, metrics: Metrics) -> None:
        mark = self._watermark
        self._closed = metrics.counter("windows_closed_total", "Windows closed.", ("level",))
        self._skipped = metrics.counter(
            "windows_skipped_total", "Windows passed over after a pause too long to catch up.", ("level",)
        )
        for level in LEVEL_US:
            self._closed.labels(level)
            self._skipped.labels(level)
        self._late = metrics.counter(
            "windows_late_batches_total", "Batches with rows of a window that had already closed."
        )
        metrics.gauge("windows_watermark_seconds", "Rows older than this are late; seconds since 1970.").set_function(
            lambda: mark.time_us / SECOND_US
        )
        metrics.gauge("windows_epoch", "1, plus how often the system clock was set back.").set_function(
            lambda: mark.epoch
        )
        self._failures = metrics.counter(
            "windows_subscriber_failures_total",
            "Closed windows that a subscriber did not finish.",
            ("subscriber", "reason"),
        )
        self._latency_runs = metrics.counter(
            "latency_runs_total",
            "Windows whose latency was worked out (ok), or not: the store answered with an error (failed) or too late "
            "(deadline), was still busy with a window before (busy), there were too many records (too_many), or the "
            "window was too old (stale).",
            ("result",),
        )
        for result in (*Result, "failed", "deadline", "busy", "stale"):
            self._latency_runs.labels(result)
        self._latency_time = metrics.histogram("latency_query_seconds", "Time of one latency query.", SECONDS)

    def subscribe(self, name: str, callback: OnWindowClosed) -> None:
        """Call `callback` for each window that closes from now on; `name` is a metric label.

        Subscribers are called one after the other, in the order in which they subscribed.
        """
        self._subscribers.append((name, callback))
        for reason in ("error", "deadline"):
            self._failures.labels(name, reason)

    def observe(self, newest_time_us: int, oldest_time_us: int) -> None:
        """Note that rows received between these two times are in the rollups."""
        self._watermark.observe(newest_time_us, oldest_time_us)
        begins_us = oldest_time_us - self._reach_us()
        if begins_us < self._watermark.closed_us:
            for callback in self._late_subscribers:
                callback(begins_us)

    def subscribe_late(self, callback: Callable[[int], None]) -> None:
        """Call `callback` when rows are in the rollups that may belong to closed windows, with the time (µs since 1970)
        at which the oldest of them may begin."""
        self._late_subscribers.append(callback)

    @property
    def watched_us(self) -> int:
        """Since when windows are watched completely, µs since 1970; 0 before the first look at the clock."""
        return self._watermark.watched_us

    @property
    def closed_us(self) -> int:
        """All windows that end until then have closed, µs since 1970; 0 before the first look at the clock."""
        return self._watermark.closed_us

    async def __aenter__(self) -> Self:
        self._watermark.follow(self._former())
        self._task = asyncio.create_task(self._run(), name="windows")
        return self

    async def __aexit__(self, *error: object) -> None:
        task, self._task = self._task, None
        await cancel(task)
        if self._client.is_open and (self._query is None or self._query.done()):
            await self._call(self._client.close)

    async def _run(self) -> None:
        while True:
            for window in self._watermark.advance(self._clock_us(), self._waiting(), self._reach_us()):
                await self._close(window)
            self._count()
            await asyncio.sleep(self._settings.check_seconds)

    def _count(self) -> None:
        """Update the counters to what the watermark has seen."""
        mark = self._watermark
        self._late.inc(mark.late - self._counted["late"])
        for level, skipped in mark.skipped.items():
            self._skipped.labels(level).inc(skipped - self._counted[level])
        self._counted = {"late": mark.late, **mark.skipped}

    async def _close(self, window: WindowClosed) -> None:
        if window.level == SHORTEST and self._settings.latency_enabled:
            await self._latency(window)
        for name, callback in self._subscribers:
            try:
                async with asyncio.timeout(self._settings.subscriber_seconds):
                    await callback(window)
            except TimeoutError:
                self._failures.labels(name, "deadline").inc()
                _log.sampled("a subscriber was too slow over a window", key=name, level=window.level)
            except Exception as error:  # noqa: BLE001 - one subscriber's defect must not take the others' windows
                self._failures.labels(name, "error").inc()
                _log.sampled("a subscriber failed over a window", key=name, level=window.level, error=repr(error))
        self._closed.labels(window.level).inc()

    async def _latency(self, window: WindowClosed) -> None:
        """Compute the latency of a window, unless the store is stuck or the window is old; wait up to the deadline."""
        late = window.end_us + STALE_WINDOWS * LEVEL_US[SHORTEST] < self._watermark.time_us
        if late or window.end_us <= self._watermark.began_us:
            self._latency_runs.labels("stale").inc()
            return
        if self._query is not None and not self._query.done():
            self._latency_runs.labels("busy").inc()
            return
        begun = time.monotonic()
        since_us = self._watermark.began_us
        self._query = asyncio.ensure_future(self._call(self._store_latency, window.start_us, window.end_us, since_us))
        self._query.add_done_callback(_retrieve)
        # Shielded by `wait`: a call that has begun cannot be stopped from outside, only awaited or not.
        done, _ = await asyncio.wait({self._query}, timeout=self._settings.latency_seconds)
        if not done:
            self._latency_runs.labels("deadline").inc()
            _log.sampled("latency of a window given up: the store is slow", key="deadline")
        elif (error := self._query.exception()) is not None:
            self._latency_runs.labels("failed").inc()
            _log.sampled("latency of a window not worked out", key=type(error).__name__, error=first_line(error))
        else:
            self._latency_runs.labels(self._query.result()).inc()
            self._latency_time.observe(time.monotonic() - begun)

    def _store_latency(self, start_us: int, end_us: int, since_us: int) -> Result:
        """Compute the latency.  Blocks.  Raises the driver's errors, with the connection closed."""
        with self._client.use() as client:
            return store_latency(client, start_us, end_us, since_us, self._rules)


def _retrieve(query: asyncio.Future[Result]) -> None:
    """Retrieve the exception of a query that is no longer awaited, so that asyncio does not log it."""
    if not query.cancelled():
        query.exception()
