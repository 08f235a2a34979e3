"""Writes what columns mean into the comments of a store, where SQL clients show it (`system.columns.comment`).

Comments are no part of what the tables are: stores of former releases get them at the next start, and a view that is
made anew gets them again.  Only those that differ are written.  Blocks.
"""

from __future__ import annotations

from collections import defaultdict

from clickhouse_connect.driver import Client

from collector.store.settings import StoreSettings
from schemas.descriptions import of_table, of_view
from schemas.render import STORED, create_distributed, fill, literal
from schemas.views import views

COLUMNS = (
    "SELECT table, name, comment FROM system.columns "
    "WHERE database = {database:String} AND table IN {tables:Array(String)} ORDER BY table, position"
)


def describe(client: Client, settings: StoreSettings) -> list[str]:
    """Set the comments of all columns of our tables and views.

    Returns the names of those that had others.  Raises the driver's errors.
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
