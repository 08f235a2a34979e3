"""What TCP shows to who watches it: segments sent again, gaps, round trips, windows of zero, how it begins and ends.

Each direction has `D_NEXT`, the end of what was seen, and holes: what is before that and was not seen.

| a segment with data, SYN or FIN | counts as |
|---|---|
| all of it was seen before | retransmitted: lost behind the mirror, or its acknowledgement was, or it was not needed |
| … and the other side has acknowledged it | spurious, too |
| fills a hole, a round trip (3 ms if unknown) or more after that began | lost before the mirror |
| … sooner: a retransmission takes a round trip | reordered |
| one octet or none, just before `D_NEXT` | keep-alive: nothing |

An acknowledgement of what was never seen shows that the capture has a gap, not the network.

A response time: from the last new data of a request to the first new data of the answer; an acknowledgement is none.

Round trips: of one segment with new data at a time; not if any octet up to its end was sent again (Karn and Partridge
1987).  They contain what the receiver delays its acknowledgement.

Sources: RFC 9293; Jaiswal et al., Measurement and Classification of Out-of-Sequence Packets, 2007; RFC 6298 section 3.
"""

from __future__ import annotations

import numpy as np

from decoders.hashes import finish
from decoders.jit import inline, inline_always
from decoders.mirror.state import (
    C_CLIENT,
    C_CLIENT_NS,
    C_ENDED_NS,
    C_ESTABLISHED,
    C_FIELDS,
    C_MSS,
    C_OPENED,
    C_REQUEST_NS,
    C_RESET,
    C_SERVER_NS,
    C_SYN_ACK_NS,
    C_SYN_ACKS,
    C_SYN_NS,
    C_SYNS,
    D_ACKED,
    D_CAPTURE_GAP,
    D_DATA_OCTETS,
    D_DATA_SEGMENTS,
    D_FIELDS,
    D_FIN,
    D_FIRST,
    D_HOLES,
    D_LEAST_NS,
    D_LONGEST_NS,
    D_LOST_BEFORE,
    D_NEXT,
    D_READINGS,
    D_REORDERED,
    D_RESPONSES,
    D_RETRANSMITTED,
    D_ROUND_TRIP_NS,
    D_SPURIOUS,
    D_TIMED,
    D_TIMED_NS,
    D_ZERO_NS,
    D_ZERO_SINCE_NS,
    D_ZERO_WINDOWS,
    H_BEGIN,
    H_END,
    H_NS,
    HOLES,
    R_RESPONSES,
    R_ROWS,
    READINGS,
    RESET_BY_CLIENT,
    RESET_BY_SERVER,
    RESET_NONE,
    RESET_REFUSED,
)
from decoders.wire import u16, u32

FIN, SYN, RST, ACK = 1, 2, 4, 16
WRAP = 1 << 32
FURTHEST = 1 << 30
"""Octets that a window can hold (RFC 7323): what is further away is no number of this connection."""
REORDER_NS = 3_000_000
"""Where the round trip is not known (as Wireshark has it)."""


@inline_always
def distance(a, b):
    """Return by how much sequence number `a` is after `b`, −2^31 to 2^31 − 1; both int64."""
    return ((a - b + (WRAP >> 1)) & (WRAP - 1)) - (WRAP >> 1)


@inline
def announced_mss(octets, at, end):
    """Return the maximum segment size among the options `octets[at:end]`, 0 if there is none (RFC 9293, 3.7.1)."""
    while at + 4 <= end:
        kind = octets[at]
        if kind == 0:
            return np.int64(0)
        if kind == 1:
            at += 1
            continue
        size = np.int64(octets[at + 1])
        if kind == 2 and size == 4:
            return u16(octets, at + 2)
        if size < 2:
            return np.int64(0)
        at += size
    return np.int64(0)


@inline
def add_reading(m, slot, row, count, ns):
    """Keep one more reading in a row that had `count`, evenly drawn from all (Vitter 1985, algorithm R)."""
    place = count
    if count >= READINGS:
        place = np.int64(finish(m.secret[0] ^ np.uint64(count)) % np.uint64(count + 1))
    if place < READINGS:
        m.readings[slot * R_ROWS + row, place] = np.float32(ns / 1000.0)


@inline
def see_round_trip(m, slot, direction, ns):
    """Note a round trip of data in this direction."""
    base = C_FIELDS + D_FIELDS * direction
    count = m.state[slot, base + D_READINGS]
    m.state[slot, base + D_READINGS] = count + 1
    least = m.state[slot, base + D_LEAST_NS]
    if least == 0 or ns < least:
        m.state[slot, base + D_LEAST_NS] = ns
    note_least(m, slot, direction, ns)
    add_reading(m, slot, direction, count, ns)


@inline
def see_talk(m, slot, direction, ns):
    """Note new data: the time from the last of a request to the first of its answer is a response time."""
    client = m.state[slot, C_CLIENT]
    if direction == client:
        m.state[slot, C_REQUEST_NS] = ns
        return
    took = ns - m.state[slot, C_REQUEST_NS]
    if m.state[slot, C_REQUEST_NS] == 0 or took < 0:
        return
    m.state[slot, C_REQUEST_NS] = 0
    base = C_FIELDS + D_FIELDS * client
    count = m.state[slot, base + D_RESPONSES]
    m.state[slot, base + D_RESPONSES] = count + 1
    m.state[slot, base + D_LONGEST_NS] = max(m.state[slot, base + D_LONGEST_NS], took)
    add_reading(m, slot, R_RESPONSES, count, took)


@inline
def note_least(m, slot, direction, ns):
    """Keep the shortest round trip of the connection."""
    place = C_FIELDS + D_FIELDS * direction + D_ROUND_TRIP_NS
    if m.state[slot, place] == 0 or ns < m.state[slot, place]:
        m.state[slot, place] = ns


@inline
def round_trip_ns(m, slot):
    """Return the shortest round trip from end to end, 0 where a half of it is not known."""
    one = m.state[slot, C_FIELDS + D_ROUND_TRIP_NS]
    other = m.state[slot, C_FIELDS + D_FIELDS + D_ROUND_TRIP_NS]
    return one + other if one != 0 and other != 0 else np.int64(0)


@inline
def add_hole(m, slot, direction, begin, end, ns):
    """Note that octets were not seen; where there is no room, the oldest hole is forgotten."""
    place = C_FIELDS + D_FIELDS * direction + D_HOLES
    count = m.state[slot, place]
    row = slot * 2 + direction
    if count < HOLES:
        m.state[slot, place] = count + 1
    else:
        count = np.int64(0)
        for k in range(1, HOLES):
            if m.holes[row, k, H_NS] < m.holes[row, count, H_NS]:
                count = np.int64(k)
    m.holes[row, count, H_BEGIN] = begin
    m.holes[row, count, H_END] = end
    m.holes[row, count, H_NS] = ns


@inline
def fill_holes(m, slot, direction, begin, end):
    """Take octets out of the holes.  Returns (how many, time when the first of these holes began)."""
    place = C_FIELDS + D_FIELDS * direction + D_HOLES
    row = slot * 2 + direction
    filled = np.int64(0)
    since = np.int64(0)
    k = np.int64(0)
    while k < m.state[slot, place]:
        low, high, ns = m.holes[row, k, H_BEGIN], m.holes[row, k, H_END], m.holes[row, k, H_NS]
        first = low if distance(begin, low) < 0 else begin
        last = high if distance(end, high) > 0 else end
        size = distance(last, first)
        if size <= 0:
            k += 1
            continue
        filled += size
        if since == 0 or ns < since:
            since = ns
        before, after = distance(first, low), distance(high, last)
        if before > 0:
            m.holes[row, k, H_END] = first
            k += 1
            if after > 0:
                add_hole(m, slot, direction, last, high, ns)
        elif after > 0:
            m.holes[row, k, H_BEGIN] = last
            k += 1
        else:
            count = m.state[slot, place] - 1
            m.state[slot, place] = count
            for field in range(3):
                m.holes[row, k, field] = m.holes[row, count, field]
    return filled, since


@inline_always
def see_sequence(m, slot, direction, begin, size, segments, flags, ns):
    """Hold a segment's `size` octets, SYN and FIN among them, against what was seen of this direction."""
    base = C_FIELDS + D_FIELDS * direction
    end = (begin + size) & (WRAP - 1)
    known = m.state[slot, base + D_NEXT]
    if known < 0:
        m.state[slot, base + D_NEXT] = end
        time_segment(m, slot, base, size, flags, end, ns)
        return
    ahead = distance(begin, known)
    if ahead > FURTHEST or ahead < -FURTHEST:
        return
    if ahead > 0:
        add_hole(m, slot, direction, known, begin, ns)
    if ahead >= 0:
        m.state[slot, base + D_NEXT] = end
        time_segment(m, slot, base, size, flags, end, ns)
        return
    if size == 0 or (size == 1 and ahead == -1 and flags & (SYN | FIN | RST) == 0):
        return
    timed = m.state[slot, base + D_TIMED]
    if timed >= 0 and distance(timed, begin) > 0:
        m.state[slot, base + D_TIMED] = -1
    filled, since = np.int64(0), np.int64(0)
    if m.state[slot, base + D_HOLES] != 0:
        filled, since = fill_holes(m, slot, direction, begin, end)
    if filled != 0:
        limit = round_trip_ns(m, slot)
        field = D_REORDERED if ns - since < (limit if limit != 0 else REORDER_NS) else D_LOST_BEFORE
        m.state[slot, base + field] += segments
    elif distance(end, known) <= 0:
        m.state[slot, base + D_RETRANSMITTED] += segments
        acked = m.state[slot, C_FIELDS + D_FIELDS * (1 - direction) + D_ACKED]
        if acked >= 0 and distance(end, acked) <= 0:
            m.state[slot, base + D_SPURIOUS] += segments
    if distance(end, known) > 0:
        m.state[slot, base + D_NEXT] = end


@inline
def time_segment(m, slot, base, size, flags, end, ns):
    """Wait for the acknowledgement of this segment, if it has data and no other is waited for."""
    if size > 0 and flags & SYN == 0 and m.state[slot, base + D_TIMED] < 0:
        m.state[slot, base + D_TIMED] = end
        m.state[slot, base + D_TIMED_NS] = ns


@inline_always
def see_acknowledgement(m, slot, direction, number, ns):
    """Hold what this direction acknowledges against what was seen of the other one."""
    base = C_FIELDS + D_FIELDS * direction
    other = C_FIELDS + D_FIELDS * (1 - direction)
    acked = m.state[slot, base + D_ACKED]
    if acked >= 0 and (distance(number, acked) < 0 or distance(number, acked) > FURTHEST):
        return
    m.state[slot, base + D_ACKED] = number
    known = m.state[slot, other + D_NEXT]
    if known < 0:  # what it acknowledges may be older than the capture
        return
    ahead = distance(number, known)
    if ahead > FURTHEST or ahead < -FURTHEST:
        return
    count = m.state[slot, other + D_HOLES]
    if count != 0:
        unseen = np.int64(0)
        for k in range(count):
            if distance(number, m.holes[slot * 2 + 1 - direction, k, H_BEGIN]) > 0:
                unseen = np.int64(1)
        if unseen != 0:
            begin = (number - FURTHEST) & (WRAP - 1)
            m.state[slot, other + D_CAPTURE_GAP] += fill_holes(m, slot, 1 - direction, begin, number)[0]
    if ahead > 0:
        m.state[slot, other + D_CAPTURE_GAP] += ahead
        m.state[slot, other + D_NEXT] = number
    timed = m.state[slot, other + D_TIMED]
    if timed >= 0 and distance(number, timed) >= 0:
        m.state[slot, other + D_TIMED] = -1
        took = ns - m.state[slot, other + D_TIMED_NS]
        if took > 0:
            see_round_trip(m, slot, 1 - direction, took)


@inline
def see_reset(m, slot, direction, ns):
    """Note who ended the connection, unless both had ended it already: many close so, and it is no error."""
    if m.state[slot, C_FIELDS + D_FIN] != 0 and m.state[slot, C_FIELDS + D_FIELDS + D_FIN] != 0:
        return
    if m.state[slot, C_RESET] == RESET_NONE:
        if direction == m.state[slot, C_CLIENT]:
            m.state[slot, C_RESET] = RESET_BY_CLIENT
        elif m.state[slot, C_SYNS] != 0 and m.state[slot, C_SYN_ACKS] == 0 and m.state[slot, C_ESTABLISHED] == 0:
            m.state[slot, C_RESET] = RESET_REFUSED
        else:
            m.state[slot, C_RESET] = RESET_BY_SERVER
    if m.state[slot, C_ENDED_NS] == 0:
        m.state[slot, C_ENDED_NS] = ns


@inline_always
def see_opening(m, slot, direction, flags, number, mss, ns):
    """Note SYN, SYN/ACK and the first acknowledgement of it, and the round trips between them.

    A SYN or SYN/ACK that was repeated gives none: which of them was answered is not known.
    """
    client = m.state[slot, C_CLIENT]
    if flags & SYN != 0:
        m.state[slot, C_OPENED] = 1
        m.state[slot, C_FIELDS + D_FIELDS * direction + D_FIRST] = number
        if mss != 0 and (m.state[slot, C_MSS] == 0 or mss < m.state[slot, C_MSS]):
            m.state[slot, C_MSS] = mss
        if flags & ACK == 0:
            m.state[slot, C_SYNS] += 1
            m.state[slot, C_SYN_NS] = ns
            return
        m.state[slot, C_SYN_ACKS] += 1
        m.state[slot, C_SYN_ACK_NS] = ns
        took = ns - m.state[slot, C_SYN_NS]
        if m.state[slot, C_SYNS] == 1 and m.state[slot, C_SYN_ACKS] == 1 and took > 0:
            m.state[slot, C_SERVER_NS] = took
            note_least(m, slot, client, took)
    elif direction == client and flags & ACK != 0 and m.state[slot, C_ESTABLISHED] == 0:
        m.state[slot, C_ESTABLISHED] = 1
        took = ns - m.state[slot, C_SYN_ACK_NS]
        if m.state[slot, C_SYN_ACKS] == 1 and took > 0:
            m.state[slot, C_CLIENT_NS] = took
            note_least(m, slot, 1 - client, took)


@inline_always
def see_window(m, slot, direction, window, ns):
    """Note when this direction's receiver has no room, and how long.  A window of 0 is 0 at any scale."""
    base = C_FIELDS + D_FIELDS * direction
    since = m.state[slot, base + D_ZERO_SINCE_NS]
    if window == 0 and since == 0:
        m.state[slot, base + D_ZERO_SINCE_NS] = ns
        m.state[slot, base + D_ZERO_WINDOWS] += 1
    elif window != 0 and since != 0:
        m.state[slot, base + D_ZERO_SINCE_NS] = 0
        m.state[slot, base + D_ZERO_NS] += max(ns - since, 0)


@inline_always
def see_segment(m, slot, direction, octets, at, end, payload, room, ns):
    """Take in a TCP segment whose header, 20 octets at least, is `octets[at:end]`; `payload`: its octets of data.

    Returns how many segments it was on the wire: offload puts several into one packet.  `room`: the octets in each, as
    the system says; 0: as the handshake allows.
    """
    flags = u16(octets, at + 12) & 0x01FF
    header = np.int64(octets[at + 12] >> 4) * 4
    begin = u32(octets, at + 4)
    base = C_FIELDS + D_FIELDS * direction
    payload = max(payload, 0)
    if flags & RST != 0:
        see_reset(m, slot, direction, ns)
        return np.int64(1)
    mss = announced_mss(octets, at + 20, min(at + header, end)) if flags & SYN != 0 else np.int64(0)
    see_opening(m, slot, direction, flags, begin, mss, ns)
    segments = np.int64(1)
    if room == 0 and m.state[slot, C_MSS] != 0:
        room = m.state[slot, C_MSS] - (header - 20)
    if 0 < room < payload:
        segments = (payload + room - 1) // room
    size = payload + (1 if flags & SYN != 0 else 0) + (1 if flags & FIN != 0 else 0)
    if payload != 0:
        m.state[slot, base + D_DATA_SEGMENTS] += segments
        m.state[slot, base + D_DATA_OCTETS] += payload
    known = m.state[slot, base + D_NEXT]
    see_sequence(m, slot, direction, begin, size, segments, flags, ns)
    if payload != 0 and m.state[slot, base + D_NEXT] != known:
        see_talk(m, slot, direction, ns)
    if flags & ACK != 0:
        see_acknowledgement(m, slot, direction, u32(octets, at + 8), ns)
    if flags & (SYN | FIN) == 0:
        see_window(m, slot, direction, u16(octets, at + 14), ns)
    if flags & FIN != 0:
        m.state[slot, base + D_FIN] = 1
        if m.state[slot, C_FIELDS + D_FIELDS * (1 - direction) + D_FIN] != 0 and m.state[slot, C_ENDED_NS] == 0:
            m.state[slot, C_ENDED_NS] = ns
    return segments
