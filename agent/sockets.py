"""UDP sockets with the kernel's times of sending and receipt (SO_TIMESTAMPING), and its own where it has none.

The kernel's times leave out how long this process waited for the processor.  Those of sending come later, on the error
queue of the socket, which makes it readable: both queues are emptied at each turn, else an event loop would spin.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

LINUX = sys.platform == "linux"
# Python names few of these; numbers are those of Linux on all machines but SPARC and PA-RISC.
_SO_TIMESTAMPING = 37
_TX_SOFTWARE, _RX_SOFTWARE, _SOFTWARE, _OPT_ID, _OPT_TSONLY = 2, 8, 16, 128, 2048
_FLAGS = _TX_SOFTWARE | _RX_SOFTWARE | _SOFTWARE
_IP_TOS, _IP_TTL, _IP_PKTINFO, _IP_RECVERR, _IP_RECVTTL, _IP_RECVTOS = 1, 2, 8, 11, 12, 13
_IPV6_RECVERR, _IPV6_RECVPKTINFO, _IPV6_PKTINFO = 25, 49, 50
_IPV6_RECVHOPLIMIT, _IPV6_HOPLIMIT, _IPV6_RECVTCLASS, _IPV6_TCLASS = 51, 52, 66, 67
_MSG_ERRQUEUE = 0x2000
_TIMESPEC = struct.Struct("@ll")
_EXTENDED_ERROR = struct.Struct("@IBBBxII")
"""struct sock_extended_err: errno, origin, type, code, pad, info, data."""
_NO_ICMP = (errno.EPERM, errno.ENOBUFS, errno.EAGAIN)
"""What no ICMP error says, but this machine: its firewall, a full queue."""
_FROM_ICMP, _FROM_TIMESTAMPING = (2, 3), 4
_ANCILLARY_OCTETS = 512
_READ_OCTETS = 2048
MOST_AT_ONCE = 256
"""Datagrams, and times of sending, that are read before others have their turn."""


class Datagram(NamedTuple):
    """What came, from whom, to which address of ours, when, and with what in its IP header."""

    octets: bytes
    sender: tuple[Any, ...]
    """As sockets have it: address and port first."""
    time_ns: int
    kernel: bool
    """Whether the kernel took the time."""
    ttl: int | None
    dscp: int
    asked: bytes
    """The address that was asked, as the control message of a reply has it; empty if the system does not say."""
    to_many: bool
    """Whether it was sent to a multicast or broadcast address."""


class Sent(NamedTuple):
    """When the kernel sent a datagram; `number` counts those of the socket from 0."""

    number: int
    time_ns: int


class IcmpError(NamedTuple):
    """Why a router or the other end refused a datagram."""

    code: int
    """An errno."""


class StampSocket:
    """A UDP socket, to be bound or connected by its owner."""

    def __init__(self, family: int, *, kernel: bool = True, errors: bool = False) -> None:
        """Open it.  `kernel` asks for the kernel's times, `errors` for ICMP errors.  Raises OSError."""
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self._v6 = family == socket.AF_INET6
        self._level = int(socket.IPPROTO_IPV6 if self._v6 else socket.IPPROTO_IP)
        self._number = self._base = 0
        """Datagrams sent so far, and before the kernel began to count."""
        self._early: list[Sent | IcmpError] = []
        """Events that were read before their turn."""
        self.kernel = False
        """Whether the kernel takes times."""
        if self._v6:
            self._set(socket.IPV6_V6ONLY, 1)
            self._set(socket.IPV6_UNICAST_HOPS, 255)
        else:
            self._set(socket.IP_TTL, 255)
        if LINUX:
            wanted = (
                (_IPV6_RECVPKTINFO, _IPV6_RECVHOPLIMIT, _IPV6_RECVTCLASS)
                if self._v6 else (_IP_PKTINFO, _IP_RECVTTL, _IP_RECVTOS)
            )  # fmt: skip
            for option in wanted:
                self._set(option, 1)
            if errors:
                self._set(_IPV6_RECVERR if self._v6 else _IP_RECVERR, 1)
            if kernel:
                self._begin_count()

    def set_dscp(self, dscp: int) -> None:
        """Mark what is sent from now on."""
        self._set(_IPV6_TCLASS if self._v6 else socket.IP_TOS, dscp << 2)

    def send(self, octets: bytes) -> int:
        """Send to the peer; return the datagram's number.  Raises OSError."""
        # The ICMP error of one before ends the first try; it is on the error queue, too.
        for last in (False, True) if LINUX else (True,):
            try:
                self.socket.send(octets)
                break
            except OSError as error:
                self._count_again()
                if last or error.errno in _NO_ICMP:
                    raise
        self._number += 1
        return self._number - 1

    def reply(self, octets: bytes, to: Datagram) -> int:
        """Send back, from the address that was asked and with the same DSCP; return the number.  Raises OSError."""
        control = []
        if LINUX:
            tos = struct.pack("@i", to.dscp << 2)
            control = [
                (self._level, _IPV6_PKTINFO if self._v6 else _IP_PKTINFO, to.asked),
                (self._level, _IPV6_TCLASS if self._v6 else _IP_TOS, tos),
            ]
        try:
            self.socket.sendmsg([octets], control, 0, to.sender)
        except OSError:
            self._count_again()
            raise
        self._number += 1
        return self._number - 1

    def receive(self) -> Iterator[Datagram]:
        """Read what has come.  A pending ICMP error ends no reading: it is on the error queue, too."""
        for _ in range(MOST_AT_ONCE):
            try:
                octets, ancillary, flags, sender = self.socket.recvmsg(_READ_OCTETS, _ANCILLARY_OCTETS)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue
            if not flags & socket.MSG_TRUNC:
                yield self._datagram(octets, ancillary, sender)

    def events(self, most: int = MOST_AT_ONCE) -> Iterator[Sent | IcmpError]:
        """Read the error queue: times of sending, ICMP errors.  Right after a datagram was sent one is often there."""
        early, self._early = self._early, []
        yield from early
        for _ in range(most if LINUX else 0):
            try:
                _, ancillary, _, _ = self.socket.recvmsg(0, _ANCILLARY_OCTETS, _MSG_ERRQUEUE)
            except (BlockingIOError, InterruptedError):
                return
            time_ns, error = 0, None
            for level, kind, body in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPING):
                    time_ns = _nanoseconds(body)
                elif (level, kind) in ((0, _IP_RECVERR), (41, _IPV6_RECVERR)):
                    error = _EXTENDED_ERROR.unpack_from(body)
            if error is None:
                continue
            code, origin, *_, number = error
            if origin == _FROM_TIMESTAMPING and time_ns:
                yield Sent(self._base + number, time_ns)
            elif origin in _FROM_ICMP:
                yield IcmpError(code)

    def close(self) -> None:
        """Close it."""
        self.socket.close()

    def _begin_count(self) -> None:
        """Let the kernel take times, and count what is sent from 0 on."""
        if not LINUX:
            return
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _FLAGS)
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _FLAGS | _OPT_ID | _OPT_TSONLY)
        except OSError:
            return  # an old kernel, or a sandbox: this process takes the times
        self._base = self._number
        self.kernel = True

    def _count_again(self) -> None:
        """Begin the count again: kernels differ in whether they count what was not sent."""
        self._early = [*self.events()][-MOST_AT_ONCE:]
        self._begin_count()

    def _set(self, option: int, value: int) -> None:
        self.socket.setsockopt(self._level, option, value)

    def _datagram(self, octets: bytes, ancillary: list[tuple[int, int, bytes]], sender: tuple[Any, ...]) -> Datagram:
        time_ns, ttl, dscp, asked, to_many = 0, None, 0, b"", False
        for level, kind, body in ancillary:
            if level == socket.SOL_SOCKET:
                time_ns = _nanoseconds(body) if kind == _SO_TIMESTAMPING else time_ns
            elif kind in (_IP_TTL, _IPV6_HOPLIMIT):
                ttl = int.from_bytes(body[:4], sys.byteorder)
            elif kind in (_IP_TOS, _IPV6_TCLASS):
                dscp = body[0 if len(body) == 1 or sys.byteorder == "little" else 3] >> 2
            elif kind == _IP_PKTINFO:
                _, local, destination = struct.unpack("@i4s4s", body)
                asked, to_many = struct.pack("@i4s4x", 0, destination), local != destination or destination[0] >= 224
            elif kind == _IPV6_PKTINFO:
                asked, to_many = body, body[0] == 0xFF
        return Datagram(octets, sender, time_ns or time.time_ns(), bool(time_ns), ttl, dscp, asked, to_many)


def _nanoseconds(body: bytes) -> int:
    """Return the software time of a control message; 0 if it has none."""
    seconds, rest = _TIMESPEC.unpack_from(body)
    return int(seconds) * 1_000_000_000 + int(rest)
