"""Queries of the desk, and rows as cards.  Keys are bound, never written into the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clickhouse_connect.driver import Client

from collector.desk import AlertCard, AlertEvent, SilenceCard
from schemas import alerts as schema
from schemas.column import TIME_US, Table

Row = dict[str, Any]

MOST_SECONDS = 6
"""The store ends a query that takes longer."""
MOST_OCTETS = 512 * 2**20
"""The store ends a query that takes more memory."""


def _columns(table: Table) -> str:
    """Columns of a table as our own names; times as µs."""
    return ", ".join(
        f"toUnixTimestamp64Micro(found.{column.name}) AS {column.name}" if column.arrow == TIME_US else column.name
        for column in table.stored
    )


_MOMENT = "fromUnixTimestamp64Micro({{{name}:Int64}}, 'UTC')"
_FIRED, _SINCE, _AFTER = (_MOMENT.format(name=name) for name in ("fired", "since", "after"))
_VMS = " OR ".join(f"labels['{name}'] LIKE {{vm:String}}" for name in ("vm", "src_vm", "dst_vm"))

# Names are our own constants; whatever a person writes is bound.  Conditions stand inside, where times are times.
ALERTS = f"""
SELECT {_columns(schema.ALERTS)} FROM (
    SELECT * FROM {schema.ALERTS.name} FINAL
    WHERE (empty({{states:Array(String)}}) OR has({{states:Array(String)}}, toString(status)))
      AND (empty({{severities:Array(String)}}) OR has({{severities:Array(String)}}, toString(severity)))
      AND (empty({{rules:Array(String)}}) OR has({{rules:Array(String)}}, toString(rule)))
      AND startsWith(alert_id, {{begin:String}})
      AND ({{vm:String}} = '' OR {_VMS})
      AND ({{fired:Int64}} = 0 OR (time, alert_id) < ({_FIRED}, {{id:String}}))
    ORDER BY time DESC, alert_id DESC
    LIMIT {{limit:UInt32}}
) AS found
ORDER BY found.time DESC, found.alert_id DESC
"""  # noqa: S608 - see above

ALERT = f"""
SELECT {_columns(schema.ALERTS)}
FROM (SELECT * FROM {schema.ALERTS.name} FINAL WHERE alert_id = {{id:String}}) AS found
"""  # noqa: S608 - see above

# What came first of two changes at the same moment: an alert fires before it is told.
EVENTS = f"""
SELECT {_columns(schema.EVENTS_TABLE)} FROM (
    SELECT * FROM {schema.EVENTS_TABLE.name}
    WHERE alert_id = {{id:String}} AND time >= {_SINCE}
    ORDER BY time, event
    LIMIT {{limit:UInt32}} OFFSET {{offset:UInt32}}
) AS found
ORDER BY found.time, found.event
"""  # noqa: S608 - see above

# What kept the message of an alert back last: a rule, or a silence.
KEEPERS = f"""
SELECT alert_id, argMax(who, time) AS keeper FROM {schema.EVENTS_TABLE.name}
WHERE alert_id IN {{ids:Array(String)}} AND time >= {_SINCE} AND event IN ('inhibited', 'silenced')
GROUP BY alert_id
"""  # noqa: S608 - see above

SILENCES = f"""
SELECT {_columns(schema.SILENCES)} FROM (
    SELECT * FROM {schema.SILENCES.name} FINAL
    WHERE until > {_AFTER}
    ORDER BY time DESC, silence_id DESC
    LIMIT {{limit:UInt32}} OFFSET {{offset:UInt32}}
) AS found
ORDER BY found.time DESC, found.silence_id DESC
"""  # noqa: S608 - see above


BOUNDS = {"max_execution_time": MOST_SECONDS, "max_memory_usage": MOST_OCTETS}


def rows(client: Client, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
    """Rows by name of column.  Blocks; raises the driver's errors."""
    answer = client.query(sql, parameters=dict(parameters), settings=BOUNDS)
    return [dict(zip(answer.column_names, row, strict=True)) for row in answer.result_rows]


def alert_card(row: Row, keeper: str = "") -> AlertCard:
    """A row of `alerts`; `keeper` is what keeps its message back."""
    same = (
        "alert_id", "fingerprint", "rule", "severity", "scope", "summary", "since", "acknowledged",
        "acknowledged_by", "resolved", "resolved_by", "stale_since", "told", "escalations", "measure", "unit",
        "value", "low", "high", "samples", "threshold", "worst", "evidence", "condition", "level", "window_start",
        "window_end",
    )  # fmt: skip
    return AlertCard(
        **{name: row[name] for name in same},
        labels=dict(row["labels"]),
        state=row["status"],
        fired=row["time"],
        held_back=bool(row["held_back"]),
        held_back_by=keeper if row["held_back"] else "",
    )


def event(row: Row) -> AlertEvent:
    """A row of `alert_events`."""
    same = ("time", "event", "who", "comment", "value", "low", "high", "unit", "window_end")
    return AlertEvent(**{name: row[name] for name in same})


def silence_card(row: Row) -> SilenceCard:
    """A row of `alert_silences`."""
    return SilenceCard(row["silence_id"], dict(row["matchers"]), row["time"], row["until"], row["who"], row["comment"])
