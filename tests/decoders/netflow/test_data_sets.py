"""NetFlow v9 and IPFIX by hand: value encodings, times, biflows, sampling, names, padding, damage."""

from __future__ import annotations

import struct
from ipaddress import IPv6Network
from typing import Any

import pytest

from decoders.errors import Reason
from decoders.overrides import ExporterRule
from decoders.sessions import S_LOST, S_RECORDS, S_RESTARTS, S_SAMPLING_RATE, S_TEMPLATES
from tests.decoders.netflow.support import (
    BASE,
    NOW,
    OVS,
    REVERSE,
    Collector,
    Spec,
    V,
    base,
    in_set,
    ipfix,
    options_template,
    template,
    v9,
)
from tests.decoders.support import address

NOW_US = NOW * 1_000_000
ENDS: list[Spec] = [(8, 4), (12, 4)]
ENDS_VALUE = bytes([10, 0, 0, 1, 10, 0, 0, 2])


def one(specs: list[Spec], value: bytes, *, version: int = 10, **header: Any) -> dict[str, Any]:
    """The row of one record that has `specs` behind its addresses."""
    sets = (template(256, ENDS + specs, version=version), in_set(256, ENDS_VALUE + value))
    collector = Collector()
    (row,) = collector.decode(ipfix(*sets, **header) if version == 10 else v9(*sets, count=2, **header))
    return row


@pytest.mark.parametrize("version", [9, 10])
def test_the_usual_fields(version: int) -> None:
    specs: list[Spec] = [
        (7, 2), (11, 2), (4, 1), (2, 4), (1, 8), (6, 1), (5, 1), (10, 2), (14, 4), (56, 6), (80, 6), (58, 2), (61, 1),
        (136, 1), (192, 1), (184, 4), (352, 8), (256, 2),
    ]  # fmt: skip
    value = struct.pack(
        "!HHBIQBBHI6s6sHBBBIQH", 1000, 443, 6, 5, 500, 0x1B, 0xB8, 7, 9, b"RT\0\1\2\3", b"RT\0\4\5\6", 10, 1, 2, 63,
        0x01020304, 570, 0x0800,
    )  # fmt: skip
    row = one(specs, value, version=version)

    assert row["protocol"] == {9: "netflow9", 10: "ipfix"}[version]
    assert (row["exporter"], row["domain"]) == (address("192.0.2.9"), 1)
    assert (row["src_ip"], row["dst_ip"]) == (address("10.0.0.1"), address("10.0.0.2"))
    assert (row["src_port"], row["dst_port"], row["ip_protocol"]) == (1000, 443, 6)
    assert (row["packets"], row["bytes"], row["frame_bytes"], row["samples"]) == (5, 500, 570, 5)
    assert (row["tcp_flags"], row["tos"], row["ttl"], row["tcp_seq"]) == (0x1B, 0xB8, 63, 0x01020304)
    assert (row["in_if"], row["out_if"], row["out_kind"]) == (7, 9, "index")
    assert (row["src_mac"], row["dst_mac"]) == (0x525400010203, 0x525400040506)
    assert (row["vlan"], row["direction"], row["end_reason"], row["ether_type"]) == (10, "egress", 2, 0x0800)
    assert (row["sampling_rate"], row["rate_source"]) == (1, "unstated")
    assert row["time_received"] == row["flow_start"] == row["flow_end"] == NOW_US


@pytest.mark.parametrize("size", range(1, 9))
def test_reduced_size_numbers(size: int) -> None:
    """RFC 7011 section 6.2: any length up to the full one."""
    number = int.from_bytes(bytes(range(0x11, 0x11 + min(size, 6))), "big")

    row = one([(1, size), (2, size)], number.to_bytes(size, "big") * 2)

    assert row["bytes"] == row["packets"] == number
    assert row["samples"] == min(number, 0xFFFFFFFF)


def test_numbers_that_are_too_long_are_absent_unless_the_rest_is_zero() -> None:
    assert one([(2, 12)], bytes(4) + (77).to_bytes(8, "big"))["packets"] == 77
    assert one([(2, 12)], b"\1" + bytes(3) + (77).to_bytes(8, "big"))["packets"] == 0
    assert one([(10, 8)], (1 << 40).to_bytes(8, "big"))["in_if"] == 0
    assert one([(56, 8), (2, 1)], bytes(8) + b"\5")["src_mac"] == 0
    assert one([(27, 4), (2, 1)], bytes(4) + b"\5")["packets"] == 5


@pytest.mark.parametrize("long_form", [False, True])
def test_variable_length_fields_are_walked(long_form: bool) -> None:
    def text(value: bytes) -> bytes:
        head = b"\xff" + struct.pack("!H", len(value)) if long_form else bytes([len(value)])
        return head + value

    specs: list[Spec] = [(371, V), (8, 4), (82, V), (12, 4), (95, V), (2, 4)]
    records = [
        text(b"user" * n)
        + bytes([10, 0, 0, n])
        + text(b"eth%d" % n)
        + bytes([10, 0, 1, n])
        + text(b"")
        + bytes([0, 0, 0, n])
        for n in range(1, 5)
    ]
    found = Collector().decode(ipfix(template(300, specs), in_set(300, *records, pad=bytes(3))))

    assert [row["in_if_name"] for row in found] == ["eth1", "eth2", "eth3", "eth4"]
    assert [row["packets"] for row in found] == [1, 2, 3, 4]
    assert found[3]["dst_ip"] == address("10.0.1.4")


def test_structured_data_is_skipped_by_its_length() -> None:
    """YAF sends basicList, subTemplateList and subTemplateMultiList in its flow records."""
    row = one(
        [(293, V), (2, 4), (292, V), (291, V), (1, 4)],
        b"\x0a" + bytes(10) + b"\0\0\0\5" + b"\3\3\1\1" + b"\1\0" + b"\0\0\0\6",
    )

    assert (row["packets"], row["bytes"]) == (5, 6)


@pytest.mark.parametrize("long_form", [False, True])
def test_records_are_right_behind_lists_of_any_length(long_form: bool) -> None:
    """RFC 6313 section 4.5; the lists hold addresses and counts, which are not those of the flow."""

    def field(value: bytes) -> bytes:
        head = b"\xff" + struct.pack("!H", len(value)) if long_form or len(value) > 254 else bytes([len(value)])
        return head + value

    def lists(entries: int) -> bytes:
        basic = b"\x03" + struct.pack("!HH", 8, 4) + bytes([10, 9, 9, 9]) * entries
        sub = b"\x03" + struct.pack("!H", 257) + (bytes([10, 9, 9, 9]) + b"\0\0\0\x63") * entries
        multi = b"\x03" + struct.pack("!HH", 257, 4 + 8 * entries) + (bytes([10, 9, 9, 9]) + b"\0\0\0\x63") * entries
        return field(basic if entries else b"") + field(sub) + field(multi)

    collector = Collector()
    found = collector.decode(
        ipfix(
            template(256, [(8, 4), (291, V), (292, V), (293, V), (12, 4), (2, 4)]),
            template(257, [(8, 4), (2, 4)]),
            in_set(256, *(bytes([10, 0, 0, n]) + lists(n) + bytes([10, 0, 1, n, 0, 0, 0, n]) for n in (1, 0, 90, 2))),
        )
    )

    assert [row["packets"] for row in found] == [1, 0, 90, 2]
    assert [row["src_ip"] for row in found] == [address(f"10.0.0.{n}") for n in (1, 0, 90, 2)]
    assert [row["dst_ip"] for row in found] == [address(f"10.0.1.{n}") for n in (1, 0, 90, 2)]
    assert (collector.problems, collector.stat(S_RECORDS)) == ({}, 4)


@pytest.mark.parametrize("version", [9, 10])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_directions_and_flags_of_several_records(version: int, size: int) -> None:
    values = (
        (0, "ingress", 0x02),
        (1, "egress", 0x10),
        (2, "unknown", 0xFF),
        (255, "unknown", 0),
        (0, "ingress", 0x1B),
    )
    specs: list[Spec] = [*ENDS, (61, size), (6, size), (2, 1)]
    records = [
        ENDS_VALUE + number.to_bytes(size, "big") + flags.to_bytes(size, "big") + b"\5" for number, _, flags in values
    ]
    sets = template(256, specs, version=version), in_set(256, *records)

    found = Collector().decode(ipfix(*sets) if version == 10 else v9(*sets, count=6))

    assert [(row["direction"], row["tcp_flags"]) for row in found] == [(name, flags) for _, name, flags in values]


def test_zero_length_fields_hold_nothing() -> None:
    row = one([(2, 0), (1, 0), (86, 4), (82, 0)], b"\0\0\0\7")

    assert (row["packets"], row["bytes"], row["in_if_name"]) == (7, 0, "")


def test_enterprise_elements_with_a_known_number_are_not_that_element() -> None:
    row = one([(2, 4, 9), (1, 4, 12_345), (2, 4)], b"\0\0\0\1\0\0\0\2\0\0\0\3")

    assert (row["packets"], row["bytes"]) == (3, 0)


def test_v9_vendor_types_are_skipped_by_length() -> None:
    row = one([(33_000, 12), (40_005, 1), (57_590, 2), (2, 4)], bytes(range(15)) + b"\0\0\0\3", version=9)

    assert row["packets"] == 3


def test_v9_types_from_128_on_count_only_with_a_plausible_length() -> None:
    moment = (NOW_US // 1_000 - 4_000).to_bytes(8, "big")

    assert one([(152, 8), (2, 4)], moment + b"\0\0\0\3", version=9)["flow_start"] == NOW_US - 4_000_000
    assert one([(152, 4), (2, 4)], b"\x12\x34\x56\x78\0\0\0\3", version=9)["flow_start"] == NOW_US


def ntp(us: int) -> bytes:
    return struct.pack("!II", us // 1_000_000 + 2_208_988_800, ((us % 1_000_000 << 32) + 999_999) // 1_000_000)


START, END = NOW_US - 5_123_457, NOW_US - 1_000_001
START_MS, END_MS = START // 1_000, END // 1_000
BOOT_MS = NOW * 1_000 - 60_000
SINCE_BOOT = (NOW_US - 55_000_000, NOW_US - 51_000_000)


@pytest.mark.parametrize(
    ("specs", "value", "expected"),
    [
        ([(150, 4), (151, 4)], struct.pack("!II", NOW - 9, NOW - 2), (NOW_US - 9_000_000, NOW_US - 2_000_000)),
        ([(152, 8), (153, 8)], struct.pack("!QQ", START_MS, END_MS), (START_MS * 1_000, END_MS * 1_000)),
        ([(154, 8), (155, 8)], ntp(START) + ntp(END), (START, END)),
        ([(156, 8), (157, 8)], ntp(START) + ntp(END), (START, END)),
        ([(158, 4), (159, 4)], struct.pack("!II", 4_000_000, 1_500), (NOW_US - 4_000_000, NOW_US - 1_500)),
        ([(152, 8), (161, 4)], struct.pack("!QI", START_MS, 3_000), (START_MS * 1_000, START_MS * 1_000 + 3_000_000)),
        ([(162, 4), (155, 8)], struct.pack("!I", 2_500_001) + ntp(END), (END - 2_500_001, END)),
        ([(160, 8), (22, 4), (21, 4)], struct.pack("!QII", BOOT_MS, 5_000, 9_000), SINCE_BOOT),
        ([(22, 4), (21, 4), (160, 8)], struct.pack("!IIQ", 5_000, 9_000, BOOT_MS), SINCE_BOOT),
        ([(22, 4), (21, 4)], struct.pack("!II", 5_000, 9_000), (NOW_US - 4_000_000, NOW_US)),
        ([(323, 8)], struct.pack("!Q", NOW * 1000 - 7), (NOW_US - 7_000, NOW_US - 7_000)),
        ([(152, 8)], struct.pack("!Q", NOW * 1000 - 7), (NOW_US - 7_000, NOW_US)),
        ([(153, 8)], struct.pack("!Q", NOW * 1000 - 7), (NOW_US - 7_000, NOW_US - 7_000)),
        ([(152, 8), (153, 8)], bytes(16), (NOW_US, NOW_US)),
    ],
)  # fmt: skip
def test_times(specs: list[Spec], value: bytes, expected: tuple[int, int]) -> None:
    row = one(specs, value)

    assert (row["flow_start"] - NOW_US, row["flow_end"] - NOW_US) == (expected[0] - NOW_US, expected[1] - NOW_US)


def test_init_time_from_an_options_record() -> None:
    collector = Collector()
    found = collector.decode(
        ipfix(options_template(400, [(144, 4)], [(160, 8)]), in_set(400, struct.pack("!IQ", 1, NOW * 1000 - 60_000))),
        ipfix(
            template(256, [*ENDS, (22, 4), (21, 4)]),
            in_set(256, ENDS_VALUE + struct.pack("!II", 5_000, 9_000)),
            sequence=1,
        ),
    )

    assert [(row["flow_start"], row["flow_end"]) for row in found] == [(NOW_US - 55_000_000, NOW_US - 51_000_000)]


def test_v9_uptimes_wrap() -> None:
    row = one([(22, 4), (21, 4)], struct.pack("!II", 0xFFFFFFFF - 999, 500), version=9, uptime=1_000)

    assert (row["flow_start"], row["flow_end"]) == (NOW_US - 2_000_000, NOW_US - 500_000)


@pytest.mark.parametrize(
    ("value", "start", "end"),
    [
        ((NOW * 1000, NOW * 1000 - 5), NOW_US, NOW_US),
        ((NOW * 1000 - 5, NOW * 1000 + 60_000), NOW_US - 5_000, NOW_US),
        ((1 << 62, NOW * 1000 - 5), NOW_US - 5_000, NOW_US - 5_000),
        ((1 << 62, 1 << 63), NOW_US, NOW_US),
    ],
)
def test_impossible_times_are_clamped_and_counted(value: tuple[int, int], start: int, end: int) -> None:
    collector = Collector()
    sets = (template(256, [*ENDS, (152, 8), (153, 8)]), in_set(256, ENDS_VALUE + struct.pack("!QQ", *value)))

    (row,) = collector.decode(ipfix(*sets))

    assert (row["flow_start"], row["flow_end"]) == (start, end)
    assert collector.problems == {Reason.TIME: 1}


def test_a_start_slightly_after_the_header_is_also_the_end_where_none_is_stated() -> None:
    collector = Collector()
    sets = (template(256, [*ENDS, (152, 8)]), in_set(256, ENDS_VALUE + struct.pack("!Q", NOW * 1000 + 2_000)))

    (row,) = collector.decode(ipfix(*sets))

    assert (row["flow_start"], row["flow_end"]) == (NOW_US + 2_000_000, NOW_US + 2_000_000)
    assert collector.problems == {}


@pytest.mark.parametrize("known", [(352, 1), (1,), (85,)])
def test_totals_only_where_there_is_no_delta(known: tuple[int, ...]) -> None:
    specs: list[Spec] = [(85, 4), (86, 4), *((number, 4) for number in known if number != 85)]
    row = one(specs, b"\0\0\0\x55\0\0\0\x56" + b"\0\0\0\x11" * (len(specs) - 2))

    assert row["bytes"] == (0x55 if known == (85,) else 0x11)
    assert row["packets"] == 0x56
    assert row["frame_bytes"] == (0x11 if 352 in known else 0)


def test_counts_behind_the_observation_point_stand_back_for_those_before_it() -> None:
    row = one([(23, 4), (24, 4), (1, 4), (2, 4)], struct.pack("!IIII", 1, 2, 3, 4))

    assert (row["bytes"], row["packets"]) == (3, 4)


def test_initiator_and_responder_are_two_rows() -> None:
    """Cisco ASA teardown: 231, 232 and ends; counts of the responder are the reverse direction."""
    specs: list[Spec] = [
        *ENDS,
        (7, 2),
        (11, 2),
        (4, 1),
        (10, 2),
        (14, 2),
        (231, 4),
        (232, 4),
        (298, 4),
        (299, 4),
        (152, 8),
        (323, 8),
        (233, 1),
    ]
    value = ENDS_VALUE + struct.pack(
        "!HHBHHIIIIQQB", 1000, 443, 6, 3, 4, 111, 222, 1, 2, NOW * 1000 - 9, NOW * 1000 - 3, 2
    )
    collector = Collector()

    forward, back = collector.decode(v9(template(263, specs, version=9), in_set(263, value), count=2))

    assert (forward["bytes"], forward["packets"], back["bytes"], back["packets"]) == (111, 1, 222, 2)
    assert (forward["src_ip"], forward["src_port"], forward["in_if"]) == (
        back["dst_ip"],
        back["dst_port"],
        back["out_if"],
    )
    assert (back["src_ip"], back["src_port"], back["in_if"]) == (address("10.0.0.2"), 443, 4)
    assert {(row["flow_start"], row["flow_end"]) for row in (forward, back)} == {(NOW_US - 9_000, NOW_US - 3_000)}
    assert collector.stat(S_RECORDS) == 1


def test_reverse_elements_are_a_second_row() -> None:
    specs: list[Spec] = [
        *ENDS, (56, 6), (80, 6), (7, 2), (11, 2), (4, 1), (2, 4), (1, 4), (6, 2), (152, 8), (153, 8), (10, 4), (14, 4),
        (2, 4, REVERSE), (1, 4, REVERSE), (6, 2, REVERSE), (152, 8, REVERSE), (153, 8, REVERSE), (192, 1, REVERSE),
    ]  # fmt: skip

    def value(packets: int) -> bytes:
        return ENDS_VALUE + struct.pack(
            "!6s6sHHBIIHQQIIIIHQQB", b"RT\0\0\0\1", b"RT\0\0\0\2", 5, 6, 6, 10, 1000, 0x02, NOW * 1000 - 9,
            NOW * 1000 - 1, 3, 4, packets, packets * 90, 0x12, NOW * 1000 - 8, NOW * 1000 - 2, 60,
        )  # fmt: skip

    found = Collector().decode(ipfix(template(256, specs), in_set(256, value(0), value(7), value(0))))

    assert [row["packets"] for row in found] == [10, 10, 7, 10]
    back = found[2]
    assert (back["bytes"], back["tcp_flags"], back["ttl"], back["samples"]) == (630, 0x12, 60, 7)
    assert (back["src_mac"], back["dst_mac"], back["src_port"], back["dst_port"]) == (
        0x525400000002,
        0x525400000001,
        6,
        5,
    )
    assert (back["in_if"], back["out_if"], back["out_kind"]) == (4, 3, "index")
    assert (back["flow_start"], back["flow_end"]) == (NOW_US - 8_000, NOW_US - 2_000)
    assert (back["src_ip"], back["dst_ip"], back["ether_type"]) == (address("10.0.0.2"), address("10.0.0.1"), 0x0800)
    assert found[3]["tcp_flags"] == 0x02


def test_interface_names_belong_to_the_interface_before_them() -> None:
    def names(specs: list[Spec], value: bytes) -> tuple[str, str]:
        row = one(specs, value)
        return row["in_if_name"], row["out_if_name"]

    a, b = b"a\0\0\0", b"bb\0\0"
    assert names([(10, 4), (82, 4), (14, 4), (82, 4)], bytes(4) + a + bytes(4) + b) == ("a", "bb")
    assert names([(14, 4), (82, 4)], bytes(4) + b) == ("", "bb")
    assert names([(82, 4), (82, 4)], a + b) == ("a", "bb")
    assert names([(10, 4), (14, 4), (82, 4), (82, 4)], bytes(8) + a + b) == ("a", "bb")


def test_open_vswitch_tunnel_elements() -> None:
    specs: list[Spec] = [(893, 4, OVS), (894, 4, OVS), (891, 1, OVS), (892, V, OVS), (2, 4)]
    for kind, name in ((1, "vxlan"), (2, "gre"), (7, "geneve"), (4, "other"), (0, "none")):
        row = one(specs, bytes([192, 0, 2, 1, 192, 0, 2, 2, kind, 3, 0, 0x13, 0x89]) + b"\0\0\0\1")

        assert (row["tunnel"], row["vni"]) == (name, 5001)
        assert (row["outer_src_ip"], row["outer_dst_ip"]) == (address("192.0.2.1"), address("192.0.2.2"))


def test_layer_2_segment_id() -> None:
    assert [one([(351, 8), (2, 1)], bytes([kind, 0, 0, 0, 0, 0, 0x13, 0x89, 1]))["tunnel"] for kind in (1, 2, 0)] == [
        "vxlan", "nvgre", "none",
    ]  # fmt: skip
    assert one([(351, 8), (2, 1)], bytes([1, 0, 0, 0, 0, 0, 0x13, 0x89, 1]))["vni"] == 5001


@pytest.mark.parametrize(
    ("specs", "value", "expected"),
    [
        ([(4, 1), (7, 2), (11, 2)], struct.pack("!BHH", 1, 0, 0x0301), (3, 1)),
        ([(4, 1), (32, 2), (11, 2)], struct.pack("!BHH", 1, 0x0800, 0), (8, 0)),
        ([(4, 1), (32, 2), (139, 2)], struct.pack("!BHH", 58, 0, 0x8000), (128, 0)),
        ([(4, 1), (176, 1), (177, 1)], bytes([1, 11, 1]), (11, 1)),
        ([(4, 1), (178, 1), (179, 1)], bytes([58, 1, 4]), (1, 4)),
    ],
)
def test_icmp_type_and_code(specs: list[Spec], value: bytes, expected: tuple[int, int]) -> None:
    row = one(specs, value)

    assert (row["icmp_type"], row["icmp_code"]) == expected
    assert (row["src_port"], row["dst_port"]) == (0, 0)


def test_other_sources_of_the_same_columns() -> None:
    assert one([(195, 1)], b"\x2e")["tos"] == 0xB8
    assert one([(52, 1)], b"\x40")["ttl"] == 64
    assert one([(81, 6), (57, 6)], bytes(range(12)))["src_mac"] == 0x000102030405
    assert one([(243, 2)], b"\0\x0a")["vlan"] == 10
    assert one([(58, 2), (243, 2), (59, 2)], b"\0\0\0\x0a\0\x0b")["vlan"] == 10
    assert one([(252, 4), (253, 4)], b"\0\0\0\5\0\0\0\6")["out_if"] == 6
    assert one([(180, 2), (181, 2), (182, 2), (183, 2)], bytes([0, 0, 0, 0, 0, 9, 0, 8]))["dst_port"] == 8
    assert one([(88, 2)], b"\0\xb9")["fragment"] == 2
    assert one([(2, 4), (133, 4)], b"\0\0\0\5\0\0\0\2")["drop_hint_packets"] == 2
    dropped = one([(89, 1), (2, 4), (14, 4)], b"\x80\0\0\0\5\0\0\0\7")
    assert (dropped["out_kind"], dropped["drop_hint_packets"]) == ("discarded", 5)
    assert one([(89, 1), (2, 4), (14, 4)], b"\x40\0\0\0\5\0\0\0\7")["out_kind"] == "index"
    assert one([(61, 1)], b"\xff")["direction"] == "unknown"


def test_both_address_families_in_one_template() -> None:
    specs: list[Spec] = [(8, 4), (12, 4), (27, 16), (28, 16), (2, 4)]
    v6 = address("2001:db8::1") + address("2001:db8::2")
    found = Collector().decode(
        ipfix(template(256, specs), in_set(256, ENDS_VALUE + bytes(32) + b"\0\0\0\1", bytes(8) + v6 + b"\0\0\0\2"))
    )

    assert [(row["src_ip"], row["ether_type"]) for row in found] == [
        (address("10.0.0.1"), 0x0800),
        (address("2001:db8::1"), 0x86DD),
    ]


def test_records_without_address_are_counted_and_left_out() -> None:
    specs: list[Spec] = [(8, 4), (12, 4), (56, 6), (2, 4)]
    values = [
        bytes(14) + b"\0\0\0\1",
        ENDS_VALUE + bytes(6) + b"\0\0\0\2",
        bytes(14) + b"\0\0\0\3",
        bytes(8) + b"RT\0\0\0\1" + b"\0\0\0\4",
        bytes(4) + b"\xff\xff\xff\xff" + bytes(6) + b"\0\0\0\5",
    ]
    collector = Collector()
    found = collector.decode(
        ipfix(template(256, specs), in_set(256, *values)),
        ipfix(in_set(256, *values), sequence=5),
    )

    assert [row["packets"] for row in found] == [2, 4, 5] * 2
    assert found[0]["samples"] == 2
    assert collector.problems == {Reason.NO_ADDRESS: 4}
    assert collector.stat(S_LOST) == 0


@pytest.mark.parametrize(
    ("specs", "value", "rate"),
    [
        ([(34, 4)], struct.pack("!I", 512), 512),
        ([(50, 4), (49, 1)], struct.pack("!IB", 100, 2), 100),
        ([(305, 4), (306, 4)], struct.pack("!II", 1, 999), 1000),
        ([(309, 4), (310, 4)], struct.pack("!II", 2, 129), 65),
        ([(311, 8)], struct.pack("!d", 0.001), 1000),
        ([(311, 4)], struct.pack("!f", 0.25), 4),
    ],
)
def test_rates_in_records_and_in_options(specs: list[Spec], value: bytes, rate: int) -> None:
    row = one([(2, 4), *specs], b"\0\0\0\5" + value)
    assert (row["sampling_rate"], row["rate_source"], row["packets"], row["samples"]) == (rate, "record", 5, 5)

    collector = Collector()
    before = collector.decode(ipfix(template(256, BASE), in_set(256, base())))
    collector.decode(ipfix(options_template(400, [(144, 4)], specs), in_set(400, bytes(4) + value), sequence=1))
    after = collector.decode(ipfix(in_set(256, base()), sequence=2))

    assert [(r["sampling_rate"], r["rate_source"]) for r in before + after] == [(1, "unstated"), (rate, "options")]
    assert collector.stat(S_SAMPLING_RATE) == rate


def test_a_rate_of_zero_is_no_rate() -> None:
    for specs, value in (([(34, 4)], bytes(4)), ([(305, 4), (306, 4)], bytes(8)), ([(311, 8)], bytes(8))):
        row = one([(2, 4), *specs], b"\0\0\0\5" + value)
        assert (row["sampling_rate"], row["rate_source"]) == (1, "unstated")


@pytest.mark.parametrize(("number", "size"), [(48, 1), (48, 2), (302, 8)])
def test_samplers_are_joined_by_their_id(number: int, size: int) -> None:
    """As Cisco sends them: an options template with scope system, and the id in each data record."""
    version = 9 if number == 48 else 10
    message = v9 if version == 9 else ipfix
    rate: Spec = (50, 4) if version == 9 else (34, 4)
    scope: list[Spec] = [(1, 0)] if version == 9 else [(144, 4)]

    def sampler(identity: int, interval: int) -> bytes:
        head = b"" if version == 9 else bytes(4)
        return head + identity.to_bytes(size, "big") + struct.pack("!I", interval)

    specs = [*BASE, (number, size)]
    records = [base(last=n) + n.to_bytes(size, "big") for n in (1, 2, 3, 0)]
    collector = Collector()
    found = collector.decode(
        message(options_template(257, scope, [(number, size), rate], version=version), sequence=1),
        message(in_set(257, sampler(1, 100), sampler(2, 200)), sequence=2),
        message(template(256, specs, version=version), in_set(256, *records), sequence=3 if version == 9 else 4),
    )

    assert [(r["sampling_rate"], r["rate_source"]) for r in found] == [
        (100, "options"), (200, "options"), (1, "unstated"), (1, "unstated"),
    ]  # fmt: skip


def test_samplers_of_interfaces() -> None:
    collector = Collector()
    specs = [*BASE, (10, 4), (14, 4)]
    rates = [struct.pack("!II", interface, rate) for interface, rate in ((7, 70), (9, 90))]
    found = collector.decode(
        ipfix(options_template(257, [(10, 4)], [(34, 4)]), in_set(257, *rates)),
        ipfix(
            template(256, specs),
            in_set(256, *(base() + struct.pack("!II", *ports) for ports in ((7, 1), (1, 9), (2, 3)))),
            sequence=2,
        ),
    )

    assert [row["sampling_rate"] for row in found] == [70, 90, 1]


def test_an_override_wins() -> None:
    collector = Collector(rules=(ExporterRule(IPv6Network("::/0"), sampling_rate=64),))

    (row,) = collector.decode(ipfix(template(256, [*BASE, (34, 4)]), in_set(256, base() + b"\0\0\0\x10")))

    assert (row["sampling_rate"], row["rate_source"]) == (64, "override")


@pytest.mark.parametrize(("element", "head"), [(315, b"RT\0\0\0\2RT\0\0\0\1\x08\0"), (313, b"")])
def test_packet_sections_are_taken_apart(element: int, head: bytes) -> None:
    packet = (
        head
        + bytes.fromhex("4500003c00004000400600000a0000010a000002")
        + struct.pack("!HHIIBBHHH", 5, 80, 7, 0, 0x50, 2, 0, 0, 0)
    )
    specs: list[Spec] = [(element, V), (302, 8)]

    (row,) = Collector().decode(ipfix(template(256, specs), in_set(256, bytes([len(packet)]) + packet + bytes(8))))

    assert (row["src_ip"], row["dst_ip"], row["src_port"], row["dst_port"]) == (
        address("10.0.0.1"),
        address("10.0.0.2"),
        5,
        80,
    )
    assert (row["packets"], row["samples"], row["tcp_flags"], row["ip_protocol"]) == (1, 1, 2, 6)
    assert row["src_mac"] == (0x525400000001 if head else 0)


def test_padding_is_ignored_whatever_it_holds() -> None:
    for pad in (b"", bytes(3), b"\xff\xff\xff", bytes(20)):
        collector = Collector()
        assert len(collector.decode(ipfix(template(256, BASE), in_set(256, base(), base(), pad=pad)))) == 2
        assert collector.problems == {}


def test_zero_padding_of_tiny_records_is_no_record() -> None:
    specs: list[Spec] = [(56, 1), (4, 1)]
    collector = Collector()
    collector.decode(ipfix(template(256, specs), in_set(256, b"\1\2", b"\1\2", pad=bytes(2))))
    collector.decode(ipfix(in_set(256, b"\1\2"), sequence=2))

    assert collector.stat(S_LOST) == 0
    assert collector.stat(S_RECORDS) == 3


def test_v9_keeps_the_sets_before_a_bad_one() -> None:
    collector = Collector()
    found = collector.decode(
        v9(
            template(256, BASE, version=9),
            in_set(256, base()),
            struct.pack("!HH", 256, 3),
            in_set(256, base()),
            count=3,
        )
    )

    assert len(found) == 1
    assert collector.problems == {Reason.SET_LENGTH: 1}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (ipfix(template(256, BASE), in_set(256, base()), struct.pack("!HH", 256, 3)), Reason.SET_LENGTH),
        (ipfix(template(256, BASE), in_set(256, base()), struct.pack("!HH", 256, 5)), Reason.SET_LENGTH),
        (ipfix(template(256, BASE), in_set(256, base()), length=200), Reason.MESSAGE_LENGTH),
        (ipfix(template(256, BASE), in_set(256, base()), length=15), Reason.MESSAGE_LENGTH),
        (
            ipfix(template(256, [*BASE, (82, V)]), in_set(256, base() + b"\1a", base() + b"\7a")),
            Reason.FIELD_OVERRUN,
        ),
    ],
)
def test_a_malformed_ipfix_message_is_discarded_whole(message: bytes, reason: Reason) -> None:
    collector = Collector()

    assert collector.decode(message) == []
    assert collector.problems == {reason: 1}
    assert collector.stat(S_RECORDS) == 0
    good = ipfix(template(256, BASE), in_set(256, base(packets=9)), sequence=77)
    assert [row["packets"] for row in collector.decode(good)] == [9]
    assert collector.stat(S_LOST) == 0


def test_bytes_behind_an_ipfix_message() -> None:
    first = ipfix(template(256, BASE), in_set(256, base(packets=1)))
    second = ipfix(in_set(256, base(packets=2)), sequence=1)
    collector = Collector()

    assert [row["packets"] for row in collector.decode(first + second + b"junk")] == [1, 2]
    assert collector.problems == {Reason.TRAILING: 1}
    other = ipfix(template(256, BASE), in_set(256, base(packets=3)), domain=2)
    found = collector.decode(ipfix(in_set(256, base()), sequence=2) + other)
    assert [row["domain"] for row in found] == [1, 2]


def test_reserved_sets_are_skipped_and_counted() -> None:
    collector = Collector()

    assert len(collector.decode(ipfix(in_set(7, bytes(8)), template(256, BASE), in_set(256, base()), in_set(0)))) == 1
    assert collector.problems == {Reason.RESERVED_SET: 2}


def test_every_truncation_of_a_v9_datagram() -> None:
    whole = v9(template(256, BASE, version=9), in_set(256, base(1), base(2)), in_set(256, base(3)), count=4)
    for size in range(len(whole)):
        collector = Collector()
        found = collector.decode(whole[:size])
        assert [row["packets"] for row in found] in ([], [1, 2])
        assert sum(collector.problems.values()) <= 2


def test_every_truncation_of_an_ipfix_message() -> None:
    whole = ipfix(template(256, [*BASE, (82, V)]), in_set(256, base(1) + b"\2ab", base(2) + b"\0"))
    for size in range(len(whole)):
        collector = Collector()
        assert collector.decode(whole[:size]) == []
        assert sum(collector.problems.values()) == 1
        body = bytearray(whole[:size])
        if size >= 16:
            body[2:4] = struct.pack("!H", size)
            assert collector.decode(bytes(body)) == []


def test_sequences_count_data_records_lost() -> None:
    collector = Collector()
    collector.decode(ipfix(template(256, BASE), in_set(256, base(), base()), sequence=10))
    collector.decode(ipfix(in_set(256, base()), sequence=12), ipfix(in_set(256, base()), sequence=18))

    assert collector.stat(S_LOST) == 5

    collector.decode(v9(sequence=7, count=0), v9(sequence=8, count=0), v9(sequence=11, count=0), port=9)

    assert collector.stat(S_LOST) == 7


def test_data_that_cannot_be_counted_makes_no_loss() -> None:
    collector = Collector()
    collector.decode(
        ipfix(template(256, BASE), in_set(256, base()), sequence=10),
        ipfix(in_set(999, bytes(400)), sequence=11),
        ipfix(in_set(256, base()), sequence=51),
        ipfix(in_set(256, base()), sequence=52),
    )

    assert collector.stat(S_LOST) == 0


def test_domains_that_share_a_sequence_make_no_loss() -> None:
    collector = Collector()
    for domain in (1, 2, 3):
        collector.decode(ipfix(template(256, BASE), sequence=0, domain=domain))
    for sequence in range(60):
        collector.decode(ipfix(in_set(256, base()), sequence=sequence, domain=1 + sequence % 3))

    assert collector.stat(S_LOST) == 0

    for sequence in range(65, 80):
        collector.decode(ipfix(in_set(256, base()), sequence=sequence, domain=1 + sequence % 2))

    assert collector.stat(S_LOST) == 5


def test_domains_with_sequences_of_their_own_make_no_loss() -> None:
    collector = Collector()
    for step in range(40):
        for domain in (1, 2):
            sets = (template(256, BASE), in_set(256, *[base()] * domain))
            collector.decode(ipfix(*sets, sequence=step * domain, domain=domain))

    assert collector.stat(S_LOST) == 0


def test_duplicates_are_dropped_whole() -> None:
    collector = Collector()
    first = ipfix(template(256, BASE), in_set(256, base()), sequence=5)
    second = ipfix(in_set(256, base()), sequence=6)

    assert len(collector.decode(first, second, first, second)) == 2
    assert collector.problems == {Reason.DUPLICATE: 2}
    assert (collector.stat(S_LOST), collector.stat(S_RECORDS)) == (0, 2)


def test_a_restarted_v9_exporter_loses_its_templates() -> None:
    collector = Collector()
    collector.decode(v9(template(256, BASE, version=9), sequence=50_000, uptime=90_000_000))
    assert collector.stat(S_TEMPLATES) == 1

    collector.time_us += 10_000_000
    assert collector.decode(v9(in_set(256, base()), sequence=1, uptime=1_000, seconds=NOW + 10)) == []
    assert (collector.stat(S_TEMPLATES), collector.stat(S_RESTARTS), collector.stat(S_LOST)) == (0, 1, 0)


def test_a_restarted_ipfix_exporter_keeps_its_templates_and_makes_no_loss() -> None:
    collector = Collector()
    collector.decode(ipfix(template(256, BASE), in_set(256, base()), sequence=50_000))

    assert len(collector.decode(ipfix(in_set(256, base()), sequence=1), ipfix(in_set(256, base()), sequence=2))) == 2
    assert (collector.stat(S_RESTARTS), collector.stat(S_LOST)) == (1, 0)


def test_skew_is_export_time_minus_receive_time() -> None:
    collector = Collector()
    collector.decode(ipfix(template(256, BASE), seconds=NOW + 3))

    assert 3_000_000 in collector.decoder.shared.sessions.skew_us.tolist()


def test_rows_beyond_a_batch_keep_their_order() -> None:
    collector = Collector()
    datagrams = [ipfix(template(256, [*BASE, (82, V)]))]
    datagrams += [
        ipfix(in_set(256, *(base(packets=40 * n + k) + b"\0" for k in range(40))), sequence=40 * n) for n in range(300)
    ]

    found = collector.decode(*datagrams)

    assert [row["packets"] for row in found] == list(range(12_000))
