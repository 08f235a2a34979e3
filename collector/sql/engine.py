"""Run one request's SQL on the embedded engine, for the HTTP endpoint.  All calls block.

Each query gets a connection of its own (0.3 ms): limits and settings are set first, `readonly = 1` last, and nothing of
it remains for the next one.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, cast

import numpy as np

from collector.sql.guard import (
    PATH_COLUMNS,
    PATH_TABLES,
    SYSTEM,
    EngineNames,
    PathsError,
    QueryRefusedError,
    Statement,
    Token,
    allowed,
    check_format,
    check_reads,
    check_setting,
    spans,
)
from collector.store.client import open_client
from collector.store.roles import READER, ceilings
from collector.store.settings import SqlSettings, StoreSettings
from collector.threads import step_aside

BEFORE = frozenset({"FROM", "JOIN", ","})
"""After these, `system.tables` is a table and not the beginning of a column's name."""
NO_ALIAS = frozenset({
    "ALL", "ANTI", "ANY", "ARRAY", "ASOF", "CROSS", "EXCEPT", "FETCH", "FINAL", "FORMAT", "FULL", "GLOBAL", "GROUP",
    "HAVING", "INNER", "INTERSECT", "INTO", "JOIN", "LEFT", "LIMIT", "NATURAL", "OFFSET", "ON", "ORDER", "PASTE",
    "PREWHERE", "QUALIFY", "RIGHT", "SAMPLE", "SEMI", "SETTINGS", "UNION", "USING", "WHERE", "WINDOW",
})  # fmt: skip
"""Words after a table that are not its alias."""


def without_paths(sql: str, columns: Mapping[str, Sequence[str]]) -> str:
    """Return `sql` with a SELECT of `columns` in place of each table of `system` given by its full name.

    `guard` refuses `SELECT * FROM system.tables`, which has paths of the machine.  DBeaver and people send just that,
    so the table is replaced by a SELECT of its other columns.  The result is checked like any other statement: hiding
    the paths does not depend on this code.

    Raises QueryRefusedError for unclear characters.
    """
    found = list(spans(sql))
    padded = [Token("sign", ""), *(token for token, _, _ in found), *[Token("sign", "")] * 4]
    out, copied = [], 0
    for at in range(len(found) - 2):
        before, database, dot, table, after = padded[at : at + 5]
        is_table = before.text.upper() in BEFORE and database == Token("name", SYSTEM) and dot.text == "."
        if not is_table or table.text not in columns or after.text in (".", "("):
            continue
        names = ", ".join(f"`{name}`" for name in columns[table.text])
        named = after.kind == "name" and after.text.upper() not in NO_ALIAS
        alias = "" if named else f" AS {table.text}"
        instead = f"(SELECT {names} FROM {SYSTEM}.{table.text}){alias}"  # noqa: S608 - checked before it runs
        out += [sql[copied : found[at][1]], instead]
        copied = found[at + 2][2]
    return "".join([*out, sql[copied:]])


LIMITS = frozenset(
    {"max_execution_time", "max_result_rows", "max_result_bytes", "max_memory_usage", "max_threads", "max_block_size"}
)
"""Settings a reader may lower."""

MARK = "log_comment"
"""Setting that identifies a query: with chDB, a query_id cannot be chosen.  A reader's value is ignored."""

_CODE = re.compile(r"Code: (\d+)\.")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EXPLAIN = "EXPLAIN AST "
_POSITION = re.compile(r"(failed at position |\(line 1, col )(\d+)")
"""The position where the engine's parser stopped."""


class QueryError(Exception):
    """The engine's answer to a query that it does not run.  `code` is ClickHouse's error code."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        found = _CODE.search(message)
        self.code = int(found[1]) if found else 1002


@dataclass(frozen=True)
class Query:
    """One request: SQL and its parameters."""

    sql: bytes
    database: str
    default_format: str
    parameters: Mapping[str, str]
    settings: Mapping[str, str]


@dataclass(frozen=True)
class QueryResult:
    """A result in its format, and the counts for the summary header."""

    body: memoryview
    format: str
    summary: str


class Engine:
    """The embedded engine as the endpoint uses it: for reading."""

    def __init__(self, directory: Path, store: StoreSettings, limits: SqlSettings | None = None) -> None:
        import chdb  # noqa: PLC0415 - an extra: only the embedded store needs it

        self._connect = cast("Callable[[str], Any]", chdb.connect)
        self._path = str(directory.resolve())
        self._limits = ceilings(limits or SqlSettings())
        self._opened = open_client(store)
        """Opens the engine with its configuration, independently of other stages."""
        self._hold = self._connect(self._path)
        """Keeps the engine alive between queries."""
        self._hold.query(f"USE {_identifier(store.database)}", "TabSeparated")
        self._names = EngineNames(
            # Not from system.functions: after a query of it, the engine keeps every library of the process open.
            self._rows("SELECT word FROM system.completions WHERE context = 'function'"),
            self._rows("SELECT name FROM system.aggregate_function_combinators"),
            store.database,
            self._rows("SELECT arrayJoin([table, name]) FROM system.columns WHERE database = currentDatabase()"),
            self._rows("SELECT name FROM system.tables WHERE database = currentDatabase() AND engine != 'View'"),
            self._rows("SELECT name FROM system.tables WHERE database = currentDatabase() AND engine = 'View'"),
        )
        self._pathless: dict[str, list[str]] = defaultdict(list)
        """Harmless columns of the tables of `system` that also have columns with paths of the machine."""
        for line in self._rows(
            "SELECT table, name FROM system.columns WHERE database = 'system' ORDER BY table, position"
        ):
            table, _, column = line.partition("\t")
            if table in PATH_TABLES and column not in PATH_COLUMNS:
                self._pathless[table].append(column)
        self.timezone = self._hold.query("SELECT timezone()", "TabSeparated").bytes().decode().strip()

    def _rows(self, sql: str) -> list[str]:
        return cast("str", self._hold.query(sql, "TabSeparatedRaw").bytes().decode()).splitlines()

    def close(self) -> None:
        """Release the engine."""
        self._hold.close()
        self._opened.close()

    def cancel(self, mark: str) -> None:
        """Ask the engine to end the queries that run with this mark; it does so between two blocks of rows.

        One that has not begun yet is not found: call again.  Raises RuntimeError.
        """
        connection = self._connect(self._path)
        try:
            connection.query(f"KILL QUERY WHERE Settings['{MARK}'] = {_literal(mark)} ASYNC", "TabSeparated")
        finally:
            connection.close()

    def put_aside(self, mark: str) -> list[int]:
        """Make the system prefer all other threads to those of the queries with this mark, if this can be undone.

        Returns the numbers of these threads, for `lower_priority` once the queries have ended.  Raises RuntimeError.
        """
        connection = self._connect(self._path)
        try:
            sql = "SELECT arrayJoin(thread_ids) FROM system.processes WHERE Settings[{name:String}] = {mark:String}"
            found = connection.query(sql, "TabSeparated", params={"name": MARK, "mark": mark})
            numbers = found.bytes().decode().split() if found.size() else []
        finally:
            connection.close()
        return [int(number) for number in numbers if step_aside(int(number))]

    def run(self, query: Query, mark: str = "") -> QueryResult:
        """Run one query, with a mark to `cancel` it by.  Raises QueryRefusedError or QueryError."""
        check_reads(query.sql)
        chosen = self._chosen(query.settings)
        try:
            sql = query.sql.decode()
        except UnicodeDecodeError as error:
            raise QueryRefusedError("The query is not UTF-8", 62, "SYNTAX_ERROR") from error
        statement = Statement(sql, self._names, query.database, query.parameters)
        output = statement.format or check_format(query.default_format)
        return self._execute(query, statement, sql, output, chosen, mark)

    def _chosen(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Return the request's effective settings.  Raises QueryRefusedError for those that a reader may not choose."""
        chosen = {}
        for name, value in settings.items():
            if name in allowed().ignored_settings:
                continue
            if not _NAME.fullmatch(name):
                raise QueryRefusedError(f"Unknown setting {name[:60]!r}", 115, "UNKNOWN_SETTING")
            if name in LIMITS:
                chosen[name] = self._lower(name, value)
                continue
            check_setting(name, value)
            chosen[name] = value
        return chosen

    def _lower(self, name: str, value: str) -> str:
        """Return a reader's limit, between 1 and the endpoint's; 0, which in ClickHouse means no limit, means the
        endpoint's."""
        ceiling = self._limits[name]
        try:
            asked = Decimal(value.strip())
        except InvalidOperation as error:
            raise QueryRefusedError(
                f"Setting {name} is a number, not {value[:40]!r}", 72, "CANNOT_PARSE_NUMBER"
            ) from error
        if not asked.is_finite() or asked <= 0 or asked >= ceiling:
            return str(ceiling)
        return str(max(1, int(asked)))

    def _execute(
        self, query: Query, statement: Statement, sql: str, output: str, chosen: Mapping[str, str], mark: str
    ) -> QueryResult:
        """Run `sql` on its own connection, a reader's, once `statement` is checked."""
        connection = self._connect(self._path)
        try:
            connection.query(f"SET {MARK} = {_literal(mark)}", "TabSeparated")
            if query.database:
                connection.query(f"USE {_identifier(query.database)}", "TabSeparated")
            for what in (f"ROLE {READER}", f"profile = '{READER}'"):
                connection.query(f"SET {what}", "TabSeparated")
            # Before the request's own limits, which are not meant for this answer.
            sql = self._checked(connection, sql, query, statement)
            limits = {name: str(value) for name, value in self._limits.items()}
            values = {**limits, "allow_introspection_functions": "0", **chosen, "readonly": "1"}
            sets = ", ".join(f"{name} = {_literal(value)}" for name, value in values.items())
            connection.query(f"SET {sets}", "TabSeparated")
            result = connection.query(sql, output, params=dict(query.parameters))
            body = _bytes(result)
            summary = {
                "read_rows": result.rows_read(),
                "read_bytes": result.bytes_read(),
                "result_bytes": len(body),
                "elapsed_ns": int(result.elapsed() * 1e9),
            }
            return QueryResult(body, output, json.dumps({key: str(value) for key, value in summary.items()}))
        except RuntimeError as error:  # chdb.ChdbError is one
            raise QueryError(str(error)) from error
        finally:
            connection.close()

    def _checked(self, connection: Any, sql: str, query: Query, statement: Statement) -> str:
        """Return what to run for a statement: itself, or one without the paths of the machine that `*` would show.

        Either has been checked.  Raises QueryRefusedError or QueryError.
        """
        try:
            statement.check_tree(_tree(connection, sql, query.parameters))
        except PathsError:
            sql = without_paths(sql, self._pathless)
            statement = Statement(sql, self._names, query.database, query.parameters)
            statement.check_tree(_tree(connection, sql, query.parameters))
        return sql


def _tree(connection: Any, sql: str, parameters: Mapping[str, str]) -> list[str]:
    """Return the engine's syntax tree of a statement, one node per line.  Raises QueryError if there is none."""
    try:
        result = connection.query(_EXPLAIN + sql, "TabSeparatedRaw", params=dict(parameters))
    except RuntimeError as error:
        raise QueryError(_POSITION.sub(lambda at: f"{at[1]}{int(at[2]) - len(_EXPLAIN)}", str(error))) from error
    return bytes(_bytes(result)).decode(errors="replace").rstrip("\n").split("\n")


def _bytes(result: Any) -> memoryview:
    """Return a result's octets, copied while other threads run; its own `bytes()` stops them for a second per
    gigabyte."""
    if not result.size():
        return memoryview(b"")
    copied: memoryview = np.frombuffer(result.get_memview().view(), np.uint8).copy().data
    return copied


def _identifier(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise QueryRefusedError(f"Database {name[:60]!r} does not exist", 81, "UNKNOWN_DATABASE")
    return f"`{name}`"


def _literal(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
