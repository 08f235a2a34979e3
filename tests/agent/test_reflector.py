"""Whom the reflector answers, how often and at what length; what a flood and another reflector get."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from ipaddress import ip_network

import asyncio_dgram
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import reflector, stamp
from agent.clock import to_ntp
from agent.reflector import REASONS, Reflector, Rules, TokenBucket
from agent.stamp import Reply, Tlv
from tests.agent.support import ERROR, NOW_NS, packet, reflecting, request

KEY = b"k" * 32


def made(**rules: object) -> Reflector:
    """A reflector at second 0."""
    return Reflector(Rules(**rules), 0.0)  # type: ignore[arg-type] # its fields


def answered(of: Reflector, octets: bytes, now_s: float = 0.0, **other: object) -> Reply | None:
    """The reply to a packet, if there is one."""
    found = of.answer(packet(octets, **other), now_s, NOW_NS + 1000)  # type: ignore[arg-type]
    return None if found is None else stamp.parse_reply(found[0])


def test_a_reply_says_when_the_probe_came_and_copies_what_it_said() -> None:
    of = made()
    replies = [answered(of, request(number, ssid=9), ttl=61) for number in (5, 8)]

    assert replies[1] is not None
    reply = replies[1]
    assert (reply.sequence, reply.sender_sequence, reply.ssid, reply.ttl) == (1, 8, 9, 61)  # its own count, from 0
    assert (reply.received, reply.sender_sent, reply.sender_error) == (to_ntp(NOW_NS), to_ntp(NOW_NS), ERROR)
    assert reply.sent == to_ntp(NOW_NS + 1000)
    assert of.counts == {"answered": 2}


def test_each_session_has_a_count_of_its_own() -> None:
    of = made()
    seen = []
    for sender, ssid in ((("10.0.0.7", 1), 1), (("10.0.0.7", 1), 2), (("10.0.0.7", 2), 1), (("10.0.0.8", 1), 1)):
        for number in range(2):
            found = of.answer(packet(request(number, ssid), sender), 0.0, NOW_NS)
            assert found is not None
            seen.append(found[2])
    assert seen == [0, 1] * 4


@pytest.mark.parametrize(
    ("reason", "octets", "other"),
    [
        ("short", request()[:43], {}),
        ("short", b"", {}),
        ("long", request() + bytes(1429), {}),
        ("to_many", request(), {"to_many": True}),
        ("not_allowed", request(), {"sender": ("192.0.2.1", 40_000)}),
        ("not_allowed", request(), {"sender": ("2001:db8::1", 40_000)}),
        ("from_reflector", request(), {"sender": ("10.0.0.7", 862)}),
        ("from_reflector", request(), {"sender": ("10.0.0.7", 8620)}),
        ("from_reflector", stamp.pack_reply(Reply(0, to_ntp(NOW_NS), 1, 1, to_ntp(NOW_NS), 0, 0, 1, 255)), {}),
    ],
)
def test_no_answer(reason: str, octets: bytes, other: dict[str, object]) -> None:
    of = made(ports=(862, 8620))
    assert answered(of, octets, **other) is None
    assert of.counts == {reason: 1}
    assert of.kept[1] == 0
    assert reason in REASONS


def test_private_addresses_are_allowed_at_first() -> None:
    of = made()
    for address in ("127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.1.1", "::1", "fd00::1", "fe80::1%eth0"):
        assert answered(of, request(), sender=(address, 40_000)) is not None, address
    assert answered(made(allow=[ip_network("192.0.2.0/24")]), request(), sender=("10.0.0.7", 1)) is None


def test_under_a_key_a_wrong_hmac_gets_nothing_and_leaves_nothing() -> None:
    of = made(key=KEY)
    for octets in (request(key=b"x" * 32), request() + bytes(68)):
        assert of.answer(packet(octets), 0.0, NOW_NS) is None
    assert (of.counts, of.kept[1]) == ({"hmac": 2}, 0)

    found = of.answer(packet(request(3, key=KEY)), 0.0, NOW_NS)
    assert found is not None
    assert stamp.parse_reply(found[0], KEY).sender_sequence == 3


def test_forged_packets_take_no_token_of_the_address_that_they_name() -> None:
    of = made(key=KEY, per_source=10, per_second=20)
    for _ in range(100):
        assert of.answer(packet(request(key=b"x" * 32)), 0.0, NOW_NS) is None
    assert (of.counts, of.kept) == ({"hmac": 100}, (0, 0))

    assert sum(of.answer(packet(request(key=KEY)), 0.0, NOW_NS) is not None for _ in range(20)) == 10
    assert of.counts == {"hmac": 100, "answered": 10, "source_rate": 10}


def test_a_forged_packet_costs_one_short_hmac_however_long_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    signed: list[int] = []
    sign = stamp.sign

    def counting(octets: bytes, key: bytes) -> bytes:
        signed.append(len(octets))
        return sign(octets, key)

    forged = request(key=b"x" * 32) + stamp.pack_tlvs([Tlv(0x80, 3, bytes(4)), Tlv(0x80, 99, bytes(1300))], 0, KEY)
    monkeypatch.setattr(stamp, "sign", counting)

    assert made(key=KEY).answer(packet(forged), 0.0, NOW_NS) is None

    assert signed == [96]


def test_a_bucket_holds_a_second_of_tokens() -> None:
    bucket = TokenBucket(10, 0.0)
    assert sum(bucket.take(0.0) for _ in range(100)) == 10
    assert sum(bucket.take(0.5) for _ in range(100)) == 5
    assert sum(bucket.take(1000.0) for _ in range(100)) == 10
    slow = TokenBucket(0.5, 0.0)
    assert [slow.take(second) for second in (0, 1, 2, 3, 4)] == [True, False, True, False, True]


def test_a_flood_of_forged_senders_is_answered_at_the_buckets_rate_and_memory_stays_flat() -> None:
    of = made(per_second=100, per_source=10)
    octets_in = octets_out = 0
    for number in range(50_000):
        sender = (f"10.{number % 200}.{number // 200 % 250}.7", 1024 + number % 60_000)
        octets = request(number, ssid=number % 65_536)
        octets_in += len(octets)
        found = of.answer(packet(octets, sender), number / 50_000, NOW_NS)
        octets_out += len(found[0]) if found else 0

    assert of.counts["answered"] in (199, 200)  # a full bucket, and what ran into it in a second
    assert of.counts["rate"] + of.counts["answered"] == 50_000
    assert octets_out <= octets_in * 200 / 50_000
    assert of.kept == (reflector.MOST_SOURCES, of.counts["answered"])


def test_one_address_takes_no_more_than_its_share() -> None:
    of = made(per_second=100, per_source=10)
    assert sum(answered(of, request(), sender=("10.0.0.7", 1000 + port)) is not None for port in range(99)) == 10
    assert of.counts == {"answered": 10, "source_rate": 89}
    assert answered(of, request(), sender=("10.0.0.8", 1000)) is not None


def numbers(of: Reflector, *ssids: int, now_s: float = 0.0) -> list[int]:
    """The numbers of the replies to a probe of each session."""
    found = [of.answer(packet(request(0, ssid)), now_s, NOW_NS) for ssid in ssids]
    return [answer[2] for answer in found if answer is not None]


def test_with_all_room_taken_the_session_that_was_quiet_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "MOST_SESSIONS", 100)
    of = made(per_second=10_000, per_source=10_000)
    assert numbers(of, *range(100)) == [0] * 100
    assert numbers(of, 0) == [1]

    assert numbers(of, 1000) == [0]  # takes the place of 1

    assert of.kept[1] == 100
    assert numbers(of, 0, 1000, 2, 1) == [2, 1, 1, 0]
    assert numbers(of, *range(2000, 3000)) == [0] * 1000
    assert of.kept[1] == 100


def test_a_session_that_was_idle_too_long_begins_again() -> None:
    of = made()
    seen = [numbers(of, 7, now_s=now_s) for now_s in (0, reflector.IDLE_S, 2 * reflector.IDLE_S + 1)]
    assert seen == [[0], [1], [0]]
    assert of.kept[1] == 1


@given(st.binary(max_size=1600), st.sampled_from([None, KEY]), st.booleans())
@settings(max_examples=300, deadline=None)
def test_whatever_comes_gets_one_answer_of_its_own_length_or_none(octets: bytes, key: bytes | None, sign: bool) -> None:
    if key and sign and len(octets) > 112:
        octets = octets[:96] + stamp.sign(octets[:96], key) + octets[112:]
    of = made(key=key)
    found = of.answer(packet(octets), 0.0, NOW_NS)
    assert found is None or len(found[0]) == len(octets)
    assert sum(of.counts.values()) == 1


def test_two_reflectors_that_face_each_other_do_not_loop() -> None:
    """On ports of their own choice, neither of which the other knows, by a packet forged in the name of one."""

    async def faced() -> tuple[dict[str, int], dict[str, int]]:
        async with reflecting() as (_, one), reflecting() as (second, two):
            # What the first sends to the second, because of a packet in the second's name.
            forged = one.answer(packet(request(), second, time_ns=time.time_ns()), time.monotonic(), time.time_ns())
            assert forged is not None
            one.counts.clear()
            relay = await asyncio_dgram.connect(second)
            for octets in (forged[0], request()):
                await relay.send(octets)
            # The second's answer to the plain request, sent on to the first as if the second had.
            answer, _ = await asyncio.wait_for(relay.recv(), 10)
            assert one.answer(packet(answer, second), time.monotonic(), time.time_ns()) is None
            relay.close()
            return dict(one.counts), dict(two.counts)

    one, two = asyncio.run(faced())

    assert one == {"from_reflector": 1}
    assert two == {"from_reflector": 1, "answered": 1}


@pytest.mark.skipif(not hasattr(socket, "MSG_ERRQUEUE"), reason="Linux only")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_it_answers_from_the_address_that_was_asked_with_the_same_class_and_full_ttl(
    family: socket.AddressFamily,
) -> None:
    """As a socket of the standard library sees it."""
    v4 = family == socket.AF_INET
    local = "127.0.0.9" if v4 else "::1"

    async def ask() -> tuple[bytes, tuple[str, int], dict[int, int]]:
        (opened,) = reflector.listen([(family, ("0.0.0.0" if v4 else "::", 0))])
        port = opened.socket.getsockname()[1]
        with (
            reflector.ReflectorSocket(Reflector(Rules(), time.monotonic()), opened),
            socket.socket(family, socket.SOCK_DGRAM) as asking,
        ):
            level = socket.IPPROTO_IP if v4 else socket.IPPROTO_IPV6
            asking.setsockopt(level, socket.IP_TOS if v4 else socket.IPV6_TCLASS, 46 << 2 | 1)
            for option in (12, 13) if v4 else (socket.IPV6_RECVHOPLIMIT, socket.IPV6_RECVTCLASS):
                asking.setsockopt(level, option, 1)
            asking.sendto(request(), (local, port))
            asking.setblocking(False)
            ready = asyncio.Event()
            asyncio.get_running_loop().add_reader(asking, ready.set)
            await asyncio.wait_for(ready.wait(), 10)
            octets, ancillary, _, sender = asking.recvmsg(2000, 200)
            asyncio.get_running_loop().remove_reader(asking)
            return octets, sender[:2], {kind: body[0] for _, kind, body in ancillary}

    octets, sender, control = asyncio.run(ask())

    assert len(octets) == 44
    assert sender[0] == local
    ttl, tos = (2, 1) if v4 else (socket.IPV6_HOPLIMIT, socket.IPV6_TCLASS)
    assert (control[ttl], control[tos]) == (255, 46 << 2)  # ECN is the network's
    assert struct.unpack_from("!B", octets, 40) == (64,)  # the TTL that the request came with


@pytest.mark.skipif(not hasattr(socket, "MSG_ERRQUEUE"), reason="Linux only")
def test_a_broadcast_gets_no_answer() -> None:
    async def ask() -> dict[str, int]:
        (opened,) = reflector.listen([(socket.AF_INET, ("0.0.0.0", 0))])
        of = Reflector(Rules(), time.monotonic())
        with reflector.ReflectorSocket(of, opened), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            asking.sendto(request(), ("127.255.255.255", opened.socket.getsockname()[1]))
            for _ in range(1000):
                if of.counts:
                    break
                await asyncio.sleep(0.01)
        return dict(of.counts)

    assert asyncio.run(ask()) == {"to_many": 1}


def test_another_implementation_reads_its_answer() -> None:
    """scapy's, over asyncio-dgram."""
    scapy = pytest.importorskip("scapy.contrib.stamp", reason="scapy has the layouts")

    async def ask() -> bytes:
        async with reflecting() as (address, _):
            stream = await asyncio_dgram.connect(address)
            asked = scapy.STAMPSessionSenderTestUnauthenticated(seq=7, ssid=99)
            await stream.send(bytes(asked))
            octets, _ = await asyncio.wait_for(stream.recv(), 10)
            stream.close()
            return bytes(octets)

    got = scapy.STAMPSessionReflectorTestUnauthenticated(asyncio.run(ask()))

    assert (got.seq, got.seq_sender, got.ssid, got.ttl_sender) == (0, 7, 99, 64)
    assert abs(got.ts_rx - got.ts) < 60
