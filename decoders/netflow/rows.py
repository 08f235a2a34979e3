"""Completing a row once its fields are in place: header columns, rate, times, what follows from other columns."""

from __future__ import annotations

import numpy as np

from decoders import rows as r
from decoders.errors import Reason
from decoders.jit import inline, inline_always, inline_unchecked
from decoders.netflow import plan as p
from decoders.netflow.fields import (
    C_DOMAIN,
    C_HEADER_US,
    C_RECEIVED_US,
    C_SESSION,
    C_STREAM,
    C_TEMPLATE,
    C_VERSION,
    interface_rate,
)
from decoders.netflow.plan import ICMP, ICMPV6
from decoders.netflow.samplers import S_INTERFACE, S_TEMPLATE, agreed_rate, scope_rate, scopes_with_rate, wide_rate
from decoders.rows import clear_row
from decoders.sessions import S_OVERRIDE_RATE, S_SAMPLING_RATE
from decoders.wire import any_bits, fill, swap64

AHEAD_US = 10_000_000
"""How far a flow time may be ahead of the header's before it counts as wrong: clocks of line cards differ a little."""

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
ECHO_REQUEST_V6 = 128

MAPPED_ZERO = np.uint64(0xFFFF0000)
"""Second word, in memory order, of the mapped address 0.0.0.0."""


CLOCK_LEAST_US = 1_000_000_000_000_000
"""September 2001: clocks that were never set begin before, or hold the uptime.  Others may come from a capture, or the
collector's own clock may be wrong: these are reported as skew."""


@inline_always
def trusted_clock(clock_us, received_us, s, session):
    """Return the clock of a header, or the time of receipt if the clock was never set, counted."""
    s.skew_us[session] = clock_us - received_us
    if clock_us >= CLOCK_LEAST_US:
        return clock_us
    s.problems[session, Reason.CLOCK.value] += np.uint64(1)
    return received_us


# What follows for one row of many is `inline_unchecked`: its caller has checked that the row is one of `rows`.


@inline_unchecked
def settle_times(rows, row, header_us, received_us):
    """Fill in and clamp the times of a row; True if one of them was impossible (RFC 7011 section 6.1).

    0 = not stated, all ones = stated but impossible.  If the header's clock is behind, absolute times do not depend on
    it: they may be right up to the time of receipt.
    """
    start = rows.u64[r.FLOW_START, row]
    end = rows.u64[r.FLOW_END, row]
    limit = np.uint64(max(header_us, received_us) + AHEAD_US)
    header = np.uint64(header_us)
    bad = False
    if start > limit:
        bad = True
        start = np.uint64(0)
    if end > limit:
        bad = True
        end = np.uint64(0) if end == np.uint64(r.ABSENT) or start == np.uint64(0) else header
    if end == np.uint64(0):
        end = max(start, header)
    if start == np.uint64(0):
        start = end
    if end < start:
        bad = True
        end = start
    rows.u64[r.FLOW_START, row] = start
    rows.u64[r.FLOW_END, row] = end
    return bad


@inline_unchecked
def settle_icmp(rows, row, stated):
    """Set ICMP type and code, which are in the destination port unless they have elements: ICMP has no ports.

    Some exporters put the type into the source port and the code into the destination port.
    """
    protocol = rows.u8[r.IP_PROTOCOL, row]
    if protocol not in (ICMP, ICMPV6):
        return
    source = np.int64(rows.u16[r.SRC_PORT, row])
    destination = np.int64(rows.u16[r.DST_PORT, row])
    if not stated or (rows.u8[r.ICMP_TYPE, row] == 0 and rows.u8[r.ICMP_CODE, row] == 0):
        if 0 < source < 256 and destination < 256:
            rows.u8[r.ICMP_TYPE, row] = source
            rows.u8[r.ICMP_CODE, row] = destination
        else:
            rows.u8[r.ICMP_TYPE, row] = destination >> 8
            rows.u8[r.ICMP_CODE, row] = destination & 0xFF
    rows.u16[r.SRC_PORT, row] = 0
    rows.u16[r.DST_PORT, row] = 0


@inline_unchecked
def no_ip(rows, column, row):
    """Return True if the address is absent: :: or 0.0.0.0."""
    low = rows.address[column, row, 1]
    return rows.address[column, row, 0] == 0 and low in (np.uint64(0), MAPPED_ZERO)


@inline_unchecked
def addressless(rows, row):
    """Return True if a row has no address of either end."""
    return (
        no_ip(rows, r.SRC_IP, row)
        and no_ip(rows, r.DST_IP, row)
        and rows.u64[r.SRC_MAC, row] == 0
        and rows.u64[r.DST_MAC, row] == 0
    )


@inline_unchecked
def derive_ether_type(rows, row):
    """Set the EtherType of the address family, if the record states none."""
    if rows.u16[r.ETHER_TYPE, row] != 0:
        return
    high = rows.address[r.SRC_IP, row, 0] | rows.address[r.DST_IP, row, 0]
    low = rows.address[r.SRC_IP, row, 1] | rows.address[r.DST_IP, row, 1]
    if high != 0:
        rows.u16[r.ETHER_TYPE, row] = ETHERTYPE_IPV6
    elif low != 0:
        v4 = (low & np.uint64(0xFFFFFFFF)) == MAPPED_ZERO
        rows.u16[r.ETHER_TYPE, row] = ETHERTYPE_IPV4 if v4 else ETHERTYPE_IPV6


@inline
def common_rate(samplers, ctx, flags):
    """Return the rate of records without one of a narrower scope: that of their template, domain, exporter.

    For records that name no sampler, also that of the samplers, if they have one in common.
    """
    session, stream = ctx[C_SESSION], ctx[C_STREAM]
    rate = scope_rate(samplers, session, stream, S_TEMPLATE, ctx[C_TEMPLATE])
    if rate == 0:
        rate = wide_rate(samplers, session, stream)
    if rate == 0 and flags & p.F_SAMPLER == 0:
        rate = agreed_rate(samplers, session, stream)
    return rate


@inline
def rate_of_rest(override, common):
    """Return the rate of records that have none of their own or of a narrow scope, and where it is from."""
    if override > 0:
        return override, r.RATE_OVERRIDE
    if common > 0:
        return common, r.RATE_OPTIONS
    return np.int64(1), r.RATE_UNSTATED


@inline_always
def settle_rate(rows, row, samplers, ctx, by_interface, rate, source):
    """Set the sampling rate: of the record, of options of its sampler, of its interface, else the one that is given."""
    if rows.u32[r.SAMPLING_RATE, row] == 0 and not (by_interface and interface_rate(samplers, ctx, rows, row)):
        rows.u32[r.SAMPLING_RATE, row] = rate
        rows.u8[r.RATE_SOURCE, row] = source


LARGEST_COUNT = np.uint64(1 << 53)
LARGEST_SCALED = np.uint64(1 << 63)
ALWAYS_FITS = np.uint64(1 << 31)
"""Limit that is safe with any rate, which has 32 bits."""


@inline
def some_large(rows, first, end):
    """Return True if a count of these rows may not fit; a pass over columns costs less than a check of each row."""
    bits = np.uint64(0)
    for column in (r.PACKETS, r.BYTES, r.FRAME_BYTES):
        bits |= any_bits(rows.u64, column * rows.u64.shape[1] + first, end - first)
    return bits >= ALWAYS_FITS


@inline
def absurd(rows, row, rate):
    """Return True if a count of the row is impossible: petabytes in one record, or too large for sums in the store."""
    most = min(LARGEST_COUNT, LARGEST_SCALED // np.uint64(rate))
    return rows.u64[r.PACKETS, row] > most or rows.u64[r.BYTES, row] > most or rows.u64[r.FRAME_BYTES, row] > most


@inline
def mirror(rows, row, back, icmp, own_tos):
    """Complete the row of the reverse direction from the forward one: endpoints swapped, the rest copied."""
    for a, b in ((r.SRC_IP, r.DST_IP), (r.OUTER_SRC_IP, r.OUTER_DST_IP)):
        for word in range(2):
            rows.address[a, back, word] = rows.address[b, row, word]
            rows.address[b, back, word] = rows.address[a, row, word]
    rows.u64[r.SRC_MAC, back] = rows.u64[r.DST_MAC, row]
    rows.u64[r.DST_MAC, back] = rows.u64[r.SRC_MAC, row]
    rows.u32[r.IN_IF, back] = rows.u32[r.OUT_IF, row]
    rows.u32[r.OUT_IF, back] = rows.u32[r.IN_IF, row]
    rows.u32[r.IN_IF_NAME, back] = rows.u32[r.OUT_IF_NAME, row]
    rows.u32[r.OUT_IF_NAME, back] = rows.u32[r.IN_IF_NAME, row]
    rows.u16[r.SRC_PORT, back] = rows.u16[r.DST_PORT, row]
    rows.u16[r.DST_PORT, back] = rows.u16[r.SRC_PORT, row]
    rows.u32[r.VNI, back] = rows.u32[r.VNI, row]
    rows.u32[r.SAMPLING_RATE, back] = rows.u32[r.SAMPLING_RATE, row]
    rows.u16[r.ETHER_TYPE, back] = rows.u16[r.ETHER_TYPE, row]
    rows.u16[r.VLAN, back] = rows.u16[r.VLAN, row]
    rows.u8[r.RATE_SOURCE, back] = rows.u8[r.RATE_SOURCE, row]
    rows.u8[r.TUNNEL, back] = rows.u8[r.TUNNEL, row]
    rows.u8[r.IP_PROTOCOL, back] = rows.u8[r.IP_PROTOCOL, row]
    rows.u8[r.END_REASON, back] = rows.u8[r.END_REASON, row]
    if not own_tos:
        rows.u8[r.TOS, back] = rows.u8[r.TOS, row]
    for column in (r.FLOW_START, r.FLOW_END):
        if rows.u64[column, back] == 0:
            rows.u64[column, back] = rows.u64[column, row]
    if icmp:
        rows.u16[r.SRC_PORT, back] = 0
        rows.u16[r.DST_PORT, back] = 0


@inline_always
def finish_rows(rows, row, n, step, flags, ctx, s, samplers):
    """Complete `n` records whose rows start at `row`, `step` apart (2: the next row is the reverse direction).

    Returns the row after the last one that is kept; those after it up to the last one written are zero again.
    """
    capacity = rows.u32.shape[1]
    if row < 0 or row + n * step > capacity:
        raise IndexError("rows outside of their columns")
    session = ctx[C_SESSION]
    header_us, received_us = ctx[C_HEADER_US], ctx[C_RECEIVED_US]
    override = np.int64(s.stats[session, S_OVERRIDE_RATE])
    scopes = scopes_with_rate(samplers, session, ctx[C_STREAM])
    common = common_rate(samplers, ctx, flags) if scopes != 0 else np.int64(0)
    by_interface = (scopes >> S_INTERFACE) & 1 != 0
    rate, source = rate_of_rest(override, common)
    differ = override <= 0 and (by_interface or flags & p.F_RATE != 0)
    if not differ:
        fill(rows.u32, r.SAMPLING_RATE * capacity + row, n * step, rate)
        fill(rows.u8, r.RATE_SOURCE * capacity + row, n * step, source)
    icmp, ovs = (flags & p.F_ICMP) != 0, (flags & p.F_OVS) != 0
    large = some_large(rows, row, row + n * step)
    to = row
    for k in range(n):
        i = np.uint64(row + k * step)
        back = np.uint64(row + k * step + 1)
        if addressless(rows, i):
            # A record of zeros is padding.
            if rows.u64[r.PACKETS, i] != 0 or rows.u64[r.BYTES, i] != 0 or rows.u8[r.IP_PROTOCOL, i] != 0:
                s.problems[session, Reason.NO_ADDRESS.value] += np.uint64(1)
            clear_row(rows, i)
            if step == 2:
                clear_row(rows, back)
            continue
        if differ:
            settle_rate(rows, i, samplers, ctx, by_interface, rate, source)
        if large:
            own = rows.u32[r.SAMPLING_RATE, i]
            if step == 2 and absurd(rows, back, own):
                _refuse(rows, back, s, session)
            if absurd(rows, i, own):
                _refuse(rows, i, s, session)
                if step == 2:
                    clear_row(rows, back)
                continue
        keep_back = step == 2 and (rows.u64[r.PACKETS, back] != 0 or rows.u64[r.BYTES, back] != 0)
        if keep_back:
            is_icmp = rows.u8[r.IP_PROTOCOL, i] in (ICMP, ICMPV6)
            mirror(rows, i, back, is_icmp, (flags & p.F_REVERSE_TOS) != 0)
            wrong = _complete(rows, i, header_us, received_us, icmp, ovs)
            s.problems[session, Reason.TIME.value] += np.uint64(wrong)
            wrong = _complete(rows, back, header_us, received_us, True, False)
            if is_icmp and rows.u8[r.ICMP_TYPE, back] == 0 and rows.u8[r.ICMP_TYPE, i] == ECHO_REQUEST_V6:
                rows.u8[r.ICMP_TYPE, back] = ECHO_REQUEST_V6 + 1
        else:
            if step == 2:
                clear_row(rows, back)
            wrong = _complete(rows, i, header_us, received_us, icmp, ovs)
        if wrong:
            s.problems[session, Reason.TIME.value] += np.uint64(1)
        if np.uint64(to) != i:
            _move_row(rows, np.uint64(to), i)
            if keep_back:
                _move_row(rows, np.uint64(to + 1), back)
        to += 2 if keep_back else 1
    if to > row:
        stated = rows.u8[r.RATE_SOURCE, to - 1] != r.RATE_UNSTATED
        s.stats[session, S_SAMPLING_RATE] = np.uint64(rows.u32[r.SAMPLING_RATE, to - 1]) if stated else np.uint64(0)
    protocol = r.PROTOCOL_NETFLOW9 if ctx[C_VERSION] == 9 else r.PROTOCOL_IPFIX
    kept = to - row
    fill(rows.u64, r.TIME_RECEIVED * capacity + row, kept, received_us)
    fill(rows.u32, r.DOMAIN * capacity + row, kept, ctx[C_DOMAIN])
    fill(rows.u8, r.PROTOCOL * capacity + row, kept, protocol)
    for word in range(2):
        exporter = swap64(s.key[session, word])
        fill(rows.address, 2 * (r.EXPORTER * capacity + row) + word, kept, exporter, 2)
    return to


@inline
def _refuse(rows, row, s, session):
    """Leave out a row whose counts are impossible, or the first totals of a flow (all ones), counted."""
    first = rows.u64[r.PACKETS, row] == np.uint64(r.ABSENT) and rows.u64[r.BYTES, row] == np.uint64(r.ABSENT)
    reason = Reason.TOTAL.value if first else Reason.COUNT_ABSURD.value
    s.problems[session, reason] += np.uint64(1)
    clear_row(rows, row)


@inline_unchecked
def _complete(rows, row, header_us, received_us, icmp, ovs):
    """Set what follows from other columns; True if a time was impossible."""
    wrong = settle_times(rows, row, header_us, received_us)
    settle_icmp(rows, row, icmp)
    derive_ether_type(rows, row)
    if rows.u8[r.OUT_KIND, row] == 0 and rows.u32[r.OUT_IF, row] != 0:
        rows.u8[r.OUT_KIND, row] = r.OUT_INDEX
    packets = rows.u64[r.PACKETS, row]
    if ovs and rows.u64[r.FLOW_START, row] == rows.u64[r.FLOW_END, row]:
        # One sampled packet, its counts scaled by the switch (ofproto-dpif-ipfix.c).
        rows.u32[r.SAMPLES, row] = min(packets, np.uint64(1))
    else:
        rows.u32[r.SAMPLES, row] = min(packets, np.uint64(0xFFFFFFFF))
    return wrong


@inline
def _move_row(rows, to, i):
    """Move a row down over rows that were not kept."""
    for c in range(rows.u64.shape[0]):
        rows.u64[c, to] = rows.u64[c, i]
    for c in range(rows.u32.shape[0]):
        rows.u32[c, to] = rows.u32[c, i]
    for c in range(rows.u16.shape[0]):
        rows.u16[c, to] = rows.u16[c, i]
    for c in range(rows.u8.shape[0]):
        rows.u8[c, to] = rows.u8[c, i]
    for c in range(rows.address.shape[0]):
        rows.address[c, to, 0] = rows.address[c, i, 0]
        rows.address[c, to, 1] = rows.address[c, i, 1]
    clear_row(rows, i)
