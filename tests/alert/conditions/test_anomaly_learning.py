"""Condition `anomaly`: known changes, what people say of alerts, what is lent by peers and learned of hours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from collector.alert.conditions import anomaly, learn
from collector.alert.conditions.anomaly import Anomaly
from collector.alert.rules import Rule
from collector.alert.series import Limits, WindowSeries
from collector.alert.settings import AlertSettings
from collector.alert.state import AlertStates
from tests.alert.conditions.support import NOON_US, frame, step

RULE = Rule(
    name="rate", scope="vm", condition="anomaly", measure="sent_bits_per_second", clear_seconds=120, alerts_per_day=30
)
LIMITS = Limits(8, 2**20, 1000)
SETTINGS = AlertSettings()
QUIET = 300
"""Windows before the first fault."""


def made(
    monkeypatch: pytest.MonkeyPatch, said: list[dict[str, Any]] | None = None, budget: float = RULE.alerts_per_day
) -> Anomaly:
    """A condition whose store holds no windows, and these verdicts."""
    judge = Anomaly.of(RULE.model_copy(update={"alerts_per_day": budget}), AlertSettings())
    assert isinstance(judge, Anomaly)
    monkeypatch.setattr("collector.alert.series.pieces", lambda *given: iter(()))
    monkeypatch.setattr(anomaly, "read_rows", lambda *given: said or [])
    return judge


def ready(judge: Anomaly, number: int) -> None:
    assert judge.prepare(SimpleNamespace(), NOON_US + number * 60_000_000, LIMITS)  # type: ignore[arg-type]


def rate(seed: int = 3, windows: int = 900) -> np.ndarray:
    return 5e6 * np.exp(np.random.default_rng(seed).normal(0, 0.1, windows))


def frames(
    values: np.ndarray, changes: Callable[[int], dict[str, float]] = lambda number: {}
) -> Iterator[WindowSeries]:
    for number, value in enumerate(values):
        one = frame(RULE, number, {1: value}, {1: (value, value)})
        yield replace(one, figures=dict(one.figures) | {name: np.array([of]) for name, of in changes(number).items()})


def fired(judge: Anomaly, windows: Iterator[WindowSeries], book: AlertStates | None = None) -> list[int]:
    """Minutes after noon at which an alert fires."""
    states = book or AlertStates(AlertSettings())
    return [
        (one.start_us - NOON_US) // 60_000_000
        for one in windows
        for change in step(judge, states, one)
        if change.event == "firing"
    ]


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        (lambda number: {"restarted": float(number == QUIET)}, 0),
        (lambda number: {"sampling_rate": 64.0 if number < QUIET else 400.0}, 0),
        (lambda number: {"sampling_rate": 64.0, "restarted": 0.0}, 1),
        # A rate that is another one in each window says nothing.
        (lambda number: {"sampling_rate": 64.0 + number % 2}, 1),
        # Long ago.
        (lambda number: {"restarted": float(number == QUIET - 30)}, 1),
    ],
)
def test_a_known_change_explains_what_comes_with_it(
    changes: Callable[[int], dict[str, float]], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = rate(windows=QUIET + 30)
    values[QUIET + 2 : QUIET + 6] *= 40

    assert len(fired(made(monkeypatch), frames(values, changes))) == count


def said_of(since_us: int, at_us: int, right: int) -> dict[str, Any]:
    """A row that the store has of a verdict."""
    return {"series": 1, "since_us": since_us, "at_us": at_us, "was_right": right}


def test_what_restarts_again_and_again_is_masked_for_a_quarter_of_its_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter that restarts each minute from the 300th on: the first mask is whole, later faults are found."""
    judge, at = made(monkeypatch), 800
    values = rate()
    values[at : at + 4] *= 40
    windows, book = list(frames(values, lambda number: {"restarted": float(number >= QUIET)})), AlertStates(SETTINGS)

    assert fired(judge, iter(windows[: QUIET + 11]), book) == []
    assert judge.counts == {("masked", "restarted"): 11}
    (found,) = fired(judge, iter(windows[QUIET + 11 :]), book)

    assert at <= found < at + 4
    masked = judge.counts["masked", "restarted"]
    assert masked + judge.counts["masked", "too_often"] > 400
    assert 0.2 < masked / len(windows) < 0.26


def test_each_mask_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is rare is kept though it is masked, behind all else, and says so."""
    judge = made(monkeypatch)
    values = rate(windows=QUIET + 3)
    values[QUIET:] *= 40
    *before, first, second, _ = frames(values, lambda number: {"restarted": float(number == QUIET)})
    fired(judge, iter(before))
    for one in (first, second):
        verdict = judge.judge(one)
        (row,) = judge.rare(one, verdict)
        assert row["evidence"].endswith("; masked: its exporter or vmflow began again")
        assert (row["beyond"], bool(verdict.beyond[0])) == (0, False)


def test_a_vm_that_is_often_away_is_masked_only_the_first_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """There for 3 minutes of each 40, after 300 in a row; in the end away for four hours."""
    judge = made(monkeypatch)
    there = [*range(QUIET), *(QUIET + 40 * turn + more for turn in range(1, 9) for more in range(3)), QUIET + 640]
    values = zip(there, rate(), strict=False)
    windows = [frame(RULE, number, {1: value}, {1: (value, value)}) for number, value in values]
    masks = []
    for one in windows:
        judge.judge(one)
        masks.append(int(judge._why[0]))

    assert masks[:QUIET] == [0] * QUIET
    assert masks[QUIET : QUIET + 3] == [4] * 3
    assert masks[QUIET + 3 : -1] == [0] * 21
    assert masks[-1] == 4


def test_a_verdict_restores_what_was_before_the_alert_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    judge, book = made(monkeypatch, budget=300), AlertStates(SETTINGS)
    windows, began, usual = list(frames(faulty(12.0))), [], []
    for one in windows[: FAULTS[1] + 3]:
        before = judge._memory.rows[: judge._memory.series, : learn.PEAKS].copy()
        for change in step(judge, book, one):
            if change.event == "firing":
                began.append(change.alert.since_us)
                usual.append(before)
    assert [(at - NOON_US) // 60_000_000 for at in began] == list(FAULTS[:2])
    row, after = judge._memory.rows[0], windows[FAULTS[1] + 3]

    def say(since_us: int, right: bool) -> None:
        judge.learn_verdict(1, since_us, after.start_us, right)
        judge._take_verdicts(after)

    # One of an alert that is not known changes nothing that was learned, and does not end the present one.
    streams = row[: learn.PEAKS].copy()
    say(began[0] - 60_000_000, right=True)
    say(began[0], right=False)
    assert np.array_equal(row[: learn.PEAKS], streams, equal_nan=True)
    assert row[learn.EPISODE] == 1

    say(began[0], right=True)
    assert np.array_equal(row[: learn.PEAKS], usual[0][0], equal_nan=True)
    assert row[learn.EPISODE] == 0
    # What was before the second one holds the first: it is not taken back.
    say(began[1], right=True)
    assert np.array_equal(row[: learn.PEAKS], usual[0][0], equal_nan=True)
    assert judge.counts == {("verdicts", "partly"): 2, ("verdicts", "learned"): 2}


def test_no_verdict_is_lost_without_being_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes before the store was read counts; one too many, or of a series that is gone, is counted."""
    at_us = NOON_US + 5_000_000
    judge = made(monkeypatch, [said_of(NOON_US, at_us, right=0)])
    monkeypatch.setattr(anomaly, "MOST_VERDICTS", 2)
    judge.learn_verdict(1, NOON_US, at_us, right=False)  # the same
    judge.learn_verdict(2, NOON_US, at_us, right=False)
    ready(judge, 0)
    assert len(judge._verdicts) == 2
    judge.learn_verdict(3, NOON_US, at_us, right=False)
    assert judge.counts["verdicts", "dropped"] == 1

    windows = frames(rate(windows=2))
    judge.judge(next(windows))
    judge.judge(next(windows))
    assert (judge.counts["verdicts", "learned"], len(judge._verdicts)) == (1, 1)
    judge.judge(frame(RULE, 60 * 24 * 29, {1: 5e6}, {1: (5e6, 5e6)}))
    assert (judge.counts["verdicts", "dropped"], judge._verdicts) == (2, [])


def test_hours_that_cannot_be_read_stop_no_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third time at one hour the rule begins without; not while the store answers nothing."""
    judge, refused = made(monkeypatch), ["1h", "1m"]

    def pieces(client: object, view: object, level: str, *given: object) -> Iterator[WindowSeries]:
        if level in refused:
            raise OSError("too much memory")
        return iter(())

    monkeypatch.setattr("collector.alert.series.pieces", pieces)
    for _ in range(4):
        with pytest.raises(OSError, match="too much memory"):
            ready(judge, 0)
    assert not judge.counts["state", "hours"]
    refused.remove("1m")
    ready(judge, 1)
    assert judge.counts["state", "hours"] == 1

    other = made(monkeypatch)
    refused[:] = ["1h"]
    monkeypatch.setattr("collector.alert.series.pieces", pieces)
    for _ in range(2):
        with pytest.raises(OSError, match="too much memory"):
            ready(other, 0)
    ready(other, 0)
    assert other.counts["state", "hours"] == 1


FAULTS = (QUIET, QUIET + 200, QUIET + 400)


def faulty(times: float = 6.0) -> np.ndarray:
    """Three faults that are alike, each longer ago than the time in which a second one must be rarer."""
    values = rate()
    for at in FAULTS:
        values[at : at + 4] *= times
    return values


def test_what_was_wrong_must_be_rarer_next_time_and_a_restart_knows_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    windows = list(frames(faulty()))
    judge = made(monkeypatch, budget=300)
    ready(judge, 0)
    assert fired(judge, iter(windows[:320])) == [QUIET]
    plain = made(monkeypatch, budget=300)
    ready(plain, 0)
    unsaid = fired(plain, iter(windows))
    assert len(unsaid) >= 2  # without a verdict it fires again

    judge.learn_verdict(1, windows[QUIET].start_us, windows[320].start_us + 5_000_000, right=False)
    assert fired(judge, iter(windows[320:])) == []

    # The file is older than the verdict: it comes from the store.
    early = made(monkeypatch, budget=300)
    early.keep(tmp_path)
    ready(early, 0)
    fired(early, iter(windows[:310]))
    early.save()
    said = [said_of(windows[QUIET].start_us, windows[320].start_us + 5_000_000, right=0)]
    later = made(monkeypatch, said, 300)
    later.keep(tmp_path)
    assert later.unfit == ""
    ready(later, 310)
    assert fired(later, iter(windows[310:])) == []
    assert np.array_equal(later._memory.rows[:1], judge._memory.rows[:1], equal_nan=True)


def test_what_was_right_is_not_learned_and_fires_again(monkeypatch: pytest.MonkeyPatch) -> None:
    values = faulty(3.5)
    judge = made(monkeypatch)
    ready(judge, 0)
    windows = list(frames(values))
    book = AlertStates(AlertSettings())
    found = []
    for number, one in enumerate(windows):
        before = judge._memory.rows[: judge._memory.series, : learn.PEAKS].copy()
        for change in step(judge, book, one):
            if change.event == "firing":
                found.append(number)
                usual, book_since = before, change.alert.since_us
        for at in FAULTS:
            if number == at + 10:
                judge.learn_verdict(1, book_since, one.end_us + 1, right=True)
                judge._take_verdicts(windows[number + 1])
                assert np.array_equal(judge._memory.rows[:1, : learn.PEAKS], usual, equal_nan=True)

    assert [at for at in FAULTS if any(at <= number < at + 4 for number in found)] == list(FAULTS)


def test_a_new_series_has_the_tails_of_its_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty series of a day; one that is new fires on what is rare for them, 51 windows after it came."""
    monkeypatch.setattr(anomaly, "PEERS_WINDOWS", 200)
    rng, judge = np.random.default_rng(5), made(monkeypatch)
    ready(judge, 0)
    book, found = AlertStates(AlertSettings()), []
    for number in range(340):
        values = {one: 5e6 * float(np.exp(rng.normal(0, 0.1))) for one in range(30)}
        if number >= 250:
            values[99] = 5e6 * float(np.exp(rng.normal(0, 0.1))) * (40 if 320 <= number < 324 else 1)
        one = frame(RULE, number, values, {series: (value, value) for series, value in values.items()})
        found += [(number, change.alert.series) for change in step(judge, book, one) if change.event == "firing"]

    assert [series for number, series in found if number >= 310] == [99]
    assert judge._memory.rows[judge._memory.row_of(99), learn.LENT] == 1
    assert judge._memory.rows[judge._memory.row_of(1), learn.LENT] == 0


def test_hours_teach_the_rhythm_of_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three days of hours, as the rollups have them: the profile has the level of each half hour of the day."""
    judge = made(monkeypatch)
    hourly = RULE.model_copy(update={"level": "1h"})
    for hour in range(72):
        value = 1e6 * (1 + hour % 24)
        one = frame(hourly, hour, {1: value}, {1: (value, value)})
        samples = {"sent_bits_per_second_samples": np.array([3600.0])}
        judge._learn_hour(replace(one, figures=dict(one.figures) | samples))

    row = judge._memory.rows[0]
    levels = judge._back(
        row[learn.PROFILE : learn.PROFILE + 96].astype(np.float64), judge._scale(np.zeros(96, np.int64))
    )
    first = NOON_US // 1_000_000 % 86_400 // 3600  # the hour of the day with which it began
    weekdays = [(NOON_US // 1_000_000 // 86_400 + day + 3) % 7 for day in range(3)]
    offset = 0 if weekdays[1] < 5 else 48
    for hour in range(24):
        expected = 1e6 * (1 + (hour - first) % 24)
        assert levels[offset + 2 * hour] == pytest.approx(expected, rel=1e-3)
    assert row[learn.SEEN] == 0
    assert row[learn.SCALE] == pytest.approx(4 * 1e6 / 3600 * 60)


def test_the_band_of_a_chart_holds_what_is_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 % of the windows lie beyond it to each side; of a series that is not known there is none."""
    judge = made(monkeypatch)
    ready(judge, 0)
    assert judge.expected(1, NOON_US) == []
    for one in frames(rate(windows=400)):
        judge.judge(one)

    band = judge.expected(1, NOON_US + 400 * 60_000_000)

    assert len(band) == 49
    assert [one["time"] for one in band][24] == (NOON_US + 400 * 60_000_000) // 1_800_000_000 * 1_800_000_000
    assert {round(one["expected"] / 1e5) for one in band} <= {48, 49, 50, 51, 52}
    usual = rate(windows=400)
    inside = np.mean((usual > band[0]["low"]) & (usual < band[0]["high"]))
    assert 0.9 < inside < 0.995
    assert judge.expected(2, NOON_US) == []
