"""What real exporters send beside the letter of the standards, and what is right of it."""

from __future__ import annotations

import struct
from ipaddress import IPv6Network, ip_address
from typing import Any

import pytest

from decoders.errors import Reason
from decoders.limits import Limits
from decoders.overrides import ExporterRule
from decoders.sessions import S_LOST, S_REORDERED, S_RESTARTS, S_TEMPLATES
from tests.decoders.netflow.support import (
    BASE,
    NOW,
    Collector,
    Spec,
    base,
    in_set,
    ipfix,
    options_template,
    record5,
    template,
    v5,
    v9,
)
from tests.decoders.support import address

IF = [*BASE, (10, 4), (14, 4)]
"""With interfaces."""
SECOND = 1_000_000


def text(value: bytes) -> str:
    found = ip_address(value)
    return str(getattr(found, "ipv4_mapped", None) or found)


def ends(row: dict[str, Any]) -> tuple[str, int, str, int, int]:
    return text(row["src_ip"]), row["src_port"], text(row["dst_ip"]), row["dst_port"], row["ip_protocol"]


def ipv4(*addresses: str) -> bytes:
    return b"".join(ip_address(one).packed for one in addresses)


def over(record: bytes, incoming: int, outgoing: int) -> bytes:
    """A record of `IF`."""
    return record + struct.pack("!II", incoming, outgoing)


# Elements named more than once: the outer header first (RFC 7011 section 8)


def test_of_two_headers_the_inner_one_is_the_flow() -> None:
    specs: list[Spec] = [(8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (5, 1)] * 2 + [(192, 1), (192, 1), (2, 4), (1, 4)]
    outer = ipv4("203.0.113.1", "203.0.113.2") + struct.pack("!HHBB", 51_000, 4789, 17, 0)
    inner = ipv4("10.1.1.1", "10.2.2.2") + struct.pack("!HHBB", 4000, 53, 17, 0x10)
    collector = Collector()

    (row,) = collector.decode(
        ipfix(template(300, specs), in_set(300, outer + inner + struct.pack("!BBII", 250, 60, 5, 500)))
    )

    assert ends(row) == ("10.1.1.1", 4000, "10.2.2.2", 53, 17)
    assert (row["tunnel"], text(row["outer_src_ip"]), text(row["outer_dst_ip"])) == (
        "vxlan",
        "203.0.113.1",
        "203.0.113.2",
    )
    assert (row["tos"], row["ttl"], row["packets"], row["bytes"]) == (0x10, 60, 5, 500)


def test_a_second_header_of_zeros_is_none() -> None:
    specs: list[Spec] = [(8, 4), (12, 4), (8, 4), (12, 4), (2, 4), (1, 4)]
    collector = Collector()

    (row,) = collector.decode(
        ipfix(template(300, specs), in_set(300, ipv4("10.0.0.1", "10.0.0.2") + bytes(8) + struct.pack("!II", 1, 60)))
    )

    assert (text(row["src_ip"]), text(row["dst_ip"]), row["tunnel"]) == ("10.0.0.1", "10.0.0.2", "none")
    assert row["outer_src_ip"] == row["outer_dst_ip"] == bytes(16)


def test_the_tenant_of_a_logical_switch_is_the_flow() -> None:
    vmware = 6876
    specs: list[Spec] = [
        (8, 4), (12, 4), (2, 8), (1, 8), (4, 1), (7, 2), (11, 2), (351, 8),
        (880, 1, vmware), (881, 4, vmware), (882, 4, vmware), (886, 2, vmware), (887, 2, vmware),
    ]  # fmt: skip
    outer = ipv4("203.0.113.1", "203.0.113.2") + struct.pack("!QQBHHQ", 9, 900, 17, 51_000, 4789, 5001)
    tenant = struct.pack("!B", 6) + ipv4("10.1.1.1", "10.1.1.2") + struct.pack("!HH", 40_000, 443)
    collector = Collector()

    (row,) = collector.decode(ipfix(template(261, specs), in_set(261, outer + tenant)))

    assert ends(row) == ("10.1.1.1", 40_000, "10.1.1.2", 443, 6)
    assert (row["tunnel"], row["vni"], text(row["outer_src_ip"])) == ("vxlan", 5001, "203.0.113.1")


# Counts


def test_what_only_leaves_is_counted_where_it_leaves() -> None:
    specs: list[Spec] = [(8, 4), (12, 4), (24, 4), (23, 4)]
    collector = Collector()

    (row,) = collector.decode(
        v9(template(256, specs, version=9), in_set(256, ipv4("10.0.0.1", "10.0.0.2") + struct.pack("!II", 7, 900)))
    )

    assert (row["packets"], row["bytes"]) == (7, 900)


TOTALS: list[Spec] = [(8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (86, 8), (85, 8)]


def total(packets: int, octets: int, port: int = 1) -> bytes:
    return ipv4("10.0.0.1", "10.0.0.2") + struct.pack("!HHBQQ", port, 2, 6, packets, octets)


def test_totals_become_what_came_since_the_last_report() -> None:
    collector = Collector()
    found = collector.decode(ipfix(template(256, TOTALS), in_set(256, total(3, 300), total(1, 50, 9))))
    found += collector.decode(ipfix(in_set(256, total(7, 700), total(2, 90, 9)), sequence=2))
    found += collector.decode(ipfix(in_set(256, total(1, 60)), sequence=4))  # it counts afresh

    assert [(row["src_port"], row["packets"], row["bytes"]) for row in found] == [
        (1, 3, 300), (9, 1, 50), (1, 4, 400), (9, 1, 40), (1, 1, 60)
    ]  # fmt: skip


def test_a_flow_that_was_reported_before_we_listened_is_counted_from_its_second_total_on() -> None:
    times: list[Spec] = [(152, 8), (153, 8)]
    old, late = (NOW - 3600) * 1000, NOW * 1000
    collector = Collector()

    first = collector.decode(
        ipfix(template(256, TOTALS + times), in_set(256, total(10**6, 10**9) + struct.pack("!QQ", old, late)))
    )
    (row,) = collector.decode(
        ipfix(in_set(256, total(10**6 + 1, 10**9 + 60) + struct.pack("!QQ", old, late)), sequence=1)
    )

    assert (first, collector.problems[Reason.TOTAL]) == ([], 1)
    assert (row["packets"], row["bytes"]) == (1, 60)


def test_the_total_of_a_teardown_does_not_count_its_updates_again() -> None:
    specs: list[Spec] = [(8, 4), (7, 2), (12, 4), (11, 2), (4, 1), (233, 1), (231, 4), (232, 4), (148, 4)]

    def event(kind: int, there: int, back: int, flow: int = 1) -> bytes:
        head = ipv4("10.0.0.1") + struct.pack("!H", 5000) + ipv4("10.0.0.2")
        return head + struct.pack("!HBBIII", 3128, 6, kind, there, back, flow)

    collector = Collector()
    found = collector.decode(
        v9(template(256, specs, version=9), in_set(256, event(1, 0, 0), event(5, 2557, 1117), event(5, 31, 0))),
        v9(in_set(256, event(2, 2600, 1117), event(2, 10, 20, flow=2)), sequence=1),
    )

    sums = {port: sum(row["bytes"] for row in found if row["src_port"] == port) for port in (5000, 3128)}
    assert sums == {5000: 2600 + 10, 3128: 1117 + 20}


@pytest.mark.parametrize("packets", [1 << 63, (1 << 53) + 1])
def test_a_count_that_cannot_be_is_in_no_sum(packets: int) -> None:
    specs: list[Spec] = [(8, 4), (12, 4), (2, 8), (1, 8)]
    collector = Collector()

    rows = collector.decode(
        ipfix(template(256, specs), in_set(256, ipv4("10.0.0.1", "10.0.0.2") + struct.pack("!QQ", packets, 60)))
    )

    assert (rows, collector.problems) == ([], {Reason.COUNT_ABSURD: 1})


# Restarts


def test_an_uptime_that_fell_and_a_lost_datagram_are_no_restart() -> None:
    """Line cards have uptimes of their own."""
    collector = Collector()
    collector.decode(v9(template(256, BASE, version=9), sequence=1, uptime=1_000_000))
    collector.time_us += 16 * SECOND

    rows = collector.decode(v9(in_set(256, base()), sequence=3, uptime=886_000, seconds=NOW + 16))

    assert (len(rows), collector.stat(S_RESTARTS), collector.stat(S_LOST)) == (1, 0, 1)


def test_a_datagram_that_is_seconds_late_is_no_restart() -> None:
    collector = Collector()
    collector.decode(v9(template(256, BASE, version=9), sequence=5000, uptime=1_000_000))
    collector.time_us += 30 * SECOND
    collector.decode(v9(in_set(256, base()), sequence=9000, uptime=1_030_000, seconds=NOW + 30))

    rows = collector.decode(v9(in_set(256, base()), sequence=5001, uptime=1_001_000, seconds=NOW + 1))

    assert (len(rows), collector.stat(S_RESTARTS), collector.stat(S_REORDERED)) == (1, 0, 1)


def test_an_uptime_that_wraps_is_no_restart() -> None:
    collector = Collector()
    collector.decode(v9(template(256, BASE, version=9), sequence=5, uptime=2**32 - 5_000))
    collector.time_us += 7200 * SECOND

    rows = collector.decode(v9(in_set(256, base()), sequence=7, uptime=7_195_000, seconds=NOW + 7200))

    assert (len(rows), collector.stat(S_RESTARTS)) == (1, 0)


def restarted(collector: Collector, *sets: bytes, sequence: int = 0) -> list[dict[str, Any]]:
    """A minute later, of an exporter that booted 2 s before."""
    collector.time_us += 60 * SECOND
    return collector.decode(v9(*sets, sequence=sequence, uptime=2_000, seconds=collector.time_us // SECOND))


@pytest.mark.parametrize("sequence", [0, 1, 30])
def test_a_boot_since_the_last_datagram_is_a_restart(sequence: int) -> None:
    collector = Collector()
    collector.decode(v9(template(256, BASE, version=9), sequence=10, uptime=900_000_000))

    assert restarted(collector, in_set(256, base()), sequence=sequence) == []
    assert (collector.stat(S_RESTARTS), collector.stat(S_TEMPLATES), collector.stat(S_LOST)) == (1, 0, 0)


def test_what_waits_for_a_template_belongs_to_one_life_of_its_exporter() -> None:
    collector = Collector()
    collector.decode(v9(in_set(256, base(), base()), sequence=1000, uptime=900_000_000))

    rows = restarted(collector, template(256, [(8, 4), (12, 4), (4, 1), (2, 4)], version=9))

    assert (rows, collector.problems[Reason.NO_TEMPLATE]) == ([], 1)


def test_what_waits_does_not_outlive_a_restart_of_ipfix_either() -> None:
    collector = Collector()
    collector.decode(ipfix(in_set(256, base()), sequence=1000))
    collector.time_us += 60 * SECOND

    rows = collector.decode(ipfix(template(256, [(8, 4), (12, 4), (4, 1), (2, 4)]), sequence=0, seconds=NOW + 60))

    assert (rows, collector.problems[Reason.NO_TEMPLATE]) == ([], 1)


# Sequence numbers that count something else


@pytest.mark.parametrize("with_templates", [False, True])
def test_records_in_the_numbers_of_v9_are_no_loss(with_templates: bool) -> None:
    collector = Collector()
    sequence = 7
    for turn in range(40):
        records = [base()] * (3 + turn % 5)
        sets = [in_set(256, *records)]
        if turn % 10 == 0:
            sets.insert(0, template(256, BASE, version=9))
        collector.decode(v9(*sets, sequence=sequence))
        sequence += len(records) + (turn % 10 == 0 and with_templates)

    assert (collector.stat(S_LOST), collector.stat(S_REORDERED), collector.stat(S_RESTARTS)) == (0, 0, 0)
    assert collector.problems[Reason.SEQUENCE_UNITS] >= 35


def test_messages_in_the_numbers_of_ipfix_are_not_late() -> None:
    collector = Collector()
    for turn in range(40):
        collector.decode(ipfix(template(256, BASE), in_set(256, *[base()] * (2 + turn % 3)), sequence=turn))

    assert (collector.stat(S_LOST), collector.stat(S_REORDERED), collector.stat(S_RESTARTS)) == (0, 0, 0)


def test_a_gap_as_large_as_the_last_datagram_is_loss_where_numbers_are_right() -> None:
    collector = Collector()
    collector.decode(v9(template(256, BASE, version=9)))
    for sequence in range(1, 20):
        collector.decode(v9(in_set(256, *[base()] * 5), sequence=sequence))

    collector.decode(v9(in_set(256, *[base()] * 5), sequence=24))

    assert (collector.stat(S_LOST), collector.problems) == (4, {})


# Sampling rates and their scopes


def rates(collector: Collector, *datagrams: bytes) -> list[int]:
    return [row["sampling_rate"] if row["rate_source"] != "unstated" else 0 for row in collector.decode(*datagrams)]


def test_a_rate_of_the_exporter_holds_where_no_interface_has_one() -> None:
    sets = (
        options_template(257, [(1, 4)], [(34, 4)], version=9),
        options_template(258, [(2, 4)], [(34, 4)], version=9),
        in_set(257, struct.pack("!II", 0, 100)),
        in_set(258, struct.pack("!II", 2, 500)),
    )
    data = in_set(256, over(base(), 2, 9), over(base(), 3, 9), over(base(), 9, 2))

    assert rates(Collector(), v9(*sets, template(256, IF, version=9), data)) == [500, 100, 500]


def test_a_rate_of_one_interface_is_not_that_of_others() -> None:
    sets = (options_template(258, [(2, 4)], [(34, 4)], version=9), in_set(258, struct.pack("!II", 2, 500)))

    assert rates(Collector(), v9(*sets, template(256, IF, version=9), in_set(256, over(base(), 3, 4)))) == [0]


def test_a_rate_of_the_exporter_is_that_of_its_other_domains_too() -> None:
    options = (options_template(257, [(1, 4)], [(34, 4)], version=9), in_set(257, struct.pack("!II", 0, 1000)))

    assert rates(
        Collector(), v9(*options, source=6), v9(template(256, BASE, version=9), in_set(256, base()), source=0)
    ) == [1000]


def test_a_rate_of_another_exporter_is_not_ours() -> None:
    collector = Collector()
    collector.decode(
        v9(options_template(257, [(1, 4)], [(34, 4)], version=9), in_set(257, struct.pack("!II", 0, 1000)))
    )
    data = v9(template(256, BASE, version=9), in_set(256, base()))

    assert [row["sampling_rate"] for row in collector.decode(data, sender="192.0.2.10")] == [1]
    assert [row["sampling_rate"] for row in collector.decode(data, port=6666)] == [1]


def test_rates_of_templates_are_kept_apart() -> None:
    options = (
        options_template(400, [(145, 2)], [(305, 4), (306, 4)]),
        in_set(400, struct.pack("!HII", 256, 1, 9), struct.pack("!HII", 257, 1, 999)),
    )
    data = (template(256, BASE), template(257, BASE), in_set(256, base()), in_set(257, base()))

    assert rates(Collector(), ipfix(*options, *data)) == [10, 1000]


def test_a_rate_of_a_domain_is_that_of_the_domain_it_names() -> None:
    options = (options_template(400, [(149, 4)], [(34, 4)]), in_set(400, struct.pack("!II", 5, 64)))
    data = (template(256, BASE), in_set(256, base()))

    assert rates(Collector(), ipfix(*options, domain=1), ipfix(*data, domain=5), ipfix(*data, domain=1)) == [64, 0]


def test_sixty_samplers_keep_their_rates_and_a_record_of_an_unknown_one_has_none() -> None:
    options = options_template(400, [(302, 4)], [(34, 4)])
    announced = in_set(400, *(struct.pack("!II", k, 1000 + k) for k in range(60)))
    data = in_set(256, *(base() + struct.pack("!I", k) for k in (*range(60), 99)))
    collector = Collector()

    found = rates(collector, ipfix(options, announced, template(256, [*BASE, (302, 4)]), data))

    assert found == [*range(1000, 1060), 0]


def test_a_rate_that_could_not_be_kept_is_counted() -> None:
    collector = Collector(Limits(sessions=8, sources=8, rates_per_session=16))
    options = options_template(400, [(302, 4)], [(34, 4)])

    collector.decode(ipfix(options, in_set(400, *(struct.pack("!II", k, 10) for k in range(20)))))

    assert collector.problems[Reason.RATE_LIMIT] == 4


def test_line_cards_have_rates_of_their_own() -> None:
    options = (options_template(257, [(3, 4)], [(34, 4)], version=9), in_set(257, struct.pack("!II", 7, 32)))
    data = in_set(256, base() + struct.pack("!I", 7), base() + struct.pack("!I", 8))

    assert rates(Collector(), v9(*options, template(256, [*BASE, (141, 4)], version=9), data)) == [32, 0]


@pytest.mark.parametrize("algorithm", [1, 3])
def test_an_interval_alone_is_the_rate(algorithm: int) -> None:
    options = (
        options_template(400, [(302, 4)], [(304, 2), (305, 4)]),
        in_set(400, struct.pack("!IHI", 1, algorithm, 1000)),
    )

    assert rates(Collector(), ipfix(*options, template(256, BASE), in_set(256, base()))) == [1000]


def test_the_sampling_of_v5_needs_no_mode() -> None:
    assert rates(Collector(), v5(record5(), sampling=100)) == [100]
    assert rates(Collector(), v5(record5(), sampling=0)) == [0]


def test_one_exporter_may_send_from_several_ports() -> None:
    collector = Collector(rules=(ExporterRule(IPv6Network("::ffff:192.0.2.9/128"), one_port=True),))
    collector.decode(v9(template(256, BASE, version=9)), port=1000)

    assert len(collector.decode(v9(in_set(256, base()), sequence=1), port=2000)) == 1
    collector.decode(v9(template(256, BASE, version=9)), port=1000, sender="192.0.2.10")
    assert collector.decode(v9(in_set(256, base()), sequence=1), port=2000, sender="192.0.2.10") == []


# Clocks


@pytest.mark.parametrize("seconds", [0, 1_200_000])
def test_a_header_clock_that_was_never_set_gives_way_to_the_time_of_receipt(seconds: int) -> None:
    specs: list[Spec] = [(8, 4), (12, 4), (2, 4), (1, 4), (22, 4), (21, 4)]
    record = ipv4("10.0.0.1", "10.0.0.2") + struct.pack("!IIII", 1, 60, 999_000, 999_500)
    collector = Collector()

    (row,) = collector.decode(v9(template(256, specs, version=9), in_set(256, record), seconds=seconds))

    assert (row["flow_start"], row["flow_end"]) == (NOW * SECOND - SECOND, NOW * SECOND - SECOND // 2)
    assert collector.problems == {Reason.CLOCK: 1}


def test_absolute_times_stand_before_the_clock_of_the_header() -> None:
    specs: list[Spec] = [(8, 4), (12, 4), (2, 4), (1, 4), (152, 8), (153, 8)]
    record = ipv4("10.0.0.1", "10.0.0.2") + struct.pack("!IIQQ", 1, 60, NOW * 1000 - 2000, NOW * 1000 - 1000)

    (row,) = Collector().decode(ipfix(template(256, specs), in_set(256, record), seconds=759_579_760))

    assert (row["flow_start"], row["flow_end"]) == ((NOW - 2) * SECOND, (NOW - 1) * SECOND)


# Templates


def test_a_malformed_redefinition_withdraws_the_template() -> None:
    collector = Collector()
    collector.decode(ipfix(template(256, BASE), in_set(256, base())))
    cut = in_set(2, struct.pack("!HH", 256, 40) + bytes([0, 8, 0, 4]))

    assert collector.decode(ipfix(cut, in_set(256, base()), sequence=1)) == []
    assert collector.problems == {Reason.TEMPLATE_MALFORMED: 1, Reason.HELD: 1}
    assert len(collector.decode(ipfix(template(256, BASE), in_set(256, base()), sequence=2))) == 2


def flood(first_domain: int, domains: int, each: int) -> list[bytes]:
    """Templates of one field, from made-up domains."""
    return [
        ipfix(*(template(256 + number, [(8, 4)]) for number in range(each)), domain=first_domain + domain)
        for domain in range(domains)
    ]


def test_a_full_table_has_room_for_an_exporter_that_comes_now_or_later() -> None:
    collector = Collector(Limits(sessions=64, sources=8, templates=256, templates_per_exporter=10_000))
    collector.decode(*flood(100, 8, 40), sender="198.51.100.1")

    for hours in (0, 1, 24):
        collector.time_us = (NOW + hours * 3600) * SECOND
        message = ipfix(template(256, BASE), in_set(256, base()), sequence=hours, seconds=NOW + hours * 3600)
        assert len(collector.decode(message)) == 1
        collector.decode(*flood(100 + hours, 8, 40), sender="198.51.100.1")
    assert len(collector.decoder.sets.templates) <= 256


def test_an_exporter_that_works_keeps_its_templates_in_a_flood() -> None:
    collector = Collector(Limits(sessions=64, sources=8, templates=256, templates_per_exporter=10_000))
    collector.decode(ipfix(template(256, BASE), in_set(256, base())))
    collector.time_us += 120 * SECOND
    collector.decode(ipfix(in_set(256, base()), sequence=1, seconds=NOW + 120))

    collector.decode(*flood(100, 32, 40), sender="198.51.100.1")

    assert len(collector.decode(ipfix(in_set(256, base()), sequence=2, seconds=NOW + 120))) == 1
    assert collector.decoder.sets.templates.displaced > 0


def test_one_address_cannot_take_all_the_room() -> None:
    collector = Collector(Limits(sessions=64, sources=8, templates=1_024, templates_per_exporter=128))

    collector.decode(*flood(100, 16, 40), sender="198.51.100.1")

    assert len(collector.decoder.sets.templates) <= 128


@pytest.mark.parametrize("redefined", [True, False])
def test_few_templates_of_many_fields_take_no_more_than_their_room(redefined: bool) -> None:
    collector = Collector(Limits(sessions=8, sources=8, plan_fields=500))
    collector.decode(ipfix(*(template(256 + number, [(8, 4)]) for number in range(64))))
    large = [template((256 if redefined else 400) + number, [(8, 4)] * (40 + number)) for number in range(64)]

    collector.decode(ipfix(*large))

    assert 400 < collector.decoder.sets.templates.pool.fields <= 500
    assert collector.problems[Reason.TEMPLATE_LIMIT] > 0


def test_templates_age_unless_they_are_used_or_announced() -> None:
    collector = Collector(Limits(sessions=64, sources=8, template_seconds=3600))
    collector.decode(ipfix(template(256, BASE), template(257, BASE), template(258, BASE)))
    for minutes in (30, 61, 91):
        collector.time_us = (NOW + minutes * 60) * SECOND
        seconds = NOW + minutes * 60
        collector.decode(ipfix(template(257, BASE), in_set(256, base()), sequence=minutes, seconds=seconds))

    known = [number for number, _ in collector.decoder.sets.templates.of_session(1)]
    assert (known, collector.decoder.sets.templates.aged) == ([256, 257], 1)


def test_a_thousand_hypervisors_fit() -> None:
    """With 4 bridges of 89 templates each, which are the same."""
    limits = Limits()

    assert limits.templates * 7 // 8 > 1_000 * 4 * 89
    assert limits.sessions * 7 // 8 > 4_000


def test_made_up_templates_do_not_fill_the_table_over_a_restart() -> None:
    limits = Limits(sessions=64, sources=8, templates=256, templates_per_exporter=10_000)
    collector = Collector(limits)
    collector.decode(ipfix(template(256, BASE), in_set(256, base())))
    collector.decode(*flood(100, 6, 40), sender="198.51.100.1")
    again = Collector(limits)

    again.decoder.load_state(collector.decoder.changed_state() or b"")

    assert len(again.decoder.sets.templates) == 1
    assert len(again.decode(ipfix(in_set(256, base()), sequence=1))) == 1


# Names, addresses, padding


def test_names_of_ports_that_are_gone_make_room() -> None:
    collector = Collector(Limits(sessions=8, sources=8, names=64))
    specs = [*BASE, (82, 65_535)]
    found = []
    for number in range(300):
        name = f"veth{number}".encode()
        found += collector.decode(
            ipfix(template(256, specs), in_set(256, base() + bytes([len(name)]) + name), sequence=number)
        )

    assert [row["in_if_name"] for row in found] == [f"veth{number}" for number in range(300)]
    assert collector.problems == {}


def test_a_name_that_is_not_kept_is_counted() -> None:
    collector = Collector(Limits(sessions=8, sources=8, names=16))
    records = [base() + b"\x02" + f"{number:02}".encode() for number in range(40)]

    collector.decode(ipfix(template(256, [*BASE, (82, 65_535)]), in_set(256, *records)))

    assert collector.problems == {Reason.NAME_LIMIT: 24}


def test_a_station_of_a_wireless_network_is_a_row() -> None:
    specs: list[Spec] = [(365, 6), (366, 4), (2, 8), (1, 8)]
    record = bytes.fromhex("020000000005") + ipv4("10.7.7.7") + struct.pack("!QQ", 7, 700)

    (row,) = Collector().decode(v9(template(256, specs, version=9), in_set(256, record)))

    assert (row["src_mac"], row["src_ip"], row["bytes"]) == (0x020000000005, address("10.7.7.7"), 700)


def test_the_vlan_behind_the_switch_stands_in_where_none_is_stated_before_it() -> None:
    data = in_set(256, base() + struct.pack("!H", 17))

    assert Collector().decode(v9(template(256, [*BASE, (59, 2)], version=9), data))[0]["vlan"] == 17


def test_zeros_that_fill_a_datagram_are_padding() -> None:
    collector = Collector()

    collector.decode(v9(template(256, BASE, version=9), in_set(256, base()), bytes(32)))
    collector.decode(ipfix(template(256, BASE), in_set(256, base(), bytes(len(base()))), bytes(16)))
    collector.decode(v5(record5()) + bytes(40))

    assert collector.problems == {}
