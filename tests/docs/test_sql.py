"""Every statement of README, docs and dashboards runs, and what it says of traffic is what the VMs really sent.

The store holds each packet four times: at two hypervisors, by two protocols.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver import Client

from collector.sql.engine import Engine, Query
from collector.store.settings import StoreSettings
from tests.deploy.grafana import SQL, dashboards, expand, targets
from tests.docs.statements import statements
from tests.docs.truth import LOST, PROJECTS, REFUSED, SENT, STEM, filled, span, true_bytes, true_packets
from tests.flow_rows import ask, nic

Rows = list[dict[str, Any]]
SUMS = re.compile(
    r"\b(?:sum|max|avg)\w*\((?:\w+_)?(?:bytes|packets|frame_bytes|bits_per_second|\w+_estimated)\b|_bits_per_second\b"
)
TRAFFIC = re.compile(r"\bFROM (?:flows|pair_|vm_|host_)")
MAY_BE_EMPTY = ("notifications.md", "Blind pairs", "The rarest of the last day")
"""Statements about what this store does not have."""
STATEMENTS = statements()
PANELS = list(targets(SQL))


def total(column: str, scale: float = 1) -> Callable[[Rows], float]:
    """The sum of a column."""
    return lambda rows: sum(row[column] or 0 for row in rows) * scale


def rate(column: str) -> Callable[[Rows], float]:
    """Octets of what is shown in bits per second, in windows of a minute."""
    return total(column, 60 / 8)


def pairs_of(rows: Rows, column: str) -> dict[tuple[str, str], Any]:
    """A column by pair."""
    return {(row["src_vm"], row["dst_vm"]): row[column] for row in rows}


def layer2(vm: str, way: str) -> int:
    """What the kernel counted at the NIC of a VM."""
    return nic(STEM, vm, {"sent": "tx", "received": "rx"}[way])["bytes"]


def expect_layer2(rows: Rows) -> None:
    said = {(row["vm"], row["direction"]): row["layer2_bytes"] for row in rows}
    for vm, way in (("a1", "sent"), ("a2", "sent"), ("b1", "sent"), ("b1", "received"), ("a2", "received")):
        assert said[vm, way] == layer2(vm, way), (vm, way)


def expect_one_vm(rows: Rows) -> None:
    assert sum(row["sent"] for row in rows) * 10 / 8 == pytest.approx(true_bytes("a2"), abs=10)


def expect_matrix(rows: Rows) -> None:
    said = {(row["src_vm"], to): megabits for row in rows for to, megabits in row["sent_to"]}
    assert set(said) == set(true_packets())
    assert sum(said.values()) == pytest.approx(true_bytes() * 8 / 1e6, abs=0.005 * len(said))


def expect_by_protocol(rows: Rows) -> None:
    """A query of `flows`: it names one protocol and the sightings that count."""
    assert pairs_of(rows, "packets") == true_packets()
    assert sum(row["bytes"] for row in rows) == true_bytes()


def expect_each_exporter(rows: Rows) -> None:
    """The hypervisor of a1 and a2 sees all of the capture, once by each protocol."""
    here = IPv4Address("192.0.2.11")
    seen = [row for row in rows if here in (row["exporter"], getattr(row["exporter"], "ipv4_mapped", None))]
    assert total("total_bytes")(seen) == true_bytes("a1", "a2", "b1")


def equals(said: Callable[[Rows], float], true: Callable[[], float], about: float = 0) -> Callable[[Rows], None]:
    """A check of one figure, exact unless the statement rounds."""

    def check(rows: Rows) -> None:
        assert said(rows) == pytest.approx(true(), rel=1e-9, abs=about)

    return check


def holds(low: float, high: float) -> bool:
    """Whether the true loss is in an interval, but for rounding: without sampling it has no width."""
    return low - 1e-9 <= LOST / SENT <= high + 1e-9


def expect_loss(rows: Rows) -> None:
    """The true loss lies in the interval of the one pair that loses, and no other pair is shown to lose."""
    reported = {(row["src_vm"], row["dst_vm"]): (row["low"], row["high"]) for row in rows}
    assert set(reported) == {("c", "d")}
    assert reported["c", "d"][0] > 0.01
    assert holds(*reported["c", "d"])


def expect_refused(rows: Rows) -> None:
    (row,) = rows
    assert (row["src_vm"], row["dst_vm"], row["errors"]) == ("e", "f", 1)
    assert row.get("failed", row.get("failed_connections")) == REFUSED


DOCUMENTED: Mapping[str, Callable[[Rows], None]] = {
    "README.md: SELECT src_vm, dst_vm, network, sum(bytes)": equals(total("total_bytes"), true_bytes),
    "inventory.md: SELECT src_vm, dst_vm, sum(packets_estimated)": expect_by_protocol,
    "netflow.md: SELECT exporter, src_ip": expect_each_exporter,
    "The pairs that sent most": equals(total("megabytes", 1e6), true_bytes),
    "pcap.md: SELECT src_vm, dst_vm, round(sum(bytes)": equals(total("megabytes", 1e6), true_bytes),
    "From stored figures": equals(total("sent_bytes"), true_bytes),
    "a matrix of the last two hours": expect_matrix,
    "One VM: what it sent": expect_one_vm,
    "Pairs that lose more than 1 %": expect_loss,
    "Pairs whose connections fail": expect_refused,
    "Layer 2 bytes of each VM": expect_layer2,
    "Blind pairs": equals(total("elsewhere"), lambda: 0),
}
"""How a statement begins -> what its answer must be."""


def expect_pairs(rows: Rows) -> None:
    assert sum(row["bytes_sent"] for row in rows) == true_bytes()
    low, loss, high = (pairs_of(rows, name)["c", "d"] for name in ("low", "loss", "high"))
    assert holds(low, high)
    assert loss == pytest.approx(LOST / SENT)
    assert pairs_of(rows, "loss")["b1", "a2"] == 0


def expect_band(rows: Rows) -> None:
    assert [holds(row["low"], row["high"]) for row in rows] == [True]


def expect_all_pairs(rows: Rows) -> None:
    equals(rate("bits"), true_bytes)(rows)
    for end in ("low", "high"):
        equals(rate(end), true_bytes)(rows)  # nothing is sampled: no width


def expect_hosts(rows: Rows) -> None:
    """Of the capture: a1 and a2 are on host-a.  Two made-up senders are on host-1."""
    by_host = {row["host"]: row["sent"] for row in rows}
    assert by_host == {
        "host-a": true_bytes("a1", "a2"), "host-b": true_bytes("b1"), "host-1": true_bytes("c", "e"), "host-2": 0,
    }  # fmt: skip


def expect_vms(rows: Rows) -> None:
    sent = {row["vm"]: row["sent"] for row in rows}
    for vm in ("a1", "a2", "b1", "c", "e"):
        assert sent[vm] == true_bytes(vm), vm


DRAWN: Mapping[str, Callable[[Rows], None]] = {
    "vmflow-pairs: Sent between VMs": equals(total("bytes"), true_bytes),
    "vmflow-pairs: Pairs with traffic": equals(total("pairs"), lambda: len(true_packets())),
    "vmflow-pairs: Pairs that lose more than 1 %, for certain": equals(total("pairs"), lambda: 1),
    "vmflow-pairs: Packets seen at neither end": equals(total("packets"), lambda: 0),
    "vmflow-pairs: All of these pairs": expect_all_pairs,
    "vmflow-pairs: Busiest 10 pairs": equals(rate("bits"), true_bytes),
    "vmflow-pairs: Pairs": expect_pairs,
    "vmflow-loss: Pairs that lose, for certain": expect_loss,
    "vmflow-loss: The pair that loses most: loss and its 95 % interval": expect_band,
    "vmflow-loss: Loss of the 10 worst pairs": lambda rows: expect_names(rows, "pair", {"c → d"}),
    "vmflow-loss: How well loss is known": equals(total("bytes_sent"), true_bytes),
    "vmflow-loss: Latency of the 10 slowest pairs": equals(total("latency"), lambda: 900e-6),
    "vmflow-loss: Latency": equals(total("median"), lambda: 900e-6),
    "vmflow-loss: Why there is no latency": equals(total("pairs"), lambda: len(true_packets()) - 1),
    "vmflow-loss: Connections that fail": expect_refused,
    "vmflow-hosts: Sent by the VMs of each hypervisor": equals(rate("bits"), true_bytes),
    # What a2 sent to a1 was dropped, what c sent to d lost in part.
    "vmflow-hosts: Received by the VMs of each hypervisor": equals(
        rate("bits"),
        lambda: (
            sum(nic(STEM, vm, "rx")["bytes"] - 14 * nic(STEM, vm, "rx")["packets"] for vm in ("a1", "a2", "b1"))
            + (SENT - LOST + REFUSED) * 100
        ),
    ),
    "vmflow-hosts: Hypervisors": expect_hosts,
    "vmflow-hosts: VMs": expect_vms,
    "vmflow-hosts: Busiest 10 interfaces": lambda rows: expect_names(rows, "port", {"host-a vnet1", "host-b vnet1"}),
    "vmflow-hosts: Interfaces": lambda rows: expect_names(rows, "vm", {"a1", "a2", "b1"}),
    "vmflow-alerts: Critical now": equals(total("alerts"), lambda: 1),
    "vmflow-alerts: Warning now": equals(total("alerts"), lambda: 0),
    "vmflow-alerts: Info now": equals(total("alerts"), lambda: 0),
    "vmflow-alerts: Now": lambda rows: expect_names(rows, "summary", {"a1 → b1"}),
    "vmflow-alerts: Alerts that fired, by rule": equals(total("fired"), lambda: 1),
    "vmflow-alerts: What happened": lambda rows: expect_names(rows, "event", {"firing"}),
    "vmflow-exporters: Exporters heard": equals(total("exporters"), lambda: 2),
    "vmflow-exporters: With findings": equals(total("exporters"), lambda: 1),
    "vmflow-exporters: Datagrams that vmflow lost": equals(total("datagrams"), lambda: 0),
    # Each sent 9 datagrams with 90 records and lost one on the way.
    "vmflow-exporters: Exporters": equals(total("all_records"), lambda: 180),
    "vmflow-exporters: Records per second, busiest 10": equals(total("records", 10), lambda: 180),
    "vmflow-exporters: Missing by sequence numbers, worst 10": equals(total("lost"), lambda: 0.2),
    "vmflow-exporters: When packets went unwatched, and why": equals(total("seconds"), lambda: 4),
}
"""Each panel and what it must show."""


def expect_names(rows: Rows, column: str, there: set[str]) -> None:
    assert there <= {row[column] for row in rows}


@pytest.fixture(scope="module")
def client(store_directory: Path) -> Iterator[Client]:
    with filled(store_directory, "documented") as client:
        yield client


@pytest.fixture(scope="module")
def engine(client: Client, store_directory: Path) -> Iterator[Engine]:
    """What stands behind the SQL endpoint: its guard must let every statement pass."""
    made = Engine(store_directory, StoreSettings(url=f"chdb://{store_directory}", database="documented"))
    yield made
    made.close()


@pytest.mark.parametrize("statement", STATEMENTS, ids=[one.name for one in STATEMENTS])
def test_a_documented_statement_says_what_is_true(client: Client, engine: Engine, statement: Any) -> None:
    sql = statement.now()
    rows = ask(client, sql)

    engine.run(Query(sql.encode(), "documented", "JSONEachRow", {}, {}))
    assert rows or any(word in statement.name for word in MAY_BE_EMPTY)
    checks = [check for begin, check in DOCUMENTED.items() if begin in statement.name]
    if TRAFFIC.search(sql) and SUMS.search(sql):
        assert checks, "a statement that adds up traffic needs its truth in DOCUMENTED"
    for check in checks:
        check(rows)


def test_no_sum_over_rows_of_flows_counts_sightings_twice() -> None:
    for name, sql in [
        *((one.name, one.sql) for one in STATEMENTS),
        *((title, one["rawSql"]) for _, title, one in PANELS),
    ]:
        if re.search(r"\bFROM flows\b", sql) and re.search(r"\bsum\(\w*(?:bytes|packets)", sql):
            # Or it keeps exporters apart: one router counts a packet once.
            assert "sighting IN ('source', 'both')" in sql or re.search(r"SELECT exporter\b", sql), name
            assert "protocol = " in sql, name


@pytest.mark.parametrize("level", ["_1m", "_1h"])
@pytest.mark.parametrize(("uid", "title", "target"), PANELS, ids=[f"{uid}: {title}" for uid, title, _ in PANELS])
def test_a_panel_shows_what_is_true(
    client: Client, engine: Engine, uid: str, title: str, target: dict[str, Any], level: str
) -> None:
    sql = expand(target["rawSql"], *span(), level=level)
    rows = ask(client, sql)

    engine.run(Query(sql.encode(), "documented", "JSONEachRow", {}, {}))
    if level == "_1m":
        DRAWN[f"{uid}: {title}"](rows)
    assert rows


def test_each_panel_has_its_truth() -> None:
    assert {f"{uid}: {title}" for uid, title, _ in PANELS} == set(DRAWN)


CHOICES = [(uid, choice) for uid, one in dashboards().items() for choice in one["templating"]["list"]
           if choice["type"] == "query" and choice["datasource"]["type"] == SQL]  # fmt: skip


@pytest.mark.parametrize(("uid", "choice"), CHOICES, ids=[f"{uid}: {choice['name']}" for uid, choice in CHOICES])
def test_a_variable_offers_names_and_keeps_them_in_hexadecimal(
    client: Client, uid: str, choice: dict[str, Any]
) -> None:
    rows = ask(client, expand(choice["query"], *span()))

    assert [list(row) for row in rows[:1]] == [["id", "name"]]  # the plugin takes the first column for the value
    assert {bytes.fromhex(row["id"]).decode(): row["name"] for row in rows} == {
        row["name"]: row["name"] for row in rows
    }
    expect_names(rows, "name", {
        "vm": {"a1", "b1"}, "host": {"host-a"}, "network": {"tenant-100"}, "project": {"shop", "bank"},
    }[choice["name"]])  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "senders"),
    [
        ({"vm": ["a1"]}, {("a1", "b1"), ("b1", "a1"), ("a2", "a1")}),
        ({"host": ["host-1"]}, {("c", "d"), ("e", "f")}),
        ({"network": ["tenant-1"]}, {("c", "d"), ("e", "f")}),
        ({"project": ["bank"]}, {pair for pair in true_packets() if "b1" in pair}),
        ({"project": ["shop"], "vm": ["b1", "a1"]}, {pair for pair in true_packets() if "a1" in pair or "b1" in pair}),
        ({"vm": ["\\", "' OR 1=1 --"]}, set()),
    ],
)
def test_variables_choose(client: Client, chosen: dict[str, list[str]], senders: set[tuple[str, str]]) -> None:
    """Either end; a name that would end a quoted text chooses nothing."""
    sql = next(target["rawSql"] for uid, title, target in PANELS if (uid, title) == ("vmflow-pairs", "Pairs"))
    values = {name: [one.encode().hex().upper() for one in several] for name, several in chosen.items()}

    rows = ask(client, expand(sql, *span(), values))

    assert {(row["src_vm"], row["dst_vm"]) for row in rows} == senders


def test_the_truth_is_of_both_hypervisors_and_protocols(client: Client) -> None:
    """What makes the tests above hard: all rows together say four times as much, or more."""
    (row,) = ask(client, "SELECT sum(bytes_estimated) AS octets, uniqExact(exporter, protocol) AS reports FROM flows "
                         "WHERE (src_vm, dst_vm) IN (('b1', 'a2'), ('a2', 'b1'))")  # fmt: skip
    assert row["octets"] > 3 * sum(nic(STEM, "a2", "rx")["bytes"] for _ in "1")
    assert row["reports"] == 4
    assert set(PROJECTS) >= {"a1", "a2", "b1"}
