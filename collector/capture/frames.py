"""One captured frame to the IP packet or UDP datagram in it, and fragments put together again.  Every read is bounded.

A frame gives a `Packet`, a `Piece` (one fragment), or the `Skip` reason; nothing here raises.  `Fragments` joins pieces
within limits that no capture can pass.  Checksums are not looked at: captures on the sending host hold those that the
network card would have filled in.

Sources: the link types' layouts (www.tcpdump.org/linktypes), RFC 791 (IPv4), RFC 8200 (IPv6), RFC 768 (UDP).
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from collector.capture.files import CaptureProblems, Skip

IPV4, IPV6 = 0x0800, 0x86DD
VLAN_TYPES = frozenset((0x8100, 0x88A8, 0x9100, 0x9200))
TAG_LIMIT = 8
EXTENSION_LIMIT = 8
LEAST_ETHER_TYPE = 0x0600
"""Smaller values of the Ethernet type field are lengths (IEEE 802.3)."""
SNAP_HEADER = b"\xaa\xaa\x03\x00\x00\x00"

UDP, FRAGMENT, AUTHENTICATION = 17, 44, 51
EXTENSIONS = frozenset((0, 43, 60, 135, 139, 140))
"""IPv6 extension headers with a length in units of 8 octets after the first 8."""

_U16 = struct.Struct(">H").unpack_from
_U32 = struct.Struct(">I").unpack_from
_IPV4 = struct.Struct(">BxHHHxBxx4s4s").unpack_from
_IPV6 = struct.Struct(">BxxxHBx16s16s").unpack_from
_UDP = struct.Struct(">HHH").unpack_from


class Packet(NamedTuple):
    """An IP packet, whole or put together again."""

    source: bytes
    destination: bytes
    protocol: int
    body: bytes
    """What follows the IP headers, at most to the end stated by the IP length."""
    cut: bool
    """True if the IP length states more octets than were captured."""


class Piece(NamedTuple):
    """One fragment of an IP packet."""

    source: bytes
    destination: bytes
    protocol: int
    """IPv4: the packet's.  IPv6: the header that follows the fragment header, valid in the first fragment only."""
    identification: int
    offset: int
    """Octets of the packet before this piece."""
    more: bool
    body: bytes


class Datagram(NamedTuple):
    """A UDP datagram."""

    source: bytes
    source_port: int
    destination: bytes
    destination_port: int
    payload: bytes


def ip_of(link: int, frame: bytes) -> Packet | Piece | Skip:
    """The IP packet or fragment in a frame of link type `link`."""
    match link:
        case 1:  # Ethernet
            if len(frame) < 14:
                return Skip.IP_HEADER
            kind, at = _U16(frame, 12)[0], 14
            if kind != IPV4:
                kind, at = _ether_payload(frame, kind, at)
        case 113:  # Linux cooked, version 1
            if len(frame) < 16:
                return Skip.IP_HEADER
            kind, at = _ether_payload(frame, _U16(frame, 14)[0], 16)
        case 276:  # Linux cooked, version 2
            if len(frame) < 20:
                return Skip.IP_HEADER
            kind, at = _ether_payload(frame, _U16(frame, 0)[0], 20)
        case 12 | 14 | 101 | 228 | 229:  # raw IP
            kind, at = _by_version(frame, 0), 0
        case 0 | 108:  # BSD loopback: the address family, then IP
            kind, at = _loopback(frame), 4
        case _:
            return Skip.LINK_TYPE
    if kind == IPV4:
        return ipv4_of(frame, at)
    if kind == IPV6:
        return ipv6_of(frame, at)
    return Skip.NOT_IP


def _ether_payload(frame: bytes, kind: int, at: int) -> tuple[int, int]:
    """Pass VLAN tags and an LLC/SNAP header: (Ethernet type, offset of its payload), type 0 if there is none."""
    for _ in range(TAG_LIMIT):
        if kind not in VLAN_TYPES:
            break
        if at + 4 > len(frame):
            return 0, at
        kind, at = _U16(frame, at + 2)[0], at + 4
    if kind < LEAST_ETHER_TYPE and frame.startswith(SNAP_HEADER, at) and at + 8 <= len(frame):
        kind, at = _U16(frame, at + 6)[0], at + 8
    return kind, at


def _by_version(frame: bytes, at: int) -> int:
    version = frame[at] >> 4 if at < len(frame) else 0
    return IPV4 if version == 4 else IPV6 if version == 6 else 0


def _loopback(frame: bytes) -> int:
    """The family is in the byte order of the capturing machine (NULL) or big-endian (LOOP): small either way round."""
    if len(frame) < 4:
        return 0
    family = _U32(frame, 0)[0]
    family = family if family < 1 << 16 else int.from_bytes(frame[:4], "little")
    if family == 2:
        return IPV4
    return IPV6 if family in (10, 24, 28, 30) else 0  # Linux, NetBSD and OpenBSD, FreeBSD, macOS


def ipv4_of(frame: bytes, at: int) -> Packet | Piece | Skip:
    """The IPv4 packet or fragment at offset `at`."""
    if at + 20 > len(frame):
        return Skip.IP_HEADER
    first, total, identification, flags, protocol, source, destination = _IPV4(frame, at)
    header = (first & 15) * 4
    if first >> 4 != 4 or header < 20 or 0 < total < header or at + header > len(frame):
        return Skip.IP_HEADER
    # Total length 0: the sender left it to the network card (segmentation offload); the frame ends it.
    end = at + total if total else len(frame)
    cut = end > len(frame)
    body = frame[at + header : end]
    if flags & 0x3FFF:
        if not total:
            return Skip.IP_HEADER
        offset, more = (flags & 0x1FFF) * 8, bool(flags & 0x2000)
        return Skip.CUT if cut else Piece(source, destination, protocol, identification, offset, more, body)
    return Packet(source, destination, protocol, body, cut)


def ipv6_of(frame: bytes, at: int) -> Packet | Piece | Skip:
    """The IPv6 packet or fragment at offset `at`, past its extension headers."""
    if at + 40 > len(frame):
        return Skip.IP_HEADER
    first, length, following, source, destination = _IPV6(frame, at)
    if first >> 4 != 6:
        return Skip.IP_HEADER
    # Payload length 0 with a payload: segmentation offload or a jumbogram; the frame ends it.
    end = at + 40 + length if length else len(frame)
    cut = end > len(frame)
    reached = pass_extensions(following, frame, at + 40, min(end, len(frame)))
    if reached is None:
        return Skip.CUT if cut else Skip.IP_HEADER
    following, at = reached
    if following != FRAGMENT:
        return Packet(source, destination, following, frame[at:end], cut)
    if not length or at + 8 > min(end, len(frame)):
        return Skip.CUT if cut else Skip.IP_HEADER
    offset_word, identification = _U16(frame, at + 2)[0], _U32(frame, at + 4)[0]
    piece = Piece(
        source, destination, frame[at], identification, offset_word & 0xFFF8, bool(offset_word & 1), frame[at + 8 : end]
    )
    if cut:
        return Skip.CUT
    if piece.offset == 0 and not piece.more:  # "atomic" fragment, RFC 6946: a whole packet
        return inner_packet(piece, piece.body)
    return piece


def pass_extensions(following: int, octets: bytes, at: int, end: int) -> tuple[int, int] | None:
    """Step over IPv6 extension headers: (first header that is none, or a fragment header; its offset).

    None if they are cut or too many.
    """
    for _ in range(EXTENSION_LIMIT):
        if following in EXTENSIONS:
            units = 8
        elif following == AUTHENTICATION:
            units = 4
        else:
            return following, at
        if at + 8 > end:
            return None
        # RFC 8200 section 4 counts units of 8 after the first; RFC 4302 section 2.2 units of 4 after the second.
        step = (octets[at + 1] + (1 if units == 8 else 2)) * units
        following, at = octets[at], at + step
        if at > end:
            return None
    return None


def inner_packet(first: Piece, body: bytes) -> Packet | Skip:
    """The packet whose fragmented part is `body` and whose first fragment is `first`."""
    if len(first.source) == 4:
        return Packet(first.source, first.destination, first.protocol, body, False)
    reached = pass_extensions(first.protocol, body, 0, len(body))
    if reached is None:
        return Skip.IP_HEADER
    protocol, at = reached
    return Packet(first.source, first.destination, protocol, body[at:], False)


def udp_of(packet: Packet) -> Datagram | Skip:
    """The UDP datagram of a packet.  What follows it within the packet is padding."""
    source, destination, protocol, body, cut = packet
    if protocol != UDP:
        return Skip.NOT_UDP
    if len(body) < 8:
        return Skip.CUT if cut else Skip.UDP_LENGTH
    source_port, destination_port, length = _UDP(body)
    if length < 8 or length > len(body):
        return Skip.CUT if cut and length >= 8 else Skip.UDP_LENGTH
    return Datagram(source, source_port, destination, destination_port, body[8:length])


PACKET_LIMIT = 65_535
"""Octets of a packet's fragmented part (RFC 791: total length; RFC 8200 section 4.5: payload length)."""
HELD_LIMIT = 8 << 20
"""Octets held in all, with `PIECE_COST` for each piece: 100 packets of full size."""
PIECE_COST = 256
"""What a held piece costs beside its octets, about."""
PIECES_LIMIT = 256
"""Pieces of one packet.  65,535 octets over the smallest usual link (576 octets) make 119."""
AGE_LIMIT_US = 30_000_000
"""Time in the capture that a packet may stay incomplete (Linux: net.ipv4.ipfrag_time, 30 s)."""
ECHO_US = 1_000_000
"""Time for which a finished packet's pieces, seen again, are doubles, not a new packet (RFC 4963)."""
FINISHED_LIMIT = 4096

Key = tuple[bytes, bytes, int, int]


@dataclass(slots=True)
class Partial:
    """A packet of which some pieces have come."""

    since_us: int
    pieces: dict[int, Piece] = field(default_factory=dict)
    """By offset."""
    octets: int = 0
    total: int | None = None
    """Octets of the whole, known once the last piece is there."""

    @property
    def cost(self) -> int:
        return self.octets + PIECE_COST * len(self.pieces)


class Fragments:
    """Collects pieces until their packet is whole.  Every piece ends in a packet or as a counted problem."""

    def __init__(self, problems: CaptureProblems) -> None:
        self._problems = problems
        self._partial: OrderedDict[Key, Partial] = OrderedDict()
        self._finished: OrderedDict[Key, int] = OrderedDict()
        self._held = 0

    def add(self, piece: Piece, time_us: int) -> Packet | Skip | None:
        """Take a piece: the packet if it is whole now, the reason if the piece is of no use, None if more must come."""
        self._expire(time_us)
        end = piece.offset + len(piece.body)
        if not piece.body or end > PACKET_LIMIT or (piece.more and len(piece.body) % 8):
            return Skip.FRAGMENT_INVALID
        # IPv6 keeps no protocol in the key: only the first fragment has the right one (RFC 8200 section 4.5).
        protocol = piece.protocol if len(piece.source) == 4 else -1
        key = (piece.source, piece.destination, protocol, piece.identification)
        partial = self._partial.get(key)
        if partial is None:
            if abs(time_us - self._finished.get(key, -ECHO_US - 1)) <= ECHO_US:
                return Skip.FRAGMENT_DUPLICATE
            partial = self._partial[key] = Partial(time_us)
        elif partial.pieces.get(piece.offset) == piece:
            return Skip.FRAGMENT_DUPLICATE
        if not piece.more and partial.total is None:
            partial.total = end
        elif not piece.more or piece.offset in partial.pieces or len(partial.pieces) == PIECES_LIMIT:
            self._forget(key, Skip.FRAGMENT_INVALID)
            return Skip.FRAGMENT_INVALID
        partial.pieces[piece.offset] = piece
        partial.octets += len(piece.body)
        self._held += len(piece.body) + PIECE_COST
        if partial.total is not None and partial.octets >= partial.total:
            self._remove(key)
            return self._finish(key, partial, time_us)
        while self._held > HELD_LIMIT:
            self._forget(next(iter(self._partial)), Skip.FRAGMENT_INCOMPLETE)
        return None

    def close(self) -> None:
        """Count what never became whole: the capture has ended."""
        while self._partial:
            self._forget(next(iter(self._partial)), Skip.FRAGMENT_INCOMPLETE)

    def _finish(self, key: Key, partial: Partial, time_us: int) -> Packet | Skip:
        """Join the pieces.  All but the last to come are counted here; the caller counts that by what is returned."""
        pieces = [partial.pieces[offset] for offset in sorted(partial.pieces)]
        end = 0
        for piece in pieces:
            if piece.offset == end:
                end += len(piece.body)
        # As many octets as the whole, but not side by side: some overlap or lie beyond the end (RFC 5722).
        sound = end == partial.total == partial.octets
        packet = inner_packet(pieces[0], b"".join(piece.body for piece in pieces)) if sound else Skip.FRAGMENT_INVALID
        if isinstance(packet, Skip):
            self._problems.skipped[packet] += len(pieces) - 1
        else:
            self._problems.joined += len(pieces) - 1
            self._finished[key] = time_us
            self._finished.move_to_end(key)
            if len(self._finished) > FINISHED_LIMIT:
                self._finished.popitem(last=False)
        return packet

    def _forget(self, key: Key, reason: Skip) -> None:
        self._problems.skipped[reason] += len(self._remove(key).pieces)

    def _remove(self, key: Key) -> Partial:
        partial = self._partial.pop(key)
        self._held -= partial.cost
        return partial

    def _expire(self, now_us: int) -> None:
        """Forget what is too old.  The oldest come first, as far as the capture's times rise."""
        while self._partial:
            key = next(iter(self._partial))
            if now_us - self._partial[key].since_us <= AGE_LIMIT_US:
                break
            self._forget(key, Skip.FRAGMENT_INCOMPLETE)
