"""sFlow host structures (2000, 2001, 2002) into rows of `inventory`: which VM has which MAC on which hypervisor.

host-sflow sends them with each poll of a VM, so they are rare and read in plain Python; the walk bounds how
many there are in one batch, and each list inside is checked against the octets that are there.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from decoders.datagrams import Datagrams
from decoders.errors import Reason
from decoders.sessions import Sessions
from decoders.sflow_counters import (
    H_ADAPTERS,
    H_ADAPTERS_END,
    H_CLASS,
    H_DATAGRAM,
    H_HOST,
    H_HOST_END,
    H_INDEX,
    H_PARENT,
)
from schemas.column import NAME, Origin
from schemas.inventory import INVENTORY
from schemas.text import clean

CLASS_PHYSICAL, CLASS_LOGICAL = 2, 3
HOSTNAME_OCTETS = 255
"""Longest name taken; the structure allows 64."""
MAX_ROWS = 65_536
"""Inventory rows of one batch: 20 MACs of each of 3,000 VMs."""
_SFLOW = INVENTORY["source"].code("sflow")


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
    """Reads host structures; remembers the names of hypervisors, at most `capacity` of them."""

    def __init__(self, capacity: int, sessions: Sessions) -> None:
        self._capacity = capacity
        self._sessions = sessions
        self._names: OrderedDict[tuple[bytes, int, int], str] = OrderedDict()

    def read(self, batch: Datagrams, session: NDArray[np.int64], hosts: NDArray[np.int64]) -> pa.RecordBatch | None:
        """Inventory rows of the listed samples, `hosts` [n, HOST_WORDS]; None if there are none."""
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
        host_name = self._names.get((agent, *parent), _address_text(agent))
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
    """The agent address of a datagram as 16 octets, IPv4 mapped."""
    at = int(batch.start[datagram])
    head = batch.octets[at : at + 24].tobytes()
    family = int.from_bytes(head[4:8], "big")
    if family == 1:
        return bytes(10) + b"\xff\xff" + head[8:12]
    return head[8:24] if family == 2 else bytes(16)


def _address_text(address: bytes) -> str:
    """Usual form of an address of 16 octets."""
    if address[:12] == bytes(10) + b"\xff\xff":
        return str(IPv4Address(address[12:]))
    return str(IPv6Address(address))


def _host_descr(octets: bytes) -> tuple[str, bytes] | None:
    """Structure 2000: (host name, uuid); None if it is shorter than it says."""
    size = int.from_bytes(octets[:4], "big")
    uuid_at = 4 + (size + 3 & ~3)
    if size > HOSTNAME_OCTETS or uuid_at + 16 > len(octets):
        return None
    return clean(octets[4 : 4 + size]), octets[uuid_at : uuid_at + 16]


def _adapters(octets: bytes) -> list[tuple[int, int]] | None:
    """Structure 2001: (ifIndex, MAC) of each address; None if a count announces more than there is."""
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


def _names(values: list[str]) -> pa.Array:
    return pa.array(values, pa.string()).dictionary_encode().cast(NAME)


def _record_batch(columns: _Columns) -> pa.RecordBatch:
    rows = len(columns.mac)
    values = {
        "valid_from": pa.array(columns.time, INVENTORY["valid_from"].arrow),
        "valid_to": pa.array(columns.time, INVENTORY["valid_to"].arrow),
        "open": pa.array([1] * rows, pa.uint8()),
        "source": pa.DictionaryArray.from_arrays(
            pa.array([_SFLOW] * rows, pa.int8()), pa.array(INVENTORY["source"].names, pa.string())
        ),
        "sources": _names(["sflow"] * rows),
        "vm_uuid": pa.array(columns.uuid, INVENTORY["vm_uuid"].arrow),
        "vm": _names(columns.vm),
        "host": _names(columns.host),
        "mac": pa.array(columns.mac, pa.uint64()),
        "ips": pa.array([[]] * rows, INVENTORY["ips"].arrow),
        "if_index": pa.array(columns.if_index, pa.uint32()),
        "agent": pa.array(columns.agent, INVENTORY["agent"].arrow),
    }
    schema = INVENTORY.arrow(Origin.DECODE)
    arrays = [values[field.name] if field.name in values else _nothing(field.type, rows) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _nothing(kind: pa.DataType, rows: int) -> pa.Array:
    """A column that host structures say nothing about."""
    return _names([""] * rows) if kind == NAME else pa.array([0] * rows, kind)
