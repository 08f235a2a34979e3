"""Windows close in order and once: by receipt, by the clock in silence, after pauses and steps of the clock."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from clickhouse_connect.driver import Client
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.analyze.settings import AnalyzeSettings
from collector.analyze.watermark import SECOND_US, Watermark, WatermarkRules
from collector.analyze.windows import Windows
from collector.interfaces import Watched, WindowClosed
from collector.metrics import Metrics
from collector.store.client import open_client
from collector.store.settings import StoreSettings
from collector.threads import Bridge, run
from schemas.rollups import LEVEL_US
from tests.analyze.support import BASE_US, heard
from tests.decoders.support import address
from tests.flow_rows import add

RULES = WatermarkRules(5 * SECOND_US, 5 * SECOND_US, 60 * SECOND_US, 360)
NOON = 1_800_014_400 * SECOND_US
"""A full hour."""
SILENCE = 10 * SECOND_US
"""Lateness and idle time of RULES: the clock alone closes a window this long after its end."""


def shown(windows: list[WindowClosed]) -> list[tuple[str, int, int]]:
    """Level, start and end in seconds behind NOON."""
    return [(w.level, (w.start_us - NOON) // SECOND_US, (w.end_us - NOON) // SECOND_US) for w in windows]


def test_a_window_closes_when_rows_newer_than_its_end_and_the_lateness_were_received() -> None:
    mark = Watermark(RULES)
    assert mark.advance(NOON) == []

    mark.observe(NOON + 15 * SECOND_US - 1, NOON)
    assert mark.advance(NOON + 15 * SECOND_US) == []
    mark.observe(NOON + 15 * SECOND_US, NOON + 14 * SECOND_US)

    assert shown(mark.advance(NOON + 15 * SECOND_US)) == [("10s", 0, 10)]
    assert mark.advance(NOON + 15 * SECOND_US) == []


def test_windows_come_in_order_of_their_ends_and_the_shortest_first() -> None:
    mark = Watermark(RULES)
    mark.advance(NOON)

    closed = shown(mark.advance(NOON + 3600 * SECOND_US + SILENCE))

    assert closed[:7] == [*(("10s", at, at + 10) for at in range(0, 60, 10)), ("1m", 0, 60)]
    assert closed[-3:] == [("10s", 3590, 3600), ("1m", 3540, 3600), ("1h", 0, 3600)]
    assert len(closed) == 360 + 60 + 1


def test_in_silence_the_clock_closes_windows() -> None:
    mark = Watermark(RULES)
    mark.advance(NOON)
    mark.observe(NOON + 1, NOON)

    assert mark.advance(NOON + 10 * SECOND_US + SILENCE - 1) == []
    assert shown(mark.advance(NOON + 10 * SECOND_US + SILENCE)) == [("10s", 0, 10)]


def test_a_window_that_had_begun_before_is_partial() -> None:
    mark = Watermark(RULES)
    mark.advance(NOON + 25 * SECOND_US)

    closed = mark.advance(NOON + 60 * SECOND_US + SILENCE)

    assert [(w.level, w.partial) for w in closed] == [
        ("10s", True), ("10s", False), ("10s", False), ("10s", False), ("1m", True),
    ]  # fmt: skip


def test_rows_of_closed_windows_are_counted_and_close_nothing() -> None:
    mark = Watermark(RULES)
    mark.advance(NOON)
    mark.advance(NOON + 10 * SECOND_US + SILENCE)
    assert mark.late == 0

    mark.observe(NOON + 11 * SECOND_US, NOON + 10 * SECOND_US)
    assert mark.late == 0
    mark.observe(NOON + 11 * SECOND_US, NOON + 10 * SECOND_US - 1)

    assert mark.late == 1
    assert mark.advance(NOON + 10 * SECOND_US + SILENCE) == []


def test_after_a_long_pause_only_the_last_hour_is_closed_and_the_rest_is_counted() -> None:
    mark = Watermark(RULES)
    mark.advance(NOON)

    closed = mark.advance(NOON + 8 * 3600 * SECOND_US + SILENCE)

    tens = [w for w in closed if w.level == "10s"]
    assert len(tens) == 360
    assert tens[-1].end_us == NOON + 8 * 3600 * SECOND_US
    assert mark.skipped == {"10s": 7 * 360, "1m": 8 * 60 - 360, "1h": 0}
    assert len([w for w in closed if w.level == "1h"]) == 8


def test_a_clock_that_goes_back_a_little_is_waited_out() -> None:
    mark = Watermark(RULES)
    mark.advance(NOON)
    closed = mark.advance(NOON + 30 * SECOND_US + SILENCE)
    assert len(closed) == 3

    assert mark.advance(NOON + 5 * SECOND_US + SILENCE) == []
    assert shown(mark.advance(NOON + 40 * SECOND_US + SILENCE)) == [("10s", 30, 40)]
    assert mark.epoch == 1


def test_a_clock_that_is_set_back_begins_a_new_epoch() -> None:
    mark = Watermark(RULES)
    mark.advance(NOON + 7200 * SECOND_US)
    mark.observe(NOON + 7230 * SECOND_US, NOON + 7229 * SECOND_US)
    mark.advance(NOON + 7230 * SECOND_US)

    assert mark.advance(NOON + 3 * SECOND_US) == []
    mark.observe(NOON + 4 * SECOND_US, NOON + 4 * SECOND_US)
    assert mark.late == 0
    closed = mark.advance(NOON + 20 * SECOND_US + SILENCE)

    assert shown(closed) == [("10s", 0, 10), ("10s", 10, 20)]
    assert [(w.partial, w.epoch) for w in closed] == [(True, 2), (False, 2)]


def test_a_time_from_before_the_clock_was_set_back_closes_nothing_early() -> None:
    """A batch that was received before the step, and is reported after it."""
    mark = Watermark(RULES)
    mark.advance(NOON + 7200 * SECOND_US)
    mark.advance(NOON)
    mark.observe(NOON + 7200 * SECOND_US, NOON + 7200 * SECOND_US)

    assert mark.advance(NOON + 14 * SECOND_US) == []
    assert shown(mark.advance(NOON + 15 * SECOND_US)) == [("10s", 0, 10)]


def following(alive_seconds: int, judged_seconds: int, began_seconds: int = -86_400) -> Watermark:
    """A watermark that goes on after a run, reported in seconds behind NOON."""
    mark = Watermark(RULES)
    began, judged, alive = (NOON + at * SECOND_US for at in (began_seconds, judged_seconds, alive_seconds))
    mark.follow(Watched(began, judged, alive))
    return mark


def test_windows_that_a_former_run_did_not_judge_close_once_their_rows_have_come() -> None:
    mark = following(alive_seconds=95, judged_seconds=50)
    assert mark.advance(NOON + 121 * SECOND_US, waiting=True) == []

    mark.observe(NOON + 75 * SECOND_US, NOON + 50 * SECOND_US)
    closed = mark.advance(NOON + 122 * SECOND_US, waiting=True)
    assert shown(closed) == [("10s", 50, 60), ("1m", 0, 60), ("10s", 60, 70)]
    mark.observe(NOON + 95 * SECOND_US, NOON + 75 * SECOND_US)
    closed = mark.advance(NOON + 140 * SECOND_US)

    # Nobody watched from 95 to 121 s: what lies in there is no window.
    assert shown(closed) == [("10s", 70, 80), ("10s", 80, 90), ("10s", 90, 100), ("1m", 60, 120), ("10s", 120, 130)]
    assert [window.partial for window in closed] == [False, False, True, True, False]
    assert mark.late == 0
    assert sum(mark.skipped.values()) == 0


def test_a_restart_costs_no_long_window() -> None:
    mark = following(alive_seconds=1800, judged_seconds=1780)
    mark.advance(NOON + 1803 * SECOND_US)

    hours = [window for window in mark.advance(NOON + 3600 * SECOND_US + SILENCE) if window.level == "1h"]

    assert [(window.start_us, window.partial) for window in hours] == [(NOON, False)]
    assert mark.watched_us == NOON - 86_400 * SECOND_US


def test_a_run_that_began_in_a_window_leaves_it_partial() -> None:
    mark = following(alive_seconds=1800, judged_seconds=1780, began_seconds=60)
    mark.advance(NOON + 1803 * SECOND_US)

    closed = mark.advance(NOON + 3600 * SECOND_US + SILENCE)

    assert [window.partial for window in closed if window.level == "1h"] == [True]


def test_a_run_that_judged_no_window_whole_leaves_its_first_one_partial() -> None:
    mark = following(alive_seconds=38, judged_seconds=0, began_seconds=3)

    closed = mark.advance(NOON + 45 * SECOND_US + SILENCE)

    assert [(window.start_us, window.partial) for window in closed] == [
        (NOON + at * SECOND_US, partial) for at, partial in ((0, True), (10, False), (20, False), (30, True))
    ]


def test_what_a_run_left_long_ago_is_passed_over_and_counted() -> None:
    mark = following(alive_seconds=100, judged_seconds=60)

    assert mark.advance(NOON + 7260 * SECOND_US) == []
    assert mark.skipped == {"10s": 4, "1m": 0, "1h": 0}
    assert shown(mark.advance(NOON + 7270 * SECOND_US + SILENCE)) == [("10s", 7260, 7270)]


@pytest.mark.parametrize(("began", "judged", "alive"), [(0, 0, 50), (10, 60, 50), (10, 40, 200)])
def test_what_a_former_run_cannot_have_watched_is_not_believed(began: int, judged: int, alive: int) -> None:
    mark = Watermark(RULES)
    mark.follow(Watched(*(at and NOON + at * SECOND_US for at in (began, judged, alive))))

    assert mark.advance(NOON + 120 * SECOND_US) == []
    assert shown(mark.advance(NOON + 130 * SECOND_US + SILENCE)) == [("10s", 120, 130)]


STEPS = st.lists(
    st.tuples(st.sampled_from(["observe", "advance", "set back"]), st.integers(0, 200 * SECOND_US)), max_size=60
)


@settings(deadline=None)
@given(STEPS)
def test_whatever_happens_each_level_is_gapless_and_every_window_closes_once(steps: list[tuple[str, int]]) -> None:
    mark = Watermark(RULES)
    now = NOON
    closed: list[WindowClosed] = []
    for what, amount in steps:
        now += -amount if what == "set back" else amount
        if what == "observe":
            mark.observe(now, now - amount)
        closed += mark.advance(now)

    for level, length in LEVEL_US.items():
        for epoch in range(1, mark.epoch + 1):
            starts = [w.start_us for w in closed if (w.level, w.epoch) == (level, epoch)]
            assert starts == [starts[0] + at * length for at in range(len(starts))] if starts else True
    for window in closed:
        assert window.end_us - window.start_us == LEVEL_US[window.level]
        assert window.start_us % LEVEL_US[window.level] == 0
    ends = [(w.epoch, w.end_us) for w in closed]
    assert ends == sorted(ends)


def test_who_asks_hears_of_rows_that_may_belong_to_closed_windows() -> None:
    """Records begin up to 7 s before their receipt: what was received in an open window may begin in a closed one."""

    async def call(function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    windows = Windows(QUICK, Metrics(), call, unused, clock_us=Time(NOON), reach_us=lambda: 7 * SECOND_US)
    late: list[int] = []
    windows.subscribe_late(late.append)
    windows.observe(NOON, NOON - SECOND_US)
    assert late == [], "nothing has closed"
    windows._watermark.advance(NOON)
    windows._watermark.advance(NOON + 20 * SECOND_US + SILENCE)
    assert windows.closed_us == NOON + 20 * SECOND_US

    windows.observe(NOON + 30 * SECOND_US, NOON + 27 * SECOND_US)
    assert late == []
    windows.observe(NOON + 30 * SECOND_US, NOON + 27 * SECOND_US - 1)
    assert late == [NOON + 20 * SECOND_US - 1]


# The component, with a real store.


class Time:
    """A system clock that the test sets."""

    def __init__(self, now_us: int) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        return self.now_us


QUICK = AnalyzeSettings(check_seconds=0.01, lateness_seconds=5, idle_seconds=5, subscriber_seconds=0.2)


def scenario(
    clock: Time,
    connect: Callable[[], Client],
    use: Callable[[Windows, list[WindowClosed], Metrics], object],
    options: AnalyzeSettings = QUICK,
) -> Metrics:
    """Run `use` with windows that have begun at the clock's time, and the list of what closed."""
    metrics = Metrics()

    async def main() -> None:
        async with Bridge({"analyze": 1}) as bridge:
            windows = Windows(options, metrics, partial(bridge.call, "analyze"), connect, clock_us=clock)
            closed: list[WindowClosed] = []

            async def note(window: WindowClosed) -> None:
                closed.append(window)

            windows.subscribe("note", note)
            async with windows:
                await until(lambda: metrics.value("windows_epoch") == 1)
                await use(windows, closed, metrics)  # type: ignore[misc]

    run(main(), debug=True)
    return metrics


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that must happen; a minute is for ever."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def unused() -> Client:
    raise AssertionError("nobody may connect")


def connector(embedded_store: StoreSettings) -> Callable[[], Client]:
    def connect() -> Client:
        client = open_client(embedded_store)
        client.database = embedded_store.database
        return client

    return connect


def test_subscribers_hear_of_each_window_once_and_metrics_count(embedded_store: StoreSettings) -> None:
    clock = Time(NOON)

    async def use(windows: Windows, closed: list[WindowClosed], metrics: Metrics) -> None:
        clock.now_us = NOON + 20 * SECOND_US
        windows.observe(NOON + 15 * SECOND_US, NOON + 14 * SECOND_US)
        await until(lambda: len(closed) == 1)
        clock.now_us = NOON + 60 * SECOND_US + SILENCE
        await until(lambda: len(closed) == 7)
        windows.observe(clock.now_us, NOON)
        await until(lambda: metrics.value("windows_late_batches_total") == 1)
        assert shown(closed) == [*(("10s", at, at + 10) for at in range(0, 60, 10)), ("1m", 0, 60)]

    metrics = scenario(clock, connector(embedded_store), use)

    assert metrics.value("windows_closed_total", level="10s") == 6
    assert metrics.value("windows_closed_total", level="1m") == 1
    assert metrics.value("windows_closed_total", level="1h") == 0
    assert metrics.value("windows_watermark_seconds") == NOON / SECOND_US + 65
    assert metrics.value("latency_runs_total", result="ok") == 6


def test_the_latency_of_a_window_is_there_when_subscribers_hear_of_it(embedded_store: StoreSettings) -> None:
    begun = BASE_US
    clock = Time(begun)
    connect = connector(embedded_store)
    found: list[int] = []
    client = connect()
    flow = {
        "protocol": "ipfix", "exporter": address("192.0.2.11"), "in_if_name": "tap1", "packets": 1, "bytes": 60,
        "sampling_rate": 1, "ip_protocol": 6,
    }  # fmt: skip
    there = {"src_vm": "a", "dst_vm": "b", "src_port": 4000, "dst_port": 80, "sighting": "source"}
    back = {"src_vm": "b", "dst_vm": "a", "src_port": 80, "dst_port": 4000, "sighting": "transit"}
    at = begun + 12 * SECOND_US
    times = {"time_received": at + 100_000}
    add(client, [
        flow | there | times | {"flow_start": at, "flow_end": at},
        flow | back | times | {"flow_start": at + 7_001, "flow_end": at + 7_001},
    ])  # fmt: skip
    heard(client, begun - 60 * SECOND_US, "192.0.2.11")

    async def use(windows: Windows, _closed: list[WindowClosed], metrics: Metrics) -> None:
        async def ask(window: WindowClosed) -> None:
            if window.level != "10s":
                return
            found.extend(
                latency
                for (latency,) in client.query(
                    "SELECT latency_us FROM latency WHERE time = fromUnixTimestamp64Micro({t:Int64})",
                    parameters={"t": window.start_us},
                ).result_rows
            )

        windows.subscribe("ask", ask)
        clock.now_us = begun + 20 * SECOND_US + SILENCE
        await until(lambda: metrics.value("windows_closed_total", level="10s") == 2)

    scenario(clock, connect, use, QUICK.model_copy(update={"flow_quiet_seconds": 1, "subscriber_seconds": 60}))
    client.close()

    assert found == [7_001]


def test_a_subscriber_that_fails_or_hangs_takes_no_window_from_the_others() -> None:
    clock = Time(NOON)

    async def use(windows: Windows, closed: list[WindowClosed], _metrics: Metrics) -> None:
        async def fail(_window: WindowClosed) -> None:
            raise LookupError("a defect")

        async def hang(_window: WindowClosed) -> None:
            await asyncio.Event().wait()

        later: list[WindowClosed] = []

        async def last(window: WindowClosed) -> None:
            later.append(window)

        for name, callback in (("fail", fail), ("hang", hang), ("last", last)):
            windows.subscribe(name, callback)
        clock.now_us = NOON + 20 * SECOND_US + SILENCE
        await until(lambda: len(later) == 2)
        assert later == closed

    metrics = scenario(clock, unused, use, QUICK.model_copy(update={"latency_enabled": False}))

    assert metrics.value("windows_subscriber_failures_total", subscriber="fail", reason="error") == 2
    assert metrics.value("windows_subscriber_failures_total", subscriber="hang", reason="deadline") == 2
    assert metrics.value("windows_subscriber_failures_total", subscriber="last", reason="error") == 0


def test_a_store_that_is_absent_does_not_hold_windows_back() -> None:
    clock = Time(NOON)

    def refuse() -> Client:
        raise ConnectionRefusedError("nobody listens")

    async def use(_windows: Windows, closed: list[WindowClosed], _metrics: Metrics) -> None:
        clock.now_us = NOON + 30 * SECOND_US + SILENCE
        await until(lambda: len(closed) == 3)

    metrics = scenario(clock, refuse, use)

    assert metrics.value("latency_runs_total", result="failed") == 3


def test_a_store_that_hangs_costs_one_deadline_and_is_not_asked_again_meanwhile() -> None:
    clock = Time(NOON)
    let_go = threading.Event()

    def hang() -> Client:
        let_go.wait(60)
        raise ConnectionResetError("at last")

    async def use(_windows: Windows, closed: list[WindowClosed], metrics: Metrics) -> None:
        clock.now_us = NOON + 30 * SECOND_US + SILENCE
        await until(lambda: len(closed) == 3)
        assert metrics.value("latency_runs_total", result="deadline") == 1
        assert metrics.value("latency_runs_total", result="busy") == 2
        let_go.set()
        clock.now_us += 10 * SECOND_US
        await until(lambda: len(closed) == 4)

    metrics = scenario(clock, hang, use, QUICK.model_copy(update={"latency_seconds": 0.1}))

    assert metrics.value("latency_runs_total", result="failed") == 1


def test_after_a_pause_only_the_newest_windows_are_worth_a_query(embedded_store: StoreSettings) -> None:
    clock = Time(NOON)

    async def use(_windows: Windows, closed: list[WindowClosed], _metrics: Metrics) -> None:
        clock.now_us = NOON + 600 * SECOND_US + SILENCE
        await until(lambda: len(closed) == 60 + 10)

    metrics = scenario(clock, connector(embedded_store), use)

    # A window whose end lies six windows or less behind the watermark, and the newest seven are those.
    assert metrics.value("latency_runs_total", result="ok") == 7
    assert metrics.value("latency_runs_total", result="stale") == 53
