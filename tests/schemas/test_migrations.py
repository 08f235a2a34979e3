"""Migrations, replayed on the real engine from nothing and from every released state."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from clickhouse_connect.driver import Client

from collector.store.client import open_client
from collector.store.errors import SchemaError
from collector.store.settings import StoreSettings
from collector.store.setup import check, columns, migrate, set_up, state
from schemas.flows import FLOWS
from schemas.migrations import CREATE_TABLE, TABLE, split, states, steps
from schemas.render import STORED, ddl, fill
from schemas.rollups import FEEDS
from schemas.views.all import VIEWS

NAMES = [table.name for table in STORED]
ENGINES = "SELECT name, engine_full FROM system.tables WHERE database = {d:String} AND name != {m:String} ORDER BY name"


@pytest.fixture
def client(embedded_store: StoreSettings) -> Iterator[Client]:
    client = open_client(embedded_store)
    client.command(f"CREATE DATABASE {embedded_store.database}")
    client.database = embedded_store.database
    yield client
    client.command(f"DROP DATABASE IF EXISTS {embedded_store.database} SYNC")
    client.close()


def schema(client: Client, database: str) -> object:
    """Columns and engines, without what cannot be changed in a table and what only newer engines know."""
    tuning = "|".join(f", {name} = {value}" for name, value in FLOWS.tuning.items())
    engines = [
        (name, re.sub(rf"index_granularity = \d+, |{tuning}", "", engine))
        for name, engine in client.query(ENGINES, parameters={"d": database, "m": TABLE}).result_rows
    ]
    return columns(client, database, NAMES), engines


@pytest.fixture
def rendered(client: Client, embedded_store: StoreSettings) -> object:
    """What the engine makes of the schema as it is rendered today."""
    for statement in ddl():
        client.command(statement)
    found = schema(client, embedded_store.database)
    for view in (*VIEWS, *FEEDS):
        client.command(f"DROP VIEW {view.name} SYNC")
    for name in NAMES:
        client.command(f"DROP TABLE {name} SYNC")
    return found


def flows_engine(client: Client, database: str) -> str:
    return str(dict(client.query(ENGINES, parameters={"d": database, "m": TABLE}).result_rows)["flows"])


def test_a_new_store_has_the_schema_of_today(client: Client, embedded_store: StoreSettings, rendered: object) -> None:
    done = set_up(client, embedded_store)

    views = ", ".join(view.name for view in (*FEEDS, *VIEWS))
    assert done == [f"tables as of migration {len(steps())}", "tuned flows", f"views {views}"]
    assert schema(client, embedded_store.database) == rendered
    engine = flows_engine(client, embedded_store.database)
    assert "index_granularity = 65536, min_rows_for_wide_part = 4194304" in engine
    assert all(f"{name} = {value}" in engine for name, value in FLOWS.tuning.items())
    assert set_up(client, embedded_store) == []
    assert state(client, embedded_store).applied == {step.number for step in steps()}


def test_all_steps_from_nothing_give_the_schema_of_today(
    client: Client, embedded_store: StoreSettings, rendered: object
) -> None:
    client.command(fill(CREATE_TABLE))
    done = migrate(client, set(), None)

    assert done == [f"migration {step.number} ({step.name})" for step in steps()]
    set_up(client, embedded_store)
    assert schema(client, embedded_store.database) == rendered
    assert "index_granularity = 8192" in flows_engine(client, embedded_store.database)
    assert set_up(client, embedded_store) == []
    assert state(client, embedded_store).applied == {step.number for step in steps()}


@pytest.mark.parametrize("version", sorted(states()))
def test_every_released_state_migrates_to_the_schema_of_today(
    client: Client, embedded_store: StoreSettings, rendered: object, version: str
) -> None:
    for statement in split(states()[version].read_text(encoding="utf-8")):
        client.command(statement)

    set_up(client, embedded_store)

    assert schema(client, embedded_store.database) == rendered


def test_a_table_that_a_step_drops_is_put_aside_if_it_holds_rows(
    client: Client, embedded_store: StoreSettings, rendered: object
) -> None:
    """Release 0.1.0 wrote an inventory that step 2 replaces."""
    for statement in split(states()["0.1.0"].read_text(encoding="utf-8")):
        client.command(statement)
    client.command("INSERT INTO inventory (valid_from, valid_to, vm) SELECT now64(6), now64(6), 'vm-1'")

    done = set_up(client, embedded_store)

    assert "rows of the former inventory are in inventory_before_2" in done
    assert client.query("SELECT vm FROM inventory_before_2").result_rows == [("vm-1",)]
    client.command("DROP TABLE inventory_before_2 SYNC")
    assert schema(client, embedded_store.database) == rendered


@pytest.mark.parametrize("made", [1, 8, len(STORED)])
def test_tables_that_were_made_halfway_are_completed(
    client: Client, embedded_store: StoreSettings, rendered: object, made: int
) -> None:
    for statement in ddl()[:made]:
        client.command(statement)

    set_up(client, embedded_store)

    assert schema(client, embedded_store.database) == rendered


def test_a_step_that_stopped_halfway_is_run_again(
    client: Client, embedded_store: StoreSettings, rendered: object
) -> None:
    client.command(fill(steps()[0].statements[0]))

    set_up(client, embedded_store)

    assert schema(client, embedded_store.database) == rendered


def test_a_changed_ttl_is_applied(client: Client, embedded_store: StoreSettings) -> None:
    set_up(client, embedded_store)

    done = set_up(client, embedded_store.model_copy(update={"ttl_days": {"flows": 3}}))

    assert done == ["rows of flows live 3 days"]
    engine = dict(client.query(ENGINES, parameters={"d": embedded_store.database, "m": TABLE}).result_rows)
    assert "TTL toDateTime(time_received) + toIntervalDay(3)" in engine["flows"]


def test_differences_are_named(client: Client, embedded_store: StoreSettings) -> None:
    set_up(client, embedded_store)
    client.command("ALTER TABLE flows DROP COLUMN vni")
    client.command("ALTER TABLE drops MODIFY COLUMN suppressed UInt64")
    client.command("DROP TABLE inventory SYNC")

    with pytest.raises(SchemaError) as caught:
        check(client, embedded_store)

    message = str(caught.value)
    assert "flows.vni is missing" in message
    assert "drops.suppressed is UInt64, should be UInt32" in message
    assert "table inventory is missing" in message
    assert "vmflow schema --apply" in message


def test_a_store_of_a_newer_release_is_refused(client: Client, embedded_store: StoreSettings) -> None:
    set_up(client, embedded_store)
    client.insert(TABLE, [[999, "from the future"]], column_names=["step", "name"])

    with pytest.raises(SchemaError, match="newer vmflow"):
        set_up(client, embedded_store)


def test_rows_survive_an_alter(client: Client, embedded_store: StoreSettings) -> None:
    """The engine once refused every ALTER of a table whose aliases had a lambda twice: steps must be possible."""
    set_up(client, embedded_store)

    client.command("ALTER TABLE flows ADD COLUMN later UInt8 DEFAULT 7 AFTER vni")

    assert columns(client, embedded_store.database, ["flows"])["flows"]["later"][0] == "UInt8"
