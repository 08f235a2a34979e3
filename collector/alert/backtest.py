"""Rules over stored windows: what would have fired, and which limits would have been quiet.

Silences, inhibition and routes have no part in it: it counts alerts, not messages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from clickhouse_connect.driver import Client

from collector.alert.conditions.base import Judge, figures
from collector.alert.evaluate import cut, judge_of
from collector.alert.rules import Rule
from collector.alert.series import Floats, Limits, WindowSeries, pieces
from collector.alert.settings import AlertSettings
from collector.alert.state import Alert, AlertStates
from collector.interfaces import Scope
from collector.store_reader import read_rows
from schemas.rollups import LEVEL_US

DAY_US = 24 * LEVEL_US["1h"]
QUERY_SECONDS = 60.0
"""Longest time of one query, if that of the settings is not longer."""
SUMS: dict[Scope, str] = {
    "pair": "pair_{}", "vm": "pair_{}", "host": "pair_{}", "interface": "interface_{}",
    "exporter": "exporters", "service": "exporters",
}  # fmt: skip
"""Tables that hold a row for whatever a window of the scope shows."""
KEPT = 10_000
"""Alerts of one rule that are kept; more are only counted."""
QUANTILES = (0.99, 0.999, 0.9999, 0.99999, 1.0)
"""Of all windows of all series: where limits are tried."""
BUDGETS = (10.0, 3.0, 1.0, 0.3, 0.1)
"""Alerts a day and 1,000 series that are tried for a rule that learns."""
SAMPLE = 1_000_000
"""Values per rule that quantiles are taken of; of more, the most extreme are kept and the others thinned out."""


@dataclass(slots=True)
class BacktestResult:
    """What one rule would have done."""

    rule: Rule
    windows: int = 0
    """Windows with at least one series."""
    fired: int = 0
    series: set[int] = field(default_factory=set)
    """Series that fired."""
    alerts: list[Alert] = field(default_factory=list)
    """The first of them; ended ones have `resolved_us`."""
    refused: int = 0
    """Alerts not begun for lack of room: with these, `fired` is too low."""
    begin_us: int = 0
    """Begin of the first window with a series, 0 without one: stored windows may not reach back as far as was asked."""
    until_us: int = 0

    @property
    def days(self) -> float:
        """How long there was something to look at."""
        return (self.until_us - self.begin_us) / DAY_US if self.begin_us else 0.0

    @property
    def per_day(self) -> float:
        """Alerts a day."""
        return self.fired / self.days if self.days > 0 else 0.0


def replay(
    client: Client,
    rules: Sequence[Rule],
    settings: AlertSettings,
    since_us: int,
    until_us: int,
    *,
    query_seconds: float = QUERY_SECONDS,
    enough: Callable[[], bool] = lambda: False,
) -> list[BacktestResult]:
    """Run the rules over the windows between two times (µs since 1970).  Blocks; raises the driver's errors.

    Where it was `enough` before the end, `until_us` of the results says how far they reach.
    """
    # What the service says of itself stands in no stored window.
    tallies = [BacktestResult(rule, until_us=until_us) for rule in rules if not rule.about.own]
    for group in _together(tallies):
        judges = [judge_of(tally.rule, settings) for tally in group]
        states = AlertStates(settings)
        reached_us = since_us
        for frame in _frames(client, judges, settings, since_us, until_us, query_seconds, enough):
            for judge, tally in zip(judges, group, strict=True):
                _count(tally, judge, states, frame)
            reached_us = frame.end_us
        for tally in group:
            tally.refused = states.refused
            tally.until_us = reached_us if enough() else until_us
    return tallies


def _together(tallies: Iterable[BacktestResult]) -> list[list[BacktestResult]]:
    """Those that read the same view."""
    groups: dict[tuple[str, str, str], list[BacktestResult]] = {}
    for tally in tallies:  # scopes of one view may read other rows of it
        groups.setdefault((tally.rule.scope, tally.rule.view.view, tally.rule.level), []).append(tally)
    return list(groups.values())


def _count(tally: BacktestResult, judge: Judge, states: AlertStates, frame: WindowSeries) -> None:
    if len(frame.series):
        tally.windows += 1
        tally.begin_us = tally.begin_us or frame.start_us
    for change in states.apply(judge.rule, judge.judge(frame), frame.start_us, frame.end_us):
        if change.event == "firing":
            tally.fired += 1
            tally.series.add(change.alert.series)
            if len(tally.alerts) < KEPT:
                tally.alerts.append(change.alert)


def _frames(
    client: Client,
    judges: Sequence[Judge],
    settings: AlertSettings,
    since_us: int,
    until_us: int,
    query_seconds: float = QUERY_SECONDS,
    enough: Callable[[], bool] = lambda: False,
) -> Iterator[WindowSeries]:
    """All windows in order, each judge ready for it, until it is enough."""
    rule = judges[0].rule
    rules = [judge.rule for judge in judges]
    limits = Limits(max(query_seconds, settings.query_seconds), settings.query_bytes, settings.series)
    length = LEVEL_US[rule.level]
    start, end = -(-since_us // length) * length, until_us // length * length
    start = _first_us(client, rule, start, limits) or end
    for frame in pieces(client, rule.view, rule.level, rules, start, end, limits):
        for judge in judges:
            while not enough() and not judge.prepare(client, frame.start_us, limits):
                continue  # there is more to read, and time for it
        if enough():
            return
        yield cut(frame, settings.series)[0]


def _first_us(client: Client, rule: Rule, since_us: int, limits: Limits) -> int:
    """Return the begin of the first window that may hold something from then on, 0 if there is none.

    Empty windows take as long as others: seven days of a young store, minutes.  Blocks; raises the driver's errors.
    """
    table = SUMS[rule.scope].format(rule.level)
    sql = f"SELECT toUnixTimestamp(min(time)) AS first FROM {table} WHERE time >= toDateTime({{since:UInt32}})"  # noqa: S608 - ours
    (found,) = read_rows(client, sql, {"since": since_us // 1_000_000}, limits.bounds())
    length = LEVEL_US[rule.level]
    return max(since_us, int(found["first"]) * 1_000_000 // length * length) if found["first"] else 0


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What a rule would have done with another limit."""

    rule: Rule
    """With that limit."""
    tally: BacktestResult
    present: bool
    """It is the limit of the settings."""
    measured: bool
    """Whether there was any value to try limits on."""


def suggest(
    client: Client, rules: Sequence[Rule], settings: AlertSettings, since_us: int, until_us: int
) -> list[Suggestion]:
    """Try limits where the measured values lie.  Blocks; raises the driver's errors.

    Only rules with a `threshold`, and budgets of `anomaly`, are tried; those of one rule stand together, the present
    one first.
    """
    tried: list[tuple[Rule, bool, bool]] = []
    for rule in rules:
        if rule.condition == "anomaly":
            others = [rule.model_copy(update={"alerts_per_day": one}) for one in BUDGETS if one != rule.alerts_per_day]
            tried += [(rule, True, True), *((other, False, True) for other in others)]
        if rule.condition != "threshold" or rule.about.own:
            continue
        values = _nearest(client, rule, settings, since_us, until_us)
        limits = [limit for limit in candidates(values, rule.sign) if limit != rule.limit and rule.can_pass(limit)]
        tried += [(rule, True, len(values) > 0), *((_with_limit(rule, limit), False, True) for limit in limits)]
    # States know rules by their names: each limit needs its own.
    named = [rule.model_copy(update={"name": f"limit_{number}"}) for number, (rule, *_) in enumerate(tried)]
    tallies = replay(client, named, settings, since_us, until_us)
    return [Suggestion(rule, tally, *how) for (rule, *how), tally in zip(tried, tallies, strict=True)]


def _nearest(client: Client, rule: Rule, settings: AlertSettings, since_us: int, until_us: int) -> Floats:
    """The end of the interval that decides, of all series and windows: a sample that holds the most extreme ones."""
    judge = judge_of(rule, settings)
    kept: list[Floats] = []
    count = 0
    for frame in _frames(client, [judge], settings, since_us, until_us):
        found = figures(rule, frame)
        kept.append((found.low if rule.sign > 0 else found.high)[found.data])
        count += len(kept[-1])
        if count > 2 * SAMPLE:
            kept = [_thinned(np.concatenate(kept), rule.sign)]
            count = len(kept[0])
    return np.concatenate(kept) if kept else np.zeros(0)


def _thinned(values: Floats, sign: int) -> Floats:
    """Half of the values: every second one of those in order, so that quantiles stay; the extreme ones first."""
    return np.sort(values * sign)[::-1][::2] * sign


def candidates(values: Floats, sign: int) -> list[float]:
    """Limits to try: quantiles of the values, rounded to two digits away from the crowd, none twice."""
    if not len(values):
        return []
    found = [_rounded(float(np.quantile(values * sign, quantile)) * sign, sign) for quantile in QUANTILES]
    return sorted(set(found), key=lambda limit: limit * sign)


def _rounded(value: float, sign: int) -> float:
    if value == 0:
        return 0.0
    digits = 1 - math.floor(math.log10(abs(value)))
    scaled = value * 10.0**digits
    whole = math.ceil(scaled - 1e-9) if sign > 0 else math.floor(scaled + 1e-9)
    return float(f"{whole / 10.0**digits:.12g}")


def _with_limit(rule: Rule, limit: float) -> Rule:
    """The rule with another limit, and a clear level as far from it, in proportion."""
    share = rule.clear / rule.limit if rule.clear is not None and rule.limit else 1.0
    side = "above" if rule.sign > 0 else "below"
    return rule.model_copy(update={side: limit, "clear": limit * share})
