"""Stored rows are summed once: through the real writer and a real store, over failures and restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_connect.driver import Client
from clickhouse_connect.driver import exceptions as driver

from collector.rollup.groups import GroupStore, as_input
from collector.rollup.settings import RollupSettings
from collector.rollup.sums import PairSums
from collector.store.client import open_in_database
from collector.store.errors import StoreUnreachableError
from collector.store.native import insert
from collector.store.settings import StoreSettings
from collector.store.writer import INSERT_SETTINGS
from schemas.column import Table
from schemas.flows import FLOWS
from schemas.rollups import PAIR_INPUT
from tests.flow_rows import BEGIN_US
from tests.rollup.support import PACKETS, SECOND_US, Bench, ask, rows, started, summed


def test_all_stored_rows_are_summed_once_in_groups_that_end_with_their_window(any_store: StoreSettings) -> None:
    async def scenario() -> Bench:
        async with started(Bench(any_store, RollupSettings(service="one"))) as bench:
            for second in range(0, 24, 3):
                await bench.store(rows(100, BEGIN_US + second * SECOND_US))
            await bench.until(lambda: len(bench.heard) == 2)
            # A group ends with the first rows that are 5 s (the lateness) behind the end of a window: at 6 and at 15 s.
            assert bench.heard == [
                (BEGIN_US + 6 * SECOND_US, BEGIN_US),
                (BEGIN_US + 15 * SECOND_US, BEGIN_US + 9 * SECOND_US),
            ]
            assert bench.rollups.pending
        return bench

    bench = asyncio.run(scenario())

    assert summed(any_store) == (800, 800 * PACKETS)
    assert ask(any_store, "SELECT uniqExact(rollup_group), min(rollup_group) > 0 FROM flows") == [(3, True)]
    states = ask(
        any_store,
        "SELECT groupArray(toString(state)), max(flow_rows) FROM (SELECT * FROM rollup_groups ORDER BY time, state) "
        "GROUP BY rollup_group ORDER BY min(time)",
    )
    assert states == [(["open", "done"], 300), (["open", "done"], 300), (["open", "done"], 200)]
    assert bench.count("rollup_rows_total") == 800
    assert not bench.rollups.pending


def test_connections_are_counted_over_groups(embedded_store: StoreSettings) -> None:
    async def scenario() -> None:
        async with started(Bench(embedded_store, RollupSettings(service="one"))) as bench:
            for second in (0, 16):
                await bench.store(rows(50, BEGIN_US + second * SECOND_US))

    asyncio.run(scenario())

    assert ask(embedded_store, "SELECT uniqCombinedMerge(12)(connections) FROM pair_1m")[0][0] == 50


def test_silence_ends_a_group_by_the_clock(embedded_store: StoreSettings) -> None:
    async def scenario() -> None:
        async with started(Bench(embedded_store, RollupSettings(service="one"))) as bench:
            await bench.store(rows(10))
            bench.now_us = BEGIN_US + 9_900_000
            await asyncio.sleep(1.2)
            assert not bench.heard
            bench.now_us = BEGIN_US + 10_000_000  # the window before ended at the begin; lateness 5 s, idle 5 s
            await bench.until(lambda: bench.heard == [(BEGIN_US, BEGIN_US)])

    asyncio.run(scenario())


def killed(store: StoreSettings, batches: Sequence[pa.RecordBatch], service: str, group: int, *, sums: bool) -> None:
    """Leave a store as a service does that is killed before its group is done: with the sums stored or without."""
    client = open_in_database(store, INSERT_SETTINGS)
    groups = GroupStore(service, partial(open_in_database, store, INSERT_SETTINGS), insert)
    groups.open(group)
    for number, made in enumerate(batches):
        insert(client, FLOWS, [made], f"{service}-{number}", group)
    if sums:
        made_sums = PairSums(1000, 1000)
        for made in batches:
            assert made_sums.add(made) is None
        groups.store(group, made_sums.take())
    groups.close()
    client.close()


@pytest.mark.parametrize("sums", [False, True], ids=["rows only", "sums stored, not noted"])
def test_what_a_killed_service_left_is_summed_once_at_the_next_start(any_store: StoreSettings, sums: bool) -> None:
    killed(any_store, [rows(300), rows(40, BEGIN_US + SECOND_US, pairs=7)], "one", 77, sums=sums)

    async def start() -> Bench:
        async with started(Bench(any_store, RollupSettings(service="one"))) as bench:
            await bench.store(rows(5, BEGIN_US + 2 * SECOND_US))
        return bench

    bench = asyncio.run(start())
    assert bench.count("rollup_groups_total", result="read_back") == 1
    assert summed(any_store) == (345, 345 * PACKETS)
    found = ask(any_store, "SELECT uniqCombinedMerge(12)(connections) FROM pair_10s WHERE src_vm = 'a0'")[0][0]
    assert found == pytest.approx(306, rel=0.05)  # of seven pairs, 40 rows are 6 of this one

    bench = asyncio.run(start())
    assert bench.count("rollup_groups_total", result="read_back") == 0
    assert summed(any_store)[0] == 350


def test_a_stop_amid_an_insert_leaves_its_group_to_the_next_start(embedded_store: StoreSettings) -> None:
    """The store has taken the rows, but the writer is stopped before it hears of it."""

    async def scenario(amid: bool) -> None:
        async with started(Bench(embedded_store, RollupSettings(service="one"))) as bench:
            if amid:
                await bench.store(rows(100))
                client = open_in_database(embedded_store, INSERT_SETTINGS)
                insert(client, FLOWS, [rows(50)], "not heard of", await bench.rollups.group())
                client.close()
            else:
                await bench.until(lambda: bench.count("rollup_groups_total", result="read_back") == 1)

    asyncio.run(scenario(amid=True))
    asyncio.run(scenario(amid=False))

    assert summed(embedded_store) == (150, 150 * PACKETS)


def test_what_is_read_back_is_what_was_stored(embedded_store: StoreSettings) -> None:
    """Every column that sums need comes back as it went in."""
    made = rows(60, pairs=9)
    killed(embedded_store, [made], "one", 5, sums=False)
    direct, back = PairSums(1000, 1000, key=1), PairSums(1000, 1000, key=1)
    direct.add(made)
    groups = GroupStore("one", partial(open_in_database, embedded_store), insert)
    assert groups.read_back(5, back) == 0
    groups.close()

    def sorted_rows(sums: PairSums) -> list[dict[str, Any]]:
        found = sums.take().to_pylist()
        for row in found:
            row["connection_hashes"] = sorted(row["connection_hashes"])
        return sorted(found, key=lambda row: (row["time"], row["src_vm"]))

    assert back.rows == 60
    assert sorted_rows(back) == sorted_rows(direct)


def test_the_groups_of_another_service_are_left_alone(embedded_store: StoreSettings) -> None:
    killed(embedded_store, [rows(10)], "other", 9, sums=False)

    async def scenario() -> None:
        async with started(Bench(embedded_store, RollupSettings(service="one"))) as bench:
            await bench.store(rows(3, BEGIN_US + SECOND_US))

    asyncio.run(scenario())

    assert summed(embedded_store)[0] == 3


def test_sums_wait_for_a_store_that_fails_and_are_stored_once(any_store: StoreSettings) -> None:
    failures = iter(range(4))

    def failing(client: Client, table: Table, batches: list[pa.RecordBatch], token: str) -> None:
        """The answer to an insert is lost, twice after it was stored."""
        if table is not PAIR_INPUT or (number := next(failures, None)) is None:
            insert(client, table, batches, token)
            return
        if number % 2:
            insert(client, table, batches, token)
        raise driver.OperationalError("connection reset")

    async def scenario() -> Bench:
        made = Bench(any_store, RollupSettings(service="one", retry_seconds=0.05, stop_seconds=20), failing)
        async with started(made) as bench:
            await bench.store(rows(100))
        return made

    bench = asyncio.run(scenario())

    assert bench.count("rollup_retries_total") == 4
    assert summed(any_store) == (100, 100 * PACKETS)


def test_sums_wait_for_a_store_that_cannot_be_reached(embedded_store: StoreSettings) -> None:
    """The connection breaks with the first insert of sums, and three further ones cannot be had."""
    broken, refused = iter([True]), iter(range(3))
    away = False

    def breaking(client: Client, table: Table, batches: list[pa.RecordBatch], token: str) -> None:
        nonlocal away
        if table is PAIR_INPUT and next(broken, False):
            away = True
            raise driver.OperationalError("connection reset")
        insert(client, table, batches, token)

    def connect() -> Client:
        if away and next(refused, None) is not None:
            raise StoreUnreachableError("nobody answers")
        return open_in_database(embedded_store, INSERT_SETTINGS)

    async def scenario() -> Bench:
        settings = RollupSettings(service="one", retry_seconds=0.05, stop_seconds=20)
        made = Bench(embedded_store, settings, breaking, connect)
        async with started(made) as bench:
            await bench.store(rows(100))
        return made

    bench = asyncio.run(scenario())

    assert bench.count("rollup_retries_total") == 4
    assert bench.count("rollup_unsummed_rows_total") == 0
    assert summed(embedded_store) == (100, 100 * PACKETS)


def test_sums_that_are_refused_are_counted_and_the_next_ones_stored(embedded_store: StoreSettings) -> None:
    refused = iter([True])

    def refusing(client: Client, table: Table, batches: list[pa.RecordBatch], token: str) -> None:
        if table is PAIR_INPUT and next(refused, False):
            raise driver.ProgrammingError("no such column")
        insert(client, table, batches, token)

    async def scenario() -> Bench:
        made = Bench(embedded_store, RollupSettings(service="one"), refusing)
        async with started(made) as bench:
            await bench.store(rows(100))
            await bench.store(rows(20, BEGIN_US + 16 * SECOND_US))
            await bench.store(rows(3, BEGIN_US + 17 * SECOND_US))
        return made

    bench = asyncio.run(scenario())

    assert bench.count("rollup_unsummed_rows_total") == 120
    assert bench.count("rollup_groups_total", result="failed") == 1
    assert summed(embedded_store)[0] == 3


def test_more_pairs_than_the_memory_holds_end_the_group_early_and_none_is_lost(embedded_store: StoreSettings) -> None:
    async def scenario() -> Bench:
        made = Bench(embedded_store, RollupSettings(service="one", max_sums=1024, stop_seconds=20))
        async with started(made) as bench:
            for number in range(4):
                await bench.store(rows(500, BEGIN_US + number * SECOND_US, pairs=500))
            await bench.store(rows(1500, BEGIN_US + 4 * SECOND_US, pairs=1500))
        return made

    bench = asyncio.run(scenario())

    assert summed(embedded_store)[0] == 3500
    assert bench.count("rollup_groups_total", result="read_back") == 1  # 1500 pairs do not fit in 1024
    assert bench.count("rollup_unsummed_rows_total") == 0


def test_sums_fit_their_table() -> None:
    sums = PairSums(1000, 1000)
    sums.add(rows(10))

    assert as_input(sums.take()).schema == PAIR_INPUT.arrow()
