"""The book of a session that goes on for good, by windows of the clock.  No socket; the monotonic clock is an argument.

A probe belongs to the window in which it was sent, whenever its reply comes.  A window is final once the last of its
probes can only be lost: 3 s after its end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

from agent.clock import percentile
from agent.session import LATE_NS, Mode, Result, Session
from agent.stamp import DIRECT_MEASUREMENT, Reply, Tlv

WINDOW_NS = 10_000_000_000
_LATE_S = LATE_NS / 1e9
_MOST_PROBES = 1 << 31
"""With the window in which this number is reached the count ends, and begins again: it has 32 bits on the wire."""


class _Answer(NamedTuple):
    """Number of an answered probe, and the reflector's number of its first reply."""

    probe: int
    reply: int


class _Part(Session):
    """The probes of one window, numbered from 0."""

    def follow(self, reply: Reply, tlvs: Iterable[Tlv], t4_ns: int) -> None:
        """Learn of replies to this window's probes what a later reply tells: its true time of sending."""
        self._learn(tlvs, reply, t4_ns)

    def answers(self, first: int) -> list[_Answer]:
        """Return the answered probes; `first` is the number of the window's first probe."""
        return [_Answer(first + number, reply) for number, reply in enumerate(self._answers) if reply >= 0]

    @property
    def extra(self) -> set[int]:
        """The reflector's numbers of further replies to a probe."""
        return self._extra


@dataclass(frozen=True)
class Window:
    """What was measured with the probes that were sent in a window."""

    start_ns: int
    length_ns: int
    result: Result

    @property
    def jitter_us(self) -> float | None:
        """Mean distance of the round trips from their median; None of fewer than two."""
        times = self.result.round_trips_us
        return fmean(abs(time - percentile(times, 0.5)) for time in times) if len(times) > 1 else None


@dataclass
class _Open:
    """A window that is not final."""

    start_ns: int
    first: int
    """Number of its first probe."""
    until_s: float
    """When it ends, by the monotonic clock, which nobody sets."""
    part: _Part
    last_ns: int = 0
    """When its last probe was sent."""


class Windows:
    """What a `Sender` notes of its probes; they are numbered on from window to window, as the reflector's replies are.

    Some 50 octets are kept of each probe until its window is final.
    """

    def __init__(
        self, reflector: Mode = "unknown", window_ns: int = WINDOW_NS, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._mode: Mode = reflector
        self._window_ns = window_ns
        self._clock_s = clock_s
        self._open: deque[_Open] = deque()
        self._before: _Answer | None = None
        """The last answered probe of all windows that are final."""
        self.next = 0
        """The number of the next probe."""

    def begin(self, time_ns: int) -> None:
        """Begin the window of a time, unless the newest is that one."""
        start_ns = time_ns // self._window_ns * self._window_ns
        if not self._open or self._open[-1].start_ns != start_ns:
            if self.next >= _MOST_PROBES:
                self.next, self._before = 0, None
            until_s = self._clock_s() + (start_ns + self._window_ns - time_ns) / 1e9
            self._open.append(_Open(start_ns, self.next, until_s, _Part("stateless")))

    def sent(self, wire: int, t1_ns: int, error: int) -> int:
        """Note a probe, and the Error Estimate of its time; returns its number."""
        self.begin(t1_ns)
        window = self._open[-1]
        window.part.sent(wire, t1_ns, error)
        window.last_ns = t1_ns
        self.next += 1
        return self.next - 1

    def stamped(self, number: int, t1_ns: int) -> None:
        """Replace a time of sending by the kernel's."""
        if (window := self._of(number)) is not None:
            window.part.stamped(number - window.first, t1_ns)

    def failed(self) -> None:
        """Count an ICMP error, in the newest window."""
        if self._open:
            self._open[-1].part.failed()

    def not_sent(self) -> None:
        """Count a probe that this machine refused to send, in the newest window."""
        if self._open:
            self._open[-1].part.not_sent()

    def refuse(self, reason: str) -> None:
        """Count a packet that is no reply of ours, in the newest window."""
        if self._open:
            self._open[-1].part.refuse(reason)

    def returned(self, reply: Reply, tlvs: Iterable[Tlv], t4_ns: int, kernel: bool, ssid: int) -> None:
        """Note a reply, in the window of its probe."""
        tlvs = list(tlvs)
        window = self._of(reply.sender_sequence)
        if window is None:
            if reply.sender_sequence >= self.next:
                self.refuse("stranger")
            return  # else it comes when its probe counts as lost
        for other in self._open:
            if other is not window:
                other.part.follow(reply, tlvs, t4_ns)
        known = window.part.replies
        number = reply.sender_sequence - window.first
        window.part.returned(reply._replace(sender_sequence=number), tlvs, t4_ns, kernel, ssid)
        if (
            self._mode == "unknown" and window.part.replies > known
            # A reflector without state copies the number of the probe, and knows no counts.
            and (reply.sequence != reply.sender_sequence or any(tlv.kind == DIRECT_MEASUREMENT for tlv in tlvs))
        ):  # fmt: skip
            self._mode = "stateful"

    def final(self, now_ns: int, error: int) -> list[Window]:
        """Return the windows that are final, oldest first, and forget them; `error` is that of this machine's clock."""
        found, now_s = [], self._clock_s()
        while self._open and self._open[0].until_s + _LATE_S <= now_s:
            window = self._open.popleft()
            # The clock may have been set back since.
            result = window.part.result(max(now_ns, window.last_ns + LATE_NS), error)
            found.append(Window(window.start_ns, self._window_ns, self._with_directions(window, result)))
            answers = window.part.answers(window.first)
            self._before = answers[-1] if answers else self._before
        return found

    def _of(self, number: int) -> _Open | None:
        return next((one for one in reversed(self._open) if one.first <= number < one.first + one.part.next), None)

    def _with_directions(self, window: _Open, result: Result) -> Result:
        """Return the result with the losses by direction, where the reflector counts its replies.

        Of the probes between two answered ones of the window, those lost on the way back are the missing numbers of the
        reflector.  Between windows a loss has a direction only where all probes in between were lost the same way.
        """
        if self._mode != "stateful":
            return replace(result, reflector=self._mode)
        answers = window.part.answers(window.first)
        forward = back = 0
        known = not result.lost
        if answers:
            numbers = {answer.reply for answer in answers}
            once = len(numbers) == len(answers)
            least, most = min(numbers), max(numbers)
            numbers |= {number for number in window.part.extra if least < number < most}
            unanswered = answers[-1].probe + 1 - answers[0].probe - len(answers)
            missing = most + 1 - least - len(numbers)
            known = once and missing <= unanswered  # else the reflector has begun its count again
            if known:
                forward, back = unanswered - missing, missing
        following = self._open[0].part.answers(self._open[0].first) if self._open else []
        ends = [end for end in (self._before, *answers[:1], *answers[-1:], *following[:1]) if end is not None]
        inside = (answers[0].probe, answers[-1].probe) if answers else None
        for one, other in pairwise(ends):
            between = other.probe - one.probe - 1
            missing = other.reply - one.reply - 1
            ours = sum(0 <= n - window.first < window.part.next for n in range(one.probe + 1, other.probe))
            if (one.probe, other.probe) == inside or not ours:
                continue
            if missing == 0:
                forward += ours
            elif missing == between:
                back += ours
        if not known and not forward + back:
            return replace(result, reflector="stateful")
        return replace(
            result, reflector="stateful", lost_forward=forward, lost_reverse=back,
            lost_unresolved=result.lost - forward - back,
        )  # fmt: skip
