"""Templates: announced, changed, refused, bounded, waited for, and kept over a restart of the collector."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from decoders.errors import Reason
from decoders.limits import Limits
from decoders.netflow.plan import describe, parse, plausible, registry
from decoders.sessions import S_DATAGRAMS, S_DUPLICATES, S_HELD_BYTES, S_LOST, S_RECORDS, S_TEMPLATES
from tests.decoders.netflow.support import (
    BASE,
    NOW,
    OVS,
    Collector,
    Spec,
    V,
    base,
    fields,
    in_set,
    ipfix,
    options_template,
    template,
    v9,
)

SHORT: list[Spec] = [(8, 4), (12, 4), (2, 4)]


def short(packets: int) -> bytes:
    return bytes([10, 0, 0, 1, 10, 0, 0, 2]) + struct.pack("!I", packets)


def tight(**changes: int) -> Limits:
    """Small limits, for tests that reach them."""
    defaults = {"sessions": 64, "sources": 64, "names": 64, "rows_per_batch": 4_096, "held_bytes": 4_096}
    return Limits(**(defaults | changes))


def test_the_registry_reads_and_prints_its_notation() -> None:
    for element in registry().values():
        assert parse(str(element)) == element
    assert describe(0, 1, 4) == "octetDeltaCount(1)<unsigned64>[4]"
    assert describe(29_305, 2, 8) == "reversePacketDeltaCount(29305/2)<unsigned64>[8]"
    assert describe(9, 1, V) == "unknown(9/1)<octetArray>[v]"
    assert not plausible(0, 40_000, 4)
    with pytest.raises(ValueError, match="not an information element"):
        parse("octetDeltaCount[1]")


def test_data_before_its_template_is_decoded_when_it_comes_with_its_own_times() -> None:
    collector = Collector()
    assert (
        collector.decode(ipfix(in_set(256, base(1)), seconds=NOW - 50), ipfix(in_set(256, base(2)), sequence=1)) == []
    )
    assert collector.problems == {Reason.HELD: 2}
    assert collector.stat(S_HELD_BYTES) == 2 * len(base())

    collector.time_us += 60_000_000
    found = collector.decode(ipfix(in_set(256, base(3)), template(256, BASE), in_set(256, base(4)), sequence=2))

    assert [row["packets"] for row in found] == [1, 2, 3, 4]
    assert [row["time_received"] // 1_000_000 - NOW for row in found] == [0, 0, 60, 60]
    assert [row["flow_end"] // 1_000_000 - NOW for row in found] == [-50, 0, 0, 0]
    assert (collector.stat(S_HELD_BYTES), collector.stat(S_LOST), collector.stat(S_RECORDS)) == (0, 0, 4)
    assert collector.problems == {Reason.HELD: 3}


def test_held_options_data_gives_its_rate() -> None:
    collector = Collector()
    collector.decode(v9(in_set(300, b"\0\0\0\x64"), sequence=1))
    found = collector.decode(
        v9(options_template(300, [(1, 0)], [(34, 4)], version=9), sequence=2),
        v9(template(256, BASE, version=9), in_set(256, base()), sequence=3, count=2),
    )

    assert [row["sampling_rate"] for row in found] == [100]


def test_held_data_is_of_its_own_session() -> None:
    collector = Collector()
    collector.decode(ipfix(in_set(256, base(1))), sender="192.0.2.1")

    assert collector.decode(ipfix(template(256, BASE)), sender="192.0.2.2") == []
    assert collector.decode(ipfix(template(256, BASE), sequence=1), sender="192.0.2.1", port=6) == []
    assert len(collector.decode(ipfix(template(256, BASE), sequence=1), sender="192.0.2.1")) == 1


def test_held_data_expires_and_is_counted() -> None:
    collector = Collector()
    collector.decode(ipfix(in_set(256, base())))
    collector.time_us += 661_000_000

    assert collector.decode(ipfix(template(256, BASE), sequence=1)) == []
    assert collector.problems == {Reason.HELD: 1, Reason.NO_TEMPLATE: 1}
    assert collector.stat(S_HELD_BYTES) == 0


def test_held_data_is_bounded_per_session_and_in_total() -> None:
    collector = Collector(tight(held_bytes_per_session=1_000))
    for sequence in range(10):
        collector.decode(ipfix(in_set(256, bytes(300)), sequence=sequence))
    assert collector.problems == {Reason.HELD: 3, Reason.NO_TEMPLATE: 7}

    for port in range(1, 31):
        collector.decode(ipfix(in_set(256, bytes([port]) * 300)), port=port)
    assert collector.stat(S_HELD_BYTES) <= 4_096
    assert collector.problems[Reason.HELD] == 33
    assert collector.problems[Reason.NO_TEMPLATE] == 7 + 33 - collector.stat(S_HELD_BYTES) // 300

    found = collector.decode(ipfix(template(256, [(8, 4), (12, 4), (2, 4)]), sequence=1), port=30)
    assert len(found) == 25
    assert {row["packets"] for row in found} == {0x1E1E1E1E}


def test_many_held_rows_come_in_several_batches() -> None:
    collector = Collector(tight(rows_per_batch=100, held_bytes=64 * 1024))
    for sequence in range(40):
        collector.decode(ipfix(in_set(256, *(short(20 * sequence + k) for k in range(20))), sequence=sequence))

    found = collector.decode(ipfix(template(256, SHORT), in_set(256, short(800)), sequence=40))

    assert [row["packets"] for row in found] == list(range(801))


def test_a_template_holds_from_its_place_in_the_stream() -> None:
    collector = Collector()
    wide: list[Spec] = [(8, 4), (12, 4), (1, 4)]
    found = collector.decode(
        ipfix(template(256, SHORT), in_set(256, short(1)), template(256, wide), in_set(256, short(2))),
        ipfix(in_set(256, short(3)), template(256, SHORT), in_set(256, short(4)), sequence=2),
    )

    assert [(row["packets"], row["bytes"]) for row in found] == [(1, 0), (0, 2), (0, 3), (4, 0)]
    assert collector.problems == {Reason.TEMPLATE_CHANGED: 2}
    assert collector.stat(S_TEMPLATES) == 1


def test_the_same_template_again_is_no_change() -> None:
    collector = Collector()
    for sequence in range(5):
        collector.decode(ipfix(template(256, SHORT), in_set(256, short(1)), sequence=sequence))

    assert collector.problems == {}
    assert collector.stat(S_RECORDS) == 5


def test_templates_and_options_templates_share_their_numbers() -> None:
    collector = Collector()
    collector.decode(ipfix(template(256, SHORT)))

    assert collector.decode(ipfix(options_template(256, [(144, 4)], [(34, 4)]), in_set(256, bytes(8)))) == []
    assert collector.problems == {Reason.TEMPLATE_CHANGED: 1}
    assert (collector.stat(S_TEMPLATES), collector.stat(S_RECORDS)) == (1, 0)


def test_several_templates_in_a_set_with_padding() -> None:
    body = b"".join(struct.pack("!HH", number, len(SHORT)) + fields(SHORT) for number in (256, 257, 258))
    collector = Collector()
    found = collector.decode(v9(in_set(0, body, pad=bytes(6)), in_set(258, short(3)), in_set(256, short(1)), count=5))

    assert [row["packets"] for row in found] == [3, 1]
    assert collector.problems == {}


@pytest.mark.parametrize("record", [struct.pack("!HH", 256, 0), struct.pack("!HH", 2, 0)])
def test_withdrawal_over_udp_is_ignored(record: bytes) -> None:
    collector = Collector()
    found = collector.decode(ipfix(template(256, SHORT), in_set(2, record), in_set(256, short(1))))

    assert len(found) == 1
    assert collector.problems == {Reason.WITHDRAWAL: 1}


def withdrawal(number: int, set_number: int = 2) -> bytes:
    """RFC 7011 section 8.1: a record without fields."""
    return in_set(set_number, struct.pack("!HH", number, 0))


OPTIONS = options_template(300, [(144, 4)], [(34, 4)])


def test_withdrawal_over_a_connection_takes_one_template_from_its_place_on() -> None:
    collector = Collector()
    found = collector.decode(
        ipfix(
            template(256, SHORT),
            template(257, SHORT),
            in_set(256, short(1)),
            withdrawal(256),
            in_set(256, short(2)),
            in_set(257, short(3)),
        ),
        connection=1,
    )

    assert [row["packets"] for row in found] == [1, 3]
    assert collector.problems == {Reason.HELD: 1}
    assert collector.stat(S_TEMPLATES) == len(collector.decoder.sets.templates) == 1


@pytest.mark.parametrize(("record", "left"), [(withdrawal(2), {300}), (withdrawal(3, 3), {256, 257})])
def test_all_templates_of_a_kind_are_withdrawn_together(record: bytes, left: set[int]) -> None:
    collector = Collector()
    announced = ipfix(template(256, SHORT), template(257, SHORT), OPTIONS)
    for connection in (1, 2):
        collector.decode(announced, connection=connection)
    collector.decode(ipfix(record), connection=2)

    store = collector.decoder.sets.templates
    kept = [{number for number, _ in store.of_session(session)} for session in store.sessions()]
    assert kept == [{256, 257, 300}, left]
    assert collector.problems == {}


def test_a_withdrawn_template_may_come_back_as_another_one_or_in_the_same_bytes() -> None:
    collector = Collector()
    announced, withdrawn = ipfix(template(256, SHORT)), ipfix(withdrawal(256))
    data = ipfix(in_set(256, short(4)))

    assert [row["packets"] for row in collector.decode(announced, withdrawn, announced, data, connection=1)] == [4]
    found = collector.decode(withdrawn, ipfix(template(256, BASE), in_set(256, base(packets=9))), connection=1)
    assert [row["packets"] for row in found] == [9]
    assert collector.problems == {}
    assert collector.stat(S_DUPLICATES) == 0


@pytest.mark.parametrize("record", [withdrawal(256), withdrawal(300, 3), withdrawal(257, 3), withdrawal(3, 3)])
def test_a_withdrawal_of_what_is_not_known_is_counted(record: bytes) -> None:
    collector = Collector()
    collector.decode(ipfix(template(257, SHORT), record), connection=1)

    assert collector.problems == {Reason.WITHDRAWAL: 1}
    assert len(collector.decoder.sets.templates) == 1


def test_equal_messages_of_a_connection_are_no_duplicates() -> None:
    collector = Collector()
    data = ipfix(in_set(256, short(1)), sequence=5)

    assert len(collector.decode(ipfix(template(256, SHORT), sequence=5), data, data, connection=1)) == 2
    assert len(collector.decode(ipfix(template(256, SHORT), sequence=5), data, data)) == 1
    assert collector.problems == {Reason.DUPLICATE: 1}


@pytest.mark.parametrize("options", [{}, {"port_in_key": False}, {"domain_in_key": False}])
def test_templates_live_as_long_as_their_connection(options: dict[str, bool]) -> None:
    """RFC 7011 sections 8.1 and 10.4: not in another connection from the same port, nor over UDP."""
    collector = Collector(**options)
    announced = ipfix(template(256, SHORT), template(257, SHORT))
    data = ipfix(in_set(256, short(1)))
    for connection in (1, 2):
        collector.decode(announced, connection=connection)
    assert len(collector.decode(data, connection=1)) == 1

    collector.decode(ipfix(in_set(400, short(1))), b"", connection=1)

    assert len(collector.decoder.sets.templates) == 2
    assert collector.problems == {Reason.HELD: 1, Reason.NO_TEMPLATE: 1}, "what was held is given up, counted"
    assert [len(collector.decode(data, connection=number)) for number in (2, 3, 0)] == [1, 0, 0]
    assert collector.stat(S_DATAGRAMS) == 2 + 1 + 1 + 3


def test_templates_of_connections_do_not_outlive_the_collector() -> None:
    collector = Collector()
    collector.decode(ipfix(template(256, SHORT)), connection=1)
    collector.decode(ipfix(template(257, SHORT)))
    state = collector.decoder.changed_state()
    assert state is not None
    again = Collector()
    again.decoder.load_state(state)

    assert len(again.decoder.sets.templates) == 1
    saved = json.loads(state)
    assert len(saved["sessions"]) == 1
    saved["sessions"][0]["key"][3] = 1
    assert again.decoder.sets.import_state(saved) == 1


def test_exporters_that_were_saved_and_never_come_back_give_way() -> None:
    limits = tight(sessions=16)
    before = Collector(limits)
    for port in range(14):
        before.decode(ipfix(template(256, SHORT)), port=port)
    state = before.decoder.changed_state()
    assert state is not None
    collector = Collector(limits)
    collector.decoder.load_state(state)

    message = v9(template(256, SHORT, version=9), in_set(256, short(1)), count=2)
    found = [len(collector.decode(message, port=port)) for port in range(100, 140)]

    assert found == [1] * 40
    assert collector.problems.get(Reason.SESSION_LIMIT, 0) == 0


@pytest.mark.parametrize(
    ("sets", "reason", "version"),
    [
        (in_set(0, struct.pack("!HH", 300, 0)), Reason.TEMPLATE_MALFORMED, 9),
        (in_set(2, struct.pack("!HH", 300, 3) + fields(SHORT[:2])), Reason.TEMPLATE_MALFORMED, 10),
        (in_set(2, struct.pack("!HHHH", 300, 1, 0x8001, 4)), Reason.TEMPLATE_MALFORMED, 10),
        (in_set(2, struct.pack("!HH", 200, 1) + fields([(8, 4)])), Reason.TEMPLATE_MALFORMED, 10),
        (template(300, [(8, 0), (12, 0)]), Reason.TEMPLATE_EMPTY, 10),
        (template(300, [(8, 0)], version=9), Reason.TEMPLATE_EMPTY, 9),
        (template(300, [(210, 1)] * 1_001), Reason.TEMPLATE_FIELDS, 10),
        (in_set(3, struct.pack("!HHH", 300, 2, 0) + fields(SHORT[:2])), Reason.TEMPLATE_SCOPE, 10),
        (in_set(3, struct.pack("!HHH", 300, 2, 3) + fields(SHORT[:2])), Reason.TEMPLATE_SCOPE, 10),
        (in_set(1, struct.pack("!HHH", 300, 0, 8) + fields(SHORT[:2])), Reason.TEMPLATE_SCOPE, 9),
        (in_set(1, struct.pack("!HHH", 300, 6, 2) + fields(SHORT[:2])), Reason.TEMPLATE_MALFORMED, 9),
        (in_set(1, struct.pack("!HHH", 300, 4, 8) + fields(SHORT[:2])), Reason.TEMPLATE_MALFORMED, 9),
    ],
)
def test_bad_templates_are_refused_and_their_neighbours_live(sets: bytes, reason: Reason, version: int) -> None:
    collector = Collector()
    around = (template(256, SHORT, version=version), sets, in_set(256, short(5)))

    found = collector.decode(ipfix(*around) if version == 10 else v9(*around, count=2))

    assert [row["packets"] for row in found] == [5]
    assert collector.problems == {reason: 1}
    assert collector.stat(S_TEMPLATES) == 1


def test_templates_are_bounded_per_session() -> None:
    collector = Collector(tight(templates_per_session=3))
    for number in range(256, 260):
        collector.time_us += 1
        collector.decode(ipfix(template(number, SHORT)))

    assert collector.problems == {Reason.TEMPLATE_LIMIT: 1}
    assert collector.stat(S_TEMPLATES) == 3
    assert len(collector.decode(ipfix(in_set(259, short(1))), ipfix(in_set(257, short(1)), sequence=1))) == 2
    assert collector.decode(ipfix(in_set(256, short(1)), sequence=2)) == []


def test_the_template_announced_longest_ago_gives_way_and_one_announced_again_stays() -> None:
    """Also after others had to go: the order was made before the repetition."""
    collector = Collector(Limits(sessions=8, templates_per_session=4))

    def known_after(*numbers: int) -> list[int]:
        for number in numbers:
            collector.time_us += 1
            # Another second, or what is said again would be a duplicate.
            collector.decode(ipfix(template(number, BASE), seconds=collector.time_us % 1_000))
        return [number for number, _ in collector.decoder.sets.templates.of_session(1)]

    assert known_after(256, 257, 258, 259, 260) == [257, 258, 259, 260]
    assert known_after(257, 261) == [257, 259, 260, 261]
    assert known_after(262, 263) == [257, 261, 262, 263]
    assert known_after(264) == [261, 262, 263, 264]


def test_templates_are_bounded_in_total() -> None:
    collector = Collector(tight(templates=4))
    for port in range(1, 7):
        collector.decode(ipfix(template(256, SHORT)), port=port)
    assert collector.stat(S_TEMPLATES) == 4
    assert collector.problems == {Reason.TEMPLATE_LIMIT: 2}

    collector.decode(ipfix(template(300, SHORT), sequence=1), port=1)
    assert collector.stat(S_TEMPLATES) == 4
    assert len(collector.decode(ipfix(in_set(300, short(1)), sequence=2), port=1)) == 1


def test_ever_new_templates_do_not_grow_the_state() -> None:
    collector = Collector(tight())
    for size in range(1, 400):
        collector.decode(ipfix(template(256, [*SHORT, (210, size)]), sequence=size))

    store = collector.decoder.sets.templates
    assert len(store) == 1
    assert len(store.pool.arrays.head) <= 512
    (row,) = collector.decode(ipfix(in_set(256, short(7) + bytes(399)), sequence=400))
    assert row["packets"] == 7


def test_sessions_that_are_forgotten_leave_nothing() -> None:
    collector = Collector(tight(sessions=16))
    for port in range(1, 200):
        collector.time_us += 1_000
        collector.decode(ipfix(template(256, SHORT), in_set(256, short(port)), in_set(999, bytes(40))), port=port)

    assert len(collector.decoder.sets.templates) <= 16
    assert collector.stat(S_TEMPLATES) == len(collector.decoder.sets.templates)


def test_domains_of_an_exporter_can_share_templates() -> None:
    collector = Collector(domain_in_key=False)
    found = collector.decode(ipfix(template(256, SHORT), domain=1), ipfix(in_set(256, short(4)), domain=2))

    assert [(row["packets"], row["domain"]) for row in found] == [(4, 2)]


def saved() -> tuple[Collector, bytes]:
    collector = Collector()
    collector.decode(
        ipfix(template(256, [*BASE, (82, V)]), options_template(400, [(144, 4)], [(34, 4), (160, 8)])),
        ipfix(in_set(400, struct.pack("!IIQ", 1, 50, 1_000))),
        v9(template(300, SHORT, version=9), uptime=5),
    )
    state = collector.decoder.changed_state()
    assert state is not None
    return collector, state


def test_templates_and_rates_survive_a_restart_of_the_collector() -> None:
    _, state = saved()
    fresh = Collector()
    fresh.decoder.load_state(state)

    found = fresh.decode(ipfix(in_set(256, base(3) + b"\2ab"), sequence=9), v9(in_set(300, short(4)), sequence=9))

    assert [(row["packets"], row["in_if_name"], row["sampling_rate"]) for row in found] == [(3, "ab", 50), (4, "", 1)]
    fresh.decode(ipfix(template(256, [*BASE, (82, V)]), sequence=10))
    assert fresh.problems == {}
    assert fresh.stat(S_LOST) == 0


def test_state_is_only_handed_out_when_it_changed() -> None:
    collector, state = saved()
    assert collector.decoder.changed_state() is None
    collector.decode(ipfix(template(256, [*BASE, (82, V)]), sequence=1))
    assert collector.decoder.changed_state() is None
    collector.decode(ipfix(template(257, SHORT), sequence=2))
    assert collector.decoder.changed_state() not in (None, state)


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"null",
        b'{"format":1,"sessions":[]}',
        b'{"format":2,"layouts":[],"sessions":3}',
        b"\xff\0",
    ],
)
def test_state_that_is_none_is_a_clear_error(state: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Collector().decoder.load_state(state)


def spoil(path: tuple[Any, ...], value: Any) -> bytes:
    _, state = saved()
    parsed = json.loads(state)
    place = parsed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(parsed).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("sessions", 0), None),
        (("sessions", 0, "key"), [1, 2]),
        (("sessions", 0, "key"), [1, 2, 3, 4, 1 << 70]),
        (("sessions", 0, "templates"), {}),
        (("sessions", 0, "init_ms"), -1),
        (("sessions", 0, "templates", 0), 7),
        (("sessions", 0, "templates", 0), [7, 0, 1]),
        (("sessions", 0, "templates", 0), [1 << 20, 0, 1]),
        (("sessions", 0, "templates", 0), [256, 99, 1]),
        (("sessions", 0, "templates", 0), [256, 0]),
        (("layouts", 0, "version"), 8),
        (("layouts", 0, "scopes"), 99),
        (("layouts", 0, "fields"), []),
        (("layouts", 0, "fields"), [[0, 8, 0]]),
        (("layouts", 0, "fields"), [[0, 8, 4]] * 1_001),
        (("layouts", 0, "fields", 0), [0, 8]),
        (("layouts", 0, "fields", 0), [0, 8, 70_000]),
        (("layouts", 0, "fields", 0), ["0", 8, True]),
        (("sessions", 0, "rates", 0), [1]),
        (("sessions", 0, "rates", 0), [5, 1, 1 << 40]),
        (("sessions", 0, "rates", 0), [99, 1, 1]),
        (("sessions", 0, "rates", 0), [5, 1 << 60, 1]),
    ],
)
def test_damaged_entries_are_left_out_and_the_others_stay(path: tuple[Any, ...], value: Any) -> None:
    collector = Collector()
    state = json.loads(spoil(path, value))

    assert collector.decoder.sets.import_state(state) >= 1
    assert [row["packets"] for row in collector.decode(v9(in_set(300, short(4))))] == [4]


def test_templates_are_described_in_the_notation_of_the_registry() -> None:
    collector, _ = saved()
    described = {one["id"]: one for one in collector.decoder.sets.describe_templates()}

    assert set(described) == {256, 300, 400}
    assert described[300] == {
        "exporter": "192.0.2.9",
        "port": 5555,
        "domain": 1,
        "version": 9,
        "id": 300,
        "options": False,
        "scopes": 0,
        "fields": [
            "sourceIPv4Address(8)<ipv4Address>[4]",
            "destinationIPv4Address(12)<ipv4Address>[4]",
            "packetDeltaCount(2)<unsigned64>[4]",
        ],
    }
    assert described[400]["options"]
    assert described[256]["fields"][-1] == "interfaceName(82)<string>[v]"


# Templates that the ports of one Open vSwitch share.

OVS_BASE: list[Spec] = [
    (138, 4),
    (61, 1),
    (56, 6),
    (80, 6),
    (256, 2),
    (240, 1),
    (82, V),
    (8, 4),
    (12, 4),
    (2, 8),
    (1, 8),
]
OVS_VIRTUAL: list[Spec] = [*OVS_BASE[:7], (898, V, OVS), *OVS_BASE[7:]]


def ovs_record(packets: int, name: bytes = b"vnet1", virtual: bytes | None = None) -> bytes:
    head = struct.pack("!IB6s6sHB", 0, 0, bytes(6), bytes(6), 0x800, 14) + bytes([len(name)]) + name
    extra = b"" if virtual is None else bytes([len(virtual)]) + virtual
    return head + extra + struct.pack("!IIQQ", 0x0A000001, 0x0A000002, packets, 100 * packets)


def test_a_new_port_of_an_open_vswitch_reads_its_data_by_the_templates_of_the_old_one() -> None:
    """As `ovs-vsctl set IPFIX` opens it: data at once, templates up to 600 s later."""
    collector = Collector()
    collector.decode(ipfix(template(256, OVS_BASE)), port=5)

    found = collector.decode(ipfix(in_set(256, ovs_record(7))), ipfix(in_set(256, ovs_record(8)), sequence=1), port=6)
    later = collector.decode(ipfix(in_set(256, ovs_record(9)), sequence=2), port=6)

    assert [row["packets"] for row in (*found, *later)] == [7, 8, 9]
    assert collector.stat(S_HELD_BYTES) == 0
    assert collector.stat(S_TEMPLATES) == 2


@pytest.mark.parametrize(
    "other",
    [{"sender": "192.0.2.1", "port": 6}, {"domain": 4, "port": 6}],
    ids=["another sender", "another domain"],
)
def test_templates_are_shared_between_ports_only(other: dict[str, Any]) -> None:
    collector = Collector()
    collector.decode(ipfix(template(256, OVS_BASE)), port=5)
    domain = other.pop("domain", 1)

    assert collector.decode(ipfix(in_set(256, ovs_record(7)), domain=domain), **other) == []
    assert collector.stat(S_HELD_BYTES) == len(ovs_record(7))


def test_other_exporters_keep_their_templates_to_their_ports() -> None:
    collector = Collector()
    collector.decode(ipfix(template(256, BASE)), port=5)

    assert collector.decode(ipfix(in_set(256, base())), port=6) == []


def test_a_template_that_does_not_fit_is_not_shared() -> None:
    """With a virtual observation id the same number stands for one field more."""
    collector = Collector()
    collector.decode(ipfix(template(256, OVS_BASE)), port=5)

    assert collector.decode(ipfix(in_set(256, ovs_record(7, virtual=b"east"))), port=6) == []
    found = collector.decode(ipfix(template(256, OVS_VIRTUAL), sequence=1), port=6)

    assert [row["packets"] for row in found] == [7]


def test_the_statistics_of_an_open_vswitch_do_not_wait_at_a_new_port() -> None:
    collector = Collector()
    statistics: tuple[list[Spec], list[Spec]] = ([(144, 4)], [(167, 8)])
    collector.decode(ipfix(options_template(462, *statistics)), port=5)

    collector.decode(ipfix(in_set(462, struct.pack("!IQ", 1, 0))), port=6)

    assert collector.stat(S_HELD_BYTES) == 0


def test_made_up_ports_share_no_templates_without_end() -> None:
    collector = Collector()
    collector.decode(ipfix(template(256, OVS_BASE)), port=5)
    for port in range(100, 140):
        collector.decode(ipfix(in_set(256, ovs_record(1))), port=port)

    assert collector.stat(S_TEMPLATES) == 16


def test_what_waits_is_reported_by_session_with_the_time_of_the_oldest() -> None:
    collector = Collector()
    begun = collector.time_us
    collector.decode(ipfix(in_set(256, base(1))), port=5)
    collector.time_us += 40_000_000
    collector.decode(ipfix(in_set(256, base(2)), sequence=1), port=5)
    collector.decode(ipfix(in_set(256, base(3))), port=6)

    assert collector.waits() == [begun, begun + 40_000_000]


def test_few_streams_cannot_fill_what_all_share() -> None:
    """Each may take a quarter of what is left, and 64 KiB at least: the first has most, and keeps it."""
    collector = Collector(tight(held_bytes=2**20, held_bytes_per_session=2**20))
    for port in range(1, 11):
        for sequence in range(8):
            collector.decode(ipfix(in_set(256, bytes([port]) * 2**15), sequence=sequence), port=port)

    held = sorted(collector.decoder.shared.sessions.stats[1:11, S_HELD_BYTES].tolist(), reverse=True)
    assert held == [2**15 * count for count in (6, 5, 4, 3, 3, 2, 2, 2, 2, 2)]
