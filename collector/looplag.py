"""How long the event loop keeps a timer waiting, and how much of that was for want of a core."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass

from collector.metrics import Metrics

CHECK_SECONDS = 0.1
WINDOW_SECONDS = 10.0
LATE_SECONDS = 0.1
"""No callback is to hold the event loop for longer."""


@dataclass(frozen=True, order=True)
class Lag:
    """One wait of a timer."""

    seconds: float = 0.0
    core_seconds: float = 0.0
    """Of it, how long the thread could have run and had no core: other work on the machine took it."""


class LoopLag:
    """Measures on the event loop that `run` runs on, and keeps the metrics of it."""

    def __init__(self, metrics: Metrics) -> None:
        self._lag = metrics.gauge("event_loop_lag_seconds", "Longest delay of a timer in the last 10 to 20 s.")
        self._core = metrics.gauge(
            "event_loop_core_wait_seconds", "Of that delay, how long the event loop's thread waited for a core."
        )
        self._late = metrics.counter(
            "event_loop_late_total",
            "Timers more than 0.1 s late: for want of a core, or held up by the process.",
            ["cause"],
        )
        for cause in ("core", "process"):
            self._late.labels(cause=cause)

    async def run(self) -> None:
        """Measure until cancelled."""
        before, now, until = Lag(), Lag(), time.monotonic() + WINDOW_SECONDS
        with CoreWait() as core:
            while True:
                waited, began = core.seconds(), time.monotonic()
                await asyncio.sleep(CHECK_SECONDS)
                ended = time.monotonic()
                now = max(now, self._told(ended - began - CHECK_SECONDS, core.seconds() - waited))
                worst = max(before, now)
                self._lag.set(worst.seconds)
                self._core.set(worst.core_seconds)
                if ended > until:
                    before, now, until = now, Lag(), ended + WINDOW_SECONDS

    def _told(self, seconds: float, core_seconds: float) -> Lag:
        """Count a timer that came late.  The thread may have waited for a core before the timer was due, too."""
        lag = Lag(max(seconds, 0.0), min(core_seconds, max(seconds, 0.0)))
        if lag.seconds > LATE_SECONDS:
            held = lag.seconds - lag.core_seconds > LATE_SECONDS
            self._late.labels(cause="process" if held else "core").inc()
        return lag


class CoreWait:
    """How long this thread has waited for a core, as the kernel counts it (`schedstat`); 0 where it does not."""

    def __init__(self) -> None:
        self._file = -1

    def __enter__(self) -> CoreWait:
        with suppress(OSError):
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        return self

    def __exit__(self, *error: object) -> None:
        if self._file >= 0:
            os.close(self._file)

    def seconds(self) -> float:
        """Since the thread began."""
        if self._file < 0:
            return 0.0
        _ran_ns, waited_ns, _times = os.pread(self._file, 100, 0).split()
        return int(waited_ns) / 1e9
