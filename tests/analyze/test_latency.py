"""Latency worked out from made-up records of two switches whose clocks and delays are known."""

from __future__ import annotations

import random
from typing import Any

import pytest
from clickhouse_connect.driver import Client

from collector.analyze.latency import LatencyRules, store_latency
from collector.analyze.settings import AnalyzeSettings
from collector.store.client import open_in_database
from collector.store.settings import StoreSettings
from tests import flow_rows
from tests.analyze.connections import Path, every, uuid
from tests.analyze.support import BASE_US, SECOND_US, WINDOW_US, heard
from tests.flow_rows import add, ask

SETTINGS = AnalyzeSettings(clock_drift_ppm=50)
BOTH = ("192.0.2.11", "192.0.2.12")
MS = 1_000


@pytest.fixture
def client(emptied_store: Client) -> Client:
    heard(emptied_store, BASE_US - 3600 * SECOND_US, *BOTH)
    return emptied_store


def close(
    client: Client, windows: int, settings: AnalyzeSettings = SETTINGS, since_us: int = 0, first: int = 0
) -> None:
    """Work out the windows from BASE_US on, one after the other, as they close."""
    for at in range(first, windows):
        start = BASE_US + at * WINDOW_US
        store_latency(client, start, start + WINDOW_US, since_us, LatencyRules.of(settings))


def readings(client: Client, method: str = "", **where: str) -> list[dict[str, Any]]:
    """Rows of table latency, oldest first."""
    conditions = [f"{name} = '{value}'" for name, value in (where | ({"method": method} if method else {})).items()]
    return ask(
        client,
        f"SELECT * EXCEPT time, toUnixTimestamp64Micro(time) AS time FROM latency "
        f"WHERE {' AND '.join(conditions) or '1'} ORDER BY time, method, src_vm, dst_vm",
    )


def test_a_handshake_gives_the_round_trip_as_the_client_meets_it(any_store: StoreSettings) -> None:
    path = Path(up_us=20_000, down_us=15_000, server_us=300, offset_us=7 * SECOND_US)
    with open_in_database(any_store) as client:
        heard(client, BASE_US - 3600 * SECOND_US, *BOTH)
        add(client, path.connection(BASE_US + 3 * SECOND_US))

        close(client, 1)

        (reading,) = readings(client, "handshake")
    assert (reading["src_vm"], reading["dst_vm"]) == ("a", "b")
    assert (reading["latency_us"], reading["latency_min_us"], reading["spread_us"]) == (35_300, 35_300, 1)
    assert (reading["trip"], reading["clock"], reading["samples"]) == ("round_trip", "same", 1)
    assert (reading["jitter_us"], reading["clock_offset_us"]) == (None, None)
    assert (reading["time"], reading["interval_us"]) == (BASE_US, WINDOW_US)
    assert reading["src_exporter"] == reading["dst_exporter"]


def test_median_least_and_jitter_of_several(client: Client) -> None:
    for number, milliseconds in enumerate((10, 11, 13, 30)):
        path = Path(up_us=milliseconds * MS, down_us=0)
        add(client, path.connection(BASE_US + number * SECOND_US))

    close(client, 1)

    (reading,) = readings(client, "handshake")
    # Median of 10, 11, 13, 30 ms: 12 ms; distances 2, 1, 1, 18: on average 5.5 ms.
    assert (reading["latency_us"], reading["latency_min_us"], reading["jitter_us"]) == (12_000, 10_000, 5_500)
    assert reading["samples"] == 4


def test_one_way_is_right_whatever_the_clocks_say(client: Client) -> None:
    path = Path(up_us=20 * MS, down_us=20 * MS, offset_us=-3 * SECOND_US - 1234)
    add(client, [row for at in every(500 * MS, BASE_US + 4 * SECOND_US + 7, 8) for row in path.connection(at)])

    close(client, 1)

    there, back = readings(client, "one_way")
    assert (there["src_vm"], back["src_vm"]) == ("a", "b")
    # The two directions are alike, so the middle of the offset's interval is the offset; only µs are rounded.
    assert (there["latency_us"], back["latency_us"]) == (20_000, 20_000)
    assert (there["clock_offset_us"], back["clock_offset_us"]) == (-3_001_234, 3_001_234)
    # Half of the round trip, 1 µs of resolution, 3.5 s (and 20 ms of travel) at 50 ppm; then the median's 1 µs.
    assert there["clock_error_us"] == 20_000 + 1 + 177
    assert there["spread_us"] == there["clock_error_us"] + 1
    assert (there["samples"], there["jitter_us"], there["clock"]) == (8, 0, "bounded")
    assert there["src_exporter"] != there["dst_exporter"]


def test_the_minimum_of_quiet_times_tells_which_direction_got_slow(client: Client) -> None:
    quiet = Path(up_us=300, down_us=200, offset_us=-812_345)
    slow = quiet.later(up_us=40_300)
    add(client, [row for at in every(SECOND_US, BASE_US + 1_000_007, 8) for row in quiet.connection(at)])
    add(client, [row for at in every(SECOND_US, BASE_US + WINDOW_US + 1_000_007, 8) for row in slow.connection(at)])

    close(client, 2)

    rows = [*readings(client, "one_way", src_vm="a"), *readings(client, "one_way", src_vm="b")]
    truths = (300, 40_300, 200, 200)
    for row, truth in zip(rows, truths, strict=True):
        assert abs(row["latency_us"] - truth) <= row["spread_us"]
        # Half of the quiet round trip, and what 50 ppm make of some 20 s: not half of the slow round trip.
        assert row["spread_us"] < 250 + 50 * 20 + 50 * 8 + 10


def test_a_clock_that_is_set_makes_the_old_interval_worthless(client: Client) -> None:
    before = Path(up_us=2 * MS, down_us=2 * MS, offset_us=0)
    after = before.later(offset_us=-SECOND_US)
    add(client, [row for at in every(SECOND_US, BASE_US, 8) for row in before.connection(at)])
    add(client, [row for at in every(SECOND_US, BASE_US + WINDOW_US, 8) for row in after.connection(at)])

    close(client, 2)

    rows = readings(client, "one_way", src_vm="a")
    assert [row["latency_us"] for row in rows] == [2_000, 2_000]
    assert [row["clock_offset_us"] for row in rows] == [0, -SECOND_US]


def test_without_traffic_back_nothing_is_said_unless_the_clocks_are_known_from_before(client: Client) -> None:
    path = Path(up_us=5 * MS, down_us=5 * MS, offset_us=123_456)
    add(client, path.datagrams(BASE_US + 1 * SECOND_US))
    add(client, path.connection(BASE_US + 12 * SECOND_US))
    add(client, path.datagrams(BASE_US + 23 * SECOND_US))

    close(client, 3)

    rows = readings(client, "one_way", src_vm="a")
    assert [(row["time"] - BASE_US) // WINDOW_US for row in rows] == [1, 2]
    # The interval has grown by the drift since on one side, so its middle has moved by half of that.
    assert [row["latency_us"] for row in rows] == [5_000, pytest.approx(5_000, abs=50 * 24 // 2)]
    assert rows[1]["spread_us"] > rows[0]["spread_us"]


def test_the_truth_lies_within_the_spread_for_any_delays_clocks_and_resolution(client: Client) -> None:
    """200 pairs of switches with random delays, offsets of up to 5 s and clocks of 1 µs or 1 ms."""
    rng = random.Random(7)
    paths: list[Path] = []
    rows: list[dict[str, Any]] = []
    for number in range(200):
        path = Path(
            up_us=rng.choice([100, 1_000, 30_000]) + rng.randrange(2_000),
            down_us=rng.choice([100, 1_000, 30_000]) + rng.randrange(2_000),
            offset_us=rng.randrange(-5 * SECOND_US, 5 * SECOND_US),
            server_us=rng.randrange(500),
            resolution_us=rng.choice([1, 1_000]),
            client=f"c{number}",
            server=f"s{number}",
            client_exporter=f"2001:db8::a:{number:x}",
            server_exporter=f"2001:db8::{rng.choice(['9', 'b'])}:{number:x}",
        )
        paths.append(path)
        begin = BASE_US + rng.randrange(SECOND_US)
        rows += [row for at in every(700_001, begin, 12) for row in path.connection(at)]
    add(client, rows)
    exporters = [e for path in paths for e in (path.client_exporter, path.server_exporter)]
    heard(client, BASE_US - 3600 * SECOND_US, *exporters)

    close(client, 1)

    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in readings(client):
        found.setdefault((row["method"], row["src_vm"]), []).append(row)
    assert len(found) == 3 * 200
    for path in paths:
        truth = {
            ("one_way", path.client): path.up_us,
            ("one_way", path.server): path.down_us,
            ("handshake", path.client): path.up_us + path.server_us + path.down_us,
        }
        for key, expected in truth.items():
            for row in found[key]:
                assert abs(row["latency_us"] - expected) <= row["spread_us"], (key, path, row)
            # A clock that is seconds off puts its first packets into the window beside.
            assert sum(row["samples"] for row in found[key]) == 12
        assert {row["spread_us"] for row in found["handshake", path.client]} == {path.resolution_us}
        for row in found["one_way", path.client]:
            assert abs(row["clock_offset_us"] - path.offset_us) <= row["clock_error_us"]


def test_a_reading_is_made_once_however_late_its_records_come(client: Client) -> None:
    """A cache of 12 s: the answer's record arrives one or two windows after the connection."""
    path = Path(up_us=9 * MS, down_us=9 * MS)
    for at in every(3 * SECOND_US, BASE_US, 10):
        rows = path.connection(at)
        late = [row | {"time_received": row["time_received"] + 12 * SECOND_US} for row in rows[3:]]
        add(client, [*rows[:3], *late])

    close(client, 6)

    rows = readings(client, "handshake")
    assert sum(row["samples"] for row in rows) == 10
    assert {row["latency_us"] for row in rows} == {18_000}
    # By the time of the first packet, not of the record: 4, 3, 3 connections in three windows.
    per_window = dict.fromkeys(range(3), 0)
    for row in rows:
        per_window[(row["time"] - BASE_US) // WINDOW_US] += row["samples"]
    assert per_window == {0: 4, 1: 3, 2: 3}


def test_later_records_of_a_long_flow_are_no_handshakes(client: Client) -> None:
    path = Path(up_us=2 * MS, down_us=2 * MS)
    rows = path.connection(BASE_US + SECOND_US)
    parts = [*rows]
    for part in range(1, 10):
        # Each direction's cache entry begins again with whatever packet comes first.
        moved = {0: 9_100_000 * part, 3: 9_470_000 * part}
        for at, by in moved.items():
            times = {name: rows[at][name] + by for name in ("time_received", "flow_start", "flow_end")}
            parts.append(rows[at] | times | {"packets": 500, "bytes": 700_000})
            times = {name: rows[at + 1][name] + by + 40_000 for name in ("time_received", "flow_start", "flow_end")}
            parts.append(rows[at + 1] | times | {"packets": 500, "bytes": 700_000})
    add(client, parts)

    close(client, 10)

    assert [(row["latency_us"], row["samples"]) for row in readings(client, "handshake")] == [(4_000, 1)]
    assert [row["samples"] for row in readings(client, "one_way")] == [1, 1]


def test_a_lost_syn_is_no_latency(client: Client) -> None:
    path = Path(up_us=2 * MS, down_us=2 * MS)
    add(client, path.connection(BASE_US + 1 * SECOND_US, lost_syn=1))
    add(client, path.connection(BASE_US + 2 * SECOND_US, lost_syn=2))
    close(client, 1)
    assert readings(client) == []

    add(client, path.connection(BASE_US + 11 * SECOND_US))
    close(client, 2, first=1)

    assert [row["latency_us"] for row in readings(client, "handshake")] == [4_000]
    assert [row["latency_us"] for row in readings(client, "one_way", src_vm="a")] == [pytest.approx(2_000, abs=2_000)]


def test_two_first_records_that_are_not_the_same_packet_make_no_reading(client: Client) -> None:
    """The record of the SYN at the client's switch was lost: the client's next packet, an ACK, looks like the first.

    With clocks of 1 ms the two directions do not contradict each other: the offset would come out as −2 ms.
    """
    path = Path(up_us=2 * MS, down_us=2 * MS, resolution_us=1_000)
    rows = path.connection(BASE_US + SECOND_US)
    later = {name: rows[0][name] + 4 * MS + 300 for name in ("time_received", "flow_start", "flow_end")}
    rows[0] |= later | {"flow_start": rows[0]["flow_start"] + 4 * MS, "bytes": 52}
    add(client, rows)

    close(client, 1)

    assert readings(client) == []


@pytest.mark.parametrize(
    ("why", "columns"),
    [
        ("sampled: counts are multiplied", {"packets": 64, "bytes": 60 * 64}),
        ("not Open vSwitch: no interface name", {"in_if_name": ""}),
        ("not IPFIX", {"protocol": "netflow9"}),
        ("a stated rate", {"sampling_rate": 10}),
        ("an end that is no VM", {"dst_vm": ""}),
        ("an end that is not known from where", {"sighting": "unknown"}),
    ],
)
def test_what_is_not_certain_gives_nothing(client: Client, why: str, columns: dict[str, Any]) -> None:
    path = Path(up_us=2 * MS, down_us=2 * MS)
    add(client, [row | columns for row in path.connection(BASE_US + SECOND_US)])

    close(client, 1)

    assert readings(client) == [], why


def test_an_exporter_that_appears_reports_flows_that_are_not_new(embedded_store: StoreSettings) -> None:
    path = Path(up_us=2 * MS, down_us=2 * MS)
    with open_in_database(embedded_store) as client:
        heard(client, BASE_US + 1 * SECOND_US, *BOTH)
        add(client, path.connection(BASE_US + 30 * SECOND_US))
        add(client, path.connection(BASE_US + 70 * SECOND_US))

        close(client, 8)

        assert [row["time"] - BASE_US for row in readings(client, "handshake")] == [70 * SECOND_US]


def test_after_a_start_of_the_service_flows_are_not_new(client: Client) -> None:
    path = Path(up_us=2 * MS, down_us=2 * MS)
    add(client, path.connection(BASE_US + 30 * SECOND_US))
    add(client, path.connection(BASE_US + 70 * SECOND_US))

    close(client, 8, since_us=BASE_US + 1 * SECOND_US)

    assert [row["time"] - BASE_US for row in readings(client, "handshake")] == [70 * SECOND_US]


def test_an_exporter_whose_records_got_lost_is_left_out_while_that_matters(client: Client) -> None:
    path = Path(up_us=2 * MS, down_us=2 * MS)
    heard(client, BASE_US + SECOND_US, BOTH[0], export_lost=1)
    add(client, path.connection(BASE_US + 5 * SECOND_US))
    add(client, path.connection(BASE_US + 150 * SECOND_US))

    close(client, 16)

    assert [row["time"] - BASE_US for row in readings(client, "handshake")] == [150 * SECOND_US]


def test_one_switch_that_sees_both_vms_gives_round_trips_only(client: Client) -> None:
    path = Path(up_us=150, down_us=0)
    rows = path.connection(BASE_US + SECOND_US)
    # Input only: both directions come in from the sender's port, and the record does not say where they go.
    add(client, [rows[0], rows[3] | {"exporter": rows[0]["exporter"]}])

    close(client, 1)

    (reading,) = readings(client)
    assert (reading["method"], reading["src_vm"], reading["latency_us"]) == ("handshake", "a", 150)


def test_of_too_many_flows_some_are_looked_at(client: Client) -> None:
    path = Path(up_us=2 * MS, down_us=2 * MS)
    add(client, [row for at in every(9_000, BASE_US, 1_000) for row in path.connection(at)])

    close(client, 1, SETTINGS.model_copy(update={"latency_flows": 800}))

    (reading,) = readings(client, "handshake")
    # Both directions count as a flow each, at both switches: 4,000, of which about one in five is looked at.
    assert 100 <= reading["samples"] <= 320
    assert reading["latency_us"] == 4_000


def test_more_records_than_may_be_read_are_left_alone(client: Client) -> None:
    path = Path(up_us=2 * MS, down_us=2 * MS)
    add(client, path.connection(BASE_US + SECOND_US))
    heard(client, BASE_US + 2 * SECOND_US, *BOTH, records=501)
    start, rules = BASE_US, LatencyRules.of(SETTINGS.model_copy(update={"latency_records": 1_001}))

    assert store_latency(client, start, start + WINDOW_US, 0, rules) == "too_many"
    assert readings(client) == []

    rules = LatencyRules.of(SETTINGS.model_copy(update={"latency_records": 1_002}))
    assert store_latency(client, start, start + WINDOW_US, 0, rules) == "ok"
    assert len(readings(client)) == 3


def test_overlapping_addresses_of_two_tenants_are_two_pairs(client: Client) -> None:
    first, second = Path(up_us=2 * MS, down_us=2 * MS), Path(up_us=7 * MS, down_us=7 * MS)
    rows = first.connection(BASE_US + SECOND_US)
    others = second.connection(BASE_US + SECOND_US + 300)
    for row, other in zip(rows, others, strict=True):
        answering = row["src_vm"] == "b"
        names = ("y", "x") if answering else ("x", "y")
        other |= {name: row[name] for name in ("src_ip", "dst_ip", "src_port", "dst_port")}
        other |= {"src_vm": names[0], "dst_vm": names[1]}
        other |= {"src_vm_uuid": uuid(names[0]), "dst_vm_uuid": uuid(names[1])}
    add(client, [*rows, *others])

    close(client, 1)

    assert [(row["src_vm"], row["latency_us"]) for row in readings(client, "handshake")] == [
        ("a", 4_000),
        ("x", 14_000),
    ]


def stated(src: str, dst: str, milliseconds: float, deviation_us: int = 900, **values: Any) -> dict[str, Any]:
    """A sample of a host's own TCP packet, with what TCP says (sFlow 2209)."""
    ends = {"src": flow_rows.vm(src, f"host-{src}"), "dst": flow_rows.vm(dst, f"host-{dst}")}
    times = {"time_received": BASE_US + 3 * SECOND_US, "sampling_rate": 100}
    round_trip = {"tcp_rtt_us": round(milliseconds * MS), "tcp_rtt_deviation_us": deviation_us}
    return flow_rows.flow(ends["src"], ends["dst"], "source") | times | round_trip | values


def test_round_trips_that_tcp_states_are_reported_by_pair_direction_and_exporter(any_store: StoreSettings) -> None:
    with open_in_database(any_store) as client:
        add(client, [stated("a", "b", at, 100 * n, tcp_rtt_min_us=9_000) for n, at in enumerate((41, 40, 55), start=1)])
        add(client, [stated("b", "a", 30), stated("b", "a", 0), stated("a", "", 70)])
        add(client, [stated("a", "b", 90, time_received=BASE_US + WINDOW_US)])
        add(client, [stated("a", "b", 44, protocol="ipfix")])

        close(client, 1)

        there, back = readings(client, "tcp_info")
    assert (there["src_vm"], there["dst_vm"], back["src_vm"]) == ("a", "b", "b")
    assert (there["latency_us"], there["latency_min_us"], there["samples"]) == (41_000, 9_000, 3)
    assert (there["spread_us"], there["jitter_us"]) == (200, 200)  # of deviations of 100, 200, 300 µs
    assert (back["latency_us"], back["latency_min_us"], back["samples"]) == (30_000, 30_000, 1)
    assert {row["trip"] for row in (there, back)} == {"round_trip"}
    assert (there["time"], there["interval_us"]) == (BASE_US, WINDOW_US)
