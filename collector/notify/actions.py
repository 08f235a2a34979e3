"""Actions: take notifications and run the actions of the settings, each one run at a time.

    offer(notification) ──► one queue per action ──► its worker ──► command by the launcher, or POST on a thread
                                                        └── a row of `action_runs`, whatever the result

An action runs at most once for each change of an alert: what waits when the service ends is not run later.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Self

from prometheus_client import Counter

from collector.interfaces import AlertNotification, Call, Clock, Sink
from collector.log import get_log
from collector.metrics import Metrics
from collector.notify.action_run import Ended, body, post, target
from collector.notify.launcher import Launcher
from collector.notify.settings import ActionSettings, NotifySettings
from collector.stopping import finish
from schemas.alerts import ACTION_RESULTS, ACTION_RUNS

MINUTE_SECONDS = 60.0
LATE_SECONDS = 5.0
"""A thread, or a command's launcher, that has not answered this long after the time limit is not waited for."""

_log = get_log("notify")


def threads(settings: NotifySettings) -> int:
    """Threads that the stage needs: one per webhook, so that one that hangs takes its own."""
    return max(1, sum(action.kind == "webhook" for action in settings.actions.values()))


class Actions:
    """The stage that runs actions.  A component; all methods are for the event loop's thread.

    Entering raises NotifyError for a webhook whose URL cannot be read.  `sink` takes the rows of the audit; `clock_us`
    is the system clock, µs since 1970.  `launcher` runs the commands; without one the stage starts its own.
    """

    def __init__(
        self,
        settings: NotifySettings,
        metrics: Metrics,
        call: Call,
        sink: Sink,
        *,
        clock_us: Clock,
        launcher: Launcher | None = None,
    ) -> None:
        self._settings = settings
        self._launcher = launcher or Launcher(settings)
        runs = metrics.counter("action_runs_total", "Runs of actions, by result.", ("action", "result"))
        dropped = metrics.counter("actions_dropped_total", "Alerts that found an action's queue full.", ("action",))
        actions = settings.actions.items() if settings.actions_enabled else ()
        self._workers = [
            Worker(name, action, settings.max_queued_actions, runs, dropped, call, sink, clock_us, self._launcher)
            for name, action in actions
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def offer(self, notification: AlertNotification, /) -> None:
        """Take a notification for each action that applies."""
        for worker in self._workers:
            worker.offer(notification)

    async def __aenter__(self) -> Self:
        for worker in self._workers:
            worker.open()
        await self._launcher.__aenter__()
        self._tasks = [asyncio.create_task(worker.run(), name=f"action {worker.name}") for worker in self._workers]
        return self

    async def __aexit__(self, *error: object) -> None:
        tasks, self._tasks = self._tasks, []
        for worker in self._workers:
            worker.stop()
        await finish(tasks, self._settings.drain_seconds)
        await self._launcher.__aexit__(*error)
        for worker in self._workers:
            worker.leave()


class Worker:
    """The worker of one action."""

    def __init__(
        self,
        name: str,
        settings: ActionSettings,
        most: int,
        runs: Counter,
        dropped: Counter,
        call: Call,
        sink: Sink,
        clock_us: Clock,
        launcher: Launcher,
    ) -> None:
        self.name = name
        self._settings = settings
        self._most = most
        self._counts: dict[str, Counter] = {result: runs.labels(name, result) for result in ACTION_RESULTS}
        self._dropped = dropped.labels(name)
        self._call = call
        self._sink = sink
        self._clock_us = clock_us
        self._launcher = launcher
        self._url = ""
        self._queue: deque[AlertNotification] = deque()
        self._wake = asyncio.Event()
        self._stopping = False
        self._began: deque[float] = deque(maxlen=settings.per_minute)
        """When the last runs began (seconds of a clock that is never set)."""

    def open(self) -> None:
        """Read the URL of a webhook.  Raises NotifyError."""
        if self._settings.kind == "webhook":
            self._url = self._settings.read_url(self.name)

    def offer(self, notification: AlertNotification) -> None:
        """Take a notification, if the action applies; one that finds no room is dropped."""
        if notification.rule not in self._settings.rules or notification.event not in self._settings.events:
            return
        if len(self._queue) >= self._most:
            self._dropped.inc()
            _log.sampled("action not run: too many alerts wait for it", key=self.name)
            return
        self._queue.append(notification)
        self._wake.set()

    def stop(self) -> None:
        """Begin no more runs."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Run until stopped."""
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            while self._queue and not self._stopping:
                await self._one(self._queue.popleft())

    def leave(self) -> None:
        """Note what still waits; call when the worker has ended."""
        for notification in self._queue:
            self._note(notification, Ended("stopped", "", "not begun"), 0)
        self._queue.clear()

    async def _one(self, notification: AlertNotification) -> None:
        """Run for one notification and note the result."""
        begun = time.monotonic()
        ended = Ended("stopped", "", "killed")
        try:
            ended = await self._act(notification, begun)
        except Exception as error:  # noqa: BLE001 - a defect costs one run; only its kind is stored: texts may quote the URL
            ended = Ended("failed", "", f"internal: {type(error).__name__}")
        finally:
            self._note(notification, ended, time.monotonic() - begun)

    async def _act(self, notification: AlertNotification, now: float) -> Ended:
        if self._settings.dry_run:
            return Ended("dry_run")
        if len(self._began) == self._began.maxlen and now < self._began[0] + MINUTE_SECONDS:
            return Ended("limited", "", f"more than {self._settings.per_minute} in a minute")
        self._began.append(now)
        try:
            async with asyncio.timeout(self._settings.timeout_seconds + LATE_SECONDS):
                if self._settings.kind == "command":
                    return await self._launcher.run(self.name, notification)
                return await self._call(post, self._settings, self._url, body(self.name, notification))
        except TimeoutError:
            return Ended("late")

    def _note(self, notification: AlertNotification, ended: Ended, seconds: float) -> None:
        """Count the run and write its row."""
        self._counts[ended.result].inc()
        if ended.result == "limited":
            _log.sampled("action not run: too often", key=self.name)
        elif ended.result == "dry_run":  # nothing limits these
            _log.sampled("action, if it were run", key=self.name, severity="info", alert=notification.alert_id)
        else:
            _log.info("action", action=self.name, alert=notification.alert_id, result=ended.result, status=ended.status)
        row = {
            "time": self._clock_us(),
            "action": self.name,
            "kind": self._settings.kind,
            "result": ended.result,
            "event": notification.event,
            "rule": notification.rule,
            "alert_id": notification.alert_id,
            "target": target(self._settings, self._url),
            "status": ended.status,
            "duration_us": round(seconds * 1e6),
            "output": ended.output,
        }
        self._sink.offer(ACTION_RUNS.name, ACTION_RUNS.batch({name: [value] for name, value in row.items()}))
