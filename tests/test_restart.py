"""A stop while the store is away: what the next run finds in the spool is judged, and reported as late."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from collector.store.settings import StoreSettings
from tests.relay import Mode, Relay
from tests.service import Service, running
from tests.test_signals import datagram

AWAY_SECONDS = 25
BUSY = {"name": "busy", "scope": "pair", "measure": "elsewhere_packets", "above": 30, "level": "10s"}

ROWS = "SELECT src_port FROM flows"
FIRED = "SELECT toUnixTimestamp(window_end) AS ended FROM alert_events WHERE rule = 'busy' AND event = 'firing'"


class Road:
    """A relay on an event loop of its own."""

    def __init__(self, relay: Relay, loop: asyncio.AbstractEventLoop) -> None:
        self._relay, self._loop = relay, loop
        self.url = relay.url

    def be(self, mode: Mode) -> None:
        asyncio.run_coroutine_threadsafe(self._relay.be(mode), self._loop).result(10)


@contextlib.contextmanager
def road(target: str) -> Iterator[Road]:
    """A way to the server that can be closed."""
    loop, relay = asyncio.new_event_loop(), Relay(target)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(relay.__aenter__(), loop).result(10)
        yield Road(relay, loop)
    finally:
        asyncio.run_coroutine_threadsafe(relay.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def send(service: Service, first: int, seconds: float) -> int:
    """Send 20 numbered packets a second; returns the next number."""
    host, port = service.udp[0].rsplit(":", 1)
    ends = time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
        while time.monotonic() < ends:
            exporter.sendto(datagram(first), (host, int(port)))
            first += 1
            time.sleep(0.05)
    return first


def ask(store: StoreSettings, sql: str) -> list[dict[str, Any]]:
    """Rows from the server itself."""
    url = f"{store.url}/?database={store.database}&default_format=JSONEachRow"
    with urllib.request.urlopen(url, sql.encode(), timeout=30) as response:
        return [json.loads(line) for line in response.read().splitlines()]


def wait_for(store: StoreSettings, sql: str, count: int) -> list[dict[str, Any]]:
    """Ask until there are so many rows, for a minute."""
    deadline = time.monotonic() + 60
    while len(found := ask(store, sql)) < count and time.monotonic() < deadline:
        time.sleep(0.3)
    return found


def test_rows_that_waited_over_a_restart_are_judged(server_store: StoreSettings, tmp_path: Path) -> None:
    (tmp_path / "vms.csv").write_text(
        "mac,vm,ips\n02:00:00:00:00:01,client,10.0.0.1\n02:00:00:00:00:02,server,10.0.0.2\n", encoding="utf-8"
    )
    settings = [
        f"store.database={server_store.database}",
        f"inventory.static={json.dumps([{'file': str(tmp_path / 'vms.csv')}])}",
        f"alerts.rules={json.dumps([BUSY])}",
        "alerts.default_rules=false",
        "alerts.settle_seconds=0",
    ]
    with road(server_store.url) as way:
        with running(tmp_path, *settings, store=way.url) as service:
            sent = send(service, 0, 3)
            assert len(wait_for(server_store, ROWS, sent)) == sent
            way.be("refuse")
            away = time.time()
            sent = send(service, sent, AWAY_SECONDS)
            stopped = time.time()
            assert service.stop() == 0
        way.be("pass")
        with running(tmp_path, *settings, store=way.url) as again:
            assert len(wait_for(server_store, ROWS, sent)) == sent
            fired = wait_for(server_store, FIRED, 1)
            late = again.metric("vmflow_windows_late_batches_total")
    # A whole window lay in the time in which the store was away: 200 packets, where 30 are allowed.
    assert [away < row["ended"] <= stopped for row in fired] == [True]
    assert late == 0
