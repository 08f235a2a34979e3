"""Tunnels in a sampled header: VXLAN, VXLAN-GPE, Geneve, GRE, NVGRE, ERSPAN, IP in IP, MPLS in GRE and in UDP.

Sources: their RFCs.
"""

from __future__ import annotations

import numpy as np

from decoders.jit import inline
from decoders.packet_layers import L_ETHERNET, L_IPV4, L_IPV6, L_MPLS, L_STOP, layer_of_type
from decoders.packet_link import mpls
from decoders.rows import (
    DST_IP,
    DST_PORT,
    FRAGMENT,
    ICMP_CODE,
    ICMP_TYPE,
    IP_PROTOCOL,
    OUTER_DST_IP,
    OUTER_SRC_IP,
    SRC_IP,
    SRC_PORT,
    TCP_FLAGS,
    TCP_SEQ,
    TOS,
    TTL,
    TUNNEL,
    TUNNEL_ERSPAN,
    TUNNEL_GENEVE,
    TUNNEL_GRE,
    TUNNEL_IPIP,
    TUNNEL_NVGRE,
    TUNNEL_OTHER,
    TUNNEL_VXLAN,
    TUNNEL_VXLAN_GPE,
    VLAN,
    VNI,
)
from decoders.wire import u16, u32

PORTS_VXLAN = (4789, 8472)
PORT_VXLAN_GPE = 4790
PORT_GENEVE = 6081
PORT_MPLS = 6635

LEAST_NVGRE_KEY = 0x100000
"""NVGRE keys are VSID × 256 + flow, and VSIDs below 4,096 are reserved (RFC 7637 section 3.2).  A smaller key is a
plain GRE key, as Open vSwitch writes it."""

NO_VNI = -1


@inline
def find_tunnel(octets, at, end, protocol):  # type: ignore[no-untyped-def]
    """Look for a tunnel in the payload of an IP header, `octets[at:end]`.

    Returns (tunnel code or 0, layer inside, offset of the inner packet, VNI or NO_VNI).  A tunnel counts only if the
    inner packet shows its addresses; else the row keeps the outer packet.
    """
    kind, layer, inner, vni = 0, L_STOP, at, NO_VNI
    if protocol == 17:
        if at + 16 <= end:
            kind, layer, inner, vni = _over_udp(octets, at + 8, end, u16(octets, at + 2))
    elif protocol == 47:
        kind, layer, inner, vni = _gre(octets, at, end)
    elif protocol == 4:
        kind, layer = TUNNEL_IPIP, L_IPV4
    elif protocol == 41:
        kind, layer = TUNNEL_IPIP, L_IPV6
    if kind == 0 or not _shows_addresses(octets, inner, end, layer):
        return 0, L_STOP, at, NO_VNI
    return kind, layer, inner, vni


@inline
def _shows_addresses(octets, at, end, layer):  # type: ignore[no-untyped-def]
    if layer == L_MPLS:
        layer, at, _ = mpls(octets, at, end)
    if layer == L_ETHERNET:
        return at + 14 <= end
    if layer == L_IPV4:
        return at + 20 <= end and octets[at] >> 4 == 4
    return layer == L_IPV6 and at + 40 <= end and octets[at] >> 4 == 6


@inline
def _over_udp(octets, at, end, port):  # type: ignore[no-untyped-def]
    """VXLAN (RFC 7348), VXLAN-GPE, Geneve (RFC 8926) and MPLS (RFC 7510) by destination port.

    `at`: behind the UDP header, 8 octets are present.
    """
    vni = u32(octets, at + 4) >> 8
    flags = np.int64(octets[at])
    # The flag of the VNI, and none of the reserved ones; the first is that of the group policy extension.
    if port in PORTS_VXLAN and flags & 0x7F == 0x08:
        return TUNNEL_VXLAN, L_ETHERNET, at + 8, vni
    if port == PORT_VXLAN_GPE and flags & 0x08 != 0:
        following = octets[at + 3]
        layer = L_STOP
        if flags & 0x04 == 0 or following == 3:
            layer = L_ETHERNET
        elif following == 1:
            layer = L_IPV4
        elif following == 2:
            layer = L_IPV6
        return TUNNEL_VXLAN_GPE, layer, at + 8, vni
    if port == PORT_GENEVE and flags >> 6 == 0:
        return TUNNEL_GENEVE, layer_of_type(u16(octets, at + 2)), at + 8 + (flags & 0x3F) * 4, vni
    if port == PORT_MPLS:
        return TUNNEL_OTHER, L_MPLS, at, NO_VNI
    return 0, L_STOP, at, NO_VNI


@inline
def _gre(octets, at, end):  # type: ignore[no-untyped-def]
    """GRE version 0 (RFC 2784, RFC 2890) with what it carries.

    That is Ethernet, IP, MPLS (RFC 4023), ERSPAN II and III, NVGRE (RFC 7637).
    """
    if at + 4 > end:
        return 0, L_STOP, at, NO_VNI
    flags = u16(octets, at)
    if flags & 0x4007 != 0:  # routing present, or PPTP
        return 0, L_STOP, at, NO_VNI
    ether_type = u16(octets, at + 2)
    at += 4
    if flags & 0x8000 != 0:
        at += 4
    key = np.int64(NO_VNI)
    if flags & 0x2000 != 0:
        if at + 4 > end:
            return 0, L_STOP, at, NO_VNI
        key = u32(octets, at)
        at += 4
    if flags & 0x1000 != 0:
        at += 4
    if ether_type == 0x88BE:
        return TUNNEL_ERSPAN, L_ETHERNET, at + (8 if flags & 0x1000 != 0 else 0), NO_VNI
    if ether_type == 0x22EB:
        platform = at + 12 <= end and octets[at + 11] & 1 != 0
        return TUNNEL_ERSPAN, L_ETHERNET, at + (20 if platform else 12), NO_VNI
    if ether_type == 0x6558 and key >= LEAST_NVGRE_KEY:
        return TUNNEL_NVGRE, L_ETHERNET, at, key >> 8
    return TUNNEL_GRE, layer_of_type(ether_type), at, key


@inline
def enter_tunnel(kind, vni, ethernet_inside, rows, row):  # type: ignore[no-untyped-def]
    """What the row shows so far is the outer packet: keep its addresses as the outer ones, make room for the inner."""
    rows.u8[TUNNEL, row] = kind
    if vni >= 0:
        rows.u32[VNI, row] = vni
    for word in range(2):
        rows.address[OUTER_SRC_IP, row, word] = rows.address[SRC_IP, row, word]
        rows.address[OUTER_DST_IP, row, word] = rows.address[DST_IP, row, word]
        rows.address[SRC_IP, row, word] = np.uint64(0)
        rows.address[DST_IP, row, word] = np.uint64(0)
    if ethernet_inside:
        rows.u16[VLAN, row] = 0
    rows.u16[SRC_PORT, row] = 0
    rows.u16[DST_PORT, row] = 0
    rows.u16[TCP_FLAGS, row] = 0
    rows.u32[TCP_SEQ, row] = 0
    rows.u8[IP_PROTOCOL, row] = 0
    rows.u8[ICMP_TYPE, row] = 0
    rows.u8[ICMP_CODE, row] = 0
    rows.u8[TOS, row] = 0
    rows.u8[TTL, row] = 0
    rows.u8[FRAGMENT, row] = 0


@inline
def tunnel_kind(protocol, port):  # type: ignore[no-untyped-def]
    """Tunnel code by IP protocol and destination port.  Open vSwitch swaps the octets of the port: both are tried."""
    swapped = ((port & 0xFF) << 8) | (port >> 8)
    if protocol == 47:
        return TUNNEL_GRE
    if protocol in (4, 41):
        return TUNNEL_IPIP
    if protocol == 17:
        if port in PORTS_VXLAN or swapped in PORTS_VXLAN:
            return TUNNEL_VXLAN
        if PORT_GENEVE in (port, swapped):
            return TUNNEL_GENEVE
        if PORT_VXLAN_GPE in (port, swapped):
            return TUNNEL_VXLAN_GPE
    return TUNNEL_OTHER
