"""A group of notifications as a message: title, text and a short form, in the receiver's language.

Names of VMs come from the network and from users of the cloud: they are made printable and truncated before they are
inserted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

from collector.figures import SECOND_US, clock, duration, figure, figures, moment
from collector.interfaces import AlertNotification, Event, NotificationGroup
from collector.notify.settings import Language
from collector.notify.words import WORDS, Words
from schemas.alerts import SEVERITIES
from schemas.text import visible

SHORT_SIGNS = 140
"""Longest short form: one SMS of the plain alphabet is 160 characters, and gateways add a few of their own."""
TITLE_SIGNS = 200
NAME_SIGNS = 80
TEXT_SIGNS = 2000
"""Characters of one rule's summary, runbook or query."""
MOST_LABELS = 16
WHY_SIGNS = 300
LATE_US = 180 * SECOND_US
"""From a window to a message about it: caches of switches and `alerts.settle_seconds` take up to half of it."""

EVENT_RANK: dict[Event, int] = {"escalated": 0, "firing": 1, "acknowledged": 2, "resolved": 3}

SUMMARIES: dict[Language, str] = {
    "en": "This is a test of vmflow. Nothing is wrong, and nothing is to be done.",
    "zh": "这是 vmflow 的测试消息，一切正常，无需处理。",
}
"""Labels of a test message to a receiver."""

_ASCII = str.maketrans({"→": "->", "–": "-", "…": "...", "µ": "u", "[": "(", "]": ")"})
"""Outside the alphabet of SMS (3GPP TS 23.038), or two characters in it: one of them would halve a message's
capacity."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message in the forms that a receiver gets."""

    title: str
    """One line, up to 200 characters."""
    text: str
    short: str
    """All of it in one line of up to 140 characters."""


def render(group: NotificationGroup, language: Language, lines: int) -> Message:
    """Write the message of a group; of several notifications the worst `lines` are named one by one, worst first.

    Raises ValueError for a group without notifications.
    """
    if not group.notifications:
        raise ValueError(f"group {group.key!r} has no notifications")
    words = WORDS[language]
    notifications = worst_first(group.notifications)
    written = _details(notifications[0], words) if len(notifications) == 1 else _many(notifications, words, lines)
    # Parts are escaped and truncated where they are inserted; nothing else may get through.
    text = "\n".join(visible(line) for line in "\n".join(written).split("\n"))
    return Message(_title(group, notifications, words), text, _short(group, notifications, words, language))


def worst_first(notifications: Sequence[AlertNotification]) -> list[AlertNotification]:
    """Return the sorting key: firing before resolved, by severity, then by distance from the threshold, silence
    first."""
    return sorted(
        notifications,
        key=lambda one: (
            EVENT_RANK[one.event], -SEVERITIES.index(one.severity), -_excess(one), one.since_us, _who(one, WORDS["en"])
        ),
    )  # fmt: skip


def _excess(alert: AlertNotification) -> float:
    """Return the ratio of value to threshold, or of threshold to value: rules have upper or lower limits."""
    value, threshold = _known(alert.value), _known(alert.threshold)
    if value is None or alert.condition == "absent":
        return float("inf")
    if not threshold:
        return abs(value)
    ratio = abs(value / threshold)
    return max(ratio, 1 / ratio) if ratio else float("inf")


def _known(value: float | None) -> float | None:
    """Return the value, or None for what is not a number."""
    return value if value is not None and math.isfinite(value) else None


def shown(text: str, most: int = NAME_SIGNS) -> str:
    """Return one line of up to `most` characters, with escapes for what would control a reader's screen
    (`schemas.text`)."""
    line = visible(text)
    return line if len(line) <= most else line[: most - 1] + "…"


def _block(text: str) -> str:
    """Return several lines, each printable."""
    return "\n".join(shown(line, TEXT_SIGNS) for line in text.strip().split("\n"))[:TEXT_SIGNS]


def _who(alert: AlertNotification, words: Words) -> str:
    labels = {name: shown(text) for name, text in alert.labels.items()}
    if alert.scope == "pair":
        return f"{labels.get('src_vm', '?')} → {labels.get('dst_vm', '?')}"
    if alert.scope == "interface":
        return f"{labels.get('host', '')} {labels.get('interface', '?')}".strip()
    if alert.scope == "service":
        return words.service
    if alert.scope == "exporter":
        return _exporter(labels, words)
    return labels.get(alert.scope, "") or "?"


def _exporter(labels: Mapping[str, str], words: Words) -> str:
    """Name a stream: a sender may have several, distinguished by protocol, domain and the agent, if its address
    differs."""
    name = labels.get("exporter", "") or "?"
    parts = [labels.get("protocol", "")]
    if labels.get("domain"):
        parts.append(f"{words.labels['domain'].lower()} {labels['domain']}")
    if labels.get("agent", "::") not in ("", "::", name):
        parts.append(f"{words.labels['agent']} {labels['agent']}")
    return f"{name} ({', '.join(part for part in parts if part)})" if any(parts) else name


def _measure(alert: AlertNotification, words: Words) -> str:
    return words.measures.get(alert.measure) or shown(alert.measure.removesuffix("_ratio").replace("_", " "))


def _figure(alert: AlertNotification, words: Words, samples: bool = True) -> str:
    """Return `loss 6.1 % [4.8–7.5 %], 21,040 samples`"""
    if alert.event == "resolved" and alert.ended_by not in ("", "clear"):
        # The figure is the last one before a person ended it, or before there was none: it does not show that all is
        # well.
        return _ended_by(alert, words)
    if alert.condition == "absent":
        return _silence(alert, words) if alert.event != "resolved" else ""
    name = _measure(alert, words)
    value, low, high, count = (_known(one) for one in (alert.value, alert.low, alert.high, alert.samples))
    if value is None:
        return f"{name} {words.insufficient}"
    if low is not None and high is not None:
        (shown, lower, upper), unit = figures([value, low, high], alert.unit, alert.measure)
        text = f"{name} {f'{shown} {unit}'.rstrip()} [{f'{lower}–{upper} {unit}'.rstrip()}]"
    else:
        text = f"{name} {figure(value, alert.unit, alert.measure)}"
    if samples and count is not None:
        text += words.comma + words.samples.format(f"{count:,.0f}")
    return text


def _ended_by(alert: AlertNotification, words: Words) -> str:
    """Return `ended by ann: cable changed`, `cannot be measured any more: db-1 has moved from h1 to h2`."""
    text = words.forgotten if alert.ended_by == "forgotten" else words.ended_by.format(shown(alert.ended_by))
    return f"{text}{words.colon}{shown(alert.why, WHY_SIGNS)}" if alert.why else text


def _silence(alert: AlertNotification, words: Words) -> str:
    """Return how long nothing came; the value of such an alert is in seconds."""
    seconds = _known(alert.value)
    if seconds is None:
        return words.silent
    return words.silent_for.format(duration(round(seconds * SECOND_US), words.durations))


def _since(alert: AlertNotification, words: Words, template: str) -> str:
    """Return since when; for an ended alert, from when to when."""
    lasted = words.lasted.format(duration(alert.now_us - alert.since_us, words.durations))
    if alert.event == "resolved":
        return words.ended.format(moment(alert.since_us), moment(alert.now_us), lasted)
    return template.format(moment(alert.since_us), lasted)


def _condition(alert: AlertNotification, words: Words) -> str:
    """Return what the figure was compared with; empty where unknown."""
    template = words.conditions.get(alert.condition, words.conditions["threshold"])
    threshold = _known(alert.threshold)
    if threshold is None:
        return ""
    if alert.condition == "absent":
        return template.format(duration(round(threshold * SECOND_US), words.durations))
    return template.format(figure(threshold, alert.unit, alert.measure))


def _evidence(alert: AlertNotification, words: Words) -> str:
    """Return the evidence, in the receiver's language where it is a sentence of ours."""
    if alert.condition != "anomaly":
        return alert.evidence
    return words.pause.join(_translated(part, words.unusual) for part in alert.evidence.split("; "))


def _translated(part: str, patterns: Mapping[str, str]) -> str:
    for pattern, template in patterns.items():
        if found := re.fullmatch(pattern, part):
            return found.expand(template)
    return part


def _late(alert: AlertNotification, words: Words) -> str:
    """Return how long after its window a change was found; empty if that is not long, or a person made the change."""
    late_us = alert.now_us - alert.window_end_us
    found = alert.event == "firing" or (alert.event == "resolved" and alert.ended_by in ("", "clear"))
    return words.late.format(duration(late_us, words.durations)) if found and late_us > LATE_US else ""


def _labels(alert: AlertNotification, words: Words) -> Iterator[str]:
    """Yield one line per label, the known ones first."""
    known = [name for name in words.labels if alert.labels.get(name)]
    others = sorted(name for name, text in alert.labels.items() if text and name not in words.labels)
    for name in (known + others)[:MOST_LABELS]:
        yield f"{words.labels.get(name) or shown(name)}{words.colon}{shown(alert.labels[name])}"


def _details(alert: AlertNotification, words: Words) -> Iterator[str]:
    """Yield the text about one alert."""
    event = words.events[alert.event]
    about = words.colon.join(part for part in (_who(alert, words), _figure(alert, words)) if part)
    yield f"{event}{words.colon}{about}"
    if alert.summary:
        yield _block(alert.summary)
    yield ""
    yield _since(alert, words, words.since)
    if condition := _condition(alert, words):
        yield condition
    if _known(alert.value) is not None and alert.condition != "absent":
        yield words.window.format(alert.level, moment(alert.window_start_us))
    if late := _late(alert, words):
        yield late
    if alert.evidence:
        yield words.evidence.format(shown(_evidence(alert, words), WHY_SIGNS))
    yield from _labels(alert, words)
    yield words.rule.format(shown(alert.rule))
    yield words.severity.format(words.severities[alert.severity])
    yield from _where_to_look(alert, words)
    yield words.alert.format(alert.alert_id)


def _where_to_look(alert: AlertNotification, words: Words) -> Iterator[str]:
    if alert.runbook:
        yield words.runbook.format(shown(alert.runbook, TEXT_SIGNS))
    if alert.sql:
        yield words.sql
        yield _block(alert.sql)


def _many(notifications: list[AlertNotification], words: Words, lines: int) -> Iterator[str]:
    """Yield the text about several alerts: one line each, then what helps with the worst."""
    for alert in notifications[:lines]:
        about = words.colon.join(part for part in (_who(alert, words), _figure(alert, words)) if part)
        yield f"{words.events[alert.event]}{words.colon}{about}{words.comma}{_since(alert, words, words.line_since)}"
    if len(notifications) > lines:
        yield words.more.format(len(notifications) - lines)
    yield ""
    worst = notifications[0]
    if condition := _condition(worst, words):
        yield condition
    if late := _late(worst, words):
        yield late
    # Only what all have in common may be given here without naming its alert.
    for name in words.labels:
        values = {alert.labels.get(name, "") for alert in notifications}
        if len(values) == 1 and (value := values.pop()):
            yield f"{words.labels[name]}{words.colon}{shown(value)}"
    yield words.rule.format(", ".join(sorted({shown(alert.rule) for alert in notifications})[:MOST_LABELS]))
    yield from _where_to_look(worst, words)


def _events(notifications: list[AlertNotification], words: Words) -> str:
    """Return `FIRING`, or with several events `FIRING 30, RESOLVED 2`."""
    counts = {event: sum(alert.event == event for alert in notifications) for event in EVENT_RANK}
    present = {event: count for event, count in counts.items() if count}
    if len(present) == 1:
        return words.events[next(iter(present))]
    return words.comma.join(f"{words.events[event]} {count}" for event, count in present.items())


def _title(group: NotificationGroup, notifications: list[AlertNotification], words: Words) -> str:
    worst = notifications[0]
    head = f"[{_events(notifications, words)} {words.severities[group.severity]}]"
    about = " ".join(part for part in (_who(worst, words), _figure(worst, words, samples=False)) if part)
    if len(notifications) > 1:
        about = f"{words.alerts.format(len(notifications))}{words.colon}{about}"
    return shown(f"{head} {about} ({shown(worst.rule)})", TITLE_SIGNS)


def _short(group: NotificationGroup, notifications: list[AlertNotification], words: Words, language: Language) -> str:
    """Return the worst in one line.  Names are shortened first, so that event, figure and time are always there."""
    worst = notifications[0]
    head = f"{_events(notifications, words)} {words.severities[group.severity]}{words.colon}"
    # A reason would leave no room for the names.
    value = _figure(replace(worst, why=""), words, samples=False)
    tail = f" {value}".rstrip() + words.short_since.format(clock(worst.since_us))
    if len(notifications) > 1:
        tail += words.short_more.format(len(notifications) - 1)
    who = _who(worst, words)
    if language == "en":
        head, who, tail = (text.translate(_ASCII) for text in (head, who, tail))
    return visible(head + _shortened(who, SHORT_SIGNS - len(head) - len(tail)) + tail)[:SHORT_SIGNS]


def _shortened(who: str, room: int) -> str:
    """Return names truncated to `room` characters; of two names, each to its half."""
    if len(who) <= room:
        return who
    for arrow in ("->", "→"):
        first, found, second = who.partition(f" {arrow} ")
        if found:
            half = max(1, (room - len(arrow)) // 2)
            return f"{first[: half - 1]}~{arrow}{second[: half - 1]}~"
    return who[: max(0, room - 1)] + "~"


def sample(receiver: str, now_us: int, language: Language, event: Event = "firing") -> NotificationGroup:
    """Return a group of one alert that is marked as a test.  `now_us` is the time, µs since 1970."""
    end_us = now_us // (10 * SECOND_US) * 10 * SECOND_US
    alert = AlertNotification(
        alert_id=uuid4().hex,
        fingerprint="vmflow_test",
        event=event,
        rule="vmflow_test",
        severity="info",
        scope="pair",
        labels={"src_vm": "test-vm-1", "dst_vm": "test-vm-2", "network": "test-network"},
        measure="loss_ratio",
        unit="ratio",
        value=0.061,
        low=0.048,
        high=0.075,
        samples=21_040,
        evidence="measured",
        threshold=0.01,
        condition="threshold",
        level="10s",
        window_start_us=end_us - 10 * SECOND_US,
        window_end_us=end_us,
        since_us=end_us - 30 * SECOND_US,
        now_us=now_us,
        summary=SUMMARIES[language],
        runbook="",
        sql="",
    )
    return NotificationGroup("vmflow_test", "info", (receiver,), (alert,))
