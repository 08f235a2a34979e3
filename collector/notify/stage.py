"""The notify stage: takes groups of notifications and delivers them to each of their receivers.

    offer(group) ──► one queue per receiver ──► its worker ──► a thread ──► mail, SMS, WeCom, Alertmanager
                                                   └── on_delivered(group, receiver, ok)

Nothing is kept on disk here: the alert stage has each group in the store before it offers it, and offers again after a
start what was not reported as delivered or given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Self

from collector.interfaces import Call, NotificationGroup
from collector.log import get_log
from collector.metrics import OTHER, Metrics
from collector.notify.receiver import Receiver
from collector.notify.settings import NotifySettings, ReceiverSettings
from collector.notify.worker import Counts, OnDelivered, Worker
from collector.stopping import finish

_log = get_log("notify")


def threads(settings: NotifySettings) -> int:
    """Threads that the stage needs: one per receiver, so that one that hangs takes its own."""
    return max(1, len(settings.receivers))


def receivers(settings: NotifySettings) -> dict[str, Receiver]:
    """Return the receivers of the settings, by name, not yet open."""
    return {name: _receiver(name, one, settings.public_url) for name, one in settings.receivers.items()}


def _receiver(name: str, settings: ReceiverSettings, public_url: str) -> Receiver:
    """The module of a kind is loaded where it is used: apprise takes half a second."""
    module = import_module(f"collector.notify.{settings.kind}")
    receiver: Receiver = getattr(module, f"{settings.kind.capitalize()}Receiver")(name, settings, public_url)
    return receiver


class NotifyStage:
    """The stage that delivers groups.  A component, and the `Outbox` of alerts.  All methods are for the event loop's
    thread.

    `call` runs blocking calls, on as many threads as `threads` returns.  Entering raises NotifyError for a receiver
    that cannot be used.
    """

    def __init__(self, settings: NotifySettings, metrics: Metrics, call: Call, *, on_delivered: OnDelivered) -> None:
        self._settings = settings
        self._call = call
        self._on_delivered = on_delivered
        self._receivers = receivers(settings)
        self._tasks: list[asyncio.Task[None]] = []
        results = metrics.counter(
            "notifications_total",
            "Messages by receiver and result: delivered; refused by the receiver for good; expired after "
            "retries; dropped because its queue was full; left at a stop, to be sent after the next start; or unknown, "
            "where no such receiver is set.",
            ("receiver", "result"),
        )
        retries = metrics.counter(
            "notification_retries_total", "Attempts that failed and were repeated.", ("receiver",)
        )
        refreshes = metrics.counter(
            "notification_refreshes_total", "Times that all firing alerts were sent again.", ("receiver", "result")
        )
        not_kept = metrics.counter(
            "notification_not_kept_total",
            "Firing alerts beyond `max_firing`: sent, but not sent again.",
            ("receiver",),
        )
        self._unknown = results.labels(OTHER, "unknown")
        self._workers = {
            name: Worker(
                name,
                settings.receivers[name],
                receiver,
                call,
                Counts(name, results, retries, refreshes, not_kept),
                on_delivered,
            )
            for name, receiver in self._receivers.items()
        }
        queued = metrics.gauge("notifications_queued", "Messages waiting for their receiver.", ("receiver",))
        for name, worker in self._workers.items():
            queued.labels(name).set_function(partial(getattr, worker, "waiting"))

    @property
    def waiting(self) -> dict[str, int]:
        """Messages that wait, by receiver, for /health."""
        return {name: worker.waiting for name, worker in self._workers.items()}

    async def __aenter__(self) -> Self:
        for receiver in self._receivers.values():
            await self._call(receiver.open)
        self._tasks = [  # a worker ends at the stop only: `_ended` logs a defect that ends it before
            asyncio.create_task(worker.run(), name=f"notify {name}") for name, worker in self._workers.items()
        ]
        for task in self._tasks:
            task.add_done_callback(self._ended)
        return self

    async def __aexit__(self, *error: object) -> None:
        tasks, self._tasks = self._tasks, []
        for worker in self._workers.values():
            worker.stop()
        await finish(tasks, self._settings.drain_seconds)
        for name, worker in self._workers.items():
            if worker.waiting:
                _log.warning("alerts not sent before the stop", receiver=name, messages=worker.waiting)
            worker.leave()

    @staticmethod
    def _ended(task: asyncio.Task[None]) -> None:
        """Log what ended a worker, if it was a defect: its receiver gets nothing until the next start."""
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a worker has ended", worker=task.get_name(), error=type(error).__name__)

    def offer(self, group: NotificationGroup, /) -> None:
        """Take a group for each of its receivers.  A name that no receiver has is counted and reported as given up."""
        for name in dict.fromkeys(group.receivers):
            worker = self._workers.get(name)
            if worker is not None:
                worker.offer(group)
                continue
            self._unknown.inc()
            _log.sampled("alert for a receiver that is not set", key=name)
            self._on_delivered(group, name, False)

    async def remember(self, groups: Sequence[NotificationGroup], /) -> None:
        """After a start, take alerts that fire and were delivered before, for receivers that need them again.

        Without this, Alertmanager would consider them resolved.
        """
        for group in groups:
            for name in group.receivers:
                if (worker := self._workers.get(name)) is not None:
                    await worker.remember(group)
