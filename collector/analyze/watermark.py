"""When windows close: a watermark, moved by what is received, and by the clock when nothing is.

    watermark = newest time of receipt − lateness − reach   a window closes when the watermark passes its end
                (or now − idle, if that is later)

The reach is how long records wait in the caches of switches: until they have arrived, a window is not complete.

No clock, no thread, no store here: the input is times, the output closed windows.  All times are µs since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass

from collector.interfaces import Watched, WindowClosed
from schemas.rollups import LEVEL_US

SECOND_US = 1_000_000
SHORTEST = "10s"

PARTIAL_SHARE = 0.1
"""How much of a window may lie between two runs: more makes it partial."""


@dataclass(frozen=True, slots=True)
class WatermarkRules:
    """The settings in µs; see `AnalyzeSettings`."""

    lateness_us: int
    idle_us: int
    step_us: int
    catch_up_windows: int


class Watermark:
    """The watermark: it follows times of receipt and closes windows in order, each once.

    The first window, and the first after the system clock was set back, may have begun before the service watched:
    these close as `partial`.

    If a former run was stopped not long ago (`follow`), the windows that it did not judge are closed, too: their rows
    may have waited in the spool.  Windows that lie between the two runs are skipped.
    """

    def __init__(self, rules: WatermarkRules) -> None:
        self._rules = rules
        self._former: Watched | None = None
        self._away_us = (0, 0)
        """The period in which no run watched."""
        self._watched_us = 0
        """Since when windows are watched completely, except for that period."""
        self._newest_us = 0
        self._now_us = 0
        self._next_us: dict[str, int] = {}
        """Start of the next window to close, by level; empty until the first `advance`."""
        self.began_us = 0
        """Since when this run has watched without a break; 0 before the first `advance`."""
        self.time_us = 0
        """The watermark."""
        self.epoch = 0
        self.late = 0
        """Observations with rows of a window already closed."""
        self.skipped = dict.fromkeys(LEVEL_US, 0)
        """Windows skipped after a pause too long to catch up, by level."""

    def follow(self, former: Watched | None) -> None:
        """Continue where a former run ended.  Call it before the first `advance`."""
        self._former = former

    def observe(self, newest_us: int, oldest_us: int) -> None:
        """Note that rows were received, the last at `newest_us`, the first at `oldest_us`."""
        self._newest_us = max(self._newest_us, newest_us)
        if self._next_us and oldest_us < self._next_us[SHORTEST]:
            self.late += 1

    def advance(self, now_us: int, waiting: bool = False, reach_us: int = 0) -> list[WindowClosed]:
        """Return the windows closed since the last call, in order of their ends; the system clock is at `now_us`.

        While received rows are `waiting`, the clock alone closes no window.

        Of windows that end at the same time, the shortest comes first.
        """
        if not self._next_us or now_us < self._now_us - self._rules.step_us:
            self._begin(now_us)
        self._now_us = max(self._now_us, now_us)
        heard_us = self._newest_us if waiting else max(self._newest_us, now_us - self._rules.idle_us)
        # Nothing can have been received after now: a newer time is from before the clock was set back a little.
        self.time_us = max(self.time_us, min(heard_us, now_us) - self._rules.lateness_us - reach_us)
        closed = [window for level in LEVEL_US for window in self._close(level)]
        return sorted(closed, key=lambda window: (window.end_us, -window.start_us))

    @property
    def watched_us(self) -> int:
        """Since when windows are watched completely; 0 before the first `advance`."""
        return self._watched_us

    @property
    def closed_us(self) -> int:
        """All windows that end until then have closed; 0 before the first `advance`."""
        return self._next_us.get(SHORTEST, 0)

    def _begin(self, now_us: int) -> None:
        self.epoch += 1
        self.began_us = self._watched_us = self._now_us = first_us = now_us
        self._newest_us = self.time_us = 0
        self._away_us = (0, 0)
        former, self._former = self._former, None
        if former is not None and 0 < former.judged_us <= former.alive_us <= now_us:
            if now_us - former.alive_us <= self._rules.catch_up_windows * LEVEL_US[SHORTEST]:
                self._watched_us, self.time_us = former.began_us, former.judged_us
                self._away_us, first_us = (former.alive_us, now_us), former.judged_us
            else:
                for level, length in LEVEL_US.items():
                    self.skipped[level] += former.alive_us // length - former.judged_us // length
        self._next_us = {level: first_us - first_us % length for level, length in LEVEL_US.items()}

    def _close(self, level: str) -> list[WindowClosed]:
        """Return the windows before the period between two runs, then those after it."""
        length = LEVEL_US[level]
        last_us = -(-self._away_us[0] // length) * length
        closed = self._until(level, min(self.time_us, last_us))
        if self._next_us[level] >= last_us:
            self._next_us[level] = max(self._next_us[level], self._away_us[1] - self._away_us[1] % length)
        return closed + self._until(level, self.time_us)

    def _until(self, level: str, time_us: int) -> list[WindowClosed]:
        length = LEVEL_US[level]
        pending = max(0, (time_us - self._next_us[level]) // length)
        if (surplus := pending - self._rules.catch_up_windows) > 0:
            self.skipped[level] += surplus
            self._next_us[level] += surplus * length
            pending -= surplus
        first = self._next_us[level]
        self._next_us[level] += pending * length
        return [
            WindowClosed(level, start, start + length, self._partial(start, start + length), self.epoch)
            for start in range(first, first + pending * length, length)
        ]

    def _partial(self, start_us: int, end_us: int) -> bool:
        away_us = min(end_us, self._away_us[1]) - max(start_us, self._away_us[0])
        return start_us < self._watched_us or away_us > PARTIAL_SHARE * (end_us - start_us)
