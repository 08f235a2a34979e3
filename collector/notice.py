"""What the rules tell delivery: one `Notice` for each change of an alert, gathered in a `Group`.  No behaviour here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Event = Literal["firing", "resolved", "escalated", "acknowledged"]
Severity = Literal["info", "warning", "critical"]
Scope = Literal["pair", "vm", "interface", "host", "exporter", "service"]


@dataclass(frozen=True, slots=True)
class Notice:
    """One change of one alert, with all that a message about it needs."""

    alert_id: str
    """32 hexadecimal digits (UUID 4), the same for all changes of one alert."""
    fingerprint: str
    """Of rule and series: the next alert of the same series has the same fingerprint and another `alert_id`."""
    event: Event
    rule: str
    severity: Severity
    scope: Scope
    labels: Mapping[str, str]
    """Names of the series: src_vm, dst_vm, vm, host, network, interface, exporter ... as far as the scope has them."""
    measure: str
    """Column of the view, such as `loss`."""
    unit: str
    """Unit of `value`, `low`, `high` and `threshold`: ratio (0 to 1), bit/s, packets/s, µs, s, packets ... as in
    `collector.alert.measures`."""
    value: float | None
    """None where the alert is about absence."""
    low: float | None
    """Lower end of the 95 % interval; None where the measure has none."""
    high: float | None
    samples: float | None
    """What the value rests on: samples or readings; None where the view does not say."""
    evidence: str
    """State of the evidence as the view says it (`measured`, ...), or empty."""
    threshold: float | None
    """What the value was compared with."""
    condition: str
    """`threshold`, `absent`, `trend` or `baseline`."""
    level: str
    """Length of the windows: `10s`, `1m` or `1h`."""
    window_start_us: int
    """Window of the values, µs since 1970."""
    window_end_us: int
    since_us: int
    """When the condition began to hold, µs since 1970."""
    now_us: int
    """When the change happened, µs since 1970."""
    summary: str
    """The rule's text template filled in, or empty."""
    runbook: str
    """Link, or empty."""
    sql: str
    """Query to look closer."""
    ended_by: str = ""
    """Of what has ended: `clear`, `forgotten`, or the name of the person who ended it."""
    why: str = ""
    """What the person said, or why it is forgotten."""


@dataclass(frozen=True, slots=True)
class Group:
    """Notices that make one message."""

    key: str
    """Of this message alone: the same when it is offered again after a restart."""
    severity: Severity
    """The highest of the notices."""
    receivers: tuple[str, ...]
    """Names of the receivers, from the routes."""
    notices: tuple[Notice, ...]


class OnNotice(Protocol):
    """Who wants to know of each alert that people are told of; called on the event loop, so it must not wait."""

    def __call__(self, notice: Notice, /) -> None:
        """Take a notice.  It is offered once, and never again: not after a restart, either."""


class Remember(Protocol):
    """Who has to tell some receivers again of what fires; called on the event loop, once, after a start."""

    async def __call__(self, groups: Sequence[Group], /) -> None:
        """Take alerts that last and were told of before the start: one group for each receiver."""


class Outbox(Protocol):
    """Where groups go to be delivered; called on the event loop, so it must not wait."""

    def offer(self, group: Group, /) -> None:
        """Take a group.  It is already in the store: what is taken here and not delivered is offered again later."""
