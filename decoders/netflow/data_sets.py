"""Data sets of NetFlow v9 and IPFIX (kernels): records become rows, wait for a template, or describe the exporter.

Options records are what exporters state about themselves.  Their sampling rates and the start of the exporter's clock
are kept.

`walk` is the pass over all messages, and the only kernel that counts references to arrays: in its parts that would cost
more than decoding.  The parts are inlined (`inline_always`), and the decoding of a set occurs in it only once: both
avoid calls, which copy every array of every argument, and limit the time to compile.
"""

from __future__ import annotations

import numpy as np

from decoders.errors import Reason
from decoders.jit import inline, inline_always, kernel
from decoders.netflow import plan as p
from decoders.netflow.fields import (
    C_INIT_MS,
    C_RECEIVED_US,
    C_SESSION,
    C_TEMPLATE,
    C_VERSION,
    C_WORDS,
    absolute_us,
    load,
    probability_rate,
    run_plan,
)
from decoders.netflow.messages import (
    H_LENGTH,
    H_LIVE,
    H_POSITION,
    H_TEMPLATE,
    I_DONE,
    I_RESTART,
    I_ROWS,
    I_SET,
    W_BAD,
    W_DATAGRAM,
    W_END,
    W_FLOWS,
    W_MESSAGE,
    W_NEED,
    W_NUMBER,
    W_OPEN,
    W_PAYLOAD_END,
    W_PLAN,
    W_RECORD,
    W_RELEASED,
    W_ROW0,
    W_ROWS,
    W_SET,
    W_SETS,
    W_START,
    W_UNITS,
    W_UNKNOWN,
    close_message,
    hold,
    next_message,
    open_message,
    problem,
    restarted,
    walk_templates,
)
from decoders.netflow.rows import finish_rows
from decoders.netflow.samplers import (
    S_DOMAIN,
    S_EXPORTER,
    S_INTERFACE,
    S_LINE_CARD,
    S_SAMPLER,
    S_TEMPLATE,
    announce,
    rate_of_number,
    rate_of_pair,
)
from decoders.netflow.sequence import stream_of
from decoders.netflow.templates import find_template
from decoders.rows import clear_row, make_ready
from decoders.sessions import S_HELD_BYTES, S_RECORDS, find_session
from decoders.wire import all_zero, u16


@inline_always
def read_options(octets, at, plans, number, session, samplers, s, orders):
    """Read sampling rates and clock of one options record, whose field offsets are in `plans.off`.

    Rates: RFC 5476, RFC 5477, and common practice.  Scopes: RFC 3954 section 6.1, RFC 7011 section 3.4.2.1.
    """
    base = plans.head[number, p.P_FIELD]
    first = plans.head[number, p.P_OP]
    seen = np.int64(0)
    rate = np.int64(-1)
    algorithm = np.int64(0)
    sampler = np.uint64(0)
    interface = np.uint64(0)
    line_card = np.uint64(0)
    template = np.uint64(0)
    domain = np.uint64(0)
    part_count = np.uint64(0)
    part_time = np.uint64(0)
    part_size = np.uint64(0)
    space_count = np.uint64(0)
    space_time = np.uint64(0)
    population = np.uint64(0)
    probable = np.int64(0)
    for o in range(first, first + plans.head[number, p.P_OPS]):
        role = plans.op[o, 0]
        field = base + plans.op[o, 1]
        here = at + plans.off[field]
        size = plans.size[field]
        if role == p.R_PROBABILITY:
            probable = probability_rate(octets, here, size)
            seen |= np.int64(1) << role
            continue
        value = load(octets, here, size)
        seen |= np.int64(1) << role
        if role == p.R_RATE:
            if rate <= 0:
                rate = rate_of_number(value)
        elif role == p.R_SAMPLER:
            sampler = value
        elif role == p.R_INTERFACE:
            interface = value
        elif role == p.R_LINE_CARD:
            line_card = value
        elif role == p.R_TEMPLATE:
            template = value
        elif role == p.R_DOMAIN:
            domain = value
        elif role == p.R_ALGORITHM:
            algorithm = np.int64(value & np.uint64(0xFFFF))
        elif role == p.R_COUNT_INTERVAL:
            part_count = value
        elif role == p.R_COUNT_SPACE:
            space_count = value
        elif role == p.R_TIME_INTERVAL:
            part_time = value
        elif role == p.R_TIME_SPACE:
            space_time = value
        elif role == p.R_SIZE:
            part_size = value
        elif role == p.R_POPULATION:
            population = value
        elif role == p.R_INIT_TIME:
            init_us = absolute_us(octets, here, size, p.UNIT_MILLIS)
            if init_us > 0:
                samplers.init_ms[session] = init_us // 1_000
    if rate < 0:
        if _stated(seen, p.R_COUNT_INTERVAL) and not _stated(seen, p.R_COUNT_SPACE) and part_size == np.uint64(0):
            rate = rate_of_number(part_count)  # alone it is the rate: as in IOS XR, even with random sampling (3)
        elif _stated(seen, p.R_COUNT_INTERVAL) and algorithm in (0, 1):
            rate = _sum_rate(part_count, space_count)
        elif _stated(seen, p.R_TIME_INTERVAL) and algorithm in (0, 2):
            rate = _sum_rate(part_time, space_time)
        elif _stated(seen, p.R_POPULATION) and algorithm in (0, 3):
            rate = rate_of_pair(part_size, population)
        elif _stated(seen, p.R_PROBABILITY) and algorithm in (0, 4):
            rate = probable
    if rate < 0:
        return
    kept = True
    stream = stream_of(orders, s, session)
    if _stated(seen, p.R_SAMPLER):
        kept = announce(samplers, session, stream, S_SAMPLER, sampler, rate)
    elif interface != np.uint64(0):
        kept = announce(samplers, session, stream, S_INTERFACE, interface, rate)
    elif template >= np.uint64(256):
        kept = announce(samplers, session, stream, S_TEMPLATE, template, rate)
    elif _stated(seen, p.R_LINE_CARD) and (line_card != np.uint64(0) or not _stated(seen, p.R_EXPORTER)):
        kept = announce(samplers, session, stream, S_LINE_CARD, line_card, rate)
    elif _stated(seen, p.R_DOMAIN) and domain != np.uint64(0):
        owner = _session_of_domain(s, session, domain)
        kept = owner != 0 and announce(samplers, owner, stream, S_DOMAIN, 0, rate)
    elif _stated(seen, p.R_DOMAIN) or _stated(seen, p.R_EXPORTER):
        kept = announce(samplers, session, stream, S_EXPORTER, 0, rate)
    else:
        kept = announce(samplers, session, stream, S_DOMAIN, 0, rate)
    if not kept:
        s.problems[session, Reason.RATE_LIMIT.value] += np.uint64(1)


@inline
def _session_of_domain(s, session, domain):
    """Return the number of the session of another domain of the same stream, 0 if there is no room for it."""
    largest = np.uint64(0xFFFFFFFF)
    if domain > largest:
        return np.int64(0)
    key = (s.key[session, 2] & ~largest) | domain
    return find_session(s, s.key[session, 0], s.key[session, 1], key, s.key[session, 3], s.key[session, 4])


@inline
def _stated(seen, role):
    return (seen >> role) & 1 != 0


@inline
def _sum_rate(part, space):
    """Return (part + space) / part, 0 if that is no rate."""
    largest = np.uint64(0xFFFFFFFF)
    if part > largest or space > largest:
        return np.int64(0)
    return rate_of_pair(part, part + space)


@inline_always
def measure(octets, at, end, plans, number):
    """Find offset and size of each field of one record of varying length; returns its octets, −1 if it does not fit.

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
def fixed_count(octets, at, end, size):
    """Return how many records of one length a set holds; the rest is padding (RFC 7011 section 3.4)."""
    n = (end - at) // size
    if size <= 3:
        while n > 0 and at + (n - 1) * size >= end - 3 and all_zero(octets, at + (n - 1) * size, at + n * size):
            n -= 1
    return n


@inline_always
def decode_set(octets, at, end, number, ctx, k, rows, state):
    """Decode the records `octets[at:end]` with plan `number` into `rows` from `state[W_ROWS]` on.

    Returns (records, ended well), or (−1, …) if there may be more rows than room: then nothing was done.
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
        make_ready(rows, row + need)
    count = np.int64(0)
    well = True
    while end - at >= least:
        size = fixed
        n = np.int64(1)
        if fixed > 0:
            n = fixed_count(octets, at, end, fixed)
        else:
            size = measure(octets, at, end, plans, number)
            if size < 0:
                well = False
                break
        if flags & p.F_OPTIONS != 0:
            for i in range(n):
                read_options(octets, at + i * size, plans, number, ctx[C_SESSION], k.samplers, k.sessions, k.orders)
        elif n > 0:
            run_plan(octets, at, size, n, number, ctx, k, rows, row + count * step, step)
        count += n
        if fixed > 0:
            break
        at += size
    if count > 0 and flags & p.F_OPTIONS == 0:
        state[W_ROWS] = finish_rows(rows, row, count, step, flags, ctx, k.sessions, k.samplers)
    return count, well


@inline_always
def next_set(b, w, k):
    """Walk the sets of the open message from W_SET on, up to a data set whose plan is known: then I_SET."""
    st = w.state
    octets = b.octets
    version = w.ctx[C_VERSION]
    while st[W_SET] + 4 <= st[W_END] and st[W_BAD] == 0:
        at = st[W_SET]
        number = u16(octets, at)
        length = u16(octets, at + 2)
        if number == 0 and length == 0 and all_zero(octets, at, st[W_END]):
            st[W_SET] = st[W_END]  # padding up to a size of the exporter's choice
            break
        if length < 4 or at + length > st[W_END]:
            problem(w, Reason.SET_LENGTH.value, at, number)
            st[W_UNKNOWN] = 1
            break
        kind = number if version == 9 else number - 2
        if kind in (0, 1):
            if st[W_RECORD] == 0:
                st[W_RECORD] = at + 4
            code = walk_templates(b, w, k, kind, at + length)
            if code != I_DONE:
                return code
        elif number < 256:
            problem(w, Reason.RESERVED_SET.value, at, number)
        else:
            entry = find_template(k.table, w.ctx[C_SESSION], number)
            if entry >= 0:
                st[W_PLAN] = k.table.plan[entry]
                k.table.used_us[entry] = w.ctx[C_RECEIVED_US]
                w.ctx[C_TEMPLATE] = number
                return I_SET
            st[W_UNKNOWN] = 1
            held = hold(k.held, octets, at + 4, length - 4, number, w.ctx, k.sessions, w.caps[1])
            problem(w, Reason.HELD.value if held else Reason.NO_TEMPLATE.value, at, number)
        st[W_SETS] += 1
        st[W_SET] = at + length
    return I_DONE


@inline_always
def advance(b, w, k):
    """Walk messages until a data set is to be decoded, Python is needed or all is done; returns one of the I_ codes."""
    st = w.state
    while True:
        if st[W_OPEN] == 0:
            if st[W_DATAGRAM] >= b.picked.shape[0]:
                return I_DONE
            if st[W_MESSAGE] < 0:
                datagram = b.picked[st[W_DATAGRAM]]
                st[W_NUMBER] = datagram
                st[W_START] = b.start[datagram]
                st[W_MESSAGE] = b.start[datagram]
                st[W_PAYLOAD_END] = b.start[datagram] + b.length[datagram]
            if not open_message(b, w, k):
                next_message(b, w)
                continue
            st[W_OPEN] = 1
            if restarted(w, k):
                return I_RESTART
        code = next_set(b, w, k)
        if code != I_DONE:
            return code
        close_message(b, w, k)
        next_message(b, w)


@inline_always
def settle_set(w, samplers, options, records, well, rows):
    """Count the records of a set of the current message; discard an IPFIX message with a field that overruns its set.

    A malformed IPFIX message is discarded as a whole (RFC 7011 section 9.1).
    """
    st = w.state
    st[W_UNITS] += records
    if options:
        w.ctx[C_INIT_MS] = samplers.init_ms[w.ctx[C_SESSION]]
    else:
        st[W_FLOWS] += records
    if not well:
        problem(w, Reason.FIELD_OVERRUN.value, st[W_SET], st[W_PLAN])
        st[W_UNKNOWN] = 1
        if w.ctx[C_VERSION] == 10:
            st[W_BAD] = 1
            for row in range(st[W_ROW0], st[W_ROWS]):
                clear_row(rows, row)
            st[W_ROWS] = st[W_ROW0]
            st[W_FLOWS] = 0


@inline_always
def settle_held(w, held, s, entry, options, records, well):
    """Count the records of a held set, and free it."""
    session = held.meta[entry, C_SESSION]
    if not well:
        s.problems[session, Reason.FIELD_OVERRUN.value] += np.uint64(1)
    if not options:
        s.stats[session, S_RECORDS] += np.uint64(records)
    held.meta[entry, H_LIVE] = 0
    s.stats[session, S_HELD_BYTES] -= np.uint64(held.meta[entry, H_LENGTH])
    w.state[W_RELEASED] += 1
    # Its rows are not part of the message that brought the template: if that is discarded, they stay.
    w.state[W_ROW0] = w.state[W_ROWS]


@inline
def decode_all(b, w, k, rows, entries, plan):
    """Do what `walk` does, as a part of it."""
    st = w.state
    held = k.held
    while True:
        waiting = st[W_RELEASED] < entries.shape[0]
        entry = np.int64(0)
        if waiting:
            entry = entries[st[W_RELEASED]]
            for word in range(C_WORDS):
                w.held_ctx[word] = held.meta[entry, word]
            w.held_ctx[C_INIT_MS] = k.samplers.init_ms[held.meta[entry, C_SESSION]]
            w.held_ctx[C_TEMPLATE] = held.meta[entry, H_TEMPLATE]
            octets = held.octets
            at = held.meta[entry, H_POSITION] % held.octets.shape[0]
            end = at + held.meta[entry, H_LENGTH]
            ctx = w.held_ctx
            number = np.int64(plan)
        else:
            code = advance(b, w, k)
            if code != I_SET:
                return code
            octets = b.octets
            at = st[W_SET] + 4
            end = st[W_SET] + u16(b.octets, st[W_SET] + 2)
            ctx = w.ctx
            number = st[W_PLAN]
        records, well = decode_set(octets, at, end, number, ctx, k, rows, st)
        if records < 0:
            return I_ROWS
        options = k.plans.head[number, p.P_FLAGS] & p.F_OPTIONS != 0
        if waiting:
            settle_held(w, held, k.sessions, entry, options, records, well)
        else:
            settle_set(w, k.samplers, options, records, well, rows)
            st[W_SETS] += 1
            st[W_SET] = end


@kernel
def walk(b, w, k, rows, entries, plan):
    """Decode the held sets `entries`, which waited for `plan`, then continue the pass; returns one of the I_ codes."""
    return decode_all(b, w, k, rows, entries, plan)


@kernel
def rows_wanted(b, table, plans):
    """Return the most rows that the data sets of these datagrams can give, by the templates known now."""
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
