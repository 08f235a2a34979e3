"""Condition `anomaly`: what it must not see, what it must, and what a restart must not change."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from collector.alert.conditions import anomaly, learn
from collector.alert.conditions.anomaly import Anomaly, masked, rarity, what
from collector.alert.rules import Rule
from collector.alert.series import Limits, WindowSeries
from collector.alert.settings import AlertSettings
from collector.alert.state import Alert, AlertStates
from collector.notify.words import WORDS
from decoders.jit import INTERPRETED
from tests.alert.conditions.support import frame, step

RATE = Rule(name="rate", scope="vm", condition="anomaly", measure="sent_bits_per_second", clear_seconds=120)
SETTINGS = AlertSettings()
SHORT = 600 if INTERPRETED else 1500
"""Windows: uncompiled, one takes a millisecond."""


def made(rule: Rule = RATE) -> Anomaly:
    judge = Anomaly.of(rule, SETTINGS)
    assert isinstance(judge, Anomaly)
    return judge


def windows(rule: Rule, values: Iterable[float], share: float = 0.0, first: int = 0) -> Iterator[WindowSeries]:
    """A window for each value of the one series there is; its interval is that share of it to both sides."""
    for number, value in enumerate(values, first):
        yield frame(rule, number, {1: value}, {1: (value * (1 - share), value * (1 + share))})


def fired(judge: Anomaly, frames: Iterable[WindowSeries]) -> list[tuple[int, Alert]]:
    """Number of the window and alert, as it was then, of all that fires."""
    book = AlertStates(SETTINGS)
    found = []
    for number, one in enumerate(frames):
        found += [(number, replace(change.alert)) for change in step(judge, book, one) if change.event == "firing"]
    return found


TIME = np.arange(SHORT)
QUIET: dict[str, Callable[[], np.ndarray]] = {
    "constant": lambda: np.full(SHORT, 5e6),
    "silent": lambda: np.zeros(SHORT),
    "linear": lambda: 1e6 + 1e3 * TIME,
    "square": lambda: np.where(TIME // 30 % 2 == 0, 1e6, 3e6),
    "sine": lambda: 5e6 + 4e6 * np.sin(TIME * 2 * np.pi / 240),
}


@pytest.mark.parametrize("shape", QUIET)
def test_what_is_regular_is_no_anomaly(shape: str) -> None:
    assert fired(made(), windows(RATE, QUIET[shape]())) == []


def noisy(seed: int = 3) -> np.ndarray:
    return 5e6 * np.exp(np.random.default_rng(seed).normal(0, 0.1, SHORT))


def spike(values: np.ndarray, at: int) -> np.ndarray:
    values[at : at + 2] *= 40
    return values


def flat(values: np.ndarray, at: int) -> np.ndarray:
    values[at:] = 5e6
    return values


def step_up(values: np.ndarray, at: int) -> np.ndarray:
    values[at:] *= 6
    return values


def fall(values: np.ndarray, at: int) -> np.ndarray:
    values[at : at + 30] *= 0.01
    return values


@pytest.mark.parametrize(
    ("fault", "within", "words"),
    [
        (spike, 1, "sudden rise|higher than usual"),
        (step_up, 8, "sudden rise|higher than usual"),
        (fall, 8, "sudden fall|lower than usual"),
        (flat, 100, "flatter than usual"),
    ],
)
def test_a_fault_is_found_soon_and_named(
    fault: Callable[[np.ndarray, int], np.ndarray], within: int, words: str
) -> None:
    at = SHORT - 120

    found = fired(made(RATE.model_copy(update={"alerts_per_day": 30.0})), windows(RATE, fault(noisy(), at)))

    assert len(found) == 1
    number, alert = found[0]
    assert at <= number <= at + within
    assert re.match(f"({words})", alert.evidence)
    assert re.search(r"; usual [\d.,]+ to [\d.,]+ Mbit/s; about .* among 1,000 series; since 20", alert.evidence)
    if fault is not flat:
        assert alert.threshold is not None
        assert 5.1e6 < alert.threshold < 1e7 or 2.5e6 < alert.threshold < 4.9e6


def test_a_new_level_is_named_once_and_then_usual() -> None:
    at = SHORT - 400
    judge, book = made(), AlertStates(SETTINGS)
    events, words = [], []

    for number, one in enumerate(windows(RATE, step_up(noisy(5), at))):
        for change in step(judge, book, one):
            events.append((number, change.event))
            words.append(change.alert.evidence)

    assert [event for _, event in events] == ["firing", "resolved"]
    assert at <= events[0][0] <= at + 8
    assert events[1][0] <= at + 2 * learn.SHIFT_WINDOWS
    assert words[1].startswith("this level stays: it is the usual one from now on; usual ")


def sampled(rng: np.random.Generator, rate: float, packets: float) -> tuple[float, float, float]:
    """What sampling 1 in `rate` says of this many packets a minute, as bits per second with its 95 % interval."""
    seen = rng.poisson(packets / rate)
    value, reach = seen * rate, 1.96 * rate * np.sqrt(seen + 1)
    return value, max(0.0, value - reach), value + reach


def test_a_window_with_a_hundredth_of_the_samples_is_no_anomaly() -> None:
    """What is estimated from 20 samples instead of 2,000 is far off and says so: its interval holds the usual value, or
    nearly.  Without the allowance for noise beyond the usual, it would be the rarest value of all."""
    rng, frames = np.random.default_rng(11), []
    for number in range(SHORT):
        few = number >= 300 and number % 100 == 0
        value, low, high = sampled(rng, 6400 if few else 64, 128_000)
        frames.append(frame(RATE, number, {1: value}, {1: (low, high)}))

    assert fired(made(RATE.model_copy(update={"alerts_per_day": 30.0})), frames) == []


def test_channels_of_a_direction() -> None:
    values = fall(noisy(), SHORT - 120)

    assert fired(made(RATE.model_copy(update={"direction": "above"})), windows(RATE, values)) == []
    assert len(fired(made(RATE.model_copy(update={"direction": "below"})), windows(RATE, values))) == 1
    least = RATE.model_copy(update={"least_change": 1e7})
    assert fired(made(least), windows(RATE, values)) == []


def test_a_fall_far_beyond_the_least_change_is_found() -> None:
    """Near 0 the least change is wide in logarithms: it is seen from what is usual."""
    values = noisy() * 200  # 1 Gbit/s
    values[SHORT - 120 :] = 1e3
    rule = RATE.model_copy(update={"least_change": 1e6})

    assert len(fired(made(rule), windows(RATE, values))) == 1


def test_a_vm_that_moves_raises_no_alert() -> None:
    at = SHORT - 60
    frames = []
    for number, one in enumerate(windows(RATE, spike(noisy(), at))):
        host = pa.array(["h1" if number < at else "h2"])
        frames.append(replace(one, texts={**one.texts, "host": host}))

    assert fired(made(), frames) == []
    assert len(fired(made(), frames[: at - 1] + [replace(one, texts={**one.texts, "host": pa.array(["h1"])})
                                                 for one in frames[at - 1 :]])) == 1  # fmt: skip


def verdicts(judge: Anomaly, frames: Iterable[WindowSeries]) -> list[tuple[object, ...]]:
    """All that is said of each window."""
    found = []
    for one in frames:
        verdict = judge.judge(one)
        sentences = [verdict.evidence(row) for row in range(len(verdict.series))]
        found.append((verdict.beyond.tolist(), verdict.clear.tolist(), verdict.threshold.tolist(), sentences))
    return found


def many(count: int) -> list[WindowSeries]:
    rng = np.random.default_rng(8)
    values = 1e6 * np.exp(rng.normal(0, 0.2, (count, 5)))
    values[count - 20 : count - 10, 2] *= 30
    return [
        frame(RATE, number, {series: value for series, value in enumerate(row) if (series + number) % 7},
              {series: (value * 0.95, value * 1.05) for series, value in enumerate(row)})
        for number, row in enumerate(values)
    ]  # fmt: skip


def test_a_restart_changes_no_verdict(tmp_path: Path) -> None:
    """Saved at 150, killed at 180, loaded, replayed until then: all that is said is as if it had never stopped."""
    frames, rule = many(260), RATE.model_copy(update={"alerts_per_day": 300.0})
    expected = verdicts(made(rule), frames)[180:]
    first = made(rule)
    first.keep(tmp_path)
    verdicts(first, frames[:150])
    first.save()
    verdicts(first, frames[150:180])

    second = made(rule)
    second.keep(tmp_path)

    assert second.unfit == ""
    assert second._past.read_us == frames[149].end_us
    for one in frames[150:180]:
        second._step(one)
    assert verdicts(second, frames[180:]) == expected
    assert any(beyond for flags, *_ in expected for beyond in flags)
    assert verdicts(second, frames[200:201])[0][0] == [False] * len(frames[200].series)  # learned already


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda octets: octets[:-1], "it is cut off"),
        (lambda octets: octets[:-1] + bytes([octets[-1] ^ 1]), "it is damaged"),
        (lambda octets: octets + b"x", "it is damaged"),
        (lambda octets: octets.replace(b'"version": 3', b'"version": 2'), "it is of another version of vmflow"),
        (lambda octets: octets.replace(b'"series": 5', b'"series": -5'), "-5 series, of at most 200000"),
        (lambda octets: octets.replace(b'"read_us": 1', b'"read_us": 2'), "it is damaged"),
        (lambda octets: b"hello\n", "it is no state of a rule"),
        (lambda octets: b"[" * 4000 + b"\n", "it is no state of a rule"),
        (lambda octets: b"", "it is no state of a rule"),
    ],
)
def test_a_file_that_does_not_fit_is_not_used(tmp_path: Path, spoil: Callable[[bytes], bytes], why: str) -> None:
    judge = made()
    judge.keep(tmp_path)
    verdicts(judge, many(3))
    judge.save()
    path = tmp_path / "rate.state"
    path.write_bytes(spoil(path.read_bytes()))

    after = made()
    after.keep(tmp_path)

    assert after.unfit == why
    assert after._memory.series == 0
    other = Anomaly.of(RATE.model_copy(update={"measure": "received_bits_per_second"}), SETTINGS)
    judge.save()
    other.keep(tmp_path)
    assert other.unfit == "it is of another rule"


def test_a_clock_that_was_ahead_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows are judged again, and what was learned stays: nothing of it lies in the time to come."""
    frames = many(10)
    ahead = frame(RATE, 60 * 24 * 365, {1: 1e6})
    first = made()
    first.keep(tmp_path)
    verdicts(first, [*frames[:3], ahead])
    first.save()
    second = made()
    second.keep(tmp_path)
    assert second.unfit == ""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(anomaly, "read_rows", lambda *given: [])
    monkeypatch.setattr("collector.alert.series.pieces", lambda *given: asked.append(given[4:6]) or iter(()))

    for judge in (first, second):
        assert judge.prepare(None, frames[3].start_us, Limits(8, 2**20, 100))  # type: ignore[arg-type]
        judge.judge(frames[3])
        memory, now = judge._memory, frames[3].end_us // 1_000_000
        assert memory.read_us == frames[3].end_us
        assert judge.counts["state", "set_back"] == 1
        assert memory.rows[: memory.series, learn.SEEN].sum() == sum(len(one.series) for one in frames[:4]) + 1
        assert max(memory.last.max(), memory.masked.max() - 600, memory.kept_times.max()) <= now
        assert memory.fleet.day[0] == now // 86_400
        assert judge.prepare(None, frames[4].start_us, Limits(8, 2**20, 100))  # type: ignore[arg-type]
        assert judge.counts["state", "set_back"] == 1
    assert all(begin == end for begin, end in asked)  # nothing is replayed


def test_the_scale_is_that_of_the_first_window_with_samples() -> None:
    judge = made()
    for number, value in enumerate((0.0, 0.0, 4e5)):
        judge.judge(frame(RATE, number, {1: value}))
        assert (judge._memory.rows[0, learn.SCALE] > 0) == (value > 0)


def test_what_uncounted_evidence_is_worth_holds_no_alert_up() -> None:
    """In a large fleet that is nearly always silent, few peaks are counted: an alert ends all the same."""
    judge = made(RATE.model_copy(update={"alerts_per_day": 10.0}))
    judge._memory.fleet.exposure[0] = 250.0  # days of 1,000 series
    values = np.full(SHORT, 5e6)
    values[SHORT - 200 : SHORT - 194] *= 40
    said = [judge.judge(one) for one in windows(RATE, values)]

    beyond = [bool(one.beyond[0]) for one in said]
    assert any(beyond[SHORT - 200 : SHORT - 194])
    assert not any(beyond[: SHORT - 200])
    assert not any(beyond[-60:])
    assert said[-1].clear[0]


def test_rows_of_series_that_are_gone_are_given_to_others() -> None:
    judge = Anomaly(RATE, 3, 7, 600)
    for number, series in ((0, range(3)), (1, range(3, 5)), (60 * 24 * 8, range(5, 7))):
        judge.judge(frame(RATE, number, dict.fromkeys(series, 1e6)))

    assert sorted(judge._memory.keys[: judge._memory.series].tolist()) == [5, 6]
    assert judge.left_out == 2


def test_each_part_of_the_sentence_has_chinese_words() -> None:
    parts = {what(channel, over, 60) for channel in range(learn.SUM) for over in (True, False)}
    parts |= {rarity(1.2), rarity(-1.2), "usual 3 to 4 Mbit/s", "since 2026-11-30 14:22:00 UTC"}
    parts |= {masked(why) for why in range(1, anomaly.TOO_OFTEN + 1)}
    patterns = WORDS["zh"].unusual

    for part in parts:
        assert any(re.fullmatch(pattern, part) for pattern in patterns), part
    assert {anomaly.DURATIONS[2]} == {"min"}


def test_names_are_escaped_and_no_part_of_the_evidence() -> None:
    at, hostile = SHORT - 120, "db\x1b[31m; usual 1 to 2"
    frames = [replace(one, texts={**one.texts, "vm": pa.array([hostile])}) for one in windows(RATE, spike(noisy(), at))]

    ((_, alert),) = fired(made(RATE.model_copy(update={"text": "{vm}: {evidence}"})), frames)

    assert alert.labels["vm"] == "db\\x1b[31m; usual 1 to 2"
    assert hostile not in alert.evidence
    assert alert.summary.startswith("db\\x1b[31m; usual 1 to 2: ")
