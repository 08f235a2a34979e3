"""Windows of the clock: each packet and each end of a connection is in one of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from scapy.all import IP, UDP, Ether, raw

from decoders.mirror import results
from decoders.mirror.results import Window
from decoders.mirror.state import C_IN_USE, T_EVICTED, T_FREE, T_NOT_CHOSEN, new_meter
from decoders.mirror.windows import Windows
from tests.mirror.simulated import Plan, play
from tests.mirror.support import START_US, Talk, Timed, frames_of, meter_of

SECOND_US = 1_000_000
Shown = list[tuple[int, list[dict[str, Any]]]]


def windows_of(*batches: list[Timed], seconds: int = 10, slots: int = 64) -> Shown:
    """Begin of each window, in seconds after the start, and its connections."""
    meter = new_meter(slots, secret=1)
    found: Shown = []

    def ended(window: Window) -> None:
        begin = (window.begin_ns // 1000 - START_US) / SECOND_US
        found.append((round(begin), results.connections(meter, window)))

    windows = Windows(meter, seconds, ended)
    for batch in batches:
        windows.count(frames_of(batch))
    windows.close()
    return found


def test_the_windows_add_up_to_the_whole() -> None:
    """START_US is a whole number of 10 s; batches and windows do not meet."""
    played = play(Plan(segments=300, lost_before=0.02, lost_behind=0.02, far_us=60_000, timeout_us=500_000), 1)
    frames = played.talk.frames
    windows = windows_of(*(frames[place : place + 37] for place in range(0, len(frames), 37)), seconds=1)
    (whole,) = results.connections(meter_of(frames))
    summed: Counter[str] = Counter()
    for _, (row,) in windows:
        summed.update({name: value for name, value in row.items() if name.endswith(results.WAYS)})
        summed["rtt_server_samples"] += row["rtt_server_samples"]

    assert len(windows) >= 3
    assert [begin for begin, _ in windows] == list(range(len(windows)))
    assert dict(summed) == {name: whole[name] for name in summed}
    assert [row["opened"] for _, (row,) in windows] == [True] + [False] * (len(windows) - 1)
    assert {row["interval_us"] for _, (row,) in windows} == {SECOND_US}


def test_an_end_is_in_one_window() -> None:
    """Though packets come after it, and a SYN that is not answered is repeated."""
    closed, silent = Talk(), Talk(client_port=50_000)
    now = closed.open()
    closed.packet(now + 10, 0, "FA", 1, 1)
    closed.packet(now + 20, 1, "FA", 1, 2)
    closed.packet(10 * SECOND_US + 5, 0, "A", 2, 2)
    for second in (0, 1, 3, 7, 15, 31):
        silent.packet(second * SECOND_US, 0, "S", 0)
    frames = sorted([*closed.frames, *silent.frames], key=lambda one: one[0])
    ends = [
        (begin, row["src_port"], row["outcome"], row["ended"]) for begin, rows in windows_of(frames) for row in rows
    ]

    assert ends == [
        (0, 40_000, "closed", True), (0, 50_000, "unanswered", True),
        (10, 40_000, "closed", False), (10, 50_000, "unanswered", False),
        (30, 50_000, "unanswered", False),
    ]  # fmt: skip


def test_a_window_of_zero_is_timed_in_each_window() -> None:
    talk = Talk()
    talk.open()
    talk.packet(8 * SECOND_US, 1, "A", 1, 1, window=0)
    talk.packet(15 * SECOND_US, 1, "A", 1, 1, window=0)
    talk.packet(21 * SECOND_US, 1, "A", 1, 1, window=9)
    found = [(row["zero_windows_to_client"], row["zero_window_us_to_client"]) for _, (row,) in windows_of(talk.frames)]

    assert found == [(1, 2 * SECOND_US), (0, 10 * SECOND_US), (0, SECOND_US)]


def test_a_window_of_zero_lasts_in_windows_without_packets_of_its_connection() -> None:
    """Up to two minutes after the last one; not in windows that nothing is in, nor after the connection's end."""
    talk, other = Talk(), Talk(client_port=50_000)
    talk.open()
    talk.packet(8 * SECOND_US, 1, "A", 1, 1, window=0)
    for second in (15, 25, 45, 125, 135, 145):
        other.packet(second * SECOND_US, 0, "A", 1, 1)
    talk.packet(151 * SECOND_US, 0, "R", 1)
    other.packet(165 * SECOND_US, 0, "A", 1, 1)
    frames = sorted([*talk.frames, *other.frames], key=lambda one: one[0])
    found = [
        (begin, row["zero_window_us_to_client"] / SECOND_US)
        for begin, rows in windows_of(frames)
        for row in rows
        if row["src_port"] == 40_000
    ]

    assert found == [(0, 2), (10, 10), (20, 10), (40, 10), (120, 8), (150, 1)]


def test_an_answer_that_comes_late_is_one() -> None:
    """After 5 s the open has failed, says a window; then it is open, and stays known as long as any other.

    Of the third connection the server's packets were not captured.
    """
    late, refused, half = Talk(), Talk(client_port=50_000), Talk(client_port=60_000)
    for talk in (late, refused, half):
        talk.packet(0, 0, "S", 0)
        talk.packet(5 * SECOND_US, 0, "S", 0)
    late.packet(12 * SECOND_US, 1, "SA", 0, 1)
    late.packet(25 * SECOND_US, 0, "A", 1, 1)
    half.packet(12 * SECOND_US, 0, "A", 1, 1)
    late.packet(212 * SECOND_US, 0, "A", 1, 1)
    refused.packet(12 * SECOND_US, 1, "RA", 0, 1)
    frames = sorted([*late.frames, *refused.frames, *half.frames], key=lambda one: one[0])
    ends = [
        (begin, row["src_port"], row["outcome"], row["ended"]) for begin, rows in windows_of(frames) for row in rows
    ]

    assert ends == [
        (0, 40_000, "unanswered", True), (0, 50_000, "unanswered", True), (0, 60_000, "unanswered", True),
        (10, 40_000, "open", False), (10, 50_000, "refused", False), (10, 60_000, "open", False),
        (20, 40_000, "open", False), (210, 40_000, "open", False),
    ]  # fmt: skip


def test_windows_without_packets_are_left_out() -> None:
    """However far the times are apart: a file may hold any."""
    talk = Talk()
    talk.open()
    talk.packet(3600 * SECOND_US, 0, "A", 1, 1)
    talk.packet(5 * SECOND_US, 0, "A", 1, 1)  # in another batch it is late, and counts in the window of then
    batches = (talk.frames[:4], talk.frames[4:])

    found = [(begin, row["packets_to_server"]) for begin, rows in windows_of(*batches) for row in rows]
    assert found == [(0, 2), (3600, 2)]


def test_the_clock_ends_a_window_in_which_nothing_follows() -> None:
    meter = new_meter(8, secret=1)
    ended: list[Window] = []
    windows = Windows(meter, 10, ended.append)
    talk = Talk()
    talk.open()
    windows.count(frames_of(talk.frames))
    start_ns = START_US * 1000

    windows.advance(start_ns + 11_900_000_000)
    assert not ended
    windows.advance(start_ns + 12_000_000_000)
    windows.advance(start_ns + 13_000_000_000)
    assert ended == [Window(start_ns, start_ns + 10_000_000_000, start_ns + 10_000_000_000)]


def test_room_comes_back_with_connections_that_have_ended() -> None:
    """Eight at a time have room; each of 40 is seen, since those before it go."""
    frames: list[Timed] = []
    for number in range(40):
        talk = Talk(client_port=40_000 + number)
        at_us = number * 20 * SECOND_US / 4
        talk.packet(at_us, 0, "S", 0)
        talk.packet(at_us + 100, 1, "RA", 0, 1)
        frames += talk.frames
    found = windows_of(frames, slots=8)

    assert sum(row["outcome"] == "refused" and row["ended"] for _, rows in found for row in rows) == 40


@pytest.mark.parametrize(
    ("kind", "slots", "seconds"),
    [
        ("idle", 64, 900), ("udp", 64, 60), ("unanswered", 64, 60), ("one way", 64, 60), ("half open", 64, 60),
        ("ended", 64, 10), ("idle", 1, 900), ("udp", 1, 10), ("one way", 1, 10), ("half open", 1, 10),
    ],
)  # fmt: skip
def test_how_long_a_connection_stays_known(kind: str, slots: int, seconds: int) -> None:
    """After its last packet, looked at when a window ends; one slot is full with it."""
    talk = Talk()
    if kind == "idle":
        talk.open()
    elif kind == "one way":
        talk.packet(0, 0, "A", 1, 1)
    elif kind == "half open":
        talk.packet(0, 0, "S", 0)
        talk.packet(0, 1, "SA", 0, 1)
    elif kind == "udp":
        talk.frames = [(0, raw(Ether() / IP(src="10.0.0.1", dst="10.0.0.2", id=5) / UDP()))]
    else:
        talk.packet(0, 0, "S", 0)
        if kind == "ended":
            talk.packet(0, 1, "RA", 0, 1)
    meter = meter_of(talk.frames, slots)

    for after, free in ((4, slots - 1), (seconds, slots - 1), (seconds + 1, slots)):
        end_ns = (START_US + after * SECOND_US) * 1000
        results.end_window(meter, Window(end_ns - 10**10, end_ns, end_ns))
        assert meter.totals[T_FREE] == free
    assert meter.totals[T_EVICTED] == (kind != "ended")


def test_connections_are_found_again_after_the_end_of_a_window() -> None:
    talks = [Talk(client_port=40_000 + number) for number in range(50)]
    for talk in talks:
        talk.open()
        talk.packet(12 * SECOND_US, 0, "A", 1, 1)
    meter = new_meter(64, secret=1)
    windows = Windows(meter, 10, lambda _: None)
    windows.count(frames_of(sorted((one for talk in talks for one in talk.frames), key=lambda one: one[0])))

    assert meter.totals[T_FREE] == 64 - 50
    assert (meter.state[:, C_IN_USE] == 1).sum() == 50


def test_overload_leaves_out_whole_connections() -> None:
    """Half of them, then half of the rest; those that stay keep all their packets.  Later, more come."""
    talks = [Talk(client_port=40_000 + number) for number in range(200)]
    for talk in talks:
        talk.open()
        for second in (5, 12, 22, 32):
            talk.packet(second * SECOND_US, 0, "A", 1, 1)
    frames = sorted((one for talk in talks for one in talk.frames), key=lambda one: one[0])
    meter = new_meter(256, secret=1)
    found: list[list[dict[str, Any]]] = []
    windows = Windows(meter, 10, lambda window: found.append(results.connections(meter, window)))
    windows.count(frames_of(frames[:600]))
    windows.halve()
    windows.halve()
    windows.count(frames_of(frames[600:]))
    windows.close()

    assert [{row["sampling_rate"] for row in rows} for rows in found] == [{4}, {4}, {2}, {1}]
    assert {row["packets_to_server"] for row in found[0]} == {3}
    assert 25 <= len(found[0]) <= 75
    assert [row["src_port"] for row in found[1]] == [row["src_port"] for row in found[0]]
    assert 70 <= len(found[2]) <= 130
    assert {row["src_port"] for row in found[1]} < {row["src_port"] for row in found[2]}
    assert len(found[3]) == 200
    assert meter.totals[T_NOT_CHOSEN] == 2 * (200 - len(found[0])) + 200 - len(found[2])
    assert meter.totals[T_FREE] == 256 - 200
