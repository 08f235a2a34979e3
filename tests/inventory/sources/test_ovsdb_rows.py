"""What programs write into Open vSwitch's database, written with ovs-vsctl, and what the source makes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address
from uuid import UUID

import pytest

from collector.inventory.settings import OvsdbSettings
from collector.inventory.sources.base import NO_UUID, Host, Interface, PortKind
from collector.inventory.sources.ovsdb import Ovsdb
from tests.inventory.sources.ovsdb_server import OvsdbServer, needs_server

VM = "1776d583-50a4-4e49-8ab7-aa6f7a49b1fe"
PORT = "77c1dc00-af39-4463-bea0-12808f4bc340"
NETWORK = "512866f9-994f-4ad8-916d-8539a7cdeec9"
MAC = "52:54:00:0a:00:01"
NUMBER = 0x5254000A0001
OTHERS = "52:54:00:0a:00:02"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OvsdbServer]:
    needs_server()
    with OvsdbServer(tmp_path_factory.mktemp("ovsdb")) as started:
        yield started


@pytest.fixture(autouse=True)
def empty(server: OvsdbServer) -> None:
    """A database with an empty bridge."""
    server.vsctl("--if-exists", "del-br", "br-int", "--", "clear", "Open_vSwitch", ".", "external_ids")
    server.vsctl("--if-exists", "del-br", "br-phy", "--", "add-br", "br-int")


def port(server: OvsdbServer, name: str, *values: str, interface: tuple[str, ...] = ()) -> None:
    """Add a port to br-int with columns of its rows Port and Interface."""
    server.vsctl("add-port", "br-int", name, *values, "--", "set", "Interface", name, *(interface or ("type=system",)))


def ids(**values: str) -> tuple[str, ...]:
    return tuple(f'external_ids:{key.replace("_", "-")}="{value}"' for key, value in values.items())


def ports(server: OvsdbServer, **settings: str) -> dict[str, Interface]:
    source = Ovsdb(OvsdbSettings(remote=server.unix, **{"host": "hv1"} | settings))
    try:
        return {interface.port_name: interface for interface in source.read().interfaces}
    finally:
        source.close()


def host(server: OvsdbServer, settings: OvsdbSettings | None = None) -> Host:
    source = Ovsdb(settings or OvsdbSettings(remote=server.unix))
    try:
        (found,) = source.read().hosts
        return found
    finally:
        source.close()


def test_a_port_as_libvirt_writes_it(server: OvsdbServer) -> None:
    written = ids(attached_mac=MAC, iface_id=PORT, vm_id=VM, iface_status="active")
    port(server, "vnet1", "tag=10", interface=(*written, "ofport=3", "ifindex=17", "link_speed=10000000"))

    assert ports(server)["vnet1"] == Interface(
        host="hv1",
        port_name="vnet1",
        if_index=17,
        of_port=3,
        bridge="br-int",
        kind=PortKind.VM,
        mac=NUMBER,
        vm_uuid=UUID(VM),
        vlan=10,
        port_id=PORT,
        speed=10_000_000,
    )


def test_a_limit_goes_before_the_speed_of_the_link(server: OvsdbServer) -> None:
    port(server, "vnet1", interface=("link_speed=10000000000", "ingress_policing_rate=8000"))

    assert ports(server)["vnet1"].speed == 8_000_000  # ovs-vswitchd.conf.db(5): kbps, of 1000


@pytest.mark.parametrize(
    ("kind", "vlan", "vni"), [("vxlan", 0, 5001), ("geneve", 0, 5001), ("vlan", 0, 0), ("flat", 0, 0), ("local", 0, 0)]
)
def test_what_neutrons_agent_writes(server: OvsdbServer, kind: str, vlan: int, vni: int) -> None:
    """The tag is local to the bridge; 5001 is no VLAN."""
    config = (f"other_config:net_uuid={NETWORK}", f"other_config:network_type={kind}")
    segment = ("other_config:segmentation_id=5001", "other_config:tag=3", "tag=3")
    port(server, "qvo77c1dc00-af", *config, *segment, interface=ids(attached_mac=MAC, iface_id=PORT, vm_uuid=VM))

    found = ports(server)["qvo77c1dc00-af"]

    assert (found.kind, found.vm_uuid, found.port_id) == (PortKind.VM, UUID(VM), PORT)
    assert (found.network, found.vlan, found.vni) == (NETWORK, vlan, vni)


def test_a_vlan_network_of_neutron(server: OvsdbServer) -> None:
    config = (f"other_config:net_uuid={NETWORK}", "other_config:network_type=vlan", "other_config:segmentation_id=42")
    port(server, "tap77c1dc00-af", *config, "tag=3", interface=ids(iface_id=PORT))

    assert (ports(server)["tap77c1dc00-af"].vlan, ports(server)["tap77c1dc00-af"].vni) == (42, 0)


def test_neutrons_routers_and_dhcp_servers_are_no_vms(server: OvsdbServer) -> None:
    port(server, "qr-77c1dc00-af", interface=("type=internal", *ids(attached_mac=MAC, iface_id=PORT)))

    found = ports(server)["qr-77c1dc00-af"]

    assert (found.kind, found.mac, found.port_id) == (PortKind.OTHER, 0, "")


def test_a_tag_with_a_tunnel_of_its_own_is_no_vlan(server: OvsdbServer) -> None:
    """As the testbed: vxlan0 has tag 100 and key 5001; a second tunnel of another bridge does not matter."""
    server.vsctl("add-br", "br-phy")
    tunnel = ("type=vxlan", "options:key=7", "options:remote_ip=192.0.2.2")
    server.vsctl("add-port", "br-phy", "vxlan9", "tag=10", "--", "set", "Interface", "vxlan9", *tunnel)
    port(server, "vxlan0", "tag=100", interface=("type=vxlan", "options:key=5001", "options:remote_ip=192.0.2.2"))
    port(server, "vxlan1", "tag=100", interface=("type=vxlan", "options:key=0x1389", "options:remote_ip=192.0.2.3"))
    port(server, "vnet1", "tag=100", interface=ids(attached_mac=MAC))
    port(server, "vnet2", "tag=10", interface=ids(attached_mac=OTHERS))

    found = ports(server)

    assert {name: (i.vlan, i.vni) for name, i in found.items() if i.mac} == {"vnet1": (0, 5001), "vnet2": (10, 0)}
    assert (found["vxlan0"].kind, found["vxlan0"].vni) == (PortKind.TUNNEL, 0)


@pytest.mark.parametrize(("second", "vlan"), [("6001", 0), ("flow", 0)])
def test_a_tag_with_two_keys_says_nothing(server: OvsdbServer, second: str, vlan: int) -> None:
    """With key=flow beside a fixed key the fixed one holds."""
    port(server, "vxlan0", "tag=100", interface=("type=vxlan", "options:key=5001"))
    port(server, "gre0", "tag=100", interface=("type=gre", f"options:key={second}"))
    port(server, "vnet1", "tag=100", interface=ids(attached_mac=MAC))

    assert (ports(server)["vnet1"].vlan, ports(server)["vnet1"].vni) == (vlan, 0 if second == "6001" else 5001)


def test_keys_that_flows_set_tell_nothing_of_a_tag(server: OvsdbServer) -> None:
    port(server, "vxlan0", "tag=100", interface=("type=vxlan", "options:key=flow"))
    port(server, "vnet1", "tag=100", interface=ids(attached_mac=MAC))

    assert (ports(server)["vnet1"].vlan, ports(server)["vnet1"].vni) == (100, 0)


def test_a_trunk_ignores_its_tag_and_4095_is_no_vlan(server: OvsdbServer) -> None:
    port(server, "vnet1", "tag=10", "vlan_mode=trunk", interface=ids(attached_mac=MAC))
    port(server, "vnet2", "tag=10", "vlan_mode=native-untagged", interface=ids(attached_mac=OTHERS))
    port(server, "vnet3", "tag=4095", interface=ids(iface_id=PORT))

    found = ports(server)

    assert [found[name].vlan for name in ("vnet1", "vnet2", "vnet3")] == [0, 10, 0]


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        (("type=geneve", "options:key=flow"), PortKind.TUNNEL),
        (("type=patch", "options:peer=phy"), PortKind.PATCH),
        (("type=internal",), PortKind.OTHER),
        (("type=system",), PortKind.UNKNOWN),
        (("type=dpdkvhostuserclient",), PortKind.UNKNOWN),
        (("type=dpdkvhostuserclient", *ids(iface_id=PORT)), PortKind.VM),
        (("type=internal", *ids(vm_id=VM)), PortKind.VM),
        (ids(vm_id="none"), PortKind.VM),
    ],
)
def test_kinds_of_ports(server: OvsdbServer, written: tuple[str, ...], kind: PortKind) -> None:
    port(server, "p1", interface=written)

    found = ports(server)

    assert found["p1"].kind == kind
    assert found["br-int"].kind == PortKind.OTHER


@pytest.mark.parametrize(
    "mac", ["52:54:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "zz:54:00:0a:00:01", "x" * 9_999]
)
def test_a_mac_address_that_is_none_costs_that_field(server: OvsdbServer, mac: str) -> None:
    """An identity of the port that is too long is cut, and stays distinct by the digest at its end."""
    port(server, "vnet1", interface=ids(attached_mac=mac, vm_id="1776d583", iface_id="x" * 9_999, vm_uuid=VM))

    found = ports(server)["vnet1"]

    assert (found.kind, found.mac, found.vm_uuid) == (PortKind.VM, 0, UUID(VM))
    assert re.fullmatch("x{246}…[0-9a-f]{8}", found.port_id)


def test_a_port_that_could_not_be_added(server: OvsdbServer) -> None:
    """ofport −1; no ifIndex, or 0 as a userspace device has it.  What would steer a terminal is escaped."""
    port(server, "vnet1", interface=("ofport=-1", *ids(attached_mac=MAC, vm_id="x", iface_id="a\x07b")))
    port(server, "vnet2", interface=("ifindex=0",))

    found = ports(server)

    assert (found["vnet1"].of_port, found["vnet1"].if_index, found["vnet2"].if_index) == (0, 0, 0)
    assert (found["vnet1"].mac, found["vnet1"].vm_uuid, found["vnet1"].port_id) == (NUMBER, NO_UUID, r"a\x07b")


@pytest.mark.parametrize("number", ["²", "-5", "1e3", "0x", "99999999999999999999", ""])
def test_numbers_that_are_none(server: OvsdbServer, number: str) -> None:
    config = ("other_config:net_uuid=x", "other_config:network_type=vxlan", f'other_config:segmentation_id="{number}"')
    port(server, "vnet1", *config, interface=ids(attached_mac=MAC))
    port(server, "vxlan0", "tag=5", interface=("type=vxlan", f'options:key="{number}"'))
    port(server, "vnet2", "tag=5", interface=ids(attached_mac=OTHERS))

    found = ports(server)

    assert (found["vnet1"].mac, found["vnet1"].vni) == (NUMBER, 0)
    assert (found["vnet2"].vlan, found["vnet2"].vni) == (5, 0)


def test_the_host_is_called_as_it_calls_itself(server: OvsdbServer) -> None:
    assert host(server).name == server.unix
    server.vsctl("set", "Open_vSwitch", ".", "external_ids:system-id=abc")
    assert host(server).name == "abc"
    server.vsctl("set", "Open_vSwitch", ".", "external_ids:hostname=hv7.example.com")
    assert host(server).name == "hv7.example.com"
    assert host(server, OvsdbSettings(remote=server.unix, host="hv1")).name == "hv1"


def test_addresses_of_the_host(server: OvsdbServer) -> None:
    """Those of the settings, sFlow's agent, OVN's and the tunnels' end points; no interface name, no loopback."""
    create = ("--id=@s", "create", "sFlow", 'targets="192.0.2.1:6343"', "agent=192.0.2.11")
    server.vsctl("set", "Bridge", "br-int", "sflow=@s", "--", *create)
    server.vsctl("set", "Open_vSwitch", ".", 'external_ids:ovn-encap-ip="198.51.100.12,127.0.0.1"')
    port(server, "vxlan0", interface=("type=vxlan", "options:local_ip=198.51.100.11", "options:key=flow"))
    port(server, "vxlan1", interface=("type=vxlan", "options:local_ip=flow", "options:key=flow"))
    port(server, "gre6", interface=("type=gre", 'options:local_ip="2001:db8::11"'))
    exporters = (ip_address("203.0.113.9"),)

    found = host(server, OvsdbSettings(remote=server.unix, exporters=exporters)).addresses

    assert found[0] == exporters[0]
    assert {str(address) for address in found} == {
        "203.0.113.9", "192.0.2.11", "198.51.100.12", "198.51.100.11", "2001:db8::11"
    }  # fmt: skip


def test_an_agent_that_is_an_interface_is_no_address(server: OvsdbServer) -> None:
    create = ("--id=@s", "create", "sFlow", 'targets="192.0.2.1:6343"', "agent=eth0")
    server.vsctl("set", "Bridge", "br-int", "sflow=@s", "--", *create)

    assert host(server).addresses == ()


def test_interfaces_of_a_bond_are_each_stated(server: OvsdbServer) -> None:
    server.vsctl("add-bond", "br-int", "bond0", "eth0", "eth1")

    assert {"eth0", "eth1"} <= set(ports(server))


def test_names_that_no_terminal_should_see(server: OvsdbServer) -> None:
    port(server, "vnet1", interface=ids(attached_mac=MAC))
    server.vsctl("set", "Open_vSwitch", ".", 'external_ids:hostname="\\u001b[31mred"', "external_ids:system-id=plain")

    assert host(server).name == r"\x1b[31mred"
