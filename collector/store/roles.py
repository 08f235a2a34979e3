"""What connections to the embedded engine may do: roles and limits, which the engine itself enforces.

Every connection of the process uses the engine's user `default`, which has two roles.  `writer`, for the service,
creates and fills tables.  `reader`, for the SQL endpoint, selects.  Neither may read files, URLs or other databases
(the grants FILE, URL, REMOTE … of ClickHouse's SOURCES), so that no table function can reach out in either role.  The
profile `reader` holds the endpoint's limits as constraints: a query may lower but never raise them, also in a subquery.

Not covered by roles, and hence by `guard`: scalar functions such as `file()`, and the tables of `system`.
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
"""What SHOW GRANTS returns if the engine has accepted the configuration."""

FILE_NAME = "engine.xml"
"""The configuration's name in the store's directory."""

ENGINE_BLOCK_ROWS = 65_409
"""ClickHouse's own default of max_block_size."""

LARGEST_RANGE = 1_000_000
"""Elements that range() may make for a block; ClickHouse's own default is 500 times as many.  A call on one array
cannot be interrupted."""

LARGEST_STATEMENT = 10_000
"""Nodes of a statement's tree; ClickHouse's own default is five times as many.  Before the first row, conditions are
rewritten, which takes time quadratic in their number and cannot be interrupted."""

LARGEST_PLAN = 50_000
"""Nodes after views and common table expressions are expanded wherever they are named; ClickHouse's own default is ten
times as many.  `pair_metrics` has 6,000.  From 30 common table expressions, each of which names the one before it
twice, the engine would build a tree endlessly, which cannot be interrupted."""

FIXED = {"calculate_text_stack_trace": 0, "optimize_and_compare_chain": 0}
"""For all roles.  With the first error, the engine would open every library of the process, a hundred, and keep them
open.  And from `a > b AND b > 5` it would conclude `a > 5`: no condition of ours gains by that, and looking for such
pairs takes half of the time in which our wide views are analysed, or more: 0.28 s of 0.42 for `host_metrics`."""

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
        # Sorting and grouping beyond a share of the memory use the disk, which the store itself needs.
        "max_temporary_data_on_disk_size_for_query": settings.max_disk_bytes,
        "function_range_max_elements_in_block": LARGEST_RANGE,
        "max_ast_elements": LARGEST_STATEMENT,
        "max_expanded_ast_elements": LARGEST_PLAN,
    }


def configuration_of(directory: Path) -> Path:
    """Return the path of the engine's configuration in the store's `directory`."""
    return directory / FILE_NAME


def write_configuration(directory: Path, settings: SqlSettings) -> None:
    """Write the engine's configuration, readable by the service's user only.  Raises OSError."""
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
