"""The kernel of condition `anomaly`, and what evidence is worth."""

from __future__ import annotations

import numpy as np
import pytest

from collector.alert.conditions import learn
from collector.alert.conditions.fleet import Fleet
from decoders.jit import INTERPRETED
from tests.alert.conditions.reference import Reference

SERIES, WINDOWS = (4, 300) if INTERPRETED else (20, 600)


def run(state: np.ndarray, rows: np.ndarray, values: np.ndarray, noise: np.ndarray, minute: int) -> np.ndarray:
    """One window; returns what is found, with channels that are worth their evidence."""
    found = np.zeros((len(rows), learn.RESULTS))
    scores = np.tile(np.arange(learn.STEPS) / learn.STEPS_PER_UNIT, (learn.CHANNELS, 1))
    floors, used = np.full(len(rows), 0.02), np.ones(learn.CHANNELS, np.uint8)
    used[learn.SUM] = 0
    when = learn.clock(np.array([1_800_014_400 + 60 * minute]), hourly=False)
    learn.step(
        state, rows, values, noise, floors, np.zeros(len(rows), np.uint8), *when, scores, used,
        np.array([30.0, 1, 96, 3, 1e-4]), np.zeros((learn.CHANNELS, learn.STEPS), np.int64), found,
        *learn.nothing_kept(),
    )  # fmt: skip
    return found


def made(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Values and variances, shape (windows, series): noise, some wild values, some that are not known."""
    rng = np.random.default_rng(seed)
    noise = rng.uniform(0, 0.02, (WINDOWS, SERIES)) * rng.choice([1, 20], (WINDOWS, SERIES), p=(0.95, 0.05))
    values = 10 + rng.normal(0, 0.3, (WINDOWS, SERIES)) + rng.normal(0, 1, (WINDOWS, SERIES)) * np.sqrt(noise)
    values += rng.choice([0, 4, -6], (WINDOWS, SERIES), p=(0.98, 0.01, 0.01))
    values[rng.random((WINDOWS, SERIES)) < 0.1] = np.nan
    return values, noise


def test_the_kernel_does_what_the_reference_does() -> None:
    values, noise = made(1)
    state, references = learn.empty(SERIES), [Reference() for _ in range(SERIES)]
    differ = evident = 0

    for window in range(WINDOWS):
        found = run(state, np.arange(SERIES), values[window], noise[window], window)
        for series, reference in enumerate(references):
            if np.isnan(values[window, series]):
                assert np.isnan(found[series]).all()
                continue
            tails, total = reference.judge(values[window, series], noise[window, series], 0.02)
            # Evidence counts in steps; of equal ones the first channel is named.
            score, channel = max(
                (
                    int(abs(tail) * learn.STEPS_PER_UNIT) / learn.STEPS_PER_UNIT
                    if abs(tail) > learn.PEAK_LEAST
                    else -9.0,
                    -2 * stream - (tail < 0),
                )
                for stream, tail in enumerate(tails)
            )
            evident += score > 3
            same = np.isclose(found[series, learn.TOTAL], total, rtol=1e-4, atol=1e-5)
            same &= found[series, learn.SCORE] == score
            differ += not (same and found[series, learn.CHANNEL] == (-channel if score >= 0 else 0))

    # A value that lies on a limit may be rounded to its other side.
    assert differ <= WINDOWS * SERIES / 1000
    assert evident > (5 if INTERPRETED else 20)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_neither_judged_nor_learned(value: float) -> None:
    state = learn.empty(1)
    for window in range(3):
        run(state, np.arange(1), np.array([10.0]), np.zeros(1), window)
    before = state.copy()

    assert np.isnan(run(state, np.arange(1), np.array([value]), np.zeros(1), 3)).all()
    assert np.isnan(run(state, np.arange(1), np.array([10.0]), np.array([np.inf]), 4)).all()
    assert np.array_equal(state, before, equal_nan=True)


def test_neither_order_nor_company_of_series_matters() -> None:
    values, noise = made(2)
    whole, parts = learn.empty(SERIES), learn.empty(SERIES)
    order = np.random.default_rng(3).permutation(SERIES)
    for window in range(200):
        run(whole, np.arange(SERIES), values[window], noise[window], window)
        for half in np.array_split(order, 2):
            run(parts, half, values[window, half], noise[window, half], window)

    np.testing.assert_array_equal(whole, parts)


def test_bins_of_the_profile() -> None:
    monday = 1_800_014_400 // 604_800 * 604_800 + 4 * 86_400  # 1970 began on a Thursday
    times = np.array([monday + 900, monday + 1800, monday + 5 * 86_400 + 900, monday + 7 * 86_400 - 1])

    places, shares, kinds = learn.clock(times, hourly=False)
    assert places[:, 0].tolist() == [0, 1, 48, 95]
    assert places[[0, 2], 2].tolist() == [48, 0]
    assert shares.tolist() == pytest.approx([0, 0.5, 0, 0.5], abs=0.001)
    assert kinds == 2

    places, _, _ = learn.clock(times, hourly=True)
    assert places[:, 0].tolist() == [0, 0, 120, 167]
    assert places[0, 1:].tolist() == [0, 144, 120, 96, 72, 48, 24]


def test_a_score_counts_peaks_of_the_fleet() -> None:
    """5,000 days of a series with 100 peaks in one channel: a limit below them gives 20 a day and 1,000, times the
    number of channels.  What was counted long ago does not count."""
    fleet, used = Fleet(7), np.zeros(learn.CHANNELS, np.uint8)
    used[:10] = 1
    for day in range(7):
        fleet.today(day * 86_400)[3, 160] += 100 if day == 1 else 0
        fleet.expose(day * 86_400, 5_000_000 if day == 1 else 0, 86_400)
    many = fleet.scores(used)
    assert fleet.exposure.sum() == pytest.approx(5000)
    assert many[3, 160] == pytest.approx(-np.log10(10 * 100 / 5000), abs=0.001)
    assert many[3, 200] > many[3, 160] + 2
    assert many[4, 200] > 4

    fleet.today(20 * 86_400)
    assert fleet.exposure.sum() == 0
    assert fleet.peaks.sum() == 0
    assert np.allclose(fleet.scores(used), Fleet(7).scores(used))


def test_highest_peaks_are_continued() -> None:
    """Peaks that are exponential with mean 2 evidence units above 4: ten units higher they are e^5 times rarer."""
    fleet, rng = Fleet(7), np.random.default_rng(4)
    counted = fleet.today(0)
    for tail in 4 + rng.exponential(2, 20_000):
        counted[0, min(255, int(tail * 8))] += 1
    fleet.expose(0, 1_000_000, 86_400)

    scores = fleet.scores(np.ones(learn.CHANNELS, np.uint8))

    assert scores[0, 240] - scores[0, 160] == pytest.approx(5 / np.log(10), rel=0.25)
