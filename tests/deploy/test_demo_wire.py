"""The encoders of deploy/demo write what Open vSwitch 3.1.0 wrote, octet by octet: captures of fixtures/pcaps."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from deploy.demo import wire
from tests.decoders.support import payloads


def captured(stem: str, host: str, number: int) -> bytes:
    """A datagram of a real Open vSwitch 3.1.0, counted per host from 0."""
    return [payload for payload, source, *_ in payloads(stem) if source == host][number]


def ip(text: str) -> int:
    """An address as a number."""
    return int(IPv4Address(text))


def test_templates_are_those_of_open_vswitch() -> None:
    """All 20 messages of a start, octet by octet, as Open vSwitch 3.1.0 sent them."""
    captured = [payload for payload, source, *_ in payloads("ovs_ipfix_tunnel") if source == "192.0.2.12"][:20]
    seconds, sequence, domain = struct.unpack_from("!III", captured[0], 4)

    assert list(wire.ipfix_start(seconds, sequence, domain)) == captured


def test_ipfix_records_are_those_of_open_vswitch() -> None:
    """A record of TCP that came by a tunnel: all but the totals, which are the exporter's, octet by octet."""
    theirs = next(payload for payload, *_ in payloads("ovs_ipfix_tunnel") if payload[16:18] == b"\x01\x1a")
    seconds, sequence, domain = struct.unpack_from("!III", theirs, 4)
    tunnel = wire.Tunnel(ip("198.51.100.11"), ip("198.51.100.12"), 0x93FE, 5001)
    packet = wire.Packet(
        0x5254000A0001, 0x5254000B0001, ip("10.20.0.11"), ip("10.20.0.21"), wire.TCP, 0xA588, 0x1451, 66, 0, 0
    )
    start, end = (seconds * 1_000_000 - before for before in (0x29AFE0, 0x28E4C0))
    counts = wire.Counts(start, end, 8, 0x2DC, 0x10AE2, 0x34 + 14, 0xCF + 14)
    key = wire.ipfix_key(packet, None, None, tunnel)
    ours = wire.ipfix_record(key, counts, (0, 0), 2, seconds * 1_000_000 - 1, sequence, domain)

    names = (158, 159, 133, 135, 2, 86, 354, 355, 356, 357, 358, 19, 174, 352, 353, 136)
    tail = (132, 134, 1, 85, 198, 199, 25, 26, 20, 175, 222, 219, 221, 220, 218, 223)
    read = [
        dict(zip((*names, *tail), struct.unpack("!II13QB16Q", payload[-241:]), strict=True))
        for payload in (ours, theirs)
    ]
    assert len(ours) == len(theirs)
    assert ours[:-241] == theirs[:-241]
    # The rest are totals, and drops that Open vSwitch counts for what recirculates.
    for element in (158, 159, 2, 352, 136, 1, 198, 25, 26, 19, 20):
        assert read[0][element] == read[1][element], element


def test_netflow_records_are_those_of_open_vswitch() -> None:
    theirs = captured("ovs_netflow5", "192.0.2.11", 0)
    _, _, uptime, seconds, rest, sequence, _, engine, _ = struct.unpack_from("!HHIIIIBBH", theirs)
    packet = wire.Packet(0, 0, ip("10.20.0.21"), ip("10.20.0.11"), 1, 0, 0, 98, 0, 0)
    answer = packet._replace(src_ip=packet.dst_ip, dst_ip=packet.src_ip, dst_port=2048)
    records = [
        wire.netflow_record(packet, (1, 3), (20, 1960), (120, 1107)),
        wire.netflow_record(answer, (3, 1), (20, 2910), (119, 1107)),
    ]
    now_us = seconds * 1_000_000 + rest // 1000

    ours = wire.netflow_datagram(records, sequence, now_us, uptime, engine)
    # Our clock is in microseconds.
    assert ours[:12] + ours[16:] == theirs[:12] + theirs[16:]


def test_sflow_samples_are_those_of_open_vswitch() -> None:
    """A sample from and one into a tunnel, but for the packet; a counter sample octet by octet."""
    theirs = captured("ovs_sflow_exact_s1", "192.0.2.12", 0)
    ends = ip("198.51.100.11"), ip("198.51.100.12")
    packet = wire.Packet(0x5254000A0001, 0x5254000B0001, ip("10.20.0.11"), ip("10.20.0.21"), 1, 0, 0, 98, 0, 0)
    tunnel = wire.Tunnel(*ends, 0xDF8C, 5001)
    first = wire.sflow_sample(1, 1, 0, 7, packet, tunnel, None)
    second = wire.sflow_sample(2, 1, 7, 0x80000001, packet, None, tunnel._replace(src_ip=ends[1], dst_ip=ends[0]))
    ours = wire.sflow_datagram(ip("192.0.2.12"), 1, 0, [first, second])

    frames = [(at + 24, at + 124) for at in (28 + 40 + 24, 28 + len(first) + 40 + 24)]
    for begin, end in frames:
        theirs = theirs[:begin] + bytes(end - begin) + theirs[end:]
        ours = ours[:begin] + bytes(end - begin) + ours[end:]
    assert ours[28:] == theirs[28 : len(ours)]
    assert ours[:24] == theirs[:24]
    port = wire.Port("vnet1", 7, 3, 0x2A64A5D5D24B)
    counters = wire.sflow_counters(1, port, (0xDB0E, 0x4A6683A), (0x2917, 0xCE507))
    assert any(counters in payload for payload, *_ in payloads("ovs_sflow_tcp_udp_s64"))
