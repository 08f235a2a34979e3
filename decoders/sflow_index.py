"""The first pass over sFlow datagrams: sequence numbers, and the list of samples that the other kernels decode."""

from __future__ import annotations

import numpy as np

from decoders.errors import Reason
from decoders.jit import inline, kernel
from decoders.sessions import S_RESTARTS, T_DUPLICATE, fingerprint, track_sequence
from decoders.sflow_state import report, stand_at
from decoders.wire import all_zero, swap64, u32, u64

# Columns of a list of samples: datagram, format, offsets of the body and of its end, restarts of the session so far
M_DATAGRAM, M_FORMAT, M_AT, M_END, M_EPOCH, SAMPLE_WORDS = range(6)

FORMAT_FLOW, FORMAT_COUNTERS, FORMAT_FLOW_EXPANDED, FORMAT_COUNTERS_EXPANDED, FORMAT_DROP = 1, 2, 3, 4, 5

LEAST_SAMPLE = 20
"""Octets of the shortest sample that is listed: head of 8, compact counters sample without records."""

_DUPLICATE = Reason.DUPLICATE.value
_COUNT = Reason.COUNT.value
_SAMPLE_LENGTH = Reason.SAMPLE_LENGTH.value
_SAMPLE_SHORT = Reason.SAMPLE_SHORT.value
_SKIPPED_SAMPLE = Reason.SKIPPED_SAMPLE.value
_TRAILING = Reason.TRAILING.value


@inline
def header_size(octets, at):  # type: ignore[no-untyped-def]
    """Octets before the first sample; the caller made sure that they are there."""
    family = u32(octets, at + 4)
    if family == 1:
        return np.int64(28)
    return np.int64(40) if family == 2 else np.int64(24)


@inline
def least_body(sample):  # type: ignore[no-untyped-def]
    """Octets of a sample's fixed fields; 0 for formats that are not decoded."""
    if sample in (FORMAT_FLOW, FORMAT_DROP):
        return 32
    if sample == FORMAT_FLOW_EXPANDED:
        return 44
    if sample == FORMAT_COUNTERS:
        return 12
    return 16 if sample == FORMAT_COUNTERS_EXPANDED else 0


@kernel
def index_samples(octets, start, length, received, picked, session, sessions, log, samples):  # type: ignore[no-untyped-def]
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
def _list_samples(octets, at, end, problems, log, samples, used):  # type: ignore[no-untyped-def]
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
def put_origin(octets, at, address, datagram, columns, addresses, row):  # type: ignore[no-untyped-def]
    """Write exporter and agent of the datagram at `at` into the address columns (exporter, agent) of a row."""
    addresses[columns[0], row, 0] = swap64(address[datagram, 0])
    addresses[columns[0], row, 1] = swap64(address[datagram, 1])
    family = u32(octets, at + 4)
    if family == 1:
        addresses[columns[1], row, 1] = swap64(np.uint64(0xFFFF00000000) | np.uint64(u32(octets, at + 8)))
    elif family == 2:
        addresses[columns[1], row, 0] = swap64(u64(octets, at + 8))
        addresses[columns[1], row, 1] = swap64(u64(octets, at + 16))
