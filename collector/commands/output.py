"""How commands print what they found: `--format`, the same for all of them.

`table` is for people.  `json` is an object per line, `csv` a line of names and then a line per row; both are escaped in
`collector/lines.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv6Address
from typing import Any, NamedTuple, Protocol

from collector.lines import csv_lines, json_text
from collector.terminal import data, table

FORMATS = ("table", "json", "csv")


class Rows(Protocol):
    """Rows as the driver has them."""

    @property
    def column_names(self) -> Sequence[str]:
        """Names of the columns."""

    @property
    def result_rows(self) -> Sequence[Sequence[Any]]:
        """A value per column each."""


class Result(NamedTuple):
    """Rows of our own."""

    column_names: Sequence[str]
    result_rows: Sequence[Sequence[Any]]


def add_format_argument(parser: argparse.ArgumentParser, engine: bool = False) -> None:
    """Declare `--format`; with `engine`, the names of ClickHouse's own formats are taken, too."""
    if engine:
        parser.add_argument(
            "-f", "--format", default="table", metavar="FORMAT",
            help="table (default), json (an object per line), csv, or any ClickHouse format such as Parquet",
        )  # fmt: skip
    else:
        parser.add_argument(
            "-f", "--format", default="table", choices=FORMATS, help="default: table; json is an object per line"
        )


def show(rows: Rows, output: str) -> None:
    """Print rows as `table`, `csv` or `json`."""
    plain = [[_plain(value) for value in row] for row in rows.result_rows]
    if output == "table":
        table(rows.column_names, plain)
    elif output == "csv":
        data(csv_lines([rows.column_names, *plain]).encode())
    else:
        _show_json([dict(zip(rows.column_names, row, strict=True)) for row in plain])


def show_items(items: Sequence[Mapping[str, Any]], output: str, print_table: Callable[[], None]) -> None:
    """Print items that have the same keys; `print_table` prints them for people.  In CSV, what is nested is JSON."""
    if output == "table":
        print_table()
    elif output == "json":
        _show_json(items)
    elif items:
        cells = [[_cell(item[name]) for name in items[0]] for item in items]
        data(csv_lines([list(items[0]), *cells]).encode())


def _show_json(items: Sequence[Mapping[str, Any]]) -> None:
    data("".join(json_text(item) + "\n" for item in items).encode())


def _cell(value: Any) -> Any:
    return json_text(value) if isinstance(value, list | tuple | dict) else value


def _plain(value: Any) -> Any:
    """A value of the driver as JSON and people have it: addresses in their usual form, mapped IPv4 as IPv4."""
    if isinstance(value, IPv6Address):
        return str(value.ipv4_mapped or value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
