"""Numbered steps from each released state of the tables to the next.

A step is frozen SQL text in `schemas/steps/NNNN_name.sql`: what was released is never edited, a change is a new file.
Statements end with `;` at the end of a line and have the holes that `schemas.render.fill` fills.  Statements must be
repeatable (`IF NOT EXISTS`), since a step that failed halfway is run again.  A test replays all steps from nothing and
from every released state (`tests/schemas/states/`) and compares with the schema rendered today.  A table that a step
drops is renamed instead if it holds rows (`put_aside`).

Until the first release there is one step, the tables as they are today; `python -m tests.schemas.first_release` writes
it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

STEPS = Path(__file__).resolve().parent / "steps"

TABLE = "vmflow_migrations"
"""The table of steps that ran: one row per step."""

EVERYWHERE = f"{TABLE}_everywhere"
"""On a cluster: the steps that ran on all its shards.  `TABLE` has those run from nodes of this shard."""

CREATE_TABLE = (
    f"CREATE TABLE IF NOT EXISTS {TABLE}${{on_cluster}}\n"
    "(\n    `step` UInt32,\n    `name` String,\n    `applied` DateTime64(6, 'UTC') DEFAULT now64(6)\n)\n"
    "ENGINE = ${replicated}ReplacingMergeTree\nORDER BY (step)"
)

CREATE_EVERYWHERE = (
    f"CREATE TABLE IF NOT EXISTS {EVERYWHERE}${{on_cluster}} AS {TABLE}\n"
    f"ENGINE = Distributed('${{cluster}}', currentDatabase(), {TABLE})"
)

_DROP = re.compile(r"DROP TABLE IF EXISTS (?P<table>\w+)(?P<rest>.*?)( SYNC)?", re.DOTALL)


@dataclass(frozen=True)
class Step:
    """One migration: its number, its name, its statements with holes."""

    number: int
    name: str
    statements: tuple[str, ...]


def split(text: str) -> tuple[str, ...]:
    """Split SQL text into statements: each ends with `;` at the end of a line; lines beginning `--` are comments."""
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    parts = ("\n".join(lines) + "\n").split(";\n")
    return tuple(statement for part in parts if (statement := part.strip()))


def steps() -> tuple[Step, ...]:
    """Return all steps in order.  Raises ValueError if the numbers are not 1, 2, 3, …"""
    found = []
    for path in sorted(STEPS.glob("*.sql")):
        number, _, name = path.stem.partition("_")
        found.append(Step(int(number), name, split(path.read_text(encoding="utf-8"))))
    if [step.number for step in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"migration steps are not numbered 1 to {len(found)}")
    return tuple(found)


def dropped(statement: str) -> str:
    """Return the table that a filled statement drops; empty if it drops none."""
    found = _DROP.fullmatch(statement)
    return found["table"] if found else ""


def put_aside(statement: str, name: str) -> str:
    """Return a statement that renames the table to this name, in place of a filled one that drops it."""
    found = _DROP.fullmatch(statement)
    return f"RENAME TABLE {found['table']} TO {name}{found['rest']}" if found else statement
