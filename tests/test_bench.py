"""What the benchmarks rest on: their traffic holds as many records as they say, and their verdict is right."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bench import traffic
from bench.growth import Step, verdicts
from bench.load import records, save
from bench.receivers import Processes
from decoders.datagrams import Datagrams
from decoders.decoder import Decoder


@pytest.mark.parametrize(
    ("kind", "datagrams", "count"),
    [
        ("ipfix", 8, 24 * 8),
        ("netflow9", 8, 24 * 8),
        ("netflow5", 8, 30 * 8),
        ("sflow_switch", 8, 6 * 8),
        ("ipfix_ovs", 256, 256 - 40),  # 40 of them hold templates and options
    ],
)
def test_the_load_gives_the_rows_that_are_expected_of_receivers(kind: str, datagrams: int, count: int) -> None:
    payloads = traffic.payloads(kind, 3, datagrams)
    decoded = Decoder().decode(Datagrams.of((payload, "192.0.2.1", 9, traffic.TIME * 10**6) for payload in payloads))

    assert sum(records(kind, payload) for payload in payloads) == count
    assert sum(batch.num_rows for batch in decoded.flows) == count


def test_a_sample_of_the_switch_is_what_was_put_in() -> None:
    (payload,) = traffic.payloads("sflow_switch", 3, 1)
    (flows,) = Decoder().decode(Datagrams.of([(payload, "192.0.2.1", 9, 5)])).flows
    row = flows.slice(0, 1).to_pylist()[0]

    assert (row["vlan"], row["ip_protocol"], row["tcp_flags"], row["sampling_rate"]) == (100, 6, 0x10, 64)
    assert row["frame_bytes"] == row["bytes"] + 14
    assert row["src_mac"] == 0x5254_0000_0000 + int.from_bytes(row["src_ip"][-2:], "big")


def test_only_growth_above_the_number_is_worse_than_linear() -> None:
    steps = [Step(10, 1.0, 5.0), Step(100, 12.0, 6.0), Step(1_000, 160.0, 6.0), Step(10_000, 160.0, 9.0)]

    assert verdicts("exporters", steps) == [
        "exporters 100 → 1000: the cost of a record grew more than 10-fold",
        "exporters 1000 → 10000: 1.50 × the cost of one more",
    ]


def test_saved_figures_are_json_with_the_machine(tmp_path: Path) -> None:
    save(tmp_path / "x.json", {"ipfix": [{"name": "decode", "cost": 0.12345}, {"name": "sum", "cost": 2}], "none": []})

    found = json.loads((tmp_path / "x.json").read_text())
    assert f"{os.cpu_count()} × " in found.pop("machine")
    assert found == {"ipfix": [{"name": "decode", "cost": 0.123}, {"name": "sum", "cost": 2}], "none": []}


def test_cpu_time_of_a_process_is_its_own() -> None:
    times = os.times()
    assert Processes(os.getpid()).cpu_seconds() >= times.user + times.system - 0.05
