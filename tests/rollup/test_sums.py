"""The sums made in the process are those that the SQL of the feeds defines, whatever batches bring the rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from clickhouse_connect.driver import Client

from collector.rollup.sums import PairSums
from collector.store.settings import StoreSettings
from tests.analyze.named import add, emptied, named, store
from tests.rollup.referee import assert_same, batches, by_process, by_sql, draw, draw_bursts


@pytest.fixture(scope="module")
def client(store_directory: Any) -> Iterator[Client]:
    with store(StoreSettings(url=f"chdb://{store_directory}", database="sums", sql_port=0)) as client:
        yield client


@pytest.fixture
def empty(client: Client) -> Client:
    return emptied(client)


def sums() -> PairSums:
    """Room enough, and the same places in hash tables every time."""
    return PairSums(100_000, 100_000, seed=1)


@pytest.mark.parametrize("seed", range(4))
def test_random_rows_sum_up_as_the_sql_says(empty: Client, seed: int) -> None:
    rows = draw(seed, 1500)
    add(empty, rows)
    made = sums()
    for batch in batches(rows, 170):
        assert made.add(batch) is None

    assert made.rows == len(rows)
    assert made.oldest_us == min(row["time_received"] for row in rows)
    assert made.newest_us == max(row["time_received"] for row in rows)
    assert_same(by_process([made.take()]), by_sql(empty))


@pytest.mark.parametrize("seed", range(3))
def test_bursts_widen_variances_as_the_sql_says(empty: Client, seed: int) -> None:
    rows = draw_bursts(seed, 600)
    add(empty, rows)
    made = sums()
    for batch in batches(rows, 47):
        made.add(batch)

    assert_same(by_process([made.take()]), by_sql(empty))


@pytest.mark.parametrize("stem", ["ovs_sflow_tcp_udp_s64", "ovs_sflow_lossy", "ovs_ipfix_s16", "ovs_netflow5"])
def test_captures_sum_up_as_the_sql_says(empty: Client, stem: str) -> None:
    rows = named(stem)
    add(empty, rows)
    made = sums()
    for batch in batches(rows, 100):
        made.add(batch)

    assert_same(by_process([made.take()]), by_sql(empty))
