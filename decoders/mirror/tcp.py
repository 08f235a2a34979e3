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

A segment whose numbers are further than a window from what was seen is one that its receiver would not accept, and
changes nothing: a forged one does not end a connection.  After two in a row the third is believed: then the capture
has lost more than a window.

A response time: from the last new data of a request to the first new data of the answer; an acknowledgement is none.

Round trips: of one segment with new data at a time; not if any octet up to its end was sent again (Karn and Partridge
1987).  They contain what the receiver delays its acknowledgement.

Sources: RFC 9293; RFC 5961; RFC 7323; RFC 6298, section 3; Jaiswal et al., Measurement and Classification of
Out-of-Sequence Packets, 2007.
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
    C_UNANSWERED,
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
    D_OUT_OF_WINDOW,
    D_READINGS,
    D_REFUSED,
    D_REORDERED,
    D_RESPONSES,
    D_RETRANSMITTED,
    D_ROUND_TRIP_NS,
    D_SCALE,
    D_SPURIOUS,
    D_TIMED,
    D_TIMED_NS,
    D_WINDOW,
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
FURTHEST, UNSCALED = 1 << 30, 65_535
"""Octets that a window can hold (RFC 7323), with and without a scale."""
MOST_SCALED = 14
MOST_REFUSED = 2
"""Segments in a row whose numbers do not fit, until the next one is believed."""
MSS, WINDOW_SCALE = 2, 3
"""Options of a SYN."""
REORDER_NS = 3_000_000
"""Where the round trip is not known (as Wireshark has it)."""


@inline_always
def distance(a, b):
    """Return by how much sequence number `a` is after `b`, −2^31 to 2^31 − 1; both int64."""
    return ((a - b + (WRAP >> 1)) & (WRAP - 1)) - (WRAP >> 1)


@inline
def find_option(octets, at, end, wanted, size):
    """Return where among the options `octets[at:end]` the value of one with `size` octets is, −1: nowhere."""
    while at + size <= end:
        kind = octets[at]
        if kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        length = np.int64(octets[at + 1])
        if kind == wanted and length == size:
            return at + 2
        if length < 2:
            break
        at += length
    return np.int64(-1)


@inline
def see_options(m, slot, direction, octets, at, header, end):
    """Note what a SYN with this header announces: maximum segment size, and scale of windows."""
    last = min(at + header, end)
    found = find_option(octets, at + 20, last, MSS, 4)
    if found >= 0:
        mss = u16(octets, found)
        if mss != 0 and (m.state[slot, C_MSS] == 0 or mss < m.state[slot, C_MSS]):
            m.state[slot, C_MSS] = mss
    found = find_option(octets, at + 20, last, WINDOW_SCALE, 3)
    scale = np.int64(0)  # the capture may have cut it off
    if found >= 0:
        scale = min(np.int64(octets[found]), np.int64(MOST_SCALED)) + 2
    elif at + header <= end:
        scale = np.int64(1)
    m.state[slot, C_FIELDS + D_FIELDS * direction + D_SCALE] = scale


@inline_always
def note_room(m, slot, direction, flags, window):
    """Keep the largest window that this direction announced."""
    place = C_FIELDS + D_FIELDS * direction + D_WINDOW
    one = m.state[slot, C_FIELDS + D_SCALE]
    other = m.state[slot, C_FIELDS + D_FIELDS + D_SCALE]
    if flags & SYN == 0:  # that of a SYN is not scaled
        if one == 0 or other == 0:
            window = np.int64(FURTHEST)
        elif one > 1 and other > 1:
            window <<= (other if direction == 1 else one) - 2
    m.state[slot, place] = max(m.state[slot, place], window)


@inline_always
def room_of(m, slot, direction):
    """Return how many octets may be on the way to the sender of this direction."""
    window = m.state[slot, C_FIELDS + D_FIELDS * direction + D_WINDOW]
    return max(window, np.int64(UNSCALED)) if window != 0 else np.int64(FURTHEST)


@inline_always
def sequence_fits(m, slot, direction, begin):
    """Return whether a sequence number is at most a window away from what this direction has sent."""
    known = m.state[slot, C_FIELDS + D_FIELDS * direction + D_NEXT]
    return known < 0 or abs(distance(begin, known)) <= room_of(m, slot, 1 - direction)


@inline_always
def acknowledgement_fits(m, slot, direction, flags, number):
    """Return whether this may be acknowledged (RFC 5961, section 5); one more window ahead may be a capture's gap.

    An answer to a SYN acknowledges that, or data that came with it (RFC 9293, 3.10.7.3).
    """
    other = C_FIELDS + D_FIELDS * (1 - direction)
    known, first = m.state[slot, other + D_NEXT], m.state[slot, other + D_FIRST]
    if known < 0:
        return True
    ahead = distance(number, known)
    if flags & (SYN | RST) != 0 and first >= 0:
        return ahead <= 0 and distance(number, first) > 0
    room = room_of(m, slot, direction)
    return -2 * room <= ahead <= room


@inline
def reset_fits(m, slot, direction, flags, begin, number):
    """Return whether a reset is in the window of its receiver; where nothing shows that, whether it answers a SYN."""
    other = C_FIELDS + D_FIELDS * (1 - direction)
    acked = m.state[slot, other + D_ACKED]
    known = m.state[slot, C_FIELDS + D_FIELDS * direction + D_NEXT]
    if acked < 0 and known < 0:
        answers = flags & ACK != 0 and acknowledgement_fits(m, slot, direction, flags, number)
        return answers or m.state[slot, other + D_FIRST] < 0
    if acked < 0:
        return sequence_fits(m, slot, direction, begin)
    highest = known if known >= 0 else acked
    return distance(begin, acked) >= 0 and distance(begin, highest) <= room_of(m, slot, 1 - direction)


@inline
def go_on_at(m, slot, direction, number):
    """Take a direction up again at a sequence number, after more than a window that was not seen."""
    base = C_FIELDS + D_FIELDS * direction
    m.state[slot, base + D_CAPTURE_GAP] += max(distance(number, m.state[slot, base + D_NEXT]), 0)
    m.state[slot, base + D_NEXT] = number
    m.state[slot, base + D_HOLES] = 0
    m.state[slot, base + D_TIMED] = -1
    m.state[slot, C_FIELDS + D_FIELDS * (1 - direction) + D_ACKED] = -1


@inline_always
def is_accepted(m, slot, direction, flags, begin, number):
    """Return whether to take a segment in: its numbers fit, or those of MOST_REFUSED before it did not either."""
    base = C_FIELDS + D_FIELDS * direction
    sequence = sequence_fits(m, slot, direction, begin)
    acknowledgement = flags & ACK == 0 or acknowledgement_fits(m, slot, direction, flags, number)
    if not (sequence and acknowledgement):
        if m.state[slot, base + D_REFUSED] < MOST_REFUSED:
            m.state[slot, base + D_REFUSED] += 1
            return False
        if not sequence:
            go_on_at(m, slot, direction, begin)
        if not acknowledgement:
            go_on_at(m, slot, 1 - direction, number)
    m.state[slot, base + D_REFUSED] = 0
    return True


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
    if acked >= 0 and distance(number, acked) < 0:
        return
    m.state[slot, base + D_ACKED] = number
    known = m.state[slot, other + D_NEXT]
    if known < 0:  # what it acknowledges may be older than the capture
        return
    ahead = distance(number, known)
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
    see_end(m, slot, ns)


@inline
def see_end(m, slot, ns):
    """Note that the connection has ended, and with it the windows of zero."""
    if m.state[slot, C_ENDED_NS] == 0:
        m.state[slot, C_ENDED_NS] = ns
    for direction in range(2):
        end_zero_window(m, slot, direction, ns)


@inline_always
def see_opening(m, slot, direction, flags, number, ns):
    """Note SYN, SYN/ACK and the first acknowledgement of it, and the round trips between them.

    A SYN or SYN/ACK that was repeated gives none: which of them was answered is not known.
    """
    client = m.state[slot, C_CLIENT]
    if flags & SYN != 0:
        m.state[slot, C_OPENED] = 1
        m.state[slot, C_FIELDS + D_FIELDS * direction + D_FIRST] = number
        if flags & ACK == 0:
            m.state[slot, C_SYNS] += 1
            m.state[slot, C_SYN_NS] = ns
            return
        m.state[slot, C_UNANSWERED] = 0
        m.state[slot, C_SYN_ACKS] += 1
        m.state[slot, C_SYN_ACK_NS] = ns
        took = ns - m.state[slot, C_SYN_NS]
        if m.state[slot, C_SYNS] == 1 and m.state[slot, C_SYN_ACKS] == 1 and took > 0:
            m.state[slot, C_SERVER_NS] = took
            note_least(m, slot, client, took)
    elif direction == client and flags & ACK != 0 and m.state[slot, C_ESTABLISHED] == 0:
        m.state[slot, C_UNANSWERED] = 0
        m.state[slot, C_ESTABLISHED] = 1
        took = ns - m.state[slot, C_SYN_ACK_NS]
        if m.state[slot, C_SYN_ACKS] == 1 and took > 0:
            m.state[slot, C_CLIENT_NS] = took
            note_least(m, slot, 1 - client, took)


@inline
def end_zero_window(m, slot, direction, ns):
    """Note that this direction's receiver has room again, or needs none any more."""
    base = C_FIELDS + D_FIELDS * direction
    since = m.state[slot, base + D_ZERO_SINCE_NS]
    if since != 0:
        m.state[slot, base + D_ZERO_SINCE_NS] = 0
        m.state[slot, base + D_ZERO_NS] += max(ns - since, 0)


@inline_always
def see_window(m, slot, direction, window, ns):
    """Note when this direction's receiver has no room, and how long.  A window of 0 is 0 at any scale."""
    base = C_FIELDS + D_FIELDS * direction
    if window != 0:
        end_zero_window(m, slot, direction, ns)
    elif m.state[slot, base + D_ZERO_SINCE_NS] == 0 and m.state[slot, C_ENDED_NS] == 0:
        m.state[slot, base + D_ZERO_SINCE_NS] = ns
        m.state[slot, base + D_ZERO_WINDOWS] += 1


@inline_always
def see_segment(m, slot, direction, octets, at, end, payload, room, ns):
    """Take in a TCP segment whose header, 20 octets at least, is `octets[at:end]`; `payload`: its octets of data.

    Returns how many segments it was on the wire: offload puts several into one packet.  `room`: the octets in each, as
    the system says; 0: as the handshake allows.
    """
    flags = u16(octets, at + 12) & 0x01FF
    header = np.int64(octets[at + 12] >> 4) * 4
    begin, number = u32(octets, at + 4), u32(octets, at + 8)
    base = C_FIELDS + D_FIELDS * direction
    payload = max(payload, 0)
    if flags & RST != 0:
        if reset_fits(m, slot, direction, flags, begin, number):
            see_reset(m, slot, direction, ns)
        else:
            m.state[slot, base + D_OUT_OF_WINDOW] += 1
        return np.int64(1)
    if not is_accepted(m, slot, direction, flags, begin, number):
        m.state[slot, base + D_OUT_OF_WINDOW] += 1
        return np.int64(1)
    if flags & SYN != 0:
        see_options(m, slot, direction, octets, at, header, end)
    see_opening(m, slot, direction, flags, begin, ns)
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
        see_acknowledgement(m, slot, direction, number, ns)
    window = u16(octets, at + 14)
    note_room(m, slot, direction, flags, window)
    if flags & (SYN | FIN) == 0:
        see_window(m, slot, direction, window, ns)
    if flags & FIN != 0:
        m.state[slot, base + D_FIN] = 1
        if m.state[slot, C_FIELDS + D_FIELDS * (1 - direction) + D_FIN] != 0:
            see_end(m, slot, ns)
    return segments
