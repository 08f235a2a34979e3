"""sFlow counter samples (formats 2 and 4): polls of interfaces, and what host-sflow reports about VMs.

Interface counters become rows of `interface_counters`, with the difference to the poll before (`decode_counters`).
Host structures (2000, 2001, 2002) become rows of `inventory`: which VM has which MAC on which hypervisor
(`HostReader`).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from decoders.datagrams import Datagrams, address_text
from decoders.errors import Reason
from decoders.interface_names import intern
from decoders.jit import inline, kernel
from decoders.rows import ABSENT, layout
from decoders.sessions import S_COUNTER_RECORDS, S_DATAPATH_LOST, S_DATAPATH_LOST_LAST, Sessions
from decoders.sflow.index import (
    C_ADAPTERS,
    C_DATAPATH,
    C_ETHERNET,
    C_HOST,
    C_HOST_NET,
    C_INTERFACE,
    C_NAME,
    C_OF_PORT,
    C_PARENT,
    C_VIRT_NET,
    COUNTER_FORMATS,
    FORMAT_COUNTERS,
    FORMAT_COUNTERS_EXPANDED,
    HALF32,
    KIND_COUNTERS,
    M_AT,
    M_DATAGRAM,
    M_END,
    M_EPOCH,
    M_FORMAT,
    MASK32,
    SEQ_LATE,
    SEQ_OK,
    W_POLLED,
    W_UPTIME,
    find_records,
    find_source,
    header_size,
    put_origin,
    report,
    stand_at,
    track_samples,
)
from decoders.sflow.samples import source_of
from decoders.wire import u32, u64
from schemas.column import Origin
from schemas.counters import COUNTERS, ETHERNET, TOTALS
from schemas.inventory import INVENTORY
from schemas.text import clean


def _place(name: str) -> int:
    return layout(COUNTERS)[name][1]


TOTALS_AT = _place("in_bytes")
ETHERNET_AT = _place(f"eth_{ETHERNET[0]}")
DELTAS_AT = _place("in_bytes_delta")
IF_SPEED = _place("if_speed")
DATAPATH_ID = _place("datapath_id")
INTERVAL_US = _place("interval_us")
COUNTERS_TIME = _place("time_received")
COUNTERS_DOMAIN = _place("domain")
SOURCE_INDEX = _place("source_index")
IF_INDEX = _place("if_index")
IF_NAME = _place("if_name")
IF_TYPE = _place("if_type")
OF_PORT = _place("of_port")
SOURCE_CLASS = _place("source_class")
IF_DIRECTION = _place("if_direction")
IF_STATUS = _place("if_status")
PROMISCUOUS = _place("promiscuous")
DELTA_STATE = _place("delta_state")
COUNTERS_EXPORTER = _place("exporter")
COUNTERS_AGENT = _place("agent")
NUMBER_OF_TOTALS = len(TOTALS)
NUMBER_OF_ETHERNET = len(ETHERNET)

IN_BYTES, IN_UNICAST, IN_DISCARDS, IN_ERRORS = 0, 1, 4, 5
OUT_BYTES, OUT_UNICAST, OUT_DISCARDS, OUT_ERRORS = 7, 8, 11, 12

STATE_FIRST, STATE_OK, STATE_RESET = (COUNTERS["delta_state"].code(name) for name in ("first", "ok", "reset"))

_ABSENT = np.uint64(ABSENT)
# Columns of a list of host structures: where they are in the batch's octets, 0 = not there
H_DATAGRAM, H_CLASS, H_INDEX, H_HOST, H_HOST_END, H_ADAPTERS, H_ADAPTERS_END, H_PARENT, HOST_WORDS = range(9)

_ROW_LIMIT = Reason.ROW_LIMIT.value
_RECORD_SHORT = Reason.RECORD_SHORT.value


@kernel
def decode_counters(
    octets, start, address, received, session, samples, limit, rows, stats, problems, log, found, sources, names, hosts
):
    """Decode the counter samples among `samples` into `rows`; list those with host structures in `hosts`.

    Returns (rows filled, hosts listed).  `hosts` [n, HOST_WORDS] is read outside the kernel.
    """
    row = np.int64(0)
    listed = np.int64(0)
    for m in range(samples.shape[0]):
        form = samples[m, M_FORMAT]
        if form not in (FORMAT_COUNTERS, FORMAT_COUNTERS_EXPANDED):
            continue
        i = samples[m, M_DATAGRAM]
        at = samples[m, M_AT]
        first = start[i] + header_size(octets, start[i])
        stand_at(log, i, start[i], session[i])
        source_class, index, body = source_of(octets, at, form == FORMAT_COUNTERS_EXPANDED)
        count = u32(octets, body)
        find_records(octets, body + 4, samples[m, M_END], count, limit, COUNTER_FORMATS, found, problems, log)
        _count_datapath(octets, found, stats, session[i])
        if found[C_HOST, 0] != 0 or found[C_ADAPTERS, 0] != 0:
            if listed < hosts.shape[0]:
                _list_host(i, source_class, index, found, hosts, listed)
                listed += 1
            else:
                report(problems, log, at, _ROW_LIMIT, 2000)
        if not _has_counters(found):
            continue
        rows.u64[COUNTERS_TIME, row] = received[i]
        rows.u32[COUNTERS_DOMAIN, row] = u32(octets, first - 16)
        put_origin(octets, start[i], address, i, (COUNTERS_EXPORTER, COUNTERS_AGENT), rows.address, row)
        _fill(octets, source_class, index, found, problems, log, names, rows, row)
        slot = find_source(sources.words, sources.clock, session[i], KIND_COUNTERS, source_class, index)
        answer, _ = track_samples(sources.words, slot, u32(octets, at), samples[m, M_EPOCH])
        _difference(answer, u32(octets, first - 8), sources.words, sources.totals, slot, rows, row)
        stats[session[i], S_COUNTER_RECORDS] += np.uint64(1)
        row += 1
    return row, listed


@inline
def _list_host(datagram, source_class, index, found, hosts, row):
    """Note where the host structures of a sample are."""
    hosts[row, H_DATAGRAM] = datagram
    hosts[row, H_CLASS] = source_class
    hosts[row, H_INDEX] = index
    hosts[row, H_HOST] = found[C_HOST, 0]
    hosts[row, H_HOST_END] = found[C_HOST, 0] + found[C_HOST, 1]
    hosts[row, H_ADAPTERS] = found[C_ADAPTERS, 0]
    hosts[row, H_ADAPTERS_END] = found[C_ADAPTERS, 0] + found[C_ADAPTERS, 1]
    hosts[row, H_PARENT] = found[C_PARENT, 0]


@inline
def _has_counters(found):
    """Return True if a sample holds counters of an interface: structure 1, 2, 2104 or 2006."""
    return (found[C_INTERFACE, 0] | found[C_ETHERNET, 0] | found[C_VIRT_NET, 0] | found[C_HOST_NET, 0]) != 0


@inline
def _count_datapath(octets, found, stats, session):
    """Read structure 2207: packets that Open vSwitch lost between kernel and daemon; the session keeps the growth."""
    at = found[C_DATAPATH, 0]
    if at == 0:
        return
    lost = u32(octets, at + 8)
    if lost == MASK32:
        return
    last = np.int64(stats[session, S_DATAPATH_LOST_LAST])
    grown = (lost - (last - 1)) & MASK32
    if last != 0 and grown < HALF32:
        stats[session, S_DATAPATH_LOST] += np.uint64(grown)
    stats[session, S_DATAPATH_LOST_LAST] = np.uint64(lost + 1)


@inline
def _fill(octets, source_class, index, found, problems, log, names, rows, row):
    """Fill all of a poll except its origin and its differences.  Source: sFlow version 5, counter_record."""
    for i in range(NUMBER_OF_TOTALS):
        rows.u64[TOTALS_AT + i, row] = _ABSENT
        rows.u64[DELTAS_AT + i, row] = _ABSENT
    rows.u64[INTERVAL_US, row] = _ABSENT
    rows.u8[SOURCE_CLASS, row] = min(source_class, 255)
    rows.u32[SOURCE_INDEX, row] = index
    if source_class == 0:
        rows.u32[IF_INDEX, row] = index
    if found[C_INTERFACE, 0] != 0:
        _generic(octets, found[C_INTERFACE, 0], rows, row)
    elif found[C_VIRT_NET, 0] != 0:
        _short(octets, found[C_VIRT_NET, 0], rows, row)
    elif found[C_HOST_NET, 0] != 0:
        _short(octets, found[C_HOST_NET, 0], rows, row)
    at = found[C_ETHERNET, 0]
    for i in range(NUMBER_OF_ETHERNET):
        rows.u64[ETHERNET_AT + i, row] = _counter32(octets, at + 4 * i) if at != 0 else _ABSENT
    at = found[C_OF_PORT, 0]
    if at != 0:
        rows.u64[DATAPATH_ID, row] = u64(octets, at)
        rows.u32[OF_PORT, row] = u32(octets, at + 8)
    at = found[C_NAME, 0]
    if at != 0:
        size = u32(octets, at)
        if size > found[C_NAME, 1] - 4:
            report(problems, log, at, _RECORD_SHORT, 1005)
        else:
            rows.u32[IF_NAME, row] = intern(names, octets, at + 4, size)


@inline
def _counter32(octets, at):
    """Read a 32-bit counter; all ones means "not known" and is never a number."""
    value = u32(octets, at)
    return _ABSENT if value == MASK32 else np.uint64(value)


@inline
def _generic(octets, at, rows, row):
    """Read structure 1, if_counters."""
    rows.u32[IF_INDEX, row] = u32(octets, at)
    rows.u32[IF_TYPE, row] = u32(octets, at + 4)
    rows.u64[IF_SPEED, row] = u64(octets, at + 8)
    rows.u8[IF_DIRECTION, row] = min(u32(octets, at + 16), 255)
    rows.u8[IF_STATUS, row] = u32(octets, at + 20) & 3
    rows.u64[TOTALS_AT + IN_BYTES, row] = u64(octets, at + 24)
    rows.u64[TOTALS_AT + OUT_BYTES, row] = u64(octets, at + 56)
    for i in range(6):
        rows.u64[TOTALS_AT + IN_UNICAST + i, row] = _counter32(octets, at + 32 + 4 * i)
    for i in range(5):
        rows.u64[TOTALS_AT + OUT_UNICAST + i, row] = _counter32(octets, at + 64 + 4 * i)
    rows.u8[PROMISCUOUS, row] = 1 if u32(octets, at + 84) == 1 else 0


@inline
def _short(octets, at, rows, row):
    """Read structures 2104 (VM) and 2006 (host): octets, packets, errors and drops, in each direction.

    host-sflow fills both from the host's interfaces: received is what the host received.
    """
    rows.u64[TOTALS_AT + IN_BYTES, row] = u64(octets, at)
    rows.u64[TOTALS_AT + IN_UNICAST, row] = _counter32(octets, at + 8)
    rows.u64[TOTALS_AT + IN_ERRORS, row] = _counter32(octets, at + 12)
    rows.u64[TOTALS_AT + IN_DISCARDS, row] = _counter32(octets, at + 16)
    rows.u64[TOTALS_AT + OUT_BYTES, row] = u64(octets, at + 20)
    rows.u64[TOTALS_AT + OUT_UNICAST, row] = _counter32(octets, at + 28)
    rows.u64[TOTALS_AT + OUT_ERRORS, row] = _counter32(octets, at + 32)
    rows.u64[TOTALS_AT + OUT_DISCARDS, row] = _counter32(octets, at + 36)


@inline
def _difference(answer, uptime, words, totals, slot, rows, row):
    """Fill deltas, interval and state of the poll in `row` since the last one of the same source; then keep this one.

    The counters were reset if the sample numbers or the uptime say so, or if the difference cannot be growth.
    """
    if answer == SEQ_LATE:  # a poll older than the one that is kept
        rows.u8[DELTA_STATE, row] = STATE_RESET
        return
    elapsed = (uptime - words[slot, W_UPTIME]) & MASK32
    if words[slot, W_POLLED] == 0:
        rows.u8[DELTA_STATE, row] = STATE_FIRST
    elif answer != SEQ_OK or elapsed >= HALF32 or not _is_growth(totals, slot, rows, row):
        rows.u8[DELTA_STATE, row] = STATE_RESET
    else:
        rows.u8[DELTA_STATE, row] = STATE_OK
        rows.u64[INTERVAL_US, row] = elapsed * 1_000
        for i in range(NUMBER_OF_TOTALS):
            rows.u64[DELTAS_AT + i, row] = _grown(totals[slot, i], rows.u64[TOTALS_AT + i, row], i)
    words[slot, W_POLLED] = 1
    words[slot, W_UPTIME] = uptime
    for i in range(NUMBER_OF_TOTALS):
        totals[slot, i] = rows.u64[TOTALS_AT + i, row]


@inline
def _grown(before, now, number):
    """Return the growth of a counter: octets have 64 bits, the others wrap at 32.  Absent if either value is."""
    if _ABSENT in (before, now):
        return _ABSENT
    if number in (IN_BYTES, OUT_BYTES):
        return now - before if now >= before else _ABSENT
    return np.uint64((np.int64(now) - np.int64(before)) & MASK32)


@inline
def _is_growth(totals, slot, rows, row):
    """Return False if a counter went back: octets fell, a wrap of half the range or more, or packets without octets."""
    for i in range(NUMBER_OF_TOTALS):
        before = totals[slot, i]
        now = rows.u64[TOTALS_AT + i, row]
        if now < before and _ABSENT not in (now, before):
            if i in (IN_BYTES, OUT_BYTES):
                return False
            grown = _grown(before, now, i)
            if grown >= np.uint64(HALF32):
                return False
            if i in (IN_UNICAST, OUT_UNICAST):
                octets = _grown(totals[slot, i - 1], rows.u64[TOTALS_AT + i - 1, row], i - 1)
                if octets != _ABSENT and grown > octets:
                    return False
    return True


CLASS_PHYSICAL, CLASS_LOGICAL = 2, 3
HOSTNAME_BYTES = 255
"""Longest name taken; the structure allows 64."""
MAX_ROWS = 65_536
"""Most inventory rows of one batch: 20 MACs of each of 3,000 VMs."""


@dataclass(slots=True)
class _Columns:
    """Rows under construction."""

    time: list[int] = field(default_factory=list)
    uuid: list[bytes] = field(default_factory=list)
    vm: list[str] = field(default_factory=list)
    host: list[str] = field(default_factory=list)
    mac: list[int] = field(default_factory=list)
    if_index: list[int] = field(default_factory=list)
    agent: list[bytes] = field(default_factory=list)


class HostReader:
    """Reads host structures; remembers the names of hypervisors, at most `capacity` of them.

    host-sflow sends them with each poll of a VM, so they are rare and read in plain Python; the walk limits their
    number in one batch, and each list inside is checked against the octets present.
    """

    def __init__(self, capacity: int, sessions: Sessions) -> None:
        self._capacity = capacity
        self._sessions = sessions
        self._names: OrderedDict[tuple[bytes, int, int], str] = OrderedDict()

    def read(self, batch: Datagrams, session: NDArray[np.int64], hosts: NDArray[np.int64]) -> pa.RecordBatch | None:
        """Return inventory rows of the listed samples, `hosts` [n, HOST_WORDS]; None if there are none."""
        columns = _Columns()
        for host in hosts.tolist():
            self._read_one(batch, int(session[host[H_DATAGRAM]]), host, columns)
        return _record_batch(columns) if columns.mac else None

    def _read_one(self, batch: Datagrams, session: int, host: list[int], columns: _Columns) -> None:
        name, uuid = "", bytes(16)
        if host[H_HOST]:
            described = _host_descr(batch.octets[host[H_HOST] : host[H_HOST_END]].tobytes())
            if described is None:
                self._sessions.problems[session, Reason.RECORD_SHORT] += np.uint64(1)
            else:
                name, uuid = described
        agent = _agent(batch, host[H_DATAGRAM])
        if host[H_CLASS] == CLASS_PHYSICAL and name:
            self._remember((agent, CLASS_PHYSICAL, host[H_INDEX]), name)
        if host[H_CLASS] != CLASS_LOGICAL or not host[H_ADAPTERS]:
            return
        adapters = _adapters(batch.octets[host[H_ADAPTERS] : host[H_ADAPTERS_END]].tobytes())
        if adapters is None:
            self._sessions.problems[session, Reason.COUNT] += np.uint64(1)
            return
        parent = (CLASS_PHYSICAL, 1)
        if host[H_PARENT]:
            words = batch.octets[host[H_PARENT] : host[H_PARENT] + 8].view(">u4")
            parent = int(words[0]), int(words[1])
        host_name = self._names.get((agent, *parent), address_text(agent))
        for if_index, mac in adapters[: MAX_ROWS - len(columns.mac)]:
            columns.time.append(int(batch.time_received_us[host[H_DATAGRAM]]))
            columns.uuid.append(uuid)
            columns.vm.append(name)
            columns.host.append(host_name)
            columns.mac.append(mac)
            columns.if_index.append(if_index)
            columns.agent.append(agent)

    def _remember(self, key: tuple[bytes, int, int], name: str) -> None:
        self._names[key] = name
        self._names.move_to_end(key)
        if len(self._names) > self._capacity:
            self._names.popitem(last=False)


def _agent(batch: Datagrams, datagram: int) -> bytes:
    """Return the agent address of a datagram as 16 octets, IPv4 mapped."""
    at = int(batch.start[datagram])
    head = batch.octets[at : at + 24].tobytes()
    family = int.from_bytes(head[4:8], "big")
    if family == 1:
        return bytes(10) + b"\xff\xff" + head[8:12]
    return head[8:24] if family == 2 else bytes(16)


def _host_descr(octets: bytes) -> tuple[str, bytes] | None:
    """Read structure 2000: (host name, uuid); None if it is shorter than it states."""
    size = int.from_bytes(octets[:4], "big")
    uuid_at = 4 + (size + 3 & ~3)
    if size > HOSTNAME_BYTES or uuid_at + 16 > len(octets):
        return None
    return clean(octets[4 : 4 + size]), octets[uuid_at : uuid_at + 16]


def _adapters(octets: bytes) -> list[tuple[int, int]] | None:
    """Read structure 2001: (ifIndex, MAC) of each address; None if a count announces more than there is."""
    count = int.from_bytes(octets[:4], "big")
    if count * 8 > len(octets) - 4:
        return None
    found: list[tuple[int, int]] = []
    at = 4
    for _ in range(count):
        if at + 8 > len(octets):
            return None
        if_index, macs = int.from_bytes(octets[at : at + 4], "big"), int.from_bytes(octets[at + 4 : at + 8], "big")
        at += 8
        if macs * 8 > len(octets) - at:
            return None
        found.extend((if_index, int.from_bytes(octets[at + 8 * i : at + 8 * i + 6], "big")) for i in range(macs))
        at += 8 * macs
    return found


def _record_batch(columns: _Columns) -> pa.RecordBatch:
    rows = len(columns.mac)
    values = {column.name: [column.nothing] * rows for column in INVENTORY.stored}
    values |= {
        "valid_from": columns.time,
        "valid_to": columns.time,
        "open": [1] * rows,
        "source": ["sflow"] * rows,
        "sources": ["sflow"] * rows,
        "vm_uuid": columns.uuid,
        "vm": columns.vm,
        "host": columns.host,
        "mac": columns.mac,
        "if_index": columns.if_index,
        "agent": columns.agent,
    }
    return INVENTORY.batch(values, Origin.DECODE)
