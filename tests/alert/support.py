"""The alerts stage over a real store whose windows close when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from clickhouse_connect.driver import Client

from collector.alert.settings import AlertSettings
from collector.alert.stage import Alerts
from collector.interfaces import AlertNotification, NotificationGroup, OnNotification, WindowClosed
from collector.metrics import Metrics
from collector.notify.settings import NotifySettings
from collector.notify.stage import NotifyStage, threads
from collector.store.client import open_client
from collector.store.settings import StoreSettings
from collector.threads import Bridge
from tests.flow_rows import BEGIN_US, flow
from tests.notify.support import receiver

SECOND_US = 1_000_000
LENGTHS = {"10s": 10 * SECOND_US, "1m": 60 * SECOND_US, "1h": 3600 * SECOND_US}


@dataclass
class Taken:
    """An outbox that keeps what it is offered."""

    groups: list[NotificationGroup] = field(default_factory=list)

    def offer(self, group: NotificationGroup, /) -> None:
        self.groups.append(group)

    @property
    def notifications(self) -> list[AlertNotification]:
        return [notification for group in self.groups for notification in group.notifications]

    def notified(self) -> list[tuple[str, str, str]]:
        """Event, rule and series of each notification, in order."""
        return [(n.event, n.rule, "→".join(filter(None, _named(n.labels)))) for n in self.notifications]


def _named(labels: Mapping[str, str]) -> tuple[str, ...]:
    names = ("src_vm", "dst_vm") if "src_vm" in labels else ("vm", "exporter", "interface")
    return tuple(labels.get(name, "") for name in names)


@dataclass
class Running:
    """A running stage with its clock and its outbox."""

    alerts: Alerts
    metrics: Metrics
    taken: Taken
    now_us: int = BEGIN_US
    evaluated: float = 0

    async def close(self, level: str, numbers: Iterable[int], *, partial: bool = False) -> None:
        """Close windows of one level, counted from BEGIN_US, and wait until their rules were evaluated."""
        for number in numbers:
            start = BEGIN_US + number * LENGTHS[level]
            self.now_us = start + LENGTHS[level] + 5 * SECOND_US
            await self.alerts.window_closed(WindowClosed(level, start, start + LENGTHS[level], partial, 1))
            await self.idle()

    async def idle(self) -> None:
        """Wait until nothing waits any more and the worker has done what it was given."""
        async with asyncio.timeout(60):
            woken = self.alerts._wake
            while woken.is_set() or not woken._waiters:  # type: ignore[attr-defined]  # noqa: ASYNC110 - for work
                await asyncio.sleep(0.002)

    def count(self, name: str, **labels: str) -> float | None:
        return self.metrics.value(name, **labels)


def connect(settings: StoreSettings) -> Client:
    client = open_client(settings)
    client.database = settings.database
    return client


@asynccontextmanager
async def running(
    store: StoreSettings,
    settings: AlertSettings,
    taken: Taken | None = None,
    *,
    on_notification: OnNotification | None = None,
    own: Callable[[], Mapping[str, float]] | None = None,
    left: Callable[[], object] = lambda: None,
    learned: Path | None = None,
) -> AsyncIterator[Running]:
    """The stage, with all windows settled as they close unless the settings say otherwise; then calls `left`."""
    metrics, outbox = Metrics(), taken or Taken()
    async with Bridge({"alert": 1}) as bridge:
        alerts = Alerts(
            settings,
            metrics,
            partial(bridge.call, "alert"),
            partial(connect, store),
            outbox,
            clock_us=lambda: found.now_us,
            on_notification=on_notification,
            own=own,
            learned=learned,
        )
        found = Running(alerts, metrics, outbox)
        async with alerts:
            yield found
        left()


@dataclass
class Passing(Taken):
    """An outbox that gives its messages to delivery, too."""

    delivery: NotifyStage | None = None

    def offer(self, group: NotificationGroup, /) -> None:
        super().offer(group)
        assert self.delivery is not None
        self.delivery.offer(group)


@asynccontextmanager
async def delivering(store: StoreSettings, settings: AlertSettings, address: str) -> AsyncIterator[Running]:
    """As `running`, with receiver `hook`, a webhook at this address; as `collector.app` joins them."""
    outbox = Passing()
    live: list[Running] = []

    def noted(group: NotificationGroup, name: str, ok: bool) -> None:
        live[0].alerts.delivered(group, name, ok)

    notify = NotifySettings(receivers={"hook": receiver(f"json://{address}/", per_minute=6000)})
    async with Bridge({"notify": threads(notify)}) as bridge:
        outbox.delivery = NotifyStage(
            notify,
            Metrics(),
            partial(bridge.call, "notify"),
            on_delivered=noted,
        )
        async with outbox.delivery, running(store, settings, outbox) as found:
            live.append(found)
            yield found
            await delivered(found)


async def delivered(live: Running) -> None:
    """Wait until no message waits, and the stage knows it."""
    assert isinstance(live.taken, Passing)
    assert live.taken.delivery is not None
    await live.idle()
    async with asyncio.timeout(60):
        while any(live.taken.delivery.waiting.values()):  # noqa: ASYNC110 - the stage tells the alerts only
            await asyncio.sleep(0.002)
    await live.idle()


def traffic(
    source: Mapping[str, Any], target: Mapping[str, Any], seconds: range, lost: int = 0
) -> list[dict[str, Any]]:
    """1,000 packets a second, of which so many do not arrive; both switches report each second in its middle."""
    rows = []
    for second in seconds:
        for seen, packets in (("source", 1000), ("destination", 1000 - lost)):
            rows.append(
                flow(source, target, seen, received=second + 0.5, packets=packets, samples=packets, bytes=100 * packets)
            )
    return rows
