"""`vmflow rules`: the rules of alerts, what they would have done, and which limits would have been quiet."""

from __future__ import annotations

import argparse
import time
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from collector.alert.backtest import BacktestResult, Suggestion, replay, suggest
from collector.alert.rules import Rule
from collector.alert.settings import AlertSettings
from collector.commands.common import add_settings_arguments, load_settings, seconds
from collector.commands.output import Result, add_format_argument, show
from collector.commands.query import asking
from collector.figures import figure, moment
from collector.settings import explain
from collector.terminal import UsageError

QUIET = 1.0
"""Alerts a day that a proposed limit may give."""
EXAMPLES = 5
"""Alerts that are shown per rule."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_settings_arguments(parser)
    parser.add_argument(
        "what",
        nargs="?",
        default="list",
        choices=("list", "test", "suggest"),
        help="list the rules (default); test those of FILE over stored windows; suggest limits",
    )
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="for test: TOML with [[alerts.rules]]")
    parser.add_argument("--since", default="1d", metavar="TIME", help="look back: 90m, 12h, 7d (default: 1d)")
    parser.add_argument("--rule", action="append", default=[], metavar="NAME", help="only this rule; may be repeated")
    add_format_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Answer; exit code 2 for a mistake in the call, settings or FILE, 1 if the store cannot be asked."""
    settings = load_settings(args)
    if args.file is not None and args.what != "test":
        raise UsageError(f"{args.what} takes no FILE: the rules are those of the settings; --config {args.file}?")
    try:
        alerts = read_rules(args.file) if args.what == "test" else settings.alerts
        since_us = seconds(args.since) * 1_000_000
        rules = chosen(alerts, args.rule)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if args.what == "list":
        show(listed(rules), args.format)
        return 0
    with asking(settings) as client:
        now_us = time.time_ns() // 1000
        span = (now_us - since_us, now_us)
        if args.what == "test":
            show(tested(replay(client, rules, alerts, *span)), args.format)
        else:
            show(suggested(suggest(client, rules, alerts, *span)), args.format)
    return 0


def read_rules(path: Path | None) -> AlertSettings:
    """The section `alerts` of a file.  Raises ValueError that names key, value and what was expected."""
    if path is None:
        raise ValueError("test needs a FILE with [[alerts.rules]]")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}; a TOML file with [[alerts.rules]] is expected") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    if "alerts" not in content:
        found = ", ".join(content) or "nothing"
        raise ValueError(f"{path}: no section alerts, but {found}; [[alerts.rules]] is expected")
    try:
        return AlertSettings.model_validate(content["alerts"])
    except ValidationError as error:
        raise ValueError(explain(error, ("alerts",))) from error


def chosen(alerts: AlertSettings, names: Sequence[str]) -> list[Rule]:
    """The active rules, those with these names if any are given.  Raises ValueError for a name that no rule has."""
    rules = {rule.name: rule for rule in alerts.active()}
    for name in names:
        if name not in rules:
            raise ValueError(f"--rule {name}: expected one of {', '.join(rules)}")
    return [rules[name] for name in names] if names else list(rules.values())


def listed(rules: Iterable[Rule]) -> Result:
    """The rules."""
    names = ("rule", "severity", "scope", "level", "fires", "clears")
    rows = []
    for rule in rules:
        clear = "" if rule.clear is None else f"{figure(rule.clear, rule.about.unit)} "
        rows.append(
            (rule.name, rule.severity, rule.scope, rule.level, rule.in_words, f"{clear}{rule.clear_seconds:g} s")
        )
    return Result(names, rows)


def tested(tallies: Iterable[BacktestResult]) -> Result:
    """What each rule would have done."""
    names = ("rule", "fires", "windows", "days", "alerts", "per_day", "series", "examples")
    rows = []
    for tally in tallies:
        examples = "; ".join(_example(alert) for alert in tally.alerts[:EXAMPLES])
        count: Any = f"≥ {tally.fired}" if tally.refused else tally.fired
        figures = (round(tally.days, 2), count, round(tally.per_day, 2), len(tally.series))
        rows.append((tally.rule.name, tally.rule.in_words, tally.windows, *figures, examples))
    return Result(names, rows)


def _example(alert: Any) -> str:
    series = " → ".join(alert.labels[name] for name in alert.rule.view.naming[:2] if alert.labels.get(name))
    begin, end = moment(alert.fired_us).removesuffix(" UTC"), "…"
    if alert.resolved_us:
        end = moment(alert.resolved_us)[len("2026-11-25 ") :]
    return f"{series} {figure(alert.worst, alert.rule.about.unit)} {begin}–{end}".strip()


def suggested(found: Sequence[Suggestion]) -> Result:
    """Limits with the number of alerts that each would have given; of each rule the lowest quiet one is proposed."""
    names = ("rule", "fires", "days", "alerts", "per_day", "series", "note")
    rows = []
    proposed: set[str] = set()
    for advice in found:
        name, tally = advice.rule.name, advice.tally
        note = "present limit" if advice.present else ""
        if not advice.measured:
            note += ", nothing measured"
        if not advice.present and tally.per_day <= QUIET and name not in proposed:
            proposed.add(name)
            note = "proposed"
        count: Any = f"≥ {tally.fired}" if tally.refused else tally.fired
        figures = (round(tally.days, 2), count, round(tally.per_day, 2), len(tally.series))
        rows.append((name, advice.rule.in_words, *figures, note))
    return Result(names, rows)
