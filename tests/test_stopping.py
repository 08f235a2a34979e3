"""The time of a stop: who waits learns when it is over, or when somebody is in a hurry."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from collector.app import Timely, Together
from collector.stopping import Stop


def played(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    asyncio.run(main(), debug=True)


class Part:
    """A component that ends when it is let, or never."""

    def __init__(self, name: str, log: list[str], end: asyncio.Event | None = None) -> None:
        self._name, self._log, self._end = name, log, end

    async def __aenter__(self) -> Part:
        self._log.append(f"{self._name} in")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._log.append(f"{self._name} ending")
        if self._end is not None:
            await self._end.wait()
        self._log.append(f"{self._name} out")


def test_before_a_stop_there_is_no_end_of_time_and_then_it_counts_down() -> None:
    async def scenario() -> None:
        stop = Stop(50)
        assert stop.left() == math.inf
        assert not stop.begun.is_set()
        stop.begin()
        assert stop.begun.is_set()
        assert 40 < stop.left() <= 50
        assert stop.left(60) == 0
        stop.hurry()
        assert 0 < stop.left() <= 5

    played(scenario)


def test_who_waits_returns_with_those_that_have_not_ended() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        done, never = loop.create_future(), loop.create_future()
        done.set_result(1)
        assert await Stop().wait({done}) == set()
        assert await Stop().wait({done, never}, 0.01) == {never}
        stop = Stop(600)
        stop.begin()
        assert await stop.wait({never}, reserve_seconds=600) == {never}
        waiting = asyncio.create_task(stop.wait({never}, reserve_seconds=5))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        stop.hurry()
        assert await waiting == {never}

    played(scenario)


def test_a_component_that_hangs_is_cut_off_and_the_next_one_ends() -> None:
    async def scenario() -> None:
        log: list[str] = []
        stop = Stop(0.1)
        async with Timely(Part("store", log), stop, 0), Timely(Part("alerts", log, asyncio.Event()), stop, 0.05):
            pass
        assert log == ["store in", "alerts in", "alerts ending", "store ending", "store out"]

    played(scenario)


def test_those_that_end_together_do_not_wait_for_one_another() -> None:
    async def scenario() -> None:
        log: list[str] = []
        end = asyncio.Event()
        both = Together(Part("a", log, end), Part("b", log))
        await both.__aenter__()
        leaving = asyncio.create_task(both.__aexit__(None, None, None))
        for _ in range(3):
            await asyncio.sleep(0)
        assert log == ["a in", "b in", "a ending", "b ending", "b out"]
        end.set()
        await leaving
        assert log[-1] == "a out"

    played(scenario)
