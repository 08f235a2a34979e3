"""What the console's questions say where names are equal, hosts are not known, and latencies are of two kinds; and what
stands beside an alert."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from clickhouse_connect.driver import Client

from collector.analyze.figures import read_due, store_window
from collector.store.settings import StoreSettings
from collector.web import questions
from tests.alert.support import traffic
from tests.flow_rows import BEGIN_US, add, flow, store, vm

BEGIN = BEGIN_US // 1_000_000


def named(name: str, host: str, number: int) -> dict[str, Any]:
    return {**vm(name, host), "uuid": str(UUID(int=number))}


TWIN, OTHER, PEER = named("twin", "host-1", 1), named("twin", "host-2", 2), named("peer", "host-3", 3)
HERE, LOST, NOWHERE = named("here", "host-1", 4), named("lost", "", 5), named("nowhere", "", 6)


def one_sided(source: dict[str, Any], target: dict[str, Any]) -> list[dict[str, Any]]:
    return [flow(source, target, "source", received=second + 0.5, packets=1000) for second in range(60)]


def latency(source: dict[str, Any], target: dict[str, Any], trip: str, microseconds: int) -> dict[str, Any]:
    return {
        "time": BEGIN_US, "interval_us": 10_000_000, "src_vm": source["vm"], "dst_vm": target["vm"],
        "src_vm_uuid": UUID(source["uuid"]).bytes, "dst_vm_uuid": UUID(target["uuid"]).bytes, "network": "tenant-1",
        "method": "one_way" if trip == "one_way" else "handshake", "trip": trip, "latency_us": microseconds,
        "spread_us": 1, "samples": 5,
    }  # fmt: skip


def place(name: str, host: str, begins: int, ends: int, **more: Any) -> dict[str, Any]:
    return {
        "vm": name, "host": host, "valid_from": (BEGIN + begins) * 1_000_000, "valid_to": (BEGIN + ends) * 1_000_000,
        "open": 1, "mac": sum(name.encode()), "agent": IPv6Address("::ffff:192.0.2.9").packed,
    } | more  # fmt: skip


@pytest.fixture(scope="module")
def client(store_directory: Path) -> Iterator[Client]:
    """Two VMs are called `twin`: the one sends to the other and to `peer`, which loses of the other's."""
    with store(StoreSettings(url=f"chdb://{store_directory}", database="questions")) as made:
        rows = traffic(TWIN, OTHER, range(60)) + traffic(TWIN, PEER, range(60)) + traffic(PEER, TWIN, range(60))
        rows += traffic(OTHER, PEER, range(60), 300)
        add(made, rows + one_sided(HERE, LOST) + one_sided(LOST, NOWHERE))
        add(made, [latency(TWIN, PEER, "one_way", 900), latency(OTHER, PEER, "round_trip", 40)], "latency")
        add(
            made,
            [
                place("peer", "host-9", -900, 20, open=0),
                place("peer", "host-3", 30, 60),
                place("away", "host-8", 10, 60),
                place("new", "host-1", 10, 60),
                place("moved", "host-1", -900, 20, open=0),
                place("moved", "host-7", 25, 60),
                place("left", "host-1", -900, 20, open=0),
            ],
            "inventory",
        )
        reporter = IPv6Address("::ffff:192.0.2.9").packed
        gap = {"reporter": reporter, "protocol": "ipfix"}
        add(
            made,
            [{**gap, "ends": BEGIN_US + 15_000_000, "reason": reason} for reason in ("lost", "lost", "started")],
            "gaps",
        )
        stream = {"exporter": reporter, "agent": reporter, "protocol": "ipfix"}
        rates = [{**stream, "time": BEGIN_US + at, "sampling_rate": rate} for at, rate in ((0, 10), (1_000_000, 400))]
        add(made, rates, "exporters")
        for name, key, value in (("mine", "src_vm", "twin"), ("near", "host", "host-1"), ("far", "host", "x")):
            made.command(
                "INSERT INTO alerts (alert_id, rule, labels, since, time) SELECT {name:String}, 'pair_loss', "
                "map({key:String}, {value:String}), toDateTime({at:UInt32}), toDateTime({at:UInt32})",
                parameters={"name": name, "key": key, "value": value, "at": BEGIN},
            )
        for window in read_due(made, "1m", {"begin": BEGIN, "end": BEGIN + 60}):
            store_window(made, "1m", window, 1, 1)
        yield made


def ask(client: Client, name: str, **given: Any) -> list[dict[str, Any]]:
    """The rows of an answer."""
    times = {"at": BEGIN} if "at" in questions.QUESTIONS[name].takes else {"from": BEGIN, "until": BEGIN + 60}
    texts = {key: str(value) for key, value in (times | given).items()}
    data = json.loads(questions.ask(client, *questions.prepare(name, "1m", texts, BEGIN + 60))[0])
    return [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]


def test_vms_of_one_name_are_told_apart(client: Client) -> None:
    peers = {
        uuid: {(row["peer"], row["uuid"][-1]): row for row in ask(client, "vm_peers", vm="twin", uuid=uuid)}
        for uuid in (TWIN["uuid"], OTHER["uuid"], "")
    }
    mine, others = peers[TWIN["uuid"]], peers[OTHER["uuid"]]

    assert set(mine) == {("twin", "2"), ("peer", "3")}
    assert mine["twin", "2"]["sent_bits_per_second"] == pytest.approx(800_000)
    assert mine["twin", "2"]["received_bits_per_second"] is None
    assert mine["peer", "3"]["received_bits_per_second"] == pytest.approx(800_000)
    assert set(others) == {("twin", "1"), ("peer", "3")}
    assert others["twin", "1"]["received_bits_per_second"] == pytest.approx(800_000)
    assert others["twin", "1"]["sent_bits_per_second"] is None
    assert others["peer", "3"]["sent_loss_ratio"] == pytest.approx(0.3)
    # Without a UUID all questions of a page mean the same one.
    (series,) = ask(client, "vm_series", vm="twin")
    assert peers[""] == (others if series["uuid"] == OTHER["uuid"] else mine)


def test_pairs_of_one_name_are_never_one_line(client: Client) -> None:
    listed = {row["src_uuid"]: row for row in ask(client, "pairs", src_vm="twin", dst_vm="peer")}
    found = {
        number: ask(client, "pair_series", src="twin", dst="peer", pair=listed[UUID_OF]["pair_id"])
        for number, UUID_OF in (("mine", TWIN["uuid"]), ("other", OTHER["uuid"]))
    }
    on_host = ask(client, "pair_series", src="twin", dst="peer", src_host="host-2")

    assert [len(rows) for rows in found.values()] == [1, 1]
    assert [rows[0]["loss_ratio"] for rows in found.values()] == [pytest.approx(0), pytest.approx(0.3)]
    assert len(ask(client, "pair_series", src="twin", dst="peer")) == 1
    assert on_host == found["other"]
    # The other direction, by its hash.
    (back,) = ask(client, "pairs", src_vm="peer", dst_vm="twin")
    assert found["mine"][0]["other_id"] == back["pair_id"]
    assert back["other_id"] == found["mine"][0]["pair_id"]
    (cell,) = (row for row in ask(client, "vm_matrix") if (row["r"], row["c"]) == ("twin", "peer"))
    assert (cell["count"], cell["pair_id"]) == (2, "")
    (cell,) = (row for row in ask(client, "vm_matrix") if (row["r"], row["c"]) == ("peer", "twin"))
    assert cell["pair_id"] == back["pair_id"]


def test_where_a_host_is_not_known_nobody_says_that_it_is_the_same_or_another(client: Client) -> None:
    (summary,) = ask(client, "summary")
    states = {row["state"]: row["pairs"] for row in ask(client, "coverage")}
    hosts = {row["host"]: row for row in ask(client, "hosts")}

    assert states == {"both": 4, "sender": 2}
    assert (summary["pairs"], summary["crossing"], summary["blind"]) == (6, 4, 0)
    assert ask(client, "pairs", only="blind") == []
    assert [(row["host"], row["side"], row["blind"]) for row in ask(client, "coverage_hosts")] == [("", "receiver", 2)]
    assert hosts[""]["within_bits"] in (0, None)
    assert (hosts[""]["every_pair"], hosts["host-1"]["every_pair"]) == (2, 4)


def test_one_way_and_round_trips_are_kept_apart(client: Client) -> None:
    def order(down: int, **more: Any) -> list[tuple[str, Any]]:
        rows = ask(client, "pairs", sort="latency", down=down, **more)
        return [(row["latency_trip"], row["latency_us"]) for row in rows if row["latency_us"] is not None]

    assert order(0) == [("one_way", 900), ("round_trip", 40)]
    assert order(1) == [("round_trip", 40), ("one_way", 900)]
    assert ask(client, "pairs", sort="latency", down=1)[-1]["latency_us"] is None
    assert ask(client, "pairs", sort="latency", down=0)[-1]["latency_us"] is None
    assert order(1, only="one_way") == [("one_way", 900)]
    (cell,) = (row for row in ask(client, "vm_matrix") if (row["r"], row["c"]) == ("twin", "peer"))
    assert (cell["one_way"], cell["round_trip"]) == (900, 40)
    assert {row["src_host"]: row["latency_trip"] for row in ask(client, "host_links", host="host-3")}["host-2"] == (
        "round_trip"
    )


def test_paths_add_up_to_all_volume(client: Client) -> None:
    (summary,) = ask(client, "summary")
    for by in ("project", "vm", "network"):
        for most in (1, 10):
            rows = ask(client, f"paths_by_{by}", most=most)
            assert sum(row["bits"] for row in rows) == pytest.approx(summary["bits"])
            assert sum(row["pairs"] for row in rows) == summary["pairs"]
    rows = ask(client, "paths_by_vm", most=1, vm="twin", host="host-3")
    assert {(row["k0"], row["n0"]) for row in rows} == {(1, "twin"), (0, "")}
    assert sum(row["bits"] for row in rows if row["n0"]) == pytest.approx(800_000 + 800_000)


def test_beside_an_alert_stands_how_the_others_fare(client: Client) -> None:
    names = {"src_vm": "here", "dst_vm": "peer", "src_host": "host-2", "dst_host": "host-3"}
    groups = {row["beside"]: row for row in ask(client, "beside", **names, at=BEGIN + 60)}

    assert {name: (row["pairs"], row["measured"], row["lossy"]) for name, row in groups.items()} == {
        "to_vm": (2, 2, 1), "from_vm": (1, 0, 0), "rest": (3, 2, 0),
    }  # fmt: skip
    assert groups["to_vm"]["t"] == BEGIN
    # One `twin` loses 30 % to `peer`, for certain above 20 % and not above 40 %; 900 and 40 µs are known.
    for least_ppm, lossy, least_us, slow in ((200_000, 1, 30, 2), (400_000, 0, 50, 1)):
        rows = ask(client, "beside", **names, at=BEGIN + 60, least_ppm=least_ppm, least_us=least_us)
        assert [(row["lossy"], row["slow"]) for row in rows if row["beside"] == "to_vm"] == [(lossy, slow)]
    assert ask(client, "beside", **names, at=BEGIN - 1) == []


def test_what_else_changed_stands_with_what_is_nearest_first(client: Client) -> None:
    names = {"src_vm": "twin", "dst_vm": "peer", "src_host": "host-1", "dst_host": "host-3"}
    found = ask(client, "changes", **names, around=BEGIN + 30, id="mine")

    assert [(row["near"], row["kind"], row["subject"], row["what"]) for row in found] == [
        ("vm", "move", "peer", "host-9 → host-3"),
        ("host", "move", "moved", "host-1 → host-7"),
        ("host", "gone", "left", "host-1"),
        ("host", "lost", "192.0.2.9", "ipfix × 2"),
        ("host", "appeared", "new", "host-1"),
        ("host", "rate", "192.0.2.9", "1:10 → 1:400"),
        ("host", "alert", "host-1", "pair_loss"),
        ("elsewhere", "alert", "x", "pair_loss"),
    ]
    assert found[0]["t"] == BEGIN + 30
    assert {row["every"] for row in found} == {8}
