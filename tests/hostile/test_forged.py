"""Forged senders that give valid records: newcomers displace newcomers, the known keep place and templates."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import numpy as np
import pytest

from decoders.datagrams import Datagrams
from decoders.decoder import Decoder
from decoders.errors import Reason
from decoders.limits import Limits
from decoders.overrides import NONE, ExporterRule, RuleTable
from decoders.sessions import PER_ADDRESS, S_DATAGRAMS, S_RECORDS, in_use
from tests.decoders.netflow.support import BASE, base, in_set, ipfix, record5, template, v5
from tests.hostile.messages import GOOD, TIME_US, Datagram, of_good, spoofed

FORGED = 30_000
SHARE = 1_000
"""Forged senders in one batch."""
SECOND_US = 1_000_000


def single(address: str) -> IPv6Network:
    return IPv6Network(f"::ffff:{address}/128")


def forged(first: int, count: int, time_us: int) -> list[Datagram]:
    """Senders that nobody knows, each with one good record."""
    return [(v5(record5()), spoofed(number), 2055, time_us) for number in range(first, first + count)]


def announce(time_us: int, port: int = 4739) -> Datagram:
    return ipfix(template(256, BASE)), GOOD, port, time_us


def report(time_us: int, sequence: int, port: int = 4739) -> Datagram:
    return ipfix(in_set(256, base()), sequence=sequence), GOOD, port, time_us


def flood(decoder: Decoder, since_us: int, rounds: int = 1) -> int:
    """All forged senders in batches, 30 ms apart; returns the time after them."""
    now_us = since_us
    for first in [*range(0, FORGED, SHARE)] * rounds:
        now_us += 30_000
        decoder.decode(Datagrams.of(forged(first, SHARE, now_us)))
    return now_us


@pytest.mark.parametrize("rounds", [1, 3])
def test_an_exporter_that_works_keeps_its_place_and_templates(rounds: int) -> None:
    """It is silent while the others come, so what goes by silence alone forgets it first."""
    decoder = Decoder()
    decoder.decode(Datagrams.of([announce(TIME_US), report(TIME_US, 0)]))
    decoder.decode(Datagrams.of([report(TIME_US + 5 * SECOND_US, 1)]))
    now_us = flood(decoder, TIME_US + 6 * SECOND_US, rounds)

    assert len(of_good(decoder.decode(Datagrams.of([report(now_us, 2)])))) == 1
    assert decoder.forgotten_exporters >= FORGED - Limits().sessions
    assert decoder.forgotten_strangers == 0
    assert len(in_use(decoder.shared.sessions)) <= Limits().sessions


def test_an_exporter_that_left_makes_room_in_the_end() -> None:
    """Standing is for those who are there: forged senders of yesterday do not keep today's exporters out."""
    decoder = Decoder()
    flood(decoder, TIME_US)
    day_us = TIME_US + 24 * 3600 * SECOND_US
    flood(decoder, TIME_US + 120 * SECOND_US)  # the same again: by now they have been sending for two minutes
    decoder.decode(Datagrams.of([announce(day_us), report(day_us, 0)]))
    decoder.decode(Datagrams.of([report(day_us + 5 * SECOND_US, 1)]))
    now_us = flood(decoder, day_us + 6 * SECOND_US)

    assert len(of_good(decoder.decode(Datagrams.of([report(now_us, 2)])))) == 1


def test_an_exporter_that_the_operator_named_finds_room_amid_the_flood() -> None:
    """It is new, and its datagrams come behind more newcomers than there are places, in one batch."""
    named = Decoder(rules=[ExporterRule(single(GOOD))])
    nobody = Decoder()
    for decoder in (named, nobody):
        flood(decoder, TIME_US)
    now_us = TIME_US + 60 * SECOND_US
    batch = Datagrams.of([*forged(FORGED, FORGED, now_us), announce(now_us), report(now_us, 0)])

    assert len(of_good(named.decode(batch))) == 1
    assert of_good(nobody.decode(batch)) == []
    assert nobody.shared.sessions.problems[0, Reason.SESSION_LIMIT] > 0
    later_us = flood(named, now_us + SECOND_US)
    assert len(of_good(named.decode(Datagrams.of([report(later_us, 1)])))) == 1


def test_a_rule_that_lets_nobody_in_names_nobody() -> None:
    decoder = Decoder(rules=[ExporterRule(single(GOOD), allowed=False)])
    decoder.decode(Datagrams.of([(v5(record5()), GOOD, 1, TIME_US)]))
    flood(decoder, TIME_US + SECOND_US)

    sessions = decoder.shared.sessions
    assert int(np.uint64(0xFFFF_C000_0201)) not in sessions.key[in_use(sessions), 1].tolist()


def test_a_name_is_no_licence_to_fill_the_table() -> None:
    """Datagrams with the address of a named exporter and made-up ports displace none of those who work."""
    other = "192.0.2.2"
    decoder = Decoder(rules=[ExporterRule(single(other))])
    decoder.decode(Datagrams.of([announce(TIME_US), report(TIME_US, 0)]))
    decoder.decode(Datagrams.of([report(TIME_US + 5 * SECOND_US, 1)]))
    for first in range(0, FORGED, SHARE):
        time_us = TIME_US + 6 * SECOND_US + first
        ports = range(first + 1, first + 1 + SHARE)
        decoder.decode(Datagrams.of([(v5(record5()), other, port, time_us) for port in ports]))

    assert len(of_good(decoder.decode(Datagrams.of([report(TIME_US + 9 * SECOND_US, 2)])))) == 1
    assert len(in_use(decoder.shared.sessions)) > PER_ADDRESS


def test_exporters_of_a_former_run_keep_the_templates_that_were_read() -> None:
    before = Decoder()
    before.decode(Datagrams.of([announce(TIME_US), report(TIME_US, 0)]))
    decoder = Decoder()
    decoder.load_state(before.changed_state() or b"")
    now_us = flood(decoder, TIME_US + SECOND_US)

    assert len(of_good(decoder.decode(Datagrams.of([report(now_us, 1)])))) == 1
    later_us = flood(decoder, now_us + SECOND_US)  # having sent again, it still is none of the newcomers
    assert len(of_good(decoder.decode(Datagrams.of([report(later_us, 2)])))) == 1


def test_templates_of_forged_senders_take_the_room_for_a_minute_not_for_ever() -> None:
    limits = Limits(sessions=512, templates=1024, templates_per_session=64)
    decoder = Decoder(limits)
    decoder.decode(Datagrams.of([announce(TIME_US), report(TIME_US, 0)]))
    decoder.decode(Datagrams.of([report(TIME_US + 90 * SECOND_US, 1)]))
    sets = b"".join(template(256 + number, BASE) for number in range(64))
    now_us = TIME_US + 100 * SECOND_US
    for number in range(64):
        now_us += 2 * SECOND_US
        decoder.decode(Datagrams.of([(ipfix(sets), spoofed(number), 1, now_us)]))
        assert len(decoder.sets.templates) <= limits.templates

    now_us += 61 * SECOND_US
    decoder.decode(Datagrams.of([announce(now_us, port=5000)]))
    assert len(of_good(decoder.decode(Datagrams.of([report(now_us, 0, port=5000), report(now_us, 2)])))) == 2
    assert decoder.sets.templates.displaced > 0


def test_templates_of_exporters_that_send_do_not_displace_each_other() -> None:
    """More than fit: those who were there first keep theirs, the others are refused and counted."""
    limits = Limits(sessions=512, templates=1024, templates_per_session=64)
    decoder = Decoder(limits)
    sets = b"".join(template(256 + number, BASE) for number in range(64))
    for again in range(6):
        for number in range(20):
            time_us = TIME_US + (again * 40 + number) * SECOND_US
            message = ipfix(sets, in_set(256, base()), sequence=again)
            decoder.decode(Datagrams.of([(message, spoofed(number), 1, time_us)]))

    stats = decoder.shared.sessions.stats[in_use(decoder.shared.sessions)]
    assert sorted(stats[:, S_DATAGRAMS].tolist()) == [6] * 20
    assert (stats[:, S_RECORDS] == 6).sum() == 16
    assert decoder.forgotten_exporters == 0
    assert int(decoder.shared.sessions.problems[:, Reason.TEMPLATE_LIMIT].sum()) > 0


def test_streams_that_gave_records_and_those_that_did_not_are_counted_apart() -> None:
    limits = Limits(sessions=64)
    decoder = Decoder(limits)
    decoder.decode(Datagrams.of(forged(0, 30, TIME_US)))
    decoder.decode(Datagrams.of([(b"\0\x63" + bytes(20), spoofed(100 + one), 1, TIME_US) for one in range(30)]))
    decoder.decode(Datagrams.of(forged(200, 1, TIME_US + 1)))

    assert (decoder.forgotten_strangers, decoder.forgotten_exporters) == (12, 0)
    assert int(decoder.shared.sessions.stats[:, S_RECORDS].sum()) == 31


@pytest.mark.parametrize("seed", range(5))
def test_rules_are_found_as_one_by_one(seed: int) -> None:
    random = np.random.default_rng(seed)

    def network() -> IPv6Network:
        length = int(random.choice([0, 32, 48, 64, 96, 104, 112, 120, 128]))
        address = int.from_bytes(random.bytes(16), "big") if random.random() < 0.5 else 0xFFFF_0A00_0000
        return IPv6Network((address + int(random.integers(0, 512)), length), strict=False)

    rules = [ExporterRule(network(), allowed=bool(random.integers(0, 2))) for _ in range(40)]
    asked = [rule.network.network_address for rule in rules]
    asked += [IPv6Address(0xFFFF_0A00_0000 + int(random.integers(0, 600))) for _ in range(200)]
    halves = np.array([[int(one) >> 64, int(one) & (2**64 - 1)] for one in asked], np.uint64)

    expected = [next((at for at, rule in enumerate(rules) if one in rule.network), NONE) for one in asked]
    assert RuleTable(rules).first(halves).tolist() == expected
    some = RuleTable(rules, lambda rule: rule.network.prefixlen == 128)
    expected = [
        next((at for at, rule in enumerate(rules) if rule.network.prefixlen == 128 and one in rule.network), NONE)
        for one in asked
    ]
    assert some.first(halves).tolist() == expected
    assert not RuleTable([])
    assert RuleTable([]).first(halves).tolist() == [NONE] * len(asked)
