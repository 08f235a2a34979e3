"""A stand-in for a ClickHouse server: its HTTP interface over chDB, in a process of its own.

    python -m tests.clickhouse_server --path DIRECTORY [--port 8123]

It takes every statement, also inserts with their rows in the body, and asks nobody for a password: it listens on
127.0.0.1 only.  Statuses, error codes and compression are those of the SQL endpoint.  Prints its address once it
listens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chdb
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from collector.http.server import bind, server
from collector.metrics import Metrics
from collector.sql.endpoint import failure, is_on, success
from collector.sql.engine import QueryError, QueryResult
from collector.sql.guard import QueryRefusedError, allowed
from collector.sql.wire import decompress, decompress_blocks
from collector.store.client import open_client
from collector.store.settings import StoreSettings

ROOT = Path(__file__).resolve().parent.parent
MEMORY_BYTES = 2**31
MOST_BYTES = 2**31 - 2
"""Of a body once it is decompressed."""
OURS = {"query", "database", "default_format"} | {
    name for name, why in allowed().ignored_settings.items() if why.startswith("they belong to the request")
}
"""Parameters of a request that are no settings of the engine."""
INSERT = re.compile(
    rb"\s*(?P<head>INSERT\s+INTO\s.*?)(?P<settings>\sSETTINGS\s[^\n]*?)?\s+FORMAT\s+(?P<format>\w+)[ \t]*\r?\n?",
    re.DOTALL | re.IGNORECASE,
)
FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*\Z", re.IGNORECASE)


class Server:
    """Answers requests (ASGI)."""

    def __init__(self, directory: Path) -> None:
        self._path = str(directory.resolve())
        self._opened = open_client(StoreSettings(url=f"chdb://{self._path}", memory_bytes=MEMORY_BYTES))
        """Opens the engine with its configuration, and keeps it alive between queries."""
        self._timezone = str(self._opened.command("SELECT timezone()"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ClientDisconnect:
            return
        except (QueryRefusedError, QueryError) as error:
            response = failure(str(error), error.code, request)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        body = await request.body()
        head = request.query_params.get("query", "").encode()
        if request.url.path == "/ping" or not (head or body):
            return PlainTextResponse("Ok.\n")
        return await asyncio.to_thread(self._run, request, head, body)

    def _run(self, request: Request, head: bytes, body: bytes) -> Response:
        """Run one request's statement on a connection of its own.  Raises QueryRefusedError or QueryError."""
        encoding = request.headers.get("content-encoding", "identity")
        if body and encoding != "identity":
            body = decompress(body, encoding, MOST_BYTES)
        if body and is_on(request, "decompress"):
            body = decompress_blocks(body, MOST_BYTES)
        sql = head + b"\n" + body if head and body else head or body
        connection: Any = chdb.connect(self._path)  # type: ignore[no-untyped-call]
        try:
            headers = request.headers
            database = request.query_params.get("database") or headers.get("x-clickhouse-database") or "default"
            connection.query(f"USE `{database}`", "TabSeparated")
            answer = _execute(connection, sql, request.query_params, headers.get("x-clickhouse-format", "TabSeparated"))
        except RuntimeError as error:  # chdb.ChdbError is one
            raise QueryError(str(error)) from error
        finally:
            connection.close()
        response = success(answer, [answer.body], request)
        response.headers["X-ClickHouse-Format"] = answer.format
        response.headers["X-ClickHouse-Summary"] = answer.summary
        response.headers["X-ClickHouse-Timezone"] = self._timezone
        return response


def _execute(connection: Any, sql: bytes, asked: Mapping[str, str], default_format: str) -> QueryResult:
    """Run a statement with the parameters and settings of a request."""
    parameters = {name.removeprefix("param_"): value for name, value in asked.items() if name.startswith("param_")}
    settings = {name: value for name, value in asked.items() if name not in OURS and not name.startswith("param_")}
    insert = INSERT.match(sql)
    if insert is not None:
        return _insert(connection, insert, sql, settings)
    if settings:
        connection.query(f"SET {_assigned(settings)}", "TabSeparated")
    text = sql.decode()
    found = FORMAT.search(text)
    output = found[1] if found else asked.get("default_format") or default_format
    return _result(connection.query(text, output, params=parameters), output)


def _insert(connection: Any, insert: re.Match[bytes], sql: bytes, settings: Mapping[str, str]) -> QueryResult:
    """INSERT … FORMAT with rows behind it: chDB takes rows from a file only."""
    with tempfile.NamedTemporaryFile(suffix=".insert") as file:
        file.write(memoryview(sql)[insert.end() :])
        file.flush()
        clause = (insert["settings"] or b"").decode()
        if settings:
            clause = f"{clause}, {_assigned(settings)}" if clause else f" SETTINGS {_assigned(settings)}"
        text = f"{insert['head'].decode()} FROM INFILE '{file.name}'{clause} FORMAT {insert['format'].decode()}"
        return _result(connection.query(text, "TabSeparated"), "TabSeparated")


def _result(result: Any, output: str) -> QueryResult:
    body = memoryview(result.bytes() if result.size() else b"")
    counts = {
        "read_rows": result.rows_read(),
        "read_bytes": result.bytes_read(),
        "written_rows": result.rows_written(),
        "written_bytes": result.bytes_written(),
        "result_bytes": len(body),
        "elapsed_ns": int(result.elapsed() * 1e9),
    }
    return QueryResult(body, output, json.dumps({name: str(count) for name, count in counts.items()}))


def _assigned(settings: Mapping[str, str]) -> str:
    escaped = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in settings.items()}
    return ", ".join(f"{name} = '{value}'" for name, value in escaped.items())


@contextmanager
def started(directory: Path, before: Sequence[str] = ()) -> Iterator[str]:
    """A server over `directory` in a process of its own; gives its address.  `before` stands before the command."""
    command = [*before, sys.executable, "-m", "tests.clickhouse_server", "--path", str(directory), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), "the server did not start"
        try:
            yield url
        finally:
            process.kill()


async def serve(directory: Path, port: int) -> None:
    """Serve until the process ends."""
    listening, url = bind("127.0.0.1", port)
    app = Server(directory)
    print(url, flush=True)
    await server(app, "server", Metrics()).serve(sockets=[listening])


def main() -> None:
    """Serve a directory."""
    parser = argparse.ArgumentParser(prog="python -m tests.clickhouse_server", description=__doc__)
    parser.add_argument("--path", type=Path, required=True, help="directory of the store")
    parser.add_argument("--port", type=int, default=8123)
    args = parser.parse_args()
    asyncio.run(serve(args.path, args.port))


if __name__ == "__main__":
    main()
