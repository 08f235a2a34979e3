"""Feeds: materialised views that fill one table from the blocks that are inserted into another."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.column import Column, Table, mark_of
from schemas.rollups import CONNECTIONS, LEVELS


@dataclass(frozen=True)
class Feed:
    """A materialised view: from the blocks inserted into `source` to rows of `target`."""

    name: str
    source: str
    target: str
    select: str
    """The query, with holes as all statements (`schemas.render.fill`)."""

    @property
    def mark(self) -> str:
        """Stands in the view's comment."""
        return mark_of(self.select)


def names(keys: tuple[Column, ...]) -> str:
    """The names of key columns, for SELECT and GROUP BY."""
    return ", ".join(column.name for column in keys)


def keys_of(table: Table) -> tuple[Column, ...]:
    """The columns that a rollup is sorted by, without the time."""
    return tuple(table[name] for name in table.order_by[1:])


def sums_of(table: Table) -> tuple[Column, ...]:
    """The columns that a rollup adds up."""
    return tuple(column for column in table.columns if column.name not in table.order_by)


def add_up(column: Column, of: str = "") -> str:
    """The aggregate that puts parts of a rollup's measure together, under its own name."""
    kind = column.clickhouse
    if kind.startswith("AggregateFunction"):
        aggregate = CONNECTIONS.replace("(", "MergeState(")
    else:
        aggregate = kind.removeprefix("SimpleAggregateFunction(").split(",")[0]
    return f"{aggregate}({of or column.name}) AS {column.name}"


def coarser(target: Table, source: Table) -> Feed:
    """From the windows of one level to those of the next."""
    fine, coarse = (LEVELS[table.name.rsplit("_", 1)[1]] for table in (source, target))
    window = f"toDateTime(toStartOfInterval(time, toIntervalSecond({coarse})), 'UTC')"
    # The first second of a minute is that of its first window of 10 s.
    edges = {
        "first_packets": "if(time = window, first_packets, 0)",
        "last_packets": f"if(time + {fine} = window + {coarse}, last_packets, 0)",
        "first_smear": "if(time = window, first_smear, 0)",
        "first_smear_squares": "if(time = window, first_smear_squares, 0)",
        "last_smear": f"if(time + {fine} = window + {coarse}, last_smear, 0)",
        "last_smear_squares": f"if(time + {fine} = window + {coarse}, last_smear_squares, 0)",
    }
    sums = ",\n    ".join(add_up(column, edges.get(column.name, "")) for column in sums_of(target))
    keys = names(keys_of(target))
    select = (
        f"SELECT\n    window AS time,\n    {keys},\n    {sums}\n"
        f"FROM (SELECT *, {window} AS window FROM {source.name}${{local}})\n"
        f"GROUP BY window, {keys}\nSETTINGS prefer_column_name_to_alias = 1"
    )
    return Feed(f"{target.name}_from_{source.name}", source.name, target.name, select)
