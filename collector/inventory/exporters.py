"""What exporters state of their own interfaces: sFlow host structures and port names, gathered from decoded batches.

The decode workers call `observe`, one at a time; the inventory's thread takes what is new; a lock keeps them apart.
Both tables are bounded: what does not fit is not learnt, and is counted.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from collector.inventory.naming import values
from collector.inventory.sources.base import GROUP_BIT, Address, Host, Interface
from decoders.hashes import GOLDEN, MURMUR_A

HOST_FORGOTTEN_US = 600_000_000
"""A VM that host-sflow has not named for this long is gone: twenty polls of the usual 30 s."""
VMS_PER_MAC = 64
"""A limit because senders may be forged: the join looks at each VM of a MAC address for each flow with that address."""


class _Vm(NamedTuple):
    """A VM interface as host-sflow states it."""

    agent: Address
    host: str
    vm: str
    uuid: UUID
    if_index: int
    seen_us: int


class _PortName(NamedTuple):
    """Name of a port, and its number in `_seen`."""

    name: str
    key: int


class InBand:
    """The names gathered from the stream; at most `capacity` of each kind."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._seen: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._names: dict[tuple[Address, int], _PortName] = {}
        self._indices: dict[tuple[Address, str], int] = {}
        self._vms: dict[tuple[int, UUID], _Vm] = {}
        self._vms_of: Counter[int] = Counter()
        """VMs by MAC address."""
        self._made: dict[tuple[Address, int], Interface] = {}
        """The ports reported last: most of a hundred thousand are the same the next time."""
        self._changed = False
        self.left_out = 0
        """Names and VMs that found no room."""

    def observe(self, counters: Iterable[pa.RecordBatch], inventory: Iterable[pa.RecordBatch]) -> None:
        """Learn from decoded batches of `interface_counters` and of sFlow host structures."""
        for batch in counters:
            self._learn_names(batch)
        for batch in inventory:
            self._learn_vms(batch)

    def take(self, now_us: int) -> bool:
        """Return whether anything has changed since the last call."""
        with self._lock:
            gone = [key for key, vm in self._vms.items() if vm.seen_us < now_us - HOST_FORGOTTEN_US]
            for key in gone:
                del self._vms[key]
                self._vms_of[key[0]] -= 1
                if not self._vms_of[key[0]]:
                    del self._vms_of[key[0]]
            changed, self._changed = self._changed or bool(gone), False
            return changed

    def ports(self, known: Mapping[Address, str]) -> tuple[tuple[Interface, ...], tuple[Host, ...]]:
        """Return ports by name and ifIndex; a hypervisor that no other source knows is named by its agent address."""
        with self._lock:
            names = dict(self._names)
        hosts = {agent: known.get(agent) or str(agent) for agent, _ in names}
        made, self._made = self._made, {}
        for (agent, index), port in names.items():
            host = hosts[agent]
            same = made.get((agent, index))
            if same is None or same.host != host or same.port_name != port.name:
                same = Interface(host=host, port_name=port.name, if_index=index)
            self._made[agent, index] = same
        return tuple(self._made.values()), tuple(Host(name=name, addresses=(agent,)) for agent, name in hosts.items())

    def vms(self, known: Mapping[Address, str]) -> tuple[tuple[Interface, ...], tuple[Host, ...]]:
        """Return the VM interfaces of hypervisors that run host-sflow."""
        with self._lock:
            vms = dict(self._vms)
        hosts = {vm.agent: known.get(vm.agent) or vm.host for vm in vms.values()}
        interfaces = tuple(
            Interface(host=hosts[vm.agent], mac=mac, vm=vm.vm, vm_uuid=vm.uuid, if_index=vm.if_index)
            for (mac, _), vm in vms.items()
        )
        return interfaces, tuple(Host(name=name, addresses=(agent,)) for agent, name in hosts.items())

    def _learn_names(self, batch: pa.RecordBatch) -> None:
        """Take in the port names of a batch of counters; those seen before cost no Python each."""
        names = batch.column("if_name")
        agent, index, name = values(batch.column("agent")), values(batch.column("if_index")), values(names)
        keys = _keys(agent, index, name)
        new = np.flatnonzero((name != 0) & (index != 0) & ~_among(keys, self._seen))
        if not len(new):
            return
        with self._lock:
            gone: list[int] = []
            for row in new.tolist():
                gone += self._name(
                    _address(agent[row]), int(index[row]), _PortName(str(names[row].as_py()), int(keys[row]))
                )
            # A name that no longer holds may hold again.
            self._seen = np.setdiff1d(np.union1d(self._seen, keys[new]), np.array(gone, np.uint64))
            if len(self._seen) > 2 * self._capacity:
                # Drop keys of ports long gone: those that still exist are learnt again from the next poll.
                self._seen = np.zeros(0, np.uint64)

    def _name(self, agent: Address, index: int, port: _PortName) -> list[int]:
        """Give a port its ifIndex: no other port has either any more; return the keys of those others."""
        before = self._names.get((agent, index))
        if before is not None and before.name == port.name:
            return []
        if before is None and (agent, port.name) not in self._indices and len(self._names) >= self._capacity:
            self.left_out += 1
            return []
        gone = []
        if before is not None:
            del self._names[agent, index], self._indices[agent, before.name]
            gone.append(before.key)
        former_index = self._indices.pop((agent, port.name), None)
        if former_index is not None:
            gone.append(self._names.pop((agent, former_index)).key)
        self._names[agent, index] = port
        self._indices[agent, port.name] = index
        self._changed = True
        return gone

    def _learn_vms(self, batch: pa.RecordBatch) -> None:
        rows: list[dict[str, Any]] = batch.select(
            ["valid_to", "mac", "vm", "vm_uuid", "host", "if_index", "agent"]
        ).to_pylist()
        seen = values(batch.column("valid_to"))
        with self._lock:
            for row, seen_us in zip(rows, seen.tolist(), strict=True):
                if not row["mac"] or row["mac"] & GROUP_BIT:
                    continue  # belongs to no interface
                key = row["mac"], UUID(bytes=row["vm_uuid"])
                agent = _plain(IPv6Address(row["agent"]))
                before = self._vms.get(key)
                if before is None:
                    if len(self._vms) >= self._capacity or self._vms_of[key[0]] >= VMS_PER_MAC:
                        self.left_out += 1
                        continue
                    self._vms_of[key[0]] += 1
                now = _Vm(agent, row["host"], row["vm"], key[1], row["if_index"], seen_us)
                self._vms[key] = now
                self._changed |= before is None or before._replace(seen_us=seen_us) != now


def _keys(agent: NDArray[np.uint64], index: NDArray[np.uint32], name: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Return one number for each (agent, ifIndex, name in the stream); a collision hides a name until the next
    change."""
    with np.errstate(over="ignore"):
        key = agent[:, 1] * GOLDEN ^ agent[:, 0] * np.uint64(0xC2B2AE3D27D4EB4F)
        mixed: NDArray[np.uint64] = (
            key ^ (index.astype(np.uint64) << np.uint64(32) | name.astype(np.uint64))
        ) * MURMUR_A
    return mixed


def _among(keys: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which keys are in the sorted array `known`."""
    if not len(known):
        return np.zeros(len(keys), np.bool_)
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    found: NDArray[np.bool_] = known[at] == keys
    return found


def _address(words: NDArray[np.uint64]) -> Address:
    return _plain(IPv6Address(words.tobytes()))


def _plain(address: IPv6Address) -> Address:
    return address.ipv4_mapped or address
