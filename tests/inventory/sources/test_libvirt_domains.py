"""Domain XML as libvirt and Nova write it, and as an attacker might."""

from __future__ import annotations

from ipaddress import ip_address
from uuid import UUID

import pytest

from collector.inventory.sources.base import Interface, PortKind, mac_number
from collector.inventory.sources.libvirt_domains import MAX_INTERFACES, MAX_XML, DomainError, interfaces

UUID_TEXT = "1776d583-50a4-4e49-8ab7-aa6f7a49b1fe"
PORT = "77c1dc00-af39-4463-bea0-12808f4bc340"
PROJECT = "512866f9994f4ad8916d8539a7cdeec9"


def nova(version: str = "1.1", name: str = "web-1", project: str = "blue", ips: str = "") -> str:
    """Metadata of an instance with one port, as Nova writes them."""
    return f"""<metadata><nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/{version}">
      <nova:package version="25.1.0"/><nova:name>{name}</nova:name>
      <nova:creationTime>2026-03-14 10:09:13</nova:creationTime>
      <nova:owner>
        <nova:user uuid="ff627ad39ed94479b9c5033bc462cf78">admin</nova:user>
        <nova:project uuid="{PROJECT}">{project}</nova:project>
      </nova:owner>
      <nova:ports><nova:port uuid="{PORT}">{ips}</nova:port></nova:ports>
    </nova:instance></metadata>"""


def domain(nic: str, metadata: str = "") -> str:
    return (
        f"<domain type='kvm' id='1'><name>instance-0000000e</name><uuid>{UUID_TEXT}</uuid>{metadata}"
        f"<devices>{nic}</devices></domain>"
    )


MAC = "<mac address='52:54:00:6b:00:01'/>"
OVS = f"<virtualport type='openvswitch'><parameters interfaceid='{PORT}'/></virtualport>"


def only(xml: str) -> Interface:
    (found,) = interfaces(xml, "hv1")
    return found


def test_an_open_vswitch_port_of_a_plain_domain() -> None:
    """As the testbed's libvirt 9.0 writes it."""
    nic = f"""<interface type='bridge'>{MAC}<source bridge='br-int'/><vlan><tag id='100'/></vlan>{OVS}
      <target dev='vnet0'/><model type='virtio'/><alias name='net0'/></interface>"""

    assert only(domain(nic)) == Interface(
        host="hv1",
        port_name="vnet0",
        bridge="br-int",
        kind=PortKind.VM,
        mac=0x5254006B0001,
        vm="instance-0000000e",
        vm_uuid=UUID(UUID_TEXT),
        vlan=100,
        port_id=PORT,
    )


def test_a_network_of_libvirt_with_a_port_group_and_limits() -> None:
    """Live XML of libvirt 9.0: the type is the actual one, the network stands in the source."""
    nic = f"""<interface type='bridge'>{MAC}
      <source network='lvnet' portgroup='blue' portid='b0747693-542c-4193-85c9-b9926e6ae874' bridge='br-int'/>
      <vlan><tag id='42'/></vlan>{OVS}
      <bandwidth><inbound average='1000' peak='2000' burst='128'/><outbound average='500'/></bandwidth>
      <target dev='vnet4'/></interface>"""

    found = only(domain(nic))

    assert (found.network, found.bridge, found.vlan) == ("lvnet", "br-int", 42)
    assert found.speed == 500 * 8_000  # Open vSwitch polices 500 kB/s at 4000 kbit/s; inbound goes up to 2000 kB/s


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.7"])
def test_names_and_addresses_that_nova_gives(version: str) -> None:
    ips = """<nova:ip type="fixed" address="172.1.1.43" ipVersion="4"/>
      <nova:ip type="fixed" address="2001:db8::43" ipVersion="6"/>
      <nova:ip type="floating" address="198.51.100.9" ipVersion="4"/><nova:ip type="fixed" address="none"/>"""
    nic = f"<interface type='bridge'>{MAC}<source bridge='br-int'/>{OVS}<target dev='tap77c1dc00-af'/></interface>"

    found = only(domain(nic, nova(version, ips=ips)))

    assert (found.vm, found.project, found.port_id) == ("web-1", "blue", PORT)
    assert found.ips == (ip_address("172.1.1.43"), ip_address("2001:db8::43"))


def test_a_project_without_a_name_is_known_by_its_id() -> None:
    assert only(domain(f"<interface type='user'>{MAC}</interface>", nova(project=""))).project == PROJECT


def test_metadata_of_others_are_not_novas() -> None:
    foreign = "<metadata><tb:instance xmlns:tb='urn:example'><tb:name>x</tb:name></tb:instance></metadata>"

    found = only(domain(f"<interface type='user'>{MAC}</interface>", foreign))

    assert (found.vm, found.project, found.port_name) == ("instance-0000000e", "", "")


@pytest.mark.parametrize("prefix", ["tap", "vhu", "qvo"])
def test_a_port_without_interfaceid_is_found_by_neutrons_name(prefix: str) -> None:
    """Hybrid plug: the tap is on a Linux bridge, so libvirt knows no Open vSwitch port."""
    device = f"<source bridge='qbr77c1dc00-af'/><target dev='{prefix}77c1dc00-af'/>"
    nic = f"<interface type='bridge'>{MAC}{device}</interface>"

    assert only(domain(nic, nova())).port_id == PORT


def test_a_similar_name_is_not_neutrons() -> None:
    nic = f"<interface type='bridge'>{MAC}<source bridge='br0'/><target dev='tap77c1dc0'/></interface>"

    assert only(domain(nic, nova())).port_id == ""


def test_vlan_is_unknown_where_neutron_tags_the_bridge() -> None:
    nic = f"<interface type='bridge'>{MAC}<source bridge='br-int'/><vlan><tag id='3'/></vlan>{OVS}</interface>"

    assert only(domain(nic, nova())).vlan == 0
    assert only(domain(nic)).vlan == 3


def test_the_vlan_of_a_virtual_function_is_on_the_wire_even_if_neutron_sets_it() -> None:
    nic = f"""<interface type='hostdev' managed='yes'>{MAC}<driver name='vfio'/>
      <source><address type='pci' domain='0x0000' bus='0x03' slot='0x10' function='0x1'/></source>
      <vlan><tag id='77'/></vlan><target dev='vf1'/></interface>"""

    found = only(domain(nic, nova()))

    assert (found.port_name, found.vlan, found.mac) == ("", 77, 0x5254006B0001)


@pytest.mark.parametrize(
    "vlan",
    [
        "<vlan trunk='yes'><tag id='5'/></vlan>",
        "<vlan trunk='yes'><tag id='5'/><tag id='6'/></vlan>",
        "<vlan trunk='yes'><tag id='5' nativeMode='untagged'/><tag id='6'/></vlan>",
        "<vlan><tag id='5'/><tag id='6'/></vlan>",
    ],
)
def test_a_trunk_has_no_vlan(vlan: str) -> None:
    assert only(domain(f"<interface type='bridge'>{MAC}<source bridge='b'/>{vlan}{OVS}</interface>")).vlan == 0


def test_vhost_user_ports_by_device_or_socket() -> None:
    source = "<source type='unix' path='/var/lib/vhost_sockets/vhu77c1dc00-af' mode='server'/>"

    without = only(domain(f"<interface type='vhostuser'>{MAC}{source}</interface>", nova()))
    named = only(domain(f"<interface type='vhostuser'>{MAC}{source}<target dev='vhu0'/></interface>"))

    assert (without.port_name, without.port_id) == ("vhu77c1dc00-af", PORT)
    assert named.port_name == "vhu0"


@pytest.mark.parametrize(
    ("limits", "speed"),
    [
        ("<inbound average='1000'/><outbound average='3000'/>", 8_000_000),
        ("<outbound average='125000' peak='250000'/>", 2_000_000_000),
        ("<inbound floor='200'/>", 0),
        ("", 0),
    ],
)
def test_speed_is_the_limit_that_is_reached_first(limits: str, speed: int) -> None:
    nic = f"<interface type='bridge'>{MAC}<source bridge='b'/><bandwidth>{limits}</bandwidth></interface>"

    assert only(domain(nic)).speed == speed


def test_a_domain_without_interfaces() -> None:
    assert interfaces(domain(""), "hv1") == ()


BILLION_LAUGHS = (
    "<!DOCTYPE domain [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;&a;'>]>"
    f"<domain><name>&b;</name><uuid>{UUID_TEXT}</uuid></domain>"
)
OUTSIDE = "<!DOCTYPE domain [<!ENTITY x SYSTEM 'file:///etc/hostname'>]><domain><name>&x;</name></domain>"


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (BILLION_LAUGHS, "document type"),
        (OUTSIDE, "document type"),
        ("<domain><name>&x;</name></domain>", "well-formed"),
        ("", "well-formed"),
        ("<domain>", "well-formed"),
        ("<domain>\x00</domain>", "well-formed"),
        ("<domain>\ud800</domain>", "well-formed"),
        ("<domain>" + "<a>" * 100_000, "well-formed"),
        ("<domain>" + " " * MAX_XML + "</domain>", "at most"),
        ("<node/>", "expected 'domain'"),
        (f"<domain><uuid>{UUID_TEXT}0</uuid></domain>", "expected a UUID"),
        ("<domain><name>x</name></domain>", "expected a UUID"),
        (domain("<interface type='bridge'/>"), "interface 0: mac address is ''"),
        (domain("<interface><mac address='52:54:00:6b:00'/></interface>"), "six octets"),
        (domain("<interface><mac address='52:54:00:6b:00:0g'/></interface>"), "six octets"),
        (domain(f"<interface>{MAC}<vlan><tag id='4096'/></vlan></interface>"), "0 to 4095"),
        (domain(f"<interface>{MAC}<vlan><tag/></vlan></interface>"), "expected a number"),
        (domain(f"<interface>{MAC}<bandwidth><inbound average='-1'/></bandwidth></interface>"), "bandwidth inbound"),
        (domain(f"<interface>{MAC}<bandwidth><inbound average='{'9' * 5000}'/></bandwidth></interface>"), "a number"),
        (domain("<interface/>" * (MAX_INTERFACES + 1)), "at most"),
    ],
)
def test_what_libvirt_never_writes_is_refused(xml: str, message: str) -> None:
    with pytest.raises(DomainError, match=message) as refused:
        interfaces(xml, "hv1")
    assert len(str(refused.value)) < 300


def test_deep_xml_that_is_well_formed_does_no_harm() -> None:
    deep = "<a>" * 100_000 + "</a>" * 100_000

    assert interfaces(domain("", f"<metadata>{deep}</metadata>"), "hv1") == ()


def test_names_and_addresses_are_bounded() -> None:
    many = "".join(f"<nova:ip type='fixed' address='10.0.{n // 250}.{n % 250}'/>" for n in range(1000))
    nic = f"<interface type='bridge'>{MAC}{OVS}<target dev='{'t' * 1000}'/></interface>"

    found = only(domain(nic, nova(name="n" * 10_000, ips=many)))

    assert (len(found.vm), len(found.port_name), len(found.ips)) == (255, 255, 64)


def test_mac_addresses_as_numbers() -> None:
    assert mac_number("AA:bb:cc:dd:ee:ff") == 0xAABBCCDDEEFF
    assert mac_number("aabbccddeeff") is None
    assert mac_number("aa:bb:cc:dd:ee:ff\n") is None
