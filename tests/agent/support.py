"""What the tests of the agent share: packets, and a relay whose list of faults is the truth."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncio_dgram

from agent import stamp
from agent.clock import to_ntp
from agent.reflector import Reflector, ReflectorSocket, Rules, listen
from agent.sockets import Datagram

NOW_NS = 1_796_064_000_000_000_000
ERROR = 0x0C31
"""An Error Estimate of a clock that follows nothing."""


def packet(octets: bytes, sender: tuple[str, int] = ("10.0.0.7", 40_000), **other: Any) -> Datagram:
    """A datagram as the reflector gets it."""
    known: dict[str, Any] = {
        "time_ns": NOW_NS, "kernel": True, "ttl": 255, "dscp": 0, "asked": b"", "to_many": False,
    }  # fmt: skip
    return Datagram(octets, sender, **known | other)


def request(number: int = 0, ssid: int = 1, key: bytes | None = None) -> bytes:
    """A sender's packet."""
    return stamp.pack_request(stamp.Request(number, to_ntp(NOW_NS), ERROR, ssid), key)


@asynccontextmanager
async def reflecting(rules: Rules | None = None, **options: Any) -> AsyncIterator[tuple[tuple[str, int], Reflector]]:
    """A reflector on loopback: its address, and itself."""
    (opened,) = listen([(2, ("127.0.0.1", 0))], **options)
    address = opened.socket.getsockname()
    reflector = Reflector(rules or Rules(), time.monotonic())
    with ReflectorSocket(reflector, opened):
        yield address, reflector


@dataclass
class Relay:
    """Stands between a sender and a reflector, and drops, doubles, swaps and delays by a plan that it keeps.

    Made of asyncio-dgram: it shares no code with what is tested.  Pairs are for the way there and the way back.
    """

    target: tuple[str, int]
    drop: tuple[float, float] = (0, 0)
    """Share of packets that are dropped."""
    double: tuple[float, float] = (0, 0)
    hold: tuple[float, float] = (0, 0)
    """Share of packets that are sent only after the next one."""
    delay_s: tuple[float, float] = (0, 0)
    until: int = 1 << 32
    """Probes from this number on pass unharmed."""
    seed: int = 1
    passed: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))
    """Numbers of the probes that went on, in order."""
    doubled: list[int] = field(default_factory=lambda: [0, 0])
    port: int = 0

    async def __aenter__(self) -> Relay:
        self._chance = random.Random(self.seed)
        self._near = await asyncio_dgram.bind(("127.0.0.1", 0))
        self._far = await asyncio_dgram.connect(self.target)
        self.port = self._near.sockname[1]
        self._held: list[list[bytes]] = [[], []]
        self._client: Any = None
        self._tasks = {asyncio.create_task(self._there()), asyncio.create_task(self._back())}
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._near.close()
        self._far.close()

    def lost(self, below: int) -> tuple[int, int]:
        """How many probes with a number below this did not reach the reflector, and how many replies us."""
        there, back = (set(numbers) & set(range(below)) for numbers in self.passed)
        return below - len(there), len(there - back)

    async def _there(self) -> None:
        while True:
            octets, self._client = await self._near.recv()
            await self._pass(0, octets, int.from_bytes(octets[:4], "big"))

    async def _back(self) -> None:
        while True:
            octets, _ = await self._far.recv()
            await self._pass(1, octets, int.from_bytes(octets[24:28], "big"))

    async def _pass(self, way: int, octets: bytes, number: int) -> None:
        harmed = [self._chance.random() < share[way] and number < self.until for share in
                  (self.drop, self.hold, self.double)]  # fmt: skip
        if harmed[0]:
            return
        self.passed[way].append(number)
        if harmed[1] and not self._held[way]:
            self._held[way] = [octets]
            return
        self.doubled[way] += harmed[2]
        due = [*[octets] * (1 + harmed[2]), *self._held[way]]
        self._held[way] = []
        if self.delay_s[way]:
            self._tasks.add(asyncio.create_task(self._send(way, due)))
        else:
            await self._send(way, due)

    async def _send(self, way: int, due: list[bytes]) -> None:
        if self.delay_s[way]:
            await asyncio.sleep(self.delay_s[way])
        for octets in due:
            await (self._far.send(octets) if way == 0 else self._near.send(octets, self._client))
