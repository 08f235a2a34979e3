"""What evidence is worth: how often it is as high somewhere in the fleet, counted and not modelled.

Each channel of `learn` has a histogram of its peaks in the last days over all series of a rule.  The rate of peaks
above some evidence, times the number of channels that may raise an alert (Bonferroni), is at most the number of alerts
a day and 1,000 series that a limit there would give.  Its −log10 is the score: 0 is what happens once a day, 1 once in
ten days.

Beyond the highest peaks the rate goes on exponentially.  Before there is experience, a rate of its own stands for it,
which is on the quiet side; it weighs as much as `PRIOR` thousand days of one series.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from collector.alert.conditions import learn

Counts = NDArray[np.int64]
Table = NDArray[np.float64]

DAY_SECONDS = 86_400
THOUSAND = 1000.0
PRIOR = 2.0
"""Days of 1,000 series."""
HIGHEST = 60
"""Peaks that the exponential tail is taken from: its mean is known to 13 %."""
SHIPPED = np.zeros(learn.CHANNELS)
"""Evidence that is rare enough for one alert a day and 1,000 series where nothing is known: means of many windows move
less by chance."""
SHIPPED[0:8] = np.repeat((12.0, 10.0, 8.0, 6.0), 2)
SHIPPED[8:14] = np.repeat((12.0, 10.0, 8.0), 2)
SHIPPED[14:20] = 6.5
SHIPPED[20:26] = np.repeat((12.0, 8.0, 6.0), 2)
SHIPPED[learn.SUM] = 7.0
SHIPPED_SCALE = 1.0
_STEPS = np.arange(learn.STEPS) / learn.STEPS_PER_UNIT
_SHIPPED_RATES = np.exp(np.minimum(50, (SHIPPED[:, None] - _STEPS) / SHIPPED_SCALE)) / learn.CHANNELS


class Fleet:
    """Peaks of the last days, a histogram for each."""

    def __init__(self, days: int) -> None:
        self.peaks: Counts = np.zeros((days + 1, learn.CHANNELS, learn.STEPS), np.int64)
        self.exposure = np.zeros(days + 1)
        """Days of 1,000 series that were watched, by day."""
        self.day = np.full(1, -1, np.int64)
        """The present day since 1970; −1 before the first."""

    def today(self, at_seconds: int) -> Counts:
        """Return the histogram of this day, to be counted in; forget what is too old."""
        day, slots = at_seconds // DAY_SECONDS, len(self.exposure)
        for gone in range(max(int(self.day[0]) + 1, day - slots + 1), day + 1):
            self.peaks[gone % slots] = 0
            self.exposure[gone % slots] = 0
        self.day[0] = max(day, int(self.day[0]))
        counts: Counts = self.peaks[day % slots]
        return counts

    def set_back(self, at_seconds: int) -> None:
        """Take this for the present day, where the clock was ahead: what was counted stays, as of the last days."""
        self.day[0] = min(int(self.day[0]), at_seconds // DAY_SECONDS)

    def expose(self, at_seconds: int, series: int, seconds: int) -> None:
        """Count how much was watched in one window."""
        self.exposure[at_seconds // DAY_SECONDS % len(self.exposure)] += series / THOUSAND * seconds / DAY_SECONDS

    def scores(self, used: NDArray[np.uint8]) -> Table:
        """Return the score of each step of evidence, shape (channels, steps), if these channels may raise alerts."""
        histogram = self.peaks.sum(axis=0)
        counts = histogram[:, ::-1].cumsum(axis=1)[:, ::-1].astype(np.float64)
        for channel in np.flatnonzero(counts[:, 0] >= HIGHEST / 3):
            _smooth(histogram[channel], counts[channel])
        rates = (counts + PRIOR * _SHIPPED_RATES) / (self.exposure.sum() + PRIOR)
        scores: Table = -np.log10(np.count_nonzero(used) * rates)
        return scores


def _smooth(histogram: Counts, counts: Table) -> None:
    """Let the number of peaks above each step go on exponentially beyond the highest ones."""
    most = min(HIGHEST, counts[0] / 2)
    start = int(np.flatnonzero(counts >= most)[-1])
    excess = (_STEPS[start:] - _STEPS[start] + 0.5 / learn.STEPS_PER_UNIT) * histogram[start:]
    mean = max(1 / learn.STEPS_PER_UNIT, float(excess.sum()) / counts[start])
    counts[start:] = counts[start] * np.exp(-(_STEPS[start:] - _STEPS[start]) / mean)
