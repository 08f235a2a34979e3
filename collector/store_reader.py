"""Reading the store, bounded in seconds, memory and rows: one way for all rooms and commands.

`read_rows` and `read_columns` block, for threads and commands; a `Reader` is for the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
from clickhouse_connect.driver import Client

from collector.interfaces import Call

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one query may cost: the store ends one that takes more, with an error."""

    seconds: float
    octets: int = 256 * 2**20
    """Memory: a quarter of what the embedded store may have."""
    rows: int = 1_000_000
    """Rows of the answer."""

    def settings(self) -> dict[str, Any]:
        """As ClickHouse settings.  A profile of the server must not change what the views mean."""
        return {
            "max_execution_time": self.seconds,
            "max_memory_usage": self.octets,
            "max_result_rows": self.rows,
            "result_overflow_mode": "throw",
            "join_use_nulls": 0,
            "session_timezone": "UTC",
        }


def read_rows(client: Client, sql: str, parameters: Mapping[str, Any], bounds: Bounds) -> list[dict[str, Any]]:
    """Rows by name of column.  Blocks; raises the driver's errors."""
    answer = client.query(sql, parameters=dict(parameters), settings=bounds.settings())
    return [dict(zip(answer.column_names, row, strict=True)) for row in answer.result_rows]


def read_columns(client: Client, sql: str, parameters: Mapping[str, Any], bounds: Bounds) -> pa.Table:
    """The same as columns of Arrow, for many rows."""
    return client.query_arrow(sql, parameters=dict(parameters), settings=bounds.settings())


class KeptClient:
    """One client, opened when first needed, closed after an error, and opened again with the next use.

    Everything blocks; for one thread at a time.  `connect` opens a client with the service's database selected.
    """

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._client: Client | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is something to close."""
        return self._client is not None

    @contextlib.contextmanager
    def use(self) -> Iterator[Client]:
        """Yield the client, for a `with` statement: an error in it closes the client.  Raises what `connect` does."""
        client = self._client = self._client or self._connect()
        try:
            yield client
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """Release the store.  Does not raise: a broken connection may refuse even that."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.close()


class Reader:
    """Bounded queries from the event loop, a limited number at a time, each on a thread and with a client of its own.

    `connect` opens a client with the service's database selected; it blocks, and is called through `call`, whose
    worker must have `at_once` threads.  `wait_seconds` is the longest wait for an answer, and for those before it.
    """

    def __init__(
        self,
        call: Call,
        connect: Callable[[], Client],
        bounds: Bounds,
        *,
        at_once: int = 1,
        wait_seconds: float | None = None,
    ) -> None:
        self._call = call
        self._bounds = bounds
        self._wait_seconds = wait_seconds
        self._free = [KeptClient(connect) for _ in range(at_once)]
        self._turns = asyncio.Semaphore(at_once)
        self._closed = False

    async def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rows by name of column.  Raises as `ask` does."""
        return await self.ask(partial(read_rows, sql=sql, parameters=parameters or {}, bounds=self._bounds))

    async def columns(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """The same as columns of Arrow, for many rows."""
        return await self.ask(partial(read_columns, sql=sql, parameters=parameters or {}, bounds=self._bounds))

    async def ask(self, question: Callable[[Client], T]) -> T:
        """Return what a function returns that reads with a client.  It runs on a thread.

        Raises TimeoutError after `wait_seconds`, and what the function and `connect` raise.
        """
        async with asyncio.timeout(self._wait_seconds):
            await self._turns.acquire()
            client = self._free.pop()
            reading = asyncio.ensure_future(self._call(self._use, client, question))
            reading.add_done_callback(partial(self._release, client))
            # A call that has begun cannot be stopped from outside: it keeps its turn, even if nothing waits for it.
            return await asyncio.shield(reading)

    async def close(self) -> None:
        """Release the store; a client that reads is closed once it has."""
        self._closed = True
        for client in self._free:
            if client.is_open:
                await self._call(client.close)

    def _use(self, client: KeptClient, question: Callable[[Client], T]) -> T:
        """Blocks."""
        try:
            with client.use() as opened:
                return question(opened)
        finally:
            if self._closed:
                client.close()

    def _release(self, client: KeptClient, reading: asyncio.Future[Any]) -> None:
        self._free.append(client)
        self._turns.release()
        if not reading.cancelled():
            reading.exception()  # else asyncio logs one of a call that nothing waits for
