"""Export datagrams for benchmarks: real layouts, many addresses, continuous sequence numbers.

`payloads(kind, exporter, first)` makes the datagrams of one exporter; the same call gives the same octets.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from collector.capture.read import read_capture

ROOT = Path(__file__).resolve().parent.parent
VMS = 2_000
PARTNERS = 5
"""VMs that one VM sends to: 10,000 pairs."""
TIME = 1_790_000_000
V5_RECORDS = 30
SET_RECORDS = 24
TEMPLATE = 300
SAMPLES = 6
SFLOW_CAPTURE = ROOT / "fixtures/pcaps/ovs_sflow_tcp_udp_s64.pcap"

KINDS = {
    "netflow5": V5_RECORDS,
    "netflow9": SET_RECORDS,
    "ipfix": SET_RECORDS,
    "ipfix_ovs": 1,
    "sflow": 0,
    "sflow_switch": SAMPLES,
}
"""Kind -> records in a datagram; 0 = as captured.  `sflow` is Open vSwitch with tunnels, which sfcapd cannot read."""

NO_FLOWS = (2, 3, 462)
"""Sets of the capture behind `ipfix_ovs` that hold templates and options."""

_V5 = np.dtype(
    [
        ("src", ">u4"), ("dst", ">u4"), ("next", ">u4"), ("in", ">u2"), ("out", ">u2"), ("packets", ">u4"),
        ("octets", ">u4"), ("first", ">u4"), ("last", ">u4"), ("sport", ">u2"), ("dport", ">u2"), ("pad", "u1"),
        ("flags", "u1"), ("protocol", "u1"), ("tos", "u1"), ("rest", "V8"),
    ]
)  # fmt: skip

_SAMPLE = np.dtype(
    [
        ("type", ">u4"), ("length", ">u4"), ("sequence", ">u4"), ("source", ">u4"), ("rate", ">u4"), ("pool", ">u4"),
        ("drops", ">u4"), ("in", ">u4"), ("out", ">u4"), ("records", ">u4"), ("raw", ">u4"), ("raw_length", ">u4"),
        ("header_protocol", ">u4"), ("frame_length", ">u4"), ("stripped", ">u4"), ("header_length", ">u4"),
        ("dmac", "V6"), ("smac", "V6"), ("ether_type", ">u2"), ("version", "u1"), ("tos", "u1"),
        ("octets", ">u2"), ("id", ">u2"), ("fragment", ">u2"), ("ttl", "u1"), ("protocol", "u1"), ("checksum", ">u2"),
        ("src", ">u4"), ("dst", ">u4"), ("sport", ">u2"), ("dport", ">u2"), ("tcp_sequence", ">u4"), ("ack", ">u4"),
        ("data_offset", "u1"), ("flags", "u1"), ("rest", "V80"), ("switch", ">u4"), ("switch_length", ">u4"),
        ("vlan_in", ">u4"), ("priority_in", ">u4"), ("vlan_out", ">u4"), ("priority_out", ">u4"),
    ]
)  # fmt: skip
"""A flow sample with 128 octets of a packet's header and its VLAN (sFlow v5, section 5.3)."""

_FIELDS = (
    (56, 6, "smac", "V6"), (80, 6, "dmac", "V6"), (8, 4, "src", ">u4"), (12, 4, "dst", ">u4"), (7, 2, "sport", ">u2"),
    (11, 2, "dport", ">u2"), (4, 1, "protocol", "u1"), (6, 1, "flags", "u1"), (5, 1, "tos", "u1"), (10, 4, "in", ">u4"),
    (14, 4, "out", ">u4"), (2, 4, "packets", ">u4"), (1, 4, "octets", ">u4"), (22, 4, "first", ">u4"),
    (21, 4, "last", ">u4"), (61, 1, "direction", "u1"),
)  # fmt: skip
_SET = np.dtype([(name, kind) for _, _, name, kind in _FIELDS])


def payloads(kind: str, exporter: int, count: int, first: int = 0, vms: int = VMS) -> list[bytes]:
    """Make `count` datagrams of exporter number `exporter` from its datagram number `first` on, among `vms` VMs."""
    if kind == "sflow":
        return _sflow(exporter, count, first)
    if kind == "sflow_switch":
        return _switch_sflow(exporter, count, first, vms)
    if kind == "ipfix_ovs":
        return _captured_ipfix(count, first)
    records = KINDS[kind]
    rng = np.random.default_rng([exporter, first])
    if kind == "netflow5":
        body = _records(rng, count * records, _V5, vms)
        sequence = (first + np.arange(count)) * records
        return [
            struct.pack("!HHIIIIBBH", 5, records, 60_000, TIME, 0, int(sequence[i]) & 0xFFFFFFFF, 0, exporter & 255, 0)
            + body[i * records : (i + 1) * records].tobytes()
            for i in range(count)
        ]
    body = _records(rng, count * records, _SET, vms)
    version = 9 if kind == "netflow9" else 10
    return [_message(version, body[i * records : (i + 1) * records], exporter, first + i) for i in range(count)]


def _records(rng: np.random.Generator, count: int, kind: np.dtype[np.void], vms: int) -> NDArray[np.void]:
    rows = np.zeros(count, kind)
    a = rng.integers(0, vms, count)
    b = (a + 1 + 37 * rng.integers(0, PARTNERS, count)) % vms
    rows["src"], rows["dst"] = (10 << 24) + a, (10 << 24) + b
    rows["sport"], rows["dport"] = rng.integers(1024, 65_535, count), rng.choice([22, 53, 80, 443, 3306, 5432], count)
    rows["packets"] = rng.geometric(0.05, count)
    rows["octets"] = rows["packets"].astype(np.int64) * rng.integers(64, 1500, count)
    rows["first"] = rng.integers(1, 40_000, count)
    rows["last"] = rows["first"].astype(np.int64) + rng.integers(0, 20_000, count)
    rows["protocol"], rows["flags"] = rng.choice([6, 6, 6, 17], count), 0x1B
    rows["in"], rows["out"] = rng.integers(1, 64, count), rng.integers(1, 64, count)
    if "smac" in (kind.names or ()):
        rows["smac"], rows["dmac"] = _macs(a), _macs(b)
    return rows


def _macs(numbers: NDArray[np.int64]) -> NDArray[np.void]:
    return (
        (0x525400000000 + numbers)
        .astype(">u8")
        .view("V8")
        .reshape(-1)
        .view("u1")
        .reshape(-1, 8)[:, 2:]
        .copy()
        .view("V6")
        .ravel()
    )


def _message(version: int, records: NDArray[np.void], domain: int, number: int) -> bytes:
    sets = _announcement(version) if number % 64 == 0 else b""
    sets += _data_set(TEMPLATE, records)
    if version == 9:
        return struct.pack("!HHIIII", 9, len(records), 60_000, TIME, number & 0xFFFFFFFF, domain) + sets
    return _ipfix(sets, domain, number * len(records))


def _announcement(version: int, template: int = TEMPLATE) -> bytes:
    fields = b"".join(struct.pack("!HH", element, size) for element, size, _, _ in _FIELDS)
    if version == 10:  # absolute times need no uptime
        fields = fields.replace(struct.pack("!HH", 22, 4), struct.pack("!HH", 158, 4))
        fields = fields.replace(struct.pack("!HH", 21, 4), struct.pack("!HH", 159, 4))
    return struct.pack("!4H", 0 if version == 9 else 2, 8 + len(fields), template, len(_FIELDS)) + fields


def _data_set(template: int, records: NDArray[np.void]) -> bytes:
    body = records.tobytes()
    return struct.pack("!HH", template, 4 + len(body)) + body


def _ipfix(sets: bytes, domain: int, sequence: int) -> bytes:
    return struct.pack("!HHIII", 10, 16 + len(sets), TIME, sequence & 0xFFFFFFFF, domain) + sets


def ipfix_template(template: int, sequence: int) -> bytes:
    """Make an IPFIX message that announces `template`, with the same fields as all others."""
    return _ipfix(_announcement(10, template), 0, sequence)


def ipfix_data(templates: list[int], sequences: list[int], vms: int = VMS) -> list[bytes]:
    """Make IPFIX messages of `SET_RECORDS` records each, with these templates and sequence numbers."""
    rows = _records(np.random.default_rng(sequences[:1]), len(templates) * SET_RECORDS, _SET, vms)
    return [
        _ipfix(_data_set(template, rows[i * SET_RECORDS : (i + 1) * SET_RECORDS]), 0, sequence)
        for i, (template, sequence) in enumerate(zip(templates, sequences, strict=True))
    ]


def _sflow(exporter: int, count: int, first: int) -> list[bytes]:
    """Make real Open vSwitch datagrams, with their own agent, sequence numbers and addresses."""
    captured = [item.payload for item in read_capture(SFLOW_CAPTURE)]
    result = []
    for i in range(count):
        payload = bytearray(captured[(first + i) % len(captured)])
        payload[8:12] = struct.pack("!I", (10 << 24) + 0x630000 + exporter)
        payload[16:24] = struct.pack("!II", (first + i + 1) & 0xFFFFFFFF, 60_000 + (first + i))
        result.append(bytes(payload))
    return result


def _switch_sflow(exporter: int, count: int, first: int, vms: int) -> list[bytes]:
    """Make samples of TCP between VMs as by a plain switch.  The checksums in the sampled headers are 0."""
    rng = np.random.default_rng([exporter, first])
    number = count * SAMPLES
    flows, rows = _records(rng, number, _SET, vms), np.zeros(number, _SAMPLE)
    for name in ("smac", "dmac", "src", "dst", "sport", "dport", "in", "out"):
        rows[name] = flows[name]
    rows["type"], rows["length"], rows["source"], rows["rate"], rows["records"] = 1, _SAMPLE.itemsize - 8, 1, 64, 2
    rows["sequence"] = first * SAMPLES + np.arange(1, number + 1)
    rows["pool"] = rows["sequence"] * np.uint32(64)
    rows["raw"], rows["raw_length"], rows["header_protocol"], rows["header_length"] = 1, 16 + 128, 1, 128
    rows["octets"] = rng.integers(128, 1500, number)
    rows["frame_length"], rows["stripped"] = rows["octets"] + 18, 4
    rows["ether_type"], rows["version"], rows["ttl"], rows["protocol"] = 0x0800, 0x45, 64, 6
    rows["data_offset"], rows["flags"] = 0x50, 0x10
    rows["switch"], rows["switch_length"], rows["vlan_in"], rows["vlan_out"] = 1001, 16, 100, 100
    agent = (10 << 24) + 0x630000 + exporter
    return [
        struct.pack("!7I", 5, 1, agent, 0, (first + i + 1) & 0xFFFFFFFF, 60_000 + first + i, SAMPLES)
        + rows[i * SAMPLES : (i + 1) * SAMPLES].tobytes()
        for i in range(count)
    ]


def _captured_ipfix(count: int, first: int) -> list[bytes]:
    """Make real Open vSwitch datagrams with one record each; the templates come first."""
    captured = [item.payload for item in read_capture(ROOT / "fixtures/pcaps/ovs_ipfix_nocache.pcap")]
    sets = [struct.unpack("!H", payload[16:18])[0] for payload in captured]
    templates = [p for p, s in zip(captured, sets, strict=True) if s < 256]
    data = [p for p, s in zip(captured, sets, strict=True) if s >= 256]
    result = [*templates] if first == 0 else []
    number = max(first - len(templates), 0)
    while len(result) < count:
        payload = bytearray(data[number % len(data)])
        payload[8:12] = struct.pack("!I", (number + 1) & 0xFFFFFFFF)
        result.append(bytes(payload))
        number += 1
    return result[:count]
