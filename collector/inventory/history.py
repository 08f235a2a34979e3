"""Which mapping held when, made from the statements of all sources: intervals in columns.

`apply` takes a source's whole present state, finds what is new in it, merges the interfaces concerned again
(`merge.py`), and opens and closes intervals.  It costs Python per change, not per interface; the snapshot takes the
`columns` without touching single rows.

When a mapping begins: what a source states in its first answer is taken to have held before; what appears later, since
the source was last read; what replaces another mapping, since the change was seen (by an event, else by the poll).
Flows around a change are distinguished by where they were seen (`join.py`), not by these times alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import NamedTuple

from collector.inventory.intervals import Columns
from collector.inventory.merge import Placement, Statement, merge_interface, merge_port, with_host
from collector.inventory.sources.base import Address, Host, Interface
from schemas.inventory import Rank

FOREVER = (1 << 63) - 1
"""End of an interval that still holds."""


@dataclass(slots=True, eq=False)
class Interval:
    """A placement and the time for which it holds, µs since 1970."""

    placement: Placement
    valid_from: int
    """For joins: 0 where it held before the first look."""
    known_from: int
    """For people: when it was first seen."""
    valid_to: int = FOREVER
    row: int = -1
    """Its row in the columns; −1 where there was no room."""
    shown_to: int = 0
    """Newest time for which it was shown to hold: table `inventory` keeps the row with the latest."""


class LastReport(NamedTuple):
    """The last answer of a source."""

    rank: Rank
    interfaces: frozenset[Interface]
    hosts: tuple[Host, ...]
    at_us: int
    answer: tuple[object, object] = (None, None)
    """Interfaces and hosts as received: a source that knows nothing new may give the same objects again."""


class History:
    """All intervals that still matter.  Not thread-safe."""

    def __init__(self, capacity: int, history_us: int, short_names: bool) -> None:
        """At most `capacity` intervals; ended ones are kept for `history_us` if what holds now leaves them room."""
        self._capacity = capacity
        self._history_us = history_us
        self._short = short_names
        self._last: dict[Hashable, LastReport] = {}
        self._macs: defaultdict[int, dict[tuple[Hashable, Interface], Statement]] = defaultdict(dict)
        self._ports: defaultdict[tuple[str, str], dict[tuple[Hashable, Interface], Statement]] = defaultdict(dict)
        self._users: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        """MAC addresses that have a placement on a port."""
        self._open: dict[Hashable, list[Interval]] = {}
        self._ended: list[tuple[int, int]] = []
        """End and row of those that have ended: a heap, so that each is looked at twice in its life."""
        self._waiting: dict[int, Interval] = {}
        """Those that hold but found no room, by identity, longest first."""
        self.columns = Columns()
        self.left_out = 0
        """Intervals that found no room or were dropped for what holds now."""
        self.changed = False
        """Whether anything has changed since a snapshot was last taken; the code that takes one resets it."""
        self.to_write: list[Interval] = []
        """Intervals begun, refined or ended since the caller last emptied this."""

    def apply(
        self,
        source: Hashable,
        rank: Rank,
        interfaces: Iterable[Interface],
        hosts: Iterable[Host],
        at_us: int,
        changed_us: int = 0,
    ) -> None:
        """Take in a source's whole present state, read at `at_us`; its newest change was at `changed_us` if not 0."""
        before = self._last.get(source, LastReport(rank, frozenset(), (), 0))
        if before.answer[0] is interfaces and before.answer[1] == hosts:
            self._last[source] = before._replace(at_us=at_us)
            self._forget(at_us)
            return
        now = frozenset(with_host(interface, self.host_name(interface.host)) for interface in interfaces)
        named = tuple(Host(name=self.host_name(host.name), addresses=host.addresses) for host in hosts)
        self._last[source] = LastReport(rank, now, named, at_us, (interfaces, hosts))
        if named != before.hosts:
            self.changed = True
        touched = self._store(source, rank, now - before.interfaces, before.interfaces - now)
        since = before.at_us
        # At `since` the source still stated otherwise, whatever its clock says.
        boundary = max(since, min(changed_us, at_us)) if changed_us else at_us
        # MAC addresses first: a port that carries one needs no interval of its own.
        for key in sorted(touched, key=lambda key: not isinstance(key, int)):
            self._remerge(key, since, boundary)
        self._forget(at_us)

    def host_name(self, name: str) -> str:
        """Return the name of a hypervisor as used here; an address stays whole."""
        name = name.strip().lower()
        if not self._short or ":" in name or name.replace(".", "").isdigit():
            return name
        return name.split(".")[0]

    def addresses(self, better_than: Rank | None = None) -> dict[Address, str]:
        """Return the hypervisors by address, each from the best source that knows it; none where two equally good ones
        differ.

        With `better_than`, only from sources of a better rank.
        """
        found: dict[Address, tuple[Rank, str]] = {}
        for last in sorted(self._last.values(), key=lambda last: last.rank):
            if better_than is not None and last.rank >= better_than:
                break
            for host in last.hosts:
                for address in host.addresses:
                    rank, name = found.setdefault(address, (last.rank, host.name))
                    if name != host.name and rank == last.rank:
                        found[address] = (rank, "")
        return {address: name for address, (_, name) in found.items() if name}

    def heard_us(self, interval: Interval) -> int:
        """Return when a source last confirmed an interval, or when it ended; never earlier than returned before.

        A slow source may end what a quick one has confirmed since the slow one was asked.
        """
        last = interval.valid_to
        if last == FOREVER:
            sources = interval.placement.sources
            last = max((self._last[source].at_us for source in sources if source in self._last), default=0)
        interval.shown_to = max(last, interval.known_from, interval.shown_to)
        return interval.shown_to

    def intervals(self) -> Iterator[Interval]:
        """Yield all intervals that hold now."""
        for intervals in self._open.values():
            yield from intervals

    def _store(
        self, source: Hashable, rank: Rank, added: frozenset[Interface], removed: frozenset[Interface]
    ) -> set[Hashable]:
        """Store statements by MAC or port; return the keys of what must be merged again."""
        touched: set[Hashable] = set()
        for interfaces, new in ((removed, False), (added, True)):
            for interface in interfaces:
                port = (interface.host, interface.port_name)
                table = self._macs if interface.mac else self._ports
                key: Hashable = interface.mac or port
                said = table[key]  # type: ignore[index] # the key's kind goes with the table's
                if new:
                    said[source, interface] = Statement(rank, interface, source)
                else:
                    said.pop((source, interface), None)
                touched.add(key)
                if not interface.mac:
                    touched |= self._users.get(port, set())
        return touched

    def _remerge(self, key: Hashable, since: int, boundary: int) -> None:
        if isinstance(key, int):
            said = self._macs[key]
            placements = merge_interface(said.values(), self._port_statements)
            if not said:
                del self._macs[key]
        else:
            port: tuple[str, str] = key  # type: ignore[assignment] # a key is a MAC or a port
            said = self._ports[port]
            # A port that carries a VM's MAC stands in the columns with that MAC.
            placements = [merge_port(said.values())] if said and not self._users.get(port) else []
            if not said:
                del self._ports[port]
        self._replace(key, placements, since, boundary)

    def _port_statements(self, host: str, name: str) -> Sequence[Statement]:
        return tuple(self._ports[host, name].values()) if (host, name) in self._ports else ()

    def _replace(self, key: Hashable, placements: list[Placement], since: int, boundary: int) -> None:
        """Close what no longer holds, open what is new, and keep open what only became better known."""
        intervals = self._open.get(key, [])
        # Taken now: an interval that is refined below may get its port by that.
        ports_before = {_port_of(interval) for interval in intervals}
        kept: list[Interval] = []
        new: list[Placement] = []
        for placement in placements:
            same = next(
                (
                    i
                    for i in intervals
                    if i not in kept and placement.same_thing(i.placement) and placement.refines(i.placement)
                ),
                None,
            ) or next((i for i in intervals if i not in kept and placement.refines(i.placement)), None)
            if same is None:
                new.append(placement)
            else:
                kept.append(same)
                self._refine(same, placement, boundary)
        ended = [interval for interval in intervals if interval not in kept]
        for interval in ended:
            self._close(interval, boundary)
        opened = [self._begin(p, boundary if any(_succeeds(p, old) for old in ended) else since, boundary) for p in new]
        if isinstance(key, int):
            self._track_ports(key, ports_before, [*kept, *opened], since, boundary)
        if kept or opened:
            self._open[key] = [*kept, *opened]
        else:
            self._open.pop(key, None)

    def _track_ports(
        self, mac: int, was: set[tuple[str, str]], after: list[Interval], since: int, boundary: int
    ) -> None:
        """Keep account of which MAC is on which port; a port that gets or loses its MAC is merged again."""
        now = {_port_of(interval) for interval in after}
        for port in was - now:
            self._users[port].discard(mac)
            if not self._users[port]:
                del self._users[port]
        for port in now - was:
            if port[1]:
                self._users[port].add(mac)
        for port in was ^ now:
            if port in self._ports:
                self._remerge(port, since, boundary)

    def _begin(self, placement: Placement, valid_from: int, now: int) -> Interval:
        interval = Interval(placement, valid_from, now)
        if self._room():
            self._let_in(interval)
        else:
            self.left_out += 1
            self._waiting[id(interval)] = interval
        return interval

    def _room(self) -> bool:
        """Return whether there is room for one more, if need be by dropping the interval that ended first."""
        if len(self.columns) < self._capacity:
            return True
        if not self._ended:
            return False
        self.columns.remove(heappop(self._ended)[1])
        self.left_out += 1
        return True

    def _let_in(self, interval: Interval) -> None:
        interval.row = self.columns.add(interval.placement, interval.valid_from, FOREVER)
        self.changed = True
        self.to_write.append(interval)

    def _refine(self, interval: Interval, placement: Placement, now: int) -> None:
        if placement == interval.placement:
            return
        if interval.row < 0:
            interval.placement = placement
            return
        if not placement.same_thing(interval.placement):
            # For people, the less complete mapping ends here: its row has another key.
            self.to_write.append(replace(interval, valid_to=max(now, interval.known_from), row=-1))
            interval.known_from = interval.shown_to = now
        interval.placement = placement
        self.columns.set(interval.row, placement, interval.valid_from, interval.valid_to)
        self.changed = True
        self.to_write.append(interval)

    def _close(self, interval: Interval, now: int) -> None:
        interval.valid_to = max(now, interval.valid_from + 1)
        if interval.row < 0:
            del self._waiting[id(interval)]
            return
        self.columns.end(interval.row, interval.valid_to)
        heappush(self._ended, (interval.valid_to, interval.row))
        self.to_write.append(interval)
        self.changed = True

    def _forget(self, now: int) -> None:
        """Drop ended intervals that no arriving flow can need any more."""
        limit = now - self._history_us
        while self._ended and self._ended[0][0] <= limit:
            self.columns.remove(heappop(self._ended)[1])
            self.changed = True
        while self._waiting and self._room():
            self._let_in(self._waiting.pop(next(iter(self._waiting))))


def _port_of(interval: Interval) -> tuple[str, str]:
    return interval.placement.interface.host, interval.placement.interface.port_name


def _succeeds(new: Placement, old: Interval) -> bool:
    """Return whether `new` replaces an interval that ended: the same interface changed or moved."""
    a, b = new.interface, old.placement.interface
    return a.vm_uuid == b.vm_uuid or (a.host, a.port_name) == (b.host, b.port_name)
