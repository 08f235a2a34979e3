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

SHARDS = sys.platform == "linux"
"""Whether the kernel distributes senders over sockets with SO_REUSEPORT; elsewhere one socket gets everything."""

SO_RCVBUFFORCE = 33
"""Linux: the receive buffer's size without the system's limit, for those with CAP_NET_ADMIN."""

_MEMINFO = struct.Struct("=9I")
"""linux/sock_diag.h: octets in the receive queue come first, drops last."""

_Address = tuple[str, int] | tuple[str, int, int, int]
"""Arguments of `bind` for IPv4 and for IPv6."""

_KEY = "listen.addresses"
_log = get_log("listen")


async def open_sockets(settings: ListenSettings) -> list[socket.socket]:
    """Open and bind the sockets for each address of `settings`, ready to be read without waiting.

    Those of one address are grouped.

    An IPv6 address that only means "this machine" is left out, with a warning, where the machine has no IPv6.  Raises
    ListenError if a socket cannot be opened; then none is left open.
    """
    if settings.sockets > 1 and not SHARDS:
        raise ListenError(
            "listen.sockets",
            str(settings.sockets),
            "this system does not share senders out over sockets",
            "set it to 1",
        )
    opened: list[socket.socket] = []
    try:
        for endpoint in settings.endpoints():
            for family, address in await _resolve(endpoint):
                first = _open_first(endpoint, family, address, settings)
                if first is not None:
                    opened.append(first)
                    opened.extend(_open_others(endpoint, first, settings))
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

    The total that SO_RXQ_OVFL sends with a datagram is that of its arrival: drops after the last queued one only show
    here.
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


async def _resolve(endpoint: Endpoint) -> list[tuple[int, _Address]]:
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


def _open_first(endpoint: Endpoint, family: int, address: _Address, settings: ListenSettings) -> socket.socket | None:
    """Open a socket; None where the machine has no IPv6.  Raises ListenError.

    Unless ports are to be shared, it is bound exclusively, so that the kernel refuses a port that any other process
    uses, even with SO_REUSEPORT.
    """
    try:
        return _open(family, address, settings, shared=settings.share_ports)
    except OSError as error:
        if family == socket.AF_INET6 and address[0] in ("::", "::1") and error.errno in _NO_IPV6:
            _log.warning("this machine has no IPv6, the address is left out", address=endpoint)
            return None
        raise _explained(error, endpoint) from error


def _open_others(endpoint: Endpoint, first: socket.socket, settings: ListenSettings) -> list[socket.socket]:
    """Open the further sockets of an address, beside the first one.  Raises ListenError, with none of them open."""
    others: list[socket.socket] = []
    try:
        if settings.sockets > 1:
            # Linux lets others share the port from here on.  Another service is still refused: its first socket is
            # exclusive.
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for _ in range(settings.sockets - 1):
            others.append(_open(first.family, first.getsockname(), settings, shared=True))
    except OSError as error:
        for sock in others:
            sock.close()
        raise _explained(error, endpoint) from error
    return others


def _open(family: int, address: _Address, settings: ListenSettings, *, shared: bool) -> socket.socket:
    """Open and bind one socket.  Raises OSError, with nothing left open."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            # Otherwise `[::]` also takes the IPv4 port, and `0.0.0.0` with the same port could not be bound beside it.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _ask_for_buffer(sock, settings.receive_buffer_bytes)
        if ANCILLARY:
            for option in (SO_TIMESTAMPNS, SO_RXQ_OVFL):
                sock.setsockopt(socket.SOL_SOCKET, option, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
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


def granted_bytes(sock: socket.socket) -> int:
    """Return the size of the socket's receive buffer, in the unit in which it is requested.

    Linux doubles the requested size, since it counts its own overhead per datagram too (socket(7)).
    """
    octets = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    return octets // 2 if sys.platform == "linux" else octets


def _explained(error: OSError, endpoint: Endpoint) -> ListenError:
    """Turn errors of `bind` and related calls into advice for the operator."""
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
