"""Records of flows that were reported before: they begin where the last one ended, whatever the exporter says."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from collector.decode.flow_starts import CONTINUED, EVICTED, WAYS, Continued
from decoders.datagrams import Datagrams
from decoders.decoder import Decoder
from schemas.column import Origin
from schemas.flows import FLOWS
from tests.decoders.support import address, payloads, rows
from tests.flow_rows import batch

SECOND = 1_000_000
UDP = 17
DATA_PORT = 5203


def decoded(stem: str) -> list[pa.RecordBatch]:
    return Decoder().decode(Datagrams.of(payloads(stem))).flows


def record(start: float, end: float, **values: Any) -> dict[str, Any]:
    """A record of one flow, received half a second after its end; times in seconds."""
    row = {
        "protocol": "netflow5",
        "exporter": address("192.0.2.11"),
        "src_ip": address("10.0.0.1"),
        "dst_ip": address("10.0.0.2"),
        "src_port": 1000,
        "dst_port": 53,
        "packets": 10,
        "flow_start": round((1000 + start) * SECOND),
        "flow_end": round((1000 + end) * SECOND),
        "time_received": round((1000 + end + 0.5) * SECOND),
    }
    return row | values


def begins(memory: Continued, *records: dict[str, Any]) -> list[float]:
    """When these records began, in seconds."""
    whole = batch(FLOWS, records).select(FLOWS.arrow(Origin.DECODE).names)
    return [round(row["flow_start"] / SECOND - 1000, 3) for row in rows([memory.follow(whole)])]


def test_a_steady_flow_of_open_vswitch_reads_steady() -> None:
    """The lab sent 521 packets a second for 45 s; as stated, the records say 520, 257, 172, 129 and 55."""
    memory = Continued()
    stated = [row for row in rows(decoded("ovs_netflow5_steady")) if row["ip_protocol"] == UDP and row["packets"] > 1]
    found = rows([memory.follow(one) for one in decoded("ovs_netflow5_steady")])
    found = [row for row in found if row["ip_protocol"] == UDP and row["packets"] > 1]

    starts = [row["flow_start"] for row in stated]
    assert max(starts) - min(starts) < SECOND / 500
    for exporter in ("192.0.2.11", "192.0.2.12"):
        of = [row for row in found if row["exporter"] == address(exporter)]
        assert len(of) == 5
        assert [row["flow_start"] for row in of[1:]] == [row["flow_end"] for row in of[:-1]]
        rates = [row["packets"] / (row["flow_end"] - row["flow_start"]) * SECOND for row in of]
        assert rates == pytest.approx([521] * 5, rel=0.02)
        assert of[0]["flow_start"] == next(row["flow_start"] for row in stated if row["exporter"] == address(exporter))
    assert memory.counts[CONTINUED] == 8


@pytest.mark.parametrize(
    "stem", ["softflowd_v5", "softflowd_v9", "pmacct_nfprobe_v9", "ovs_ipfix_tunnel", "pmacct_ipfix"]
)
def test_what_states_its_own_begin_keeps_it(stem: str) -> None:
    memory = Continued()
    found = rows([memory.follow(one) for one in decoded(stem)])

    assert found == rows(decoded(stem))
    assert memory.counts[CONTINUED] == 0


def test_batches_do_not_matter() -> None:
    memory = Continued()
    first, later = record(0, 10), record(0, 20)
    assert begins(memory, first) == [0]
    assert begins(memory, later, record(0, 30)) == [10, 20]


def test_counts_in_two_records_of_one_time_began_together() -> None:
    assert begins(Continued(), record(0, 10), record(0, 20), record(0, 20)) == [0, 10, 10]


def test_a_flow_that_began_anew_begins_anew() -> None:
    memory = Continued()
    assert begins(memory, record(0, 10), record(12, 20), record(12, 30)) == [0, 12, 20]


def test_a_late_record_changes_nothing() -> None:
    assert begins(Continued(), record(0, 10), record(0, 20), record(0, 15), record(0, 30)) == [0, 10, 0, 20]


@pytest.mark.parametrize(
    "other",
    [
        {"exporter": address("192.0.2.12")}, {"domain": 7}, {"in_if": 4}, {"src_port": 1001}, {"dst_port": 54},
        {"src_ip": address("10.0.0.3")}, {"dst_ip": address("10.0.0.3")}, {"ip_protocol": 6}, {"tos": 4}, {"vni": 9},
        {"vlan": 9}, {"src_mac": 9}, {"dst_mac": 9}, {"direction": "egress"}, {"protocol": "ipfix"},
    ],
)  # fmt: skip
def test_another_flow_is_another_flow(other: dict[str, Any]) -> None:
    assert begins(Continued(), record(0, 10), record(0, 20, **other)) == [0, 0]


@pytest.mark.parametrize(("protocol", "begin"), [("netflow5", 10), ("netflow9", 0), ("ipfix", 0)])
def test_only_netflow_5_goes_on_when_the_output_changes(protocol: str, begin: float) -> None:
    first = record(0, 10, protocol=protocol, out_if=1)
    assert begins(Continued(), first, record(0, 20, protocol=protocol, out_if=2)) == [0, begin]


@pytest.mark.parametrize(("protocol", "begin"), [("netflow5", 0.9), ("netflow9", 10), ("ipfix", 0.9)])
def test_netflow_9_rounds_its_times_to_seconds(protocol: str, begin: float) -> None:
    first = record(0, 10, protocol=protocol)
    assert begins(Continued(), first, record(0.9, 20, protocol=protocol)) == [0, begin]


def test_samples_are_left_alone() -> None:
    first = record(0, 10, protocol="sflow5")
    assert begins(Continued(), first, record(0, 20, protocol="sflow5")) == [0, 0]


def test_memory_is_bounded_and_what_it_forgets_is_counted() -> None:
    """One set of places: the flow that ended first goes, the others are known."""
    memory = Continued(slots=WAYS)
    flows = [record(0, 10 + number, src_port=number) for number in range(WAYS + 1)]
    begins(memory, *flows)

    assert memory.counts[EVICTED] == 1
    again = [record(0, 40, src_port=number) for number in (WAYS, 1, 0)]
    assert begins(memory, *again) == [10 + WAYS, 11, 0]


def test_how_far_records_reach_back_is_that_of_nearly_all_packets() -> None:
    memory = Continued()
    assert memory.reach_us() == 0
    begins(memory, record(0, 0.1, packets=10_000), record(0, 9, src_port=1, packets=99))
    assert memory.reach_us() == 2 * SECOND
    begins(memory, record(0, 9, src_port=2, packets=10))
    assert memory.reach_us() == 12 * SECOND
    begins(memory, record(0, 600, src_port=3, packets=1_000_000))
    assert memory.reach_us() == 65 * SECOND


def test_what_lies_before_the_service_needs_no_waiting_for() -> None:
    memory = Continued()
    memory.since_us = (1000 + 596) * SECOND
    begins(memory, record(0, 600, packets=1_000_000))
    assert memory.reach_us() == 5 * SECOND


def test_what_is_long_ago_counts_less() -> None:
    memory = Continued()
    begins(memory, record(0, 9, packets=1000))
    for _ in range(300):
        memory.fade()
    begins(memory, record(0, 0.1, src_port=1, packets=1000))
    assert memory.reach_us() == 2 * SECOND
