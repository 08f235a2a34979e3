"""How late timers are: what the process held up and what a missing core did are kept apart."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from collector.metrics import Metrics
from collector.threads import CHECK_SECONDS, LATE_SECONDS, CoreWait, LoopLag, run

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long a thread waits for a core")


@pytest.fixture
def crowded() -> Iterator[None]:
    """This thread shares one core with four processes that never rest."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        time.sleep(0.3)
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()
        os.sched_setaffinity(0, cores)


def measured(work: float) -> Metrics:
    """What is reported of a loop that a callback holds for so many seconds."""
    metrics = Metrics()

    async def main() -> None:
        measuring = asyncio.create_task(LoopLag(metrics).run())
        await asyncio.sleep(CHECK_SECONDS / 2)
        time.sleep(work)  # noqa: ASYNC251 - what is measured
        await asyncio.sleep(CHECK_SECONDS * 2)
        measuring.cancel()

    run(main())
    return metrics


def test_a_callback_that_takes_long_is_the_fault_of_the_process() -> None:
    metrics = measured(CHECK_SECONDS + 3 * LATE_SECONDS)

    lag, core = metrics.value("event_loop_lag_seconds"), metrics.value("event_loop_core_wait_seconds")
    assert lag is not None
    assert core is not None
    assert lag - core >= 2 * LATE_SECONDS
    assert metrics.value("event_loop_late_total", cause="process") == 1


def test_both_causes_are_reported_from_the_start() -> None:
    metrics = measured(0.0)

    assert metrics.value("event_loop_late_total", cause="process") == 0
    assert metrics.value("event_loop_late_total", cause="core") is not None


@LINUX
def test_work_beside_others_on_one_core_waits_for_it(crowded: None) -> None:
    with CoreWait() as core:
        began, ran, waited = time.monotonic(), time.thread_time(), core.seconds()
        while time.monotonic() - began < 1:
            pass
        took, ran, waited = time.monotonic() - began, time.thread_time() - ran, core.seconds() - waited

    assert waited == pytest.approx(took - ran, rel=0.2)
    assert waited > took / 2


@LINUX
def test_a_thread_that_sleeps_waits_for_no_core() -> None:
    with CoreWait() as core:
        before = core.seconds()
        time.sleep(0.5)

        assert core.seconds() - before < 0.25
