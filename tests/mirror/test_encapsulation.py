"""What is around a mirrored packet: VLAN tags, ERSPAN I to III, GRE, VXLAN; cut frames; the count of streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scapy.all import ARP, GRE, ICMP, IP, TCP, UDP, Dot1AD, Dot1Q, Ether, IPv6, Raw, raw
from scapy.contrib.erspan import ERSPAN_I, ERSPAN_II, ERSPAN_III, ERSPAN_PlatformSpecific
from scapy.layers.vxlan import VXLAN

from decoders.mirror import results
from decoders.mirror.meter import count
from decoders.mirror.state import T_CUT, T_NO_ROOM, T_NOT_IP, T_SOURCES_FULL, new_meter
from tests.mirror.support import Talk, Timed, frames_of, meter_of

Wrap = Callable[[bytes, int], Any]
OUTER = Ether(src="52:54:00:00:0a:01", dst="52:54:00:00:0a:02")
HYPERVISOR = IP(src="192.0.2.11", dst="192.0.2.1")
HYPERVISOR6 = IPv6(src="2001:db8::11", dst="2001:db8::1")


def _tagged(frame: bytes, _number: int) -> Any:
    return Raw(frame[:12] + b"\x81\x00\xe0\x64" + frame[12:])  # VLAN 100, priority 7


def _erspan1(frame: bytes, _number: int) -> Any:
    return OUTER / HYPERVISOR / GRE(proto=0x88BE) / ERSPAN_I() / Raw(frame)


def _erspan2(frame: bytes, number: int) -> Any:
    gre = GRE(proto=0x88BE, seqnum_present=1, sequence_number=number)
    return OUTER / HYPERVISOR / gre / ERSPAN_II(session_id=7) / Raw(raw(_tagged(frame, 0)))


def _erspan3(frame: bytes, number: int) -> Any:
    gre = GRE(proto=0x22EB, seqnum_present=1, sequence_number=number)
    return OUTER / HYPERVISOR6 / gre / ERSPAN_III(session_id=7) / Raw(frame)


def _erspan3_platform(frame: bytes, number: int) -> Any:
    gre = GRE(proto=0x22EB, seqnum_present=1, sequence_number=number)
    return OUTER / HYPERVISOR / gre / ERSPAN_III(session_id=7, o=1) / ERSPAN_PlatformSpecific() / Raw(frame)


def _gre(frame: bytes, number: int) -> Any:
    """As a tap mirror of Neutron: another key for each direction, which is no network."""
    return OUTER / HYPERVISOR / GRE(proto=0x6558, key_present=1, key=1 + number % 2) / Raw(frame)


def _vxlan(frame: bytes, _number: int) -> Any:
    return OUTER / HYPERVISOR / UDP(sport=50_000, dport=4789) / VXLAN(vni=5001) / Raw(frame)


def _qinq(frame: bytes, _number: int) -> Any:
    return Ether(frame[:12] + b"\x88\xa8") / Dot1AD(vlan=30) / Dot1Q(vlan=100, type=0x0800) / Raw(frame[14:])


def _vxlan_in_erspan(frame: bytes, number: int) -> Any:
    """ERSPAN of an uplink: the sequence is that of the mirror, the network that of the packet."""
    gre = GRE(proto=0x88BE, seqnum_present=1, sequence_number=number)
    return OUTER / HYPERVISOR / gre / ERSPAN_II(session_id=7) / _vxlan(frame, 0)


CASES: list[tuple[Wrap, str, str]] = [
    (lambda frame, _: Raw(frame), "", ""),
    (_tagged, "vlan 100", ""),
    (_qinq, "vlan 30", ""),
    (_erspan1, "", ""),
    (_erspan2, "vlan 100", "192.0.2.11"),
    (_erspan3, "", "2001:db8::11"),
    (_erspan3_platform, "", "192.0.2.11"),
    (_gre, "", ""),
    (_vxlan, "vni 5001", ""),
    (_vxlan_in_erspan, "vni 5001", "192.0.2.11"),
]


def talk() -> Talk:
    one = Talk()
    now = one.open()
    one.packet(now + 100, 0, "PA", 1, 1, 200)
    one.packet(now + 500, 1, "A", 1, 201)
    return one


def wrapped(wrap: Wrap, first: int = 0) -> list[Timed]:
    return [(us, raw(wrap(frame, first + number))) for number, (us, frame) in enumerate(talk().frames)]


@pytest.mark.parametrize(("wrap", "network", "mirror"), CASES, ids=[wrap.__name__ for wrap, _, _ in CASES])
def test_the_connection_inside_is_the_same(wrap: Wrap, network: str, mirror: str) -> None:
    meter = meter_of(wrapped(wrap))
    (row,) = results.connections(meter)

    assert row == talk().row() | {"network": network}
    expected = (
        [{"address": mirror, "session": 7, "received": 5, "lost": 0, "late": 0, "duplicates": 0}] if mirror else []
    )
    assert results.mirrors(meter) == expected


@pytest.mark.parametrize(("wrap", "network", "_mirror"), CASES, ids=[wrap.__name__ for wrap, _, _ in CASES])
def test_the_headers_suffice(wrap: Wrap, network: str, _mirror: str) -> None:
    """Of frames cut to 192 octets the lengths come from the IP header; a shorter cut makes nothing up."""
    frames = wrapped(wrap)
    whole = talk().row() | {"network": network}
    (row,) = results.connections(meter_of([(us, frame[:192]) for us, frame in frames]))
    assert row == whole

    for cut in range(0, 192, 5):
        for row in results.connections(meter_of([(us, frame[:cut]) for us, frame in frames])):
            assert row["octets_to_server"] + row["octets_to_client"] <= sum(len(frame) for _, frame in frames)
            assert row["data_octets_to_server"] <= whole["data_octets_to_server"]


def test_a_cut_header_is_counted() -> None:
    meter = meter_of([(us, frame[:50]) for us, frame in talk().frames])

    assert meter.totals[T_CUT] == 5
    assert [row["packets_to_server"] for row in results.connections(meter)] == [3]


def test_what_a_stream_misses_was_lost_on_the_way_here() -> None:
    """Over the end of the numbers: 0 and 1 are missing, 1 comes late.  Then the tunnel begins again."""
    assert stream(2**32 - 2, 2**32 - 1, 2, 1, 1_000_000, 1_000_001) == (6, 1, 1, 0)


def stream(*numbers: int) -> tuple[int, int, int, int]:
    """How many packets of a mirror with these sequence numbers came, were lost, came late, came twice."""
    frames = [
        (place, raw(_erspan2(raw(Ether() / IP(src="10.0.0.1", dst="10.0.0.2", id=1 + place) / ICMP()), number)))
        for place, number in enumerate(numbers)
    ]
    (mirror,) = results.mirrors(meter_of(frames))
    assert (mirror["address"], mirror["session"]) == ("192.0.2.11", 7)
    return mirror["received"], mirror["lost"], mirror["late"], mirror["duplicates"]


@pytest.mark.parametrize(
    ("numbers", "counts"),
    [
        ((1, 2, 4, 4, 2, 1), (3, 1, 0, 3)),  # 3 stays lost, whatever comes twice
        ((1, 2, 4, 3, 3), (4, 0, 1, 1)),
        ((5, 7, 4), (3, 1, 1, 0)),  # 4 is from before the first one: it was not counted as lost
        ((1, 3, 3000, 2), (4, 2997, 1, 0)),  # too long ago to know
    ],
)
def test_what_comes_twice_takes_no_loss_back(numbers: tuple[int, ...], counts: tuple[int, int, int, int]) -> None:
    assert stream(*numbers) == counts


def test_streams_without_room_are_counted() -> None:
    inner = raw(Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / ICMP())
    frames = []
    for number in range(1100):
        gre = GRE(proto=0x88BE, seqnum_present=1, sequence_number=1)
        outer = IP(src=f"192.0.{number >> 8}.{number & 255}", dst="192.0.2.1")
        frames.append((number, raw(OUTER / outer / gre / ERSPAN_II(session_id=7) / Raw(inner))))
    meter = meter_of(frames)

    assert len(results.mirrors(meter)) + meter.totals[T_SOURCES_FULL] == 1100
    assert meter.totals[T_SOURCES_FULL] >= 76


def test_connections_without_room_are_counted() -> None:
    frames = [(n, raw(Ether() / IP(src="10.0.0.1", dst="10.0.0.2", id=n + 1) / UDP(sport=n + 1))) for n in range(20)]
    meter = meter_of(frames, slots=8)

    assert len(results.connections(meter)) == 8
    assert meter.totals[T_NO_ROOM] == 12


def test_others_than_tcp_have_packets_and_octets() -> None:
    ends = {"src": "10.0.0.1", "dst": "10.0.0.2"}
    udp = Ether() / IP(**ends, id=5) / UDP(sport=53, dport=40_000) / Raw(b"x" * 100)
    ping = Ether() / IP(**ends, id=6) / ICMP() / Raw(b"x" * 56)
    first = Ether() / IP(**ends, id=7, flags="MF") / UDP(sport=9, dport=9) / Raw(b"x" * 100)
    later = Ether() / IP(**ends, id=7, frag=20, proto=17) / Raw(b"x" * 40)
    arp = Ether() / ARP(psrc="10.0.0.1", pdst="10.0.0.2")
    meter = meter_of([(n, raw(one)) for n, one in enumerate((udp, ping, first, later, arp))])
    rows = results.connections(meter)

    assert [(row["ip_protocol"], row["src_port"], row["dst_port"]) for row in rows] == [
        (17, 40_000, 53), (1, 0, 0), (17, 9, 9), (17, 0, 0),
    ]  # fmt: skip
    assert [row["octets_to_server"] + row["octets_to_client"] for row in rows] == [128, 84, 128, 60]
    assert {row["outcome"] for row in rows} == {""}
    assert meter.totals[T_NOT_IP] == 1
    (pair, back) = sorted(results.pairs(meter), key=lambda row: row["src_ip"])
    assert pair["octets_to_server"] == 84 + 128 + 60
    assert (back["src_ip"], back["octets_to_client"]) == ("10.0.0.2", 128)


def test_dns_has_response_times() -> None:
    query = Ether() / IP(src="10.0.0.1", dst="10.0.0.2", id=5) / UDP(sport=40_000, dport=53) / Raw(b"x" * 40)
    answer = Ether() / IP(src="10.0.0.2", dst="10.0.0.1", id=6) / UDP(sport=53, dport=40_000) / Raw(b"x" * 90)
    (row,) = results.connections(meter_of([(0, raw(query)), (1500, raw(answer))]))

    assert (row["dst_port"], row["responses"], row["response_median_us"]) == (53, 1, 1500)


def test_networks_are_apart() -> None:
    frames = [*wrapped(_tagged), *wrapped(_vxlan), *talk().frames]

    assert sorted(row["network"] for row in results.connections(meter_of(frames))) == ["", "vlan 100", "vni 5001"]


def test_a_packet_without_length_has_that_of_its_frame() -> None:
    """Offload beyond 65,535 octets leaves the IP length 0."""
    frame = Ether() / IP(src="10.0.0.1", dst="10.0.0.2", id=9, len=0) / TCP(sport=1, dport=2) / Raw(b"x" * 70_000)
    (row,) = results.connections(meter_of([(0, raw(frame))]))

    assert row["octets_to_server"] + row["octets_to_client"] == 70_040
    assert row["data_octets_to_server"] + row["data_octets_to_client"] == 70_000


def test_a_vlan_that_the_network_card_took_out_is_the_network() -> None:
    """Not where a tunnel is around the packet: then it is that of the underlay."""
    networks = []
    for wrap in (CASES[0][0], _gre):
        frames = frames_of(wrapped(wrap))
        meter = new_meter(8, secret=1)
        count(meter, frames._replace(vlan=np.full(len(frames.ns), 77, np.int64)))
        networks += [row["network"] for row in results.connections(meter)]

    assert networks == ["vlan 77", ""]
