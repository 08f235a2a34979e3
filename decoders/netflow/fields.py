"""Running plans: the octets of flow records become columns (kernels).

Strategy: for a set of `n` records of one length, each operation of the plan runs over all `n` records before the next
one starts, so that the choice of the operation is made once per set and column writes are contiguous.  Records whose
length varies are walked first and then run with `n` = 1.  `decoders.netflow.rows` completes the rows.
"""

from __future__ import annotations

import numpy as np

from decoders import rows as r
from decoders.interface_names import intern
from decoders.jit import inline, inline_always
from decoders.netflow import plan as p
from decoders.netflow.samplers import S_INTERFACE, S_LINE_CARD, S_SAMPLER, rate_of_number, rate_of_pair, scope_rate
from decoders.netflow.totals import after_event, since_last_report
from decoders.packet import parse_header, tunnel_kind
from decoders.sessions import S_FIRST_SEEN_US
from decoders.wire import (
    MAPPED,
    converter,
    move8,
    move16,
    move32,
    move64,
    move_ipv4,
    move_mac,
    swap64,
    u16,
    u32,
    u64,
)

NTP_1970 = 2_208_988_800
"""Seconds between 1900, where NTP counts from, and 1970."""

LATEST_SECONDS = 253_402_300_800
"""Year 10000: no absolute time is later, and microseconds up to it fit 63 bits."""

LEAST_PLAIN_US = 1_000_000_000_000_000
"""September 2001, in µs since 1970."""

_NOT_MAPPED = ~np.uint64(0xFFFF0000)
"""All of a word of an address, in memory order, except the mark of IPv4."""

# Words of a context: what all records of one message share
(
    C_SESSION,
    C_VERSION,
    C_DOMAIN,
    C_RECEIVED_US,
    C_HEADER_US,
    C_UPTIME,  # ms, −1 where the header has none
    C_INIT_MS,  # element 160 of an options record of this session, 0 = not stated
    C_STREAM,  # that the session belongs to
    C_TEMPLATE,  # id of the template of the current set
    C_WORDS,
) = range(10)


@inline
def load(octets, at, size):
    """Read an unsigned number of `size` octets as uint64; 0 if it needs more than 64 bits (RFC 7011 section 6)."""
    if size == 4:
        return np.uint64(u32(octets, at))
    if size == 8:
        return u64(octets, at)
    if size == 2:
        return np.uint64(u16(octets, at))
    if size == 1:
        return np.uint64(octets[at])
    for _ in range(size - 8):
        if octets[at] != 0:
            return np.uint64(0)
        at += 1
        size -= 1
    value = np.uint64(0)
    for i in range(size):
        value = (value << np.uint64(8)) | np.uint64(octets[at + i])
    return value


@inline
def fits(value, largest):
    """Return the value, or 0 if it does not fit its column: better absent than wrong."""
    return value if value <= np.uint64(largest) else np.uint64(0)


@inline
def absolute_us(octets, at, size, unit):
    """Read an absolute time in µs since 1970, −1 if impossible, 0 if not stated (RFC 7011 sections 6.1.7 to 6.1.10)."""
    value = load(octets, at, size)
    if value == np.uint64(0):
        return np.int64(0)
    if unit == p.UNIT_SECONDS:
        return np.int64(value) * 1_000_000 if value < np.uint64(LATEST_SECONDS) else np.int64(-1)
    if unit == p.UNIT_MILLIS:
        return np.int64(value) * 1_000 if value < np.uint64(LATEST_SECONDS * 1_000) else np.int64(-1)
    if size != 8:
        return np.int64(-1)
    seconds = np.int64(value >> np.uint64(32)) - NTP_1970
    if seconds <= 0:
        # As NTP this is before 1970; some exporters count µs or ns since then.
        micros = value // np.uint64(1_000) if unit == p.UNIT_NTP_NANOS else value
        return np.int64(micros) if micros >= np.uint64(LEAST_PLAIN_US) else np.int64(-1)
    fraction = np.int64(value & np.uint64(0xFFFFFFFF))
    if unit == p.UNIT_NTP_MICROS:
        fraction &= ~np.int64(0x7FF)
    # Rounded: a time written with µs resolution must come back as it was.
    return seconds * 1_000_000 + ((fraction * 1_000_000 + (np.int64(1) << 31)) >> 32)


@inline
def uptime_us(header_us, uptime, value):
    """Return the absolute time of `value`, in ms of an uptime that wraps at 2^32, by the header's clock and uptime.

    A value up to 100 s ahead of the header's uptime is in the future, not 49 days back (NetFlow v5).
    """
    age = (uptime - value) & np.int64(0xFFFFFFFF)
    if age > np.int64(0xFFFFFFFF) - 100_000:
        age -= np.int64(1) << 32
    return header_us - age * 1_000


@inline
def _by_uptime(value, header_us, uptime):
    us = uptime_us(header_us, uptime, np.int64(value))
    return np.uint64(us) if us >= 0 else np.uint64(r.ABSENT)


@inline
def _by_age(value, header_us, _uptime):
    us = header_us - np.int64(value)
    return np.uint64(us) if us >= 0 else np.uint64(r.ABSENT)


@inline
def _direction(value):
    """Return the enumeration value of flowDirection(61), 0 if it is neither ingress nor egress."""
    return value + np.uint64(r.DIRECTION_INGRESS) if value < np.uint64(2) else np.uint64(0)


_move_uptime, _move_before, _move_direction = converter(4, _by_uptime), converter(4, _by_age), converter(1, _direction)


@inline
def section(octets, at, size, protocol, frame_length, rows, row):
    """Parse a packet section into `row` (elements 104, 313, 315)."""
    if size <= 0:
        return
    if protocol == 11 and (octets[at] >> 4) == 6:
        protocol = 12
    parse_header(octets, at, at + size, protocol, frame_length, rows, row)
    rows.u64[r.PACKETS, row] = 1


@inline_always
def run_numbers(octets, at, stride, n, ops, o, base, off, size, rows, row, step):
    """Run an operation on a number or an address, over `n` records from `at`, `stride` octets apart."""
    code = ops[o, 0]
    field = base + ops[o, 1]
    column = ops[o, 2]
    keep = ops[o, 3]
    first = row + ops[o, 4]
    from_ = at + off[field]
    length = size[field]
    # Common sizes are moved, others read octet by octet.
    if code == p.OP_U64:
        if keep != 0:
            for k in range(n):
                i = first + k * step
                if rows.u64[column, i] == np.uint64(0):
                    rows.u64[column, i] = load(octets, from_ + k * stride, length)
        elif length == 8:
            move64(octets, from_, stride, n, rows.u64, column, first, step)
        elif length == 4:
            move32(octets, from_, stride, n, rows.u64, column, first, step)
        else:
            for k in range(n):
                rows.u64[column, first + k * step] = load(octets, from_ + k * stride, length)
    elif code == p.OP_U32:
        if length == 4:
            move32(octets, from_, stride, n, rows.u32, column, first, step)
        else:
            for k in range(n):
                rows.u32[column, first + k * step] = fits(load(octets, from_ + k * stride, length), 0xFFFFFFFF)
    elif code == p.OP_U16:
        if length == 2 and keep == 0:
            move16(octets, from_, stride, n, rows.u16, column, first, step)
        elif length == 1 and keep == 0:
            move8(octets, from_, stride, n, rows.u16, column, first, step)
        else:
            for k in range(n):
                i = first + k * step
                if keep == 0 or rows.u16[column, i] == 0:
                    rows.u16[column, i] = fits(load(octets, from_ + k * stride, length), 0xFFFF)
    elif code == p.OP_U8:
        if length == 1 and keep == 0:
            move8(octets, from_, stride, n, rows.u8, column, first, step)
        else:
            for k in range(n):
                i = first + k * step
                if keep == 0 or rows.u8[column, i] == 0:
                    rows.u8[column, i] = fits(load(octets, from_ + k * stride, length), 0xFF)
    elif code == p.OP_MAC:
        if length == 6:
            move_mac(octets, from_, stride, n, rows.u64, column, first, step)
    elif code == p.OP_DIRECTION:
        if length == 1:
            _move_direction(octets, from_, stride, n, rows.u8, column, first, step)
        else:
            for k in range(n):
                rows.u8[column, first + k * step] = _direction(load(octets, from_ + k * stride, length))
    elif code == p.OP_IPV4:
        if length == 4 and keep == 0:
            move_ipv4(octets, from_, stride, n, rows.address, column, first, step)
        elif length == 4:
            for k in range(n):
                value = np.uint64(u32(octets, from_ + k * stride))
                if value != np.uint64(0):
                    i = first + k * step
                    rows.address[column, i, 0] = 0
                    rows.address[column, i, 1] = swap64(MAPPED | value)
    elif code == p.OP_IPV6 and length == 16:
        for k in range(n):
            at_6 = from_ + k * stride
            high = u64(octets, at_6)
            low = u64(octets, at_6 + 8)
            if keep == 0 or (high | low) != np.uint64(0):
                i = first + k * step
                rows.address[column, i, 0] = swap64(high)
                rows.address[column, i, 1] = swap64(low)


@inline_always
def run_times(octets, at, stride, n, ops, o, base, off, size, ctx, rows, row, step):
    """Run an operation that makes an absolute time; an impossible one stays all ones until the row is finished."""
    code = ops[o, 0]
    field = base + ops[o, 1]
    column = ops[o, 2]
    extra = ops[o, 3]
    first = row + ops[o, 4]
    from_ = at + off[field]
    length = size[field]
    header_us = ctx[C_HEADER_US]
    # Those that nearly all exporters send have their own loops.
    if code == p.OP_TIME and extra == p.UNIT_MILLIS and length == 8:
        for k in range(n):
            millis = u64(octets, from_ + k * stride)
            micros = millis * np.uint64(1_000) if millis < np.uint64(LATEST_SECONDS * 1_000) else np.uint64(r.ABSENT)
            rows.u64[column, np.uint64(first + k * step)] = micros
        return
    if code == p.OP_UPTIME and extra == 0 and length == 4 and ctx[C_UPTIME] >= 0:
        _move_uptime(octets, from_, stride, n, rows.u64, column, first, step, header_us, ctx[C_UPTIME])
        return
    if code == p.OP_BEFORE and length == 4:
        _move_before(octets, from_, stride, n, rows.u64, column, first, step, header_us, ctx[C_UPTIME])
        return
    for k in range(n):
        i = first + k * step
        here = from_ + k * stride
        if code == p.OP_TIME:
            us = absolute_us(octets, here, length, extra)
        elif code == p.OP_BEFORE:
            value = load(octets, here, length)
            us = header_us - np.int64(value) if value <= np.uint64(0xFFFFFFFF) else np.int64(-1)
        elif code == p.OP_SPAN:
            if rows.u64[r.FLOW_START, i] != 0 or rows.u64[r.FLOW_END, i] != 0:
                continue
            span = load(octets, at + off[base + extra - 1] + k * stride, size[base + extra - 1]) - load(
                octets, here, length
            )
            us = header_us - np.int64(span & np.uint64(0xFFFFFFFF)) * 1_000
            if span & np.uint64(0x80000000) != np.uint64(0):
                us = np.int64(-1)
        elif code == p.OP_DURATION:
            value = load(octets, here, length)
            us = np.int64(0)
            if value <= np.uint64(0xFFFFFFFF):
                span = np.int64(value) * extra
                if column == r.FLOW_START:
                    us = np.int64(rows.u64[r.FLOW_END, i])
                    us = (us if us > 0 else header_us) - span
                elif rows.u64[r.FLOW_START, i] != 0:
                    us = np.int64(rows.u64[r.FLOW_START, i]) + span
        else:
            value = load(octets, here, length)
            init = ctx[C_INIT_MS]
            if extra > 0:
                init = (
                    absolute_us(octets, at + off[base + extra - 1] + k * stride, size[base + extra - 1], p.UNIT_MILLIS)
                    // 1_000
                )
            if value > np.uint64(0xFFFFFFFF):
                us = np.int64(-1)
            elif ctx[C_UPTIME] >= 0:
                us = uptime_us(header_us, ctx[C_UPTIME], np.int64(value))
            elif init > 0:
                # Uptime wraps every 49.7 days: the header's time, cut to seconds, shows in which period the value lies.
                up = header_us // 1_000 - init
                us = uptime_us(header_us, up, np.int64(value)) if up > -1_000 else (init + np.int64(value)) * 1_000
            else:
                us = np.int64(0)
        rows.u64[column, i] = np.uint64(us) if us >= 0 else np.uint64(r.ABSENT)


@inline_always
def run_special(octets, at, stride, n, ops, o, base, off, size, ctx, k, rows, row, step):
    """Run any other operation; `k` is what the decoder knows about exporters."""
    code = ops[o, 0]
    field = base + ops[o, 1]
    column = ops[o, 2]
    extra = ops[o, 3]
    first = row + ops[o, 4]
    length = size[field]
    for m in range(n):
        i = first + m * step
        here = at + off[field] + m * stride
        if code == p.OP_NAME:
            rows.u32[column, i] = intern(k.names, octets, here, length)
            continue
        if code == p.OP_SECTION:
            whole = np.int64(0)
            if column > 0:
                whole = np.int64(
                    fits(load(octets, at + off[base + column - 1] + m * stride, size[base + column - 1]), 0xFFFFFFFF)
                )
            section(octets, here, length, extra, whole, rows, i)
            continue
        value = np.uint64(0) if code == p.OP_PROBABILITY else load(octets, here, length)
        if code == p.OP_CONSTANT:
            rows.u8[column, i] = extra
        elif code == p.OP_DSCP:
            rows.u8[column, i] = (value & np.uint64(0x3F)) << np.uint64(2)
        elif code == p.OP_TYPE_CODE:
            if rows.u8[r.ICMP_TYPE, i] == 0 and rows.u8[r.ICMP_CODE, i] == 0:
                rows.u8[r.ICMP_TYPE, i] = (value >> np.uint64(8)) & np.uint64(0xFF)
                rows.u8[r.ICMP_CODE, i] = value & np.uint64(0xFF)
        elif code == p.OP_FLAGS:
            rows.u16[column, i] |= np.uint16(value & np.uint64(0xFFFF))
        elif code == p.OP_FRAGMENT:
            if value != np.uint64(0):
                rows.u8[column, i] = 2
        elif code == p.OP_FORWARDING:
            # RFC 7270 section 4.12: one octet; four-octet fields hold it in the last.
            if (value & np.uint64(0xC0)) == np.uint64(0x80):
                rows.u8[r.OUT_KIND, i] = r.OUT_DISCARDED
                if rows.u64[r.DROP_HINT_PACKETS, i] == 0:
                    rows.u64[r.DROP_HINT_PACKETS, i] = rows.u64[r.PACKETS, i]
        elif code == p.OP_SEGMENT:
            rows.u32[column, i] = value & np.uint64(0xFFFFFF)
            kind = value >> np.uint64(56)
            if kind == np.uint64(1):
                rows.u8[r.TUNNEL, i] = r.TUNNEL_VXLAN
            elif kind == np.uint64(2):
                rows.u8[r.TUNNEL, i] = r.TUNNEL_NVGRE
        elif code == p.OP_OVS_TUNNEL:
            rows.u8[column, i] = _ovs_tunnel(value)
        elif code == p.OP_RATE:
            _state_rate(rows, i, rate_of_number(value))
        elif code == p.OP_RATIO:
            other = load(octets, at + off[base + extra - 1] + m * stride, size[base + extra - 1])
            largest = np.uint64(0xFFFFFFFF)
            if value <= largest and other <= largest:
                _state_rate(rows, i, rate_of_pair(value, value + other))
        elif code == p.OP_QUOTIENT:
            other = load(octets, at + off[base + extra - 1] + m * stride, size[base + extra - 1])
            _state_rate(rows, i, rate_of_pair(value, other))
        elif code == p.OP_PROBABILITY:
            _state_rate(rows, i, probability_rate(octets, here, length))
        elif code == p.OP_SAMPLER:
            _announced_rate(k.samplers, ctx, S_SAMPLER, value, rows, i)
        elif code == p.OP_LINE_CARD:
            if not interface_rate(k.samplers, ctx, rows, i):
                _announced_rate(k.samplers, ctx, S_LINE_CARD, value, rows, i)
        elif code == p.OP_OUTER:
            source_port, port = np.int64(0), np.int64(0)
            if extra > 1:
                at_port = at + off[base + extra // 2 - 1] + m * stride
                source_port = np.int64(load(octets, at_port, size[base + extra // 2 - 1]))
            if column > 0:
                port = np.int64(load(octets, at + off[base + column - 1] + m * stride, size[base + column - 1]))
            _settle_outer(rows, i, np.int64(value) if extra & 1 == 0 else np.int64(-1), source_port, port)
        elif code == p.OP_TOTAL:
            number = np.uint64(0) if extra != 0 else value
            first_us = np.int64(k.sessions.stats[ctx[C_SESSION], S_FIRST_SEEN_US])
            for back in range(step):
                now_us = ctx[C_RECEIVED_US]
                skew_us = ctx[C_HEADER_US] - now_us
                since_last_report(k.totals, rows, i, back, ctx[C_SESSION], number, column, first_us, now_us, skew_us)
        elif code == p.OP_EVENT:
            number = np.uint64(0)
            if column > 0:
                number = load(octets, at + off[base + column - 1] + m * stride, size[base + column - 1])
            for back in range(step):
                now_us = ctx[C_RECEIVED_US]
                after_event(k.totals, rows, i, back, ctx[C_SESSION], number, np.int64(value), now_us)


@inline
def _announced_rate(samplers, ctx, scope, number, rows, row):
    """Keep the rate announced for a scope of the record, unless it has one from itself or a narrower one."""
    if rows.u32[r.SAMPLING_RATE, row] == 0:
        rate = scope_rate(samplers, ctx[C_SESSION], ctx[C_STREAM], scope, number)
        if rate > 0:
            rows.u32[r.SAMPLING_RATE, row] = rate
            rows.u8[r.RATE_SOURCE, row] = r.RATE_OPTIONS


@inline_always
def interface_rate(samplers, ctx, rows, row):
    """Keep the rate announced for an interface of the record, that of the observation point first; True if any."""
    egress = rows.u8[r.DIRECTION, row] == r.DIRECTION_EGRESS
    for turn in range(2):
        index = rows.u32[r.OUT_IF, row] if egress == (turn == 0) else rows.u32[r.IN_IF, row]
        if index != 0:
            _announced_rate(samplers, ctx, S_INTERFACE, np.uint64(index), rows, row)
    return rows.u32[r.SAMPLING_RATE, row] != 0


@inline
def _settle_outer(rows, row, protocol, source_port, port):
    """Set the tunnel type by the protocol (−1: not stated) and port of the outer header, unless there is none."""
    same = True
    empty = True
    bare = True
    for word in range(2):
        same &= rows.address[r.SRC_IP, row, word] == rows.address[r.OUTER_SRC_IP, row, word]
        same &= rows.address[r.DST_IP, row, word] == rows.address[r.OUTER_DST_IP, row, word]
        empty &= (rows.address[r.SRC_IP, row, word] & _NOT_MAPPED) == 0
        empty &= (rows.address[r.DST_IP, row, word] & _NOT_MAPPED) == 0
        bare &= (rows.address[r.OUTER_SRC_IP, row, word] & _NOT_MAPPED) == 0
        bare &= (rows.address[r.OUTER_DST_IP, row, word] & _NOT_MAPPED) == 0
    if same or empty or bare:
        # There is no inner packet: what looks like the outer header is the flow.  Or there is no outer one.
        for word in range(2):
            if not bare:
                rows.address[r.SRC_IP, row, word] = rows.address[r.OUTER_SRC_IP, row, word]
                rows.address[r.DST_IP, row, word] = rows.address[r.OUTER_DST_IP, row, word]
            rows.address[r.OUTER_SRC_IP, row, word] = 0
            rows.address[r.OUTER_DST_IP, row, word] = 0
        if empty and not bare:
            rows.u8[r.IP_PROTOCOL, row] = max(protocol, np.int64(rows.u8[r.IP_PROTOCOL, row])) & 0xFF
            rows.u16[r.SRC_PORT, row] = max(source_port, np.int64(rows.u16[r.SRC_PORT, row])) & 0xFFFF
            rows.u16[r.DST_PORT, row] = max(port, np.int64(rows.u16[r.DST_PORT, row])) & 0xFFFF
    elif rows.u8[r.TUNNEL, row] == 0:
        rows.u8[r.TUNNEL, row] = tunnel_kind(protocol, port)


@inline
def _ovs_tunnel(value):
    """Return the enumeration value of a tunnel type of Open vSwitch (ofproto-dpif-ipfix.c)."""
    if value == np.uint64(0):
        return 0
    if value == np.uint64(1):
        return r.TUNNEL_VXLAN
    if value in (np.uint64(2), np.uint64(5)):
        return r.TUNNEL_GRE
    if value == np.uint64(7):
        return r.TUNNEL_GENEVE
    return r.TUNNEL_OTHER


@inline
def _state_rate(rows, row, rate):
    """Keep a rate that the record itself states; the first usable one counts."""
    if rate > 0 and rows.u32[r.SAMPLING_RATE, row] == 0:
        rows.u32[r.SAMPLING_RATE, row] = rate
        rows.u8[r.RATE_SOURCE, row] = r.RATE_RECORD


@inline
def float_at(octets, at, size):
    """Read an IEEE 754 number of 8 or 4 octets, 0 for other sizes (RFC 7011 section 6.2)."""
    if size == 8:
        bits = u64(octets, at)
        exponent = np.int64((bits >> np.uint64(52)) & np.uint64(0x7FF)) - 1023
        mantissa = 1.0 + np.float64(np.int64(bits & np.uint64(0xFFFFFFFFFFFFF))) / 4503599627370496.0
        negative = (bits >> np.uint64(63)) != np.uint64(0)
    elif size == 4:
        word = u32(octets, at)
        exponent = ((word >> 23) & 0xFF) - 127
        mantissa = 1.0 + np.float64(word & 0x7FFFFF) / 8388608.0
        negative = (word >> 31) != 0
    else:
        return 0.0
    if negative or exponent < -40 or exponent > 40:
        return 0.0
    return mantissa * 2.0 ** np.float64(exponent)


@inline
def probability_rate(octets, at, size):
    """Return the rate of uniform probabilistic sampling (element 311), 0 if it is none."""
    probability = float_at(octets, at, size)
    if probability <= 0.0 or probability > 1.0:
        return np.int64(0)
    return min(np.int64(1.0 / probability + 0.5), np.int64(0xFFFFFFFF))


@inline_always
def run_plan(octets, at, stride, n, number, ctx, k, rows, row, step):
    """Run all operations of plan `number` over `n` records; writes rows from `row`, `step` apart."""
    plans = k.plans
    first = plans.head[number, p.P_OP]
    base = plans.head[number, p.P_FIELD]
    for o in range(first, first + plans.head[number, p.P_OPS]):
        code = plans.op[o, 0]
        if code <= p.OP_IPV6:
            run_numbers(octets, at, stride, n, plans.op, o, base, plans.off, plans.size, rows, row, step)
        elif p.OP_TIME <= code <= p.OP_DURATION:
            run_times(octets, at, stride, n, plans.op, o, base, plans.off, plans.size, ctx, rows, row, step)
        else:
            run_special(octets, at, stride, n, plans.op, o, base, plans.off, plans.size, ctx, k, rows, row, step)
