"""Polls one source: after its events, at intervals, and with growing pauses while it does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from collector.interfaces import Clock
from collector.inventory.sources.base import Report, Source, SourceError, SourceSetupError
from collector.log import get_log
from collector.threads import Bridge
from schemas.text import clean

PAUSE_FIRST_SECONDS = 1.0
PAUSE_LONGEST_SECONDS = 60.0
"""Pauses while a source does not answer; half at random, so that many sources of one failed host do not retry in
step."""
PROBLEM_CHARACTERS = 1000
"""Characters of a source's problem; part of it is the other system's own text."""

T = TypeVar("T")

_log = get_log("inventory")

Deliver = Callable[["SourcePoller", Report, int], Awaitable[None]]
"""Called with a report and the time at which its reading began, µs since 1970."""


@dataclass(frozen=True, slots=True)
class Polled:
    """A source and how to poll it."""

    source: Source
    stage: str
    """Name of the worker thread that is kept for it."""
    poll_seconds: float
    deadline_seconds: float


class SourcePoller:
    """The poller of one source.  Its last good report stays in use while the source does not answer."""

    def __init__(self, followed: Polled, bridge: Bridge, deliver: Deliver, clock_us: Clock) -> None:
        self.source = followed.source
        self._followed = followed
        self._bridge = bridge
        self._deliver = deliver
        self._clock_us = clock_us
        self._stopping = False
        self._call: asyncio.Task[Any] | None = None
        self.answered = asyncio.Event()
        """Set once the first attempt has succeeded or failed."""
        self.read_at_us = 0
        """When the last good report was read; 0 = never."""
        self.interfaces = 0
        self.problem = "not asked yet"
        """Why the source gives no report at present; empty if it does."""
        self.problems = 0

    def age_seconds(self) -> float | None:
        """Age of what is known from this source; None before its first report."""
        return (self._clock_us() - self.read_at_us) / 1e6 if self.read_at_us else None

    async def run(self) -> None:
        """Follow until cancelled."""
        pause = PAUSE_FIRST_SECONDS
        while True:
            if await self.read():
                pause = PAUSE_FIRST_SECONDS
                await self._wait(self._followed.poll_seconds)
            else:
                await asyncio.sleep(PAUSE_FIRST_SECONDS)
                # A source may notice by itself that a retry is worth it: a file that was corrected.
                await self._wait(pause * random.uniform(0.5, 1))  # noqa: S311 - not a secret
                pause = min(pause * 2, PAUSE_LONGEST_SECONDS)

    async def read(self, *, raise_setup_errors: bool = False) -> bool:
        """Poll once; return whether a report came.  Raises SourceSetupError if asked to."""
        try:
            began = self._clock_us()
            report = await self._within_deadline(0, self.source.read)
            if report is not None:
                await self._take(report, began)
        except SourceSetupError as error:
            if raise_setup_errors:
                raise
            self._fail(str(error))
        except SourceError as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 - a defect, here or in a source, must not end the following
            self._defect(error)
        self.answered.set()
        return not self.problem

    async def _wait(self, seconds: float) -> None:
        """Let the source wait for something new."""
        try:
            await self._within_deadline(seconds, self.source.wait, seconds)
        except Exception as error:  # noqa: BLE001 - as above
            self._defect(error)
            await asyncio.sleep(seconds)

    async def stop(self) -> None:
        """End the call under way, and close the source unless it hangs."""
        self._stopping = True
        self.source.interrupt()
        if self._call is not None and not self._call.done():
            await asyncio.wait({self._call}, timeout=1.0)
        if self._call is None or self._call.done():
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._bridge.call(self._followed.stage, self.source.close), 1.0)

    async def _take(self, report: Report, began: int) -> None:
        await self._deliver(self, report, began)
        if self.problem and self.read_at_us:
            _log.sampled(
                "a source answers again",
                key=self.source.name,
                severity="info",
                after_seconds=round(self.age_seconds() or 0, 1),
            )
        self.problem = ""
        self.read_at_us = began
        self.interfaces = len(report.interfaces)

    async def _within_deadline(self, extra: float, function: Callable[..., T], *args: Any) -> T | None:
        """Return what the source answers; None, with the problem reported, if it took longer than the deadline and
        `extra`."""
        call = asyncio.ensure_future(self._on_thread(function, *args))
        # A task cancelled here does not retrieve the result any more: that is no error to report at the end.
        call.add_done_callback(lambda done: done.cancelled() or done.exception())
        done, _ = await asyncio.wait({call}, timeout=extra + self._followed.deadline_seconds)
        if done:
            return call.result()
        self._fail(f"no answer within {self._followed.deadline_seconds:g} s")
        self.answered.set()
        # A thread cannot be interrupted: wait for its end and drop its result.
        await asyncio.wait({call})
        if call.exception() is None:
            _log.sampled("a source answered too late", key=self.source.name, severity="info")
        return None

    async def _on_thread(self, function: Callable[..., T], *args: Any) -> T:
        self._call = asyncio.ensure_future(self._bridge.call(self._followed.stage, function, *args))
        answer: T = await asyncio.shield(self._call)
        return answer

    def _defect(self, error: Exception) -> None:
        _log.exception("a source failed", source=self.source.name)
        self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, problem: str) -> None:
        problem = clean(problem, PROBLEM_CHARACTERS)
        self.problems += 1
        if problem != self.problem and not self._stopping:
            _log.sampled("a source does not answer: its last answer stays in use", key=self.source.name, error=problem)
        self.problem = problem
