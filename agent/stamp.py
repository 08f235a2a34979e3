"""STAMP packets (RFC 8762 sections 4.2 and 4.3, RFC 8972): octets in, values out, and back.

All integers are unsigned and big-endian.  Zero fields are zero when sent and ignored when received.  With a key a
packet is authenticated: blocks of 16 octets, the last of which is a truncated HMAC-SHA-256 of those before it.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from typing import NamedTuple

PORT = 862
"""UDP port of reflectors (RFC 8762 section 4.1)."""
OPEN_OCTETS, SIGNED_OCTETS = 44, 112
"""Length of a packet without TLVs, both ways: unauthenticated, authenticated."""
LEAST_REPLY_OCTETS = 36
"""Shortest reply that has all times; TWAMP Light reflectors leave out what follows."""
MOST_OCTETS = 1472
"""Longest packet: an Ethernet frame's payload without IPv4 and UDP headers."""
MOST_TLVS = 16
"""TLVs of a packet that are looked at; what follows is copied."""
HMAC_OCTETS = 16
_SIGNED_PART = SIGNED_OCTETS - HMAC_OCTETS

_OPEN_REQUEST = struct.Struct("!IQHH28x")
_SIGNED_REQUEST = struct.Struct("!I12xQHH68x")
_OPEN_REPLY = struct.Struct("!IQHHQIQHHB3x")
_SIGNED_REPLY = struct.Struct("!I12xQHH4xQ8xI12xQH6xB15x")
_TLV = struct.Struct("!BBH")
TLV_OCTETS = _TLV.size
"""Length of a TLV without a value."""

UNRECOGNIZED, MALFORMED, INTEGRITY = 0x80, 0x40, 0x20
"""Flags of a TLV (RFC 8972 section 4)."""
PADDING, TIMESTAMP_INFORMATION, DIRECT_MEASUREMENT, FOLLOW_UP, HMAC = 1, 3, 5, 7, 8
"""Types of TLV that are served (RFC 8972 sections 4.1, 4.3, 4.5, 4.7, 4.8)."""
LENGTHS = {TIMESTAMP_INFORMATION: 4, DIRECT_MEASUREMENT: 12, FOLLOW_UP: 16, HMAC: HMAC_OCTETS}
"""Octets of the values of types that have one length."""
HARDWARE, SOFTWARE, CONTROL_PLANE = 1, 2, 3
"""How a time was taken (RFC 8972 section 4.3)."""
SYNC_NTP, SYNC_FREE = 1, 5
"""What the clock follows: NTP, nothing (RFC 8972 section 4.3)."""


class StampError(ValueError):
    """A packet that is not one, or whose HMAC is wrong; its text is the reason, one word."""


class Request(NamedTuple):
    """What a Session-Sender sends."""

    sequence: int
    sent: int
    """T1, 64 bits as on the wire."""
    error: int
    ssid: int


class Reply(NamedTuple):
    """What a Session-Reflector answers."""

    sequence: int
    sent: int
    """T3, 64 bits as on the wire, as are the other times."""
    error: int
    """Error Estimate for T2 and T3."""
    ssid: int
    received: int
    """T2."""
    sender_sequence: int
    sender_sent: int
    """T1, copied."""
    sender_error: int
    ttl: int | None
    """TTL or hop limit that the request arrived with; None in replies that have no such field, or 0 there."""


class Tlv(NamedTuple):
    """A type, its flags and its value."""

    flags: int
    kind: int
    value: bytes


class Knowledge(NamedTuple):
    """What a reflector answers in TLVs.  Times are 64 bits as on the wire."""

    synchronised: int
    method: int
    counts: tuple[int, int]
    """Received with this request, sent before this reply."""
    last_reply: tuple[int, int] = (0, 0)
    """Sequence number and true time of sending of the reply before; zeros if not known."""


def base_octets(key: bytes | None) -> int:
    """Return the length of a packet without TLVs."""
    return OPEN_OCTETS if key is None else SIGNED_OCTETS


def sign(octets: bytes, key: bytes) -> bytes:
    """Return the HMAC of some octets (RFC 8762 section 4.4)."""
    return hmac.digest(key, octets, "sha256")[:HMAC_OCTETS]


def pack_request(request: Request, key: bytes | None = None) -> bytes:
    """Return the packet of a sender, without TLVs."""
    return _signed(_SIGNED_REQUEST.pack(*request), key) if key else _OPEN_REQUEST.pack(*request)


def pack_reply(reply: Reply, key: bytes | None = None) -> bytes:
    """Return the packet of a reflector, without TLVs."""
    fields = (*reply[:-1], reply.ttl or 0)
    if key:
        sequence, sent, error, ssid, received, *sender = fields
        return _signed(_SIGNED_REPLY.pack(sequence, sent, error, ssid, received, *sender), key)
    *front, sender_error, ttl = fields
    return _OPEN_REPLY.pack(*front, sender_error, 0, ttl)


def parse_request(octets: bytes, key: bytes | None = None) -> Request:
    """Read a sender's packet.  Raises StampError if it is too short, or its HMAC is wrong."""
    _check(octets, key, base_octets(key))
    return Request(*(_SIGNED_REQUEST if key else _OPEN_REQUEST).unpack_from(octets))


def parse_reply(octets: bytes, key: bytes | None = None) -> Reply:
    """Read a reflector's packet.  Raises StampError if it is too short, or its HMAC is wrong."""
    _check(octets, key, SIGNED_OCTETS if key else LEAST_REPLY_OCTETS)
    if key:
        *fields, ttl = _SIGNED_REPLY.unpack_from(octets)
    else:
        *fields, _, ttl = _OPEN_REPLY.unpack_from(octets.ljust(OPEN_OCTETS, b"\0"))
    return Reply._make((*fields, ttl or None))  # no packet arrives with 0


def is_reply(octets: bytes, key: bytes | None = None) -> bool:
    """Return whether a packet is a reflector's.

    There it has T2, at most a minute before T3; a sender has zeros there, or whatever else no reader may look at.  Both
    formats of time begin with 32 bits of seconds.
    """
    sent, received = (16, 32) if key else (4, 16)
    (sent_s,) = struct.unpack_from("!I", octets, sent)
    (received_s,) = struct.unpack_from("!I", octets, received)
    return bool(received_s) and (sent_s - received_s) % (1 << 32) <= 60


def pack_tlvs(tlvs: Sequence[Tlv], sequence: int = 0, key: bytes | None = None) -> bytes:
    """Return TLVs as they follow the packet; with a key, unless all are padding, one with their HMAC at the end."""
    octets = b"".join(_TLV.pack(tlv.flags, tlv.kind, len(tlv.value)) + tlv.value for tlv in tlvs)
    if key is None or all(tlv.kind == PADDING for tlv in tlvs):
        return octets
    mac = sign(sequence.to_bytes(4, "big") + octets, key)
    return octets + _TLV.pack(UNRECOGNIZED, HMAC, HMAC_OCTETS) + mac


def parse_tlvs(octets: bytes, sequence: int = 0, key: bytes | None = None) -> list[Tlv]:
    """Return what a reply's TLVs say, up to the first that is malformed; none if their HMAC is missing or wrong.

    Those that the reflector did not understand are left out.
    """
    found: list[Tlv] = []
    proven = key is None
    for start, flags, kind, length in _headers(octets):
        end = start + _TLV.size + length
        if flags & INTEGRITY:
            return []
        if end > len(octets) or flags & MALFORMED or LENGTHS.get(kind, length) != length:
            break
        value = octets[start + _TLV.size : end]
        if kind == HMAC and key is not None:
            proven = hmac.compare_digest(sign(sequence.to_bytes(4, "big") + octets[:start], key), value)
            break
        if not flags & UNRECOGNIZED:
            found.append(Tlv(flags, kind, value))
    return found if proven else []


def answer_tlvs(octets: bytes, request: int, reply: int, known: Knowledge, key: bytes | None = None) -> bytes:
    """Return a request's TLVs as the reply has them: of the same length, flags set, values filled in.

    `request` and `reply` are the sequence numbers of both.  A malformed TLV ends it, the rest is copied.  If an HMAC is
    wrong, or missing where there is a key, every TLV says so and nothing is filled in.
    """
    out = bytearray(octets)
    places: list[int] = []
    signed_at = None
    only_padding = True
    for start, _, kind, length in _headers(octets):
        places.append(start)
        value = start + _TLV.size
        if value + length > len(octets) or LENGTHS.get(kind, length) != length:
            out[start] = MALFORMED
            break
        only_padding &= kind == PADDING
        out[start] = 0
        if kind == TIMESTAMP_INFORMATION:
            out[value : value + 4] = bytes((known.synchronised, known.method) * 2)
        elif kind == DIRECT_MEASUREMENT:
            out[value + 4 : value + 12] = struct.pack("!II", *known.counts)
        elif kind == FOLLOW_UP:
            method = SOFTWARE if known.last_reply[1] else 0
            out[value : value + 16] = struct.pack("!IQB3x", *known.last_reply, method)
        elif kind == HMAC and key is not None and signed_at is None:
            signed_at = start
        elif kind != PADDING:
            out[start] = UNRECOGNIZED
    if key is None or only_padding:
        return bytes(out)
    if signed_at is not None:
        value = signed_at + _TLV.size
        mac = sign(request.to_bytes(4, "big") + octets[:signed_at], key)
        if hmac.compare_digest(mac, octets[value : value + HMAC_OCTETS]):
            out[value : value + HMAC_OCTETS] = sign(reply.to_bytes(4, "big") + out[:signed_at], key)
            return bytes(out)
    out[:] = octets
    for start in places:
        out[start] = INTEGRITY
    return bytes(out)


def _headers(octets: bytes) -> list[tuple[int, int, int, int]]:
    """Return where each TLV starts, its flags, type and length; the last may be longer than what is there."""
    found: list[tuple[int, int, int, int]] = []
    start = 0
    while start + _TLV.size <= len(octets) and len(found) < MOST_TLVS:
        flags, kind, length = _TLV.unpack_from(octets, start)
        found.append((start, flags, kind, length))
        start += _TLV.size + length
    return found


def _signed(octets: bytes, key: bytes) -> bytes:
    return octets + sign(octets, key)


def _check(octets: bytes, key: bytes | None, least: int) -> None:
    if len(octets) < least:
        raise StampError("short")
    if key and not hmac.compare_digest(sign(octets[:_SIGNED_PART], key), octets[_SIGNED_PART:SIGNED_OCTETS]):
        raise StampError("hmac")
