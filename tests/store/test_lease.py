"""Two collectors and one database on a server: who may start, and who notices that he was replaced."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from collector.metrics import Metrics
from collector.store import lease as module
from collector.store.client import open_client
from collector.store.errors import LeaseTakenError, SchemaError, StoreUnreachableError
from collector.store.lease import Lease
from collector.store.settings import StoreSettings
from collector.store.setup import set_up
from schemas.lease import TABLE


def collector(settings: StoreSettings, directory: Path, **values: Any) -> Lease:
    """A collector with a spool of its own."""
    directory.mkdir(exist_ok=True)
    chosen = settings.model_copy(update={"spool_directory": directory, **values})
    return Lease(chosen, Metrics(), asyncio.to_thread)


def test_a_second_collector_is_refused_and_learns_of_the_first(
    bare_server_store: StoreSettings, tmp_path: Path
) -> None:
    first = collector(bare_server_store, tmp_path / "first")
    first.claim()
    second = collector(bare_server_store, tmp_path / "second")

    for _ in range(2):
        with pytest.raises(LeaseTakenError) as caught:
            second.connect()
        expected = str(caught.value)
        assert f"database {bare_server_store.database} of {bare_server_store.url}" in expected
        today = time.strftime("%Y-%m-%d ", time.gmtime())
        assert f"host {socket.gethostname()}, pid {os.getpid()}, since {today}" in expected
        assert "store.shared = true" in expected
        assert "\n" not in expected
    first._renew()  # what the second wrote takes nothing from the first


def test_a_collector_that_ended_is_not_waited_for(bare_server_store: StoreSettings, tmp_path: Path) -> None:
    first, second = (collector(bare_server_store, tmp_path / name) for name in ("first", "second"))

    async def scenario() -> None:
        async with first:
            await asyncio.to_thread(first.claim)
        await asyncio.to_thread(second.claim)

    asyncio.run(scenario())

    with pytest.raises(LeaseTakenError):
        collector(bare_server_store, tmp_path / "third").claim()


def test_a_restart_after_a_kill_waits_for_nothing(bare_server_store: StoreSettings, tmp_path: Path) -> None:
    collector(bare_server_store, tmp_path / "first").claim()

    began = time.monotonic()
    again = collector(bare_server_store, tmp_path / "first")
    again.claim()

    assert time.monotonic() - began < 5
    with pytest.raises(LeaseTakenError):
        collector(bare_server_store, tmp_path / "second").claim()
    again._renew()
    again._give_up()
    # Nor does anybody else wait for the run that was killed.
    collector(bare_server_store, tmp_path / "second").claim()


def test_the_same_spool_on_another_host_is_another_collector(
    bare_server_store: StoreSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector(bare_server_store, tmp_path / "first").claim()
    monkeypatch.setattr(socket, "gethostname", lambda: "a-copy-of-the-machine")

    with pytest.raises(LeaseTakenError):
        collector(bare_server_store, tmp_path / "first").claim()


def test_who_was_silent_for_long_is_replaced_and_reported(
    bare_server_store: StoreSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALE_SECONDS", 2)
    monkeypatch.setattr(module, "BEAT_SECONDS", 1.0)
    first, second = (collector(bare_server_store, tmp_path / name) for name in ("first", "second"))

    async def scenario() -> None:
        await asyncio.to_thread(first.claim)
        with pytest.raises(LeaseTakenError):
            await asyncio.to_thread(second.claim)
        await asyncio.sleep(3.5)
        async with second:
            await asyncio.to_thread(second.claim)
            await asyncio.sleep(3.5)  # signs of life keep it
            async with first:
                with pytest.raises(LeaseTakenError):
                    async with asyncio.timeout(20):
                        await first.replaced()
            assert second._taken is None

    asyncio.run(scenario())


def test_a_setting_lets_both_run(bare_server_store: StoreSettings, tmp_path: Path) -> None:
    first = collector(bare_server_store, tmp_path / "first")
    first.claim()
    second = collector(bare_server_store, tmp_path / "second", shared=True)

    second.claim()

    first._renew()
    assert second._others == 1
    assert first._others == 1


def test_a_server_that_does_not_answer_decides_nothing(tmp_path: Path) -> None:
    lease = collector(StoreSettings(url="http://127.0.0.1:9"), tmp_path / "first")

    with pytest.raises(StoreUnreachableError):
        lease.connect()


def test_the_table_is_made_where_tables_are_made(bare_server_store: StoreSettings, tmp_path: Path) -> None:
    lease = collector(bare_server_store, tmp_path / "first", schema_setup=False)
    with pytest.raises(SchemaError, match="`vmflow schema --apply` makes it"):
        lease.claim()

    with open_client(bare_server_store) as client:
        set_up(client, bare_server_store)
        lease.claim()
        assert client.query(f"SELECT count(), any(host) FROM {TABLE}").result_rows == [(1, socket.gethostname())]


def test_an_embedded_store_needs_none(bare_store: StoreSettings, tmp_path: Path) -> None:
    collector(bare_store, tmp_path / "first").claim()
    collector(bare_store, tmp_path / "second").claim()
