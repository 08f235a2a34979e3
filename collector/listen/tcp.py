"""IPFIX over TCP and TLS (RFC 7011 section 10.4): connections in, batches of messages out.

Strategy.  Each connection is a stream of messages, each with its length in octets 2 and 3 of its header.  A read is
split into whole messages, which are passed on as one batch, as if each were a datagram; the rest waits for the next
read.  Nothing is dropped: while the next stage has no room, the connection is not read, and TCP slows the exporter
down.  An invalid message ends its connection, since the start of the next one is then unknown.

A connection that has sent a message keeps its place; one that has not gives way to others (`collector/connections.py`).

A connection is a transport session of its own (sections 8.1 and 10.4): each has a number, by which the decoders
identify its messages, and an empty message marks its end, so that its templates end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import count
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter, Gauge

from collector.connections import BACKLOG, Acceptor, Place, Places, State, source_of
from collector.interfaces import Clock, Offer
from collector.listen.settings import ListenError, ListenSettings, StreamEndpoint
from collector.log import get_log
from collector.metrics import Metrics
from collector.tls import replace_certificate, server_context
from decoders.datagrams import Datagrams, address_halves

HEADER_BYTES = 16
VERSION = 10
_HEAD = struct.Struct("!HH")

BATCH_BYTES = 128 * 1024
BATCH_MESSAGES = 2048
MESSAGE_COST_BYTES = 64
"""What a message takes in a batch besides its octets.  A batch is thus 320 KiB at most, less than half of any inbox."""
ROOM_PAUSE_SECONDS = 0.01
"""How long a connection waits before it checks again for room."""
LOOK_SECONDS = 5.0
"""How often silent connections are looked for."""
HANDSHAKE_SECONDS = 10.0

Allowed = Callable[[str], bool]
"""Whether an address may export."""
Room = Callable[[int], bool]
"""Whether the next stage has room for this many octets."""

_log = get_log("listen")


class BrokenMessageError(Exception):
    """The data is not an IPFIX message; the text is the reason's name in the metric."""


def whole_messages(octets: bytes | bytearray) -> list[int]:
    """Return the offsets at which the whole messages at the start of `octets` end, in order, up to the size of a batch.

    Raises BrokenMessageError if the first one is of another version, or shorter than its own header.
    """
    ends: list[int] = []
    at = 0
    while len(octets) - at >= _HEAD.size and at < BATCH_BYTES and len(ends) < BATCH_MESSAGES:
        version, length = _HEAD.unpack_from(octets, at)
        broken = "version" if version != VERSION else "length" if length < HEADER_BYTES else ""
        if broken and not ends:
            raise BrokenMessageError(broken)
        if broken or at + length > len(octets):
            break
        at += length
        ends.append(at)
    return ends


class StreamListener:
    """The listener that accepts connections at the stream addresses of `settings` and passes their messages to `offer`.

    `room` is called before, so that `offer` does not refuse.  `clock_us` returns µs since 1970 UTC.
    """

    def __init__(
        self,
        settings: ListenSettings,
        metrics: Metrics,
        offer: Offer,
        *,
        room: Room,
        allowed: Allowed,
        clock_us: Clock,
        connections: int | None = None,
    ) -> None:
        """`connections`: most at a time, if there are not enough descriptors for those that the settings allow."""
        self.settings = settings
        self.offer = offer
        self.room = room
        self.clock_us = clock_us
        self.families = _Families(metrics)
        self.connections: set[_Connection] = set()
        self._allowed = allowed
        total = settings.stream_connections
        self._places = Places(
            total if connections is None else min(total, connections), settings.stream_connections_per_source
        )
        self._numbers = count(1)
        self._acceptors: list[Acceptor] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._tls: ssl.SSLContext | None = None
        self.addresses: list[StreamEndpoint] = []
        """Where the sockets are bound, in the order of the settings; ports that were 0 are the real ones."""

    async def __aenter__(self) -> Self:
        """Listen.  Raises ListenError or AccessError, with no socket left open."""
        self._tls = self._context()
        try:
            for endpoint in self.settings.stream_endpoints():
                sock = _listen(endpoint)
                bound = StreamEndpoint(endpoint.scheme, *sock.getsockname()[:2])
                self.addresses.append(bound)
                accepted = partial(self._accepted, bound, self._tls if endpoint.scheme == "tls" else None)
                self._acceptors.append(Acceptor(sock, accepted, self._places))
            if self._acceptors:
                self._start(self._look())
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stop()

    def _context(self) -> ssl.SSLContext | None:
        settings = self.settings
        if settings.certificate_file is None or settings.key_file is None:
            return None
        context = server_context("listen", settings.certificate_file, settings.key_file, settings.client_ca_file)
        # Exporters never read.  If a session ticket is unread when they close, their kernel resets the connection, and
        # data in transit is lost.
        context.num_tickets = 0
        return context

    def read_again(self) -> Callable[[], None]:
        """Reload certificate, key and authorities.  Blocks.  Raises AccessError; then the old ones stay.

        Returns a function for the event loop's thread that applies them to new connections.
        """
        served = self._tls
        fresh = self._context() if served is not None else None
        if served is None or fresh is None:
            return lambda: None
        return lambda: replace_certificate([served], fresh)

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors = []
        for connection in list(self.connections):
            connection.end("stop")
        await asyncio.sleep(0)

    def _accepted(
        self, endpoint: StreamEndpoint, context: ssl.SSLContext | None, accepted: socket.socket, host: str, port: int
    ) -> None:
        """Give a connection a place, or refuse it."""
        connection = _Connection(self, (host, port), endpoint, next(self._numbers))
        place = self._places.take(source_of(host), connection.give_way) if self._allowed(host) else "not_allowed"
        if isinstance(place, Place):
            connection.place = place
            connection.opening = self._start(self._serve(accepted, connection, endpoint, context))
            # Not in the task: one that gives way before it began never reaches its end.
            connection.opening.add_done_callback(lambda _: _drop(accepted, connection.place))
            return
        self.families.refused.labels(str(endpoint), place).inc()
        _log.sampled("connection refused", key=endpoint, source=host, reason=place)
        accepted.close()

    async def _serve(
        self,
        accepted: socket.socket,
        connection: _Connection,
        endpoint: StreamEndpoint,
        context: ssl.SSLContext | None,
    ) -> None:
        """Handle a connection from its handshake to its end."""
        try:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            seconds = HANDSHAKE_SECONDS if context is not None else None
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, accepted, ssl=context, ssl_handshake_timeout=seconds
            )
            await connection.lost.wait()
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            self.families.closed.labels(str(endpoint), "handshake").inc()
            _log.sampled("connection failed", key=endpoint, source=connection.peer[0], error=error)

    async def _look(self) -> None:
        """Close connections that have been silent for too long."""
        while True:
            await asyncio.sleep(min(LOOK_SECONDS, self.settings.stream_message_seconds))
            now = asyncio.get_running_loop().time()
            for connection in list(self.connections):
                connection.look(now)


class _Families:
    """The metric families; the label values are bounded by the settings and by the reasons named here."""

    def __init__(self, metrics: Metrics) -> None:
        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return metrics.counter(f"listen_stream_{name}_total", documentation, ("address", *labels))

        self.messages = counter("messages", "IPFIX messages read from connections.")
        self.octets = counter("bytes", "Octets of these messages.")
        self.waits = counter("waits", "Times a connection was not read because the next stage had no room.")
        self.closed = counter("closed", "Connections that ended, by reason.", "reason")
        self.refused = counter("refused", "Connections that were not taken, by reason.", "reason")
        self.connections: Gauge = metrics.gauge("listen_stream_connections", "Connections now.", ("address",))


class _Connection(asyncio.Protocol):
    """One connection, which splits its data into messages."""

    place: Place
    """Set before the connection is made."""
    opening: asyncio.Task[None] | None = None
    """The task that handles it."""

    def __init__(self, owner: StreamListener, peer: tuple[str, int], endpoint: StreamEndpoint, number: int) -> None:
        label = str(endpoint)
        families = owner.families
        self.lost = asyncio.Event()
        self._owner = owner
        self.peer = peer
        self._halves = address_halves(peer[0])
        self._number = number
        self._known = False
        """Whether the next stage has taken any of this connection's messages."""
        self._buffer = bytearray()
        """Octets not passed on yet: the begin of a message, or more if there was no room."""
        self._label = label
        self._messages = families.messages.labels(label)
        self._bytes = families.octets.labels(label)
        self._waits = families.waits.labels(label)
        self._gauge = families.connections.labels(label)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        """Set while the connection is not read."""
        self._reason = ""
        self._heard = self._loop.time()
        self._whole = self._heard
        """When the last octets came, and since when a message may be incomplete."""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, after the handshake if any, unless the place was given up before."""
        if self.place.state is None:
            cast("asyncio.Transport", transport).abort()
            return
        self._transport = cast("asyncio.Transport", transport)
        self._owner.connections.add(self)
        self._gauge.inc()

    def data_received(self, data: bytes) -> None:
        """Process a read: 256 KiB at most."""
        if not self._buffer:
            self._whole = self._loop.time()
        self._heard = self._loop.time()
        self._buffer += data
        self._hand_on()

    def eof_received(self) -> bool:
        """Note that the exporter has ended the connection, perhaps in the middle of a message."""
        if self._buffer:
            self._reason = self._reason or "cut"
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on the whole messages, and count the end."""
        self.lost.set()
        if self._transport is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._hand_on_rest()
        if self._known:
            self._owner.offer(self._messages_of(np.zeros(0, np.uint8), [0]))
        reason = self._reason or ("end" if exc is None and not self._buffer else "cut" if self._buffer else "error")
        self._owner.families.closed.labels(self._label, reason).inc()
        self._owner.connections.discard(self)
        self._gauge.dec()

    def look(self, now: float) -> None:
        """End the connection if nothing came for a long time, or a message does not end."""
        if self._timer is not None:
            return  # the service itself does not read
        settings = self._owner.settings
        if self._buffer and now - self._whole > settings.stream_message_seconds:
            self.end("slow")
        elif not self._known and now - self._heard > settings.stream_message_seconds:
            self.end("silent")
        elif now - self._heard > settings.stream_idle_seconds:
            self.end("idle")

    def end(self, reason: str) -> None:
        """Close, for this reason."""
        self._reason = self._reason or reason
        self._hand_on_rest()
        self._buffer.clear()
        if self._transport is not None:
            self._transport.abort()

    def give_way(self) -> None:
        """Close for another connection, also before the handshake has ended."""
        if self._transport is not None:
            self.end("displaced")
        elif self.opening is not None:
            self._owner.families.closed.labels(self._label, "displaced").inc()
            self.opening.cancel()

    def _hand_on(self) -> None:
        """Pass whole messages on while there is room, else stop reading until there is."""
        try:
            while ends := whole_messages(self._buffer):
                if not self._owner.room(ends[-1] + MESSAGE_COST_BYTES * len(ends)):
                    self._wait()
                    return
                self._offer(ends)
        except BrokenMessageError as error:
            _log.sampled("no IPFIX message", key=self._label, source=self.peer[0], wrong=str(error))
            self.end(str(error))
            return
        if self._timer is not None and self._transport is not None:
            self._timer = None
            self._transport.resume_reading()

    def _hand_on_rest(self) -> None:
        """Pass whole messages on without checking for room: there is no later chance, and drops are counted."""
        with contextlib.suppress(BrokenMessageError):
            while ends := whole_messages(self._buffer):
                self._offer(ends)

    def _offer(self, ends: list[int]) -> None:
        octets = np.frombuffer(self._buffer[: ends[-1]], dtype=np.uint8)
        self._known |= self._owner.offer(self._messages_of(octets, ends))
        self.place.become(State.BUSY)
        self._messages.inc(len(ends))
        self._bytes.inc(ends[-1])
        self._whole = self._loop.time()
        del self._buffer[: ends[-1]]

    def _wait(self) -> None:
        if self._timer is None and self._transport is not None:
            self._waits.inc()
            self._transport.pause_reading()
        self._timer = self._loop.call_later(ROOM_PAUSE_SECONDS, self._hand_on)

    def _messages_of(self, octets: NDArray[np.uint8], ends: list[int]) -> Datagrams:
        """Return a batch of the messages that end at `ends`."""
        messages = len(ends)
        end = np.array(ends, dtype=np.int64)
        start = np.zeros(messages, dtype=np.int64)
        start[1:] = end[:-1]
        return Datagrams(
            octets,
            start,
            end - start,
            np.tile(np.array(self._halves, dtype=np.uint64), (messages, 1)),
            np.full(messages, self.peer[1], dtype=np.int64),
            np.full(messages, self._owner.clock_us(), dtype=np.int64),
            np.full(messages, self._number, dtype=np.int64),
        )


def _drop(accepted: socket.socket, place: Place) -> None:
    accepted.close()
    place.leave()


def _listen(endpoint: StreamEndpoint) -> socket.socket:
    """Return a listening socket.  Raises ListenError."""
    try:
        info = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)[0]
        sock = socket.create_server(info[4][:2], family=info[0], backlog=BACKLOG)
    except OSError as error:
        raise ListenError(
            "listen.streams",
            str(endpoint),
            f"{endpoint} cannot be opened ({error.strerror or error})",
            "is another collector there? `ss -tlpn` shows who it is",
        ) from error
    sock.setblocking(False)
    return sock
