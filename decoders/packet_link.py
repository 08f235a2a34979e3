"""Link layers of a sampled header: Ethernet with VLAN tags and SNAP, PPP, MPLS (IEEE 802.3, 802.1Q, RFC 1661, 3032)."""

from __future__ import annotations

from decoders.jit import inline
from decoders.packet_layers import L_ETHERNET, L_IPV4, L_IPV6, L_STOP, MAX_LABELS, MAX_TAGS, P_NESTING, P_TAGGED
from decoders.rows import DST_MAC, ETHER_TYPE, SRC_MAC, VLAN
from decoders.wire import mac, u16, u32


@inline
def is_tag(ether_type):  # type: ignore[no-untyped-def]
    """True for the tag protocol ids of IEEE 802.1Q, 802.1ad and the older QinQ ones."""
    return ether_type in (0x8100, 0x88A8, 0x9100, 0x9200)


@inline
def ethernet(octets, at, end, rows, row):  # type: ignore[no-untyped-def]
    """Ethernet II or 802.3 header with tags.  Returns (EtherType, offset behind it, P_ bits); EtherType −1 if cut.

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
def ppp(octets, at, end):  # type: ignore[no-untyped-def]
    """PPP, with or without HDLC address and control.  Returns (EtherType of the payload or 0, offset behind it)."""
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
def mpls(octets, at, end):  # type: ignore[no-untyped-def]
    """A label stack.  Returns (layer below, its offset, P_ bits); the layer is L_STOP where it is cut or not known.

    Nothing in the labels says what follows: an explicit-null label or the first nibble does (RFC 3032, RFC 4385).
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
