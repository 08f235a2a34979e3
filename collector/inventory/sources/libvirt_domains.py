"""The domains of one libvirt daemon: XML becomes interfaces, counters become polls; and what is kept between reads.

`interfaces` and `poll` do no input or output; `Domains` asks for what is due.  The elements of the XML are those of
libvirt's docs/formatdomain.rst; the metadata are those that Nova writes (nova/virt/libvirt/config.py, namespace
`http://openstack.org/xmlns/libvirt/nova/1.x`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from posixpath import basename
from types import ModuleType
from typing import Any, NamedTuple
from uuid import UUID
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from collector.inventory.sources.base import MAX_IPS, Address, Interface, PortKind, address_or_none, mac_number
from collector.inventory.sources.counters import Poll
from collector.log import get_log
from decoders.rows import ABSENT
from schemas.counters import TOTALS
from schemas.text import clean

MAX_XML = 1 << 20
"""Characters.  A domain with hundreds of devices has about 100,000."""
MAX_INTERFACES = 256
"""More interfaces than a guest has slots for on its PCI buses, root ports included."""

_NOVA = "{http://openstack.org/xmlns/libvirt/nova/"
_NEUTRON_PREFIXES = ("tap", "vhu", "qvo")
"""Neutron's port names: one of these, then the first 11 characters of the port id."""
_BITS_PER_KILOBYTE = 8_000
"""libvirt passes `average` and `peak` on as kB/s of 1000: 8 kbit/s each in Open vSwitch, `kbps` in tc."""


class DomainError(ValueError):
    """A domain's XML cannot be read; the message says where and what was expected."""


def interfaces(xml: str, host: str) -> tuple[Interface, ...]:
    """Return all interfaces of the domain that `xml` describes, on the hypervisor `host`.

    Give it the live XML of an active domain, which has the names of host devices.  Addresses are those that Nova fixed,
    in its order; invalid ones are left out.  Raises DomainError for anything else that is not as libvirt writes it: a
    domain is reported whole or not at all.
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
    """Return the root element.  A document type, which libvirt does not write, is refused: no entity can be declared or
    expanded."""
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
    """Return the host's device; for vhost-user without one, the last part of the socket's path, as Open vSwitch names
    ports.

    A hostdev has none: its packets do not pass through the host.
    """
    kind = nic.get("type")
    if kind == "hostdev":
        return ""
    name = _attribute(nic, "target", "dev")
    if not name and kind == "vhostuser" and source is not None:
        return clean(basename(source.get("path", "")))
    return name


def _neutron_port(name: str, ports: dict[str, tuple[Address, ...]]) -> str:
    """Return the Nova port whose id begins as the device's name says; empty if none or two do."""
    if not name.startswith(_NEUTRON_PREFIXES):
        return ""
    matching = [port for port in ports if port[:11] == name[3:]]
    return matching[0] if len(matching) == 1 else ""


def _vlan(nic: Element, neutron: bool) -> int:
    """Return the VLAN on the wire: the single access tag, 0 where there is none.

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
    """Return the limit in bit/s, 0 where there is none: the smaller of the two directions, which is reached first.

    The limit of a direction is its `peak` where given, else its `average` (Open vSwitch's max-rate, tc's ceil).
    """
    limits = []
    for direction in nic.findall("bandwidth/inbound") + nic.findall("bandwidth/outbound"):
        text = direction.get("peak") or direction.get("average")
        if text:
            limits.append(_number(text, f"bandwidth {direction.tag}") * _BITS_PER_KILOBYTE)
    return min((limit for limit in limits if limit), default=0)


def _nova_instance(root: Element) -> Element | None:
    """Return what Nova wrote of the instance, whatever the version of its namespace."""
    for element in root.findall("metadata/*"):
        if element.tag.startswith(_NOVA) and element.tag.endswith("}instance"):
            return element
    return None


def _project(nova: Element, space: str) -> str:
    """Return the name of the project, else its id."""
    project = nova.find(f"{space}owner/{space}project")
    if project is None:
        return ""
    return clean(project.text or "") or clean(project.get("uuid", ""))


def _nova_ports(nova: Element, space: str) -> dict[str, tuple[Address, ...]]:
    """Return port id → fixed addresses."""
    ports = {}
    for port in nova.findall(f"{space}ports/{space}port")[:MAX_INTERFACES]:
        texts = [ip.get("address", "") for ip in port.findall(f"{space}ip") if ip.get("type", "fixed") == "fixed"]
        ports[clean(port.get("uuid", ""))] = addresses(texts)
    return ports


def addresses(texts: list[str]) -> tuple[Address, ...]:
    """Return the addresses in `texts`, each once and without its zone; invalid and surplus ones are left out."""
    found = (address_or_none(text.partition("%")[0]) for text in texts[:MAX_IPS])
    return tuple(dict.fromkeys(address for address in found if address is not None))


def _mac(text: str) -> int:
    number = mac_number(text)
    if number is None:
        raise DomainError(f"mac address is {_shown(text)}, expected six octets such as 52:54:00:0a:00:01")
    return number


def _number(text: str, what: str) -> int:
    """Return a decimal number of up to 18 digits."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise DomainError(f"{what} is {_shown(text)}, expected a number")
    return int(text)


def _text(element: Element, path: str) -> str:
    return clean(element.findtext(path, ""))


def _attribute(element: Element, path: str, name: str) -> str:
    """Return attribute `name` of the first element at `path`; empty if either is missing."""
    found = element.find(path)
    return "" if found is None else clean(found.get(name, ""))


def _shown(text: str) -> str:
    """Return `text` in a form fit for a message."""
    return repr(text[:40])


_FIELDS = {
    "in_bytes": "tx.bytes",
    "in_unicast_packets": "tx.pkts",
    "in_discards": "tx.drop",
    "in_errors": "tx.errs",
    "out_bytes": "rx.bytes",
    "out_unicast_packets": "rx.pkts",
    "out_discards": "rx.drop",
    "out_errors": "rx.errs",
}
"""Total of the table -> libvirt's `net.N.` parameter."""
_TOTAL_NAMES = [name for name, *_ in TOTALS]
_TOTAL_ROWS = np.array([_TOTAL_NAMES.index(name) for name in _FIELDS])


class DomainStats(NamedTuple):
    """What libvirt says of one active domain in one bulk call."""

    uuid: bytes
    """16 octets."""
    number: int
    """libvirt's id of this run of the domain: a restarted domain has another."""
    values: Mapping[str, object]
    """Typed parameters by name: `net.count`, `net.0.name`, `net.0.rx.bytes`, …"""


def poll(domains: Iterable[DomainStats], wall_us: int, monotonic_us: int) -> Poll:
    """Return one poll of all interfaces that have a device and at least one counter, known by domain and device.

    libvirt's number N of an interface is no key: it changes when another one is unplugged.

    Directions: libvirt shows the guest's side, the table shows the switch's.  What the guest sends (`tx`) the switch
    receives (`in_`).  libvirt does the same for all kinds of interfaces: it swaps the counters of a tap device and of a
    vhost-user port, and leaves those of a macvtap device as they are, because that device already counts as the guest
    does (virDomainNetTypeSharesHostView).  So no kind needs an exception here.

    libvirt counts all packets in one number.  It goes where Open vSwitch puts all packets: `in_unicast_packets` and
    `out_unicast_packets`.
    """
    epochs: dict[tuple[bytes, str], int] = {}
    values: list[list[int]] = []
    for domain in domains:
        count = domain.values.get("net.count", 0)
        for number in range(min(count, MAX_INTERFACES) if isinstance(count, int) else 0):
            prefix = f"net.{number}."
            key = (domain.uuid, clean(str(domain.values.get(f"{prefix}name", ""))))
            read = [_counter(domain.values.get(prefix + name)) for name in _FIELDS.values()]
            if key[1] and key not in epochs and any(value != ABSENT for value in read):
                epochs[key] = domain.number
                values.append(read)
    totals = np.full((len(TOTALS), len(epochs)), ABSENT, np.uint64)
    if values:
        totals[_TOTAL_ROWS] = np.array(values, np.uint64).T
    return Poll(
        keys=list(epochs),
        names=[device for _, device in epochs],
        if_index=np.zeros(len(epochs), np.uint32),
        epochs=np.fromiter(epochs.values(), np.int64, len(epochs)),
        totals=totals,
        wall_us=wall_us,
        monotonic_us=monotonic_us,
    )


def _counter(value: object) -> int:
    """Return a counter, or ABSENT if there is none."""
    return value if isinstance(value, int) and 0 <= value < ABSENT else ABSENT


ADDRESS_CALLS = 500
"""Calls per read: a thousand domains with one source take two reads."""
ADDRESS_SECONDS = 60.0
"""How long addresses are kept: leases last minutes to hours."""
FAILURES = 3
"""How often in a row a source of addresses may fail before it is skipped until the next connection: on many hosts the
ARP table cannot be read at all."""

_log = get_log("libvirt")


@dataclass(slots=True)
class _Domain:
    """What was read of one run of one domain; times are monotonic seconds."""

    number: int
    interfaces: tuple[Interface, ...]
    read_at: float
    ips: dict[int, tuple[Address, ...]] = field(default_factory=dict)
    """MAC address -> addresses found."""
    ips_at: float = float("-inf")


class Domains:
    """What is known of the active domains of one libvirt daemon, kept between reads.

    One call lists all active domains with their states.  XML and addresses take a call each per domain, which over ssh
    costs a round trip.  So both are kept, and a read asks again only for what is due, oldest first, until its time is
    up:

    - XML: of a domain that is new, was started again or had an event; and of any other after half of a polling
      interval, since libvirt sends no event for a changed interface (update-device, link state).
    - Addresses: once a minute per domain, at most `ADDRESS_CALLS` calls per read.

    A domain whose first XML is still due is left out of the report, and the next read follows at once.
    """

    def __init__(
        self, libvirt: ModuleType, name: str, poll_seconds: float, guest_agent: bool, clock: Callable[[], float]
    ) -> None:
        self._libvirt = libvirt
        self._name = name
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._known: dict[bytes, _Domain] = {}
        self._dirty: set[bytes] = set()
        self._sources = {
            "lease": libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
            "arp": libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
        }
        if guest_agent:
            self._sources["agent"] = libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT
        self._failures = dict.fromkeys(self._sources, 0)

    def connected(self) -> None:
        """Reset for a new connection: nothing is certain to be as it was, and what failed may work now."""
        self._dirty |= self._known.keys()
        self._failures = dict.fromkeys(self._sources, 0)

    def read(
        self, active: Iterable[Any], dirty: set[bytes], host: str, xml_until: float, addresses_until: float
    ) -> bool:
        """Ask for what is due of the domains `active` (virDomain) until the two times.

        `dirty` are the domains that had an event.  Return whether there was time for every domain that changed.  Raises
        libvirtError if the connection has ended.
        """
        domains = {domain.UUID(): domain for domain in active}
        self._known = {uuid: known for uuid, known in self._known.items() if self._is_run(domains.get(uuid), known)}
        self._dirty = (self._dirty | dirty) & domains.keys()
        complete = self._read_xml(domains, host, xml_until)
        self._read_addresses(domains, addresses_until)
        return complete

    def interfaces(self, uuids: Iterable[bytes]) -> tuple[Interface, ...]:
        """Return all interfaces known of these domains, with their addresses."""
        found = []
        for uuid in uuids:
            known = self._known.get(uuid)
            if known is not None:
                found += [_with(interface, known.ips.get(interface.mac, ())) for interface in known.interfaces]
        return tuple(found)

    def _is_run(self, domain: Any, known: _Domain) -> bool:
        """Return whether `domain` is still the known run: a restarted one has new devices."""
        return domain is not None and bool(domain.ID() == known.number)

    def _read_xml(self, domains: dict[bytes, Any], host: str, until: float) -> bool:
        oldest = self._clock() - self._poll_seconds / 2
        changed = [uuid for uuid in domains if uuid not in self._known or uuid in self._dirty]
        others = [uuid for uuid, known in self._known.items() if uuid not in self._dirty and known.read_at <= oldest]
        others.sort(key=lambda uuid: self._known[uuid].read_at)
        for done, uuid in enumerate(changed + others):
            if self._clock() >= until:
                return done >= len(changed)
            self._read_domain(uuid, domains[uuid], host)
        return True

    def _read_domain(self, uuid: bytes, domain: Any, host: str) -> None:
        self._dirty.discard(uuid)
        before = self._known.get(uuid)
        try:
            found = interfaces(domain.XMLDesc(0), host)
        except DomainError as error:
            _log.sampled("domain left out", key=str(UUID(bytes=uuid)), source=self._name, error=str(error))
            found = ()
        except self._libvirt.libvirtError as error:
            self._raise_if_lost(domain, error)
            return  # the domain has ended meanwhile
        self._known[uuid] = known = _Domain(domain.ID(), found, self._clock())
        if before is not None and found == before.interfaces:
            known.ips, known.ips_at = before.ips, before.ips_at

    def _read_addresses(self, domains: dict[bytes, Any], until: float) -> None:
        oldest = self._clock() - ADDRESS_SECONDS
        due = [uuid for uuid, known in self._known.items() if known.interfaces and known.ips_at <= oldest]
        due.sort(key=lambda uuid: self._known[uuid].ips_at)
        calls = 0
        for uuid in due:
            if calls >= ADDRESS_CALLS or self._clock() >= until:
                return
            calls += self._read_domain_addresses(self._known[uuid], domains[uuid])

    def _read_domain_addresses(self, known: _Domain, domain: Any) -> int:
        """Ask all sources that may know addresses of this domain; return the number of calls."""
        ips: dict[int, tuple[Address, ...]] = {}
        calls = 0
        for source in self._sources:
            if not self._may_know(source, known):
                continue
            calls += 1
            try:
                answer = domain.interfaceAddresses(self._sources[source], 0)
            except self._libvirt.libvirtError as error:
                self._raise_if_lost(domain, error)
                self._failed(source, error)
                continue
            self._failures[source] = 0
            for mac, found in _by_mac(answer).items():
                ips[mac] = _joined(ips.get(mac, ()), found)
        known.ips, known.ips_at = ips, self._clock()
        return calls

    def _may_know(self, source: str, known: _Domain) -> bool:
        """Return whether this source may know addresses of the domain: leases exist only on libvirt's own networks."""
        if self._failures[source] >= FAILURES:
            return False
        return source != "lease" or any(interface.network for interface in known.interfaces)

    def _failed(self, source: str, error: Any) -> None:
        """Count a failure.  An agent that does not answer says nothing about the others; a refusal holds for all."""
        denied = error.get_error_code() in (
            self._libvirt.VIR_ERR_OPERATION_DENIED,
            self._libvirt.VIR_ERR_ACCESS_DENIED,
            self._libvirt.VIR_ERR_NO_SUPPORT,
        )
        if denied:
            self._failures[source] = FAILURES
        elif source != "agent":
            self._failures[source] += 1
        if denied and source == "agent":
            _log.sampled("guest agents cannot be asked", key=self._name, error=str(error))

    def _raise_if_lost(self, domain: Any, error: Exception) -> None:
        """Re-raise `error` if it is the connection's, not the domain's."""
        if not domain.connect().isAlive():
            raise error


def _by_mac(answer: dict[str, dict[str, Any]] | None) -> dict[int, tuple[Address, ...]]:
    """Return MAC address → addresses, from what virDomainInterfaceAddresses returns by name of the interface."""
    found: dict[int, tuple[Address, ...]] = {}
    for interface in (answer or {}).values():
        mac = mac_number(interface.get("hwaddr") or "")
        if mac is not None:
            texts = [str(entry.get("addr", "")) for entry in interface.get("addrs") or ()]
            found[mac] = _joined(found.get(mac, ()), addresses(texts))
    return found


def _joined(some: tuple[Address, ...], more: tuple[Address, ...]) -> tuple[Address, ...]:
    """Return both, each address once, up to the limit."""
    return tuple(dict.fromkeys(some + more))[:MAX_IPS]


def _with(interface: Interface, ips: tuple[Address, ...]) -> Interface:
    return replace(interface, ips=_joined(interface.ips, ips)) if ips else interface
