"""The connections of a listening socket: how they are accepted, and which are closed when places run short."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address

from collector.log import get_log

CLOSING = 16
"""Most connections that have given way but are not closed yet: each still has its descriptor."""
LOOPBACK = "loopback"
"""The source of all connections from this machine."""
PREFIX_BITS = 64
"""The part of an IPv6 address that distinguishes sources: the client may choose the rest."""


def source_of(address: str) -> str:
    """Return the source of a connection: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        parsed: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if isinstance(parsed, IPv6Address) and not parsed.is_loopback:
        return str(IPv6Address(int(parsed) >> PREFIX_BITS << PREFIX_BITS)) + f"/{PREFIX_BITS}"
    return str(parsed)


def person_of(address: str) -> str:
    """Do the same as `source_of`, but with all addresses of this machine as one: it has any number of them."""
    name = source_of(address)
    return LOOPBACK if name == "::1" or name.startswith("127.") else name


class State(Enum):
    """What a connection is doing."""

    SILENT = "silent"
    """It waits for its client, which has not had an answer yet."""
    IDLE = "idle"
    """It waits for its client, which has had one."""
    BUSY = "busy"
    """The service works for it, or its user keeps it."""


class Place:
    """One connection's place, `SILENT` at first."""

    __slots__ = ("_close", "_closing", "_places", "source", "state")

    def __init__(self, places: Places, source: str, close: Callable[[], None]) -> None:
        self._places = places
        self._close = close
        self._closing = False
        self.source = source
        self.state: State | None = State.SILENT

    def become(self, state: State) -> None:
        """Set what the connection does now; each change restarts its waiting time."""
        if self.state is not None and state is not self.state:
            self._places.move(self, state)

    def leave(self) -> None:
        """Release the place: the connection is closed.  A second call does nothing."""
        if self.state is not None:
            self._places.remove(self)
        elif self._closing:
            self._closing = False
            self._places.closing -= 1

    def give_up(self) -> None:
        """Close the connection for another one, which gets the place."""
        self._places.remove(self)
        self._closing = True
        self._places.closing += 1
        self._close()


class _Source:
    """The connections of one source; the waiting ones in the order in which they began to wait."""

    __slots__ = ("count", "idle", "silent")

    def __init__(self) -> None:
        self.count = 0
        self.silent: dict[Place, None] = {}
        self.idle: dict[Place, None] = {}

    def waiting(self, state: State | None) -> dict[Place, None] | None:
        return self.silent if state is State.SILENT else self.idle if state is State.IDLE else None


class Places:
    """`total` places, `per_source` for each source.  All calls come from the event loop's thread.

    A connection that waits for its client (for a handshake, a request, the rest of a body, an answer to be read) can be
    closed for another one; one that the service works for cannot.  When all places are taken, the source that has most
    gives up the connection that has waited longest.  So silent connections displace each other, and all others find a
    place.
    """

    def __init__(self, total: int, per_source: int) -> None:
        self.total = total
        self.per_source = min(per_source, total)
        self.taken = 0
        self.displaced = 0
        """Connections that were closed for others; running total."""
        self.closing = 0
        """Those of them that the event loop has not closed yet: they have descriptors, but no places."""
        self._sources: dict[str, _Source] = {}

    def take(self, name: str, close: Callable[[], None]) -> Place | str:
        """Return a place for a connection of the source `name`, or why there is none: `source` or `connections`.

        `close` closes the connection, should another one need the place.
        """
        own = self._sources.get(name)
        if own is not None and own.count >= self.per_source:
            victim = _longest_waiting(name, own, name, own.count)
            refusal = "source"
        elif self.taken >= self.total:
            victim = self._of_greediest(name, 0 if own is None else own.count)
            refusal = "connections"
        else:
            return self._add(Place(self, name, close))
        if victim is None:
            return refusal
        self.displaced += 1
        victim.give_up()
        return self._add(Place(self, name, close))

    def displace(self) -> bool:
        """Close the connection that is next to give way, for something else that needs its descriptor."""
        victim = self._of_greediest("", 0)
        if victim is not None:
            self.displaced += 1
            victim.give_up()
        return victim is not None

    def room(self) -> int:
        """Return how many connections may be accepted before the event loop has closed some."""
        return CLOSING - self.closing

    def move(self, place: Place, state: State) -> None:
        """File a place under its new state; for `Place`."""
        source = self._sources[place.source]
        before, after = source.waiting(place.state), source.waiting(state)
        if before is not None:
            del before[place]
        if after is not None:
            after[place] = None
        place.state = state

    def remove(self, place: Place) -> None:
        """Remove a place; for `Place`."""
        source = self._sources[place.source]
        waiting = source.waiting(place.state)
        if waiting is not None:
            del waiting[place]
        place.state = None
        source.count -= 1
        self.taken -= 1
        if not source.count:
            del self._sources[place.source]

    def _add(self, place: Place) -> Place:
        source = self._sources.setdefault(place.source, _Source())
        source.count += 1
        source.silent[place] = None
        self.taken += 1
        return place

    def _of_greediest(self, newcomer: str, has: int) -> Place | None:
        """Return the longest waiting place of the source that has most; the newcomer's source has this many."""
        found = self._waiting(newcomer, has)
        return max(found, key=lambda one: one[0], default=(0, None))[1]

    def _waiting(self, newcomer: str, has: int) -> Iterator[tuple[int, Place]]:
        for name, source in self._sources.items():
            place = _longest_waiting(name, source, newcomer, has)
            if place is not None:
                yield source.count, place


def _longest_waiting(name: str, source: _Source, newcomer: str, has: int) -> Place | None:
    """Return the source's silent connection that has waited longest, else an idle one that may give way.

    An idle connection gives way to its own source or to one that has fewer; one of this machine, to none from
    elsewhere.
    """
    for place in source.silent:
        return place
    if name == newcomer or (source.count > has and name != LOOPBACK):
        for place in source.idle:
            return place
    return None


BACKLOG = 1024
"""Connections that the system may hold until they are accepted; it may hold fewer (net.core.somaxconn)."""
PAUSE_SECONDS = 0.1
"""Pause after a connection that could not be accepted."""
SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors that mean that the process has no descriptor left, or the system no memory for one."""

Accepted = Callable[[socket.socket, str, int], None]
"""Takes over a connection: its socket, its client's address and port."""

_log = get_log("connections")


class Acceptor:
    """The acceptor of the connections of `listening`, which passes them to `accepted`; create it on the event loop's
    thread.

    The loops of asyncio and uvloop differ when there are no descriptors: one waits a second, the other closes what it
    cannot accept.  Here one of `places` is given up, and accepting is retried after a pause.
    """

    def __init__(self, listening: socket.socket, accepted: Accepted, places: Places) -> None:
        self._listening = listening
        self._accepted = accepted
        self._places = places
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._open()

    def close(self) -> None:
        """Accept no more, and close the socket."""
        if self._pause is not None:
            self._pause.cancel()
        elif self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)
        self._pause = None
        self._listening.close()

    def _open(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(self._places.room()):
            try:
                connection, peer = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # The connection stays in the system's queue, so the socket would be readable again and again.
                _log.sampled("connection not accepted", key=self._listening.getsockname()[:2], error=error)
                self._loop.remove_reader(self._listening)
                self._pause = self._loop.call_later(PAUSE_SECONDS, self._open)
                if error.errno in SHORT:
                    self._places.displace()
                return
            connection.setblocking(False)
            self._accepted(connection, str(peer[0]).partition("%")[0], int(peer[1]))
