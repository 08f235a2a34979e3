"""Table → ClickHouse DDL, INSERT column lists and docs/columns.md.

A statement is rendered as text with `${…}` holes, so that the same frozen text (see `schemas.migrations`) serves a
single server and a cluster: `${local}` ends the name of a table that holds rows, `${on_cluster}` is the `ON CLUSTER`
clause, `${replicated}` begins the engine's name, `${cluster}` is the cluster's.  `fill` fills them.

`python -m schemas.render` prints the DDL; with `--docs` it writes docs/columns.md.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template

from schemas.column import Column, Origin, Table
from schemas.figures import FIGURE_TABLES
from schemas.peers import KNOWN
from schemas.rollups import FEEDS, ROLLUPS, Feed
from schemas.tables import TABLES
from schemas.views.all import VIEWS
from schemas.views.common import View

STORED = (*TABLES, *ROLLUPS, *FIGURE_TABLES, KNOWN)
"""All tables that hold rows: those for inserts, and those that ClickHouse fills from them."""

DOCS = Path(__file__).resolve().parent.parent / "docs" / "columns.md"

INDEX_GRANULARITY = 8192

DEDUPLICATION_WINDOW = 1000
"""Insert blocks whose `insert_deduplication_token` a table remembers: more than a writer can have unconfirmed."""

WIDE_PART_ROWS = 2**18
"""Parts of fewer rows keep all columns in one file: creating over a hundred files costs a small insert a third more.

Merging wide parts is cheaper.  Table `flows` has its own limit."""

TABLE_SETTINGS = {
    "index_granularity": INDEX_GRANULARITY,
    "min_rows_for_wide_part": WIDE_PART_ROWS,
    "non_replicated_deduplication_window": DEDUPLICATION_WINDOW,
    # Rows expire by whole partitions: dropping a part costs nothing, but rewriting it without its old rows does.
    "ttl_only_drop_parts": 1,
    # A changed TTL must not rewrite the stored columns.
    "materialize_ttl_recalculate_only": 1,
}

CLUSTER_SETTINGS = {
    # An insert that one shard took and another did not is retried until both have it, for days if necessary.
    # ClickHouse forgets tokens after an hour by default, and would insert the first shard's part again.
    "replicated_deduplication_window": 10 * DEDUPLICATION_WINDOW,
    "replicated_deduplication_window_seconds": 30 * 86400,
}
"""More settings for the replicated tables of a cluster; the larger number is for several collectors on one shard."""

_CLUSTER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


def fill(statement: str, cluster: str | None = None) -> str:
    """Fill the holes of a rendered or frozen statement for one server, or for `cluster`.

    Raises ValueError for a cluster name that is not one.
    """
    if cluster is None:
        holes = {"local": "", "on_cluster": "", "replicated": "", "cluster": ""}
    elif _CLUSTER_NAME.fullmatch(cluster):
        on_cluster = f" ON CLUSTER `{cluster}`"
        holes = {"local": "_local", "on_cluster": on_cluster, "replicated": "Replicated", "cluster": cluster}
    else:
        raise ValueError(f"not a cluster name: {cluster!r}")
    return Template(statement).substitute(holes)


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def column_sql(column: Column) -> str:
    """Return one column of a CREATE TABLE statement."""
    if column.alias:
        return f"`{column.name}` {column.clickhouse} ALIAS {column.alias}"
    codec = f" CODEC({column.codec})" if column.codec else ""
    return f"`{column.name}` {column.clickhouse}{codec}"


def ttl_sql(table: Table, days: int | None = None) -> str:
    """Return the TTL expression of a table: `days`, else its own default, after its time column."""
    days = table.ttl_days if days is None else days
    if days < 1:
        raise ValueError(f"table {table.name}: rows must live for at least one day, not {days}")
    return f"toDateTime({table.time}) + toIntervalDay({days})"


def create_table(table: Table, ttl_days: int | None = None, more: Mapping[str, int] | None = None) -> str:
    """Return CREATE TABLE with holes (see `fill`), and with `more` settings."""
    columns = ",\n".join(f"    {column_sql(column)}" for column in table.columns)
    begin = f"CREATE TABLE IF NOT EXISTS {table.name}${{local}}${{on_cluster}}\n(\n{columns}\n)\nENGINE = "
    if not table.holds_rows:
        return f"{begin}{table.engine}"
    values = {**TABLE_SETTINGS, **table.settings, **(more or {})}
    settings = ", ".join(f"{name} = {value}" for name, value in values.items())
    primary_key = f"PRIMARY KEY ({', '.join(table.primary_key)})\n" if table.primary_key else ""
    return (
        f"{begin}${{replicated}}{table.engine}\n"
        f"PARTITION BY {table.partition}({table.time})\n"
        f"{primary_key}ORDER BY ({', '.join(table.order_by)})\n"
        f"TTL {ttl_sql(table, ttl_days)}\n"
        f"SETTINGS {settings}"
    )


def create_distributed(table: Table, cluster: str) -> str:
    """Return the table that spreads rows over a cluster and queries all of it.

    The sharding key is a hash of the content of a row: a retried batch must go to the same shards, or its
    deduplication token would not be known there.
    """
    key = f"cityHash64({', '.join(table.order_by)})"
    return fill(
        f"CREATE OR REPLACE TABLE {table.name}${{on_cluster}} AS {table.name}${{local}}\n"
        f"ENGINE = Distributed('{cluster}', currentDatabase(), {table.name}${{local}}, {key})",
        cluster,
    )


def create_feed(feed: Feed) -> str:
    """Return CREATE MATERIALIZED VIEW with holes: on a cluster each server fills its own part of the rollup."""
    return (
        f"CREATE MATERIALIZED VIEW IF NOT EXISTS {feed.name}${{on_cluster}} TO {feed.target}${{local}}\n"
        f"AS {feed.select}\nCOMMENT '{feed.mark}'"
    )


def create_view(view: View, types: Mapping[str, str] | None = None) -> str:
    """Return CREATE OR REPLACE VIEW with holes; `types` of its columns spare ClickHouse to work them out."""
    columns = f" ({', '.join(f'`{name}` {kind}' for name, kind in types.items())})" if types else ""
    return f"CREATE OR REPLACE VIEW {view.name}${{on_cluster}}{columns} AS\n{view.select}\nCOMMENT '{view.mark}'"


def ddl(
    tables: Iterable[Table] = STORED,
    ttl_days: Mapping[str, int] | None = None,
    cluster: str | None = None,
    feeds: Iterable[Feed] = FEEDS,
    views: Iterable[View] = VIEWS,
) -> list[str]:
    """Return the statements that create these if missing, and replace the views, in order, without last semicolons."""
    days = ttl_days or {}
    more = CLUSTER_SETTINGS if cluster is not None else {}
    statements = []
    for table in tables:
        statements.append(fill(create_table(table, days.get(table.name), more), cluster))
        if cluster is not None:
            statements.append(create_distributed(table, cluster))
    statements += [fill(create_feed(feed), cluster) for feed in feeds]
    statements += [fill(create_view(view), cluster) for view in views]
    return statements


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _column_row(column: Column) -> str:
    kind = column.clickhouse
    if column.names:
        kind = "Enum8: " + ", ".join(f"`{name}`" for name in column.names)
    elif column.nullable:
        kind = f"{kind.removeprefix('Nullable(').removesuffix(')')} or NULL"
    doc = column.doc
    if column.alias:
        doc += " Computed when read."
    if column.origin is Origin.ENRICH:
        doc += " Filled by the inventory."
    missing = "" if column.alias else f"`{column.missing}`"
    cells = (f"`{column.name}`", kind, column.unit, doc, missing, column.element)
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def docs() -> str:
    """Return the text of docs/columns.md."""
    lines = [
        "# Tables and columns",
        "",
        "Written by `python -m schemas.render --docs` from `schemas/`: change it there.",
        "",
        "*Missing* is what a column holds when the exporter did not state the value. *Source* is the IPFIX information",
        "element (by name and number) or the sFlow structure that the value comes from. Times are UTC.",
        "",
    ]
    for table in STORED:
        lines += [
            f"## {table.name}",
            "",
            _paragraph(table.doc),
            "",
            "It holds no rows."
            if not table.holds_rows
            else _paragraph(
                f"Rows live {table.ttl_days} days unless settings say otherwise, counted from `{table.time}`; "
                f"sorted by {', '.join(f'`{name}`' for name in table.order_by)}; "
                f"one partition per {'month' if table.partition == 'toYYYYMM' else 'day'}."
            ),
            "",
            "| column | type | unit | meaning | missing | source |",
            "|---|---|---|---|---|---|",
            *(_column_row(column) for column in table.columns),
            "",
        ]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Print the DDL, or write docs/columns.md."""
    if arguments == ["--docs"]:
        DOCS.parent.mkdir(exist_ok=True)
        DOCS.write_text(docs(), encoding="utf-8")
        return 0
    if arguments:
        print("usage: python -m schemas.render [--docs]", file=sys.stderr)
        return 2
    print(";\n\n".join(ddl()) + ";")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
