"""The service in this process, which takes what the made-up cloud exports by the cloud's clock, as fast as it can."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from collector import app
from collector.app import Service
from collector.decode import stage as decode_stage
from collector.settings import Settings
from collector.store.client import open_in_database
from collector.store.settings import StoreSettings
from collector.threads import run as run_loop
from decoders.datagrams import Datagrams
from deploy.demo.cloud import Run, parser, start_of
from tests.flow_rows import ask

SECOND_US = 1_000_000
SPEED = 10
"""Seconds of the cloud per second, at most; all that the service does by its own timers is as much faster."""
STEP_SECONDS = 5
"""Seconds of exports that it takes at a time, in place of an insert for each."""
QUIET_SECONDS = 45
"""After the end, until the last windows have closed."""
PATIENCE_SECONDS = 600
EVALUATION_SECONDS = 90
"""Longest wait for the alerts of the last windows."""


@dataclass
class Ran:
    """A run of the cloud, and the store that the service filled."""

    store: StoreSettings
    truth: list[dict[str, Any]]
    start_us: int

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """Lines of the truth."""
        return [line for line in self.truth if line["kind"] == kind]

    def ask(self, sql: str) -> list[dict[str, Any]]:
        """Rows of a query."""
        client = open_in_database(self.store)
        try:
            return ask(client, sql)
        finally:
            client.close()


def run(store: StoreSettings, folder: Path, patch: pytest.MonkeyPatch, sections: dict[str, Any], *options: str) -> Ran:
    """Run the cloud with these options, and the service with these settings, to the end."""
    names, truth = folder / "cloud" / "vms.toml", folder / "truth.jsonl"
    names.parent.mkdir()
    made = parser().parse_args(["--inventory", str(names), "--pcap", "none", *options])
    with truth.open("w", encoding="utf-8") as file:
        cloud = Run(made, start_of(made), file)
        given: dict[str, Any] = {
            "store": store.model_copy(update={"batch_age_seconds": 1 / SPEED, "spool_after_seconds": 60}).model_dump(),
            "listen": {"addresses": ["127.0.0.1:0"]},
            "web": {"enabled": False},
            "sql": {"enabled": False},
            "inventory": {"static": [{"file": names, "poll_seconds": 2 / SPEED}]},
            "decode": {
                "template_file": folder / "templates.json",
                "report_seconds": 10 / SPEED,
                "exporters": [{"network": "127.1.0.0/16", "protocol": "ipfix", "sampling_rate": 1}],
            },
            # A machine that is busy with other tests gives no answer sooner.
            "analyze": {"check_seconds": 0.5 / SPEED, "latency_seconds": PATIENCE_SECONDS, "doctor_seconds": 1},
        }
        for section, values in sections.items():
            given[section] = given.get(section, {}) | values
        settings = Settings(**given)
        clock = Clock(cloud.start_us)
        patch.setattr(app, "wall_clock_us", clock)
        patch.setattr(decode_stage, "METRICS_SECONDS", decode_stage.METRICS_SECONDS / SPEED)
        run_loop(_serve(settings, cloud, clock))
    return Ran(store, [json.loads(line) for line in truth.read_text().splitlines()], cloud.start_us)


class Clock:
    """The cloud's clock."""

    def __init__(self, now_us: int) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        return self.now_us


async def _serve(settings: Settings, cloud: Run, clock: Clock) -> None:
    service = Service(settings, lambda: settings)
    running = asyncio.create_task(service.run())
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await service.decode.ready.wait()
        rows: list[tuple[bytes, str, int, int]] = []
        for number, events in enumerate(cloud.seconds(), 1):
            rows += [
                (event.payload, str(IPv4Address(cloud.exporters[event.host].host.address)), event.port, event.time_us)
                for event in events
            ]
            clock.now_us += SECOND_US
            if rows and number % STEP_SECONDS == 0:
                assert service.decode.offer(Datagrams.of(rows))
                rows.clear()
                await _taken(service)
        assert not rows or service.decode.offer(Datagrams.of(rows))
        cloud_end_us = clock.now_us
        for _ in range(0, QUIET_SECONDS, STEP_SECONDS):
            clock.now_us += STEP_SECONDS * SECOND_US
            await _taken(service)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while service.rollups.pending or service.windows.closed_us < cloud_end_us:  # noqa: ASYNC110 - threads do it
                await asyncio.sleep(0.05)
        windows = (cloud_end_us - cloud.start_us) // (10 * SECOND_US) - 2
        with contextlib.suppress(TimeoutError):  # some may have been passed over
            async with asyncio.timeout(EVALUATION_SECONDS):
                while _evaluated(service) < windows:  # noqa: ASYNC110 - the service does it
                    await asyncio.sleep(0.05)
    finally:
        service.stopping.set()
        await running


def _evaluated(service: Service) -> float:
    """Windows over which the rule of loss has been evaluated."""
    return service.metrics.value("alert_evaluations_total", rule="pair_loss") or 0


async def _taken(service: Service) -> None:
    """Wait until all is decoded and stored, and timers had their time."""
    await asyncio.sleep(1 / SPEED)
    inbox, writer = service.decode.inbox, service.writer
    async with asyncio.timeout(PATIENCE_SECONDS):
        while inbox.octets or writer.queue_bytes or writer.spool_bytes:  # noqa: ASYNC110 - threads take it
            await asyncio.sleep(0.01)
