"""sFlow discarded-packet notices (format 5): packets into rows laid out as `flows`, the other columns beside them."""

from __future__ import annotations

import numpy as np

from decoders.errors import Reason
from decoders.jit import inline, kernel
from decoders.names import intern
from decoders.rows import (
    AGENT,
    DOMAIN,
    DROP_REASON,
    EXPORTER,
    IN_IF,
    OUT_IF,
    PACKETS,
    TIME_RECEIVED,
)
from decoders.sflow_index import (
    FORMAT_DROP,
    M_AT,
    M_DATAGRAM,
    M_END,
    M_EPOCH,
    M_FORMAT,
    header_size,
    put_origin,
)
from decoders.sflow_packets import sampled_packet
from decoders.sflow_records import DROP_FORMATS, R_FUNCTION, R_LINUX, R_TRAP, find_records
from decoders.sflow_samples import count_lost
from decoders.sflow_state import KIND_DROP, drops_since, find_source, report, stand_at, track_samples
from decoders.wire import u32

# Columns of a notice beside the packet
X_CLASS, X_INDEX, X_SUPPRESSED, X_FUNCTION, X_TRAP, X_LINUX, EXTRAS = range(7)

_RECORD_SHORT = Reason.RECORD_SHORT.value


@kernel
def decode_drops(
    octets,
    start,
    address,
    received,
    session,
    samples,
    limit,
    rows,
    extra,
    stats,
    problems,
    log,
    found,
    sources,
    names,
    text,
):  # type: ignore[no-untyped-def]
    """Decode the notices among `samples` into `rows` and `extra` [EXTRAS, n]; returns how many there are.

    `text` is room for the joined name of a trap.  Source: sflow_drops, discarded_packet.
    """
    row = np.int64(0)
    for m in range(samples.shape[0]):
        if samples[m, M_FORMAT] != FORMAT_DROP:
            continue
        i = samples[m, M_DATAGRAM]
        at = start[i]
        stand_at(log, i, at, session[i])
        rows.u64[TIME_RECEIVED, row] = received[i]
        rows.u32[DOMAIN, row] = u32(octets, at + header_size(octets, at) - 16)
        put_origin(octets, at, address, i, (EXPORTER, AGENT), rows.address, row)
        at = samples[m, M_AT]
        source_class = u32(octets, at + 4)
        index = u32(octets, at + 8)
        slot = find_source(sources.words, sources.clock, session[i], KIND_DROP, source_class, index)
        answer, missing = track_samples(sources.words, slot, u32(octets, at), samples[m, M_EPOCH])
        count_lost(stats, session[i], answer, missing)
        extra[X_CLASS, row] = min(source_class, 255)
        extra[X_INDEX, row] = index
        extra[X_SUPPRESSED, row] = drops_since(sources.words, slot, u32(octets, at + 12), answer)
        rows.u32[IN_IF, row] = u32(octets, at + 16)
        rows.u32[OUT_IF, row] = u32(octets, at + 20)
        rows.u16[DROP_REASON, row] = min(u32(octets, at + 24), 0xFFFF)
        rows.u64[PACKETS, row] = 1
        count = u32(octets, at + 28)
        find_records(octets, at + 32, samples[m, M_END], count, limit, DROP_FORMATS, found, problems, log)
        sampled_packet(octets, found, problems, log, rows, row)
        _texts(octets, found, problems, log, extra, row, names, text)
        row += 1
    return row


@inline
def _texts(octets, found, problems, log, extra, row, names, text):  # type: ignore[no-untyped-def]
    """The strings of a notice: function (1038), trap (1041: `group/trap`), reason of the kernel (1042).

    `text` is room for the joined name of a trap.
    """
    extra[X_FUNCTION, row] = _text(octets, found, R_FUNCTION, 1038, problems, log, names)
    extra[X_LINUX, row] = _text(octets, found, R_LINUX, 1042, problems, log, names)
    extra[X_TRAP, row] = 0
    at = found[R_TRAP, 0]
    if at == 0:
        return
    end = at + found[R_TRAP, 1]
    group = u32(octets, at)
    next_at = at + 4 + ((group + 3) & ~3)
    if next_at + 4 > end or u32(octets, next_at) > end - next_at - 4:
        report(problems, log, at, _RECORD_SHORT, 1041)
        return
    trap = u32(octets, next_at)
    if group + 1 + trap > text.shape[0]:
        names.missed[0] += 1
        return
    size = np.int64(0)
    for i in range(group):
        text[size] = octets[at + 4 + i]
        size += 1
    if group > 0 and trap > 0:
        text[size] = 47  # "/"
        size += 1
    for i in range(trap):
        text[size] = octets[next_at + 4 + i]
        size += 1
    extra[X_TRAP, row] = np.int64(intern(names, text, np.int64(0), size))


@inline
def _text(octets, found, place, number, problems, log, names):  # type: ignore[no-untyped-def]
    """Index of the string that a record begins with; 0 if the record is not there or too short for it."""
    at = found[place, 0]
    if at == 0:
        return np.int64(0)
    size = u32(octets, at)
    if size > found[place, 1] - 4:
        report(problems, log, at, _RECORD_SHORT, number)
        return np.int64(0)
    return np.int64(intern(names, octets, at + 4, size))
