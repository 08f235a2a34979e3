"""What the meter keeps: connections, gaps in their data, round trips, and what all share.  All of it is bounded.

A connection is a slot in arrays.  What it has for each direction is there twice: direction 0 is what the end with the
smaller address sends.  Memory is taken from the system only as slots are used: about 1 KiB for a connection.

A slot that has ended, and whose ends began another connection since, is in `places` no more; `sweep` frees it.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoders.hashes import finish, mix
from decoders.jit import inline, inline_always, kernel
from decoders.packet import TCP
from decoders.rows import Rows, new_rows
from schemas.flows import FLOWS

(
    C_FIRST_NS, C_LAST_NS,
    C_IN_USE,  # 1; 2: its ends began another connection since
    C_CLIENT,  # whose connection it is: 0 or 1
    C_OPENED,  # its SYN or SYN/ACK was seen, so that the client is known
    C_SYN_NS, C_SYNS, C_SYN_ACK_NS, C_SYN_ACKS,  # time of the last one, and how many
    C_ESTABLISHED, C_RESET, C_ENDED_NS,
    C_UNANSWERED,  # that nothing answered its SYN is in a window already
    C_SERVER_NS, C_CLIENT_NS,  # the handshake's round trip between mirror and server, and mirror and client; 0: unknown
    C_MSS,  # the smaller of those announced; 0: unknown
    C_REQUEST_NS,  # last data of a request that is not answered yet; 0: none
    C_FIELDS,
) = range(18)  # fmt: skip

RESET_NONE, RESET_BY_CLIENT, RESET_BY_SERVER, RESET_REFUSED = range(4)

(
    # Counts, which begin again with each window.
    D_PACKETS, D_OCTETS, D_DATA_SEGMENTS, D_DATA_OCTETS, D_RETRANSMITTED, D_SPURIOUS, D_LOST_BEFORE, D_REORDERED,
    D_DUPLICATES, D_CAPTURE_GAP, D_OUT_OF_WINDOW, D_ZERO_WINDOWS, D_ZERO_NS, D_READINGS, D_LEAST_NS,
    D_RESPONSES, D_LONGEST_NS,  # of requests in this direction
    # State, which stays.
    D_NEXT,  # the sequence number after the highest one seen; −1: none
    D_FIRST,  # that of the SYN; −1: none
    D_ACKED,  # the highest acknowledgement sent; −1: none
    D_SCALE,  # of its window: shift + 2; 1: its SYN has none; 0: not known
    D_WINDOW,  # the largest one announced, in octets; 0: none
    D_REFUSED,  # segments in a row whose numbers do not fit
    D_FIN, D_HOLES, D_ZERO_SINCE_NS,
    D_TIMED, D_TIMED_NS,  # end and time of the segment whose acknowledgement is waited for; −1: none
    D_ROUND_TRIP_NS,  # the shortest of the connection's life, of data and handshake; 0: unknown
    D_FIELDS,
) = range(30)  # fmt: skip
D_COUNTS = D_NEXT

H_BEGIN, H_END, H_NS, H_FIELDS = range(4)
HOLES = 16
"""Gaps of a direction whose octets are waited for: of 571 losses in a burst, three were too few for 6."""
READINGS = 128
"""Round trips of a direction, or response times, that the median is taken of; more are drawn from evenly."""
R_RESPONSES, R_ROWS = 2, 3
"""Rows of readings of a connection: a row for each direction comes first."""

PROBES = 32
"""Places of the index that are looked at for a connection: with half of them taken, one of 10^6 looks at 30."""
RECENT_SETS, RECENT_WAYS = 32_768, 4
"""Packets remembered to know a second copy: 13 million a second for 10 ms."""
SOURCES = 1_024
"""Streams of GRE packets with sequence numbers: one per mirror and hypervisor."""

NUMBERS = 1_024
"""Sequence numbers of a stream that are remembered, to tell a late packet from a second copy."""

(
    S_IN_USE, S_ADDRESS_HIGH, S_ADDRESS_LOW, S_SESSION,
    S_FIRST, S_NEXT,  # sequence numbers since the tunnel began, or began again
    S_RECEIVED, S_LOST, S_LATE, S_DUPLICATES,
    S_FIELDS,
) = range(11)  # fmt: skip

(
    T_FRAMES, T_NOT_IP, T_CUT, T_NESTED, T_COUNTED, T_DUPLICATES, T_NO_ROOM, T_SUPER, T_SOURCES_FULL,
    T_FREE,  # free slots
    T_USED,  # slots from this one on were never used
    T_LAST_NS,
    T_HALVED,  # how often the connections that are counted were halved
    T_NOT_CHOSEN,  # packets of others
    T_EVICTED,  # connections that went because they were idle
    T_FIELDS,
) = range(16)  # fmt: skip

MOST_HALVED = 10


IDLE_NS, BRIEF_NS, ENDED_NS = 900 * 10**9, 60 * 10**9, 10 * 10**9
"""How long after its last packet a connection stays known: TCP both ways; one way, and other protocols; one that ended.

With more than half of the slots in use, ENDED_NS for BRIEF_NS: who sends from made-up addresses fills them one way.
"""


class Meter(NamedTuple):
    """Arrays of the state.  Integers in them are wide enough for any run; a sequence number is one of 32 bits."""

    key: NDArray[np.uint64]
    """[slots, 6]: the smaller address in two words, the larger one, ports and protocol, network."""
    state: NDArray[np.int64]
    """[slots, C_FIELDS + 2 × D_FIELDS]"""
    holes: NDArray[np.int64]
    """[slots × 2, HOLES, H_FIELDS]: the first D_HOLES of them, in no order."""
    readings: NDArray[np.float32]
    """[slots × R_ROWS, READINGS] in µs."""
    places: NDArray[np.int32]
    """[power of 2]: slot + 1, 0 if there is none."""
    free: NDArray[np.int32]
    """[slots]: the first T_FREE of them are free slots."""
    recent: NDArray[np.uint64]
    """[RECENT_SETS, RECENT_WAYS, 2]: fingerprint and time in ns."""
    sources: NDArray[np.int64]
    """[SOURCES, S_FIELDS]"""
    numbers: NDArray[np.int64]
    """[SOURCES, NUMBERS]: each sequence number that came, + 1, at its remainder."""
    totals: NDArray[np.int64]
    """[T_FIELDS]"""
    secret: NDArray[np.uint64]
    """[1]: senders choose addresses and ports, so they shall not know the hash."""
    scratch: Rows
    """One row, into which headers are parsed."""


def new_meter(slots: int, secret: int | None = None) -> Meter:
    """Return empty state for so many connections."""
    places = 1 << (2 * slots - 1).bit_length()
    meter = Meter(
        np.zeros((slots, 6), np.uint64),
        np.zeros((slots, C_FIELDS + 2 * D_FIELDS), np.int64),
        np.zeros((slots * 2, HOLES, H_FIELDS), np.int64),
        np.zeros((slots * R_ROWS, READINGS), np.float32),
        np.zeros(places, np.int32),
        np.arange(slots - 1, -1, -1, dtype=np.int32),
        np.zeros((RECENT_SETS, RECENT_WAYS, 2), np.uint64),
        np.zeros((SOURCES, S_FIELDS), np.int64),
        np.zeros((SOURCES, NUMBERS), np.int64),
        np.zeros(T_FIELDS, np.int64),
        np.array([secrets.randbits(64) if secret is None else secret], np.uint64),
        new_rows(FLOWS, 1),
    )
    meter.totals[T_FREE] = slots
    return meter


@inline_always
def hash_key(m, key0, key1, key2, key3, key4, key5):
    """Hash the six words of a key with the secret."""
    h = mix(mix(mix(m.secret[0], key0), key1), key2)
    return finish(mix(mix(mix(h, key3), key4), key5))


@inline_always
def find_place(m, key0, key1, key2, key3, key4, key5, hashed):
    """Return the place in the index where a connection is or may be put; −1 if there is none near enough."""
    mask = np.int64(m.places.shape[0] - 1)
    first = np.int64(hashed & np.uint64(mask))
    for step in range(PROBES):
        place = (first + step) & mask
        slot = np.int64(m.places[place]) - 1
        if slot < 0:
            return place
        if (
            m.key[slot, 4] == key4
            and m.key[slot, 1] == key1
            and m.key[slot, 3] == key3
            and m.key[slot, 0] == key0
            and m.key[slot, 2] == key2
            and m.key[slot, 5] == key5
        ):
            return place
    return np.int64(-1)


@inline
def take_slot(m, place, key0, key1, key2, key3, key4, key5, ns):
    """Begin a connection at a place.  Returns its slot, −1 if all are in use."""
    left = m.totals[T_FREE]
    if left == 0:
        return np.int64(-1)
    m.totals[T_FREE] = left - 1
    slot = np.int64(m.free[left - 1])
    m.key[slot, 0] = key0
    m.key[slot, 1] = key1
    m.key[slot, 2] = key2
    m.key[slot, 3] = key3
    m.key[slot, 4] = key4
    m.key[slot, 5] = key5
    for field in range(m.state.shape[1]):
        m.state[slot, field] = 0
    m.state[slot, C_IN_USE] = 1
    m.state[slot, C_FIRST_NS] = ns
    m.totals[T_USED] = max(m.totals[T_USED], slot + 1)
    for direction in range(2):
        base = C_FIELDS + D_FIELDS * direction
        m.state[slot, base + D_NEXT] = -1
        m.state[slot, base + D_FIRST] = -1
        m.state[slot, base + D_ACKED] = -1
        m.state[slot, base + D_TIMED] = -1
    m.places[place] = slot + 1
    return slot


@inline_always
def is_chosen(m, hashed):
    """Return whether a connection is one of those that are counted: whole connections are left out, never packets."""
    return (hashed >> np.uint64(40)) & np.uint64((1 << m.totals[T_HALVED]) - 1) == 0


@inline
def hash_slot(m, slot):
    """Hash the key of a connection."""
    return hash_key(m, m.key[slot, 0], m.key[slot, 1], m.key[slot, 2], m.key[slot, 3], m.key[slot, 4], m.key[slot, 5])


@inline
def free_slot(m, slot):
    """Give a slot back."""
    m.state[slot, C_IN_USE] = 0
    m.free[m.totals[T_FREE]] = slot
    m.totals[T_FREE] += 1


@inline
def find_places(m):
    """Put all connections into `places` again."""
    for empty in range(m.places.shape[0]):
        m.places[empty] = 0
    mask = np.int64(m.places.shape[0] - 1)
    for slot in range(m.totals[T_USED]):
        if m.state[slot, C_IN_USE] != 1:
            continue
        place = np.int64(hash_slot(m, slot) & np.uint64(mask))
        steps = 0
        while m.places[place] != 0:
            place = (place + 1) & mask
            steps += 1
        if steps < PROBES:
            m.places[place] = slot + 1
        else:  # nobody would find it
            m.state[slot, C_IN_USE] = 2


@inline
def is_one_way(m, slot):
    """Return whether it is not known that both ends of a TCP connection take part: one is silent, or did not finish."""
    one, other = m.state[slot, C_FIELDS + D_NEXT], m.state[slot, C_FIELDS + D_FIELDS + D_NEXT]
    return one < 0 or other < 0 or (m.state[slot, C_SYNS] != 0 and m.state[slot, C_ESTABLISHED] == 0)


@kernel
def sweep(m, now_ns):
    """End a window: counts begin again.  Connections that have ended, or were idle for long, go."""
    brief_ns = BRIEF_NS if 2 * m.totals[T_FREE] >= m.key.shape[0] else ENDED_NS
    for slot in range(m.totals[T_USED]):
        if m.state[slot, C_IN_USE] == 0:
            continue
        kept_ns = IDLE_NS
        if m.state[slot, C_ENDED_NS] != 0:
            kept_ns = ENDED_NS
        elif np.int64(m.key[slot, 4] >> np.uint64(32)) != TCP or is_one_way(m, slot):
            kept_ns = brief_ns
        if m.state[slot, C_IN_USE] == 2 or m.state[slot, C_LAST_NS] < now_ns - kept_ns:
            if m.state[slot, C_IN_USE] == 1 and m.state[slot, C_ENDED_NS] == 0:
                m.totals[T_EVICTED] += 1
            free_slot(m, slot)
            continue
        for direction in range(2):
            base = C_FIELDS + D_FIELDS * direction
            for field in range(D_COUNTS):
                m.state[slot, base + field] = 0
    find_places(m)


@kernel
def halve(m):
    """Count half as many connections from now on; the others go, with what was counted of them."""
    m.totals[T_HALVED] += 1
    for slot in range(m.totals[T_USED]):
        if m.state[slot, C_IN_USE] != 0 and not is_chosen(m, hash_slot(m, slot)):
            free_slot(m, slot)
    find_places(m)
