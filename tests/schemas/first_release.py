"""What the first release begins with, as text: `schemas/steps/0001_tables.sql` and the state that it leaves.

`python -m tests.schemas.first_release` writes both from the tables of today.  Once 0.1.0 is released they are frozen:
then a change of a table is a step of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from schemas.column import Table
from schemas.migrations import CREATE_TABLE, STEPS, TABLE
from schemas.render import STORED, create_table, fill

VERSION = "0.1.0"
NAME = "tables"
STEP = STEPS / f"0001_{NAME}.sql"
STATES = Path(__file__).resolve().parent / "states"
STATE = STATES / f"{VERSION}.sql"


def states() -> dict[str, Path]:
    """Released states by version: the SQL that makes a store as that release left it."""
    return {path.stem: path for path in sorted(STATES.glob("*.sql"))}


def sql(comment: str, statements: Iterable[str]) -> str:
    """The text of a file that `schemas.migrations.split` reads."""
    return f"-- {comment}\n" + ";\n\n".join(statements) + ";\n"


def state(version: str, tables: Iterable[Table], steps: Sequence[str]) -> str:
    """What makes a store as a release left it: its tables, and the names of the steps that it knew."""
    notes = ", ".join(f"({number}, '{name}')" for number, name in enumerate(steps, 1))
    return sql(
        f"The tables as release {version} makes them.",
        (
            fill(CREATE_TABLE),
            *(fill(create_table(table)) for table in tables),
            f"INSERT INTO {TABLE} (step, name) VALUES {notes}",
        ),
    )


def texts() -> tuple[str, str]:
    """Step and state, made of the tables of today."""
    step = sql(f"Release {VERSION}: the first tables.", (create_table(table) for table in STORED))
    return step, state(VERSION, STORED, [NAME])


def main() -> None:
    """Write both files."""
    for path, text in zip((STEP, STATE), texts(), strict=True):
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
