"""The bridge: results and errors come back to the loop, stages do not share workers, stopping ends what it can."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from collector import threads
from collector.threads import Bridge, run


def in_bridge(workers: dict[str, int], use: Callable[[Bridge], object], **options: float) -> None:
    async def main() -> None:
        async with Bridge(workers, **options) as bridge:
            await use(bridge)  # type: ignore[misc]

    run(main(), debug=True)


def test_a_call_runs_on_a_thread_of_its_stage_and_brings_back_its_result() -> None:
    def where(a: int, b: int) -> tuple[str, int]:
        return threading.current_thread().name, a + b

    async def use(bridge: Bridge) -> None:
        name, total = await bridge.call("store", where, 1, b=2)

        assert name.startswith("vmflow-store")
        assert total == 3

    in_bridge({"decode": 1, "store": 1}, use)


def test_an_exception_comes_back_as_it_was_raised() -> None:
    def fail() -> None:
        raise LookupError("a defect")

    async def use(bridge: Bridge) -> None:
        with pytest.raises(LookupError, match="a defect"):
            await bridge.call("decode", fail)
        assert await bridge.call("decode", int, "7") == 7

    in_bridge({"decode": 1}, use)


def test_a_slow_stage_does_not_hold_up_another() -> None:
    go_on = threading.Event()

    async def use(bridge: Bridge) -> None:
        slow = asyncio.ensure_future(bridge.call("store", go_on.wait, 20))
        assert await bridge.call("decode", lambda: "done") == "done"
        assert not slow.done()
        go_on.set()
        assert await slow

    in_bridge({"decode": 1, "store": 1}, use)


def test_post_reaches_the_loop_from_a_thread_and_fails_quietly_after_its_end() -> None:
    seen: list[tuple[str, int]] = []
    bridges: list[Bridge] = []

    def note(number: int) -> None:
        seen.append((threading.current_thread().name, number))

    async def use(bridge: Bridge) -> None:
        bridges.append(bridge)
        assert await bridge.call("decode", bridge.post, note, 5)
        await asyncio.sleep(0)

    in_bridge({"decode": 1}, use)

    assert seen == [(threading.main_thread().name, 5)]
    assert not bridges[0].post(note, 6)


def test_stopping_waits_for_calls_under_way_and_drops_those_not_begun() -> None:
    begun = threading.Event()
    go_on = threading.Event()
    ended: list[str] = []

    def work(name: str) -> None:
        begun.set()
        go_on.wait(20)
        ended.append(name)

    async def main() -> None:
        bridge = Bridge({"store": 1})
        async with bridge:
            first = asyncio.ensure_future(bridge.call("store", work, "first"))
            second = asyncio.ensure_future(bridge.call("store", work, "second"))
            await asyncio.sleep(0)
            begun.wait(20)
            stopping = asyncio.ensure_future(bridge.stop())
            await asyncio.sleep(0.01)
            assert not stopping.done()
            go_on.set()
            assert await stopping == []
            await first
            with pytest.raises(asyncio.CancelledError):
                await second
            with pytest.raises(RuntimeError, match="not running"):
                await bridge.call("store", work, "third")

    run(main(), debug=True)

    assert ended == ["first"]


def test_a_call_that_does_not_end_is_named_after_the_deadline() -> None:
    go_on = threading.Event()

    async def main() -> None:
        bridge = Bridge({"libvirt": 1}, stop_deadline_seconds=0.02)
        async with bridge:
            stuck = asyncio.ensure_future(bridge.call("libvirt", go_on.wait, 20))
            await asyncio.sleep(0.01)
            assert await bridge.stop() == ["libvirt"]
            go_on.set()
            assert await stuck

    run(main(), debug=True)


def test_a_cancelled_caller_does_not_end_the_call() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(20)
        ended.set()

    async def use(bridge: Bridge) -> None:
        task = asyncio.ensure_future(bridge.call("store", work))
        await asyncio.sleep(0)
        begun.wait(20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    in_bridge({"store": 1}, use)

    assert ended.is_set()


def test_an_unknown_stage_is_an_error() -> None:
    async def use(bridge: Bridge) -> None:
        with pytest.raises(KeyError, match="kitchen"):
            await bridge.call("kitchen", int)

    in_bridge({"store": 1}, use)


def test_a_bridge_that_has_not_started_refuses() -> None:
    with pytest.raises(RuntimeError, match="not running"):
        Bridge({"store": 1}).post(int)


def test_the_fast_loop_is_used_where_it_is_installed() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert isinstance(run(loop()), uvloop.Loop)
    assert not isinstance(run(loop(), fast_loop=False), uvloop.Loop)
    assert threads.run(loop()).is_closed()


NICENESS = """
import asyncio, json, os, threading
from collector.notify.action_run import run_command
from collector.notify.settings import ActionSettings
from collector.threads import Bridge, raise_priority, run, start_daemon

def own():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

async def main():
    found = {"before": own(), "allowed": raise_priority(), "loop": own()}
    async with Bridge({"decode": 1}) as bridge:
        found["worker"] = await bridge.call("decode", own)
        done = asyncio.Event()
        start_daemon("events", lambda: (found.update(daemon=own()), bridge.post(done.set)))
        await done.wait()
    command = ActionSettings(kind="command", rules=("any",), argv=("/bin/sh", "-c", "sleep 0.3; nice"))
    found["command"] = int((await run_command(command, b"", {})).output)
    print(json.dumps(found))

run(main())
"""


def may_be_nice() -> bool:
    """Whether this process has CAP_SYS_NICE, number 23."""
    status = Path("/proc/self/status")
    return status.exists() and bool(int(re.findall(r"CapEff:\t(\w+)", status.read_text())[0], 16) >> 23 & 1)


@pytest.mark.skipif(not may_be_nice(), reason="needs Linux, and CAP_SYS_NICE to give it up")
@pytest.mark.parametrize(
    ("without", "allowed"), [((), True), (("prlimit", "--nice=0:0", "setpriv", "--bounding-set=-sys_nice"), False)]
)
def test_the_event_loop_alone_goes_first_where_it_may(without: tuple[str, ...], allowed: bool) -> None:
    done = subprocess.run([*without, sys.executable, "-c", NICENESS], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    usual = found["before"]

    assert found["allowed"] is allowed
    assert found["loop"] == (usual - 5 if allowed else usual)
    assert found["worker"] == found["daemon"] == found["command"] == usual


ASIDE = """
import json, os, threading
from collector.threads import lower_priority, step_aside

number = threading.get_native_id()
found = [step_aside(number), os.getpriority(os.PRIO_PROCESS, number)]
lower_priority(number)
print(json.dumps([*found, os.getpriority(os.PRIO_PROCESS, number), step_aside(2**22 + 1)]))
"""


@pytest.mark.skipif(not may_be_nice(), reason="needs Linux, and CAP_SYS_NICE to give it up")
@pytest.mark.parametrize(
    ("without", "allowed"),
    [
        ((), True),
        (("prlimit", "--nice=20:20", "setpriv", "--bounding-set=-sys_nice"), True),
        (("prlimit", "--nice=0:0", "setpriv", "--bounding-set=-sys_nice"), False),
    ],
)
def test_a_thread_steps_aside_only_where_it_can_come_back(without: tuple[str, ...], allowed: bool) -> None:
    if without and subprocess.run([*without, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs CAP_SYS_RESOURCE to raise the limit of niceness")
    done = subprocess.run([*without, sys.executable, "-c", ASIDE], capture_output=True, text=True, check=True)
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    assert json.loads(done.stdout) == [allowed, 19 if allowed else usual, usual, False]
