"""Sampling rates that options records announce, each for its scope, and how data records get them.

RFC 3954 section 6.1 and RFC 7011 section 3.4.2.1: an options record is valid for what its scope names, and nothing
else.  A narrower scope takes precedence: sampler, interface, template, line card, domain, exporter.  What exporters
number across all domains (samplers, interfaces, line cards) is kept twice: with the domain that announced it, and with
the stream of all domains of the exporter's port, where a domain looks if it has no rate of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoders.jit import inline, inline_always
from decoders.limits import Limits

S_DOMAIN, S_EXPORTER, S_LINE_CARD, S_TEMPLATE, S_INTERFACE, S_SAMPLER, S_SCOPES = range(7)
"""Kinds of scope.  The first two have no number; the others go from the widest to the narrowest."""

_ID_BITS = np.uint64(56)


class Samplers(NamedTuple):
    """Rates by owner: a session has its number as row, streams come after all sessions (`stream_row`)."""

    key: NDArray[np.uint64]
    """[2 × sessions, rates]: scope and its number, in order, of the first `used`."""
    rate: NDArray[np.int64]
    """[2 × sessions, rates]: one in this many; 0 = announced without a usable rate."""
    used: NDArray[np.int64]
    """[2 × sessions]"""
    scopes: NDArray[np.int64]
    """[2 × sessions]: bits of the kinds of scope that have a rate."""
    agreed: NDArray[np.int64]
    """[2 × sessions]: the rate of all samplers if they have one in common, else 0."""
    init_ms: NDArray[np.int64]
    """[sessions]: systemInitTimeMilliseconds(160) of the exporter, 0 = not announced."""


def new_samplers(limits: Limits) -> Samplers:
    """Return empty tables; memory is taken when a session is first written."""
    capacity = limits.sessions + 1
    return Samplers(
        np.zeros((2 * capacity, limits.rates_per_session), np.uint64),
        np.zeros((2 * capacity, limits.rates_per_session), np.int64),
        np.zeros(2 * capacity, np.int64),
        np.zeros(2 * capacity, np.int64),
        np.zeros(2 * capacity, np.int64),
        np.zeros(capacity, np.int64),
    )


def forget_rates(samplers: Samplers, sessions: NDArray[np.int64], streams: NDArray[np.int64]) -> None:
    """Forget what these sessions and streams announced."""
    owners = np.concatenate((sessions, len(samplers.init_ms) + streams))
    for array in (samplers.used, samplers.scopes, samplers.agreed):
        array[owners] = 0
    samplers.init_ms[sessions] = 0


@inline
def stream_row(samplers, stream):
    """Return the row of a stream."""
    return samplers.init_ms.shape[0] + stream


@inline
def rate_of_number(value):
    """Return a stated interval as a rate, 0 if it cannot be one."""
    return np.int64(value) if value <= np.uint64(0xFFFFFFFF) else np.int64(0)


@inline
def rate_of_pair(part, whole):
    """Return whole / part rounded; 0 if that is no rate."""
    largest = np.uint64(1 << 40)
    if part == np.uint64(0) or whole < part or whole > largest:
        return np.int64(0)
    a = np.int64(part)
    return min((np.int64(whole) + a // 2) // a, np.int64(0xFFFFFFFF))


@inline
def key_of(scope, number):
    """Return the key of a scope: its kind, and its number if the kind has one."""
    return (np.uint64(scope) << _ID_BITS) | (np.uint64(number) & ((np.uint64(1) << _ID_BITS) - np.uint64(1)))


@inline
def _place(samplers, row, key):
    """Return the position of a key in a row, or where it would be."""
    low, high = np.int64(0), samplers.used[row]
    while low < high:
        middle = (low + high) // 2
        if samplers.key[row, middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


@inline
def _rate_in(samplers, row, scope, key):
    if (samplers.scopes[row] >> scope) & 1 == 0:
        return np.int64(0)
    place = _place(samplers, row, key)
    if place < samplers.used[row] and samplers.key[row, place] == key:
        return samplers.rate[row, place]
    return np.int64(0)


@inline
def scopes_with_rate(samplers, session, stream):
    """Return the bits of the kinds of scope for which the session or its stream announced a rate."""
    bits = samplers.scopes[session]
    if stream != 0:
        bits |= samplers.scopes[stream_row(samplers, stream)]
    return bits


@inline
def scope_rate(samplers, session, stream, scope, number):
    """Return the rate announced for a scope: by the session, else by another domain of its stream; 0 if none was."""
    key = key_of(scope, number)
    rate = _rate_in(samplers, session, scope, key)
    if rate == 0 and stream != 0:
        rate = _rate_in(samplers, stream_row(samplers, stream), scope, key)
    return rate


@inline
def wide_rate(samplers, session, stream):
    """Return the rate of all that a session sends, else that of its exporter; 0 if none was announced."""
    rate = scope_rate(samplers, session, np.int64(0), S_DOMAIN, 0)
    return rate if rate != 0 else scope_rate(samplers, session, stream, S_EXPORTER, 0)


@inline
def agreed_rate(samplers, session, stream):
    """Return the rate of all samplers of a session, else of its stream, if they agree; 0 otherwise."""
    if (samplers.scopes[session] >> S_SAMPLER) & 1 != 0 or stream == 0:
        return samplers.agreed[session]
    return samplers.agreed[stream_row(samplers, stream)]


@inline_always
def announce(samplers, session, stream, scope, number, rate):
    """Keep the rate of a scope from an options record; stream 0 = none.  False if there was no room for all of it."""
    kept = _keep(samplers, session, scope, number, rate)
    # Numbers of templates and domains are valid only in the session itself.
    if stream != 0 and scope not in (S_TEMPLATE, S_DOMAIN):
        kept &= _keep(samplers, stream_row(samplers, stream), scope, number, rate)
    return kept


@inline
def _keep(samplers, row, scope, number, rate):
    key = key_of(scope, number)
    used = samplers.used[row]
    place = _place(samplers, row, key)
    if place == used or samplers.key[row, place] != key:
        if used >= samplers.key.shape[1]:
            return False
        for at in range(used, place, -1):
            samplers.key[row, at] = samplers.key[row, at - 1]
            samplers.rate[row, at] = samplers.rate[row, at - 1]
        samplers.key[row, place] = key
        samplers.used[row] = used + 1
        samplers.scopes[row] |= np.int64(1) << scope
    elif samplers.rate[row, place] == rate:
        return True
    samplers.rate[row, place] = rate
    if scope == S_SAMPLER:
        samplers.agreed[row] = _agreed(samplers, row)
    return True


@inline
def _agreed(samplers, row):
    rate = np.int64(0)
    for at in range(_place(samplers, row, key_of(S_SAMPLER, 0)), samplers.used[row]):
        stated = samplers.rate[row, at]
        if stated == 0:
            continue
        if rate not in (0, stated):
            return np.int64(0)
        rate = stated
    return rate
