"""Data that came before its template: copied, bounded, and decoded when the template comes.

Open vSwitch from 3.2 on sends statistics before their template at each start; after a restart of the collector all
exporters do.  Sets wait in one arena, a queue in order of arrival: what is too old, or gives way to
newer data, leaves at its end.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoders.errors import Reason
from decoders.fields import C_RECEIVED_US, C_SESSION, C_WORDS
from decoders.jit import inline, kernel
from decoders.limits import Limits
from decoders.sessions import S_HELD_OCTETS, Sessions

# Words of a held set, behind those of its context
H_TEMPLATE, H_POSITION, H_LENGTH, H_LIVE, H_WORDS = range(C_WORDS, C_WORDS + 5)

# Words of the queue's state; positions grow for ever, an offset is position modulo capacity
A_FIRST, A_COUNT, A_HEAD, A_WORDS = range(4)

ENTRIES = 262_144
"""Held sets at once: 256 octets each would fill the arena, and an Open vSwitch sends about 300 a set."""


FREE_SHARE = 4
LEAST_SHARE = 64 * 1024
"""A second of a busy exporter, which anybody may hold: to push out all that waits takes a thousand streams."""


class Held(NamedTuple):
    """The arena."""

    octets: NDArray[np.uint8]
    meta: NDArray[np.int64]
    """[ENTRIES, H_WORDS]: a ring, `state[A_FIRST]` the oldest."""
    state: NDArray[np.int64]
    """[A_WORDS]"""


def new_held(limits: Limits) -> Held:
    """An empty arena; memory is taken when it is first written."""
    return Held(
        np.zeros(limits.held_octets, np.uint8),
        np.zeros((ENTRIES, H_WORDS), np.int64),
        np.zeros(A_WORDS, np.int64),
    )


@inline
def _drop_oldest(held, s):  # type: ignore[no-untyped-def]
    """Let the oldest set go; counted unless it was decoded meanwhile."""
    first = held.state[A_FIRST]
    if held.meta[first, H_LIVE] != 0:
        session = held.meta[first, C_SESSION]
        s.problems[session, Reason.NO_TEMPLATE.value] += np.uint64(1)
        s.stats[session, S_HELD_OCTETS] -= np.uint64(held.meta[first, H_LENGTH])
        held.meta[first, H_LIVE] = 0
    held.state[A_FIRST] = (first + 1) % held.meta.shape[0]
    held.state[A_COUNT] -= 1


@inline
def hold(held, octets, at, length, template, ctx, s, per_session):  # type: ignore[no-untyped-def]
    """Copy a set that waits for `template`; False if it may not (the session has its share already)."""
    session = ctx[C_SESSION]
    capacity = held.octets.shape[0]
    if np.int64(s.stats[session, S_HELD_OCTETS]) + length > per_session or length > capacity:
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
    s.stats[session, S_HELD_OCTETS] += np.uint64(length)
    return True


@kernel
def expire(held, s, now_us, lifetime_us):  # type: ignore[no-untyped-def]
    """Let go what has waited for too long, and what was decoded meanwhile, from the old end."""
    while held.state[A_COUNT] > 0:
        first = held.state[A_FIRST]
        if held.meta[first, H_LIVE] != 0 and held.meta[first, C_RECEIVED_US] + lifetime_us >= now_us:
            return
        _drop_oldest(held, s)


def waiting(held: Held, session: int, template: int) -> NDArray[np.int64]:
    """Entries that wait for this template, the oldest first."""
    first, count = int(held.state[A_FIRST]), int(held.state[A_COUNT])
    order = (first + np.arange(count)) % len(held.meta)
    live, of, number = (held.meta[order, word] for word in (H_LIVE, C_SESSION, H_TEMPLATE))
    wanted = (live != 0) & (of == session) & (number == template)
    chosen: NDArray[np.int64] = order[wanted]
    return chosen


def share(held: Held, limits: Limits) -> int:
    """Octets that one session may have waiting now: a part of what is free, so that few senders cannot fill it all."""
    count, head = int(held.state[A_COUNT]), int(held.state[A_HEAD])
    used = head - int(held.meta[held.state[A_FIRST], H_POSITION]) if count else 0
    free = limits.held_octets - used
    return min(limits.held_octets_per_session, max(LEAST_SHARE, free // FREE_SHARE))


def held_since(held: Held, position: int) -> list[tuple[int, int, bytes]]:
    """Session, template and octets of the first set that waits for each template since a position of the queue."""
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
    """Sessions whose data waits for a template, and when the oldest of each was received (µs)."""
    first, count = int(held.state[A_FIRST]), int(held.state[A_COUNT])
    order = (first + np.arange(count)) % len(held.meta)
    order = order[held.meta[order, H_LIVE] != 0]
    sessions, firsts = np.unique(held.meta[order, C_SESSION], return_index=True)
    return sessions, held.meta[order[firsts], C_RECEIVED_US]


def forget_held(held: Held, s: Sessions, sessions: NDArray[np.int64]) -> None:
    """Let go what waits for templates of these sessions, counted."""
    first, count = int(held.state[A_FIRST]), int(held.state[A_COUNT])
    order = (first + np.arange(count)) % len(held.meta)
    gone = order[(held.meta[order, H_LIVE] != 0) & np.isin(held.meta[order, C_SESSION], sessions)]
    np.add.at(s.problems, (held.meta[gone, C_SESSION], int(Reason.NO_TEMPLATE)), np.uint64(1))
    held.meta[gone, H_LIVE] = 0
    s.stats[sessions, S_HELD_OCTETS] = 0
