"""Windows as columns: what a view says about all series of a scope, without an object per series."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from clickhouse_connect.driver import Client
from numpy.typing import NDArray

from collector.alert.rules import Filter, Rule
from collector.alert.scopes import Measure, ScopeView
from collector.store_reader import Bounds, read_columns
from schemas.rollups import LEVEL_US, LEVELS
from schemas.text import clean, sql_literal

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Series = NDArray[np.uint64]

SECOND_US = 1_000_000
MARGIN = 2
CHUNK_ROWS = 50_000
"""Rows per query of many windows, about."""
CHUNK_WINDOWS = 360
PAST_SHARE = 0.5
"""Of the longest time of a query, that a rule may read its past between two windows."""
PAST_WINDOW_SHARE = 1 / 60
"""Of the time between two windows, at least: a minute for windows of an hour, which would else be put off for days."""
PARTS = ("", "_low", "_high", "_samples", "_centre", "_allowance", "_point")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a query may cost."""

    seconds: float
    octets: int
    rows: int
    """Rows per window; more are left out."""

    @property
    def most(self) -> int:
        """Rows of a window that a query reads: enough for the caller to leave out the same ones each time."""
        return MARGIN * self.rows

    def bounds(self, windows: int = 1) -> Bounds:
        """Those of a query of so many windows."""
        return Bounds(self.seconds, self.octets, windows * self.most)


@dataclass(frozen=True, slots=True)
class WindowSeries:
    """One window of one scope; all columns have a row per series."""

    start_us: int
    end_us: int
    series: Series
    """Hash of the series' keys."""
    present: Flags
    """Whether the row is a sign of life."""
    figures: Mapping[str, Floats]
    """`measure`, `measure_low`, `_high` and so on (`PARTS`); NaN where nothing is known."""
    texts: Mapping[str, pa.Array]
    """Labels; `measure_evidence`."""
    passes: Mapping[str, Flags]
    """By name of rule: which series its filter lets through.  Rules without a filter are not in it."""
    counts: Flags
    """Whether the row is enough to get to know the series by."""

    def labels(self, row: int, names: Iterable[str]) -> dict[str, str]:
        """The labels of one series; cleaned again, for the store may hold rows of a release that did not."""
        return {name: clean(str(self.texts[name][row].as_py())) for name in names}


def read(
    client: Client, view: ScopeView, level: str, rules: Iterable[Rule], start_us: int, end_us: int, limits: Limits
) -> Iterator[WindowSeries]:
    """The windows from `start_us` to before `end_us`, in order, series by their hash; without rows, empty frames.

    Blocks.  Raises the driver's errors.  A window may have up to `MARGIN` times `limits.rows` rows: the caller cuts
    them off, the same series each time.  Of more rows than that, any are read.
    """
    rules = tuple(rules)
    sql, parameters = query(view, level, rules)
    length = LEVEL_US[level]
    parameters |= {"start": start_us // SECOND_US, "end": end_us // SECOND_US, "rows": limits.most}
    table = read_columns(client, sql, parameters, limits.bounds((end_us - start_us) // length))
    begins, series = _numbers(table, "window", np.int64) * SECOND_US, _numbers(table, "series", np.uint64)
    # Put in order here: in the query it takes a third of the time.
    order = np.lexsort((series, begins))
    # In the window in which a VM got another name it has two rows: the first one counts.
    begins, series = begins[order], series[order]
    first = np.ones(len(order), bool)
    first[1:] = (begins[1:] != begins[:-1]) | (series[1:] != series[:-1])
    table, begins = table.take(pa.array(order[first])), begins[first]
    empty = _frame(table.slice(0, 0), view, rules, start_us, start_us + length)
    for start in range(start_us, end_us, length):
        begin, end = np.searchsorted(begins, (start, start + 1))
        if begin == end:
            yield replace(empty, start_us=start, end_us=start + length)
        else:
            yield _frame(table.slice(int(begin), int(end - begin)), view, rules, start, start + length)


def pieces(
    client: Client, view: ScopeView, level: str, rules: Iterable[Rule], start_us: int, end_us: int, limits: Limits
) -> Iterator[WindowSeries]:
    """As `read`, for many windows: as many per query as have some ten thousand rows.

    A query of few rows costs as much as one of these, and one of many runs into the limits.
    """
    rules, length, windows = tuple(rules), LEVEL_US[level], 1
    while start_us < end_us:
        stop = min(end_us, start_us + windows * length)
        rows = 0
        for frame in read(client, view, level, rules, start_us, stop, limits):
            rows += len(frame.series)
            yield frame
        windows = max(1, min(CHUNK_WINDOWS, windows * 2, round(windows * CHUNK_ROWS / max(rows, 1))))
        start_us = stop


def past_seconds(level: str, limits: Limits) -> float:
    """How long a rule may read its past between two windows."""
    return max(limits.seconds * PAST_SHARE, LEVELS[level] * PAST_WINDOW_SHARE)


class Past:
    """The windows before those that a rule judges, for a condition that must know them.

    Of 100,000 series that is a minute of reading.  It is done in parts, each between two windows, so that the other
    rules do not wait for it.
    """

    def __init__(self, rule: Rule, windows: int, level: str = "") -> None:
        """`level`: of the windows, if not that of the rule."""
        self._rule, self._level = rule, level or rule.level
        self._length_us = windows * LEVEL_US[self._level]
        self.read_us = 0
        """What lies before this is read or judged, µs since 1970."""

    def frames(self, client: Client, start_us: int, limits: Limits) -> Iterator[WindowSeries]:
        """The windows before `start_us` that are not read yet, oldest first, for as long as there is time.

        Blocks.  Raises the driver's errors; the next call goes on behind the last window.
        """
        rule, begun = self._rule, time.monotonic()
        first = max(self.read_us, start_us - self._length_us)
        for frame in pieces(client, rule.view, self._level, [rule], first, start_us, limits):
            self.read_us = frame.end_us
            yield frame
            if time.monotonic() - begun > past_seconds(rule.level, limits):
                return
        self.read_us = max(self.read_us, start_us)


def _frame(table: pa.Table, view: ScopeView, rules: tuple[Rule, ...], start_us: int, end_us: int) -> WindowSeries:
    figures = {}
    texts = {name: _text(table, f"label_{name}") for name in view.labels}
    for name, measure in _watched(rules).items():
        for part in PARTS:
            if f"m_{name}{part}" in table.column_names:
                figures[f"{name}{part}"] = _numbers(table, f"m_{name}{part}", np.float64)
        if measure.evidence:
            texts[f"{name}_evidence"] = _text(table, f"e_{name}")
    for name in view.changes:
        if f"m_{name}" in table.column_names:
            figures[name] = _numbers(table, f"m_{name}", np.float64)
    passes = {rule.name: _numbers(table, f"pass_{rule.name}", np.uint8) > 0 for rule in rules if rule.only != Filter()}
    present, counts = (_numbers(table, name, np.uint8) > 0 for name in ("present", "counts"))
    return WindowSeries(start_us, end_us, _numbers(table, "series", np.uint64), present, figures, texts, passes, counts)


def _numbers(table: pa.Table, name: str, kind: Any) -> NDArray[Any]:
    return np.asarray(table.column(name).to_numpy(), dtype=kind)


def _text(table: pa.Table, name: str) -> pa.Array:
    return table.column(name).combine_chunks()


def query(view: ScopeView, level: str, rules: Iterable[Rule]) -> tuple[str, dict[str, Any]]:
    """SQL for all that these rules (of one scope and level) need, and its parameters but for time and limit."""
    parameters: dict[str, Any] = {}
    columns = ["toUnixTimestamp(time) AS window", f"sipHash64({', '.join(view.keys)}) AS series"]
    columns.append(f"toUInt8({view.present}) AS present")
    columns.append(f"toUInt8({view.counts or view.present}) AS counts")
    columns += [f"{sql} AS label_{name}" for name, sql in view.labels.items()]
    rules = tuple(rules)
    if any(rule.condition == "anomaly" for rule in rules):
        columns += [f"toFloat64(ifNull({name}, 0)) AS m_{name}" for name in view.changes]
    for name, measure in _watched(rules).items():
        parts = (measure.low, measure.high, measure.samples, measure.centre, measure.allowance, measure.point)
        for part, sql in zip(PARTS, (name, *parts), strict=True):
            if sql:
                columns.append(f"ifNull(toFloat64({sql}), nan) AS m_{name}{part}")
        if measure.evidence:
            columns.append(f"toString({measure.evidence}) AS e_{name}")
    for rule in rules:
        if rule.only != Filter():
            columns.append(f"toUInt8({_filter(rule, parameters)}) AS pass_{rule.name}")
    sql = (
        f"SELECT {', '.join(columns)} FROM {view.name(level)} "  # noqa: S608 - our own names
        "WHERE time >= toDateTime({start:UInt32}, 'UTC') AND time < toDateTime({end:UInt32}, 'UTC') "
        f"AND {view.where} LIMIT {{rows:UInt64}} BY window"
    )
    return sql, parameters


def _watched(rules: Iterable[Rule]) -> dict[str, Measure]:
    return {rule.measure: rule.about for rule in rules if rule.measure and not rule.about.own}


def _filter(rule: Rule, parameters: dict[str, Any]) -> str:
    """SQL that is true for the series that the rule's filter lets through."""
    view, only = rule.view, rule.only
    parts = []
    for names, patterns in ((view.vms, only.vm), (view.hosts, only.host), (("network",), only.network)):
        if patterns:
            placeholder = _placeholder(parameters, patterns)
            parts.append("(" + " OR ".join(f"match(toString({name}), {placeholder})" for name in names) + ")")
    if only.project:
        placeholder = _placeholder(parameters, only.project)
        known = f"(SELECT vm_uuid FROM inventory WHERE match(toString(project), {placeholder}))"  # noqa: S608 - a parameter
        parts.append("(" + " OR ".join(f"{name} IN {known}" for name in view.uuids) + ")")
    return " AND ".join(parts)


def _placeholder(parameters: dict[str, Any], patterns: Iterable[str]) -> str:
    name = f"p{len(parameters)}"
    parameters[name] = expression(patterns)
    return f"{{{name}:String}}"


def expression(patterns: Iterable[str]) -> str:
    """A regular expression (RE2) for what matches one of the patterns; only `*` and `?` mean something."""
    parts = []
    for pattern in patterns:
        pieces = {"*": ".*", "?": "."}
        parts.append("".join(pieces[sign] if sign in pieces else re.escape(sign) for sign in pattern))
    return f"^(?s:{'|'.join(parts)})$"


def drilldown_sql(rule: Rule, labels: Mapping[str, str], start_us: int, end_us: int) -> str:
    """A query that shows the series from some windows before to now."""
    span = 12 * LEVEL_US[rule.level]
    first, last = (start_us - span) // SECOND_US, end_us // SECOND_US
    conditions = [f"time >= toDateTime({first}, 'UTC')", f"time < toDateTime({last}, 'UTC')"]
    if rule.scope == "service":
        conditions.append("exporter = '::'")
    conditions += [f"{rule.view.labels[name]} = {sql_literal(labels[name])}" for name in rule.view.naming]
    where = " AND ".join(conditions)
    return f"SELECT * FROM {rule.view.name(rule.level)} WHERE {where} ORDER BY time"  # noqa: S608 - to be read by people
