"""sFlow samples that show a packet: flow samples (formats 1 and 3), and with `sflow_drops` the notices (format 5)."""

from __future__ import annotations

import numpy as np

from decoders.errors import Reason
from decoders.jit import forced, inline, kernel
from decoders.packet import has_address
from decoders.rows import (
    AGENT,
    DIRECTION,
    DIRECTION_EGRESS,
    DIRECTION_INGRESS,
    DOMAIN,
    DROP_HINT_PACKETS,
    DROP_REASON,
    EXPORTER,
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
    PROTOCOL,
    PROTOCOL_SFLOW5,
    RATE_OVERRIDE,
    RATE_RECORD,
    RATE_SOURCE,
    SAMPLES,
    SAMPLING_RATE,
    TCP_RTT,
    TCP_RTT_DEVIATION,
    TCP_RTT_MIN,
    TIME_RECEIVED,
    clear_row,
    make_ready,
)
from decoders.sessions import S_AGENT_DROPS, S_OVERRIDE_RATE, S_RECORDS, S_SAMPLING_RATE
from decoders.sflow_drops import notice_fields, notice_texts
from decoders.sflow_index import (
    FORMAT_COUNTERS,
    FORMAT_COUNTERS_EXPANDED,
    FORMAT_DROP,
    FORMAT_FLOW_EXPANDED,
    M_AT,
    M_DATAGRAM,
    M_END,
    M_EPOCH,
    M_FORMAT,
    header_size,
    put_origin,
)
from decoders.sflow_packets import sampled_packet
from decoders.sflow_records import R_TCP, R_TIME, find_records
from decoders.sflow_state import (
    KIND_FLOW,
    count_lost,
    drops_since,
    find_source,
    report,
    stand_at,
    track_samples,
)
from decoders.wire import u32, u64

LOCAL = 0x3FFF_FFFF
"""Interface value for the device itself, which is no interface; the expanded form may also say 0xFFFFFFFF (erratum)."""

CLOCK_REACH_US = 600_000_000
"""A packet's own time (1043) is taken if it is within 10 minutes of its receipt; an agent may hold a sample for 1 s."""

_RATE_ZERO = Reason.RATE_ZERO.value
_NO_ADDRESS = Reason.NO_ADDRESS.value
_TIME = Reason.TIME.value


@kernel
def decode_packets(  # type: ignore[no-untyped-def]
    octets,
    start,
    address,
    received,
    session,
    samples,
    notices,
    formats,
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
):
    """Decode the flow samples, or with `notices` the discarded-packet notices, among `samples`; returns rows filled.

    `rows` is laid out as `flows`; what only notices have goes into `extra` [EXTRAS, n].  `formats`: the records to look
    for; `limit`: how many are read of one sample; `text` is room for a joined name.
    """
    row = np.int64(0)
    for m in range(samples.shape[0]):
        form = samples[m, M_FORMAT]
        if (form == FORMAT_DROP) != notices or form in (FORMAT_COUNTERS, FORMAT_COUNTERS_EXPANDED):
            continue
        i = samples[m, M_DATAGRAM]
        at = start[i]
        stand_at(log, i, at, session[i])
        make_ready(rows, row + 1)
        rows.u64[TIME_RECEIVED, row] = received[i]
        rows.u32[DOMAIN, row] = u32(octets, at + header_size(octets, at) - 16)
        rows.u8[PROTOCOL, row] = PROTOCOL_SFLOW5
        put_origin(octets, at, address, i, (EXPORTER, AGENT), rows.address, row)
        if notices:
            records = notice_fields(octets, samples, m, session[i], rows, row, extra, stats, sources)
        else:
            records = _flow_fields(octets, samples, m, session[i], rows, row, stats, problems, log, sources)
        count = u32(octets, records)
        find_records(octets, records + 4, samples[m, M_END], count, limit, formats, found, problems, log)
        sampled_packet(octets, found, problems, log, rows, row)
        if notices:
            notice_texts(octets, found, problems, log, extra, row, names, text)
            row += 1
        elif has_address(rows, row):
            _times(octets, found, problems, log, rows, row)
            if found[R_TCP, 0] != 0:
                _round_trip(octets, found[R_TCP, 0], rows, row)
            stats[session[i], S_RECORDS] += np.uint64(1)
            row += 1
        else:
            report(problems, log, samples[m, M_AT], _NO_ADDRESS, form)
            clear_row(rows, row)
    return row


@forced
def _flow_fields(octets, samples, m, session, rows, row, stats, problems, log, sources):  # type: ignore[no-untyped-def]
    """The fixed fields of a flow sample.  Returns the offset of its number of records.

    Source: sFlow 5 flow_sample, flow_sample_expanded.
    """
    at = samples[m, M_AT]
    expanded = samples[m, M_FORMAT] == FORMAT_FLOW_EXPANDED
    source_class, index, body = source_of(octets, at, expanded)
    slot = find_source(sources.words, sources.clock, session, KIND_FLOW, source_class, index)
    answer, missing = track_samples(sources.words, slot, u32(octets, at), samples[m, M_EPOCH])
    count_lost(stats, session, answer, missing)
    stats[session, S_AGENT_DROPS] += np.uint64(drops_since(sources.words, slot, u32(octets, body + 8), answer))
    _rate(u32(octets, body), at, stats, session, problems, log, rows, row)
    _interfaces(octets, body + 12, expanded, source_class, index, rows, row)
    rows.u64[PACKETS, row] = 1
    rows.u32[SAMPLES, row] = 1
    return body + 28 if expanded else body + 20


@inline
def source_of(octets, at, expanded):  # type: ignore[no-untyped-def]
    """Source class and index of a sample, and the offset behind them."""
    if expanded:
        return u32(octets, at + 4), u32(octets, at + 8), at + 12
    source = u32(octets, at + 4)
    return source >> 24, source & 0xFFFFFF, at + 8


@inline
def _interfaces(octets, at, expanded, source_class, index, rows, row):  # type: ignore[no-untyped-def]
    """Input and output (sFlow version 5, interface), and the direction where the data source is one of them."""
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
    if in_kind == 0 and in_value != LOCAL:
        rows.u32[IN_IF, row] = in_value
    if out_kind == 0 and out_value == LOCAL:
        rows.u8[OUT_KIND, row] = OUT_LOCAL
    elif out_kind == 0 and out_value != 0:
        rows.u32[OUT_IF, row] = out_value
        rows.u8[OUT_KIND, row] = OUT_INDEX
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
    """Sampling rate: the operator's word, else the sample's, else 1 and unstated."""
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
def _round_trip(octets, at, rows, row):  # type: ignore[no-untyped-def]
    """What TCP at one end says of its round trips; Linux begins with 0, the least with ~0."""
    rows.u32[TCP_RTT, row] = u32(octets, at + 28)
    rows.u32[TCP_RTT_DEVIATION, row] = u32(octets, at + 32)
    least = u32(octets, at + 44)
    rows.u32[TCP_RTT_MIN, row] = least if least != 0xFFFFFFFF else 0
