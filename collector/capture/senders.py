"""Where replayed datagrams go, and from which socket: each original exporter keeps a sender of its own.

A collector keys its state (templates, sequence numbers) by the sender.  Were a capture of two exporters sent from one
socket, their sequences would mix and one's templates replace the other's.
"""

from __future__ import annotations

import errno
import socket
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import Any, Generic, Protocol, TypeVar

from collector.capture.read import CapturedDatagram

SOCKET_LIMIT = 512
"""Sockets open at once: half of the usual limit of 1,024 files.  The one that rested longest is closed for the next."""
SOURCE_LIMIT = 65_536
"""Exporters that are certainly distinguished; more only occur in captures with forged senders."""
SEND_BUFFER_BYTES = 1 << 20
FIRST_UNPRIVILEGED_PORT = 1024

Key = tuple[str, int, int]
"""(original source address, original source port, original destination port, or 0 where the target sets the port)."""


class TargetError(Exception):
    """The target, or another wish of the user, cannot be met; the message says what was expected."""


class SendError(Exception):
    """Sending failed for good while it was under way."""


@dataclass(frozen=True, slots=True)
class Target:
    """A resolved target."""

    family: socket.AddressFamily
    address: tuple[Any, ...]
    """As the socket module has it: (host, port) or (host, port, flow, scope)."""
    port: int | None
    """None: the destination port that each datagram had."""

    @property
    def host(self) -> str:
        return str(self.address[0])

    @property
    def is_loopback4(self) -> bool:
        return self.family == socket.AF_INET and IPv4Address(self.host).is_loopback

    def with_port(self, port: int) -> tuple[Any, ...]:
        return (self.address[0], port, *self.address[2:])

    def __str__(self) -> str:
        host = f"[{self.host}]" if self.family == socket.AF_INET6 else self.host
        return host if self.port is None else f"{host}:{self.port}"


def parse_target(text: str) -> tuple[str, int | None]:
    """Split `HOST:PORT`, `[IPV6]:PORT`, or either without its port.  Raises TargetError."""
    expected = f"expected HOST:PORT, [IPV6]:PORT or HOST as the target, found {text!r}"
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise TargetError(expected)
        port = rest[1:] if rest else None
    elif text.count(":") > 1:
        host, port = text, None
        try:
            ip_address(text.partition("%")[0])
        except ValueError:
            raise TargetError(expected) from None
    else:
        host, colon, after = text.partition(":")
        port = after if colon else None
    if not host:
        raise TargetError(expected)
    if port is None:
        return host, None
    if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65_535):
        raise TargetError(f"expected a port from 1 to 65535 in the target, found {port!r}")
    return host, int(port)


def resolve(host: str, port: int | None) -> Target:
    """Look the host up.  Of several addresses IPv4 loopback goes first: only there each exporter has its own address.

    Raises TargetError.
    """
    try:
        found = socket.getaddrinfo(host, port or 0, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise TargetError(f"cannot resolve {host!r}: {getattr(error, 'strerror', None) or error}") from error
    targets = [Target(family, address, port) for family, _, _, _, address in found]
    return min(targets, key=lambda target: not target.is_loopback4)


class LoopbackAddresses:
    """Original source -> an address 127.x.y.z, the same in each replay of the same captures.

    y.z are the last two octets of an IPv4 source (192.0.2.11 -> 127.1.2.11), or made from an IPv6 source; x counts up
    from 1 where that address belongs to another source already.
    """

    def __init__(self, taken: str) -> None:
        self._taken = {int(IPv4Address(taken)) & 0xFF_FFFF}
        self._address: dict[str, str] = {}

    def of(self, source: str) -> str:
        if source in self._address:
            return self._address[source]
        packed = ip_address(source).packed
        low = (int.from_bytes(packed, "big") if len(packed) == 4 else zlib.crc32(packed)) & 0xFFFF
        number = 0x1_0000 | low
        if len(self._address) < SOURCE_LIMIT:
            while number in self._taken:
                number += 0x1_0000
                if number >= 0xFF_0000:
                    low = (low + 1) & 0xFFFF
                    number = 0x1_0000 | low
            self._taken.add(number)
            self._address[source] = str(IPv4Address(127 << 24 | number))
            return self._address[source]
        return str(IPv4Address(127 << 24 | number))


class Senders:
    """Opens the socket that stands for an original exporter."""

    def __init__(self, target: Target, from_loopback: bool | None = None) -> None:
        """`from_loopback` None: own addresses for exporters if the target is IPv4 loopback.  Raises TargetError."""
        if from_loopback and not target.is_loopback4:
            raise TargetError(f"expected an IPv4 loopback target for --from-loopback, found {target}")
        self.target = target
        self._own_address = target.is_loopback4 if from_loopback is None else from_loopback
        self._addresses = LoopbackAddresses(target.host) if self._own_address else None
        self._seen: set[tuple[str, int]] = set()

    @property
    def exporters(self) -> int:
        """Original exporters (address and port) met so far, counted up to `SOURCE_LIMIT`."""
        return len(self._seen)

    def key(self, datagram: CapturedDatagram) -> Key:
        return datagram.source, datagram.source_port, 0 if self.target.port else datagram.destination_port

    def open(self, key: Key) -> socket.socket:
        """A connected, blocking socket.  Raises SendError."""
        source, source_port, destination_port = key
        if len(self._seen) < SOURCE_LIMIT:
            self._seen.add((source, source_port))
        sender = socket.socket(self.target.family, socket.SOCK_DGRAM)
        try:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            if self._addresses is not None:
                _bind(sender, self._addresses.of(source), source_port)
            sender.connect(self.target.with_port(self.target.port or destination_port))
        except OSError as error:
            sender.close()
            raise SendError(f"cannot send to {self.target}: {error.strerror}") from error
        return sender


def _bind(sender: socket.socket, address: str, port: int) -> None:
    """Bind to the original source port, so that each replay has the same sender; to any port if it is not free."""
    try:
        sender.bind((address, port if port >= FIRST_UNPRIVILEGED_PORT else 0))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            sender.bind((address, 0))
        elif error.errno == errno.EADDRNOTAVAIL:
            raise SendError(f"this system has no address {address}; try --no-from-loopback") from error
        else:
            raise


class Closable(Protocol):
    def close(self) -> object: ...


Item = TypeVar("Item", bound=Closable)


class Pool(Generic[Item]):
    """At most `limit` open things by key; the one that was used longest ago is closed for a new one."""

    def __init__(self, limit: int = SOCKET_LIMIT) -> None:
        self._limit = limit
        self._items: OrderedDict[Key, Item] = OrderedDict()

    def get(self, key: Key) -> Item | None:
        item = self._items.get(key)
        if item is not None:
            self._items.move_to_end(key)
        return item

    def put(self, key: Key, item: Item) -> Item:
        if len(self._items) >= self._limit:
            self._items.popitem(last=False)[1].close()
        self._items[key] = item
        return item

    def items(self) -> list[Item]:
        return list(self._items.values())

    def close(self) -> None:
        while self._items:
            self._items.popitem()[1].close()
