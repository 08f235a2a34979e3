"""NetFlow v9 and IPFIX captures of real exporters, column by column against tshark, and sums against the truth."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import netflow
import pytest

from decoders.datagrams import Datagrams
from decoders.decoder import Decoder
from decoders.netflow.messages import waits
from decoders.sessions import S_DUPLICATES, S_LOST, S_RECORDS, S_REORDERED, S_RESTARTS
from tests.decoders.support import PCAPS, address, mac, payloads, rows, truth

OVS = ("ovs_ipfix_tunnel", "ovs_ipfix_input_only", "ovs_ipfix_nocache", "ovs_ipfix_s16")
SUMS = {
    "ovs_ipfix_tunnel": (266, 76664, 91614302),
    "ovs_ipfix_input_only": (146, 44498, 53453194),
    "ovs_ipfix_nocache": (600, 600, 390720),
    "ovs_ipfix_s16": (73, 31376, 33595360),
    "softflowd_v9": (1032, 15083, 16211302),
    "softflowd_ipfix": (1045, 15622, 16419985),
    "pmacct_nfprobe_v9": (30, 14156, 16417472),
    "pmacct_ipfix": (28, 14586, 16391275),
}
"""Rows, packets, octets.  softflowd_v9 has 6 records more than tshark reads (it stops at an option set);
softflowd_ipfix has 517 rows of reverse counters."""

REVERSED = {
    "src_ip": "dst_ip",
    "dst_ip": "src_ip",
    "src_port": "dst_port",
    "dst_port": "src_port",
    "src_mac": "dst_mac",
    "dst_mac": "src_mac",
}


def decode(stem: str) -> tuple[Decoder, list[dict[str, Any]]]:
    decoder = Decoder()
    return decoder, rows(decoder.decode(Datagrams.of(payloads(stem))).flows)


def flow_lines(stem: str) -> list[dict[str, str]]:
    """The flow records among those of tshark."""
    return [line for line in truth(stem, "records") if line.get("packets") or line.get("packets#2")]


def moment(text: str) -> int:
    """A time as tshark prints it -> µs since 1970."""
    whole, fraction = text.removesuffix(" UTC").split(".")
    parsed = datetime.strptime(whole, "%b %d, %Y %H:%M:%S").replace(tzinfo=UTC)
    return int(parsed.timestamp()) * 1_000_000 + int(fraction[:6])


@pytest.mark.parametrize("stem", SUMS)
def test_sums_are_those_of_the_truth_and_nothing_is_called_lost(stem: str) -> None:
    decoder, found = decode(stem)
    stats = decoder.shared.sessions.stats

    assert (len(found), sum(r["packets"] for r in found), sum(r["bytes"] for r in found)) == SUMS[stem]
    assert decoder.shared.sessions.problems.sum() == 0
    for word in (S_LOST, S_REORDERED, S_DUPLICATES, S_RESTARTS):
        assert stats[:, word].sum() == 0


@pytest.mark.parametrize("stem", SUMS)
def test_one_datagram_at_a_time_gives_the_same_rows(stem: str) -> None:
    decoder = Decoder()
    singly = []
    for one in payloads(stem):
        singly.extend(rows(decoder.decode(Datagrams.of([one])).flows))

    assert singly == decode(stem)[1]


def check_common(row: dict[str, Any], line: dict[str, str]) -> None:
    """Columns that all exporters fill."""
    icmp = row["ip_protocol"] in (1, 58)
    assert row["exporter"] == address(line["exporter"])
    assert row["domain"] == int(line["domain"])
    assert row["packets"] == int(line["packets"])
    assert row["ip_protocol"] == int(line.get("protocol") or 0)
    assert row["src_ip"] == address(line["srcaddr"] or line.get("srcaddrv6", ""))
    assert row["dst_ip"] == address(line["dstaddr"] or line.get("dstaddrv6", ""))
    assert row["bytes"] == int(line["octets"] or 0)
    assert row["tos"] == int(line["tos"] or "0", 16)
    assert row["in_if"] == int(line["inputint"])
    assert row["src_mac"] == mac(line["srcmac"])
    assert row["end_reason"] == int(line.get("flow_end_reason") or 0)
    assert (row["src_port"], row["dst_port"]) == (
        (0, 0) if icmp else (int(line["srcport"] or 0), int(line["dstport"] or 0))
    )


@pytest.mark.parametrize("stem", OVS)
def test_open_vswitch_column_by_column(stem: str) -> None:
    _, found = decode(stem)
    lines = flow_lines(stem)

    assert len(found) == len(lines)
    for row, line in zip(found, lines, strict=True):
        check_common(row, line)
        assert row["protocol"] == "ipfix"
        assert row["dst_mac"] == mac(line["dstmac"])
        assert row["ether_type"] == int(line["ethernet_type"])
        assert row["ttl"] == int(line["ip_ttl"] or 0)
        assert row["vlan"] == int(line.get("vlanid") or 0)
        assert row["frame_bytes"] == int(line["layer2_octet_delta_count"])
        assert row["direction"] == ("ingress", "egress")[int(line["direction"])]
        assert row["out_if"] == int(line.get("outputint") or 0)
        assert row["out_kind"] == ("index" if row["out_if"] else "unknown")
        # tshark leaves an empty name out, so that the second one moves to the first place.
        stated = [name for name in (line["if_name"], line.get("if_name#2", "")) if name]
        assert [name for name in (row["in_if_name"], row["out_if_name"]) if name] == stated
        assert bool(row["out_if_name"]) == (row["direction"] == "egress")
        assert row["drop_hint_packets"] == int(line["drop_packets"])
        assert (row["flow_start"], row["flow_end"]) == (moment(line["abstimestart"]), moment(line["abstimeend"]))
        assert (row["sampling_rate"], row["rate_source"]) == (1, "unstated")
        assert row["samples"] == (1 if row["flow_start"] == row["flow_end"] else row["packets"])
        kind = line.get("ent[VMware Inc.].891", "")
        assert row["tunnel"] == {"": "none", "01": "vxlan"}[kind]
        assert row["vni"] == int(line.get("ent[VMware Inc.].892", "").replace(":", "") or "0", 16)
        for column, number in (("outer_src_ip", 893), ("outer_dst_ip", 894)):
            octets = bytes.fromhex(line.get(f"ent[VMware Inc.].{number}", "").replace(":", ""))
            assert row[column] == (bytes(10) + b"\xff\xff" + octets if octets else bytes(16))


@pytest.mark.parametrize("stem", ["pmacct_nfprobe_v9", "pmacct_ipfix"])
def test_pmacct_column_by_column(stem: str) -> None:
    _, found = decode(stem)
    lines = flow_lines(stem)

    assert len(found) == len(lines)
    for row, line in zip(found, lines, strict=True):
        check_common(row, line)
        assert row["dst_mac"] == mac(line["dstmac"])
        assert row["tcp_flags"] == int(line["tcpflags"] or "0", 16)
        assert (row["flow_start"], row["flow_end"]) == (moment(line["abstimestart"]), moment(line["abstimeend"]))
        if row["ip_protocol"] in (1, 58):
            assert row["icmp_type"] << 8 | row["icmp_code"] == int(line["dstport"])


def test_softflowd_v9_column_by_column() -> None:
    """All that tshark reads; the six records that it does not are the data of datagrams 1 and 4."""
    _, found = decode("softflowd_v9")
    headers = {line["frame"]: line for line in truth("softflowd_v9", "headers")}
    received = [one[3] for one in payloads("softflowd_v9")]
    unread = {received[0], received[3]}
    assert Counter(row["time_received"] for row in found if row["time_received"] in unread) == {
        received[0]: 2,
        received[3]: 4,
    }

    read = [row for row in found if row["time_received"] not in unread]
    lines = flow_lines("softflowd_v9")
    assert len(read) == len(lines)
    for row, line in zip(read, lines, strict=True):
        check_common(row, line)
        header = headers[line["frame"]]
        boot = int(header["export_secs"]) * 1_000_000 - round(float(header["sysuptime"]) * 1e6)
        assert row["flow_start"] == boot + round(float(line["timestart"]) * 1e6)
        assert row["flow_end"] == boot + round(float(line["timeend"]) * 1e6)
        assert row["dst_mac"] == mac(line["post_dstmac"])
        assert row["tcp_flags"] == int(line["tcpflags"] or "0", 16)
        assert row["direction"] == ("ingress", "egress")[int(line["direction"])]
        if line["icmp_type_code_ipv4"]:
            assert row["icmp_type"] << 8 | row["icmp_code"] == int(line["icmp_type_code_ipv4"], 16)
        assert (row["sampling_rate"], row["rate_source"]) == (1, "options")


def test_softflowd_biflows_give_two_rows() -> None:
    """Reverse counters (PEN 29305) are a row of their own, with the ends swapped."""
    _, found = decode("softflowd_ipfix")
    boot = moment(truth("softflowd_ipfix", "records")[0]["sys_init_time"])
    position = 0
    for line in flow_lines("softflowd_ipfix"):
        row = found[position]
        check_common(row, line)
        assert row["flow_start"] == boot + round(float(line["timestart"]) * 1e6)
        assert row["flow_end"] == boot + round(float(line["timeend"]) * 1e6)
        assert row["tcp_flags"] == int(line["tcpflags"] or "0", 16)
        position += 1
        if int(line["packets#2"]) or int(line["octets#2"]):
            back = found[position]
            position += 1
            assert (back["packets"], back["bytes"]) == (int(line["packets#2"]), int(line["octets#2"]))
            assert back["tcp_flags"] == int(line["tcpflags#2"] or "0", 16)
            assert {b: back[a] for a, b in REVERSED.items()} == {b: row[b] for b in REVERSED.values()}
            assert (back["flow_start"], back["flow_end"]) == (row["flow_start"], row["flow_end"])
            if line["icmp_type_code_ipv4#2"]:
                assert back["icmp_type"] << 8 | back["icmp_code"] == int(line["icmp_type_code_ipv4#2"], 16)
    assert position == len(found)


@pytest.mark.parametrize("stem", ["pmacct_nfprobe_v9", "pmacct_ipfix"])
def test_netflow_package_counts_the_same(stem: str) -> None:
    """softflowd v9 is left out: the package takes its unpadded sets for padded ones."""
    known: dict[str, dict[Any, Any]] = {"netflow": {}, "ipfix": {}}
    packets = 0
    flows = 0
    for payload, *_ in payloads(stem):
        for flow in netflow.parse_packet(payload, known).flows:
            data = flow.data
            counted = data.get("IN_PKTS", data.get("packetDeltaCount"))
            if counted is not None:
                packets += counted
                flows += 1

    _, found = decode(stem)
    assert (flows, packets) == (len(found), sum(row["packets"] for row in found))


def test_open_vswitch_shares_a_sequence_between_domains() -> None:
    decoder, _ = decode("ovs_ipfix_nocache")

    assert decoder.shared.sessions.stats[:, S_LOST].sum() == 0

    lossy = Decoder()
    kept = [one for index, one in enumerate(payloads("ovs_ipfix_nocache")) if index not in range(100, 110)]
    lossy.decode(Datagrams.of(kept))
    assert lossy.shared.sessions.stats[:, S_LOST].sum() == 10
    assert lossy.shared.sessions.stats[:, S_RECORDS].sum() == 590


def test_a_port_that_ovs_vsctl_set_opened_is_read_by_the_templates_of_the_former_one() -> None:
    """As captured: the second port sends ten records and not one template."""
    steps = json.loads((PCAPS / "ovs_ipfix_set.truth.json").read_text("utf-8"))["steps"]
    decoder = Decoder()
    found: Counter[int] = Counter()
    for datagram in payloads("ovs_ipfix_set"):
        found[datagram[2]] += len(rows(decoder.decode(Datagrams.of([datagram])).flows))

    assert found == {step["port"]: step["flows"] for step in steps}
    assert waits(decoder.sets.held)[0].tolist() == []
