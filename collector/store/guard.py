"""Which SQL the endpoint may pass on to the engine.

`readonly = 1` refuses writes and changes of settings, but (tried with chDB 4.4) still lets through the function
`file('/etc/passwd')`, `INTO OUTFILE '/path'`, DESCRIBE of a table function (which asks the URL or opens the file), the
`python` table function, KILL, and several statements at once.  This guard refuses those before the engine sees them.

It reads tokens, not grammar, so it errs on the safe side: what the engine's lexer might read differently (characters
beyond ASCII outside of literals, `//`, `#`, `$`) is refused, and so is a name that looks like a forbidden call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

STATEMENTS = frozenset({"SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "("})

HARMLESS_TABLE_FUNCTIONS = frozenset(
    {
        "format", "generaterandom", "generateseries", "generate_series", "merge", "null", "numbers", "numbers_mt",
        "primes", "sqlstandardvalues", "values", "view", "zeros", "zeros_mt",
    }
)  # fmt: skip
"""Table functions that reach nothing but our own tables and the query's own text."""

FORBIDDEN_NAMES = frozenset({"file", "python", "eval"})
"""Refused even without a parenthesis: a function may be handed to another by its name, `arrayMap(file, …)`."""

FORBIDDEN_CALLS = re.compile(
    r"ai[a-z]+|getclienthttpheader|evalmlmethod|sleep(eachrow)?|trap|addressto\w+|filesystem\w+"
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


def check(sql: str, table_functions: frozenset[str]) -> str | None:
    """Raise RefusedError unless `sql` is one statement that only reads; return its FORMAT, if it names one.

    `table_functions` are the engine's own, in lower case.
    """
    tokens = list(_tokens(sql))
    while tokens and tokens[-1][1] == ";":
        tokens.pop()
    if not tokens:
        raise RefusedError("Syntax error: empty query", 62, "SYNTAX_ERROR")
    if tokens[0][1].upper() not in STATEMENTS:
        raise RefusedError(f"This endpoint only reads: {tokens[0][1][:40]!r} is refused")
    forbidden = table_functions - HARMLESS_TABLE_FUNCTIONS
    following = [*tokens[1:], ("end", "")]
    for (kind, text), (_, after) in zip(tokens, following, strict=True):
        name = text.lower()
        if text == ";":
            raise RefusedError("Only one statement at a time", 62, "SYNTAX_ERROR")
        if text == "}" and after == "(":
            raise RefusedError("A function's name cannot be a parameter")
        if kind != "name":
            continue
        if name in FORBIDDEN_NAMES or (after == "(" and (name in forbidden or FORBIDDEN_CALLS.fullmatch(name))):
            raise RefusedError(f"Function {text!r} is refused by this endpoint", 497, "ACCESS_DENIED")
        if name in ("into", "from") and after.lower() in ("outfile", "infile"):
            raise RefusedError("This endpoint neither reads nor writes files", 497, "ACCESS_DENIED")
    if len(tokens) > 2 and tokens[-2][1].upper() == "FORMAT" and tokens[-1][0] == "name":
        return tokens[-1][1]
    return None
