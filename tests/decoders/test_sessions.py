"""Exporter streams: sequence tracking, and who is forgotten when the table is full."""

from __future__ import annotations

import numpy as np
import pytest

from decoders.datagrams import Datagrams
from decoders.limits import Limits
from decoders.sessions import (
    S_DATAGRAMS,
    S_DUPLICATES,
    S_LOST,
    S_RECORDS,
    S_REORDERED,
    S_RESTARTS,
    T_DUPLICATE,
    T_FIRST,
    T_GAP,
    T_LATE,
    T_OK,
    T_REBOOT,
    T_RESTART,
    Sessions,
    fingerprint,
    forget,
    in_use,
    new_sessions,
    standing,
    track_sequence,
)
from decoders.shared import assign_batch, new_shared

NO_UPTIME = -1


class Track:
    """Feeds one session; each datagram has a fingerprint of its own unless stated otherwise."""

    def __init__(self) -> None:
        self.sessions = new_sessions(Limits(sessions=4))
        self._print = 1
        self._now_us = 1_700_000_000_000_000

    def __call__(
        self, sequence: int, units: int = 1, *, uptime: int = NO_UPTIME, print_: int = 0, later_seconds: int = 0
    ) -> int:
        self._print += 2
        self._now_us += later_seconds * 1_000_000
        fingerprint = np.uint64(print_ or self._print)
        no_clock = -1
        return int(
            track_sequence(self.sessions, 1, sequence & 0xFFFFFFFF, units, uptime, no_clock, self._now_us, fingerprint)
        )

    def stat(self, index: int) -> int:
        return int(self.sessions.stats[1, index])


def test_datagrams_in_order_lose_nothing_and_the_first_says_nothing_of_loss() -> None:
    track = Track()

    assert [track(7), track(8), track(9)] == [T_FIRST, T_OK, T_OK]
    assert track.stat(S_LOST) == 0


def test_a_gap_is_loss_until_the_late_datagram_comes() -> None:
    track = Track()

    assert [track(1), track(2), track(5)] == [T_FIRST, T_OK, T_GAP]
    assert track.stat(S_LOST) == 2
    assert track(4) == T_LATE
    assert (track.stat(S_LOST), track.stat(S_REORDERED)) == (1, 1)
    assert track(6) == T_OK


def test_units_count_records() -> None:
    track = Track()

    assert [track(0, 30), track(30, 30), track(90, 10)] == [T_FIRST, T_OK, T_GAP]
    assert track.stat(S_LOST) == 30


def test_the_sequence_wraps_without_loss() -> None:
    track = Track()

    assert [track(2**32 - 1), track(0), track(1)] == [T_FIRST, T_OK, T_OK]
    assert (track.stat(S_LOST), track.stat(S_RESTARTS)) == (0, 0)


def test_the_same_datagram_twice_is_a_duplicate_also_when_it_comes_late() -> None:
    track = Track()
    track(1, print_=11)
    track(2, print_=22)

    assert [track(2, print_=22), track(3), track(1, print_=11)] == [T_DUPLICATE, T_OK, T_DUPLICATE]
    assert (track.stat(S_DUPLICATES), track.stat(S_LOST)) == (2, 0)


def test_a_restart_is_no_loss() -> None:
    track = Track()
    track(500_000, uptime=9_000_000)

    assert track(1, uptime=1_000, later_seconds=5) == T_REBOOT
    assert track(2, uptime=2_000) == T_OK
    assert (track.stat(S_LOST), track.stat(S_RESTARTS)) == (0, 1)


def test_a_wrapped_uptime_is_no_restart() -> None:
    track = Track()
    track(10, uptime=2**32 - 500)

    assert track(11, uptime=500) == T_OK
    assert track.stat(S_RESTARTS) == 0


def test_numbers_that_begin_afresh_without_a_boot_are_a_restart_and_no_reboot() -> None:
    track = Track()
    track(500_000, uptime=9_000_000)

    assert track(1, uptime=9_005_000, later_seconds=5) == T_RESTART
    assert track.stat(S_LOST) == 0


@pytest.mark.parametrize("permille", [10, 100])
def test_random_loss_and_reordering_are_counted_exactly(permille: int) -> None:
    rng = np.random.default_rng(permille)
    kept = np.flatnonzero(rng.random(5_000) > permille / 1000)
    kept = kept[(kept >= kept[0]) & (kept <= kept[-1])]
    order = np.argsort(kept + rng.integers(0, 8, len(kept)), kind="stable")
    first, last = kept[order[0]], kept.max()
    track = Track()
    for sequence in kept[order]:
        track(int(sequence))

    missing = (last - first + 1) - np.count_nonzero((kept >= first) & (kept <= last))
    early = np.count_nonzero(kept < first)  # sent before the first that arrived: came late, was never missed
    assert missing - early <= track.stat(S_LOST) <= missing


def shared_with(capacity: int) -> Sessions:
    shared = new_shared(Limits(sessions=capacity))
    datagrams = [
        (b"\x00\x05" + bytes(40), f"192.0.2.{number}", 9, 1_000_000 * number) for number in range(1, capacity + 3)
    ]
    _, session = assign_batch(shared, Datagrams.of(datagrams))
    assert session.tolist() == [*range(1, capacity + 1), 0, 0]
    return shared.sessions


def test_beyond_the_limit_senders_are_counted_together() -> None:
    sessions = shared_with(3)

    assert sessions.stats[0, S_DATAGRAMS] == 2
    assert in_use(sessions).tolist() == [1, 2, 3]


def test_strangers_are_forgotten_before_exporters_then_the_longest_silent() -> None:
    sessions = shared_with(4)
    sessions.stats[[1, 3], S_RECORDS] = 5

    assert standing(sessions, 99_000_000).numbers.tolist() == [2, 4, 1, 3]


def test_a_forgotten_number_is_given_out_again_and_others_are_still_found() -> None:
    limits = Limits(sessions=3)
    shared = new_shared(limits)

    def number_of(host: int) -> int:
        return int(assign_batch(shared, Datagrams.of([(b"\x00\x05" + bytes(40), f"192.0.2.{host}", 9, 1)]))[1][0])

    assert [number_of(1), number_of(2), number_of(3), number_of(4)] == [1, 2, 3, 0]
    forget(shared.sessions, np.array([2]))
    assert [number_of(1), number_of(3), number_of(4), number_of(2)] == [1, 3, 2, 0]
    assert shared.sessions.stats[2, S_DATAGRAMS] == 1


@pytest.mark.parametrize("length", [1, 7, 8, 16, 63, 64, 65, 73, 200, 1400, 9000])
def test_a_fingerprint_tells_of_head_end_and_length_and_not_of_what_stands_around(length: int) -> None:
    plain = np.random.default_rng(length).integers(0, 256, length + 40, np.uint8)
    moved = np.concatenate([np.full(3, 7, np.uint8), plain[20 : 20 + length], np.full(9, 7, np.uint8)])
    with np.errstate(over="ignore"):
        print_ = fingerprint(plain, 20, length)
        assert fingerprint(moved, 3, length) == print_
        assert length == 1 or fingerprint(plain, 20, length - 1) != print_
        for at in {*range(min(length, 64)), *range(max(length - 8, 0), length)}:
            other = plain.copy()
            other[20 + at] ^= 1 << at % 8
            assert fingerprint(other, 20, length) != print_, at


def test_a_fingerprint_samples_all_of_a_datagram() -> None:
    plain = np.zeros(1400, np.uint8)
    seen = 0
    with np.errstate(over="ignore"):
        print_ = fingerprint(plain, 0, 1400)
        for at in range(1400):
            other = plain.copy()
            other[at] = 1
            seen += fingerprint(other, 0, 1400) != print_
        for at in range(0, 1400, 100):  # a changed stretch of this length is never missed
            other = plain.copy()
            other[at : at + 100] = 1
            assert fingerprint(other, 0, 1400) != print_
    assert seen >= 64 + 15 * 8
