"""Followers of scripted sources, on real threads: good answers, none, late ones, defects, and the stop under way."""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any

import pytest

from collector.inventory import poller
from collector.inventory.poller import Deliver, Polled, SourcePoller
from collector.inventory.sources.base import Interface, Report, SourceError, SourceSetupError
from collector.threads import Bridge
from schemas.inventory import Rank

SECONDS = 20
STAGE = "inventory-0"
DEADLINE = 1.0
WEB, SHOP = (Report(interfaces=(Interface(mac=mac, vm=vm),)) for mac, vm in ((1, "web"), (2, "shop")))


class Scripted:
    """A source that does what the test puts into its script, in order; then it repeats its last answer."""

    rank = Rank.STATIC
    name = "scripted"

    def __init__(self, *script: Report | Exception | Callable[[], Report]) -> None:
        self.script = list(script)
        self.last: Report = Report()
        self.events: queue.SimpleQueue[bool | Exception] = queue.SimpleQueue()
        """What `wait` returns or raises; it waits for as long as there is nothing."""
        self.release = threading.Event()
        """Ends a `hang`."""
        self.reads = 0
        self.waits: list[float] = []
        self.closed = 0
        self.overlaps = 0
        self._calls = threading.Lock()

    def hang(self) -> Report:
        self.release.wait(SECONDS)
        return SHOP

    def hang_and_fail(self) -> Report:
        self.release.wait(SECONDS)
        raise SourceError("the connection was lost meanwhile")

    def read(self) -> Report:
        self.overlaps += not self._calls.acquire(blocking=False)
        try:
            assert threading.current_thread() is not threading.main_thread()
            self.reads += 1
            step = self.script.pop(0) if self.script else self.last
            if isinstance(step, Exception):
                raise step
            self.last = step() if callable(step) else step
            return self.last
        finally:
            self._calls.release()

    def wait(self, seconds: float) -> bool:
        self.overlaps += not self._calls.acquire(blocking=False)
        try:
            self.waits.append(seconds)
            found = self.events.get(timeout=SECONDS)
        finally:
            self._calls.release()
        if isinstance(found, Exception):
            raise found
        return found

    def interrupt(self) -> None:
        self.events.put(False)

    def close(self) -> None:
        self.closed += 1


class Taken:
    """Where reports arrive."""

    def __init__(self) -> None:
        self.reports: list[tuple[Report, int]] = []
        self.fail: Exception | None = None

    async def __call__(self, follower: SourcePoller, report: Report, at_us: int) -> None:
        if self.fail is not None:
            failure, self.fail = self.fail, None
            raise failure
        self.reports.append((report, at_us))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for is in another thread
            await asyncio.sleep(0.005)


@asynccontextmanager
async def following(source: Scripted, deliver: Deliver, *, poll_seconds: float = 30.0) -> AsyncIterator[SourcePoller]:
    """A follower that runs; the clock counts its own readings."""
    ticks = count(1_000_000, 1_000_000)
    async with Bridge({STAGE: 1}, stop_deadline_seconds=5) as bridge:
        follower = SourcePoller(Polled(source, STAGE, poll_seconds, DEADLINE), bridge, deliver, lambda: next(ticks))
        task = asyncio.create_task(follower.run())
        try:
            yield follower
            assert not task.done(), "it must never end by itself"
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await follower.stop()
            source.release.set()
    assert source.overlaps == 0, "calls of one source come one at a time"


def run(scenario: Callable[[], Awaitable[None]]) -> list[dict[str, Any]]:
    """Run it; returns what the event loop had to complain of."""
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(2 * SECONDS):
            await scenario()
        # What ended late ends now, and is thrown away with what nobody asked of it.
        await asyncio.sleep(0.05)
        gc.collect()

    asyncio.run(main())
    return complaints


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "PAUSE_FIRST_SECONDS", 0.01)


def test_every_answer_is_delivered_with_the_time_at_which_its_reading_began() -> None:
    source, taken = Scripted(WEB, SHOP), Taken()

    async def scenario() -> None:
        async with following(source, taken) as follower:
            await until(lambda: len(taken.reports) == 1)
            assert follower.answered.is_set()
            assert (follower.problem, follower.problems, follower.interfaces) == ("", 0, 1)
            source.events.put(True)
            await until(lambda: len(taken.reports) == 2)
            assert follower.age_seconds() is not None
        assert source.closed == 1

    assert run(scenario) == []
    assert [report for report, _ in taken.reports] == [WEB, SHOP]
    assert [at for _, at in taken.reports] == sorted({at for _, at in taken.reports})
    assert source.waits[0] == 30.0


def test_a_source_that_fails_is_asked_again_and_its_last_answer_stays() -> None:
    source, taken = Scripted(SourceError("no route to hv1"), WEB, SourceError("connection reset"), SHOP), Taken()

    async def scenario() -> None:
        async with following(source, taken) as follower:
            await follower.answered.wait()
            assert (follower.problem, follower.age_seconds()) == ("no route to hv1", None)
            source.events.put(False)
            await until(lambda: len(taken.reports) == 1)
            assert (follower.problem, follower.problems) == ("", 1)
            first = follower.read_at_us
            source.events.put(True)
            await until(lambda: follower.problem == "connection reset")
            assert follower.read_at_us == first  # so its age grows
            assert (follower.interfaces, follower.problems) == (1, 2)
            source.events.put(True)
            await until(lambda: len(taken.reports) == 2)
            assert (follower.problem, follower.problems) == ("", 2)
            assert follower.read_at_us > first

    assert run(scenario) == []


def test_pauses_grow_while_a_source_fails_and_are_short_again_after_an_answer() -> None:
    failures = [SourceError("down")] * 12
    source, taken = Scripted(*failures, WEB, SourceError("down"), WEB), Taken()

    async def scenario() -> None:
        for _ in range(12):
            source.events.put(False)
        async with following(source, taken):
            await until(lambda: len(taken.reports) == 1)
            source.events.put(True)
            source.events.put(False)
            await until(lambda: len(taken.reports) == 2)

    assert run(scenario) == []
    pauses = source.waits[:12]
    for number, pause in enumerate(pauses):
        longest = min(0.01 * 2**number, poller.PAUSE_LONGEST_SECONDS)
        assert longest / 2 <= pause <= longest
    assert source.waits[12] == 30.0
    assert source.waits[13] <= 0.01


def test_an_answer_after_the_deadline_is_thrown_away_and_the_next_one_counts() -> None:
    source, taken = Scripted(), Taken()
    source.script = [WEB, source.hang, WEB]

    async def scenario() -> None:
        async with following(source, taken) as follower:
            await until(lambda: len(taken.reports) == 1)
            source.events.put(True)
            await until(lambda: bool(follower.problem))
            assert follower.problem == "no answer within 1 s"
            assert source.reads == 2  # nothing else is asked of it while the call is under way
            await asyncio.sleep(2 * DEADLINE)
            assert (source.reads, len(source.waits)) == (2, 1)
            source.release.set()
            source.events.put(False)
            await until(lambda: len(taken.reports) == 2)
            assert (follower.problem, follower.problems) == ("", 1)

    assert run(scenario) == []
    assert [report for report, _ in taken.reports] == [WEB, WEB]


def test_a_first_answer_that_hangs_does_not_keep_the_service_waiting() -> None:
    source, taken = Scripted(), Taken()
    source.script = [source.hang_and_fail, WEB]

    async def scenario() -> None:
        async with following(source, taken) as follower:
            async with asyncio.timeout(SECONDS):
                await follower.answered.wait()
            assert follower.age_seconds() is None
            source.release.set()
            source.events.put(False)
            await until(lambda: len(taken.reports) == 1)
            assert follower.problem == ""

    assert run(scenario) == []


@pytest.mark.parametrize("defect", [ZeroDivisionError("division by zero"), KeyError("mac"), AssertionError()])
def test_a_defect_in_reading_is_reported_and_does_not_end_the_follower(defect: Exception) -> None:
    source, taken = Scripted(defect, WEB), Taken()

    async def scenario() -> None:
        async with following(source, taken) as follower:
            await follower.answered.wait()
            assert follower.problem.startswith(type(defect).__name__)
            source.events.put(False)
            await until(lambda: len(taken.reports) == 1)
            assert (follower.problem, follower.problems) == ("", 1)

    assert run(scenario) == []


def test_a_defect_in_waiting_does_not_end_the_follower() -> None:
    source, taken = Scripted(WEB, SHOP), Taken()

    async def scenario() -> None:
        async with following(source, taken, poll_seconds=0.5) as follower:
            await until(lambda: len(taken.reports) == 1)
            source.events.put(ValueError("a file descriptor cannot be a negative integer (-1)"))
            await until(lambda: bool(follower.problem))
            assert follower.problem.startswith("ValueError: a file descriptor")
            await until(lambda: len(taken.reports) == 2)
            assert follower.problem == ""

    assert run(scenario) == []


def test_a_defect_in_taking_a_report_does_not_end_the_follower() -> None:
    source, taken = Scripted(WEB, SHOP), Taken()
    taken.fail = OverflowError("Python integer 4294967296 out of bounds for uint32")

    async def scenario() -> None:
        async with following(source, taken) as follower:
            await follower.answered.wait()
            assert follower.problem.startswith("OverflowError: ")
            assert follower.age_seconds() is None
            source.events.put(False)
            await until(lambda: len(taken.reports) == 1)
            assert (follower.problem, follower.problems) == ("", 1)

    assert run(scenario) == []


def test_a_source_that_waits_for_ever_is_reported() -> None:
    source, taken = Scripted(WEB, SHOP), Taken()

    async def scenario() -> None:
        async with following(source, taken, poll_seconds=0.01) as follower:
            await until(lambda: bool(taken.reports and follower.problem))
            assert follower.problem == "no answer within 1 s"
            assert source.reads == 1
            source.events.put(False)
            await until(lambda: len(taken.reports) == 2)

    assert run(scenario) == []


def test_what_a_file_cannot_be_is_raised_at_the_start_only() -> None:
    source, taken = (
        Scripted(SourceSetupError("x.txt: the ending says nothing"), SourceSetupError("again"), WEB),
        Taken(),
    )

    async def scenario() -> None:
        async with Bridge({STAGE: 1}) as bridge:
            follower = SourcePoller(Polled(source, STAGE, 30.0, DEADLINE), bridge, taken, lambda: 1)
            with pytest.raises(SourceSetupError, match="the ending says nothing"):
                await follower.read(raise_setup_errors=True)
            assert not await follower.read()
            assert follower.problem == "again"
            assert await follower.read()

    assert run(scenario) == []


@pytest.mark.parametrize("late", ["hang", "hang_and_fail"])
def test_a_stop_does_not_wait_for_a_source_that_hangs(late: str) -> None:
    source, taken = Scripted(), Taken()
    source.script = [WEB, getattr(source, late)]

    async def scenario() -> None:
        async with following(source, taken) as follower:
            await until(lambda: len(taken.reports) == 1)
            source.events.put(True)
            await until(lambda: source.reads == 2)
            if late == "hang_and_fail":
                await until(lambda: bool(follower.problem))
        # What hangs is not closed under its call; what it brings at last goes nowhere.
        assert source.closed == 0

    assert run(scenario) == []
    assert [report for report, _ in taken.reports] == [WEB]


def test_a_stop_ends_a_wait_and_closes_the_source() -> None:
    source, taken = Scripted(WEB), Taken()

    async def scenario() -> None:
        async with following(source, taken):
            await until(lambda: len(source.waits) == 1)

    assert run(scenario) == []
    assert source.closed == 1
