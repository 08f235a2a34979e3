"""What the HTTP servers of the process share: one socket each, on the service's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence

import h11
import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

Octets = bytes | memoryview

CONNECTIONS = 200
"""Connections at a time; more are told 503."""
REQUEST_SECONDS = 20.0
"""How long the head of a request may take, from the connection (or the last answer) on."""
PIECE_OCTETS = 256 * 1024
"""Of an answer, at a time."""
HEADERS = (
    ("Cross-Origin-Resource-Policy", "same-origin"),  # no page of another site may load it, not even as a picture
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("X-Content-Type-Options", "nosniff"),  # what is data is no script
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; sandbox"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)
"""Of every answer, refusals and errors too: all that is served is data, for whoever asked."""


class TimedProtocol(H11Protocol):
    """HTTP/1.1 that closes connections on which no request comes: uvicorn itself would wait for ever."""

    _seen: object = None
    """The request that the last look found."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._late = self.loop.call_later(REQUEST_SECONDS, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._late.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; close without a word if an answer has begun: h11 would raise."""
        if self.cycle is not None:  # the app may still be at work: what it answers would come second
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = f"{msg}\n".encode()
            headers = [
                *self.server_state.default_headers,
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _check(self) -> None:
        """Close if no request came since the last look, or one whose body does not end; abort what did not close."""
        same = self.cycle is None or self.cycle is self._seen
        if self.transport.is_closing():
            self.transport.abort()
        elif same and (self.cycle is None or self.cycle.response_complete or self.cycle.more_body):
            self.transport.close()
        self._seen = self.cycle
        self._late = self.loop.call_later(REQUEST_SECONDS, self._check)


class Server(uvicorn.Server):
    """A server that leaves signals to the service."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle none."""
        yield


def server(app: ASGIApp, context: ssl.SSLContext | None = None) -> Server:
    """A server for `app`, with TLS if there is a context; bounded in connections and in the time for a request."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # addresses of requests may hold passwords
        lifespan="off",
        http=TimedProtocol,
        ws="none",
        proxy_headers=False,
        server_header=False,
        headers=list(HEADERS),
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=3,
    )
    config.load()
    config.ssl = context
    return Server(config)


class LargeResponse(Response):
    """A response that goes out in pieces: uvicorn waits for the client before each, and the event loop runs between.

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


def in_pieces(parts: Iterable[Octets]) -> Iterator[memoryview]:
    """The octets of buffers, in order, in pieces that take no time to copy."""
    for part in parts:
        view = memoryview(part)
        for at in range(0, len(view), PIECE_OCTETS):
            yield view[at : at + PIECE_OCTETS]


class BindError(Exception):
    """An address cannot be bound.  `taken`: another process has it."""

    def __init__(self, host: str, port: int, error: OSError) -> None:
        super().__init__(f"{host}:{port}: {error.strerror or error}")
        self.taken = error.errno == errno.EADDRINUSE


def bind(host: str, port: int, scheme: str = "http") -> tuple[socket.socket, str]:
    """A listening TCP socket and the URL that reaches it; port 0 takes a free one.  Raises BindError."""
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(info[4][:2], family=info[0], backlog=128)
    except OSError as error:
        raise BindError(host, port, error) from error
    listening.setblocking(False)
    name, number = listening.getsockname()[:2]
    return listening, f"{scheme}://{f'[{name}]' if ':' in name else name}:{number}"
