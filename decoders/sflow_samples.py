"""sFlow flow samples (formats 1 and 3) and discarded-packet notices (format 5) into rows laid out as `flows`."""

from __future__ import annotations

import numpy as np

from decoders.errors import Reason
from decoders.jit import inline
from decoders.names import intern
from decoders.packet import has_address
from decoders.rows import (
    DIRECTION,
    DIRECTION_EGRESS,
    DIRECTION_INGRESS,
    DROP_HINT_PACKETS,
    DROP_REASON,
    FLOW_END,
    FLOW_START,
    IN_IF,
    OUT_DISCARDED,
    OUT_IF,
    OUT_INDEX,
    OUT_KIND,
    OUT_LOCAL,
    OUT_MULTIPLE,
    PACKETS,
    RATE_OVERRIDE,
    RATE_RECORD,
    RATE_SOURCE,
    SAMPLES,
    SAMPLING_RATE,
    TIME_RECEIVED,
    clear_row,
)
from decoders.sessions import S_AGENT_DROPS, S_OVERRIDE_RATE, S_RESTARTS, S_SAMPLES_LOST, S_SAMPLING_RATE
from decoders.sflow_packets import sampled_packet
from decoders.sflow_records import (
    DROP_FORMATS,
    FLOW_FORMATS,
    R_FUNCTION,
    R_LINUX,
    R_TIME,
    R_TRAP,
    find_records,
)
from decoders.sflow_state import (
    KIND_DROP,
    KIND_FLOW,
    SEQ_LATE,
    drops_since,
    find_source,
    report,
    track_samples,
)
from decoders.wire import u32, u64

LOCAL = 0x3FFF_FFFF
"""Interface value for the device itself; the expanded form may also say 0xFFFFFFFF (erratum), kept as this number."""

CLOCK_REACH_US = 600_000_000
"""A packet's own time (1043) is taken if it is within 10 minutes of its receipt; an agent may hold a sample for 1 s."""

# Extra columns of a notice, beside the packet
X_CLASS, X_INDEX, X_SUPPRESSED, X_FUNCTION, X_TRAP, X_LINUX, EXTRAS = range(7)

_RATE_ZERO = Reason.RATE_ZERO.value
_NO_ADDRESS = Reason.NO_ADDRESS.value
_TIME = Reason.TIME.value
_RECORD_SHORT = Reason.RECORD_SHORT.value


@inline
def flow_sample(octets, at, end, expanded, limit, rows, row, stats, session, problems, log, found, words, clock):  # type: ignore[no-untyped-def]
    """One flow sample; `at` and `end` bound its body, which is long enough for its fixed fields.

    Returns True if `row` is filled; else it is zero again.  Source: sFlow 5 flow_sample, flow_sample_expanded.
    """
    source_class, index, body = source_of(octets, at, expanded)
    rate = u32(octets, body)
    drops = u32(octets, body + 8)
    slot = find_source(words, clock, session, KIND_FLOW, source_class, index)
    answer, missing = track_samples(words, slot, u32(octets, at), np.int64(stats[session, S_RESTARTS]))
    _count_lost(stats, session, answer, missing)
    stats[session, S_AGENT_DROPS] += np.uint64(drops_since(words, slot, drops, answer))
    if expanded:
        _interfaces(octets, body + 12, True, source_class, index, rows, row)
        records = body + 28
    else:
        _interfaces(octets, body + 12, False, source_class, index, rows, row)
        records = body + 20
    count = u32(octets, records)
    find_records(octets, records + 4, end, count, limit, FLOW_FORMATS, found, problems, log)
    sampled_packet(octets, found, problems, log, rows, row)
    if not has_address(rows, row):
        report(problems, log, at, _NO_ADDRESS, 0)
        clear_row(rows, row)
        return False
    _rate(rate, at, stats, session, problems, log, rows, row)
    _times(octets, found, problems, log, rows, row)
    rows.u64[PACKETS, row] = 1
    rows.u32[SAMPLES, row] = 1
    return True


@inline
def source_of(octets, at, expanded):  # type: ignore[no-untyped-def]
    """Source class and index of a sample, and the offset behind them."""
    if expanded:
        return u32(octets, at + 4), u32(octets, at + 8), at + 12
    source = u32(octets, at + 4)
    return source >> 24, source & 0xFFFFFF, at + 8


@inline
def _count_lost(stats, session, answer, missing):  # type: ignore[no-untyped-def]
    if answer == SEQ_LATE:
        stats[session, S_SAMPLES_LOST] -= min(np.uint64(1), stats[session, S_SAMPLES_LOST])
    else:
        stats[session, S_SAMPLES_LOST] += np.uint64(missing)


@inline
def _interfaces(octets, at, expanded, source_class, index, rows, row):  # type: ignore[no-untyped-def]
    """Input and output (facts 1.4), and the direction where the data source is one of them."""
    if expanded:
        in_kind, in_value = u32(octets, at), u32(octets, at + 4)
        out_kind, out_value = u32(octets, at + 8), u32(octets, at + 12)
        in_value = LOCAL if in_value == 0xFFFFFFFF else in_value
        if out_kind == 0 and out_value == 0xFFFFFFFF:
            out_value = np.int64(LOCAL)
    else:
        word = u32(octets, at)
        in_kind, in_value = word >> 30, word & LOCAL
        word = u32(octets, at + 4)
        out_kind, out_value = word >> 30, word & LOCAL
    if in_kind == 0:
        rows.u32[IN_IF, row] = in_value
    if out_kind == 0 and out_value != 0:
        rows.u32[OUT_IF, row] = out_value
        rows.u8[OUT_KIND, row] = OUT_LOCAL if out_value == LOCAL else OUT_INDEX
    elif out_kind == 1:
        rows.u8[OUT_KIND, row] = OUT_DISCARDED
        rows.u16[DROP_REASON, row] = min(out_value, 0xFFFF)
        rows.u64[DROP_HINT_PACKETS, row] = 1
    elif out_kind == 2:
        rows.u8[OUT_KIND, row] = OUT_MULTIPLE
        rows.u32[OUT_IF, row] = out_value
    if source_class == 0 and index != 0:
        if in_kind == 0 and in_value == index:
            rows.u8[DIRECTION, row] = DIRECTION_INGRESS
        elif out_kind == 0 and out_value == index:
            rows.u8[DIRECTION, row] = DIRECTION_EGRESS


@inline
def _rate(rate, at, stats, session, problems, log, rows, row):  # type: ignore[no-untyped-def]
    """Sampling rate: the operator's word, else the sample's, else 1 and unstated (design: order of rates)."""
    if rate != 0:
        stats[session, S_SAMPLING_RATE] = np.uint64(rate)
    override = stats[session, S_OVERRIDE_RATE]
    if override != 0:
        rows.u32[SAMPLING_RATE, row] = override
        rows.u8[RATE_SOURCE, row] = RATE_OVERRIDE
    elif rate != 0:
        rows.u32[SAMPLING_RATE, row] = rate
        rows.u8[RATE_SOURCE, row] = RATE_RECORD
    else:
        rows.u32[SAMPLING_RATE, row] = 1
        report(problems, log, at, _RATE_ZERO, 0)


@inline
def _times(octets, found, problems, log, rows, row):  # type: ignore[no-untyped-def]
    """The packet's own time (1043), else the time of receipt."""
    received = np.int64(rows.u64[TIME_RECEIVED, row])
    seen = received
    if found[R_TIME, 0] != 0:
        seen = np.int64(u64(octets, found[R_TIME, 0]) // np.uint64(1_000))
        if abs(seen - received) > CLOCK_REACH_US:
            report(problems, log, found[R_TIME, 0], _TIME, 1043)
            seen = received
    rows.u64[FLOW_START, row] = seen
    rows.u64[FLOW_END, row] = seen


@inline
def drop_notice(octets, at, end, limit, rows, row, extra, stats, session, problems, log, found, words, clock):  # type: ignore[no-untyped-def]
    """One discarded-packet notice without its strings; as `flow_sample`.  Source: sflow_drops, discarded_packet."""
    source_class = u32(octets, at + 4)
    index = u32(octets, at + 8)
    slot = find_source(words, clock, session, KIND_DROP, source_class, index)
    answer, missing = track_samples(words, slot, u32(octets, at), np.int64(stats[session, S_RESTARTS]))
    _count_lost(stats, session, answer, missing)
    suppressed = drops_since(words, slot, u32(octets, at + 12), answer)
    count = u32(octets, at + 28)
    find_records(octets, at + 32, end, count, limit, DROP_FORMATS, found, problems, log)
    sampled_packet(octets, found, problems, log, rows, row)
    rows.u32[IN_IF, row] = u32(octets, at + 16)
    rows.u32[OUT_IF, row] = u32(octets, at + 20)
    rows.u16[DROP_REASON, row] = min(u32(octets, at + 24), 0xFFFF)
    rows.u64[PACKETS, row] = 1
    extra[X_CLASS, row] = min(source_class, 255)
    extra[X_INDEX, row] = index
    extra[X_SUPPRESSED, row] = suppressed


@inline
def drop_texts(octets, found, problems, log, extra, row, names, text):  # type: ignore[no-untyped-def]
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
