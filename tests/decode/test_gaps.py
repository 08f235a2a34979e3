"""Gaps: what a stream, or the service, did not tell of is known, from when to when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collector import interfaces
from collector.decode.exporter_stats import OwnLoss
from collector.decode.gaps import ALL, MOST_ROWS, Gap, Gaps, OwnGaps, rows_of
from decoders.datagrams import Datagrams
from decoders.decoder import Decoder
from tests.decoders.netflow.support import record5, v5
from tests.decoders.support import address, payloads, rows

SECOND = 1_000_000
REACH = 12 * SECOND
A, B = "192.0.2.11", "192.0.2.12"
NETFLOW5 = 3

Notification = list[tuple[str, str, float, float]]
"""Reporter, reason, begin and end in seconds."""


class Watched:
    """A decoder and its gaps, looked at once a second."""

    def __init__(self, reach_us: int = 0) -> None:
        self.decoder = Decoder()
        self.gaps = Gaps(self.decoder.shared.sessions)
        self.reach_us = reach_us

    def take(self, *datagrams: tuple[bytes, str, int, int]) -> None:
        self.decoder.decode(Datagrams.of(datagrams))

    def look(self, now_us: int) -> Notification:
        found = rows([rows_of(self.gaps.look(now_us, self.reach_us))])
        names = {address(text): text for text in (A, B)}
        return [(names[row["reporter"]], row["reason"], row["begins"] / SECOND, row["ends"] / SECOND) for row in found]


def netflow(number: int, at: float, port: int = 5000, sender: str = A, records: int = 1) -> tuple[bytes, str, int, int]:
    """A datagram of NetFlow v5 whose first record has this number."""
    return v5(*[record5()] * records, sequence=number), sender, port, round(at * SECOND)


def replayed(stem: str) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """What is reported of a capture, looked at once a second, by stream and reason."""
    watched, found = Watched(REACH), {}
    datagrams = payloads(stem)
    second = datagrams[0][3] // SECOND
    while second * SECOND <= datagrams[-1][3]:
        watched.take(*(one for one in datagrams if second * SECOND <= one[3] < (second + 1) * SECOND))
        second += 1
        for reporter, reason, begin, end in watched.look(second * SECOND):
            found.setdefault((reporter, reason), []).append((begin, end))
    return found


def times(stem: str, sender: str) -> list[float]:
    return [one[3] / SECOND for one in payloads(stem) if one[1] == sender]


def test_a_restart_of_open_vswitch_is_seen_by_its_new_port() -> None:
    """What lay in its cache since its last record is in none."""
    stem = "ovs_netflow5_restart"
    found = replayed(stem)

    ports = [one[2] for one in payloads(stem) if one[1] == A]
    fresh = next(number for number, port in enumerate(ports) if port != ports[0])
    before, after = times(stem, A)[fresh - 1 : fresh + 1]
    assert set(found) == {(A, "started"), (A, "reopened"), (B, "started")}
    # Looked at once a second: what came in the same one as the first datagram is behind it.
    after = max(at for at in times(stem, A) if int(at) == int(after))
    assert found[A, "reopened"] == [(before - 12, after)]
    first = max(at for at in times(stem, B) if int(at) == int(times(stem, B)[0]))
    assert found[B, "started"] == [(first - 22, first)]


def test_a_steady_stream_has_no_gaps_but_its_start() -> None:
    assert set(replayed("ovs_netflow5_steady")) == {(A, "started"), (B, "started")}


def test_a_sequence_that_begins_anew_is_a_restart() -> None:
    watched = Watched(REACH)
    watched.take(*(netflow(1000 + number, 100 + number / 10) for number in range(10)))
    assert [reason for _, reason, _, _ in watched.look(101 * SECOND)] == ["started"]
    for second in range(101, 108):
        watched.look(second * SECOND)
    watched.take(*(netflow(number, 108 + number / 10) for number in range(6)))
    assert watched.look(109 * SECOND) == [(A, "restarted", 100.9 - 12, 108.5)]


@pytest.mark.parametrize(("lost", "reported"), [(0, False), (1, False), (5, True)])
def test_numbers_that_are_missing_leave_a_gap_if_they_are_many(lost: int, reported: bool) -> None:
    """Of some 200 records: 0.5 % are not worth the window, 2.4 % are."""
    watched = Watched()
    watched.take(netflow(0, 100))
    watched.look(101 * SECOND)
    for second in range(101, 108):
        watched.look(second * SECOND)
    watched.take(*(netflow(1 + 20 * n + (lost if n > 4 else 0), 108 + n / 100, records=20) for n in range(10)))
    assert watched.look(109 * SECOND) == ([(A, "lost", 100, 108.09)] if reported else [])


def test_a_stream_that_ends_is_reported_once_and_before_its_windows_close() -> None:
    watched = Watched()
    for second in range(200):
        watched.take(netflow(second, 1000 + second))
        found = watched.look((1001 + second) * SECOND)
    reported = [(second, watched.look(second * SECOND)) for second in range(1201, 1300)]
    reported = [(second, found) for second, found in reported if found]
    ((when, found),) = reported
    assert found == [(A, "silent", 1199, 1209)]
    assert when <= 1199 + 7  # its pauses were of a second, but for the first minute of not knowing them
    watched.take(netflow(200, 1300))
    assert watched.look(1301 * SECOND) == []


def test_who_speaks_now_and_then_does_not_end_each_time() -> None:
    """Traffic for five seconds in each minute: the pauses are no silence."""
    watched, reported = Watched(), []
    for second in range(600):
        if second % 60 < 5:
            watched.take(netflow(second // 60 * 5 + second % 60, 1000 + second))
        reported += [reason for _, reason, _, _ in watched.look((1001 + second) * SECOND)]
    assert reported == ["started"]


def test_what_comes_again_and_again_is_reported_once_in_five_looks() -> None:
    watched, reported = Watched(), []
    for second in range(20):
        watched.take(netflow(100 * second, 100 + second))
        reported.append(len(watched.look((101 + second) * SECOND)))
    assert reported == [1, 0, 0, 0, 0] * 4


def test_many_streams_at_once_are_bounded() -> None:
    watched = Watched()
    senders = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(MOST_ROWS + 50)]
    watched.take(*(netflow(0, 100, sender=sender) for sender in senders))
    reported = watched.gaps.look(101 * SECOND, 0)
    assert len(reported) == MOST_ROWS + 1
    assert reported[-1] == (ALL, Gap(100 * SECOND, 101 * SECOND, "lost"))


def test_a_run_knows_how_long_nobody_watched(tmp_path: Path) -> None:
    file = tmp_path / "state" / "alive.json"
    first = OwnGaps(file, lambda: (5 * SECOND, 8 * SECOND))
    assert first.away(5 * SECOND) is None
    for second in (10, 11, 12):
        assert first.look(second * SECOND, 3 * SECOND, OwnLoss(), 100 * second) is None

    assert OwnGaps(file).away(20 * SECOND) == Gap(9 * SECOND, 20 * SECOND, "away")
    assert OwnGaps(file).away(12 * SECOND) is None  # a clock that was set back says nothing
    assert OwnGaps(file).former == interfaces.Watched(5 * SECOND, 8 * SECOND, 12 * SECOND)
    assert OwnGaps(None).away(20 * SECOND) is None
    assert OwnGaps(None).former is None


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", "[1]", '{"alive_us": 9}', "[" * 9999,
        '{"alive_us": "x", "reach_us": 0, "began_us": 1, "judged_us": 2}',
        '{"alive_us": -1, "reach_us": 0, "began_us": 1, "judged_us": 2}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_not_believed(tmp_path: Path, text: str) -> None:
    file = tmp_path / "alive.json"
    file.write_text(text)
    assert OwnGaps(file).away(20 * SECOND) is None


@pytest.mark.parametrize(
    ("own", "gap"),
    [
        (OwnLoss(kernel_drops=1), None),
        (OwnLoss(kernel_drops=11), Gap(7 * SECOND, 10 * SECOND, "dropped")),
        (OwnLoss(queue_drops=11), Gap(7 * SECOND, 10 * SECOND, "dropped")),
    ],
)
def test_what_the_service_drops_leaves_a_gap_of_all_streams(own: OwnLoss, gap: Gap | None) -> None:
    assert OwnGaps(None).look(10 * SECOND, 2 * SECOND, own, 1000) == gap


def test_rows_are_those_of_the_table() -> None:
    found: list[dict[str, Any]] = rows([rows_of([((address(A), 7, NETFLOW5), Gap(1, 2, "lost"))])])
    assert found == [
        {"begins": 1, "ends": 2, "reporter": address(A), "domain": 7, "protocol": "netflow5", "reason": "lost"}
    ]
