"""A writer and rollups over one real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pyarrow as pa
from clickhouse_connect.driver import Client

from collector.metrics import Metrics
from collector.rollup.settings import RollupSettings
from collector.rollup.stage import Rollups
from collector.store.client import open_in_database
from collector.store.errors import Patience
from collector.store.native import insert
from collector.store.settings import StoreSettings
from collector.store.writer import INSERT_SETTINGS, Writer
from schemas.column import Table
from schemas.flows import FLOWS
from tests.flow_rows import BEGIN_US, flow, vm
from tests.flow_rows import batch as batch_of

SECOND_US = 1_000_000
PACKETS = 7
B = vm("b", "host-2")
StoreRows = Callable[[Client, Table, list[pa.RecordBatch], str], None]


def rows(count: int, at_us: int = BEGIN_US, pairs: int = 1, first: int = 0, name: str = "a") -> pa.RecordBatch:
    """`count` rows received at `at_us`, of `PACKETS` packets each, without the columns that the writer fills.

    Their source ports count from `first`; the senders' names begin with `name`.
    """
    made = [
        flow(vm(f"{name}{number % pairs}", "host-1"), B, "source", time_received=at_us, flow_start=at_us,
             flow_end=at_us, packets=PACKETS, src_port=number)
        for number in range(first, first + count)
    ]  # fmt: skip
    whole = batch_of(FLOWS, made)
    return whole.select([name for name in whole.schema.names if name != "rollup_group"])


def ask(settings: StoreSettings, sql: str) -> Any:
    client = open_in_database(settings)
    try:
        return client.query(sql).result_rows
    finally:
        client.close()


def summed(settings: StoreSettings) -> tuple[float, float]:
    """Rows and packets in the rollup."""
    found: tuple[float, float] = ask(settings, "SELECT sum(records), sum(packets) FROM pair_10s")[0]
    return found


class Bench:
    """A writer and rollups over one store; the clock stands still unless a test moves it."""

    def __init__(
        self,
        store: StoreSettings,
        rollup: RollupSettings,
        store_rows: StoreRows = insert,
        connect: Callable[[], Client] | None = None,
    ) -> None:
        self.metrics = Metrics()
        self.now_us = BEGIN_US
        self.heard: list[tuple[int, int]] = []
        self.rollups = Rollups(
            rollup,
            self.metrics,
            asyncio.to_thread,
            asyncio.to_thread,
            connect or partial(open_in_database, store, INSERT_SETTINGS),
            store_rows,
            Patience().again,
            lambda newest, oldest: self.heard.append((newest, oldest)),
            lateness_seconds=5,
            idle_seconds=5,
            clock_us=lambda: self.now_us,
            key=1,
        )
        self.writer = Writer(
            store.model_copy(update={"batch_age_seconds": 0.05}),
            self.metrics,
            asyncio.to_thread,
            asyncio.to_thread,
            self.rollups,
        )

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.value(name, **labels) or 0.0

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - what is waited for happens in a store
                await asyncio.sleep(0.02)

    async def store(self, batch: pa.RecordBatch) -> None:
        """Offer rows and wait until they are stored."""
        before = self.count("store_rows_total", table="flows")
        assert self.writer.offer("flows", batch)
        await self.until(lambda: self.count("store_rows_total", table="flows") == before + batch.num_rows)


@asynccontextmanager
async def started(bench: Bench) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as up:
        await up.enter_async_context(bench.rollups)
        await up.enter_async_context(bench.writer)
        yield bench
