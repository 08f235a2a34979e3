"""Table `anomaly_scores`: what rules with condition `anomaly` found unusual, whether or not they fired.

Only rows whose score is not below `alerts.anomaly.scores_least` are stored, and the highest of each window.
"""

from __future__ import annotations

import pyarrow as pa

from schemas.alerts import FLOAT, SCOPES, STRING
from schemas.column import ENUM, NAME, TIME_US, UINT8, UINT64, Column, Table
from schemas.flows import DELTA, LZ4, ZSTD


def _name(name: str, doc: str) -> Column:
    return Column(name, NAME, doc, missing="''", codec=ZSTD)


def _figure(name: str, doc: str) -> Column:
    return Column(name, FLOAT, doc, unit="see `unit`", missing="NULL", nullable=True, codec=ZSTD)


SCORES = Table(
    "anomaly_scores",
    "One window of one series that is rare.",
    (
        Column("time", TIME_US, "Begin of the window.", unit="µs since 1970", codec=DELTA),
        _name("level", "Length of the window: 10s, 1m or 1h."),
        _name("rule", "Name of the rule."),
        Column("scope", ENUM, "What the series is.", names=SCOPES, missing="pair", codec=LZ4),
        Column("series", UINT64, "Hash of the keys of the series in its view, as in `alerts`.", codec=ZSTD),
        Column(
            "labels",
            pa.map_(STRING, STRING),
            "Names of the series.",
            clickhouse_type="Map(LowCardinality(String), String)",
            missing="{}",
        ),
        _name("measure", "Column of the view."),
        _name("unit", "Unit of the figures."),
        _figure("value", "What was measured."),
        _figure("low", "Lower end of its 95 % interval; NULL where there is none."),
        _figure("high", "Upper end of its 95 % interval."),
        _figure("expected", "What was expected."),
        _figure("expected_low", "Lower end of what is usual."),
        _figure("expected_high", "Upper end of what is usual."),
        Column(
            "score",
            FLOAT,
            "How rare it is: 0 is what happens once a day among 1,000 series, 1 once in ten days, −1 ten times a day.",
            codec=ZSTD,
        ),
        Column("evidence", STRING, "What is unusual, in a sentence.", missing="''", codec=ZSTD),
        Column("beyond", UINT8, "1 if it was rare enough for the rule to fire.", codec=LZ4),
    ),
    order_by=("time", "rule", "series"),
    time="time",
    ttl_days=30,
)

ANOMALIES = f"""SELECT
    time, level, rule, scope, labels, measure, unit, value, low, high, expected, expected_low, expected_high,
    pow(10, score) AS once_in_days, evidence, beyond, series
FROM {SCORES.name}"""
"""The view of the same: `once_in_days` among 1,000 series."""
