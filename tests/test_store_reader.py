"""Reading the store: what bounds it, and the client that is kept: opened once, and opened again after an error."""

import asyncio
import threading
from functools import partial
from typing import Any

import pytest
from clickhouse_connect.driver import exceptions as driver

from collector.store.client import open_client
from collector.store.settings import StoreSettings
from collector.store_reader import Bounds, KeptClient, Reader, read_columns, read_rows
from collector.threads import Bridge, run

MINUTE = Bounds(seconds=60)


class Connection:
    """As much of the driver's client as is needed: one whose `close` may fail, as on a broken connection."""

    def __init__(self, *, broken: bool) -> None:
        self.broken = broken
        self.closed = 0

    def close(self) -> None:
        self.closed += 1
        if self.broken:
            raise OSError("gone")


@pytest.mark.parametrize("broken", [False, True])
def test_an_error_closes_the_client_and_the_next_use_opens_another(broken: bool) -> None:
    made: list[Any] = []

    def connect() -> Any:
        made.append(Connection(broken=broken))
        return made[-1]

    kept = KeptClient(connect)
    assert not kept.is_open
    for _ in range(2):
        with kept.use() as client:
            assert client is made[0]
    with pytest.raises(ValueError, match="the query"), kept.use():
        raise ValueError("the query")
    assert (kept.is_open, made[0].closed) == (False, 1)

    with kept.use() as client:
        assert client is made[1]
    kept.close()
    kept.close()
    assert (len(made), made[1].closed, kept.is_open) == (2, 1, False)


def test_a_store_that_cannot_be_reached_leaves_nothing_open() -> None:
    def connect() -> Any:
        raise ConnectionRefusedError

    kept = KeptClient(connect)
    with pytest.raises(ConnectionRefusedError), kept.use():
        pass
    assert not kept.is_open


def test_rows_and_columns_are_the_same(any_store: StoreSettings) -> None:
    client = open_client(any_store)
    sql = "SELECT number AS n, toString(number) AS text FROM numbers({most:UInt32})"

    assert read_rows(client, sql, {"most": 2}, MINUTE) == [{"n": 0, "text": "0"}, {"n": 1, "text": "1"}]
    assert read_columns(client, sql, {"most": 2}, MINUTE).to_pydict() == {"n": [0, 1], "text": ["0", "1"]}
    client.close()


@pytest.mark.parametrize("read", [read_rows, read_columns])
@pytest.mark.parametrize(
    ("sql", "bounds", "code"),
    [
        ("SELECT number FROM numbers(11)", Bounds(60, rows=10), "TOO_MANY_ROWS"),
        ("SELECT sum(sleepEachRow(0.1)) FROM numbers(1000) SETTINGS max_block_size = 1", Bounds(1), "TIMEOUT_EXCEEDED"),
        ("SELECT count() FROM (SELECT DISTINCT number FROM numbers(1000000))", Bounds(60, 2**22), "MEMORY_LIMIT"),
    ],
)
def test_the_store_ends_what_takes_more(
    any_store: StoreSettings, read: Any, sql: str, bounds: Bounds, code: str
) -> None:
    client = open_client(any_store)

    with pytest.raises(driver.Error, match=code):
        read(client, sql, {}, bounds)
    client.close()


def test_a_profile_does_not_change_what_views_mean(any_store: StoreSettings) -> None:
    client = open_client(any_store, {"join_use_nulls": 1, "session_timezone": "Asia/Shanghai"})
    sql = "SELECT b.n AS missing, timezone() AS zone FROM (SELECT 1 AS n) AS a LEFT JOIN (SELECT 2 AS n) AS b USING n"

    assert read_rows(client, sql, {}, MINUTE) == [{"missing": 0, "zone": "UTC"}]
    client.close()


def test_a_reader_asks_so_many_at_a_time_and_waits_so_long() -> None:
    """A question that is given up keeps its turn until its thread is free: the store never gets more of them."""
    made: list[Any] = []
    go, asked = threading.Event(), []

    def connect() -> Any:
        made.append(Connection(broken=False))
        return made[-1]

    def slow(number: int, client: Any) -> int:
        asked.append(number)
        go.wait(60)
        return number

    async def scenario() -> None:
        async with Bridge({"read": 2}) as bridge:
            reader = Reader(partial(bridge.call, "read"), connect, MINUTE, at_once=2, wait_seconds=0.2)
            given_up = await asyncio.gather(
                *(reader.ask(partial(slow, number)) for number in range(4)), return_exceptions=True
            )
            assert [type(one) for one in given_up] == [TimeoutError] * 4
            assert sorted(asked) == [0, 1]
            go.set()
            patient = Reader(partial(bridge.call, "read"), connect, MINUTE, at_once=2)
            assert await asyncio.gather(*(patient.ask(partial(slow, number)) for number in range(6))) == [*range(6)]
            for one in (reader, patient):
                await one.close()

    run(scenario(), debug=True)

    assert sorted(asked) == [0, 0, 1, 1, 2, 3, 4, 5]
    assert [client.closed for client in made] == [1] * 4


def test_an_error_reaches_the_one_who_asked_and_the_next_question_is_answered(any_store: StoreSettings) -> None:
    async def scenario() -> None:
        async with Bridge({"read": 1}) as bridge:
            reader = Reader(partial(bridge.call, "read"), partial(open_client, any_store), Bounds(60, rows=1))
            with pytest.raises(driver.Error, match="TOO_MANY_ROWS"):
                await reader.rows("SELECT number FROM numbers(2)")
            assert await reader.rows("SELECT {n:UInt8} AS n", {"n": 7}) == [{"n": 7}]
            assert (await reader.columns("SELECT 7 AS n")).to_pydict() == {"n": [7]}
            await reader.close()

    run(scenario(), debug=True)
