"""A listening socket's connections, accepted as they come, whatever the descriptors do."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from collector.log import get_log
from collector.places import Places

BACKLOG = 1024
"""Connections that the system may hold until they are accepted; it may hold fewer (net.core.somaxconn)."""
PAUSE_SECONDS = 0.1
"""After a connection that could not be accepted."""
SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors that say that the process has no descriptor left, or the system no memory for one."""

Accepted = Callable[[socket.socket, str, int], None]
"""Takes over a connection: its socket, its client's address and port."""

_log = get_log("door")


class Door:
    """Accepts the connections of `listening` and hands them to `accepted`; must be made on the event loop's thread.

    The loops of asyncio and uvloop differ where there are no descriptors: one waits a second, the other closes what it
    cannot accept.  Here one of `places` is given up, and after a pause it is tried again.
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
