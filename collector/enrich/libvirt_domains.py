"""What is known of the active domains of one hypervisor, kept between reads.

One call lists all active domains with their states.  Their XML and their addresses take a call each, which over ssh
costs a round trip.  So both are kept, and a read asks anew only for what is due, oldest first, until its time is up:

- XML: of a domain that is new, was started again or had an event; and of any other after half of a polling interval,
  since libvirt tells nothing of a changed interface (update-device, link state).
- Addresses: once a minute and domain, at most `ADDRESS_CALLS` calls a read.

A domain whose first XML is still due is left out of the report, and the next read follows at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any
from uuid import UUID

from collector.enrich.libvirt_domain import MAX_ADDRESSES, DomainError, addresses, interfaces, mac_number
from collector.enrich.source import Address, Interface
from collector.log import get_log

ADDRESS_CALLS = 500
"""A thousand domains with one source take two reads."""
ADDRESS_SECONDS = 60.0
"""Leases last minutes to hours."""
FAILURES = 3
"""So often in a row a source of addresses may fail before it is left alone until the next connection: on many hosts
the ARP table cannot be read at all."""

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
    """The domains of one libvirt daemon."""

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
        """A new connection: nothing is certain to be as it was, and what failed may work now."""
        self._dirty |= self._known.keys()
        self._failures = dict.fromkeys(self._sources, 0)

    def read(
        self, active: Iterable[Any], dirty: set[bytes], host: str, xml_until: float, addresses_until: float
    ) -> bool:
        """Ask for what is due of the domains `active` (virDomain), while the clock is before the two times.

        `dirty` are the domains that had an event.  Returns whether there was time for every domain that changed.
        Raises libvirtError if the connection has ended.
        """
        domains = {domain.UUID(): domain for domain in active}
        self._known = {uuid: known for uuid, known in self._known.items() if self._is_run(domains.get(uuid), known)}
        self._dirty = (self._dirty | dirty) & domains.keys()
        complete = self._read_xml(domains, host, xml_until)
        self._read_addresses(domains, addresses_until)
        return complete

    def interfaces(self, uuids: Iterable[bytes]) -> tuple[Interface, ...]:
        """All interfaces known of these domains, with their addresses."""
        found = []
        for uuid in uuids:
            known = self._known.get(uuid)
            if known is not None:
                found += [_with(interface, known.ips.get(interface.mac, ())) for interface in known.interfaces]
        return tuple(found)

    def _is_run(self, domain: Any, known: _Domain) -> bool:
        """True if `domain` is still the run that is known: one started again has new devices."""
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
        """Ask all sources that may know addresses of this domain; returns the number of calls."""
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
        """Leases exist only on libvirt's own networks."""
        if self._failures[source] >= FAILURES:
            return False
        return source != "lease" or any(interface.network for interface in known.interfaces)

    def _failed(self, source: str, error: Any) -> None:
        """Count a failure.  An agent that does not answer says nothing of the others; a refusal holds for all."""
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
        """Raise `error` again if it is the connection's, not the domain's."""
        if not domain.connect().isAlive():
            raise error


def _by_mac(answer: dict[str, dict[str, Any]] | None) -> dict[int, tuple[Address, ...]]:
    """MAC address -> addresses, from what virDomainInterfaceAddresses returns by name of the interface."""
    found: dict[int, tuple[Address, ...]] = {}
    for interface in (answer or {}).values():
        mac = mac_number(interface.get("hwaddr") or "")
        if mac is not None:
            texts = [str(entry.get("addr", "")) for entry in interface.get("addrs") or ()]
            found[mac] = _joined(found.get(mac, ()), addresses(texts))
    return found


def _joined(some: tuple[Address, ...], more: tuple[Address, ...]) -> tuple[Address, ...]:
    """Both, each address once, up to the limit."""
    return tuple(dict.fromkeys(some + more))[:MAX_ADDRESSES]


def _with(interface: Interface, ips: tuple[Address, ...]) -> Interface:
    return replace(interface, ips=_joined(interface.ips, ips)) if ips else interface
