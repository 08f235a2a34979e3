"""Every query of docs/vm-metrics.md runs and finds what it is for; every column that the page names exists."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from clickhouse_connect.driver import Client

from collector.analyze.figures import read_due, store_window
from collector.sql.engine import Engine, Query
from collector.store.settings import StoreSettings
from tests.flow_rows import BEGIN_US, add, ask, flow, named, polls, store, vm

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "vm-metrics.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"```sql\n-- (.*?)\n(.*?)```", PAGE, re.DOTALL)
A, B = vm("a", "host-1"), vm("b", "host-2")


@pytest.fixture(scope="module")
def filled(store_directory: Path) -> Iterator[Client]:
    """Captures, and rows for what no capture has."""
    with store(StoreSettings(url=f"chdb://{store_directory}", database="page")) as client:
        for stem in ("ovs_sflow_mixed", "ovs_sflow_exact_s1", "ovs_sflow_tcp_udp_s64"):
            add(client, named(stem))
            add(client, polls(stem), "interface_counters")
        lossy = [flow(A, B, "source", received=5)] * 100 + [flow(A, B, "destination", received=5)] * 90
        refused = [
            flow(A, B, seen, received=5, ip_protocol=6, tcp_flags=2, src_port=port)
            for seen in ("source", "destination")
            for port in range(40)
        ]
        add(client, lossy + refused + [flow(A, B, "transit", received=5)])
        ends = {
            name: value
            for name, value in flow(A, B, "source").items()
            if name.startswith(("src_vm", "dst_vm", "network"))
        }
        reading = {"time": BEGIN_US, "interval_us": 10_000_000, "latency_us": 900, "spread_us": 5, "samples": 3}
        add(client, [ends | reading], "latency")
        report = {"time": BEGIN_US + 20_000_000, "interval_us": 10_000_000, "datagrams": 9, "export_lost": 1}
        add(client, [report | {"exporter": IPv6Address("::1").packed, "protocol": "sflow5"}], "exporters")
        now = int(time.time())
        for window in read_due(client, "1m", {"begin": now - 4 * 3600, "end": now}):
            store_window(client, "1m", window, now, 1)
        yield client


def test_the_page_has_the_queries_that_people_ask_for() -> None:
    assert len(QUERIES) == PAGE.count("```sql")
    assert {"Slow pairs", "Pairs whose connections fail"} <= {title for title, _ in QUERIES}
    for word in ("sent most", "matrix", "lose", "Blind"):
        assert any(word in title for title, _ in QUERIES)


@pytest.mark.parametrize(("title", "sql"), QUERIES, ids=[title for title, _ in QUERIES])
def test_a_query_finds_something(filled: Client, title: str, sql: str) -> None:
    rows = ask(filled, sql)

    assert rows, title


def test_the_read_only_endpoint_answers_them(filled: Client, store_directory: Path) -> None:
    """People ask through the SQL endpoint of the service: its guard and `readonly` must let all of them pass."""
    engine = Engine(store_directory, StoreSettings(url=f"chdb://{store_directory}", database="page"))
    try:
        answers = {title: engine.run(Query(sql.encode(), "page", "JSONEachRow", {}, {})) for title, sql in QUERIES}
    finally:
        engine.close()

    assert [title for title, answer in answers.items() if not answer.body] == []


def test_figures_named_on_the_page_are_columns(filled: Client) -> None:
    views = ["vm_peers", *(f"{name}_metrics" for name in ("pair", "vm", "host", "interface", "exporter"))]
    columns = {row["name"] for view in views for row in ask(filled, f"DESCRIBE TABLE {view}")}
    headings = re.findall(r"^## .*", PAGE, re.MULTILINE)
    named_in_headings = {name for heading in headings for name in re.findall(r"`(\w+)`", heading)}

    assert named_in_headings
    assert named_in_headings <= columns
