"""A store that fails, hangs, or answers too late or not at all: each row is stored once and summed once.

The server is real, and a relay before it does the harm.  Rows differ by their source port.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from collector.rollup.groups import GroupStore
from collector.rollup.settings import RollupSettings
from collector.rollup.sums import PairSums
from collector.store.client import open_in_database
from collector.store.native import insert
from collector.store.settings import StoreSettings
from collector.store.spool import Insert, Spool
from collector.store.writer import INSERT_SETTINGS
from schemas.flows import FLOWS
from tests.flow_rows import BEGIN_US
from tests.relay import Mode, Relay
from tests.rollup.support import PACKETS, SECOND_US, Bench, ask, rows, started, summed

LIMIT_BYTES = 2**18
IMPATIENT: dict[str, Any] = {
    "insert_seconds": 1,
    "connect_seconds": 2,
    "min_retry_seconds": 0.05,
    "max_retry_seconds": 0.1,
    "spool_after_seconds": 0.1,
    "drain_seconds": 0.3,
}
MODES: tuple[Mode, ...] = ("refuse", "hang", "late", "cut")
RUN = "a" * 32
ROLLUP = RollupSettings(service="one", retry_seconds=0.1, stop_seconds=20)


def files(store: StoreSettings) -> list[Path]:
    return sorted(store.spool.glob("*.arrow"))


def stored(store: StoreSettings) -> tuple[int, int, int]:
    """Rows, different rows, and rows with a group."""
    found: tuple[int, int, int] = ask(
        store, "SELECT count(), uniqExact(src_port), countIf(rollup_group != 0) FROM flows"
    )[0]
    return found


@asynccontextmanager
async def through(relay: Relay, store: StoreSettings, stop_seconds: float = 20, **values: Any) -> AsyncIterator[Bench]:
    """The writer and the rollups, with the relay between them and the store."""
    settings = store.model_copy(update=IMPATIENT | {"url": relay.url} | values)
    async with started(Bench(settings, ROLLUP.model_copy(update={"stop_seconds": stop_seconds}))) as bench:
        yield bench


def rows_on_disk(store: StoreSettings) -> int:
    return sum(int(path.name.split("-")[3]) for path in files(store))


async def outage(relay: Relay, bench: Bench, mode: Mode, store: StoreSettings, first: int) -> None:
    """100 rows are stored; then the store fails, while 300 rows come in five batches."""
    await bench.store(rows(100, first=first))
    await relay.be(mode)
    for number in range(5):
        bench.writer.offer("flows", rows(60, BEGIN_US + number * SECOND_US, first=first + 100 + 60 * number))
        await asyncio.sleep(0.1)
    await bench.until(lambda: rows_on_disk(store) == 300)
    if mode in ("late", "cut"):
        await bench.until(lambda: relay.answers > 0)
    assert bench.writer.waiting("flows")


def test_rows_of_an_outage_are_stored_and_summed_once_when_it_ends(server_store: StoreSettings) -> None:
    async def scenario() -> None:
        async with Relay(server_store.url) as relay, through(relay, server_store) as bench:
            for number, mode in enumerate(MODES):
                retries = bench.count("store_retries_total", table="flows")
                await outage(relay, bench, mode, server_store, 400 * number)
                await bench.until(lambda least=retries + 2: bench.count("store_retries_total", table="flows") >= least)
                assert bench.count("store_up") == 0
                await relay.be("pass")
                await bench.until(lambda: not files(server_store))
                assert bench.count("store_rows_total", table="flows") == 400 * (number + 1)
            assert not bench.writer.waiting("flows")
            assert bench.writer.queue_bytes == bench.writer.spool_bytes == 0
            assert bench.writer.dropped_rows == 0

    asyncio.run(scenario())

    assert stored(server_store) == (1600, 1600, 1600)
    assert summed(server_store) == (1600, 1600 * PACKETS)


def test_rows_of_an_outage_are_stored_and_summed_once_after_a_restart(server_store: StoreSettings) -> None:
    """Once the answer is lost after the rows were stored, once the service is stopped while it waits for the answer."""

    async def scenario() -> None:
        async with Relay(server_store.url) as relay:
            async with through(relay, server_store, stop_seconds=0.1) as bench:
                await outage(relay, bench, "cut", server_store, 0)
            assert bench.writer.dropped_rows == 0
            assert rows_on_disk(server_store) == 300
            await relay.be("pass")
            async with through(relay, server_store, stop_seconds=0.1, insert_seconds=60) as bench:
                await bench.until(lambda: not files(server_store))
                await outage(relay, bench, "hang", server_store, 400)
                assert bench.count("store_retries_total", table="flows") == 0
            assert bench.writer.dropped_rows == 0
            assert rows_on_disk(server_store) == 300
            await relay.be("pass")
            async with through(relay, server_store) as bench:
                await bench.until(lambda: not files(server_store))
                await bench.store(rows(10, BEGIN_US + 6 * SECOND_US, first=800))
            assert bench.writer.dropped_rows == 0

    asyncio.run(scenario())

    assert stored(server_store) == (810, 810, 810)
    assert summed(server_store) == (810, 810 * PACKETS)


def test_what_a_kill_leaves_after_each_step_is_made_whole_by_the_next_start(server_store: StoreSettings) -> None:
    """The table in spool.py, each line made by hand: inserts of 10 rows, and one behind them that was never sent."""
    connect = partial(open_in_database, server_store, INSERT_SETTINGS)
    client, groups, spool = connect(), GroupStore("one", connect, insert), Spool(server_store.spool, fsync=False)
    spool.open()

    def killed(number: int, name: str, steps: int) -> None:
        """An insert that went through so many steps."""
        group, made = number + 70, rows(10, first=10 * number, name=name)
        todo = Insert(number, FLOWS, 10, RUN, batches=[made])
        spool.write(todo)
        sums = PairSums(1000, 1000)
        sums.add(made)
        for step in (
            partial(groups.open, group),
            partial(spool.assign, todo, group),
            partial(insert, client, FLOWS, [made], todo.token, group),
            partial(spool.remove, todo),
            partial(groups.store, group, sums.take()),
            partial(groups.end, group, "done", 10),
        )[:steps]:
            step()

    killed(1, "sent", 2)
    killed(2, "stored", 3)
    killed(3, "removed", 4)
    killed(4, "summed", 5)
    killed(5, "done", 6)
    killed(6, "opened", 1)
    killed(7, "never", 0)
    spool.close()
    groups.close()
    client.close()

    async def start() -> Bench:
        async with started(Bench(server_store, ROLLUP)) as bench:
            await bench.until(lambda: not files(server_store))
            # Of "opened", too: there are no rows in its first group.
            await bench.until(lambda: bench.count("rollup_groups_total", result="read_back") == 5)
        return bench

    bench = asyncio.run(start())

    assert bench.count("store_rows_total", table="flows") == 40  # "sent", "stored", "opened" and "never"
    assert stored(server_store) == (70, 70, 70)
    found = ask(server_store, "SELECT src_vm, sum(records) FROM pair_10s GROUP BY src_vm ORDER BY src_vm")
    assert found == [(f"{name}0", 10) for name in ("done", "never", "opened", "removed", "sent", "stored", "summed")]


def test_rows_of_an_outage_are_sent_in_the_order_in_which_they_came(server_store: StoreSettings) -> None:
    tokens: list[int] = []

    async def call(function: Any, /, *args: Any) -> Any:
        answer = await asyncio.to_thread(function, *args)
        if function is insert:
            tokens.append(int(args[3].split("-")[1]))
        return answer

    async def scenario() -> None:
        async with AsyncExitStack() as up:
            relay = await up.enter_async_context(Relay(server_store.url))
            bench = Bench(server_store.model_copy(update=IMPATIENT | {"url": relay.url}), ROLLUP)
            bench.writer._call = call
            await up.enter_async_context(bench.rollups)
            await up.enter_async_context(bench.writer)
            await outage(relay, bench, "refuse", server_store, 0)
            await relay.be("pass")
            for number in range(20):
                bench.writer.offer("flows", rows(5, BEGIN_US + number, first=400 + 5 * number))
                await asyncio.sleep(0.02)
            await bench.until(lambda: bench.count("store_rows_total", table="flows") == 500)

    asyncio.run(scenario())

    assert tokens == list(range(1, len(tokens) + 1))
    assert stored(server_store) == (500, 500, 500)


def test_a_full_spool_drops_the_oldest_rows_and_counts_them(server_store: StoreSettings) -> None:
    async def scenario() -> Bench:
        async with Relay(server_store.url) as relay, through(relay, server_store, spool_bytes=LIMIT_BYTES) as bench:
            await relay.be("refuse")
            for number in range(60):
                bench.writer.offer("flows", rows(50, BEGIN_US, first=50 * number))
                await asyncio.sleep(0.06)
            await bench.until(lambda: rows_on_disk(server_store) + bench.writer.dropped_rows == 3000)
            assert bench.writer.dropped_rows > 0
            assert bench.writer.spool_bytes <= LIMIT_BYTES
            assert bench.writer.spool_bytes == sum(path.stat().st_blocks * 512 for path in files(server_store))
            await relay.be("pass")
            await bench.until(lambda: not bench.writer.waiting("flows"))
        return bench

    bench = asyncio.run(scenario())

    dropped = int(bench.count("store_dropped_rows_total", table="flows", reason="spool_full"))
    assert bench.writer.dropped_rows == dropped
    assert stored(server_store) == (3000 - dropped, 3000 - dropped, 3000 - dropped)
    assert summed(server_store)[0] == 3000 - dropped
    # The first insert may have been stored by an attempt without an answer, so it stays; behind it, the oldest went.
    kept = [port for (port,) in ask(server_store, "SELECT src_port FROM flows ORDER BY src_port")]
    first = next(number for number, port in enumerate(kept) if number != port)
    assert kept[first:] == list(range(first + dropped, 3000))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)]
    answer = subprocess.run(mount, check=False, capture_output=True, text=True)
    if answer.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {answer.stderr.strip()}")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


async def fill(bench: Bench, first: int) -> None:
    """Offer 1,500 rows, more than the small disk holds."""
    for number in range(30):
        bench.writer.offer("flows", rows(50, BEGIN_US, first=first + 50 * number))
        await asyncio.sleep(0.06)
    await bench.until(lambda: bench.writer.spool_problem is not None)


def test_with_a_full_disk_rows_wait_in_memory_and_what_finds_no_place_at_the_stop_is_counted(
    server_store: StoreSettings, small_disk: Path
) -> None:
    spool = small_disk / "spool"

    async def scenario() -> Bench:
        async with (
            Relay(server_store.url) as relay,
            through(relay, server_store, stop_seconds=0.1, spool_directory=spool) as bench,
        ):
            await relay.be("refuse")
            await fill(bench, 0)
            assert "No space left on device" in (bench.writer.spool_problem or "")
            assert bench.count("spool_failures_total") > 0
            assert bench.writer.queue_bytes > 0
            assert not list(spool.glob("*.tmp"))
            await relay.be("pass")
            await bench.until(lambda: not bench.writer.waiting("flows"))
            await bench.until(lambda: bench.writer.spool_problem is None)
            assert bench.writer.dropped_rows == 0
            assert stored(server_store) == (1500, 1500, 1500)
            await relay.be("refuse")
            await fill(bench, 1500)
        return bench

    bench = asyncio.run(scenario())

    kept = sum(int(path.name.split("-")[3]) for path in spool.glob("*.arrow"))
    assert 0 < kept < 1500
    assert bench.count("store_dropped_rows_total", table="flows", reason="stopping") == 1500 - kept
