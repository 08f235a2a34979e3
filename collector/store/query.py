"""`vmflow query`: SQL to the running service over HTTP, or to the store itself if no service runs."""

from __future__ import annotations

import argparse
import socket
import sys
from ipaddress import IPv6Address
from typing import Any

from clickhouse_connect.driver import Client
from clickhouse_connect.driver import exceptions as driver

from collector.access.settings import AccessSettings
from collector.commands.common import add_settings_arguments, settings_or_none
from collector.lines import csv_lines, json_text
from collector.store.client import first_line, open_client
from collector.store.errors import StoreError
from collector.store.settings import StoreSettings
from collector.terminal import complain, data, table

FORMATS = {"csv": "CSVWithNames", "json": "JSONEachRow"}
"""Our names for ClickHouse formats; any other format's own name is taken, too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_settings_arguments(parser)
    parser.add_argument("sql", help="the query, or - to read it from standard input")
    parser.add_argument(
        "-f", "--format", default="table", help="table (default), json, csv, or any ClickHouse format such as Parquet"
    )


def run(args: argparse.Namespace) -> int:
    """Ask and print.  Exit code 1 if the query fails or the store cannot be reached."""
    settings = settings_or_none(args)
    if settings is None:
        return 2
    sql = sys.stdin.read() if args.sql == "-" else args.sql
    try:
        client = connect(settings.store, settings.access)
        try:
            ask(client, sql, args.format)
        finally:
            client.close()
    except StoreError as error:
        complain(args.command, str(error))
        return 1
    except driver.Error as error:
        complain(args.command, first_line(error))
        return 1
    return 0


def connect(settings: StoreSettings, access: AccessSettings) -> Client:
    """The running service if one answers, else the store itself; with our database selected.

    Raises StoreError, among others for an embedded store that does not exist yet.
    """
    directory = settings.directory
    if directory is not None and settings.sql_enabled and _listens(settings.sql_host, settings.sql_port):
        host = f"[{settings.sql_host}]" if ":" in settings.sql_host else settings.sql_host
        secure = access.certificate_file is not None
        service = settings.model_copy(
            update={
                "url": f"{'https' if secure else 'http'}://{host}:{settings.sql_port}",
                "user": "",
                "password": access.client_token,
                "ca_file": str(access.ca_file or ""),
            }
        )
        return _with_database(open_client(service), settings)
    if directory is not None and not (directory / "metadata").exists() and not (directory / "store").exists():
        raise StoreError(
            f"no service answers on {settings.sql_host}:{settings.sql_port}, and there is no store in {directory}: "
            "start `vmflow run`, or name the store with --set store.url=…"
        )
    return _with_database(open_client(settings), settings)


def _with_database(client: Client, settings: StoreSettings) -> Client:
    client.database = settings.database
    return client


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def ask(client: Client, sql: str, output: str) -> None:
    """Run `sql` and print the result in format `output` on standard output.

    `table` and `csv` and `json` print addresses in their usual form, `10.0.0.1` for a mapped IPv4 address.
    """
    if output == "table" or output in FORMATS:
        show(client.query(sql.strip().rstrip(";")), output)
    else:
        data(client.raw_query(sql.strip().rstrip(";"), fmt=output))


def show(answer: Any, output: str) -> None:
    """Print an answer (anything with `column_names` and `result_rows`) as `table`, `csv` or `json`."""
    rows = [[_plain(value) for value in row] for row in answer.result_rows]
    if output == "table":
        table(answer.column_names, rows)
    elif output == "csv":
        data(csv_lines([answer.column_names, *rows]).encode())
    else:
        items = (dict(zip(answer.column_names, row, strict=True)) for row in rows)
        data("".join(json_text(item) + "\n" for item in items).encode())


def _plain(value: Any) -> Any:
    if isinstance(value, IPv6Address):
        return str(value.ipv4_mapped or value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
