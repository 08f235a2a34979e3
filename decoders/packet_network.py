"""Network and transport layers of a sampled header: ARP, IPv4, IPv6, TCP, UDP, SCTP, ICMP.  Sources: their RFCs."""

from __future__ import annotations

import numpy as np

from decoders.jit import inline
from decoders.packet_layers import MAX_EXTENSIONS, P_NESTING
from decoders.rows import (
    BYTES,
    DST_IP,
    DST_PORT,
    FRAGMENT,
    ICMP_CODE,
    ICMP_TYPE,
    IP_PROTOCOL,
    SRC_IP,
    SRC_PORT,
    TCP_FLAGS,
    TCP_SEQ,
    TOS,
    TTL,
)
from decoders.wire import swap64, u16, u32, u64

FRAGMENT_FIRST, FRAGMENT_LATER = 1, 2
TCP, UDP, UDP_LITE, SCTP, ICMP, ICMPV6 = 6, 17, 136, 132, 1, 58


@inline
def put_ipv4(octets, at, column, rows, row):  # type: ignore[no-untyped-def]
    """Write the IPv4 address at `at` into an address column, mapped."""
    rows.address[column, row, 0] = np.uint64(0)
    rows.address[column, row, 1] = swap64(np.uint64(0xFFFF00000000) | np.uint64(u32(octets, at)))


@inline
def put_ipv6(octets, at, column, rows, row):  # type: ignore[no-untyped-def]
    """Write the IPv6 address at `at` into an address column."""
    rows.address[column, row, 0] = swap64(u64(octets, at))
    rows.address[column, row, 1] = swap64(u64(octets, at + 8))


@inline
def arp(octets, at, end, rows, row):  # type: ignore[no-untyped-def]
    """ARP for IPv4 over Ethernet: sender and target protocol address become the addresses of the row (RFC 826)."""
    if at + 28 > end or u16(octets, at) != 1 or u16(octets, at + 2) != 0x0800 or u16(octets, at + 4) != 0x0604:
        return
    put_ipv4(octets, at + 14, SRC_IP, rows, row)
    put_ipv4(octets, at + 24, DST_IP, rows, row)


@inline
def internet4(octets, at, end, rows, row):  # type: ignore[no-untyped-def]
    """An IPv4 header (RFC 791).  Returns (protocol or −1, offset behind it, end of the packet as far as present)."""
    if at + 20 > end or octets[at] >> 4 != 4 or octets[at] & 15 < 5:
        return -1, at, end
    size = np.int64(octets[at] & 15) * 4
    total = u16(octets, at + 2)
    if total >= size:
        rows.u64[BYTES, row] = total
        end = min(end, at + total)
    flags = u16(octets, at + 6)
    if flags & 0x1FFF != 0:
        rows.u8[FRAGMENT, row] = FRAGMENT_LATER
    elif flags & 0x2000 != 0:
        rows.u8[FRAGMENT, row] = FRAGMENT_FIRST
    rows.u8[TOS, row] = octets[at + 1]
    rows.u8[TTL, row] = octets[at + 8]
    rows.u8[IP_PROTOCOL, row] = octets[at + 9]
    put_ipv4(octets, at + 12, SRC_IP, rows, row)
    put_ipv4(octets, at + 16, DST_IP, rows, row)
    return np.int64(octets[at + 9]), at + size, end


@inline
def internet6(octets, at, end, rows, row):  # type: ignore[no-untyped-def]
    """An IPv6 header with its extensions (RFC 8200).  Returns as `internet4`, and P_ bits.

    `ip_protocol` is the upper protocol, or the first extension header that cannot be followed.
    """
    if at + 40 > end or octets[at] >> 4 != 6:
        return -1, at, end, 0
    payload = u16(octets, at + 4)
    if payload != 0:
        rows.u64[BYTES, row] = payload + 40
        end = min(end, at + 40 + payload)
    rows.u8[TOS, row] = (u16(octets, at) >> 4) & 0xFF
    rows.u8[TTL, row] = octets[at + 7]
    put_ipv6(octets, at + 8, SRC_IP, rows, row)
    put_ipv6(octets, at + 24, DST_IP, rows, row)
    protocol = np.int64(octets[at + 6])
    at += 40
    bits = 0
    if is_extension(protocol):
        protocol, at, bits = extensions(octets, at, end, protocol, rows, row)
    rows.u8[IP_PROTOCOL, row] = protocol
    if bits != 0 or is_extension(protocol):
        return -1, at, end, bits
    return protocol, at, end, 0


@inline
def is_extension(protocol):  # type: ignore[no-untyped-def]
    """True for extension headers that can be followed: hop-by-hop, routing, fragment, AH, destination options."""
    return protocol in (0, 43, 44, 51, 60)


@inline
def extensions(octets, at, end, protocol, rows, row):  # type: ignore[no-untyped-def]
    """Follow extension headers.  Returns (protocol behind them, its offset, P_ bits)."""
    for _ in range(MAX_EXTENSIONS):
        if not is_extension(protocol) or at + 8 > end:
            return protocol, at, 0
        following = np.int64(octets[at])
        if protocol == 44:
            offset = u16(octets, at + 2)
            at += 8
            if offset >> 3 != 0:
                rows.u8[FRAGMENT, row] = FRAGMENT_LATER
                return following, at, 0
            if offset & 1 != 0:
                rows.u8[FRAGMENT, row] = FRAGMENT_FIRST
        elif protocol == 51:
            at += (np.int64(octets[at + 1]) + 2) * 4
        else:
            at += (np.int64(octets[at + 1]) + 1) * 8
        protocol = following
    return protocol, at, (P_NESTING if is_extension(protocol) else 0)


@inline
def transport(octets, at, end, protocol, rows, row):  # type: ignore[no-untyped-def]
    """Ports, flags and sequence number, or ICMP type and code, as far as they are present."""
    if protocol in (TCP, UDP, SCTP, UDP_LITE):
        if at + 4 > end:
            return
        rows.u16[SRC_PORT, row] = u16(octets, at)
        rows.u16[DST_PORT, row] = u16(octets, at + 2)
        if protocol == TCP:
            if at + 8 <= end:
                rows.u32[TCP_SEQ, row] = u32(octets, at + 4)
            if at + 14 <= end:
                rows.u16[TCP_FLAGS, row] = u16(octets, at + 12) & 0x0FFF
    elif protocol in (ICMP, ICMPV6) and at + 2 <= end:
        rows.u8[ICMP_TYPE, row] = octets[at]
        rows.u8[ICMP_CODE, row] = octets[at + 1]
