"""Which errors are worth another try: every code the engine knows, what has none, and for how long doubt lasts."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest
from clickhouse_connect.driver import exceptions as driver
from urllib3.exceptions import ProtocolError

from collector.metrics import Metrics
from collector.store import writer as module
from collector.store.client import open_client
from collector.store.errors import (
    DOUBT_ENDS_SECONDS,
    DOUBT_SECONDS,
    BrokenSegmentError,
    Patience,
    SchemaError,
    Verdict,
    reviewed,
    transient,
    verdict_of,
)
from collector.store.native import insert
from collector.store.settings import StoreSettings
from collector.store.setup import set_up
from collector.store.writer import Writer
from schemas.flows import FLOWS
from tests.table_rows import batch

AGAIN, DOUBTFUL, FINAL = Verdict.AGAIN, Verdict.DOUBTFUL, Verdict.FINAL


def error(kind: type[driver.Error], code: int | None = None, text: str = "x") -> driver.Error:
    return kind(text, code=code)


def test_every_code_that_the_engine_knows_was_reviewed(embedded_store: StoreSettings) -> None:
    """Fails with a new engine: read its new codes and put each into a group of error_codes.txt."""
    client = open_client(embedded_store)
    try:
        known = client.query(
            "SELECT number, errorCodeToName(number) FROM numbers(1, 65535) WHERE errorCodeToName(number) != ''"
        ).result_rows
    finally:
        client.close()

    ours = {code: name for code, (name, _) in reviewed().items()}
    assert len(known) > 600
    assert {int(code): str(name) for code, name in known} == ours


def test_what_runs_out_is_tried_again_and_our_own_mistakes_are_not() -> None:
    codes = dict(reviewed().values())
    resources = """
        CANNOT_OPEN_FILE CANNOT_PIPE CANNOT_CREATE_DIRECTORY CANNOT_CREATE_FILE NOT_ENOUGH_SPACE CANNOT_FSYNC
        CANNOT_ALLOCATE_MEMORY MEMORY_LIMIT_EXCEEDED CANNOT_MREMAP CANNOT_FORK CANNOT_SCHEDULE_TASK PTHREAD_ERROR
        CANNOT_PTHREAD_ATTR CANNOT_CREATE_TIMER EPOLL_ERROR CANNOT_POLL SYSTEM_ERROR TIMEOUT_EXCEEDED TOO_MANY_PARTS
        NETWORK_ERROR DNS_ERROR NO_ZOOKEEPER KEEPER_EXCEPTION TABLE_IS_READ_ONLY UNKNOWN_STATUS_OF_INSERT
        AUTHENTICATION_FAILED QUERY_WAS_CANCELLED S3_ERROR"""
    mistakes = """
        SYNTAX_ERROR TYPE_MISMATCH NO_SUCH_COLUMN_IN_TABLE UNKNOWN_IDENTIFIER CANNOT_PARSE_TEXT INCORRECT_DATA
        NUMBER_OF_COLUMNS_DOESNT_MATCH CANNOT_CONVERT_TYPE VIOLATED_CONSTRAINT UNKNOWN_FUNCTION"""
    nobody_knows = "STD_EXCEPTION POCO_EXCEPTION UNKNOWN_EXCEPTION LOGICAL_ERROR UNKNOWN_TABLE CHECKSUM_DOESNT_MATCH"

    assert {codes[name] for name in resources.split()} == {AGAIN}
    assert {codes[name] for name in mistakes.split()} == {FINAL}
    assert {codes[name] for name in nobody_knows.split()} == {DOUBTFUL}


@pytest.mark.parametrize(
    ("problem", "verdict"),
    [
        (error(driver.OperationalError), AGAIN),
        (error(driver.OperationalError, 62), FINAL),
        (error(driver.StreamFailureError, 76), AGAIN),
        (error(driver.DatabaseError, 76), AGAIN),
        (error(driver.DatabaseError, 16), FINAL),
        (error(driver.DatabaseError, 60), DOUBTFUL),
        (error(driver.DatabaseError, 54_321), DOUBTFUL),
        (error(driver.DatabaseError, 1001, "Code: 1001. std::bad_alloc"), AGAIN),
        (error(driver.DatabaseError, 1001, "Code: 1001. std::out_of_range"), DOUBTFUL),
        (error(driver.DatabaseError, 1000, "Poco: System exception: Too many open files"), AGAIN),
        (error(driver.DatabaseError, 16, "Too many open files"), FINAL),
        (error(driver.DatabaseError, None), AGAIN),
        (error(driver.DatabaseError, None, "HTTP driver received HTTP status 502"), AGAIN),
        (error(driver.DatabaseError, None, "HTTP driver received HTTP status 413"), DOUBTFUL),
        (error(driver.ProgrammingError), FINAL),
        (ProtocolError("Connection broken: IncompleteRead"), AGAIN),
        (ConnectionResetError(errno.ECONNRESET, "reset"), AGAIN),
        (TimeoutError(), AGAIN),
        *((OSError(number, "x"), AGAIN) for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)),
        *((OSError(number, "x"), AGAIN) for number in (errno.EIO, errno.EROFS, errno.EDQUOT, errno.EAGAIN)),
        (OSError(errno.ENAMETOOLONG, "x"), DOUBTFUL),
        (OSError("IO error: No space left on device"), AGAIN),
        (MemoryError(), AGAIN),
        (RuntimeError("can't start new thread"), AGAIN),
        (RuntimeError("x"), DOUBTFUL),
        (BrokenSegmentError("x"), FINAL),
        (SchemaError("x"), FINAL),
        (ValueError("x"), FINAL),
    ],
)
def test_what_an_error_says(problem: BaseException, verdict: Verdict) -> None:
    assert verdict_of(problem) is verdict
    assert transient(problem) is (verdict is AGAIN)


def test_doubt_ends_and_begins_anew_after_a_long_time_without() -> None:
    now = 1000.0
    patience = Patience(lambda: now)
    doubtful = error(driver.DatabaseError, 1001)

    assert patience.again(doubtful, "flows")
    now += DOUBT_SECONDS - 1
    assert patience.again(doubtful, "flows")
    assert not patience.again(error(driver.DatabaseError, 62), "flows")
    now += 1
    assert not patience.again(doubtful, "flows")
    assert patience.again(error(driver.DatabaseError, 241), "flows")
    assert patience.again(doubtful, "drops")  # another line has its own
    now += DOUBT_ENDS_SECONDS
    assert not patience.again(doubtful, "flows")  # the next poisoned insert is given up at once
    now += DOUBT_ENDS_SECONDS + 1
    assert patience.again(doubtful, "flows")


def test_an_insert_that_nobody_can_store_is_given_up_and_the_next_stored(
    any_store: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def poisoned(client: Any, table: Any, batches: Any, token: str, group: int) -> None:
        if sum(one.num_rows for one in batches) == 13:
            attempts.append(token)
            raise error(driver.DatabaseError, 49, "Code: 49. Logical error")
        insert(client, table, batches, token, group)

    monkeypatch.setattr(module, "insert_block", poisoned)
    monkeypatch.setattr("collector.store.errors.DOUBT_SECONDS", 0.3)
    metrics = Metrics()

    async def scenario() -> None:
        settings = any_store.model_copy(update={"batch_rows": 13, "min_retry_seconds": 0.01})
        async with Writer(settings, metrics, asyncio.to_thread, asyncio.to_thread) as writer:
            writer.offer("flows", batch(FLOWS, 13))
            writer.offer("flows", batch(FLOWS, 10))
            async with asyncio.timeout(30):
                while metrics.value("store_rows_total", table="flows") != 10:  # noqa: ASYNC110 - a store has no event
                    await asyncio.sleep(0.01)
            assert writer.problem is None

    asyncio.run(scenario())

    assert len(attempts) > 1
    assert metrics.value("store_dropped_rows_total", table="flows", reason="refused") == 13


def test_a_store_that_cannot_be_opened_costs_no_rows(any_store: StoreSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reason: a schema of another release, say, which is no fault of the rows."""
    metrics = Metrics()
    refused = [3]

    def opened(*_: Any) -> None:
        if refused[0]:
            refused[0] -= 1
            raise SchemaError("made by a newer vmflow")

    monkeypatch.setattr(module, "set_up", lambda *args: opened() or [])

    async def scenario() -> None:
        settings = any_store.model_copy(update={"min_retry_seconds": 0.01})
        client = open_client(settings)
        set_up(client, settings)
        client.close()
        writer = Writer(settings, metrics, asyncio.to_thread, asyncio.to_thread)
        refused[0] = 0
        async with writer:
            opened_client, writer._client = writer._client, None  # as after a start while the server was away
            assert opened_client is not None
            opened_client.close()
            refused[0] = 3
            writer.offer("flows", batch(FLOWS, 5))
            async with asyncio.timeout(30):
                while refused[0]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())

    assert metrics.value("store_dropped_rows_total", table="flows", reason="refused") is None
