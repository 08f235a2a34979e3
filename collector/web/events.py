"""Events for the pages that are open (server-sent events): they say what is new, and the pages ask again.

Each listener has one place per kind of event, so a slow one misses none of the kinds and holds no queue.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from collector.interfaces import AlertNotification, WindowClosed

LISTENERS = 64
"""Connections for events at a time, of the 200 of the server; more are refused and ask every 10 s."""
COMMENT_SECONDS = 15.0
"""Between signs of life, so that proxies leave the connection open, and a browser that has gone is noticed."""


class TooManyListenersError(Exception):
    """No further connection for events is accepted."""


class Events:
    """What is new, for all listeners.  For the event loop's thread."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Event, dict[str, dict[str, Any]]] = {}
        self._ended = False
        self._began = int(time.time())
        self._closed: dict[str, int] = {}
        """End of the last window that has closed, by level, in seconds since 1970."""

    async def window_closed(self, window: WindowClosed, /) -> None:
        """Say that a window closed."""
        self._closed[window.level] = window.end_us // 1_000_000
        self.publish("window", level=window.level, end=window.end_us // 1_000_000, partial=window.partial)

    def closed_until(self, level: str) -> int:
        """Return the end of the last window of this level that has closed, in seconds since 1970.

        Before one has, it is the begin of this run: by the clock, windows would show while their rows are decoded.
        """
        return self._closed.get(level, self._began)

    def notified(self, notification: AlertNotification, /) -> None:
        """Say that an alert changed."""
        self.publish(
            "alerts",
            alert_id=notification.alert_id,
            event=notification.event,
            rule=notification.rule,
            severity=notification.severity,
        )

    def publish(self, kind: str, **values: Any) -> None:
        """Say that something of a kind is new; it replaces what a listener has not yet taken of the same kind."""
        key = f"{kind} {values.get('level', '')}"
        for wake, new in self._waiting.items():
            new[key] = {"kind": kind, **values}
            wake.set()

    def end(self) -> None:
        """Tell all listeners that the service stops, and end their answers."""
        self._ended = True
        for wake in self._waiting:
            wake.set()

    def listen(self, lasts: Callable[[], bool] = lambda: True) -> AsyncIterator[bytes]:
        """Return the text of a stream of events, until `end`, or until the listener's session does not last.  Raises
        TooManyListenersError.

        It takes its place when it is first read: one that a browser leaves before is never ended.
        """
        if len(self._waiting) >= LISTENERS or self._ended:
            raise TooManyListenersError
        return self._stream(lasts)

    async def _stream(self, lasts: Callable[[], bool]) -> AsyncIterator[bytes]:
        wake = asyncio.Event()
        self._waiting[wake] = {}
        try:
            yield b"retry: 3000\n\n"
            while not self._ended:
                silent = False
                try:
                    async with asyncio.timeout(COMMENT_SECONDS):
                        await wake.wait()
                except TimeoutError:
                    silent = True
                if not lasts():
                    break
                if silent:
                    yield b": still here\n\n"
                    continue
                wake.clear()
                new, self._waiting[wake] = self._waiting[wake], {}
                for event in new.values():
                    yield f"event: {event.pop('kind')}\ndata: {json.dumps(event)}\n\n".encode()
            yield b"event: bye\ndata: {}\n\n"
        finally:
            self._waiting.pop(wake, None)
