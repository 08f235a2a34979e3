"""`vmflow query`: send SQL to the running service over HTTP, or to the store itself if no service runs."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from clickhouse_connect.driver import Client
from clickhouse_connect.driver import exceptions as driver
from urllib3.exceptions import HTTPError

from collector.commands.common import add_settings_arguments, load_settings
from collector.commands.output import FORMATS, Rows, add_format_argument, show
from collector.http.settings import AccessSettings
from collector.settings import Settings
from collector.store.client import open_client
from collector.store.errors import StoreError
from collector.store.settings import SqlSettings, StoreSettings
from collector.store_errors import first_line
from collector.store_reader import Bounds
from collector.terminal import CommandError, data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_settings_arguments(parser)
    parser.add_argument("sql", help="the query, or - to read it from standard input")
    add_format_argument(parser, engine=True)


def run(args: argparse.Namespace) -> int:
    """Ask and print.  Exit code 1 if the query fails or the store cannot be reached."""
    settings = load_settings(args)
    sql = sys.stdin.read() if args.sql == "-" else args.sql
    with asking(settings) as client:
        ask(client, sql, args.format)
    return 0


@contextmanager
def asking(settings: Settings, *, open_store: bool = True) -> Iterator[Client]:
    """A client as `connect` opens it, closed in the end.  All that goes wrong is a CommandError of one line."""
    try:
        client = connect(settings.store, settings.sql, settings.access, open_store=open_store)
        try:
            yield client
        finally:
            client.close()
    except StoreError as error:
        raise CommandError(str(error)) from error
    except (driver.Error, HTTPError) as error:
        # HTTPError: the connection broke during an answer; the driver passes it on unchanged.
        raise CommandError(first_line(error)) from error


def connect(settings: StoreSettings, sql: SqlSettings, access: AccessSettings, *, open_store: bool = True) -> Client:
    """The running service if one answers, else the store itself; with the service's database selected.

    Without `open_store` an embedded store is left alone: a service that starts meanwhile would find it taken.

    Raises StoreError, among others for an embedded store that does not exist yet.
    """
    directory = settings.directory
    if directory is not None and sql.enabled and _listens(sql.host, sql.port):
        host = f"[{sql.host}]" if ":" in sql.host else sql.host
        secure = access.certificate_file is not None
        service = settings.model_copy(
            update={
                "url": f"{'https' if secure else 'http'}://{host}:{sql.port}",
                "user": "",
                "password": access.client_token,
                "ca_file": str(access.ca_file or ""),
            }
        )
        return _with_database(_trusting(open_client(service)), settings)
    if directory is not None and not open_store:
        raise StoreError(f"no service answers on {sql.host}:{sql.port}: start `vmflow run`")
    if directory is not None and not (directory / "metadata").exists() and not (directory / "store").exists():
        raise StoreError(
            f"no service answers on {sql.host}:{sql.port}, and there is no store in {directory}: "
            "start `vmflow run`, or name the store with --set store.url=…"
        )
    return _with_database(open_client(settings), settings)


def _trusting(client: Client) -> Client:
    """Let the service itself judge the settings of a query.

    Its sessions are readonly, for which the driver refuses to send any; yet it takes lower limits, and settings of how
    an answer looks.
    """
    client.server_settings = {name: one._replace(readonly=0) for name, one in client.server_settings.items()}
    return client


def _with_database(client: Client, settings: StoreSettings) -> Client:
    client.database = settings.database
    return client


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def ask(client: Client, sql: str, output: str, bounds: Bounds | None = None) -> None:
    """Run `sql` and print the result in format `output` on standard output.

    `table` and `csv` and `json` print addresses in their usual form, `10.0.0.1` for a mapped IPv4 address.
    """
    rows = answer(client, sql.strip().rstrip(";"), output, {}, bounds)
    if rows is not None:
        show(rows, output)


def answer(client: Client, sql: str, output: str, parameters: Mapping[str, Any], bounds: Bounds | None) -> Rows | None:
    """The rows; or None once they have gone to standard output in a format of the store's own.

    Without `bounds`, those of the store hold.
    """
    settings = bounds.settings() if bounds else None
    if output in FORMATS:
        return client.query(sql, parameters=dict(parameters), settings=settings)
    data(client.raw_query(sql, parameters=dict(parameters), settings=settings, fmt=output))
    return None
