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
from collector.alert.conditions.anomaly import Anomaly, rarity, what
from collector.alert.conditions.memory import UnfitError
from collector.alert.rules import Rule
from collector.alert.series import WindowSeries
from collector.alert.settings import AlertSettings
from collector.alert.state import Alert, AlertStates
from collector.notify.words import WORDS
from decoders.jit import INTERPRETED
from tests.alert.conditions.support import NAN, NOON_US, frame, step

RATE = Rule(name="rate", scope="vm", condition="anomaly", measure="sent_bits_per_second", clear_seconds=120)
SETTINGS = AlertSettings()
SHORT = 700 if INTERPRETED else 3000
"""Windows: uncompiled, one takes milliseconds."""


def made(rule: Rule = RATE) -> Anomaly:
    judge = Anomaly.of(rule, SETTINGS)
    assert isinstance(judge, Anomaly)
    return judge


def windows(rule: Rule, values: Iterable[float], share: float = 0.0, first: int = 0) -> Iterator[WindowSeries]:
    """A window for each value of the one series there is; its interval is that share of it to both sides."""
    for number, value in enumerate(values, first):
        yield frame(rule, number, {1: value}, {1: (value * (1 - share), value * (1 + share))})


def fired(judge: Anomaly, frames: Iterable[WindowSeries]) -> list[tuple[int, Alert]]:
    """Number of the window and alert of all that fires."""
    book = AlertStates(SETTINGS)
    found = []
    for number, one in enumerate(frames):
        found += [(number, change.alert) for change in step(judge, book, one) if change.event == "firing"]
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
        (flat, 60, "flatter than usual"),
    ],
)
def test_a_fault_is_found_soon_and_named(
    fault: Callable[[np.ndarray, int], np.ndarray], within: int, words: str
) -> None:
    at = SHORT - 120

    found = fired(made(), windows(RATE, fault(noisy(), at)))

    assert len(found) == 1
    number, alert = found[0]
    assert at <= number <= at + within
    assert re.match(f"({words})", alert.evidence)
    assert re.search(r"; usual [\d.,]+ to [\d.,]+ Mbit/s; about .* among 1,000 series; since 20", alert.evidence)
    if fault is not flat:
        assert alert.threshold is not None
        assert 5.1e6 < alert.threshold < 1e7 or 2.5e6 < alert.threshold < 4.9e6
