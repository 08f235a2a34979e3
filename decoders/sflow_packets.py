"""The packet of an sFlow sample: sampled header or its substitutes, VLAN and tunnel records, into a row."""

from __future__ import annotations

import numpy as np

from decoders.errors import Reason
from decoders.jit import forced, inline
from decoders.packet import guess_layer, parse_layers, start_header
from decoders.packet_layers import L_ETHERNET, L_STOP, P_NESTING, P_TAGGED, P_TUNNEL
from decoders.packet_network import put_ipv4, put_ipv6
from decoders.packet_tunnel import enter_tunnel, tunnel_kind
from decoders.rows import (
    BYTES,
    DST_IP,
    DST_MAC,
    DST_PORT,
    ETHER_TYPE,
    FRAME_BYTES,
    IP_PROTOCOL,
    OUTER_DST_IP,
    OUTER_SRC_IP,
    SRC_IP,
    SRC_MAC,
    SRC_PORT,
    TCP_FLAGS,
    TOS,
    TUNNEL,
    TUNNEL_OTHER,
    VLAN,
    VNI,
)
from decoders.sflow_records import (
    R_DECAP_IN,
    R_DECAP_OUT,
    R_ETHERNET,
    R_HEADER,
    R_IN4,
    R_IN6,
    R_IPV4,
    R_IPV6,
    R_OUT4,
    R_OUT6,
    R_SWITCH,
    R_VLANS,
    R_VNI_IN,
    R_VNI_OUT,
)
from decoders.sflow_state import report
from decoders.wire import mac, u16, u32

FCS = 4
"""Octets of the frame check sequence, which sFlow lengths include."""

_FRAME_LENGTH = Reason.FRAME_LENGTH.value
_RECORD_SHORT = Reason.RECORD_SHORT.value
_NESTED = Reason.NESTING.value


@forced
def sampled_packet(octets, found, problems, log, rows, row):  # type: ignore[no-untyped-def]
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


@forced
def _header(octets, at, found, problems, log, rows, row):  # type: ignore[no-untyped-def]
    """Record 1.  Returns P_ bits.  `frame_bytes` is frame length − stripped (sFlow version 5, flow_record)."""
    frame_length = u32(octets, at + 4)
    stripped = u32(octets, at + 8)
    size = u32(octets, at + 12)
    stated = stripped <= frame_length and size <= frame_length
    if not stated:
        # The header is there all the same, and its IP length says how long the packet was.
        report(problems, log, at, _FRAME_LENGTH, frame_length)
    whole = frame_length - stripped if stated else np.int64(0)
    begin = at + 16
    end = begin + size
    layer, whole = start_header(u32(octets, at), size, whole, rows, row)
    if not stated:
        rows.u64[FRAME_BYTES, row] = 0
    bits = 0
    here = begin
    for _ in range(2):  # once more inside a tunnel that only records 1027 and 1028 tell of
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
def _decapsulated(octets, begin, end, found):  # type: ignore[no-untyped-def]
    """Records 1027, 1028: where the inner packet of a tunnel is that we do not know ourselves.

    Returns (its offset, its layer); the layer is L_STOP if there is no record, or nothing that can be read.
    """
    place = found[R_DECAP_IN, 0] if found[R_DECAP_IN, 0] != 0 else found[R_DECAP_OUT, 0]
    if place == 0:
        return begin, L_STOP
    inner = begin + u32(octets, place)
    if inner == begin or inner >= end:
        return begin, L_STOP
    return inner, guess_layer(octets, inner, end)


@inline
def _substitutes(octets, found, rows, row):  # type: ignore[no-untyped-def]
    """Records 2, 3 and 4, which agents without access to the header send.  MACs are padded to 8 octets, or not."""
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
def _network(octets, at, ports, rows, row):  # type: ignore[no-untyped-def]
    """What records 3 and 4 share: length and protocol at `at`; ports, flags and TOS or priority at `ports`."""
    rows.u64[BYTES, row] = u32(octets, at)
    rows.u8[IP_PROTOCOL, row] = u32(octets, at + 4) & 0xFF
    rows.u16[SRC_PORT, row] = u32(octets, ports) & 0xFFFF
    rows.u16[DST_PORT, row] = u32(octets, ports + 4) & 0xFFFF
    rows.u16[TCP_FLAGS, row] = u32(octets, ports + 8) & 0x0FFF
    rows.u8[TOS, row] = u32(octets, ports + 12) & 0xFF


@inline
def _tunnel_records(octets, found, rows, row):  # type: ignore[no-untyped-def]
    """Records 1023–1026 and 1029/1030: the outer header that the switch removed (in), else that it will add (out)."""
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
def _vlan_records(octets, found, rows, row):  # type: ignore[no-untyped-def]
    """VLAN of a frame without tag: the outermost stripped tag (1012), else that of the switch port (1001).

    In 1001 the VLAN on the way in counts unless it is 0 (untagged) or all ones (unknown), then the one on the way out.
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
