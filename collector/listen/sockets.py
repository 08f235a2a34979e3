"""Open the UDP sockets: addresses, options, and errors that say what to do."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys

from collector.listen.recvmmsg import ANCILLARY, SO_MEMINFO, SO_RXQ_OVFL, SO_TIMESTAMPNS
from collector.listen.settings import Endpoint, ListenError, ListenSettings
from collector.log import get_log

SO_RCVBUFFORCE = 33
"""Linux: the receive buffer's size without the system's limit, for those with CAP_NET_ADMIN."""

_MEMINFO = struct.Struct("=9I")
"""linux/sock_diag.h: octets in the receive queue come first, drops last."""

_KEY = "listen.addresses"
_log = get_log("listen")


async def open_sockets(settings: ListenSettings) -> list[socket.socket]:
    """Open and bind a socket for each address of `settings`, ready to be read without waiting.

    An IPv6 address that only means "this machine" is left out, with a warning, where the machine has no IPv6.
    Raises ListenError if a socket cannot be had; then none is left open.
    """
    opened: list[socket.socket] = []
    try:
        for endpoint in settings.endpoints():
            for family, address in await _resolve(endpoint):
                sock = _open(endpoint, family, address, settings)
                if sock is not None:
                    opened.append(sock)
        if not opened:
            raise ListenError(
                _KEY, ", ".join(settings.addresses), "this machine has none of the addresses", "name one that it has"
            )
    except BaseException:
        for sock in opened:
            sock.close()
        raise
    return opened


def memory_state(sock: socket.socket) -> tuple[int, int] | None:
    """Return the octets that wait in the receive queue and the running total of drops (32 bits); None if unknown.

    The total that SO_RXQ_OVFL sends along with a datagram is that of its arrival: what is dropped after the last one
    that was queued only shows here.
    """
    if not ANCILLARY:
        return None
    try:
        state = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _MEMINFO.size)
    except OSError:
        return None
    if len(state) < _MEMINFO.size:
        return None
    numbers = _MEMINFO.unpack(state)
    return numbers[0], numbers[8]


async def _resolve(endpoint: Endpoint) -> list[tuple[int, tuple[str, int] | tuple[str, int, int, int]]]:
    """Return the families and socket addresses of an endpoint; asks the resolver only where a name is given."""
    try:
        try:
            found = socket.getaddrinfo(*endpoint, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(*endpoint, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise ListenError(
            _KEY,
            str(endpoint),
            f"{endpoint.host} is no address and no name known here ({error})",
            "write an IP address",
        ) from error
    return list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))  # type: ignore[misc]


def _open(
    endpoint: Endpoint, family: int, address: tuple[str, int] | tuple[str, int, int, int], settings: ListenSettings
) -> socket.socket | None:
    sock = None
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        if family == socket.AF_INET6:
            # Else `[::]` also takes the IPv4 port, and `0.0.0.0` with the same port could not be bound beside it.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if settings.share_ports:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _ask_for_buffer(sock, settings.receive_buffer_octets)
        if ANCILLARY:
            for option in (SO_TIMESTAMPNS, SO_RXQ_OVFL):
                sock.setsockopt(socket.SOL_SOCKET, option, 1)
        sock.bind(address)
    except OSError as error:
        if sock is not None:
            sock.close()
        if family == socket.AF_INET6 and address[0] in ("::", "::1") and error.errno in _NO_IPV6:
            _log.warning("this machine has no IPv6, the address is left out", address=endpoint)
            return None
        raise _explained(error, endpoint) from error
    return sock


_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


def _ask_for_buffer(sock: socket.socket, octets: int) -> None:
    if ANCILLARY:
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, octets)
        except OSError:  # not permitted, or filtered by a sandbox
            pass
        else:
            return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, octets)


def granted_octets(sock: socket.socket) -> int:
    """Return the receive buffer that the socket has, in the unit in which it is asked for.

    Linux doubles what is asked for, since it counts its own overhead per datagram too (socket(7)).
    """
    octets = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    return octets // 2 if sys.platform == "linux" else octets


def _explained(error: OSError, endpoint: Endpoint) -> ListenError:
    """Turn what `bind` and its neighbours report into what the operator can do."""
    match error.errno:
        case errno.EADDRINUSE:
            problem = f"UDP {endpoint} is in use"
            advice = f"another vmflow or collector? stop it, or set {_KEY} (`ss -ulpn` shows who it is)"
        case errno.EACCES | errno.EPERM:
            problem = f"no permission for UDP {endpoint}"
            advice = "take a port from 1024 on, or grant CAP_NET_BIND_SERVICE"
        case errno.EADDRNOTAVAIL:
            problem = f"this machine has no address {endpoint.host}"
            advice = "take one that `ip address` lists, or 0.0.0.0 or [::] for all"
        case _:
            problem = f"UDP {endpoint} cannot be opened ({error.strerror or error})"
            advice = f"check {_KEY}"
    return ListenError(_KEY, str(endpoint), problem, advice)
