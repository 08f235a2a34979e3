"""Answers probes: whom, how often, with what.

Whatever comes, there is at most one answer, it is as long as the question, and there are never more of them than the
token buckets hold.  A packet of another reflector gets none, else one forged packet would go to and fro for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from agent import stamp
from agent.clock import SYNCHRONISED, LocalClock, to_ntp
from agent.sockets import MOST_AT_ONCE, Datagram, Sent, StampSocket
from agent.stamp import Knowledge, Reply, Request, StampError

Network = IPv4Network | IPv6Network
PRIVATE: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16",
                 "::1/128", "fc00::/7", "fe80::/10")
)  # fmt: skip
"""Addresses that are not routed on the Internet (RFC 1918, RFC 4193), of links, of this machine."""
PER_SECOND, PER_SOURCE = 5000, 200
"""Answers a second at most: half a core's worth; a probe each 5 ms from one address."""
MOST_SOURCES = 4096
"""Addresses whose rate is watched: 1 MB.  The one that was quiet longest goes first."""
MOST_SESSIONS = 4096
"""Sessions that are counted: 2 MB.  The one that was quiet longest makes room for another."""
IDLE_S = 900.0
"""After this a session is forgotten (RFC 8972 leaves it to us; TWAMP's REFWAIT is 900 s, RFC 5357 section 4.2)."""
UNSTAMPED = 256
"""Replies whose time of sending is awaited."""
REASONS = {
    "answered": "answers",
    "to_many": "sent to a multicast or broadcast address",
    "short": "shorter than a STAMP packet",
    "long": "longer than an Ethernet frame",
    "not_allowed": "from an address that is not allowed",
    "from_reflector": "from a reflector, or from a reflector's port",
    "rate": "beyond the rate of all",
    "source_rate": "beyond the rate of one address",
    "hmac": "with a wrong HMAC",
    "unsent": "whose answer the system did not send",
}
"""What happens to a packet, in words; each has a counter."""


class TokenBucket:
    """So many a second, and as many at once."""

    __slots__ = ("_per_second", "_time_s", "_tokens")

    def __init__(self, per_second: float, now_s: float) -> None:
        """It is full at first."""
        self._per_second = per_second
        self._tokens = max(1.0, per_second)
        self._time_s = now_s

    def take(self, now_s: float) -> bool:
        """Return whether there is a token, and take it."""
        filled = self._tokens + (now_s - self._time_s) * self._per_second
        self._tokens, self._time_s = min(max(1.0, self._per_second), filled), now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass(slots=True)
class _Session:
    """What is kept of a sender's session."""

    used_s: float
    received: int = 0
    sent: int = 0
    last: tuple[int, int] = (0, 0)
    """Number and true time of sending, as on the wire, of the newest reply whose time is known."""


@dataclass(frozen=True)
class Rules:
    """Whom a reflector answers, and how often."""

    allow: Collection[Network] = PRIVATE
    key: bytes | None = None
    per_second: int = PER_SECOND
    per_source: int = PER_SOURCE
    ports: Collection[int] = field(default=(stamp.PORT,))
    """Ports of reflectors: the usual one, and our own."""


class Reflector:
    """Decides on one packet after the other.  It has no socket and no clock."""

    def __init__(self, rules: Rules, now_s: float) -> None:
        self._rules = rules
        self._all = TokenBucket(rules.per_second, now_s)
        self._sources: OrderedDict[str, TokenBucket] = OrderedDict()
        self._sessions: OrderedDict[tuple[Any, ...], _Session] = OrderedDict()
        self._clock = LocalClock()
        self.counts: Counter[str] = Counter()
        """Packets by what happened to them: the keys of REASONS."""

    @property
    def kept(self) -> tuple[int, int]:
        """Addresses and sessions that are remembered."""
        return len(self._sources), len(self._sessions)

    def _request(self, packet: Datagram, now_s: float) -> Request:
        """Return what a packet asks.  Raises StampError, whose text is why it gets no answer.

        Tokens come last: what is forged must not take those of the address that it names.  Its HMAC costs a third of
        what reading it did (2.4 µs of 7), and is over 96 octets however long the packet is.
        """
        rules, octets, (address, port) = self._rules, packet.octets, packet.sender[:2]
        if packet.to_many:
            raise StampError("to_many")
        if not stamp.base_octets(rules.key) <= len(octets) <= stamp.MOST_OCTETS:
            raise StampError("long" if len(octets) > stamp.MOST_OCTETS else "short")
        if port in rules.ports or stamp.is_reply(octets, rules.key):
            raise StampError("from_reflector")
        if not self._allowed(address):
            raise StampError("not_allowed")
        request = stamp.parse_request(octets, rules.key)
        if not self._source(address, now_s).take(now_s):
            raise StampError("source_rate")
        if not self._all.take(now_s):
            raise StampError("rate")
        return request

    def answer(self, packet: Datagram, now_s: float, now_ns: int) -> tuple[bytes, _Session, int] | None:
        """Return the reply to a packet, its session and its number, or None; count which."""
        try:
            request = self._request(packet, now_s)
        except StampError as error:
            self.counts[str(error)] += 1
            return None
        session = self._session((packet.sender[:2], packet.asked, request.ssid), now_s)
        number = session.sent % (1 << 32)
        session.received += 1
        key, estimate = self._rules.key, self._clock.error(now_ns)
        base = stamp.base_octets(key)
        tlvs = packet.octets[base:]
        if tlvs:
            known = Knowledge(
                stamp.SYNC_NTP if estimate & SYNCHRONISED else stamp.SYNC_FREE,
                stamp.SOFTWARE,
                (session.received % (1 << 32), session.sent % (1 << 32)),
                session.last,
            )
            tlvs = stamp.answer_tlvs(tlvs, request.sequence, number, known, key)
        reply = Reply(
            number, to_ntp(max(now_ns, packet.time_ns)), estimate, request.ssid, to_ntp(packet.time_ns),
            request.sequence, request.sent, request.error, packet.ttl,
        )  # fmt: skip
        session.sent += 1
        self.counts["answered"] += 1
        return stamp.pack_reply(reply, key) + tlvs, session, number

    def _allowed(self, address: str) -> bool:
        if address in self._sources:
            return True
        plain = ip_address(address.partition("%")[0])
        return any(plain in network for network in self._rules.allow)

    def _source(self, address: str, now_s: float) -> TokenBucket:
        """Return the bucket of an address that is allowed."""
        bucket = self._sources.get(address)
        if bucket is None:
            bucket = self._sources[address] = TokenBucket(self._rules.per_source, now_s)
            if len(self._sources) > MOST_SOURCES:
                self._sources.popitem(last=False)
        else:
            self._sources.move_to_end(address)
        return bucket

    def _session(self, name: tuple[Any, ...], now_s: float) -> _Session:
        """Return the session of a sender; a new one if there is none, or if it was idle for too long."""
        session = self._sessions.get(name)
        if session is None or now_s - session.used_s > IDLE_S:
            session = self._sessions[name] = _Session(now_s)
            if len(self._sessions) > MOST_SESSIONS:
                self._sessions.popitem(last=False)
        session.used_s = now_s
        self._sessions.move_to_end(name)
        return session


class ReflectorSocket:
    """A socket of a reflector in an event loop.  Enter it to answer."""

    def __init__(self, reflector: Reflector, opened: StampSocket) -> None:
        self._reflector = reflector
        self._socket = opened
        self._unstamped: OrderedDict[int, tuple[_Session, int, int]] = OrderedDict()
        """Replies whose time of sending is not known yet: datagram -> session, number, time before sending."""

    def __enter__(self) -> ReflectorSocket:
        asyncio.get_running_loop().add_reader(self._socket.socket, self._readable)
        return self

    def __exit__(self, *error: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.socket)
        self._socket.close()

    def _readable(self) -> None:
        replied = False
        for packet in self._socket.receive():
            now_ns = time.time_ns()
            answer = self._reflector.answer(packet, time.monotonic(), now_ns)
            if answer is None:
                continue
            octets, session, number = answer
            try:
                sent = self._socket.reply(octets, packet)
            except OSError:  # no route back, or the send buffer is full
                self._reflector.counts["answered"] -= 1
                self._reflector.counts["unsent"] += 1
                continue
            if self._socket.kernel:
                self._unstamped[sent] = session, number, now_ns
                if len(self._unstamped) > UNSTAMPED:
                    self._unstamped.popitem(last=False)
            self._take_times(1)  # now, so that the session's next reply has it
            replied = True
        if not replied:
            self._take_times(MOST_AT_ONCE)

    def _take_times(self, most: int) -> None:
        for event in self._socket.events(most):
            if isinstance(event, Sent) and event.number in self._unstamped:
                session, number, before_ns = self._unstamped.pop(event.number)
                if event.time_ns >= before_ns:
                    session.last = number, to_ntp(event.time_ns)


def listen(addresses: Sequence[tuple[int, tuple[Any, ...]]], *, kernel: bool = True) -> list[StampSocket]:
    """Bind a socket to each address (family, what sockets take).  Raises OSError, with the address as its filename."""
    opened: list[StampSocket] = []
    try:
        for family, address in addresses:
            one = StampSocket(family, kernel=kernel)
            opened.append(one)
            try:
                one.socket.bind(address)
            except OSError as error:
                error.filename = address
                raise
    except OSError:
        for one in opened:
            one.close()
        raise
    return opened
