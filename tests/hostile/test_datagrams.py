"""Datagrams that no exporter would send: nothing raises, what is left out is counted, neighbours lose nothing."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from decoders.datagrams import Datagrams, address_halves
from decoders.decoder import Decoder
from decoders.errors import Reason
from decoders.sessions import S_DUPLICATES, S_LOST, S_RESTARTS
from decoders.shared import Decoded
from tests.decoders.netflow.support import BASE, base, in_set, ipfix, options_template, record5, template, v5, v9
from tests.decoders.sflow.support import datagram, flow_sample, header
from tests.decoders.support import payloads, rows
from tests.hostile.messages import GOOD, LARGEST, TIME_US, among, check_unharmed, good, spoofed

STEMS = ["ovs_netflow5", "softflowd_v9", "ovs_ipfix_tunnel", "ovs_sflow_mixed"]
ETHERNET = bytes.fromhex("020000000002020000000001")


def problems_of(decoder: Decoder, sender: str) -> dict[Reason, int]:
    """What was counted of one sender, all its streams together."""
    sessions = decoder.shared.sessions
    mine = (sessions.key[:, :2] == np.array(address_halves(sender), np.uint64)).all(axis=1)
    totals = sessions.problems[mine].sum(axis=0)
    return {reason: int(totals[reason]) for reason in Reason if totals[reason]}


def check_quiet(decoder: Decoder) -> None:
    """No decoder raised, and nothing is said of the good exporter that others caused."""
    sessions = decoder.shared.sessions
    assert sessions.problems[:, Reason.INTERNAL].sum() == 0
    mine = (sessions.key[:, :2] == np.array(address_halves(GOOD), np.uint64)).all(axis=1)
    assert sessions.stats[mine][:, [S_LOST, S_DUPLICATES, S_RESTARTS]].sum() == 0


def decode(*messages: bytes) -> tuple[Decoded, dict[Reason, int]]:
    """Decode datagrams of one sender; returns what was counted, too."""
    decoder = Decoder()
    decoded = decoder.decode(Datagrams.of((message, spoofed(1), 1, TIME_US) for message in messages))
    return decoded, problems_of(decoder, spoofed(1))


@pytest.mark.parametrize("stem", STEMS)
def test_a_datagram_cut_at_every_octet_is_counted_and_harms_nobody(stem: str) -> None:
    whole = max((payload for payload, *_ in payloads(stem)[:40]), key=len)
    bad = [(whole[:cut], spoofed(cut), 1, TIME_US) for cut in range(len(whole))]
    decoder = Decoder()

    check_unharmed([decoder.decode(among(bad, good()))])
    check_quiet(decoder)
    silent = [cut for cut in range(len(whole)) if not problems_of(decoder, spoofed(cut))]
    assert silent == []


@pytest.mark.parametrize("stem", STEMS)
def test_every_bit_flipped_harms_nobody_and_gives_no_more_rows_than_fit(stem: str) -> None:
    first = payloads(stem)[0][0][:400]
    bad = []
    for bit in range(8 * len(first)):
        octets = bytearray(first)
        octets[bit // 8] ^= 1 << bit % 8
        bad.append((bytes(octets), spoofed(bit), 1, TIME_US))
    decoder = Decoder()
    decoded = decoder.decode(among(bad, good()))

    check_unharmed([decoded])
    check_quiet(decoder)
    assert sum(part.num_rows for part in decoded.flows) <= 2 * sum(len(one) for one, *_ in bad) + 10_000


def test_random_bytes_of_all_lengths_are_counted_and_harm_nobody() -> None:
    random = np.random.default_rng(6)
    bad = []
    for number in range(3_000):
        size = LARGEST if number % 1_000 == 0 else int(random.integers(0, 1_500))
        octets = random.bytes(size)
        if number % 2:
            octets = (b"\0\5", b"\0\x09", b"\0\x0a", b"\0\0\0\5\0\0\0\1")[number // 2 % 4] + octets[8:]
        bad.append((octets[:LARGEST], spoofed(number), 1, TIME_US))
    decoder = Decoder()

    check_unharmed([decoder.decode(among(bad, good()))])
    check_quiet(decoder)
    # Nothing that is random passes as a whole message of any protocol.
    assert [one for one, sender, *_ in bad if not problems_of(decoder, sender)] == []


def test_the_largest_datagrams_give_exactly_the_records_that_fit() -> None:
    known = template(256, BASE)
    fit = (LARGEST - 16 - len(known) - 4) // len(base())
    decoded, problems = decode(ipfix(known, in_set(256, *[base()] * fit)))
    assert sum(part.num_rows for part in decoded.flows) == fit
    assert problems == {}

    sample = flow_sample(header(ETHERNET + b"\x08\0" + bytes(20)))
    fit = (LARGEST - 28) // len(sample)
    decoded, problems = decode(datagram(*[sample] * fit))
    assert sum(part.num_rows for part in decoded.flows) == fit
    assert Reason.INTERNAL not in problems


@pytest.mark.parametrize(
    ("message", "records", "reason"),
    [
        (v5(record5(), count=65_535), 1, Reason.COUNT_MISMATCH),
        (datagram(flow_sample(header(ETHERNET + b"\x08\0" + bytes(20))), count=0xFFFFFFFF), 1, Reason.COUNT),
        (v9(template(256, BASE, version=9), in_set(256, base()), count=65_535), 1, Reason.COUNT_MISMATCH),
        (ipfix(template(256, BASE), in_set(256, base()), length=65_535), 0, Reason.MESSAGE_LENGTH),
        (ipfix(template(256, [(1, 4)] * 1_001)), 0, Reason.TEMPLATE_FIELDS),
        (ipfix(in_set(2, struct.pack("!HH", 256, 65_535) + bytes(60_000))), 0, Reason.TEMPLATE_MALFORMED),
        (ipfix(in_set(2, struct.pack("!HH", 256, 900) + bytes(40))), 0, Reason.TEMPLATE_MALFORMED),
        (ipfix(template(256, [(8, 0), (12, 0)]), in_set(256, bytes(60_000))), 0, Reason.TEMPLATE_EMPTY),
        (ipfix(in_set(2, struct.pack("!HH", 256, 0))), 0, Reason.WITHDRAWAL),
        (ipfix(in_set(256)[:2] + b"\0\0" + bytes(60_000)), 0, Reason.SET_LENGTH),
    ],
    ids=range(10),
)
def test_counts_and_lengths_that_lie_are_counted(message: bytes, records: int, reason: Reason) -> None:
    decoded, problems = decode(message)

    assert sum(part.num_rows for part in decoded.flows) == records
    assert problems.get(reason, 0) >= 1
    assert Reason.INTERNAL not in problems


def test_a_field_of_no_bytes_beside_others_does_not_shift_them() -> None:
    specs = [(8, 4), (82, 0), (12, 4), (7, 2), (11, 2), (4, 1), (2, 4), (1, 4), (10, 0)]
    decoded, problems = decode(ipfix(template(256, [*specs]), in_set(256, base(last=7))))

    (row,) = rows(decoded.flows)
    assert (row["src_ip"][-4:], row["dst_ip"][-4:]) == (bytes([10, 0, 0, 7]), bytes([10, 0, 0, 99]))
    assert (row["src_port"], row["dst_port"], row["packets"], row["bytes"]) == (1000, 2000, 3, 300)
    assert problems == {}


def vxlan(inner: bytes) -> bytes:
    """An Ethernet frame in Ethernet, IPv4, UDP and VXLAN."""
    ip = struct.pack("!BBHHHBBH4B4B", 0x45, 0, min(len(inner) + 36, 65_535), 1, 0, 64, 17, 0, *[192, 0, 2, 1] * 2)
    udp = struct.pack("!4H", 40_000, 4_789, min(len(inner) + 16, 65_535), 0)
    return ETHERNET + b"\x08\0" + ip + udp + b"\x08\0\0\0\0\0\x2a\0" + inner


def in_ip(inner: bytes) -> bytes:
    """IPv4 in IPv4."""
    size = min(len(inner) + 20, 65_535)
    return struct.pack("!BBHHHBBH4B4B", 0x45, 0, size, 1, 0, 64, 4, 0, *[192, 0, 2, 1] * 2) + inner


@pytest.mark.parametrize("layer", [vxlan, in_ip])
def test_a_thousand_tunnels_in_one_another_end_at_the_limit(layer: object) -> None:
    assert callable(layer)
    frame = ETHERNET + b"\x08\0" + in_ip(b"") if layer is vxlan else in_ip(b"")
    for _ in range(1_000):
        frame = layer(frame)
    if layer is in_ip:
        frame = ETHERNET + b"\x08\0" + frame
    decoded, problems = decode(datagram(flow_sample(header(frame))))

    assert len(rows(decoded.flows)) == 1
    assert problems == {Reason.NESTING: 1}


def test_extension_headers_without_end_end() -> None:
    ip = struct.pack("!IHBB", 6 << 28, 60_000, 0, 64) + bytes(15) + b"\1" + bytes(15) + b"\2"
    frame = ETHERNET + b"\x86\xdd" + ip + bytes(8) * 7_000
    tags = ETHERNET + bytes.fromhex("81000001") * 10_000
    labels = ETHERNET + bytes.fromhex("8847") + bytes(4) * 10_000
    for hostile in (frame, tags, labels):
        decoded, problems = decode(datagram(flow_sample(header(hostile))))
        assert len(rows(decoded.flows)) == 1
        assert Reason.INTERNAL not in problems


def test_options_that_describe_themselves_end() -> None:
    """Options data whose scope is the template that it came with, announced again in each set."""
    one = options_template(256, [(145, 2)], [(303, 2)]) + in_set(256, struct.pack("!HH", 256, 256))
    decoded, problems = decode(ipfix(*[one] * 1_500))

    assert decoded.flows == []
    assert Reason.INTERNAL not in problems
