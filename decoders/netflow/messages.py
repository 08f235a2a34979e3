"""NetFlow v9 and IPFIX messages: headers, template sets, and data that waits for its template (kernels).

Strategy: one pass over the datagrams in order of arrival, so that a template is valid from its place on.  Where Python
has to do something (compile a new template, give more rows, forget the templates of an exporter that restarted), the
pass stops and returns the reason (`I_…`); all it needs to continue is in `Work.state`.

Data can come before its template.  Open vSwitch from 3.2 on sends statistics before their template at each start; after
a restart of the collector all exporters do so.  Such sets are copied into a bounded arena (`Held`) and decoded when the
template comes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoders.errors import Reason
from decoders.hashes import mix
from decoders.interface_names import Names
from decoders.jit import inline, inline_always, kernel
from decoders.limits import Limits
from decoders.netflow.fields import (
    C_DOMAIN,
    C_HEADER_US,
    C_INIT_MS,
    C_RECEIVED_US,
    C_SESSION,
    C_STREAM,
    C_UPTIME,
    C_VERSION,
    C_WORDS,
)
from decoders.netflow.rows import trusted_clock
from decoders.netflow.samplers import Samplers
from decoders.netflow.sequence import (
    O_UNKNOWN,
    SequenceOrder,
    began_again,
    follow,
    is_duplicate,
    note_contents,
    stream_of,
)
from decoders.netflow.templates import Plans, Table, digest_record, find_template
from decoders.netflow.totals import Totals
from decoders.sessions import (
    S_DATAGRAMS,
    S_HELD_BYTES,
    S_LAST_SEEN_US,
    S_RECORDS,
    S_TEMPLATES,
    T_REBOOT,
    Sessions,
    find_session,
    fingerprint,
    over_stream,
)
from decoders.wire import all_zero, u16, u32

# Words of a held set, after those of its context
H_TEMPLATE, H_POSITION, H_LENGTH, H_LIVE, H_WORDS = range(C_WORDS, C_WORDS + 5)

# Words of the queue's state; positions only grow, an offset is position modulo capacity
A_FIRST, A_COUNT, A_HEAD, A_WORDS = range(4)

ENTRIES = 262_144
"""Held sets at once: 256 octets each would fill the arena, and Open vSwitch sends about 300 per set."""


FREE_SHARE = 4
LEAST_SHARE = 64 * 1024
"""A second of a busy exporter, which every stream may hold: to push out all that waits takes a thousand streams."""


class Held(NamedTuple):
    """Data sets that wait for their template: one arena for all sessions, a queue in order of arrival.

    Sets that are too old, or displaced by newer data, leave at its old end.
    """

    octets: NDArray[np.uint8]
    meta: NDArray[np.int64]
    """[ENTRIES, H_WORDS]: a ring, `state[A_FIRST]` the oldest."""
    state: NDArray[np.int64]
    """[A_WORDS]"""


def new_held(limits: Limits) -> Held:
    """Return an empty arena; memory is taken when it is first written."""
    return Held(
        np.zeros(limits.held_bytes, np.uint8),
        np.zeros((ENTRIES, H_WORDS), np.int64),
        np.zeros(A_WORDS, np.int64),
    )


@inline
def _drop_oldest(held, s):
    """Drop the oldest set; counted unless it was decoded meanwhile."""
    first = held.state[A_FIRST]
    if held.meta[first, H_LIVE] != 0:
        session = held.meta[first, C_SESSION]
        s.problems[session, Reason.NO_TEMPLATE.value] += np.uint64(1)
        s.stats[session, S_HELD_BYTES] -= np.uint64(held.meta[first, H_LENGTH])
        held.meta[first, H_LIVE] = 0
    held.state[A_FIRST] = (first + 1) % held.meta.shape[0]
    held.state[A_COUNT] -= 1


@inline
def hold(held, octets, at, length, template, ctx, s, per_session):
    """Copy a set that waits for `template`; False if its session already has its share."""
    session = ctx[C_SESSION]
    capacity = held.octets.shape[0]
    if np.int64(s.stats[session, S_HELD_BYTES]) + length > per_session or length > capacity:
        return False
    position = held.state[A_HEAD]
    if position % capacity + length > capacity:
        position += capacity - position % capacity
    while held.state[A_COUNT] > 0 and (
        held.state[A_COUNT] >= held.meta.shape[0]
        or position + length - held.meta[held.state[A_FIRST], H_POSITION] > capacity
    ):
        _drop_oldest(held, s)
    entry = (held.state[A_FIRST] + held.state[A_COUNT]) % held.meta.shape[0]
    for word in range(C_WORDS):
        held.meta[entry, word] = ctx[word]
    held.meta[entry, H_TEMPLATE] = template
    held.meta[entry, H_POSITION] = position
    held.meta[entry, H_LENGTH] = length
    held.meta[entry, H_LIVE] = 1
    offset = position % capacity
    for i in range(length):
        held.octets[offset + i] = octets[at + i]
    held.state[A_HEAD] = position + length
    held.state[A_COUNT] += 1
    s.stats[session, S_HELD_BYTES] += np.uint64(length)
    return True


@kernel
def expire(held, s, now_us, lifetime_us):
    """Drop sets that have waited for too long or were decoded meanwhile, from the old end."""
    while held.state[A_COUNT] > 0:
        first = held.state[A_FIRST]
        if held.meta[first, H_LIVE] != 0 and held.meta[first, C_RECEIVED_US] + lifetime_us >= now_us:
            return
        _drop_oldest(held, s)


def waiting(held: Held, session: int, template: int) -> NDArray[np.int64]:
    """Return the entries that wait for this template, the oldest first."""
    first, count = int(held.state[A_FIRST]), int(held.state[A_COUNT])
    order = (first + np.arange(count)) % len(held.meta)
    live, of, number = (held.meta[order, word] for word in (H_LIVE, C_SESSION, H_TEMPLATE))
    wanted = (live != 0) & (of == session) & (number == template)
    chosen: NDArray[np.int64] = order[wanted]
    return chosen


def share(held: Held, limits: Limits) -> int:
    """Return how many octets a session may hold now: a part of what is free, so that few senders cannot fill it all."""
    count, head = int(held.state[A_COUNT]), int(held.state[A_HEAD])
    used = head - int(held.meta[held.state[A_FIRST], H_POSITION]) if count else 0
    free = limits.held_bytes - used
    return min(limits.held_bytes_per_session, max(LEAST_SHARE, free // FREE_SHARE))


def held_since(held: Held, position: int) -> list[tuple[int, int, bytes]]:
    """Return session, template and octets of the first set waiting for each template since a position of the queue."""
    first, count = int(held.state[A_FIRST]), int(held.state[A_COUNT])
    order = (first + np.arange(count)) % len(held.meta)
    order = order[np.searchsorted(held.meta[order, H_POSITION], position) :]
    order = order[held.meta[order, H_LIVE] != 0]
    _, firsts = np.unique(held.meta[order][:, (C_SESSION, H_TEMPLATE)], axis=0, return_index=True)
    found = []
    words = (C_SESSION, H_TEMPLATE, H_POSITION, H_LENGTH)
    for session, number, at, length in held.meta[order[firsts]][:, words].tolist():
        offset = at % len(held.octets)
        found.append((session, number, held.octets[offset : offset + length].tobytes()))
    return found


def waits(held: Held) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sessions whose data waits for a template, and when the oldest of each was received (µs)."""
    first, count = int(held.state[A_FIRST]), int(held.state[A_COUNT])
    order = (first + np.arange(count)) % len(held.meta)
    order = order[held.meta[order, H_LIVE] != 0]
    sessions, firsts = np.unique(held.meta[order, C_SESSION], return_index=True)
    return sessions, held.meta[order[firsts], C_RECEIVED_US]


def forget_held(held: Held, s: Sessions, sessions: NDArray[np.int64]) -> None:
    """Drop what waits for templates of these sessions, counted."""
    first, count = int(held.state[A_FIRST]), int(held.state[A_COUNT])
    order = (first + np.arange(count)) % len(held.meta)
    gone = order[(held.meta[order, H_LIVE] != 0) & np.isin(held.meta[order, C_SESSION], sessions)]
    np.add.at(s.problems, (held.meta[gone, C_SESSION], int(Reason.NO_TEMPLATE)), np.uint64(1))
    held.meta[gone, H_LIVE] = 0
    s.stats[sessions, S_HELD_BYTES] = 0


I_DONE, I_TEMPLATE, I_ROWS, I_RESTART, I_SET, I_WITHDRAWAL = range(6)
"""Why a pass stopped: all done; a template record at W_RECORD is new; W_NEED rows are needed; the exporter of this
message restarted; the record at W_RECORD withdraws a template.  Inside the kernels also: a data set is to be
decoded."""

# Words of Work.state
(
    W_DATAGRAM,  # index in `picked`
    W_NUMBER,  # the datagram's number in the batch
    W_START,  # offset of its payload
    W_PAYLOAD_END,
    W_OPEN,  # 1 while a message is being walked
    W_MESSAGE,  # offset of the message, -1 = the datagram has not begun
    W_SET,  # offset of the next set
    W_END,  # end of the message
    W_PLAN,  # plan of the data set to decode
    W_ROWS,  # rows filled
    W_ROW0,  # rows filled when the message began
    W_UNITS,  # data records of the message, options included
    W_FLOWS,  # flow records of the message
    W_TEMPLATES,  # template records of the message
    W_SETS,
    W_UNKNOWN,  # 1 = it held records that could not be counted
    W_SEQUENCE,
    W_RECORD,  # template record to read, or to continue with; 0 = begin with the set
    W_RECORD_END,
    W_NEED,
    W_PROBLEMS,
    W_BAD,  # 1 = the message is discarded
    W_RELEASED,  # held sets that were decoded, of those waiting
    W_CLOCK_US,  # the clock of the header, as sent
    W_DOUBT,  # 1 = the template at W_RECORD is forgotten, since its new definition is malformed
    W_WORDS,
) = range(26)


class Batch(NamedTuple):
    """The datagrams of one call."""

    octets: NDArray[np.uint8]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    received: NDArray[np.int64]
    picked: NDArray[np.int64]
    session: NDArray[np.int64]


class Work(NamedTuple):
    """The state of a pass."""

    state: NDArray[np.int64]
    ctx: NDArray[np.int64]
    held_ctx: NDArray[np.int64]
    """The same as `ctx`, of a held set."""
    print_: NDArray[np.uint64]
    """[1]: fingerprint of the message."""
    problems: NDArray[np.uint64]
    """`Sessions.problems`"""
    log: NDArray[np.int64]
    """[problems, 4]"""
    caps: NDArray[np.int64]
    """[2]: template fields, held octets per session."""
    domain_in_key: bool


class Known(NamedTuple):
    """What the decoder knows about exporters."""

    sessions: Sessions
    names: Names
    table: Table
    plans: Plans
    samplers: Samplers
    held: Held
    orders: SequenceOrder
    totals: Totals


def new_work(limits: Limits, sessions: Sessions, domain_in_key: bool) -> Work:
    """Return the state of a pass that has not begun."""
    work = Work(
        np.zeros(W_WORDS, np.int64),
        np.zeros(C_WORDS, np.int64),
        np.zeros(C_WORDS, np.int64),
        np.zeros(1, np.uint64),
        sessions.problems,
        np.zeros((limits.problems_per_batch, 4), np.int64),
        np.array([limits.template_fields, limits.held_bytes_per_session], np.int64),
        domain_in_key,
    )
    work.state[W_MESSAGE] = -1
    return work


@inline
def problem(w, reason, at, detail):
    """Count a problem of the current message, and list it while there is room."""
    w.problems[w.ctx[C_SESSION], reason] += np.uint64(1)
    n = w.state[W_PROBLEMS]
    if n < w.log.shape[0]:
        w.log[n, 0] = w.state[W_NUMBER]
        w.log[n, 1] = at - w.state[W_START]
        w.log[n, 2] = reason
        w.log[n, 3] = detail
        w.state[W_PROBLEMS] = n + 1


@inline_always
def sets_fit(octets, at, end):
    """Return the offset of the first set with an impossible length, −1 if there is none."""
    while at + 4 <= end:
        length = u16(octets, at + 2)
        if length == 0 and all_zero(octets, at, end):
            return np.int64(-1)
        if length < 4 or at + length > end:
            return at
        at += length
    return np.int64(-1)


@inline_always
def open_message(b, w, k):
    """Read the header of the message at W_MESSAGE.  True if its sets are to be walked (RFC 7011 section 3.1)."""
    st = w.state
    ctx = w.ctx
    datagram = st[W_NUMBER]
    at = st[W_MESSAGE]
    payload_end = st[W_PAYLOAD_END]
    octets = b.octets
    version = u16(octets, at)
    ctx[C_VERSION] = version
    ctx[C_RECEIVED_US] = b.received[datagram]
    number = b.session[datagram]
    ctx[C_SESSION] = number
    st[W_ROW0] = st[W_ROWS]
    for word in (W_UNITS, W_FLOWS, W_TEMPLATES, W_SETS, W_UNKNOWN, W_RECORD, W_BAD):
        st[word] = 0
    s = k.sessions
    if version == 9:
        st[W_END] = payload_end
        st[W_SET] = at + 20
        ctx[C_UPTIME] = u32(octets, at + 4)
        ctx[C_HEADER_US] = u32(octets, at + 8) * 1_000_000
        st[W_SEQUENCE] = u32(octets, at + 12)
        ctx[C_DOMAIN] = u32(octets, at + 16)
    else:
        length = u16(octets, at + 2)
        ctx[C_UPTIME] = -1
        ctx[C_HEADER_US] = u32(octets, at + 4) * 1_000_000
        st[W_SEQUENCE] = u32(octets, at + 8)
        ctx[C_DOMAIN] = u32(octets, at + 12)
        st[W_END] = at + length
        st[W_SET] = at + 16
        if at != st[W_START] and w.domain_in_key:
            key = (s.key[number, 2] & ~np.uint64(0xFFFFFFFF)) | np.uint64(ctx[C_DOMAIN])
            if key != s.key[number, 2]:
                number = find_session(s, s.key[number, 0], s.key[number, 1], key, s.key[number, 3], s.key[number, 4])
                if number == 0:
                    problem(w, Reason.SESSION_LIMIT.value, at, ctx[C_DOMAIN])
                    st[W_END] = payload_end
                    return False
                ctx[C_SESSION] = number
                s.stats[number, S_LAST_SEEN_US] = np.uint64(ctx[C_RECEIVED_US])
        if length < 16 or at + length > payload_end:
            problem(w, Reason.MESSAGE_LENGTH.value, at + 2, length)
            k.orders.session[number, O_UNKNOWN] = 1
            st[W_END] = payload_end
            return False
        bad = sets_fit(octets, at + 16, at + length)
        if bad >= 0:
            problem(w, Reason.SET_LENGTH.value, bad, u16(octets, bad))
            k.orders.session[number, O_UNKNOWN] = 1
            return False
    ctx[C_INIT_MS] = k.samplers.init_ms[number]
    ctx[C_STREAM] = stream_of(k.orders, s, number)
    st[W_CLOCK_US] = ctx[C_HEADER_US]
    ctx[C_HEADER_US] = trusted_clock(st[W_CLOCK_US], ctx[C_RECEIVED_US], s, number)
    if over_stream(s, number):
        # A connection repeats nothing: messages with equal octets are no duplicates.  The count grows with each batch.
        w.print_[0] = mix(s.stats[number, S_DATAGRAMS], np.uint64(at))
        return True
    w.print_[0] = fingerprint(octets, at, st[W_END] - at)
    if is_duplicate(k.orders, s, number, st[W_SEQUENCE], w.print_[0]):
        problem(w, Reason.DUPLICATE.value, at, st[W_SEQUENCE])
        return False
    return True


@inline_always
def close_message(b, w, k):
    """Complete the counts of a message whose sets have been walked."""
    st = w.state
    number = w.ctx[C_SESSION]
    k.sessions.stats[number, S_RECORDS] += np.uint64(st[W_FLOWS])
    if w.ctx[C_VERSION] == 9:
        count = u16(b.octets, st[W_MESSAGE] + 2)
        units, flows, templates = st[W_UNITS], st[W_FLOWS], st[W_TEMPLATES]
        # By RFC 3954 records of all kinds; exporters differ in what they count.
        usual = (units + templates, units, flows, flows + templates, st[W_SETS])
        if st[W_UNKNOWN] == 0 and count not in usual:
            problem(w, Reason.COUNT_MISMATCH.value, st[W_MESSAGE] + 2, count)
    else:
        follow(
            k.orders,
            k.sessions,
            number,
            st[W_SEQUENCE],
            st[W_UNITS],
            st[W_FLOWS],
            st[W_UNKNOWN],
            False,
            np.int64(-1),
            st[W_CLOCK_US],
            w.ctx[C_RECEIVED_US],
            w.print_[0],
        )
        left = st[W_END] - st[W_SET]
        if left > 0 and st[W_BAD] == 0 and not all_zero(b.octets, st[W_SET], st[W_END]):
            problem(w, Reason.TRAILING.value, st[W_SET], left)
    known = st[W_UNKNOWN] == 0
    note_contents(k.orders, number, st[W_UNITS] if known else np.int64(0), st[W_TEMPLATES])


@inline_always
def next_message(b, w):
    """Go to the next message: one in the same payload if a version field follows, else in the next datagram."""
    st = w.state
    st[W_OPEN] = 0
    end = st[W_END]
    left = st[W_PAYLOAD_END] - end
    if left > 0:
        if left >= 16 and u16(b.octets, end) == 10:
            st[W_MESSAGE] = end
            return
        if not all_zero(b.octets, end, end + left):
            problem(w, Reason.TRAILING.value, end, left)
    st[W_DATAGRAM] += 1
    st[W_MESSAGE] = -1


@inline_always
def restarted(w, k):
    """Return True if the exporter of the current message restarted: what it announced, or had waiting, is void.

    The number of a v9 datagram is known before its sets, and followed here.  IPFIX has no uptime: there a number that
    went back while the clock advanced is a restart.
    """
    number = w.ctx[C_SESSION]
    s = k.sessions
    if w.ctx[C_VERSION] == 9:
        one = np.int64(1)
        answer = follow(
            k.orders,
            s,
            number,
            w.state[W_SEQUENCE],
            one,
            one,
            np.int64(0),
            True,
            w.ctx[C_UPTIME],
            w.state[W_CLOCK_US],
            w.ctx[C_RECEIVED_US],
            w.print_[0],
        )
        known = s.stats[number, S_TEMPLATES] | s.stats[number, S_HELD_BYTES]
        rates = k.samplers.used[number] | k.samplers.init_ms[number]
        return answer == T_REBOOT and (known != 0 or rates != 0)
    return s.stats[number, S_HELD_BYTES] != 0 and began_again(
        k.orders, s, number, w.state[W_SEQUENCE], w.state[W_CLOCK_US]
    )


@inline
def template_record(octets, at, end, version, options, most):
    """Check one template record (RFC 7011 section 3.4).

    Returns (its end, −1 if it has none; reason, −1 if it is valid).
    """
    none = np.int64(-1)
    if version == 9:
        if options:
            if at + 6 > end:
                return none, Reason.TEMPLATE_MALFORMED.value
            scope = u16(octets, at + 2)
            other = u16(octets, at + 4)
            first = at + 6
            if (scope | other) & 3 != 0 or first + scope + other > end:
                return none, Reason.TEMPLATE_MALFORMED.value
            count = (scope + other) // 4
            if scope == 0:
                return first + other, Reason.TEMPLATE_SCOPE.value
        else:
            count = u16(octets, at + 2)
            first = at + 4
            if first + 4 * count > end:
                return none, Reason.TEMPLATE_MALFORMED.value
    else:
        count = u16(octets, at + 2)
        first = at + 4
        if options:
            first = at + 6
            if first > end:
                return none, Reason.TEMPLATE_MALFORMED.value
    if count == 0:
        return first, Reason.TEMPLATE_MALFORMED.value
    least = np.int64(0)
    here = first
    for _ in range(count):
        if here + 4 > end:
            return none, Reason.TEMPLATE_MALFORMED.value
        size = u16(octets, here + 2)
        least += 1 if size == 65_535 else size
        here += 8 if version == 10 and (octets[here] & 0x80) != 0 else 4
        if here > end:
            return none, Reason.TEMPLATE_MALFORMED.value
    if version == 10 and options:
        scopes = u16(octets, at + 4)
        if scopes == 0 or scopes > count:
            return here, Reason.TEMPLATE_SCOPE.value
    if count > most:
        return here, Reason.TEMPLATE_FIELDS.value
    if least == 0:
        return here, Reason.TEMPLATE_EMPTY.value
    return here, -1


@inline_always
def withdraws(k, session, number):
    """Return True if a withdrawal of this id (below 256: of all) can take effect: none does over UDP (RFC 7011 8.4)."""
    if not over_stream(k.sessions, session):
        return False
    if number < 256:
        return k.sessions.stats[session, S_TEMPLATES] != 0
    return find_template(k.table, session, number) >= 0


@inline_always
def walk_templates(b, w, k, options, set_end):
    """Walk the records of a template set from W_RECORD.

    I_TEMPLATE if one of them is new or different, I_WITHDRAWAL if it withdraws what is known.
    """
    st = w.state
    octets = b.octets
    version = w.ctx[C_VERSION]
    at = st[W_RECORD]
    while at + 4 <= set_end:
        number = u16(octets, at)
        if version == 10 and u16(octets, at + 2) == 0 and (number >= 256 or number == 2 + options):
            if withdraws(k, w.ctx[C_SESSION], number):
                st[W_RECORD] = at
                st[W_RECORD_END] = at + 4
                return I_WITHDRAWAL
            problem(w, Reason.WITHDRAWAL.value, at, number)
            at += 4
            continue
        if number < 256:
            if not all_zero(octets, at, set_end):
                problem(w, Reason.TEMPLATE_MALFORMED.value, at, number)
            break
        record_end, reason = template_record(octets, at, set_end, version, options != 0, w.caps[0])
        if reason >= 0:
            problem(w, reason, at, number)
            if record_end < 0:
                record_end = set_end
            if find_template(k.table, w.ctx[C_SESSION], number) >= 0:
                # The data that follows has another, unknown layout: with the old one it would be nonsense.
                st[W_DOUBT] = 1
                st[W_RECORD] = at
                st[W_RECORD_END] = record_end
                return I_WITHDRAWAL
            at = record_end
            continue
        st[W_TEMPLATES] += 1
        digest = digest_record(octets, at, record_end, version, options)
        entry = find_template(k.table, w.ctx[C_SESSION], number)
        if entry < 0 or k.table.digest[entry] != digest:
            st[W_RECORD] = at
            st[W_RECORD_END] = record_end
            return I_TEMPLATE
        k.table.refreshed_us[entry] = w.ctx[C_RECEIVED_US]
        at = record_end
    st[W_RECORD] = 0
    return I_DONE
