"""Error messages of ClickHouse and its driver in one line: for people, logs and the API."""

from __future__ import annotations

import re

from clickhouse_connect.driver import exceptions as driver

LINE_CHARACTERS = 500
"""Characters of an error's message: some of ClickHouse's repeat a whole statement, and the text of its views."""
_SAID = re.compile(r"Code: \d+\. DB::\w*Exception: (.*)", re.DOTALL)
_STATUS = re.compile(r"HTTP driver received (HTTP status \d+)")
_AROUND = re.compile(r"\s*\((?:version \d|for url )")
"""How ClickHouse's own message begins and ends within the driver's."""


def first_line(error: BaseException) -> str:
    """Return an error's message in one line, without what driver and server add, statements and stack traces."""
    text = str(error).strip()
    if said := _SAID.search(text):
        text = said[1]
    elif status := _STATUS.match(text):
        text = status[1]
    elif isinstance(error, driver.OperationalError) and error.__cause__ is not None:
        text = f"no answer: {_innermost(error)}"
    line = text.strip().split("\n")[0]
    return _AROUND.split(line)[0].strip()[:LINE_CHARACTERS]


def _innermost(error: BaseException) -> str:
    """Return the system's message, beneath the libraries that pass it on; else the end of the innermost error's
    text."""
    while (below := getattr(error, "reason", None) or error.__cause__) is not None and isinstance(below, BaseException):
        error = below
    return getattr(error, "strerror", None) or str(error).rsplit(": ", 1)[-1]
