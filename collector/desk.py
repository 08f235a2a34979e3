"""What the web asks of the alert stage: lists, and what people do about alerts.  No behaviour here.

Times are µs since 1970, 0 where something has not happened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class DeskError(Exception):
    """The store cannot say now; the message tells why."""


@dataclass(frozen=True, slots=True)
class AlertQuery:
    """Which alerts; what is empty does not restrict."""

    states: tuple[str, ...] = ()
    """firing, acknowledged, resolved."""
    severities: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    vm: str = ""
    """Name of a VM at either end; `*` and `?` stand for any characters."""
    id_begin: str = ""
    """How the id begins."""
    limit: int = 100
    before: tuple[int, str] | None = None
    """Continue behind this alert: when it fired, and its id."""


@dataclass(frozen=True, slots=True)
class AlertCard:
    """One alert."""

    alert_id: str
    fingerprint: str
    rule: str
    severity: str
    scope: str
    labels: Mapping[str, str]
    state: str
    summary: str
    since: int
    """Begin of the first window beyond the limit."""
    fired: int
    acknowledged: int
    acknowledged_by: str
    resolved: int
    resolved_by: str
    stale_since: int
    """Since when nothing is measured of it."""
    told: int
    held_back: bool
    """A silence or another alert keeps its message back."""
    held_back_by: str
    """Which: the name of a rule, or a silence with its id and who made it."""
    escalations: int
    measure: str
    unit: str
    """Of value, low, high, threshold and worst."""
    value: float | None
    low: float | None
    high: float | None
    samples: float | None
    threshold: float | None
    worst: float | None
    evidence: str
    condition: str
    level: str
    window_start: int
    window_end: int


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """One change of an alert."""

    time: int
    event: str
    who: str
    comment: str
    value: float | None
    low: float | None
    high: float | None
    unit: str
    window_end: int


@dataclass(frozen=True, slots=True)
class SilenceCard:
    """One silence."""

    silence_id: str
    matchers: Mapping[str, str]
    made: int
    until: int
    who: str
    comment: str


@dataclass(frozen=True, slots=True)
class RuleCard:
    """One rule that is evaluated, and how that goes."""

    name: str
    scope: str
    condition: str
    measure: str
    unit: str
    level: str
    severity: str
    above: float | None
    below: float | None
    pending: int
    """Series beyond the limit, but not for long enough."""
    firing: int
    """Alerts that have fired and not ended, acknowledged ones, too."""
    series: int
    """Series that it looked at last."""
    evaluated: int
    window_end: int
    """End of the last window that it looked at."""
    failed: int
    error: str
    """Why it was not evaluated, at `failed`."""


class AlertDesk(Protocol):
    """The alert stage as the web sees it.  For the event loop's thread.  All that reads the store raises DeskError."""

    async def alerts(self, query: AlertQuery, /) -> Sequence[AlertCard]:
        """Alerts, those that fired last first."""

    async def alert(self, alert_id: str, /) -> AlertCard | None:
        """One alert."""

    async def history(self, card: AlertCard, limit: int, offset: int, /) -> Sequence[AlertEvent]:
        """What happened to an alert, oldest first."""

    async def silences(self, limit: int, offset: int, /, *, ended: bool) -> Sequence[SilenceCard]:
        """Silences, newest first; with `ended`, former ones, too."""

    def rules(self) -> Sequence[RuleCard]:
        """The rules that are evaluated, by name."""

    async def acknowledge(self, alert_id: str, who: str, comment: str, /) -> bool:
        """Somebody takes an alert on.  False if no alert with this id is firing."""

    async def resolve(self, alert_id: str, who: str, comment: str, /) -> bool:
        """Somebody ends an alert.  False if none with this id lasts."""

    async def retire(self, wanted: Mapping[str, str], who: str, comment: str, /) -> Sequence[Mapping[str, str]]:
        """Expect no exporter with these labels any more, until it sends again; the labels of each that was."""

    async def silence(self, matchers: Mapping[str, str], until: int, who: str, comment: str, /) -> str:
        """Keep messages back; returns the silence's id.  Raises ValueError for what cannot be."""

    async def end_silence(self, silence_id: str, /) -> bool:
        """End a silence.  False if there is none that lasts."""
