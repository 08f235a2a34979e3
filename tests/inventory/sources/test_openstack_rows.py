"""Single fields of the OpenStack APIs; what they mean is from the API references and Neutron's source."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any
from uuid import UUID

import pytest

from collector.inventory.sources.base import MAX_IPS, NO_UUID, Host, PortKind
from collector.inventory.sources.openstack_rows import (
    Network,
    Server,
    distinct_names,
    interfaces,
    read_hypervisor,
    read_network,
    read_port,
    read_server,
)

PORT = "0123abcd-ef01-4567-89ab-cdef01234567"
VM = "5f3c2a10-8f6e-4d0b-9a57-0d6c1f4e2b31"


def port(**fields: Any) -> dict[str, Any]:
    """A port of a VM as Neutron tells an administrator of it."""
    return {
        "id": PORT,
        "mac_address": "fa:16:3e:00:00:01",
        "device_owner": "compute:nova",
        "device_id": VM,
        "network_id": "net",
        "project_id": "p",
        "fixed_ips": [{"subnet_id": "s", "ip_address": "10.0.0.1"}],
        **fields,
    }


@pytest.mark.parametrize(
    ("vif_type", "details", "name"),
    [
        ("ovs", {"ovs_hybrid_plug": False}, "tap0123abcd-ef"),
        ("ovs", {"ovs_hybrid_plug": True}, "qvo0123abcd-ef"),
        ("ovs", {"bound_drivers": {"0": "ovn"}}, "tap0123abcd-ef"),
        ("bridge", {}, "tap0123abcd-ef"),
        ("vhostuser", {"vhostuser_socket": "/var/run/openvswitch/vhu0123abcd-ef"}, "vhu0123abcd-ef"),
        ("vhostuser", {}, "vhu0123abcd-ef"),
        ("hw_veb", {"vlan": "5"}, ""),
        ("unbound", {}, ""),
        ("binding_failed", {}, ""),
        (None, None, ""),
    ],
)
def test_name_of_device(vif_type: str | None, details: object, name: str) -> None:
    """As Neutron and os-vif name devices on the hypervisor; none where no switch has the port."""
    found = read_port(port(**{"binding:vif_type": vif_type, "binding:vif_details": details}))
    assert found is not None
    assert found.port_name == name


@pytest.mark.parametrize(
    ("owner", "device", "kept"),
    [
        ("compute:nova", VM, True),
        ("compute:az-2", VM, True),
        ("compute:kuryr", "", True),
        ("", VM, True),
        ("", "", False),
        ("network:router_interface", VM, False),
        ("network:router_interface_distributed", VM, False),
        ("network:dhcp", "dhcp1", False),
        ("network:floatingip", VM, False),
        ("baremetal:none", VM, False),
        ("computer", VM, False),
    ],
)
def test_whose_port(owner: str, device: str, kept: bool) -> None:
    """Only ports of VMs, and those whose device may turn out to be one."""
    assert (read_port(port(device_owner=owner, device_id=device)) is not None) is kept


def test_port_without_owner_needs_a_server() -> None:
    """A port without an owner is a VM's only if its device is a server; the server's word fills what the port lacks."""
    found = read_port(port(device_owner="", project_id=None))
    assert found is not None
    assert interfaces([found], {}, {}, {}) == ()
    server = Server("web", "hv1", "q", "", gone=False)
    (interface,) = interfaces([found], {"net": Network("blue", 7, 0)}, {VM: server}, {"q": "shop"})
    assert (interface.vm, interface.vm_uuid, interface.host, interface.kind) == ("web", UUID(VM), "hv1", PortKind.VM)
    assert (interface.project, interface.network, interface.vni) == ("shop", "blue", 7)


def test_unknown_names_are_ids() -> None:
    """Project and network are shown by their ids; a VM has no name then."""
    found = read_port(port(device_id="pod/7"))
    assert found is not None
    (interface,) = interfaces([found], {}, {}, {})
    assert (interface.vm, interface.vm_uuid) == ("", NO_UUID)
    assert (interface.project, interface.network, interface.vni, interface.vlan) == ("p", "net", 0, 0)


def test_ovn_has_numbers_of_its_own() -> None:
    """A port that OVN has bound has no VNI known to Neutron, but its VLAN."""
    networks = {"net": Network("both", 1555, 120)}
    for driver, vni in (("ovn", 0), ("openvswitch", 1555)):
        found = read_port(port(**{"binding:vif_details": {"bound_drivers": {"0": driver}}}))
        assert found is not None
        (interface,) = interfaces([found], networks, {}, {})
        assert (interface.vni, interface.vlan) == (vni, 120)


def test_addresses() -> None:
    """Fixed ones first, single allowed ones, each once; no networks, nothing that is none; bounded."""
    pairs = ["10.0.0.9", "10.0.0.1", "10.0.0.8/32", "10.0.1.0/24", "2001:db8::9/128", "2001:db8::/64", "x", None, 7]
    found = read_port(port(allowed_address_pairs=[{"ip_address": pair} for pair in pairs] + ["odd"]))
    assert found is not None
    assert found.ips == tuple(map(ip_address, ("10.0.0.1", "10.0.0.9", "10.0.0.8", "2001:db8::9")))
    many = read_port(port(fixed_ips=[{"ip_address": f"10.1.{n // 256}.{n % 256}"} for n in range(1000)]))
    assert many is not None
    assert len(many.ips) == MAX_IPS


@pytest.mark.parametrize("mac", [None, "", "fa:16:3e:00:00", "fa:16:3e:00:00:0g", "fa-16-3e-00-00-01", 7])
def test_no_mac(mac: object) -> None:
    """A port without a MAC address identifies nothing."""
    assert read_port(port(mac_address=mac)) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"fixed_ips": None, "allowed_address_pairs": 3, "binding:vif_details": [], "binding:host_id": None},
        {"fixed_ips": [None, 3], "network_id": 5, "project_id": {}, "binding:vif_type": 1},
    ],
)
def test_values_of_wrong_kind(fields: dict[str, Any]) -> None:
    """They count as missing."""
    found = read_port(port(**fields))
    assert found is not None
    assert (found.ips, found.host, found.port_name, found.mac) == ((), "", "", 0xFA163E000001)


def segment(kind: object, number: object) -> dict[str, object]:
    """One segment of a network."""
    return {"provider:network_type": kind, "provider:segmentation_id": number}


@pytest.mark.parametrize(
    ("fields", "vni", "vlan"),
    [
        (segment("vxlan", 1555), 1555, 0),
        (segment("geneve", 3123), 3123, 0),
        (segment("vlan", 123), 0, 123),
        (segment("gre", 77), 0, 0),
        (segment("flat", None), 0, 0),
        (segment("vlan", 4095), 0, 0),
        (segment("vxlan", 2**24), 0, 0),
        (segment("vxlan", "1555"), 0, 0),
        (segment([], 5), 0, 0),
        ({}, 0, 0),
        ({"segments": [segment("vxlan", 1555), segment("vlan", 120)]}, 1555, 120),
        ({"segments": [segment("vlan", 120), segment("vlan", 121)]}, 0, 0),
        ({"segments": [segment("vlan", 120), segment("vlan", 120), None]}, 0, 120),
    ],
)
def test_numbers_of_a_network(fields: dict[str, Any], vni: int, vlan: int) -> None:
    """Tunnels and VLANs by their kinds; nothing where it is not clear."""
    assert read_network({"name": "n", **fields}) == Network("n", vni, vlan)


def test_server_and_hypervisor() -> None:
    """Hosts have the name of the compute service, which ports are bound to, else that of the hypervisor."""
    server = {"name": "web", "tenant_id": "p", "status": "DELETED", "updated": "2026-11-25T16:00:00Z"}
    host, name = {"OS-EXT-SRV-ATTR:host": "hv1"}, {"OS-EXT-SRV-ATTR:hypervisor_hostname": "hv1.example.com"}
    assert read_server(server | host | name) == Server("web", "hv1", "p", "2026-11-25T16:00:00Z", gone=True)
    assert read_server(server | name).host == "hv1.example.com"
    assert read_server({"status": "ACTIVE", "name": None}) == Server("", "", "", "", gone=False)
    hypervisor = {"hypervisor_hostname": "hv1.example.com", "host_ip": "192.0.2.1"}
    assert read_hypervisor(hypervisor) == Host(name="hv1.example.com", addresses=(ip_address("192.0.2.1"),))
    assert read_hypervisor({**hypervisor, "service": {"host": "hv1"}, "host_ip": None}) == Host(name="hv1")
    assert read_hypervisor({"host_ip": "192.0.2.1"}) is None


def test_distinct_names() -> None:
    """Names that occur once stay; others get the start of their id, or all of it if the starts are alike, too."""
    ids = ["aaaaaaaa-1", "bbbbbbbb-2", "cccccccc-3", "cccccccc-4", "dddddddd-5"]
    names = dict(zip(ids, ["net", "net", "lan", "lan", ""], strict=True))
    assert distinct_names({**names, "e": "wan"}) == {
        "aaaaaaaa-1": "net (aaaaaaaa)",
        "bbbbbbbb-2": "net (bbbbbbbb)",
        "cccccccc-3": "lan (cccccccc-3)",
        "cccccccc-4": "lan (cccccccc-4)",
        "dddddddd-5": "dddddddd-5",
        "e": "wan",
    }
    taken = distinct_names({"aaaaaaaa-1": "net", "bbbbbbbb-2": "net", "x": "net (aaaaaaaa)"})
    assert len(set(taken.values())) == 3, "also where somebody has given such a name"
