"""Sends the probes of one session, and keeps its book."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import socket
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from agent import stamp
from agent.clock import LocalClock, to_ntp
from agent.session import LATE_NS, Mode, Result, Session
from agent.sockets import MOST_AT_ONCE, IcmpError, StampSocket
from agent.stamp import Request, StampError, Tlv

HOPELESS = 3
"""ICMP errors and refusals of this machine, without one reply, after which nothing more is sent."""
JITTER = 0.1
"""Share of the interval by which each probe is shifted, so that probes of many do not fall in step (RFC 3432)."""
MOST_PROBES = 100_000
"""Probes of a session: 5 MB of book."""
_UNSTAMPED = 4096


@dataclass(frozen=True)
class Plan:
    """What is sent."""

    count: int = 100
    every_s: float = 0.1
    octets: int = 0
    """Length of the packet; 0 is as long as it needs to be."""
    dscp: int = 0
    key: bytes | None = None
    extensions: bool = True
    """Ask for times, counts and the follow-up by TLVs; reflectors that know none copy them."""
    kernel: bool = True
    reflector: Mode = "unknown"


class UnreachableError(OSError):
    """The other end cannot be reached, in words."""


def least_octets(plan: Plan) -> int:
    """Return the length of a packet without padding."""
    return stamp.base_octets(plan.key) + len(_tlvs(plan, 0))


def pack_probe(plan: Plan, request: Request) -> bytes:
    """Return a probe, as long as is asked."""
    octets = stamp.pack_request(request, plan.key) + _tlvs(plan, request.sequence)
    if room := max(0, plan.octets - len(octets)):
        octets += stamp.pack_tlvs([Tlv(stamp.UNRECOGNIZED, stamp.PADDING, bytes(room - stamp.TLV_OCTETS))])
    return octets


class Sender:
    """One session with one reflector."""

    def __init__(self, plan: Plan) -> None:
        """Nothing is opened before `run`.  Raises ValueError if no probe can have the length that is asked."""
        least = least_octets(plan)
        if plan.octets not in (0, least) and plan.octets < least + stamp.TLV_OCTETS:
            raise ValueError(f"such a probe has {least} octets, or {least + stamp.TLV_OCTETS} and more")
        self.plan = plan
        self.session = Session(plan.reflector)
        self.error = ""
        """The first ICMP error or refusal of this machine, in words."""
        self.refusal = ""
        """Why this machine did not send a probe, the first time, in words."""
        self._ssid = secrets.randbelow(0xFFFF) + 1
        self._clock = LocalClock()
        self._unstamped: OrderedDict[int, int] = OrderedDict()
        """Datagrams whose time of sending is not known yet -> probe."""
        self._socket: StampSocket | None = None
        self._changed = asyncio.Event()

    @property
    def kernel(self) -> bool:
        """Whether the kernel takes times."""
        return self._socket is not None and self._socket.kernel

    def result(self) -> Result:
        """What was measured so far."""
        now_ns = time.time_ns()
        return self.session.result(now_ns, self._clock.error(now_ns))

    async def run(self, family: int, address: tuple[Any, ...]) -> None:
        """Send all probes and wait for their replies, 3 s at most; less if nobody can answer.

        Raises UnreachableError if the system has no way there.
        """
        self._socket = StampSocket(family, kernel=self.plan.kernel, errors=True)
        loop = asyncio.get_running_loop()
        try:
            try:
                self._socket.socket.connect(address)
                self._socket.set_dscp(self.plan.dscp)
            except OSError as error:
                raise UnreachableError(error.errno, error.strerror) from error
            loop.add_reader(self._socket.socket, self._readable)
            try:
                await self._send_all(loop)
                await self._wait(loop)
            finally:
                loop.remove_reader(self._socket.socket)
        finally:
            self._socket.close()

    @property
    def hopeless(self) -> bool:
        """Whether nothing but errors has come."""
        return self.session.unreachable + self.session.unsent >= HOPELESS and self.session.replies == 0

    async def _send_all(self, loop: asyncio.AbstractEventLoop) -> None:
        every = self.plan.every_s
        start = loop.time()
        for number in range(self.plan.count):
            due = start + every * (number + random.uniform(0, JITTER))  # noqa: S311 - no secret
            await asyncio.sleep(max(0.0, due - loop.time()))
            if self.hopeless:
                return
            self._send()

    async def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until all are answered, or the last one is lost."""
        end = loop.time() + LATE_NS / 1e9
        while self.session.replies < self.session.next and not self.hopeless and (left := end - loop.time()) > 0:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return

    def _send(self) -> None:
        assert self._socket is not None  # noqa: S101 - `run` opened it
        now_ns = time.time_ns()
        number = self.session.next
        request = Request(number, to_ntp(now_ns), self._clock.error(now_ns), self._ssid)
        try:
            datagram = self._socket.send(pack_probe(self.plan, request))
        except OSError as error:
            self.session.not_sent()
            self.refusal = self.refusal or os.strerror(error.errno or 0)
            self.error = self.error or self.refusal
            return
        self.session.sent(request.sent, now_ns, request.error)
        if self._socket.kernel:
            self._unstamped[datagram] = number
            if len(self._unstamped) > _UNSTAMPED:
                self._unstamped.popitem(last=False)
            self._take_events(1)

    def _readable(self) -> None:
        assert self._socket is not None  # noqa: S101 - `run` opened it
        key = self.plan.key
        for packet in self._socket.receive():
            try:
                reply = stamp.parse_reply(packet.octets, key)
            except StampError as error:
                self.session.refuse(str(error))
                continue
            tlvs = stamp.parse_tlvs(packet.octets[stamp.base_octets(key) :], reply.sequence, key)
            self.session.returned(reply, tlvs, packet.time_ns, packet.kernel, self._ssid)
        self._take_events(MOST_AT_ONCE)
        self._changed.set()

    def _take_events(self, most: int) -> None:
        assert self._socket is not None  # noqa: S101 - `run` opened it
        for event in self._socket.events(most):
            if isinstance(event, IcmpError):
                self.session.failed()
                self.error = self.error or os.strerror(event.code)
            elif (number := self._unstamped.pop(event.number, None)) is not None:
                self.session.stamped(number, event.time_ns)


def _tlvs(plan: Plan, number: int) -> bytes:
    """Return what a probe asks for."""
    if not plan.extensions:
        return b""
    sent = ((number + 1) % (1 << 32)).to_bytes(4, "big")
    tlvs = [
        Tlv(stamp.UNRECOGNIZED, stamp.TIMESTAMP_INFORMATION, bytes(4)),
        Tlv(stamp.UNRECOGNIZED, stamp.DIRECT_MEASUREMENT, sent + bytes(8)),
        Tlv(stamp.UNRECOGNIZED, stamp.FOLLOW_UP, bytes(16)),
    ]
    return stamp.pack_tlvs(tlvs, number, plan.key)


async def resolve(host: str, port: int, *, passive: bool = False) -> list[tuple[int, tuple[Any, ...]]]:
    """Return families and addresses of a name.  Raises socket.gaierror."""
    flags = socket.AI_PASSIVE if passive else 0
    found = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP, flags=flags
    )
    return [(family, address) for family, _, _, _, address in found]
