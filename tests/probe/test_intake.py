"""Batches are taken once: over retries, and restarts of either side, with a real store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_connect.driver import Client

from collector.interfaces import ResultsRefusedError
from collector.inventory.ends import name_ends
from collector.inventory.snapshot import empty
from collector.metrics import Metrics
from collector.probe.intake import AT_ONCE, BOUNDS, MOST_RUNS, Intake
from collector.store.client import open_client
from collector.store.native import insert
from collector.store.settings import StoreSettings
from collector.store_reader import read_rows
from schemas.probes import PROBES
from tests.probe.support import NOW_US, body


class Store:
    """A sink that stores at once, as long as it has room; without a client, nowhere."""

    def __init__(self, client: Client | None = None) -> None:
        self.client = client
        self.room = True
        self.away = self.left = False
        self.asked = self.inserts = 0

    def offer(self, table: str, batch: pa.RecordBatch, /) -> bool:
        if self.room:
            self.inserts += 1
            if self.client is not None:
                insert(self.client, PROBES, [batch], f"test-{self.inserts}")
        return self.room

    async def ready(self) -> None:
        """There is always room again."""

    async def rows(self, sql: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        self.asked += 1
        if self.away:
            raise OSError("it is away")
        if self.client is None:
            return []
        return read_rows(self.client, sql, parameters, BOUNDS)

    def taken(self) -> list[tuple[Any, ...]]:
        assert self.client is not None
        sql = "SELECT agent, boot, batch, count() FROM probes GROUP BY ALL ORDER BY ALL"
        return [tuple(row) for row in self.client.query(sql).result_rows]


@pytest.fixture
def store(embedded_store: StoreSettings) -> Iterator[Store]:
    with open_client(embedded_store) as client:
        client.database = embedded_store.database
        yield Store(client)


def latency(store: Store) -> set[tuple[Any, ...]]:
    """Of the way back the error is greater than the delay: it has no row."""
    assert store.client is not None
    sql = "SELECT DISTINCT toString(trip), latency_us, spread_us, samples FROM latency WHERE method = 'probe'"
    return {tuple(row) for row in store.client.query(sql).result_rows}


def intake(store: Store, now_us: int = NOW_US) -> tuple[Intake, Metrics]:
    metrics = Metrics()
    made = Intake(
        metrics, asyncio.to_thread, store, lambda rows: name_ends(rows, empty(), 0), store.rows, lambda: store.left,
        clock_us=lambda: now_us,
    )  # fmt: skip
    return made, metrics


def outcomes(metrics: Metrics) -> dict[str, float]:
    name = "vmflow_probe_batches_total"
    found = (s for family in metrics.registry.collect() for s in family.samples if s.name == name and s.value)
    return {sample.labels["outcome"]: sample.value for sample in found}


def status(taking: Intake, agent: str, text: bytes) -> int:
    try:
        asyncio.run(taking.take(agent, text))
    except ResultsRefusedError as error:
        return error.status
    return 202


def test_a_batch_is_taken_once_and_so_it_is_after_a_restart_of_the_collector(store: Store) -> None:
    first, metrics = intake(store)
    assert [status(first, "hv1", body({}, {}, number=n)) for n in (1, 1, 2, 1)] == [202, 409, 202, 409]
    assert outcomes(metrics) == {"taken": 2, "known": 2}
    second, _ = intake(store)

    assert [status(second, "hv1", body({}, number=n)) for n in (2, 3)] == [409, 202]
    assert [status(second, "hv2", body(number=2)), status(second, "hv1", body(number=1, boot=100))] == [202, 202]
    assert store.taken() == [
        ("hv1", 99, 1, 2), ("hv1", 99, 2, 2), ("hv1", 99, 3, 1), ("hv1", 100, 1, 1), ("hv2", 99, 2, 1),
    ]  # fmt: skip
    assert store.asked == 2
    assert latency(store) == {("round_trip", 100, 1, 7), ("one_way", 60, 5, 7)}


def test_nothing_is_taken_before_the_store_says_what_it_has() -> None:
    store = Store()
    taking, metrics = intake(store)
    store.left = True
    assert status(taking, "hv1", body()) == 503
    store.left, store.away = False, True
    assert status(taking, "hv1", body()) == 503
    store.away = False

    assert [status(taking, "hv1", body()) for _ in range(2)] == [202, 409]
    assert outcomes(metrics) == {"unsure": 2, "taken": 1, "known": 1}


def test_a_batch_for_which_there_was_no_room_may_come_again() -> None:
    store = Store()
    taking, metrics = intake(store)
    store.room = False
    assert status(taking, "hv1", body()) == 503
    store.room = True

    assert status(taking, "hv1", body()) == 202
    assert outcomes(metrics) == {"queue_full": 1, "taken": 1}


def test_an_agent_that_sends_too_much_waits_and_others_do_not() -> None:
    store = Store()
    taking, _ = intake(store)
    many = body(*[{}] * 5000, number=1)
    assert status(taking, "hv1", many) == 202
    for number in range(2, 5):
        assert status(taking, "hv1", many.replace(b'"batch": 1', b'"batch": %d' % number)) == 202
    with pytest.raises(ResultsRefusedError) as error:
        asyncio.run(taking.take("hv1", body(number=9)))

    assert (error.value.status, error.value.retry_seconds) == (429, 1)
    assert status(taking, "hv2", body()) == 202


def test_places_are_few_and_given_back() -> None:
    store = Store()
    taking, _ = intake(store)
    places = [taking.place() for _ in range(AT_ONCE)]
    for place in places:
        place.__enter__()
    with pytest.raises(ResultsRefusedError) as error, taking.place():
        pass
    places[0].__exit__(None, None, None)

    assert (error.value.status, error.value.retry_seconds) == (503, 1)
    with taking.place():
        pass


def test_what_is_remembered_is_bounded() -> None:
    store = Store()
    taking, _ = intake(store)
    for boot in range(1, 3 * MOST_RUNS):
        assert status(taking, "hv1", body(boot=boot)) == 202

    assert len(taking._last["hv1"]) == MOST_RUNS
    assert status(taking, "hv1", b"{}") == 422
