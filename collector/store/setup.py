"""Bring the tables and views of a store to this release's state, or report how they differ.

Tables hold rows, so numbered migrations change them.  Views hold none: they are created from the text of this release,
and recreated if the text in the store differs, which a mark in the view's comment shows.  The meaning of columns is
written into their comments (`describe`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Set
from dataclasses import dataclass

from clickhouse_connect.driver import Client

from collector.store.errors import SchemaError
from collector.store.lease import make_table
from collector.store.settings import StoreSettings
from schemas.column import Table
from schemas.descriptions import of_table, of_view
from schemas.migrations import CREATE_EVERYWHERE, CREATE_TABLE, EVERYWHERE, TABLE, Step, dropped, put_aside, steps
from schemas.render import (
    CLUSTER_SETTINGS,
    STORED,
    create_distributed,
    create_feed,
    create_view,
    ddl,
    fill,
    literal,
    ttl_sql,
)
from schemas.rollups import FEEDS, LEVELS, Feed
from schemas.views.all import views
from schemas.views.common import View, suffix

COLUMNS = (
    "SELECT table, name, comment FROM system.columns "
    "WHERE database = {database:String} AND table IN {tables:Array(String)} ORDER BY table, position"
)


def describe(client: Client, settings: StoreSettings) -> list[str]:
    """Set the comments of all columns of the tables and views, which SQL clients show (`system.columns.comment`).

    They are not part of the tables' definition: stores of former releases get them at the next start, and a recreated
    view gets them again.  Only those that differ are written.  Blocks.  Returns the names of tables and views whose
    comments differed.  Raises the driver's errors.
    """
    cluster = settings.cluster or None
    tables = {fill(f"{table.name}${{local}}", cluster): table for table in STORED}
    names = [*tables, *(view.name for view in views(settings.interface_speeds))]
    found: dict[str, dict[str, str]] = defaultdict(dict)
    rows = client.query(COLUMNS, parameters={"database": settings.database, "tables": names}).result_rows
    for table, column, comment in rows:
        found[table][column] = comment
    changed = []
    for name in names:
        wanted = of_table(tables[name]) if name in tables else of_view(found[name])
        changes = [
            f"COMMENT COLUMN `{column}` {literal(text)}"
            for column, text in wanted.items()
            if found[name].get(column, text) != text
        ]
        if not changes:
            continue
        client.command(fill(f"ALTER TABLE {name}${{on_cluster}} ", cluster) + ", ".join(changes))
        if cluster and name in tables:
            client.command(create_distributed(tables[name], cluster))  # it has the columns of the local one
        changed.append(name)
    return changed


ColumnState = tuple[str, str, str]
"""Type, codec and alias expression of a column, as ClickHouse states them."""

_TTL_DAYS = re.compile(r"TTL .*toIntervalDay\((\d+)\)")


@dataclass(frozen=True)
class State:
    """What a store holds: the steps that ran, the columns by table, the marks of the views by name."""

    applied: frozenset[int]
    columns: dict[str, dict[str, ColumnState]]
    marks: dict[str, str]


def set_up(client: Client, settings: StoreSettings) -> list[str]:
    """Create the database, the tables and views, or bring them up to date; then check.

    A new store gets the current tables.  An existing one keeps what ClickHouse does not change in a table
    (`index_granularity`); all else is the same.  Blocks.  Returns what was done, one line each.  Raises SchemaError if
    the tables still differ, and the driver's errors.
    """
    cluster = settings.cluster or None
    done = []
    client.command(fill(f"CREATE DATABASE IF NOT EXISTS {settings.database}${{on_cluster}}", cluster))
    client.database = settings.database
    client.command(fill(CREATE_TABLE, cluster))
    if cluster and not _exists(client, EVERYWHERE):
        client.command(fill(CREATE_EVERYWHERE, cluster))
    if not settings.embedded:
        make_table(client, settings, may=True)
    applied = _applied(client, cluster)
    if ahead := applied - {step.number for step in steps()}:
        raise SchemaError(
            f"database {settings.database} was made by a newer vmflow (migration {max(ahead)}): install that release"
        )
    if not applied and _as_of_today(client, settings):
        done += _make(client, settings)
    else:
        done += migrate(client, applied, cluster)
    done += _set_ttls(client, settings)
    done += _tune(client, settings)
    done += _set_views(client, settings)
    check(client, settings)
    return done


def _as_of_today(client: Client, settings: StoreSettings) -> bool:
    """Return whether each existing table has the columns and the sorting key of this release.

    This is so in a new store, and in one whose first set-up stopped halfway.
    """
    cluster = settings.cluster or None
    tables = {fill(f"{table.name}${{local}}", cluster): table for table in STORED}
    found = columns(client, settings.database, tables)
    keys = client.query(
        "SELECT name, sorting_key FROM system.tables "
        "WHERE database = {database:String} AND name IN {names:Array(String)}",
        parameters={"database": settings.database, "names": list(tables)},
    ).result_rows
    return all(
        key.strip("()") == (", ".join(tables[name].order_by) if tables[name].holds_rows else "")
        and {column: kind for column, (kind, _, _) in found[name].items()}
        == {column.name: column.clickhouse for column in tables[name].columns}
        for name, key in keys
    )


def _make(client: Client, settings: StoreSettings) -> list[str]:
    """Create all current tables.

    The steps are recorded last: if this stops halfway, the next start creates the missing tables.
    """
    for statement in ddl(ttl_days=settings.ttl_days, cluster=settings.cluster or None, feeds=(), views=()):
        client.command(statement)
    client.insert(TABLE, [[step.number, step.name] for step in steps()], column_names=["step", "name"])
    return [f"tables as of migration {steps()[-1].number}"]


def migrate(client: Client, applied: Set[int], cluster: str | None) -> list[str]:
    """Run the steps that have not run."""
    done = []
    for step in steps():
        if step.number not in applied:
            done += _apply(client, step, cluster)
            done.append(f"migration {step.number} ({step.name})")
    if cluster and done:
        for table in STORED:
            client.command(create_distributed(table, cluster))
    return done


def _apply(client: Client, step: Step, cluster: str | None) -> list[str]:
    """Run a step.  Tables that it drops are renamed if they hold rows; return a line for each."""
    done = []
    for statement in step.statements:
        filled = fill(statement, cluster)
        table = dropped(filled)
        if table and _rows(client, table, cluster):
            aside = f"{table}_before_{step.number}"
            if _exists(client, aside):
                continue  # the step stopped halfway, and the table with rows is the new one
            filled = put_aside(filled, aside)
            done.append(f"rows of the former {table} are in {aside}")
        client.command(filled)
    client.insert(TABLE, [[step.number, step.name]], column_names=["step", "name"])
    return done


def _rows(client: Client, table: str, cluster: str | None) -> int:
    """Return how many rows a table holds, on a cluster those of all shards; 0 without the table."""
    distributed = table.removesuffix(fill("${local}", cluster)) if cluster else table
    counted = [name for name in {table, distributed} if _exists(client, name)]
    return max((int(client.query(f"SELECT count() FROM {name}").result_rows[0][0]) for name in counted), default=0)  # noqa: S608


def _exists(client: Client, table: str) -> bool:
    return bool(
        client.query(
            "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = {name:String}",
            parameters={"name": table},
        ).result_rows[0][0]
    )


def _applied(client: Client, cluster: str | None) -> frozenset[int]:
    """Return the steps that ran, on a cluster those recorded by any of its shards, which this one then records, too."""
    here = _noted(client, TABLE)
    everywhere = _noted(client, EVERYWHERE) if cluster else here
    if missing := [[step.number, step.name] for step in steps() if step.number in everywhere - here]:
        # Shards come and go.
        client.insert(TABLE, missing, column_names=["step", "name"])
    return everywhere | here


def _noted(client: Client, table: str) -> frozenset[int]:
    return frozenset(number for (number,) in client.query(f"SELECT DISTINCT step FROM {table}").result_rows)  # noqa: S608


def _set_ttls(client: Client, settings: StoreSettings) -> list[str]:
    """Change the TTL of the tables whose rows live longer or shorter than the settings say."""
    cluster = settings.cluster or None
    done = []
    for table in STORED:
        if not table.holds_rows:
            continue
        found = _TTL_DAYS.search(_engine(client, settings, table))
        days = settings.ttl_days.get(table.name, table.ttl_days)
        if found is None or int(found[1]) != days:
            client.command(
                fill(f"ALTER TABLE {table.name}${{local}}${{on_cluster}} MODIFY TTL {ttl_sql(table, days)}", cluster)
            )
            done.append(f"rows of {table.name} live {days} days")
    return done


def _tune(client: Client, settings: StoreSettings) -> list[str]:
    """Set what only newer ClickHouse versions have, or former releases did not set, if the table's value differs."""
    cluster = settings.cluster or None
    known = {str(name) for (name,) in client.query("SELECT name FROM system.merge_tree_settings").result_rows}
    done = []
    for table in STORED:
        tuning = {**table.tuning, **(CLUSTER_SETTINGS if cluster and table.holds_rows else {})}
        engine = _engine(client, settings, table) if tuning else ""
        wanted = [f"{name} = {value}" for name, value in tuning.items() if name in known]
        if missing := [setting for setting in wanted if setting not in engine]:
            change = f"ALTER TABLE {table.name}${{local}}${{on_cluster}} MODIFY SETTING {', '.join(missing)}"
            client.command(fill(change, cluster))
            done.append(f"tuned {table.name}")
    return done


def _engine(client: Client, settings: StoreSettings, table: Table) -> str:
    """Return the engine of a table with all its clauses, as ClickHouse states it; empty without the table."""
    rows = client.query(
        "SELECT engine_full FROM system.tables WHERE database = {database:String} AND name = {name:String}",
        parameters={"database": settings.database, "name": fill(f"{table.name}${{local}}", settings.cluster or None)},
    ).result_rows
    return str(rows[0][0]) if rows else ""


def _set_views(client: Client, settings: StoreSettings) -> list[str]:
    """Create the views that are missing or have another text."""
    cluster = settings.cluster or None
    marks = _marks(client, settings)
    changed = []
    for feed in FEEDS:
        if feed.name not in marks:
            client.command(fill(create_feed(feed), cluster))
        elif marks[feed.name] != feed.mark:
            # Not dropped and recreated: rows that arrive in between would be in no rollup.
            client.command(fill(f"ALTER TABLE {feed.name}${{on_cluster}} MODIFY QUERY {feed.select}", cluster))
            client.command(fill(f"ALTER TABLE {feed.name}${{on_cluster}} MODIFY COMMENT '{feed.mark}'", cluster))
        else:
            continue
        changed.append(feed.name)
    wanted = views(settings.interface_speeds)
    # A longer window's view has the columns of the shortest one's; to work out their types takes half a second each.
    shortest = {f"{view.name}{suffix(level)}": view.name for view in wanted for level in LEVELS if suffix(level)}
    for view in wanted:
        if marks.get(view.name) != view.mark:
            known = columns(client, settings.database, [model]) if (model := shortest.get(view.name)) else {}
            types = {name: kind for found in known.values() for name, (kind, _, _) in found.items()}
            client.command(fill(create_view(view, types), cluster))
            changed.append(view.name)
    return [f"views {', '.join(changed)}"] if changed else []


def _wanted(settings: StoreSettings) -> tuple[Feed | View, ...]:
    """Return all views that a store has."""
    return (*FEEDS, *views(settings.interface_speeds))


def _marks(client: Client, settings: StoreSettings) -> dict[str, str]:
    rows = client.query(
        "SELECT name, comment FROM system.tables WHERE database = {database:String} AND name IN {names:Array(String)}",
        parameters={"database": settings.database, "names": [view.name for view in _wanted(settings)]},
    ).result_rows
    return {str(name): str(comment) for name, comment in rows}


def columns(client: Client, database: str, tables: Iterable[str]) -> dict[str, dict[str, ColumnState]]:
    """Return the columns of these tables, in order, as ClickHouse states them."""
    found: dict[str, dict[str, ColumnState]] = {name: {} for name in tables}
    for table, name, kind, codec, alias in client.query(
        "SELECT table, name, type, compression_codec, default_expression FROM system.columns "
        "WHERE database = {database:String} AND table IN {tables:Array(String)} ORDER BY table, position",
        parameters={"database": database, "tables": list(found)},
    ).result_rows:
        found[table][name] = (kind, codec, alias)
    return found


def state(client: Client, settings: StoreSettings) -> State:
    """Return what the store holds now.  A store without the database holds nothing."""
    names = [fill(f"{table.name}${{local}}", settings.cluster or None) for table in STORED]
    present = client.query(
        "SELECT count() FROM system.tables WHERE database = {database:String} AND name = {name:String}",
        parameters={"database": settings.database, "name": TABLE},
    ).result_rows[0][0]
    applied: frozenset[int] = frozenset()
    if present:
        client.database = settings.database
        applied = _noted(client, TABLE)
        if settings.cluster and _exists(client, EVERYWHERE):
            applied |= _noted(client, EVERYWHERE)
    return State(applied, columns(client, settings.database, names), _marks(client, settings))


def check(client: Client, settings: StoreSettings) -> None:
    """Compare the store's columns and views with those of this release.

    Raises SchemaError that names what is missing or different.  Codecs are the operator's choice: they are not
    compared.
    """
    found = state(client, settings)
    problems = []
    for table in STORED:
        present = found.columns[fill(f"{table.name}${{local}}", settings.cluster or None)]
        if not present:
            problems.append(f"table {table.name} is missing")
            continue
        for column in table.columns:
            if column.name not in present:
                problems.append(f"{table.name}.{column.name} is missing")
            elif present[column.name][0] != column.clickhouse:
                problems.append(
                    f"{table.name}.{column.name} is {present[column.name][0]}, should be {column.clickhouse}"
                )
    for view in _wanted(settings):
        if view.name not in found.marks:
            problems.append(f"view {view.name} is missing")
        elif found.marks[view.name] != view.mark:
            problems.append(f"view {view.name} has another text")
    if problems:
        raise SchemaError(
            f"the tables in database {settings.database} do not fit this release: {'; '.join(problems)}. "
            "`vmflow schema --apply` migrates them"
        )
