"""What the feeds make of rows: each record shared out over its windows, in every level, once."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from clickhouse_connect.driver import Client
from clickhouse_connect.driver import exceptions as driver
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.store.settings import StoreSettings
from schemas.pair_definition import LONGEST_SECONDS
from schemas.rollups import LEVELS, ROLLUPS, WRAPPED_SPEEDS
from tests.flow_rows import BEGIN_US, add, ask, emptied, flow, store, vm

A, B = vm("a", "host-1"), vm("b", "host-2")


@pytest.fixture(scope="module")
def client(store_directory: Any) -> Iterator[Client]:
    with store(StoreSettings(url=f"chdb://{store_directory}", database="rollups")) as client:
        yield client


@pytest.fixture
def empty(client: Client) -> Client:
    return emptied(client)


def packets(client: Client, table: str = "pair_10s") -> dict[int, float]:
    """Packets by the window's begin, in seconds after BEGIN_US."""
    rows = ask(
        client, f"SELECT toUnixTimestamp(time) AS at, sum(packets) AS packets FROM {table} GROUP BY at ORDER BY at"
    )
    return {row["at"] - BEGIN_US // 1_000_000: row["packets"] for row in rows}


def test_a_record_is_shared_out_in_proportion_to_time(empty: Client) -> None:
    """From second 5 to second 35: 5, 10, 10 and 5 of 30 seconds."""
    add(empty, [flow(A, B, "source", received=36, started=5, ended=35, packets=3000, samples=3000, bytes=300_000)])

    assert packets(empty) == pytest.approx({0: 500, 10: 1000, 20: 1000, 30: 500})
    assert packets(empty, "pair_1m") == pytest.approx({0: 3000})
    assert packets(empty, "pair_1h") == pytest.approx({0: 3000})


def test_a_record_that_ends_with_a_window_is_not_in_the_next(empty: Client) -> None:
    add(empty, [flow(A, B, "source", received=20, started=0, ended=10), flow(A, B, "source", received=10)])

    assert packets(empty) == {0: 1, 10: 1}


def test_a_wrong_clock_does_not_move_traffic_in_time(empty: Client) -> None:
    """Records of a clock that is a day off, and of one that is ahead, count when they were received."""
    add(
        empty,
        [
            flow(A, B, "source", received=100, started=100 - 86_400 - 4, ended=100 - 86_400),
            flow(A, B, "source", received=100, started=150, ended=154),
        ],
    )

    # Both lasted 4 s, and ended when they were received.
    assert packets(empty) == pytest.approx({90: 2})


def test_a_record_touches_a_bounded_number_of_windows(empty: Client) -> None:
    """One that claims to have lasted an hour is shared out over the longest time that counts, without a spike."""
    add(empty, [flow(A, B, "source", received=1000, started=-2600, ended=1000, packets=6600, samples=6600)])

    found = packets(empty)
    assert len(found) == LONGEST_SECONDS // 10
    assert sum(found.values()) == pytest.approx(6600)
    assert max(found.values()) == pytest.approx(100)


RECORD = st.fixed_dictionaries(
    {
        "received": st.floats(0, 3000),
        "age": st.floats(-5, 5000),
        "length": st.floats(0, 3000),
        "packets": st.integers(1, 2**40),
        "rate": st.integers(1, 2**16),
        "seen": st.sampled_from(["source", "destination", "both", "transit"]),
    }
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(RECORD, min_size=1, max_size=30))
def test_windows_add_up_to_the_records(empty: Client, drawn: list[dict[str, Any]]) -> None:
    emptied(empty)
    rows = [
        flow(
            A,
            B,
            one["seen"],
            received=one["received"],
            ended=one["received"] - one["age"],
            started=one["received"] - one["age"] - one["length"],
            packets=one["packets"],
            samples=one["packets"] % 2**32,
            sampling_rate=one["rate"],
        )
        for one in drawn
    ]
    add(empty, rows)

    for level in LEVELS:
        for seen in ("source", "destination", "both", "transit"):
            of = [row for row in rows if row["sighting"] == seen]
            found = ask(
                empty,
                "SELECT sum(packets) AS packets, sum(bytes) AS octets, sum(records) AS records, "
                f"sum(samples) AS samples FROM pair_{level} WHERE sighting = '{seen}'",
            )[0]
            assert found["packets"] == pytest.approx(sum(row["packets"] * row["sampling_rate"] for row in of), rel=1e-9)
            assert found["octets"] == pytest.approx(sum(row["bytes"] * row["sampling_rate"] for row in of), rel=1e-9)
            assert found["samples"] == pytest.approx(sum(row["samples"] for row in of), rel=1e-9)
            assert found["records"] == pytest.approx(len(of), rel=1e-9)
    for way, end in (("sent", "a"), ("received", "b")):
        found = ask(empty, f"SELECT sum(records) AS n FROM vm_10s WHERE direction = '{way}' AND vm = '{end}'")[0]
        assert found["n"] == pytest.approx(len(rows), rel=1e-9)
        found = ask(empty, f"SELECT sum(records) AS n FROM host_1h WHERE direction = '{way}'")[0]
        assert found["n"] == pytest.approx(len(rows), rel=1e-9)


def totals(client: Client) -> list[list[tuple[Any, ...]]]:
    """All sums of all rollups, rounded, without what depends on the order of parts."""
    found = []
    for table in ROLLUPS:
        sums = [
            f"round(sum({column.name}), 6)"
            for column in table.columns
            if column.clickhouse.startswith("SimpleAggregateFunction(sum")
        ]
        keys = ", ".join(table.order_by)
        found.append(
            client.query(
                f"SELECT {keys}, {', '.join(sums)} FROM {table.name} GROUP BY {keys} ORDER BY {keys}"
            ).result_rows
        )
    return found


def random_rows(seed: int, count: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    vms = [vm(f"vm-{number}", f"host-{number % 3}") for number in range(6)]
    rows = []
    for _ in range(count):
        source, destination = rng.sample(vms, 2)
        received = rng.uniform(0, 600)
        rows.append(
            flow(
                source,
                destination,
                rng.choice(["source", "destination", "both"]),
                received=received,
                ended=received - rng.uniform(0, 3),
                started=received - rng.uniform(3, 90),
                packets=rng.randrange(1, 500),
                samples=rng.randrange(1, 500),
                src_port=rng.randrange(1024, 1100),
            )
        )
    return rows


def test_late_reordered_and_repeated_records_give_the_same_totals(empty: Client) -> None:
    rows = random_rows(1, 400)
    add(empty, rows, label="all at once")
    expected = totals(empty)
    connections = (
        "SELECT src_vm, dst_vm, uniqCombinedMerge(12)(connections) AS n FROM pair_1m GROUP BY 1, 2 ORDER BY 1, 2"
    )
    counted = ask(empty, connections)
    emptied(empty)

    random.Random(2).shuffle(rows)
    for number in range(0, len(rows), 90):
        for _ in range(2):  # the second has the token of the first: a repeated insert
            add(empty, rows[number : number + 90], label=f"part {number}")

    assert totals(empty) == expected
    assert ask(empty, connections) == counted


def test_an_insert_that_failed_halfway_is_completed_by_its_repetition(empty: Client) -> None:
    """The rows were stored, but not all of their sums: the same insert again adds what is missing, and no more."""
    rows = random_rows(3, 50)
    empty.command("RENAME TABLE pair_1m TO pair_1m_away")
    with pytest.raises(driver.Error):
        add(empty, rows, label="halfway")
    empty.command("RENAME TABLE pair_1m_away TO pair_1m")
    add(empty, rows, label="halfway")
    add(empty, rows, label="halfway")

    found = {
        table: ask(empty, f"SELECT sum({column}) AS n FROM {table}")[0]["n"]
        for table, column in (("pair_10s", "records"), ("pair_1m", "records"), ("pair_1h", "records"))
    }
    assert ask(empty, "SELECT count() AS n FROM flows")[0]["n"] == len(rows)
    assert found == pytest.approx({"pair_10s": 50, "pair_1m": 50, "pair_1h": 50})


def test_connections_count_both_directions_once_and_fragments_not(empty: Client) -> None:
    forth = {"src_port": 40_000, "dst_port": 80, "ip_protocol": 6}
    back = {"src_port": 80, "dst_port": 40_000, "ip_protocol": 6, "src_ip": flow(A, B, "source")["dst_ip"]}
    back["dst_ip"] = flow(A, B, "source")["src_ip"]
    add(
        empty,
        [
            flow(A, B, "source", **forth),
            flow(A, B, "destination", **forth),
            flow(B, A, "source", **back),
            flow(A, B, "source", fragment=2, src_port=0, dst_port=0),
            flow(A, B, "source", ether_type=0x0806, ip_protocol=0, src_port=0, dst_port=0),
        ],
    )

    found = ask(empty, "SELECT vm, uniqCombinedMerge(12)(connections) AS n FROM vm_1h GROUP BY vm ORDER BY vm")
    assert [(row["vm"], row["n"]) for row in found] == [("a", 1), ("b", 1)]


def test_drops_count_in_the_pair_and_never_as_loss(empty: Client) -> None:
    notice: Mapping[str, Any] = {
        name: value
        for name, value in flow(A, B, "source", received=3).items()
        if name not in ("flow_start", "flow_end")
    }
    add(empty, [notice, notice], "drops")
    add(empty, [flow(A, B, seen, received=4) for seen in ("source", "destination")])

    row = ask(empty, "SELECT * FROM pair_metrics")[0]
    assert (row["drops"], row["packets"], row["loss_ratio"]) == (2, 1, 0)
    assert ask(empty, "SELECT drops FROM vm_metrics ORDER BY vm") == [{"drops": 2}, {"drops": 2}]


def test_speeds_that_lost_their_upper_bits_are_known() -> None:
    """Speeds as Open vSwitch states them (ofproto-dpif-sflow.c)."""
    assert {1_410_065_408, 3_525_163_520, 1_345_294_336, 1_215_752_192} <= set(WRAPPED_SPEEDS)
    assert not {10**9, 10**8, 2_500_000_000} & set(WRAPPED_SPEEDS)
