"""What stages ask of and tell one another: a stage imports these, never another stage.  No behaviour stands here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import pyarrow as pa

from decoders.datagrams import Datagrams
from decoders.decoder import Decoded

T = TypeVar("T")


class Call(Protocol):
    """Runs a function on a worker thread of a stage, one at a time."""

    def __call__(self, function: Callable[..., T], /, *args: Any) -> Awaitable[T]:
        """Return what the function returns, or raise what it raises."""


class Offer(Protocol):
    """Where a source of datagrams hands them over; called on the event loop, so it must not wait."""

    def __call__(self, datagrams: Datagrams, /) -> bool:
        """Take a batch, or return False where there is no room: the taker has then counted the batch as dropped."""


class Clock(Protocol):
    """Tells the time, in the unit that the one who asks for a clock names."""

    def __call__(self) -> int:
        """Return the time as a whole number."""


class Component(Protocol):
    """A part of the service: its constructor opens nothing, entering starts it, leaving stops it."""

    async def __aenter__(self) -> Self:
        """Start.  Raises what keeps the component from running, with nothing left open."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Stop, finishing what was begun.  Does not raise for what `start` opened."""


class Sink(Protocol):
    """Where rows go; called on the event loop, so `offer` must not wait."""

    def offer(self, table: str, batch: pa.RecordBatch, /) -> bool:
        """Take a batch of rows of `table`, or return False: the taker has then counted its rows as dropped."""

    async def ready(self) -> None:
        """Wait until there is room again."""


class Enricher(Protocol):
    """Adds names to what was decoded."""

    def warm_up(self) -> None:
        """Compile what must be compiled.  Blocks; called once, on a decode worker's thread."""

    async def first_answers(self) -> None:
        """Wait until enough is known to begin, or the time for that is over."""

    def name(self, decoded: Decoded, worker: int, /) -> Decoded:
        """Return the same rows with the columns that enrichment fills.  Blocks; called on that worker's thread."""


class Rollup(Protocol):
    """Sums rows of `flows` that are stored; called on the event loop, for one insert after the other."""

    async def group(self) -> int:
        """The number to store in column `rollup_group` with the next rows.  Raises what keeps it from being noted."""

    async def stored(self, group: int, batches: Sequence[pa.RecordBatch], /) -> None:
        """These rows are in the store with this number; none, if the store refused them."""

    def settled(self) -> None:
        """What a former run sent to the store is there, or will never be.  May be told more than once."""


@dataclass(frozen=True, slots=True)
class WindowClosed:
    """A window is over: all rows that are not late are in the store."""

    level: str
    """`10s`, `1m` or `1h`."""
    start_us: int
    """µs since 1970, a multiple of the window's length."""
    end_us: int
    """The first microsecond behind the window."""
    partial: bool
    """True if the service did not watch it whole: its sums are too low."""
    epoch: int
    """Grows when the system clock was set back: only then can a window close a second time, with another epoch."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What a run of the service has watched, as the next run finds it.  Times are µs since 1970."""

    began_us: int
    """Since when, with pauses no longer than a run makes up for."""
    judged_us: int
    """All windows that ended until then have been judged."""
    alive_us: int
    """Until when."""


class OnWindowClosed(Protocol):
    """Who wants to know of closed windows; called on the event loop, one window after the other."""

    async def __call__(self, window: WindowClosed, /) -> None:
        """Do what is due.  An exception is logged and counted; taking too long is, too."""
