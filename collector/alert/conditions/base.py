"""Conditions over whole columns: which series of a window are beyond the limit, which are clear, which are unknown.

    frame ──► Threshold, Absent, Trend, Baseline, Anomaly (each in a file of its name) ──► Verdict

Only rows that are beyond, or that have a state, become objects; that is done by `state.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from clickhouse_connect.driver import Client
from numpy.typing import NDArray

from collector.alert.rules import Rule
from collector.alert.series import Flags, Floats, Limits, Series, WindowSeries
from collector.alert.settings import AlertSettings
from collector.interfaces import Row

MASKS = ("moved", "restarted", "sampling_rate", "away", "too_often")
"""Known changes that hold alerts of condition `anomaly` back; the last one: they do no longer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict of one rule on one window; all columns have a row per series."""

    series: Series
    data: Flags
    """False: nothing is known, which neither raises an alert nor ends one."""
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
    began_us: NDArray[np.int64] | None = None
    """Begin of the window in which the evidence for `certain` began, µs since 1970; None without such evidence."""
    gone: Flags | None = None
    """Series that will not come back: their alerts end."""
    why: Callable[[int], str] = lambda row: ""
    """Why a series will not come back."""


class Judge(ABC):
    """One rule with its memory.  A condition is a class of its name, in a module of its name."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.left_out = 0
        """Series that there was no room for, since this was last set to 0."""
        self.unfit = ""
        """Why what a former run kept is not used."""
        self.counts: Counter[tuple[str, str]] = Counter()
        """What happened since this was last emptied, by metric (`collector.alert.stage`) and its last label."""

    @classmethod
    def of(cls, rule: Rule, settings: AlertSettings) -> Judge:
        """Return the condition of a rule."""
        return cls(rule)

    def series(self, frame: WindowSeries) -> int:
        """Return how many series the rule is about: those of the window that pass its filter."""
        passes = frame.passes.get(self.rule.name)
        return int(np.count_nonzero(frame.present if passes is None else frame.present & passes))

    def prepare(self, client: Client, start_us: int, limits: Limits) -> bool:
        """Read what is needed for a window that begins at `start_us`.  Blocks; raises the driver's errors.

        False: there is more to read, so this window must not be judged.
        """
        return True

    def keep(self, directory: Path) -> None:  # noqa: B027 - most conditions read their past from the store
        """Take over what a former run kept in files of this directory, and keep it there from now on.  Blocks."""

    def save(self) -> None:  # noqa: B027 - as above
        """Write what is to be kept.  Blocks; raises OSError."""

    def learn_verdict(  # noqa: B027 - most conditions learn nothing
        self, series: int, since_us: int, at_us: int, right: bool
    ) -> None:
        """Take what a person said at `at_us` of the alert of this series that began at `since_us`: it was right to
        fire, or not."""

    def expected(self, series: int, now_us: int) -> list[Row]:
        """Return what is usual of a series in the day around now: `time`, `expected`, `low`, `high`."""
        return []

    def rare(self, frame: WindowSeries, verdict: Verdict) -> list[Row]:
        """Return rows of `anomaly_scores` for the window that was judged last."""
        return []

    @abstractmethod
    def judge(self, frame: WindowSeries) -> Verdict:
        """Judge the next window."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The measure of one rule in a frame."""

    data: Flags
    value: Floats
    centre: Floats
    """As `value`, but not cut off at the ends of what makes sense: a window may gain what its neighbour lost."""
    low: Floats
    high: Floats
    samples: Floats
    allowance: Floats
    """Part of high − value that does not add up over windows."""
    point: Flags
    """The value is exact, and each packet stands in the window in which it was seen."""


def figures(rule: Rule, frame: WindowSeries) -> Figures:
    """The rule's measure, and of which series that the rule is about it is known."""
    value = frame.figures[rule.measure]
    low = frame.figures.get(f"{rule.measure}_low", value)
    high = frame.figures.get(f"{rule.measure}_high", value)
    samples = frame.figures.get(f"{rule.measure}_samples", np.full(len(value), np.nan))
    data = np.isfinite(value) & np.isfinite(low) & np.isfinite(high)
    passes = frame.passes.get(rule.name)
    centre = frame.figures.get(f"{rule.measure}_centre", value)
    allowance = np.nan_to_num(frame.figures.get(f"{rule.measure}_allowance", np.zeros(len(value))))
    point = frame.figures.get(f"{rule.measure}_point", np.zeros(len(value))) > 0
    return Figures(data if passes is None else data & passes, value, centre, low, high, samples, allowance, point)


def labeller(rule: Rule, frame: WindowSeries) -> Callable[[int], dict[str, str]]:
    """Give the labels of a row of the frame."""
    return lambda row: frame.labels(row, rule.view.labels)


def evidence(rule: Rule, frame: WindowSeries) -> Callable[[int], str]:
    """Give the state of the evidence of a row of the frame."""
    words = frame.texts.get(f"{rule.measure}_evidence")
    return (lambda row: "") if words is None else (lambda row: str(words[row].as_py()))


def median(values: Floats) -> Floats:
    """Median of each row without its NaN; NaN for a row that has nothing else."""
    ordered = np.sort(values, axis=1)
    return median_sorted(ordered, np.isfinite(ordered).sum(axis=1))


def median_sorted(ordered: Floats, counts: NDArray[np.int64]) -> Floats:
    """The same of rows in order with NaN last, of which the first `counts` are numbers."""
    every = np.arange(len(ordered))
    upper = np.clip(counts // 2, 0, ordered.shape[1] - 1)
    lower = np.clip((counts - 1) // 2, 0, ordered.shape[1] - 1)
    return np.where(counts > 0, (ordered[every, lower] + ordered[every, upper]) / 2, np.nan)
