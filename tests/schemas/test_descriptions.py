"""Comments of columns in a real store: all of them, in new stores, in those of former releases, in views made again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from clickhouse_connect.driver import Client

from collector.store.client import open_client
from collector.store.settings import StoreSettings
from collector.store.setup import describe, set_up
from schemas.descriptions import VIEW_COLUMNS
from schemas.flows import FLOWS
from schemas.render import STORED
from schemas.views.all import VIEWS

NAMES = {*(table.name for table in STORED), *(view.name for view in VIEWS)}


@pytest.fixture
def client(bare_store: StoreSettings) -> Iterator[Client]:
    client = open_client(bare_store)
    client.command(f"CREATE DATABASE {bare_store.database}")
    client.database = bare_store.database
    yield client
    client.close()


def comments(client: Client, database: str) -> dict[tuple[str, str], str]:
    sql = "SELECT table, name, comment FROM system.columns WHERE database = {d:String} AND table IN {n:Array(String)}"
    rows = client.query(sql, parameters={"d": database, "n": sorted(NAMES)}).result_rows
    return {(table, column): comment for table, column, comment in rows}


def test_every_column_of_tables_and_views_is_described(client: Client, bare_store: StoreSettings) -> None:
    set_up(client, bare_store)

    assert set(describe(client, bare_store)) == NAMES

    found = comments(client, bare_store.database)
    assert [place for place, comment in found.items() if not comment] == []
    assert {table for table, _ in found} == NAMES
    assert found["flows", "vni"] == FLOWS["vni"].doc
    assert found["flows", "bytes"].endswith("Unit: bytes.")
    assert found["pair_metrics_1h", "loss_low"] == "Lower end of the 95 % interval of `loss_ratio`."
    in_views = {column for table, column in found if table in {view.name for view in VIEWS}}
    assert sorted(VIEW_COLUMNS.keys() - in_views) == [], "no view has these"
    assert describe(client, bare_store) == []
    assert set_up(client, bare_store) == []


def test_what_was_made_anew_or_changed_is_described_again(client: Client, bare_store: StoreSettings) -> None:
    set_up(client, bare_store)
    describe(client, bare_store)
    before = comments(client, bare_store.database)
    client.command("ALTER TABLE flows COMMENT COLUMN vni 'It''s \\\\ of somebody else'")
    client.command("DROP VIEW reconciliation SYNC")
    assert set_up(client, bare_store) == ["views reconciliation"]

    assert describe(client, bare_store) == ["flows", "reconciliation"]
    assert comments(client, bare_store.database) == before


def test_a_store_of_a_former_release_is_described(
    client: Client, bare_store: StoreSettings, released_state: tuple[str, ...]
) -> None:
    for statement in released_state:
        client.command(statement)
    set_up(client, bare_store)

    describe(client, bare_store)

    assert [place for place, comment in comments(client, bare_store.database).items() if not comment] == []
