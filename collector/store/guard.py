"""Which SQL the endpoint may pass on to the engine.

`readonly = 1` refuses writes and changes of settings, but (tried with chDB 4.4) still lets through the function
`file('/etc/passwd')`, `INTO OUTFILE '/path'`, DESCRIBE of a table function (which asks the URL or opens the file), the
`python` table function, KILL, several statements at once, SETTINGS of a subquery (which lift the limits), and tables
that show the queries of others.  This guard refuses those before the engine sees them.

It reads tokens, not grammar, so it errs on the safe side: what the engine's lexer might read differently (characters
beyond ASCII outside of literals, `//`, `#`, `$`) is refused, and so is a name that looks like a forbidden call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

STATEMENTS = frozenset({"SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "("})

HARMLESS_TABLE_FUNCTIONS = frozenset(
    {
        "format", "generaterandom", "generateseries", "generate_series", "null", "numbers", "numbers_mt",
        "primes", "sqlstandardvalues", "values", "view", "zeros", "zeros_mt",
    }
)  # fmt: skip
"""Table functions that reach nothing but our own tables and the query's own text.  Not `merge`: it finds tables by
pattern, those of `system`, too."""

SYSTEM_TABLES = frozenset(
    {
        "aggregate_function_combinators", "build_options", "collations", "columns", "completions", "contributors",
        "data_skipping_indices", "data_type_families", "databases", "documentation", "formats", "functions", "keywords",
        "licenses", "merge_tree_settings", "numbers", "numbers_mt", "one", "parts", "parts_columns", "projections",
        "settings", "table_engines", "table_functions", "tables", "time_zones", "zeros", "zeros_mt",
    }
)  # fmt: skip
"""Tables of `system` that clients need or that tell about our own tables.  The others show queries of other people, or
paths, threads and configuration of the machine."""

SYSTEM = "system"

CHDB_FORMATS = frozenset({"dataframe", "arrowtable", "debug"})
"""Names that the Python binding takes for itself: its answer then is no text."""

FORBIDDEN_NAMES = frozenset({"file", "python", "eval"})
"""Refused even without a parenthesis: a function may be handed to another by its name, `arrayMap(file, …)`."""

FORBIDDEN_CALLS = re.compile(
    r"ai[a-z]+|getclienthttpheader|evalmlmethod|sleep(eachrow)?|trap|addressto\w+|filesystem\w+|catboost\w+"
    r"|getserversetting|getmacro|showcertificate|reversednsquery"
)
"""Functions that ask other services, hold a thread, or tell about the machine."""

_TOKEN = re.compile(
    r"""
      (?P<space> [ \t\r\n\f\v]+ | --[^\n]* | /\*.*?\*/ )
    | (?P<string> '(?: [^'\\] | \\. | '' )*' )
    | (?P<quoted> `(?: [^`\\] | `` )*` | "(?: [^"\\] | "" )*" )
    | (?P<word> [A-Za-z_][A-Za-z0-9_]* )
    | (?P<number> [0-9][A-Za-z0-9_.]* )
    | (?P<sign> [][(){}<>=!+*/%,.:;?@|^&~-] )
    """,
    re.VERBOSE | re.DOTALL,
)


class RefusedError(Exception):
    """The endpoint does not run this SQL.  `code` is ClickHouse's error code."""

    def __init__(self, message: str, code: int = 164, name: str = "READONLY") -> None:
        super().__init__(f"Code: {code}. DB::Exception: {message}. ({name})")
        self.code = code


class EngineNames(NamedTuple):
    """What the engine itself has, in lower case."""

    table_functions: frozenset[str]
    system_tables: frozenset[str]
    """Tables of database `system`."""


def _tokens(sql: str) -> Iterator[tuple[str, str]]:
    """Kind and text of each token; names come without their quotes.  Raises RefusedError for unclear characters."""
    position = 0
    while position < len(sql):
        match = _TOKEN.match(sql, position)
        if match is None or (match[0] in ("/", "-") and sql.startswith(match[0] * 2, position)):
            text = sql[position : position + 20]
            raise RefusedError(f"Syntax error: not understood at position {position + 1}: {text!r}", 62, "SYNTAX_ERROR")
        position = match.end()
        kind = str(match.lastgroup)
        if kind == "quoted":
            yield "name", match[0][1:-1]
        elif kind == "word":
            yield "name", match[0]
        elif kind != "space":
            yield kind, match[0]


def check(sql: str, names: EngineNames, database: str = "", parameters: Iterable[str] = ()) -> str | None:
    """Raise RefusedError unless `sql` is one statement that only reads; return its FORMAT, if it names one.

    `database` is the one in which bare names are looked up, `parameters` are the values of the query's parameters.
    """
    tokens = list(_tokens(sql))
    while tokens and tokens[-1][1] == ";":
        tokens.pop()
    if not tokens:
        raise RefusedError("Syntax error: empty query", 62, "SYNTAX_ERROR")
    _check_statement(tokens)
    forbidden = names.table_functions - HARMLESS_TABLE_FUNCTIONS
    padded = [*tokens, ("end", ""), ("end", "")]
    for at, (kind, text) in enumerate(tokens):
        after, second = padded[at + 1][1], padded[at + 2][1]
        if text == ";":
            raise RefusedError("Only one statement at a time", 62, "SYNTAX_ERROR")
        if text == "}" and after == "(":
            raise RefusedError("A function's name cannot be a parameter")
        if kind == "name":
            _check_name(text.lower(), after, second, forbidden)
    used = {text.lower() for kind, text in tokens if kind == "name"} | {database.lower()}
    if "identifier" in used:
        used |= {word for value in parameters for word in re.findall(r"\w+", value.lower())}
    _check_system(used, names)
    if len(tokens) > 2 and tokens[-2][1].upper() == "FORMAT" and tokens[-1][0] == "name":
        return check_format(tokens[-1][1])
    return None


def check_format(name: str) -> str:
    """Return the format's name.  Raises RefusedError for those that the Python binding keeps for itself."""
    if name.lower() in CHDB_FORMATS:
        raise RefusedError(f"Unknown format {name}", 73, "UNKNOWN_FORMAT")
    return name


def _check_statement(tokens: list[tuple[str, str]]) -> None:
    first = tokens[0][1].upper()
    if first not in STATEMENTS:
        raise RefusedError(f"This endpoint only reads: {tokens[0][1][:40]!r} is refused")
    if first == "SHOW" and any(text.upper() == "PROCESSLIST" for _, text in tokens[1:3]):
        raise RefusedError("Queries of others are not shown", 497, "ACCESS_DENIED")


def _check_name(name: str, after: str, second: str, forbidden: frozenset[str]) -> None:
    """Raise RefusedError for a name that reaches further than the tables; `after` and `second` are the next tokens."""
    if name in FORBIDDEN_NAMES or (after == "(" and (name in forbidden or FORBIDDEN_CALLS.fullmatch(name))):
        raise RefusedError(f"Function {name!r} is refused by this endpoint", 497, "ACCESS_DENIED")
    if name in ("into", "from") and after.lower() in ("outfile", "infile"):
        raise RefusedError("This endpoint neither reads nor writes files", 497, "ACCESS_DENIED")
    if name == "settings" and second == "=":
        # readonly = 1 refuses them at the end of a query only, not in a subquery (tried with chDB 4.4).
        raise RefusedError(f"Cannot modify {after!r} setting in readonly mode: settings are parameters of the request")


def _check_system(used: set[str], names: EngineNames) -> None:
    """Raise RefusedError if a query that names `system` also names one of its tables that is not shown."""
    if SYSTEM not in used:
        return
    logs = {name for name in used if name.endswith("_log")}
    for name in sorted(used & names.system_tables - SYSTEM_TABLES | logs):
        raise RefusedError(f"Table system.{name[:60]} is not shown by this endpoint", 497, "ACCESS_DENIED")
