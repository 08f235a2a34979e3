"""Sampled packet headers, parsed inside compiled kernels and written into a row laid out as `flows`.

Strategy: a loop over layers (`parse_layers`).  Each layer reads what it needs if it is all there, else the parse ends
and what was found so far is kept: a cut header is normal, not an error.  If a tunnel is found whose inner packet is
visible, the addresses found so far become the outer ones and the inner packet takes the plain columns; nested tunnels
repeat this, so the outer columns and the VNI are those of the tunnel directly around the packet that the row shows.

- Link layers: Ethernet with VLAN tags and SNAP, PPP, PPPoE, MPLS (IEEE 802.3, 802.1Q, RFC 1661, 2516, 3032).
- Network and transport: ARP, IPv4, IPv6 and its extensions, AH, TCP, UDP, SCTP, ICMP, as in their RFCs.
- Tunnels: VXLAN, VXLAN-GPE, Geneve, GRE, NVGRE, ERSPAN, IP in IP, MPLS in GRE, UDP and IP, as in their RFCs; GTP-U
  (3GPP TS 29.281).
"""

from __future__ import annotations

import numpy as np

from decoders.jit import inline, inline_always
from decoders.rows import (
    BYTES,
    DST_IP,
    DST_MAC,
    DST_PORT,
    ETHER_TYPE,
    FRAGMENT,
    FRAME_BYTES,
    ICMP_CODE,
    ICMP_TYPE,
    IP_PROTOCOL,
    OUTER_DST_IP,
    OUTER_SRC_IP,
    SRC_IP,
    SRC_MAC,
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
from decoders.wire import mac, swap64, u16, u32, u64

HEADER_ETHERNET, HEADER_PPP, HEADER_IPV4, HEADER_IPV6, HEADER_MPLS = 1, 7, 11, 12, 13
"""Values of the sFlow header_protocol that are parsed; the others (token ring, frame relay, 802.11 …) are not."""

L_STOP, L_ETHERNET, L_IPV4, L_IPV6, L_MPLS, L_ARP, L_PPP, L_PPPOE = range(8)
"""Layers: what is at the current offset."""

P_TAGGED, P_NESTING, P_TUNNEL, P_UNKNOWN = 1, 2, 4, 8
"""Bits that `parse_header` returns: the frame shown has a VLAN tag; nested deeper than the limits (the rest was not
parsed); a tunnel was entered; a header protocol that is not parsed."""

MAX_TAGS = 8
MAX_LABELS = 16
MAX_EXTENSIONS = 8
MAX_TUNNELS = 4
"""Nested encapsulations that are entered."""


@inline
def layer_of_type(ether_type):
    """Return the layer of an EtherType, L_STOP for those that are not parsed."""
    if ether_type == 0x0800:
        return L_IPV4
    if ether_type == 0x86DD:
        return L_IPV6
    if ether_type in (0x8847, 0x8848):
        return L_MPLS
    if ether_type == 0x0806:
        return L_ARP
    if ether_type == 0x8864:
        return L_PPPOE
    if ether_type == 0x6558:  # transparent Ethernet bridging, inside GRE and Geneve
        return L_ETHERNET
    return L_STOP


@inline
def first_layer(header_protocol):
    """Return the first layer of an sFlow header protocol, L_STOP for those that are not parsed."""
    if header_protocol == HEADER_ETHERNET:
        return L_ETHERNET
    if header_protocol == HEADER_IPV4:
        return L_IPV4
    if header_protocol == HEADER_IPV6:
        return L_IPV6
    if header_protocol == HEADER_MPLS:
        return L_MPLS
    if header_protocol == HEADER_PPP:
        return L_PPP
    return L_STOP


@inline
def is_tag(ether_type):
    """Return True for the tag protocol ids of IEEE 802.1Q, 802.1ad and the older QinQ ones."""
    return ether_type in (0x8100, 0x88A8, 0x9100, 0x9200)


@inline
def ethernet(octets, at, end, rows, row):
    """Read an Ethernet II or 802.3 header with tags.  Returns (EtherType, −1 if cut; offset after it; P_ bits).

    `vlan` is the outermost VLAN id that is not 0 (a tag with id 0 carries only a priority).  The EtherType of an 802.3
    frame without SNAP is 0.
    """
    if at + 14 > end:
        return -1, at, 0
    rows.u64[DST_MAC, row] = mac(octets, at)
    rows.u64[SRC_MAC, row] = mac(octets, at + 6)
    ether_type = u16(octets, at + 12)
    at += 14
    bits = 0
    tags = 0
    vlan = 0
    while is_tag(ether_type):
        if at + 4 > end:
            rows.u16[VLAN, row] = vlan
            return -1, at, bits
        tags += 1
        if tags > MAX_TAGS:
            rows.u16[VLAN, row] = vlan
            return -1, at, bits | P_NESTING
        bits = P_TAGGED
        if vlan == 0:
            vlan = u16(octets, at) & 0x0FFF
        ether_type = u16(octets, at + 2)
        at += 4
    rows.u16[VLAN, row] = vlan
    if ether_type < 0x0600:
        ether_type = 0
        if at + 8 <= end and u32(octets, at) == 0xAAAA0300 and u16(octets, at + 4) == 0:
            ether_type = u16(octets, at + 6)
            at += 8
    rows.u16[ETHER_TYPE, row] = ether_type
    return ether_type, at, bits


@inline
def ppp(octets, at, end):
    """Read PPP, with or without HDLC address and control.  Returns (EtherType of the payload or 0, offset after it)."""
    if at + 2 <= end and u16(octets, at) == 0xFF03:
        at += 2
    if at + 2 > end:
        return 0, at
    protocol = u16(octets, at)
    if protocol == 0x0021:
        return 0x0800, at + 2
    if protocol == 0x0057:
        return 0x86DD, at + 2
    if protocol == 0x0281:
        return 0x8847, at + 2
    return 0, at + 2


@inline
def pppoe(octets, at, end):
    """Read the header of a PPPoE session (RFC 2516).  Returns the same as `ppp`, (0, offset) if it is none."""
    if at + 6 > end or u16(octets, at) != 0x1100:
        return 0, at
    return ppp(octets, at + 6, end)


@inline
def mpls(octets, at, end):
    """Read a label stack.  Returns (layer below, its offset, P_ bits); the layer is L_STOP if it is cut or not known.

    The labels do not state what follows: an explicit-null label or the first nibble does (RFC 3032, RFC 4385).
    """
    labels = 0
    label = 0
    bottom = False
    while not bottom:
        if at + 4 > end:
            return L_STOP, at, 0
        labels += 1
        if labels > MAX_LABELS:
            return L_STOP, at, P_NESTING
        entry = u32(octets, at)
        label = entry >> 12
        bottom = entry & 0x100 != 0
        at += 4
    if at >= end:
        return L_STOP, at, 0
    nibble = octets[at] >> 4
    if label == 0 or (label != 2 and nibble == 4):
        return L_IPV4, at, 0
    if label == 2 or nibble == 6:
        return L_IPV6, at, 0
    if nibble == 0 and at + 4 <= end:
        return L_ETHERNET, at + 4, 0
    return L_STOP, at, 0


FRAGMENT_FIRST, FRAGMENT_LATER = 1, 2
TCP, UDP, UDP_LITE, SCTP, ICMP, ICMPV6, AH = 6, 17, 136, 132, 1, 58, 51


@inline
def put_ipv4(octets, at, column, rows, row):
    """Write the IPv4 address at `at` into an address column, mapped."""
    rows.address[column, row, 0] = np.uint64(0)
    rows.address[column, row, 1] = swap64(np.uint64(0xFFFF00000000) | np.uint64(u32(octets, at)))


@inline
def put_ipv6(octets, at, column, rows, row):
    """Write the IPv6 address at `at` into an address column."""
    rows.address[column, row, 0] = swap64(u64(octets, at))
    rows.address[column, row, 1] = swap64(u64(octets, at + 8))


@inline
def arp(octets, at, end, rows, row):
    """Read ARP for IPv4 over Ethernet: sender and target protocol address become those of the row (RFC 826)."""
    if at + 28 > end or u16(octets, at) != 1 or u16(octets, at + 2) != 0x0800 or u16(octets, at + 4) != 0x0604:
        return
    put_ipv4(octets, at + 14, SRC_IP, rows, row)
    put_ipv4(octets, at + 24, DST_IP, rows, row)


@inline
def internet4(octets, at, end, rows, row):
    """Read an IPv4 header (RFC 791), and AH after it (RFC 4302).

    Returns (protocol or −1, offset after them, end of what is there of the packet).
    """
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
    protocol = np.int64(octets[at + 9])
    put_ipv4(octets, at + 12, SRC_IP, rows, row)
    put_ipv4(octets, at + 16, DST_IP, rows, row)
    at += size
    if protocol == AH and flags & 0x1FFF == 0 and at + 8 <= end:
        protocol = np.int64(octets[at])
        at += (np.int64(octets[at + 1]) + 2) * 4
    rows.u8[IP_PROTOCOL, row] = protocol
    return protocol, at, end


@inline
def internet6(octets, at, end, rows, row):
    """Read an IPv6 header with its extensions (RFC 8200).  Returns the same as `internet4`, and P_ bits.

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
def is_extension(protocol):
    """Return True for headers that can be followed: hop-by-hop, routing, fragment, AH, destination options."""
    return protocol in (0, 43, 44, AH, 60)


@inline
def extensions(octets, at, end, protocol, rows, row):
    """Follow extension headers.  Returns (protocol after them, its offset, P_ bits)."""
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
        elif protocol == AH:
            at += (np.int64(octets[at + 1]) + 2) * 4
        else:
            at += (np.int64(octets[at + 1]) + 1) * 8
        protocol = following
    return protocol, at, (P_NESTING if is_extension(protocol) else 0)


@inline
def transport(octets, at, end, protocol, rows, row):
    """Read ports, flags and sequence number, or ICMP type and code, as far as they are present."""
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


PORTS_VXLAN = (4789, 8472)
PORT_VXLAN_GPE = 4790
PORT_GENEVE = 6081
PORT_MPLS = 6635
PORT_GTP = 2152

LEAST_NVGRE_KEY = 0x100000
"""NVGRE keys are VSID × 256 + flow, and VSIDs below 4,096 are reserved (RFC 7637 section 3.2).  A smaller key is a
plain GRE key, as Open vSwitch writes it."""

NO_VNI = -1


@inline
def find_tunnel(octets, at, end, protocol):
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
    elif protocol == 137:  # MPLS in IP (RFC 4023 section 3)
        kind, layer = TUNNEL_OTHER, L_MPLS
    if kind == 0 or not _shows_addresses(octets, inner, end, layer):
        return 0, L_STOP, at, NO_VNI
    return kind, layer, inner, vni


@inline
def _shows_addresses(octets, at, end, layer):
    if layer == L_MPLS:
        layer, at, _ = mpls(octets, at, end)
    if layer == L_ETHERNET:
        return at + 14 <= end
    if layer == L_IPV4:
        return at + 20 <= end and octets[at] >> 4 == 4
    return layer == L_IPV6 and at + 40 <= end and octets[at] >> 4 == 6


@inline
def _over_udp(octets, at, end, port):
    """Read VXLAN (RFC 7348), VXLAN-GPE, Geneve (RFC 8926), MPLS (RFC 7510) and GTP-U by destination port.

    `at`: after the UDP header, 8 octets are present.
    """
    vni = u32(octets, at + 4) >> 8
    flags = np.int64(octets[at])
    # The flag of the VNI, and none of the reserved ones; the first bit is that of the group policy extension.
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
    if port == PORT_GTP and flags & 0xF0 == 0x30 and octets[at + 1] == 255:
        inner = _after_gtp(octets, at, end)
        if inner < end:
            return TUNNEL_OTHER, L_IPV6 if octets[inner] >> 4 == 6 else L_IPV4, inner, NO_VNI
    return 0, L_STOP, at, NO_VNI


@inline
def _after_gtp(octets, at, end):
    """Return the offset of the packet in a GTP-U G-PDU, `end` if it is not there (3GPP TS 29.281 section 5)."""
    flags = np.int64(octets[at])
    if flags & 7 == 0:
        return at + 8
    following = octets[at + 11] if at + 12 <= end and flags & 4 != 0 else 0
    at += 12
    for _ in range(MAX_EXTENSIONS):
        if following == 0:
            return min(at, end)
        if at >= end or octets[at] == 0 or at + 4 * np.int64(octets[at]) > end:
            return end
        at += 4 * np.int64(octets[at])
        following = octets[at - 1]
    return end


@inline
def _gre(octets, at, end):
    """Read GRE version 0 (RFC 2784, RFC 2890) and the header of its payload.

    The payload is Ethernet, IP, MPLS (RFC 4023), ERSPAN II and III, NVGRE (RFC 7637).
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
def enter_tunnel(kind, vni, ethernet_inside, rows, row):
    """Move the addresses of the row to the outer columns, and clear the other columns for the inner packet."""
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
def tunnel_kind(protocol, port):
    """Return the tunnel code by IP protocol and destination port; both octet orders, since Open vSwitch swaps them."""
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


@inline_always
def parse_header(octets, at, end, header_protocol, frame_length, rows, row):
    """Parse the header `octets[at:end]` into `row`, which is zero in all columns that a packet fills.

    `frame_length`: octets of the whole frame from `at` on, without FCS; 0 = not known, then what is present is taken.
    Sets `frame_bytes` (link-layer headers only), `bytes` and what the layers show.  Returns P_ bits.
    IPFIX elements 104, 313 and 315 are such headers too: header protocols 1 or 11/12 by the first nibble.
    Source: sFlow version 5, sampled_header; each layer cites its own.
    """
    layer, frame_length = start_header(header_protocol, end - at, frame_length, rows, row)
    if layer == L_STOP:
        return P_UNKNOWN
    return parse_layers(octets, at, end, layer, at + frame_length, 0, rows, row)


@inline
def start_header(header_protocol, present, frame_length, rows, row):
    """Set the lengths of a row before its layers are known.  Returns (first layer, octets of the frame)."""
    if frame_length <= 0:
        frame_length = present
    if header_protocol not in (HEADER_IPV4, HEADER_IPV6):
        rows.u64[FRAME_BYTES, row] = frame_length
    rows.u64[BYTES, row] = frame_length
    return first_layer(header_protocol), frame_length


@inline_always
def parse_layers(octets, at, end, layer, frame_end, result, rows, row):
    """Loop over layers, starting with `layer` at `at`.  `frame_end`: where the frame would end if it were whole."""
    return find_layers(octets, at, end, layer, frame_end, result, rows, row)[0]


@inline_always
def find_layers(octets, at, end, layer, frame_end, result, rows, row):
    """Do what `parse_layers` does, and say where: returns (P_ bits, outermost IP header, innermost, what that carries).

    The last three are offsets, −1 for what is not there: the first without a tunnel, the last in a later fragment.
    """
    tunnels = 0
    around = internet = carried = np.int64(-1)
    while layer != L_STOP:
        if layer == L_ETHERNET:
            ether_type, at, bits = ethernet(octets, at, end, rows, row)
            result = (result & ~P_TAGGED) | bits
            if ether_type < 0:
                return result, around, internet, carried
            rows.u64[BYTES, row] = max(frame_end - at, 0)
            layer = layer_of_type(ether_type)
        elif layer in (L_PPP, L_PPPOE):
            ether_type, at = ppp(octets, at, end) if layer == L_PPP else pppoe(octets, at, end)
            if layer == L_PPP:
                rows.u16[ETHER_TYPE, row] = ether_type
            rows.u64[BYTES, row] = max(frame_end - at, 0)
            layer = layer_of_type(ether_type)
        elif layer == L_MPLS:
            layer, at, bits = mpls(octets, at, end)
            result |= bits
            rows.u64[BYTES, row] = max(frame_end - at, 0)
            if layer == L_ETHERNET:  # a pseudo-wire: an encapsulation like others, but without outer columns
                tunnels += 1
                if tunnels > MAX_TUNNELS or at + 14 > end:
                    return result | (P_NESTING if tunnels > MAX_TUNNELS else 0), around, internet, carried
        elif layer == L_ARP:
            arp(octets, at, end, rows, row)
            return result, around, internet, carried
        else:
            begin = at
            if layer == L_IPV4:
                protocol, at, end = internet4(octets, at, end, rows, row)
            else:
                protocol, at, end, bits = internet6(octets, at, end, rows, row)
                result |= bits
            if at > begin:
                internet = begin
            if protocol < 0 or rows.u8[FRAGMENT, row] == FRAGMENT_LATER:
                return result, around, internet, carried
            carried = at
            transport(octets, at, end, protocol, rows, row)
            kind, layer, inner, vni = find_tunnel(octets, at, end, protocol)
            if kind != 0:
                tunnels += 1
                if tunnels > MAX_TUNNELS:
                    return result | P_NESTING, around, internet, carried
                enter_tunnel(kind, vni, layer == L_ETHERNET, rows, row)
                result = (result | P_TUNNEL) & ~P_TAGGED
                if around < 0:
                    around = internet
                internet = carried = np.int64(-1)
                at = inner
                rows.u64[BYTES, row] = max(frame_end - at, 0)
                if layer == L_MPLS:
                    rows.u16[ETHER_TYPE, row] = 0x8847
                elif layer != L_ETHERNET:
                    rows.u16[ETHER_TYPE, row] = 0x0800 if layer == L_IPV4 else 0x86DD
    return result, around, internet, carried


@inline
def guess_layer(octets, at, end):
    """Guess the layer at an offset that is all sFlow 1027 and 1028 state: Ethernet, IPv4, IPv6 or L_STOP."""
    if at + 14 <= end:
        ether_type = u16(octets, at + 12)
        if ether_type in (0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8):
            return L_ETHERNET
    if at + 20 <= end and octets[at] >> 4 == 4 and octets[at] & 15 >= 5:
        return L_IPV4
    if at + 40 <= end and octets[at] >> 4 == 6:
        return L_IPV6
    return L_STOP


@inline
def has_address(rows, row):
    """Return True if the row has a MAC or an IP address: without one, it does not show who communicates."""
    words = rows.u64[SRC_MAC, row] | rows.u64[DST_MAC, row]
    for word in range(2):
        words |= rows.address[SRC_IP, row, word] | rows.address[DST_IP, row, word]
    return words != 0
