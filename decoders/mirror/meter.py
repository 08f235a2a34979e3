"""The meter: a batch of mirrored frames to the counts of connections, in one compiled loop.

Headers are parsed by `decoders.packet`, as those of sFlow are: the innermost packet counts, whatever the mirror wrapped
it in (ERSPAN, GRE, VXLAN, 802.1Q).  A connection is of a network: its VNI, or its VLAN where the tunnel is the
mirror's own (ERSPAN, GRE).  A packet that comes twice within 10 ms counts once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoders.hashes import finish, mix
from decoders.jit import INTERPRETED, inline, inline_always, kernel
from decoders.mirror.state import (
    C_CLIENT,
    C_FIELDS,
    C_IN_USE,
    C_LAST_NS,
    C_OPENED,
    D_DUPLICATES,
    D_FIELDS,
    D_FIRST,
    D_OCTETS,
    D_PACKETS,
    NUMBERS,
    RECENT_SETS,
    RECENT_WAYS,
    S_ADDRESS_HIGH,
    S_ADDRESS_LOW,
    S_DUPLICATES,
    S_FIRST,
    S_IN_USE,
    S_LATE,
    S_LOST,
    S_NEXT,
    S_RECEIVED,
    S_SESSION,
    SOURCES,
    T_COUNTED,
    T_CUT,
    T_DUPLICATES,
    T_FRAMES,
    T_LAST_NS,
    T_NESTED,
    T_NO_ROOM,
    T_NOT_CHOSEN,
    T_NOT_IP,
    T_SOURCES_FULL,
    T_SUPER,
    Meter,
    find_place,
    halve,
    hash_key,
    is_chosen,
    new_meter,
    sweep,
    take_slot,
)
from decoders.mirror.tcp import ACK, RST, SYN, WRAP, distance, end_zero_window, round_trip_ns, see_segment, see_talk
from decoders.packet import (
    HEADER_ETHERNET,
    HEADER_IPV4,
    HEADER_IPV6,
    L_STOP,
    P_NESTING,
    TCP,
    UDP,
    find_layers,
    start_header,
)
from decoders.rows import (
    BYTES,
    DST_IP,
    DST_PORT,
    FRAGMENT,
    IP_PROTOCOL,
    SRC_IP,
    SRC_PORT,
    TUNNEL,
    TUNNEL_GENEVE,
    TUNNEL_NVGRE,
    TUNNEL_VXLAN,
    TUNNEL_VXLAN_GPE,
    VLAN,
    VNI,
    clear_row,
)
from decoders.wire import swap64, u16, u32, u64

COPY_NS = 10_000_000
"""A packet that comes again within this time is a second copy of the mirror, if its IP identification is the same."""
COPY_UNNUMBERED_NS = 1_000_000
"""The same for packets without identification (IPv6, and IPv4 with 0): a retransmission may look the same, but takes
a round trip, which is the limit where it is known."""
SHOWN = 40
"""Octets after the IP header that a fingerprint has."""
RESTART = 65_536
"""A GRE sequence number this far from what is expected is one of a tunnel that began again."""
OVERLAY = 1 << 24
"""Added to a VNI, to tell it from a VLAN."""


class Frames(NamedTuple):
    """A batch of frames: what was captured of them is `octets[start:start + length]`."""

    octets: NDArray[np.uint8]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    original: NDArray[np.int64]
    """Octets on the wire; 0: as many as were captured."""
    ns: NDArray[np.int64]
    """Time since 1970."""
    vlan: NDArray[np.int64]
    """The VLAN that the network card took out of the frame; 0: none."""
    segment: NDArray[np.int64]
    """Octets of data in each segment that offload put into one frame; 0: not stated."""

    def those(self, chosen: NDArray[np.bool_]) -> Frames:
        """Return the frames that are chosen."""
        return Frames(self.octets, *(column[chosen] for column in self[1:]))


@kernel
def count_frames(octets, start, length, original, ns, vlan, segment, layer, m):
    """Count a batch of frames.  `layer`: HEADER_ETHERNET, or 0 where an IP header comes first."""
    for i in range(start.shape[0]):
        count_frame(octets, start[i], start[i] + length[i], original[i], ns[i], vlan[i], segment[i], layer, m)


@inline_always
def count_frame(octets, at, end, original, ns, vlan, segment, layer, m):
    """Count one frame, `octets[at:end]`."""
    rows = m.scratch
    m.totals[T_FRAMES] += 1
    m.totals[T_LAST_NS] = max(m.totals[T_LAST_NS], ns)
    clear_row(rows, 0)
    protocol = np.int64(layer)
    if protocol == 0:
        protocol = np.int64(HEADER_IPV6 if end > at and octets[at] >> 4 == 6 else HEADER_IPV4)
    first, whole = start_header(protocol, end - at, original, rows, 0)
    bits, outermost, internet, carried = np.int64(0), np.int64(-1), np.int64(-1), np.int64(-1)
    if first != L_STOP:
        bits, outermost, internet, carried = find_layers(octets, at, end, first, at + whole, bits, rows, 0)
    if bits & P_NESTING != 0:
        m.totals[T_NESTED] += 1
    if outermost >= 0:
        see_mirror(m, octets, outermost, end)
    elif vlan != 0:
        rows.u16[VLAN, 0] = vlan
    if internet < 0:
        m.totals[T_NOT_IP] += 1
        return
    count_packet(octets, internet, carried, min(end, internet + np.int64(rows.u64[BYTES, 0])), segment, ns, m)


@inline_always
def network_of(rows):
    """Return the network of the innermost packet: VNI + OVERLAY, or VLAN, 0 if it has neither."""
    kind = rows.u8[TUNNEL, 0]
    if kind in (TUNNEL_VXLAN, TUNNEL_VXLAN_GPE, TUNNEL_GENEVE, TUNNEL_NVGRE):
        return np.int64(rows.u32[VNI, 0]) | OVERLAY
    return np.int64(rows.u16[VLAN, 0])


@inline_always
def count_packet(octets, internet, carried, end, room, ns, m):
    """Count the packet whose IP header is at `internet`, and what that carries at `carried` (−1: a later fragment)."""
    rows = m.scratch
    size = np.int64(rows.u64[BYTES, 0])
    protocol = np.int64(rows.u8[IP_PROTOCOL, 0])
    src_port, dst_port = np.int64(rows.u16[SRC_PORT, 0]), np.int64(rows.u16[DST_PORT, 0])
    src0, src1 = rows.address[SRC_IP, 0, 0], rows.address[SRC_IP, 0, 1]
    dst0, dst1 = rows.address[DST_IP, 0, 0], rows.address[DST_IP, 0, 1]
    network = np.uint64(network_of(rows))
    # Which end is the first one is the same for both directions; apart from that it does not matter.
    direction = np.int64(0)
    if src1 > dst1 or (src1 == dst1 and (src0 > dst0 or (src0 == dst0 and src_port > dst_port))):
        direction = np.int64(1)
        src0, dst0 = dst0, src0
        src1, dst1 = dst1, src1
        src_port, dst_port = dst_port, src_port
    ports = np.uint64(protocol << 32 | src_port << 16 | dst_port)
    hashed = hash_key(m, src0, src1, dst0, dst1, ports, network)
    if not is_chosen(m, hashed):
        m.totals[T_NOT_CHOSEN] += 1
        return
    place = find_place(m, src0, src1, dst0, dst1, ports, network, hashed)
    segment = protocol == TCP and carried >= 0 and carried + 20 <= end and rows.u8[FRAGMENT, 0] == 0
    if protocol == TCP and carried >= 0 and carried + 20 > end:
        m.totals[T_CUT] += 1
    slot = np.int64(m.places[place]) - 1 if place >= 0 else np.int64(-1)
    # The hash of a connection is the same in both directions.
    mark = mix(hashed, np.uint64(direction))
    if seen_before(m, octets, internet, carried, end, mark, protocol, size, slot, ns):
        m.totals[T_DUPLICATES] += 1
        if slot >= 0:
            m.state[slot, C_FIELDS + D_FIELDS * direction + D_DUPLICATES] += 1
        return
    flags = u16(octets, carried + 12) & 0x01FF if segment else np.int64(0)
    if slot >= 0 and flags & (SYN | ACK | RST) == SYN and is_new(m, slot, direction, u32(octets, carried + 4)):
        m.state[slot, C_IN_USE] = 2
        for ended in range(2):
            end_zero_window(m, slot, ended, ns)
        slot = np.int64(-1)
    if slot < 0:
        if place >= 0:
            slot = take_slot(m, place, src0, src1, dst0, dst1, ports, network, ns)
        if slot < 0:
            m.totals[T_NO_ROOM] += 1
            return
        m.state[slot, C_CLIENT] = client_of(direction, flags, src_port, dst_port)
    base = C_FIELDS + D_FIELDS * direction
    m.state[slot, C_LAST_NS] = max(m.state[slot, C_LAST_NS], ns)
    m.state[slot, base + D_PACKETS] += 1
    m.state[slot, base + D_OCTETS] += size
    m.totals[T_COUNTED] += 1
    if protocol == UDP and carried >= 0:
        see_talk(m, slot, direction, ns)
    if segment:
        header = np.int64(octets[carried + 12] >> 4) * 4
        payload = internet + size - carried - header
        if header >= 20 and see_segment(m, slot, direction, octets, carried, end, payload, room, ns) > 1:
            m.totals[T_SUPER] += 1


@inline_always
def is_new(m, slot, direction, number):
    """Return whether a SYN with this sequence number begins another connection than that of the slot."""
    first = m.state[slot, C_FIELDS + D_FIELDS * direction + D_FIRST]
    return m.state[slot, C_OPENED] == 0 or first != number


@inline_always
def client_of(direction, flags, first_port, second_port):
    """Return which direction is that of the client: who sends SYN; else, a guess, who has the higher port."""
    if flags & SYN != 0:
        return direction if flags & ACK == 0 else 1 - direction
    if first_port == second_port:
        return direction
    return np.int64(0 if first_port > second_port else 1)


@inline_always
def fingerprint(octets, internet, carried, end, h, protocol, numbered):
    """Hash what differs between packets of one direction, and is the same in copies of one packet.

    Not the checksum of TCP: where the network card fills it in, a copy may be from before that.
    """
    if carried < 0:
        carried = internet + (20 if octets[internet] >> 4 == 4 else 40)
    last = min(end, carried + SHOWN)
    at = carried
    while at + 4 <= last:
        word = u32(octets, at)
        if at == carried + 16 and protocol == TCP:
            word = np.int64(0)
        elif at == carried + 4 and protocol == UDP and numbered:
            word >>= 16
        h = mix(h, np.uint64(word))
        at += 4
    return h


@inline_always
def seen_before(m, octets, internet, carried, end, h, protocol, size, slot, ns):
    """Return whether a copy of this packet was seen within 10 ms; remember it if not."""
    number = np.int64(0)
    if octets[internet] >> 4 == 4:
        number = u16(octets, internet + 4) << 16 | u16(octets, internet + 6)
    numbered = number >> 16 != 0
    h = mix(mix(h, np.uint64(number)), np.uint64(size))
    h = finish(fingerprint(octets, internet, carried, end, h, protocol, numbered))
    limit = np.int64(COPY_NS)
    if not numbered:
        trip = round_trip_ns(m, slot) if slot >= 0 else np.int64(0)
        limit = min(limit, trip) if trip != 0 else np.int64(COPY_UNNUMBERED_NS)
    row = np.int64(h % np.uint64(RECENT_SETS))
    oldest = np.int64(0)
    for way in range(RECENT_WAYS):
        if m.recent[row, way, 0] == h and abs(ns - np.int64(m.recent[row, way, 1])) < limit:
            return True
        if m.recent[row, way, 1] < m.recent[row, oldest, 1]:
            oldest = np.int64(way)
    m.recent[row, oldest, 0] = h
    m.recent[row, oldest, 1] = np.uint64(ns)
    return False


@inline
def see_mirror(m, octets, internet, end):
    """Follow the sequence numbers of the GRE header that the IP header at `internet` carries, if it has them.

    They count what was lost between the mirror and here.  A stream is one of a sender's address and a session (ERSPAN)
    or key (GRE); what comes late was counted as lost before, what comes twice was not.
    """
    if octets[internet] >> 4 == 4:
        at = internet + np.int64(octets[internet] & 15) * 4
        carries = octets[internet + 9]
        high, low = np.uint64(0), swap64(np.uint64(0xFFFF00000000) | np.uint64(u32(octets, internet + 12)))
    else:
        at = internet + 40
        carries = octets[internet + 6]
        high, low = swap64(u64(octets, internet + 8)), swap64(u64(octets, internet + 16))
    if carries != 47 or at + 4 > end:
        return
    flags = u16(octets, at)
    ether_type = u16(octets, at + 2)
    at += 4
    if flags & 0x8000 != 0:
        at += 4
    session = np.int64(0)
    if flags & 0x2000 != 0 and at + 4 <= end:
        session = u32(octets, at)
        at += 4
    if flags & 0x1000 == 0 or at + 8 > end:
        return
    number = u32(octets, at)
    if ether_type in (0x88BE, 0x22EB):
        session = u16(octets, at + 6) & 0x03FF
    count_sequence(m, np.int64(high), np.int64(low), session, number)


@inline
def count_sequence(m, high, low, session, number):
    """Count a packet of a stream, and those missing before it."""
    hashed = finish(mix(mix(mix(m.secret[0], np.uint64(high)), np.uint64(low)), np.uint64(session)))
    first = np.int64(hashed % np.uint64(SOURCES))
    for step in range(16):
        row = (first + step) % SOURCES
        if m.sources[row, S_IN_USE] == 0:
            m.sources[row, S_IN_USE] = 1
            m.sources[row, S_ADDRESS_HIGH] = high
            m.sources[row, S_ADDRESS_LOW] = low
            m.sources[row, S_SESSION] = session
            m.sources[row, S_FIRST] = number
            m.sources[row, S_NEXT] = number
        elif (
            m.sources[row, S_ADDRESS_LOW] != low
            or m.sources[row, S_ADDRESS_HIGH] != high
            or m.sources[row, S_SESSION] != session
        ):
            continue
        ahead = distance(number, m.sources[row, S_NEXT])
        if -RESTART < ahead < 0:
            count_late(m, row, number, ahead)
            return
        if ahead < RESTART and ahead >= 0:
            m.sources[row, S_LOST] += ahead
        else:
            m.sources[row, S_FIRST] = number
        m.sources[row, S_RECEIVED] += 1
        m.sources[row, S_NEXT] = (number + 1) & (WRAP - 1)
        m.numbers[row, number % NUMBERS] = number + 1
        return
    m.totals[T_SOURCES_FULL] += 1


@inline
def count_late(m, row, number, ahead):
    """Count a packet whose number is before what is expected: it was counted as lost, or is one that comes twice.

    One older than the numbers that are remembered may be either, and takes no loss back.
    """
    known = ahead >= -NUMBERS and distance(number, m.sources[row, S_FIRST]) >= 0
    if known and m.numbers[row, number % NUMBERS] == number + 1:
        m.sources[row, S_DUPLICATES] += 1
        return
    m.sources[row, S_RECEIVED] += 1
    m.sources[row, S_LATE] += 1
    if known:
        m.sources[row, S_LOST] -= 1
        m.numbers[row, number % NUMBERS] = number + 1


def count(meter: Meter, frames: Frames, ethernet: bool = True) -> None:
    """Count a batch of frames; `ethernet` False: they begin with an IP header."""
    count_frames(*frames, HEADER_ETHERNET if ethernet else 0, meter)


def is_compiled() -> bool:
    """Return whether there is nothing to compile."""
    return INTERPRETED or all(one.cached for one in (count_frames, sweep, halve))  # type: ignore[attr-defined]


def warm_up() -> None:
    """Compile the kernels, or load them from the cache."""
    nothing = np.zeros(0, np.int64)
    meter = new_meter(1)
    count(meter, Frames(np.zeros(1, np.uint8), *[nothing] * 6))
    sweep(meter, 0)
    halve(meter)
