"""The interfaces between the rooms: a stage imports these, never another stage.  They have no behaviour.

In this order: what all components share, rows, windows, notifications, the alerts' API.  Times with `_us` are µs since
1970, 0 where something has not happened.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar

if TYPE_CHECKING:  # settings import this, and commands that only read settings load neither pyarrow nor numba
    import pyarrow as pa

    from decoders.datagrams import Datagrams
    from decoders.shared import Decoded

T = TypeVar("T")


class Call(Protocol):
    """A call that runs a function on a worker thread of a stage; on one thread, one at a time."""

    def __call__(self, function: Callable[..., T], /, *args: Any) -> Awaitable[T]:
        """Return what the function returns, or raise what it raises."""


class Offer(Protocol):
    """The receiver of a source's datagrams; called on the event loop, so it must not wait."""

    def __call__(self, datagrams: Datagrams, /) -> bool:
        """Take a batch, or return False if there is no room: the batch is then counted as dropped."""


class Clock(Protocol):
    """A clock, in the unit that its name in the constructor states."""

    def __call__(self) -> int:
        """Return the time as a whole number."""


class Component(Protocol):
    """A part of the service: its constructor opens nothing, entering starts it, leaving stops it."""

    async def __aenter__(self) -> Self:
        """Start.  Raises what prevents the component from running, with nothing left open."""

    async def __aexit__(self, *error: object) -> None:
        """Stop, finishing what was begun.  Does not raise for what `start` opened."""


class Sink(Protocol):
    """The receiver of rows; called on the event loop, so `offer` must not wait."""

    def offer(self, table: str, batch: pa.RecordBatch, /) -> bool:
        """Take a batch of rows of `table`, or return False: its rows are then counted as dropped."""

    async def ready(self) -> None:
        """Wait until there is room again."""


class Enricher(Protocol):
    """The component that adds names to decoded rows."""

    def warm_up(self) -> None:
        """Compile what must be compiled.  Blocks; called once, on a decode worker's thread."""

    async def first_answers(self) -> None:
        """Wait until enough is known to begin, or time is up."""

    def name(self, decoded: Decoded, worker: int, /) -> Decoded:
        """Return the same rows with the columns that enrichment fills.  Blocks; called on that worker's thread."""


class EndNamer(Protocol):
    """The component that names both ends of probes by their addresses."""

    def __call__(self, rows: pa.RecordBatch, /) -> pa.RecordBatch:
        """Return rows of `probes` with the columns that enrichment fills.  Blocks; for any thread."""


class Rollup(Protocol):
    """The component that sums stored rows of `flows`; called on the event loop, for one insert after the other."""

    async def group(self) -> int:
        """Return the number to store in column `rollup_group` with the next rows.  Raises what prevents storing it."""

    async def stored(self, group: int, batches: Sequence[pa.RecordBatch], /) -> None:
        """Take rows that are in the store with this number; no rows, if the store refused them."""

    def settled(self) -> None:
        """Note that what a former run sent is in the store, or will never be.  May be called more than once."""


@dataclass(frozen=True, slots=True)
class WindowClosed:
    """A window that is over: all rows that are not late are in the store."""

    level: str
    """`10s`, `1m` or `1h`."""
    start_us: int
    """µs since 1970, a multiple of the window's length."""
    end_us: int
    """The first microsecond after the window."""
    partial: bool
    """True if the service did not watch all of it: its sums are too low."""
    epoch: int
    """Grows when the system clock was set back: only then can a window close a second time, with another epoch."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What a run of the service has watched, for the next run to read.  Times are µs since 1970."""

    began_us: int
    """Since when, with no pauses longer than a run makes up for."""
    judged_us: int
    """All windows that ended until then have been judged."""
    alive_us: int
    """Until when."""


class OnWindowClosed(Protocol):
    """A subscriber to closed windows; called on the event loop, one window after the other."""

    async def __call__(self, window: WindowClosed, /) -> None:
        """Process a window.  An exception is logged and counted, and so is taking too long."""


Event = Literal["firing", "resolved", "escalated", "acknowledged"]
Severity = Literal["info", "warning", "critical"]
Opinion = Literal["none", "true", "false"]
"""What a person said of an alert: whether it was right to fire."""
Scope = Literal["pair", "vm", "interface", "host", "exporter", "service"]


@dataclass(frozen=True, slots=True)
class AlertNotification:
    """One change of one alert, with everything that a message about it needs."""

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
    `collector.alert.scopes`."""
    value: float | None
    """For `absent`, the silence in seconds; None where nothing is known."""
    low: float | None
    """Lower end of the 95 % interval; None where the measure has none."""
    high: float | None
    samples: float | None
    """Number of samples or readings behind the value; None where the view does not state it."""
    evidence: str
    """State of the evidence as the view states it (`measured`, ...), or empty."""
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
    """Query that shows the series around the time of the alert."""
    ended_by: str = ""
    """For an ended alert: `clear`, `forgotten`, or the name of the person who ended it."""
    why: str = ""
    """What the person said, or why it is forgotten."""


@dataclass(frozen=True, slots=True)
class NotificationGroup:
    """Notifications that make one message."""

    key: str
    """Unique to this message, and the same when it is offered again after a restart."""
    severity: Severity
    """The highest of the notifications."""
    receivers: tuple[str, ...]
    """Names of the receivers, from the routes."""
    notifications: tuple[AlertNotification, ...]


class OnNotification(Protocol):
    """The receiver of every notification, whether or not a route sends it; called on the event loop, so it must not
    wait."""

    def __call__(self, notification: AlertNotification, /) -> None:
        """Take a notification.  It is offered only once, even over a restart."""


class Remember(Protocol):
    """The receiver of alerts that some receivers must be sent repeatedly while they fire; called once after a start, on
    the event loop."""

    async def __call__(self, groups: Sequence[NotificationGroup], /) -> None:
        """Take alerts that still last and were sent before the start: one group for each receiver."""


class Outbox(Protocol):
    """The component that delivers groups; called on the event loop, so it must not wait."""

    def offer(self, group: NotificationGroup, /) -> None:
        """Take a group.  It is already in the store: if it is taken here but not delivered, it is offered again
        later."""


Row = Mapping[str, Any]
"""Values by name of column, as the tables in `schemas` describe them; times in µs since 1970."""


class AlertServiceError(Exception):
    """The stage takes no requests, or is too slow; the message says why."""


@dataclass(frozen=True, slots=True)
class SqlAnswer:
    """What came of a person's SQL."""

    status: int
    """200, or the HTTP status of why not."""
    body: bytes | memoryview
    """JSON as the engine writes it (`JSONCompact`), or the reason as text."""


class SqlService(Protocol):
    """SQL of people, read only, within the limits of the SQL endpoint."""

    async def ask(self, sql: str, request: Any) -> SqlAnswer:
        """Answer one statement; `request` (starlette's) is who asks, and whether they still wait."""
        ...

    def held(self, octets: int) -> AbstractAsyncContextManager[None]:
        """Hold an answer of so many octets while the block sends it, for a bounded time."""
        ...


class ResultsRefusedError(Exception):
    """A batch of an agent's results is not taken, and why; `status` is the HTTP status."""

    def __init__(self, status: int, message: str, retry_seconds: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.retry_seconds = retry_seconds


class ResultsService(Protocol):
    """The component that takes what agents measured.  For the event loop's thread."""

    def place(self) -> AbstractContextManager[None]:
        """Hold a place for one batch while the block reads and hands it over.  Raises ResultsRefusedError if all are
        taken."""
        ...

    async def take(self, agent: str, body: bytes, /) -> int:
        """Take a batch; return its rows, once they are in the store's queue.  Raises ResultsRefusedError."""
        ...


class AlertService(Protocol):
    """What the API needs of the alert stage.  For the event loop's thread.

    All but `rules` raise AlertServiceError.
    """

    def rules(self) -> Sequence[Row]:
        """Return the evaluated rules by name: settings, unit, state of the evaluation, and its `toml`."""

    async def try_rule(self, text: str, since_us: int, until_us: int, /) -> Row:
        """Return what a rule, as text of the settings, would have done in stored windows between two times.  Raises
        ValueError for a text that is no rule."""

    async def acknowledge(self, alert_id: str, who: str, comment: str, /) -> bool:
        """Acknowledge an alert in the name of `who`.  Return False if no alert with this id is firing."""

    async def resolve(self, alert_id: str, who: str, comment: str, verdict: Opinion = "none", /) -> bool:
        """End an alert in the name of `who`, who may say whether it was right; that may be said of a former one, too.

        Return False if none with this id is active, or known to be judged."""

    async def expected(self, rule: str, series: int, /) -> Sequence[Row]:
        """Return what a rule that learns takes for usual of a series in the day around now: time (µs since 1970),
        expected, low, high; nothing where it does not know."""

    async def retire(self, wanted: Mapping[str, str], who: str, comment: str, /) -> Sequence[Mapping[str, str]]:
        """Stop expecting exporters with these labels until they send again; return the labels of each that was
        expected."""

    async def silence(self, matchers: Mapping[str, str], until: int, who: str, comment: str, /) -> str:
        """Hold messages back; return the silence's id.  Raises ValueError for an impossible silence."""

    async def end_silence(self, silence_id: str, /) -> bool:
        """End a silence.  Return False if none with this id is active."""
