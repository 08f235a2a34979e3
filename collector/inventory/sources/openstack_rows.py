"""What the inventory needs of the JSON objects of the OpenStack APIs.  Nothing here connects to a cloud.

Fields are those of the Networking API v2.0 (ports, networks), the Compute API 2.1 (servers, hypervisors) and the
Identity API v3 (projects).  What a user may not see is left out of the answers, so every field but the id may be
missing; a value that does not conform to the API reference counts as missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from posixpath import basename
from typing import Any

from collector.inventory.sources.base import (
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

Item = Mapping[str, Any]

MAX_VNI = 2**24 - 1

PORT_FIELDS = (
    "id", "revision_number", "mac_address", "fixed_ips", "allowed_address_pairs", "device_id", "device_owner",
    "network_id", "project_id", "binding:host_id", "binding:vif_type", "binding:vif_details",
)  # fmt: skip
NETWORK_FIELDS = (
    "id", "revision_number", "name", "segments", "provider:network_type", "provider:segmentation_id",
)  # fmt: skip

_ID_SHOWN = 8
"""Characters of an id that distinguish two things of one name, for people."""
_DEVICE_CHARACTERS = 11
"""Characters of the port id in names of devices (neutron_lib.constants: names have 14)."""


@dataclass(frozen=True, slots=True)
class Port:
    """A Neutron port of a VM, or a port that may be one."""

    id: str
    mac: int
    ips: tuple[Address, ...]
    owned: bool
    """Whether `device_owner` says that this is a VM's port; else it is one if `device` is a server."""
    device: str
    """Id of the server."""
    host: str
    project: str
    network: str
    """Id of the network."""
    port_name: str
    own_vni: bool
    """Whether tunnelled packets bear the network's segmentation id."""


@dataclass(frozen=True, slots=True)
class Network:
    """A Neutron network: its name, and what identifies it on the wire (0 = nothing, or not known)."""

    name: str
    vni: int
    vlan: int


@dataclass(frozen=True, slots=True)
class Server:
    """A Nova server; it is `gone` where Nova reports a deleted one."""

    name: str
    host: str
    project: str
    updated: str
    """When Nova changed it last, as ISO 8601 with a Z: as text, they sort in order of time."""
    gone: bool


_NO_NETWORK = Network("", 0, 0)
_NO_SERVER = Server("", "", "", "", gone=False)


def read_port(item: Item) -> Port | None:
    """Return a port that is or may be a VM's; None for all others.

    Ports of routers and DHCP servers are left out.  They belong to no VM, as the switch states, too, and the MAC
    address of a router must not name any: what it sends comes from a VM elsewhere, which the IP address identifies.
    """
    owner = text_of(item, "device_owner")
    device = text_of(item, "device_id")
    mac = mac_number(text_of(item, "mac_address"))
    owned = owner.startswith("compute:")
    if mac is None or not (owned or (device and not owner)):
        return None
    details = item.get("binding:vif_details")
    if not isinstance(details, dict):
        details = {}
    return Port(
        id=text_of(item, "id"),
        mac=mac,
        ips=_addresses(item),
        owned=owned,
        device=device,
        host=text_of(item, "binding:host_id"),
        project=text_of(item, "project_id"),
        network=text_of(item, "network_id"),
        port_name=_port_name(text_of(item, "id"), text_of(item, "binding:vif_type"), details),
        own_vni=not _is_ovn(details),
    )


def read_network(item: Item) -> Network:
    """Return a network.  Of one with several segments, a number is only used if it is the only one of its kind: which
    of two VLANs a port is in depends on its host."""
    segments = item.get("segments")
    if not isinstance(segments, list):
        segments = [item]
    vnis = _segmentation_ids(segments, ("vxlan", "geneve"), MAX_VNI)
    vlans = _segmentation_ids(segments, ("vlan",), MAX_VLAN)
    return Network(text_of(item, "name"), vnis.pop() if len(vnis) == 1 else 0, vlans.pop() if len(vlans) == 1 else 0)


def read_server(item: Item) -> Server:
    """Return a server."""
    return Server(
        name=text_of(item, "name"),
        host=text_of(item, "OS-EXT-SRV-ATTR:host") or text_of(item, "OS-EXT-SRV-ATTR:hypervisor_hostname"),
        project=text_of(item, "tenant_id"),
        updated=text_of(item, "updated"),
        gone=item.get("status") == "DELETED",
    )


def read_hypervisor(item: Item) -> Host | None:
    """Return a hypervisor, under the name that ports are bound to; None if it has none."""
    service = item.get("service")
    name = (text_of(service, "host") if isinstance(service, dict) else "") or text_of(item, "hypervisor_hostname")
    address = _address(item.get("host_ip"))
    return Host(name=name, addresses=() if address is None else (address,)) if name else None


def interfaces(
    ports: Iterable[Port], networks: Mapping[str, Network], servers: Mapping[str, Server], projects: Mapping[str, str]
) -> tuple[Interface, ...]:
    """Return all interfaces of VMs.  The mappings are by id; what they lack is left empty, or shown as its id."""
    network_names = distinct_names({key: network.name for key, network in networks.items()})
    project_names = distinct_names(projects)
    found = []
    for port in ports:
        server = servers.get(port.device)
        if server is None:
            if not port.owned:
                continue
            server = _NO_SERVER
        network = networks.get(port.network, _NO_NETWORK)
        project = server.project or port.project
        found.append(
            Interface(
                host=port.host or server.host,
                port_name=port.port_name,
                kind=PortKind.VM,
                mac=port.mac,
                vm=server.name,
                vm_uuid=uuid_or_none(port.device) or NO_UUID,
                project=project_names.get(project, project),
                network=network_names.get(port.network, port.network),
                vni=network.vni if port.own_vni else 0,
                vlan=network.vlan,
                ips=port.ips,
                port_id=port.id,
            )
        )
    return tuple(found)


def distinct_names(names: Mapping[str, str]) -> dict[str, str]:
    """Turn names by id into unique names for people by id: a shared name gets the start of the id appended, a missing
    one is replaced by the id."""
    shared = Counter(names.values())
    shown = {
        key: key if not name else name if shared[name] == 1 else f"{name} ({key[:_ID_SHOWN]})"
        for key, name in names.items()
    }
    shared = Counter(shown.values())
    return {key: name if shared[name] == 1 else f"{names[key]} ({key})" for key, name in shown.items()}


def _port_name(port_id: str, vif_type: str, details: Item) -> str:
    """Return the name of the device on the hypervisor, by Neutron's rules; empty where the port is not plugged into a
    switch.

    With `ovs_hybrid_plug` the port of Open vSwitch is one end of a cable to a Linux bridge that has the tap device.
    """
    if vif_type == "vhostuser":
        return basename(text_of(details, "vhostuser_socket")) or "vhu" + port_id[:_DEVICE_CHARACTERS]
    if vif_type == "ovs" and details.get("ovs_hybrid_plug"):
        return "qvo" + port_id[:_DEVICE_CHARACTERS]
    return "tap" + port_id[:_DEVICE_CHARACTERS] if vif_type in ("ovs", "bridge", "tap") else ""


def _is_ovn(details: Item) -> bool:
    """Return whether OVN has bound the port.  It puts a number of its own into the Geneve header (the tunnel_key of the
    logical switch, ovn-architecture(7)), not the segmentation id of Neutron."""
    drivers = details.get("bound_drivers")
    return isinstance(drivers, dict) and "ovn" in drivers.values()


def _segmentation_ids(segments: list[Any], types: tuple[str, ...], highest: int) -> set[int]:
    found = set()
    for segment in segments:
        if isinstance(segment, dict) and segment.get("provider:network_type") in types:
            number = segment.get("provider:segmentation_id")
            if isinstance(number, int) and 0 < number <= highest:
                found.add(number)
    return found


def _addresses(item: Item) -> tuple[Address, ...]:
    """Return fixed addresses, then the port's other allowed addresses; of the latter only single addresses, no
    networks."""
    found: dict[Address, None] = {}
    for key in ("fixed_ips", "allowed_address_pairs"):
        entries = item.get(key)
        for entry in entries if isinstance(entries, list) else ():
            address = _address(entry.get("ip_address")) if isinstance(entry, dict) else None
            if address is not None and len(found) < MAX_IPS:
                found[address] = None
    return tuple(found)


def _address(value: object) -> Address | None:
    """Return the address of `192.0.2.1` or `192.0.2.1/32`; None for a network and anything else."""
    if not isinstance(value, str):
        return None
    text, _, prefix = value.partition("/")
    address = address_or_none(text)
    return address if address and (not prefix or prefix == str(address.max_prefixlen)) else None
