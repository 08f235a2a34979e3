"""One endpoint for all clients, over a store whose columns are described as in the service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.store.client import open_client
from collector.store.native import insert
from collector.store.settings import StoreSettings
from collector.store.setup import describe, set_up
from schemas.flows import FLOWS
from tests.sql.support import Endpoint, served
from tests.table_rows import batch

ROWS = 50
DATABASE = "test_clients"


@pytest.fixture(scope="session")
def endpoint(store_directory: Path) -> Iterator[Endpoint]:
    settings = StoreSettings(url=f"chdb://{store_directory}", database=DATABASE)
    client = open_client(settings)
    set_up(client, settings)
    describe(client, settings)
    insert(client, FLOWS, [batch(FLOWS, ROWS)], "token")
    with served(settings) as running:
        yield running
    client.command(f"DROP DATABASE {DATABASE} SYNC")
    client.close()


@pytest.fixture(autouse=True)
def one_database(endpoint: Endpoint) -> None:
    """Drop what other tests of this worker left, also between two tests here: some drivers list all databases."""
    client = open_client(endpoint.store)
    for (left,) in client.query("SELECT name FROM system.databases WHERE engine = 'Atomic'").result_rows:
        if left not in ("default", DATABASE):
            client.command(f"DROP DATABASE {left} SYNC")
    client.close()
