"""Sampling rates that options records announce, and their way to the data records (RFC 5476)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoders.jit import inline
from decoders.limits import Limits

SLOTS = 32
"""Samplers kept per session; more are not told apart: the newest takes the place of the oldest."""

BY_INTERFACE = 1 << 62
"""Mark of a key that is an interface, not a sampler or selector."""


class Samplers(NamedTuple):
    """Rates per session."""

    key: NDArray[np.uint64]
    """[sessions, SLOTS]"""
    rate: NDArray[np.int64]
    """[sessions, SLOTS]: one in this many; 0 = announced without a usable rate."""
    used: NDArray[np.int64]
    """[sessions]: samplers announced so far; slots are reused in turn."""
    init_ms: NDArray[np.int64]
    """[sessions]: systemInitTimeMilliseconds(160) of the exporter, 0 = not announced."""


def new_samplers(limits: Limits) -> Samplers:
    """Empty tables; memory is taken when a session is first written."""
    capacity = limits.sessions + 1
    return Samplers(
        np.zeros((capacity, SLOTS), np.uint64),
        np.zeros((capacity, SLOTS), np.int64),
        np.zeros(capacity, np.int64),
        np.zeros(capacity, np.int64),
    )


@inline
def rate_of_number(value):  # type: ignore[no-untyped-def]
    """A stated interval as rate, 0 where it cannot be one."""
    return np.int64(value) if value <= np.uint64(0xFFFFFFFF) else np.int64(0)


@inline
def rate_of_pair(part, whole):  # type: ignore[no-untyped-def]
    """whole / part rounded; 0 where that is no rate."""
    largest = np.uint64(1 << 40)
    if part == np.uint64(0) or whole < part or whole > largest:
        return np.int64(0)
    a = np.int64(part)
    return min((np.int64(whole) + a // 2) // a, np.int64(0xFFFFFFFF))


@inline
def sampler_rate(samplers, session, key):  # type: ignore[no-untyped-def]
    """Rate announced for a key, 0 if none was."""
    for slot in range(min(samplers.used[session], SLOTS)):
        if samplers.key[session, slot] == key:
            return samplers.rate[session, slot]
    return np.int64(0)


@inline
def only_rate(samplers, session):  # type: ignore[no-untyped-def]
    """Rate of the only sampler of a session, or of all of them if they agree; 0 otherwise."""
    rate = np.int64(0)
    for slot in range(min(samplers.used[session], SLOTS)):
        stated = samplers.rate[session, slot]
        if stated == 0:
            continue
        if rate not in (0, stated):
            return np.int64(0)
        rate = stated
    return rate


@inline
def announce(samplers, session, key, rate):  # type: ignore[no-untyped-def]
    """Keep what an options record says of a sampler."""
    used = samplers.used[session]
    for slot in range(min(used, SLOTS)):
        if samplers.key[session, slot] == key:
            samplers.rate[session, slot] = rate
            return
    samplers.key[session, used % SLOTS] = key
    samplers.rate[session, used % SLOTS] = rate
    samplers.used[session] = used + 1
