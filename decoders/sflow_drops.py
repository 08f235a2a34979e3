"""What sFlow discarded-packet notices (format 5) have beyond the packet: fixed fields and strings."""

from __future__ import annotations

import numpy as np

from decoders.errors import Reason
from decoders.jit import forced, inline
from decoders.names import intern
from decoders.rows import (
    DROP_REASON,
    IN_IF,
    OUT_IF,
    PACKETS,
)
from decoders.sflow_index import (
    M_AT,
    M_EPOCH,
)
from decoders.sflow_records import R_FUNCTION, R_LINUX, R_TRAP
from decoders.sflow_state import KIND_DROP, count_lost, drops_since, find_source, report, track_samples
from decoders.wire import u32

# Columns of a notice beside the packet
X_CLASS, X_INDEX, X_SUPPRESSED, X_FUNCTION, X_TRAP, X_LINUX, EXTRAS = range(7)

_RECORD_SHORT = Reason.RECORD_SHORT.value


@forced
def notice_fields(octets, samples, m, session, rows, row, extra, stats, sources):  # type: ignore[no-untyped-def]
    """The fixed fields of a notice.  Returns the offset of its number of records.  Source: sflow_drops."""
    at = samples[m, M_AT]
    source_class = u32(octets, at + 4)
    index = u32(octets, at + 8)
    slot = find_source(sources.words, sources.clock, session, KIND_DROP, source_class, index)
    answer, missing = track_samples(sources.words, slot, u32(octets, at), samples[m, M_EPOCH])
    count_lost(stats, session, answer, missing)
    extra[X_CLASS, row] = min(source_class, 255)
    extra[X_INDEX, row] = index
    extra[X_SUPPRESSED, row] = drops_since(sources.words, slot, u32(octets, at + 12), answer)
    rows.u32[IN_IF, row] = u32(octets, at + 16)
    rows.u32[OUT_IF, row] = u32(octets, at + 20)
    rows.u16[DROP_REASON, row] = min(u32(octets, at + 24), 0xFFFF)
    rows.u64[PACKETS, row] = 1
    return at + 28


@inline
def notice_texts(octets, found, problems, log, extra, row, names, text):  # type: ignore[no-untyped-def]
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
