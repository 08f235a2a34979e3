"""The events for open pages: bounded places, nothing lost of a kind, an end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from collector.interfaces import WindowClosed
from collector.web.events import LISTENERS, Events, TooManyListenersError


def closed(level: str, end: int) -> WindowClosed:
    return WindowClosed(level, (end - 10) * 1_000_000, end * 1_000_000, partial=False, epoch=0)


async def begun(events: Events) -> AsyncIterator[bytes]:
    """A stream whose first part was read, so that it has its place."""
    stream = events.listen()
    assert await anext(stream) == b"retry: 3000\n\n"
    return stream


def test_a_slow_page_gets_the_newest_of_each_kind_and_the_end() -> None:
    async def scenario() -> None:
        events = Events()
        stream = await begun(events)
        for end in (10, 20):
            await events.window_closed(closed("10s", end))
        await events.window_closed(closed("1m", 60))
        assert await anext(stream) == b'event: window\ndata: {"level": "10s", "end": 20, "partial": false}\n\n'
        assert await anext(stream) == b'event: window\ndata: {"level": "1m", "end": 60, "partial": false}\n\n'
        events.end()
        assert await anext(stream) == b"event: bye\ndata: {}\n\n"
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        with pytest.raises(TooManyListenersError):
            events.listen()

    asyncio.run(scenario())


def test_a_stream_ends_with_the_session_of_its_listener() -> None:
    async def scenario() -> None:
        events, open_sessions = Events(), {"ann"}
        stream = events.listen(lambda: "ann" in open_sessions)
        await anext(stream)
        await events.window_closed(closed("10s", 10))
        assert b"window" in await anext(stream)
        open_sessions.clear()
        await events.window_closed(closed("10s", 20))
        assert await anext(stream) == b"event: bye\ndata: {}\n\n"
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    asyncio.run(scenario())


def test_windows_have_closed_until_this_run_began_before_one_closes_in_it() -> None:
    async def scenario() -> None:
        before = int(time.time())
        events = Events()
        assert before <= events.closed_until("10s") <= time.time()
        await events.window_closed(closed("10s", before + 60))
        assert events.closed_until("10s") == before + 60
        assert events.closed_until("1m") < before + 60

    asyncio.run(scenario())


def test_places_are_few_and_come_back() -> None:
    async def scenario() -> None:
        events = Events()
        for _ in range(2 * LISTENERS):
            events.listen()  # a browser that left before the answer began
        streams = [await begun(events) for _ in range(LISTENERS)]
        with pytest.raises(TooManyListenersError):
            events.listen()
        await streams[0].aclose()  # type: ignore[attr-defined]
        await begun(events)

    asyncio.run(scenario())
