"""Latency from captures of real switches, against what the machines that sent the traffic say.

Both hosts of the lab are one machine: the true offset of their clocks is 0.  The wire adds no delay.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from collector.analyze.latency import LatencyRules, store_latency
from collector.analyze.settings import AnalyzeSettings
from collector.store.client import open_in_database
from collector.store.settings import StoreSettings
from tests.analyze.support import BASE_US, SECOND_US, WINDOW_US, export, heard, shift_us
from tests.flow_rows import add, ask, truth_of

HANDSHAKES = {"tcp": 2, "udp": 1, "local": 2, "http": 20}
"""TCP connections of one run: iperf3 has one for control and, with TCP, one for data; the web client 20."""


def latency(settings: StoreSettings, stem: str) -> list[dict[str, Any]]:
    """Rows of table latency that the capture gives; its exporters were known before."""
    capture = export(stem)
    with open_in_database(settings) as client:
        heard(client, BASE_US - 3600 * SECOND_US, "192.0.2.11", "192.0.2.12")
        add(client, capture.flows)
        for start in range(BASE_US, capture.end_us, WINDOW_US):
            store_latency(client, start, start + WINDOW_US, 0, LatencyRules.of(AnalyzeSettings()))
        return ask(client, "SELECT * EXCEPT time, toUnixTimestamp64Micro(time) AS time FROM latency")


def connections(stem: str) -> dict[tuple[str, str], int]:
    """How many TCP connections were opened from one VM to another, by the generators' own account."""
    expected: dict[tuple[str, str], int] = {}
    for run in truth_of(stem)["traffic"]:
        if run["kind"] in HANDSHAKES:
            pair = (run["from"], run["to"])
            expected[pair] = expected.get(pair, 0) + HANDSHAKES[run["kind"]]
    return expected


def slowest_ping_us(truth: dict[str, Any]) -> float:
    """The longest round trip of any ping in the overlay."""
    texts = [run["result"]["text"] for run in truth["traffic"] if run["kind"] in ("ping", "ping6")]
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
        assert 0 <= row["latency_min_us"] <= row["latency_us"] <= slowest_ping_us(truth_of(stem)) + 1_000
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
        assert row["latency_us"] - row["spread_us"] <= slowest_ping_us(truth_of(stem)) / 2
        assert row["latency_us"] + row["spread_us"] >= 0
        assert row["spread_us"] < 5_000
        assert row["src_exporter"] != row["dst_exporter"]


def test_a_sampled_export_gives_nothing(embedded_store: StoreSettings) -> None:
    assert latency(embedded_store, "ovs_ipfix_s16") == []


def test_a_wire_that_delays_by_20_ms_and_loses_5_percent(embedded_store: StoreSettings) -> None:
    """Clean, then impaired, then clean: the figures follow within a window, and lost packets do not get into them."""
    phases = truth_of("ovs_ipfix_delay")["phases"]
    assert [phase["wire"] for phase in phases] == ["clean", "loss 5 %, delay 20 ms each way", "clean"]
    rows = latency(embedded_store, "ovs_ipfix_delay")
    moved = shift_us("ovs_ipfix_delay")
    impaired = [phases[1][end] * SECOND_US + moved for end in ("start", "end")]

    # Windows in which the wire did not change.
    slow = [row for row in rows if impaired[0] <= row["time"] <= impaired[1] - WINDOW_US]
    assert {row["method"] for row in slow} == {"handshake", "one_way"}
    for row in slow:
        expected, allowed = (40_000, 5_000) if row["method"] == "handshake" else (20_000, 3_000)
        assert abs(row["latency_us"] - expected) <= allowed
    # The web client of a2 was done long before the wire was clean again, and ran once more then.
    web = [row for row in rows if {row["src_vm"], row["dst_vm"]} == {"a2", "b2"}]
    again = [row for row in web if row["time"] > impaired[1] - WINDOW_US]
    assert {(row["method"], row["src_vm"]) for row in again} == {
        ("handshake", "a2"), ("one_way", "a2"), ("one_way", "b2"),
    }  # fmt: skip
    for row in again:
        assert row["latency_us"] <= slowest_ping_us(phases[2]) + 1_000
    for row in rows:
        if row["method"] == "one_way":
            assert abs(row["clock_offset_us"]) <= row["clock_error_us"]
