"""sFlow datagrams by hand, from the tables of the specification; nothing here is shared with the decoder."""

from __future__ import annotations

import struct
from ipaddress import ip_address


def words(*values: int) -> bytes:
    """32-bit numbers."""
    return struct.pack(f">{len(values)}I", *values)


def padded(octets: bytes) -> bytes:
    """Octets and what pads them to a multiple of 4; the padding is not zero, as Open vSwitch leaves it."""
    return octets + b"\xee" * (-len(octets) % 4)


def text(value: str) -> bytes:
    """A string: length, octets, padding."""
    return words(len(value)) + padded(value.encode())


def item(number: int, body: bytes, enterprise: int = 0) -> bytes:
    """A sample or record: format, length, body."""
    return words(enterprise << 12 | number, len(body)) + body


def datagram(
    *samples: bytes,
    sequence: int = 1,
    uptime: int = 1_000,
    agent: str = "192.0.2.11",
    sub_agent: int = 0,
    count: int | None = None,
) -> bytes:
    """A datagram; `count` announces another number of samples than there are."""
    if agent:
        packed = ip_address(agent).packed
        body = words(1 if len(packed) == 4 else 2) + packed
    else:
        body = words(0)
    head = words(sub_agent, sequence, uptime, len(samples) if count is None else count)
    return words(5) + body + head + b"".join(samples)


def flow_sample(
    *records: bytes,
    sequence: int = 1,
    source: tuple[int, int] = (0, 3),
    rate: int = 100,
    pool: int = 0,
    drops: int = 0,
    in_if: int = 3,
    out_if: int = 4,
    count: int | None = None,
) -> bytes:
    """Format 1; interfaces are whole words, format in the top two bits."""
    source_id = source[0] << 24 | source[1]
    number = len(records) if count is None else count
    return item(1, words(sequence, source_id, rate, pool, drops, in_if, out_if, number) + b"".join(records))


def expanded_sample(
    *records: bytes,
    sequence: int = 1,
    source: tuple[int, int] = (0, 3),
    rate: int = 100,
    drops: int = 0,
    in_if: tuple[int, int] = (0, 3),
    out_if: tuple[int, int] = (0, 4),
) -> bytes:
    """Format 3."""
    return item(3, words(sequence, *source, rate, 0, drops, *in_if, *out_if, len(records)) + b"".join(records))


def counters_sample(*records: bytes, sequence: int = 1, source: tuple[int, int] = (0, 3)) -> bytes:
    """Format 2."""
    return item(2, words(sequence, source[0] << 24 | source[1], len(records)) + b"".join(records))


def expanded_counters(*records: bytes, sequence: int = 1, source: tuple[int, int] = (0, 3)) -> bytes:
    """Format 4."""
    return item(4, words(sequence, *source, len(records)) + b"".join(records))


def drop_sample(
    *records: bytes,
    sequence: int = 1,
    source: tuple[int, int] = (0, 3),
    drops: int = 0,
    in_if: int = 3,
    out_if: int = 0,
    reason: int = 258,
) -> bytes:
    """Format 5."""
    return item(5, words(sequence, *source, drops, in_if, out_if, reason, len(records)) + b"".join(records))


def header(
    frame: bytes, length: int | None = None, stripped: int = 4, protocol: int = 1, size: int | None = None
) -> bytes:
    """Record 1; by default the whole frame was sampled and its FCS stripped."""
    body = words(protocol, len(frame) + 4 if length is None else length, stripped, len(frame) if size is None else size)
    return item(1, body + padded(frame))


def interface_counters(
    index: int = 3, *, octets: tuple[int, int] = (1000, 2000), packets: int = 10, **named: int
) -> bytes:
    """Record 1 of a counter sample; `named`: errors, unknown, speed, status, promiscuous."""
    speed = named.get("speed", 10**9)
    inward = words(
        packets, packets + 1, packets + 2, packets + 3, named.get("errors", 4), named.get("unknown", 0xFFFFFFFF)
    )
    outward = words(packets + 5, packets + 6, packets + 7, packets + 8, packets + 9)
    return item(
        1,
        words(index, 6)
        + struct.pack(">Q", speed)
        + words(1, named.get("status", 3))
        + struct.pack(">Q", octets[0])
        + inward
        + struct.pack(">Q", octets[1])
        + outward
        + words(named.get("promiscuous", 0)),
    )


def short_counters(number: int, received: tuple[int, ...], sent: tuple[int, ...]) -> bytes:
    """Records 2006 and 2104: octets, packets, errors, drops, each way."""
    return item(number, struct.pack(">QIII", *received) + struct.pack(">QIII", *sent))


def host_descr(name: str, uuid: bytes) -> bytes:
    """Record 2000."""
    return item(2000, text(name) + uuid + words(3, 2) + text("6.1"))


def host_adapters(*adapters: tuple[int, tuple[int, ...]]) -> bytes:
    """Record 2001: (ifIndex, MACs) of each adapter."""
    body = words(len(adapters))
    for index, macs in adapters:
        body += words(index, len(macs)) + b"".join(mac.to_bytes(6, "big") + b"\xee\xee" for mac in macs)
    return item(2001, body)
