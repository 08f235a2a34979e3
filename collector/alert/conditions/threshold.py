"""Condition `threshold`: beyond a limit, in one window or by evidence that adds up over many weak ones.

The evidence of a series is a cumulative sum (Page 1954): each window adds its distance beyond the limit in standard
deviations, less `ALLOWANCE`, and the sum never falls below 0.  Where nothing is wrong it reaches `decision(n)` once in
n windows on average (Siegmund 1985).  A value that is far beyond gets there in one window, one that is little beyond in
many.

What the intervals do not hold is that both sides of a pair report with a delay of their own: up to `EDGE_SECONDS` of
traffic may fall into the neighbour window at one of them.  That adds nothing over several windows, as what one
gains the next loses; so a second sum, of the plain distances, must be more than such a delay can explain: the share
of a second in the window, what chance puts into that second, and what the view allows for delays that change and for
records that reach over the ends of the window.

One window is enough where nothing is estimated and each record is one packet.  The interval of such a loss holds what
delays put into the neighbour windows, as far as the counts at the ends of the window show it; it must be beyond as a
whole, and its middle by more than chance does to the packets of a second.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from collector.alert.conditions.base import Figures, Judge, Verdict, evidence, figures, labeller
from collector.alert.rules import Rule
from collector.alert.series import SECOND_US, Flags, Floats, Series, WindowSeries
from schemas.pair_definition import EDGE_SECONDS
from schemas.rollups import LEVEL_US, LEVELS

Times = NDArray[np.int64]

SIGMAS = 1.96
"""Standard deviations on either side of a 95 % interval."""
ALLOWANCE = 0.5
"""Half of the smallest shift, in standard deviations of one window, that is of interest."""
OVERSHOOT = 1.166
"""What the last step adds on average (Siegmund)."""
FURTHEST = 1000.0
"""Standard deviations that count of one window: an exact value has none."""
MOST_OF_ONE = 0.6
"""What one window in which nothing arrived counts, as a share of what must be explained: one side may be missing."""
EDGE_SIGMAS = 4.0
EDGE_PACKETS = 4.0
"""A second that holds x packets on average may hold x + 4 √x + 4: with few packets that is a large share of them."""
BEYOND = 0.5
"""How far the sum goes beyond what decides: what has fired must not take long to end."""
SLACK = 1.1
"""The same for the plain sum, as a factor."""
FORGOTTEN_US = 3600 * SECOND_US
"""Evidence of a series that was not measured for this long is useless."""


def decision(windows: float) -> float:
    """Return the sum that a series without a shift reaches once in this many windows.

    Siegmund: windows = (exp(2 k b) − 2 k b − 1) / (2 k²) with allowance k and b = decision + OVERSHOOT.
    """
    wanted = windows * 2 * ALLOWANCE**2 + 1
    b = math.log(wanted)
    for _ in range(20):
        b = math.log(wanted + b * 2 * ALLOWANCE) / (2 * ALLOWANCE)
    return b - OVERSHOOT


class Evidence:
    """The sums of the series that have any."""

    def __init__(self, rule: Rule, windows: float) -> None:
        self._rule = rule
        self._decision = decision(windows)
        # The numbers of a share that is lost are shares of the traffic, others know no edges of windows.
        self._share = EDGE_SECONDS / LEVELS[rule.level] if rule.about.survival else 0.0
        self._series: Series = np.zeros(0, np.uint64)
        self._sums: Floats = np.zeros(0)
        self._plain: Floats = np.zeros(0)
        self._began_us = np.zeros(0, np.int64)
        self._last_us = np.zeros(0, np.int64)

    def add(self, series: Series, found: Figures, end_us: int) -> tuple[Flags, Flags, Times]:
        """Add a window: which series are beyond for certain, which have no evidence left worth the name, and when that
        of each began: the window in which its sum was 0 for the last time is the best guess."""
        distance, sigma = self._distances(found)
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = np.where(sigma > 0, distance / sigma, np.sign(distance) * FURTHEST)
        steps = np.clip(steps, -FURTHEST, FURTHEST) - ALLOWANCE
        before, plain, began = self._of(series)
        began = np.where(before > 0, began, end_us - LEVEL_US[self._rule.level])
        sums = np.where(found.data, np.clip(before + steps, 0, self._decision + BEYOND), before)
        explained = self._explained_by_edges(found)
        most = explained * SLACK if self._share else np.inf
        distance = np.where(np.isinf(distance), MOST_OF_ONE * explained, distance)
        plain = np.where(found.data, np.clip(plain + distance, 0, most), plain)
        plain[sums == 0] = 0
        self._keep(series, sums, plain, began, found.data, end_us)
        certain = found.data & (sums > self._decision) & (plain > explained)
        certain |= self._at_once(found)
        return certain, sums < self._decision / 2, began

    def _at_once(self, found: Figures) -> Flags:
        """Where one window proves it: see above."""
        rule = self._rule
        near = found.low if rule.sign > 0 else found.high
        beyond = (near - rule.limit) * rule.sign > 0
        clearly = (found.centre - rule.limit) * rule.sign > self._chance(found)
        return found.data & found.point & beyond & clearly & (found.centre < 1)

    def _explained_by_edges(self, found: Figures) -> Floats:
        """Share of the traffic that may have come a window later; where samples are not known, of plain proportion."""
        return self._share + self._chance(found) + found.allowance

    def _chance(self, found: Figures) -> Floats:
        """What chance does to the packets of a second, as a share of all."""
        share = self._share
        with np.errstate(divide="ignore", invalid="ignore"):
            chance = (EDGE_SIGMAS * np.sqrt(share * found.samples) + EDGE_PACKETS) / found.samples
        return np.where(np.isfinite(chance) & (share > 0), chance, 0.0)

    def _distances(self, found: Figures) -> tuple[Floats, Floats]:
        """How far beyond the limit, on the scale on which the interval is symmetric, and the standard deviation."""
        rule = self._rule
        if not rule.about.survival:
            near = found.low if rule.sign > 0 else found.high
            return (found.centre - rule.limit) * rule.sign, np.abs(found.centre - near) / SIGMAS
        with np.errstate(divide="ignore", invalid="ignore"):
            lost = -np.log1p(-found.centre)
            # The upper end: the lower one stops at 0.
            half = np.abs(-np.log1p(-np.maximum(found.high - found.allowance, found.centre)) - lost)
        # No share is more than all: beyond that limit is nothing, and its logarithm is none.
        if rule.limit >= 1:
            return np.where(found.data, -1.0, 0.0), half / SIGMAS
        limit = -math.log1p(-rule.limit)
        return np.where(found.data, (lost - limit) * rule.sign, 0.0), half / SIGMAS

    def _of(self, series: Series) -> tuple[Floats, Floats, Times]:
        sums, plain, began = np.zeros(len(series)), np.zeros(len(series)), np.zeros(len(series), np.int64)
        if len(self._series):
            places = np.minimum(np.searchsorted(self._series, series), len(self._series) - 1)
            known = self._series[places] == series
            sums[known], plain[known] = self._sums[places[known]], self._plain[places[known]]
            began[known] = self._began_us[places[known]]
        return sums, plain, began

    def _keep(self, series: Series, sums: Floats, plain: Floats, began: Times, data: Flags, end_us: int) -> None:
        """Replace the series that were measured; those with a sum of 0 need no memory."""
        measured = series[data]
        rest = ~np.isin(self._series, measured) & (self._last_us > end_us - FORGOTTEN_US)
        new = data & (sums > 0)
        joined = np.concatenate((self._series[rest], series[new]))
        order = np.argsort(joined, kind="stable")
        self._series = joined[order]
        self._sums = np.concatenate((self._sums[rest], sums[new]))[order]
        self._plain = np.concatenate((self._plain[rest], plain[new]))[order]
        self._began_us = np.concatenate((self._began_us[rest], began[new]))[order]
        self._last_us = np.concatenate((self._last_us[rest], np.full(int(new.sum()), end_us)))[order]


class Threshold(Judge):
    """Beyond a limit: the whole interval, where the measure has one."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._evidence = None if rule.certain_windows is None else Evidence(rule, rule.certain_windows)

    def judge(self, frame: WindowSeries) -> Verdict:
        """Judge the window."""
        rule, found = self.rule, figures(self.rule, frame)
        limit, clear = rule.limit, rule.limit if rule.clear is None else rule.clear
        near = found.low if rule.sign > 0 else found.high
        beyond = found.data & (near > limit if rule.sign > 0 else near < limit)
        certain, quiet, began = np.zeros(len(beyond), bool), np.ones(len(beyond), bool), None
        if self._evidence is not None:
            certain, quiet, began = self._evidence.add(frame.series, found, frame.end_us)
            beyond |= certain
        behind = found.value <= clear if rule.sign > 0 else found.value >= clear
        return Verdict(
            series=frame.series,
            data=found.data,
            beyond=beyond,
            certain=certain,
            clear=found.data & ~beyond & quiet & behind,
            value=found.value,
            low=found.low,
            high=found.high,
            threshold=np.full(len(frame.series), limit),
            samples=found.samples,
            labels=labeller(rule, frame),
            evidence=evidence(rule, frame),
            bounded=bool(rule.about.low),
            began_us=began,
        )
