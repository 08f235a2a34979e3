"""Each sFlow structure by hand: what it puts into which column, and what happens when it is wrong."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from scapy.all import ARP, IP, TCP, UDP, Dot1Q, Ether, IPv6, Raw
from scapy.layers.vxlan import VXLAN

from decoders.errors import Reason
from decoders.sessions import (
    S_AGENT_DROPS,
    S_DATAPATH_LOST,
    S_LOST,
    S_OVERRIDE_RATE,
    S_REORDERED,
    S_RESTARTS,
    S_SAMPLES_LOST,
)
from decoders.sflow.decoder import DROP_REASONS
from tests.decoders.sflow.support import (
    counters_sample,
    datagram,
    drop_sample,
    expanded_counters,
    expanded_sample,
    flow_sample,
    header,
    host_adapters,
    host_descr,
    interface_counters,
    item,
    padded,
    short_counters,
    text,
    words,
)
from tests.decoders.support import Sflow, address, rows

MACS = {"src": "52:54:00:00:00:01", "dst": "52:54:00:00:00:02"}
FRAME = bytes(
    Ether(**MACS) / IP(src="10.0.0.1", dst="10.0.0.2", tos=8) / TCP(sport=1024, dport=80, seq=77) / Raw(b"x" * 46)
)
T0 = 1_700_000_000_000_000
UNKNOWN = 0xFFFFFFFF


def one(*samples: bytes, **datagram_fields: Any) -> dict[str, Any]:
    """The single flow row of a datagram, which has no problem."""
    sflow = Sflow()
    found = rows(sflow.decode(datagram(*samples, **datagram_fields), time_us=T0).flows)
    assert sflow.problems == {}
    assert len(found) == 1
    return found[0]


def subset(row: dict[str, Any], **want: Any) -> bool:
    assert {name: row[name] for name in want} == want
    return True


def test_the_arp_vector_of_open_vswitch() -> None:
    """One ARP frame of 42 octets, records 1001 and 1, IPv4 agent: 160 octets in all."""
    arp = bytes(Ether(src="50:54:00:00:00:05", dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="192.168.0.2", pdst="192.168.0.1"))
    switch = item(1001, words(0, 0, 0, 0))
    sample = flow_sample(switch, header(arp), source=(2, 1000), rate=1, pool=1, in_if=1, out_if=0x80000002)
    message = datagram(sample)
    assert (len(arp), len(message)) == (42, 160)
    row = one(sample)
    subset(row, ether_type=0x0806, src_ip=address("192.168.0.2"), dst_ip=address("192.168.0.1"), ip_protocol=0)
    subset(row, bytes=28, frame_bytes=42, sampling_rate=1, rate_source="record", out_kind="multiple", out_if=2, in_if=1)


def test_the_gre_vector_of_open_vswitch() -> None:
    """Output tunnel GRE with key 456."""
    outer = item(1023, words(0, 47, 0, 0x01010101, 0, 0, 0, 1))
    row = one(flow_sample(header(FRAME), item(1029, words(456)), outer, in_if=0, out_if=0x80000001))
    subset(row, tunnel="gre", vni=456, outer_src_ip=address("0.0.0.0"), outer_dst_ip=address("1.1.1.1"))
    subset(row, out_kind="multiple", out_if=1, in_if=0, src_ip=address("10.0.0.1"), dst_port=80, tcp_seq=77, tos=8)


@pytest.mark.parametrize("agent", ["192.0.2.11", "2001:db8::1", ""])
def test_agent_addresses_of_all_types(agent: str) -> None:
    row = one(flow_sample(header(FRAME)), agent=agent, sub_agent=7)
    subset(row, agent=address(agent), exporter=address("192.0.2.9"), domain=7, protocol="sflow5", flow_start=T0)


INTERFACES = [
    (3, 4, (3, "index", 4, 0, 0)),
    (0, 0, (0, "unknown", 0, 0, 0)),
    (0x3FFFFFFF, 0x3FFFFFFF, (0, "local", 0, 0, 0)),
    (3, 0x40000102, (3, "discarded", 0, 258, 1)),
    (3, 0x80000005, (3, "multiple", 5, 0, 0)),
    (3, 0x80000000, (3, "multiple", 0, 0, 0)),
    (3, 0xC0000001, (3, "unknown", 0, 0, 0)),
    (0x80000003, 4, (0, "index", 4, 0, 0)),
]


@pytest.mark.parametrize(("inward", "outward", "want"), INTERFACES)
def test_interfaces_compact_and_expanded(inward: int, outward: int, want: tuple[int, str, int, int, int]) -> None:
    compact = one(flow_sample(header(FRAME), in_if=inward, out_if=outward))
    in_if, out_if = ((word >> 30, word & 0x3FFFFFFF) for word in (inward, outward))
    expanded = one(expanded_sample(header(FRAME), in_if=in_if, out_if=out_if))
    for row in (compact, expanded):
        found = tuple(row[name] for name in ("in_if", "out_kind", "out_if", "drop_reason", "drop_hint_packets"))
        assert found == want


def test_large_and_local_interfaces_of_the_expanded_form() -> None:
    row = one(expanded_sample(header(FRAME), in_if=(0, 0xFFFFFFFF), out_if=(0, 0x12345678)))
    subset(row, in_if=0, out_if=0x12345678, out_kind="index")
    row = one(expanded_sample(header(FRAME), in_if=(0, 0x12345678), out_if=(0, 0xFFFFFFFF)))
    subset(row, in_if=0x12345678, out_if=0, out_kind="local")


@pytest.mark.parametrize(
    ("source", "direction"), [((0, 3), "ingress"), ((0, 4), "egress"), ((0, 9), "unknown"), ((2, 3), "unknown")]
)
def test_direction_is_that_of_the_data_source(source: tuple[int, int], direction: str) -> None:
    assert one(flow_sample(header(FRAME), source=source))["direction"] == direction
    assert one(expanded_sample(header(FRAME), source=source))["direction"] == direction


def test_rate_zero_is_one_and_unstated() -> None:
    sflow = Sflow()
    row = rows(sflow.decode(datagram(flow_sample(header(FRAME), rate=0))).flows)[0]
    subset(row, sampling_rate=1, rate_source="unstated", packets=1, samples=1)
    assert sflow.problems == {Reason.RATE_ZERO: 1}


def test_rates_are_those_of_each_sample_and_the_operator_has_the_last_word() -> None:
    sflow = Sflow()
    samples = [
        flow_sample(header(FRAME), rate=rate, sequence=number) for number, rate in enumerate((10, 4_000_000_000), 1)
    ]
    assert [row["sampling_rate"] for row in rows(sflow.decode(datagram(*samples)).flows)] == [10, 4_000_000_000]
    sflow.shared.sessions.stats[1, S_OVERRIDE_RATE] = 512
    row = rows(sflow.decode(datagram(flow_sample(header(FRAME), rate=0, sequence=3), sequence=2)).flows)[0]
    subset(row, sampling_rate=512, rate_source="override")
    assert sflow.problems == {}


def test_frame_length_counts_the_frame_not_the_header() -> None:
    row = one(flow_sample(header(FRAME[:60], length=1518, stripped=4)))
    subset(row, frame_bytes=1514, bytes=86)  # IPv4 total length wins


def test_lengths_that_cannot_be_are_clamped() -> None:
    for length, stripped in ((20, 4), (100, 200)):
        sflow = Sflow()
        row = rows(sflow.decode(datagram(flow_sample(header(FRAME, length=length, stripped=stripped)))).flows)[0]
        assert sflow.problems == {Reason.FRAME_LENGTH: 1}
        assert row["src_mac"] == 0x525400000001
        assert row["frame_bytes"] <= 100


@pytest.mark.parametrize("unpadded", [False, True])
def test_ethernet_record_with_padded_and_unpadded_macs(unpadded: bool) -> None:
    pad = b"" if unpadded else b"\xee\xee"
    body = words(104) + bytes.fromhex("020000000001") + pad + bytes.fromhex("020000000002") + pad + words(0x88CC)
    subset(
        one(flow_sample(item(2, body))),
        src_mac=0x020000000001,
        dst_mac=0x020000000002,
        ether_type=0x88CC,
        frame_bytes=100,
        bytes=86,
    )


def test_ip_records_stand_in_for_the_header() -> None:
    v4 = item(3, words(1500, 6, 0x0A000001, 0x0A000002, 1024, 80, 0x12, 0x20))
    subset(one(flow_sample(v4)), src_ip=address("10.0.0.1"), dst_ip=address("10.0.0.2"), bytes=1500, ip_protocol=6)
    subset(one(flow_sample(v4)), src_port=1024, dst_port=80, tcp_flags=0x12, tos=0x20, ether_type=0x0800, frame_bytes=0)
    ends = address("2001:db8::1") + address("2001:db8::2")
    v6 = item(4, words(700, 17) + ends + words(53, 5353, 0, 0x40))
    row = one(flow_sample(v6))
    subset(row, src_ip=address("2001:db8::1"), dst_ip=address("2001:db8::2"), bytes=700, ip_protocol=17)
    subset(row, src_port=53, dst_port=5353, tos=0x40, ether_type=0x86DD)
    subset(one(flow_sample(v4, header(FRAME))), bytes=86, dst_port=80)  # the header knows better


@pytest.mark.parametrize(
    ("switch", "vlan"), [((7, 0, 8, 0), 7), ((0, 0, 8, 0), 8), ((UNKNOWN, 0, 9, 0), 9), ((0, 0, UNKNOWN, 0), 0)]
)
def test_the_port_vlan_counts_only_for_untagged_frames(switch: tuple[int, ...], vlan: int) -> None:
    record = item(1001, words(*switch))
    assert one(flow_sample(header(FRAME), record))["vlan"] == vlan
    tagged = bytes(Ether(**MACS) / Dot1Q(vlan=55) / IP() / UDP())
    assert one(flow_sample(record, header(tagged)))["vlan"] == 55


def test_a_stripped_tag_counts_before_the_port_vlan() -> None:
    stripped = item(1012, words(2, 0x88A80064, 0x81000065))
    assert one(flow_sample(stripped, item(1001, words(7, 0, 8, 0)), header(FRAME)))["vlan"] == 100
    assert one(flow_sample(item(1012, words(0)), item(1001, words(7, 0, 8, 0)), header(FRAME)))["vlan"] == 7


TUNNEL_KINDS = [
    (17, 4789, "vxlan"),
    (17, 46354, "vxlan"),
    (17, 8472, "vxlan"),
    (17, 6081, "geneve"),
    (17, 49431, "geneve"),
    (17, 4790, "vxlan_gpe"),
    (17, 5000, "other"),
    (47, 0, "gre"),
    (4, 0, "ipip"),
    (41, 0, "ipip"),
    (50, 0, "other"),
]


@pytest.mark.parametrize(("protocol", "port", "kind"), TUNNEL_KINDS)
@pytest.mark.parametrize(("four", "six", "vni"), [(1023, 1025, 1029), (1024, 1026, 1030)])
def test_tunnel_records(protocol: int, port: int, kind: str, four: int, six: int, vni: int) -> None:
    v4 = item(four, words(0, protocol, 0x01010101, 0x02020202, 999, port, 0, 0))
    row = one(flow_sample(v4, item(vni, words(5001)), header(FRAME)))
    subset(row, tunnel=kind, vni=5001, outer_src_ip=address("1.1.1.1"), outer_dst_ip=address("2.2.2.2"))
    v6 = item(six, words(0, protocol) + address("2001:db8::1") + address("2001:db8::2") + words(999, port, 0, 0))
    row = one(flow_sample(v6, header(FRAME)))
    subset(row, tunnel=kind, vni=0, outer_src_ip=address("2001:db8::1"), outer_dst_ip=address("2001:db8::2"))


def test_a_vni_alone_is_a_tunnel_of_another_kind() -> None:
    subset(one(flow_sample(header(FRAME), item(1029, words(9)))), tunnel="other", vni=9)


def test_a_tunnel_in_the_header_counts_before_tunnel_records() -> None:
    outer = Ether(**MACS) / IP(src="198.51.100.1", dst="198.51.100.2") / UDP(dport=4789) / VXLAN(vni=42, flags=8)
    record = item(1024, words(0, 47, 0x01010101, 0x02020202, 0, 0, 0, 0))
    row = one(flow_sample(header(bytes(outer / FRAME)), record))
    subset(row, tunnel="vxlan", vni=42, outer_src_ip=address("198.51.100.1"), src_ip=address("10.0.0.1"))


def test_decapsulation_offset_opens_a_tunnel_that_is_not_known() -> None:
    outer = bytes(Ether(**MACS) / IP(src="1.1.1.1", dst="2.2.2.2") / UDP(dport=7471, sport=5) / Raw(b"s" * 18))
    row = one(flow_sample(header(outer + FRAME), item(1028, words(len(outer)))))
    subset(row, tunnel="other", outer_src_ip=address("1.1.1.1"), src_ip=address("10.0.0.1"), dst_port=80, bytes=86)
    row = one(flow_sample(header(outer + FRAME), item(1028, words(5_000))))
    subset(row, tunnel="none", src_ip=address("1.1.1.1"))


def test_a_packet_has_its_own_time_where_it_is_stated_and_plausible() -> None:
    seen_ns = (T0 - 250_000) * 1_000
    row = one(flow_sample(header(FRAME), item(1043, struct.pack(">Q", seen_ns))))
    subset(row, flow_start=T0 - 250_000, flow_end=T0 - 250_000, time_received=T0)
    for wrong in (0, 2**64 - 1):
        sflow = Sflow()
        sample = flow_sample(header(FRAME), item(1043, struct.pack(">Q", wrong)))
        row = rows(sflow.decode(datagram(sample), time_us=T0).flows)[0]
        subset(row, flow_start=T0, flow_end=T0)
        assert sflow.problems == {Reason.TIME: 1}


TCP_INFO = (2, 1448, 1448, 3, 1, 2, 1500, 41_234, 1_250, 10, 3, 40_007)
"""2209: sent; round trip 41.234 ms ± 1.25 ms, least 40.007 ms."""


def test_the_round_trip_that_tcp_states_stands_beside_the_packet() -> None:
    row = one(flow_sample(item(2209, words(*TCP_INFO)), header(FRAME)))
    subset(row, tcp_rtt_us=41_234, tcp_rtt_deviation_us=1_250, tcp_rtt_min_us=40_007, dst_port=80)
    before_the_first = item(2209, words(*TCP_INFO[:7], 0, 250_000, 10, 3, 0xFFFF_FFFF))
    subset(one(flow_sample(header(FRAME), before_the_first)), tcp_rtt_us=0, tcp_rtt_min_us=0)
    sflow = Sflow()
    without, short = (
        flow_sample(header(FRAME)),
        flow_sample(item(2209, words(*TCP_INFO[:11])), header(FRAME), sequence=2),
    )
    found = rows(sflow.decode(datagram(without, short)).flows)
    assert [row["tcp_rtt_us"] for row in found] == [0, 0]
    assert sflow.problems == {Reason.RECORD_SHORT: 1}


@pytest.mark.parametrize("number", [1002, 1003, 1006, 1013, 1036, 1038, 2100, 2210, 4095])
def test_formats_that_feed_no_column_are_skipped_by_length_and_counted(number: int) -> None:
    sflow = Sflow()
    found = rows(sflow.decode(datagram(flow_sample(item(number, b"\xff" * 24), header(FRAME)))).flows)
    assert found[0]["dst_port"] == 80
    assert sflow.problems == {Reason.SKIPPED_RECORD: 1}


def test_other_enterprises_are_not_mistaken_for_enterprise_0() -> None:
    sflow = Sflow()
    alien = item(1, words(1, 100, 4, 14) + bytes(16), enterprise=4300)
    found = rows(sflow.decode(datagram(item(1, bytes(64), enterprise=9), flow_sample(alien, header(FRAME)))).flows)
    assert [row["dst_port"] for row in found] == [80]
    assert sflow.problems == {Reason.SKIPPED_RECORD: 1, Reason.SKIPPED_SAMPLE: 1}


def test_records_longer_than_known_are_read_and_shorter_ones_left_out() -> None:
    longer = item(1001, words(7, 0, 8, 0, 1, 2, 3))
    assert one(flow_sample(longer, header(FRAME)))["vlan"] == 7
    sflow = Sflow()
    shorter = item(1001, words(7, 0, 8))
    row = rows(sflow.decode(datagram(flow_sample(shorter, header(FRAME)))).flows)[0]
    subset(row, vlan=0, dst_port=80)
    assert sflow.problems == {Reason.RECORD_SHORT: 1}


def test_a_length_that_is_no_multiple_of_4_is_rounded_up_for_the_next() -> None:
    odd = words(1020, 5) + b"abcde\xee\xee\xee"
    sflow = Sflow()
    found = rows(sflow.decode(datagram(flow_sample(odd, header(FRAME)), flow_sample(header(FRAME), sequence=2))).flows)
    assert [row["dst_port"] for row in found] == [80, 80]


def test_a_header_longer_than_its_record_is_left_out() -> None:
    sflow = Sflow()
    result = sflow.decode(
        datagram(flow_sample(header(FRAME, size=len(FRAME) + 8)), flow_sample(header(FRAME), sequence=2))
    )
    assert len(rows(result.flows)) == 1
    assert sflow.problems == {Reason.RECORD_SHORT: 1, Reason.NO_ADDRESS: 1}


def test_counts_are_checked_against_the_bytes() -> None:
    for samples in (
        flow_sample(header(FRAME), count=0xFFFFFFFF),
        flow_sample(header(FRAME), count=2),
    ):
        sflow = Sflow()
        assert len(rows(sflow.decode(datagram(samples)).flows)) == 1
        assert sflow.problems == {Reason.COUNT: 1}
    sflow = Sflow()
    assert len(rows(sflow.decode(datagram(flow_sample(header(FRAME)), count=1_000_000)).flows)) == 1
    assert sflow.problems == {Reason.COUNT: 1}
    sflow = Sflow()
    both = (flow_sample(header(FRAME)), flow_sample(header(FRAME), sequence=2))
    assert len(rows(sflow.decode(datagram(*both, count=1)).flows)) == 1
    assert sflow.problems == {Reason.TRAILING: 1}


def test_lengths_are_checked_at_the_smallest_unit() -> None:
    good = flow_sample(header(FRAME))
    sflow = Sflow()
    assert len(rows(sflow.decode(datagram(good, words(1, 5_000) + bytes(40))).flows)) == 1
    assert sflow.problems == {Reason.SAMPLE_LENGTH: 1}
    sflow = Sflow()
    assert (
        len(rows(sflow.decode(datagram(item(1, bytes(28)), item(3, bytes(40)), item(4, bytes(12)), good)).flows)) == 1
    )
    assert sflow.problems == {Reason.SAMPLE_SHORT: 3}
    sflow = Sflow()
    overlong = flow_sample(header(FRAME), words(1001, 500) + bytes(16), count=2)
    assert len(rows(sflow.decode(datagram(overlong, flow_sample(header(FRAME), sequence=2))).flows)) == 2
    assert sflow.problems == {Reason.RECORD_LENGTH: 1}


def test_a_sample_without_any_address_is_no_flow_and_leaves_no_trace_in_the_next() -> None:
    sflow = Sflow()
    nothing = flow_sample(item(1029, words(99)), rate=77, in_if=0x11, out_if=0x40000102)
    found = rows(sflow.decode(datagram(nothing, flow_sample(header(FRAME), sequence=2))).flows)
    assert sflow.problems == {Reason.NO_ADDRESS: 1}
    assert len(found) == 1
    subset(found[0], vni=0, tunnel="none", drop_reason=0, drop_hint_packets=0, sampling_rate=100, in_if=3)


def test_problems_are_listed_with_their_place() -> None:
    sflow = Sflow()
    result = sflow.decode(datagram(flow_sample(header(FRAME))), datagram(item(77, bytes(8)), sequence=2))
    assert [entry.tolist() for entry in result.problems] == [[[1, 28, Reason.SKIPPED_SAMPLE, 77]]]


# Sequences


def test_datagram_loss_reordering_and_restart() -> None:
    def message(number: int, uptime: int) -> bytes:
        return datagram(flow_sample(header(FRAME), sequence=number), sequence=number, uptime=uptime)

    sflow = Sflow()
    sflow.decode(message(10, 500_000), message(12, 502_000))
    assert (sflow.stat(S_LOST), sflow.stat(S_SAMPLES_LOST)) == (1, 1)
    sflow.decode(message(11, 501_000))
    assert (sflow.stat(S_LOST), sflow.stat(S_SAMPLES_LOST), sflow.stat(S_REORDERED)) == (0, 0, 1)
    sflow.decode(message(1, 0), message(2, 1_000))
    assert (sflow.stat(S_LOST), sflow.stat(S_SAMPLES_LOST), sflow.stat(S_RESTARTS)) == (0, 0, 1)


def test_sample_numbers_wrap_and_sources_are_apart() -> None:
    sflow = Sflow()
    numbers = (0xFFFFFFFE, 0xFFFFFFFF, 0, 1)
    samples = [flow_sample(header(FRAME), sequence=number) for number in numbers]
    others = [
        flow_sample(header(FRAME), sequence=5, source=(2, 3)),
        expanded_sample(header(FRAME), sequence=9, source=(0, 4)),
    ]
    sflow.decode(datagram(*samples, *others))
    assert sflow.stat(S_SAMPLES_LOST) == 0
    sflow.decode(datagram(flow_sample(header(FRAME), sequence=4), sequence=2))
    assert sflow.stat(S_SAMPLES_LOST) == 2


def test_drops_of_the_agent_are_counted_from_the_second_sample_on() -> None:
    sflow = Sflow()
    sflow.decode(
        datagram(*(flow_sample(header(FRAME), sequence=1 + i, drops=drops) for i, drops in enumerate((50, 53, 53))))
    )
    assert sflow.stat(S_AGENT_DROPS) == 3
    sflow.decode(datagram(flow_sample(header(FRAME), sequence=4, drops=0), sequence=2))
    assert sflow.stat(S_AGENT_DROPS) == 3  # a reset is no growth


def test_sources_beyond_the_limit_give_way_and_the_rows_stay() -> None:
    sflow = Sflow()
    for first in range(0, 6_000, 500):
        samples = [flow_sample(header(FRAME), source=(0, index)) for index in range(first, first + 500)]
        assert len(rows(sflow.decode(datagram(*samples, sequence=1 + first // 500)).flows)) == 500
    assert sflow.decoder.forgotten_sources > 0
    assert sflow.stat(S_SAMPLES_LOST) == 0


def test_forgotten_sessions_start_anew() -> None:
    sflow = Sflow()
    poll = counters_sample(interface_counters())
    assert rows(sflow.decode(datagram(poll)).counters)[0]["delta_state"] == "first"
    sflow.decoder.forget(__import__("numpy").array([1]))
    later = counters_sample(interface_counters(), sequence=2)
    assert rows(sflow.decode(datagram(later, sequence=2)).counters)[0]["delta_state"] == "first"


# Counters


def polls(*samples: bytes, uptimes: tuple[int, ...] = (1_000, 31_000)) -> list[dict[str, Any]]:
    sflow = Sflow()
    messages = [
        datagram(sample, sequence=1 + i, uptime=uptime)
        for i, (sample, uptime) in enumerate(zip(samples, uptimes, strict=True))
    ]
    found = rows(sflow.decode(*messages).counters)
    assert sflow.problems == {}
    return found


def test_interface_counters_and_their_differences() -> None:
    name, port = item(1005, text("vnet7")), item(1004, struct.pack(">QI", 0xFEDCBA9876543210, 65534))
    ethernet = item(2, words(5, 6, *[UNKNOWN] * 11))
    before = counters_sample(interface_counters(octets=(10, 20), packets=5), name, port, ethernet)
    after = expanded_counters(ethernet, port, name, interface_counters(octets=(1010, 4020), packets=9), sequence=2)
    first, second = polls(before, after)
    subset(first, delta_state="first", interval_us=None, in_bytes_delta=None, if_name="vnet7", in_bytes=10)
    subset(second, delta_state="ok", interval_us=30_000_000, in_bytes_delta=1000, out_bytes_delta=4000)
    subset(second, in_unicast_packets=9, in_unicast_packets_delta=4, out_errors_delta=4, in_errors_delta=0)
    subset(second, in_unknown_protocols=None, in_unknown_protocols_delta=None, if_type=6, if_speed=10**9, if_status=3)
    subset(second, datapath_id=0xFEDCBA9876543210, of_port=65534, source="sflow", source_class=0, source_index=3)
    subset(second, eth_alignment_errors=5, eth_fcs_errors=6, eth_symbol_errors=None, if_direction=1, if_index=3)


def test_packet_counters_wrap_at_32_bits() -> None:
    before = counters_sample(interface_counters(octets=(10, 20), packets=0xFFFFFF00))
    after = counters_sample(interface_counters(octets=(100_000, 200_000), packets=0x10), sequence=2)
    row = polls(before, after)[1]
    subset(row, delta_state="ok", in_unicast_packets_delta=0x110, out_unicast_packets_delta=0x110)


RESETS = {
    "octets fell": ({"octets": (50, 20)}, {"octets": (10, 20)}, 2, (1_000, 31_000)),
    "a wrap of half the range": ({"packets": 500}, {"packets": 3}, 2, (1_000, 31_000)),
    "more packets than octets": ({"packets": 0xF0000000}, {"packets": 3}, 2, (1_000, 31_000)),
    "the uptime fell": ({}, {}, 2, (90_000, 31_000)),
    "the sample number fell": ({}, {}, 1, (1_000, 31_000)),
}


@pytest.mark.parametrize("case", RESETS)
def test_resets_give_no_difference(case: str) -> None:
    before, after, sequence, uptimes = RESETS[case]
    first = counters_sample(interface_counters(**before), sequence=5_000 if sequence == 1 else 1)
    row = polls(first, counters_sample(interface_counters(**after), sequence=sequence), uptimes=uptimes)[1]
    subset(row, delta_state="reset", interval_us=None, in_bytes_delta=None, out_unicast_packets_delta=None)


def test_uptime_may_wrap() -> None:
    both = [counters_sample(interface_counters(), sequence=number) for number in (1, 2)]
    row = polls(*both, uptimes=(2**32 - 1_000, 2_000))[1]
    subset(row, delta_state="ok", interval_us=3_000_000)


def test_an_unknown_total_has_no_difference_on_either_side() -> None:
    before = counters_sample(interface_counters(errors=UNKNOWN, unknown=7))
    after = counters_sample(interface_counters(errors=3, unknown=UNKNOWN), sequence=2)
    row = polls(before, after)[1]
    subset(row, in_errors=3, in_errors_delta=None, in_unknown_protocols=None, in_unknown_protocols_delta=None)
    subset(row, delta_state="ok", in_bytes_delta=0)


@pytest.mark.parametrize(("number", "source"), [(2104, (3, 100_001)), (2006, (2, 1))])
def test_counters_of_vms_and_hosts(number: int, source: tuple[int, int]) -> None:
    before = counters_sample(short_counters(number, (1000, 10, 1, 2), (5000, 50, 3, 4)), source=source)
    after = counters_sample(short_counters(number, (3000, 30, 1, 5), (5000, 50, 3, 4)), source=source, sequence=2)
    row = polls(before, after)[1]
    subset(row, source_class=source[0], source_index=source[1], if_index=0, in_bytes=3000, in_unicast_packets=30)
    subset(row, in_errors=1, in_discards=5, out_bytes=5000, out_unicast_packets=50, out_errors=3, out_discards=4)
    subset(row, in_multicast_packets=None, in_bytes_delta=2000, in_unicast_packets_delta=20, in_discards_delta=3)
    subset(row, out_bytes_delta=0, delta_state="ok", eth_fcs_errors=None)


def test_lost_upcalls_of_the_datapath() -> None:
    sflow = Sflow()
    for number, lost in enumerate((100, 107, UNKNOWN, 110, 3), 1):
        record = item(2207, words(1, 2, lost, UNKNOWN, 4, UNKNOWN))
        assert sflow.decode(datagram(counters_sample(record, sequence=number), sequence=number)).counters == []
    assert sflow.stat(S_DATAPATH_LOST) == 10
    assert sflow.problems == {}


def test_counter_structures_without_a_column_are_skipped() -> None:
    sflow = Sflow()
    vlan, resources = item(5, bytes(28)), item(2203, bytes(40))
    assert len(rows(sflow.decode(datagram(counters_sample(vlan, resources, interface_counters()))).counters)) == 1
    assert sflow.problems == {Reason.SKIPPED_RECORD: 2}


def test_a_port_name_longer_than_its_record_is_left_out() -> None:
    sflow = Sflow()
    name = item(1005, words(400) + b"vnet")
    row = rows(sflow.decode(datagram(counters_sample(name, interface_counters()))).counters)[0]
    assert row["if_name"] == ""
    assert sflow.problems == {Reason.RECORD_SHORT: 1}


# Discarded packets


def test_a_notice_with_its_packet_reason_and_strings() -> None:
    sflow = Sflow()
    strings = (
        item(1038, text("nf_hook_slow")),
        item(1041, text("acl") + text("ingress_flow")),
        item(1042, text("NETFILTER_DROP")),
    )
    notices = [
        drop_sample(header(FRAME), *strings, sequence=1 + i, drops=drops, reason=reason, source=(0, 300_000))
        for i, (drops, reason) in enumerate(((50, 258), (53, 303), (53, 9_999)))
    ]
    found = rows(sflow.decode(datagram(*notices)).drops)
    assert sflow.problems == {}
    assert [(row["drop_reason"], row["reason_name"], row["suppressed"]) for row in found] == [
        (258, "acl", 0),
        (303, "split_horizon", 3),
        (9_999, "", 0),
    ]
    row = found[0]
    subset(row, function="nf_hook_slow", trap="acl/ingress_flow", linux_reason="NETFILTER_DROP", source_index=300_000)
    subset(row, in_if=3, out_if=0, packets=1, bytes=86, frame_bytes=100, src_ip=address("10.0.0.1"), dst_port=80)
    subset(
        row,
        exporter=address("192.0.2.9"),
        agent=address("192.0.2.11"),
        source_class=0,
        time_received=1_700_000_000_000_000,
    )


def test_a_notice_without_a_packet_is_still_a_drop() -> None:
    sflow = Sflow()
    found = rows(sflow.decode(datagram(drop_sample(reason=259))).drops)
    assert [(row["reason_name"], row["src_mac"], row["trap"]) for row in found] == [("no_buffer_space", 0, "")]


def test_strings_longer_than_their_record_are_left_out() -> None:
    sflow = Sflow()
    broken = (
        item(1038, words(99) + b"abcd"),
        item(1041, words(3) + padded(b"acl") + words(77)),
        item(1042, words(UNKNOWN)),
    )
    row = rows(sflow.decode(datagram(drop_sample(*broken))).drops)[0]
    subset(row, function="", trap="", linux_reason="")
    assert sflow.problems == {Reason.RECORD_SHORT: 3}


def test_names_of_drop_reasons() -> None:
    known = {
        0: "net_unreachable",
        256: "unknown",
        262: "pkt_too_big",
        263: "src_mac_is_multicast",
        279: "unresolved_neigh",
    }
    known |= {
        289: "unknown_l4",
        290: "sip_is_unspecified",
        303: "split_horizon",
        304: "locked_port",
        324: "pkt_too_small",
    }
    known |= {33: "dev_hdr", 332: "dev_hdr", 36: "tc_egress", 366: "tc_egress", 340: "tcp_flags", 372: "bgp_flowspec"}
    assert {code: DROP_REASONS[code] for code in known} == known
    assert set(DROP_REASONS) == {*range(16), 33, 36, *range(256, 373)}


# Host structures


UUID = bytes(range(16))


def test_virtual_machines_of_host_sflow_become_inventory() -> None:
    sflow = Sflow()
    host = counters_sample(host_descr("hypervisor-1", bytes(16)), source=(2, 1))
    machine = counters_sample(
        host_descr("guest-a", UUID),
        host_adapters((12, (0x5254006B0001,)), (13, (0x5254006B0002, 0x5254006B0003))),
        item(2002, words(2, 1)),
        source=(3, 100_001),
    )
    result = sflow.decode(datagram(host, machine), time_us=T0)
    assert sflow.problems == {}
    found = rows(result.inventory)
    assert [(row["mac"], row["if_index"]) for row in found] == [
        (0x5254006B0001, 12),
        (0x5254006B0002, 13),
        (0x5254006B0003, 13),
    ]
    for row in found:
        subset(row, vm="guest-a", vm_uuid=UUID, host="hypervisor-1", source="sflow", valid_from=T0, valid_to=T0)
        subset(row, agent=address("192.0.2.11"), ips=[], project="", network="", port_name="")


def test_a_host_without_a_name_is_its_agent_address() -> None:
    machine = counters_sample(host_descr("guest-a", UUID), host_adapters((12, (1,))), source=(3, 100_001))
    assert rows(Sflow().decode(datagram(machine)).inventory)[0]["host"] == "192.0.2.11"
    assert rows(Sflow().decode(datagram(machine, agent="2001:db8::9")).inventory)[0]["host"] == "2001:db8::9"


@pytest.mark.parametrize("adapters", [words(2**32 - 1), words(1, 12, 2**31), words(2, 12, 1, 0, 0)])
def test_adapter_counts_are_checked_before_anything_is_made(adapters: bytes) -> None:
    sflow = Sflow()
    machine = counters_sample(host_descr("guest-a", UUID), item(2001, adapters), source=(3, 1))
    assert sflow.decode(datagram(machine)).inventory == []
    assert sflow.problems == {Reason.COUNT: 1}


def test_a_host_description_that_is_too_short_is_counted() -> None:
    sflow = Sflow()
    broken = item(2000, words(60) + bytes(40))
    machine = counters_sample(broken, host_adapters((12, (1,))), source=(3, 1))
    assert [row["vm"] for row in rows(sflow.decode(datagram(machine)).inventory)] == [""]
    assert sflow.problems == {Reason.RECORD_SHORT: 1}


def test_ipv6_header_protocol() -> None:
    packet = bytes(IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=53, dport=5353) / Raw(b"x" * 20))
    row = one(flow_sample(header(packet, protocol=12, stripped=0, length=len(packet))))
    subset(row, src_ip=address("2001:db8::1"), dst_port=5353, bytes=68, frame_bytes=0, src_mac=0)
