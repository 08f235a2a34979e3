"""What connections to the embedded engine may do: roles and ceilings, which the engine itself enforces.

Every connection of the process is the engine's user `default`, who has two roles.  `writer`, for the service, makes and
fills tables.  `reader`, for the SQL endpoint, selects.  Neither may read files, addresses or other databases (the
grants FILE, URL, REMOTE … of ClickHouse's SOURCES), so no table function reaches out, whoever asks.  The profile
`reader` holds the endpoint's limits as constraints: a query may lower and never lift them, in a subquery neither.

Not held by roles, hence by `guard`: scalar functions such as `file()`, and the tables of `system`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

from collector.store.settings import SqlSettings

READER = "reader"
"""The role and the profile of the SQL endpoint's connections."""

GRANTED = frozenset({"GRANT reader, writer TO default"})
"""What SHOW GRANTS says where the engine has taken the configuration."""

FILE_NAME = "engine.xml"
"""In the store's directory."""

ENGINE_BLOCK_ROWS = 65_409
"""ClickHouse's own default of max_block_size."""

LARGEST_RANGE = 1_000_000
"""Elements that range() may make for a block; ClickHouse's own default is 500 times as many.  One call on an array is
not interrupted."""

LARGEST_STATEMENT = 10_000
"""Nodes of a statement's tree; ClickHouse's own default is five times as many.  Before the first row, conditions are
rewritten in a time that grows with the square of their number, which nothing interrupts."""

LARGEST_PLAN = 50_000
"""Nodes once views and common table expressions are put in wherever they are named; ClickHouse's own default is ten
times as many.  `pair_metrics` has 6,000.  Of 30 common table expressions, each of which names the one before it twice,
the engine would make a tree for ever, which nothing interrupts."""

FIXED = {"calculate_text_stack_trace": 0}
"""For all: with the first error, the engine would open every library of the process, a hundred, and keep them open."""

_CONFIGURATION = """<clickhouse>
  <display_name>vmflow</display_name>
  <users_config>{path}</users_config>
  <user_directories><users_xml><path>{path}</path></users_xml></user_directories>
  <profiles>
    <default>{fixed}</default>
    <reader>{fixed}
{values}
      <constraints>
{constraints}
      </constraints>
    </reader>
  </profiles>
  <roles>
    <writer><grants>
      <query>GRANT SELECT, SHOW, INSERT, ALTER, CREATE, DROP, TRUNCATE, OPTIMIZE, SYSTEM, KILL QUERY ON *.*</query>
      <query>GRANT TABLE ENGINE ON *</query>
    </grants></writer>
    <reader><grants><query>GRANT SELECT, SHOW ON *.*</query></grants></reader>
  </roles>
  <users><default>
    <password></password>
    <profile>default</profile>
    <quota>default</quota>
    <grants><query>GRANT writer</query><query>GRANT reader</query></grants>
  </default></users>
  <quotas><default/></quotas>
</clickhouse>
"""


def ceilings(settings: SqlSettings) -> dict[str, int]:
    """The limits of one query of the endpoint, by ClickHouse's names; whole numbers of at least 1."""
    return {
        "max_execution_time": max(1, round(settings.max_seconds)),
        "max_memory_usage": settings.max_memory_bytes,
        "max_result_rows": settings.max_result_rows,
        "max_result_bytes": settings.max_result_bytes,
        # One core is left to those who store.
        "max_threads": max(1, (os.cpu_count() or 1) // 2),
        "max_block_size": ENGINE_BLOCK_ROWS,
        # Sorting and grouping that exceed a share of the memory go to the disk, which the store needs itself.
        "max_temporary_data_on_disk_size_for_query": settings.max_disk_bytes,
        "function_range_max_elements_in_block": LARGEST_RANGE,
        "max_ast_elements": LARGEST_STATEMENT,
        "max_expanded_ast_elements": LARGEST_PLAN,
    }


def configuration_of(directory: Path) -> Path:
    """Where the engine's configuration lies in the store's `directory`."""
    return directory / FILE_NAME


def write_configuration(directory: Path, settings: SqlSettings) -> None:
    """Write the engine's configuration, readable by us alone.  Raises OSError."""
    path = configuration_of(directory)
    limits = ceilings(settings)
    text = _CONFIGURATION.format(
        path=escape(str(path)),
        fixed="".join(f"<{name}>{value}</{name}>" for name, value in FIXED.items()),
        values="\n".join(f"      <{name}>{value}</{name}>" for name, value in limits.items()),
        constraints="\n".join(_bounds(limits)),
    )
    fresh = path.with_suffix(".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)


def _bounds(limits: Mapping[str, int]) -> list[str]:
    return [f"        <{name}><min>1</min><max>{value}</max></{name}>" for name, value in limits.items()]
