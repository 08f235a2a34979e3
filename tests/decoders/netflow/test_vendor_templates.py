"""Templates as vendors announce them, where the letter of the standards leaves something open."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Any

import pytest

from decoders.errors import Reason
from tests.decoders.netflow.support import (
    BASE,
    NOW,
    REVERSE,
    Collector,
    Spec,
    base,
    in_set,
    ipfix,
    options_template,
    template,
    v9,
)
from tests.decoders.support import address

CERT = 6_871
SECOND = 1_000_000
COUNTS: list[Spec] = [(2, 4), (1, 4)]
V4 = address("10.0.0.1"), address("10.0.0.2")
V6 = address("2001:db8::1"), address("2001:db8::2")


def packed(*addresses: str) -> bytes:
    return b"".join(ip_address(one).packed for one in addresses)


OF_V4, OF_V6 = packed("10.0.0.1", "10.0.0.2"), packed("2001:db8::1", "2001:db8::2")


def only(specs: list[Spec], record: bytes, *, seconds: int = NOW) -> dict[str, Any]:
    """The row of one IPFIX record."""
    (row,) = Collector().decode(ipfix(template(256, specs), in_set(256, record), seconds=seconds))
    return row


# Headers


@pytest.mark.parametrize("outer_first", [4, 6])
def test_a_header_of_one_family_within_the_other_is_a_tunnel(outer_first: int) -> None:
    v4: list[Spec] = [(8, 4), (12, 4), (4, 1)]
    v6: list[Spec] = [(27, 16), (28, 16), (4, 1)]
    if outer_first == 4:
        specs, record, outer, inner = v4 + v6, OF_V4 + b"\x29" + OF_V6 + b"\x06", V4, V6
    else:
        specs, record, outer, inner = v6 + v4, OF_V6 + b"\x04" + OF_V4 + b"\x06", V6, V4

    row = only(specs + COUNTS, record + struct.pack("!II", 5, 500))

    assert (row["src_ip"], row["dst_ip"], row["ip_protocol"], row["tunnel"]) == (*inner, 6, "ipip")
    assert (row["outer_src_ip"], row["outer_dst_ip"]) == outer


@pytest.mark.parametrize("family", [4, 6])
def test_a_template_for_both_families_is_no_tunnel_if_one_is_zero(family: int) -> None:
    specs: list[Spec] = [(8, 4), (12, 4), (27, 16), (28, 16), (4, 1), *COUNTS]
    record = OF_V4 + bytes(32) if family == 4 else bytes(8) + OF_V6

    row = only(specs, record + struct.pack("!BII", 6, 5, 500))

    assert (row["src_ip"], row["dst_ip"], row["ip_protocol"]) == (*(V4 if family == 4 else V6), 6)
    assert (row["outer_src_ip"], row["outer_dst_ip"], row["tunnel"]) == (bytes(16), bytes(16), "none")


def test_without_a_second_header_the_ports_are_those_of_the_first() -> None:
    header: list[Spec] = [(8, 4), (12, 4), (4, 1), (7, 2), (11, 2)]

    row = only(header * 2 + COUNTS, OF_V4 + struct.pack("!BHH", 6, 1000, 443) + bytes(13) + struct.pack("!II", 5, 500))

    assert (row["src_ip"], row["dst_ip"]) == V4
    assert (row["ip_protocol"], row["src_port"], row["dst_port"], row["tunnel"]) == (6, 1000, 443, "none")


@pytest.mark.parametrize(("element", "protocol"), [(32, 1), (139, 58)])
def test_an_icmp_type_without_protocol_and_ports_is_icmp(element: int, protocol: int) -> None:
    row = only([(8, 4), (12, 4), (element, 2), *COUNTS], OF_V4 + struct.pack("!HII", 0x0301, 5, 500))

    assert (row["ip_protocol"], row["icmp_type"], row["icmp_code"]) == (protocol, 3, 1)


# Times


@pytest.mark.parametrize(
    ("specs", "record", "milliseconds"),
    [
        ([(22, 4), (21, 4)], struct.pack("!II", 2_666_793_230, 2_666_794_300), 1_070),
        ([(21, 4), (22, 4)], struct.pack("!II", 30, 2**32 - 70), 100),
        ([(22, 4), (21, 4), (161, 4)], struct.pack("!III", 5_000, 25_269, 20_269), 20_269),
        ([(161, 4)], struct.pack("!I", 20_269), 20_269),
    ],
)
def test_a_flow_has_its_length_where_nothing_says_when_uptimes_began(
    specs: list[Spec], record: bytes, milliseconds: int
) -> None:
    row = only(BASE + specs, base() + record)

    assert (row["flow_start"], row["flow_end"]) == (NOW * SECOND - milliseconds * 1000, NOW * SECOND)


def test_uptimes_that_run_backwards_are_a_problem() -> None:
    collector = Collector()

    collector.decode(ipfix(template(256, [*BASE, (22, 4), (21, 4)]), in_set(256, base() + struct.pack("!II", 2, 1))))

    assert collector.problems == {Reason.TIME: 1}


def test_an_exporter_that_started_within_the_second_of_the_header() -> None:
    row = only([*BASE, (22, 4), (21, 4), (160, 8)], base() + struct.pack("!iiQ", -9_000, -8_000, NOW * 1000 + 700))

    assert (row["flow_start"], row["flow_end"]) == ((NOW - 9) * SECOND + 700_000, (NOW - 8) * SECOND + 700_000)


@pytest.mark.parametrize(("elements", "per_second"), [((154, 155), 10**6), ((156, 157), 10**9)])
def test_microseconds_and_nanoseconds_may_count_from_1970(elements: tuple[int, int], per_second: int) -> None:
    specs: list[Spec] = [*BASE, *((element, 8) for element in elements)]

    row = only(specs, base() + struct.pack("!QQ", (NOW - 2) * per_second, (NOW - 1) * per_second))

    assert (row["flow_start"], row["flow_end"]) == ((NOW - 2) * SECOND, (NOW - 1) * SECOND)


# Counts


def test_counts_of_the_outgoing_side_stand_in_for_zeros() -> None:
    row = only([(8, 4), (12, 4), *COUNTS, (24, 4), (23, 4)], OF_V4 + struct.pack("!IIII", 0, 0, 5, 500))

    assert (row["packets"], row["bytes"]) == (5, 500)


TOTALS: list[Spec] = [(8, 4), (12, 4), (86, 8), (85, 8)]


def total(packets: int, octets: int) -> bytes:
    return OF_V4 + struct.pack("!QQ", packets, octets)


def counted(specs: list[Spec], *records: bytes) -> list[int]:
    return [row["bytes"] for row in Collector().decode(ipfix(template(256, TOTALS + specs), in_set(256, *records)))]


def test_a_flow_that_ended_is_followed_by_another_between_the_same_ends() -> None:
    active, ended = b"\x02", b"\x03"

    assert counted(
        [(136, 1)], total(3, 300) + active, total(5, 500) + ended, total(7, 700) + active, total(9, 950) + active
    ) == [300, 200, 700, 250]


def test_a_flow_that_began_after_the_last_one_ended_is_another() -> None:
    def times(start: int, end: int) -> bytes:
        return struct.pack("!QQ", (NOW + start) * 1000, (NOW + end) * 1000)

    assert counted(
        [(152, 8), (153, 8)],
        total(3, 300) + times(-30, -20),
        total(5, 500) + times(-30, -10),
        total(7, 700) + times(-5, -1),
    ) == [300, 200, 700]


def test_a_short_flow_was_not_reported_before() -> None:
    start, end = (NOW - 303) * 1000, (NOW - 302) * 1000

    assert counted([(152, 8), (153, 8)], total(3, 300) + struct.pack("!QQ", start, end)) == [300]


def test_the_clock_of_its_exporter_says_whether_a_flow_was_reported_before() -> None:
    collector = Collector()
    collector.time_us += 10**9 * SECOND  # the capture is replayed long after
    times = struct.pack("!QQ", (NOW - 30) * 1000, NOW * 1000)

    (row,) = collector.decode(ipfix(template(256, [*TOTALS, (152, 8), (153, 8)]), in_set(256, total(3, 300) + times)))

    assert row["bytes"] == 300


def test_yaf_ends_a_flow_with_each_record_and_has_flags_of_its_own() -> None:
    back = 0x4000
    specs: list[Spec] = [
        (8, 4), (12, 4), (86, 8), (85, 8), (86, 8, REVERSE), (85, 8, REVERSE), (152, 8), (4, 1), (5, 1),
        (5, 1, REVERSE), (14, 1, CERT), (15, 1, CERT), (14 | back, 1, CERT), (15 | back, 1, CERT),
    ]  # fmt: skip
    old = struct.pack("!Q", (NOW - 3600) * 1000)
    record = total(4, 172) + struct.pack("!QQ", 2, 92) + old + bytes([6, 8, 0, 0xC2, 0x11, 0x12, 0x01])

    there, here, *again = Collector().decode(ipfix(template(256, specs), in_set(256, record, record)))

    assert (there["bytes"], there["tcp_flags"], there["tos"]) == (172, 0xD3, 8)
    assert (here["src_ip"], here["bytes"], here["tcp_flags"], here["tos"]) == (V4[1], 92, 0x13, 0)
    assert [row["bytes"] for row in again] == [172, 92]


# Scopes of options


@pytest.mark.parametrize(
    ("scope", "values"),
    [
        ([(1, 0)], b""),  # Junos
        ([(1, 4), (2, 4), (3, 4), (4, 4), (5, 4)], struct.pack("!5I", 7, 0, 0, 0, 0)),
    ],
)
def test_the_scope_system_is_the_exporter_whatever_its_length(scope: list[Spec], values: bytes) -> None:
    (row,) = Collector().decode(
        v9(options_template(256, scope, [(34, 4)], version=9), in_set(256, values + struct.pack("!I", 500)), source=6),
        v9(template(257, BASE, version=9), in_set(257, base()), source=0),
    )

    assert (row["sampling_rate"], row["rate_source"]) == (500, "options")


def test_the_scope_template_may_have_four_octets() -> None:
    rows = Collector().decode(
        v9(options_template(256, [(5, 4)], [(34, 4)], version=9), in_set(256, struct.pack("!II", 257, 500))),
        v9(
            template(257, BASE, version=9),
            template(258, BASE, version=9),
            in_set(257, base()),
            in_set(258, base()),
            sequence=1,
        ),
    )

    assert [row["sampling_rate"] for row in rows] == [500, 1]


@pytest.mark.parametrize("element", [10, 14, 252, 253])
def test_an_interface_in_the_scope_may_be_of_any_kind(element: int) -> None:
    rows = Collector().decode(
        ipfix(options_template(256, [(element, 4)], [(34, 4)]), in_set(256, struct.pack("!II", 3, 500))),
        ipfix(
            template(257, [*BASE, (10, 4), (14, 4)]),
            in_set(257, base() + struct.pack("!II", 3, 4), base() + struct.pack("!II", 5, 6)),
            sequence=1,
        ),
    )

    assert [row["sampling_rate"] for row in rows] == [500, 1]
