"""What ClickHouse and its driver say when something fails, in one line: for people, logs and the API."""

from __future__ import annotations

import re

from clickhouse_connect.driver import exceptions as driver

LINE_CHARACTERS = 500
"""Of what an error says: some of ClickHouse's repeat a whole statement, and the text of its views."""
_SAID = re.compile(r"Code: \d+\. DB::\w*Exception: (.*)", re.DOTALL)
_STATUS = re.compile(r"HTTP driver received (HTTP status \d+)")
_AROUND = re.compile(r"\s*\((?:version \d|for url )")
"""How ClickHouse's own words begin and end within those of the driver."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line: without what driver and server put around it, statements and stack traces."""
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
    """What the system says, below the libraries that pass it on; the last words of one that has no words of its own."""
    while (below := getattr(error, "reason", None) or error.__cause__) is not None and isinstance(below, BaseException):
        error = below
    return getattr(error, "strerror", None) or str(error).rsplit(": ", 1)[-1]
