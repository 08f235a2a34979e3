"""Migrations of a cluster of two shards, which made-up releases left (`tests.schemas.releases`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from collector.store.errors import SchemaError
from collector.store.setup import set_up
from schemas.migrations import CREATE_EVERYWHERE, CREATE_TABLE, TABLE, steps
from schemas.render import STORED, ddl, fill
from tests.schemas.releases import STEPS, TABLES, Releases
from tests.store.two_shards import NODES, Cluster, two_shards

pytest.importorskip("chdb", reason="the stand-in for a cluster needs chDB")


@pytest.fixture
def cluster(tmp_path: Path, releases: Releases) -> Iterator[Cluster]:
    """Both shards as release 0.0.1 left them, set up from node 1; the first one's inventory has a row."""
    (tmp_path / "cluster").mkdir()
    with two_shards(tmp_path / "cluster") as found:
        node = found.node(1)
        node.command(fill(f"CREATE DATABASE IF NOT EXISTS {NODES[0]}${{on_cluster}}", "asked"))
        for statement in (CREATE_TABLE, CREATE_EVERYWHERE):
            node.command(fill(statement, "asked"))
        for statement in ddl(TABLES["0.0.1"], cluster="asked", feeds=(), views=()):
            node.command(statement)
        node.insert(TABLE, [[1, STEPS[0][0]]], column_names=["step", "name"])
        add(found, 1, "vm-1")
        yield found


def add(cluster: Cluster, node: int, vm: str) -> None:
    """Put a row into the inventory of one shard."""
    table = f"{NODES[node - 1]}.inventory_local"
    cluster.client.command(f"INSERT INTO {table} (valid_from, valid_to, vm) SELECT now64(6), now64(6), '{vm}'")


def migrated(cluster: Cluster, node: int) -> list[str]:
    """Start at a node: what was done to tables that were there."""
    done = set_up(cluster.node(node), cluster.settings(node, "asked"))  # type: ignore[arg-type]
    return [line for line in done if not line.startswith(("views ", "tuned "))]


def inventories(cluster: Cluster, table: str) -> list[list[str]]:
    """Names of VMs on each shard."""
    return [[vm for (vm,) in cluster.client.query(f"SELECT vm FROM {node}.{table}").result_rows] for node in NODES]


ASIDE = "rows of the former inventory_local are in inventory_local_before_3"


def test_a_newer_release_at_another_shard_runs_its_new_steps_on_all(cluster: Cluster) -> None:
    """Only shard 1 knows what was done, and only shard 1 has rows."""
    assert cluster.noted() == [[1], []]

    assert migrated(cluster, 2) == ["migration 2 (columns)", ASIDE, "migration 3 (inventory)"]

    assert cluster.noted() == [[1], [1, 2, 3]]
    assert inventories(cluster, "inventory_local_before_3") == [["vm-1"], []]
    assert inventories(cluster, "inventory_local") == [[], []]
    for table in STORED:
        wanted = [(column.name, column.clickhouse) for column in table.columns]
        for name in (f"{node}.{table.name}{local}" for node in NODES for local in ("_local", "")):
            described = cluster.client.query(f"DESCRIBE TABLE {name}").result_rows
            assert [(column, kind) for column, kind, *_ in described] == wanted, name

    node = cluster.node(1)
    assert set_up(node, cluster.settings(1, "asked")) == []  # type: ignore[arg-type]
    assert all(" IF NOT EXISTS " in sql for sql in node.said), node.said
    assert cluster.noted() == [[1, 2, 3]] * 2


def test_a_step_that_stopped_halfway_is_run_again_from_another_shard(cluster: Cluster, releases: Releases) -> None:
    releases.install(stops=(3, 2))
    with pytest.raises(DatabaseError, match="the_step_stops_here"):
        migrated(cluster, 2)
    assert cluster.noted() == [[1], [1, 2]]
    add(cluster, 2, "vm-2")
    releases.install()

    assert migrated(cluster, 1) == ["migration 3 (inventory)"]

    assert cluster.noted() == [[step.number for step in steps()], [1, 2]]
    assert inventories(cluster, "inventory_local_before_3") == [["vm-1"], []]
    assert inventories(cluster, "inventory_local") == [[], ["vm-2"]]


def test_a_store_of_a_newer_release_is_refused_at_every_shard(cluster: Cluster, releases: Releases) -> None:
    migrated(cluster, 2)
    releases.install(last=2)
    assert cluster.noted() == [[1], [1, 2, 3]]

    for node in (1, 2):
        with pytest.raises(SchemaError, match=r"newer vmflow \(migration 3\)"):
            migrated(cluster, node)
