"""Windows of the clock: frames in, a call at the end of each window.  What comes late counts in the window of then."""

from __future__ import annotations

from collections.abc import Callable

from decoders.mirror.meter import Frames, count
from decoders.mirror.results import Window, begin_window, end_window
from decoders.mirror.state import MOST_HALVED, T_HALVED, Meter, halve

SECOND_NS = 1_000_000_000
LATE_NS = 2 * SECOND_NS
"""Time after its end until a window closes although no later packet has come."""


class Windows:
    """Counts frames into windows.  `ended` gets each that had packets before its counts go; with `seconds` 0 none."""

    def __init__(self, meter: Meter, seconds: int, ended: Callable[[Window], None]) -> None:
        self._meter = meter
        self._length_ns = seconds * SECOND_NS
        self._ended = ended
        self._window: Window | None = None
        self._latest_ns = 0
        self._halved = False

    def count(self, frames: Frames, ethernet: bool = True) -> None:
        """Count frames, and end the windows that are over by their times."""
        while self._length_ns and len(frames.ns):
            self._latest_ns = max(self._latest_ns, int(frames.ns.max()))
            if self._window is None:
                begin = int(frames.ns.min()) // self._length_ns * self._length_ns
                self._window = Window(begin, begin + self._length_ns, begin + self._length_ns)
                begin_window(self._meter, begin)
            later = frames.ns >= self._window.end_ns
            if not later.any():
                break
            count(self._meter, frames.those(~later), ethernet)
            frames = frames.those(later)
            self.close()
        count(self._meter, frames, ethernet)

    def advance(self, now_ns: int) -> None:
        """End the window if it is over by the clock."""
        self._latest_ns = max(self._latest_ns, now_ns)
        if self._window is not None and now_ns >= self._window.end_ns + LATE_NS:
            self.close()

    def halve(self) -> None:
        """Count half as many connections, from the begin of this window on: frames come faster than they are counted.

        With each window in which that is not asked for, they are doubled again.
        """
        self._halved = True
        if self._meter.totals[T_HALVED] < MOST_HALVED:
            halve(self._meter)

    def close(self) -> None:
        """End the window, whatever the time."""
        if self._window is not None:
            window = self._window._replace(until_ns=min(self._window.end_ns, self._latest_ns))
            self._ended(window)
            end_window(self._meter, window)
            self._window = None
            if self._meter.totals[T_HALVED] and not self._halved:
                self._meter.totals[T_HALVED] -= 1
            self._halved = False
