"""The only output of JSON and CSV: lines that a program reads correctly and that are safe to open."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from schemas.text import HOSTILE, visible

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_FORMULA = re.compile(r"(^|;)(\s*)(?=[=+\-@＝＋－＠])")
"""Where a spreadsheet may see a formula begin: in a cell, or after a semicolon, which separates cells in half of
Europe."""


def json_text(value: Any, *, indent: int | None = None, compact: bool = False) -> str:
    """Return `value` as JSON, in one line unless `indent` says otherwise.

    Characters that control a terminal or mislead the eye are escaped as in JSON, so nothing is lost.  Halves of
    surrogate pairs become U+FFFD, and numbers that JSON lacks become null: readers refuse both.
    """
    separators = (",", ":") if compact else None
    try:
        text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, indent=indent, separators=separators)
    if text.isascii() and text.isprintable():
        return text
    return "\n".join(HOSTILE.sub(_json_escape, line) for line in text.split("\n"))


def csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV, one line each.

    Numbers are written as they are.  A text is made visible (`schemas.text`), and if a spreadsheet would take it for a
    formula, it gets an apostrophe in front, which marks text in spreadsheets.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_cell(cell) for cell in row] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    text = visible(str(value))
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub(r"\1\2'", text)


def _json_escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xD800 <= code < 0xE000:
        return "\\ufffd"
    if code < 0x1_0000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x1_0000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
