"""Who is notified of what: silences, inhibition, routes, escalation, and one message for what belongs together.

No clock and no store here: the input is times and states, the output messages.
"""

from __future__ import annotations

import math
import re
from collections import Counter, deque
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import translate
from functools import lru_cache
from uuid import uuid4

from collector.alert.rules import Rule
from collector.alert.series import drilldown_sql
from collector.alert.settings import AlertSettings, Route
from collector.alert.state import SECOND_US, Alert, AlertStates, Change
from collector.interfaces import AlertNotification, Event, NotificationGroup, Severity
from schemas.alerts import SEVERITIES
from schemas.rollups import LEVEL_US

SHORT_ID = 8
"""Digits of a silence's id that are enough to find it by."""
NOTIFIED = tuple(one.name for one in fields(AlertNotification))
"""What a notification has of an alert."""
ENDED = 1000
"""Ended alerts that are remembered, for what they inhibited."""

Due = tuple[Alert, Event, tuple[str, ...]]
"""A message about one alert, and its receivers."""
Entity = tuple[str, str]
"""`vm` or `host`, and its name."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message, and the alerts that it is about."""

    group: NotificationGroup
    alerts: tuple[Alert, ...]


@dataclass(frozen=True, slots=True)
class Silence:
    """Keeps messages about alerts that match back until it ends."""

    matchers: Mapping[str, str]
    """Label, `rule`, `severity` or `scope` → pattern with `*` and `?`; all must match."""
    until_us: int
    made_us: int
    who: str = ""
    comment: str = ""
    silence_id: str = field(default_factory=lambda: uuid4().hex)


Wanted = tuple[Silence, list[tuple[str, re.Pattern[str]]]]
"""A silence, and what of an alert must match."""


class Silenced:
    """The alerts that the silences hold back.

    There may be a thousand silences and 20,000 alerts: patterns are compiled once, and of each rule only the silences
    that may concern it are tried.
    """

    def __init__(self, silences: Iterable[Silence]) -> None:
        self._wanted: list[Wanted] = [
            (silence, [(label, _compiled(pattern)) for label, pattern in silence.matchers.items()])
            for silence in silences
        ]
        self._of_rule: dict[str, list[Wanted]] = {}

    def by(self, alert: Alert) -> Silence | None:
        """Return the silence that applies to this alert, if any."""
        rule, labels = alert.rule, alert.labels
        wanted = self._of_rule.get(rule.name)
        if wanted is None:
            wanted = self._of_rule[rule.name] = self._concerning(rule)
        # Plain loops: with a thousand silences, generators take three times as long.
        for silence, one in wanted:
            for label, pattern in one:
                if pattern.match(labels.get(label, "")) is None:
                    break
            else:
                return silence
        return None

    def _concerning(self, rule: Rule) -> list[Wanted]:
        """Of the silences whose patterns for the rule itself match, the others."""
        own = {"rule": rule.name, "severity": rule.severity, "scope": rule.scope}
        return [
            (silence, [(label, pattern) for label, pattern in one if label not in own])
            for silence, one in self._wanted
            if all(pattern.match(own[label]) for label, pattern in one if label in own)
        ]


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Names of VMs may have brackets: they mean nothing.  What follows a backslash, of `\\*?`, stands for itself.

    `translate` makes what takes no exponential time.
    """
    parts = re.split(r"\\([\\*?])", pattern)
    plain = [part.replace("[", "[[]") if place % 2 == 0 else f"[{part}]" for place, part in enumerate(parts)]
    return re.compile(translate("".join(plain)))


class Notifier:
    """The maker of messages from states."""

    def __init__(self, settings: AlertSettings) -> None:
        self._settings = settings
        self.silences: dict[str, Silence] = {}
        self._ended: deque[Alert] = deque(maxlen=ENDED)
        self._messages = 0

    def notify(self, states: AlertStates, changes: Sequence[Change], now_us: int) -> tuple[list[Change], list[Message]]:
        """Messages that are due, and what changed by that."""
        self.silences = {name: one for name, one in self.silences.items() if one.until_us > now_us}
        due: list[Due] = []
        self._ended.extend(change.alert for change in changes if change.event == "resolved")
        for change in changes:
            event = _event(change)
            if event in ("resolved", "acknowledged"):
                due.append((change.alert, event, self._all_receivers(change.alert)))
        more: list[Change] = []
        lasting = list(states.lasting())
        named = {name for alert in lasting for name in alert.rule.inhibited_by}
        inhibitors = _Inhibitors((*self._ended, *lasting), named, now_us)
        silenced = Silenced(self.silences.values())
        for alert in lasting:
            if alert.status != "firing":
                continue
            if alert.notified_us == 0:
                reason = _kept_back(alert, silenced, inhibitors)
                if reason is None:
                    alert.notified_us, alert.held_back = now_us, False
                    more.append(Change(alert, "notified"))
                    due.append((alert, "firing", receivers(self._settings.routes, alert.rule)))
                elif not alert.held_back:
                    alert.held_back = True
                    more.append(reason)
            else:
                more += self._escalate(alert, silenced, inhibitors, now_us, due)
        return more, self._grouped(due, now_us)

    def notified_before(self, states: AlertStates, now_us: int) -> list[NotificationGroup]:
        """Alerts that last and that a former run sent: one group for each receiver, none of them to be sent."""
        sent: dict[str, list[AlertNotification]] = {}
        for alert in states.lasting():
            if alert.notified_us:
                for name in self._all_receivers(alert):
                    sent.setdefault(name, []).append(notification(alert, "firing", now_us))
        return [NotificationGroup("", _worst(found), (name,), tuple(found)) for name, found in sent.items()]

    def _escalate(
        self, alert: Alert, silenced: Silenced, inhibitors: _Inhibitors, now_us: int, due: list[Due]
    ) -> list[Change]:
        changes: list[Change] = []
        ladder = steps(self._settings.routes, alert.rule)
        while alert.escalations < len(ladder):
            seconds, receiver = ladder[alert.escalations]
            if now_us < alert.notified_us + seconds * SECOND_US or _kept_back(alert, silenced, inhibitors) is not None:
                break
            alert.escalations += 1
            changes.append(Change(alert, "escalated", receiver))
            due.append((alert, "escalated", (receiver,)))
        return changes

    def _all_receivers(self, alert: Alert) -> tuple[str, ...]:
        """All who were notified of it."""
        ladder = [receiver for _, receiver in steps(self._settings.routes, alert.rule)[: alert.escalations]]
        return tuple(dict.fromkeys((*receivers(self._settings.routes, alert.rule), *ladder)))

    def _grouped(self, due: Iterable[Due], now_us: int) -> list[Message]:
        """One message for each rule, event, receivers and hypervisor."""
        together: dict[tuple[str, Event, tuple[str, ...]], list[Alert]] = {}
        for alert, event, names in due:
            if names:
                together.setdefault((alert.rule.name, event, names), []).append(alert)
        messages: list[Message] = []
        for (rule, event, names), alerts in together.items():
            for place, members in self._split(alerts).items():
                for first in range(0, len(members), self._settings.max_group):
                    part = members[first : first + self._settings.max_group]
                    found = tuple(notification(alert, event, now_us) for alert in part)
                    self._messages += 1
                    key = f"{rule}/{event}/{place or 'all'}/{now_us}/{self._messages}"
                    messages.append(Message(NotificationGroup(key, _worst(found), names, found), tuple(part)))
        return messages

    def _split(self, alerts: list[Alert]) -> dict[str, list[Alert]]:
        """Alerts by the place that they have in common."""
        if self._settings.group_by == "rule":
            return {"": alerts}
        if self._settings.group_by == "none":
            return {alert.fingerprint: [alert] for alert in alerts}
        hosts = [[alert.labels[name] for name in alert.rule.view.hosts if alert.labels.get(name)] for alert in alerts]
        counts = Counter(host for names in hosts for host in set(names))
        places: dict[str, list[Alert]] = {}
        for alert, names in zip(alerts, hosts, strict=True):
            # Where both hypervisors have the same number of alerts, the sender's goes first.
            place = max(names, key=lambda name: counts[name], default="")
            places.setdefault(place, []).append(alert)
        return places


@dataclass(slots=True)
class _Inhibitor:
    """What alerts of one rule cover, and until when (µs); those that last have no end."""

    scope: str
    series: dict[int, float] = field(default_factory=dict)
    entities: dict[Entity, float] = field(default_factory=dict)
    until_us: float = 0


class _Inhibitors:
    """Alerts that may inhibit others: active ones, and those that ended a short while ago."""

    def __init__(self, alerts: Iterable[Alert], rules: Container[str], now_us: int) -> None:
        self._now_us = now_us
        self._by_rule: dict[str, _Inhibitor] = {}
        for alert in alerts:
            if alert.rule.name in rules:
                self._add(alert)

    def _add(self, alert: Alert) -> None:
        until_us = math.inf if alert.lasts else alert.resolved_us
        inhibitor = self._by_rule.setdefault(alert.rule.name, _Inhibitor(alert.rule.scope))
        inhibitor.until_us = max(inhibitor.until_us, until_us)
        inhibitor.series[alert.series] = max(inhibitor.series.get(alert.series, 0), until_us)
        for entity in entities(alert):
            inhibitor.entities[entity] = max(inhibitor.entities.get(entity, 0), until_us)

    def of(self, alert: Alert) -> str | None:
        """Return the rule that inhibits this alert, if any."""
        # What had the same cause ends a little later, when its own windows are clear: no message may go out until then.
        grace_us = (alert.rule.windows_to_clear + 2) * LEVEL_US[alert.rule.level]
        for rule in alert.rule.inhibited_by:
            inhibitor = self._by_rule.get(rule)
            if inhibitor is None:
                continue
            if inhibitor.scope == "service":
                until_us = inhibitor.until_us
            elif inhibitor.scope == alert.rule.scope:
                until_us = inhibitor.series.get(alert.series, 0)
            else:
                until_us = max((inhibitor.entities.get(entity, 0) for entity in entities(alert)), default=0)
            if until_us + grace_us >= self._now_us:
                return rule
        return None


def _kept_back(alert: Alert, silenced: Silenced, inhibitors: _Inhibitors) -> Change | None:
    """That a silence, or the rule of another alert, keeps the alert's message back; None where nothing does."""
    silence = silenced.by(alert)
    if silence is not None:
        by = f" of {silence.who}" if silence.who else ""
        return Change(alert, "silenced", f"silence {silence.silence_id[:SHORT_ID]}{by}", silence.comment)
    rule = inhibitors.of(alert)
    return None if rule is None else Change(alert, "inhibited", rule)


def entities(alert: Alert) -> set[Entity]:
    """VMs and hypervisors that an alert names."""
    view = alert.rule.view
    found = {("vm", alert.labels.get(name, "")) for name in view.vms}
    found |= {("host", alert.labels.get(name, "")) for name in view.hosts}
    return {entity for entity in found if entity[1]}


def routes_of(routes: Iterable[Route], rule: Rule) -> list[Route]:
    """The routes that are for alerts of this rule."""
    return [
        route
        for route in routes
        if (not route.severities or rule.severity in route.severities)
        and (not route.scopes or rule.scope in route.scopes)
        and (not route.rules or rule.name in route.rules)
    ]


def receivers(routes: Iterable[Route], rule: Rule) -> tuple[str, ...]:
    """Names of those that get every message about this rule, each once."""
    return tuple(dict.fromkeys(name for route in routes_of(routes, rule) for name in route.receivers))


def steps(routes: Iterable[Route], rule: Rule) -> list[tuple[float, str]]:
    """Return the escalation until someone acknowledges: seconds after the first message, and the receiver."""
    found = [
        (number * route.escalate_seconds, receiver)
        for route in routes_of(routes, rule)
        for number, receiver in enumerate(route.escalate_to, 1)
    ]
    return sorted(found, key=lambda step: step[0])


def notifications(changes: Iterable[Change], now_us: int) -> list[AlertNotification]:
    """Notifications of these changes, whether or not a route names a receiver; none of what is kept back."""
    found = [(change.alert, _event(change)) for change in changes]
    return [notification(alert, event, now_us) for alert, event in found if event is not None]


def _event(change: Change) -> Event | None:
    """The event of a notification about this change; None without one, as where none was sent."""
    if change.event == "notified":
        return "firing"
    if change.event == "escalated":
        return "escalated"
    if change.event in ("resolved", "acknowledged") and change.alert.notified_us:
        return "resolved" if change.event == "resolved" else "acknowledged"
    return None


def notification(alert: Alert, event: Event, now_us: int) -> AlertNotification:
    """All that a message about this change needs."""
    window_end_us = alert.window_end_us or alert.since_us + LEVEL_US[alert.rule.level]
    facts = alert.facts() | {
        "event": event,
        "window_start_us": alert.window_start_us or alert.since_us,
        "window_end_us": window_end_us,
        "now_us": now_us,
        "summary": alert.summary,
        "runbook": alert.rule.runbook,
        "sql": drilldown_sql(alert.rule, alert.labels, alert.since_us, window_end_us),
        "ended_by": alert.resolved_by,
    }
    return AlertNotification(**{name: facts[name] for name in NOTIFIED})


def _worst(found: Sequence[AlertNotification]) -> Severity:
    return max((one.severity for one in found), key=SEVERITIES.index)
