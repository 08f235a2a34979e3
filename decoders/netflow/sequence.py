"""Sequence numbers of NetFlow and IPFIX: what a datagram's number says about others that did not arrive (kernels).

By the standards the number is that of the first record (v5, v7, IPFIX) or of the datagram (v9) among those of one
domain.  Exporters deviate in three ways, each recognised by what fits, so that no false loss is reported:

- the number is that of the *last* record (NetFlow v5 of Open vSwitch, ofproto/netflow.c; softflowd IPFIX);
- one counter runs through all domains of a stream (IPFIX of Open vSwitch, ofproto-dpif-ipfix.c);
- it counts other units: records in v9, messages in IPFIX, templates with the records.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoders.errors import Reason
from decoders.jit import inline, inline_always
from decoders.limits import Limits
from decoders.sessions import (
    Q_CLOCK_US,
    Q_NEXT,
    S_DUPLICATES,
    S_RESTARTS,
    T_DUPLICATE,
    T_LATE,
    T_RESTART,
    WINDOW,
    Sessions,
    find_session,
    forget,
    new_sessions,
    track_sequence,
)

MASK = np.int64(0xFFFFFFFF)
HALF = np.int64(1) << 31
CERTAIN = 8
"""Evidence is counted from −8 to 8: this many datagrams can overturn a conclusion."""
CLOCK_SLACK_US = 5_000_000
RESTART_RUN = 4
"""This many datagrams far behind, in order among themselves, are a restart and not late ones."""

# Words of an order; a stream (all domains of one sender's port) has the same words as a session
(
    O_SEEN,
    O_RAW,  # the last number, as sent
    O_UNITS,  # what that datagram held: data records
    O_FLOWS,  # of these, flow records: softflowd counts only them
    O_LAST_RECORD,  # above 0: numbers are those of last records
    O_SHARED,  # above 0: one counter for all domains
    O_UNKNOWN,  # 1: the last datagram held records that could not be counted
    O_STREAM,
    O_DOMAINS,
    O_LATE_NEXT,
    O_LATE_RUN,
    O_RECORDS,  # of the last datagram: data records that it held, 0 = not known
    O_TEMPLATES,  # of the last datagram: template records
    O_ODD_UNITS,  # above 0: numbers count something other than the protocol's unit
    O_WORDS,
) = range(15)


class SequenceOrder(NamedTuple):
    """The state of sequence tracking in addition to `Sessions.sequence`."""

    session: NDArray[np.int64]
    """[sessions, O_WORDS]"""
    stream: NDArray[np.int64]
    """[sessions, O_WORDS]"""
    streams: Sessions
    """Numbers streams as `Sessions` numbers sessions: the key is that of a session with domain 0."""


def new_orders(limits: Limits) -> SequenceOrder:
    """Return empty state."""
    capacity = limits.sessions + 1
    return SequenceOrder(
        np.zeros((capacity, O_WORDS), np.int64), np.zeros((capacity, O_WORDS), np.int64), new_sessions(limits)
    )


@inline_always
def is_duplicate(orders, s, number, sequence, print_):
    """Return True, and count it, if a datagram with these octets is among the last of its session.

    A number ahead of all seen is no duplicate: so the search is not on the usual path.
    """
    order = orders.session
    if order[number, O_SEEN] == 0:
        return False
    ahead = (sequence - order[number, O_RAW]) & MASK
    if 0 < ahead < HALF:
        return False
    for i in range(WINDOW):
        if s.ring[number, i, 0] != 0 and s.ring[number, i, 1] == print_:
            s.stats[number, S_DUPLICATES] += np.uint64(1)
            return True
    return False


@inline_always
def stream_of(orders, s, number):
    """Return the number of the stream that a session belongs to."""
    known = orders.session[number, O_STREAM]
    if known != 0:
        return known
    stream = s.key[number, 2] & ~np.uint64(0xFFFFFFFF)
    found = find_session(orders.streams, s.key[number, 0], s.key[number, 1], stream, s.key[number, 3], s.key[number, 4])
    orders.session[number, O_STREAM] = found
    orders.stream[found, O_DOMAINS] += 1
    return found


@inline
def _weigh(order, number, word, plus, minus):
    """Count evidence for or against the assumption that a word holds."""
    if plus and not minus and order[number, word] < CERTAIN:
        order[number, word] += 1
    elif minus and not plus and order[number, word] > -CERTAIN:
        order[number, word] -= 1


@inline
def _fits(order, number, sequence, units, flows):
    """Return bit 1: in order by the standard; bit 2: in order if numbers are those of last records."""
    ahead = (sequence - order[number, O_RAW]) & MASK
    answer = 0
    if ahead in (order[number, O_UNITS], order[number, O_FLOWS]):
        answer |= 1
    if ahead in (units, flows):
        answer |= 2
    return answer


@inline
def _note(order, number, sequence, units, flows, unknown):
    order[number, O_SEEN] = 1
    order[number, O_RAW] = sequence
    order[number, O_UNITS] = units
    order[number, O_FLOWS] = flows
    order[number, O_UNKNOWN] = unknown


@inline
def _fits_odd(order, number, sequence, datagrams):
    """Return True if the number grew in another unit: by records where it should count datagrams, or vice versa."""
    ahead = (sequence - order[number, O_RAW]) & MASK
    held, templates = order[number, O_RECORDS], order[number, O_TEMPLATES]
    if datagrams:
        return held + templates > 0 and ahead != 1 and ahead in (held, held + templates)
    return held > 1 and (ahead == 1 or (templates > 0 and ahead == held + templates))


@inline_always
def note_contents(orders, number, held, templates):
    """Note how many records (0 = not known) and templates the datagram held whose number was followed last."""
    orders.session[number, O_RECORDS] = held
    orders.session[number, O_TEMPLATES] = templates


@inline_always
def follow(orders, s, number, sequence, units, flows, unknown, datagrams, uptime, clock_us, now_us, print_):
    """Follow the number of one datagram; counts as `track_sequence` does and returns one of its answers.

    `units`: how much the datagram advances the number; `flows`: the same without options records.  `unknown`: it also
    held data without template, so that the next number says nothing about loss.  `datagrams`: the protocol numbers
    datagrams and not records, so that both are 1.
    """
    order = orders.session
    stream = stream_of(orders, s, number)
    shared = False
    here = _fits(order, number, sequence, units, flows) if order[number, O_SEEN] != 0 else 0
    there = 0
    if orders.stream[stream, O_DOMAINS] > 1 and orders.stream[stream, O_SEEN] != 0:
        there = _fits(orders.stream, stream, sequence, units, flows)
        if order[number, O_SEEN] != 0:
            _weigh(orders.stream, stream, O_SHARED, there != 0, here != 0)
        shared = orders.stream[stream, O_SHARED] > 0
    seen = there if shared else here
    _weigh(order, number, O_LAST_RECORD, seen == 2, seen == 1)
    odd = order[number, O_SEEN] != 0 and _fits_odd(order, number, sequence, datagrams)
    _weigh(order, number, O_ODD_UNITS, odd, here != 0 or there != 0)
    odd_units = order[number, O_ODD_UNITS] > 0
    last_record = order[number, O_LAST_RECORD] > 0 and not odd_units
    start = (sequence - units) & MASK if last_record else sequence

    if order[number, O_SEEN] != 0:
        before = orders.stream if shared else order
        at = stream if shared else number
        expected = before[at, O_RAW] if last_record else (before[at, O_RAW] + before[at, O_UNITS]) & MASK
        if odd_units:
            step = order[number, O_RECORDS] + order[number, O_TEMPLATES] if datagrams else np.int64(1)
            expected = (order[number, O_RAW] + step) & MASK
        ahead = (start - expected) & MASK
        if seen != 0 or (odd and odd_units) or (before[at, O_UNKNOWN] != 0 and ahead < HALF):
            expected = start
        if odd and odd_units and seen == 0:
            s.problems[number, Reason.SEQUENCE_UNITS.value] += np.uint64(1)
        s.sequence[number, Q_NEXT] = expected
    answer = track_sequence(s, number, start, units, uptime, clock_us, now_us, print_)
    if answer == T_DUPLICATE:
        return answer
    if answer == T_LATE:
        answer = _late(order, s, number, sequence, units)
    if answer != T_LATE:
        _note(order, number, sequence, units, flows, unknown)
        ahead = (sequence - orders.stream[stream, O_RAW]) & MASK
        if ahead < HALF or answer >= T_RESTART or orders.stream[stream, O_SEEN] == 0:
            _note(orders.stream, stream, sequence, units, flows, unknown)
    return answer


@inline_always
def began_again(orders, s, number, sequence, clock_us):
    """Return True if the number of an IPFIX message went back but not its clock: late messages have an earlier one."""
    if orders.session[number, O_SEEN] == 0:
        return False
    back = (orders.session[number, O_RAW] - sequence) & MASK
    return 0 < back < HALF and clock_us > s.sequence[number, Q_CLOCK_US] + CLOCK_SLACK_US


@inline
def _late(order, s, number, sequence, units):
    """Detect a restart: a run of late datagrams that are in order among themselves."""
    if sequence == order[number, O_LATE_NEXT]:
        order[number, O_LATE_RUN] += 1
    else:
        order[number, O_LATE_RUN] = 1
    order[number, O_LATE_NEXT] = (sequence + units) & MASK
    if order[number, O_LATE_RUN] < RESTART_RUN or units == 0:
        return T_LATE
    order[number, O_LATE_RUN] = 0
    s.stats[number, S_RESTARTS] += np.uint64(1)
    s.sequence[number, Q_NEXT] = (sequence + units) & MASK
    for i in range(WINDOW):
        s.ring[number, i, 0] = np.uint64(0)
    return T_RESTART


def begin_orders_anew(orders: SequenceOrder, sessions: NDArray[np.int64]) -> None:
    """Treat the next datagram of these sessions as the first one: it says nothing about loss."""
    orders.session[sessions, O_SEEN] = 0
    orders.stream[orders.session[sessions, O_STREAM], O_SEEN] = 0


def forget_orders(orders: SequenceOrder, sessions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Forget the order of these sessions, and streams without sessions left; returns the numbers of these streams."""
    streams = orders.session[sessions, O_STREAM]
    np.subtract.at(orders.stream[:, O_DOMAINS], streams, 1)
    orders.session[sessions] = 0
    empty = np.unique(streams[streams > 0])
    alone: NDArray[np.int64] = empty[orders.stream[empty, O_DOMAINS] <= 0]
    orders.stream[alone] = 0
    forget(orders.streams, alone)
    return alone
