"""What the API does with alerts: rules and their state, and what a person requests."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from collector.alert.rules import Rule
from collector.alert.stage import Alerts
from collector.alert.trial import Trials, rule_text
from collector.interfaces import AlertServiceError, Opinion, Row

CHANGE_SECONDS = 15.0
"""Longest wait until the alerts' worker, which may evaluate a window, has done what a person requested."""

MOST_WAITING = 100
"""Requests that wait for the alerts' worker; while the store is away they stay, though their clients have gone."""

T = TypeVar("T")


class AlertApi:
    """`collector.interfaces.AlertService` over a stage."""

    def __init__(self, alerts: Alerts, rules: Sequence[Rule], trials: Trials) -> None:
        self._alerts = alerts
        self._trials = trials
        self._rules = tuple(sorted(rules, key=lambda rule: rule.name))
        self._tasks: set[asyncio.Task[Any]] = set()

    def rules(self) -> Sequence[Row]:
        """See `AlertService`."""
        return [self._rule(rule) for rule in self._rules]

    def _rule(self, rule: Rule) -> Row:
        pending, firing = self._alerts.counts[rule.name]
        counts = {"pending": pending, "firing": firing}
        known = {"unit": rule.about.unit, "toml": rule_text(rule), "in_words": rule.in_words}
        return {**rule.model_dump(), **known, **counts, **asdict(self._alerts.status[rule.name])}

    async def try_rule(self, text: str, since_us: int, until_us: int, /) -> Row:
        """See `AlertService`."""
        return await self._trials.run(text, since_us, until_us)

    async def acknowledge(self, alert_id: str, who: str, comment: str, /) -> bool:
        """See `AlertService`."""
        return await self._do(self._alerts.acknowledge(alert_id, who, comment))

    async def resolve(self, alert_id: str, who: str, comment: str, verdict: Opinion = "none", /) -> bool:
        """See `AlertService`."""
        return await self._do(self._alerts.resolve(alert_id, who, comment, verdict))

    async def expected(self, rule: str, series: int, /) -> Sequence[Row]:
        """See `AlertService`."""
        return await self._do(self._alerts.expected(rule, series))

    async def retire(self, wanted: Mapping[str, str], who: str, comment: str, /) -> Sequence[Mapping[str, str]]:
        """See `AlertService`."""
        return await self._do(self._alerts.retire(wanted, who, comment))

    async def silence(self, matchers: Mapping[str, str], until: int, who: str, comment: str, /) -> str:
        """See `AlertService`."""
        return await self._do(self._alerts.silence(matchers, until, who, comment))

    async def end_silence(self, silence_id: str, /) -> bool:
        """See `AlertService`."""
        return await self._do(self._alerts.end_silence(silence_id))

    async def _do(self, work: Coroutine[None, None, T]) -> T:
        """Do it to its end, even if the request is given up: its messages would else stay here until the next start."""
        if not self._alerts.enabled:
            work.close()
            raise AlertServiceError("alerts are off: alerts.enabled = false")
        if len(self._tasks) >= MOST_WAITING:
            work.close()
            raise AlertServiceError(f"{MOST_WAITING} requests wait already")
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.wait_for(asyncio.shield(task), CHANGE_SECONDS)
        except TimeoutError as error:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nothing waits for it any more
            raise AlertServiceError(
                f"no answer within {CHANGE_SECONDS:g} s; what was asked for may still be done"
            ) from error
