"""Latency from captures of real switches, against what the machines that sent the traffic say.

Both hosts of the lab are one machine: the true offset of their clocks is 0.  The wire adds no delay.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from collector.analyze.latency import LatencyRules, store_latency
from collector.analyze.settings import AnalyzeSettings
from collector.store.settings import StoreSettings
from tests.analyze import named
from tests.analyze.exports import BASE_US, SECOND_US, WINDOW_US, export, heard
from tests.analyze.named import add, ask, truth_of

HANDSHAKES = {"tcp": 2, "udp": 1, "local": 2, "http": 20}
"""TCP connections of one run: iperf3 has one for control and, with TCP, one for data; the web client 20."""


def latency(settings: StoreSettings, stem: str) -> list[dict[str, Any]]:
    """Rows of table latency that the capture gives; its exporters were known before."""
    capture = export(stem)
    with named.store(settings) as client:
        heard(client, BASE_US - 3600 * SECOND_US, "192.0.2.11", "192.0.2.12")
        add(client, capture.flows)
        for start in range(BASE_US, capture.end_us, WINDOW_US):
            store_latency(client, start, start + WINDOW_US, 0, LatencyRules.of(AnalyzeSettings()))
        return ask(client, "SELECT * FROM latency")


def connections(stem: str) -> dict[tuple[str, str], int]:
    """How many TCP connections were opened from one VM to another, by the generators' own account."""
    expected: dict[tuple[str, str], int] = {}
    for run in truth_of(stem)["traffic"]:
        if run["kind"] in HANDSHAKES:
            pair = (run["from"], run["to"])
            expected[pair] = expected.get(pair, 0) + HANDSHAKES[run["kind"]]
    return expected


def slowest_ping_us(stem: str) -> float:
    """The longest round trip of any ping in the overlay."""
    texts = [run["result"]["text"] for run in truth_of(stem)["traffic"] if run["kind"] in ("ping", "ping6")]
    found = [re.search(r"= [\d.]+/[\d.]+/([\d.]+)/", text) for text in texts]
    return max(float(match[1]) for match in found if match) * 1_000


@pytest.mark.parametrize("stem", ["ovs_ipfix_tunnel", "ovs_ipfix_input_only"])
def test_every_connection_gives_one_round_trip(embedded_store: StoreSettings, stem: str) -> None:
    rows = [row for row in latency(embedded_store, stem) if row["method"] == "handshake"]

    samples: dict[tuple[str, str], int] = {}
    for row in rows:
        pair = (row["src_vm"], row["dst_vm"])
        samples[pair] = samples.get(pair, 0) + row["samples"]
        # Whole milliseconds, cut: a connection takes about as long as a ping.
        assert row["spread_us"] == 1_000
        assert 0 <= row["latency_min_us"] <= row["latency_us"] <= slowest_ping_us(stem) + 1_000
    assert samples == connections(stem)


@pytest.mark.parametrize("stem", ["ovs_ipfix_tunnel", "ovs_ipfix_input_only", "ovs_ipfix_nocache"])
def test_one_way_has_the_true_offset_and_the_true_latency_in_its_interval(
    embedded_store: StoreSettings, stem: str
) -> None:
    rows = [row for row in latency(embedded_store, stem) if row["method"] == "one_way"]

    assert {(row["src_vm"], row["dst_vm"]) for row in rows} >= {("a1", "b1"), ("b1", "a1"), ("a2", "b1"), ("b1", "a2")}
    for row in rows:
        assert abs(row["clock_offset_us"] - 0) <= row["clock_error_us"]
        # Between nothing and half of the slowest ping.
        assert row["latency_us"] - row["spread_us"] <= slowest_ping_us(stem) / 2
        assert row["latency_us"] + row["spread_us"] >= 0
        assert row["spread_us"] < 5_000
        assert row["src_exporter"] != row["dst_exporter"]


def test_a_sampled_export_gives_nothing(embedded_store: StoreSettings) -> None:
    assert latency(embedded_store, "ovs_ipfix_s16") == []
