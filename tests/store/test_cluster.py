"""A cluster of two shards: what its tables are made of, inserts while a shard fails, and what the views say."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from itertools import compress, permutations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from collector.metrics import Metrics
from collector.rollup.groups import as_input
from collector.rollup.sums import PairSums
from collector.store.client import open_client, open_in_database
from collector.store.errors import transient
from collector.store.native import insert
from collector.store.settings import StoreSettings
from collector.store.setup import set_up
from collector.store.writer import INSERT_SETTINGS, Writer
from schemas.alerts import ALERT_TABLES
from schemas.anomalies import SCORES
from schemas.column import Table
from schemas.counters import COUNTERS
from schemas.drops import DROPS
from schemas.flows import FLOWS
from schemas.migrations import steps
from schemas.render import STORED, create_distributed
from schemas.rollups import LEVELS, PAIR_INPUT
from schemas.tables import TABLES
from schemas.views.all import VIEWS
from tests.flow_rows import batch as batch_of
from tests.flow_rows import flow, vm
from tests.store.two_shards import NODES, Cluster, two_shards
from tests.table_rows import HOUR_US, batch

pytest.importorskip("chdb", reason="the stand-in for a cluster needs chDB")

ROWS = 300
"""Of each table."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Both shards with our tables, set up from the first one's node."""
    with two_shards(tmp_path_factory.mktemp("cluster")) as found:
        set_up(found.node(1), found.settings(1, "asked"))  # type: ignore[arg-type]
        yield found


@pytest.fixture(autouse=True)
def emptied(cluster: Cluster) -> None:
    """Every test begins with two healthy shards without rows; what is inserted at node 1 goes to both."""
    cluster.shard.fail = ""
    cluster.client.database = NODES[0]
    for table in (*TABLES, PAIR_INPUT):
        cluster.client.command(create_distributed(table, "filled").replace(" ON CLUSTER `filled`", ""))
    for node in NODES:
        for table in STORED:
            if table.holds_rows:
                cluster.client.command(f"TRUNCATE TABLE {node}.{table.name}_local")


def shares(cluster: Cluster, table: str) -> list[int]:
    """Rows that each shard has."""
    return [cluster.one(f"SELECT count() FROM {node}.{table}_local") for node in NODES]


def test_a_start_at_another_shard_changes_nothing(cluster: Cluster) -> None:
    node = cluster.node(2)

    assert set_up(node, cluster.settings(2, "asked")) == []  # type: ignore[arg-type]

    assert all(" IF NOT EXISTS " in sql for sql in node.said), node.said
    assert cluster.noted() == [[step.number for step in steps()]] * 2


def test_an_insert_fails_while_a_shard_is_away(cluster: Cluster) -> None:
    cluster.shard.fail = "away"

    with pytest.raises(DatabaseError) as caught:
        store(cluster, DROPS, batch(DROPS, ROWS), "away")

    assert transient(caught.value)
    cluster.shard.fail = ""
    store(cluster, DROPS, batch(DROPS, ROWS), "away")
    assert sum(shares(cluster, "drops")) == ROWS
    assert cluster.shard.settings[-1]["insert_deduplication_token"] == "away"  # noqa: S105 - no password


@pytest.mark.parametrize("fail", ["end", "lost"])
def test_a_shard_that_took_its_part_does_not_take_it_again(cluster: Cluster, fail: str) -> None:
    """The second shard dies when the first one has stored its part: before it stores its own, or after."""
    rows = batch(DROPS, ROWS)
    cluster.shard.fail = fail
    for _ in range(2):
        with pytest.raises(DatabaseError) as caught:
            store(cluster, DROPS, rows, fail)
        assert transient(caught.value)
        first, second = shares(cluster, "drops")
        assert 0 < first < ROWS
        assert second == (ROWS - first if fail == "lost" else 0)

    cluster.shard.fail = ""
    for _ in range(2):
        store(cluster, DROPS, rows, fail)
        assert shares(cluster, "drops") == [first, ROWS - first]
    store(cluster, DROPS, rows, f"{fail}, others of the same kind")
    assert sum(shares(cluster, "drops")) == 2 * ROWS


def test_sums_that_one_shard_took_are_counted_once(cluster: Cluster) -> None:
    sums = sums_of(flows())
    cluster.shard.fail = "end"
    with pytest.raises(DatabaseError):
        store(cluster, PAIR_INPUT, sums, "sums")
    assert shares(cluster, "pair_10s")[0] > 0
    cluster.shard.fail = ""
    store(cluster, PAIR_INPUT, sums, "sums")

    assert all(shares(cluster, "pair_10s"))
    reported = [
        cluster.one(f"SELECT sum(packets) FROM {node}.pair_{level}_local") for level in LEVELS for node in NODES
    ]
    whole = sum(sums.column("packets").to_pylist())
    assert [sum(reported[at : at + 2]) for at in range(0, len(reported), 2)] == [pytest.approx(whole)] * len(LEVELS)


def test_the_spool_keeps_what_a_shard_does_not_take(cluster: Cluster, tmp_path: Path) -> None:
    settings = cluster.settings(1, "filled", schema_setup=False, spool_directory=tmp_path, max_retry_seconds=0.2)
    metrics = Metrics()
    cluster.shard.fail = "end"

    async def scenario() -> None:
        async with Writer(settings, metrics, asyncio.to_thread, asyncio.to_thread) as writer:
            for seed in range(3):
                assert writer.offer("flows", batch(FLOWS, ROWS, seed))
                assert writer.offer("drops", batch(DROPS, ROWS, seed))
            await until(lambda: (metrics.value("store_retries_total", table="flows") or 0) >= 3)
            assert writer.problem is not None
            assert metrics.value("store_rows_total", table="flows") == 0
            await until(lambda: any(tmp_path.glob("*.arrow")))
            cluster.shard.fail = ""
            await until(lambda: metrics.value("store_rows_total", table="drops") == 3 * ROWS)
            assert metrics.value("store_rows_total", table="flows") == 3 * ROWS

    asyncio.run(scenario())

    assert not list(tmp_path.glob("*.arrow"))
    for table in ("flows", "drops"):
        assert sum(shares(cluster, table)) == 3 * ROWS
        assert all(shares(cluster, table))


def test_every_table_and_view_says_what_one_server_says(cluster: Cluster) -> None:
    alone = StoreSettings(url=cluster.url, database="alone")
    found = flows()
    with open_client(alone, INSERT_SETTINGS) as client:
        set_up(client, alone)
        for table in MEASURED:
            rows = found if table is FLOWS else polls() if table is COUNTERS else batch(table, ROWS)
            insert(client, table, [rows], "whole")
            store(cluster, table, rows, "whole")
        insert(client, PAIR_INPUT, [sums_of(found)], "sums")
        store(cluster, PAIR_INPUT, sums_of(found), "sums")

    assert all(all(shares(cluster, table.name)) for table in MEASURED)
    nothing = []
    for name in (*(table.name for table in MEASURED), *(view.name for view in VIEWS if view.name not in PARTS)):
        final = "FINAL" if name in FINAL else ""
        expected, reported = (answer(cluster, f"SELECT * FROM {of}.{name} {final}") for of in ("alone", NODES[1]))
        assert len(reported) == len(expected), name
        for (exact, floats), (wanted, close_to) in zip(reported, expected, strict=True):
            assert exact == wanted, name
            assert close(floats, close_to), (name, wanted, floats, close_to)
        if not expected:
            nothing.append(name)
    # Speeds are as the settings say; figures and scores are stored by the service.
    stored = [view.name for view in VIEWS if "_figures_" in view.name or view.name == "anomalies"]
    assert sorted(nothing) == sorted(["speed_settings", *stored])


MEASURED = tuple(table for table in TABLES if table not in (*ALERT_TABLES, SCORES))
"""The others hold what alerts are about: one node writes and reads them."""

PARTS = {f"{of}_{level}" for of in ("vm", "host") for level in LEVELS}
"""Rows of rollups as they lie: parts of sums, of which each shard has its own.  `vm_metrics` and others add them."""

FINAL = {table.name for table in STORED if table.engine not in ("MergeTree", "Null")}
"""Rows are put together when parts are merged; FINAL does it when they are read."""


ONE_PORT = {
    "agent": bytes(15) + b"\x01", "if_index": 7, "if_name": "tap7", "host": "host-1", "vm": "a", "vm_uuid": bytes(16),
    "network": "", "source": "sflow", "delta_state": "ok", "interval_us": 25_000_000,
}  # fmt: skip


def polls() -> pa.RecordBatch:
    """Polls of an interface, which lie on both shards, within the hour that `reconciliation` looks at."""
    rows = batch(COUNTERS, ROWS, **ONE_PORT)
    at = rows.schema.get_field_index("time_received")
    later = pa.compute.add(rows.column(at).cast(pa.int64()), HOUR_US).cast(rows.schema.field(at).type)
    return rows.set_column(at, rows.schema.field(at), later)


def flows() -> pa.RecordBatch:
    """Flows of four VMs on two hypervisors, for two minutes, seen at both ends."""
    vms = [vm(name, f"host-{at % 2}") for at, name in enumerate("abcd")]
    made = [
        flow(one, other, seen, received=second, packets=3 + at, bytes=1000 + second, samples=1)
        for second in range(0, 120, 3)
        for at, (one, other) in enumerate(permutations(vms, 2))
        for seen in ("source", "destination")
    ]
    return batch_of(FLOWS, made)


def sums_of(rows: pa.RecordBatch) -> pa.RecordBatch:
    sums = PairSums(2**12, 2**14)
    assert sums.add(rows) is None
    return as_input(sums.take())


def store(cluster: Cluster, table: Table, rows: pa.RecordBatch, token: str) -> None:
    """Insert as the service does, at node 1."""
    with open_in_database(cluster.settings(1, "filled"), INSERT_SETTINGS) as client:
        insert(client, table, [rows], token)


def answer(cluster: Cluster, sql: str) -> list[tuple[list[Any], list[float | None]]]:
    """The rows of a query, in order: what is exact, and the floats."""
    text = cluster.client.raw_query(sql, fmt="JSONCompactEachRowWithNamesAndTypes").decode()
    _names, kinds, *rows = (json.loads(line) for line in text.splitlines())
    floats = ["Float" in kind for kind in kinds]
    split = [
        ([value for value, is_float in zip(row, floats, strict=True) if not is_float], [*compress(row, floats)])
        for row in rows
    ]
    return sorted(split, key=lambda parts: json.dumps(parts[0]))


def close(one: Any, other: Any) -> bool:
    """Whether two floats are equal, but for the order in which they were added."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(close, one, other))
    return one == other or (None not in (one, other) and math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9))


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.02)
