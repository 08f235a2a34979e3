"""Conditions over columns whose truth is known by arithmetic."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from collector.alert.conditions.absent import Absent
from collector.alert.conditions.baseline import Baseline
from collector.alert.conditions.threshold import Threshold, decision
from collector.alert.conditions.trend import Trend, slopes
from collector.alert.rules import Rule
from collector.alert.series import WindowSeries
from collector.alert.settings import AlertSettings
from collector.alert.state import AlertStates
from tests.alert.conditions.support import NAN, NOON_US, frame, happened, step

LOSS = Rule(name="loss", scope="pair", measure="loss_ratio", level="10s", above=0.01, clear=0.005, clear_seconds=20)
USE = Rule(name="use", scope="interface", measure="utilisation", above=0.9, clear=0.8, clear_seconds=60)


def test_only_a_whole_interval_beyond_the_limit_counts() -> None:
    spans = {1: (0.011, 0.2), 2: (0.01, 0.2), 3: (0.0, 0.9), 5: (NAN, NAN)}

    verdict = Threshold(LOSS).judge(frame(LOSS, 0, {1: 0.05, 2: 0.05, 3: 0.5, 4: NAN, 5: 0.5}, spans))

    assert verdict.beyond.tolist() == [True, False, False, False, False]
    assert verdict.data.tolist() == [True, True, True, False, False]
    assert verdict.labels(0)["src_vm"] == "src_vm-1"


def test_below_uses_the_upper_end() -> None:
    rule = Rule(name="idle", scope="pair", measure="bits_per_second", below=100, clear=200)

    verdict = Threshold(rule).judge(
        frame(rule, 0, {1: 50, 2: 50, 3: 150, 4: 300}, {1: (40, 99), 2: (40, 101), 3: (140, 160), 4: (250, 350)})
    )

    assert verdict.beyond.tolist() == [True, False, False, False]
    assert verdict.clear.tolist() == [False, False, False, True]


def loss_frame(rule: Rule, number: int, values: dict[int, float], sigma: float) -> WindowSeries:
    """Losses as ln(sent / received), with this standard deviation; the share is cut off at 0, as in the view."""
    centre = {one: 1 - math.exp(-value) for one, value in values.items()}
    spans = {
        one: (max(0, 1 - math.exp(-value + 1.96 * sigma)), max(0, 1 - math.exp(-value - 1.96 * sigma)))
        for one, value in values.items()
    }
    made = frame(rule, number, {one: max(0, value) for one, value in centre.items()}, spans)
    return replace(
        made, figures={**made.figures, "loss_ratio_centre": np.array([centre[one] for one in sorted(centre)])}
    )


EVIDENT = LOSS.model_copy(update={"certain_windows": 1e6, "for_seconds": 3600, "level": "1m"})


def test_many_weak_windows_fire_as_one_strong_one_does() -> None:
    """Distance from the limit in standard deviations: 30, 2, and 0.5, less 0.5 for each window; 11.96 decide.

    2 adds 1.5 a window: the eighth makes 12.  Siegmund: exp(b) − b − 1 = 0.5 · 10⁶ has b = 13.12, less 1.166.
    """
    sigma, limit = 0.02, -math.log(1 - 0.01)
    judge, book = Threshold(EVIDENT), AlertStates(AlertSettings())
    values = {1: limit + 30 * sigma, 2: limit + 2 * sigma, 3: limit + 0.5 * sigma, 4: 0.0}

    seen = happened(judge, book, [loss_frame(EVIDENT, n, values, sigma) for n in range(40)])

    assert decision(1e6) == pytest.approx(11.956, abs=0.01)
    assert seen == [(0, 1, "firing"), (7, 2, "firing")]


def test_without_a_shift_the_evidence_decides_as_rarely_as_it_says() -> None:
    """1 in 1,000 windows of a series: 200 series over 1,000 windows, each at its first time, cross about 200 · 0.63."""
    rng = np.random.default_rng(4)
    rule = EVIDENT.model_copy(update={"certain_windows": 1000.0})
    judge, limit = Threshold(rule), -math.log(1 - 0.01)
    crossed: set[int] = set()
    for number in range(1000):
        values = dict(enumerate(limit + rng.normal(0, 0.02, 200)))
        verdict = judge.judge(loss_frame(rule, number, values, 0.02))
        crossed |= set(verdict.series[verdict.certain].tolist())

    assert 95 <= len(crossed) <= 150


def test_what_records_may_have_put_into_other_windows_must_be_explained_first() -> None:
    """30 % in each window, and three times its packets may belong to others: the ninth window is beyond that."""
    judge = Threshold(EVIDENT)
    certain = []
    for number in range(12):
        made = frame(EVIDENT, number, {1: 0.3}, {1: (0, 1)})
        made = replace(made, figures={**made.figures, "loss_ratio_allowance": np.array([3.0])})
        certain.append(bool(judge.judge(made).certain[0]))
    needed = math.ceil((3 + 1 / 60) / (-math.log(0.7) + math.log(0.99)))
    assert needed == 9
    assert certain == [False] * (needed - 1) + [True] * (12 - needed + 1)


def test_nothing_is_beyond_a_limit_of_all() -> None:
    """`vmflow rules suggest` tries the highest values that there were, and 100 % are lost now and then."""
    rule = EVIDENT.model_copy(update={"above": 1.0, "clear": 1.0})
    judge = Threshold(rule)
    for number in range(20):
        assert not judge.judge(frame(rule, number, {1: 1.0, 2: 0.5}, {1: (1, 1), 2: (0.4, 0.6)})).certain.any()


def test_evidence_of_a_rate_adds_up_too() -> None:
    """Two standard deviations above the limit, each window: the eighth fires, as for losses."""
    rule = Rule(name="busy", scope="pair", measure="bits_per_second", above=100, certain_windows=1e6, for_seconds=3600)
    spans = {1: (102 - 1.96, 102 + 1.96)}
    frames = [frame(rule, n, {1: 102.0}, spans) for n in range(12)]

    assert happened(Threshold(rule), AlertStates(AlertSettings()), frames) == [(7, 1, "firing")]


def test_what_falls_into_the_next_window_is_no_loss() -> None:
    """Exact counts: up to 0.9 s of the traffic of a minute is counted a window later, another share each time."""
    rng = np.random.default_rng(5)
    judge, late = Threshold(EVIDENT), np.zeros(300)
    for number in range(200):
        later = rng.uniform(0, 0.9 / 60, 300)
        values = dict(enumerate(-np.log(1 - later + late)))
        verdict = judge.judge(loss_frame(EVIDENT, number, values, 1e-6))
        late = later

        assert not verdict.certain.any()


def exact_frame(
    number: int, values: dict[int, tuple[float, float]], half: float = 0.005, point: float = 1
) -> WindowSeries:
    """Windows of 10 s without sampling: loss and packets, by series; half an interval; if each record is a packet."""
    losses = {one: value[0] for one, value in values.items()}
    made = frame(EXACT, number, losses, {one: (loss - half, loss + half) for one, loss in losses.items()})
    samples = np.array([values[one][1] for one in sorted(values)])
    extra = {"loss_ratio_samples": samples, "loss_ratio_point": np.full(len(samples), point)}
    return replace(made, figures={**made.figures, **extra})


EXACT = LOSS.model_copy(update={"certain_windows": 1e8, "for_seconds": 600})


def test_one_window_of_single_packets_proves_a_loss_beyond_what_chance_and_delays_do() -> None:
    """Of 10,000 packets, chance puts up to 4 √1000 + 4 = 130 into one second: 5 % is beyond 1 % by more, 2 % is not."""
    lost = {1: (0.05, 10_000.0), 2: (0.02, 10_000.0), 3: (0.05, 1_000.0)}

    assert happened(Threshold(EXACT), AlertStates(AlertSettings()), [exact_frame(0, lost)]) == [(0, 1, "firing")]


def test_one_window_whose_interval_reaches_the_limit_is_no_proof() -> None:
    assert (
        happened(Threshold(EXACT), AlertStates(AlertSettings()), [exact_frame(0, {1: (0.05, 10_000.0)}, half=0.041)])
        == []
    )


def test_records_of_whole_flows_need_more_windows() -> None:
    """Their packets are shared out evenly over their time: what really was in this window is not known."""
    frames = [exact_frame(number, {1: (0.05, 10_000.0)}, point=0) for number in range(6)]

    (fired,) = happened(Threshold(EXACT), AlertStates(AlertSettings()), frames)
    assert fired[0] > 0


def test_nothing_received_needs_a_second_window_since_a_report_may_be_missing() -> None:
    frames = [exact_frame(0, {1: (0.0, 10_000.0)}), *(exact_frame(n, {1: (1.0, 10_000.0)}) for n in (1, 2))]

    assert happened(Threshold(EXACT), AlertStates(AlertSettings()), frames) == [(2, 1, "firing")]


def test_absence_counts_windows_without_a_sign_of_life_and_ends_with_one() -> None:
    rule = Rule(name="gone", scope="vm", condition="absent", level="1m", windows=2)
    judge, book = Absent(rule, 10), AlertStates(AlertSettings())
    alive, silent = {1: 1.0, 2: 1.0}, {1: 1.0}

    seen = happened(judge, book, [frame(rule, n, alive if n in (0, 1, 6) else silent) for n in range(8)])

    assert seen == [(3, 2, "firing"), (6, 2, "resolved")]


def test_who_stays_away_is_forgotten_with_a_word_about_it() -> None:
    rule = Rule(name="gone", scope="vm", condition="absent", level="1m", windows=2, forget_seconds=300)
    judge, book = Absent(rule, 10), AlertStates(AlertSettings())
    changes = [step(judge, book, frame(rule, n, {1: 1.0, 2: 1.0} if n == 0 else {1: 1.0})) for n in range(8)]

    ended = [(number, one.event, one.who) for number, found in enumerate(changes) for one in found]

    assert ended == [(2, "firing", ""), (5, "resolved", "forgotten")]
    assert judge.series(frame(rule, 0, {})) == 1


EXPORTER = Rule(name="away", scope="exporter", condition="absent", level="1m", windows=3)


def exporters(rule: Rule, number: int, heard: dict[int, str], records: set[int] | None = None) -> WindowSeries:
    """A window in which these streams were heard, each of the sender that is named; of `records` (all) data came."""
    made = frame(rule, number, dict.fromkeys(heard, 1.0))
    texts = {**made.texts, "exporter": pa.array([heard[one] for one in sorted(heard)], pa.string())}
    counts = np.array([records is None or one in records for one in sorted(heard)], bool)
    return replace(made, texts=texts, counts=counts)


def test_an_exporter_is_what_sends_data_and_statistics_alone_make_none() -> None:
    """Stream 2 sends no record, as Open vSwitch's domain 0: nobody misses it.  Of stream 1 any datagram is a sign."""
    judge, book = Absent(EXPORTER, 10), AlertStates(AlertSettings())
    heard = [{1: "h", 2: "h"} if n < 5 else {1: "h"} if n < 12 else {} for n in range(16)]

    seen = happened(judge, book, [exporters(EXPORTER, n, one, {1} if n < 5 else set()) for n, one in enumerate(heard)])

    assert seen == [(14, 1, "firing")]


def test_an_exporter_is_missed_at_its_own_rhythm() -> None:
    """1 reports every tenth minute up to minute 30, 2 every minute up to 30, 3 was heard once.

    2 is missed after three windows, 1 after twice its pause and one, 3 after 21.  One outage of 2 is no rhythm.
    """
    judge, book = Absent(EXPORTER, 10), AlertStates(AlertSettings())
    seen = []
    for n in range(70):
        heard = {1: "a"} if n % 10 == 0 and n <= 30 else {}
        heard |= {2: "b"} if n <= 30 and not 14 <= n < 20 else {}
        heard |= {3: "c"} if n == 40 else {}
        seen += [(n, change.alert.series, change.event) for change in step(judge, book, exporters(EXPORTER, n, heard))]

    assert seen == [
        (16, 2, "firing"), (20, 2, "resolved"), (33, 2, "firing"), (51, 1, "firing"), (61, 3, "firing"),
    ]  # fmt: skip


REPLACED = EXPORTER.model_copy(update={"name": "other", "windows": 2, "replaced": True})


def test_another_protocol_of_the_same_sender_is_a_change_and_no_absence() -> None:
    """Stream 1 of h ends as 2 begins.  3 of k ends while 4 was there before: that is an absence."""
    away, other = Absent(EXPORTER, 10), Absent(REPLACED, 10)
    book, changes = AlertStates(AlertSettings()), []
    for n in range(10):
        heard = {1: "h", 3: "k", 4: "k"} if n < 5 else {2: "h", 4: "k"}
        for rule, judge in ((EXPORTER, away), (REPLACED, other)):
            changes += [(n, rule.name, one) for one in step(judge, book, exporters(rule, n, heard))]

    reported = [(n, name, one.alert.series, one.event, one.alert.evidence) for n, name, one in changes]
    assert reported == [
        (6, "other", 1, "firing", "protocol-2, domain domain-2"),
        (7, "away", 3, "firing", ""),
        (7, "other", 1, "resolved", "protocol-2, domain domain-2"),
    ]
    assert changes[2][2].comment == "protocol-2, domain domain-2 of the same exporter took its place"


def test_what_fell_silent_is_not_missed_any_more_once_something_else_takes_its_place() -> None:
    judge, book = Absent(EXPORTER, 10), AlertStates(AlertSettings())
    heard = [{1: "h"} if n < 5 else {2: "h"} if n >= 12 else {3: "k"} for n in range(14)]

    changes = [(n, one) for n in range(14) for one in step(judge, book, exporters(EXPORTER, n, heard[n] | {3: "k"}))]

    assert [(n, one.event, one.who) for n, one in changes] == [(7, "firing", ""), (12, "resolved", "forgotten")]
    assert changes[1][1].comment == "protocol-2, domain domain-2 of the same exporter took its place"


def test_who_was_dismissed_is_not_expected_until_it_sends_again() -> None:
    """Dismissed in the middle of window 5, whose data and the report of its last seconds do not count any more."""
    judge, book = Absent(EXPORTER, 10), AlertStates(AlertSettings())
    changes = []
    for n in range(20):
        heard = {1: "h", 2: "k"} if n <= 5 or 12 <= n < 15 else {2: "k"}
        if n == 5:
            judge.dismiss(1, NOON_US + 5 * 60_000_000 + 30_000_000)
        changes += [(n, one.alert.series, one.event) for one in step(judge, book, exporters(EXPORTER, n, heard))]

    assert changes == [(17, 1, "firing")]


def test_nothing_heard_for_long_is_forgotten_and_says_so() -> None:
    """A quarter of an hour without a figure; `stale` comes before.  A pending one is dropped without a word."""
    rule = LOSS.model_copy(update={"level": "1m"})
    judge, book = Threshold(rule), AlertStates(AlertSettings())
    seen = [
        (n, one.event, one.who)
        for n in range(20)
        for one in step(judge, book, frame(rule, n, {1: 0.5 if n < 2 else NAN}))
    ]

    assert seen == [(0, "firing", ""), (4, "stale", ""), (16, "resolved", "forgotten")]
    assert len(book) == 0


def test_a_series_keeps_its_alert_under_another_name() -> None:
    judge, book = Threshold(LOSS), AlertStates(AlertSettings())
    before, after = frame(LOSS, 0, {1: 0.5}), frame(LOSS, 1, {1: 0.5})
    after = replace(after, texts={**after.texts, "src_vm": pa.array(["new"])})

    (fired,), (renamed,) = step(judge, book, before), step(judge, book, after)

    assert (renamed.event, renamed.comment) == ("measured", "src_vm-1 is called new now")
    assert renamed.alert is fired.alert
    assert fired.alert.labels["src_vm"] == "new"


def test_a_share_cannot_be_more_than_all() -> None:
    with pytest.raises(ValueError, match="above = 1: loss_ratio is a share of all, at most 1; less is expected"):
        Rule(name="x", scope="pair", measure="loss_ratio", above=1)


def test_absence_remembers_no_more_series_than_allowed() -> None:
    rule = Rule(name="gone", scope="exporter", condition="absent", level="1m")
    judge = Absent(rule, 3)

    judge.judge(frame(rule, 0, dict.fromkeys(range(10), 1.0)))

    assert (judge.series(frame(rule, 0, {})), judge.left_out) == (3, 7)


def test_a_slope_is_not_moved_by_a_third_of_wild_values() -> None:
    history = np.arange(60) * 0.5 + 3
    wild = history.copy()
    wild[::4] += 1000
    gaps = history.copy()
    gaps[5:20] = np.nan

    slope, low, high = slopes(np.array([history, wild, gaps]))

    assert slope[0] == low[0] == high[0] == pytest.approx(0.5)
    assert slope[1] == pytest.approx(0.5, abs=0.01)
    assert slope[2] == pytest.approx(0.5)


def test_the_interval_of_a_slope_holds_the_truth_in_95_of_100() -> None:
    rng = np.random.default_rng(1)
    history = np.arange(60) * 0.02 + rng.normal(0, 1, (1000, 60))

    _, low, high = slopes(history)

    assert 0.93 <= np.mean((low <= 0.02) & (high >= 0.02)) <= 0.975


def test_a_trend_fires_when_the_limit_is_near_enough() -> None:
    """From 50 % up by 0.2 points a minute: 95 % is 225 minutes away at first, 165 after an hour, < 3 h after 45."""
    rule = Rule(
        name="filling", scope="interface", condition="trend", measure="utilisation", above=0.95, look_back=30,
        within_seconds=3 * 3600,
    )  # fmt: skip
    rng = np.random.default_rng(2)
    judge, book = Trend(rule, 100), AlertStates(AlertSettings())
    noise = rng.normal(0, 0.0005, (120, 2))
    frames = [frame(rule, n, {1: 0.5 + 0.002 * n + noise[n, 0], 2: 0.8 + noise[n, 1]}) for n in range(120)]

    seen = happened(judge, book, frames)

    assert [(series, event) for _, series, event in seen] == [(1, "firing")]
    assert 40 <= seen[0][0] <= 50


def test_noise_below_the_limit_is_no_trend() -> None:
    rule = Rule(name="filling", scope="interface", condition="trend", measure="utilisation", above=0.95)
    rng = np.random.default_rng(3)
    judge, book = Trend(rule, 1000), AlertStates(AlertSettings())
    frames = [frame(rule, n, dict(enumerate(rng.normal(0.5, 0.05, 300)))) for n in range(120)]

    assert happened(judge, book, frames) == []


def test_hysteresis_ends_an_alert_only_behind_the_clear_level() -> None:
    values = [0.95, 0.85, 0.85, 0.79, 0.85, 0.95, 0.5]

    seen = happened(Threshold(USE), AlertStates(AlertSettings()), [frame(USE, n, {1: v}) for n, v in enumerate(values)])

    assert seen == [(0, 1, "firing"), (3, 1, "resolved"), (5, 1, "firing"), (6, 1, "resolved")]


def test_for_needs_windows_one_after_the_other_and_missing_ones_count_neither_way() -> None:
    rule = USE.model_copy(update={"for_seconds": 180})
    values = [0.95, 0.95, 0.1, 0.95, NAN, 0.95, 0.95]

    seen = happened(
        Threshold(rule), AlertStates(AlertSettings()), [frame(rule, n, {1: v}) for n, v in enumerate(values)]
    )

    assert seen == [(6, 1, "firing")]


def test_only_a_lasting_gap_is_worth_an_event() -> None:
    """Every second window says nothing, then two in a row, then four; the last figure before them is of window 6."""
    values = [0.95, NAN, 0.95, NAN, NAN, 0.95, 0.95, NAN, NAN, NAN, NAN, 0.95]
    book = AlertStates(AlertSettings())
    judge = Threshold(USE)
    changes = [step(judge, book, frame(USE, n, {1: value})) for n, value in enumerate(values[:-1])]
    (alert,) = book.lasting()
    stale_us = alert.stale_since_us
    changes.append(step(judge, book, frame(USE, len(values) - 1, {1: values[-1]})))

    seen = [(number, one.event) for number, found in enumerate(changes) for one in found]
    assert seen == [(0, "firing"), (9, "stale"), (11, "measured")]
    assert stale_us == NOON_US + 7 * 60_000_000


def test_an_alert_that_flaps_ends_only_after_a_long_clear_time() -> None:
    """On and off each minute: with three alerts within the hour the third one lasts until 10 minutes are clear."""
    settings = AlertSettings(flap_count=3, flap_seconds=3600, flap_clear_seconds=600)
    values = [0.95, 0.1] * 8 + [0.1] * 20

    seen = happened(Threshold(USE), AlertStates(settings), [frame(USE, n, {1: v}) for n, v in enumerate(values)])

    assert [(number, event) for number, _, event in seen] == [
        (0, "firing"), (1, "resolved"), (2, "firing"), (3, "resolved"), (4, "firing"), (24, "resolved"),
    ]  # fmt: skip


def test_states_are_bounded_and_what_is_refused_is_counted() -> None:
    book = AlertStates(AlertSettings(states=5))

    changes = step(Threshold(USE), book, frame(USE, 0, dict.fromkeys(range(8), 0.99)))

    assert len(changes) == len(book) == 5
    assert book.refused == 3


def test_a_baseline_knows_what_is_usual() -> None:
    rule = Rule(
        name="odd", scope="host", condition="baseline", measure="sent_bits_per_second", deviations=5, min_spread=0.1
    )
    judge = Baseline(rule, 10, 28, 3)
    judge._series = np.array([1, 2], np.uint64)
    judge._usual, judge._spread = np.array([100.0, 100.0]), np.array([1.0, 30.0])

    verdict = judge.judge(frame(rule, 0, {1: 151, 2: 151, 3: 1e9}))

    # Spread of the first: at least 10 % of 100, so 50 off is allowed; of the second 150 off; the third is new.
    assert verdict.beyond.tolist() == [True, False, False]
    assert verdict.data.tolist() == [True, True, False]
    assert verdict.threshold[:2].tolist() == [150, 250]
