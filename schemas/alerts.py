"""Tables of alerts: `alerts` with one row per alert, `alert_events` with each change, messages to deliver, silences,
runs of actions.

`alerts`, `alert_outbox` and `alert_silences` hold the newest state of each key: query them with FINAL.
"""

from __future__ import annotations

import pyarrow as pa

from schemas.column import ENUM, NAME, TIME_US, UINT8, UINT32, UINT64, Column, Table
from schemas.flows import DELTA, LZ4, T64, ZSTD

STRING = pa.string()
FLOAT = pa.float64()
SEVERITIES = ("info", "warning", "critical")
SCOPES = ("pair", "vm", "interface", "host", "exporter", "service")
STATUSES = ("firing", "acknowledged", "resolved")
EVENTS = (
    "firing", "resolved", "escalated", "acknowledged", "stale", "measured", "inhibited", "silenced", "notified",
    "judged",
)  # fmt: skip
VERDICTS = ("none", "true", "false")
ACTION_KINDS = ("command", "webhook")
ACTION_RESULTS = ("ok", "failed", "late", "limited", "dry_run", "stopped")


def _time(name: str, doc: str, missing: str = "1970-01-01") -> Column:
    return Column(name, TIME_US, doc, unit="µs since 1970", codec=DELTA, missing=missing)


def _name(name: str, doc: str) -> Column:
    return Column(name, NAME, doc, missing="''", codec=ZSTD)


def _text(name: str, doc: str) -> Column:
    return Column(name, STRING, doc, missing="''", codec=ZSTD)


def _figure(name: str, doc: str) -> Column:
    return Column(name, FLOAT, doc, unit="see `unit`", missing="NULL", nullable=True, codec=ZSTD)


def _enum(name: str, doc: str, names: tuple[str, ...]) -> Column:
    return Column(name, ENUM, doc, names=names, missing=names[0], codec=LZ4)


VERSION = Column("version", UINT64, "Grows with each change: the highest counts.", unit="µs since 1970", codec=T64)

_SERIES = (
    Column("alert_id", STRING, "32 hexadecimal digits, for one alert from its begin to its end.", codec=ZSTD),
    Column("fingerprint", STRING, "Of rule and series: the next alert of the same series has it, too.", codec=ZSTD),
    _name("rule", "Name of the rule."),
    _enum("severity", "How bad it is.", SEVERITIES),
    _enum("scope", "What the series is.", SCOPES),
    Column(
        "labels",
        pa.map_(STRING, STRING),
        "Names of the series: `src_vm`, `dst_vm`, `host` and so on.",
        clickhouse_type="Map(LowCardinality(String), String)",
        missing="{}",
    ),
)

_FIGURES = (
    _name("measure", "Column of the view; empty for absence."),
    _name("unit", "Unit of the figures."),
    _figure("value", "Value in the last window that had one."),
    _figure("low", "Lower end of its 95 % interval; NULL where there is none."),
    _figure("high", "Upper end of its 95 % interval."),
    Column("samples", FLOAT, "What the value rests on.", unit="samples", missing="NULL", nullable=True, codec=ZSTD),
    _text("evidence", "State of the evidence as the view says it; of `anomaly`, what is unusual, in a sentence."),
    _figure("threshold", "What the value was compared with."),
    _name("condition", "Kind of condition, as in the rule."),
    _name("level", "Length of the windows: 10s, 1m or 1h."),
    _time("window_start", "Begin of the window of the value."),
    _time("window_end", "End of that window."),
)

ALERTS = Table(
    "alerts",
    "One alert, from the moment it fires; the newest state (ask with FINAL).",
    (
        _time("time", "When it fired; never changes."),
        VERSION,
        *_SERIES,
        Column("series", UINT64, "Hash of the keys of the series in its view.", codec=ZSTD),
        _enum("status", "Where it stands.", STATUSES),
        _time("since", "Begin of the first window beyond the limit."),
        _time("acknowledged", "When a person acknowledged it; 1970 if none did."),
        _text("acknowledged_by", "Who took it on."),
        _time("resolved", "When it ended; 1970 while it lasts."),
        _text("resolved_by", "Who or what ended it: `clear`, `forgotten`, or a person."),
        _enum("verdict", "Whether it was right to fire, as a person said: `none` did.", VERDICTS),
        _time("judged", "When the person said so; 1970 if none did."),
        _time("stale_since", "Since when nothing is measured of it; 1970 while something is."),
        *_FIGURES,
        _figure("worst", "Value furthest beyond the limit so far."),
        _time("notified", "When its message was handed over to delivery; 1970 if it was not."),
        Column("held_back", UINT8, "1 if a silence or another alert keeps its message back.", codec=LZ4),
        Column("escalations", UINT32, "How often it was escalated.", unit="times", codec=LZ4),
        _text("summary", "Sentence of the rule, filled in."),
    ),
    order_by=("alert_id",),
    time="time",
    ttl_days=400,
    partition="toYYYYMM",
    engine="ReplacingMergeTree(version)",
)

EVENTS_TABLE = Table(
    "alert_events",
    "One change of one alert.",
    (
        _time("time", "When it happened."),
        *_SERIES,
        _enum(
            "event",
            "What happened. `stale`: nothing is measured any more; `measured`: again something. `inhibited`, "
            "`silenced`: its message is kept back; `notified`: it is handed over to delivery. `judged`: a person "
            "said of one that had ended whether it was right.",
            EVENTS,
        ),
        _text("who", "Who or what did it."),
        _text("comment", "Comment of the person who did it; empty if there is none."),
        *_FIGURES,
    ),
    order_by=("time", "alert_id"),
    time="time",
    ttl_days=400,
    partition="toYYYYMM",
)

OUTBOX = Table(
    "alert_outbox",
    "A message to one receiver, until it is delivered (ask with FINAL).",
    (
        _time("time", "When it was handed over; never changes."),
        VERSION,
        Column("message", STRING, "Key of the message.", codec=ZSTD),
        _name("receiver", "Name of the receiver."),
        _enum("state", "Whether the receiver has it.", ("waiting", "delivered", "given_up")),
        _text("body", "The message and the alerts it is about, as JSON; empty once it is delivered."),
    ),
    order_by=("message", "receiver"),
    time="time",
    ttl_days=30,
    engine="ReplacingMergeTree(version)",
)

SILENCES = Table(
    "alert_silences",
    "A silence: alerts whose messages are kept back (ask with FINAL).",
    (
        _time("time", "When it was made; never changes."),
        VERSION,
        Column("silence_id", STRING, "32 hexadecimal digits.", codec=ZSTD),
        _time("until", "When it ends."),
        Column(
            "matchers",
            pa.map_(STRING, STRING),
            "Label (or `rule`, `severity`, `scope`) and its pattern; all must match.",
            clickhouse_type="Map(String, String)",
            missing="{}",
        ),
        _text("who", "Who made it."),
        _text("comment", "Why."),
    ),
    order_by=("silence_id",),
    time="time",
    ttl_days=400,
    partition="toYYYYMM",
    engine="ReplacingMergeTree(version)",
)

ACTION_RUNS = Table(
    "action_runs",
    "One run of an action: what an alert made vmflow do, or would have made it do (audit).",
    (
        _time("time", "When it ended, or was refused."),
        _name("action", "Name of the action in the settings."),
        _enum("kind", "What it is.", ACTION_KINDS),
        _enum(
            "result",
            "The result. `dry_run`: not run, since the settings say so; `limited`: not run, since it ran too "
            "often; `failed`: could not be run, exit code other than 0, or an HTTP status other than 2xx; `late`: "
            "stopped at its time limit; `stopped`: stopped with the service.",
            ACTION_RESULTS,
        ),
        _name("event", "Change of the alert: firing, resolved, escalated or acknowledged."),
        _name("rule", "Name of the rule."),
        Column("alert_id", STRING, "The alert, as in `alerts`.", codec=ZSTD),
        _text("target", "Command and arguments as JSON; of a webhook, its host."),
        _name("status", "`exit 0`, `signal 9`, `HTTP 200`; empty if it did not get so far."),
        Column("duration_us", UINT64, "How long it took.", unit="µs", codec=T64),
        _text("output", "Begin of what it printed or answered, or why it could not be run."),
    ),
    order_by=("time", "action"),
    time="time",
    ttl_days=400,
    partition="toYYYYMM",
)

ALERT_TABLES = (ALERTS, EVENTS_TABLE, OUTBOX, SILENCES, ACTION_RUNS)


def times_as_us(table: Table) -> str:
    """SQL of the columns of `found`, rows of a table, as their own names; times as µs since 1970."""
    return ", ".join(
        f"toUnixTimestamp64Micro(found.{column.name}) AS {column.name}" if column.arrow == TIME_US else column.name
        for column in table.stored
    )


def newest_sql(table: Table, where: str) -> str:
    """SQL for the newest state of the rows that a condition holds for, in the order of their changes.

    The condition stands in an inner query, where times are times: outside, their names mean numbers.
    """
    inside = f"SELECT * FROM {table.name} FINAL WHERE {where}"
    return f"SELECT {times_as_us(table)} FROM ({inside}) AS found ORDER BY version"
