"""Alerts, silences and rules as tables for people; times in the local zone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from collector.figures import figure
from collector.terminal import table

SHORT_ID = 8

Item = Mapping[str, Any]


def alerts(items: Iterable[Item]) -> None:
    """One line per alert."""
    rows = [
        (
            moment(item["fired"]),
            item["state"] + (f" ({item['acknowledged_by']})" if item["state"] == "acknowledged" else ""),
            item["severity"],
            item["rule"],
            item["summary"] or series(item["labels"]),
            note(item),
            item["alert_id"][:SHORT_ID],
        )
        for item in items
    ]
    table(("fired", "state", "severity", "rule", "what", "note", "id"), rows, ruled=False)


def alert(item: Item) -> None:
    """All about one alert."""
    unit = item["unit"]
    interval = f" [{figure(item['low'], unit)} – {figure(item['high'], unit)}]" if item["low"] is not None else ""
    rows = [
        ("id", item["alert_id"]),
        ("rule", f"{item['rule']} ({item['severity']})"),
        ("state", item["state"]),
        ("what", item["summary"]),
        *((name, text) for name, text in item["labels"].items() if text),
        (item["measure"] or "silent for", f"{figure(item['value'], unit)}{interval}"),
        ("worst", figure(item["worst"], unit)),
        ("limit", figure(item["threshold"], unit)),
        ("window", f"{moment(item['window_start'])} – {moment(item['window_end'])} ({item['level']})"),
        ("since", moment(item["since"])),
        ("fired", moment(item["fired"])),
        ("sent", moment(item["notified"])),
        ("acknowledged", by(item["acknowledged"], item["acknowledged_by"])),
        ("resolved", by(item["resolved"], item["resolved_by"])),
        ("not measured since", moment(item["stale_since"])),
        ("note", note(item)),
    ]
    table(("", ""), [row for row in rows if row[1]], ruled=False, header=False)


def events(items: Iterable[Item]) -> None:
    """What happened to an alert."""
    rows = [
        (moment(item["time"]), item["event"], figure(item["value"], item["unit"]), item["who"], item["comment"])
        for item in items
    ]
    table(("time", "event", "value", "who", "comment"), rows, ruled=False)


def silences(items: Iterable[Item]) -> None:
    """One line per silence."""
    rows = [
        (
            " ".join(f"{name}={pattern}" for name, pattern in item["matchers"].items()),
            moment(item["until"]),
            item["who"],
            item["comment"],
            item["silence_id"],
        )
        for item in items
    ]
    table(("matches", "until", "who", "comment", "id"), rows, ruled=False)


def rules(items: Iterable[Item]) -> None:
    """One line per rule."""
    rows = [
        (
            item["name"],
            item["severity"],
            str(item["series"]),
            str(item["pending"]),
            str(item["firing"]),
            moment(item["evaluated"]) or "never",
            f"{moment(item['failed'])} {item['error']}".strip(),
        )
        for item in items
    ]
    table(("rule", "severity", "series", "pending", "firing", "evaluated", "last failure"), rows, ruled=False)


def moment(text: str | None) -> str:
    """A time of the API in the local zone; empty where there is none."""
    return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S %Z}" if text else ""


def by(time: str | None, who: str) -> str:
    """When, and by whom."""
    return f"{moment(time)} by {who}" if time else ""


def series(labels: Mapping[str, str]) -> str:
    """The names of a series."""
    return " ".join(f"{name}={text}" for name, text in labels.items() if text)


def note(item: Item) -> str:
    """What else is worth knowing in a list."""
    by = f" by {item['held_back_by']}" if item["held_back_by"] else ""
    notes = [f"held back{by}"] if item["held_back"] else []
    if item["stale_since"] and item["state"] != "resolved":
        notes.append("not measured")
    return ", ".join(notes)
