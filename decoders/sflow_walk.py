"""The kernels that walk sFlow datagrams: one that counts samples, so that rows can be made, and one that decodes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoders.errors import Reason
from decoders.jit import inline, kernel
from decoders.names import Names
from decoders.rows import (
    AGENT,
    DOMAIN,
    EXPORTER,
    PROTOCOL,
    PROTOCOL_SFLOW5,
    TIME_RECEIVED,
    Rows,
)
from decoders.sessions import S_COUNTER_RECORDS, S_RECORDS, T_DUPLICATE, Sessions, fingerprint, track_sequence
from decoders.sflow_counters import (
    COUNTERS_AGENT,
    COUNTERS_DOMAIN,
    COUNTERS_EXPORTER,
    COUNTERS_TIME,
    count_datapath,
    difference,
    fill_counters,
    has_counters,
)
from decoders.sflow_records import (
    C_ADAPTERS,
    C_HOST,
    C_PARENT,
    COUNTER_FORMATS,
    find_records,
)
from decoders.sflow_samples import drop_notice, drop_texts, flow_sample, source_of
from decoders.sflow_state import LOG_DATAGRAM, LOG_SESSION, LOG_START, Sources, report
from decoders.wire import swap64, u32

# Columns of Work.hosts: what the host structures of one counter sample need to be read
H_DATAGRAM, H_CLASS, H_INDEX, H_HOST, H_HOST_END, H_ADAPTERS, H_ADAPTERS_END, H_PARENT, HOST_WORDS = range(9)

N_FLOWS, N_DROPS, N_COUNTERS, N_HOSTS, COUNTS = range(5)

_DUPLICATE = Reason.DUPLICATE.value
_COUNT = Reason.COUNT.value
_SAMPLE_LENGTH = Reason.SAMPLE_LENGTH.value
_SAMPLE_SHORT = Reason.SAMPLE_SHORT.value
_SKIPPED_SAMPLE = Reason.SKIPPED_SAMPLE.value
_TRAILING = Reason.TRAILING.value
_ROW_LIMIT = Reason.ROW_LIMIT.value


class Work(NamedTuple):
    """What `walk` fills, and the state it follows."""

    flows: Rows
    drops: Rows
    """Laid out as `flows`; the notice's own columns are in `extra`."""
    counters: Rows
    extra: NDArray[np.int64]
    """[EXTRAS, drops]"""
    hosts: NDArray[np.int64]
    """[limit, HOST_WORDS]: offsets in the batch's octets, 0 = not there."""
    counts: NDArray[np.int64]
    """[COUNTS] rows filled so far."""
    log: NDArray[np.int64]
    """[1 + limit, 4]: row 0 is where the kernel is, then the problems."""
    found: NDArray[np.int64]
    """[places, 2] scratch: records of the current sample."""
    text: NDArray[np.uint8]
    """Scratch for a joined string."""
    sessions: Sessions
    sources: Sources
    names: Names


@inline
def header_size(octets, at):  # type: ignore[no-untyped-def]
    """Octets before the first sample; the caller made sure that they are there.  Facts 1.2."""
    family = u32(octets, at + 4)
    if family == 1:
        return np.int64(28)
    return np.int64(40) if family == 2 else np.int64(24)


@inline
def least_body(sample):  # type: ignore[no-untyped-def]
    """Octets of a sample's fixed fields; 0 for formats that are not decoded.  Facts 1.3."""
    if sample in (1, 5):
        return 32
    if sample == 3:
        return 44
    if sample == 2:
        return 12
    return 16 if sample == 4 else 0


@kernel
def count_samples(octets, start, length, picked, counts):  # type: ignore[no-untyped-def]
    """Upper bounds of the rows of each picked datagram, `counts` [picked, 3]: flows, drops, counters."""
    for p in range(picked.shape[0]):
        at = start[picked[p]]
        end = at + length[picked[p]]
        at += header_size(octets, at)
        while at + 8 <= end:
            sample = u32(octets, at)
            if sample in (1, 3):
                counts[p, N_FLOWS] += 1
            elif sample == 5:
                counts[p, N_DROPS] += 1
            elif sample in (2, 4):
                counts[p, N_COUNTERS] += 1
            at += 8 + ((u32(octets, at + 4) + 3) & ~3)


@kernel
def walk(octets, start, length, address, received, picked, session, limit, w):  # type: ignore[no-untyped-def]
    """Decode the picked datagrams in order.  `limit`: records read of one sample."""
    for p in range(picked.shape[0]):
        i = picked[p]
        number = session[i]
        at = start[i]
        end = at + length[i]
        first = at + header_size(octets, at)
        w.log[0, LOG_DATAGRAM] = i
        w.log[0, LOG_START] = at
        w.log[0, LOG_SESSION] = number
        print_ = fingerprint(octets, at, length[i])
        uptime = u32(octets, first - 8)
        if track_sequence(w.sessions, number, u32(octets, first - 12), 1, False, uptime, print_) == T_DUPLICATE:
            report(w.sessions.problems, w.log, at, _DUPLICATE, 0)
            continue
        flows, drops, counters = w.counts[N_FLOWS], w.counts[N_DROPS], w.counts[N_COUNTERS]
        _samples(octets, first, end, received[i], uptime, number, limit, w)
        w.sessions.stats[number, S_RECORDS] += np.uint64(w.counts[N_FLOWS] - flows)
        w.sessions.stats[number, S_COUNTER_RECORDS] += np.uint64(w.counts[N_COUNTERS] - counters)
        _origin(octets, at, first, address, i, received[i], w, flows, drops, counters)


@inline
def _samples(octets, at, end, received, uptime, number, limit, w):  # type: ignore[no-untyped-def]
    """The samples of one datagram, `at`: the first."""
    problems = w.sessions.problems
    count = u32(octets, at - 4)
    done = np.int64(0)
    while done < count:
        if at + 8 > end:
            report(problems, w.log, at, _COUNT, count)
            return
        sample = u32(octets, at)
        body = at + 8
        size = u32(octets, at + 4)
        if size > end - body:
            report(problems, w.log, at, _SAMPLE_LENGTH, sample)
            return
        least = least_body(sample)
        if least == 0:
            report(problems, w.log, at, _SKIPPED_SAMPLE, sample)
        elif size < least:
            report(problems, w.log, at, _SAMPLE_SHORT, sample)
        else:
            _sample(octets, body, body + size, sample, received, uptime, number, limit, w)
        at = body + ((size + 3) & ~3)
        done += 1
    if at < end:
        report(problems, w.log, at, _TRAILING, end - at)


@inline
def _sample(octets, at, end, sample, received, uptime, number, limit, w):  # type: ignore[no-untyped-def]
    """One sample of a known format whose fixed fields are there."""
    stats, problems = w.sessions.stats, w.sessions.problems
    words, clock = w.sources.words, w.sources.clock
    if sample in (1, 3):
        row = w.counts[N_FLOWS]
        w.flows.u64[TIME_RECEIVED, row] = received
        if flow_sample(
            octets, at, end, sample == 3, limit, w.flows, row, stats, number, problems, w.log, w.found, words, clock
        ):
            w.counts[N_FLOWS] = row + 1
    elif sample == 5:
        row = w.counts[N_DROPS]
        drop_notice(
            octets, at, end, limit, w.drops, row, w.extra, stats, number, problems, w.log, w.found, words, clock
        )
        drop_texts(octets, w.found, problems, w.log, w.extra, row, w.names, w.text)
        w.counts[N_DROPS] = row + 1
    else:
        source_class, index, body = source_of(octets, at, sample == 4)
        count = u32(octets, body)
        find_records(octets, body + 4, end, count, limit, COUNTER_FORMATS, w.found, problems, w.log)
        count_datapath(octets, w.found, stats, number)
        if has_counters(w.found):
            row = w.counts[N_COUNTERS]
            fill_counters(octets, source_class, index, w.found, problems, w.log, w.names, w.counters, row)
            difference(
                octets, at, source_class, index, uptime, stats, number, words, clock, w.sources.totals, w.counters, row
            )
            w.counts[N_COUNTERS] = row + 1
        _note_host(at, source_class, index, w)


@inline
def _note_host(at, source_class, index, w):  # type: ignore[no-untyped-def]
    """List a counter sample with host structures, which are rare and read outside of the kernel."""
    if w.found[C_HOST, 0] == 0 and w.found[C_ADAPTERS, 0] == 0:
        return
    row = w.counts[N_HOSTS]
    if row >= w.hosts.shape[0]:
        report(w.sessions.problems, w.log, at, _ROW_LIMIT, 2000)
        return
    w.hosts[row, H_DATAGRAM] = w.log[0, LOG_DATAGRAM]
    w.hosts[row, H_CLASS] = source_class
    w.hosts[row, H_INDEX] = index
    w.hosts[row, H_HOST] = w.found[C_HOST, 0]
    w.hosts[row, H_HOST_END] = w.found[C_HOST, 0] + w.found[C_HOST, 1]
    w.hosts[row, H_ADAPTERS] = w.found[C_ADAPTERS, 0]
    w.hosts[row, H_ADAPTERS_END] = w.found[C_ADAPTERS, 0] + w.found[C_ADAPTERS, 1]
    w.hosts[row, H_PARENT] = w.found[C_PARENT, 0]
    w.counts[N_HOSTS] = row + 1


@inline
def _origin(octets, at, first, address, i, received, w, flows, drops, counters):  # type: ignore[no-untyped-def]
    """Where the rows of one datagram come from: those from `flows`, `drops` and `counters` on."""
    exporter_high, exporter_low = swap64(address[i, 0]), swap64(address[i, 1])
    agent_high, agent_low = agent_words(octets, at)
    domain = u32(octets, first - 16)
    for row in range(flows, w.counts[N_FLOWS]):
        w.flows.u32[DOMAIN, row] = domain
        w.flows.u8[PROTOCOL, row] = PROTOCOL_SFLOW5
        put_address(w.flows.address, EXPORTER, row, exporter_high, exporter_low)
        put_address(w.flows.address, AGENT, row, agent_high, agent_low)
    for row in range(drops, w.counts[N_DROPS]):
        w.drops.u64[TIME_RECEIVED, row] = received
        w.drops.u32[DOMAIN, row] = domain
        put_address(w.drops.address, EXPORTER, row, exporter_high, exporter_low)
        put_address(w.drops.address, AGENT, row, agent_high, agent_low)
    for row in range(counters, w.counts[N_COUNTERS]):
        w.counters.u64[COUNTERS_TIME, row] = received
        w.counters.u32[COUNTERS_DOMAIN, row] = domain
        put_address(w.counters.address, COUNTERS_EXPORTER, row, exporter_high, exporter_low)
        put_address(w.counters.address, COUNTERS_AGENT, row, agent_high, agent_low)


@inline
def agent_words(octets, at):  # type: ignore[no-untyped-def]
    """The agent address of a datagram as two words in memory order; zeros if it is not stated."""
    family = u32(octets, at + 4)
    high, low = np.uint64(0), np.uint64(0)
    if family == 1:
        low = swap64(np.uint64(0xFFFF00000000) | np.uint64(u32(octets, at + 8)))
    elif family == 2:
        high = swap64((np.uint64(u32(octets, at + 8)) << np.uint64(32)) | np.uint64(u32(octets, at + 12)))
        low = swap64((np.uint64(u32(octets, at + 16)) << np.uint64(32)) | np.uint64(u32(octets, at + 20)))
    return high, low


@inline
def put_address(addresses, column, row, high, low):  # type: ignore[no-untyped-def]
    """Write two words of an address."""
    addresses[column, row, 0] = high
    addresses[column, row, 1] = low
