"""One interface merged from what several sources say of it: which is believed, and where they differ.

Statements about one MAC address are first separated by VM (two networks may use the same MAC), then by hypervisor (a VM
that migrates is on two).  The best source that names any hypervisors decides which these are: others add what they know
of the port there, but no place of their own.  Every other field comes from the best source that has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple
from uuid import UUID

from collector.inventory.sources.base import MAX_IPS, NO_UUID, Interface, PortKind
from schemas.inventory import Rank

MAX_CONFLICT = 400
"""Characters of the text that describes how sources differ."""

VM_FIELDS = ("vm", "vm_uuid", "project", "network", "vni", "vlan", "speed", "port_id")
PORT_FIELDS = ("port_name", "if_index", "of_port", "bridge", "kind")
KEY = ("mac", "vm_uuid", "host", "port_name", "vm", "network", "vni", "vlan")
"""Fields that the sorting key of table `inventory` has besides the time."""
DISPUTED = ("vm", "vm_uuid", "project", "network", "vni", "vlan")
"""Fields where a difference between sources is reported."""

_ID = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)
"""A UUID, with or without hyphens: a name that means nothing to people."""


class Statement(NamedTuple):
    """What one source says of one interface."""

    rank: Rank
    interface: Interface
    source: Hashable = None
    """Which of the sources of this rank."""


@dataclass(frozen=True, slots=True)
class Placement:
    """An interface on one hypervisor, merged from all sources."""

    interface: Interface
    ranks: tuple[Rank, ...]
    """Kinds of sources that know it, best first."""
    sources: frozenset[Hashable] = frozenset()
    """The sources that know it in this place; a statement about the VM alone, or about another place, confirms no
    place."""
    conflict: str = ""
    """Where sources differ, for people; empty where they agree."""

    def same_thing(self, other: Placement) -> bool:
        """Return whether both are the same interface of the same VM in the same place: the key of table `inventory`."""
        a, b = self.interface, other.interface
        return all(getattr(a, name) == getattr(b, name) for name in KEY)

    def refines(self, before: Placement) -> bool:
        """Return whether this has all that `before` had, and perhaps more: nothing has changed, something was
        learnt."""
        a, b = before.interface, self.interface
        known = all(
            _keeps(name, getattr(a, name), getattr(b, name)) for name in ("host", "mac", *VM_FIELDS, *PORT_FIELDS)
        )
        return known and set(a.ips) <= set(b.ips)


def merge_interface(
    statements: Iterable[Statement], ports: Callable[[str, str], Sequence[Statement]]
) -> list[Placement]:
    """Return the placements of all VMs that use one MAC address.

    `ports(host, port_name)` returns what sources say of a port without naming a MAC address.
    """
    ordered = sorted(statements, key=_in_order)
    if len(ordered) == 1 and not ports(ordered[0].interface.host, ordered[0].interface.port_name):
        return [_as_stated(ordered[0])]
    return [_placement(place, every, ports) for every in _by_vm(ordered) for place in _by_place(every)]


def _in_order(statement: Statement) -> tuple[Rank, int, str, str, str]:
    """Return the best source first, in a fixed order among equals: what holds must not depend on which answered
    first."""
    interface = statement.interface
    return statement.rank, interface.vm_uuid.int, interface.host, interface.port_name, str(statement.source)


def _as_stated(statement: Statement) -> Placement:
    """Return what one source alone says."""
    stated = statement.interface
    interface = stated
    if not stated.kind or not stated.vm or len(stated.ips) > MAX_IPS:
        interface = replace(
            stated,
            kind=stated.kind or PortKind.VM,
            vm=stated.vm or _name_of(stated.vm_uuid),
            ips=stated.ips[:MAX_IPS],
        )
    return Placement(interface, (statement.rank,), frozenset([statement.source]))


def merge_port(statements: Iterable[Statement]) -> Placement:
    """Return one switch port that no source connects with a MAC address."""
    ordered = sorted(statements, key=lambda statement: statement.rank)
    return _placement(ordered, ordered, lambda _host, _name: ())


def _by_vm(ordered: list[Statement]) -> Iterator[list[Statement]]:
    """Group statements by the VM that they concern; each group keeps the order."""
    groups: list[list[Statement]] = []
    # Those with a UUID first: they are the groups that the others may join.
    for statement in sorted(ordered, key=lambda statement: statement.interface.vm_uuid == NO_UUID):
        fits = [_fit(group, statement.interface) for group in groups]
        best = max(fits, default=_ANOTHER)
        if best == _ANOTHER:
            groups.append([statement])
        else:
            groups[fits.index(best)].append(statement)
    for group in groups:
        yield sorted(group, key=lambda statement: statement.rank)


_ANOTHER, _POSSIBLE, _HOST, _NAME, _PORT, _UUID = range(6)
"""What links a statement with those of a VM, best last; `_ANOTHER`: it concerns another VM."""


def _fit(group: list[Statement], new: Interface) -> int:
    members = [statement.interface for statement in group]
    uuids = {member.vm_uuid for member in members} - {NO_UUID}
    if new.vm_uuid != NO_UUID and new.vm_uuid in uuids:
        return _UUID
    # A port carries one VM: where two are named on it, one source is wrong.
    if any(_same_port(member, new) for member in members):
        return _PORT
    if new.vm_uuid != NO_UUID and uuids:
        return _ANOTHER
    named = {member.vm for member in members} - {""}
    if new.vm and named and named != {new.vm} and new.vm_uuid == NO_UUID and not uuids:
        return _ANOTHER
    if any(_segments_differ(member, new) for member in members):
        return _ANOTHER
    if new.vm and new.vm in named:
        return _NAME
    return _HOST if new.host and any(member.host == new.host for member in members) else _POSSIBLE


def _same_port(a: Interface, b: Interface) -> bool:
    """Return whether two statements about one MAC address certainly concern the same interface."""
    if a.port_id and a.port_id == b.port_id:
        return True
    return bool(a.host and a.port_name) and (a.host, a.port_name) == (b.host, b.port_name)


def _segments_differ(a: Interface, b: Interface) -> bool:
    """Return whether two statements certainly concern different networks."""
    return any(
        getattr(a, name) and getattr(b, name) and getattr(a, name) != getattr(b, name) for name in ("vni", "vlan")
    ) or bool((a.vni and b.vlan and not b.vni) or (b.vni and a.vlan and not a.vni))


def _by_place(group: list[Statement]) -> list[list[Statement]]:
    """Group statements by hypervisor and port; those without a hypervisor stand alone only if no other has one."""
    places: list[list[Statement]] = []
    best: Rank | None = None
    for statement in group:
        if not statement.interface.host:
            continue
        place = next((place for place in places if _same_place(place, statement.interface)), None)
        if place is not None:
            place.append(statement)
        elif best is None or statement.rank == best:
            best = statement.rank
            places.append([statement])
    return places or [group]


def _same_place(place: list[Statement], new: Interface) -> bool:
    return all(member.interface.host == new.host and _same_name(member.interface, new) for member in place)


def _same_name(a: Interface, b: Interface) -> bool:
    """Return whether two ports of one hypervisor may be the same: by the logical port where both state it, else by
    name.

    With OpenStack's hybrid plug, the tap of libvirt and the port of Open vSwitch have one id and two names.
    """
    if a.port_id and b.port_id:
        return a.port_id == b.port_id
    return not a.port_name or not b.port_name or a.port_name == b.port_name


def _port_order(place: list[Statement]) -> Callable[[Statement], tuple[bool, Rank]]:
    """Return the order in which sources are believed about a port: best first, but where it has two names, Open vSwitch
    first.

    Exporters name the ports of the switch.
    """
    two_names = len({s.interface.port_name for s in place} - {""}) > 1
    return lambda statement: (two_names and statement.rank is not Rank.OVSDB, statement.rank)


def _placement(
    place: list[Statement], every: list[Statement], ports: Callable[[str, str], Sequence[Statement]]
) -> Placement:
    """Merge statements: `place` is about this port, `every` about this VM's interface wherever it is."""
    host = place[0].interface.host
    order = _port_order(place)
    name = next((s.interface.port_name for s in sorted(place, key=order) if s.interface.port_name), "")
    of_port = sorted([*place, *(ports(host, name) if host and name else ())], key=order)
    elsewhere = [s for s in every if s.interface.host and s.interface.host != host]
    values: dict[str, Any] = {"host": host, "mac": place[0].interface.mac}
    # Statements about this place first: the same MAC elsewhere may be a stale leftover.
    of_vm = [*(s for s in every if s not in elsewhere), *elsewhere]
    for field in VM_FIELDS:
        values[field] = _first(field, of_vm)
    for field in PORT_FIELDS:
        values[field] = _first(field, of_port)
    if values["mac"] and not values["kind"]:
        values["kind"] = PortKind.VM
    values["vm"] = values["vm"] or _name_of(values["vm_uuid"])
    ips = dict.fromkeys(address for statement in every for address in statement.interface.ips)
    values["ips"] = tuple(list(ips)[:MAX_IPS])
    heard = (*of_vm, *of_port)
    ranks = tuple(sorted({statement.rank for statement in heard}))
    return Placement(Interface(**values), ranks, frozenset(s.source for s in of_port), _conflict(host, every))


def _name_of(uuid: UUID) -> str:
    """Use the UUID as the name of a VM that no source names, so that pairs of VMs can be distinguished."""
    return str(uuid) if uuid.int else ""


_EMPTY = {field.name: field.default for field in fields(Interface)}


def _first(field: str, ordered: Sequence[Statement]) -> Any:
    """Return the value of the best source that has one; a bare id gives way to a name that people can read."""
    empty = found = _EMPTY[field]
    for statement in ordered:
        value = getattr(statement.interface, field)
        if value == empty:
            continue
        if not _unreadable(field, value):
            return value
        if found == empty:
            found = value
    return found


def _keeps(field: str, before: Any, after: Any) -> bool:
    """Return whether a value has stayed the same or has been learnt: a bare id may have got its name."""
    if before in (_EMPTY[field], after):
        return True
    return bool(after) and _unreadable(field, before) and not _unreadable(field, after)


def _unreadable(field: str, value: Any) -> bool:
    return field in ("vm", "project", "network") and _ID.fullmatch(value) is not None


def _conflict(host: str, every: list[Statement]) -> str:
    """Return what sources state differently, and which is believed."""
    differences: list[str] = []
    for field in DISPUTED:
        said: dict[Any, str] = {}
        for rank, interface, _ in every:
            value = getattr(interface, field)
            if value != _EMPTY[field] and not _unreadable(field, value):
                said.setdefault(value, rank.column_name)
        if len(said) > 1:
            differences.append(f"{field}: " + ", ".join(f"{who} says {value}" for value, who in said.items()))
    best = next((s.rank for s in every if s.interface.host == host), None)
    # A source that names two hypervisors sees a migration, not a conflict.
    migrating = {s.interface.host for s in every if s.rank == best} | {""}
    other = {s.interface.host: s.rank.column_name for s in every if s.interface.host not in migrating}
    if best is not None and other:
        others = ", ".join(f"{who} says {name}" for name, who in other.items())
        differences.append(f"host: {best.column_name} says {host}, {others}")
    return "; ".join(differences)[:MAX_CONFLICT]


def with_host(interface: Interface, host: str) -> Interface:
    """Return the same statement under the hypervisor's name as used here."""
    return interface if interface.host == host else replace(interface, host=host)
