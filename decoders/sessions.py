"""Exporter streams: their keys, what they sent, and how much of it was lost.

A stream ("session") has its own sequence numbers: for sFlow it is (sender, agent, sub-agent); for NetFlow and IPFIX
(sender, source port, version, domain), and for IPFIX over TCP the connection, too.  Session 0 collects all streams
beyond `Limits.sessions`: counted, never decoded.

Sources: sFlow version 5 (sample_datagram_v5), NetFlow v5, RFC 3954 section 5.1, RFC 7011 sections 3.1 and 8.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoders.errors import Reason
from decoders.hashes import mix
from decoders.jit import inline, inline_always, kernel
from decoders.limits import Limits
from decoders.wire import u64

KEY_WORDS = 5
"""Words of a session key: sender high, sender low, (version, port, domain) packed, agent high, agent low.

The agent is that of sFlow.  For other protocols the fourth word is the number of the connection, 0 for UDP."""

WINDOW = 64
"""Datagrams remembered per session, to distinguish duplicates and late ones from loss."""

# Columns of Sessions.stats, running totals since the session was first seen (gauges are marked)
(
    S_DATAGRAMS,
    S_BYTES,
    S_RECORDS,
    S_COUNTER_RECORDS,
    S_LOST,
    S_SAMPLES_LOST,
    S_AGENT_DROPS,
    S_DUPLICATES,
    S_REORDERED,
    S_RESTARTS,
    S_TEMPLATES,  # gauge
    S_HELD_BYTES,  # gauge
    S_SAMPLING_RATE,  # gauge, last stated
    S_DATAPATH_LOST,
    S_DATAPATH_LOST_LAST,  # last total read from sFlow 2207, plus 1; 0 = none yet
    S_LAST_SEEN_US,  # gauge
    S_OVERRIDE_RATE,  # set by the owner: 0 = none
    S_DENIED,  # set by the owner: 1 = the sender is not allowed
    S_RULED,  # set by the owner: 1 = its rules are applied
    S_NAMED,  # set by the owner: 1 = the operator named this very address
    S_FIRST_SEEN_US,  # set by the owner: gauge, 0 = no datagram yet
    S_STATS,
) = range(22)

# Columns of Sessions.sequence
Q_SEEN, Q_NEXT, Q_LAST, Q_UPTIME, Q_RING_AT, Q_RECEIVED_US, Q_CLOCK_US, Q_WORDS = range(8)


class Sessions(NamedTuple):
    """State arrays, one row per session."""

    table: NDArray[np.int32]
    """Open-addressing hash table of session numbers, 0 = free.  Its size is a power of two, twice the capacity."""
    count: NDArray[np.int64]  # type: ignore[assignment] # shadows tuple.count, which is not used
    """[2]: session numbers assigned so far, session 0 included; numbers waiting in `free`."""
    free: NDArray[np.int32]
    """[capacity]: a stack of numbers whose sessions were forgotten."""
    key: NDArray[np.uint64]
    """[capacity, KEY_WORDS]"""
    stats: NDArray[np.uint64]
    """[capacity, S_STATS]"""
    skew_us: NDArray[np.int64]
    """[capacity]: export time − receive time of the last datagram; the least int64 = not stated."""
    problems: NDArray[np.uint64]
    """[capacity, number of reasons]"""
    sequence: NDArray[np.int64]
    """[capacity, Q_WORDS]"""
    ring: NDArray[np.uint64]
    """[capacity, WINDOW, 2]: (sequence + 1, fingerprint) of the last datagrams."""
    generation: NDArray[np.int64]
    """[capacity]: how many earlier streams had the number, all forgotten."""
    gone_stats: NDArray[np.uint64]
    """[S_STATS]: running totals of all forgotten streams together; meaningless for gauges."""
    gone_problems: NDArray[np.uint64]
    """[number of reasons]: running totals of their problems."""


NO_SKEW = -(2**63)
IPFIX_VERSION = np.uint64(10)


def new_sessions(limits: Limits) -> Sessions:
    """Return empty state for `limits.sessions` sessions; memory is taken when a session is first written."""
    capacity = limits.sessions + 1
    slots = 1 << (2 * capacity - 1).bit_length()
    return Sessions(
        np.zeros(slots, np.int32),
        np.array([1, 0], np.int64),
        np.zeros(capacity, np.int32),
        np.zeros((capacity, KEY_WORDS), np.uint64),
        np.zeros((capacity, S_STATS), np.uint64),
        np.full(capacity, NO_SKEW, np.int64),
        np.zeros((capacity, len(Reason)), np.uint64),
        np.zeros((capacity, Q_WORDS), np.int64),
        np.zeros((capacity, WINDOW, 2), np.uint64),
        np.zeros(capacity, np.int64),
        np.zeros(S_STATS, np.uint64),
        np.zeros(len(Reason), np.uint64),
    )


@inline
def pack_stream(version, port, domain):
    """Return the third key word: version (8 bits), UDP source port (16), domain (32)."""
    return (np.uint64(version) << np.uint64(48)) | (np.uint64(port) << np.uint64(32)) | np.uint64(domain)


@inline
def find_session(s, k0, k1, k2, k3, k4):
    """Return the number of the session with this key, created if unknown; 0 if there is no room."""
    mask = np.uint64(s.table.shape[0] - 1)
    slot = mix(mix(mix(mix(mix(np.uint64(0), k0), k1), k2), k3), k4) & mask
    while True:
        number = np.int64(s.table[np.int64(slot)])
        if number == 0:
            break
        if (
            s.key[number, 0] == k0
            and s.key[number, 1] == k1
            and s.key[number, 2] == k2
            and s.key[number, 3] == k3
            and s.key[number, 4] == k4
        ):
            return number
        slot = (slot + np.uint64(1)) & mask
    if s.count[1] > 0:
        s.count[1] -= 1
        number = np.int64(s.free[s.count[1]])
    elif s.count[0] < s.key.shape[0]:
        number = s.count[0]
        s.count[0] = number + 1
    else:
        return np.int64(0)
    s.table[np.int64(slot)] = number
    s.key[number, 0] = k0
    s.key[number, 1] = k1
    s.key[number, 2] = k2
    s.key[number, 3] = k3
    s.key[number, 4] = k4
    return number


@kernel
def _rebuild(s, gone):
    """Rehash all sessions except those marked in `gone` ([capacity]), which are cleared and can be reused."""
    mask = np.uint64(s.table.shape[0] - 1)
    s.table[:] = 0
    for number in range(1, s.count[0]):
        if gone[number]:
            for column in range(s.gone_stats.shape[0]):
                s.gone_stats[column] += s.stats[number, column]
            for reason in range(s.gone_problems.shape[0]):
                s.gone_problems[reason] += s.problems[number, reason]
            s.generation[number] += 1
            s.key[number, :] = 0
            s.stats[number, :] = 0
            s.skew_us[number] = NO_SKEW
            s.problems[number, :] = 0
            s.sequence[number, :] = 0
            s.ring[number, :, :] = 0
            s.free[s.count[1]] = number
            s.count[1] += 1
        elif s.key[number, 2] != 0 or s.key[number, 1] != 0 or s.key[number, 0] != 0:
            slot = np.uint64(0)
            for word in range(KEY_WORDS):
                slot = mix(slot, s.key[number, word])
            slot &= mask
            while s.table[np.int64(slot)] != 0:
                slot = (slot + np.uint64(1)) & mask
            s.table[np.int64(slot)] = number


def in_use(s: Sessions) -> NDArray[np.int64]:
    """Return the numbers of the sessions in use, without session 0.

    One that was read from a file, or was only seen behind another message in its datagrams, has no datagram yet.
    """
    used: NDArray[np.int64] = np.flatnonzero(s.key[: int(s.count[0])].any(axis=1))
    return used


@inline_always
def over_stream(s, number):
    """Return True for a session of IPFIX over TCP or TLS; `number` is that of a NetFlow or IPFIX session."""
    return s.key[number, 3] != 0


def of_connections(s: Sessions, connections: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers of the sessions of these connections."""
    used = in_use(s)
    ipfix = s.key[used, 2] >> np.uint64(48) == IPFIX_VERSION
    theirs: NDArray[np.int64] = used[ipfix & np.isin(s.key[used, 3], connections.astype(np.uint64))]
    return theirs


def forget(s: Sessions, numbers: NDArray[np.int64]) -> None:
    """Drop these sessions and add their counts to `gone_stats` and `gone_problems`.

    Their numbers will be used for other streams, so all state kept by number must be dropped, too.
    """
    gone = np.zeros(len(s.key), np.bool_)
    gone[numbers] = True
    gone[0] = False
    _rebuild(s, gone)


PRESENT_US = 3_600_000_000
"""A stream silent for longer loses its standing: exporters send far more often."""
ESTABLISHED_US = 60_000_000
"""A stream that has been sending for this long is no newcomer."""
PER_ADDRESS = 256
"""Streams of one address that have standing: even a named exporter must not fill the table with made-up ports and
domains."""


class Standing(NamedTuple):
    """The order in which sessions are dropped when there is no room for all."""

    numbers: NDArray[np.int64]
    """[n] all sessions in use, the first to be dropped in front."""
    established: NDArray[np.bool_]
    """[n]: dropped only for a session of higher standing."""


def standing(s: Sessions, now_us: int) -> Standing:
    """Put sessions in order: strangers, newcomers, the established by how long they have been sending, the named.

    A stranger never sent a record.  Forged senders come late and do not stay, so they displace each other: a working
    exporter keeps its place by its time of service, and one named by the operator always ranks highest.  A session read
    from a file counts as one that has been sending for `PRESENT_US`.  Among equals those that sent less go first, then
    those silent for longest.
    """
    numbers = in_use(s)
    stats = s.stats[numbers]
    heard = stats[:, S_DATAGRAMS] > 0
    useful = (stats[:, S_RECORDS] + stats[:, S_COUNTER_RECORDS]) > 0
    useful |= (stats[:, S_TEMPLATES] > 0) & ~heard
    last, first = stats[:, S_LAST_SEEN_US], stats[:, S_FIRST_SEEN_US]
    silent = np.uint64(now_us) - np.minimum(last, np.uint64(now_us))
    served = np.where(heard, last - np.minimum(first, last), np.uint64(PRESENT_US))
    present = (silent <= np.uint64(PRESENT_US)) | ~heard
    served[~present | ~useful] = 0
    named = (stats[:, S_NAMED] != 0) & (stats[:, S_DENIED] == 0)
    surplus = _surplus(s.key[numbers, :2], served)
    useful[surplus], served[surplus], named[surplus] = False, 0, False
    order = np.lexsort((-silent.astype(np.int64), stats[:, S_DATAGRAMS], served, useful, named))
    established = named | (served >= np.uint64(ESTABLISHED_US))
    return Standing(numbers[order], established[order])


def _surplus(address: NDArray[np.uint64], served: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which sessions, [n], exceed the share of their address ([n, 2]): those of shortest service."""
    order = np.lexsort((-served.astype(np.int64), address[:, 1], address[:, 0]))
    arranged = address[order]
    begins = np.append(True, (arranged[1:] != arranged[:-1]).any(axis=1))[: len(order)]
    at = np.arange(len(order))
    place = at - np.maximum.accumulate(np.where(begins, at, 0))
    surplus = np.zeros(len(order), np.bool_)
    surplus[order] = place >= PER_ADDRESS
    return surplus


def note_first_seen(s: Sessions, session: NDArray[np.int64], now_us: int) -> None:
    """Note the time for those of these sessions ([n], repeats allowed) that were not heard before.

    One that already has templates was read from a file.
    """
    fresh = np.unique(session[s.stats[session, S_FIRST_SEEN_US] == 0])
    known = np.where(s.stats[fresh, S_TEMPLATES] > 0, PRESENT_US, 0)
    s.stats[fresh, S_FIRST_SEEN_US] = np.maximum(1, now_us - known).astype(np.uint64)


@inline
def fingerprint(octets, start, length):
    """Hash a datagram by its length, its first 64 octets, up to 128 spread over the rest, and its last 8.

    That is enough to recognise a duplicate among datagrams of one stream with the same sequence number: headers hold
    clock and uptime.
    """
    h = np.uint64(length)
    end = start + length
    if length < 8:
        for at in range(start, end):
            h = mix(h, np.uint64(octets[at]))
        return h | np.uint64(1)
    spread = start + (min(length, 64) & ~7)
    for at in range(start, spread, 8):
        h = mix(h, u64(octets, at))
    for at in range(spread, end - 7, max((end - spread) // 16, 8)):
        h = mix(h, u64(octets, at))
    return mix(h, u64(octets, end - 8)) | np.uint64(1)


# Answers of track_sequence
T_FIRST, T_OK, T_GAP, T_LATE, T_DUPLICATE, T_RESTART, T_REBOOT = range(7)
"""A restart: the numbers began again.  A reboot: the exporter did, too, and all that it announced is void."""

LATE_MS = 60_000
"""How late a datagram may be: line cards and networks delay some for seconds."""
BOOT_SLACK_US = 1_000_000
FRESH_NUMBERS = 64
"""If a sequence began with its exporter, its first datagram to arrive has a number below this."""


@inline
def track_sequence(s, number, sequence, units, uptime, clock_us, now_us, print_):
    """Follow the sequence number of one datagram and count loss, duplicates, late datagrams and restarts.

    `sequence` is the header's (32 bits), `units` what it advances by: 1 per datagram, or the records in it.
    `uptime` in ms, or −1 where the header has none; `clock_us`: the header's clock, or −1; `now_us`: time of receipt.
    Returns one of the T_ answers; the caller drops duplicates.
    """
    q = s.sequence
    mask = np.int64(0xFFFFFFFF)
    if q[number, Q_SEEN] == 0:
        q[number, Q_SEEN] = 1
        _remember(s, number, sequence, units, uptime, clock_us, now_us, print_)
        return T_FIRST
    ahead = (sequence - q[number, Q_NEXT]) & mask
    if ahead != 0 or units == 0 or q[number, Q_LAST] == sequence:
        for i in range(WINDOW):
            if s.ring[number, i, 0] == np.uint64(sequence) + np.uint64(1) and s.ring[number, i, 1] == print_:
                s.stats[number, S_DUPLICATES] += np.uint64(1)
                return T_DUPLICATE
    behind = (q[number, Q_NEXT] - sequence) & mask
    went_back = ahead >= np.int64(1 << 31)
    answer = T_OK
    if (went_back or sequence < FRESH_NUMBERS) and _rebooted(q, number, uptime, clock_us, now_us):
        answer = T_REBOOT
    elif went_back and behind > _reorder_reach(s, number, units) and not _held_back(q, number, uptime):
        answer = T_RESTART
    if answer != T_OK:
        s.stats[number, S_RESTARTS] += np.uint64(1)
        for i in range(WINDOW):
            s.ring[number, i, 0] = np.uint64(0)
    elif went_back:
        late = np.uint64(units)
        s.stats[number, S_REORDERED] += np.uint64(1)
        s.stats[number, S_LOST] -= min(late, s.stats[number, S_LOST])
        _ring_add(s, number, sequence, print_)
        return T_LATE
    elif ahead != 0:
        s.stats[number, S_LOST] += np.uint64(ahead)
        answer = T_GAP
    _remember(s, number, sequence, units, uptime, clock_us, now_us, print_)
    return answer


@inline
def _rebooted(q, number, uptime, clock_us, now_us):
    """Return True if the exporter booted since its last datagram (RFC 3954 section 5.1: unix_secs − sysUpTime).

    An uptime that fell is not enough: line cards have their own, late datagrams an earlier one, and it wraps.
    """
    before = q[number, Q_UPTIME]
    if before < 0 or uptime < 0 or uptime >= before:
        return False
    wrapped = before + (now_us - q[number, Q_RECEIVED_US]) // 1_000 - (np.int64(1) << 32)
    if abs(wrapped - uptime) <= LATE_MS:
        return False
    up_us = uptime * 1_000
    if now_us - up_us > q[number, Q_RECEIVED_US] - BOOT_SLACK_US:
        return True
    return q[number, Q_CLOCK_US] >= 0 and clock_us - up_us > q[number, Q_CLOCK_US] - BOOT_SLACK_US


@inline
def _held_back(q, number, uptime):
    """Return True for a datagram that was sent up to a minute before the last one, by its uptime."""
    return uptime >= 0 and 0 < q[number, Q_UPTIME] - uptime <= LATE_MS


@inline
def _reorder_reach(s, number, units):
    """Return how far back a sequence number may lie and still count as late: WINDOW datagrams of this one's size."""
    return np.int64(WINDOW) * max(np.int64(units), np.int64(32))


@inline
def _remember(s, number, sequence, units, uptime, clock_us, now_us, print_):
    q = s.sequence
    q[number, Q_LAST] = sequence
    q[number, Q_NEXT] = (sequence + units) & np.int64(0xFFFFFFFF)
    q[number, Q_UPTIME] = uptime
    q[number, Q_RECEIVED_US] = now_us
    q[number, Q_CLOCK_US] = clock_us
    _ring_add(s, number, sequence, print_)


@inline
def _ring_add(s, number, sequence, print_):
    at = s.sequence[number, Q_RING_AT]
    s.ring[number, at, 0] = np.uint64(sequence) + np.uint64(1)
    s.ring[number, at, 1] = print_
    s.sequence[number, Q_RING_AT] = (at + 1) % WINDOW
