"""The scheduling of queries: how many run at a time, which wait, and how those that do not end are treated.

    asked ──► waiting ──────────► running ──► ended
              bounded in number    │
              and time, shared     └─ cancelled, but not ended ──► overdue ──► ended
              between sources                                      its place is free again

The engine checks between two blocks of rows whether a query was cancelled, never within a function call.  An overdue
query is no longer awaited, but it keeps a thread, a core and its memory: while there are `MOST_OVERDUE`, no query
begins, and a source with half as many gets no place.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from collector.sql.guard import QueryRefusedError

MOST_OVERDUE = 4
"""Overdue queries at which no query begins.  Each takes up to a core and `sql.max_memory_bytes`."""
WAITING_PER_PLACE = 4


@dataclass(eq=False)
class Turn:
    """A query that has begun."""

    source: str
    overdue: bool = False


class _Waiting(NamedTuple):
    source: str
    turn: asyncio.Future[Turn]


def _busy(message: str) -> QueryRefusedError:
    return QueryRefusedError(message, 202, "TOO_MANY_SIMULTANEOUS_QUERIES")


class Turns:
    """The scheduler of up to `places` queries at a time.  For the event loop's thread.

    At most `WAITING_PER_PLACE` per place wait, none longer than `wait_seconds`.  When the queue is full, the source
    with most entries gives up its newest for a source with fewer; the source with the fewest running queries goes
    first.
    """

    def __init__(self, places: int, wait_seconds: float) -> None:
        self._places = places
        self._wait_seconds = wait_seconds
        self._begun: set[Turn] = set()
        self._waiting: list[_Waiting] = []
        self._closed = False

    @property
    def begun(self) -> int:
        """Queries that have not ended, including overdue ones."""
        return len(self._begun)

    @property
    def overdue(self) -> int:
        """Queries that were cancelled and have not ended."""
        return sum(turn.overdue for turn in self._begun)

    @property
    def problem(self) -> str | None:
        """Why no query begins; None if they do."""
        overdue = self.overdue
        if overdue < MOST_OVERDUE:
            return None
        return f"{overdue} queries that were cancelled have not ended; others begin again when they have"

    async def take(self, source: str) -> Turn:
        """Wait for a turn; release it with `end`.  Raises QueryRefusedError if there is none for this source."""
        self._refuse(source)
        if not self._waiting and self._free():
            return self._begin(source)
        if len(self._waiting) >= WAITING_PER_PLACE * self._places:
            self._make_room(source)
        waiting = _Waiting(source, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(self._wait_seconds):
                return await waiting.turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if not waiting.turn.cancelled() and waiting.turn.done() and waiting.turn.exception() is None:
                self.end(waiting.turn.result())  # it came at the same moment
            if isinstance(error, TimeoutError):
                raise _busy(f"No turn within {self._wait_seconds:g} seconds: too many simultaneous queries") from None
            raise
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    def end(self, turn: Turn) -> None:
        """Note that the query has ended."""
        self._begun.discard(turn)
        self._next()

    def give_up(self, turn: Turn) -> None:
        """Note that the query was cancelled and does not end: it is no longer awaited."""
        turn.overdue = True
        for waiting in list(self._waiting):
            try:
                self._refuse(waiting.source)
            except QueryRefusedError as error:
                self._drop(waiting, error)
        self._next()

    def close(self) -> None:
        """Give no more turns."""
        self._closed = True
        for waiting in list(self._waiting):
            self._drop(waiting, stopping())

    def _refuse(self, source: str) -> None:
        """Raise QueryRefusedError if this source gets no turn now."""
        if self._closed:
            raise stopping()
        if (problem := self.problem) is not None:
            raise _busy(problem)
        own = sum(turn.overdue for turn in self._begun if turn.source == source)
        if own >= MOST_OVERDUE // 2:
            raise _busy(f"{own} of your queries were cancelled and have not ended; ask again when they have")

    def _make_room(self, source: str) -> None:
        """Drop a waiting query for one of `source`.  Raises QueryRefusedError if that has its share."""
        shares = Counter(waiting.source for waiting in self._waiting)
        most = max(shares, key=shares.__getitem__)
        if shares[most] <= shares[source] + 1:
            raise _busy("Too many simultaneous queries")
        newest = next(waiting for waiting in reversed(self._waiting) if waiting.source == most)
        self._drop(newest, _busy("Too many simultaneous queries: others had none"))

    def _drop(self, waiting: _Waiting, error: QueryRefusedError) -> None:
        self._waiting.remove(waiting)
        if not waiting.turn.done():
            waiting.turn.set_exception(error)

    def _free(self) -> bool:
        overdue = self.overdue
        return overdue < MOST_OVERDUE and len(self._begun) - overdue < self._places

    def _begin(self, source: str) -> Turn:
        turn = Turn(source)
        self._begun.add(turn)
        return turn

    def _next(self) -> None:
        """Give free places to waiting queries."""
        while self._waiting and self._free():
            under_way = Counter(turn.source for turn in self._begun)
            chosen = min(self._waiting, key=lambda waiting: under_way[waiting.source])
            self._waiting.remove(chosen)
            if not chosen.turn.done():
                chosen.turn.set_result(self._begin(chosen.source))


def stopping() -> QueryRefusedError:
    """Return the answer while the service stops."""
    return QueryRefusedError("The service is stopping", 236, "ABORTED")
