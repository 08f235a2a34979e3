"""sFlow samples that show a packet: flow samples (formats 1 and 3), and the notices of discarded packets (format 5).

Both fill a row from the sampled header or its substitutes, and from VLAN and tunnel records (`sampled_packet`).  A
notice also has fixed fields and strings (`notice_fields`, `notice_texts`).
"""

from __future__ import annotations

import numpy as np

from decoders.errors import Reason
from decoders.interface_names import intern
from decoders.jit import inline, inline_always, kernel
from decoders.packet import (
    L_ETHERNET,
    L_STOP,
    P_NESTING,
    P_TAGGED,
    P_TUNNEL,
    enter_tunnel,
    guess_layer,
    has_address,
    parse_layers,
    put_ipv4,
    put_ipv6,
    start_header,
    tunnel_kind,
)
from decoders.rows import (
    AGENT,
    BYTES,
    DIRECTION,
    DIRECTION_EGRESS,
    DIRECTION_INGRESS,
    DOMAIN,
    DROP_HINT_PACKETS,
    DROP_REASON,
    DST_IP,
    DST_MAC,
    DST_PORT,
    ETHER_TYPE,
    EXPORTER,
    FLOW_END,
    FLOW_START,
    FRAME_BYTES,
    IN_IF,
    IP_PROTOCOL,
    OUT_DISCARDED,
    OUT_IF,
    OUT_INDEX,
    OUT_KIND,
    OUT_LOCAL,
    OUT_MULTIPLE,
    OUTER_DST_IP,
    OUTER_SRC_IP,
    PACKETS,
    PROTOCOL,
    PROTOCOL_SFLOW5,
    RATE_OVERRIDE,
    RATE_RECORD,
    RATE_SOURCE,
    SAMPLES,
    SAMPLING_RATE,
    SRC_IP,
    SRC_MAC,
    SRC_PORT,
    TCP_FLAGS,
    TCP_RTT,
    TCP_RTT_DEVIATION,
    TCP_RTT_MIN,
    TIME_RECEIVED,
    TOS,
    TUNNEL,
    TUNNEL_OTHER,
    VLAN,
    VNI,
    clear_row,
    make_ready,
)
from decoders.sessions import S_AGENT_DROPS, S_OVERRIDE_RATE, S_RECORDS, S_SAMPLING_RATE
from decoders.sflow.index import (
    FORMAT_COUNTERS,
    FORMAT_COUNTERS_EXPANDED,
    FORMAT_DROP,
    FORMAT_FLOW_EXPANDED,
    KIND_DROP,
    KIND_FLOW,
    M_AT,
    M_DATAGRAM,
    M_END,
    M_EPOCH,
    M_FORMAT,
    R_DECAP_IN,
    R_DECAP_OUT,
    R_ETHERNET,
    R_FUNCTION,
    R_HEADER,
    R_IN4,
    R_IN6,
    R_IPV4,
    R_IPV6,
    R_LINUX,
    R_OUT4,
    R_OUT6,
    R_SWITCH,
    R_TCP,
    R_TIME,
    R_TRAP,
    R_VLANS,
    R_VNI_IN,
    R_VNI_OUT,
    count_lost,
    drops_since,
    find_records,
    find_source,
    header_size,
    put_origin,
    report,
    stand_at,
    track_samples,
)
from decoders.wire import mac, u16, u32, u64

# Columns of a notice in addition to the packet
X_CLASS, X_INDEX, X_SUPPRESSED, X_FUNCTION, X_TRAP, X_LINUX, EXTRAS = range(7)

_RECORD_SHORT = Reason.RECORD_SHORT.value


@inline_always
def notice_fields(octets, samples, m, session, rows, row, extra, stats, sources):
    """Read the fixed fields of a notice.  Returns the offset of its number of records.  Source: sflow_drops."""
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
def notice_texts(octets, found, problems, log, extra, row, names, text):
    """Read the strings of a notice: function (1038), trap (1041: `group/trap`), reason of the kernel (1042).

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
def _text(octets, found, place, number, problems, log, names):
    """Return the index of the string that a record begins with; 0 if the record is absent or too short for it."""
    at = found[place, 0]
    if at == 0:
        return np.int64(0)
    size = u32(octets, at)
    if size > found[place, 1] - 4:
        report(problems, log, at, _RECORD_SHORT, number)
        return np.int64(0)
    return np.int64(intern(names, octets, at + 4, size))


FCS = 4
"""Octets of the frame check sequence, which sFlow lengths include."""

_FRAME_LENGTH = Reason.FRAME_LENGTH.value

_NESTED = Reason.NESTING.value


@inline_always
def sampled_packet(octets, found, problems, log, rows, row):
    """Fill the packet columns of `row` from the records in `found`: the sampled header, else formats 2, 3 and 4."""
    at = found[R_HEADER, 0]
    bits = np.int64(0)
    if at != 0 and u32(octets, at + 12) > found[R_HEADER, 1] - 16:
        report(problems, log, at, _RECORD_SHORT, 1)
        at = np.int64(0)
    if at != 0:
        bits = _header(octets, at, found, problems, log, rows, row)
    else:
        _substitutes(octets, found, rows, row)
    if rows.u8[TUNNEL, row] == 0:
        _tunnel_records(octets, found, rows, row)
    if bits & (P_TAGGED | P_TUNNEL) == 0:
        _vlan_records(octets, found, rows, row)


@inline_always
def _header(octets, at, found, problems, log, rows, row):
    """Read record 1.  Returns P_ bits.  `frame_bytes` is frame length − stripped (sFlow version 5, flow_record)."""
    frame_length = u32(octets, at + 4)
    stripped = u32(octets, at + 8)
    size = u32(octets, at + 12)
    stated = stripped <= frame_length and size <= frame_length
    if not stated:
        # The header is valid all the same, and its IP length states how long the packet was.
        report(problems, log, at, _FRAME_LENGTH, frame_length)
    whole = frame_length - stripped if stated else np.int64(0)
    begin = at + 16
    end = begin + size
    layer, whole = start_header(u32(octets, at), size, whole, rows, row)
    if not stated:
        rows.u64[FRAME_BYTES, row] = 0
    bits = 0
    here = begin
    for _ in range(2):  # once more inside a tunnel that only records 1027 and 1028 show
        if layer != L_STOP:
            bits = parse_layers(octets, here, end, layer, begin + whole, bits, rows, row)
            layer = L_STOP
            if bits & P_TUNNEL == 0:
                here, layer = _decapsulated(octets, begin, end, found)
                if layer != L_STOP:
                    enter_tunnel(TUNNEL_OTHER, -1, layer == L_ETHERNET, rows, row)
                    rows.u64[BYTES, row] = max(begin + whole - here, 0)
                    bits = P_TUNNEL
    if bits & P_NESTING != 0:
        report(problems, log, at, _NESTED, 1)
    return bits


@inline
def _decapsulated(octets, begin, end, found):
    """Read records 1027, 1028: where the inner packet is in a tunnel that the parser does not know.

    Returns (its offset, its layer); the layer is L_STOP if there is no record, or nothing that can be parsed.
    """
    place = found[R_DECAP_IN, 0] if found[R_DECAP_IN, 0] != 0 else found[R_DECAP_OUT, 0]
    if place == 0:
        return begin, L_STOP
    inner = begin + u32(octets, place)
    if inner == begin or inner >= end:
        return begin, L_STOP
    return inner, guess_layer(octets, inner, end)


@inline
def _substitutes(octets, found, rows, row):
    """Read records 2, 3 and 4 of agents without access to the header.  MACs are padded to 8 octets, or not."""
    at = found[R_ETHERNET, 0]
    if at != 0:
        padded = 8 if found[R_ETHERNET, 1] >= 24 else 6
        frame = max(u32(octets, at) - FCS, 0)
        rows.u64[FRAME_BYTES, row] = frame
        rows.u64[BYTES, row] = max(frame - 14, 0)
        rows.u64[SRC_MAC, row] = mac(octets, at + 4)
        rows.u64[DST_MAC, row] = mac(octets, at + 4 + padded)
        rows.u16[ETHER_TYPE, row] = u32(octets, at + 4 + 2 * padded) & 0xFFFF
    at = found[R_IPV4, 0]
    if at != 0:
        put_ipv4(octets, at + 8, SRC_IP, rows, row)
        put_ipv4(octets, at + 12, DST_IP, rows, row)
        rows.u16[ETHER_TYPE, row] = 0x0800
        _network(octets, at, at + 16, rows, row)
    at = found[R_IPV6, 0]
    if at != 0:
        put_ipv6(octets, at + 8, SRC_IP, rows, row)
        put_ipv6(octets, at + 24, DST_IP, rows, row)
        rows.u16[ETHER_TYPE, row] = 0x86DD
        _network(octets, at, at + 40, rows, row)


@inline
def _network(octets, at, ports, rows, row):
    """Read what records 3 and 4 share: length and protocol at `at`; ports, flags and TOS or priority at `ports`."""
    rows.u64[BYTES, row] = u32(octets, at)
    rows.u8[IP_PROTOCOL, row] = u32(octets, at + 4) & 0xFF
    rows.u16[SRC_PORT, row] = u32(octets, ports) & 0xFFFF
    rows.u16[DST_PORT, row] = u32(octets, ports + 4) & 0xFFFF
    rows.u16[TCP_FLAGS, row] = u32(octets, ports + 8) & 0x0FFF
    rows.u8[TOS, row] = u32(octets, ports + 12) & 0xFF


@inline
def _tunnel_records(octets, found, rows, row):
    """Read records 1023–1026, 1029/1030: the outer header that the switch removed (in), else the one it adds (out)."""
    vni = found[R_VNI_IN, 0] if found[R_VNI_IN, 0] != 0 else found[R_VNI_OUT, 0]
    if vni != 0:
        rows.u32[VNI, row] = u32(octets, vni)
        rows.u8[TUNNEL, row] = TUNNEL_OTHER
    at = found[R_IN4, 0]
    if at == 0 and found[R_IN6, 0] == 0:
        at = found[R_OUT4, 0]
    if at != 0:
        put_ipv4(octets, at + 8, OUTER_SRC_IP, rows, row)
        put_ipv4(octets, at + 12, OUTER_DST_IP, rows, row)
        rows.u8[TUNNEL, row] = tunnel_kind(u32(octets, at + 4), u32(octets, at + 20) & 0xFFFF)
        return
    at = found[R_IN6, 0] if found[R_IN6, 0] != 0 else found[R_OUT6, 0]
    if at != 0:
        put_ipv6(octets, at + 8, OUTER_SRC_IP, rows, row)
        put_ipv6(octets, at + 24, OUTER_DST_IP, rows, row)
        rows.u8[TUNNEL, row] = tunnel_kind(u32(octets, at + 4), u32(octets, at + 44) & 0xFFFF)


@inline
def _vlan_records(octets, found, rows, row):
    """Read the VLAN of a frame without tag: the outermost stripped tag (1012), else that of the switch port (1001).

    In 1001 the incoming VLAN counts unless it is 0 (untagged) or all ones (unknown), then the outgoing one.
    """
    at = found[R_VLANS, 0]
    if at != 0 and u32(octets, at) > 0 and found[R_VLANS, 1] >= 8 and u16(octets, at + 6) & 0x0FFF != 0:
        rows.u16[VLAN, row] = u16(octets, at + 6) & 0x0FFF
        return
    at = found[R_SWITCH, 0]
    if at != 0:
        vlan = u32(octets, at)
        if vlan in (0, 0xFFFFFFFF):
            vlan = u32(octets, at + 8)
        if vlan <= 0x0FFF:
            rows.u16[VLAN, row] = vlan


LOCAL = 0x3FFF_FFFF
"""Interface value for the device itself, which is no interface; the expanded form may use 0xFFFFFFFF (erratum)."""

CLOCK_REACH_US = 600_000_000
"""A packet's own time (1043) is taken if it is within 10 minutes of its receipt; an agent may hold a sample for 1 s."""

_RATE_ZERO = Reason.RATE_ZERO.value
_NO_ADDRESS = Reason.NO_ADDRESS.value
_TIME = Reason.TIME.value


@kernel
def decode_packets(
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


@inline_always
def _flow_fields(octets, samples, m, session, rows, row, stats, problems, log, sources):
    """Read the fixed fields of a flow sample.  Returns the offset of its number of records.

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
def source_of(octets, at, expanded):
    """Return source class and index of a sample, and the offset after them."""
    if expanded:
        return u32(octets, at + 4), u32(octets, at + 8), at + 12
    source = u32(octets, at + 4)
    return source >> 24, source & 0xFFFFFF, at + 8


@inline
def _interfaces(octets, at, expanded, source_class, index, rows, row):
    """Fill input and output (sFlow version 5, interface), and the direction if the data source is one of them."""
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
def _rate(rate, at, stats, session, problems, log, rows, row):
    """Fill the sampling rate: the operator's, else the sample's, else 1 and unstated."""
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
def _times(octets, found, problems, log, rows, row):
    """Fill in the packet's own time (1043), else the time of receipt."""
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
def _round_trip(octets, at, rows, row):
    """Fill in the round trips as measured by TCP at one end; Linux starts the value at 0, the minimum at ~0."""
    rows.u32[TCP_RTT, row] = u32(octets, at + 28)
    rows.u32[TCP_RTT_DEVIATION, row] = u32(octets, at + 32)
    least = u32(octets, at + 44)
    rows.u32[TCP_RTT_MIN, row] = least if least != 0xFFFFFFFF else 0
