"""Condition `trend`: a robust slope over the last windows says that a limit will be reached.

The slope is that of Theil and Sen, the median of the slopes between all pairs of windows: a third of the windows may be
wild without moving it much.  Its 95 % interval comes from the ranks of those slopes (Sen 1968).  As all pairs of 60
windows are 1,770, it is taken only of series whose slope between windows half a look-back apart (Theil's incomplete
method, 30 pairs) comes near the limit.
"""

from __future__ import annotations

import numpy as np
from clickhouse_connect.driver import Client
from numpy.typing import NDArray

from collector.alert.conditions.base import Judge, Verdict, evidence, figures, labeller, median, median_sorted
from collector.alert.conditions.threshold import SIGMAS
from collector.alert.rules import Rule
from collector.alert.series import Floats, Limits, Past, WindowSeries
from collector.alert.settings import AlertSettings
from schemas.rollups import LEVELS

CANDIDATES = 2000
"""Series whose slope is taken in full per window: 0.3 s of a core.  The steepest go first, the rest is counted."""
CHUNK = 250
"""Series at a time: 250 × 1,770 slopes take 4 MB (15 MB with 240 windows of look-back and more)."""
NEAR = 0.5
"""How far on the way to the limit the quick slope must lead for the full one to be taken."""


class Trend(Judge):
    """Remembers the last windows of at most `most` series."""

    def __init__(self, rule: Rule, most: int) -> None:
        super().__init__(rule)
        self._most = most
        self._past = Past(rule, rule.look_back - 1)
        self._series = np.zeros(0, np.uint64)
        self._values: NDArray[np.float32] = np.zeros((0, rule.look_back), np.float32)
        """A row per series; the newest window stands last."""

    @classmethod
    def of(cls, rule: Rule, settings: AlertSettings) -> Judge:
        """Return the condition of a rule."""
        return cls(rule, settings.series)

    def prepare(self, client: Client, start_us: int, limits: Limits) -> bool:
        """Read what of the look-back is not known: before the first window all of it, later what was passed over."""
        if start_us < self._past.read_us:
            # The clock was set back: what is known belongs to other times.
            self._past.read_us = 0
            self._series, self._values = self._series[:0], self._values[:0]
        for frame in self._past.frames(client, start_us, limits):
            self._remember(frame)
        return self._past.read_us >= start_us

    def judge(self, frame: WindowSeries) -> Verdict:
        """Judge the series that are in this window."""
        rule = self.rule
        found = figures(rule, frame)
        rows = self._remember(frame)
        self._past.read_us = frame.end_us
        windows = rule.within_seconds / LEVELS[rule.level]
        value, low, high = self._projected(rows, windows)
        near = low if rule.sign > 0 else high
        data = found.data & np.isfinite(value)
        beyond = data & (near > rule.limit if rule.sign > 0 else near < rule.limit)
        clear = rule.limit if rule.clear is None else rule.clear
        return Verdict(
            series=frame.series,
            data=data,
            beyond=beyond,
            certain=np.zeros(len(value), bool),
            clear=data & ~beyond & (value <= clear if rule.sign > 0 else value >= clear),
            value=value,
            low=low,
            high=high,
            threshold=np.full(len(value), rule.limit),
            samples=found.samples,
            labels=labeller(rule, frame),
            evidence=evidence(rule, frame),
            bounded=True,
        )

    def _remember(self, frame: WindowSeries) -> NDArray[np.int64]:
        """Add a window; returns the row of each series of the frame, −1 where there is no room."""
        found = figures(self.rule, frame)
        self._values = np.roll(self._values, -1, axis=1)
        self._values[:, -1] = np.nan
        # A series of which nothing is left is forgotten.
        alive = np.isfinite(self._values).any(axis=1)
        if not alive.all():
            self._series, self._values = self._series[alive], self._values[alive]
        fresh = np.setdiff1d(frame.series[found.data], self._series)
        room = self._most - len(self._series)
        self.left_out += max(0, len(fresh) - room)
        fresh = fresh[: max(0, room)]
        if len(fresh):
            joined = np.concatenate((self._series, fresh))
            order = np.argsort(joined, kind="stable")
            empty = np.full((len(fresh), self.rule.look_back), np.nan, np.float32)
            self._series, self._values = joined[order], np.concatenate((self._values, empty))[order]
        rows = np.searchsorted(self._series, frame.series).astype(np.int64)
        rows[rows == len(self._series)] = -1
        here = rows >= 0
        here[here] = self._series[rows[here]] == frame.series[here]
        rows[~here] = -1
        measured = here & found.data
        self._values[rows[measured], -1] = found.value[measured]
        return rows

    def _projected(self, rows: NDArray[np.int64], windows: float) -> tuple[Floats, Floats, Floats]:
        """Return the value after this many windows, and its interval: NaN where too few windows have a value."""
        rule = self.rule
        value, low, high = (np.full(len(rows), np.nan) for _ in range(3))
        enough = np.zeros(len(rows), bool)
        enough[rows >= 0] = np.isfinite(self._values[rows[rows >= 0]]).sum(axis=1) >= rule.look_back * 2 / 3
        chosen = np.flatnonzero(enough)
        if not len(chosen):
            return value, low, high
        history = self._values[rows[chosen]].astype(np.float64)
        quick = quick_slopes(history)
        now = median(history) + quick * (rule.look_back - 1) / 2
        ahead = now + quick * windows
        value[chosen] = low[chosen] = high[chosen] = ahead
        # Without the full slope nothing is beyond: the near end of the interval stays at the present level.
        (low if rule.sign > 0 else high)[chosen] = (np.minimum if rule.sign > 0 else np.maximum)(now, rule.limit)
        lead = (ahead - now) * rule.sign
        missing = (rule.limit - now) * rule.sign
        candidates = np.flatnonzero(lead > np.maximum(missing, 0) * NEAR)
        if len(candidates) > CANDIDATES:
            self.left_out += len(candidates) - CANDIDATES
            candidates = candidates[np.argsort(-(lead - missing)[candidates], kind="stable")[:CANDIDATES]]
        for first in range(0, len(candidates), CHUNK):
            part = candidates[first : first + CHUNK]
            slope, least, most = slopes(history[part])
            level = _level(history[part], slope)
            for target, steepness in ((value, slope), (low, least), (high, most)):
                target[chosen[part]] = level + steepness * windows
        return value, low, high


def quick_slopes(history: Floats) -> Floats:
    """Median slope per window between windows half a look-back apart (Theil's incomplete method); shape (series,)."""
    half = history.shape[1] // 2
    return median((history[:, half : 2 * half] - history[:, :half]) / half)


def slopes(history: Floats) -> tuple[Floats, Floats, Floats]:
    """Theil–Sen slope per window, with both ends of its 95 % interval; `history` (series, windows) may have NaN."""
    first, second = np.triu_indices(history.shape[1], 1)
    found = (history[:, second] - history[:, first]) / (second - first)
    found.sort(axis=1)  # NaN stands last
    pairs = np.isfinite(found).sum(axis=1)
    points = np.isfinite(history).sum(axis=1)
    # Variance of Kendall's score (Sen 1968): how far from the middle the ranks of the ends stand.
    reach = SIGMAS * np.sqrt(points * (points - 1) * (2 * points + 5) / 18)
    lowest = np.clip(np.floor((pairs - reach) / 2).astype(np.int64), 0, pairs - 1)
    highest = np.clip(np.ceil((pairs + reach) / 2).astype(np.int64), 0, pairs - 1)
    every = np.arange(len(history))
    return median_sorted(found, pairs), found[every, lowest], found[every, highest]


def _level(history: Floats, slope: Floats) -> Floats:
    """Where the line stands in the newest window."""
    back = np.arange(history.shape[1])[::-1]
    return median(history + slope[:, None] * back)
