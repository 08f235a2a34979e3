"""The time of an orderly stop, shared by all that must be done in it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection
from typing import Any, TypeVar

T = TypeVar("T")

HURRIED_SECONDS = 5.0
"""Seconds left after a second request: enough to write the queue to a disk."""


async def cancel(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait until they have ended.  Raises what one raised before."""
    some = [task for task in tasks if task is not None]
    for task in some:
        task.cancel()
    for ended in await asyncio.gather(*some, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended


async def finish(tasks: Collection[asyncio.Task[Any]], seconds: float) -> None:
    """Wait until tasks have ended; cancel those that have not within so many seconds."""
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Stop:
    """The countdown from `begin` on.  For the event loop's thread."""

    def __init__(self, seconds: float = math.inf) -> None:
        self._seconds = seconds
        self._end = math.inf
        self._hurried = asyncio.Event()
        self.begun = asyncio.Event()

    def begin(self) -> None:
        """Start the clock, unless it runs."""
        self.begun.set()
        if self._end == math.inf:
            self._end = asyncio.get_running_loop().time() + self._seconds

    def hurry(self) -> None:
        """End soon; waiting tasks check the clock again."""
        self._end = min(self._end, asyncio.get_running_loop().time() + HURRIED_SECONDS)
        self._hurried.set()

    def left(self, reserve_seconds: float = 0.0) -> float:
        """Return the seconds left beyond a reserve: infinite before `begin`, 0 when they are over."""
        if self._end == math.inf:
            return math.inf
        return max(0.0, self._end - asyncio.get_running_loop().time() - reserve_seconds)

    async def wait(
        self, tasks: Collection[asyncio.Future[T]], most_seconds: float = math.inf, *, reserve_seconds: float = 0.0
    ) -> set[asyncio.Future[T]]:
        """Wait for tasks; return those that have not ended when the seconds are over."""
        loop = asyncio.get_running_loop()
        end = loop.time() + most_seconds
        hurried = loop.create_task(self._hurried.wait())
        try:
            while late := {task for task in tasks if not task.done()}:
                seconds = min(end - loop.time(), self.left(reserve_seconds))
                if seconds <= 0:
                    break
                awaited: set[asyncio.Future[Any]] = {*late} if hurried.done() else {*late, hurried}
                timeout = None if seconds == math.inf else seconds
                await asyncio.wait(awaited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            return late
        finally:
            hurried.cancel()
