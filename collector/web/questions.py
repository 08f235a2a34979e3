"""How a question of the console is asked: SQL of `catalogue` with bound values, answered as columns in the engine's own
JSON.

Python touches no row.  Names of tables and orders are our own constants; whatever a person writes is bound.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, TypeVar

from clickhouse_connect.driver import Client

from collector.store_reader import Bounds
from collector.web.catalogue import MOST_WINDOWS, QUESTIONS
from schemas.figures import FIGURE_LEVELS
from schemas.rollups import LEVELS
from schemas.text import like

BOUNDS = Bounds(seconds=8, rows=10_000)
ANSWER_SECONDS = 12.0
"""Longest wait for the store and for earlier questions."""
AT_ONCE = 2
"""Questions at a time, on as many threads."""
EXACT = 2**53
"""Larger numbers lose digits where JSON is read."""
MOST = {"limit": 1000, "offset": 100_000, "most": 200, "pair": 2**64 - 1}
"""Largest numbers of parameters; of others, what fits into 32 bits."""

_FIGURES = {
    level: {
        "@pairs": f"pair_figures_{level}", "@vms": f"vm_figures_{level}", "@hosts": f"host_figures_{level}",
        "@cloud": f"cloud_figures_{level}", "@named": "1", "@count": "sum(pairs)",
        "@named_pairs": f"pair_figures_{level}", "@windows": f"figure_windows_{level}",
        "@interfaces": f"interface_metrics_{level}", "@sums": f"pair_{level}",
    }
    for level in FIGURE_LEVELS
}  # fmt: skip
TABLES = _FIGURES | {
    "10s": {
        "@pairs": "pair_metrics", "@cloud": "pair_metrics", "@named": "src_vm != '' AND dst_vm != ''",
        "@count": "count()", "@windows": "pair_10s", "@interfaces": "interface_metrics",
        "@sums": "pair_10s",
    },
}  # fmt: skip
"""What stands for `@…` in the SQL, by level."""
_HOLE = re.compile(r"@[a-z_]+")

T = TypeVar("T")


class QuestionError(ValueError):
    """The question cannot be asked like this; the message says why."""


def prepare(name: str, level: str, given: Mapping[str, str], closed: int) -> tuple[str, dict[str, Any]]:
    """Return SQL and its values.  `closed` is the end of the last window of this level that has closed, in seconds
    since 1970.  Raises QuestionError."""
    question = QUESTIONS.get(name)
    if question is None:
        raise QuestionError(f"question {name[:50]!r}: one of {', '.join(QUESTIONS)} is expected")
    if level not in LEVELS:
        raise QuestionError(f"level = {level[:20]!r}: one of {', '.join(LEVELS)} is expected")
    choices = {key for key, of in (("sort", question.sorts), ("down", question.sorts), ("only", question.only)) if of}
    if strange := sorted(set(given) - set(question.takes) - choices):
        raise QuestionError(f"{strange[0][:50]!r} is no parameter of {name}")
    values = {
        key: _value(key, given.get(key, ""), default, key in question.patterns)
        for key, default in question.takes.items()
    }
    if name == "newest":
        values["closed"] = closed - LEVELS[level]
    if "until" in values and not 0 <= values["until"] - values["from"] <= MOST_WINDOWS * LEVELS[level]:
        raise QuestionError(f"from … until: at most {MOST_WINDOWS} windows of {level} are expected")
    holes = dict(TABLES[level])
    sql = question.sql
    if question.one:
        name_of_it, known, newest = question.one
        sql = sql.replace("@one", known if values[name_of_it] else newest)
    if question.sorts:
        columns = _choice("sort", given.get("sort", ""), question.sorts)
        way = "DESC" if given.get("down", "1") == "1" else "ASC"
        columns = (columns,) if isinstance(columns, str) else columns
        holes["@order"] = ", ".join(one if one.endswith("DESC") else f"{one} {way}" for one in columns)
    if question.only:
        holes["@only"] = _choice("only", given.get("only", ""), question.only)
    if missing := next((hole for hole in _HOLE.findall(sql) if hole not in holes), ""):
        raise QuestionError(
            f"level = {level!r}: {missing[1:].replace('_', ' ')} have figures of {' and '.join(FIGURE_LEVELS)} only"
        )
    return _HOLE.sub(lambda hole: holes[hole[0]], sql), values


def _choice(name: str, chosen: str, of: Mapping[str, T]) -> T:
    """Return the SQL of a choice by its name; the first is the default.  Raises QuestionError."""
    chosen = chosen or next(iter(of))
    if chosen not in of:
        raise QuestionError(f"{name}: one of {', '.join(of)} is expected")
    return of[chosen]


def _value(name: str, text: str, default: Any, pattern: bool) -> Any:
    """Return a parameter as its default's type, a pattern as LIKE takes it.  Raises QuestionError."""
    if isinstance(default, str):
        if len(text) > 300 or "\0" in text:
            raise QuestionError(f"{name}: at most 300 characters are expected")
        return like(text) if pattern and text else text
    if not text:
        return default
    most = MOST.get(name, 2**32 - 1)
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= most):
        raise QuestionError(f"{name} = {text[:20]!r}: a number from 0 to {most} is expected")
    return int(text)


def ask(client: Client, sql: str, values: Mapping[str, Any]) -> tuple[bytes, float]:
    """Return the answer as the engine writes it, and its seconds.  Blocks; raises the driver's errors."""
    begun = time.monotonic()
    settings = BOUNDS.settings() | {"output_format_json_quote_64bit_integers": 0}
    text = client.raw_query(sql, parameters=dict(values), settings=settings, fmt="JSONColumns")
    return text, time.monotonic() - begun
