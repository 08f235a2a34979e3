"""Evaluation of windows: one query per scope and level, all rules of it over its columns, states brought up to date.

Where an alert ends since nothing is measured any more, window and inventory say why.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import numpy as np
from clickhouse_connect.driver import Client

from collector.alert.conditions.absent import ENDED, Absent
from collector.alert.conditions.base import Judge
from collector.alert.rules import Rule
from collector.alert.series import Limits, WindowSeries, read
from collector.alert.settings import AlertSettings
from collector.alert.state import FORGOTTEN, SECOND_US, Alert, AlertStates, Change
from collector.figures import moment
from collector.interfaces import Row, Scope
from collector.store_reader import read_rows
from schemas.rollups import LEVEL_US

ORDER: tuple[Scope, ...] = ("service", "exporter", "host", "interface", "vm", "pair")
"""Rules that may inhibit other alerts go first."""
LEFT_SECONDS = 7 * 86_400
LEARNED = "learned"
"""Directory in that of the spool, for what rules learn."""
MOST_PLACES = 100
"""VMs that the inventory is asked about at once; of more only the window is asked."""

# Where each VM was last, and whether it is still there.
PLACES_SQL = """
SELECT vm, max(open) AS there, argMax(host, valid_to) AS host, toInt64(toUnixTimestamp(max(valid_to))) AS until
FROM inventory FINAL WHERE vm IN {names:Array(String)} GROUP BY vm
"""


def judge_of(rule: Rule, settings: AlertSettings) -> Judge:
    """The condition of a rule: `conditions/trend.py` has `Trend`."""
    condition: type[Judge] = getattr(
        import_module(f"collector.alert.conditions.{rule.condition}"), rule.condition.capitalize()
    )
    return condition.of(rule, settings)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one window."""

    changes: list[Change]
    evaluated: dict[str, int]
    """By name of each rule that was evaluated, the number of its series."""
    failed: dict[str, BaseException]
    """By name of rule, why it was not."""
    put_off: list[str]
    """Names of rules that are still reading what was before this window."""
    left_out: int
    """Series that were not evaluated, for lack of room."""


@dataclass(frozen=True, slots=True)
class RuleStatus:
    """When a rule was last evaluated.  Times are µs since 1970, 0 where it has not happened."""

    evaluated_us: int = 0
    window_end_us: int = 0
    series: int = 0
    failed_us: int = 0
    error: str = ""
    """What went wrong at `failed_us`; stays until something else does."""


class Evaluator:
    """All rules and their states."""

    def __init__(self, settings: AlertSettings, rules: Sequence[Rule]) -> None:
        self._save_us, self._saved_us = round(settings.anomaly.save_seconds * SECOND_US), 0
        self.states = AlertStates(settings)
        self.scores: list[Row] = []
        """Rows of `anomaly_scores` to be stored."""
        self._limits = Limits(settings.query_seconds, settings.query_bytes, settings.series)
        self._most = settings.series
        self._judges = [judge_of(rule, settings) for rule in rules]

    def keep(self, directory: Path) -> dict[str, str]:
        """Let the rules keep what they learn in this directory.  Blocks.

        Returns by name of rule why what a former run kept is not used; such a rule begins with the stored windows.
        What rules that there are no more have kept is removed a week after they last wrote it.
        """
        for judge in self._judges:
            judge.keep(directory)
        known = {judge.rule.name for judge in self._judges}
        for path in [*directory.glob("*.state"), *directory.glob("*.part")]:
            with contextlib.suppress(OSError):
                if path.stem not in known and path.stat().st_mtime < time.time() - LEFT_SECONDS:
                    path.unlink()
        return {judge.rule.name: judge.unfit for judge in self._judges if judge.unfit}

    def save(self, now_us: int | None = None) -> dict[str, OSError]:
        """Write what the rules learned, if it is time (`now_us`); returns what went wrong.  Blocks."""
        if now_us is not None and abs(now_us - self._saved_us) < self._save_us:
            return {}
        if now_us is not None:
            self._saved_us, first = now_us, self._saved_us == 0
            if first:
                return {}
        failed = {}
        for judge in self._judges:
            try:
                judge.save()
            except OSError as error:
                failed[judge.rule.name] = error
        return failed

    def restore(self, alerts: Iterable[Alert]) -> None:
        """Take over alerts of a former run."""
        for alert in alerts:
            self.states.restore(alert)
            if alert.rule.condition == "absent" and not alert.lasts and alert.resolved_by not in ENDED:
                self.dismiss(alert, alert.resolved_us)
        for judge in self._judges:
            if isinstance(judge, Absent):
                # What fell silent before the restart is in no window any more.
                last = {
                    alert.series: (alert.labels, alert.window_end_us - round((alert.value or 0) * 1_000_000))
                    for alert in self.states.of_rule(judge.rule.name)
                }
                judge.adopt(last)

    def evaluate(self, client: Client, level: str, start_us: int, end_us: int) -> Outcome:
        """Evaluate the rules of this level over the window.  Blocks.  A query that fails costs its own rules only."""
        outcome = Outcome([], {}, {}, [], 0)
        for scope in ORDER:
            judges: dict[str, list[Judge]] = {}
            for judge in self._judges:
                if (judge.rule.scope, judge.rule.level) == (scope, level) and not judge.rule.about.own:
                    judges.setdefault(judge.rule.view.view, []).append(judge)
            for together in judges.values():
                outcome = self._scope(client, together, start_us, end_us, outcome)
        return outcome

    def own(self, values: Mapping[str, float], now_us: int) -> Outcome:
        """Evaluate the rules of what the service says of itself, over the last 10 s."""
        start_us, one = now_us - LEVEL_US["10s"], np.ones(1, bool)
        figures = {name: np.array([value]) for name, value in values.items()}
        frame = WindowSeries(start_us, now_us, np.zeros(1, np.uint64), one, figures, {}, {}, one)
        changes: list[Change] = []
        judges = [judge for judge in self._judges if judge.rule.measure in values and judge.rule.about.own]
        for judge in judges:
            changes += self.states.apply(judge.rule, judge.judge(frame), start_us, now_us)
        return Outcome(changes, {judge.rule.name: 1 for judge in judges}, {}, [], 0)

    def _scope(self, client: Client, judges: list[Judge], start_us: int, end_us: int, before: Outcome) -> Outcome:
        failed, put_off = dict(before.failed), list(before.put_off)
        ready = []
        for judge in judges:
            try:
                if judge.prepare(client, start_us, self._limits):
                    ready.append(judge)
                else:
                    put_off.append(judge.rule.name)
            except Exception as error:  # noqa: BLE001 - whatever the store says, the other rules go on
                failed[judge.rule.name] = error
        before = replace(before, put_off=put_off)
        if not ready:
            return replace(before, failed=failed)
        rules = [judge.rule for judge in ready]
        try:
            (frame,) = read(client, rules[0].view, rules[0].level, rules, start_us, end_us, self._limits)
        except Exception as error:  # noqa: BLE001 - as above
            return replace(before, failed=failed | dict.fromkeys((rule.name for rule in rules), error))
        frame, left_out = cut(frame, self._most)
        changes = list(before.changes)
        for judge in ready:
            verdict = judge.judge(frame)
            self.scores += judge.rare(frame, verdict)
            changed = self.states.apply(judge.rule, verdict, start_us, end_us)
            changes += self._explained(client, judge, frame, changed)
            left_out, judge.left_out = left_out + judge.left_out, 0
        evaluated = {judge.rule.name: judge.series(frame) for judge in ready}
        return Outcome(changes, before.evaluated | evaluated, failed, put_off, before.left_out + left_out)

    def _explained(self, client: Client, judge: Judge, frame: WindowSeries, changes: list[Change]) -> list[Change]:
        """The same, with a comment on those that ended since they are not measured any more."""
        forgotten = [one.alert for one in changes if one.who == FORGOTTEN and not one.comment]
        if not forgotten:
            return changes
        try:
            known = places(client, forgotten, self._limits)
        except Exception:  # noqa: BLE001 - without the inventory the window alone says why
            known = {}
        for alert in forgotten:
            alert.why = why(alert, judge, frame, known)
        return [replace(one, comment=one.alert.why) if one.alert in forgotten else one for one in changes]

    def retire(self, wanted: Mapping[str, str], now_us: int, who: str, comment: str) -> list[Change]:
        """Expect no exporter stream with these labels any more, until it sends again; what lasts of it ends.

        There is a change for each, whether or not it had fired: the next start knows by it who is not expected.
        """
        changes: list[Change] = []
        done: set[int] = set()
        judges = [judge for judge in self._judges if isinstance(judge, Absent) and judge.rule.view.rhythm]
        for judge in sorted(judges, key=lambda judge: judge.rule.replaced):
            for series, (labels, last_us) in judge.known(wanted).items():
                alert = self.states.of_series(judge.rule.name, series)
                if alert is not None or series not in done:
                    alert = alert or Alert(judge.rule, series, labels, last_us)
                    changes += self.states.retire(alert, now_us, who, comment)
                done.add(series)
                judge.dismiss(series, now_us)
        return changes

    def expected(self, rule: str, series: int, now_us: int) -> list[Row]:
        """What a rule takes for usual of a series in the day around now."""
        return [row for judge in self._judges if judge.rule.name == rule for row in judge.expected(series, now_us)]

    def take_counts(self) -> Iterator[tuple[str, str, str, int]]:
        """Return what happened in the rules since the last call: name of rule, metric, its last label, times."""
        for judge in self._judges:
            counts, judge.counts = judge.counts, Counter()
            for (metric, label), times in counts.items():
                yield judge.rule.name, metric, label, times

    def learn_verdict(self, alert: Alert) -> None:
        """Let the rule learn what a person said of its alert."""
        for judge in self._judges:
            if judge.rule.name == alert.rule.name:
                judge.learn_verdict(alert.series, alert.since_us, alert.judged_us, alert.verdict == "true")

    def dismiss(self, alert: Alert, now_us: int) -> None:
        """Do not expect the series of an absence that a person resolved; of an exporter, by no rule."""
        for judge in self._judges:
            same = judge.rule.name == alert.rule.name or judge.rule.view.rhythm
            if isinstance(judge, Absent) and judge.rule.scope == alert.rule.scope and same:
                judge.dismiss(alert.series, now_us)


def cut(frame: WindowSeries, most: int) -> tuple[WindowSeries, int]:
    """The frame with at most `most` series, and how many were left out: those with the highest hashes, each time."""
    if len(frame.series) <= most:
        return frame, 0
    return (
        replace(
            frame,
            series=frame.series[:most],
            present=frame.present[:most],
            counts=frame.counts[:most],
            figures={name: values[:most] for name, values in frame.figures.items()},
            texts={name: values[:most] for name, values in frame.texts.items()},
            passes={name: values[:most] for name, values in frame.passes.items()},
        ),
        len(frame.series) - most,
    )


@dataclass(frozen=True, slots=True)
class Place:
    """What the inventory knows of a VM."""

    there: bool
    host: str
    until_us: int
    """Last time it was known to hold."""


def places(client: Client, alerts: Iterable[Alert], limits: Limits) -> dict[str, Place]:
    """Where the VMs of these alerts are.  Blocks; raises the driver's errors."""
    names = sorted({alert.labels.get(name, "") for alert in alerts for name in alert.rule.view.vms} - {""})[
        :MOST_PLACES
    ]
    if not names:
        return {}
    return {
        str(row["vm"]): Place(bool(row["there"]), str(row["host"]), int(row["until"]) * SECOND_US)
        for row in read_rows(client, PLACES_SQL, {"names": names}, limits.bounds())
    }


def why(alert: Alert, judge: Judge, frame: WindowSeries, known: Mapping[str, Place]) -> str:
    """Why the series of this alert was not measured for so long, in words."""
    reasons = []
    for vm in alert.rule.view.vms:
        place = known.get(alert.labels.get(vm, ""))
        host = alert.labels.get(vm.replace("vm", "host"), "")
        if place is None:
            continue
        if not place.there:
            reasons.append(f"{alert.labels[vm]} is not in the inventory any more, since {moment(place.until_us)}")
        elif host and place.host != host:
            reasons.append(f"{alert.labels[vm]} has moved from {host} to {place.host}")
    rows = np.flatnonzero(frame.series == np.uint64(alert.series))
    since = moment(alert.window_end_us)
    if len(rows):
        words = frame.texts.get(f"{judge.rule.measure}_evidence")
        word = f" ({words[int(rows[0])].as_py()})" if words is not None else ""
        reasons.append(f"its {judge.rule.measure} cannot be measured since {since}{word}")
    else:
        reasons.append(f"nothing is seen of it since {since}")
    return "; ".join(reasons)
