"""What is kept per sFlow data source between datagrams, and how problems are reported from the sFlow kernels.

A source is (session, kind of sample, class, index): each kind numbers its samples on its own.  Sources live
in a table of small buckets: where one is full, its longest unused source gives way, so memory is fixed and a flood of
made-up sources does no more harm than a lost delta.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoders.errors import Reason
from decoders.jit import inline
from decoders.limits import Limits
from decoders.sessions import S_SAMPLES_LOST, mix
from schemas.counters import TOTALS

WAYS = 8
"""Sources per bucket."""

KIND_FLOW, KIND_COUNTERS, KIND_DROP = range(3)

# Columns of Sources.words
W_KEY_A, W_KEY_B, W_USED, W_SEQUENCE, W_DROPS, W_UPTIME, W_EPOCH, W_POLLED, WORDS = range(9)

SEQ_FIRST, SEQ_OK, SEQ_LATE, SEQ_RESET = range(4)
"""Answers of `track_samples`."""

REORDER_REACH = 1_024
"""A sample number this far back is late; farther back, the source started anew."""

MASK32 = 0xFFFF_FFFF
HALF32 = 1 << 31

_SKIPPED_SAMPLE = Reason.SKIPPED_SAMPLE.value
_SKIPPED_RECORD = Reason.SKIPPED_RECORD.value


class Sources(NamedTuple):
    """State arrays of the data sources."""

    words: NDArray[np.int64]
    """[slots, WORDS]; a free slot has W_KEY_B 0."""
    totals: NDArray[np.uint64]
    """[slots, 13]: the totals of the last poll, all ones where not stated."""
    clock: NDArray[np.int64]
    """[2]: look-ups so far; sources that gave way to others."""


def new_sources(limits: Limits) -> Sources:
    """Empty state; memory is taken when a source is first written."""
    slots = 1 << max(2 * limits.sources - 1, WAYS).bit_length()
    return Sources(np.zeros((slots, WORDS), np.int64), np.zeros((slots, len(TOTALS)), np.uint64), np.zeros(2, np.int64))


def forget_sources(sources: Sources, sessions: NDArray[np.int64]) -> None:
    """Free all sources of these sessions."""
    used = np.flatnonzero(sources.words[:, W_KEY_B])
    gone = used[np.isin(sources.words[used, W_KEY_A] >> 32, sessions)]
    sources.words[gone] = 0


@inline
def find_source(words, clock, session, kind, source_class, index):  # type: ignore[no-untyped-def]
    """Slot of a source, a new one with W_SEQUENCE −1 if it is not known."""
    key_a = (session << 32) | index
    key_b = (np.int64(1) << 40) | (np.int64(kind) << 32) | source_class
    clock[0] += 1
    mask = np.uint64(words.shape[0] // WAYS - 1)  # slots are a power of two
    bucket = np.int64(mix(mix(np.uint64(0), np.uint64(key_a)), np.uint64(key_b)) & mask) * WAYS
    slot = bucket
    for way in range(WAYS):
        candidate = bucket + np.int64(way)
        if words[candidate, W_KEY_B] == key_b and words[candidate, W_KEY_A] == key_a:
            words[candidate, W_USED] = clock[0]
            return candidate
        if words[candidate, W_USED] < words[slot, W_USED]:
            slot = candidate
    if words[slot, W_KEY_B] != 0:
        clock[1] += 1
    for word in range(WORDS):
        words[slot, word] = 0
    words[slot, W_KEY_A] = key_a
    words[slot, W_KEY_B] = key_b
    words[slot, W_USED] = clock[0]
    words[slot, W_SEQUENCE] = -1
    return slot


@inline
def track_samples(words, slot, sequence, epoch):  # type: ignore[no-untyped-def]
    """Follow a source's sample number.  Returns (SEQ_ answer, samples missing before this one; −1 for a late one).

    `epoch`: restarts of the session so far; with each the numbers start anew.
    """
    last = words[slot, W_SEQUENCE]
    if last >= 0 and words[slot, W_EPOCH] == epoch:
        ahead = (sequence - last - 1) & MASK32
        if ahead < HALF32:
            words[slot, W_SEQUENCE] = sequence
            return SEQ_OK, ahead
        if sequence == last:  # an agent that does not number its samples
            return SEQ_OK, np.int64(0)
        if ((last - sequence) & MASK32) < REORDER_REACH:
            return SEQ_LATE, np.int64(-1)
    words[slot, W_SEQUENCE] = sequence
    words[slot, W_EPOCH] = epoch
    return (SEQ_FIRST if last < 0 else SEQ_RESET), np.int64(0)


@inline
def drops_since(words, slot, drops, answer):  # type: ignore[no-untyped-def]
    """Growth of a drop count (mod 2^32) since the source's last sample; 0 for the first, after a reset, if it fell."""
    if answer == SEQ_LATE:
        return np.int64(0)
    grown = (drops - words[slot, W_DROPS]) & MASK32
    words[slot, W_DROPS] = drops
    if answer != SEQ_OK or grown >= HALF32:
        return np.int64(0)
    return grown


@inline
def count_lost(stats, session, answer, missing):  # type: ignore[no-untyped-def]
    """Add missing samples to the session's count; a late one was counted as missing before."""
    if answer == SEQ_LATE:
        stats[session, S_SAMPLES_LOST] -= min(np.uint64(1), stats[session, S_SAMPLES_LOST])
    else:
        stats[session, S_SAMPLES_LOST] += np.uint64(missing)


LOG_COUNT, LOG_DATAGRAM, LOG_START, LOG_SESSION = range(4)
"""Row 0 of a problem log: problems in it, and where the kernel is."""


@inline
def stand_at(log, datagram, start, session):  # type: ignore[no-untyped-def]
    """Say in a problem log which datagram the kernel is at."""
    log[0, LOG_DATAGRAM] = datagram
    log[0, LOG_START] = start
    log[0, LOG_SESSION] = session


@inline
def report(problems, log, at, reason, detail):  # type: ignore[no-untyped-def]
    """Count a problem of the current datagram, and list it while there is room; what was merely skipped gets half."""
    problems[log[0, LOG_SESSION], reason] += np.uint64(1)
    count = log[0, LOG_COUNT]
    room = log.shape[0] - 1
    if reason in (_SKIPPED_SAMPLE, _SKIPPED_RECORD):
        room //= 2
    if count < room:
        log[count + 1, 0] = log[0, LOG_DATAGRAM]
        log[count + 1, 1] = at - log[0, LOG_START]
        log[count + 1, 2] = reason
        log[count + 1, 3] = detail
        log[0, LOG_COUNT] = count + 1
