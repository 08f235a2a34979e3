"""From an alert to the notice about it: figures as people read them, the rule's sentence, the query to look closer."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from collector.alert.frame import closer
from collector.alert.measures import LEVEL_US
from collector.alert.state import SECOND_US, Alert, Change
from collector.notice import Event, Notice

_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def figure(value: float | None, unit: str) -> str:
    """A figure with its unit; `?` where there is none."""
    if value is None:
        return "?"
    if unit == "ratio":
        return f"{100 * value:.3g} %"
    if unit == "µs" and abs(value) >= 1000:
        return f"{value / 1000:.4g} ms"
    if unit == "bit/s":
        for size, prefix in _PREFIXES:
            if abs(value) >= size:
                return f"{value / size:.3g} {prefix}{unit}"
    shown = f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
    return f"{shown} {unit}".strip()


def clock(time_us: int) -> str:
    """A time (µs since 1970) as people write it, UTC."""
    return f"{datetime.fromtimestamp(time_us / SECOND_US, UTC):%Y-%m-%d %H:%M:%S}"


def summary(alert: Alert) -> str:
    """The rule's sentence, filled in.  Rules are checked to name nothing else."""
    rule, unit = alert.rule, alert.rule.about.unit
    names = {name: alert.labels.get(name, "") for name in rule.view.labels}
    figures = {name: figure(getattr(alert, name), unit) for name in ("value", "low", "high", "threshold")}
    return rule.text.format_map(
        {
            **names,
            **figures,
            "rule": rule.name,
            "severity": rule.severity,
            "measure": rule.measure,
            "samples": figure(alert.samples, ""),
            "evidence": alert.evidence,
            "since": clock(alert.since_us),
            "level": rule.level,
        }
    )


def notice(alert: Alert, event: Event, now_us: int) -> Notice:
    """What delivery needs to tell people of this change."""
    rule = alert.rule
    start_us = alert.window_start_us or alert.since_us
    end_us = alert.window_end_us or alert.since_us + LEVEL_US[rule.level]
    return Notice(
        alert_id=alert.alert_id,
        fingerprint=alert.fingerprint,
        event=event,
        rule=rule.name,
        severity=rule.severity,
        scope=rule.scope,
        labels=dict(alert.labels),
        measure=rule.measure,
        unit=rule.about.unit,
        value=alert.value,
        low=alert.low,
        high=alert.high,
        samples=alert.samples,
        evidence=alert.evidence,
        threshold=alert.threshold,
        condition=rule.condition,
        level=rule.level,
        window_start_us=start_us,
        window_end_us=end_us,
        since_us=alert.since_us,
        now_us=now_us,
        summary=summary(alert),
        runbook=rule.runbook,
        sql=closer(rule, alert.labels, alert.since_us, end_us),
        ended_by=alert.resolved_by,
        why=alert.why,
    )


def notices(changes: Iterable[Change], now_us: int) -> list[Notice]:
    """What people are told of, whether or not a route names somebody: nothing that is kept back, or ends untold."""
    found = []
    for change in changes:
        event: Event
        if change.event == "told":
            event = "firing"
        elif change.event == "escalated":
            event = "escalated"
        elif change.event in ("resolved", "acknowledged") and change.alert.told_us:
            event = "resolved" if change.event == "resolved" else "acknowledged"
        else:
            continue
        found.append(notice(change.alert, event, now_us))
    return found
