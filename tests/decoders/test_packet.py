"""The parser of sampled headers against scapy: whole packets, and the same packets cut at every octet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scapy.all import (
    ARP,
    GRE,
    ICMP,
    IP,
    LLC,
    SCTP,
    SNAP,
    STP,
    TCP,
    UDP,
    Dot1AD,
    Dot1Q,
    Dot3,
    Ether,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Packet,
    Raw,
)
from scapy.contrib.geneve import GENEVE
from scapy.contrib.gtp import GTP_U_Header, GTPPDUSessionContainer
from scapy.contrib.mpls import MPLS
from scapy.layers.ipsec import AH, ESP
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.vxlan import VXLAN

from decoders.jit import kernel
from decoders.packet import P_NESTING, P_TAGGED, P_TUNNEL, P_UNKNOWN, parse_header
from decoders.rows import Rows, layout, new_rows
from schemas.flows import FLOWS
from tests.decoders.support import address, mac, uncounted

PLACES = layout(FLOWS)
TUNNELS = FLOWS["tunnel"].names


@uncounted
@kernel
def parse_one(octets, at, end, header_protocol, frame_length, rows):  # type: ignore[no-untyped-def]
    return parse_header(octets, at, end, header_protocol, frame_length, rows, 0)


def parse(frame: bytes, *, protocol: int = 1, frame_length: int = 0, cut: int | None = None) -> dict[str, Any]:
    """Columns of the row that a header gives.  Octets before and behind the header must not matter."""
    rows: Rows = new_rows(FLOWS, 1)
    shown = frame if cut is None else frame[:cut]
    octets = np.frombuffer(bytearray(b"\xff" * 7 + shown + b"\xff" * 200), np.uint8)
    bits = parse_one(octets, 7, 7 + len(shown), protocol, frame_length or len(frame), rows)
    values = {name: rows[group][index, 0] for name, (group, index) in PLACES.items()}
    row: dict[str, Any] = {
        name: value.tobytes() if isinstance(value, np.ndarray) else int(value) for name, value in values.items()
    }
    return row | {"tunnel": TUNNELS[row["tunnel"]], "bits": int(bits)}


def has(row: dict[str, Any], **want: Any) -> None:
    assert {name: row[name] for name in want} == want


ENDS = Ether(src="52:54:00:00:00:01", dst="52:54:00:00:00:02")
OUTER = Ether(src="52:54:00:00:0a:01", dst="52:54:00:00:0a:02")
V4 = IP(src="10.0.0.1", dst="10.0.0.2", tos=0x28, ttl=61)
V6 = IPv6(src="2001:db8::1", dst="2001:db8::2", tc=0x28, hlim=61)
VTEPS = IP(src="198.51.100.1", dst="198.51.100.2", ttl=9)
VTEPS6 = IPv6(src="2001:db8:f::1", dst="2001:db8:f::2")
SEGMENT = TCP(sport=40_000, dport=443, seq=0xDEADBEEF, flags="SA") / Raw(b"d" * 40)
DATAGRAM = UDP(sport=40_001, dport=53) / Raw(b"d" * 20)

PACKETS: dict[str, Packet] = {
    "tcp": ENDS / V4 / SEGMENT,
    "udp": ENDS / V4 / DATAGRAM,
    "tcp over ipv6": ENDS / V6 / SEGMENT,
    "udp over ipv6": ENDS / V6 / DATAGRAM,
    "sctp": ENDS / V4 / SCTP(sport=7, dport=9, tag=1) / Raw(b"x" * 8),
    "icmp": ENDS / V4 / ICMP(type=3, code=1) / Raw(b"x" * 8),
    "icmpv6": ENDS / V6 / ICMPv6EchoRequest(data=b"x" * 8),
    "vlan": ENDS / Dot1Q(vlan=100, prio=5) / V4 / SEGMENT,
    "qinq": ENDS / Dot1AD(vlan=200) / Dot1Q(vlan=100) / V4 / SEGMENT,
    "priority tag": ENDS / Dot1Q(vlan=0, prio=7) / V4 / SEGMENT,
    "priority tag, then vlan": ENDS / Dot1Q(vlan=0, prio=7) / Dot1Q(vlan=9) / V6 / SEGMENT,
    "ip options": ENDS / IP(src="10.0.0.1", dst="10.0.0.2", options=b"\x01" * 8) / SEGMENT,
    "hop by hop": ENDS / V6 / IPv6ExtHdrHopByHop() / SEGMENT,
    "all extensions": ENDS
    / V6
    / IPv6ExtHdrHopByHop()
    / IPv6ExtHdrRouting(addresses=["2001:db8::3"])
    / IPv6ExtHdrDestOpt()
    / DATAGRAM,
}


def expected(packet: Packet) -> dict[str, Any]:
    """Fields of a packet without tunnel, as scapy reads them from its octets."""
    parsed = Ether(bytes(packet))
    tags = [layer.vlan for layer in parsed.iterpayloads() if isinstance(layer, Dot1Q) and layer.vlan]
    six = parsed.getlayer(IPv6)
    ip = six or parsed[IP]
    last = parsed
    for layer in parsed.iterpayloads():
        if isinstance(layer, TCP | UDP | SCTP | ICMP | ICMPv6EchoRequest):
            last = layer
            break
    numbers = {TCP: 6, UDP: 17, SCTP: 132, ICMP: 1, ICMPv6EchoRequest: 58}
    return {
        "src_mac": mac(parsed.src),
        "dst_mac": mac(parsed.dst),
        "ether_type": 0x86DD if six else 0x0800,
        "vlan": tags[0] if tags else 0,
        "src_ip": address(ip.src),
        "dst_ip": address(ip.dst),
        "tos": six.tc if six else ip.tos,
        "ttl": six.hlim if six else ip.ttl,
        "bytes": six.plen + 40 if six else ip.len,
        "ip_protocol": numbers[type(last)],
        "src_port": getattr(last, "sport", 0),
        "dst_port": getattr(last, "dport", 0),
        "tcp_flags": int(last.flags) if isinstance(last, TCP) else 0,
        "tcp_seq": last.seq if isinstance(last, TCP) else 0,
        "icmp_type": last.type if isinstance(last, ICMP | ICMPv6EchoRequest) else 0,
        "icmp_code": last.code if isinstance(last, ICMP | ICMPv6EchoRequest) else 0,
        "fragment": 0,
        "tunnel": "none",
        "frame_bytes": len(packet),
    }


@pytest.mark.parametrize("name", PACKETS)
def test_packets_are_read_as_scapy_reads_them(name: str) -> None:
    has(parse(bytes(PACKETS[name])), **expected(PACKETS[name]))


def encapsulations() -> dict[str, tuple[Packet, str, int]]:
    """Name -> (outer headers, tunnel, VNI); the inner frame follows."""
    vxlan = VXLAN(vni=5001, flags=8)
    return {
        "vxlan": (OUTER / VTEPS / UDP(sport=50_000, dport=4789) / vxlan, "vxlan", 5001),
        "vxlan on the old port": (OUTER / VTEPS / UDP(dport=8472) / vxlan, "vxlan", 5001),
        "vxlan over ipv6": (OUTER / VTEPS6 / UDP(dport=4789) / vxlan, "vxlan", 5001),
        "vxlan in a vlan": (OUTER / Dot1Q(vlan=7) / VTEPS / UDP(dport=4789) / vxlan, "vxlan", 5001),
        "vxlan-gpe": (OUTER / VTEPS / UDP(dport=4790) / VXLAN(vni=6, flags=0x0C, NextProtocol=3), "vxlan_gpe", 6),
        "geneve": (OUTER / VTEPS / UDP(dport=6081) / GENEVE(vni=77, proto=0x6558), "geneve", 77),
        "geneve with an option": (
            OUTER / VTEPS / UDP(dport=6081) / Raw(bytes.fromhex("02006558 00004d00 0102800100000005".replace(" ", ""))),
            "geneve",
            77,
        ),
        "gre": (OUTER / VTEPS / GRE(proto=0x6558), "gre", 0),
        "gre with a key": (OUTER / VTEPS / GRE(proto=0x6558, key_present=1, key=456), "gre", 456),
        "nvgre": (OUTER / VTEPS / GRE(proto=0x6558, key_present=1, key=0x00123401), "nvgre", 0x1234),
        "gre with all": (
            OUTER / VTEPS / GRE(proto=0x6558, chksum_present=1, key_present=1, key=9, seqnum_present=1),
            "gre",
            9,
        ),
        "erspan ii": (OUTER / VTEPS / GRE(proto=0x88BE, seqnum_present=1) / Raw(bytes(8)), "erspan", 0),
        "erspan iii": (OUTER / VTEPS / GRE(proto=0x22EB, seqnum_present=1) / Raw(bytes(12)), "erspan", 0),
    }


@pytest.mark.parametrize("inner", ["tcp", "udp over ipv6", "vlan", "icmp"])
@pytest.mark.parametrize("name", encapsulations())
def test_the_inner_packet_takes_the_plain_columns(name: str, inner: str) -> None:
    outer, tunnel, vni = encapsulations()[name]
    frame = bytes(outer / Raw(bytes(PACKETS[inner])))
    row = parse(frame)
    want = expected(PACKETS[inner]) | {"tunnel": tunnel, "vni": vni, "frame_bytes": len(frame)}
    ends = outer.getlayer(IPv6) or outer[IP]
    has(row, **want, outer_src_ip=address(ends.src), outer_dst_ip=address(ends.dst))
    assert row["bits"] == P_TUNNEL | (P_TAGGED if inner == "vlan" else 0)


IN_IP = {
    "4 in 4": (OUTER / VTEPS / V4 / SEGMENT, "ipip", 0x0800),
    "6 in 4": (OUTER / VTEPS / V6 / SEGMENT, "ipip", 0x86DD),
    "4 in 6": (OUTER / VTEPS6 / V4 / SEGMENT, "ipip", 0x0800),
    "MPLS in IP": (
        OUTER / IP(src="198.51.100.1", dst="198.51.100.2", proto=137) / MPLS(label=100, s=1) / V4 / SEGMENT,
        "other",
        0x8847,
    ),
    "GTP-U": (OUTER / VTEPS / UDP(dport=2152) / GTP_U_Header(teid=7) / V4 / SEGMENT, "other", 0x0800),
    "GTP-U with a number": (
        OUTER / VTEPS / UDP(dport=2152) / GTP_U_Header(teid=7, S=1, seq=9) / V6 / SEGMENT,
        "other",
        0x86DD,
    ),
    "GTP-U with an extension": (
        OUTER / VTEPS6 / UDP(dport=2152) / GTP_U_Header(teid=7, E=1) / GTPPDUSessionContainer(QFI=5) / V4 / SEGMENT,
        "other",
        0x0800,
    ),
    "4 in gre": (OUTER / VTEPS / GRE(proto=0x0800) / V4 / SEGMENT, "gre", 0x0800),
    "6 in gre": (OUTER / VTEPS / GRE(proto=0x86DD) / V6 / SEGMENT, "gre", 0x86DD),
    "4 in vxlan-gpe": (
        OUTER / VTEPS / UDP(dport=4790) / VXLAN(flags=0x0C, NextProtocol=1) / V4 / SEGMENT,
        "vxlan_gpe",
        0x0800,
    ),
}


@pytest.mark.parametrize("name", IN_IP)
def test_ip_in_ip_keeps_the_macs_of_the_frame(name: str) -> None:
    packet, tunnel, ether_type = IN_IP[name]
    row = parse(bytes(packet))
    six = ether_type == 0x86DD
    has(row, src_mac=mac(OUTER.src), tunnel=tunnel, ether_type=ether_type, dst_port=443, tos=0x28, ttl=61)
    has(row, src_ip=address("2001:db8::1" if six else "10.0.0.1"), tcp_seq=0xDEADBEEF)
    has(row, bytes=60 + (40 if six else 20))


def test_nested_tunnels_show_the_innermost_packet_and_the_tunnel_around_it() -> None:
    vm = ENDS / IP(src="10.1.0.1", dst="10.1.0.2") / UDP(dport=8472) / VXLAN(vni=1, flags=8)
    row = parse(bytes(OUTER / VTEPS / UDP(dport=4789) / VXLAN(vni=5001, flags=8) / vm / ENDS / V4 / SEGMENT))
    has(row, vni=1, outer_src_ip=address("10.1.0.1"), src_ip=address("10.0.0.1"), dst_port=443)


def test_nesting_ends_at_the_limits() -> None:
    packet: Packet = ENDS / V4
    for _ in range(5):
        packet = packet / IP(src="10.9.9.9", dst="10.9.9.8")
    assert parse(bytes(packet / SEGMENT))["bits"] == P_TUNNEL | P_NESTING
    tags = ENDS
    for vlan in range(1, 10):
        tags = tags / Dot1Q(vlan=vlan)
    row = parse(bytes(tags / V4 / SEGMENT))
    has(row, bits=P_TAGGED | P_NESTING, vlan=1, ether_type=0, ip_protocol=0)
    chain = ENDS / V6
    for _ in range(9):
        chain = chain / IPv6ExtHdrDestOpt()
    has(parse(bytes(chain / SEGMENT)), bits=P_NESTING, src_port=0, src_ip=address("2001:db8::1"))
    labels = ENDS
    for label in range(17):
        labels = labels / MPLS(label=100 + label, s=0)
    assert parse(bytes(labels / V4 / SEGMENT))["bits"] == P_NESTING


@pytest.mark.parametrize(
    ("labels", "below", "want"),
    [
        ((100,), V4 / SEGMENT, {"src_ip": address("10.0.0.1"), "dst_port": 443, "bytes": 80}),
        ((100, 200, 300), V6 / SEGMENT, {"src_ip": address("2001:db8::1"), "dst_port": 443, "bytes": 100}),
        ((100, 0), V4 / SEGMENT, {"src_ip": address("10.0.0.1")}),
        ((100, 2), V6 / SEGMENT, {"src_ip": address("2001:db8::1")}),
    ],
)
def test_mpls(labels: tuple[int, ...], below: Packet, want: dict[str, Any]) -> None:
    frame: Packet = Ether(src=ENDS.src, dst=ENDS.dst, type=0x8847)
    for label in labels:
        frame = frame / MPLS(label=label, s=int(label == labels[-1]))
    has(parse(bytes(frame) + bytes(below)), ether_type=0x8847, **want)


def test_an_ethernet_pseudo_wire_shows_its_inner_frame() -> None:
    frame = bytes(Ether(src=OUTER.src, dst=OUTER.dst, type=0x8847) / MPLS(label=100, s=1)) + bytes(4)
    row = parse(frame + bytes(ENDS / Dot1Q(vlan=3) / V4 / SEGMENT))
    has(row, src_mac=mac(ENDS.src), vlan=3, src_ip=address("10.0.0.1"), dst_port=443, ether_type=0x0800)


def test_arp() -> None:
    frame = bytes(ENDS / Dot1Q(vlan=8) / ARP(psrc="10.0.0.1", pdst="10.0.0.2")) + bytes(14)
    row = parse(frame)
    has(row, ether_type=0x0806, src_ip=address("10.0.0.1"), dst_ip=address("10.0.0.2"), ip_protocol=0, vlan=8)
    has(row, bytes=len(frame) - 18, frame_bytes=len(frame))
    has(parse(frame, cut=45), src_ip=bytes(16), src_mac=mac(ENDS.src))


def test_frames_of_802_3() -> None:
    snap = bytes(
        Dot3(src=ENDS.src, dst=ENDS.dst) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(OUI=0, code=0x0800) / V4 / SEGMENT
    )
    has(parse(snap), ether_type=0x0800, dst_port=443, bytes=80)
    stp = bytes(Dot3(src=ENDS.src, dst="01:80:c2:00:00:00") / LLC(dsap=0x42, ssap=0x42, ctrl=3) / STP())
    has(parse(stp), ether_type=0, src_mac=mac(ENDS.src), src_ip=bytes(16), bytes=len(stp) - 14)


def test_fragments() -> None:
    first = bytes(ENDS / IP(src="10.0.0.1", dst="10.0.0.2", flags="MF") / DATAGRAM)
    has(parse(first), fragment=1, dst_port=53)
    later = bytes(ENDS / IP(src="10.0.0.1", dst="10.0.0.2", frag=185, proto=17) / Raw(b"\x00\x35" * 20))
    has(parse(later), fragment=2, dst_port=0, src_port=0, ip_protocol=17, src_ip=address("10.0.0.1"))
    has(parse(bytes(ENDS / V6 / IPv6ExtHdrFragment(m=1) / DATAGRAM)), fragment=1, dst_port=53, ip_protocol=17)
    has(
        parse(bytes(ENDS / V6 / IPv6ExtHdrFragment(offset=100, nh=17) / Raw(b"xxxx"))),
        fragment=2,
        dst_port=0,
        ip_protocol=17,
    )
    has(parse(bytes(ENDS / V6 / IPv6ExtHdrFragment() / DATAGRAM)), fragment=0, dst_port=53)


def test_ipsec() -> None:
    has(parse(bytes(ENDS / V4 / ESP(spi=1, seq=2, data=b"x" * 30))), ip_protocol=50, src_port=0)
    for ends in (V4, V6):
        header = AH(nh=6, payloadlen=4, spi=1, seq=2, icv=b"i" * 12)
        has(parse(bytes(ENDS / ends / header / SEGMENT)), ip_protocol=6, dst_port=443, tcp_seq=0xDEADBEEF)
        tunnel = AH(nh=4, payloadlen=4, spi=1, seq=2, icv=b"i" * 12) / IP(src="10.1.0.1", dst="10.1.0.2") / SEGMENT
        has(parse(bytes(ENDS / ends / tunnel)), tunnel="ipip", src_ip=address("10.1.0.1"), dst_port=443)
    later = IP(src="10.0.0.1", dst="10.0.0.2", frag=3, proto=51) / Raw(b"\x06\x04" + bytes(60))
    has(parse(bytes(ENDS / later)), ip_protocol=51, fragment=2, dst_port=0)


@pytest.mark.parametrize("tagged", [False, True])
def test_pppoe(tagged: bool) -> None:
    link = ENDS / Dot1Q(vlan=7) if tagged else ENDS
    session = link / PPPoE(sessionid=5)
    has(
        parse(bytes(session / PPP() / V4 / SEGMENT)),
        **{"ether_type": 0x8864, "vlan": 7 * tagged, "src_ip": address("10.0.0.1"), "dst_port": 443, "bytes": 80},
    )
    has(parse(bytes(session / PPP() / V6 / DATAGRAM)), src_ip=address("2001:db8::1"), dst_port=53, bytes=68)
    has(parse(bytes(session / PPP(proto=0xC021) / Raw(bytes(20)))), ether_type=0x8864, src_ip=bytes(16))
    has(parse(bytes(link / PPPoE(code=0xA7) / PPP() / V4 / SEGMENT)), src_ip=bytes(16), ip_protocol=0)


@pytest.mark.parametrize(
    "frame",
    [
        OUTER / VTEPS / UDP(dport=4789) / Raw(bytes(8) + bytes(ENDS / V4 / SEGMENT)),  # VXLAN flag not set
        OUTER / VTEPS / UDP(sport=4789, dport=5) / VXLAN(vni=1, flags=8) / ENDS / V4 / SEGMENT,  # source port only
        OUTER / VTEPS / UDP(dport=6081) / Raw(b"\x80" + bytes(7)) / ENDS / V4 / SEGMENT,  # Geneve version 2
        OUTER / VTEPS / GRE(version=1, proto=0x880B) / Raw(bytes(60)),  # PPTP
        OUTER / VTEPS / GRE(routing_present=1, proto=0x6558) / Raw(bytes(60)),
        OUTER / IP(src="198.51.100.1", dst="198.51.100.2", proto=4) / Raw(b"\x60" + bytes(60)),  # not IPv4 inside
        OUTER / VTEPS / UDP(dport=2152) / GTP_U_Header(gtp_type=26) / V4 / SEGMENT,  # an error, no packet
        OUTER / VTEPS / UDP(dport=2152) / Raw(b"\x34\xff\0\x08\0\0\0\7" + b"\0\0\0\x85" + bytes(60)),  # length 0
    ],
)
def test_what_only_looks_like_a_tunnel_is_none(frame: Packet) -> None:
    has(parse(bytes(frame)), tunnel="none", vni=0, src_ip=address("198.51.100.1"), outer_src_ip=bytes(16), bits=0)


def test_lengths_of_zero_are_taken_from_the_frame() -> None:
    frame = bytearray(bytes(PACKETS["tcp"]))
    frame[16:18] = b"\0\0"
    has(parse(bytes(frame), frame_length=9_014), bytes=9_000, dst_port=443)
    frame = bytearray(bytes(PACKETS["tcp over ipv6"]))
    frame[18:20] = b"\0\0"
    has(parse(bytes(frame), frame_length=9_014), bytes=9_000, dst_port=443)


def test_ethernet_padding_is_not_payload() -> None:
    tiny = bytes(ENDS / IP(src="10.0.0.1", dst="10.0.0.2") / Raw(b"")) + b"\x00\x50" * 13
    broken = bytearray(tiny)
    broken[23] = 6  # TCP, but the packet ends with its IP header
    has(parse(bytes(broken)), bytes=20, src_port=0, ip_protocol=6)


def test_other_header_protocols() -> None:
    has(parse(bytes(V4 / SEGMENT), protocol=11), src_ip=address("10.0.0.1"), dst_port=443, src_mac=0, bytes=80)
    has(parse(bytes(V6 / SEGMENT), protocol=12), src_ip=address("2001:db8::1"), dst_port=443, frame_bytes=0)
    has(parse(bytes(MPLS(label=5, s=1)) + bytes(V4 / SEGMENT), protocol=13), dst_port=443)
    for start in ("0021", "ff030021"):
        has(parse(bytes.fromhex(start) + bytes(V4 / SEGMENT), protocol=7), dst_port=443, ether_type=0x0800, bytes=80)
    for unknown in (0, 2, 15, 2**32 - 1):
        has(parse(bytes(PACKETS["tcp"]), protocol=unknown), bits=P_UNKNOWN, src_mac=0, ip_protocol=0)


EVERYTHING = {
    **PACKETS,
    **{name: outer / Raw(bytes(PACKETS["vlan"])) for name, (outer, _, _) in encapsulations().items()},
    **{name: packet for name, (packet, _, _) in IN_IP.items()},
}
GROWING = ("src_mac", "dst_mac", "vni", "outer_src_ip", "outer_dst_ip", "tcp_seq", "tcp_flags", "icmp_type", "src_port")


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_cut_header_shows_the_whole_one_or_less(name: str) -> None:
    """Each value of a cut header is that of the whole header, of the outer packet, or missing."""
    frame = bytes(EVERYTHING[name])
    whole = parse(frame)
    plain = parse(frame[:14]) | {}
    zero = parse(b"", frame_length=len(frame))
    seen = []
    for cut in range(len(frame) + 1):
        row = parse(frame, cut=cut)
        seen.append(row)
        if row["tunnel"] == whole["tunnel"]:
            for column in GROWING:
                assert row[column] in (whole[column], zero[column], plain[column]), (cut, column)
        else:
            has(row, vni=0, outer_src_ip=bytes(16))
        assert row["frame_bytes"] == len(frame)
    assert seen[-1] == whole
    for column in ("src_mac", "ip_protocol", "src_ip"):
        assert seen[13][column] == zero[column]
    assert seen[14]["src_mac"] == mac(Ether(frame).src)


CUTS = {
    "tcp": [
        (33, "src_ip", 0),
        (34, "src_ip", 1),
        (37, "dst_port", 0),
        (38, "dst_port", 1),
        (41, "tcp_seq", 0),
        (42, "tcp_seq", 1),
        (47, "tcp_flags", 0),
        (48, "tcp_flags", 1),
    ]
}


@pytest.mark.parametrize(("cut", "column", "there"), CUTS["tcp"])
def test_a_field_is_there_from_its_last_octet_on(cut: int, column: str, there: int) -> None:
    frame = bytes(PACKETS["tcp"])
    row, whole, zero = parse(frame, cut=cut), parse(frame), parse(b"", frame_length=len(frame))
    assert row[column] == (whole if there else zero)[column]


def test_a_tunnel_counts_once_the_inner_addresses_are_there() -> None:
    frame = bytes(OUTER / VTEPS / UDP(dport=4789) / VXLAN(vni=5001, flags=8) / ENDS / V4 / SEGMENT)
    has(parse(frame, cut=50 + 13), tunnel="none", src_ip=address("198.51.100.1"), dst_port=4789, src_mac=mac(OUTER.src))
    has(parse(frame, cut=50 + 14), tunnel="vxlan", src_ip=bytes(16), src_mac=mac(ENDS.src), vni=5001)
    has(parse(frame, cut=50 + 34), tunnel="vxlan", src_ip=address("10.0.0.1"), dst_port=0)
