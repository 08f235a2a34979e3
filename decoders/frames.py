"""NetFlow v9 and IPFIX messages, walked in order: headers, sets, template records (kernels).

Strategy: one pass over the datagrams in the order in which they came, so that a template holds from its place on.
Where Python has to do something - compile a new template, give more rows, forget the templates of an exporter that
restarted - the pass stops and says why (`I_…`); all it needs to go on stands in `Work.state`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoders import plan as p
from decoders.errors import Reason
from decoders.fields import (
    C_DOMAIN,
    C_HEADER_US,
    C_INIT_MS,
    C_RECEIVED_US,
    C_SESSION,
    C_UPTIME,
    C_VERSION,
    C_WORDS,
    run_plan,
)
from decoders.finish import finish_rows
from decoders.held import H_LENGTH, H_LIVE, H_POSITION, Held, hold
from decoders.jit import forced, inline, kernel
from decoders.limits import Limits
from decoders.names import Names
from decoders.options import read_options
from decoders.pool import Plans
from decoders.rows import clear_row
from decoders.samplers import Samplers
from decoders.sequence import O_UNKNOWN, Orders, follow, is_duplicate
from decoders.sessions import (
    S_HELD_OCTETS,
    S_RECORDS,
    S_TEMPLATES,
    T_RESTART,
    Sessions,
    find_session,
    fingerprint,
)
from decoders.templates import Table, digest_record, find_template
from decoders.wire import u16, u32

I_DONE, I_TEMPLATE, I_ROWS, I_RESTART = range(4)
"""Why a pass stopped: all done; a template record at W_RECORD is new; W_NEED rows are wanted; the exporter of this
message restarted."""

# Words of Work.state
(
    W_DATAGRAM,  # index in `picked`
    W_OPEN,  # 1 while a message is being walked
    W_MESSAGE,  # offset of the message
    W_PAYLOAD_END,
    W_SET,  # offset of the next set
    W_END,  # end of the message
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
    W_WORDS,
) = range(21)


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


def new_work(limits: Limits, domain_in_key: bool) -> Work:
    """State for a pass that has not begun."""
    return Work(
        np.zeros(W_WORDS, np.int64),
        np.zeros(C_WORDS, np.int64),
        np.zeros(C_WORDS, np.int64),
        np.zeros(1, np.uint64),
        np.zeros((limits.problems_per_batch, 4), np.int64),
        np.array([limits.template_fields, limits.held_octets_per_session], np.int64),
        domain_in_key,
    )


@inline
def problem(b, w, k, reason, at, detail):  # type: ignore[no-untyped-def]
    """Count a problem of the message at hand, and list it while there is room."""
    k.sessions.problems[w.ctx[C_SESSION], reason] += np.uint64(1)
    n = w.state[W_PROBLEMS]
    if n < w.log.shape[0]:
        datagram = b.picked[w.state[W_DATAGRAM]]
        w.log[n, 0] = datagram
        w.log[n, 1] = at - b.start[datagram]
        w.log[n, 2] = reason
        w.log[n, 3] = detail
        w.state[W_PROBLEMS] = n + 1


@forced
def sets_fit(octets, at, end):  # type: ignore[no-untyped-def]
    """Offset of the first set whose length cannot be, −1 if all can."""
    while at + 4 <= end:
        length = u16(octets, at + 2)
        if length < 4 or at + length > end:
            return at
        at += length
    return np.int64(-1)


@forced
def open_message(b, w, k):  # type: ignore[no-untyped-def]
    """Read the header of the message at W_MESSAGE.  True if its sets are to be walked (facts 3.1)."""
    st = w.state
    ctx = w.ctx
    datagram = b.picked[st[W_DATAGRAM]]
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
        if at != b.start[datagram] and w.domain_in_key:
            key = (s.key[number, 2] & ~np.uint64(0xFFFFFFFF)) | np.uint64(ctx[C_DOMAIN])
            if key != s.key[number, 2]:
                number = find_session(s, s.key[number, 0], s.key[number, 1], key, np.uint64(0), np.uint64(0))
                if number == 0:
                    problem(b, w, k, Reason.SESSION_LIMIT.value, at, ctx[C_DOMAIN])
                    st[W_END] = payload_end
                    return False
                ctx[C_SESSION] = number
        if length < 16 or at + length > payload_end:
            problem(b, w, k, Reason.MESSAGE_LENGTH.value, at + 2, length)
            k.orders.session[number, O_UNKNOWN] = 1
            st[W_END] = payload_end
            return False
        bad = sets_fit(octets, at + 16, at + length)
        if bad >= 0:
            problem(b, w, k, Reason.SET_LENGTH.value, bad, u16(octets, bad))
            k.orders.session[number, O_UNKNOWN] = 1
            return False
    ctx[C_INIT_MS] = k.samplers.init_ms[number]
    s.skew_us[number] = ctx[C_HEADER_US] - ctx[C_RECEIVED_US]
    w.print_[0] = fingerprint(octets, at, st[W_END] - at)
    if is_duplicate(k.orders, s, number, st[W_SEQUENCE], w.print_[0]):
        problem(b, w, k, Reason.DUPLICATE.value, at, st[W_SEQUENCE])
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
            problem(b, w, k, Reason.COUNT_MISMATCH.value, st[W_MESSAGE] + 2, count)
    else:
        follow(
            k.orders,
            k.sessions,
            number,
            st[W_SEQUENCE],
            st[W_UNITS],
            st[W_FLOWS],
            st[W_UNKNOWN],
            np.int64(-1),
            w.print_[0],
        )
        left = st[W_END] - st[W_SET]
        if left > 0 and st[W_BAD] == 0:
            problem(b, w, k, Reason.TRAILING.value, st[W_SET], left)


@inline
def template_record(octets, at, end, version, options, most):  # type: ignore[no-untyped-def]
    """Check one template record.  Returns (its end, −1 if it has none; reason, −1 if it is sound)."""
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


@inline
def all_zero(octets, at, end):  # type: ignore[no-untyped-def]
    """True if only zeros stand there: padding."""
    for i in range(at, end):  # noqa: SIM110  (kernels have no generators)
        if octets[i] != 0:
            return False
    return True


@forced
def walk_templates(b, w, k, options, set_end):  # type: ignore[no-untyped-def]
    """Walk the records of a template set from W_RECORD.  I_TEMPLATE if one of them is new or different."""
    st = w.state
    octets = b.octets
    version = w.ctx[C_VERSION]
    at = st[W_RECORD]
    while at + 4 <= set_end:
        number = u16(octets, at)
        if version == 10 and u16(octets, at + 2) == 0 and (number >= 256 or number == 2 + options):
            problem(b, w, k, Reason.WITHDRAWAL.value, at, number)
            at += 4
            continue
        if number < 256:
            if not all_zero(octets, at, set_end):
                problem(b, w, k, Reason.TEMPLATE_MALFORMED.value, at, number)
            break
        record_end, reason = template_record(octets, at, set_end, version, options != 0, w.caps[0])
        if reason >= 0:
            problem(b, w, k, reason, at, number)
            if record_end < 0:
                break
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


@forced
def measure(octets, at, end, plans, number):  # type: ignore[no-untyped-def]
    """Offsets and sizes of the fields of one record of varying length; its octets, or −1 if it does not fit.

    Source: RFC 7011 section 7.
    """
    base = plans.head[number, p.P_FIELD]
    here = at
    for field in range(base, base + plans.head[number, p.P_FIELDS]):
        width = plans.width[field]
        if width < 0:
            if here >= end:
                return np.int64(-1)
            width = np.int64(octets[here])
            here += 1
            if width == 255:
                if here + 2 > end:
                    return np.int64(-1)
                width = u16(octets, here)
                here += 2
        plans.off[field] = here - at
        plans.size[field] = width
        here += width
        if here > end:
            return np.int64(-1)
    return here - at


@inline
def fixed_count(octets, at, end, size):  # type: ignore[no-untyped-def]
    """Records of one length in a set; the rest is padding (facts 3.2)."""
    n = (end - at) // size
    if size <= 3:
        while n > 0 and at + (n - 1) * size >= end - 3 and all_zero(octets, at + (n - 1) * size, at + n * size):
            n -= 1
    return n


@forced
def decode_set(octets, at, end, number, ctx, k, rows, state):  # type: ignore[no-untyped-def]
    """Decode the records `octets[at:end]` with plan `number` into `rows` from `state[W_ROWS]` on.

    Returns (records, ended well), or (−1, …) if there may be more rows than there is room: then nothing was done.
    """
    plans = k.plans
    head = plans.head
    flags = head[number, p.P_FLAGS]
    least = head[number, p.P_LEAST]
    fixed = head[number, p.P_FIXED]
    row = state[W_ROWS]
    step = 2 if flags & p.F_REVERSE != 0 else 1
    if flags & p.F_OPTIONS == 0:
        need = (end - at) // least * step
        if row + need > rows.u32.shape[1]:
            state[W_NEED] = need
            return np.int64(-1), True
    if fixed > 0:
        n = fixed_count(octets, at, end, fixed)
        if flags & p.F_OPTIONS != 0:
            for i in range(n):
                read_options(octets, at + i * fixed, plans, number, ctx[C_SESSION], k.samplers)
        elif n > 0:
            run_plan(octets, at, fixed, n, plans, number, ctx, k.names, k.samplers, rows, row, step)
            state[W_ROWS] = finish_rows(rows, row, n, step, flags, ctx, k.sessions, k.samplers)
        return n, True
    count = np.int64(0)
    well = True
    while end - at >= least:
        size = measure(octets, at, end, plans, number)
        if size < 0:
            well = False
            break
        if flags & p.F_OPTIONS != 0:
            read_options(octets, at, plans, number, ctx[C_SESSION], k.samplers)
        else:
            run_plan(octets, at, size, 1, plans, number, ctx, k.names, k.samplers, rows, row + count * step, step)
        count += 1
        at += size
    if count > 0 and flags & p.F_OPTIONS == 0:
        state[W_ROWS] = finish_rows(rows, row, count, step, flags, ctx, k.sessions, k.samplers)
    return count, well


@forced
def data_set(b, w, k, rows, at, end, number):  # type: ignore[no-untyped-def]
    """One data set of the message at hand: decode it, or hold it until its template comes."""
    st = w.state
    entry = find_template(k.table, w.ctx[C_SESSION], number)
    if entry < 0:
        st[W_UNKNOWN] = 1
        if hold(k.held, b.octets, at, end - at, number, w.ctx, k.sessions, w.caps[1]):
            problem(b, w, k, Reason.HELD.value, at, number)
        else:
            problem(b, w, k, Reason.NO_TEMPLATE.value, at, number)
        return I_DONE
    plan = k.table.plan[entry]
    records, well = decode_set(b.octets, at, end, plan, w.ctx, k, rows, st)
    if records < 0:
        return I_ROWS
    st[W_UNITS] += records
    if k.plans.head[plan, p.P_FLAGS] & p.F_OPTIONS == 0:
        st[W_FLOWS] += records
    else:
        w.ctx[C_INIT_MS] = k.samplers.init_ms[w.ctx[C_SESSION]]
    if not well:
        problem(b, w, k, Reason.FIELD_OVERRUN.value, at, number)
        st[W_UNKNOWN] = 1
        if w.ctx[C_VERSION] == 10:
            st[W_BAD] = 1
    return I_DONE


@forced
def walk_sets(b, w, k, rows):  # type: ignore[no-untyped-def]
    """Walk the sets of the open message from W_SET on."""
    st = w.state
    octets = b.octets
    version = w.ctx[C_VERSION]
    while st[W_SET] + 4 <= st[W_END] and st[W_BAD] == 0:
        at = st[W_SET]
        number = u16(octets, at)
        length = u16(octets, at + 2)
        if length < 4 or at + length > st[W_END]:
            problem(b, w, k, Reason.SET_LENGTH.value, at, number)
            st[W_UNKNOWN] = 1
            break
        kind = number if version == 9 else number - 2
        if kind in (0, 1):
            if st[W_RECORD] == 0:
                st[W_RECORD] = at + 4
            code = walk_templates(b, w, k, kind, at + length)
        elif number < 256:
            problem(b, w, k, Reason.RESERVED_SET.value, at, number)
            code = I_DONE
        else:
            code = data_set(b, w, k, rows, at + 4, at + length, number)
        if code != I_DONE:
            return code
        st[W_SETS] += 1
        st[W_SET] = at + length
    if st[W_BAD] != 0:
        # A malformed IPFIX message counts for nothing as a whole (RFC 7011 section 9.1).
        for row in range(st[W_ROW0], st[W_ROWS]):
            clear_row(rows, row)
        st[W_ROWS] = st[W_ROW0]
        st[W_FLOWS] = 0
    return I_DONE


@forced
def next_message(b, w, k):  # type: ignore[no-untyped-def]
    """After a message: a second one in the same payload if its version says so, else the next datagram (facts 3.1)."""
    st = w.state
    st[W_OPEN] = 0
    end = st[W_END]
    left = st[W_PAYLOAD_END] - end
    if left > 0:
        if left >= 16 and u16(b.octets, end) == 10:
            st[W_MESSAGE] = end
            return
        problem(b, w, k, Reason.TRAILING.value, end, left)
    st[W_DATAGRAM] += 1
    st[W_MESSAGE] = -1


@forced
def walk_messages(b, w, k, rows):  # type: ignore[no-untyped-def]
    """Walk messages until the pass is done or something is wanted; returns one of the I_ codes."""
    st = w.state
    while True:
        if st[W_OPEN] == 0:
            if st[W_DATAGRAM] >= b.picked.shape[0]:
                return I_DONE
            if st[W_MESSAGE] < 0:
                datagram = b.picked[st[W_DATAGRAM]]
                st[W_MESSAGE] = b.start[datagram]
                st[W_PAYLOAD_END] = b.start[datagram] + b.length[datagram]
            if not open_message(b, w, k):
                next_message(b, w, k)
                continue
            st[W_OPEN] = 1
            if w.ctx[C_VERSION] == 9 and restarted(w, k):
                return I_RESTART
        code = walk_sets(b, w, k, rows)
        if code != I_DONE:
            return code
        close_message(b, w, k)
        next_message(b, w, k)


@forced
def restarted(w, k):  # type: ignore[no-untyped-def]
    """Follow the number of a v9 datagram, which is known before its sets; True if templates have to go."""
    number = w.ctx[C_SESSION]
    one = np.int64(1)
    answer = follow(
        k.orders, k.sessions, number, w.state[W_SEQUENCE], one, one, np.int64(0), w.ctx[C_UPTIME], w.print_[0]
    )
    return answer == T_RESTART and k.sessions.stats[number, S_TEMPLATES] != 0


@forced
def release(entries, plan, w, k, rows):  # type: ignore[no-untyped-def]
    """Decode held sets from number W_RELEASED on with the plan of the template that came; False if rows run out."""
    held = k.held
    s = k.sessions
    ctx = w.held_ctx
    st = w.state
    while st[W_RELEASED] < entries.shape[0]:
        entry = entries[st[W_RELEASED]]
        for word in range(C_WORDS):
            ctx[word] = held.meta[entry, word]
        session = ctx[C_SESSION]
        ctx[C_INIT_MS] = k.samplers.init_ms[session]
        length = held.meta[entry, H_LENGTH]
        at = held.meta[entry, H_POSITION] % held.octets.shape[0]
        records, well = decode_set(held.octets, at, at + length, plan, ctx, k, rows, st)
        if records < 0:
            return False
        if not well:
            s.problems[session, Reason.FIELD_OVERRUN.value] += np.uint64(1)
        if k.plans.head[plan, p.P_FLAGS] & p.F_OPTIONS == 0:
            s.stats[session, S_RECORDS] += np.uint64(records)
        held.meta[entry, H_LIVE] = 0
        s.stats[session, S_HELD_OCTETS] -= np.uint64(length)
        st[W_RELEASED] += 1
    return True


@kernel
def walk(b, w, k, rows, entries, plan):  # type: ignore[no-untyped-def]
    """Decode what `entries` of the held sets wait for `plan`, then go on with the pass; returns one of the I_ codes.

    The one kernel of this module that counts references to arrays: in those below it, that would cost more than the
    decoding.
    """
    if w.state[W_RELEASED] < entries.shape[0]:
        if not release(entries, plan, w, k, rows):
            return I_ROWS
        # They are not part of the message that brought the template: should that be given up, they stay.
        w.state[W_ROW0] = w.state[W_ROWS]
    return walk_messages(b, w, k, rows)


@kernel
def rows_wanted(b, table, plans):  # type: ignore[no-untyped-def]
    """Rows that the data sets of these datagrams give at most, by the templates known now."""
    total = np.int64(0)
    for i in range(b.picked.shape[0]):
        datagram = b.picked[i]
        start = b.start[datagram]
        end = start + b.length[datagram]
        at = start + (20 if u16(b.octets, start) == 9 else 16)
        while at + 4 <= end:
            length = u16(b.octets, at + 2)
            if length < 4:
                break
            number = u16(b.octets, at)
            if number >= 256:
                entry = find_template(table, b.session[datagram], number)
                if entry >= 0:
                    plan = table.plan[entry]
                    step = 2 if plans.head[plan, p.P_FLAGS] & p.F_REVERSE != 0 else 1
                    total += (min(at + length, end) - at - 4) // plans.head[plan, p.P_LEAST] * step
            at += length
    return total
