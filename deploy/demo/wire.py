"""Octets as Open vSwitch 3.1 sends them: sFlow v5, NetFlow v5, IPFIX of a bridge; and UDP datagrams as a capture file.

Written from the specifications and from captures of Open vSwitch (docs/wire-formats.md); it shares no code with the
decoders of vmflow, which are tested with it.  Addresses and MACs are numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import NamedTuple

TCP, UDP = 6, 17
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
HEADER_BYTES = 128
"""Octets of a packet in an sFlow sample, the default of Open vSwitch."""
VXLAN_PORT = 4789
VXLAN_BYTES = 50
"""Outer Ethernet, IPv4, UDP and VXLAN headers."""

SFLOW_BYTES = 1400
"""Largest sFlow datagram [lib/sflow.h, SFL_DEFAULT_DATAGRAM_SIZE]."""
NETFLOW_RECORDS = 30
"""Records of a NetFlow v5 datagram at most."""


class Packet(NamedTuple):
    """One packet of a VM, without its encapsulation."""

    src_mac: int
    dst_mac: int
    src_ip: int
    dst_ip: int
    protocol: int
    src_port: int
    dst_port: int
    length: int
    """Octets of the frame without FCS."""
    flags: int
    number: int
    """Number of the packet in its direction of the connection, from 0."""


class Tunnel(NamedTuple):
    """The VXLAN encapsulation of a packet."""

    src_ip: int
    dst_ip: int
    src_port: int
    vni: int


def mac_bytes(mac: int) -> bytes:
    return mac.to_bytes(6, "big")


def checksum(words: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an IPv4 header whose own checksum is 0."""
    total: int = sum(struct.unpack(f"!{len(words) // 2}H", words))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def ipv4(length: int, ident: int, protocol: int, src: int, dst: int) -> bytes:
    """Make an IPv4 header for `length` octets."""
    head = struct.pack("!BBHHHBBHII", 0x45, 0, 20 + length, ident & 0xFFFF, 0x4000, 64, protocol, 0, src, dst)
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:]


def frame(packet: Packet) -> bytes:
    """Make the first `HEADER_BYTES` octets of a packet's frame; the payload is zeros, checksums of layer 4 are 0."""
    ip_bytes = packet.length - 34
    head = mac_bytes(packet.dst_mac) + mac_bytes(packet.src_mac) + b"\x08\x00"
    head += ipv4(ip_bytes, packet.number, packet.protocol, packet.src_ip, packet.dst_ip)
    if packet.protocol == TCP:
        sequence = (packet.src_port * 0x9E3779B1 + packet.number * max(0, packet.length - 66)) & 0xFFFFFFFF
        acknowledged = sequence ^ 0xFFFF if packet.flags & ACK else 0
        offset = min(40 if packet.flags & SYN else 32, ip_bytes) << 2
        ports = packet.src_port, packet.dst_port
        head += struct.pack("!HHIIBBHHH", *ports, sequence, acknowledged, offset, packet.flags, 502, 0, 0)
    else:
        head += struct.pack("!HHHH", packet.src_port, packet.dst_port, ip_bytes, 0)
    return head[:HEADER_BYTES].ljust(min(HEADER_BYTES, packet.length), b"\0")


# sFlow v5 [sflow_version_5, sflow_tunnels; lib/sflow_receiver.c]


def record(number: int, body: bytes) -> bytes:
    """Make a record or sample: format, length, body in words."""
    body += bytes(-len(body) % 4)
    return struct.pack("!II", number, len(body)) + body


_SWITCH = record(1001, bytes(16))
"""No VLAN before or after."""


def _outer(number: int, src: int, dst: int, port: int) -> bytes:
    """Make an outer header as Open vSwitch sends it: no length, ports with their octets swapped."""
    swapped = int.from_bytes(port.to_bytes(2, "little"), "big")
    return record(number, struct.pack("!8I", 0, UDP, src, dst, swapped, 0xB512, 0, 0))


def sflow_sample(
    sequence: int, rate: int, inward: int, outward: int, packet: Packet, from_: Tunnel | None, into: Tunnel | None
) -> bytes:
    """Make a flow sample of one packet; `from_` and `into` state whether it came from, or goes into, a tunnel."""
    head = frame(packet)
    parts = [_SWITCH, record(1, struct.pack("!IIII", 1, packet.length + 4, 4, len(head)) + head)]
    if from_:
        parts += [record(1030, struct.pack("!I", from_.vni)), _outer(1024, from_.src_ip, from_.dst_ip, from_.src_port)]
    if into:
        parts += [record(1029, struct.pack("!I", into.vni)), _outer(1023, into.src_ip, into.dst_ip, 0)]
    pool = sequence * rate & 0xFFFFFFFF
    body = struct.pack("!8I", sequence, 0x020003E8, rate, pool, 0, inward, outward, len(parts)) + b"".join(parts)
    return record(1, body)


class Port(NamedTuple):
    """A port of the bridge, as described in counter samples."""

    name: str
    if_index: int
    of_port: int
    datapath: int


def sflow_counters(sequence: int, port: Port, inward: tuple[int, int], outward: tuple[int, int]) -> bytes:
    """Make a counter sample of a port: (packets, octets) that the switch received on it, and that it sent."""
    unknown = 0xFFFFFFFF
    generic = struct.pack("!IIQII", port.if_index, 6, 10_000_000_000, 1, 3)
    generic += struct.pack("!QIIIIII", inward[1], inward[0] & unknown, 0, unknown, 0, 0, unknown)
    generic += struct.pack("!QIIIIII", outward[1], outward[0] & unknown, unknown, unknown, 0, 0, 0)
    name = port.name.encode()
    records = (
        record(2, bytes(8) + b"\xff" * 44),
        record(1004, struct.pack("!QI", port.datapath, port.of_port)),
        record(1005, struct.pack("!I", len(name)) + name),
        record(1, generic),
    )
    return record(2, struct.pack("!III", sequence, port.if_index, len(records)) + b"".join(records))


def sflow_datapath(sequence: int, hits: int, misses: int) -> bytes:
    """Make a counter sample of the bridge: resources of the daemon (2203) and its datapath (2207)."""
    unknown = 0xFFFFFFFF
    stats = struct.pack("!6I", hits & unknown, misses & unknown, 0, unknown, 7, unknown)
    application = struct.pack("!II", 1036, 1596) + struct.pack("!Q", 88_346_624) + bytes(24)
    return record(2, struct.pack("!III", sequence, 0x020003E8, 2) + record(2203, application) + record(2207, stats))


def sflow_datagram(agent: int, sequence: int, uptime_ms: int, samples: list[bytes]) -> bytes:
    """Make a datagram of sub-agent 0."""
    return struct.pack("!7I", 5, 1, agent, 0, sequence, uptime_ms, len(samples)) + b"".join(samples)


# NetFlow v5 [lib/netflow.h]


def netflow_record(packet: Packet, ports: tuple[int, int], counts: tuple[int, int], times: tuple[int, int]) -> bytes:
    """Make a record; `packet` gives addresses, ports and all flags seen, `times` are ms of uptime."""
    head = struct.pack("!IIIHHIIII", packet.src_ip, packet.dst_ip, 0, *ports, *counts, *times)
    return head + struct.pack(
        "!HHBBBBHHBBH", packet.src_port, packet.dst_port, 0, packet.flags, packet.protocol, *[0] * 6
    )


def netflow_datagram(records: list[bytes], sequence: int, now_us: int, uptime_ms: int, engine: int) -> bytes:
    """Make a datagram; `sequence` is the number of its last record [ofproto/netflow.c]."""
    seconds, rest = divmod(now_us, 1_000_000)
    head = (5, len(records), uptime_ms, seconds, rest * 1000, sequence & 0xFFFFFFFF, 47, engine, 0)
    return struct.pack("!HHIIIIBBH", *head) + b"".join(records)


# IPFIX of a bridge [ofproto/ofproto-dpif-ipfix.c]

_NICIRA = 6876
_VARIABLE = 65535
_HEAD = "138:4 61:1 56:6 80:6 256:2 240:1 10:4 368:4 82:v 83:v"
_EGRESS = "14:4 369:4 82:v 83:v"
_VLAN = "58:2 243:2 244:1"
_IP = ("", "60:1 192:1 4:1 195:1 196:1 5:1 8:4 12:4", "60:1 192:1 4:1 195:1 196:1 5:1 27:16 28:16 31:4")
_TUNNEL = "893:4 894:4 895:1 896:2 897:2 891:1 892:v"
_COUNTS = "158:4 159:4 133:8 135:8 2:8 86:8 354:8 355:8 356:8 357:8 358:8 19:8 174:8 352:8 353:8 136:1"
_IP_COUNTS = "132:8 134:8 1:8 85:8 198:8 199:8 25:8 26:8 20:8 175:8"
_TCP_COUNTS = "222:8 219:8 221:8 220:8 218:8 223:8"
_L4_ANY, _L4_TCP, _L4_UDP, _L4_SCTP, _L4_ICMP = range(5)
_FULL = 1024
"""A message of templates is sent once it is longer."""

_COUNTS_FORMAT = struct.Struct("!II13QB")
_TAIL_FORMAT = struct.Struct("!10Q")


def _template_id(vlan: int, l3: int, l4: int, tunnel: int, egress: int) -> int:
    return 256 + 60 * vlan + 20 * l3 + 4 * l4 + 2 * tunnel + egress


def _fields(vlan: int, l3: int, l4: int, tunnel: int, egress: int) -> list[bytes]:
    """Return the field specifiers of a template."""
    ports = {_L4_ANY: "", _L4_ICMP: "176:1 177:1" if l3 == 1 else "178:1 179:1"}.get(l4, "7:2 11:2")
    parts = [_HEAD, _EGRESS * egress, _VLAN * vlan, _IP[l3], ports, _TUNNEL * tunnel, _COUNTS]
    parts += [_IP_COUNTS if l3 else "", _TCP_COUNTS if l4 == _L4_TCP else ""]
    found = []
    for field in " ".join(parts).split():
        element, _, size = field.partition(":")
        own = 890 <= int(element) < 900
        octets = struct.pack("!HH", int(element) | own << 15, _VARIABLE if size == "v" else int(size))
        found.append(octets + (struct.pack("!I", _NICIRA) if own else b""))
    return found


@cache
def _template_sets() -> tuple[bytes, ...]:
    """Return all 88 templates, as the sets of the messages that they are sent in."""
    sets, body = [], b""
    for vlan, (l3, l4), tunnel, egress in product((0, 1), ((0, 0), *product((1, 2), range(5))), (0, 1), (0, 1)):
        fields = _fields(vlan, l3, l4, tunnel, egress)
        body += struct.pack("!HH", _template_id(vlan, l3, l4, tunnel, egress), len(fields)) + b"".join(fields)
        if 20 + len(body) > _FULL:
            sets.append(_set(2, body))
            body = b""
    return (*sets, _set(2, body))


def _set(number: int, body: bytes) -> bytes:
    return struct.pack("!HH", number, 4 + len(body)) + body


def _message(seconds: int, sequence: int, domain: int, content: bytes) -> bytes:
    return struct.pack("!HHIII", 10, 16 + len(content), seconds, sequence & 0xFFFFFFFF, domain) + content


def ipfix_start(seconds: int, sequence: int, domain: int) -> Iterator[bytes]:
    """Yield the messages with all templates; then statistics of the exporter: their template, and a record."""
    for content in _template_sets():
        yield _message(seconds, sequence, domain, content)
    yield _message(seconds, sequence, 0, _set(3, struct.pack("!HHHHHHH", 462, 2, 1, 144, 4, 167, 8)))
    yield _message(seconds, sequence, 0, _set(462, struct.pack("!IQ", 2, 0)))


def ipfix_key(packet: Packet, ingress: Port | None, egress: Port | None, tunnel: Tunnel | None) -> tuple[int, bytes]:
    """Return the template id, and the part of a record that is the same for all packets of a flow.

    `ingress` None: from the tunnel port `vxlan0`.  `egress`: an output record.  `tunnel`: the tunnel it arrived by.
    """
    name = ingress.name if ingress else "vxlan0"
    octets = struct.pack("!IB", 1, int(egress is not None)) + mac_bytes(packet.src_mac) + mac_bytes(packet.dst_mac)
    octets += struct.pack("!HBII", 0x0800, 14, ingress.if_index if ingress else 0, 0) + _text(name) + _text("")
    if egress:
        octets += struct.pack("!II", egress.if_index, 0) + _text(egress.name) + _text("")
    octets += struct.pack("!BBBBBBII", 4, 64, packet.protocol, 0, 0, 0, packet.src_ip, packet.dst_ip)
    octets += struct.pack("!HH", packet.src_port, packet.dst_port)
    if tunnel:
        octets += struct.pack("!IIBHHB", tunnel.src_ip, tunnel.dst_ip, UDP, tunnel.src_port, VXLAN_PORT, 1)
        octets += b"\x03" + tunnel.vni.to_bytes(3, "big")
    l4 = _L4_TCP if packet.protocol == TCP else _L4_UDP
    return _template_id(0, 1, l4, int(tunnel is not None), int(egress is not None)), octets


def _text(value: str) -> bytes:
    return bytes((len(value),)) + value.encode()


class Counts(NamedTuple):
    """What a flow cache counted, in octets of frames."""

    start_us: int
    end_us: int
    packets: int
    octets: int
    squares: int
    """Sum of the squares of the octets of each IP packet."""
    least: int
    most: int


def ipfix_record(
    key: tuple[int, bytes], counts: Counts, total: tuple[int, int], reason: int, now_us: int, sequence: int, domain: int
) -> bytes:
    """Make a message with one record.  `total`: packets and octets of the whole exporter, which Open vSwitch adds."""
    seconds = now_us // 1_000_000 + 1
    template, octets = key
    before = seconds * 1_000_000
    packets, size = counts.packets, counts.octets
    octets += _COUNTS_FORMAT.pack(
        before - counts.start_us, before - counts.end_us, 0, 0, packets, total[0], total[0], 0, 0, total[0], 0, 0, 0,
        size, total[1], reason,
    )  # fmt: skip
    ip_octets, least, most = size - 14 * packets, counts.least - 14, counts.most - 14
    octets += _TAIL_FORMAT.pack(0, 0, ip_octets, total[1], counts.squares, counts.squares, least, most, 0, 0)
    if (template - 256) % 20 // 4 == _L4_TCP:
        octets += struct.pack("!6Q", total[0], 0, 0, 0, 0, 0)
    return _message(seconds, sequence, domain, _set(template, octets))


# A capture file [draft-ietf-opsawg-pcap]

PCAP_HEADER = struct.pack("!IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)


def pcap_record(time_us: int, source: tuple[int, int], destination: tuple[int, int], payload: bytes) -> bytes:
    """Make a UDP datagram in IPv4 and Ethernet, from and to (address, port)."""
    udp = struct.pack("!HHHH", source[1], destination[1], 8 + len(payload), 0) + payload
    octets = bytes(6) + b"\x02" + bytes(5) + b"\x08\x00" + ipv4(len(udp), 0, UDP, source[0], destination[0]) + udp
    return struct.pack("!IIII", *divmod(time_us, 1_000_000), len(octets), len(octets)) + octets
