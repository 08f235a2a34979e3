"""Rows under construction: column arrays that kernels fill, and their conversion to Arrow without a copy.

A table's decoded columns are grouped by width, so that a kernel takes five arrays instead of fifty and a compiled
template can name its target as (group, index).  The constants below are those indices; they derive from `schemas`.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from decoders.jit import inline, inline_always
from decoders.memory import BLOCKS
from decoders.wire import fill
from schemas.column import ADDRESS, ENUM, NAME, TIME_US, UINT8, UINT16, UINT32, UINT64, Origin, Table
from schemas.flows import FLOWS

G_U64, G_U32, G_U16, G_U8, G_ADDRESS = range(5)
"""Column groups.  Times are in the 64-bit group (µs), names in the 32-bit group (index into the name table)."""

_GROUP = {
    UINT64: G_U64,
    TIME_US: G_U64,
    UINT32: G_U32,
    NAME: G_U32,
    UINT16: G_U16,
    UINT8: G_U8,
    ENUM: G_U8,
    ADDRESS: G_ADDRESS,
}


class Rows(NamedTuple):
    """Column arrays of one table, zero where nothing was written.  Shapes: [columns of the group, capacity].

    Rows from `cleared[0]` on are not zero yet: a caller that writes rows of `unclear_rows` calls `make_ready` first.
    """

    u64: NDArray[np.uint64]
    u32: NDArray[np.uint32]
    u16: NDArray[np.uint16]
    u8: NDArray[np.uint8]
    address: NDArray[np.uint64]
    """[columns, capacity, 2]: the 16 octets of an address in network order, as two words in memory order."""
    cleared: NDArray[np.int64]
    """[1]"""


@cache
def layout(table: Table) -> dict[str, tuple[int, int]]:
    """Return name -> (group, index in the group) for each decoded column of `table`."""
    used = [0] * 5
    places: dict[str, tuple[int, int]] = {}
    for column in table.stored:
        if column.origin is Origin.DECODE:
            group = _GROUP[column.arrow]
            places[column.name] = (group, used[group])
            used[group] += 1
    return places


@cache
def _widths(table: Table) -> tuple[int, int, int, int, int]:
    """Return how many columns each group has."""
    sizes = [0] * 5
    for group, _ in layout(table).values():
        sizes[group] += 1
    return (sizes[0], sizes[1], sizes[2], sizes[3], sizes[4])


def new_rows(table: Table, capacity: int) -> Rows:
    """Return zeroed arrays for `capacity` rows.  The pages are taken from the system only when they are written."""
    u64, u32, u16, u8, address = _widths(table)
    return Rows(
        np.zeros((u64, capacity), np.uint64),
        np.zeros((u32, capacity), np.uint32),
        np.zeros((u16, capacity), np.uint16),
        np.zeros((u8, capacity), np.uint8),
        np.zeros((address, capacity, 2), np.uint64),
        np.array([capacity]),
    )


def unclear_rows(table: Table, capacity: int) -> Rows:
    """Return what `new_rows` does, in reused memory: its rows are zero only after `make_ready`."""
    u64, u32, u16, u8, address = _widths(table)
    columns = BLOCKS.arrays(
        ((u64, capacity), np.uint64),
        ((u32, capacity), np.uint32),
        ((u16, capacity), np.uint16),
        ((u8, capacity), np.uint8),
        ((address, capacity, 2), np.uint64),
    )
    return Rows(columns[0], columns[1], columns[2], columns[3], columns[4], np.zeros(1, np.int64))


CLEAR_AHEAD = 512
"""Rows cleared at a time: enough to cost little each, few enough to still be in the cache when they are filled."""


@inline_always
def make_ready(rows, end):
    """Clear the rows before `end` that are not zero yet."""
    if rows.cleared[0] < end:
        _clear(rows, end)


@inline
def _clear(rows, end):
    first = rows.cleared[0]
    capacity = rows.u64.shape[1]
    end = min(max(end, first + CLEAR_AHEAD), capacity)
    for column in range(rows.u64.shape[0]):
        fill(rows.u64, column * capacity + first, end - first, 0)
    for column in range(rows.u32.shape[0]):
        fill(rows.u32, column * capacity + first, end - first, 0)
    for column in range(rows.u16.shape[0]):
        fill(rows.u16, column * capacity + first, end - first, 0)
    for column in range(rows.u8.shape[0]):
        fill(rows.u8, column * capacity + first, end - first, 0)
    for column in range(rows.address.shape[0]):
        fill(rows.address, 2 * (column * capacity + first), 2 * (end - first), 0)
    rows.cleared[0] = end


@inline
def clear_row(rows, row):
    """Clear `row` after a roll-back."""
    for c in range(rows.u64.shape[0]):
        rows.u64[c, row] = 0
    for c in range(rows.u32.shape[0]):
        rows.u32[c, row] = 0
    for c in range(rows.u16.shape[0]):
        rows.u16[c, row] = 0
    for c in range(rows.u8.shape[0]):
        rows.u8[c, row] = 0
    for c in range(rows.address.shape[0]):
        rows.address[c, row, 0] = 0
        rows.address[c, row, 1] = 0


class _Field(NamedTuple):
    """How a decoded column becomes Arrow."""

    group: int
    place: int
    """Index in the group."""
    kind: pa.DataType
    """Type of the values, or of their numbers if they are names or of an enumeration."""
    named: bool
    dictionary: pa.Array | None
    """Values of an enumeration."""
    nullable: bool


@cache
def _fields(table: Table) -> tuple[_Field, ...]:
    """Return the decoded columns of `table`, in order.  Cached: this Python would otherwise run for each batch."""
    fields = []
    for column in table.stored:
        if column.origin is not Origin.DECODE:
            continue
        dictionary = pa.array(column.names, pa.string()) if column.arrow == ENUM else None
        kind = {NAME: pa.int32(), ENUM: pa.int8()}.get(column.arrow, column.arrow)
        fields.append(_Field(*layout(table)[column.name], kind, column.arrow == NAME, dictionary, column.nullable))
    return tuple(fields)


ABSENT = 0xFFFF_FFFF_FFFF_FFFF
"""What kernels write into a nullable 64-bit column for "not stated"."""


def batch(table: Table, rows: Rows, count: int, names: pa.Array) -> pa.RecordBatch:
    """Return the first `count` rows as an immutable Arrow batch of the decoded columns of `table`, without a copy.

    `names` holds the strings that name columns index.  A 64-bit value of all ones in a nullable column is NULL.
    """
    arrays = []
    for group, place, kind, named, dictionary, nullable in _fields(table):
        values = rows[group][place, :count]
        if nullable:
            arrays.append(pa.array(values, type=kind, mask=values == np.uint64(ABSENT)))
            continue
        array = pa.Array.from_buffers(kind, count, [None, pa.py_buffer(values)])
        if named or dictionary is not None:
            array = pa.DictionaryArray.from_arrays(array, names if named else dictionary, safe=False)
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=table.arrow(Origin.DECODE))


def _flow(name: str) -> int:
    return layout(FLOWS)[name][1]


# 64-bit group of `flows`
TIME_RECEIVED = _flow("time_received")
FLOW_START = _flow("flow_start")
FLOW_END = _flow("flow_end")
PACKETS = _flow("packets")
BYTES = _flow("bytes")
FRAME_BYTES = _flow("frame_bytes")
DROP_HINT_PACKETS = _flow("drop_hint_packets")
SRC_MAC = _flow("src_mac")
DST_MAC = _flow("dst_mac")
# 32-bit group
DOMAIN = _flow("domain")
SAMPLING_RATE = _flow("sampling_rate")
SAMPLES = _flow("samples")
VNI = _flow("vni")
TCP_SEQ = _flow("tcp_seq")
TCP_RTT = _flow("tcp_rtt_us")
TCP_RTT_DEVIATION = _flow("tcp_rtt_deviation_us")
TCP_RTT_MIN = _flow("tcp_rtt_min_us")
IN_IF = _flow("in_if")
OUT_IF = _flow("out_if")
IN_IF_NAME = _flow("in_if_name")
OUT_IF_NAME = _flow("out_if_name")
# 16-bit group
ETHER_TYPE = _flow("ether_type")
VLAN = _flow("vlan")
SRC_PORT = _flow("src_port")
DST_PORT = _flow("dst_port")
TCP_FLAGS = _flow("tcp_flags")
DROP_REASON = _flow("drop_reason")
# 8-bit group
PROTOCOL = _flow("protocol")
RATE_SOURCE = _flow("rate_source")
TUNNEL = _flow("tunnel")
IP_PROTOCOL = _flow("ip_protocol")
ICMP_TYPE = _flow("icmp_type")
ICMP_CODE = _flow("icmp_code")
TOS = _flow("tos")
TTL = _flow("ttl")
FRAGMENT = _flow("fragment")
OUT_KIND = _flow("out_kind")
DIRECTION = _flow("direction")
END_REASON = _flow("end_reason")
# address group
EXPORTER = _flow("exporter")
AGENT = _flow("agent")
OUTER_SRC_IP = _flow("outer_src_ip")
OUTER_DST_IP = _flow("outer_dst_ip")
SRC_IP = _flow("src_ip")
DST_IP = _flow("dst_ip")

# values of the enumerations
PROTOCOL_SFLOW5, PROTOCOL_NETFLOW1, PROTOCOL_NETFLOW5, PROTOCOL_NETFLOW7, PROTOCOL_NETFLOW9, PROTOCOL_IPFIX = (
    FLOWS["protocol"].code(name) for name in ("sflow5", "netflow1", "netflow5", "netflow7", "netflow9", "ipfix")
)
RATE_UNSTATED, RATE_OVERRIDE, RATE_RECORD, RATE_OPTIONS, RATE_HEADER = (
    FLOWS["rate_source"].code(name) for name in ("unstated", "override", "record", "options", "header")
)
TUNNEL_VXLAN, TUNNEL_GENEVE, TUNNEL_GRE, TUNNEL_IPIP, TUNNEL_NVGRE, TUNNEL_VXLAN_GPE, TUNNEL_ERSPAN, TUNNEL_OTHER = (
    FLOWS["tunnel"].code(name) for name in ("vxlan", "geneve", "gre", "ipip", "nvgre", "vxlan_gpe", "erspan", "other")
)
OUT_INDEX, OUT_DISCARDED, OUT_MULTIPLE, OUT_LOCAL = (
    FLOWS["out_kind"].code(name) for name in ("index", "discarded", "multiple", "local")
)
DIRECTION_INGRESS, DIRECTION_EGRESS = (FLOWS["direction"].code(name) for name in ("ingress", "egress"))
