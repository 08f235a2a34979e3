"""What a source of the inventory states, the protocol that every source follows, and how source texts are read.

A source returns its whole present state; `merge.py` and `history.py` find what changed since its last answer, since
when something holds, and which source is right where two differ.  A source knows none of the others, nor the service's
clock or event loop.

MAC addresses, IP addresses, UUIDs and names are read here for all sources, so that the rules are the same for all.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol
from uuid import UUID

import pyarrow as pa

from schemas.inventory import Rank
from schemas.text import clean

Address = IPv4Address | IPv6Address

NO_UUID = UUID(int=0)

MAX_IPS = 64
"""Addresses kept per interface or hypervisor: more than an operator assigns.  A router would have thousands, and is
known by its MAC address; a hypervisor has one for each place from which it exports or where a tunnel ends."""
MAX_VLAN = 4094
"""4095 is Neutron's tag for a port that is not connected yet."""
GROUP_BIT = 1 << 40
"""The bit set in a group MAC address (broadcast included)."""
MAC_FORMS = "52:54:00:0a:00:01, 52-54-00-0a-00-01, 5254.000a.0001 or 5254000a0001"

_COLONS = re.compile(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")
_ANY_MAC = re.compile(
    r"[0-9a-f]{1,2}(:[0-9a-f]{1,2}){5} | [0-9a-f]{1,2}(-[0-9a-f]{1,2}){5}"
    r"| [0-9a-f]{4}(\.[0-9a-f]{4}){2} | [0-9a-f]{12}",
    re.IGNORECASE | re.VERBOSE,
)


class PortKind(IntEnum):
    """What is behind a port of a switch."""

    UNKNOWN = 0
    VM = 1
    TUNNEL = 2
    PATCH = 3
    OTHER = 4
    """The switch itself (local or internal port), or an uplink: certainly not a VM."""


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
    """When the newest change in it happened (µs since 1970), if an event stated it; 0 if it was found by polling."""
    counters: pa.RecordBatch | None = None
    """Rows of table `interface_counters` (all its decoded columns), if this source reads counters and they were due."""


class SourceError(Exception):
    """A source cannot be polled; the message says which, why, and what to do about it."""


class SourceSetupError(SourceError):
    """A source can never be polled with these settings: a missing library, not a regular file.  The service does not
    start."""


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
        """Return True as soon as an event indicates that something may have changed; False after `seconds`.

        Must return within `seconds` (plus a little), also where the connection is lost.
        """

    def interrupt(self) -> None:
        """Make a `wait` under way return soon.  The only method called from another thread, at the stop."""

    def close(self) -> None:
        """Close the connection.  Does not raise."""


def parse_mac(text: object) -> int:
    """Read a MAC address that a person wrote, in any usual notation.  Raises ValueError that says what was expected."""
    if not isinstance(text, str) or not _ANY_MAC.fullmatch(text.strip()):
        raise ValueError(f"no MAC address; {MAC_FORMS} expected")
    parts = re.split("[:-]", text.strip())
    digits = "".join(part.zfill(2) for part in parts) if len(parts) == 6 else text.strip().replace(".", "")
    return int(digits, 16)


def mac_number(text: str) -> int | None:
    """Read a MAC address that a program wrote, `52:54:00:0a:00:01`, as a 48-bit number; None for anything else."""
    return int(text.replace(":", ""), 16) if _COLONS.fullmatch(text) else None


def address_or_none(text: str) -> Address | None:
    """Read an IP address; None for anything else."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def uuid_or_none(text: str) -> UUID | None:
    """Read a UUID; None for anything else."""
    try:
        return UUID(text)
    except ValueError:
        return None


def text_of(values: Mapping[str, object], key: str) -> str:
    """Return a text, cleaned; empty where there is none."""
    value = values.get(key)
    return clean(value) if isinstance(value, str) else ""


def sixteen(address: Address | None) -> bytes:
    """Return the 16 octets of an address: IPv4 mapped into IPv6; no address is `::`."""
    if address is None:
        return bytes(16)
    return address.packed if isinstance(address, IPv6Address) else bytes(10) + b"\xff\xff" + address.packed


def remote_address(remote: str) -> Address | None:
    """Return the address in `tcp:HOST:PORT` or `ssl:HOST:PORT`, resolved if it is a name; None for unix sockets and
    loopback.

    An export often comes from the place where the source is.
    """
    kind, _, rest = remote.partition(":")
    if kind not in ("tcp", "ssl"):
        return None
    host = rest.rpartition(":")[0].strip("[]")
    address = address_or_none(host)
    if address is None:
        try:
            address = ip_address(socket.getaddrinfo(host, None)[0][4][0])
        except OSError:
            return None
    return None if address.is_loopback else address
