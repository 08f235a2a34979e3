"""Alerts in the store: written before anyone is notified, read at the start.

A message is one row per receiver in `alert_outbox`, with the state of its alerts in it.  That row is written first and
in one insert, so a process that dies at any moment finds, at its next start, either a message that waits together with
the alerts that it is about, or neither.

Rows are dictionaries by name of column, times in µs since 1970.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from clickhouse_connect.driver import Client

from collector.alert.notifications import Message, Silence
from collector.alert.rules import Rule
from collector.alert.state import Alert, Change
from collector.interfaces import AlertNotification, NotificationGroup, Row
from collector.store_reader import Bounds, read_rows
from schemas.alerts import ALERTS, EVENTS_TABLE, OUTBOX, SILENCES, newest_sql
from schemas.anomalies import SCORES
from schemas.column import TIME_US, Column, Table

BACKLOG = 1000
"""Blocks of rows that wait for a store that does not accept them; more push out the oldest."""
SCORES_BACKLOG = 20
"""Inserts that may wait when scores come, of some thousand rows each."""
LOAD_BOUNDS = Bounds(120, 2 * 2**30)
"""Of what is read at the start: alerts that last, and messages of the last days."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


_AFTER = "fromUnixTimestamp64Micro({after:Int64}, 'UTC')"


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

    def keep(self, changes: Sequence[Change], messages: Sequence[Message], now_us: int) -> None:
        """Note rows to be written by `flush`: messages, then the alerts, then what happened."""
        alerts = {change.alert.alert_id: change.alert for change in changes}
        alerts |= {alert.alert_id: alert for message in messages for alert in message.alerts}
        for alert in alerts.values():
            alert.version = max(now_us, alert.version + 1)
        self._put(OUTBOX, [row for message in messages for row in _outbox_rows(message, now_us)])
        self._put(ALERTS, [snapshot(alert) for alert in alerts.values()])
        self._put(EVENTS_TABLE, [_event_row(change, now_us) for change in changes])

    def keep_silence(self, silence: Silence, now_us: int) -> None:
        """Note the row of a silence that is new or changed."""
        row = {**asdict(silence), "time": silence.made_us, "until": silence.until_us, "version": now_us}
        self._put(SILENCES, [row])

    def keep_scores(self, rows: list[Row]) -> None:
        """Note rows of `anomaly_scores`, unless much waits: then they must not push out alerts and messages."""
        if len(self._backlog) < SCORES_BACKLOG:
            self._put(SCORES, rows)
        else:
            self.dropped += len(rows)

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
        sql = newest_sql(ALERTS, f"status != 'resolved' OR resolved > {_AFTER}")
        newest = {row["alert_id"]: row for row in read_rows(client, sql, {"after": recent_us}, LOAD_BOUNDS)}
        for row in read_rows(client, newest_sql(OUTBOX, f"time > {_AFTER}"), {"after": outbox_us}, LOAD_BOUNDS):
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
        for row in read_rows(client, newest_sql(SILENCES, f"until > {_AFTER}"), {"after": now_us}, LOAD_BOUNDS):
            found.silences.append(
                Silence(row["matchers"], row["until"], row["time"], row["who"], row["comment"], row["silence_id"])
            )
        return found

    def find(self, client: Client, alert_id: str, rules: Mapping[str, Rule]) -> Alert | None:
        """An alert of a rule that there is; None if there is none with this id."""
        found = read_rows(client, newest_sql(ALERTS, "alert_id = {id:String}"), {"id": alert_id}, LOAD_BOUNDS)
        rule = rules.get(found[0]["rule"]) if found else None
        return restored(found[0], rule) if rule is not None and rule.scope == found[0]["scope"] else None


def _fact(column: Column) -> str:
    """The name of a column's value in `Alert.facts`."""
    if column.name == "time":
        return "fired_us"
    return f"{column.name}_us" if column.arrow == TIME_US else column.name


FACTS = {column.name: _fact(column) for column in ALERTS.stored}
"""By name of column."""
EVENT_FACTS = {column.name: FACTS[column.name] for column in EVENTS_TABLE.stored if column.name in FACTS}


def snapshot(alert: Alert) -> Row:
    """The row of `alerts`; times in µs."""
    facts = alert.facts() | {"summary": alert.summary}
    return {name: facts[fact] for name, fact in FACTS.items()}


def restored(row: Row, rule: Rule) -> Alert:
    """The alert of a row."""
    own = {field.name for field in fields(Alert)} - {"rule"}
    facts = {fact: row[name] for name, fact in FACTS.items() if fact in own}
    facts["labels"] = dict.fromkeys(rule.view.labels, "") | row["labels"]  # an older release may have known fewer
    facts["held_back"] = bool(row["held_back"])
    return Alert(rule, **facts)


def _event_row(change: Change, now_us: int) -> Row:
    facts = change.alert.facts()
    about = {name: facts[fact] for name, fact in EVENT_FACTS.items()}
    return about | {"time": now_us, "event": change.event, "who": change.who, "comment": change.comment}


def _outbox_rows(message: Message, now_us: int) -> Iterable[Row]:
    alerts = [snapshot(alert) for alert in message.alerts]
    body = json.dumps({"group": asdict(message.group), "alerts": alerts}, ensure_ascii=False)
    for receiver in message.group.receivers:
        yield {
            "time": now_us,
            "version": now_us,
            "message": message.group.key,
            "receiver": receiver,
            "state": "waiting",
            "body": body,
        }


def _group(group: Mapping[str, Any], message: str, receiver: str) -> NotificationGroup:
    notifications = tuple(AlertNotification(**one) for one in group["notifications"])
    return NotificationGroup(message, group["severity"], (receiver,), notifications)


def _orphaned(row: Row, now_us: int) -> Row:
    """The same alert, resolved: its rule is gone, so its series is evaluated no more."""
    return {**row, "status": "resolved", "resolved": now_us, "resolved_by": "rule removed", "version": now_us}


def _moment(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_us)
