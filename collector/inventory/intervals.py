"""The intervals of the inventory as growing columns: one row per interval, names as numbers of one list of strings."""

from __future__ import annotations

from uuid import UUID

import numpy as np
import pyarrow as pa

from collector.inventory.merge import Placement
from collector.inventory.sources.base import Address, PortKind, sixteen

ROW = np.dtype(
    [
        ("valid_from", np.int64),
        ("valid_to", np.int64),
        ("mac", np.uint64),
        ("vm_id", np.int32),
        ("host_id", np.int32),
        ("network", np.int32),
        ("project", np.int32),
        ("vni", np.uint32),
        ("bridge", np.int32),
        ("if_index", np.uint32),
        ("of_port", np.uint32),
        ("port_name", np.int32),
        ("vlan", np.uint16),
        ("kind", np.uint8),
        ("vm", np.int32),
        ("host", np.int32),
        ("uuid_high", np.uint64),
        ("uuid_low", np.uint64),
    ]
)
"""One interval.  `vm_id` is the same number for all interfaces of a VM; `host_id` 0 is no host.  The halves of a UUID,
like those of an address, are words in memory order: what the 16 octets are when read as two native numbers."""

IP = np.dtype([("high", np.uint64), ("low", np.uint64), ("row", np.int32)])
"""An address of an interval; `row` 0 is free."""

_FIRST_ROWS = 1024
_NAMES_KEPT = 100_000
"""Strings, VMs and hypervisors that are kept at least before those no longer in use are thrown away."""


def words(octets: bytes) -> tuple[int, int]:
    """Return 16 octets as two numbers in memory order."""
    high, low = np.frombuffer(octets, np.uint64).tolist()
    return high, low


def address_words(address: Address) -> tuple[int, int]:
    """Return an address as columns hold it: 16 octets, IPv4 mapped, as two words."""
    return words(sixteen(address))


class Columns:
    """The rows of intervals.  Row 0 is nothing: all its values are 0 or empty."""

    def __init__(self) -> None:
        self.rows = np.zeros(_FIRST_ROWS, ROW)
        self.ips = np.zeros(_FIRST_ROWS, IP)
        self._placements: dict[int, Placement] = {}
        self._used = 1
        self._free: list[int] = []
        self._ips_used = 1
        self._ips_free: list[int] = []
        self._ips_of: dict[int, list[int]] = {}
        self._array: pa.Array = pa.array([""], pa.string())
        self._numbers = {"": 0}
        self._reset_names()

    def __len__(self) -> int:
        return len(self._placements)

    @property
    def used(self) -> int:
        """Rows from here on have never been used."""
        return self._used

    @property
    def ips_used(self) -> int:
        """Address entries from here on have never been used."""
        return self._ips_used

    def add(self, placement: Placement, valid_from: int, valid_to: int) -> int:
        """Append a row; return its number."""
        if self._free:
            row = self._free.pop()
        else:
            row = self._used
            self._used += 1
            if self._used > len(self.rows):
                self.rows = np.concatenate([self.rows, np.zeros(len(self.rows), ROW)])
        self.set(row, placement, valid_from, valid_to)
        return row

    def set(self, row: int, placement: Placement, valid_from: int, valid_to: int) -> None:
        """Write all of a row."""
        self._placements[row] = placement
        interface = placement.interface
        high, low = words(interface.vm_uuid.bytes)
        self.rows[row] = (
            valid_from,
            valid_to,
            interface.mac,
            self._vm_id(interface.vm_uuid, interface.vm),
            self.host_id(interface.host),
            self._string(interface.network),
            self._string(interface.project),
            interface.vni & 0xFFFF_FFFF,
            self._string(interface.bridge),
            interface.if_index & 0xFFFF_FFFF,
            interface.of_port & 0xFFFF_FFFF,
            self._string(interface.port_name),
            interface.vlan & 0xFFFF,
            interface.kind or (PortKind.VM if interface.mac else PortKind.UNKNOWN),
            self._string(interface.vm),
            self._string(interface.host),
            high,
            low,
        )
        self._set_ips(row, [address_words(address) for address in interface.ips])

    def end(self, row: int, valid_to: int) -> None:
        """Set when a row ceased to hold."""
        self.rows["valid_to"][row] = valid_to

    def remove(self, row: int) -> None:
        """Free a row."""
        del self._placements[row]
        self.rows[row] = np.zeros((), ROW)
        self._set_ips(row, [])
        self._free.append(row)
        names = max(len(self._strings), len(self._vms), len(self._hosts))
        if names > max(_NAMES_KEPT, 16 * len(self._placements)):
            self._renumber()

    def strings(self) -> pa.Array:
        """All names, by number."""
        if len(self._array) != len(self._strings):
            self._array = pa.array(list(self._strings), pa.string())
        return self._array

    def numbers(self) -> dict[str, int]:
        """Number of each name, as of now."""
        if len(self._numbers) != len(self._strings):
            self._numbers = dict(self._strings)
        return self._numbers

    def host_id(self, name: str) -> int:
        """Return the number of a hypervisor; 0 for no name."""
        return self._hosts.setdefault(name, len(self._hosts))

    def hosts(self) -> dict[str, int]:
        """Number of each hypervisor, as of now."""
        return {name: number for name, number in self._hosts.items() if number}

    def host_count(self) -> int:
        """Host numbers are below this."""
        return len(self._hosts)

    def _reset_names(self) -> None:
        self._strings = {"": 0}
        self._hosts = {"": 0}
        self._vms: dict[UUID | str, int] = {"": 0}
        self._array = pa.array([""], pa.string())
        self._numbers = {"": 0}

    def _string(self, text: str) -> int:
        return self._strings.setdefault(text, len(self._strings))

    def _vm_id(self, uuid: UUID, name: str) -> int:
        key = uuid if uuid.int else name
        return self._vms.setdefault(key, len(self._vms))

    def _set_ips(self, row: int, addresses: list[tuple[int, int]]) -> None:
        for entry in self._ips_of.pop(row, ()):
            self.ips[entry] = (0, 0, 0)
            self._ips_free.append(entry)
        entries = []
        for high, low in addresses:
            if self._ips_free:
                entry = self._ips_free.pop()
            else:
                entry = self._ips_used
                self._ips_used += 1
                if self._ips_used > len(self.ips):
                    self.ips = np.concatenate([self.ips, np.zeros(len(self.ips), IP)])
            self.ips[entry] = (high, low, row)
            entries.append(entry)
        if entries:
            self._ips_of[row] = entries

    def _renumber(self) -> None:
        """Renumber the names, without those that no row has."""
        self._reset_names()
        for row, placement in self._placements.items():
            values = self.rows[row]
            self.set(row, placement, int(values["valid_from"]), int(values["valid_to"]))
