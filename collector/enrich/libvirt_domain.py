"""The live XML of one libvirt domain, read into interfaces.  Nothing here talks to libvirt.

The elements are those of libvirt's docs/formatdomain.rst; the metadata are those that Nova writes
(nova/virt/libvirt/config.py, namespace `http://openstack.org/xmlns/libvirt/nova/1.x`).
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from posixpath import basename
from uuid import UUID
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from collector.enrich.source import Address, Interface, PortKind
from schemas.text import clean

MAX_XML = 1 << 20
"""Characters.  A domain with hundreds of devices has about 100,000."""
MAX_INTERFACES = 256
"""More than a guest has slots for on its PCI buses, root ports included."""
MAX_ADDRESSES = 64
"""Addresses of one interface that are kept: an interface with more is a router, and known by its MAC address."""

_NOVA = "{http://openstack.org/xmlns/libvirt/nova/"
_MAC = re.compile(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")
_NEUTRON_PREFIXES = ("tap", "vhu", "qvo")
"""Neutron's names of ports: one of these, and the first 11 characters of the port id."""
_BITS_PER_KILOBYTE = 8_000
"""libvirt hands `average` and `peak` on as kB/s of 1000: 8 kbit/s each in Open vSwitch, `kbps` in tc."""


class DomainError(ValueError):
    """A domain's XML cannot be read; the message says where in it and what was expected."""


def interfaces(xml: str, host: str) -> tuple[Interface, ...]:
    """All interfaces of the domain that `xml` describes, on the hypervisor `host`.

    Read it from the live XML of an active domain, where names of host devices stand.  Addresses are those that Nova
    fixed, in its order; one that is none is left out.  Raises DomainError for anything else that is not as libvirt
    writes it: a domain is stated whole or not at all.
    """
    root = _parse(xml)
    nics = root.findall("devices/interface")
    if len(nics) > MAX_INTERFACES:
        raise DomainError(f"{len(nics)} interfaces, expected {MAX_INTERFACES} at most")
    try:
        uuid = UUID(root.findtext("uuid", ""))
    except ValueError:
        raise DomainError(f"uuid is {_shown(root.findtext('uuid', ''))}, expected a UUID") from None
    nova = _nova_instance(root)
    name = _text(root, "name")
    project = ""
    ports: dict[str, tuple[Address, ...]] = {}
    if nova is not None:
        space = nova.tag.removesuffix("instance")
        name = _text(nova, f"{space}name") or name
        project = _project(nova, space)
        ports = _nova_ports(nova, space)
    found = []
    for number, nic in enumerate(nics):
        try:
            found.append(_interface(nic, host, name, uuid, project, ports, neutron=nova is not None))
        except DomainError as error:
            raise DomainError(f"interface {number}: {error}") from None
    return tuple(found)


def _parse(xml: str) -> Element:
    """The root element.  libvirt writes no document type, so that no entity can be declared, none expanded."""
    if len(xml) > MAX_XML:
        raise DomainError(f"{len(xml)} characters of XML, expected {MAX_XML} at most")
    if "<!DOCTYPE" in xml:
        raise DomainError("a document type declaration, expected none: libvirt writes none")
    try:
        root = ElementTree.fromstring(xml)  # noqa: S314 - its attacks need entities, refused above
    except (ElementTree.ParseError, ValueError) as error:
        raise DomainError(f"expected well-formed XML: {error}") from None
    if root.tag != "domain":
        raise DomainError(f"root element {_shown(root.tag)}, expected 'domain'")
    return root


def _interface(
    nic: Element,
    host: str,
    vm: str,
    uuid: UUID,
    project: str,
    ports: dict[str, tuple[Address, ...]],
    neutron: bool,
) -> Interface:
    source = nic.find("source")
    name = _port_name(nic, source)
    port_id = _attribute(nic, "virtualport/parameters", "interfaceid") or _neutron_port(name, ports)
    return Interface(
        host=host,
        port_name=name,
        bridge="" if source is None else clean(source.get("bridge", "")),
        kind=PortKind.VM,
        mac=_mac(_attribute(nic, "mac", "address")),
        vm=vm,
        vm_uuid=uuid,
        project=project,
        network="" if source is None else clean(source.get("network", "")),
        vlan=_vlan(nic, neutron),
        ips=ports.get(port_id, ()),
        port_id=port_id,
        speed=_speed(nic),
    )


def _port_name(nic: Element, source: Element | None) -> str:
    """The host's device; for vhost-user without one the last part of the socket's path, as Open vSwitch names ports.

    A hostdev has none: its packets do not pass the host.
    """
    kind = nic.get("type")
    if kind == "hostdev":
        return ""
    name = _attribute(nic, "target", "dev")
    if not name and kind == "vhostuser" and source is not None:
        return clean(basename(source.get("path", "")))
    return name


def _neutron_port(name: str, ports: dict[str, tuple[Address, ...]]) -> str:
    """The Nova port whose id begins as the device's name says; empty if none does, or two."""
    if not name.startswith(_NEUTRON_PREFIXES):
        return ""
    matching = [port for port in ports if port[:11] == name[3:]]
    return matching[0] if len(matching) == 1 else ""


def _vlan(nic: Element, neutron: bool) -> int:
    """The VLAN on the wire: the single access tag, 0 where there is none.

    On an Open vSwitch port that Neutron manages the tag is local to the bridge, so it says nothing here.
    """
    vlan = nic.find("vlan")
    if vlan is None or vlan.get("trunk") == "yes":
        return 0
    tags = vlan.findall("tag")
    if len(tags) != 1 or (neutron and _attribute(nic, "virtualport", "type") == "openvswitch"):
        return 0
    tag = _number(tags[0].get("id", ""), "vlan tag")
    if tag > 4095:
        raise DomainError(f"vlan tag is {tag}, expected 0 to 4095")
    return tag


def _speed(nic: Element) -> int:
    """The limit in bit/s, 0 where there is none: of two directions the smaller, which is reached first.

    The limit of a direction is its `peak` where given, else its `average` (Open vSwitch's max-rate, tc's ceil).
    """
    limits = []
    for direction in nic.findall("bandwidth/inbound") + nic.findall("bandwidth/outbound"):
        text = direction.get("peak") or direction.get("average")
        if text:
            limits.append(_number(text, f"bandwidth {direction.tag}") * _BITS_PER_KILOBYTE)
    return min((limit for limit in limits if limit), default=0)


def _nova_instance(root: Element) -> Element | None:
    """What Nova wrote of the instance, whatever the version of its namespace."""
    for element in root.findall("metadata/*"):
        if element.tag.startswith(_NOVA) and element.tag.endswith("}instance"):
            return element
    return None


def _project(nova: Element, space: str) -> str:
    """Name of the project, else its id."""
    project = nova.find(f"{space}owner/{space}project")
    if project is None:
        return ""
    return clean(project.text or "") or clean(project.get("uuid", ""))


def _nova_ports(nova: Element, space: str) -> dict[str, tuple[Address, ...]]:
    """Port id -> fixed addresses."""
    ports = {}
    for port in nova.findall(f"{space}ports/{space}port")[:MAX_INTERFACES]:
        texts = [ip.get("address", "") for ip in port.findall(f"{space}ip") if ip.get("type", "fixed") == "fixed"]
        ports[clean(port.get("uuid", ""))] = addresses(texts)
    return ports


def addresses(texts: list[str]) -> tuple[Address, ...]:
    """The addresses in `texts`, each once and without its zone; what is none is left out, and what is too many."""
    found: dict[Address, None] = {}
    for text in texts[:MAX_ADDRESSES]:
        try:
            found[ip_address(text.partition("%")[0])] = None
        except ValueError:
            continue
    return tuple(found)


def mac_number(text: str) -> int | None:
    """`52:54:00:0a:00:01` as a 48-bit number; None if `text` is no MAC address."""
    return int(text.replace(":", ""), 16) if _MAC.fullmatch(text) else None


def _mac(text: str) -> int:
    number = mac_number(text)
    if number is None:
        raise DomainError(f"mac address is {_shown(text)}, expected six octets such as 52:54:00:0a:00:01")
    return number


def _number(text: str, what: str) -> int:
    """A decimal number of up to 18 digits."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise DomainError(f"{what} is {_shown(text)}, expected a number")
    return int(text)


def _text(element: Element, path: str) -> str:
    return clean(element.findtext(path, ""))


def _attribute(element: Element, path: str, name: str) -> str:
    """Attribute `name` of the first element at `path`; empty if either is missing."""
    found = element.find(path)
    return "" if found is None else clean(found.get(name, ""))


def _shown(text: str) -> str:
    """`text` as a message may show it."""
    return repr(text[:40])
