"""One small datagram of each kind, so that every kernel is compiled or loaded before the first real one."""

from __future__ import annotations

import struct

from decoders.datagrams import Datagrams


def datagrams() -> Datagrams:
    """A batch that takes each decoder through all its kernels."""
    payloads = (_sflow(), _netflow5(), _netflow9(), _ipfix())
    return Datagrams.of((payload, "192.0.2.1", 1, 1_700_000_000_000_000) for payload in payloads)


def _sflow() -> bytes:
    frame = bytes(12) + b"\x08\x00" + b"\x45\x00\x00\x1c" + bytes(4) + b"\x40\x11" + bytes(10) + bytes(8)
    header = struct.pack("!6I", 1, 16 + 44, 1, len(frame) + 4, 4, len(frame)) + frame + bytes(-len(frame) % 4)
    flow = struct.pack("!8I", 1, 2 << 24 | 1000, 1, 1, 0, 1, 2, 1) + header
    counters = struct.pack("!3I", 1, 1, 1) + struct.pack("!II", 1, 88) + bytes(88)
    dropped = struct.pack("!8I", 1, 0, 1, 0, 1, 0, 258, 1) + header
    samples = b"".join(
        struct.pack("!II", kind, len(body)) + body for kind, body in ((1, flow), (2, counters), (5, dropped))
    )
    return struct.pack("!II4sIIII", 5, 1, bytes(4), 0, 1, 1, 3) + samples


def _netflow5() -> bytes:
    return struct.pack("!HHIIIIBBH", 5, 1, 1, 1_700_000_000, 0, 1, 0, 0, 0) + bytes(48)


_FIELDS = struct.pack("!8H", 8, 4, 12, 4, 1, 4, 2, 4)


def _netflow9() -> bytes:
    template = struct.pack("!4H", 0, 8 + len(_FIELDS), 256, 4) + _FIELDS
    data = struct.pack("!HH", 256, 20) + b"\x01" * 16
    return struct.pack("!HHIIII", 9, 2, 1, 1_700_000_000, 1, 1) + template + data


def _ipfix() -> bytes:
    fields = _FIELDS + struct.pack("!HH", 82, 0xFFFF)
    template = struct.pack("!4H", 2, 8 + len(fields), 256, 5) + fields
    data = struct.pack("!HH", 256, 22) + b"\x01" * 16 + b"\x01a"
    return struct.pack("!HHIII", 10, 16 + len(template) + len(data), 1_700_000_000, 1, 1) + template + data
