"""A rule as text, tried over stored windows: what would have fired, found within some seconds."""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Callable
from functools import partial
from typing import Any

from clickhouse_connect.driver import Client
from pydantic import ValidationError

from collector.alert.backtest import BacktestResult, replay
from collector.alert.rules import Rule
from collector.alert.settings import AlertSettings
from collector.interfaces import AlertServiceError, Row
from collector.store_errors import first_line
from collector.store_reader import Reader

TRIAL_SECONDS = 20.0
"""After these no further window is looked at."""
QUERY_SECONDS = 10.0
WAIT_SECONDS = 45.0
"""Longest wait, also for the trial of somebody else: there is one at a time."""
SHOWN = 200
"""Alerts of an answer, the first ones."""


def rule_text(rule: Rule) -> str:
    """Return a rule as it stands in the settings, without what is the default."""
    values = rule.model_dump(exclude_defaults=True)
    return "[[alerts.rules]]\n" + "".join(f"{name} = {_toml(value)}\n" for name, value in values.items())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(one)}" for name, one in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_rule(text: str) -> Rule:
    """Return the one rule of a text.  Raises ValueError that says what is wrong, and where."""
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"no TOML: {error}") from error
    rules = content.get("alerts", {}).get("rules") if isinstance(content.get("alerts"), dict) else None
    if not (isinstance(rules, list) and len(rules) == 1 and len(content) == 1):
        raise ValueError("one [[alerts.rules]] is expected, and nothing else")
    try:
        return Rule.model_validate(rules[0])
    except ValidationError as error:
        raise ValueError(" · ".join(map(_mistake, error.errors(include_url=False)))) from error


def _mistake(found: Any) -> str:
    where = ".".join(str(part) for part in found["loc"])
    message = str(found["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


class Trials:
    """Trials for people, one at a time.  `clock` returns seconds."""

    def __init__(self, settings: AlertSettings, reader: Reader, clock: Callable[[], float] = time.monotonic) -> None:
        """`reader` waits `WAIT_SECONDS` at most."""
        self._settings = settings
        self._reader = reader
        self._clock = clock

    async def run(self, text: str, since_us: int, until_us: int) -> Row:
        """Try the rule of a text.  Raises ValueError, AlertServiceError."""
        rule = read_rule(text)
        if rule.about.own:
            raise ValueError(f"measure = {rule.measure}: what the service says of itself stands in no stored window")
        try:
            tally = await self._reader.ask(partial(self._replay, rule=rule, since_us=since_us, until_us=until_us))
        except TimeoutError as error:
            raise AlertServiceError(f"no answer within {WAIT_SECONDS:g} s: another trial may be under way") from error
        except Exception as error:
            raise AlertServiceError(f"the store does not answer: {first_line(error)}") from error
        return {
            "rule": rule.name, "in_words": rule.in_words, "unit": rule.about.unit, "windows": tally.windows,
            "fired": tally.fired, "refused": tally.refused, "series": len(tally.series), "per_day": tally.per_day,
            "begin": tally.begin_us, "until": tally.until_us, "complete": tally.until_us >= until_us,
            "alerts": [
                {
                    "labels": alert.labels, "since": alert.since_us, "fired": alert.fired_us,
                    "resolved": alert.resolved_us, "worst": alert.worst,
                }
                for alert in tally.alerts[:SHOWN]
            ],
        }  # fmt: skip

    def _replay(self, client: Client, rule: Rule, since_us: int, until_us: int) -> BacktestResult:
        """Blocks."""
        end = self._clock() + TRIAL_SECONDS
        (tally,) = replay(
            client, [rule], self._settings, since_us, until_us,
            query_seconds=QUERY_SECONDS, enough=lambda: self._clock() > end,
        )  # fmt: skip
        return tally
