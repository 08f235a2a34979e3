"""State of alerts: pending → firing → acknowledged → resolved, one per rule and series.

    beyond for long enough ──► firing ──► clear for long enough ──► resolved
    pending                     │  ▲ acknowledge                     an alert that flaps must be clear for longer
       └── not beyond: forgotten└──┘
    nothing measured: the state stays as it is, and says so (`stale`), until it is `forgotten` (`Rule.forget_after`)

Nothing here reads a clock or a store.  Only rows that are beyond, or that have a state, cost Python.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, Literal, get_type_hints
from uuid import uuid4

import numpy as np

from collector.alert.conditions.base import Verdict
from collector.alert.rules import Rule
from collector.alert.settings import AlertSettings
from collector.figures import figure, moment
from collector.interfaces import Opinion
from schemas.rollups import LEVELS

Status = Literal["pending", "firing", "acknowledged", "resolved"]
Happened = Literal[
    "firing",
    "resolved",
    "escalated",
    "acknowledged",
    "stale",
    "measured",
    "inhibited",
    "silenced",
    "notified",
    "judged",
]
"""`schemas.alerts.EVENTS`."""

SECOND_US = 1_000_000
FORGOTTEN = "forgotten"
"""`resolved_by` of what is not measured any more."""
STALE_WINDOWS = 3
"""Windows without a figure, one after the other, that are worth an event: where few packets are sampled, every second
window says nothing."""
FLAPPING_KNOWN = 20_000
"""Series whose former alerts are remembered, to know flapping; the oldest are forgotten first."""

Key = tuple[str, int]
"""Rule and series."""


@dataclass(slots=True)
class Alert:
    """One alert.  Times are µs since 1970, 0 where something has not happened.

    Fields are called as the columns of `schemas.alerts` that hold them, times with `_us` behind: `alert.store` copies
    them by name.
    """

    rule: Rule
    series: int
    labels: dict[str, str]
    since_us: int
    alert_id: str = field(default_factory=lambda: uuid4().hex)
    status: Status = "pending"
    version: int = 0
    fired_us: int = 0
    """`time` in the table."""
    acknowledged_us: int = 0
    acknowledged_by: str = ""
    resolved_us: int = 0
    resolved_by: str = ""
    verdict: Opinion = "none"
    judged_us: int = 0
    stale_since_us: int = 0
    value: float | None = None
    low: float | None = None
    high: float | None = None
    samples: float | None = None
    evidence: str = ""
    threshold: float | None = None
    worst: float | None = None
    window_start_us: int = 0
    window_end_us: int = 0
    windows_beyond: int = 0
    windows_clear: int = 0
    notified_us: int = 0
    held_back: bool = False
    escalations: int = 0
    why: str = ""
    """Why it ended: what the person said who ended it, or why it was forgotten."""

    @property
    def fingerprint(self) -> str:
        """Of rule and series."""
        return hashlib.blake2b(f"{self.rule.name} {self.series}".encode(), digest_size=16).hexdigest()

    @property
    def lasts(self) -> bool:
        """Whether it has fired and not ended."""
        return self.status in ("firing", "acknowledged")

    @property
    def summary(self) -> str:
        """The rule's sentence, filled in.  Rules are checked to name nothing else."""
        return self.rule.text.format_map(_Words(self))

    def judge(self, verdict: Opinion, now_us: int) -> None:
        """Note what a person said of it."""
        if verdict != "none":
            self.verdict, self.judged_us = verdict, now_us

    def facts(self) -> dict[str, Any]:
        """What tables and messages have of it, by name: its fields, and what the rule says of them."""
        rule = self.rule
        facts = dict(zip(_FIELDS, _values(self), strict=True))
        for name in _FIGURES:
            if facts[name] is not None and not math.isfinite(facts[name]):
                facts[name] = None
        facts["fingerprint"] = self.fingerprint
        facts["rule"], facts["severity"], facts["scope"] = rule.name, rule.severity, rule.scope
        facts["measure"], facts["unit"] = rule.measure, rule.about.unit
        facts["condition"], facts["level"] = rule.condition, rule.level
        return facts


_FIELDS = tuple(one.name for one in fields(Alert))
_FIGURES = tuple(name for name, kind in get_type_hints(Alert).items() if kind == float | None)
_values = attrgetter(*_FIELDS)


class _Words(dict[str, str]):
    """What the sentence of a rule may name: labels, and what is written only where it is named."""

    def __init__(self, alert: Alert) -> None:
        super().__init__(alert.labels)
        self._alert = alert

    def __missing__(self, name: str) -> str:
        alert, rule = self._alert, self._alert.rule
        if name in ("value", "low", "high", "threshold"):
            return figure(getattr(alert, name), rule.about.unit)
        if name == "samples":
            return figure(alert.samples, "")
        if name == "since":
            return moment(alert.since_us)
        facts = {"rule": rule.name, "severity": rule.severity, "measure": rule.measure, "level": rule.level}
        return facts.get(name, alert.evidence if name == "evidence" else "")


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened to an alert."""

    alert: Alert
    event: Happened
    who: str = ""
    comment: str = ""


class AlertStates:
    """All alerts that are pending or last, and when former ones fired."""

    def __init__(self, settings: AlertSettings) -> None:
        self._settings = settings
        self._alerts: dict[Key, Alert] = {}
        self._of_rule: dict[str, dict[int, Alert]] = {}
        self._fired: dict[Key, deque[int]] = {}
        """When the alerts of a series fired within `flap_seconds`, oldest series first."""
        self.refused = 0
        """Alerts that were not begun, for lack of room."""

    def __len__(self) -> int:
        return len(self._alerts)

    def lasting(self) -> Iterator[Alert]:
        """Alerts that have fired and not ended."""
        return (alert for alert in list(self._alerts.values()) if alert.lasts)

    def of_rule(self, rule: str) -> list[Alert]:
        """Alerts of one rule, pending ones, too."""
        return list(self._of_rule.get(rule, {}).values())

    def find(self, alert_id: str) -> Alert | None:
        """The alert that lasts and has this id."""
        return next((alert for alert in self.lasting() if alert.alert_id == alert_id), None)

    def restore(self, alert: Alert) -> None:
        """Take over an alert of a former run: one that lasts, or one that is resolved and counts for flapping."""
        self._note_fired(alert)
        if alert.lasts:
            self._put(alert)

    def apply(self, rule: Rule, verdict: Verdict, start_us: int, end_us: int) -> list[Change]:
        """Apply a rule's verdict on a window; return what changed, in the order of the series."""
        known = self._of_rule.setdefault(rule.name, {})
        stateful = np.fromiter(known, np.uint64, len(known))
        has_state = np.isin(verdict.series, stateful)
        rows = np.flatnonzero(verdict.data & (verdict.beyond | has_state))
        changes = []
        measured = set()
        for row in rows.tolist():
            series = int(verdict.series[row])
            measured.add(series)
            alert = known.get(series)
            if alert is None:
                alert = self._begin(rule, series, verdict, row, start_us)
                if alert is None:
                    continue
            else:
                changes += _renamed(alert, verdict.labels(row))
            changes += self._step(alert, verdict, row, start_us, end_us)
        for series, alert in list(known.items()):
            if series not in measured:
                changes += self._unmeasured(alert, end_us)
        return changes

    def _begin(self, rule: Rule, series: int, verdict: Verdict, row: int, start_us: int) -> Alert | None:
        if len(self._alerts) >= self._settings.states:
            self.refused += 1
            return None
        alert = Alert(rule, series, verdict.labels(row), start_us)
        self._put(alert)
        return alert

    def _step(self, alert: Alert, verdict: Verdict, row: int, start_us: int, end_us: int) -> list[Change]:
        changes = []
        if alert.stale_since_us:
            alert.stale_since_us = 0
            if alert.lasts:
                changes.append(Change(alert, "measured"))
        self._note(alert, verdict, row, start_us, end_us)
        if verdict.gone is not None and verdict.gone[row]:
            return changes + self._end(alert, end_us, FORGOTTEN, verdict.why(row))
        if verdict.beyond[row]:
            alert.windows_beyond += 1
            alert.windows_clear = 0
            enough = alert.windows_beyond >= alert.rule.windows_to_fire or bool(verdict.certain[row])
            if alert.status == "pending" and enough:
                if verdict.began_us is not None and verdict.certain[row]:
                    alert.since_us = min(alert.since_us, int(verdict.began_us[row]))
                changes.append(self._fire(alert, end_us))
            return changes
        if alert.status == "pending":
            self._drop(alert)
            return changes
        alert.windows_clear = alert.windows_clear + 1 if verdict.clear[row] else 0
        if alert.windows_clear >= self._windows_to_clear(alert, end_us):
            changes += self._end(alert, end_us, "clear")
        return changes

    def _note(self, alert: Alert, verdict: Verdict, row: int, start_us: int, end_us: int) -> None:
        """Keep the figures of the window."""
        alert.value = float(verdict.value[row])
        alert.low = float(verdict.low[row]) if verdict.bounded else None
        alert.high = float(verdict.high[row]) if verdict.bounded else None
        samples = float(verdict.samples[row])
        alert.samples = samples if math.isfinite(samples) else None
        alert.threshold = float(verdict.threshold[row])
        alert.evidence = verdict.evidence(row)
        alert.window_start_us, alert.window_end_us = start_us, end_us
        if verdict.beyond[row] and (
            alert.worst is None or abs(alert.value - alert.threshold) > abs(alert.worst - alert.threshold)
        ):
            alert.worst = alert.value

    def _unmeasured(self, alert: Alert, end_us: int) -> list[Change]:
        """Take a window without a figure of it: it neither fires nor ends, until it is forgotten."""
        if alert.status == "pending":
            if end_us - alert.window_end_us > self._settings.pending_seconds * SECOND_US:
                self._drop(alert)
            return []
        silent_us = end_us - alert.window_end_us
        if silent_us >= alert.rule.forget_after * SECOND_US:
            return self._end(alert, end_us, FORGOTTEN)
        if alert.stale_since_us or silent_us < STALE_WINDOWS * LEVELS[alert.rule.level] * SECOND_US:
            return []
        alert.stale_since_us = alert.window_end_us
        return [Change(alert, "stale")]

    def _fire(self, alert: Alert, end_us: int) -> Change:
        alert.status, alert.fired_us = "firing", end_us
        self._note_fired(alert)
        return Change(alert, "firing")

    def acknowledge(self, alert: Alert, now_us: int, who: str, comment: str = "") -> list[Change]:
        """Acknowledge it: no more escalation.  A second acknowledgement changes nothing."""
        if alert.status != "firing":
            return []
        alert.status, alert.acknowledged_us, alert.acknowledged_by = "acknowledged", now_us, who
        return [Change(alert, "acknowledged", who, comment)]

    def resolve(
        self, alert: Alert, now_us: int, who: str, comment: str = "", verdict: Opinion = "none"
    ) -> list[Change]:
        """End it in the name of `who`.  If its condition still holds, the next windows begin a new one."""
        alert.judge(verdict, now_us)
        return self._end(alert, now_us, who, comment)

    def of_series(self, rule: str, series: int) -> Alert | None:
        """The alert of a series, a pending one, too."""
        return self._of_rule.get(rule, {}).get(series)

    def retire(self, alert: Alert, now_us: int, who: str, comment: str) -> list[Change]:
        """End what lasts of a series that is not expected any more; what has not fired is noted as ended, too."""
        if not alert.lasts:
            alert.status, alert.fired_us = "firing", now_us
        return self._end(alert, now_us, who, comment)

    def _end(self, alert: Alert, end_us: int, who: str, comment: str = "") -> list[Change]:
        self._drop(alert)
        if not alert.lasts:
            return []
        alert.status, alert.resolved_us, alert.resolved_by, alert.why = "resolved", end_us, who, comment
        return [Change(alert, "resolved", who, comment)]

    def _windows_to_clear(self, alert: Alert, end_us: int) -> int:
        fired = self._fired.get((alert.rule.name, alert.series), deque())
        recent = sum(when > end_us - self._settings.flap_seconds * SECOND_US for when in fired)
        if recent < self._settings.flap_count:
            return alert.rule.windows_to_clear
        longer = math.ceil(self._settings.flap_clear_seconds / LEVELS[alert.rule.level])
        return max(alert.rule.windows_to_clear, longer)

    def _note_fired(self, alert: Alert) -> None:
        key = (alert.rule.name, alert.series)
        fired = self._fired.pop(key, deque(maxlen=self._settings.flap_count))
        fired.append(alert.fired_us)
        self._fired[key] = fired
        if len(self._fired) > FLAPPING_KNOWN:
            del self._fired[next(iter(self._fired))]

    def _put(self, alert: Alert) -> None:
        self._alerts[alert.rule.name, alert.series] = alert
        self._of_rule.setdefault(alert.rule.name, {})[alert.series] = alert

    def _drop(self, alert: Alert) -> None:
        self._alerts.pop((alert.rule.name, alert.series), None)
        self._of_rule.get(alert.rule.name, {}).pop(alert.series, None)


def _renamed(alert: Alert, labels: dict[str, str]) -> list[Change]:
    """Take over labels: a series keeps its alert under another name, as where a VM is renamed."""
    before, alert.labels = alert.labels, labels
    naming = alert.rule.view.naming
    names = [(before.get(name, ""), labels[name]) for name in naming]
    changed = ", ".join(f"{old} is called {new} now" for old, new in names if old != new)
    return [Change(alert, "measured", comment=changed)] if changed and alert.lasts else []
