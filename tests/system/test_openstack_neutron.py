"""The OpenStack source against Debian's real neutron-server; what it has to say is in the answers to what we create.

Nova and Keystone are absent here, as they are where Neutron stands alone; those are in
`tests/inventory/sources/test_openstack*.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from collector.inventory.settings import OpenstackSettings
from collector.inventory.sources.base import Interface, PortKind, SourceError
from collector.inventory.sources.openstack import Openstack
from tests.system.neutron.server import Neutron, missing

pytest.importorskip("openstack", reason="needs openstacksdk: pip install 'vmflow[openstack]'")
pytestmark = [
    pytest.mark.system,
    # The SDK warns of its own code whenever a cloud is read from a file.
    pytest.mark.filterwarnings("ignore:Support for InfluxDB:PendingDeprecationWarning"),
]

PAGE = 3
BLUE, RED = "b" * 32, "c" * 32
"""Projects."""
VM = "11111111-2222-3333-4444-55555555000{}"


@pytest.fixture(scope="module")
def neutron(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neutron]:
    """A server with two hypervisors: the agent of hv2 plugs ports through Linux bridges."""
    if reason := missing():
        pytest.skip(reason)
    server = Neutron(tmp_path_factory.mktemp("neutron"), PAGE)
    server.add_agent("hv1")
    server.add_agent("hv2", ovs_hybrid_plug=True)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def source(neutron: Neutron, tmp_path: Path) -> Iterator[Openstack]:
    """A source that lists everything once, with its first answer."""
    file = tmp_path / "clouds.yaml"
    file.write_text(f"clouds: {{lab: {{auth_type: none, network_endpoint_override: '{neutron.url}'}}}}")
    opened = Openstack(OpenstackSettings(cloud="lab", config_file=file, full_seconds=86_400))
    yield opened
    opened.close()


@pytest.fixture
def network(neutron: Neutron) -> Iterator[Callable[..., dict[str, Any]]]:
    """Makes networks with a subnet, and removes them with all their ports."""
    made = []

    def make(name: str, cidr: str, **attributes: object) -> dict[str, Any]:
        created = neutron.create("network", name=name, **attributes)
        made.append(created["id"])
        version = ip_address(cidr.partition("/")[0]).version
        subnet = neutron.create("subnet", network_id=created["id"], cidr=cidr, ip_version=version, enable_dhcp=False)
        return {**created, "subnet": subnet["id"]}

    yield make
    for key in made:
        while ports := neutron.call("GET", f"/ports?network_id={key}&fields=id")["ports"]:
            for port in ports:
                neutron.delete("port", port["id"])
        neutron.delete("network", key)


def by_id(source: Openstack) -> dict[str, Interface]:
    """What the source says now, by port id."""
    return {interface.port_id: interface for interface in source.read().interfaces}


def mac(port: dict[str, Any]) -> int:
    """The MAC address of a port, as Neutron wrote it."""
    return int.from_bytes(bytes.fromhex(port["mac_address"].replace(":", "")), "big")


def fixed(port: dict[str, Any]) -> tuple[Any, ...]:
    """Its addresses."""
    return tuple(ip_address(entry["ip_address"]) for entry in port["fixed_ips"])


def test_ports_of_vms(neutron: Neutron, source: Openstack, network: Callable[..., dict[str, Any]]) -> None:
    """MAC, addresses, VM, hypervisor, device, project and network, of tunnels and VLANs, on two kinds of hosts."""
    blue = network("blue", "10.0.0.0/24", project_id=BLUE)
    green = network("green", "10.1.0.0/24", provider__network_type="geneve", provider__segmentation_id=3123)
    wire = network(
        "wire", "10.2.0.0/24",
        provider__network_type="vlan", provider__physical_network="physnet1", provider__segmentation_id=123,
    )  # fmt: skip
    subnet6 = neutron.create("subnet", network_id=blue["id"], cidr="2001:db8::/64", ip_version=6, enable_dhcp=False)
    on_hv1 = neutron.create(
        "port", network_id=blue["id"], project_id=BLUE, device_id=VM.format(1), device_owner="compute:nova",
        binding__host_id="hv1", allowed_address_pairs=[{"ip_address": "10.0.0.200"}, {"ip_address": "10.9.0.0/16"}],
        fixed_ips=[{"subnet_id": blue["subnet"]}, {"subnet_id": subnet6["id"]}],
    )  # fmt: skip
    on_hv2 = neutron.create(
        "port", network_id=green["id"], project_id=RED, device_id=VM.format(2), device_owner="compute:az2",
        binding__host_id="hv2",
    )  # fmt: skip
    unbound = neutron.create(
        "port", network_id=wire["id"], project_id=RED, device_id=VM.format(3), device_owner="compute:nova"
    )
    for owner in ("network:router_interface", "network:dhcp", ""):
        neutron.create("port", network_id=blue["id"], device_id=VM.format(4), device_owner=owner)

    assert on_hv1["binding:vif_type"] == on_hv2["binding:vif_type"] == "ovs", "Neutron bound the ports"
    assert len(on_hv1["fixed_ips"]) == 2
    assert by_id(source) == {
        on_hv1["id"]: Interface(
            host="hv1", port_name="tap" + on_hv1["id"][:11], kind=PortKind.VM, mac=mac(on_hv1),
            vm_uuid=UUID(VM.format(1)), project=BLUE, network="blue", vni=blue["provider:segmentation_id"],
            ips=(*fixed(on_hv1), IPv4Address("10.0.0.200")), port_id=on_hv1["id"],
        ),
        on_hv2["id"]: Interface(
            host="hv2", port_name="qvo" + on_hv2["id"][:11], kind=PortKind.VM, mac=mac(on_hv2),
            vm_uuid=UUID(VM.format(2)), project=RED, network="green", vni=3123, ips=fixed(on_hv2), port_id=on_hv2["id"],
        ),
        unbound["id"]: Interface(
            kind=PortKind.VM, mac=mac(unbound), vm_uuid=UUID(VM.format(3)), project=RED, network="wire", vlan=123,
            ips=fixed(unbound), port_id=unbound["id"],
        ),
    }  # fmt: skip


def test_several_segments(neutron: Neutron, source: Openstack, network: Callable[..., dict[str, Any]]) -> None:
    """A network with one segment of each kind has both numbers; which of two VLANs a port is in is not known."""
    vlans = [
        {"provider:network_type": "vlan", "provider:physical_network": wire, "provider:segmentation_id": tag}
        for wire, tag in (("physnet1", 150), ("physnet1", 151), ("physnet2", 152))
    ]
    tunnel = {"provider:network_type": "vxlan", "provider:segmentation_id": 1555}
    for name, cidr, segments, numbers in (
        ("both", "10.0.0.0/24", [vlans[0], tunnel], (1555, 150)),
        ("rack", "10.1.0.0/24", vlans[1:], (0, 0)),
    ):
        made = network(name, cidr, segments=segments)
        port = neutron.create("port", network_id=made["id"], device_id=VM.format(1), device_owner="compute:nova")
        found = by_id(source)[port["id"]]
        assert (found.network, found.vni, found.vlan) == (name, *numbers)


def test_names_that_occur_twice(neutron: Neutron, source: Openstack, network: Callable[..., dict[str, Any]]) -> None:
    """Two networks of one name are kept apart by their ids; one without a name is called by its id."""
    made = [network(name, "10.0.0.0/24") for name in ("private", "private", "", "other")]
    ports = [neutron.create("port", network_id=n["id"], device_id=VM.format(1), device_owner="compute:x") for n in made]
    found = by_id(source)
    assert [found[port["id"]].network for port in ports] == [
        f"private ({made[0]['id'][:8]})",
        f"private ({made[1]['id'][:8]})",
        made[2]["id"],
        "other",
    ]


def test_many_pages(neutron: Neutron, source: Openstack, network: Callable[..., dict[str, Any]]) -> None:
    """The server gives three objects a page, whatever is asked for; all are found, in the listing and in the index."""
    blue = network("blue", "10.0.0.0/24")
    made = {
        neutron.create("port", network_id=blue["id"], device_id=VM.format(n), device_owner="compute:nova")["id"]
        for n in range(8)
    }
    assert len(neutron.call("GET", "/ports?limit=1000")["ports"]) == PAGE
    assert by_id(source).keys() == made
    last = neutron.create("port", network_id=blue["id"], device_id=VM.format(9), device_owner="compute:nova")
    assert by_id(source).keys() == {*made, last["id"]}


def test_changes_between_full_listings(
    neutron: Neutron, source: Openstack, network: Callable[..., dict[str, Any]]
) -> None:
    """Neutron raises a port's revision with whatever we want to know of it, so that the index tells each change."""
    blue = network("blue", "10.0.0.0/24")
    port = neutron.create("port", network_id=blue["id"], device_id=VM.format(1), device_owner="compute:nova")
    key = port["id"]
    assert by_id(source)[key].host == ""
    changes: list[tuple[dict[str, object], str, object]] = [
        ({"binding__host_id": "hv1"}, "host", "hv1"),
        ({"binding__host_id": "hv2"}, "port_name", "qvo" + key[:11]),
        ({"fixed_ips": [{"ip_address": "10.0.0.77"}]}, "ips", (IPv4Address("10.0.0.77"),)),
        (
            {"allowed_address_pairs": [{"ip_address": "10.0.0.9"}]},
            "ips",
            tuple(map(IPv4Address, ("10.0.0.77", "10.0.0.9"))),
        ),
        ({"device_id": VM.format(2)}, "vm_uuid", UUID(VM.format(2))),
    ]
    for change, field, expected in changes:
        neutron.update("port", key, **change)
        assert getattr(by_id(source)[key], field) == expected, change
    neutron.update("network", blue["id"], name="navy")
    assert by_id(source)[key].network == "navy"
    same = source.read()
    assert source.read() is same, "nothing changed"
    neutron.update("port", key, device_owner="network:dhcp")
    assert key not in by_id(source)
    neutron.update("port", key, device_owner="compute:nova")
    assert key in by_id(source)
    neutron.delete("port", key)
    assert key not in by_id(source)


@pytest.mark.parametrize(
    "access",
    [
        "auth_type: none, auth: {endpoint: 'URL'}",
        "auth_type: admin_token, auth: {endpoint: 'URL', token: any}",
        "auth_type: http_basic, auth: {endpoint: 'URL/v2.0', username: me, password: any}",
    ],
)
def test_without_keystone(
    neutron: Neutron, network: Callable[..., dict[str, Any]], tmp_path: Path, access: str
) -> None:
    """Other ways to get in; all services then have Neutron's address, where Nova and Keystone do not answer."""
    blue = network("blue", "10.0.0.0/24", project_id=BLUE)
    port = neutron.create(
        "port", network_id=blue["id"], project_id=BLUE, device_id=VM.format(1), device_owner="compute:x"
    )
    file = tmp_path / "clouds.yaml"
    file.write_text(f"clouds: {{lab: {{{access.replace('URL', neutron.url)}}}}}")
    source = Openstack(OpenstackSettings(cloud="lab", config_file=file))
    found = by_id(source)[port["id"]]
    assert (found.vm, found.project, found.network) == ("", BLUE, "blue")
    source.close()


def test_server_down_and_up(neutron: Neutron, source: Openstack, network: Callable[..., dict[str, Any]]) -> None:
    """A server that is down is an error that names it; when it is back, so are the ports."""
    blue = network("blue", "10.0.0.0/24")
    port = neutron.create("port", network_id=blue["id"], device_id=VM.format(1), device_owner="compute:nova")
    assert port["id"] in by_id(source)
    neutron.stop()
    try:
        with pytest.raises(SourceError, match=r"openstack lab: network /ports: \w*Connect\w*: .*127\.0\.0\.1"):
            source.read()
    finally:
        neutron.start()
    assert port["id"] in by_id(source)
