"""What the HTTP servers of the process share: one socket each, on the service's own event loop."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

import uvicorn


class Server(uvicorn.Server):
    """A server that leaves signals to the service."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle none."""
        yield


class BindError(Exception):
    """An address cannot be bound.  `taken`: another process has it."""

    def __init__(self, host: str, port: int, error: OSError) -> None:
        super().__init__(f"{host}:{port}: {error.strerror or error}")
        self.taken = error.errno == errno.EADDRINUSE


def bind(host: str, port: int) -> tuple[socket.socket, str]:
    """A listening TCP socket and the URL that reaches it; port 0 takes a free one.  Raises BindError."""
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(info[4][:2], family=info[0], backlog=128)
    except OSError as error:
        raise BindError(host, port, error) from error
    listening.setblocking(False)
    name, number = listening.getsockname()[:2]
    return listening, f"http://{f'[{name}]' if ':' in name else name}:{number}"
