"""Condition `baseline`: unlike what is usual at this hour.

Usual is the median of the same hour of the same weekday, if there are three of them in the look-back, else of the same
hour of all days; the spread is the median deviation from it × 1.48, which is the standard deviation of normal values.
With fewer than `min_baseline_days` days a baseline says nothing.

The hour of one day of 100,000 series takes as long to read as a window.  So the next hour is read ahead, a day between
each two windows.
"""

from __future__ import annotations

import time

import numpy as np
from clickhouse_connect.driver import Client
from numpy.typing import NDArray

from collector.alert.conditions.base import Judge, Verdict, evidence, figures, labeller, median
from collector.alert.rules import Rule
from collector.alert.series import SECOND_US, Floats, Limits, Series, WindowSeries, past_seconds
from collector.alert.settings import AlertSettings
from collector.store_reader import read_columns

HOUR_US = 3600 * SECOND_US
DAY_US = 24 * HOUR_US
SPREAD = 1.4826
"""Standard deviation ÷ median deviation of normal values."""
WEEK_DAYS = 7
WEEKS = 3
"""Same hours of the same weekday that are enough to take them alone."""
CLEAR_SHARE = 0.5
"""Hysteresis: clear is what deviates less than half as much as what fires."""


class Baseline(Judge):
    """The memory of what is usual in the present hour."""

    def __init__(self, rule: Rule, most: int, days: int, least_days: int) -> None:
        super().__init__(rule)
        self._most = most
        self._days = days
        self._least_days = least_days
        self._hour_us = -1
        self._series = np.zeros(0, np.uint64)
        self._usual: Floats = np.zeros(0)
        self._spread: Floats = np.zeros(0)
        self._ahead = Days(rule, -1, days)

    @classmethod
    def of(cls, rule: Rule, settings: AlertSettings) -> Judge:
        """Return the condition of a rule."""
        return cls(rule, settings.series, settings.baseline_days, settings.min_baseline_days)

    def prepare(self, client: Client, start_us: int, limits: Limits) -> bool:
        """Know the same hour of the days before; then read one day of the next hour."""
        hour_us = start_us // HOUR_US * HOUR_US
        if hour_us == self._hour_us:
            self._ahead.read(client, limits, 0)
            return True
        if self._ahead.hour_us != hour_us:
            self._ahead = Days(self.rule, hour_us, self._days)
        if not self._ahead.read(client, limits, past_seconds(self.rule.level, limits)):
            return False
        self._series, self._usual, self._spread = self._ahead.usual(self._most, self._least_days)
        self._hour_us = hour_us
        self._ahead = Days(self.rule, hour_us + HOUR_US, self._days)
        return True

    def judge(self, frame: WindowSeries) -> Verdict:
        """Judge the series of which it is known what is usual."""
        rule, found = self.rule, figures(self.rule, frame)
        usual, spread = self._of(frame)
        reach = rule.deviations * np.maximum(spread, rule.min_spread * np.abs(usual))
        reach = np.maximum(reach, rule.min_change)
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

    def _of(self, frame: WindowSeries) -> tuple[Floats, Floats]:
        """Usual value and spread of each series of the frame; NaN where unknown."""
        usual, spread = np.full(len(frame.series), np.nan), np.full(len(frame.series), np.nan)
        if len(self._series):
            places = np.minimum(np.searchsorted(self._series, frame.series), len(self._series) - 1)
            known = self._series[places] == frame.series
            usual[known], spread[known] = self._usual[places[known]], self._spread[places[known]]
        return usual, spread


class Days:
    """What was measured in one hour of the days before: 12 octets per series and day."""

    def __init__(self, rule: Rule, hour_us: int, days: int) -> None:
        self.hour_us = hour_us
        self._rule = rule
        self._left = list(range(days, 0, -1))
        """Days back that are not read; the last one is the next."""
        self._read: list[tuple[int, Series, NDArray[np.float32]]] = []
        """Days back, series, values; not the days without any."""

    def read(self, client: Client, limits: Limits, seconds: float) -> bool:
        """Read a day, and more for this many seconds; return whether all are read.  Blocks; raises the driver's
        errors."""
        rule, begun = self._rule, time.monotonic()
        sql = SQL.format(
            keys=", ".join(rule.view.keys), measure=rule.measure, view=rule.view.name("1h"), where=rule.view.where
        )
        while self._left:
            at_us = self.hour_us - self._left[-1] * DAY_US
            parameters = {"at": at_us // SECOND_US, "rows": limits.most}
            table = read_columns(client, sql, parameters, limits.bounds())
            back = self._left.pop()
            if table.num_rows:
                series = np.asarray(table.column("series").to_numpy(), np.uint64)
                self._read.append((back, series, np.asarray(table.column("v").to_numpy(), np.float32)))
            if time.monotonic() - begun >= seconds:
                break
        return not self._left

    def usual(self, most: int, least_days: int) -> tuple[Series, Floats, Floats]:
        """Return series in order, up to a limit, with their usual value and spread; only those with enough days."""
        if not self._read:
            return np.zeros(0, np.uint64), np.zeros(0), np.zeros(0)
        series = np.unique(np.concatenate([found for _, found, _ in self._read]))[:most]
        values = np.full((len(series), len(self._read)), np.nan)
        for column, (_, found, measured) in enumerate(self._read):
            known = found <= series[-1]
            values[np.searchsorted(series, found[known]), column] = measured[known]
        weekday = np.array([back % WEEK_DAYS == 0 for back, _, _ in self._read])
        alone = np.isfinite(values[:, weekday]).sum(axis=1) >= WEEKS
        values[np.ix_(alone, ~weekday)] = np.nan
        enough = np.isfinite(values).sum(axis=1) >= least_days
        series, values = series[enough], values[enough]
        usual = median(values)
        return series, usual, median(np.abs(values - usual[:, None])) * SPREAD


SQL = """
SELECT sipHash64({keys}) AS series, toFloat64(assumeNotNull({measure})) AS v
FROM {view}
WHERE time = toDateTime({{at:UInt32}}, 'UTC') AND {where} AND {measure} IS NOT NULL
LIMIT {{rows:UInt64}}
"""
