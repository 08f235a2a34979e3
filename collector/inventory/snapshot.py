"""The inventory at one moment, immutable, in the tables that the join uses for look-ups.

Every table is open addressing over `slots`, which hold the number of the first entry with a key (0 = none); entries
with equal keys are chained by `next`.  Entry 0 and row 0 mean none.  Numbers of entries and rows are unsigned: for a
signed index, numba checks each time whether it counts from the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from collector.inventory.intervals import Columns, address_words
from collector.inventory.sources.base import Address
from decoders.hashes import hash_pair
from decoders.jit import inline_always, kernel
from schemas.column import UUID


def require_rows(what: str, count: int, *arrays: NDArray[Any]) -> None:
    """Raise ValueError unless all arrays have `count` rows."""
    if any(len(array) != count for array in arrays):
        raise ValueError(f"{what}: not all columns have {count} rows")


def require_within(what: str, count: int, *indices: NDArray[np.integer[Any]]) -> None:
    """Raise ValueError unless all indices are those of an array of `count`."""
    if any(len(array) and (array.min() < 0 or array.max() >= count) for array in indices):
        raise ValueError(f"{what}: not all indices are below {count}")


BY_INDEX, BY_NAME, BY_OF_PORT = range(1, 4)
"""How a port of a hypervisor is identified: ifIndex, name, OpenFlow port number."""


class SnapshotTables(NamedTuple):
    """Rows of intervals by column, [rows] each (see `intervals.ROW`), and the look-up tables over them."""

    valid_from: NDArray[np.int64]
    valid_to: NDArray[np.int64]
    mac: NDArray[np.uint64]
    vm_id: NDArray[np.int32]
    host_id: NDArray[np.int32]
    project: NDArray[np.int32]
    network: NDArray[np.int32]
    bridge: NDArray[np.int32]
    port_name: NDArray[np.int32]
    if_index: NDArray[np.uint32]
    of_port: NDArray[np.uint32]
    vni: NDArray[np.uint32]
    vlan: NDArray[np.uint16]
    kind: NDArray[np.uint8]
    mac_slots: NDArray[np.uint32]
    """By MAC address: entries are rows."""
    mac_next: NDArray[np.uint32]
    port_slots: NDArray[np.uint32]
    """By hypervisor and port."""
    port_next: NDArray[np.uint32]
    port_key: NDArray[np.uint64]
    port_row: NDArray[np.uint32]
    ip_slots: NDArray[np.uint32]
    """By address of an interface."""
    ip_next: NDArray[np.uint32]
    ip_high: NDArray[np.uint64]
    ip_low: NDArray[np.uint64]
    ip_row: NDArray[np.uint32]
    host_slots: NDArray[np.uint32]
    """By address of a hypervisor."""
    host_high: NDArray[np.uint64]
    host_low: NDArray[np.uint64]
    host_of: NDArray[np.uint32]
    host_of_ports: NDArray[np.uint8]
    """[hosts]: 1 where OpenFlow port numbers of the hypervisor are known."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a batch is joined with."""

    tables: SnapshotTables
    strings: pa.Array
    """Names by number."""
    string_numbers: Mapping[str, int]
    hosts: Mapping[str, int]
    """Number of each hypervisor by its name."""
    names: Mapping[str, NDArray[np.int32]]
    """Numbers of `vm`, `host`, `project` and `network`, each [rows]."""
    mac: NDArray[np.uint64]
    uuids: pa.Array
    """UUID of the VM of each row: rows are the numbers by which columns of UUIDs name them."""


@inline_always
def port_key(host, by, value):
    """Return a port of a hypervisor as one word: 28 bits host, 4 bits kind of name, 32 bits value."""
    return (np.uint64(host) << np.uint64(36)) | (np.uint64(by) << np.uint64(32)) | np.uint64(value)


@kernel
def link(high, low, order, slots, chain):
    """Enter `order` (entry numbers, [n]) into a table; a later one comes before an earlier one with the same key."""
    mask = np.uint64(slots.shape[0] - 1)
    for i in range(order.shape[0]):
        entry = order[i]
        slot = np.int64(hash_pair(high[entry], low[entry]) & mask)
        while True:
            head = slots[slot]
            if head == 0:
                chain[entry] = 0
                break
            if high[head] == high[entry] and low[head] == low[entry]:
                chain[entry] = head
                break
            slot = np.int64((np.uint64(slot) + np.uint64(1)) & mask)
        slots[slot] = entry


def build(columns: Columns, addresses: Mapping[Address, str]) -> Snapshot:
    """Copy the columns and index them; `addresses` maps addresses to hypervisors."""
    hosts = _host_table(columns, addresses)
    rows = columns.rows[: columns.used].copy()
    ips = columns.ips[: columns.ips_used].copy()
    # Of equally old rows of a port, the one with a VM's MAC address is found first.
    by_time = np.lexsort((rows["mac"] != 0, rows["valid_from"])).astype(np.int64)
    mac = np.ascontiguousarray(rows["mac"])
    nothing = np.zeros(len(rows), np.uint64)
    mac_slots, mac_next = _table(mac, nothing, by_time[mac[by_time] != 0])
    key, port_row = _ports(rows, by_time)
    port_slots, port_next = _table(key, np.zeros(len(key), np.uint64), np.arange(1, len(key)))
    in_use = np.flatnonzero(ips["row"])
    in_use = in_use[np.argsort(rows["valid_from"][ips["row"][in_use]], kind="stable")]
    ip_high, ip_low = np.ascontiguousarray(ips["high"]), np.ascontiguousarray(ips["low"])
    ip_slots, ip_next = _table(ip_high, ip_low, in_use)
    plain = {
        name: np.ascontiguousarray(rows[name]) for name in SnapshotTables._fields if name in (rows.dtype.names or ())
    }
    host_slots, host_high, host_low, host_of = hosts
    tables = SnapshotTables(
        **plain,
        mac_slots=mac_slots,
        mac_next=mac_next,
        port_slots=port_slots,
        port_next=port_next,
        port_key=key,
        port_row=port_row,
        ip_slots=ip_slots,
        ip_next=ip_next,
        ip_high=ip_high,
        ip_low=ip_low,
        ip_row=ips["row"].astype(np.uint32),
        host_slots=host_slots,
        host_high=host_high,
        host_low=host_low,
        host_of=host_of,
        host_of_ports=_with_of_ports(rows, columns.host_count()),
    )
    check(tables)
    names = {name: np.ascontiguousarray(rows[name]) for name in ("vm", "host", "project", "network")}
    words = np.stack([rows["uuid_high"], rows["uuid_low"]], axis=1)
    uuids = pa.Array.from_buffers(UUID, len(words), [None, pa.py_buffer(words)])
    return Snapshot(tables, columns.strings(), columns.numbers(), columns.hosts(), names, mac, uuids)


def check(tables: SnapshotTables) -> None:
    """Raise ValueError if a look-up could leave the tables, or never end."""
    rows = len(tables.valid_from)
    plain = ("valid_to", "mac", "vm_id", "host_id", "project", "network", "bridge", "port_name", "if_index", "of_port")
    require_rows("intervals", rows, *(getattr(tables, name) for name in (*plain, "vni", "vlan", "kind", "mac_next")))
    require_rows("ports", len(tables.port_key), tables.port_next, tables.port_row)
    require_rows("addresses", len(tables.ip_high), tables.ip_low, tables.ip_next, tables.ip_row)
    require_rows("hypervisors", len(tables.host_high), tables.host_low, tables.host_of)
    require_within("intervals", rows, tables.mac_slots, tables.mac_next, tables.port_row, tables.ip_row)
    require_within("ports", len(tables.port_key), tables.port_slots, tables.port_next)
    require_within("addresses", len(tables.ip_high), tables.ip_slots, tables.ip_next)
    require_within("hypervisors", len(tables.host_high), tables.host_slots)
    require_within("numbers of hypervisors", len(tables.host_of_ports), tables.host_of)
    for slots in (tables.mac_slots, tables.port_slots, tables.ip_slots, tables.host_slots):
        if len(slots) & (len(slots) - 1) or slots.all():
            raise ValueError(f"{len(slots)} slots: not a power of two, or none of them free")


def _slots(entries: int) -> NDArray[np.uint32]:
    return np.zeros(1 << max(4, (2 * entries).bit_length()), np.uint32)


def _table(
    high: NDArray[np.uint64], low: NDArray[np.uint64], order: NDArray[np.int64]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return slots and chain of the entries in `order`."""
    slots, chain = _slots(len(order)), np.zeros(len(high), np.uint32)
    with np.errstate(over="ignore"):  # hashes wrap on purpose; only uncompiled kernels warn
        link(high, low, order.astype(np.int64), slots, chain)
    return slots, chain


def _ports(rows: NDArray[np.void], by_time: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Return keys and rows of the port table's entries, oldest first; entry 0 is nothing."""
    keys, found = [np.zeros(1, np.uint64)], [np.zeros(1, np.int64)]
    placed = by_time[rows["host_id"][by_time] != 0]
    for by, name in ((BY_INDEX, "if_index"), (BY_NAME, "port_name"), (BY_OF_PORT, "of_port")):
        having = placed[rows[name][placed] != 0]
        host, value = (rows[column][having].astype(np.uint64) for column in ("host_id", name))
        keys.append(host << np.uint64(36) | np.uint64(by << 32) | value)
        found.append(having)
    return np.concatenate(keys), np.concatenate(found).astype(np.uint32)


def _with_of_ports(rows: NDArray[np.void], hosts: int) -> NDArray[np.uint8]:
    """Return 1 for each hypervisor with known OpenFlow port numbers."""
    found = np.zeros(hosts, np.uint8)
    found[rows["host_id"][rows["of_port"] != 0]] = 1
    found[0] = 0
    return found


def _host_table(columns: Columns, addresses: Mapping[Address, str]) -> tuple[NDArray[Any], ...]:
    """Return slots, the words of each address, and the hypervisor's number."""
    high, low = np.zeros(len(addresses) + 1, np.uint64), np.zeros(len(addresses) + 1, np.uint64)
    host_of = np.zeros(len(addresses) + 1, np.uint32)
    for entry, (address, name) in enumerate(addresses.items(), 1):
        high[entry], low[entry] = address_words(address)
        host_of[entry] = columns.host_id(name)
    slots, _ = _table(high, low, np.arange(1, len(host_of)))
    return slots, high, low, host_of


def empty() -> Snapshot:
    """Return a snapshot without interfaces."""
    return build(Columns(), {})
