"""One receiver's queue, and the task that empties it: in order, with retries, not faster than allowed.

A call that does not return keeps its thread; only its own worker then waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

from prometheus_client import Counter

from collector.interfaces import Call, NotificationGroup
from collector.log import get_log
from collector.notify.receiver import Outcome, Receiver
from collector.notify.settings import ReceiverSettings

MINUTE_SECONDS = 60.0

Result = Literal["delivered", "refused", "expired", "dropped", "left"]
"""`refused`: the receiver will never accept it.  `expired`: given up after retries.  `dropped`: the queue was full.
`left`: not sent before the stop, and so offered again after the next start."""

_log = get_log("notify")


class OnDelivered(Protocol):
    """The callback for the result of a group; called on the event loop, once per group and receiver."""

    def __call__(self, group: NotificationGroup, receiver: str, ok: bool, /) -> None:
        """`ok`: the receiver accepted it.  Otherwise it was given up for good.  Not called for what is left at the
        stop."""


class Counts:
    """Metrics of one receiver."""

    def __init__(self, name: str, results: Counter, retries: Counter, refreshes: Counter, not_kept: Counter) -> None:
        self.results: dict[Result, Counter] = {
            result: results.labels(name, result) for result in ("delivered", "refused", "expired", "dropped", "left")
        }
        self.retries: Counter = retries.labels(name)
        self.not_kept: Counter = not_kept.labels(name)
        self.refreshes: dict[bool, Counter] = {
            True: refreshes.labels(name, "ok"),
            False: refreshes.labels(name, "failed"),
        }


class Worker:
    """The worker that delivers to one receiver.  All methods are for the event loop's thread."""

    def __init__(
        self,
        name: str,
        settings: ReceiverSettings,
        receiver: Receiver,
        call: Call,
        counts: Counts,
        on_delivered: OnDelivered,
    ) -> None:
        self._name = name
        self._settings = settings
        self._receiver = receiver
        self._call = call
        self._counts = counts
        self._on_delivered = on_delivered
        self._queue: deque[tuple[NotificationGroup, float]] = deque()
        """Groups, and when they came (loop time).  The first is the one under way."""
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._under_way: tuple[object, asyncio.Task[Outcome]] | None = None
        """A call that has not returned, and its subject."""
        self._sent: deque[float] = deque(maxlen=settings.per_minute)
        """When the last messages were sent (loop time)."""
        self._refresh_at: float | None = None
        self._not_kept = 0

    @property
    def waiting(self) -> int:
        """Groups not yet delivered or given up."""
        return len(self._queue)

    def offer(self, group: NotificationGroup) -> None:
        """Take a group; one that finds no room is given up."""
        if len(self._queue) >= self._settings.queue_groups:
            _log.sampled("alert not sent: too many wait for its receiver", key=self._name)
            self._end(group, "dropped")
            return
        self._queue.append((group, asyncio.get_running_loop().time()))
        self._wake.set()

    async def remember(self, group: NotificationGroup) -> None:
        """Pass the receiver alerts that already fire."""
        await self._call(self._receiver.remember, group)
        self._refresh_at = None
        self._wake.set()

    def stop(self) -> None:
        """Send what waits without retries, then end."""
        self._stopping.set()
        self._wake.set()

    def leave(self) -> None:
        """Count what still waits; call when the worker has ended."""
        for group, _ in self._queue:
            self._end(group, "left")
        self._queue.clear()

    async def run(self) -> None:
        """Deliver until stopped."""
        while True:
            if self._queue:
                group, came = self._queue[0]
                result = await self._deliver(group, came)
                if result == "left":
                    return
                self._queue.popleft()
                self._end(group, result)
            elif self._stopping.is_set():
                return
            await self._refresh()
            if not self._queue:
                await self._idle()

    async def _deliver(self, group: NotificationGroup, came: float) -> Result:
        """Try until the receiver accepts it, refuses it, or it is too old."""
        loop = asyncio.get_running_loop()
        pause = self._settings.min_retry_seconds
        while True:
            if not await self._allowed():
                return "left"
            answer = await self._attempt(group, self._receiver.send, group)
            if answer.ok:
                return "delivered"
            left = came + self._settings.retry_total_seconds - loop.time()
            if answer.permanent or left <= 0:
                alerts, reason = len(group.notifications), answer.reason
                _log.sampled(
                    "alert given up", self._name, severity="error", group=group.key, alerts=alerts, reason=reason
                )
                return "refused" if answer.permanent else "expired"
            _log.sampled("alert not delivered yet", key=self._name, reason=answer.reason)
            if self._stopping.is_set():
                return "left"
            self._counts.retries.inc()
            await self._refresh()
            if await self._sleep(min(left, pause * random.uniform(0.5, 1))):  # noqa: S311 - spreads load, no secret
                return "left"
            pause = min(2 * pause, self._settings.max_retry_seconds)

    async def _attempt(self, about: object, function: Callable[..., Outcome], *args: object) -> Outcome:
        """One call with its time limit.  One that has not returned before is waited for, not repeated."""
        if self._under_way is None:
            self._under_way = (about, asyncio.create_task(self._guarded(function, *args)))
        subject, task = self._under_way
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                answer = await asyncio.shield(task)
        except TimeoutError:
            return Outcome(False, False, f"no answer within {self._settings.timeout_seconds:g} s")
        self._under_way = None
        self._counts.not_kept.inc(self._receiver.not_kept - self._not_kept)
        self._not_kept = self._receiver.not_kept
        if subject is not about:
            # The call that has returned at last was for a group given up meanwhile.
            return await self._attempt(about, function, *args)
        return answer

    async def _guarded(self, function: Callable[..., Outcome], *args: object) -> Outcome:
        """The call's answer; whatever a receiver raises (its code is foreign) is a failed attempt."""
        try:
            return await self._call(function, *args)
        except Exception as error:  # noqa: BLE001 - see above; only its kind is logged: its text may quote the address
            return Outcome(False, False, type(error).__name__)

    async def _allowed(self) -> bool:
        """Wait until one more message is allowed in this minute; False if the stop came first."""
        loop = asyncio.get_running_loop()
        if len(self._sent) == self._sent.maxlen:
            wait = self._sent[0] + MINUTE_SECONDS - loop.time()
            if wait > 0 and await self._sleep(wait):
                return False
        self._sent.append(loop.time())
        return True

    async def _refresh(self) -> None:
        """Repeat what the receiver would drop, if it is due."""
        seconds = self._receiver.refresh_seconds
        now = asyncio.get_running_loop().time()
        if seconds is None or self._stopping.is_set() or (self._refresh_at is not None and now < self._refresh_at):
            return
        self._refresh_at = now + seconds
        answer = await self._attempt("refresh", self._receiver.refresh)
        self._counts.refreshes[answer.ok].inc()
        if not answer.ok:
            _log.sampled("firing alerts not sent again", key=self._name, reason=answer.reason)

    async def _idle(self) -> None:
        """Wait for a group, the stop, or the next refresh."""
        self._wake.clear()
        if self._stopping.is_set():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._refresh_at):
                await self._wake.wait()

    async def _sleep(self, seconds: float) -> bool:
        """Wait; True, at once, if the stop comes meanwhile."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        return self._stopping.is_set()

    def _end(self, group: NotificationGroup, result: Result) -> None:
        """Count the result of a group, and report it."""
        self._counts.results[result].inc()
        if result == "left":
            return
        try:
            self._on_delivered(group, self._name, result == "delivered")
        except Exception:  # noqa: BLE001 - what takes the result must not end the worker
            _log.exception("the result of a message could not be noted", receiver=self._name)
