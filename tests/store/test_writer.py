"""The writer over both kinds of store: the embedded engine, and a server behind a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver import Client
from clickhouse_connect.driver import exceptions as driver

from collector.metrics import Metrics
from collector.store import writer as module
from collector.store.client import open_client
from collector.store.errors import SchemaError, StoreError
from collector.store.native import insert
from collector.store.settings import StoreSettings
from collector.store.setup import set_up
from collector.store.writer import Writer
from schemas.drops import DROPS
from schemas.flows import FLOWS
from tests.table_rows import batch


def ask(settings: StoreSettings, sql: str) -> Any:
    """The only value of a query, on a connection of its own."""
    client = open_client(settings)
    client.database = settings.database
    try:
        return client.query(sql).result_rows[0][0]
    finally:
        client.close()


def with_(settings: StoreSettings, **values: Any) -> StoreSettings:
    return settings.model_copy(update=values)


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.01)


def test_rows_of_all_offers_are_stored_once_and_counted(any_store: StoreSettings) -> None:
    metrics = Metrics()

    async def scenario() -> None:
        async with Writer(with_(any_store, batch_rows=250), metrics, asyncio.to_thread, asyncio.to_thread) as writer:
            for seed in range(10):
                assert writer.offer("flows", batch(FLOWS, 100, seed))
            await until(lambda: metrics.value("store_rows_total", table="flows") == 1000)
            assert writer.queue_bytes == 0
            assert writer.problem is None

    asyncio.run(scenario())

    assert ask(any_store, "SELECT count() FROM flows") == 1000
    assert metrics.value("store_batches_total", table="flows") == 5  # two offers of 100 rows each fit in 250
    assert metrics.value("store_insert_seconds_count", table="flows") == 5
    assert metrics.value("store_lag_seconds_count") == 5
    assert metrics.value("store_dropped_rows_total", table="flows", reason="refused") is None


def test_leaving_stores_what_waits(any_store: StoreSettings) -> None:
    async def scenario() -> None:
        async with Writer(
            with_(any_store, batch_age_seconds=60), Metrics(), asyncio.to_thread, asyncio.to_thread
        ) as writer:
            writer.offer("flows", batch(FLOWS, 7))

    asyncio.run(scenario())

    assert ask(any_store, "SELECT count() FROM flows") == 7


def test_few_rows_go_out_at_their_age(embedded_store: StoreSettings) -> None:
    metrics = Metrics()

    async def scenario() -> None:
        async with Writer(
            with_(embedded_store, batch_age_seconds=0.05), metrics, asyncio.to_thread, asyncio.to_thread
        ) as writer:
            writer.offer("flows", batch(FLOWS, 3))
            await until(lambda: metrics.value("store_rows_total", table="flows") == 3)

    asyncio.run(scenario())


def test_a_batch_longer_than_an_insert_is_cut(embedded_store: StoreSettings) -> None:
    metrics = Metrics()

    async def scenario() -> None:
        async with Writer(
            with_(embedded_store, batch_rows=100), metrics, asyncio.to_thread, asyncio.to_thread
        ) as writer:
            writer.offer("flows", batch(FLOWS, 250))

    asyncio.run(scenario())

    assert ask(embedded_store, "SELECT count() FROM flows") == 250
    assert metrics.value("store_batches_total", table="flows") == 3


def test_an_insert_repeated_after_an_unclear_answer_is_stored_once(
    any_store: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows arrive, the answer does not: the writer must try again, and the store must know the token."""
    attempts: list[str] = []

    def unclear(client: Client, table: Any, batches: Any, token: str, group: int) -> None:
        attempts.append(token)
        insert(client, table, batches, token)
        if len(attempts) == 1:
            raise driver.OperationalError("the connection broke")

    monkeypatch.setattr(module, "insert_block", unclear)
    metrics = Metrics()

    async def scenario() -> None:
        settings = with_(any_store, min_retry_seconds=0.01)
        async with Writer(settings, metrics, asyncio.to_thread, asyncio.to_thread) as writer:
            writer.offer("flows", batch(FLOWS, 100))
        assert writer.problem is None

    asyncio.run(scenario())

    assert len(attempts) == 2
    assert attempts[0] == attempts[1]
    assert metrics.value("store_retries_total", table="flows") == 1
    assert ask(any_store, "SELECT count() FROM flows") == 100


def test_equal_rows_in_two_inserts_are_both_kept(any_store: StoreSettings) -> None:
    async def scenario() -> None:
        async with Writer(with_(any_store, batch_rows=50), Metrics(), asyncio.to_thread, asyncio.to_thread) as writer:
            writer.offer("flows", batch(FLOWS, 50))
            writer.offer("flows", batch(FLOWS, 50))

    asyncio.run(scenario())

    assert ask(any_store, "SELECT count() FROM flows") == 100


def test_refused_rows_are_dropped_and_counted_and_the_next_stored(any_store: StoreSettings) -> None:
    metrics = Metrics()

    async def scenario() -> None:
        async with Writer(with_(any_store, batch_rows=10), metrics, asyncio.to_thread, asyncio.to_thread) as writer:
            client = open_client(any_store)
            client.command(f"ALTER TABLE {any_store.database}.drops DROP COLUMN trap")
            client.close()
            writer.offer("drops", batch(DROPS, 10))
            writer.offer("flows", batch(FLOWS, 10))

    asyncio.run(scenario())

    assert metrics.value("store_dropped_rows_total", table="drops", reason="refused") == 10
    assert ask(any_store, "SELECT count() FROM flows") == 10


def test_rows_of_a_wrong_shape_are_dropped_at_the_door(embedded_store: StoreSettings) -> None:
    metrics = Metrics()

    async def scenario() -> None:
        async with Writer(embedded_store, metrics, asyncio.to_thread, asyncio.to_thread) as writer:
            assert not writer.offer("flows", batch(FLOWS, 4).drop_columns(["vni"]))
            assert writer.dropped_rows == 4
            with pytest.raises(KeyError):
                writer.offer("nope", batch(FLOWS, 1))

    asyncio.run(scenario())

    assert metrics.value("store_dropped_rows_total", table="flows", reason="wrong_columns") == 4


def test_a_full_queue_drops_the_newest_and_says_when_there_is_room(embedded_store: StoreSettings) -> None:
    rows = batch(FLOWS, 1000)
    metrics = Metrics()
    gate = asyncio.Event()

    async def slow(function: Callable[..., Any], /, *args: Any) -> Any:
        if function is insert:
            await gate.wait()
        return await asyncio.to_thread(function, *args)

    async def scenario() -> None:
        settings = with_(embedded_store, queue_bytes=3 * rows.nbytes, batch_rows=1000)
        async with Writer(settings, metrics, slow, asyncio.to_thread) as writer:
            assert [writer.offer("flows", rows) for _ in range(5)] == [True, True, True, False, False]
            assert writer.queue_bytes == 3 * rows.nbytes == metrics.value("store_queue_bytes")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(writer.ready(), 0.05)
            gate.set()
            await asyncio.wait_for(writer.ready(), 20)
        assert writer.dropped_rows == 2000

    asyncio.run(scenario())

    assert metrics.value("store_dropped_rows_total", table="flows", reason="queue_full") == 2000
    assert ask(embedded_store, "SELECT count() FROM flows") == 3000


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


def test_without_a_server_rows_wait_until_the_deadline_then_go_to_the_spool(tmp_path: Path) -> None:
    settings = StoreSettings(
        url=f"http://127.0.0.1:{free_port()}", drain_seconds=0.3, batch_age_seconds=0.01, spool_directory=tmp_path
    )
    metrics = Metrics()

    async def scenario() -> None:
        async with Writer(settings, metrics, asyncio.to_thread, asyncio.to_thread) as writer:
            assert writer.problem is not None
            assert metrics.value("store_up") == 0
            writer.offer("flows", batch(FLOWS, 20))
            await until(lambda: (metrics.value("store_retries_total", table="flows") or 0) > 0)
            assert writer.queue_bytes > 0
        assert writer.queue_bytes == 0

    asyncio.run(scenario())

    assert metrics.value("store_dropped_rows_total", table="flows", reason="stopping") is None
    assert [path.name.split("-")[:4] for path in tmp_path.glob("*.arrow")] == [["000000000001", "flows", "0", "20"]]


def test_rows_wait_for_a_server_that_comes_back(server_store: StoreSettings) -> None:
    """A relay in front of the server stands for the outage: closed at first, opened later."""
    host, _, port = server_store.url.removeprefix("http://").partition(":")
    metrics = Metrics()

    async def pump(reader: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            out.write(data)
            await out.drain()
        out.close()

    relaying: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        relaying.add(asyncio.current_task())  # type: ignore[arg-type]
        from_server, to_server = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(pump(reader, to_server), pump(from_server, out))
        except asyncio.CancelledError:
            pass  # the end of the outage's stand-in: the driver keeps its connection for the next client
        finally:
            for stream in (to_server, out):
                stream.close()
                with contextlib.suppress(OSError):
                    await stream.wait_closed()

    async def scenario() -> None:
        front = free_port()
        settings = with_(server_store, url=f"http://127.0.0.1:{front}", min_retry_seconds=0.05, max_retry_seconds=0.1)
        async with Writer(settings, metrics, asyncio.to_thread, asyncio.to_thread) as writer:
            writer.offer("flows", batch(FLOWS, 30))
            await until(lambda: (metrics.value("store_retries_total", table="flows") or 0) >= 2)
            server = await asyncio.start_server(relay, "127.0.0.1", front)
            await until(lambda: metrics.value("store_rows_total", table="flows") == 30)
            assert writer.problem is None
        server.close()
        for task in relaying:
            task.cancel()
        await asyncio.gather(*relaying)

    asyncio.run(scenario())

    assert ask(server_store, "SELECT count() FROM flows") == 30


def test_without_schema_setup_a_mismatch_keeps_it_from_starting(any_bare_store: StoreSettings) -> None:
    async def enter() -> None:
        async with Writer(with_(any_bare_store, schema_setup=False), Metrics(), asyncio.to_thread, asyncio.to_thread):
            raise AssertionError("it started")

    with pytest.raises(SchemaError, match="table flows is missing"):
        asyncio.run(enter())

    client = open_client(any_bare_store)
    set_up(client, any_bare_store)
    client.close()
    with pytest.raises(AssertionError, match="it started"):
        asyncio.run(enter())


def test_a_second_process_learns_who_has_the_directory(embedded_store: StoreSettings) -> None:

    open_client(embedded_store).close()
    code = (
        "import sys; from collector.store.client import *; from collector.store.settings import *\n"
        "try: open_client(StoreSettings(url=sys.argv[1]))\n"
        "except StoreError as error: print(type(error).__name__, error)"
    )

    answer = subprocess.run(
        [sys.executable, "-c", code, embedded_store.url], capture_output=True, text=True, check=True
    )

    assert answer.stdout.startswith("StoreLockedError")
    assert f"(pid {os.getpid()})" in answer.stdout


def test_a_directory_that_cannot_be_made_is_named(embedded_store: StoreSettings) -> None:
    with pytest.raises(StoreError, match="cannot make the store's directory /proc/nope"):
        open_client(with_(embedded_store, url="chdb:///proc/nope"))


def test_acknowledged_rows_survive_kill_9(tmp_path: Path) -> None:
    url = f"chdb://{tmp_path}/store"
    code = (
        "import sys, time\n"
        "from collector.store.client import open_client\n"
        "from collector.store.settings import StoreSettings\n"
        "from collector.store.setup import set_up\n"
        "from collector.store.native import insert\n"
        "from schemas.flows import FLOWS\n"
        "from tests.table_rows import batch\n"
        "settings = StoreSettings(url=sys.argv[1])\n"
        "if len(sys.argv) == 3:\n"
        "    print(open_client(settings).query('SELECT count() FROM vmflow.flows').result_rows[0][0])\n"
        "    sys.exit()\n"
        "client, rows = open_client(settings), batch(FLOWS, 100)\n"
        "set_up(client, settings)\n"
        "while True:\n"
        "    insert(client, FLOWS, [rows], str(time.time_ns()))\n"
        "    print('stored', flush=True)\n"
    )
    command = [sys.executable, "-c", code, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = sum(process.stdout.readline() == "stored\n" for _ in range(20))
        process.kill()
        acknowledged += len(process.stdout.read().splitlines())

    answer = subprocess.run([*command, "count"], capture_output=True, text=True, check=True)

    # The insert that was under way may have been stored without its answer.
    assert int(answer.stdout) in (acknowledged * 100, acknowledged * 100 + 100)


def test_pauses_between_attempts_double_up_to_the_longest() -> None:
    """Half of each is left to chance, so that writers do not march."""
    settings = StoreSettings(url="http://127.0.0.1:9", min_retry_seconds=0.2, max_retry_seconds=5)
    writer = Writer(settings, Metrics(), asyncio.to_thread, asyncio.to_thread)

    for expected, pause in zip([0.2, 0.4, 0.8, 1.6, 3.2, 5, 5], writer._pauses(), strict=False):
        assert expected / 2 <= pause <= expected
