"""The sender's book of one session: which probes came back, when, and what that says of the path.  No clock, no socket.

A probe is lost if no reply came within 3 s; one that comes later is still lost, and counted as late (RFC 6673).  Probes
whose 3 s are not over are outstanding, and no part of any ratio.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from agent.clock import Exchange, OneWay, error_ns, from_wire, one_way, percentile, worse
from agent.stamp import DIRECT_MEASUREMENT, FOLLOW_UP, HARDWARE, SOFTWARE, TIMESTAMP_INFORMATION, Reply, Tlv

LATE_NS = 3_000_000_000
LONGEST_NS = 60_000_000_000
"""A time in the reflector beyond this is a fault of a clock."""
_FOLLOW_UP_NS = 1_000_000_000
"""A true time of sending is at most so much later than the one in the reply."""
_OLD_REPLIES = 1024
"""Replies that a follow-up can still name."""
_MOST_EXTRA = 1 << 16
"""Further replies whose numbers are kept: 6 MB.  With more, losses have no direction."""
_T1, _T4, _T3 = 1, 2, 4
"""Times that were taken by the kernel, or corrected afterwards."""
_BOTH = _T1 | _T4
_METHODS = {HARDWARE: "hardware", SOFTWARE: "software"}
Mode = Literal["stateful", "stateless", "unknown"]


@dataclass(frozen=True)
class Result:
    """What a session measured: sent = received + lost + outstanding.

    lost = forward + reverse + unresolved; where directions are not known forward and reverse are None, and all that was
    lost is unresolved.
    """

    sent: int
    received: int
    outstanding: int
    lost: int
    late: int
    lost_forward: int | None
    lost_reverse: int | None
    lost_unresolved: int
    loss_low: float | None
    """95 % interval of the ratio of lost probes (Wilson); None before any probe is settled."""
    loss_high: float | None
    duplicates: int
    reordered: int
    unreachable: int
    """ICMP errors."""
    unsent: int
    """Probes that this machine refused to send; they are not in `sent`."""
    refused: dict[str, int]
    """Packets that were no reply to a probe of ours, and times that cannot be, by reason."""
    round_trips_us: Sequence[float]
    """Round trips without the time in the reflector, ascending; fewer than were received where times are missing."""
    residence_median_us: float | None
    one_way: OneWay | None
    clocks: str
    """What bounds the offset: `free` or `synchronised`; `uneven` if nothing does."""
    hops: int | None
    """Most routers on the way there; None if the reflector does not say."""
    kernel_times: int
    """Received probes of which the kernel took both times."""
    reflector: Mode
    reflector_times: str
    """How the reflector takes times, as it says: `hardware`, `software` or `unknown`."""

    @property
    def loss(self) -> float | None:
        """Ratio of lost probes to settled ones."""
        settled = self.received + self.lost
        return self.lost / settled if settled else None


class Session:
    """Probes are numbered from 0, in the order of sending.  Some 50 octets each are kept."""

    def __init__(self, reflector: Mode = "unknown") -> None:
        """`reflector` says whether it counts its replies; if unknown, its replies are to show it."""
        self._reflector = reflector
        self._wire = array("Q")
        """T1 as it was written in each packet."""
        self._t1, self._t2, self._t3, self._t4 = (array("q") for _ in range(4))
        """Times of each probe; T4 is 0 as long as no reply came."""
        self._answers = array("q")
        """The reflector's number of the first reply to each probe, -1 before."""
        self._kernel = array("B")
        """Which times of a probe the kernel took; T3 is that of the reflector, as a later reply corrected it."""
        self._recent: dict[int, int] = {}
        """Newest replies: the reflector's number -> ours."""
        self._extra: set[int] = set()
        """The reflector's numbers of further replies to a probe: they came from a probe that was doubled on its way."""
        self._extra_left_out = 0
        """Further replies whose numbers are not kept."""
        self.replies = 0
        """Probes that got a reply, in time or late."""
        self._next_expected = 0
        self._reordered = self._duplicates = self._unreachable = self._unsent = self._follow_ups = 0
        self._refused: Counter[str] = Counter()
        self._least_ttl: int | None = None
        self._counts = False
        """Whether the reflector sent its counts: then it keeps state."""
        self._method = "unknown"
        self._here_ns: int | None = 0
        """Greatest error of this machine's clock so far; None if it may not follow UTC."""
        self._there_ns: int | None = 0
        """That of the reflector's."""

    @property
    def next(self) -> int:
        """The number of the next probe."""
        return len(self._t1)

    @property
    def unreachable(self) -> int:
        """ICMP errors so far."""
        return self._unreachable

    @property
    def unsent(self) -> int:
        """Probes so far that this machine refused to send."""
        return self._unsent

    def sent(self, wire: int, t1_ns: int, error: int) -> int:
        """Note a probe, and the Error Estimate of its time; returns its number."""
        self._here_ns = worse(self._here_ns, error)
        self._wire.append(wire)
        self._t1.append(t1_ns)
        for column in (self._t2, self._t3, self._t4):
            column.append(0)
        self._answers.append(-1)
        self._kernel.append(0)
        return len(self._t1) - 1

    def stamped(self, number: int, t1_ns: int) -> None:
        """Replace the time of sending by the kernel's, which is not before it."""
        if self._t1[number] <= t1_ns <= self._t1[number] + _FOLLOW_UP_NS:
            self._t1[number] = t1_ns
            self._kernel[number] |= _T1

    def failed(self) -> None:
        """Count an ICMP error."""
        self._unreachable += 1

    def not_sent(self) -> None:
        """Count a probe that this machine refused to send.  The next one has its number."""
        self._unsent += 1

    def refuse(self, reason: str) -> None:
        """Count a packet that is no reply of ours."""
        self._refused[reason] += 1

    def returned(self, reply: Reply, tlvs: Iterable[Tlv], t4_ns: int, kernel: bool, ssid: int) -> None:
        """Note a reply.  The first to each probe counts for its times."""
        number = reply.sender_sequence
        if number >= len(self._t1) or reply.sender_sent != self._wire[number] or reply.ssid not in (ssid, 0):
            self.refuse("stranger")
            return
        self._learn(tlvs, reply, t4_ns)
        if self._answers[number] >= 0:
            self._duplicates += 1
            self._note_extra(number, reply.sequence)
            return
        self._answers[number] = reply.sequence
        self.replies += 1
        self._remember(reply.sequence, number)
        if number < self._next_expected:
            self._reordered += 1
        else:
            self._next_expected = number + 1
        self._take_times(number, reply, t4_ns)
        self._kernel[number] |= _T4 if kernel else 0
        if reply.ttl is not None:
            self._least_ttl = reply.ttl if self._least_ttl is None else min(reply.ttl, self._least_ttl)

    def _note_extra(self, number: int, sequence: int) -> None:
        if sequence == self._answers[number] or sequence in self._extra:
            return  # doubled on the way back
        if len(self._extra) < _MOST_EXTRA:
            self._extra.add(sequence)
        else:
            self._extra_left_out += 1

    def _take_times(self, number: int, reply: Reply, t4_ns: int) -> None:
        self._t4[number] = t4_ns
        if error_ns(reply.error) is None:
            self.refuse("multiplier")
            return
        t2, t3 = (from_wire(time, reply.error, t4_ns) for time in (reply.received, reply.sent))
        if t2 is None or t3 is None or not 0 <= t3 - t2 <= LONGEST_NS:
            self.refuse("clock")
            return
        self._t2[number], self._t3[number] = t2, t3
        self._there_ns = worse(self._there_ns, reply.error)

    def _learn(self, tlvs: Iterable[Tlv], reply: Reply, t4_ns: int) -> None:
        for tlv in tlvs:
            if tlv.kind == DIRECT_MEASUREMENT:
                self._counts = True
            elif tlv.kind == TIMESTAMP_INFORMATION:
                self._method = _METHODS.get(max(tlv.value[1], tlv.value[3]), "unknown")
            elif tlv.kind == FOLLOW_UP:
                sequence, time = int.from_bytes(tlv.value[:4], "big"), int.from_bytes(tlv.value[4:12], "big")
                number = self._recent.pop(sequence, None) if time else None
                t3 = None if number is None else from_wire(time, reply.error, t4_ns)
                if number is not None and t3 is not None and 0 <= t3 - self._t3[number] <= _FOLLOW_UP_NS:
                    self._t3[number] = t3
                    self._kernel[number] |= _T3
                    self._follow_ups += 1

    def _remember(self, sequence: int, number: int) -> None:
        self._recent[sequence] = number
        if len(self._recent) > _OLD_REPLIES:
            del self._recent[next(iter(self._recent))]

    def result(self, now_ns: int, error: int) -> Result:
        """Work out what was measured; `error` is the Error Estimate of this machine's clock by now."""
        in_time, late, lost, outstanding = [], 0, 0, 0
        for number, t1 in enumerate(self._t1):
            if self._answers[number] < 0:
                settled = int(now_ns - t1 >= LATE_NS)
                lost, outstanding = lost + settled, outstanding + 1 - settled
            elif self._t4[number] - t1 > LATE_NS:
                late, lost = late + 1, lost + 1
            else:
                in_time.append(number)
        exchanges, refused = self._exchanges(in_time)
        forward, reverse = self._directions(now_ns)
        delays, clocks = self._one_way(exchanges, error)
        settled = len(in_time) + lost
        low, high = wilson(lost, settled) if settled else (None, None)
        residences = sorted(e.answered - e.received for e in exchanges)
        return Result(
            sent=len(self._t1), received=len(in_time), outstanding=outstanding, lost=lost, late=late,
            lost_forward=forward, lost_reverse=reverse,
            lost_unresolved=lost - (forward or 0) - (reverse or 0),
            loss_low=low, loss_high=high, duplicates=self._duplicates, reordered=self._reordered,
            unreachable=self._unreachable, unsent=self._unsent, refused=dict(refused),
            round_trips_us=sorted((e.returned - e.sent - e.answered + e.received) / 1000 for e in exchanges),
            residence_median_us=percentile(residences, 0.5) / 1000 if residences else None,
            one_way=delays, clocks=clocks, hops=None if self._least_ttl is None else 255 - self._least_ttl,
            kernel_times=sum(self._kernel[number] & _BOTH == _BOTH for number in in_time),
            reflector=self._mode(), reflector_times=self._method,
        )  # fmt: skip

    def _exchanges(self, numbers: Sequence[int]) -> tuple[list[Exchange], Counter[str]]:
        """Return the times of probes that have all four, and why others have none.

        Where the reflector sends its true times of sending, those of which they are not known are left out: they have
        the time that its process took from reading the clock to sending, too.
        """
        found, refused = [], self._refused.copy()
        for number in numbers:
            if self._t2[number] and (self._kernel[number] & _T3 or not self._follow_ups):
                times = Exchange(self._t1[number], self._t2[number], self._t3[number], self._t4[number])
                if times.returned - times.sent >= times.answered - times.received:
                    found.append(times)
                else:
                    refused["clock"] += 1
        return found, refused

    def _one_way(self, exchanges: Sequence[Exchange], error: int) -> tuple[OneWay | None, str]:
        if not exchanges:
            return None, "free"
        here_ns = worse(self._here_ns, error)
        if here_ns is not None and self._there_ns is not None:
            found = one_way(exchanges, here_ns + self._there_ns)
            if found is not None:
                return found, "synchronised"
        found = one_way(exchanges)
        return found, "free" if found else "uneven"

    def _mode(self) -> Mode:
        if self._reflector != "unknown":
            return self._reflector
        numbered = any(answer not in (-1, number) for number, answer in enumerate(self._answers))
        # A stateless one copies the number of the probe, or has no number at all.
        return "stateful" if self._counts or (numbered and not self._repeats()) else "unknown"

    def _repeats(self) -> bool:
        """Return whether two probes got replies of the same number: the reflector began again, or does not count."""
        seen: set[int] = set()
        for answer in self._answers:
            if answer in seen or answer in self._extra:
                return True
            if answer >= 0:
                seen.add(answer)
        return False

    def _directions(self, now_ns: int) -> tuple[int | None, int | None]:
        """Return how many probes were lost on the way there and back; None unless the reflector counts.

        It numbers its replies from 0: of those up to the highest that came, the missing ones were lost on the way back.
        Of the probes up to the last that was answered, the others did not reach it.  That holds whatever the order of
        arrival.  What was lost after the last answer, or came late, has no direction.
        """
        if self._mode() != "stateful" or self._extra_left_out or self._repeats():
            return None, None
        open_from = next((n for n, t1 in enumerate(self._t1) if self._answers[n] < 0 and now_ns - t1 < LATE_NS), None)
        answers = self._answers[:open_from]
        known = {answer for answer in answers if answer >= 0}
        if not known:
            return None, None
        highest = max(known)
        known |= {answer for answer in self._extra if answer < highest}
        back = highest + 1 - len(known)
        last = max(number for number, answer in enumerate(answers) if answer >= 0)
        unanswered = sum(answer < 0 for answer in answers[:last])
        # With more replies missing than probes the reflector did not begin with us.
        return (unanswered - back, back) if back <= unanswered else (None, None)


def wilson(hits: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the 95 % interval of a ratio (Wilson 1927); `count` is above 0."""
    ratio, square = hits / count, z * z / count
    middle = ratio + square / 2
    spread = z * math.sqrt(ratio * (1 - ratio) / count + square / (4 * count))
    low = 0.0 if hits == 0 else (middle - spread) / (1 + square)
    return low, 1.0 if hits == count else (middle + spread) / (1 + square)
