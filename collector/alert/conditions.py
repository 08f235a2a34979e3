"""Conditions over whole columns: which series of a window are beyond the limit, which are clear, which say nothing.

    frame ──► Threshold, Absent (`silence.py`), Trend (`trend.py`), Baseline (`baseline.py`) ──► Verdict

Only rows that are beyond, or that have a state, become objects; that is done by `state.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from clickhouse_connect.driver import Client

from collector.alert.frame import Flags, Floats, Frame, Limits, Series
from collector.alert.rules import Rule

SIGMAS = 1.96
"""Standard deviations on either side of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one rule says about one window; all columns have a row per series."""

    series: Series
    data: Flags
    """False: nothing can be told, which neither raises an alert nor ends one."""
    beyond: Flags
    certain: Flags
    """Beyond without any doubt: fires at once."""
    clear: Flags
    value: Floats
    low: Floats
    """As `value` where the measure has no interval."""
    high: Floats
    threshold: Floats
    samples: Floats
    """NaN where the view does not say."""
    labels: Callable[[int], dict[str, str]]
    evidence: Callable[[int], str]
    bounded: bool
    """Whether `low` and `high` mean anything."""
    gone: Flags | None = None
    """Series that will not come back: their alerts end."""


class Judge(Protocol):
    """One rule with what it has to remember."""

    rule: Rule

    def prepare(self, client: Client, start_us: int, limits: Limits) -> None:
        """Read what is needed for a window that begins at `start_us`.  Blocks; raises the driver's errors."""

    def judge(self, frame: Frame) -> Verdict:
        """Judge the next window."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The measure of one rule in a frame."""

    data: Flags
    value: Floats
    low: Floats
    high: Floats
    samples: Floats


def figures(rule: Rule, frame: Frame) -> Figures:
    """The rule's measure, and where it can be told of a series that the rule is about."""
    value = frame.figures[rule.measure]
    low = frame.figures.get(f"{rule.measure}_low", value)
    high = frame.figures.get(f"{rule.measure}_high", value)
    samples = frame.figures.get(f"{rule.measure}_samples", np.full(len(value), np.nan))
    data = np.isfinite(value) & np.isfinite(low) & np.isfinite(high)
    passes = frame.passes.get(rule.name)
    return Figures(data if passes is None else data & passes, value, low, high, samples)


def labeller(rule: Rule, frame: Frame) -> Callable[[int], dict[str, str]]:
    """Tells the labels of a row of the frame."""
    return lambda row: frame.labels(row, rule.view.labels)


def evidence(rule: Rule, frame: Frame) -> Callable[[int], str]:
    """Tells the state of the evidence of a row of the frame."""
    words = frame.texts.get(f"{rule.measure}_evidence")
    return (lambda row: "") if words is None else (lambda row: str(words[row].as_py()))


class Threshold:
    """Beyond a limit: the whole interval, where the measure has one."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def prepare(self, client: Client, start_us: int, limits: Limits) -> None:
        """Nothing to remember."""

    def judge(self, frame: Frame) -> Verdict:
        """Judge each window for itself."""
        rule, found = self.rule, figures(self.rule, frame)
        limit, clear = rule.limit, rule.limit if rule.clear is None else rule.clear
        near = found.low if rule.sign > 0 else found.high
        beyond = found.data & (near > limit if rule.sign > 0 else near < limit)
        return Verdict(
            series=frame.series,
            data=found.data,
            beyond=beyond,
            certain=beyond & self._certain(found.value, near),
            clear=found.data & ~beyond & (found.value <= clear if rule.sign > 0 else found.value >= clear),
            value=found.value,
            low=found.low,
            high=found.high,
            threshold=np.full(len(frame.series), limit),
            samples=found.samples,
            labels=labeller(rule, frame),
            evidence=evidence(rule, frame),
            bounded=bool(rule.about.low),
        )

    def _certain(self, value: Floats, near: Floats) -> Flags:
        """Whether the near end is beyond the limit even for the wider interval of `certain_sigmas`."""
        rule = self.rule
        if rule.certain_sigmas is None:
            return np.zeros(len(value), bool)
        far = widened(value, near, rule.certain_sigmas / SIGMAS, survival=rule.about.survival)
        return far > rule.limit if rule.sign > 0 else far < rule.limit


def widened(value: Floats, end: Floats, factor: float, *, survival: bool) -> Floats:
    """The end of the interval that is `factor` times as wide, on the scale on which it is symmetric.

    The interval of a loss is that of ln(1 − loss), which makes few samples count for less than a straight line would.
    """
    straight = value + (end - value) * factor
    if not survival:
        return straight
    left = 1 - value
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        bent = 1 - left * ((1 - end) / left) ** factor
    return np.where(left > 0, bent, straight)
