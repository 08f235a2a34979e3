"""What the API reads of alerts and does with them.  Lists come from the store, on a thread of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from clickhouse_connect.driver import Client

from collector.alert.rules import Rule
from collector.alert.stage import Alerts
from collector.alert.store import ALERT_SQL, ALERTS_SQL, EVENTS_SQL, KEEPERS_SQL, SILENCES_SQL
from collector.interfaces import AlertQuery, AlertServiceError, Call, Row
from collector.store_errors import first_line
from collector.store_reader import Bounds, Reader
from schemas.text import like

BOUNDS = Bounds(seconds=6, octets=512 * 2**20)
ANSWER_SECONDS = 8.0
"""Longest wait for the store and for earlier requests."""
CHANGE_SECONDS = 15.0
"""Longest wait until the alerts' worker, which may evaluate a window, has done what a person requested."""

MOST_WAITING = 100
"""Requests that wait for the alerts' worker; while the store is away they stay, though their clients have gone."""

T = TypeVar("T")


class AlertApi:
    """`collector.interfaces.AlertService` over a stage and its tables.

    `connect` opens a client with the service's database selected; it blocks, and runs through `call`, on one thread.
    """

    def __init__(self, alerts: Alerts, rules: Sequence[Rule], call: Call, connect: Callable[[], Client]) -> None:
        self._alerts = alerts
        self._rules = tuple(sorted(rules, key=lambda rule: rule.name))
        self._reader = Reader(call, connect, BOUNDS, wait_seconds=ANSWER_SECONDS)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def alerts(self, query: AlertQuery, /) -> Sequence[Row]:
        """See `AlertService`."""
        fired_us, alert_id = query.before or (0, "")
        parameters = {
            "states": list(query.states), "severities": list(query.severities), "rules": list(query.rules),
            "vm": like(query.vm), "begin": query.id_begin, "limit": query.limit, "fired": fired_us, "id": alert_id,
        }  # fmt: skip
        return await self._with_keepers(await self._read(ALERTS_SQL, parameters))

    async def alert(self, alert_id: str, /) -> Row | None:
        """See `AlertService`."""
        found = await self._with_keepers(await self._read(ALERT_SQL, {"id": alert_id}))
        return found[0] if found else None

    async def _with_keepers(self, found: Sequence[Row]) -> list[Row]:
        """The same rows of `alerts`, and what keeps their messages back, which stands among the events."""
        kept = [row for row in found if row["held_back"]]
        keepers = {}
        if kept:
            parameters = {"ids": [row["alert_id"] for row in kept], "since": min(row["since"] for row in kept)}
            keepers = {row["alert_id"]: row["keeper"] for row in await self._read(KEEPERS_SQL, parameters)}
        return [{**row, "held_back_by": keepers.get(row["alert_id"], "")} for row in found]

    async def history(self, alert: Row, limit: int, offset: int, /) -> Sequence[Row]:
        """See `AlertService`."""
        parameters = {"id": alert["alert_id"], "since": alert["since"], "limit": limit, "offset": offset}
        return await self._read(EVENTS_SQL, parameters)

    async def silences(self, limit: int, offset: int, /, *, ended: bool) -> Sequence[Row]:
        """See `AlertService`."""
        after = 0 if ended else self._alerts.now_us()
        return await self._read(SILENCES_SQL, {"after": after, "limit": limit, "offset": offset})

    def rules(self) -> Sequence[Row]:
        """See `AlertService`."""
        return [self._rule(rule) for rule in self._rules]

    def _rule(self, rule: Rule) -> Row:
        pending, firing = self._alerts.counts[rule.name]
        counts = {"pending": pending, "firing": firing}
        return {**rule.model_dump(), "unit": rule.about.unit, **counts, **asdict(self._alerts.status[rule.name])}

    async def acknowledge(self, alert_id: str, who: str, comment: str, /) -> bool:
        """See `AlertService`."""
        return await self._do(self._alerts.acknowledge(alert_id, who, comment))

    async def resolve(self, alert_id: str, who: str, comment: str, /) -> bool:
        """See `AlertService`."""
        return await self._do(self._alerts.resolve(alert_id, who, comment))

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
            raise _late(CHANGE_SECONDS) from error

    async def _read(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[Row]:
        try:
            return await self._reader.rows(sql, parameters)
        except TimeoutError as error:
            raise _late(ANSWER_SECONDS) from error
        except Exception as error:
            raise AlertServiceError(f"the store does not answer: {first_line(error)}") from error


def _late(seconds: float) -> AlertServiceError:
    return AlertServiceError(f"no answer within {seconds:g} s; what was asked for may still be done")
