"""Turn rows of the Open vSwitch database (vswitch.xml) into interfaces, a host and polls of counters.  No input or
output.

A row is as the library provides it: optional columns are lists of none or one, maps are dictionaries, references are
rows.  What a row holds was written by many programs, and guests' owners choose some of it (`external_ids`): an invalid
value costs that value only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import numpy as np

from collector.inventory.settings import OvsdbSettings
from collector.inventory.sources.base import (
    GROUP_BIT,
    MAX_IPS,
    MAX_VLAN,
    NO_UUID,
    Address,
    Host,
    Interface,
    PortKind,
    address_or_none,
    mac_number,
    text_of,
    uuid_or_none,
)
from collector.inventory.sources.counters import Poll
from decoders.rows import ABSENT
from schemas.counters import TOTALS
from schemas.text import clean

MAX_IF_INDEX = 2**32 - 1
MAX_OF_PORT = 0xFFFF
"""OpenFlow 1.0 to 1.4 as Open vSwitch numbers ports; 65534 is the bridge itself."""
MAX_KBITS = 2**32 - 1
MAX_SPEED = 2**53
MAX_VNI = 2**32 - 1
"""A GRE key has 32 bits, VXLAN and Geneve have 24."""
TUNNELS = frozenset(
    {
        "vxlan", "geneve", "gre", "ip6gre", "gre64", "erspan", "ip6erspan", "lisp", "stt", "gtpu", "bareudp", "srv6",
        "ipsec_gre",
    }
)  # fmt: skip
_OVERLAYS = ("vxlan", "geneve", "gre")
"""Neutron's network types whose segmentation id is in the packets of a tunnel."""


class OvsdbTables(Protocol):
    """What the replica offers."""

    def rows(self, table: str) -> Sequence[Any]:
        """Return all rows of a table."""


class _Segment(NamedTuple):
    """The network of a port; empty or 0 where not known."""

    network: str = ""
    vlan: int = 0
    vni: int = 0


def interfaces(tables: OvsdbTables, host: str) -> tuple[Interface, ...]:
    """Return all ports of all bridges of the hypervisor `host` that have a name; each once, whatever refers to it."""
    found: dict[UUID, Interface] = {}
    seen: set[UUID] = set()
    for bridge in tables.rows("Bridge"):
        ports = [port for port in bridge.ports if port.uuid not in seen]
        seen.update(port.uuid for port in ports)
        keys = _tunnel_keys(ports)
        for port in ports:
            segment = _segment(port, keys)
            for row in port.interfaces:
                if row.uuid not in found and name_of(row):
                    found[row.uuid] = _interface(row, host, bridge, segment)
    return tuple(found.values())


def host(tables: OvsdbTables, settings: OvsdbSettings, remote: Address | None) -> Host:
    """Return the hypervisor, with the addresses of its exports and tunnel end points; `remote` is the database's.

    Those of the settings come first.
    """
    ids: Mapping[str, str] = next((row.external_ids for row in tables.rows("Open_vSwitch")), {})
    name = settings.host or text_of(ids, "hostname") or text_of(ids, "system-id") or settings.remote
    stated = [text for row in tables.rows("sFlow") for text in row.agent]
    stated += ids.get("ovn-encap-ip", "").split(",")[:MAX_IPS]
    stated += [row.options.get("local_ip", "") for row in tables.rows("Interface") if row.type in TUNNELS]
    addresses = dict.fromkeys(settings.exporters)
    if remote is not None:
        addresses[remote] = None
    for text in stated:
        if (address := _address(text)) is not None and len(addresses) < MAX_IPS:
            addresses[address] = None
    return Host(name=name, addresses=tuple(addresses))


def _tunnel_keys(ports: Iterable[Any]) -> dict[int, int]:
    """Return the VNI by access tag, where a tunnel port with a fixed key has that tag; 0 for a tag with two keys."""
    keys: dict[int, set[int]] = {}
    for port in ports:
        tag = _tag(port)
        for row in port.interfaces:
            key = _number(row.options.get("key", ""), MAX_VNI)
            if tag and key and row.type in TUNNELS:
                keys.setdefault(tag, set()).add(key)
    return {tag: found.pop() if len(found) == 1 else 0 for tag, found in keys.items()}


def name_of(row: Any) -> str:
    """Return the name of a row of Interface."""
    return clean(row.name)


def small(values: Iterable[int], most: int) -> int:
    """Return the value of an optional column if it is 1 to `most`, else 0: -1 is a port that could not be added."""
    value = next(iter(values), 0)
    return value if 0 < value <= most else 0


def _interface(row: Any, host: str, bridge: Any, segment: _Segment) -> Interface:
    ids = row.external_ids
    kind = _kind(row)
    of_vm = kind is PortKind.VM
    if kind in (PortKind.TUNNEL, PortKind.PATCH):
        segment = _Segment()
    return Interface(
        host=host,
        port_name=name_of(row),
        if_index=small(row.ifindex, MAX_IF_INDEX),
        of_port=small(row.ofport, MAX_OF_PORT),
        bridge=clean(bridge.name),
        kind=kind,
        mac=_mac(ids.get("attached-mac", "")) if of_vm else 0,
        vm_uuid=uuid_or_none(ids.get("vm-id", "")) or uuid_or_none(ids.get("vm-uuid", "")) or NO_UUID,
        network=segment.network,
        vni=segment.vni,
        vlan=segment.vlan,
        port_id=text_of(ids, "iface-id") if of_vm else "",
        speed=1_000 * small([row.ingress_policing_rate], MAX_KBITS) or small(row.link_speed, MAX_SPEED),
    )


def _kind(row: Any) -> PortKind:
    """Return what is behind a port.

    Neutron's routers and DHCP servers have internal ports, with ids as a VM's port has: the MAC address of a router
    must not name a VM, since what it sends comes from a VM elsewhere.  Any other port without ids may be an uplink, or
    the tap of a VM added by hand: nothing here distinguishes them for certain.
    """
    ids = row.external_ids
    if "vm-id" in ids or "vm-uuid" in ids:
        return PortKind.VM
    if row.type == "internal":
        return PortKind.OTHER
    if row.type in TUNNELS:
        return PortKind.TUNNEL
    if row.type == "patch":
        return PortKind.PATCH
    return PortKind.VM if "attached-mac" in ids or "iface-id" in ids else PortKind.UNKNOWN


def _segment(port: Any, keys: Mapping[int, int]) -> _Segment:
    """Return the network of a port.

    Neutron's agent writes it into other_config: the tags of its bridge have no meaning outside it.  Without Neutron a
    tag is the VLAN, unless tunnels with fixed keys serve it.
    """
    config = port.other_config
    if "net_uuid" in config:
        kind = config.get("network_type")
        number = config.get("segmentation_id", "")
        return _Segment(
            network=text_of(config, "net_uuid"),
            vlan=_number(number, MAX_VLAN) if kind == "vlan" else 0,
            vni=_number(number, MAX_VNI) if kind in _OVERLAYS else 0,
        )
    tag = _tag(port)
    return _Segment(vni=keys[tag]) if tag in keys else _Segment(vlan=tag)


def _tag(port: Any) -> int:
    """Return the VLAN of packets without a tag, 0 if there is none: a trunk ignores the tag."""
    return 0 if "trunk" in port.vlan_mode else small(port.tag, MAX_VLAN)


def _number(text: str, most: int) -> int:
    """Read a number from 1 to `most`, decimal or with 0x as Open vSwitch does; 0 for anything else, such as `flow`."""
    base = 16 if text[:2].lower() == "0x" else 10
    if len(text) > 18 or not text.isascii() or not text.isalnum():
        return 0
    try:
        return small([int(text, base)], most)
    except ValueError:
        return 0


def _mac(text: str) -> int:
    """Return the address of one station; 0 for a group's, and for anything else."""
    number = mac_number(text) or 0
    return 0 if number & GROUP_BIT else number


def _address(text: str) -> Address | None:
    """Return an address that another machine can see."""
    address = address_or_none(text)
    if address is None or address.is_unspecified or address.is_loopback or address.is_multicast:
        return None
    return address


_KEYS = {
    "in_bytes": "rx_bytes",
    "in_unicast_packets": "rx_packets",
    "in_discards": "rx_dropped",
    "in_errors": "rx_errors",
    "out_bytes": "tx_bytes",
    "out_unicast_packets": "tx_packets",
    "out_discards": "tx_dropped",
    "out_errors": "tx_errors",
}
"""Total of the table → key of Interface.statistics."""


def counters(rows: Sequence[Any], wall_us: int, monotonic_us: int) -> Poll:
    """Return the statistics of all rows of Interface that have a name and at least one counter that is wanted.

    `rx` is what the switch receives from the port: `in_`.  Open vSwitch counts all packets in one number, which stands
    in `in_unicast_packets` and `out_unicast_packets`, as in its sFlow.  ovs-vswitchd writes statistics every 5 s
    (`other_config:stats-update-interval`): polls that are closer see no growth.
    """
    counting = [
        (row, name, statistics)
        for row in rows
        if (name := name_of(row)) and any(key in (statistics := row.statistics) for key in _KEYS.values())
    ]
    totals = np.full((len(TOTALS), len(counting)), ABSENT, np.uint64)
    for number, (total, *_) in enumerate(TOTALS):
        if key := _KEYS.get(total):
            # Open vSwitch leaves out what a device does not count; a negative number is not a total either.
            values = (max(statistics.get(key, -1), -1) for _, _, statistics in counting)
            totals[number] = np.fromiter(values, np.int64, len(counting)).view(np.uint64)
    indices = np.array([small(row.ifindex, MAX_IF_INDEX) for row, _, _ in counting], np.uint32)
    return Poll(
        # A port that is deleted and recreated has another row.
        keys=[row.uuid for row, _, _ in counting],
        names=[name for _, name, _ in counting],
        if_index=indices,
        # A device that is recreated under a port that stays has another ifIndex.
        epochs=indices.astype(np.int64),
        totals=totals,
        wall_us=wall_us,
        monotonic_us=monotonic_us,
    )
