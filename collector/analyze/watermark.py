"""When windows close: a watermark moved by what is received, and by the clock where nothing is.

    watermark = newest time of receipt − lateness − reach   a window closes when the watermark passes its end
                (or now − idle, if that is later)

The reach is how long records wait in the caches of switches: until they have come, a window is not whole.

No clock, no thread, no store: times go in, closed windows come out.  All times are µs since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass

from collector.ports import WindowClosed

SECOND_US = 1_000_000

LEVELS = {"10s": 10 * SECOND_US, "1m": 60 * SECOND_US, "1h": 3600 * SECOND_US}
"""Window lengths in µs, shortest first.  Each divides the next, and a day."""

SHORTEST = "10s"


@dataclass(frozen=True, slots=True)
class WatermarkRules:
    """The settings in µs; see `AnalyzeSettings`."""

    lateness_us: int
    idle_us: int
    step_us: int
    catch_up_windows: int


class Watermark:
    """Follows receive times and closes windows in order, each once.

    The first window, and the first after the system clock was set back, may have begun before anybody watched: these
    close as `partial`.
    """

    def __init__(self, rules: WatermarkRules) -> None:
        self._rules = rules
        self._newest_us = 0
        self._now_us = 0
        self._next_us: dict[str, int] = {}
        """Start of the next window to close, by level; empty until the first `advance`."""
        self.began_us = 0
        """Since when this has watched without a break; 0 before the first `advance`."""
        self.time_us = 0
        """The watermark."""
        self.epoch = 0
        self.late = 0
        """Observations that had rows of a window already closed."""
        self.skipped = dict.fromkeys(LEVELS, 0)
        """Windows passed over after a pause too long to catch up, by level."""

    def observe(self, newest_us: int, oldest_us: int) -> None:
        """Rows were received, the last at `newest_us`, the first at `oldest_us`."""
        self._newest_us = max(self._newest_us, newest_us)
        if self._next_us and oldest_us < self._next_us[SHORTEST]:
            self.late += 1

    def advance(self, now_us: int, waiting: bool = False, reach_us: int = 0) -> list[WindowClosed]:
        """It is `now_us` by the system clock: the windows that have closed since the last call, in order of their ends.

        While received rows are `waiting`, the clock alone closes no window.

        Of windows that end together, the shortest comes first.
        """
        if not self._next_us or now_us < self._now_us - self._rules.step_us:
            self._begin(now_us)
        self._now_us = max(self._now_us, now_us)
        heard_us = self._newest_us if waiting else max(self._newest_us, now_us - self._rules.idle_us)
        # Nothing can have been received after now: a newer time was taken before the clock was set back a little.
        self.time_us = max(self.time_us, min(heard_us, now_us) - self._rules.lateness_us - reach_us)
        closed = [window for level in LEVELS for window in self._close(level)]
        return sorted(closed, key=lambda window: (window.end_us, -window.start_us))

    def _begin(self, now_us: int) -> None:
        self.epoch += 1
        self.began_us = self._now_us = now_us
        self._newest_us = self.time_us = 0
        self._next_us = {level: now_us - now_us % length for level, length in LEVELS.items()}

    def _close(self, level: str) -> list[WindowClosed]:
        length = LEVELS[level]
        pending = max(0, (self.time_us - self._next_us[level]) // length)
        if (surplus := pending - self._rules.catch_up_windows) > 0:
            self.skipped[level] += surplus
            self._next_us[level] += surplus * length
            pending -= surplus
        first = self._next_us[level]
        self._next_us[level] += pending * length
        return [
            WindowClosed(level, start, start + length, start < self.began_us, self.epoch)
            for start in range(first, first + pending * length, length)
        ]
