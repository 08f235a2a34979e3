"""Made-up releases before this one: their tables, the steps between them, the stores that they left.

They show what migrations do where our own steps are too few to.  All is made of the tables of today, so that the last
step always ends there.  Release 0.0.1 has neither column `vni` of `flows` nor `domain` in the key of `pair_1m`, an
inventory that nothing can turn into today's, and no table `gaps`.  Release 0.0.2 came with step 2, which adds the
columns; step 3 replaces the inventory and makes the gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from schemas.column import Table
from schemas.flows import FLOWS
from schemas.gaps import GAPS
from schemas.inventory import INVENTORY
from schemas.render import STORED, column_sql, create_table
from schemas.rollups import ROLLUPS
from tests.schemas.first_release import sql, state

PAIR_1M = next(table for table in ROLLUPS if table.name == "pair_1m")


def _without(table: Table, name: str) -> Table:
    columns = tuple(column for column in table.columns if column.name != name)
    return replace(table, columns=columns, order_by=tuple(key for key in table.order_by if key != name))


def _added(table: Table, name: str) -> str:
    """What adds a column where the table of today has it."""
    names = [column.name for column in table.columns]
    return f"ADD COLUMN IF NOT EXISTS {column_sql(table[name])} AFTER `{names[names.index(name) - 1]}`"


FORMER_FLOWS = replace(_without(FLOWS, "vni"), settings={})
FORMER_PAIR_1M = _without(PAIR_1M, "domain")
FORMER_INVENTORY = replace(
    INVENTORY,
    columns=tuple(INVENTORY[name] for name in ("valid_from", "valid_to", "vm", "mac")),
    order_by=("mac", "valid_from"),
    engine="MergeTree",
)


def _tables(*former: Table) -> tuple[Table, ...]:
    by_name = {table.name: table for table in former}
    return tuple(by_name.get(table.name, table) for table in STORED if table is not GAPS)


TABLES = {
    "0.0.1": _tables(FORMER_FLOWS, FORMER_PAIR_1M, FORMER_INVENTORY),
    "0.0.2": _tables(FORMER_INVENTORY),
}
"""Of each release."""

_MERGED = ", ".join(f"{name} = {value}" for name, value in FLOWS.settings.items() if name != "index_granularity")

STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("tables", tuple(create_table(table) for table in TABLES["0.0.1"])),
    (
        "columns",
        (
            f"ALTER TABLE flows${{local}}${{on_cluster}} {_added(FLOWS, 'vni')}",
            f"ALTER TABLE flows${{local}}${{on_cluster}} MODIFY SETTING {_MERGED}",
            f"ALTER TABLE pair_1m${{local}}${{on_cluster}}\n    {_added(PAIR_1M, 'domain')},\n"
            f"    MODIFY ORDER BY ({', '.join(PAIR_1M.order_by)})",
        ),
    ),
    (
        "inventory",
        (
            "DROP TABLE IF EXISTS inventory${local}${on_cluster} SYNC",
            create_table(INVENTORY),
            create_table(GAPS),
        ),
    ),
)
"""Names and statements."""

STOPS = "ALTER TABLE flows${local}${on_cluster} DROP COLUMN the_step_stops_here"


class Releases:
    """The steps and states as files, which `schemas.migrations` reads in place of ours (fixture `releases`)."""

    def __init__(self, folder: Path) -> None:
        self.steps = folder / "steps"
        self.states = folder / "states"
        self.steps.mkdir(parents=True)
        self.states.mkdir()
        names = [name for name, _ in STEPS]
        for number, (version, tables) in enumerate(TABLES.items(), 1):
            path = self.states / f"{version}.sql"
            path.write_text(state(version, tables, names[:number]), encoding="utf-8")
        self.install()

    def install(self, last: int = len(STEPS), stops: tuple[int, int] | None = None) -> None:
        """Have the steps up to `last`.  With `stops`, that step fails after so many of its statements."""
        for path in self.steps.iterdir():
            path.unlink()
        for number, (name, statements) in enumerate(STEPS[:last], 1):
            after = stops[1] if stops and stops[0] == number else None
            self.add(number, name, statements if after is None else (*statements[:after], STOPS, *statements[after:]))

    def add(self, number: int, name: str, statements: Sequence[str]) -> None:
        """Have this step, too."""
        (self.steps / f"{number:04}_{name}.sql").write_text(sql(f"Step {number}.", statements), encoding="utf-8")
