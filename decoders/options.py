"""Options records: what exporters say about themselves.  Kept are sampling rates and the start of their clock."""

from __future__ import annotations

import numpy as np

from decoders import plan as p
from decoders.fields import absolute_us, load, probability_rate
from decoders.jit import forced, inline
from decoders.samplers import BY_INTERFACE, announce, rate_of_number, rate_of_pair


@forced
def read_options(octets, at, plans, number, session, samplers):  # type: ignore[no-untyped-def]
    """Take what matters out of one options record, whose field offsets stand in `plans.off` (RFC 5476)."""
    base = plans.head[number, p.P_FIELD]
    first = plans.head[number, p.P_OP]
    seen = np.int64(0)
    rate = np.int64(-1)
    algorithm = np.int64(0)
    key = np.uint64(0)
    interface = np.uint64(0)
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
            key = value
        elif role == p.R_INTERFACE:
            interface = value
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
        if _stated(seen, p.R_COUNT_INTERVAL) and algorithm in (0, 1):
            rate = _sum_rate(part_count, space_count)
        elif _stated(seen, p.R_TIME_INTERVAL) and algorithm in (0, 2):
            rate = _sum_rate(part_time, space_time)
        elif _stated(seen, p.R_POPULATION) and algorithm in (0, 3):
            rate = rate_of_pair(part_size, population)
        elif _stated(seen, p.R_PROBABILITY) and algorithm in (0, 4):
            rate = probable
    if rate < 0:
        return
    if not _stated(seen, p.R_SAMPLER) and interface != np.uint64(0):
        key = np.uint64(BY_INTERFACE) | (interface & np.uint64(0xFFFFFFFF))
    announce(samplers, session, key, rate)


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
