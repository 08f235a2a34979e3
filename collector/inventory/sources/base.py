"""What a source of the inventory says, and the protocol that every source follows.

A source answers with its whole present state; what changed since its last answer, since when something holds, and who
is right where two sources differ, is found by `merge.py` and `history.py`.  A source knows none of the others, no
clock of ours and no event loop.

Addresses of the places where sources are: an export often comes from the same one.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol
from uuid import UUID

import pyarrow as pa

Address = IPv4Address | IPv6Address

NO_UUID = UUID(int=0)


class Rank(IntEnum):
    """Kinds of sources, best first: where two differ, the lower number is believed."""

    LIBVIRT = 0
    OVSDB = 1
    OPENSTACK = 2
    STATIC = 3
    SFLOW_HOST = 4
    """sFlow host structures 2000, 2001, 2002, sent by host-sflow on the hypervisor."""
    INTERFACE_NAME = 5
    """Interface names in the stream: sFlow port names (1005), IPFIX interfaceName(82)."""


class PortKind(IntEnum):
    """What is behind a port of a switch."""

    UNKNOWN = 0
    VM = 1
    TUNNEL = 2
    PATCH = 3
    OTHER = 4
    """The switch itself (local or internal port), or an uplink: certainly no VM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One interface of a VM, or one port of a switch, as one source knows it; what it does not know is empty or 0."""

    host: str = ""
    """Hypervisor that has the port."""
    port_name: str = ""
    """Name of the port on the hypervisor (`vnet3`, `tap0123abcd-ef`)."""
    if_index: int = 0
    """ifIndex on the hypervisor."""
    of_port: int = 0
    """OpenFlow port number on `bridge`."""
    bridge: str = ""
    kind: PortKind = PortKind.UNKNOWN
    mac: int = 0
    """MAC address that the guest uses, as a 48-bit number; 0 for ports that belong to no VM."""
    vm: str = ""
    vm_uuid: UUID = NO_UUID
    project: str = ""
    """Project (tenant) for people: its name if known, else its id."""
    network: str = ""
    """Virtual network for people: its name if known, else its id."""
    vni: int = 0
    """VXLAN or Geneve network identifier of the network, the same on all hosts."""
    vlan: int = 0
    """VLAN id of the network on the wire, the same on all hosts: never a tag that is local to one bridge."""
    ips: tuple[Address, ...] = ()
    port_id: str = ""
    """Logical port: Neutron port id, OVN logical port, OVS iface-id."""
    speed: int = 0
    """What limits the interface, in bit/s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One hypervisor, as one source knows it."""

    name: str
    addresses: tuple[Address, ...] = ()
    """Addresses under which it exports, and its tunnel end points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that a source knows at one time."""

    interfaces: tuple[Interface, ...] = ()
    hosts: tuple[Host, ...] = ()
    changed_us: int = 0
    """When the newest change in it happened (µs since 1970), where an event told; 0 where it was found by polling."""
    counters: pa.RecordBatch | None = None
    """Rows of table `interface_counters` (all its decoded columns), if this source reads counters and they were due."""


class SourceError(Exception):
    """A source cannot be asked; the message says which, why, and what to do about it."""


class SourceSetupError(SourceError):
    """A source can never be asked as it is set: a missing library, a file that is none.  The service does not start."""


class Source(Protocol):
    """One place that knows VMs.

    All methods block.  They are called one at a time, each on a worker thread of this source, never on the event loop.
    A call that does not end within the source's deadline is given up; its answer, should it come, is thrown away.
    """

    rank: Rank
    name: str
    """For people and as a metric label: kind and place, such as `libvirt qemu:///system`.  No secrets."""

    def read(self) -> Report:
        """Connect if need be and return the present state.  Raises SourceError, with the connection closed."""

    def wait(self, seconds: float) -> bool:
        """Return True as soon as an event says that something may have changed; False after `seconds`.

        Must return within `seconds` (plus a little), also where the connection is lost.
        """

    def interrupt(self) -> None:
        """Make a `wait` under way return soon.  The one method that is called from another thread, at the stop."""

    def close(self) -> None:
        """Close the connection.  Does not raise."""


def remote_address(remote: str) -> Address | None:
    """Address in `tcp:HOST:PORT` or `ssl:HOST:PORT`, resolved if it is a name; None for unix sockets and loopback."""
    kind, _, rest = remote.partition(":")
    if kind not in ("tcp", "ssl"):
        return None
    host = rest.rpartition(":")[0].strip("[]")
    try:
        address = ip_address(host)
    except ValueError:
        try:
            address = ip_address(socket.getaddrinfo(host, None)[0][4][0])
        except OSError:
            return None
    return None if address.is_loopback else address
