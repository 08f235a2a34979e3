"""A whole session over loopback, through a relay that knows what it did to each packet."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys
import time
from typing import Any

import asyncio_dgram
import pytest

from agent import stamp
from agent.clock import to_ntp
from agent.reflector import ReflectorSocket, Rules, listen
from agent.sender import Plan, Sender, pack_probe
from agent.session import Result
from agent.sockets import Datagram, IcmpError, Sent, StampSocket
from tests.agent.support import ERROR, Relay, reflecting

KEY = b"k" * 32
LINUX = sys.platform == "linux"


def measure(plan: Plan, rules: Rules | None = None, **faults: Any) -> tuple[Result, Relay]:
    """Run a session through a relay."""

    async def run() -> tuple[Result, Relay]:
        async with reflecting(rules) as (address, _), Relay(address, **faults) as relay:
            sender = Sender(plan)
            await sender.run(socket.AF_INET, ("127.0.0.1", relay.port))
            return sender.result(), relay

    return asyncio.run(run())


@pytest.mark.parametrize("key", [None, KEY])
def test_nothing_is_lost_where_nothing_is_dropped(key: bytes | None) -> None:
    result, _ = measure(Plan(count=20, every_s=0.002, key=key), Rules(key=key))

    assert (result.sent, result.received, result.lost, result.duplicates, result.refused) == (20, 20, 0, 0, {})
    assert result.reflector == "stateful"
    assert (result.kernel_times, result.reflector_times) == (20 if LINUX else 0, "software")
    assert len(result.round_trips_us) == (19 if LINUX else 20)  # the last one's follow-up does not come


def test_loss_by_direction_is_the_relays() -> None:
    """With packets out of order, both ways."""
    result, relay = measure(
        Plan(count=300, every_s=0.001), Rules(per_source=10_000), drop=(0.1, 0.2), hold=(0.1, 0.1), until=290
    )

    there, back = relay.lost(300)
    assert there > 10
    assert back > 20
    assert (result.lost_forward, result.lost_reverse, result.lost_unresolved) == (there, back, 0)
    assert result.sent == 300 == result.received + there + back
    assert result.loss == (there + back) / 300
    assert result.reordered > 0


def test_duplicates_are_the_relays() -> None:
    result, relay = measure(Plan(count=100, every_s=0.001), Rules(per_source=10_000), double=(0.2, 0.3))

    assert relay.doubled[0] > 5
    assert result.received == 100
    assert result.duplicates == sum(relay.doubled)


def test_delays_are_the_relays() -> None:
    """Whose sleep is never shorter than it says; this machine's load comes on top."""
    result, _ = measure(Plan(count=20, every_s=0.01), delay_s=(0.02, 0.005))

    assert result.received == 20
    assert result.round_trips_us[0] >= 25_000
    assert result.one_way is not None
    # One clock on both sides: the offset is 0, and the delays lie within the bounds.
    assert abs(result.one_way.offset_us) <= result.one_way.offset_error_us
    assert result.one_way.forward[2] >= 20_000
    assert result.one_way.reverse[2] >= 5_000


def test_without_kernel_times_it_works_too_and_says_so() -> None:
    result, _ = measure(Plan(count=5, every_s=0.002, kernel=False))
    assert (result.received, result.kernel_times, len(result.round_trips_us)) == (5, 0, 4 if LINUX else 5)


@pytest.mark.skipif(not LINUX, reason="kernel times are Linux's")
def test_kernel_times_leave_out_how_long_the_process_waited() -> None:
    """A loop whose turns take 20 ms each: the kernel had taken the times before."""

    async def run(kernel: bool) -> float:
        async with reflecting(kernel=kernel) as (address, _):
            sender = Sender(Plan(count=4, every_s=0.1, kernel=kernel))
            running = asyncio.create_task(sender.run(socket.AF_INET, address))
            while not running.done():
                await asyncio.sleep(0)
                time.sleep(0.02)  # noqa: ASYNC251 - a busy process
            return sender.result().round_trips_us[0]

    assert asyncio.run(run(True)) < 20_000
    assert asyncio.run(run(False)) > 20_000


def test_wrong_keys_on_either_side_give_silence() -> None:
    async def run(ours: bytes | None, theirs: bytes | None) -> tuple[Result, dict[str, int]]:
        async with reflecting(Rules(key=theirs)) as (address, reflector):
            sender = Sender(Plan(count=2, every_s=0.001, key=ours))
            running = asyncio.create_task(sender.run(socket.AF_INET, address))
            while sum(reflector.counts.values()) < 2:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            return sender.result(), dict(reflector.counts)

    result, counts = asyncio.run(run(KEY, b"x" * 32))
    assert (result.received, counts) == (0, {"hmac": 2})
    result, counts = asyncio.run(run(KEY, None))
    assert (result.received, result.refused) == (0, {"hmac": 2})
    result, counts = asyncio.run(run(None, KEY))
    assert (result.received, counts) == (0, {"short": 2})


def test_a_reflector_of_twamp_light_is_measured_too() -> None:
    """Another program's: 41 octets, the probe's number copied, no session identifier, made with asyncio-dgram."""

    async def run() -> Result:
        server = await asyncio_dgram.bind(("127.0.0.1", 0))

        async def answer() -> None:
            while True:
                octets, sender = await server.recv()
                request = stamp.parse_request(octets)
                now = to_ntp(time.time_ns())
                reply = stamp.pack_reply(stamp.Reply(
                    request.sequence, now, ERROR, 0, now, request.sequence, request.sent, request.error, 251
                ))  # fmt: skip
                if request.sequence != 2:
                    await server.send(reply[:41], sender)

        task = asyncio.create_task(answer())
        sender = Sender(Plan(count=5, every_s=0.001))
        running = asyncio.create_task(sender.run(socket.AF_INET, server.sockname))
        while sender.session.replies < 4:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
        for one in (running, task):
            one.cancel()
        await asyncio.gather(running, task, return_exceptions=True)
        server.close()
        return sender.session.result(time.time_ns() + 4_000_000_000, ERROR)

    result = asyncio.run(run())

    assert (result.received, result.lost, result.lost_forward, result.reflector) == (4, 1, None, "unknown")
    assert (result.hops, result.reflector_times) == (4, "unknown")


def test_a_refusal_ends_it_at_once() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    sender = Sender(Plan(count=1000, every_s=0.01))

    asyncio.run(sender.run(socket.AF_INET, ("127.0.0.1", port)))

    result = sender.result()
    assert sender.hopeless
    assert sender.error == "Connection refused"
    assert result.unreachable >= 3
    assert result.sent < 20


class Failing:
    """A socket whose next tries to send fail."""

    def __init__(self, real: socket.socket, *codes: int) -> None:
        self._real, self._codes = real, [*codes]

    def send(self, octets: bytes) -> int:
        if self._codes:
            raise OSError(self._codes.pop(0), "failed")
        return self._real.send(octets)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.skipif(not LINUX, reason="ICMP errors end the next try to send on Linux")
def test_an_icmp_error_of_before_is_tried_again_and_a_refusal_of_this_machine_is_not() -> None:
    opened = StampSocket(socket.AF_INET, errors=True)
    real = opened.socket
    with contextlib.closing(real), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        real.connect(peer.getsockname())
        for codes, numbers in (((errno.EHOSTUNREACH,), [0]), ((errno.EPERM,), []), ((errno.ENETUNREACH,) * 2, [])):
            opened.socket = Failing(real, *codes)  # type: ignore[assignment] # as much as is used
            with contextlib.nullcontext() if numbers else pytest.raises(OSError, match="failed"):
                assert [opened.send(b"x")] == numbers
        assert opened.send(b"x") == 1
        assert [event.number for event in opened.events() if isinstance(event, Sent)] == [0, 1]


@pytest.mark.skipif(not LINUX, reason="kernel times are Linux's")
def test_times_of_sending_stay_with_their_datagrams_when_some_are_refused() -> None:
    """An ICMP error ends the next try to send, which some kernels count."""
    opened = StampSocket(socket.AF_INET, errors=True)
    sent: dict[int, int] = {}
    with contextlib.closing(opened):
        opened.socket.connect(("127.0.0.1", 1))
        for _ in range(20):
            before_ns = time.time_ns()
            sent[opened.send(b"x")] = before_ns
        events = list(opened.events())

    stamped = {event.number: event.time_ns for event in events if isinstance(event, Sent)}
    assert [event.code for event in events if isinstance(event, IcmpError)].count(errno.ECONNREFUSED) == 20
    assert list(sent) == list(stamped) == list(range(20))
    for number in range(20):
        assert sent[number] <= stamped[number] < sent.get(number + 1, 1 << 63)


@pytest.mark.parametrize(("extensions", "key", "least"), [
    (False, None, 44), (True, None, 44 + 44), (False, KEY, 112), (True, KEY, 112 + 44 + 20),
])  # fmt: skip
def test_a_probe_is_exactly_as_long_as_asked_or_refused(extensions: bool, key: bytes | None, least: int) -> None:
    for octets in (0, *range(44, 1473)):
        plan = Plan(octets=octets, key=key, extensions=extensions)
        if octets and octets != least and octets < least + 4:  # the header of a TLV has 4
            with pytest.raises(ValueError, match=f"such a probe has {least} octets, or {least + 4} and more"):
                Sender(plan)
        else:
            packed = pack_probe(Sender(plan).plan, stamp.Request(7, to_ntp(time.time_ns()), ERROR, 1))
            assert len(packed) == (octets or least)
            assert stamp.parse_request(packed, key).sequence == 7


def test_what_is_sent_is_as_long_as_asked() -> None:
    async def run() -> int:
        server = await asyncio_dgram.bind(("127.0.0.1", 0))
        sender = Sender(Plan(count=1, every_s=0.001, octets=1472, key=KEY))
        task = asyncio.create_task(sender.run(socket.AF_INET, server.sockname))
        octets, _ = await asyncio.wait_for(server.recv(), 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.close()
        return len(octets)

    assert asyncio.run(run()) == 1472


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENETUNREACH, errno.ENOBUFS])
def test_what_this_machine_refuses_to_send_is_neither_lost_nor_unreachable(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a firewall of its own does: the third and fourth of six."""
    tries = 0
    send = StampSocket.send

    def refusing(self: StampSocket, octets: bytes) -> int:
        nonlocal tries
        tries += 1
        if tries in (3, 4):
            raise OSError(code, "refused")
        return send(self, octets)

    monkeypatch.setattr(StampSocket, "send", refusing)

    async def run() -> Sender:
        async with reflecting() as (address, _):
            sender = Sender(Plan(count=6, every_s=0.002))
            await sender.run(socket.AF_INET, address)
            return sender

    sender = asyncio.run(run())

    result = sender.result()
    assert (result.sent, result.received, result.lost, result.unsent, result.unreachable) == (4, 4, 0, 2, 0)
    assert (result.lost_forward, result.lost_reverse, sender.refusal) == (0, 0, os.strerror(code))


@pytest.mark.skipif(not LINUX, reason="it is read by Linux's control messages")
@pytest.mark.parametrize(("family", "local"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_probes_carry_their_class_and_begin_with_full_ttl(family: int, local: str) -> None:
    async def run() -> Datagram:
        (opened,) = listen([(family, (local, 0))])
        sender = Sender(Plan(count=1, every_s=0.001, dscp=46))
        task = asyncio.create_task(sender.run(family, opened.socket.getsockname()))
        ready = asyncio.Event()
        asyncio.get_running_loop().add_reader(opened.socket, ready.set)
        await asyncio.wait_for(ready.wait(), 10)
        asyncio.get_running_loop().remove_reader(opened.socket)
        (packet,) = opened.receive()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        opened.close()
        return packet

    packet = asyncio.run(run())

    assert (packet.dscp, packet.ttl, packet.kernel, packet.to_many) == (46, 255, True, False)


def test_an_idle_reflector_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time of sending that nobody reads would wake its event loop for ever."""
    turns = 0
    readable = ReflectorSocket._readable

    def counting(self: ReflectorSocket) -> None:
        nonlocal turns
        turns += 1
        readable(self)

    monkeypatch.setattr(ReflectorSocket, "_readable", counting)

    async def run() -> int:
        async with reflecting() as (address, _):
            await Sender(Plan(count=10, every_s=0.001)).run(socket.AF_INET, address)
            before = turns
            await asyncio.sleep(0.1)
            return turns - before

    assert asyncio.run(run()) <= 1
    assert turns >= 1
