"""Condition `baseline`: unlike what is usual at this hour.

Usual is the median of the same hour of the same weekday, if there are three of them in the look-back, else of the same
hour of all days; the spread is the median deviation from it × 1.48, which is the standard deviation of normal values.
With fewer than `baseline_least_days` days a baseline says nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from clickhouse_connect.driver import Client

from collector.alert.conditions import Verdict, evidence, figures, labeller
from collector.alert.frame import SECOND_US, Floats, Frame, Limits
from collector.alert.rules import Rule

HOUR_US = 3600 * SECOND_US
SPREAD = 1.4826
"""Standard deviation ÷ median deviation of normal values."""
WEEKS = 3
"""Same hours of the same weekday that are enough to take them alone."""
CLEAR_SHARE = 0.5
"""Hysteresis: clear is what deviates less than half as much as what fires."""


class Baseline:
    """Remembers what is usual in the present hour."""

    def __init__(self, rule: Rule, most: int, days: int, least_days: int) -> None:
        self.rule = rule
        self._most = most
        self._days = days
        self._least_days = least_days
        self._hour_us = -1
        self._series = np.zeros(0, np.uint64)
        self._usual: Floats = np.zeros(0)
        self._spread: Floats = np.zeros(0)

    def prepare(self, client: Client, start_us: int, limits: Limits) -> bool:
        """In the first window of each hour: read the same hour of the days before."""
        hour_us = start_us // HOUR_US * HOUR_US
        if hour_us == self._hour_us:
            return True
        rule = self.rule
        parameters: dict[str, Any] = {
            "hour": hour_us // SECOND_US,
            "begin": (hour_us - self._days * 24 * HOUR_US) // SECOND_US,
            "weeks": WEEKS,
            "least": self._least_days,
            "most": self._most,
        }
        sql = SQL.format(
            keys=", ".join(rule.view.keys), measure=rule.measure, view=rule.view.name("1h"), where=rule.view.where
        )
        table = client.query_arrow(sql, parameters=parameters, settings=limits.settings())
        self._series = np.asarray(table.column("series").to_numpy(), np.uint64)
        self._usual = np.asarray(table.column("usual").to_numpy(), np.float64)
        self._spread = np.asarray(table.column("deviation").to_numpy(), np.float64) * SPREAD
        self._hour_us = hour_us
        return True

    def judge(self, frame: Frame) -> Verdict:
        """Judge the series of which it is known what is usual."""
        rule, found = self.rule, figures(self.rule, frame)
        usual, spread = self._of(frame)
        reach = rule.deviations * np.maximum(spread, rule.least_spread * np.abs(usual))
        reach = np.maximum(reach, rule.least_change)
        data = found.data & np.isfinite(usual)
        over = found.low > usual + reach if rule.direction != "below" else np.zeros(len(usual), bool)
        under = found.high < usual - reach if rule.direction != "above" else np.zeros(len(usual), bool)
        beyond = data & (over | under)
        off = np.abs(found.value - usual)
        if rule.direction != "both":
            off = np.maximum(0, (found.value - usual) * (1 if rule.direction == "above" else -1))
        return Verdict(
            series=frame.series,
            data=data,
            beyond=beyond,
            certain=np.zeros(len(usual), bool),
            clear=data & ~beyond & (off <= reach * CLEAR_SHARE),
            value=found.value,
            low=found.low,
            high=found.high,
            threshold=np.where(found.value >= usual, usual + reach, usual - reach),
            samples=found.samples,
            labels=labeller(rule, frame),
            evidence=evidence(rule, frame),
            bounded=bool(rule.about.low),
        )

    def _of(self, frame: Frame) -> tuple[Floats, Floats]:
        """Usual value and spread of each series of the frame; NaN where unknown."""
        usual, spread = np.full(len(frame.series), np.nan), np.full(len(frame.series), np.nan)
        if len(self._series):
            places = np.minimum(np.searchsorted(self._series, frame.series), len(self._series) - 1)
            known = self._series[places] == frame.series
            usual[known], spread[known] = self._usual[places[known]], self._spread[places[known]]
        return usual, spread


SQL = """
SELECT series,
    if(length(weekday) >= {{weeks:UInt32}}, weekday, every) AS taken,
    toFloat64(arrayReduce('median', taken)) AS usual,
    toFloat64(arrayReduce('median', arrayMap(one -> abs(one - usual), taken))) AS deviation
FROM (
    SELECT series, groupArray(v) AS every, groupArrayIf(v, same) AS weekday
    FROM (
        SELECT sipHash64({keys}) AS series, toFloat64(assumeNotNull({measure})) AS v,
            toDayOfWeek(time, 0, 'UTC') = toDayOfWeek(toDateTime({{hour:UInt32}}, 'UTC'), 0, 'UTC') AS same
        FROM {view}
        WHERE time >= toDateTime({{begin:UInt32}}, 'UTC') AND time < toDateTime({{hour:UInt32}}, 'UTC')
            AND toHour(time, 'UTC') = toHour(toDateTime({{hour:UInt32}}, 'UTC'), 'UTC')
            AND {where} AND {measure} IS NOT NULL
    )
    GROUP BY series
)
WHERE length(taken) >= {{least:UInt32}}
ORDER BY series
LIMIT {{most:UInt64}}
"""
