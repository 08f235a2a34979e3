"""Names that all parts of the packet parser use: layers, answer bits, and which EtherType announces which layer."""

from __future__ import annotations

from decoders.jit import inline

HEADER_ETHERNET, HEADER_PPP, HEADER_IPV4, HEADER_IPV6, HEADER_MPLS = 1, 7, 11, 12, 13
"""Values of the sFlow header_protocol that are parsed; the others (token ring, frame relay, 802.11 …) are not."""

L_STOP, L_ETHERNET, L_IPV4, L_IPV6, L_MPLS, L_ARP, L_PPP = range(7)
"""Layers: what stands at the current offset."""

P_TAGGED, P_NESTING, P_TUNNEL, P_UNKNOWN = 1, 2, 4, 8
"""Bits of the answer of `parse_header`: the frame shown has a VLAN tag; nested deeper than the limits (the rest was
left alone); a tunnel was entered; a header protocol that is not parsed."""

MAX_TAGS = 8
MAX_LABELS = 16
MAX_EXTENSIONS = 8
MAX_TUNNELS = 4
"""Encapsulations inside each other that are entered."""


@inline
def layer_of_type(ether_type):  # type: ignore[no-untyped-def]
    """The layer an EtherType announces, L_STOP for those that are not parsed."""
    if ether_type == 0x0800:
        return L_IPV4
    if ether_type == 0x86DD:
        return L_IPV6
    if ether_type in (0x8847, 0x8848):
        return L_MPLS
    if ether_type == 0x0806:
        return L_ARP
    if ether_type == 0x6558:  # transparent Ethernet bridging, inside GRE and Geneve
        return L_ETHERNET
    return L_STOP


@inline
def first_layer(header_protocol):  # type: ignore[no-untyped-def]
    """The layer an sFlow header protocol starts with, L_STOP for those that are not parsed."""
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
