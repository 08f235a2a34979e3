"""NetFlow version 1, 5 and 7: fixed records, one row each.

Layouts: those of Cisco, as in lib/netflow.h of Open vSwitch and in nfdump.  Counts are those of the exporter; Open
vSwitch never samples, counts the Ethernet header, and gives OpenFlow ports as interfaces: all kept as reported.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoders import rows as r
from decoders.datagrams import Datagrams
from decoders.errors import Reason
from decoders.jit import inline, inline_always, kernel
from decoders.netflow.fields import uptime_us
from decoders.netflow.rows import ETHERTYPE_IPV4, settle_icmp, settle_times, trusted_clock
from decoders.netflow.sequence import SequenceOrder, begin_orders_anew, follow, forget_orders, is_duplicate, new_orders
from decoders.rows import Rows, batch, make_ready, unclear_rows
from decoders.sessions import S_OVERRIDE_RATE, S_RECORDS, S_SAMPLING_RATE, Sessions, fingerprint
from decoders.shared import Decoded, Shared
from decoders.wire import all_zero, fill, move8, move16, move32, move_ipv4, swap64, u16, u32
from schemas.flows import FLOWS

PROBLEM_WORDS = 4


class _Input(NamedTuple):
    """The input of the kernel: a batch and which of its datagrams to decode."""

    octets: NDArray[np.uint8]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    received: NDArray[np.int64]
    picked: NDArray[np.int64]
    session: NDArray[np.int64]


@inline
def shape(version):
    """Return the octets of (header, record)."""
    if version == 1:
        return 16, 48
    if version == 5:
        return 24, 48
    return 24, 52


@kernel
def count_rows(b, rows):
    """Fill `rows` ([picked]) with the records that each datagram announces and has octets for."""
    for i in range(b.picked.shape[0]):
        datagram = b.picked[i]
        at = b.start[datagram]
        header, record = shape(u16(b.octets, at))
        rows[i] = min(u16(b.octets, at + 2), (b.length[datagram] - header) // record)


@kernel
def decode_records(b, s, orders, rows, log):
    """Decode datagrams into `rows`.  Returns (rows filled, problems listed in `log`)."""
    return _decode(b, s, orders, rows, log)


@inline_always
def _decode(b, s, orders, rows, log):
    row = np.int64(0)
    listed = np.int64(0)
    for i in range(b.picked.shape[0]):
        datagram = b.picked[i]
        at = b.start[datagram]
        size = b.length[datagram]
        number = b.session[datagram]
        octets = b.octets
        version = u16(octets, at)
        count = u16(octets, at + 2)
        uptime = u32(octets, at + 4)
        header, record = shape(version)
        n = min(count, (size - header) // record)
        clock_us = u32(octets, at + 8) * 1_000_000 + min(u32(octets, at + 12), 999_999_999) // 1_000
        header_us = trusted_clock(clock_us, b.received[datagram], s, number)
        reason = np.int64(-1)
        if version != 1:
            sequence = u32(octets, at + 16)
            print_ = fingerprint(octets, at, size)
            if is_duplicate(orders, s, number, sequence, print_):
                reason = np.int64(Reason.DUPLICATE.value)
                n = np.int64(0)
            else:
                now_us = b.received[datagram]
                follow(orders, s, number, sequence, count, count, np.int64(0), False, uptime, clock_us, now_us, print_)
        rest = at + header + n * record
        if reason < 0 and (n != count or not all_zero(octets, rest, at + size)):
            reason = np.int64(Reason.COUNT_MISMATCH.value)
        if reason >= 0:
            s.problems[number, reason] += np.uint64(1)
            if listed < log.shape[0]:
                log[listed, 0] = datagram
                log[listed, 1] = 2
                log[listed, 2] = reason
                log[listed, 3] = count
                listed += 1
        s.stats[number, S_RECORDS] += np.uint64(n)
        make_ready(rows, row + n)
        _records(octets, at + header, n, record, version, uptime, header_us, b.received[datagram], s, number, rows, row)
        _header(octets, at, n, version, b.received[datagram], s, number, rows, row)
        row += n
    return row, listed


@inline_always
def _records(octets, first, n, record, version, uptime, header_us, received, s, number, rows, row):
    """Fill the columns that come from the records of one datagram."""
    move_ipv4(octets, first, record, n, rows.address, r.SRC_IP, row, 1)
    move_ipv4(octets, first + 4, record, n, rows.address, r.DST_IP, row, 1)
    move16(octets, first + 12, record, n, rows.u32, r.IN_IF, row, 1)
    move16(octets, first + 14, record, n, rows.u32, r.OUT_IF, row, 1)
    move32(octets, first + 16, record, n, rows.u64, r.PACKETS, row, 1)
    move32(octets, first + 16, record, n, rows.u32, r.SAMPLES, row, 1)
    move32(octets, first + 20, record, n, rows.u64, r.BYTES, row, 1)
    move16(octets, first + 32, record, n, rows.u16, r.SRC_PORT, row, 1)
    move16(octets, first + 34, record, n, rows.u16, r.DST_PORT, row, 1)
    move8(octets, first + (40 if version == 1 else 37), record, n, rows.u16, r.TCP_FLAGS, row, 1)
    move8(octets, first + 38, record, n, rows.u8, r.IP_PROTOCOL, row, 1)
    move8(octets, first + 39, record, n, rows.u8, r.TOS, row, 1)
    for k in range(n):
        i = np.uint64(row + k)
        at = first + k * record
        if rows.u32[r.OUT_IF, i] != 0:
            rows.u8[r.OUT_KIND, i] = r.OUT_INDEX
        start = uptime_us(header_us, uptime, u32(octets, at + 24))
        end = uptime_us(header_us, uptime, u32(octets, at + 28))
        rows.u64[r.FLOW_START, i] = np.uint64(max(start, np.int64(0)))
        rows.u64[r.FLOW_END, i] = np.uint64(max(end, np.int64(0)))
        if settle_times(rows, i, header_us, received):
            s.problems[number, Reason.TIME.value] += np.uint64(1)
        rows.u16[r.ETHER_TYPE, i] = ETHERTYPE_IPV4
        settle_icmp(rows, i, False)


@inline_always
def _header(octets, at, n, version, received, s, number, rows, row):
    """Fill the columns that come from the header of the datagram."""
    protocol = r.PROTOCOL_NETFLOW5
    domain = np.int64(0)
    rate = np.int64(1)
    source = r.RATE_UNSTATED
    if version == 1:
        protocol = r.PROTOCOL_NETFLOW1
    elif version == 7:
        protocol = r.PROTOCOL_NETFLOW7
    else:
        domain = u16(octets, at + 20)
        sampling = u16(octets, at + 22)
        # Older routers that sample leave the two bits of the mode 0; without sampling the interval is 0, too.
        if sampling & 0x3FFF != 0:
            rate = sampling & 0x3FFF
            source = r.RATE_HEADER
    override = np.int64(s.stats[number, S_OVERRIDE_RATE])
    if override > 0:
        rate = override
        source = r.RATE_OVERRIDE
    s.stats[number, S_SAMPLING_RATE] = np.uint64(rate if source != r.RATE_UNSTATED else 0)
    capacity = rows.u32.shape[1]
    fill(rows.u64, r.TIME_RECEIVED * capacity + row, n, received)
    fill(rows.u32, r.DOMAIN * capacity + row, n, domain)
    fill(rows.u32, r.SAMPLING_RATE * capacity + row, n, rate)
    fill(rows.u8, r.PROTOCOL * capacity + row, n, protocol)
    fill(rows.u8, r.RATE_SOURCE * capacity + row, n, source)
    for word in range(2):
        exporter = swap64(s.key[number, word])
        fill(rows.address, 2 * (r.EXPORTER * capacity + row) + word, n, exporter, 2)


class LegacyDecoder:
    """Decodes NetFlow v1, v5 and v7 datagrams."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._orders: SequenceOrder = new_orders(shared.limits)

    def decode(self, datagrams: Datagrams, picked: NDArray[np.int64], session: NDArray[np.int64]) -> Decoded:
        """Return the rows of the `picked` datagrams, whose headers are whole; `session` is [len(datagrams)]."""
        decoded = Decoded()
        source = _Input(
            datagrams.octets,
            datagrams.start,
            datagrams.length,
            datagrams.time_received_us,
            np.ascontiguousarray(picked, np.int64),
            session,
        )
        counts = np.zeros(len(picked), np.int64)
        count_rows(source, counts)
        room = self._shared.limits.problems_per_batch
        for part in _parts(counts, self._shared.limits.rows_per_batch):
            rows: Rows = unclear_rows(FLOWS, int(counts[part].sum()))
            log = np.zeros((room, PROBLEM_WORDS), np.int64)
            with np.errstate(over="ignore"):  # hashes wrap; numpy warns of it where kernels are not compiled
                filled, listed = decode_records(
                    source._replace(picked=source.picked[part]), self._sessions, self._orders, rows, log
                )
            if filled:
                decoded.flows.append(batch(FLOWS, rows, filled, self._shared.name_list.array()))
            if listed:
                decoded.problems.append(log[:listed])
                room -= listed
        return decoded

    def begin_anew(self, numbers: NDArray[np.int64]) -> None:
        """Forget which datagrams of these sessions were seen."""
        begin_orders_anew(self._orders, numbers)

    def forget(self, numbers: NDArray[np.int64]) -> None:
        """Forget these sessions: their numbers will be used for other exporters."""
        forget_orders(self._orders, numbers)

    @property
    def _sessions(self) -> Sessions:
        return self._shared.sessions


def _parts(counts: NDArray[np.int64], most: int) -> list[slice]:
    """Return slices of datagrams whose rows stay within `most`; each has at least one datagram."""
    ends = np.cumsum(counts)
    parts = []
    begin = 0
    while begin < len(counts):
        before = int(ends[begin - 1]) if begin else 0
        end = max(int(np.searchsorted(ends, before + most, side="right")), begin + 1)
        parts.append(slice(begin, end))
        begin = end
    return parts
