"""Notifications to deliver, and servers that take them: HTTP with given answers, and the stage on a real bridge."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from pydantic import SecretStr

from collector.interfaces import AlertNotification, NotificationGroup
from collector.metrics import Metrics
from collector.notify.settings import NotifySettings, ReceiverSettings
from collector.notify.stage import NotifyStage, threads
from collector.threads import Bridge

NOON_US = 1_764_072_000_000_000
"""2025-11-25 12:00:00 UTC, as `date -u -d @1764072000` says."""
SECOND_US = 1_000_000

LOSS = AlertNotification(
    alert_id="0123456789abcdef0123456789abcdef",
    fingerprint="aa11",
    event="firing",
    rule="pair_loss",
    severity="critical",
    scope="pair",
    labels={"src_vm": "web-1", "dst_vm": "db-1", "src_host": "hv1", "dst_host": "hv2", "network": "blue"},
    measure="loss_ratio",
    unit="ratio",
    value=0.0612,
    low=0.048,
    high=0.075,
    samples=21_040,
    evidence="measured",
    threshold=0.01,
    condition="threshold",
    level="10s",
    window_start_us=NOON_US + 190 * SECOND_US,
    window_end_us=NOON_US + 200 * SECOND_US,
    since_us=NOON_US,
    now_us=NOON_US + 200 * SECOND_US,
    summary="",
    runbook="https://runbooks.example.net/loss",
    sql="SELECT time, loss_ratio\nFROM pair_metrics\nWHERE src_vm = 'web-1' AND dst_vm = 'db-1'",
)


def loss(number: int, **changes: Any) -> AlertNotification:
    """The loss alert of another pair; `changes` are fields."""
    labels = {**LOSS.labels, "src_vm": f"web-{number}"}
    return replace(LOSS, **{"fingerprint": f"f{number}", "alert_id": f"{number:032x}", "labels": labels, **changes})


def group(*notifications: AlertNotification, to: Sequence[str] = ("ops",), key: str = "g") -> NotificationGroup:
    """A group of these notifications (the loss alert if none), for these receivers."""
    return NotificationGroup(key, "critical", tuple(to), notifications or (LOSS,))


def receiver(url: str, **values: Any) -> ReceiverSettings:
    """Settings of a receiver that is tried again soon."""
    quick: dict[str, Any] = {"min_retry_seconds": 0.01, "max_retry_seconds": 0.02, "timeout_seconds": 5}
    return ReceiverSettings(url=SecretStr(url), **{**quick, **values})


@dataclass
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def form(self) -> dict[str, list[str]]:
        return parse_qs(self.body.decode())


@dataclass
class Endpoint:
    """An HTTP server that keeps what it is sent."""

    address: str
    statuses: list[int] = field(default_factory=list)
    """Answers to the next requests; after them, 200."""
    answer: bytes = b"{}"
    requests: list[Request] = field(default_factory=list)
    open_gate: threading.Event = field(default_factory=threading.Event)
    """Requests wait for this before they are answered."""
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


class Handler(BaseHTTPRequestHandler):
    """Notes the request, waits for the gate, answers."""

    def __init__(self, endpoint: Endpoint, *args: Any) -> None:
        self.endpoint = endpoint
        super().__init__(*args)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        endpoint = self.endpoint
        endpoint.requests.append(Request(self.command, self.path, dict(self.headers.items()), body))
        endpoint.arrived.release()
        assert endpoint.open_gate.wait(30)
        status = endpoint.statuses.pop(0) if endpoint.statuses else 200
        answer = endpoint.answer
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: Any) -> None:
        """Be quiet."""


class Server(ThreadingHTTPServer):
    """Quiet about clients that hang up."""

    def handle_error(self, *args: Any) -> None:
        """Tests look at what the client says."""


@contextmanager
def endpoint(*statuses: int, gate_open: bool = True) -> Iterator[Endpoint]:
    """Serve on a free port of loopback."""
    made = Endpoint("", list(statuses))
    if gate_open:
        made.open_gate.set()
    with Server(("127.0.0.1", 0), partial(Handler, made)) as server:
        made.address = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=partial(server.serve_forever, 0.01))
        thread.start()
        try:
            yield made
        finally:
            made.open_gate.set()
            server.shutdown()
            thread.join()


@dataclass
class Running:
    """The stage at work."""

    delivery: NotifyStage
    metrics: Metrics
    reported: list[tuple[str, str, bool]]
    """Key, receiver, ok: what `on_delivered` was called with."""
    more: asyncio.Event

    async def until(self, count: int) -> None:
        """Wait until this many groups have been reported."""
        async with asyncio.timeout(30):
            while len(self.reported) < count:
                self.more.clear()
                await self.more.wait()

    def count(self, receiver: str, result: str) -> float | None:
        return self.metrics.value("notifications_total", receiver=receiver, result=result)


@asynccontextmanager
async def running(receivers: dict[str, ReceiverSettings], drain_seconds: float = 5) -> AsyncIterator[Running]:
    """The stage with these receivers, on a bridge with as many threads as it asks for."""
    settings = NotifySettings(receivers=receivers, drain_seconds=drain_seconds)
    metrics = Metrics()
    reported: list[tuple[str, str, bool]] = []
    more = asyncio.Event()

    def on_delivered(group: NotificationGroup, receiver: str, ok: bool) -> None:
        reported.append((group.key, receiver, ok))
        more.set()

    async with Bridge({"deliver": threads(settings)}) as bridge:
        delivery = NotifyStage(settings, metrics, partial(bridge.call, "deliver"), on_delivered=on_delivered)
        async with delivery:
            yield Running(delivery, metrics, reported, more)
