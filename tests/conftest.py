"""Stores for tests: the engine allows one directory per process, so all tests of a run share one.

A database that is set up is lent to one test after the other, and emptied between them.  And releases that left stores
to migrate.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from collector.store.client import open_client
from collector.store.settings import StoreSettings
from schemas import migrations
from tests.databases import Databases
from tests.schemas import first_release
from tests.schemas.releases import TABLES, Releases

_numbers = count(1)
_databases = Databases(_numbers)

os.environ["VMFLOW_CONFIG"] = ""
"""The settings of the machine that runs the tests are not theirs."""


@pytest.fixture(scope="session")
def store_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of this process's embedded store."""
    pytest.importorskip("chdb", reason="the embedded store needs chDB")
    directory = tmp_path_factory.mktemp("store")
    # The first to open it sets the ceilings of all queries: those of the defaults, which tests may lower.
    open_client(StoreSettings(url=f"chdb://{directory}")).close()
    return directory


@pytest.fixture
def bare_store(store_directory: Path, tmp_path: Path) -> Iterator[StoreSettings]:
    """Settings of an embedded store with a database and a spool of its own, not yet set up.

    The database is dropped at the end: a full run makes thousands of tables, and the engine reads all of them
    whenever the store is opened again, until they do not fit its memory.
    """
    settings = StoreSettings(
        url=f"chdb://{store_directory}",
        database=f"test_{next(_numbers)}",
        spool_directory=tmp_path / "spool",
    )
    yield settings
    with open_client(settings) as client:
        client.command(f"DROP DATABASE IF EXISTS {settings.database} SYNC")


@pytest.fixture
def embedded_store(store_directory: Path, tmp_path: Path) -> Iterator[StoreSettings]:
    """Settings of an embedded store that is set up and has no rows, with a spool of its own."""
    with _databases.lent(f"chdb://{store_directory}") as database:
        yield StoreSettings(url=f"chdb://{store_directory}", database=database, spool_directory=tmp_path / "spool")


@pytest.fixture(scope="session")
def clickhouse_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a ClickHouse server, or what stands in for one: an engine of its own in another process."""
    pytest.importorskip("chdb", reason="the stand-in for a server needs chDB")
    from tests.clickhouse_server import started

    with started(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
def bare_server_store(clickhouse_url: str, tmp_path: Path) -> StoreSettings:
    """Settings of a store on the server, with a database and a spool of its own, not yet set up."""
    return StoreSettings(url=clickhouse_url, database=f"test_{next(_numbers)}", spool_directory=tmp_path / "spool")


@pytest.fixture
def server_store(clickhouse_url: str, tmp_path: Path) -> Iterator[StoreSettings]:
    """Settings of a store on the server that is set up and has no rows, with a spool of its own."""
    with _databases.lent(clickhouse_url) as database:
        yield StoreSettings(url=clickhouse_url, database=database, spool_directory=tmp_path / "spool")


@pytest.fixture(params=["embedded_store", "server_store"])
def any_store(request: pytest.FixtureRequest) -> StoreSettings:
    """Either kind of store, set up and without rows."""
    settings: StoreSettings = request.getfixturevalue(request.param)
    return settings


@pytest.fixture(params=["bare_store", "bare_server_store"])
def any_bare_store(request: pytest.FixtureRequest) -> StoreSettings:
    """Either kind of store, not yet set up."""
    settings: StoreSettings = request.getfixturevalue(request.param)
    return settings


@pytest.fixture
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Releases:
    """Made-up releases: their steps and states stand in for ours."""
    made = Releases(tmp_path / "releases")
    monkeypatch.setattr(migrations, "STEPS", made.steps)
    monkeypatch.setattr(first_release, "STATES", made.states)
    return made


@pytest.fixture(params=["ours", "made up"])
def any_releases(request: pytest.FixtureRequest) -> str:
    """Our own steps and states, then those of made-up releases."""
    if request.param != "ours":
        request.getfixturevalue("releases")
    return str(request.param)


@pytest.fixture(params=[*sorted(first_release.states()), *TABLES])
def released_state(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Statements that make a store as a release left it: each of ours, then of the made-up ones, with their steps."""
    if request.param in TABLES:
        request.getfixturevalue("releases")
    return migrations.split(first_release.states()[request.param].read_text(encoding="utf-8"))
