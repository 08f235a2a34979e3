"""Counts that exporters state since a flow began, made into counts since its last report (kernels).

Rows are summed, so each must hold only what is new.  Some exporters send only octetTotalCount and packetTotalCount
(85, 86); Cisco firewalls send increments in their update events (firewallEvent 233 = 5), and in the last record of a
connection (2) its totals.  The last total of each flow is kept in a table of fixed size, until the flow ends
(flowEndReason 136) or another begins between the same ends.  The first total of a long flow that began before it could
be in the table is not counted, since it may have been reported: counting starts from there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoders import rows as r
from decoders.hashes import mix
from decoders.jit import inline, inline_always
from decoders.limits import Limits
from decoders.netflow.plan import TOTAL_BYTES, TOTAL_PACKETS

WAYS = 8
EVENT_CREATED, EVENT_DELETED, EVENT_UPDATE = 1, 2, 5
EARLIER_US = 60_000_000
"""A flow that began this long before its exporter was first heard, and lasted as long, has been reported before."""
LATER_US = 1_500_000
"""A flow that begins this long after the last report of another ended is a new one: headers round clocks to seconds."""
ACTIVE_TIMEOUT = 2
"""flowEndReason of a flow that goes on; any other ends it (RFC 5102 section 5.11.3)."""


class Totals(NamedTuple):
    """Flows by hash, [slots], in sets of `WAYS`; 0 is a free slot."""

    flow: NDArray[np.uint64]
    packets: NDArray[np.uint64]
    octets: NDArray[np.uint64]
    seen_us: NDArray[np.int64]
    """When it was last reported."""
    end_us: NDArray[np.int64]
    """The end that its last report stated, 0 = none."""
    forgotten_us: NDArray[np.int64]
    """[1]: the latest report of a flow that was dropped for another."""


def new_totals(limits: Limits) -> Totals:
    """Return an empty table; memory is taken when it is first written."""
    slots = max(1 << (limits.totals - 1).bit_length(), WAYS)
    words = [np.zeros(slots, np.uint64) for _ in range(3)]
    times = [np.zeros(slots, np.int64) for _ in range(2)]
    return Totals(words[0], words[1], words[2], times[0], times[1], np.zeros(1, np.int64))


@inline
def _flow_of(rows, i, session, number):
    """Return the hash that identifies a flow of a session: its addresses, ports, segment and flow id; never 0."""
    h = mix(mix(np.uint64(0), np.uint64(session)), number)
    for column in (r.SRC_IP, r.DST_IP):
        h = mix(mix(h, rows.address[column, i, 0]), rows.address[column, i, 1])
    h = mix(mix(h, rows.u64[r.SRC_MAC, i]), rows.u64[r.DST_MAC, i])
    ports = (np.uint64(rows.u16[r.SRC_PORT, i]) << np.uint64(32)) | (
        np.uint64(rows.u16[r.DST_PORT, i]) << np.uint64(16)
    )
    h = mix(h, ports | np.uint64(rows.u16[r.VLAN, i]))
    return mix(h, (np.uint64(rows.u32[r.VNI, i]) << np.uint64(8)) | np.uint64(rows.u8[r.IP_PROTOCOL, i])) | np.uint64(1)


@inline
def _find(totals, flow):
    """Return the slot of a flow and whether it is there already; if not, the slot is where to write it."""
    sets = np.uint64(totals.flow.shape[0] // WAYS - 1)
    first = int(np.int64(((flow >> np.uint64(20)) & sets) * np.uint64(WAYS)))
    oldest = first
    for place in range(first, first + WAYS):
        if totals.flow[place] == flow:
            return place, True
        if totals.flow[place] == 0 or (totals.flow[oldest] != 0 and totals.seen_us[place] < totals.seen_us[oldest]):
            oldest = place
    return oldest, False


@inline
def _put(totals, place, flow, packets, octets, now_us, end_us):
    if totals.flow[place] not in (np.uint64(0), flow):
        totals.forgotten_us[0] = max(totals.forgotten_us[0], totals.seen_us[place])
    totals.flow[place] = flow
    totals.packets[place] = packets
    totals.octets[place] = octets
    totals.seen_us[place] = now_us
    totals.end_us[place] = end_us


@inline
def _drop(totals, place):
    totals.flow[place] = np.uint64(0)


@inline
def _grown(total, before):
    """Return what was added since; the whole total if the exporter has started to count from 0."""
    return total - before if total >= before else total


@inline_always
def since_last_report(totals, rows, i, back, session, number, bits, first_us, now_us, skew_us):
    """Turn the totals of row `i`, or with `back` 1 of its reverse row, into what was added since the last report.

    All ones if that cannot be known.  `skew_us`: how far the exporter's clock, which its flow times follow, is ahead.
    """
    flow = _flow_of(rows, i, 2 * session + back, number)
    i += back
    packets, octets = rows.u64[r.PACKETS, i], rows.u64[r.BYTES, i]
    place, known = _find(totals, flow)
    start, end = _time(rows.u64[r.FLOW_START, i]), _time(rows.u64[r.FLOW_END, i])
    if known:
        if start == 0 or totals.end_us[place] == 0 or start <= totals.end_us[place] + LATER_US:
            if bits & TOTAL_PACKETS != 0:
                rows.u64[r.PACKETS, i] = _grown(packets, totals.packets[place])
            if bits & TOTAL_BYTES != 0:
                rows.u64[r.BYTES, i] = _grown(octets, totals.octets[place])
    elif start != 0 and (end == 0 or end - start >= EARLIER_US):
        watched_us = max(first_us - EARLIER_US, totals.forgotten_us[0])
        if start - skew_us < watched_us:
            rows.u64[r.PACKETS, i] = np.uint64(r.ABSENT)
            rows.u64[r.BYTES, i] = np.uint64(r.ABSENT)
    if rows.u8[r.END_REASON, i - back] in (0, ACTIVE_TIMEOUT):
        _put(totals, place, flow, packets, octets, now_us, end)
    elif known:
        _drop(totals, place)


@inline
def _time(value):
    """Return a time of a row, 0 if it is not stated or impossible."""
    return np.int64(0) if value == np.uint64(r.ABSENT) else np.int64(value)


@inline_always
def after_event(totals, rows, i, back, session, number, event, now_us):
    """Subtract what its update events counted from the totals of a connection that has ended; `back` as above."""
    if event not in (EVENT_CREATED, EVENT_DELETED, EVENT_UPDATE):
        return
    flow = _flow_of(rows, i, 2 * session + back, number)
    i += back
    packets, octets = rows.u64[r.PACKETS, i], rows.u64[r.BYTES, i]
    place, known = _find(totals, flow)
    if event == EVENT_DELETED:
        if known:
            rows.u64[r.PACKETS, i] = _grown(packets, totals.packets[place])
            rows.u64[r.BYTES, i] = _grown(octets, totals.octets[place])
            _drop(totals, place)
    elif event == EVENT_CREATED or not known:
        _put(totals, place, flow, packets, octets, now_us, np.int64(0))
    else:
        packets, octets = packets + totals.packets[place], octets + totals.octets[place]
        _put(totals, place, flow, packets, octets, now_us, np.int64(0))
