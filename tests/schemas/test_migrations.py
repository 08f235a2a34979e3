"""Migrations, replayed on the real engine from nothing and from every released state.

Our own steps, and those of made-up releases (`tests.schemas.releases`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from collector.store.client import open_client
from collector.store.errors import SchemaError
from collector.store.settings import StoreSettings
from collector.store.setup import check, columns, migrate, set_up, state
from schemas.flows import FLOWS
from schemas.migrations import CREATE_TABLE, TABLE, split, steps
from schemas.render import STORED, ddl, fill
from schemas.rollups import FEEDS
from schemas.views.all import VIEWS
from tests.schemas import first_release
from tests.schemas.releases import STEPS, Releases

CHANGED = (
    f"the tables are not those of the migrations: write schemas/steps/{len(steps()) + 1:04}_NAME.sql, or, as long as "
    "nothing is released, the first step again with `python -m tests.schemas.first_release`"
)
NAMES = [table.name for table in STORED]
ENGINES = "SELECT name, engine_full FROM system.tables WHERE database = {d:String} AND name != {m:String} ORDER BY name"


@pytest.fixture
def client(bare_store: StoreSettings) -> Iterator[Client]:
    client = open_client(bare_store)
    client.command(f"CREATE DATABASE {bare_store.database}")
    client.database = bare_store.database
    yield client
    client.command(f"DROP DATABASE IF EXISTS {bare_store.database} SYNC")
    client.close()


def schema(client: Client, database: str) -> object:
    """Columns and engines, without what cannot be changed in a table and what only newer engines know."""
    tuning = "|".join(f", {name} = {value}" for name, value in FLOWS.tuning.items())
    engines = [
        (name, re.sub(rf"index_granularity = \d+, |{tuning}", "", engine))
        for name, engine in client.query(ENGINES, parameters={"d": database, "m": TABLE}).result_rows
    ]
    return columns(client, database, NAMES), engines


@pytest.fixture(scope="module")
def rendered(store_directory: Path) -> object:
    """What the engine makes of the schema as it is rendered today."""
    settings = StoreSettings(url=f"chdb://{store_directory}", database="rendered")
    with open_client(settings) as client:
        client.command(f"CREATE DATABASE {settings.database}")
        client.database = settings.database
        for statement in ddl():
            client.command(statement)
        found = schema(client, settings.database)
        client.command(f"DROP DATABASE {settings.database} SYNC")
    return found


def flows_engine(client: Client, database: str) -> str:
    return str(dict(client.query(ENGINES, parameters={"d": database, "m": TABLE}).result_rows)["flows"])


def test_a_new_store_has_the_schema_of_today(client: Client, bare_store: StoreSettings, rendered: object) -> None:
    done = set_up(client, bare_store)

    views = ", ".join(view.name for view in (*FEEDS, *VIEWS))
    assert done == [f"tables as of migration {len(steps())}", "tuned flows", f"views {views}"]
    assert schema(client, bare_store.database) == rendered
    engine = flows_engine(client, bare_store.database)
    assert "index_granularity = 65536, min_rows_for_wide_part = 4194304" in engine
    assert all(f"{name} = {value}" in engine for name, value in FLOWS.tuning.items())
    assert set_up(client, bare_store) == []
    assert state(client, bare_store).applied == {step.number for step in steps()}


def test_the_first_step_makes_the_tables_of_today() -> None:
    """As long as it is the only one: what several make together, the engine compares below."""
    step, state_of_it = first_release.texts()
    assert len(steps()) > 1 or first_release.STEP.read_text(encoding="utf-8") == step, CHANGED
    assert len(steps()) > 1 or first_release.STATE.read_text(encoding="utf-8") == state_of_it, CHANGED


def test_the_first_release_left_what_its_step_makes() -> None:
    """Both are frozen by the release: no change of one alone."""
    made = split(first_release.STATE.read_text(encoding="utf-8"))

    tables = [fill(statement) for statement in steps()[0].statements]
    assert list(made) == [fill(CREATE_TABLE), *tables, f"INSERT INTO {TABLE} (step, name) VALUES (1, 'tables')"]


def test_all_steps_from_nothing_give_the_schema_of_today(
    client: Client, bare_store: StoreSettings, rendered: object, any_releases: str
) -> None:
    client.command(fill(CREATE_TABLE))
    done = migrate(client, set(), None)

    assert done == [f"migration {step.number} ({step.name})" for step in steps()]
    set_up(client, bare_store)
    assert schema(client, bare_store.database) == rendered, CHANGED
    granularity = 65536 if any_releases == "ours" else 8192  # which no step can change
    assert f"index_granularity = {granularity}" in flows_engine(client, bare_store.database)
    assert set_up(client, bare_store) == []
    assert state(client, bare_store).applied == {step.number for step in steps()}


def test_every_released_state_migrates_to_the_schema_of_today(
    client: Client, bare_store: StoreSettings, rendered: object, released_state: tuple[str, ...]
) -> None:
    for statement in released_state:
        client.command(statement)
    former = state(client, bare_store).applied

    done = set_up(client, bare_store)

    new = [f"migration {step.number} ({step.name})" for step in steps() if step.number not in former]
    assert [line for line in done if line.startswith("migration ")] == new
    assert schema(client, bare_store.database) == rendered, CHANGED
    assert state(client, bare_store).applied == {step.number for step in steps()}


def make_former(client: Client, version: str) -> None:
    """Make the store as a made-up release left it, with an inventory of one VM."""
    for statement in split(first_release.states()[version].read_text(encoding="utf-8")):
        client.command(statement)
    client.command("INSERT INTO inventory (valid_from, valid_to, vm) SELECT now64(6), now64(6), 'vm-1'")


def names_in(client: Client, table: str) -> list[str]:
    return [vm for (vm,) in client.query(f"SELECT vm FROM {table}").result_rows]


def test_a_table_that_a_step_drops_is_put_aside_if_it_holds_rows(
    client: Client, bare_store: StoreSettings, rendered: object, releases: Releases
) -> None:
    """Without rows it is dropped: the state of 0.0.2 above."""
    make_former(client, "0.0.2")

    done = set_up(client, bare_store)

    assert done[:2] == ["rows of the former inventory are in inventory_before_3", "migration 3 (inventory)"]
    assert names_in(client, "inventory_before_3") == ["vm-1"]
    client.command("DROP TABLE inventory_before_3 SYNC")
    assert schema(client, bare_store.database) == rendered


def test_rows_survive_a_step(client: Client, bare_store: StoreSettings, releases: Releases) -> None:
    """The engine once refused every ALTER of a table whose aliases had a lambda twice: steps must be possible."""
    set_up(client, bare_store)
    client.command("INSERT INTO flows (time_received, vni) VALUES (now64(6), 5)")
    after = len(STEPS) + 1
    column = "`later` UInt8 DEFAULT 7 AFTER `vni`"
    releases.add(after, "later", [f"ALTER TABLE flows${{local}}${{on_cluster}} ADD COLUMN IF NOT EXISTS {column}"])

    assert set_up(client, bare_store) == [f"migration {after} (later)"]

    assert columns(client, bare_store.database, ["flows"])["flows"]["later"][0] == "UInt8"
    client.command("INSERT INTO flows (time_received, vni, later) VALUES (now64(6), 6, 8)")
    assert client.query("SELECT vni, later FROM flows ORDER BY vni").result_rows == [(5, 7), (6, 8)]
    assert set_up(client, bare_store) == []


@pytest.mark.parametrize("made", [1, 8, len(STORED)])
def test_tables_that_were_made_halfway_are_completed(
    client: Client, bare_store: StoreSettings, rendered: object, made: int
) -> None:
    for statement in ddl()[:made]:
        client.command(statement)

    set_up(client, bare_store)

    assert schema(client, bare_store.database) == rendered


def test_tables_that_a_former_release_made_halfway_are_migrated(
    client: Client, bare_store: StoreSettings, rendered: object, releases: Releases
) -> None:
    client.command(fill(steps()[0].statements[0]))

    done = set_up(client, bare_store)

    assert done[: len(STEPS)] == [f"migration {step.number} ({step.name})" for step in steps()]
    assert schema(client, bare_store.database) == rendered


@pytest.mark.parametrize(("number", "statements"), [(2, 1), (2, 3), (3, 1), (3, 2)])
def test_a_step_that_stopped_halfway_is_run_again(
    client: Client,
    bare_store: StoreSettings,
    rendered: object,
    releases: Releases,
    number: int,
    statements: int,
) -> None:
    make_former(client, "0.0.1")
    releases.install(stops=(number, statements))
    with pytest.raises(DatabaseError, match="the_step_stops_here"):
        set_up(client, bare_store)
    assert state(client, bare_store).applied == set(range(1, number))
    after = []
    if (number, statements) == (3, 2):  # the inventory of today is there, and somebody writes to it
        client.command("INSERT INTO inventory (valid_from, valid_to, vm) SELECT now64(6), now64(6), 'vm-2'")
        after = ["vm-2"]
    releases.install()

    done = set_up(client, bare_store)

    run = [line for line in done if line.startswith("migration ")]
    assert run == [f"migration {step.number} ({step.name})" for step in steps()[number - 1 :]]
    assert ("rows of the former inventory are in inventory_before_3" in done) == (number == 2)
    assert names_in(client, "inventory_before_3") == ["vm-1"]
    assert names_in(client, "inventory") == after
    client.command("DROP TABLE inventory_before_3 SYNC")
    assert schema(client, bare_store.database) == rendered


def test_a_changed_ttl_is_applied(client: Client, bare_store: StoreSettings) -> None:
    set_up(client, bare_store)

    done = set_up(client, bare_store.model_copy(update={"ttl_days": {"flows": 3}}))

    assert done == ["rows of flows live 3 days"]
    engine = dict(client.query(ENGINES, parameters={"d": bare_store.database, "m": TABLE}).result_rows)
    assert "TTL toDateTime(time_received) + toIntervalDay(3)" in engine["flows"]


def test_differences_are_named(client: Client, bare_store: StoreSettings) -> None:
    set_up(client, bare_store)
    client.command("ALTER TABLE flows DROP COLUMN vni")
    client.command("ALTER TABLE drops MODIFY COLUMN suppressed UInt64")
    client.command("DROP TABLE inventory SYNC")

    with pytest.raises(SchemaError) as caught:
        check(client, bare_store)

    message = str(caught.value)
    assert "flows.vni is missing" in message
    assert "drops.suppressed is UInt64, should be UInt32" in message
    assert "table inventory is missing" in message
    assert "vmflow schema --apply" in message


def test_a_store_of_a_newer_release_is_refused(client: Client, bare_store: StoreSettings, releases: Releases) -> None:
    set_up(client, bare_store)
    releases.install(last=2)

    with pytest.raises(SchemaError, match=r"was made by a newer vmflow \(migration 3\): install that release"):
        set_up(client, bare_store)
