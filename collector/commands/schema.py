"""`vmflow schema`: print the tables' DDL, report the state of a store, migrate it."""

from __future__ import annotations

import argparse
from pathlib import Path

from clickhouse_connect.driver import exceptions as driver

from collector.commands.common import add_settings_arguments, load_settings
from collector.commands.output import Result, add_format_argument, show
from collector.commands.query import asking
from collector.settings import Settings
from collector.store.client import open_client
from collector.store.errors import StoreError
from collector.store.settings import StoreSettings
from collector.store.setup import check, describe, set_up, state
from collector.store_errors import first_line
from collector.terminal import CommandError, say, tell
from schemas.migrations import steps
from schemas.render import ddl, docs
from schemas.views.all import views


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_settings_arguments(parser)
    add_format_argument(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--apply", action="store_true", help="create or migrate the tables in the store")
    what.add_argument("--state", action="store_true", help="say which migrations ran and whether the tables fit")
    what.add_argument("--docs", metavar="FILE", type=Path, help="write the description of all columns to FILE")


def run(args: argparse.Namespace) -> int:
    """Without an option, print the DDL of the tables as the settings ask for them."""
    settings = load_settings(args)
    store = settings.store
    if args.docs is not None:
        args.docs.write_text(docs(), encoding="utf-8")
        return 0
    if not args.apply and not args.state:
        say(*(";\n\n".join(_ddl(store)) + ";").split("\n"))
        return 0
    return _apply(store) if args.apply else _state(settings, args.format)


def _ddl(settings: StoreSettings) -> list[str]:
    speeds = views(settings.interface_speeds)
    return ddl(ttl_days=settings.ttl_days, cluster=settings.cluster or None, views=speeds)


def _apply(settings: StoreSettings) -> int:
    try:
        with open_client(settings) as client:
            done = set_up(client, settings)
            described = describe(client, settings)
    except StoreError as error:
        raise CommandError(str(error)) from error
    except driver.Error as error:
        raise CommandError(first_line(error)) from error
    done += [f"columns of {len(described)} tables and views described"] if described else []
    say(*(done or ["nothing to do: the tables fit this release"]))
    return 0


def _state(settings: Settings, output: str) -> int:
    """Print one line per migration.  Exit code 1 if the tables do not fit."""
    with asking(settings) as client:
        applied = state(client, settings.store).applied
        rows = [(step.number, "applied" if step.number in applied else "pending", step.name) for step in steps()]
        show(Result(("migration", "state", "name"), rows), output)
        check(client, settings.store)
    tell("the tables fit this release")
    return 0
