"""Alerts in the store: what is written before anybody is told, and what is read at start.

A message is one row per receiver in `alert_outbox`, with the state of its alerts in it.  That row is written first and
in one insert, so a process that dies at any moment finds, at its next start, either a message that waits together with
the alerts that it is about, or neither.

Queries of the desk, and rows as cards.  Keys are bound, never written into the text.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from clickhouse_connect.driver import Client

from collector.alert.notifications import Notification, Silence, summary
from collector.alert.rules import Rule
from collector.alert.state import Alert, Change
from collector.interfaces import AlertCard, AlertEvent, AlertNotification, NotificationGroup, SilenceCard
from schemas import alerts as schema
from schemas.alerts import ALERTS, EVENTS_TABLE, OUTBOX, SILENCES
from schemas.column import TIME_US, Table

Row = dict[str, Any]

MOST_SECONDS = 6
"""The store ends a query that takes longer."""
MOST_BYTES = 512 * 2**20
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
ALERTS_SQL = f"""
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

ALERT_SQL = f"""
SELECT {_columns(schema.ALERTS)}
FROM (SELECT * FROM {schema.ALERTS.name} FINAL WHERE alert_id = {{id:String}}) AS found
"""  # noqa: S608 - see above

# What came first of two changes at the same moment: an alert fires before it is told.
EVENTS_SQL = f"""
SELECT {_columns(schema.EVENTS_TABLE)} FROM (
    SELECT * FROM {schema.EVENTS_TABLE.name}
    WHERE alert_id = {{id:String}} AND time >= {_SINCE}
    ORDER BY time, event
    LIMIT {{limit:UInt32}} OFFSET {{offset:UInt32}}
) AS found
ORDER BY found.time, found.event
"""  # noqa: S608 - see above

# What kept the message of an alert back last: a rule, or a silence.
KEEPERS_SQL = f"""
SELECT alert_id, argMax(who, time) AS keeper FROM {schema.EVENTS_TABLE.name}
WHERE alert_id IN {{ids:Array(String)}} AND time >= {_SINCE} AND event IN ('inhibited', 'silenced')
GROUP BY alert_id
"""  # noqa: S608 - see above

SILENCES_SQL = f"""
SELECT {_columns(schema.SILENCES)} FROM (
    SELECT * FROM {schema.SILENCES.name} FINAL
    WHERE until > {_AFTER}
    ORDER BY time DESC, silence_id DESC
    LIMIT {{limit:UInt32}} OFFSET {{offset:UInt32}}
) AS found
ORDER BY found.time DESC, found.silence_id DESC
"""  # noqa: S608 - see above


BOUNDS = {"max_execution_time": MOST_SECONDS, "max_memory_usage": MOST_BYTES}


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


BACKLOG = 1000
"""Blocks of rows that wait for a store that does not take them; more push out the oldest."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Loaded:
    """What a former run left behind."""

    alerts: list[Alert] = field(default_factory=list)
    silences: list[Silence] = field(default_factory=list)
    waiting: list[NotificationGroup] = field(default_factory=list)
    """Messages that are not delivered, oldest first; each for the receivers that do not have it."""
    orphans: list[str] = field(default_factory=list)
    """Ids of alerts that last, but whose rule is in the settings no more."""


class AlertStore:
    """Writes and reads the tables of alerts.  All methods block; those with a client raise the driver's errors."""

    def __init__(self) -> None:
        self._backlog: deque[tuple[Table, list[Row], str]] = deque()
        self.dropped = 0
        """Rows pushed out of the backlog."""

    def keep(self, changes: Sequence[Change], told: Sequence[Notification], now_us: int) -> None:
        """Note rows to be written by `flush`: messages, then the alerts, then what happened."""
        alerts = {change.alert.alert_id: change.alert for change in changes}
        alerts |= {alert.alert_id: alert for one in told for alert in one.alerts}
        for alert in alerts.values():
            alert.version = max(now_us, alert.version + 1)
        self._put(OUTBOX, [row for one in told for row in _outbox_rows(one, now_us)])
        self._put(ALERTS, [snapshot(alert) for alert in alerts.values()])
        self._put(EVENTS_TABLE, [_event_row(change, now_us) for change in changes])

    def keep_silence(self, silence: Silence, now_us: int) -> None:
        """Note the row of a silence that is new or changed."""
        row = {**asdict(silence), "time": silence.made_us, "until": silence.until_us, "version": now_us}
        self._put(SILENCES, [row])

    def keep_delivery(self, message: str, receiver: str, state: str, now_us: int) -> None:
        """Note that a receiver has a message, or never will."""
        made_us = int(message.rsplit("/", 2)[1])
        row = {"time": made_us, "version": now_us, "message": message, "receiver": receiver, "state": state, "body": ""}
        self._put(OUTBOX, [row])

    def _put(self, table: Table, rows: list[Row]) -> None:
        if not rows:
            return
        if len(self._backlog) >= BACKLOG:
            _, lost, _ = self._backlog.popleft()
            self.dropped += len(lost)
        # The token makes a second attempt after an unclear answer store nothing twice.
        self._backlog.append((table, rows, uuid4().hex))

    def flush(self, client: Client) -> None:
        """Write what was noted, in order.  After an error the rest stays noted."""
        while self._backlog:
            table, rows, token = self._backlog[0]
            names = [column.name for column in table.stored]
            times = {column.name for column in table.stored if column.arrow == TIME_US}
            values = [[_moment(row[name]) if name in times else row[name] for name in names] for row in rows]
            client.insert(table.name, values, column_names=names, settings={"insert_deduplication_token": token})
            self._backlog.popleft()

    def load(self, client: Client, rules: Mapping[str, Rule], recent_us: int, outbox_us: int, now_us: int) -> Loaded:
        """Alerts that last or were resolved after `recent_us`, silences, and messages made after `outbox_us` (µs)."""
        found = Loaded()
        newest: dict[str, Row] = {}
        sql = _select(ALERTS, "status != 'resolved' OR resolved > {after}")
        for row in _rows(client, sql, recent_us):
            newest[row["alert_id"]] = row
        for row in _rows(client, _select(OUTBOX, "time > {after}"), outbox_us):
            if row["state"] != "waiting":
                continue
            body = json.loads(row["body"])
            found.waiting.append(_group(body["group"], row["message"], row["receiver"]))
            for alert in body["alerts"]:
                # The process died between the message and the alert's own row.
                if alert["version"] > newest.get(alert["alert_id"], {"version": 0})["version"]:
                    newest[alert["alert_id"]] = alert
        for row in sorted(newest.values(), key=lambda row: int(row["time"])):
            rule = rules.get(row["rule"])
            if rule is not None and rule.scope == row["scope"]:
                found.alerts.append(restored(row, rule))
            elif row["status"] != "resolved":
                found.orphans.append(row["alert_id"])
                self._put(ALERTS, [_orphaned(row, now_us)])
        for row in _rows(client, _select(SILENCES, "until > {after}"), now_us):
            found.silences.append(
                Silence(row["matchers"], row["until"], row["time"], row["who"], row["comment"], row["silence_id"])
            )
        return found


def snapshot(alert: Alert) -> Row:
    """The row of `alerts`; times in µs."""
    row = {**_series(alert), **_figures(alert)}
    row |= {
        "time": alert.fired_us,
        "version": alert.version,
        "series": alert.series,
        "status": alert.status,
        "since": alert.since_us,
        "acknowledged": alert.acknowledged_us,
        "acknowledged_by": alert.acknowledged_by,
        "resolved": alert.resolved_us,
        "resolved_by": alert.resolved_by,
        "stale_since": alert.stale_us,
        "worst": _finite(alert.worst),
        "told": alert.told_us,
        "held_back": int(alert.held_back),
        "escalations": alert.escalations,
        "summary": summary(alert),
    }
    return row


def restored(row: Mapping[str, Any], rule: Rule) -> Alert:
    """The alert of a row."""
    return Alert(
        rule,
        int(row["series"]),
        dict.fromkeys(rule.view.labels, "") | row["labels"],  # an older release may have known fewer
        since_us=row["since"],
        alert_id=row["alert_id"],
        status=row["status"],
        version=int(row["version"]),
        fired_us=row["time"],
        acknowledged_us=row["acknowledged"],
        acknowledged_by=row["acknowledged_by"],
        resolved_us=row["resolved"],
        resolved_by=row["resolved_by"],
        stale_us=row["stale_since"],
        value=row["value"],
        low=row["low"],
        high=row["high"],
        samples=row["samples"],
        evidence=row["evidence"],
        threshold=row["threshold"],
        worst=row["worst"],
        window_start_us=row["window_start"],
        window_end_us=row["window_end"],
        told_us=row["told"],
        held_back=bool(row["held_back"]),
        escalations=row["escalations"],
    )


def _series(alert: Alert) -> Row:
    return {
        "alert_id": alert.alert_id,
        "fingerprint": alert.fingerprint,
        "rule": alert.rule.name,
        "severity": alert.rule.severity,
        "scope": alert.rule.scope,
        "labels": alert.labels,
    }


def _figures(alert: Alert) -> Row:
    return {
        "measure": alert.rule.measure,
        "unit": alert.rule.about.unit,
        "value": _finite(alert.value),
        "low": _finite(alert.low),
        "high": _finite(alert.high),
        "samples": _finite(alert.samples),
        "evidence": alert.evidence,
        "threshold": _finite(alert.threshold),
        "condition": alert.rule.condition,
        "level": alert.rule.level,
        "window_start": alert.window_start_us,
        "window_end": alert.window_end_us,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _event_row(change: Change, now_us: int) -> Row:
    alert = change.alert
    return {
        **_series(alert),
        **_figures(alert),
        "time": now_us,
        "event": change.event,
        "who": change.who,
        "comment": change.comment,
    }


def _outbox_rows(told: Notification, now_us: int) -> Iterable[Row]:
    body = json.dumps(
        {"group": asdict(told.group), "alerts": [snapshot(alert) for alert in told.alerts]}, ensure_ascii=False
    )
    for receiver in told.group.receivers:
        yield {
            "time": now_us,
            "version": now_us,
            "message": told.group.key,
            "receiver": receiver,
            "state": "waiting",
            "body": body,
        }


def _group(group: Mapping[str, Any], message: str, receiver: str) -> NotificationGroup:
    notices = tuple(AlertNotification(**one) for one in group["notices"])
    return NotificationGroup(message, group["severity"], (receiver,), notices)


def _orphaned(row: Row, now_us: int) -> Row:
    """Its rule is gone: nobody will look at its series any more."""
    return {**row, "status": "resolved", "resolved": now_us, "resolved_by": "rule removed", "version": now_us}


def _select(table: Table, where: str) -> str:
    columns = ", ".join(
        f"toUnixTimestamp64Micro({column.name}) AS {column.name}" if column.arrow == TIME_US else column.name
        for column in table.stored
    )
    after = "fromUnixTimestamp64Micro({after:Int64})"
    # The condition stands inside: outside, the names of times mean numbers.
    inside = f"SELECT * FROM {table.name} FINAL WHERE {where.format(after=after)}"  # noqa: S608 - our own names
    return f"SELECT {columns} FROM ({inside}) ORDER BY version"  # noqa: S608 - our own names


def _rows(client: Client, sql: str, after_us: int) -> Iterable[Row]:
    answer = client.query(sql, parameters={"after": after_us})
    for row in answer.result_rows:
        yield dict(zip(answer.column_names, row, strict=True))


def _moment(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_us)
