"""A sampled packet header, taken apart inside compiled kernels and written into a row laid out as `flows`.

Strategy: a loop over layers.  Each layer reads what it needs if it is all there, else the parse ends and what was found
so far stands: a cut header is normal, not an error.  Where a tunnel is found whose inner packet is visible, the
addresses found so far become the outer ones and the inner packet takes the plain columns; nested tunnels repeat this,
so the outer columns and the VNI are those of the tunnel directly around the packet that the row shows.
"""

from __future__ import annotations

from decoders.jit import forced, inline
from decoders.packet_layers import (
    HEADER_IPV4,
    HEADER_IPV6,
    L_ARP,
    L_ETHERNET,
    L_IPV4,
    L_IPV6,
    L_MPLS,
    L_PPP,
    L_STOP,
    MAX_TUNNELS,
    P_NESTING,
    P_TAGGED,
    P_TUNNEL,
    P_UNKNOWN,
    first_layer,
    layer_of_type,
)
from decoders.packet_link import ethernet, mpls, ppp
from decoders.packet_network import FRAGMENT_LATER, arp, internet4, internet6, transport
from decoders.packet_tunnel import enter_tunnel, find_tunnel
from decoders.rows import BYTES, DST_IP, DST_MAC, ETHER_TYPE, FRAGMENT, FRAME_BYTES, SRC_IP, SRC_MAC
from decoders.wire import u16


@forced
def parse_header(octets, at, end, header_protocol, frame_length, rows, row):  # type: ignore[no-untyped-def]
    """Take the header `octets[at:end]` apart into `row`, which is zero in all columns that a packet fills.

    `frame_length`: octets of the whole frame from `at` on, without FCS; 0 = not known, then what is present is taken.
    Sets `frame_bytes` (link-layer headers only), `bytes` and what the layers show.  Returns P_ bits.
    IPFIX elements 104, 313 and 315 are such headers too: header protocols 1 or 11/12 by the first nibble.
    Source: sFlow version 5, sampled_header; each layer names its own.
    """
    layer, frame_length = start_header(header_protocol, end - at, frame_length, rows, row)
    if layer == L_STOP:
        return P_UNKNOWN
    return parse_layers(octets, at, end, layer, at + frame_length, 0, rows, row)


@inline
def start_header(header_protocol, present, frame_length, rows, row):  # type: ignore[no-untyped-def]
    """Set the lengths of a row before its layers are known.  Returns (first layer, octets of the frame)."""
    if frame_length <= 0:
        frame_length = present
    if header_protocol not in (HEADER_IPV4, HEADER_IPV6):
        rows.u64[FRAME_BYTES, row] = frame_length
    rows.u64[BYTES, row] = frame_length
    return first_layer(header_protocol), frame_length


@forced
def parse_layers(octets, at, end, layer, frame_end, result, rows, row):  # type: ignore[no-untyped-def]
    """The loop over layers, starting with `layer` at `at`.  `frame_end`: where the frame would end if it were whole."""
    tunnels = 0
    while layer != L_STOP:
        if layer == L_ETHERNET:
            ether_type, at, bits = ethernet(octets, at, end, rows, row)
            result = (result & ~P_TAGGED) | bits
            if ether_type < 0:
                return result
            rows.u64[BYTES, row] = max(frame_end - at, 0)
            layer = layer_of_type(ether_type)
        elif layer == L_PPP:
            ether_type, at = ppp(octets, at, end)
            rows.u16[ETHER_TYPE, row] = ether_type
            rows.u64[BYTES, row] = max(frame_end - at, 0)
            layer = layer_of_type(ether_type)
        elif layer == L_MPLS:
            layer, at, bits = mpls(octets, at, end)
            result |= bits
            rows.u64[BYTES, row] = max(frame_end - at, 0)
            if layer == L_ETHERNET:  # a pseudo-wire: an encapsulation like others, of which nothing outer is kept
                tunnels += 1
                if tunnels > MAX_TUNNELS or at + 14 > end:
                    return result | (P_NESTING if tunnels > MAX_TUNNELS else 0)
        elif layer == L_ARP:
            arp(octets, at, end, rows, row)
            return result
        else:
            if layer == L_IPV4:
                protocol, at, end = internet4(octets, at, end, rows, row)
            else:
                protocol, at, end, bits = internet6(octets, at, end, rows, row)
                result |= bits
            if protocol < 0 or rows.u8[FRAGMENT, row] == FRAGMENT_LATER:
                return result
            transport(octets, at, end, protocol, rows, row)
            kind, layer, inner, vni = find_tunnel(octets, at, end, protocol)
            if kind != 0:
                tunnels += 1
                if tunnels > MAX_TUNNELS:
                    return result | P_NESTING
                enter_tunnel(kind, vni, layer == L_ETHERNET, rows, row)
                result = (result | P_TUNNEL) & ~P_TAGGED
                at = inner
                rows.u64[BYTES, row] = max(frame_end - at, 0)
                if layer == L_MPLS:
                    rows.u16[ETHER_TYPE, row] = 0x8847
                elif layer != L_ETHERNET:
                    rows.u16[ETHER_TYPE, row] = 0x0800 if layer == L_IPV4 else 0x86DD
    return result


@inline
def guess_layer(octets, at, end):  # type: ignore[no-untyped-def]
    """What stands at an offset that only an offset is known of (sFlow 1027, 1028): Ethernet, IPv4, IPv6 or L_STOP."""
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
def has_address(rows, row):  # type: ignore[no-untyped-def]
    """True if the row shows a MAC or an IP address: without, it says nothing of who talks."""
    words = rows.u64[SRC_MAC, row] | rows.u64[DST_MAC, row]
    for word in range(2):
        words |= rows.address[SRC_IP, row, word] | rows.address[DST_IP, row, word]
    return words != 0
