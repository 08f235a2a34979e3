"""The base of the process's HTTP servers: one socket each, on the service's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum

import h11
import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from collector.connections import BACKLOG, Acceptor, Place, Places, State, person_of
from collector.http.gate import SCOPE_USER
from collector.metrics import Metrics

Octets = bytes | memoryview

CONNECTIONS = 200
"""Connections of one server at a time, if there are enough descriptors."""
SOURCE_SHARE = 2
"""One source may have one part in this of them, so that others always find a place."""
TASKS = 1000
"""Requests under way, including those whose clients have gone; more get 503.  Connections have places of their own."""
HEAD_BYTES = 32 * 1024
"""Longest head of a request that comes in parts; with the last part it may be twice as long.  The event loop waits
while a head is parsed: 0.02 s for this much in lines of four octets."""
HEAD_SECONDS = 10.0
"""How long the head of a request may take, from its first octet on; for the first one, from the connection on."""
IDLE_SECONDS = 30.0
"""How long a connection may wait for its next request: Prometheus scrapes every 15 s."""
BODY_SECONDS = 20.0
BODY_BYTES_PER_SECOND = 4096
"""How long a body may take: this, and a second for each this many octets received."""
UNSENT_BYTES = 128 * 1024
"""Octets of an answer in the system's buffer: with more, a slow client could not be distinguished from one that reads
nothing."""
TAKE_SECONDS = 30.0
"""How long a client may read nothing of its answer, or of the rest of it when the connection closes."""
HANDSHAKE_SECONDS = 10.0
"""Time for the TLS handshake."""
PIECE_BYTES = 256 * 1024
"""Octets of an answer sent at a time."""
HEADERS = (
    ("Cross-Origin-Resource-Policy", "same-origin"),  # no page of another site may load it, not even as an image
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("X-Content-Type-Options", "nosniff"),  # data is not a script
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; sandbox"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)
"""Headers of every answer, also of refusals and errors, unless the answer sets its own: what is served is data, for
the requester only.  The pages of the console are the exception."""
_ENCODED = [(name.lower().encode(), value.encode()) for name, value in HEADERS]
NO_PLACE = (
    "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
    + "".join(f"{name}: {value}\r\n" for name, value in HEADERS)
    + "Content-Type: text/plain; charset=utf-8\r\nContent-Length: 21\r\n\r\ntoo many connections\n"
).encode()
"""The answer to a connection that has no place."""


class Phase(Enum):
    """What a connection is doing; the values are reasons in the metric of those that took too long."""

    HEAD = "head"
    """The client sends the head of a request, or should."""
    BODY = "body"
    """The client sends the body of a request, or should."""
    WORK = "work"
    """The service works for it."""
    TAKE = "take"
    """The client reads the answer, or should."""
    IDLE = "idle"
    """It has had its answer."""


LIMITS = {Phase.HEAD: HEAD_SECONDS, Phase.BODY: BODY_SECONDS, Phase.TAKE: TAKE_SECONDS, Phase.IDLE: IDLE_SECONDS}
"""Phases in which the service waits for the client, and how long."""


class TimedProtocol(H11Protocol):
    """HTTP/1.1 on a connection with a place.  uvicorn alone would wait forever for a client.

    A logged-in client keeps its place until the connection ends.
    """

    place: Place
    """Set before the connection is made."""
    _phase = Phase.HEAD
    _since = 0.0
    _bytes = 0
    """Octets received since the phase began."""
    _answered = False
    _known = False
    _closing_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock, unless the place was given up before the connection got here."""
        if self.place.state is None:
            transport.abort()
            return
        self._since = self.loop.time()
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the place."""
        self.place.leave()
        if self.transport is not None:
            super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP; close without an answer if one has begun: h11 would raise."""
        if self.cycle is not None:  # the app may still be running: its answer would be the second
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = f"{msg}\n".encode()
            headers = [
                *self.server_state.default_headers,
                *_ENCODED,
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Process what a read brought, in pieces: one read could bring a head of any length."""
        for at in range(0, len(data), HEAD_BYTES):
            if self.transport.is_closing():
                return
            piece = data[at : at + HEAD_BYTES]
            self._bytes += len(piece)
            super().data_received(piece)
            self._look()

    def on_response_complete(self) -> None:
        """Note that there was an answer."""
        self._answered = True
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """Wait for the client."""
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        """Continue."""
        super().resume_writing()
        self._look()

    def _look(self) -> None:
        """Determine what the connection does now."""
        phase = self._now()
        if phase is not self._phase:
            self._phase, self._since, self._bytes = phase, self.loop.time(), 0
        self._known = self._known or (self.cycle is not None and SCOPE_USER in self.cycle.scope)
        if self._known or phase is Phase.WORK:
            self.place.become(State.BUSY)
        else:
            self.place.become(State.IDLE if self._answered else State.SILENT)

    def _now(self) -> Phase:
        cycle = self.cycle
        if self.flow.write_paused:
            return Phase.TAKE
        if cycle is None or cycle.response_complete:
            return Phase.HEAD if cycle is None or self.conn.trailing_data[0] else Phase.IDLE
        return Phase.BODY if cycle.more_body else Phase.WORK

    @property
    def waits_for_request(self) -> bool:
        """Whether there is no whole request yet, or no further one."""
        return self._phase in (Phase.HEAD, Phase.BODY, Phase.IDLE)

    def late(self, now: float) -> str:
        """Why the connection must be ended, the value of a phase; empty if it need not."""
        if self.transport.is_closing():
            self._closing_since = self._closing_since or now
            return Phase.TAKE.value if now - self._closing_since > TAKE_SECONDS else ""
        limit = LIMITS.get(self._phase)
        if limit is None:
            return ""
        if self._phase is Phase.BODY:
            limit += self._bytes / BODY_BYTES_PER_SECOND
        return self._phase.value if now - self._since > limit else ""


class Server(uvicorn.Server):
    """A server that leaves signals to the service, and counts connections from the moment they are accepted."""

    def __init__(self, config: uvicorn.Config, name: str, metrics: Metrics, connections: int) -> None:
        """`name` begins the names of the metrics."""
        super().__init__(config)
        self._places = Places(connections, max(1, connections // SOURCE_SHARE))
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = metrics.counter(
            f"{name}_connections_ended_total",
            "Connections that were refused, closed for others, or ended since the client let them wait, by reason.",
            ("reason",),
        )
        taken = metrics.gauge(f"{name}_connections", "Connections now, also those on which nothing came yet.")
        taken.set_function(lambda: self._places.taken)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle no signals."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections.  uvicorn leaves that to the event loop, which counts none before the end of the TLS
        handshake."""
        await self.lifespan.startup()
        self.servers = []
        self._acceptors = [Acceptor(listening, self._accepted, self._places) for listening in sockets or ()]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and close the present connections."""
        for acceptor in self._acceptors:
            acceptor.close()
        for task in self._tasks:
            task.cancel()
        for connection in list(self.server_state.connections):
            if isinstance(connection, TimedProtocol) and connection.waits_for_request:
                connection.transport.abort()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Once a second, end connections whose clients are too slow."""
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, TimedProtocol) and (reason := connection.late(now)):
                    self._ended.labels(reason).inc()
                    connection.transport.abort()
        return await super().on_tick(counter)

    def _accepted(self, connection: socket.socket, host: str, port: int) -> None:
        """Give a connection a place, or refuse it."""
        opening: list[asyncio.Task[None]] = []
        protocol = self._protocol()
        place = self._places.take(person_of(host), lambda: self._displace(protocol, opening))
        if not isinstance(place, Place):
            self._ended.labels(place).inc()
            if self.config.ssl is None:
                with contextlib.suppress(OSError):
                    connection.send(NO_PLACE)
            connection.close()
            return
        protocol.place = place
        with contextlib.suppress(OSError, AttributeError):  # it is already closed, or the system lacks the option
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        task = self._start(self._open(connection, protocol))
        # A connection that gives way, or is stopped, before its task began would stay open.
        task.add_done_callback(lambda ended: _drop(connection, place) if ended.cancelled() else None)
        opening.append(task)

    def _displace(self, protocol: TimedProtocol, opening: Sequence[asyncio.Task[None]]) -> None:
        """Close a connection at once, also during its TLS handshake."""
        self._ended.labels("displaced").inc()
        transport: asyncio.Transport | None = protocol.transport
        if transport is not None:
            transport.abort()
            return
        for task in opening:
            task.cancel()

    def _protocol(self) -> TimedProtocol:
        return TimedProtocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _open(self, connection: socket.socket, protocol: TimedProtocol) -> None:
        """Do the TLS handshake, if any, and begin HTTP."""
        context = self.config.ssl
        seconds = HANDSHAKE_SECONDS if context is not None else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol, connection, ssl=context, ssl_handshake_timeout=seconds
            )
        except (OSError, TimeoutError):  # ssl.SSLError is an OSError
            self._ended.labels("handshake").inc()
            connection.close()
            protocol.place.leave()


def _drop(connection: socket.socket, place: Place) -> None:
    connection.close()
    place.leave()


def with_headers(app: ASGIApp) -> ASGIApp:
    """Return the same app, whose answers have `HEADERS` where they do not set their own."""

    async def headed(scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message.get("headers", ())}
                missing = [header for header in _ENCODED if header[0] not in own]
                message = {**message, "headers": [*missing, *message.get("headers", ())]}
            await send(message)

        await app(scope, receive, sent)

    return headed


def server(
    app: ASGIApp, name: str, metrics: Metrics, context: ssl.SSLContext | None = None, connections: int = CONNECTIONS
) -> Server:
    """Return a server for `app`, with TLS if there is a context; bounded in connections and in the time for a
    request."""
    config = uvicorn.Config(
        with_headers(app),
        log_config=None,
        access_log=False,  # request URLs may hold passwords
        lifespan="off",
        http=TimedProtocol,
        ws="none",
        proxy_headers=False,
        server_header=False,
        limit_concurrency=TASKS,
        timeout_keep_alive=int(IDLE_SECONDS),
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    config.load()
    config.ssl = context
    return Server(config, name, metrics, connections)


class LargeResponse(Response):
    """A response sent in pieces: uvicorn waits for the client before each, and the event loop runs in between.

    `parts` are buffers, one after the other.
    """

    def __init__(
        self,
        parts: Sequence[Octets],
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        super().__init__(b"", status_code, headers, media_type)
        self._parts = parts
        self.octets = sum(len(part) for part in parts)
        self.headers["content-length"] = str(self.octets)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it (ASGI)."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in in_pieces(self._parts):
            await send({"type": "http.response.body", "body": bytes(piece), "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class HeldResponse(LargeResponse):
    """A response in JSON that somebody answers for while it is sent: `held` takes its octets, and bounds the time."""

    def __init__(self, parts: Sequence[Octets], held: Callable[[int], AbstractAsyncContextManager[None]]) -> None:
        super().__init__(parts, media_type="application/json")
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it (ASGI)."""
        async with self._held(self.octets):
            await super().__call__(scope, receive, send)


def in_pieces(parts: Iterable[Octets]) -> Iterator[memoryview]:
    """Yield the octets of buffers, in order, in pieces that are quick to copy."""
    for part in parts:
        view = memoryview(part)
        for at in range(0, len(view), PIECE_BYTES):
            yield view[at : at + PIECE_BYTES]


class BindError(Exception):
    """An address cannot be bound.  `taken`: another process has it."""

    def __init__(self, host: str, port: int, error: OSError) -> None:
        super().__init__(f"{host}:{port}: {error.strerror or error}")
        self.taken = error.errno == errno.EADDRINUSE


def bind(host: str, port: int, scheme: str = "http") -> tuple[socket.socket, str]:
    """Return a listening TCP socket and the URL that reaches it; port 0 takes a free one.  Raises BindError."""
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(info[4][:2], family=info[0], backlog=BACKLOG)
    except OSError as error:
        raise BindError(host, port, error) from error
    listening.setblocking(False)
    name, number = listening.getsockname()[:2]
    return listening, f"{scheme}://{f'[{name}]' if ':' in name else name}:{number}"
