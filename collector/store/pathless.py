"""Rewrites a statement that asks for all columns of a table of `system` which has paths of the machine.

`guard` refuses `SELECT * FROM system.tables`.  DBeaver and people ask just that: the table is replaced by a SELECT of
its other columns, and what comes of it is checked like any other statement: nothing here has to be right for the
paths to stay hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from collector.store.guard import SYSTEM, Token, spans

BEFORE = frozenset({"FROM", "JOIN", ","})
"""Behind these, `system.tables` is a table and not the beginning of a column's name."""
NO_ALIAS = frozenset({
    "ALL", "ANTI", "ANY", "ARRAY", "ASOF", "CROSS", "EXCEPT", "FETCH", "FINAL", "FORMAT", "FULL", "GLOBAL", "GROUP",
    "HAVING", "INNER", "INTERSECT", "INTO", "JOIN", "LEFT", "LIMIT", "NATURAL", "OFFSET", "ON", "ORDER", "PASTE",
    "PREWHERE", "QUALIFY", "RIGHT", "SAMPLE", "SEMI", "SETTINGS", "UNION", "USING", "WHERE", "WINDOW",
})  # fmt: skip
"""A word behind a table that is no alias of it."""


def without_paths(sql: str, columns: Mapping[str, Sequence[str]]) -> str:
    """`sql` with a SELECT of `columns` in place of each table of `system` that stands there with its full name.

    Raises RefusedError for unclear characters.
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
