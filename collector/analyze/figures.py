"""Evaluate closed windows of a minute and an hour once, and store the figures (`schemas.figures`).

    window closed ──► settled ──► which are new or changed? ──► evaluate in parts ──► rows ──► VMs, ──► version that
    late rows ───────────────────┘ one query of the sums        bounded memory                 hosts    counts

What is due is asked of the store: windows without a version that counts, and those whose sums, latency or gaps are not
those that their version rests on.  So a kill between two steps, a store that was away, and rows that came late are one
case: the window is evaluated again under a higher version, and readers see the former one until then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self

from clickhouse_connect.driver import Client

from collector.analyze.settings import AnalyzeSettings
from collector.analyze.watermark import SECOND_US
from collector.interfaces import Call, Clock, WindowClosed
from collector.log import get_log
from collector.metrics import Metrics
from collector.stopping import cancel
from collector.store_errors import first_line
from collector.store_reader import Bounds, Reader, read_rows
from schemas.end_figures import add_up
from schemas.figures import ENDS, FIGURE_LEVELS, due, evaluate
from schemas.peers import note_peers
from schemas.rollups import LEVEL_US

BUCKETS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)

BOUNDS = Bounds(seconds=300)
"""What one statement may cost.  For 100,000 pairs it takes some seconds of a core, on a busy machine many more."""
PART_SUMS = 250_000
"""Rows of sums that are evaluated together: those of 100,000 pairs."""
MOST_PARTS = 256
"""Parts of a window that does not fit into memory and time otherwise."""
LOOK_BACK = 3
"""Windows in which changes are looked for each time one has closed: latency, gaps.  Late rows are heard of."""
START_WINDOWS = 60
"""Windows that are looked at after a start: what a former run left, or a release that stored no figures."""
TURN = 30
"""Windows that are evaluated before it is looked for newer ones."""
AGAIN_US = 60 * SECOND_US
"""Time until a level is looked at again for what came late, or failed once."""
MOST_DOUBLINGS = 6
"""Of that time, while it fails again and again: rows of a version that never counted stay until their TTL."""
TOO_MUCH = (159, 241)
"""ClickHouse's error codes for time and memory that are used up."""
PAIRS = 2**64
"""Values that `pair`, a hash, can have."""

_log = get_log("analyze")


@dataclass(frozen=True, slots=True)
class DueWindow:
    """A window to evaluate: a row of `schemas.figures.due`."""

    start: int
    """s since 1970."""
    times: int
    """How often it was evaluated."""
    newest: int
    """The version that counts."""
    sums: int
    """Rows of the sums."""
    records: float
    readings: int
    gaps: int


class TooMuchError(Exception):
    """A part of a window took more memory or time than one statement may; smaller ones may not."""


class Figures:
    """The stage that stores figures.  A component, and a subscriber of `Windows`.

    `connect` opens a client with the service's database selected; it blocks, and is called through `call`, whose worker
    must not be shared.  `settle_seconds` is how long after a window's end its late records may come.
    """

    def __init__(
        self,
        settings: AnalyzeSettings,
        metrics: Metrics,
        call: Call,
        connect: Callable[[], Client],
        *,
        clock_us: Clock,
        settle_seconds: float = 0,
    ) -> None:
        self._most = settings.catch_up_windows
        self._reader = Reader(call, connect, BOUNDS)
        self._clock_us = clock_us
        self._settle_us = round(settle_seconds * SECOND_US)
        self._newest_us = 0
        """End of the last window of any level that has closed."""
        self._epoch = 0
        self._ends: dict[str, int] = {}
        """The same by level."""
        self._asked: dict[str, int] = {}
        """Levels that are to be looked at, and the `_newest_us` from which on."""
        self._from_us = dict.fromkeys(FIGURE_LEVELS, 0)
        """What begins before is evaluated, by level."""
        self._parts = dict.fromkeys(FIGURE_LEVELS, 1)
        """In how many parts a window of that level last fitted into memory and time."""
        self._failed = dict.fromkeys(FIGURE_LEVELS, 0)
        """Turns of that level that failed one after the other."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._windows = metrics.counter(
            "figure_windows_total",
            "Closed windows whose figures were stored: the first time (new), again since something had changed "
            "(changed), or not, to be tried again (failed).",
            ("level", "result"),
        )
        self._seconds = metrics.histogram("figures_seconds", "Time of storing one window's figures.", BUCKETS)
        for level in FIGURE_LEVELS:
            for result in ("new", "changed", "failed"):
                self._windows.labels(level, result)

    async def window_closed(self, window: WindowClosed, /) -> None:
        """Note a closed window: figures are stored once it is settled."""
        if window.epoch != self._epoch:
            self._epoch, self._newest_us = window.epoch, 0
        self._newest_us = max(self._newest_us, window.end_us)
        for level in FIGURE_LEVELS:
            # At the start, there are windows that closed in a former run.
            if level == window.level or level not in self._ends:
                ends_us = window.end_us - window.end_us % LEVEL_US[level]
                if level not in self._ends:
                    self._from_us[level] = ends_us - START_WINDOWS * LEVEL_US[level]
                self._ends[level] = ends_us
                self._asked[level] = self._ends[level] + self._settle_us
        self._wake.set()

    def late(self, oldest_us: int) -> None:
        """Note that rows were summed that may belong to closed windows, from this time on."""
        for level in self._ends:
            self._from_us[level] = min(self._from_us[level], oldest_us - oldest_us % LEVEL_US[level])
            self._asked.setdefault(level, self._newest_us + AGAIN_US)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="figures")
        return self

    async def __aexit__(self, *error: object) -> None:
        task, self._task = self._task, None
        await cancel(task)
        await self._reader.close()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            for level, at_us in sorted(self._asked.items(), reverse=True):
                if at_us <= self._newest_us:
                    del self._asked[level]
                    await self._turn(level, self._ends[level])

    async def _turn(self, level: str, end_us: int) -> None:
        """Evaluate what is due of this level until `end_us`."""
        length = LEVEL_US[level]
        begin_us = max(self._from_us[level], end_us - self._most * length)
        self._from_us[level] = end_us  # rows that come late meanwhile set it back
        left_us = end_us - LOOK_BACK * length
        try:
            found = await self._due(level, begin_us, end_us)
            # One that changes again and again is evaluated ever more rarely.
            early = [window for window in found if window.newest + window.times * length > self._clock_us()]
            now = [window for window in found if window not in early]
            left_us = min([left_us, *(window.start * SECOND_US for window in (*early, *now[TURN:]))])
            for window in now[:TURN]:
                begun = time.monotonic()
                await self._store(level, window)
                self._seconds.observe(time.monotonic() - begun)
                self._windows.labels(level, "changed" if window.times else "new").inc()
            self._failed[level] = 0
            if now[TURN:]:
                self._asked.setdefault(level, 0)
                self._wake.set()
        except Exception as error:  # noqa: BLE001 - whatever the store says: it is due until it is done
            left_us = begin_us
            self._asked.setdefault(level, self._newest_us + (AGAIN_US << min(self._failed[level], MOST_DOUBLINGS)))
            self._failed[level] += 1
            self._windows.labels(level, "failed").inc()
            _log.sampled("figures of a window not stored", key=type(error).__name__, error=first_line(error))
        self._from_us[level] = min(self._from_us[level], left_us)

    async def _due(self, level: str, begin_us: int, end_us: int) -> list[DueWindow]:
        """Raises the driver's errors."""
        parameters = {"begin": max(begin_us, 0) // SECOND_US, "end": end_us // SECOND_US}
        return await self._reader.ask(partial(read_due, level=level, parameters=parameters))

    async def _store(self, level: str, window: DueWindow) -> None:
        """Evaluate a window in as few parts as memory and time allow.  Raises the driver's errors."""
        parts = max(self._parts[level], -(-window.sums // PART_SUMS))
        while True:
            version = max(self._clock_us(), window.newest + 1)
            try:
                await self._reader.ask(partial(store_window, level=level, window=window, version=version, parts=parts))
            except TooMuchError:
                if parts >= MOST_PARTS:
                    raise
                self._parts[level] = parts = 2 * parts
                _log.info("figures are evaluated in more parts", level=level, parts=parts)
            else:
                return


def read_due(client: Client, level: str, parameters: Mapping[str, int]) -> list[DueWindow]:
    """Return the windows that are due, the newest first.  Blocks; raises the driver's errors."""
    return [DueWindow(**row) for row in read_rows(client, due(level), parameters, BOUNDS)]


def store_window(client: Client, level: str, window: DueWindow, version: int, parts: int) -> None:
    """Store the figures of a window under this version, part by part, then let it count.

    Blocks; raises TooMuchError, or the driver's errors: what was stored until then counts nowhere.
    """
    settings = BOUNDS.settings() | {"max_threads": 1}
    for part in range(parts):
        parameters = {
            "time": window.start,
            "version": version,
            "low": part * PAIRS // parts,
            "high": (part + 1) * PAIRS // parts - 1,
        }
        try:
            client.command(evaluate(level), parameters=parameters, settings=settings)
        except Exception as error:
            if getattr(error, "code", None) not in TOO_MUCH:
                raise
            raise TooMuchError(first_line(error)) from error
    for what in ENDS:
        parameters = {"time": window.start, "version": version}
        client.command(add_up(what, level), parameters=parameters, settings=settings)
    client.command(note_peers(level), parameters={"time": window.start, "version": version}, settings=settings)
    client.command(
        f"INSERT INTO figure_windows_{level} (time, version, pairs, records, readings, gaps) "  # noqa: S608 - our names
        "SELECT toDateTime({time:UInt32}, 'UTC'), {version:UInt64}, count(), "
        "{records:Float64}, {readings:UInt64}, {gaps:UInt64} "
        f"FROM pair_figure_rows_{level} "
        "WHERE time = toDateTime({time:UInt32}, 'UTC') AND version = {version:UInt64}",
        parameters={
            "time": window.start,
            "version": version,
            "records": window.records,
            "readings": window.readings,
            "gaps": window.gaps,
        },
        settings=settings,
    )
