"""ClickHouse's HTTP interface in front of the embedded store, for clickhouse-connect, curl and Grafana: read only.

chDB allows one process per directory, so the service itself answers SQL for others.  `guard` decides what is refused,
`engine` what a query may cost, `turns` when it runs, `wire` how answers are compressed and framed.  Types, statuses and
compression are those of ClickHouse.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, Self
from uuid import uuid4

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from collector.http.gate import SCOPE_USER, Entrance
from collector.http.login import place_of
from collector.http.server import CONNECTIONS, BindError, LargeResponse, Octets, Server, bind, server
from collector.interfaces import Call, SqlAnswer
from collector.log import get_log
from collector.metrics import Metrics
from collector.sql.engine import Engine, Query, QueryError, QueryResult
from collector.sql.guard import QueryRefusedError, check_reads
from collector.sql.turns import MOST_OVERDUE, Turn, Turns, stopping
from collector.sql.wire import (
    COMPRESSORS,
    DEFAULT_METHOD,
    compress,
    compress_blocks,
    decompress,
    decompress_blocks,
    raise_revision,
    readable_block,
)
from collector.store.errors import StoreError
from collector.store.settings import SqlSettings, StoreSettings
from collector.threads import lower_priority

CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TabSeparatedWithNames": "text/tab-separated-values; charset=UTF-8",
    "TabSeparatedWithNamesAndTypes": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8",
    "CSVWithNames": "text/csv; charset=UTF-8",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "Pretty": "text/plain; charset=UTF-8",
    "PrettyCompact": "text/plain; charset=UTF-8",
    "Native": "application/octet-stream",
}
HTTP_STATUS = {164: 403, 497: 403, 60: 404, 81: 404, 202: 503, 236: 503, 159: 500, 241: 500, 396: 500, 1002: 500}
"""Status for error codes, as ClickHouse sends it; 400 for the rest: the query's own mistakes."""
REFUSALS = {
    401: (516, "AUTHENTICATION_FAILED"),
    429: (516, "AUTHENTICATION_FAILED"),
    500: (1002, "UNKNOWN_EXCEPTION"),
    503: (236, "ABORTED"),
}
"""ClickHouse's messages for what the gate answers by itself."""

BUSY = frozenset({202, 236})
"""Codes of refusals that pass: too many queries, or the service stops."""
TOO_MUCH = 396
"""Code of a result that exceeds its limits."""
CONSOLE_ROWS, CONSOLE_BYTES = 10_000, 16 * 2**20
"""Most of one answer that the console shows."""

NO = frozenset({"0", "false"})
"""Values that switch a parameter off."""

_NEVER = re.compile(r"q\s*=\s*0(\.0*)?")
"""Follows an encoding that is not accepted: RFC 9110 section 12.4.2."""


def is_on(request: Request, name: str) -> bool:
    """Return whether a request sets a parameter that is off by default, such as `compress=1`."""
    return request.query_params.get(name, "0") not in NO


def success(answer: QueryResult, parts: Sequence[Octets], request: Request) -> Response:
    """Return the response with an answer whose body is `parts`, compressed as the client requests.  Blocks.

    ClickHouse's own compression comes first, that of HTTP around it, as in ClickHouse.  Raises QueryRefusedError.
    """
    headers = {}
    if is_on(request, "compress"):
        parts = compress_blocks(parts, request.query_params.get("network_compression_method", DEFAULT_METHOD))
    encoding = _encoding(request)
    if encoding is not None:
        parts, headers = compress(parts, encoding), {"Content-Encoding": encoding, "Vary": "Accept-Encoding"}
    return LargeResponse(
        parts, headers=headers, media_type=CONTENT_TYPES.get(answer.format, "application/octet-stream")
    )


def failure(message: str, code: int, request: Request | None = None) -> Response:
    """Return the response to a query that failed or was refused, with ClickHouse's error code.

    As in ClickHouse, `compress=1` applies to it, too: drivers unpack every answer.
    """
    headers = {"X-ClickHouse-Exception-Code": str(code)}
    text = message.rstrip() + "\n"
    response = PlainTextResponse(text, HTTP_STATUS.get(code, 400), headers)
    if request is not None and is_on(request, "compress"):
        response.body = readable_block(text.encode())
        response.headers["Content-Length"] = str(len(response.body))
    return response


def refusal(status: int, message: str) -> Response:
    """Return the gate's refusal in ClickHouse's form."""
    code, name = REFUSALS.get(status, (497, "ACCESS_DENIED"))
    response = failure(f"Code: {code}. DB::Exception: {message}. ({name})", code)
    response.status_code = status
    return response


def _encoding(request: Request) -> str | None:
    """Return the HTTP encoding in which the client accepts an answer, None for none.

    An accepted one is used also for short answers: some drivers expect it.  `enable_http_compression=0` forbids it; its
    default is 1, as in ClickHouse since 26.
    """
    if request.query_params.get("enable_http_compression", "1") in NO:
        return None
    accepted = set()
    for part in request.headers.get("accept-encoding", "").lower().split(","):
        name, *options = (text.strip() for text in part.split(";"))
        if not any(_NEVER.fullmatch(option) for option in options):
            accepted.add(name)
    return next((name for name in COMPRESSORS if name in accepted), None)


OWN_PARAMETERS = frozenset({"query", "database", "default_format"})

ANSWER_THREADS = 2
"""Threads for the work on requests and answers before and after the query."""
LATE_SECONDS = 1.0
"""After `sql.max_seconds` the engine ends a query itself, if it checks the clock; this much later the endpoint does."""
CANCEL_AGAIN_SECONDS, CANCEL_AGAIN_LONGEST_SECONDS = 0.2, 5.0
"""Pause between two calls to cancel a query, doubling: the first may come before the engine has registered the
query."""
OVERDUE_SECONDS = 2.0
"""A query that has not ended this long after being cancelled is overdue."""
CLOSE_SECONDS = 2.0
"""How long a stop waits for cancelled queries, and for the engine to close."""

_log = get_log("sql")


def threads(settings: SqlSettings) -> int:
    """Return the threads that queries and answers need, including overdue queries."""
    return settings.max_queries + MOST_OVERDUE + ANSWER_THREADS


class SqlEndpoint:
    """The endpoint as a component.  With a ClickHouse server as the store, or switched off, it does nothing.

    `call` runs queries on as many workers as `threads` returns; some may never end.  `cancel_call` has its own worker,
    so that cancelling never waits for queries.
    """

    def __init__(
        self,
        settings: SqlSettings,
        store: StoreSettings,
        metrics: Metrics,
        call: Call,
        entrance: Entrance,
        cancel_call: Call | None = None,
        connections: int = CONNECTIONS,
    ) -> None:
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._connections = connections
        self._entrance = entrance
        self._call = call
        self._cancel_call = cancel_call or call
        self._turns = Turns(settings.max_queries, settings.max_seconds + LATE_SECONDS + OVERDUE_SECONDS)
        self._asked: set[asyncio.Task[QueryResult]] = set()
        """Queries whose clients wait."""
        self._ending: set[asyncio.Task[None]] = set()
        """Queries that are being cancelled."""
        self._sending = 0
        """Octets of the answers that clients have not read yet."""
        self._engine: Engine | None = None
        self._server: Server | None = None
        self.url = ""
        """Where the endpoint is served; empty if it is off.  Known once entered."""
        self._queries = metrics.counter("sql_queries_total", "Queries by outcome.", ("outcome",))
        metrics.gauge("sql_running_queries", "Queries under way, overdue ones among them.").set_function(
            lambda: self._turns.begun
        )
        metrics.gauge("sql_overdue_queries", "Queries that were cancelled and have not ended.").set_function(
            lambda: self._turns.overdue
        )

    @property
    def problem(self) -> str | None:
        """Why no query is answered; None if queries are."""
        return self._turns.problem

    async def __aenter__(self) -> Self:
        """Listen.  Raises StoreError if the address cannot be bound, AccessError if the certificate cannot be used."""
        directory = self._store.directory
        if directory is None or not self._settings.enabled:
            return self
        context = self._entrance.context()
        try:
            listening, url = bind(self._settings.host, self._settings.port, "https" if context else "http")
        except BindError as error:
            hint = "another vmflow or ClickHouse? set sql.port" if error.taken else "set sql.host"
            raise StoreError(f"SQL endpoint on {error}; {hint}") from error
        try:
            self._engine = await self._call(Engine, directory, self._store, self._settings)
        except BaseException:
            listening.close()
            raise
        self.url = url
        app = self._entrance.gate(self, self._settings.host, only_reads=True, refuse=refusal)
        self._server = server(app, "sql", self._metrics, context, self._connections)
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]), name="sql")
        return self

    async def __aexit__(self, *error: object) -> None:
        self._turns.close()
        for asked in self._asked:
            asked.cancel()
        if self._server is not None:
            self._server.should_exit = True
            await self._task
        if self._ending:
            await asyncio.wait(self._ending, timeout=CLOSE_SECONDS)
        for ending in self._ending:
            ending.cancel()
        if self._ending:
            _log.warning("queries have not ended: the stop does not wait for them", queries=len(self._ending))
        elif self._engine is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._cancel_call(self._engine.close)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        request = Request(scope, receive)
        try:
            response = await self._answer(request, receive)
        except ClientDisconnect:
            self._queries.labels("gone").inc()
            return
        except (QueryRefusedError, QueryError) as error:
            self._queries.labels("refused" if isinstance(error, QueryRefusedError) else "failed").inc()
            response = failure(str(error), error.code, request)
        except Exception:  # noqa: BLE001 - one request must not end the endpoint
            self._queries.labels("failed").inc()
            _log.exception("a query failed inside the endpoint")
            message = "Code: 1002. DB::Exception: internal error, see the log. (UNKNOWN_EXCEPTION)"
            response = failure(message, 1002, request)
        response.headers["X-ClickHouse-Server-Display-Name"] = "vmflow"
        await self._send(response, scope, receive, send)

    async def ask(self, sql: str, request: Request) -> SqlAnswer:
        """Answer a statement of the console: guard, turns and limits are those of other clients, rows are fewer.

        Raises ClientDisconnect.
        """
        if self._engine is None:
            return SqlAnswer(503, b"the SQL endpoint is off, or the store is a server: ask it there")
        settings = {
            "max_result_rows": str(CONSOLE_ROWS),
            "max_result_bytes": str(CONSOLE_BYTES),
            "result_overflow_mode": "throw",  # where it breaks off, a whole block more comes, of any size
            "output_format_json_quote_64bit_integers": "1",
        }
        query = Query(sql.encode(), self._store.database, "JSONCompact", {}, settings)
        try:
            answer = await self._while_there(self._run(query, _source(request)), request.receive)
        except (QueryRefusedError, QueryError) as error:
            refused = isinstance(error, QueryRefusedError)
            self._queries.labels("refused" if refused else "failed").inc()
            hint = f"; at most {CONSOLE_ROWS:,} rows are shown: add LIMIT" if error.code == TOO_MUCH else ""
            return SqlAnswer(503 if error.code in BUSY else 422, f"{error}{hint}".encode())
        self._queries.labels("done").inc()
        if len(answer.body) > CONSOLE_BYTES:  # the engine counts what columns take, which is not the text
            return SqlAnswer(422, f"more than {CONSOLE_BYTES >> 20} MiB: select less, or add LIMIT".encode())
        if answer.format != "JSONCompact":
            return SqlAnswer(422, b"leave out FORMAT: the console shows a table, and saves CSV")
        return SqlAnswer(200, answer.body)

    async def _send(self, response: Response, scope: Scope, receive: Receive, send: Send) -> None:
        """Send an answer; one that is not read within the time of a query is given up, and its connection closed."""
        async with self.held(response.octets if isinstance(response, LargeResponse) else len(response.body)):
            await response(scope, receive, send)

    @contextlib.asynccontextmanager
    async def held(self, octets: int) -> AsyncIterator[None]:
        """Hold an answer while the block sends it: it counts, and has the time of a query."""
        self._sending += octets
        try:
            async with asyncio.timeout(self._settings.max_seconds):
                yield
        except TimeoutError:
            self._queries.labels("not_taken").inc()
        finally:
            self._sending -= octets

    async def _answer(self, request: Request, receive: Receive) -> Response:
        if request.method not in ("GET", "POST", "HEAD"):
            return PlainTextResponse("only GET and POST\n", 405, {"Allow": "GET, HEAD, POST"})
        if request.url.path in ("/ping", "/replicas_status"):
            return PlainTextResponse("Ok.\n")
        if request.url.path != "/":
            return PlainTextResponse("There is no such path here; queries go to /\n", 404)
        asked = request.query_params
        body = await self._body(request)
        if not body and "query" not in asked:
            return PlainTextResponse("Ok.\n")
        identifier = asked.get("query_id") or str(uuid4())
        query = _query(dict(asked), request, body, self._store.database)
        answer = await self._while_there(self._run(query, _source(request)), receive)
        version = asked.get("client_protocol_version", "0")
        parts: Sequence[Octets] = [answer.body]
        if answer.format == "Native" and version.isdecimal():
            parts = await self._call(raise_revision, answer.body, int(version[:9]))
        self._queries.labels("done").inc()
        response = await self._call(success, answer, parts, request)
        response.headers["X-ClickHouse-Query-Id"] = (
            "".join(filter(str.isprintable, identifier)).encode("ascii", "replace").decode()[:200]
        )
        response.headers["X-ClickHouse-Format"] = answer.format
        response.headers["X-ClickHouse-Summary"] = answer.summary
        response.headers["X-ClickHouse-Timezone"] = self._engine.timezone if self._engine else "UTC"
        return response

    async def _while_there(self, work: Coroutine[Any, Any, QueryResult], receive: Receive) -> QueryResult:
        """Do work until its client goes away (ClientDisconnect) or the service stops (QueryRefusedError)."""
        asked = asyncio.create_task(work)
        asked.add_done_callback(lambda task: task.cancelled() or task.exception())
        gone = asyncio.create_task(_disconnected(receive))
        self._asked.add(asked)
        try:
            await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
            if asked.cancelled():
                raise stopping()
            if not asked.done():
                raise ClientDisconnect
            return asked.result()
        finally:
            self._asked.discard(asked)
            asked.cancel()
            gone.cancel()

    async def _run(self, query: Query, source: str) -> QueryResult:
        """Run a query once it may start.  Raises QueryRefusedError if that is too late or never."""
        engine = self._engine
        assert engine is not None  # noqa: S101 - requests come only while it is open
        if self._sending > self._settings.max_result_bytes:
            raise QueryRefusedError("Too many answers that clients do not take", 202, "TOO_MANY_SIMULTANEOUS_QUERIES")
        turn = await self._turns.take(source)
        mark = uuid4().hex
        running = asyncio.ensure_future(self._call(engine.run, query, mark))
        running.add_done_callback(lambda call: call.cancelled() or call.exception())  # perhaps no one waits for it
        seconds = self._settings.max_seconds
        try:
            async with asyncio.timeout(seconds + LATE_SECONDS):
                return await asyncio.shield(running)
        except TimeoutError:
            message = f"Code: 159. DB::Exception: Timeout exceeded: maximum: {seconds:g} seconds. (TIMEOUT_EXCEEDED)"
            raise QueryError(message) from None
        finally:
            if running.done():
                self._turns.end(turn)
            else:
                ending = asyncio.create_task(self._end(running, engine, mark, turn))
                self._ending.add(ending)
                ending.add_done_callback(self._ending.discard)

    async def _end(self, running: asyncio.Future[QueryResult], engine: Engine, mark: str, turn: Turn) -> None:
        """Cancel a query until it has ended, and release its place; if that takes long, mark it as overdue before."""
        since, pause = time.monotonic(), CANCEL_AGAIN_SECONDS
        aside: list[int] = []
        while not running.done():
            try:
                await self._cancel_call(engine.cancel, mark)
                if turn.overdue and not aside:
                    aside = await self._cancel_call(engine.put_aside, mark)
            except Exception as error:  # noqa: BLE001 - whatever the engine says, it is asked again
                _log.sampled("a query could not be cancelled", key=type(error).__name__, error=str(error)[:300])
            await asyncio.wait({running}, timeout=pause)
            pause = min(2 * pause, CANCEL_AGAIN_LONGEST_SECONDS)
            if not running.done() and not turn.overdue and time.monotonic() - since > OVERDUE_SECONDS:
                self._turns.give_up(turn)
                _log.sampled("a query was cancelled and does not end", key="overdue", overdue=self._turns.overdue)
        for number in aside:
            lower_priority(number)
        self._turns.end(turn)

    async def _body(self, request: Request) -> bytes:
        """Return the request's body, decompressed.  Raises QueryRefusedError if it is too long or not encoded as
        stated."""
        limit = self._settings.max_request_bytes
        chunks, size = [], 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                _check_insert(request)
                raise QueryRefusedError(f"The request is longer than {limit} octets", 307, "TOO_MANY_BYTES")
            chunks.append(chunk)
        _check_insert(request)
        body = b"".join(chunks)
        encoding = ", ".join(request.headers.getlist("content-encoding")) or "identity"
        if body and encoding not in ("identity", ""):
            body = await self._call(decompress, body, encoding, limit)
        if body and is_on(request, "decompress"):
            body = await self._call(decompress_blocks, body, limit)
        return body


def _check_insert(request: Request) -> None:
    """Raise QueryRefusedError for an insert whose rows are the body: the insert is the mistake, whatever the rows
    are."""
    check_reads(request.query_params.get("query", "").encode())


async def _disconnected(receive: Receive) -> None:
    """Wait until the client has gone; its request was read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _source(request: Request) -> str:
    """Return the source of a request, for a fair share: the user's name and the address."""
    address = request.client.host if request.client is not None else ""
    return f"{request.scope.get(SCOPE_USER, '')}@{place_of(address)}"


def _query(asked: dict[str, str], request: Request, body: bytes, database: str) -> Query:
    head = asked.get("query", "").encode()
    sql = head + b"\n" + body if head and body else head or body
    parameters = {key.removeprefix("param_"): value for key, value in asked.items() if key.startswith("param_")}
    settings = {
        key: value for key, value in asked.items() if key not in OWN_PARAMETERS and not key.startswith("param_")
    }
    headers = request.headers
    return Query(
        sql,
        asked.get("database") or headers.get("x-clickhouse-database") or database,
        asked.get("default_format") or headers.get("x-clickhouse-format") or "TabSeparated",
        parameters,
        settings,
    )
