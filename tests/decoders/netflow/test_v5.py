"""NetFlow v1, v5, v7: layouts, clocks, sequence numbers, sampling, damage; against tshark and the netflow package."""

from __future__ import annotations

import struct
from ipaddress import IPv6Network, ip_address

import netflow
import pytest

from decoders.datagrams import Datagrams
from decoders.decoder import Decoder
from decoders.errors import Reason
from decoders.overrides import ExporterRule
from decoders.sessions import S_LOST, S_RECORDS, S_REORDERED, S_RESTARTS
from tests.decoders.netflow.support import NOW, Collector, record5, v5
from tests.decoders.support import address, payloads, rows, truth

CAPTURES = ("fprobe_v5", "softflowd_v5", "pmacct_nfprobe_v5", "ovs_netflow5", "ovs_netflow5_two_bridges")
HEADER_US = NOW * 1_000_000 + 500_000


@pytest.mark.parametrize("stem", CAPTURES)
def test_captures_decode_to_what_tshark_reads(stem: str) -> None:
    """Column by column, record by record, in order."""
    decoder = Decoder()
    found = rows(decoder.decode(Datagrams.of(payloads(stem))).flows)
    expected = truth(stem, "records")
    headers = {line["frame"]: line for line in truth(stem, "headers")}

    assert len(found) == len(expected)
    for row, line in zip(found, expected, strict=True):
        header = headers[line["frame"]]
        icmp = line["protocol"] == "1"
        assert row["exporter"] == address(line["exporter"])
        assert row["protocol"] == "netflow5"
        assert row["domain"] == int(header["engine_type"]) << 8 | int(header["engine_id"])
        assert (row["src_ip"], row["dst_ip"]) == (address(line["srcaddr"]), address(line["dstaddr"]))
        assert (row["in_if"], row["out_if"]) == (int(line["inputint"]), int(line["outputint"]))
        assert (row["packets"], row["bytes"]) == (int(line["packets"]), int(line["octets"]))
        assert row["samples"] == row["packets"]
        assert row["ip_protocol"] == int(line["protocol"])
        assert row["tos"] == int(line["tos"], 16)
        assert row["tcp_flags"] == int(line["tcpflags"], 16)
        assert (row["sampling_rate"], row["rate_source"]) == (1, "unstated")
        assert (row["src_port"], row["dst_port"]) == ((0, 0) if icmp else (int(line["srcport"]), int(line["dstport"])))
        if icmp and line["srcport"] == "0":
            assert row["icmp_type"] << 8 | row["icmp_code"] == int(line["dstport"])
        duration = round(float(line["timedelta"]) * 1e6)
        assert row["flow_end"] - row["flow_start"] == duration
        age = round((float(header["sysuptime"]) - float(line["timeend"])) * 1e6)
        assert row["flow_end"] // 1_000_000 - (int(header["export_secs"]) - age // 1_000_000) in (-1, 0, 1)
    assert decoder.shared.sessions.stats[:, S_LOST].sum() == 0
    assert decoder.shared.sessions.problems.sum() == 0


def test_fprobe_puts_icmp_type_into_the_source_port() -> None:
    found = rows(Decoder().decode(Datagrams.of(payloads("fprobe_v5"))).flows)

    assert {(row["icmp_type"], row["icmp_code"]) for row in found[:2]} == {(8, 0), (0, 0)}


def test_netflow_package_reads_the_same_from_v5() -> None:
    for payload, *_ in payloads("softflowd_v5"):
        theirs = netflow.parse_packet(payload)
        ours = Collector().decode(payload)

        assert [ip_address(flow.IPV4_SRC_ADDR).packed for flow in theirs.flows] == [r["src_ip"][12:] for r in ours]
        assert [(f.IN_PACKETS, f.IN_BYTES, f.PROTO) for f in theirs.flows] == [
            (r["packets"], r["bytes"], r["ip_protocol"]) for r in ours
        ]


def test_version_1_has_flags_behind_tos() -> None:
    record = bytearray(record5())
    record[36:48] = struct.pack("!HBBB7x", 0, 6, 0x20, 0x12)
    datagram = struct.pack("!HHIII", 1, 1, 1_000_000, NOW, 500_000_000) + bytes(record)

    (row,) = Collector().decode(datagram)

    assert (row["protocol"], row["ip_protocol"], row["tos"], row["tcp_flags"]) == ("netflow1", 6, 0x20, 0x12)
    assert (row["packets"], row["bytes"], row["src_port"], row["dst_port"]) == (10, 1000, 1000, 2000)
    assert (row["flow_start"], row["flow_end"]) == (HEADER_US - 10_000_000, HEADER_US - 5_000_000)
    theirs = netflow.parse_packet(datagram)
    assert row["tcp_flags"] == theirs.flows[0].TCP_FLAGS


def test_version_7_has_records_of_52_bytes() -> None:
    records = b"".join(record5(packets=n) + b"\x7f\x00\x00\x01" for n in (1, 2, 3))
    datagram = struct.pack("!HHIIIII", 7, 3, 1_000_000, NOW, 500_000_000, 9, 0) + records

    found = Collector().decode(datagram)

    assert [row["packets"] for row in found] == [1, 2, 3]
    assert {(row["protocol"], row["tcp_flags"], row["domain"]) for row in found} == {("netflow7", 0x1B, 0)}


@pytest.mark.parametrize(
    ("sampling", "rate", "source"),
    [(0, 1, "unstated"), (0x4064, 100, "header"), (0x8001, 1, "header"), (0x4000, 1, "unstated"), (100, 100, "header")],
)
def test_sampling_is_an_interval_whatever_its_two_bits_of_mode_say(sampling: int, rate: int, source: str) -> None:
    (row,) = Collector().decode(v5(record5(), sampling=sampling))

    assert (row["sampling_rate"], row["rate_source"], row["packets"]) == (rate, source, 10)


def test_an_override_wins_over_the_header() -> None:
    rule = ExporterRule(IPv6Network("::/0"), sampling_rate=64)

    (row,) = Collector(rules=(rule,)).decode(v5(record5(), sampling=0x4064))

    assert (row["sampling_rate"], row["rate_source"]) == (64, "override")


@pytest.mark.parametrize(
    ("uptime", "first", "last", "start", "end"),
    [
        (5_000, 0xFFFFFFFF - 4_999, 2_000, 10_000, 3_000),  # the uptime wrapped during the flow
        (5_000, 0xFFFFFFFF - 9_999, 0xFFFFFFFF - 4_999, 15_000, 10_000),  # it wrapped after the flow
        (5_000, 4_000, 5_500, 1_000, -500),  # the clock of a line card runs ahead
    ],
)
def test_times_are_absolute_and_survive_the_wrap(uptime: int, first: int, last: int, start: int, end: int) -> None:
    collector = Collector()

    (row,) = collector.decode(v5(record5(first=first, last=last), uptime=uptime))

    assert (row["flow_start"], row["flow_end"]) == (HEADER_US - start * 1_000, HEADER_US - end * 1_000)
    assert collector.problems == {}


def test_an_end_before_the_start_is_clamped_and_counted() -> None:
    collector = Collector()

    (row,) = collector.decode(v5(record5(first=995_000, last=990_000)))

    assert row["flow_start"] == row["flow_end"] == HEADER_US - 5_000_000
    assert collector.problems == {Reason.TIME: 1}


def test_count_beyond_the_bytes_keeps_what_is_whole() -> None:
    collector = Collector()

    found = collector.decode(v5(record5(packets=1), record5(packets=2), count=30) + b"\0" * 47)

    assert [row["packets"] for row in found] == [1, 2]
    assert collector.problems == {Reason.COUNT_MISMATCH: 1}
    assert collector.stat(S_RECORDS) == 2


def test_every_truncation_keeps_whole_records_and_never_raises() -> None:
    whole = v5(*(record5(packets=n) for n in range(1, 5)))
    for size in range(len(whole)):
        collector = Collector()
        found = collector.decode(whole[:size])

        assert [row["packets"] for row in found] == list(range(1, 1 + max(size - 24, 0) // 48))
        assert sum(collector.problems.values()) == 1


def test_sequence_counts_records_lost_and_late() -> None:
    collector = Collector()
    two = (record5(), record5())
    collector.decode(v5(*two, sequence=100), v5(*two, sequence=102), v5(*two, sequence=108))

    assert collector.stat(S_LOST) == 4

    collector.decode(v5(*two, sequence=106))

    assert (collector.stat(S_LOST), collector.stat(S_REORDERED)) == (2, 1)


def test_sequence_of_last_records_is_no_loss() -> None:
    """Open vSwitch: numbers stand for the last record (ofproto/netflow.c); 3, 1 and 5 records each time."""
    collector = Collector()
    sequence = -1
    for n in (3, 1, 5, 3, 1, 5):
        sequence += n
        collector.decode(v5(*[record5()] * n, sequence=sequence))

    assert (collector.stat(S_LOST), collector.stat(S_REORDERED)) == (0, 0)

    collector.decode(v5(*[record5()] * 3, sequence=sequence + 10))

    assert collector.stat(S_LOST) == 7


def test_sequence_wraps_and_restarts_without_loss() -> None:
    collector = Collector()
    collector.decode(v5(record5(), sequence=0xFFFFFFFF), v5(record5(), sequence=0))

    assert collector.stat(S_LOST) == 0

    collector.decode(v5(record5(), sequence=50_000, uptime=9_000_000), v5(record5(), sequence=0, uptime=1_000))

    assert (collector.stat(S_LOST), collector.stat(S_RESTARTS)) == (49_999, 1)


def test_a_duplicate_is_dropped_whole() -> None:
    collector = Collector()
    datagram = v5(record5(), sequence=5)

    assert len(collector.decode(datagram, v5(record5(), sequence=6), datagram)) == 2
    assert collector.problems == {Reason.DUPLICATE: 1}
    assert collector.stat(S_LOST) == 0


def test_rows_beyond_a_batch_come_in_several() -> None:
    datagrams = [v5(*[record5(packets=n)] * 30, sequence=30 * n) for n in range(200)]
    collector = Collector()
    batch = Datagrams.of((one, "192.0.2.9", 1, NOW * 1_000_000) for one in datagrams)
    flows = collector.decoder.decode(batch).flows

    assert [part.num_rows for part in flows] == [136 * 30, 64 * 30]
    assert [row["packets"] for row in rows(flows)] == [n for n in range(200) for _ in range(30)]
