"""The first pass over sFlow datagrams: sequence numbers, and the list of samples that the other kernels decode.

It keeps the state of each data source between datagrams (`Sources`), finds the records of a sample (`find_records`) and
reports problems (`report`); `samples` and `counters` use these, too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoders.errors import Reason
from decoders.hashes import mix
from decoders.jit import inline, inline_always, kernel
from decoders.limits import Limits
from decoders.sessions import S_RESTARTS, S_SAMPLES_LOST, T_DUPLICATE, fingerprint, track_sequence
from decoders.wire import all_zero, fill, swap64, u32, u64
from schemas.counters import TOTALS

WAYS = 8
"""Sources per bucket."""

KIND_FLOW, KIND_COUNTERS, KIND_DROP = range(3)

# Columns of Sources.words
W_KEY_A, W_KEY_B, W_USED, W_SEQUENCE, W_DROPS, W_UPTIME, W_EPOCH, W_POLLED, WORDS = range(9)

SEQ_FIRST, SEQ_OK, SEQ_LATE, SEQ_RESET = range(4)
"""Answers of `track_samples`."""

REORDER_REACH = 1_024
"""A sample number up to this far back is late; farther back, the source has restarted."""

MASK32 = 0xFFFF_FFFF
HALF32 = 1 << 31

_SKIPPED_SAMPLE = Reason.SKIPPED_SAMPLE.value
_SKIPPED_RECORD = Reason.SKIPPED_RECORD.value


class Sources(NamedTuple):
    """State arrays of the data sources.

    A source is (session, kind of sample, class, index): each kind has its own sample numbers.  Sources are kept in a
    table of small buckets: if one is full, its longest unused source is dropped, so memory is fixed and a flood of
    made-up sources does no more harm than a lost delta.
    """

    words: NDArray[np.int64]
    """[slots, WORDS]; a free slot has W_KEY_B 0."""
    totals: NDArray[np.uint64]
    """[slots, 13]: the totals of the last poll, all ones where not stated."""
    clock: NDArray[np.int64]
    """[2]: look-ups so far; sources dropped for others."""


def new_sources(limits: Limits) -> Sources:
    """Return empty state; memory is taken when a source is first written."""
    slots = 1 << max(2 * limits.sources - 1, WAYS).bit_length()
    return Sources(np.zeros((slots, WORDS), np.int64), np.zeros((slots, len(TOTALS)), np.uint64), np.zeros(2, np.int64))


def forget_sources(sources: Sources, sessions: NDArray[np.int64]) -> None:
    """Free all sources of these sessions."""
    used = np.flatnonzero(sources.words[:, W_KEY_B])
    gone = used[np.isin(sources.words[used, W_KEY_A] >> 32, sessions)]
    sources.words[gone] = 0


@inline
def find_source(words, clock, session, kind, source_class, index):
    """Return the slot of a source, a new one with W_SEQUENCE −1 if it is not known."""
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
def track_samples(words, slot, sequence, epoch):
    """Follow a source's sample number.  Returns (SEQ_ answer, samples missing before this one; −1 for a late one).

    `epoch`: restarts of the session so far; the numbers start again with each.
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
def drops_since(words, slot, drops, answer):
    """Return the growth of a drop count (mod 2^32) since the last sample; 0 for the first, after a reset or a fall."""
    if answer == SEQ_LATE:
        return np.int64(0)
    grown = (drops - words[slot, W_DROPS]) & MASK32
    words[slot, W_DROPS] = drops
    if answer != SEQ_OK or grown >= HALF32:
        return np.int64(0)
    return grown


@inline
def count_lost(stats, session, answer, missing):
    """Add missing samples to the session's count; a late one was counted as missing before."""
    if answer == SEQ_LATE:
        stats[session, S_SAMPLES_LOST] -= min(np.uint64(1), stats[session, S_SAMPLES_LOST])
    else:
        stats[session, S_SAMPLES_LOST] += np.uint64(missing)


LOG_COUNT, LOG_DATAGRAM, LOG_START, LOG_SESSION = range(4)
"""Row 0 of a problem log: problems in it, and the position of the kernel."""


@inline
def stand_at(log, datagram, start, session):
    """Note in a problem log which datagram the kernel is at."""
    log[0, LOG_DATAGRAM] = datagram
    log[0, LOG_START] = start
    log[0, LOG_SESSION] = session


@inline
def report(problems, log, at, reason, detail):
    """Count a problem of the current datagram, and list it while there is room (half of it for skipped items)."""
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


# Flow records: sFlow version 5, flow_record
(
    R_HEADER,
    R_ETHERNET,
    R_IPV4,
    R_IPV6,
    R_SWITCH,
    R_VLANS,
    R_OUT4,
    R_IN4,
    R_OUT6,
    R_IN6,
    R_DECAP_OUT,
    R_DECAP_IN,
    R_VNI_OUT,
    R_VNI_IN,
    R_TIME,
    R_FUNCTION,
    R_TRAP,
    R_LINUX,
    R_TCP,
    RECORDS,
) = range(20)

# Counter records: sFlow version 5, counter_record
(
    C_INTERFACE,
    C_ETHERNET,
    C_OF_PORT,
    C_NAME,
    C_HOST_NET,
    C_VIRT_NET,
    C_DATAPATH,
    C_HOST,
    C_ADAPTERS,
    C_PARENT,
    COUNTER_RECORDS,
) = range(11)

_PACKET_FORMATS = {
    1: (R_HEADER, 16),
    2: (R_ETHERNET, 20),
    3: (R_IPV4, 32),
    4: (R_IPV6, 56),
    1001: (R_SWITCH, 16),
    1012: (R_VLANS, 4),
    1023: (R_OUT4, 32),
    1024: (R_IN4, 32),
    1025: (R_OUT6, 56),
    1026: (R_IN6, 56),
    1027: (R_DECAP_OUT, 4),
    1028: (R_DECAP_IN, 4),
    1029: (R_VNI_OUT, 4),
    1030: (R_VNI_IN, 4),
    1043: (R_TIME, 8),
}
_FLOW_FORMATS = {**_PACKET_FORMATS, 2209: (R_TCP, 48)}
_DROP_FORMATS = {**_PACKET_FORMATS, 1038: (R_FUNCTION, 4), 1041: (R_TRAP, 8), 1042: (R_LINUX, 4)}
_COUNTER_FORMATS = {
    1: (C_INTERFACE, 88),
    2: (C_ETHERNET, 52),
    1004: (C_OF_PORT, 12),
    1005: (C_NAME, 4),
    2000: (C_HOST, 32),
    2001: (C_ADAPTERS, 4),
    2002: (C_PARENT, 8),
    2006: (C_HOST_NET, 40),
    2104: (C_VIRT_NET, 40),
    2207: (C_DATAPATH, 24),
}


def _format_table(formats: dict[int, tuple[int, int]]) -> NDArray[np.int32]:
    """Return [highest format + 1, 2]: (place + 1 or 0, least length) by format number of enterprise 0."""
    table = np.zeros((max(formats) + 1, 2), np.int32)
    for number, (place, least) in formats.items():
        table[number] = place + 1, least
    return table


FLOW_FORMATS = _format_table(_FLOW_FORMATS)
DROP_FORMATS = _format_table(_DROP_FORMATS)
COUNTER_FORMATS = _format_table(_COUNTER_FORMATS)

_COUNT = Reason.COUNT.value
_RECORD_LENGTH = Reason.RECORD_LENGTH.value
_RECORD_SHORT = Reason.RECORD_SHORT.value
_SKIPPED = Reason.SKIPPED_RECORD.value


@inline_always
def find_records(octets, at, end, count, limit, formats, found, problems, log):
    """Note in `found` [places, 2] offset and length of the first record of each known format in `octets[at:end]`.

    Records come in any order, so a sample is read twice: first the place of each known record is noted, then the row is
    filled in a fixed order.  Offset 0 means "not there".  `count`: records announced, of which at most `limit` are
    read.  A record that overruns the sample ends it; one that is too short or not known is skipped.
    """
    fill(found, 0, found.size, 0)
    announced = count  # −1: that it is wrong is already counted
    if count > limit or count * 8 > end - at:
        report(problems, log, at, _COUNT, count)
        announced = -1
        count = min(count, limit)
    for _ in range(count):
        if at + 8 > end:
            if announced == count:
                report(problems, log, at, _COUNT, count)
            break
        number = u32(octets, at)
        length = u32(octets, at + 4)
        if length > end - at - 8:
            report(problems, log, at, _RECORD_LENGTH, number)
            break
        known = np.int64(formats[number, 0]) if number < formats.shape[0] else np.int64(0)
        if known == 0:
            report(problems, log, at, _SKIPPED, number)
        elif length < formats[number, 1]:
            report(problems, log, at, _RECORD_SHORT, number)
        elif found[known - 1, 0] == 0:
            found[known - 1, 0] = at + 8
            found[known - 1, 1] = length
        at += 8 + ((length + 3) & ~3)


# Columns of a list of samples: datagram, format, offsets of the body and of its end, restarts of the session so far
M_DATAGRAM, M_FORMAT, M_AT, M_END, M_EPOCH, SAMPLE_WORDS = range(6)

FORMAT_FLOW, FORMAT_COUNTERS, FORMAT_FLOW_EXPANDED, FORMAT_COUNTERS_EXPANDED, FORMAT_DROP = 1, 2, 3, 4, 5

LEAST_SAMPLE = 20
"""Octets of the shortest sample that is listed: header of 8, compact counter sample without records."""

_DUPLICATE = Reason.DUPLICATE.value

_SAMPLE_LENGTH = Reason.SAMPLE_LENGTH.value
_SAMPLE_SHORT = Reason.SAMPLE_SHORT.value

_TRAILING = Reason.TRAILING.value


@inline
def header_size(octets, at):
    """Return the octets before the first sample; the caller has checked that they are there."""
    family = u32(octets, at + 4)
    if family == 1:
        return np.int64(28)
    return np.int64(40) if family == 2 else np.int64(24)


@inline
def least_body(sample):
    """Return the octets of a sample's fixed fields; 0 for formats that are not decoded."""
    if sample in (FORMAT_FLOW, FORMAT_DROP):
        return 32
    if sample == FORMAT_FLOW_EXPANDED:
        return 44
    if sample == FORMAT_COUNTERS:
        return 12
    return 16 if sample == FORMAT_COUNTERS_EXPANDED else 0


@kernel
def index_samples(octets, start, length, received, picked, session, sessions, log, samples):
    """List the samples of the picked datagrams, in order; returns how many there are.

    `samples` [n, SAMPLE_WORDS] has room for one per LEAST_SAMPLE octets.  Duplicates of datagrams are left out.
    """
    problems = sessions.problems
    used = np.int64(0)
    for p in range(picked.shape[0]):
        i = picked[p]
        at = start[i]
        number = session[i]
        stand_at(log, i, at, number)
        first = at + header_size(octets, at)
        print_ = fingerprint(octets, at, length[i])
        uptime = u32(octets, first - 8)
        sequence = u32(octets, first - 12)
        no_clock = np.int64(-1)
        if track_sequence(sessions, number, sequence, 1, uptime, no_clock, received[i], print_) == T_DUPLICATE:
            report(problems, log, at, _DUPLICATE, 0)
            continue
        before = used
        used = _list_samples(octets, first, at + length[i], problems, log, samples, used)
        for m in range(before, used):
            samples[m, M_DATAGRAM] = i
            samples[m, M_EPOCH] = np.int64(sessions.stats[number, S_RESTARTS])
    return used


@inline
def _list_samples(octets, at, end, problems, log, samples, used):
    """List the samples of one datagram from `used` on; `at`: the first.  Returns the new `used`."""
    count = u32(octets, at - 4)
    done = np.int64(0)
    while done < count:
        if at + 8 > end:
            report(problems, log, at, _COUNT, count)
            return used
        sample = u32(octets, at)
        body = at + 8
        size = u32(octets, at + 4)
        if size > end - body:
            report(problems, log, at, _SAMPLE_LENGTH, sample)
            return used
        least = least_body(sample)
        if least == 0:
            report(problems, log, at, _SKIPPED_SAMPLE, sample)
        elif size < least:
            report(problems, log, at, _SAMPLE_SHORT, sample)
        else:
            samples[used, M_FORMAT] = sample
            samples[used, M_AT] = body
            samples[used, M_END] = body + size
            used += 1
        at = body + ((size + 3) & ~3)
        done += 1
    if at < end and not all_zero(octets, at, end):
        report(problems, log, at, _TRAILING, end - at)
    return used


@inline
def put_origin(octets, at, address, datagram, columns, addresses, row):
    """Write exporter and agent of the datagram at `at` into the address columns (exporter, agent) of a row."""
    addresses[columns[0], row, 0] = swap64(address[datagram, 0])
    addresses[columns[0], row, 1] = swap64(address[datagram, 1])
    family = u32(octets, at + 4)
    if family == 1:
        addresses[columns[1], row, 1] = swap64(np.uint64(0xFFFF00000000) | np.uint64(u32(octets, at + 8)))
    elif family == 2:
        addresses[columns[1], row, 0] = swap64(u64(octets, at + 8))
        addresses[columns[1], row, 1] = swap64(u64(octets, at + 16))
