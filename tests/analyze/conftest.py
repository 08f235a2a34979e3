"""One store for the tests of a file: making one takes seconds, emptying it a few tenths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver import Client

from collector.store.client import open_in_database
from collector.store.settings import StoreSettings
from tests import flow_rows


@pytest.fixture(scope="module")
def made_store(
    store_directory: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[StoreSettings]:
    """Settings of a store that is set up, with a database named after the file."""
    settings = StoreSettings(
        url=f"chdb://{store_directory}",
        database=request.module.__name__.rpartition(".")[2],
        spool_directory=tmp_path_factory.mktemp("spool"),
    )
    with flow_rows.store(settings):
        yield settings


@pytest.fixture
def emptied_store(made_store: StoreSettings) -> Iterator[Client]:
    """A connection to it, without rows."""
    client = open_in_database(made_store)
    try:
        yield flow_rows.emptied(client)
    finally:
        client.close()
