"""The sender's book: each probe has one end, each loss the direction that it had."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import session as sessions
from agent import stamp
from agent.clock import PTP, pack_error, to_ntp
from agent.session import LATE_NS, Mode, Result, Session, wilson
from agent.stamp import Reply, Tlv
from tests.agent.support import ERROR, NOW_NS

SSID = 7
MS = 1_000_000
LATER = NOW_NS + 100_000 * MS
COUNTS = (Tlv(0, stamp.DIRECT_MEASUREMENT, bytes(12)),)
"""What only a reflector that keeps state says."""


class Path:
    """A session with a probe each 10 ms, over a path of 40 µs there and 60 µs back, to a clock that is 5 s ahead."""

    def __init__(self, probes: int, mode: Mode = "unknown", *, counts: bool = True, errors: Sequence[int] = ()) -> None:
        self.session = Session(mode)
        self.tlvs = COUNTS if counts else ()
        self._times = [NOW_NS + 10 * MS * number for number in range(probes)]
        for time, error in zip(self._times, errors or [ERROR] * probes, strict=True):
            self.session.sent(to_ntp(time), time, error)

    def result(self, now_ns: int = LATER, error: int = ERROR) -> Result:
        """What was measured, whose sums are right."""
        return balanced(self.session.result(now_ns, error))

    def reply(self, number: int, answer: int, ttl: int | None = 253, **other: int) -> Reply:
        """The reflector's `answer`th reply, to a probe."""
        sent = self._times[number]
        received = sent + 5_000 * MS + 40_000
        known = Reply(
            answer, to_ntp(received + 20_000), ERROR, SSID, to_ntp(received), number, to_ntp(sent), ERROR, ttl
        )
        return known._replace(**other)

    def returned(self, number: int, answer: int, *, after_ns: int = 120_000, tlvs: tuple[Tlv, ...] | None = None,
                 **other: int) -> None:  # fmt: skip
        """A reply arrives."""
        self.session.returned(
            self.reply(number, answer, **other), self.tlvs if tlvs is None else tlvs,
            self._times[number] + after_ns, True, SSID,
        )  # fmt: skip


def balanced(result: Result) -> Result:
    """The result, whose sums are right."""
    assert result.sent == result.received + result.lost + result.outstanding
    assert result.late <= result.lost
    assert (result.lost_forward is None) == (result.lost_reverse is None)
    directions = (result.lost_forward or 0, result.lost_reverse or 0, result.lost_unresolved)
    assert result.lost == sum(directions)
    assert min(directions) >= 0
    return result


def test_a_round_trip_leaves_out_the_time_in_the_reflector() -> None:
    path = Path(3)
    for number in range(3):
        path.returned(number, number)

    result = path.result()

    assert (result.sent, result.received, result.lost, result.loss) == (3, 3, 0, 0)
    assert result.round_trips_us == pytest.approx([100, 100, 100])
    assert result.residence_median_us == 20
    assert result.hops == 2
    assert result.one_way is not None
    assert result.one_way.forward[0] <= 40 <= result.one_way.forward[2]
    assert result.one_way.reverse[0] <= 60 <= result.one_way.reverse[2]
    assert result.one_way.offset_us == pytest.approx(5e6 - 10, abs=0.1)  # what a path of 40 and 60 µs hides
    assert result.one_way.offset_error_us == pytest.approx(50, abs=0.1)
    assert result.clocks == "free"


def test_the_kernels_time_of_sending_takes_the_place_of_ours() -> None:
    path = Path(2)
    path.session.stamped(0, NOW_NS + 30_000)
    path.session.stamped(1, NOW_NS - 1)  # before it was sent: of another datagram
    for number in range(2):
        path.returned(number, number)

    result = path.result()

    assert result.round_trips_us == pytest.approx([70, 100])
    assert result.kernel_times == 1


def test_a_follow_up_corrects_the_reply_before() -> None:
    path = Path(3)
    true = NOW_NS + 5_000 * MS + 40_000 + 50_000
    follow_up = Tlv(0, stamp.FOLLOW_UP, (0).to_bytes(4, "big") + to_ntp(true).to_bytes(8, "big") + bytes([2, 0, 0, 0]))
    path.returned(0, 0, after_ns=150_000)
    path.returned(1, 1, tlvs=(*COUNTS, follow_up))
    path.returned(2, 2, tlvs=(*COUNTS, follow_up))  # once more: it counts once

    result = path.result()

    # 150 - 50; those of which the true time is not known have no part in it.
    assert result.round_trips_us == pytest.approx([100])
    assert result.received == 3


def test_loss_has_the_direction_that_it_had() -> None:
    path = Path(10)
    # 1, 2 and 6 are lost on the way there; the answers to 4 and 7 on the way back; nothing comes after 8.
    for number, answer in ((0, 0), (3, 1), (5, 3), (8, 5)):
        path.returned(number, answer)

    result = path.result()

    assert (result.lost, result.lost_forward, result.lost_reverse, result.lost_unresolved) == (6, 3, 2, 1)
    assert result.reflector == "stateful"


def test_order_of_arrival_changes_nothing_of_it() -> None:
    path = Path(6)
    # 3 overtook 2 on the way there, whose answer was lost; 1 did not arrive; 5 came back before 4.
    for number, answer in ((0, 0), (3, 1), (5, 4), (4, 3)):
        path.returned(number, answer)

    result = path.result()

    assert (result.lost_forward, result.lost_reverse, result.lost_unresolved) == (1, 1, 0)
    assert result.reordered == 1


def test_a_reflector_without_state_gives_loss_no_direction() -> None:
    """It copies the number of the probe: the same replies come from one that counts, with loss on the way back."""
    for mode, expected in (("unknown", None), ("stateless", None), ("stateful", 2)):
        path = Path(4, mode, counts=False)  # type: ignore[arg-type] # a literal
        path.returned(0, 0)
        path.returned(3, 3)
        result = path.result()
        assert (result.lost, result.lost_reverse, result.reflector) == (2, expected, mode)


def test_numbers_of_its_own_show_a_reflector_with_state() -> None:
    path = Path(4, counts=False)
    path.returned(0, 0)
    path.returned(3, 1)
    result = path.result()
    assert (result.lost_forward, result.lost_reverse, result.reflector) == (2, 0, "stateful")


def test_a_reflector_that_did_not_begin_with_us_tells_no_direction() -> None:
    path = Path(4)
    path.returned(0, 70)
    path.returned(3, 71)
    result = path.result()
    assert (result.lost, result.lost_forward, result.lost_reverse, result.lost_unresolved) == (2, None, None, 2)


def test_a_reflector_that_began_again_leaves_losses_without_direction() -> None:
    """Its numbers repeat: whether 3 and 5 reached it before or after that, or never, cannot be known."""
    path = Path(7)
    for number, answer in ((0, 0), (1, 1), (2, 2), (4, 0), (6, 1)):
        path.returned(number, answer)

    result = path.result()

    assert (result.lost, result.lost_forward, result.lost_reverse, result.lost_unresolved) == (2, None, None, 2)
    assert result.reflector == "stateful"


def test_a_number_that_a_doubled_probe_took_before_repeats_too() -> None:
    path = Path(4)
    path.returned(0, 0)
    path.returned(0, 1, after_ns=900_000)
    path.returned(3, 1)
    assert (path.result().lost_forward, path.result().lost_unresolved) == (None, 2)


def test_a_reflector_without_numbers_is_not_taken_for_one_that_counts() -> None:
    path = Path(4, counts=False)
    for number in (0, 1, 3):
        path.returned(number, 0)
    result = path.result()
    assert (result.reflector, result.lost_forward, result.lost_reverse, result.lost_unresolved) == (
        "unknown", None, None, 1,
    )  # fmt: skip


def test_without_any_answer_no_direction_is_known() -> None:
    result = Path(3, "stateful").result()
    assert (result.lost, result.lost_forward, result.lost_reverse, result.lost_unresolved) == (3, None, None, 3)


def test_a_late_reply_is_a_loss() -> None:
    path = Path(2)
    path.returned(0, 0, after_ns=LATE_NS)
    path.returned(1, 1, after_ns=LATE_NS + 1)

    result = path.result()

    assert (result.received, result.lost, result.late, result.lost_unresolved) == (1, 1, 1, 1)
    assert len(result.round_trips_us) == 1


def test_what_may_still_come_is_no_loss() -> None:
    path = Path(3)
    path.returned(1, 0)

    result = path.result(NOW_NS + LATE_NS)  # the first has had its 3 s

    assert (result.sent, result.received, result.lost, result.outstanding) == (3, 1, 1, 1)
    assert path.result(NOW_NS + LATE_NS - 1).outstanding == 2
    assert path.result(NOW_NS).loss == 0
    assert Path(1).result(NOW_NS).loss is None


def test_duplicates_count_once_wherever_they_arose() -> None:
    path = Path(4)
    path.returned(0, 0)
    path.returned(0, 1, after_ns=900_000)  # doubled on the way there: another answer
    path.returned(2, 2)
    path.returned(2, 2)  # doubled on the way back
    path.returned(3, 3)

    result = path.result()

    assert (result.received, result.duplicates, result.lost, result.reordered) == (3, 2, 1, 0)
    assert (result.lost_forward, result.lost_reverse) == (1, 0)
    assert result.round_trips_us == pytest.approx([100, 100, 100])


def test_a_flood_of_further_replies_is_counted_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_MOST_EXTRA", 100)
    path = Path(3)
    path.returned(0, 0)
    for answer in range(1, 101):
        path.returned(0, answer)
        path.returned(0, answer)  # doubled on the way back: nothing more to keep
    path.returned(2, 101)
    result = path.result()
    assert (result.duplicates, result.lost_forward, result.lost_reverse) == (200, 1, 0)

    for answer in range(102, 10_000):
        path.returned(0, answer)

    result = path.result()
    assert len(path.session._extra) == 100
    assert (result.duplicates, result.lost_forward, result.lost_unresolved) == (200 + 9_898, None, 1)


def test_what_this_machine_did_not_send_is_no_loss() -> None:
    path = Path(2)
    path.session.not_sent()
    path.returned(0, 0)
    path.returned(1, 1)
    result = path.result()
    assert (result.sent, result.received, result.lost, result.unsent, result.unreachable) == (2, 2, 0, 1, 0)


def test_what_is_no_reply_to_a_probe_of_ours_is_refused() -> None:
    path = Path(1)
    path.returned(0, 0, ssid=SSID + 1)
    path.returned(0, 0, sender_sent=1)
    path.returned(0, 0, sender_sequence=1)
    assert path.session.replies == 0
    path.returned(0, 0, ssid=0)  # it does not know RFC 8972

    result = path.result()

    assert (result.received, result.refused) == (1, {"stranger": 3})


@pytest.mark.parametrize(
    ("fault", "reason"),
    [({"error": 0x0C00}, "multiplier"), ({"sent": to_ntp(NOW_NS + 4_000 * MS)}, "clock"),
     ({"sent": to_ntp(NOW_NS + 70_000 * MS)}, "clock"), ({"received": 0}, "clock"),
     ({"error": PTP | 1, "received": 1 << 32 | 10**9}, "clock")],
)  # fmt: skip
def test_impossible_times_are_counted_and_never_averaged(fault: dict[str, int], reason: str) -> None:
    path = Path(2)
    path.returned(0, 0, **fault)
    path.returned(1, 1)

    result = path.result()

    assert (result.received, result.refused) == (2, {reason: 1})
    assert result.round_trips_us == pytest.approx([100])


def test_more_time_in_the_reflector_than_between_is_impossible() -> None:
    path = Path(1)
    path.returned(0, 0, after_ns=19_999)
    result = path.result()
    assert (result.refused, list(result.round_trips_us), result.one_way) == ({"clock": 1}, [], None)


def synchronised(ours: Sequence[int], theirs: Sequence[int], at_last: int) -> Result:
    """What is measured between clocks that agree, with an Error Estimate of each at each probe."""
    path = Path(len(ours), errors=ours)
    for number, error in enumerate(theirs):
        reply = path.reply(number, number)
        true = {name: getattr(reply, name) - (5 << 32) for name in ("sent", "received")}  # no longer 5 s ahead
        path.returned(number, number, error=error, **true)
    return path.result(error=at_last)


def test_clocks_that_both_follow_utc_bound_one_way_sharply() -> None:
    ours, theirs = pack_error(2_000, True), pack_error(3_000, True)
    result = synchronised([ours] * 2, [theirs] * 2, ours)
    assert result.clocks == "synchronised"
    assert result.one_way is not None
    assert result.one_way.forward == pytest.approx((35, 40, 45), abs=0.1)
    # One that is off by 5 s and says that it is not contradicts the times: it is taken as free.
    path = Path(1, errors=[ours])
    path.returned(0, 0, error=theirs)
    assert path.result(error=ours).clocks == "free"


@pytest.mark.parametrize("whose", ["ours", "theirs", "at_last"])
def test_the_worst_error_of_a_session_bounds_it(whose: str) -> None:
    good, worst = pack_error(2_000, True), pack_error(8_000, True)
    errors: dict[str, list[int]] = {"ours": [good] * 3, "theirs": [good] * 3, "at_last": [good]}

    def measured() -> Result:
        return synchronised(errors["ours"], errors["theirs"], errors["at_last"][0])

    errors[whose][len(errors[whose]) // 2] = worst
    result = measured()
    assert result.clocks == "synchronised"
    assert result.one_way is not None
    assert result.one_way.forward == pytest.approx((30, 40, 50), abs=0.1)

    errors[whose][len(errors[whose]) // 2] = pack_error(2_000, False)
    assert measured().clocks == "free"


@pytest.mark.parametrize("ttl", [None, 0])
def test_a_reply_without_ttl_has_no_hops(ttl: int | None) -> None:
    path = Path(1)
    octets = stamp.pack_reply(path.reply(0, 0, ttl=ttl))
    path.session.returned(stamp.parse_reply(octets), (), NOW_NS + 120_000, False, SSID)
    assert path.result().hops is None


@given(st.integers(1, 30), st.data())
@settings(max_examples=200, deadline=None)
def test_sums_hold_and_directions_are_true_whatever_is_lost(probes: int, data: st.DataObject) -> None:
    ends = data.draw(st.lists(st.sampled_from(["there", "back", "", ""]), min_size=probes, max_size=probes))
    order = data.draw(st.permutations([number for number in range(probes) if ends[number] != "there"]))
    path = Path(probes)
    answers = {number: answer for answer, number in enumerate(order)}
    arriving = data.draw(st.permutations([number for number in order if not ends[number]]))
    for number in arriving:
        path.returned(number, answers[number])

    result = path.result()

    assert result.received == len(arriving)
    if arriving:
        # The truth, where the newest answer is also that to the newest probe that was answered.
        last = max(arriving)
        if answers[last] == max(answers[number] for number in arriving) == max(
            (answers[number] for number in order if number <= last), default=0
        ) and sum(number > last and answers[number] < answers[last] for number in order) == 0:  # fmt: skip
            assert result.lost_forward == ends[:last].count("there")
            assert result.lost_reverse == ends[:last].count("back")


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(0, 10, 0, 0.2775), (10, 10, 0.7225, 1), (5, 10, 0.2366, 0.7634), (1, 100, 0.00177, 0.0545)],
)
def test_wilsons_interval(hits: int, count: int, low: float, high: float) -> None:
    """With none of n it ends at z² / (n + z²)."""
    assert wilson(hits, count) == pytest.approx((low, high), abs=5e-5)
