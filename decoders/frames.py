"""NetFlow v9 and IPFIX messages: where one begins and ends, its header, its place in the sequence (kernels).

Strategy: one pass over the datagrams in the order in which they came, so that a template holds from its place on.
Where Python has to do something - compile a new template, give more rows, forget the templates of an exporter that
restarted - the pass stops and says why (`I_…`); all it needs to go on stands in `Work.state`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoders.errors import Reason
from decoders.fields import (
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
from decoders.finish import trusted_clock
from decoders.held import Held
from decoders.jit import forced, inline
from decoders.limits import Limits
from decoders.names import Names
from decoders.pool import Plans
from decoders.samplers import Samplers
from decoders.sequence import O_UNKNOWN, Orders, began_again, follow, is_duplicate, note_contents, stream_of
from decoders.sessions import (
    S_DATAGRAMS,
    S_HELD_OCTETS,
    S_LAST_SEEN_US,
    S_RECORDS,
    S_TEMPLATES,
    T_REBOOT,
    Sessions,
    find_session,
    fingerprint,
    mix,
    over_stream,
)
from decoders.templates import Table
from decoders.totals import Totals
from decoders.wire import all_zero, u16, u32

I_DONE, I_TEMPLATE, I_ROWS, I_RESTART, I_SET, I_WITHDRAWAL = range(6)
"""Why a pass stopped: all done; a template record at W_RECORD is new; W_NEED rows are wanted; the exporter of this
message restarted; the record at W_RECORD withdraws a template.  Inside of the kernels also: a data set is to be
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
    W_RECORD,  # template record to read, or to go on with; 0 = begin with the set
    W_RECORD_END,
    W_NEED,
    W_PROBLEMS,
    W_BAD,  # 1 = the message is given up
    W_RELEASED,  # held sets decoded of those that were waiting
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
    """State of a pass."""

    state: NDArray[np.int64]
    ctx: NDArray[np.int64]
    held_ctx: NDArray[np.int64]
    """As `ctx`, of a held set."""
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
    """What the decoder knows of exporters."""

    sessions: Sessions
    names: Names
    table: Table
    plans: Plans
    samplers: Samplers
    held: Held
    orders: Orders
    totals: Totals


def new_work(limits: Limits, sessions: Sessions, domain_in_key: bool) -> Work:
    """State for a pass that has not begun."""
    work = Work(
        np.zeros(W_WORDS, np.int64),
        np.zeros(C_WORDS, np.int64),
        np.zeros(C_WORDS, np.int64),
        np.zeros(1, np.uint64),
        sessions.problems,
        np.zeros((limits.problems_per_batch, 4), np.int64),
        np.array([limits.template_fields, limits.held_octets_per_session], np.int64),
        domain_in_key,
    )
    work.state[W_MESSAGE] = -1
    return work


@inline
def problem(w, reason, at, detail):  # type: ignore[no-untyped-def]
    """Count a problem of the message at hand, and list it while there is room."""
    w.problems[w.ctx[C_SESSION], reason] += np.uint64(1)
    n = w.state[W_PROBLEMS]
    if n < w.log.shape[0]:
        w.log[n, 0] = w.state[W_NUMBER]
        w.log[n, 1] = at - w.state[W_START]
        w.log[n, 2] = reason
        w.log[n, 3] = detail
        w.state[W_PROBLEMS] = n + 1


@forced
def sets_fit(octets, at, end):  # type: ignore[no-untyped-def]
    """Offset of the first set whose length cannot be, −1 if all can."""
    while at + 4 <= end:
        length = u16(octets, at + 2)
        if length == 0 and all_zero(octets, at, end):
            return np.int64(-1)
        if length < 4 or at + length > end:
            return at
        at += length
    return np.int64(-1)


@forced
def open_message(b, w, k):  # type: ignore[no-untyped-def]
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
        # A connection repeats nothing: messages with the same octets are several.  The count grows from batch to batch.
        w.print_[0] = mix(s.stats[number, S_DATAGRAMS], np.uint64(at))
        return True
    w.print_[0] = fingerprint(octets, at, st[W_END] - at)
    if is_duplicate(k.orders, s, number, st[W_SEQUENCE], w.print_[0]):
        problem(w, Reason.DUPLICATE.value, at, st[W_SEQUENCE])
        return False
    return True


@forced
def close_message(b, w, k):  # type: ignore[no-untyped-def]
    """Settle the counts of a message whose sets are walked."""
    st = w.state
    number = w.ctx[C_SESSION]
    k.sessions.stats[number, S_RECORDS] += np.uint64(st[W_FLOWS])
    if w.ctx[C_VERSION] == 9:
        count = u16(b.octets, st[W_MESSAGE] + 2)
        units, flows, templates = st[W_UNITS], st[W_FLOWS], st[W_TEMPLATES]
        # By RFC 3954 records of all kinds; exporters count as they like.
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


@forced
def next_message(b, w):  # type: ignore[no-untyped-def]
    """After a message: a second one in the same payload if its version says so, else the next datagram."""
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


@forced
def restarted(w, k):  # type: ignore[no-untyped-def]
    """True if what the exporter of the message at hand announced, or had waiting, is void: it restarted.

    The number of a v9 datagram is known before its sets, and followed here.  IPFIX has no uptime: there a number that
    went back while the clock went on is a new beginning.
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
        known = s.stats[number, S_TEMPLATES] | s.stats[number, S_HELD_OCTETS]
        rates = k.samplers.used[number] | k.samplers.init_ms[number]
        return answer == T_REBOOT and (known != 0 or rates != 0)
    return s.stats[number, S_HELD_OCTETS] != 0 and began_again(
        k.orders, s, number, w.state[W_SEQUENCE], w.state[W_CLOCK_US]
    )
