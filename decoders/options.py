"""Options records: what exporters say about themselves.  Kept are sampling rates and the start of their clock.

Rates: RFC 5476, RFC 5477, and what the field makes of them.  Scopes: RFC 3954 section 6.1, RFC 7011 section 3.4.2.1.
"""

from __future__ import annotations

import numpy as np

from decoders import plan as p
from decoders.errors import Reason
from decoders.fields import absolute_us, load, probability_rate
from decoders.jit import forced, inline
from decoders.samplers import (
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
from decoders.sequence import stream_of
from decoders.sessions import find_session


@forced
def read_options(octets, at, plans, number, session, samplers, s, orders):  # type: ignore[no-untyped-def]
    """Take what matters out of one options record, whose field offsets stand in `plans.off`."""
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
            rate = rate_of_number(part_count)  # alone it is the rate: IOS XR, with random sampling (3), too
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
    elif _stated(seen, p.R_TEMPLATE):
        kept = announce(samplers, session, stream, S_TEMPLATE, template, rate)
    elif _stated(seen, p.R_LINE_CARD):
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
def _session_of_domain(s, session, domain):  # type: ignore[no-untyped-def]
    """Number of the session of another domain of the same stream, 0 if there is no room for it."""
    largest = np.uint64(0xFFFFFFFF)
    if domain > largest:
        return np.int64(0)
    key = (s.key[session, 2] & ~largest) | domain
    return find_session(s, s.key[session, 0], s.key[session, 1], key, s.key[session, 3], s.key[session, 4])


@inline
def _stated(seen, role):  # type: ignore[no-untyped-def]
    return (seen >> role) & 1 != 0


@inline
def _sum_rate(part, space):  # type: ignore[no-untyped-def]
    """(part + space) / part, 0 where that is no rate."""
    largest = np.uint64(0xFFFFFFFF)
    if part > largest or space > largest:
        return np.int64(0)
    return rate_of_pair(part, part + space)
