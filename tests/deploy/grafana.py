"""The dashboards of deploy/grafana, and what Grafana and its ClickHouse plugin make of their SQL."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SQL = "grafana-clickhouse-datasource"
ALL = "$__all"
STEP_SECONDS = 60
"""What $__interval is taken to be."""


def dashboards() -> dict[str, dict[str, Any]]:
    """Each dashboard by its uid."""
    found = [json.loads(file.read_text("utf-8")) for file in sorted((DEPLOY / "grafana/dashboards").glob("*.json"))]
    return {one["uid"]: one for one in found}


def targets(kind: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Dashboard, title of the panel and target of every query of one kind of data source."""
    for uid, one in dashboards().items():
        for panel in one["panels"]:
            for target in panel.get("targets", []):
                if target["datasource"]["type"] == kind:
                    yield uid, panel["title"], target


def expand(
    sql: str, begin: float, end: float, values: Mapping[str, str | Sequence[str]] | None = None, level: str = "_1m"
) -> str:
    """What reaches the store: CHDatasource.applyTemplateVariables, Grafana's format `singlequote`, macros.go.

    A variable without values is "All".
    """
    values = {"level": level, **(values or {})}
    while (at := sql.rfind("$__conditionalAll(")) >= 0:
        condition, name, after = _arguments(sql, at + len("$__conditionalAll"))
        sql = sql[:at] + ("1=1" if values.get(name.strip().lstrip("$"), ALL) == ALL else condition) + sql[after:]
    for name, value in values.items():
        several = [value] if isinstance(value, str) else value
        quoted = ",".join("'" + one.replace("'", "\\'") + "'" for one in several)
        sql = sql.replace(f"${{{name}:singlequote}}", quoted)
        sql = re.sub(rf"\$({name})\b", several[0], sql)
    first, last = (f"toDateTime({int(time)})" for time in (begin, end))
    sql = re.sub(r"\$__timeFilter\(([\w.]+)\)", rf"\1 >= {first} AND \1 <= {last}", sql)
    sql = re.sub(
        r"\$__timeInterval\(([\w.]+)\)", rf"toStartOfInterval(toDateTime(\1), INTERVAL {STEP_SECONDS} second)", sql
    )
    sql = sql.replace("$__interval_s", str(STEP_SECONDS)).replace("$__fromTime", first).replace("$__toTime", last)
    assert "$" not in sql, sql
    return sql


def _arguments(sql: str, at: int) -> tuple[str, str, int]:
    """The two arguments within the bracket at `at`, and where it ends."""
    depth, comma = 0, 0
    for place in range(at, len(sql)):
        depth += {"(": 1, ")": -1}.get(sql[place], 0)
        if depth == 1 and sql[place] == ",":
            comma = place
        if depth == 0:
            return sql[at + 1 : comma], sql[comma + 1 : place], place + 1
    raise AssertionError(f"a bracket stays open: {sql[at:]}")


def seconds(text: str) -> float:
    """A time of ClickHouse, UTC, as seconds since 1970."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
