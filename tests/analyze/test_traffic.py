"""Traffic in `/metrics`: read from a real store's views, bounded, escaped, gone when old; judged by promtool."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver import Client
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from collector.analyze.settings import AnalyzeSettings
from collector.analyze.traffic import SCOPES, Traffic, families
from collector.interfaces import WindowClosed
from collector.metrics import LABEL_CHARACTERS, Metrics
from collector.store.client import open_client
from collector.store.settings import StoreSettings
from tests.flow_rows import BEGIN_US, add, flow, store, vm
from tests.hostile.nasty import NASTY, harmless

SECOND_US = 1_000_000
WINDOW = WindowClosed("10s", BEGIN_US, BEGIN_US + 10 * SECOND_US, False, 1)
A, B, C = vm("a", "host-1"), vm("b", "host-2"), vm("c", "host-2")
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def settings(store_directory: Path) -> Iterator[StoreSettings]:
    """A window in which a sends 100 packets to b, of which 93 arrive, and 10 to c."""
    settings = StoreSettings(url=f"chdb://{store_directory}", database="traffic")
    with store(settings) as client:
        add(
            client,
            [flow(A, B, "source", received=5)] * 100
            + [flow(A, B, "destination", received=5.1)] * 93
            + [flow(A, C, seen, received=5) for seen in ("source", "destination")] * 10,
        )
        yield settings


def connect(settings: StoreSettings) -> Client:
    client = open_client(settings)
    client.database = settings.database
    return client


async def read(settings: AnalyzeSettings, connect: Callable[[], Client], window: WindowClosed = WINDOW) -> Metrics:
    """What is reported once a window has closed."""
    metrics = Metrics()
    traffic = Traffic(settings, metrics, asyncio.to_thread, connect, clock_us=lambda: WINDOW.end_us + 5 * SECOND_US)
    async with traffic:
        await traffic.window_closed(window)
        async with asyncio.timeout(600):
            if traffic._task is not None:
                await traffic._task
    return metrics


def on(**given: Any) -> AnalyzeSettings:
    return AnalyzeSettings(traffic_metrics=True, traffic_level="10s", traffic_seconds=600, **given)


def test_the_figures_are_those_of_the_views(settings: StoreSettings) -> None:
    value = asyncio.run(read(on(), partial(connect, settings))).value

    pair = {"src_vm": "a", "dst_vm": "b", "network": "net-1"}
    client = connect(settings)
    row = client.query("SELECT * FROM pair_metrics WHERE dst_vm = 'b'").first_item
    client.close()
    pair["network"] = row["network"]
    assert value("traffic_pair_bytes_per_second", **pair) == 100 * 100 / 10
    for end, column in (("_low", "bits_per_second_low"), ("_high", "bits_per_second_high")):
        assert value(f"traffic_pair_bytes_per_second{end}", **pair) == row[column] / 8
    for end in ("", "_low", "_high"):
        assert value(f"traffic_pair_loss_ratio{end}", **pair) == pytest.approx(0.07)
        assert value(f"traffic_pair_latency_seconds{end}", **pair) is None  # nothing was measured
    assert value("traffic_host_bytes_per_second", host="host-1", direction="sent") == 110 * 100 / 10
    assert value("traffic_host_bytes_per_second", host="host-2", direction="received") > 0
    assert value("traffic_window_seconds") == WINDOW.end_us / 1e6
    assert (value("traffic_pairs_left_out"), value("traffic_hosts_left_out")) == (0, 0)
    assert value("traffic_reads_total", result="ok") == 1


def test_only_the_busiest_are_shown_and_the_others_counted(settings: StoreSettings) -> None:
    metrics = asyncio.run(read(on(traffic_pairs=1, traffic_hosts=0), partial(connect, settings)))

    reported = {labels for name, labels in samples(metrics) if name == "vmflow_traffic_pair_bytes_per_second"}
    assert [dict(labels)["dst_vm"] for labels in reported] == ["b"]
    assert metrics.value("traffic_pairs_left_out") == 1
    assert not [name for name, _ in samples(metrics) if "_host_" in name]


def test_other_windows_and_an_unset_setting_ask_nobody(settings: StoreSettings) -> None:
    def nobody() -> Client:
        raise AssertionError("asked")

    minute = WindowClosed("1m", BEGIN_US, BEGIN_US + 60 * SECOND_US, False, 1)
    assert not traffic_of(asyncio.run(read(on(), nobody, minute)), but="reads")
    assert samples(asyncio.run(read(AnalyzeSettings(), nobody))) == {}


def test_a_store_that_fails_is_counted_and_figures_get_old(settings: StoreSettings) -> None:
    metrics, now_us = Metrics(), [WINDOW.end_us]
    clients = []

    def opened() -> Client:
        clients.append(connect(settings))
        return clients[-1]

    async def both() -> None:
        traffic = Traffic(on(), metrics, asyncio.to_thread, opened, clock_us=lambda: now_us[0])
        async with traffic:
            for _ in range(2):
                await traffic.window_closed(WINDOW)
                assert traffic._task is not None
                await traffic._task
                clients[0].database = "none"

    asyncio.run(both())

    assert (
        metrics.value("traffic_reads_total", result="ok"),
        metrics.value("traffic_reads_total", result="failed"),
    ) == (1, 1)
    assert traffic_of(metrics, but="reads")  # still those of the window before
    now_us[0] += 31 * SECOND_US
    assert not traffic_of(metrics, but="reads")


def samples(metrics: Metrics) -> Samples:
    """Every sample of the exposition, as Prometheus' own parser reads it."""
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def traffic_of(metrics: Metrics, but: str) -> list[str]:
    return [name for name, _ in samples(metrics) if "traffic" in name and but not in name]


def exposition(rows: list[list[Any]]) -> bytes:
    metrics = Metrics()

    class Notification:
        def collect(self) -> Any:
            return families(SCOPES["pairs"], rows)

    metrics.registry.register(Notification())  # type: ignore[arg-type] # all that the registry asks for
    return generate_latest(metrics.registry)


def test_names_of_others_stay_names() -> None:
    rows = [[text, 'quote" back\\slash', "net", *([1.0] * 9), len(NASTY)] for text in [*NASTY, NASTY[0]]]

    text = exposition(rows).decode()

    names = [
        sample.labels["src_vm"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "vmflow_traffic_pair_loss_ratio"
    ]
    assert len(names) == len(set(names)) == len(NASTY)  # each once, and none like another
    assert all(len(name) <= LABEL_CHARACTERS and harmless(name) for name in names)
    assert harmless(text, but="\n")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")
def test_promtool_finds_nothing(settings: StoreSettings) -> None:
    metrics = asyncio.run(read(on(), partial(connect, settings)))
    for text in (generate_latest(metrics.registry), exposition([[*"abc", *([0.5] * 9), 1]])):
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, b"")
