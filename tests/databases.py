"""Databases that are set up once and lent to many tests: making one takes two seconds, emptying one none."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager

from clickhouse_connect.driver import Client

from collector.store.client import open_client
from collector.store.settings import StoreSettings
from collector.store.setup import describe, set_up
from schemas.migrations import TABLE

MADE = "SELECT name, create_table_query FROM system.tables WHERE database = {database:String} ORDER BY name"
FILLED = "SELECT DISTINCT table FROM system.parts WHERE database = {database:String} AND table != {steps:String}"


class Databases:
    """Databases of each store, as setting up leaves them; one that a test changed is dropped.

    Two of a store take turns, so that a request which a test left unanswered does not reach the next test's rows.
    """

    def __init__(self, numbers: Iterator[int]) -> None:
        self._numbers = numbers
        self._free: dict[str, deque[tuple[str, object]]] = defaultdict(deque)

    @contextmanager
    def lent(self, url: str) -> Iterator[str]:
        """Lend the name of a database that is set up and has no rows, nor tokens of former inserts."""
        free = self._free[url]
        with open_client(StoreSettings(url=url)) as client:
            found = free.popleft() if len(free) > 1 else None
            if found is None or not _emptied(client, *found):
                found = self._new(url)
        yield found[0]
        free.append(found)

    def _new(self, url: str) -> tuple[str, object]:
        settings = StoreSettings(url=url, database=f"lent_{next(self._numbers)}")
        with open_client(settings) as client:
            set_up(client, settings)
            describe(client, settings)
            return settings.database, _made(client, settings.database)


def _emptied(client: Client, database: str, made: object) -> bool:
    """Empty the tables; where they are not as they were made, drop all and return False."""
    if _made(client, database) != made:
        client.command(f"DROP DATABASE IF EXISTS {database} SYNC")
        return False
    for (table,) in client.query(FILLED, parameters={"database": database, "steps": TABLE}).result_rows:
        client.command(f"TRUNCATE TABLE {database}.{table} SYNC")
    return True


def _made(client: Client, database: str) -> object:
    return client.query(MADE, parameters={"database": database}).result_rows
