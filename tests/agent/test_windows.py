"""The book of a session that goes on for good, against a plan of what is lost where."""

from __future__ import annotations

import random

import pytest

from agent.clock import SECOND_NS, to_ntp
from agent.session import Mode
from agent.stamp import Reply
from agent.windows import WINDOW_NS, Window, Windows
from tests.agent.support import ERROR, NOW_NS

START_NS = NOW_NS // WINDOW_NS * WINDOW_NS
TRIP_NS = 200_000
STAY_NS = 50_000


class Path:
    """A sender with its clock, and a reflector that counts; `plan` says of each probe what happens to it."""

    def __init__(self, mode: Mode = "stateful", start_ns: int = START_NS) -> None:
        self.now_ns = self.start_ns = start_ns
        self.windows = Windows(mode, clock_s=lambda: (self.now_ns - start_ns) / 1e9)
        self.replies = 0

    def send(self, plan: str, every_ns: int = SECOND_NS) -> None:
        """Send a probe a second: `.` passes, `f` is lost on the way there, `r` on the way back, `d` comes twice."""
        for fate in plan:
            wire = to_ntp(self.now_ns)
            number = self.windows.sent(wire, self.now_ns, ERROR)
            if fate != "f":
                reply = self.reply(number, wire)
                self.replies += 1
                for _ in range({"r": 0, "d": 2}.get(fate, 1)):
                    self.windows.returned(reply, [], self.now_ns + TRIP_NS, True, 7)
            self.now_ns += every_ns

    def reply(self, number: int, wire: int) -> Reply:
        t2 = self.now_ns + TRIP_NS // 2
        return Reply(self.replies, to_ntp(t2 + STAY_NS), ERROR, 7, to_ntp(t2), number, wire, ERROR, 253)

    def final(self) -> list[Window]:
        return self.windows.final(self.now_ns, ERROR)


def losses(window: Window) -> tuple[int, int | None, int | None, int]:
    result = window.result
    return result.lost, result.lost_forward, result.lost_reverse, result.lost_unresolved


def test_a_probe_belongs_to_the_window_in_which_it_was_sent() -> None:
    path = Path()
    path.send("." * 5)  # 0 to 4 s
    path.now_ns = START_NS + 9_999_900_000
    path.send(".")  # its reply comes in the next window
    path.send(".", every_ns=0)
    path.now_ns = START_NS + WINDOW_NS + 3 * SECOND_NS - 1
    assert path.final() == []
    path.now_ns += 1
    (window,) = path.final()

    assert (window.start_ns, window.length_ns) == (START_NS, WINDOW_NS)
    assert (window.result.sent, window.result.received, window.result.outstanding) == (6, 6, 0)
    assert window.result.round_trips_us == pytest.approx([(TRIP_NS - STAY_NS) / 1000] * 6, abs=0.01)
    assert window.jitter_us == pytest.approx(0, abs=0.01)
    path.now_ns += WINDOW_NS
    assert [(one.start_ns, one.result.sent) for one in path.final()] == [(START_NS + WINDOW_NS, 1)]


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ("..f.r..ff.", ".r........", [(4, 3, 1, 0), (1, 0, 1, 0)]),
        ("........ff", "f.........", [(2, 2, 0, 0), (1, 1, 0, 0)]),
        ("........rr", "r.........", [(2, 0, 2, 0), (1, 0, 1, 0)]),
        ("........rf", "r.........", [(2, 0, 0, 2), (1, 0, 0, 1)]),  # which of the three is lost where cannot be seen
        ("...d..r..d", "..d..f....", [(1, 0, 1, 0), (1, 1, 0, 0)]),
        ("..........", "ffffffffff", [(0, 0, 0, 0), (10, 10, 0, 0)]),
        ("ffffffffff", "..........", [(10, None, None, 10), (0, 0, 0, 0)]),  # the reflector may have begun before us
    ],
)
def test_loss_has_a_direction_where_it_can_be_known(
    first: str, second: str, wanted: list[tuple[int | None, ...]]
) -> None:
    path = Path()
    path.send(first + second + "...")
    path.now_ns += WINDOW_NS

    assert [losses(window) for window in path.final()][:2] == wanted


def test_directions_are_never_wrong_and_mostly_known() -> None:
    chance = random.Random(5)
    known = lost = 0
    for _ in range(50):
        path, plan = Path(), "".join(chance.choices(".frd", (85, 7, 7, 1), k=60))
        path.send(plan + ".")
        path.now_ns += 2 * WINDOW_NS
        for number, window in enumerate(path.final()[:6]):
            part = plan[10 * number : 10 * number + 10]
            all_lost, there, back, _ = losses(window)
            there, back = there or 0, back or 0
            assert all_lost == part.count("f") + part.count("r")
            assert there <= part.count("f")
            assert back <= part.count("r")
            lost, known = lost + all_lost, known + there + back

    assert known > 0.8 * lost > 200


def test_a_reflector_that_does_not_count_gives_no_direction() -> None:
    path = Path("unknown")
    for fate in "....r.....":
        path.replies = path.windows.next  # it copies the number of the probe
        path.send(fate)
    path.now_ns += WINDOW_NS
    (window,) = path.final()

    assert losses(window) == (1, None, None, 1)
    assert window.result.reflector == "unknown"


def test_a_reflector_that_begins_its_count_again_is_not_blamed() -> None:
    path = Path()
    path.send("..f..")
    path.replies = 0
    path.send(".r...")
    path.now_ns += WINDOW_NS
    (window,) = path.final()

    assert losses(window) == (2, None, None, 2)


def test_replies_that_come_when_their_window_is_gone_are_ignored_and_strangers_are_counted() -> None:
    path = Path()
    wire = to_ntp(path.now_ns)
    path.windows.sent(wire, path.now_ns, ERROR)
    path.now_ns += WINDOW_NS + 3 * SECOND_NS
    assert len(path.final()) == 1
    path.send(".")
    for number in (0, 5):  # of a former window, and of none
        path.windows.returned(path.reply(number, wire), [], path.now_ns, True, 7)
    path.now_ns += 2 * WINDOW_NS
    (window,) = path.final()

    assert window.result.refused == {"stranger": 1}
    assert (window.result.sent, window.result.received) == (1, 1)


def test_a_clock_that_is_set_back_loses_no_probe() -> None:
    path = Path()
    path.send("...")
    clock_ns, path.now_ns = path.now_ns, START_NS - 100 * WINDOW_NS
    path.windows._clock_s = lambda: (clock_ns - START_NS) / 1e9
    path.send("..")
    path.windows._clock_s = lambda: (clock_ns + 2 * WINDOW_NS - START_NS) / 1e9

    found = path.final()
    assert [(one.start_ns, one.result.sent, one.result.outstanding) for one in found] == [
        (START_NS, 3, 0),
        (START_NS - 100 * WINDOW_NS, 2, 0),
    ]


def test_what_cannot_be_sent_is_counted_in_its_window() -> None:
    path = Path()
    path.windows.begin(path.now_ns)
    path.windows.not_sent()
    path.now_ns += 2 * WINDOW_NS
    (window,) = path.final()

    assert (window.result.sent, window.result.unsent) == (0, 1)
