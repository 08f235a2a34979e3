"""Every sFlow capture decodes to the rows of its ground truth, and those to what the network really carried."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from decoders.datagrams import Datagrams
from decoders.errors import Reason
from decoders.limits import Limits
from decoders.sessions import S_COUNTER_RECORDS, S_DATAGRAMS, S_LOST, S_RECORDS, S_SAMPLES_LOST, S_SAMPLING_RATE
from tests.decoders.support import PCAPS, SMALL, Sflow, address, mac, payloads, rows, truth

STEMS = sorted(path.name.removesuffix(".samples.tsv") for path in PCAPS.glob("*.samples.tsv"))
LOCAL = 0x3FFFFFFF
TUNNELS = {17: "vxlan", 47: "gre"}


def decoded(stem: str, limits: Limits = SMALL) -> tuple[Sflow, list[dict[str, Any]], list[dict[str, Any]]]:
    sflow = Sflow(limits)
    result = sflow.decode_batch(Datagrams.of(payloads(stem)))
    return sflow, rows(result.flows), rows(result.counters)


def number(text: str, base: int = 10) -> int:
    return int(text, base) if text else 0


def expected_flow(line: dict[str, str], received_us: int) -> dict[str, Any]:
    """The row that a line of `X.samples.tsv` stands for; `bytes` of ARP is the frame behind its Ethernet header."""
    tunnel = json.loads(line["tunnel"]) if line["tunnel"] else {}
    outer = tunnel.get("ingress") or tunnel.get("egress") or {}
    tags = [int(tag) for tag in line["vlans"].split(",") if tag]
    frame_bytes = int(line["frame_length"]) - int(line["stripped"])
    proto = number(line["proto"])
    icmp = [int(part) for part in line["icmp"].split("/")] if line["icmp"] else [0, 0]
    port_vlan = number(line["sw_vlan_in"]) or number(line["sw_vlan_out"])
    kind, output = int(line["output_format"]), int(line["output"])
    out_kind = ["unknown" if output == 0 else "local" if output == LOCAL else "index", "discarded", "multiple"][kind]
    return {
        "time_received": received_us,
        "flow_start": received_us,
        "flow_end": received_us,
        "exporter": address(line["exporter"]),
        "agent": address(line["agent"]),
        "domain": int(line["sub_agent"]),
        "protocol": "sflow5",
        "packets": 1,
        "samples": 1,
        "sampling_rate": int(line["sampling_rate"]),
        "rate_source": "record",
        "bytes": int(line["ip_len"]) if line["ip_len"] else frame_bytes - 14 - 4 * len(tags),
        "frame_bytes": frame_bytes,
        "src_mac": mac(line["src_mac"]),
        "dst_mac": mac(line["dst_mac"]),
        "ether_type": int(line["ethertype"], 16),
        "vlan": tags[0] if tags else port_vlan,
        "tunnel": TUNNELS[outer["proto"]] if outer else "none",
        "vni": tunnel.get("ingress_vni") or tunnel.get("egress_vni") or 0,
        "outer_src_ip": address(outer.get("src", "")),
        "outer_dst_ip": address(outer.get("dst", "")),
        "src_ip": address(line["ip_src"]),
        "dst_ip": address(line["ip_dst"]),
        "ip_protocol": proto,
        "src_port": number(line["sport"]),
        "dst_port": number(line["dport"]),
        "tcp_flags": number(line["tcp_flags"], 16),
        "icmp_type": icmp[0],
        "icmp_code": icmp[1],
        "tos": number(line["tos"]),
        "ttl": number(line["ttl"]),
        "tcp_rtt_us": 0,
        "tcp_rtt_deviation_us": 0,
        "tcp_rtt_min_us": 0,
        "fragment": {"": 0, "first": 1, "later": 2}[line["frag"]],
        "in_if": 0 if int(line["input"]) == LOCAL else int(line["input"]),
        "out_if": 0 if kind == 1 or output == LOCAL else output,
        "in_if_name": "",
        "out_if_name": "",
        "out_kind": out_kind,
        "drop_reason": output if kind == 1 else 0,
        "drop_hint_packets": 1 if kind == 1 else 0,
        "direction": "unknown",
        "end_reason": 0,
    }


@pytest.mark.parametrize("stem", STEMS)
def test_flow_samples_are_those_of_the_ground_truth_in_every_column(stem: str) -> None:
    sflow, flows, _ = decoded(stem)
    received = [time_us for _, _, _, time_us in payloads(stem)]
    expected = [expected_flow(line, received[int(line["frame"]) - 1]) for line in truth(stem, "samples")]
    sequence_numbers = [flow.pop("tcp_seq") for flow in flows]
    assert len(flows) == len(expected)
    for row, (flow, want) in enumerate(zip(flows, expected, strict=True)):
        assert flow == want, f"row {row}"
    with_sequence = [flow["ip_protocol"] for seq, flow in zip(sequence_numbers, flows, strict=True) if seq]
    assert set(with_sequence) <= {6}
    assert len(with_sequence) >= 0.9 * sum(flow["ip_protocol"] == 6 for flow in flows)  # a port scan sends number 0
    assert sflow.stat(S_RECORDS) == len(expected)
    assert sflow.stat(S_DATAGRAMS) == len(received)
    assert sflow.stat(S_LOST) == 0
    assert sflow.stat(S_SAMPLES_LOST) == 0


TOTALS = {
    "in_bytes": "in_bytes",
    "in_unicast_packets": "in_ucast",
    "in_multicast_packets": "in_mcast",
    "in_broadcast_packets": "in_bcast",
    "in_discards": "in_discards",
    "in_errors": "in_errors",
    "in_unknown_protocols": "in_unknown",
    "out_bytes": "out_bytes",
    "out_unicast_packets": "out_ucast",
    "out_multicast_packets": "out_mcast",
    "out_broadcast_packets": "out_bcast",
    "out_discards": "out_discards",
    "out_errors": "out_errors",
}


def known(text: str) -> int | None:
    return None if text in ("4294967295", "18446744073709551615") else int(text)


@pytest.mark.parametrize("stem", STEMS)
def test_counters_are_those_of_the_ground_truth_with_their_differences(stem: str) -> None:
    sflow, _, counters = decoded(stem)
    received = [time_us for _, _, _, time_us in payloads(stem)]
    lines = [line for line in truth(stem, "counters") if line["if_index"]]
    assert len(counters) == len(lines)
    assert sflow.stat(S_COUNTER_RECORDS) == len(lines)
    before: dict[tuple[str, ...], dict[str, str]] = {}
    for row, line in zip(counters, lines, strict=True):
        source = tuple(line[name] for name in ("exporter", "agent", "sub_agent", "source_type", "source_index"))
        last = before.get(source)
        want: dict[str, Any] = {
            "time_received": received[int(line["frame"]) - 1],
            "exporter": address(line["exporter"]),
            "agent": address(line["agent"]),
            "domain": int(line["sub_agent"]),
            "source": "sflow",
            "source_class": int(line["source_type"]),
            "source_index": int(line["source_index"]),
            "if_index": int(line["if_index"]),
            "if_name": line["port_name"],
            "if_type": int(line["if_type"]),
            "if_speed": int(line["if_speed"]),
            "if_direction": int(line["if_direction"]),
            "if_status": int(line["if_status"]),
            "promiscuous": int(line["promisc"]),
            "datapath_id": int(line["of_dpid"] or "0", 16),
            "of_port": number(line["of_port"]),
            "delta_state": "ok" if last else "first",
            "interval_us": 1000 * (int(line["uptime_ms"]) - int(last["uptime_ms"])) if last else None,
        }
        for name, column in TOTALS.items():
            want[name] = known(line[column])
            grown = None
            if last and want[name] is not None:
                grown = int(line[column]) - int(last[column])
            want[f"{name}_delta"] = grown
        ethernet = {name: row.pop(name) for name in list(row) if name.startswith("eth_")}
        assert row == want
        stated = {name for name, value in ethernet.items() if value is not None}
        assert (stated >= {"eth_alignment_errors", "eth_fcs_errors"}) == stem.startswith("ovs"), stated
        before[source] = line


def test_every_packet_of_an_unsampled_capture_is_counted_to_the_octet() -> None:
    """At 1:1, what a VM sent per the kernel's own counters is the sum of the samples on its host with its MAC."""
    _, flows, _ = decoded("ovs_sflow_exact_s1")
    truths = json.loads((PCAPS / "ovs_sflow_exact_s1.truth.json").read_text())["nic_counters"]
    agents = {"host-a": address("192.0.2.11"), "host-b": address("192.0.2.12")}
    checked = 0
    for nic in truths.values():
        own = [row for row in flows if row["agent"] == agents[nic["host"]] and row["src_mac"] == mac(nic["mac"])]
        sent = Counter(packets=sum(row["packets"] * row["sampling_rate"] for row in own))
        sent["bytes"] = sum(row["frame_bytes"] * row["sampling_rate"] for row in own)
        assert (sent["packets"], sent["bytes"]) == (nic["tx"]["packets"], nic["tx"]["bytes"]), nic["vm"]
        checked += sent["packets"] > 0
    assert checked == 3


def test_a_capture_decodes_the_same_in_slices_and_batch_by_batch() -> None:
    stem = "ovs_sflow_mixed"
    _, flows, counters = decoded(stem)
    _, sliced_flows, sliced_counters = decoded(stem, Limits(sessions=64, sources=1_024, names=1_024, rows_per_batch=10))
    assert (sliced_flows, sliced_counters) == (flows, counters)
    sflow = Sflow()
    apart = [sflow.decode_batch(Datagrams.of([datagram])) for datagram in payloads(stem)]
    assert rows([batch for part in apart for batch in part.flows]) == flows
    assert rows([batch for part in apart for batch in part.counters]) == counters


def test_a_repeated_capture_is_all_duplicates() -> None:
    sflow = Sflow()
    batch = Datagrams.of(payloads("ovs_sflow_lossy")[:40])
    first = rows(sflow.decode_batch(batch).flows)
    again = sflow.decode_batch(batch)
    assert len(first) > 100
    assert (again.flows, again.counters) == ([], [])
    assert sflow.problems[Reason.DUPLICATE] == 40


def test_the_sampling_rate_last_stated_is_kept_per_session() -> None:
    sflow, _, _ = decoded("ovs_sflow_tcp_udp_s64")
    assert {int(rate) for rate in sflow.shared.sessions.stats[1:3, S_SAMPLING_RATE]} == {64}
