"""Times on the wire, the error of this machine's clock, and what the times of two clocks say of the path between them.

Here a time is an integer: nanoseconds since 1970, UTC.  On the wire it is 64 bits: NTP (seconds since 1900, fraction)
or PTP (seconds, nanoseconds), as bit Z of the Error Estimate says (RFC 8762 section 4.2.1).
"""

from __future__ import annotations

import ctypes
import math
import struct
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import itemgetter
from statistics import median
from typing import NamedTuple

SECOND_NS = 1_000_000_000
NTP_EPOCH_S = 2_208_988_800
"""Seconds from 1900 to 1970."""
_ERA = 1 << 32
SYNCHRONISED, PTP = 0x8000, 0x4000
"""Bits S and Z of an Error Estimate."""
MOST_SKEW = 500e-6
"""How much faster or slower a clock may run: the limit of the kernel's frequency correction (adjtimex)."""

_Points = Sequence[tuple[int, int]]
_time = itemgetter(0)
_TIMEX_OCTETS = 208
"""struct timex on 64-bit Linux: maxerror, in µs, at 24 and status at 40."""
_UNSYNCHRONISED = 0x40
_UNKNOWN_ERROR_NS = SECOND_NS
"""What is said of a clock that cannot be asked."""


def to_ntp(time_ns: int) -> int:
    """Return a time as NTP has it."""
    seconds, rest = divmod(time_ns, SECOND_NS)
    return (seconds + NTP_EPOCH_S) % _ERA << 32 | rest * _ERA // SECOND_NS


def from_wire(time: int, error: int, near_ns: int) -> int | None:
    """Return a time of the wire, in the era that is nearest to `near_ns`; None if it is none.

    PTP counts TAI, but many senders put UTC there: it is taken as UTC.
    """
    seconds, rest = time >> 32, time & 0xFFFF_FFFF
    if error & PTP:
        if rest >= SECOND_NS:
            return None
        fraction_ns = rest
    else:
        seconds -= NTP_EPOCH_S
        fraction_ns = (rest * SECOND_NS + _ERA // 2) >> 32
    near_s = near_ns // SECOND_NS
    seconds += (near_s - seconds + _ERA // 2) // _ERA * _ERA
    return seconds * SECOND_NS + fraction_ns


def pack_error(error_ns: int, synchronised: bool) -> int:
    """Return an Error Estimate, not below `error_ns`, for times as NTP has them (RFC 4656 section 4.1.2)."""
    units = max(1, -(-error_ns * _ERA // SECOND_NS))
    scale = max(0, units.bit_length() - 8)
    multiplier = (units + (1 << scale) - 1) >> scale
    if multiplier > 0xFF:
        multiplier, scale = (multiplier + 1) >> 1, scale + 1
    return (SYNCHRONISED if synchronised else 0) | min(scale, 63) << 8 | multiplier


def error_ns(error: int) -> int | None:
    """Return the nanoseconds of an Error Estimate; None where its multiplier is 0, which is invalid."""
    multiplier, scale = error & 0xFF, error >> 8 & 0x3F
    return None if multiplier == 0 else -(-(multiplier << scale) * SECOND_NS >> 32)


def worse(known_ns: int | None, error: int) -> int | None:
    """Return the greater error of a clock that follows UTC, by another Error Estimate; None if it may not follow it.

    Times of PTP may be TAI.
    """
    found_ns = error_ns(error) if error & SYNCHRONISED and not error & PTP else None
    return None if known_ns is None or found_ns is None else max(known_ns, found_ns)


class LocalClock:
    """What the kernel says of its clock, asked at most once a second."""

    def __init__(self) -> None:
        self._timex = ctypes.create_string_buffer(_TIMEX_OCTETS)
        known = sys.platform == "linux" and ctypes.sizeof(ctypes.c_void_p) == 8
        self._ask = ctypes.CDLL(None).adjtimex if known else None
        self._asked_s = -1
        self._error = pack_error(_UNKNOWN_ERROR_NS, False)

    def error(self, time_ns: int) -> int:
        """Return the Error Estimate for times taken now."""
        if self._ask is not None and time_ns // SECOND_NS != self._asked_s:
            self._asked_s = time_ns // SECOND_NS
            ctypes.memset(self._timex, 0, _TIMEX_OCTETS)
            if self._ask(self._timex) >= 0:
                (most_us,) = struct.unpack_from("@q", self._timex, 24)
                (status,) = struct.unpack_from("@i", self._timex, 40)
                self._error = pack_error(most_us * 1000, not status & _UNSYNCHRONISED)
        return self._error


class Exchange(NamedTuple):
    """The four times of a probe: sent and answered by the reflector's clock, the others by one's own."""

    sent: int
    received: int
    answered: int
    returned: int


class OneWay(NamedTuple):
    """Delays each way, in µs; each median lies between its bounds if both clocks run evenly."""

    forward: tuple[float, float, float]
    """Low, middle, high."""
    reverse: tuple[float, float, float]
    offset_us: float
    """By how much the reflector's clock is ahead, in the middle of the time."""
    offset_error_us: float
    skew_ppm: tuple[float, float] | None
    """Low and high of how much faster it runs; None if all was over too soon to say."""
    forward_variation_p99_us: float
    """What 1 of 100 took longer than the fastest; needs no common clock."""
    reverse_variation_p99_us: float


def one_way(exchanges: Sequence[Exchange], agreement_ns: int | None = None) -> OneWay | None:
    """Work out delays each way from at least one exchange.  None if the clocks did not run evenly.

    No packet arrives before it was sent: received - sent is at least the offset, which is at least answered - returned.
    For clocks of which each runs evenly the offset is a line over time; it lies below the lower convex hull of the
    former and above the upper hull of the latter (Zhang, Liu, Xia, INFOCOM 2002).  So the bounds hold whatever the
    clocks' rates are, and need no symmetric path.  `agreement_ns` is how far apart the clocks can be at most, if both
    are synchronised.
    """
    above = _Hull([(e.sent, e.received - e.sent) for e in exchanges])
    below = _Hull([(e.returned, e.returned - e.answered) for e in exchanges])

    def bounds(time: int) -> tuple[float, float]:
        low, high = -below.at(time), above.at(time)
        return (low, high) if agreement_ns is None else (max(low, -agreement_ns), min(high, agreement_ns))

    forward, reverse = [], []
    for e in exchanges:
        low, high = bounds(e.sent)
        if low > high:
            return None
        forward.append((e.received - e.sent - high, e.received - e.sent - low))
        low, high = bounds(e.returned)
        if low > high:
            return None
        reverse.append((e.returned - e.answered + low, e.returned - e.answered + high))
    slowest, fastest = _slopes(above.points, below.points)
    if slowest > fastest:
        return None
    low, high = bounds((exchanges[0].sent + exchanges[-1].returned) // 2)
    return OneWay(
        _between(forward), _between(reverse), (low + high) / 2000, (high - low) / 2000,
        (slowest * 1e6, fastest * 1e6) if max(-slowest, fastest) <= MOST_SKEW else None,
        percentile(sorted(e.received - e.sent - above.at(e.sent) for e in exchanges), 0.99) / 1000,
        percentile(sorted(e.returned - e.answered - below.at(e.returned) for e in exchanges), 0.99) / 1000,
    )  # fmt: skip


def _slopes(above: _Points, below: _Points) -> tuple[float, float]:
    """Return the least and greatest slope of lines between two hulls, of which the lower one has its sign changed.

    A line that is too steep is above the one's later points or below the other's earlier ones.
    """
    mirrored = [[(-time, value) for time, value in reversed(points)] for points in (above, below)]
    return -_steepest(*mirrored), _steepest(above, below)


def _steepest(above: _Points, below: _Points) -> float:
    """Return the greatest slope of lines between two hulls."""
    return min(_least_slope(below, bisect_left(below, time, key=_time), time, high) for time, high in above)


def _least_slope(below: _Points, count: int, time: int, high: int) -> float:
    """Return the least slope from the first `count` points of the lower hull to a later point; inf if there are none.

    As that hull is concave, these slopes fall and then rise along it.  To look at all of them for each point of the
    other would take hours if a reflector put every probe on both hulls.
    """

    def rises(at: int) -> bool:
        (t0, low0), (t1, low1) = below[at : at + 2]
        return (high + low1) * (time - t0) >= (high + low0) * (time - t1)

    if not count:
        return math.inf
    other, low = below[bisect_left(range(count - 1), True, key=rises)]
    return (high + low) / (time - other)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the least value that is not below `share` of all (nearest rank); `ordered` is not empty."""
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def _between(delays: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Return bounds of the median of delays of which each has bounds, and their middle, in µs."""
    low, high = (median(delay[side] for delay in delays) / 1000 for side in (0, 1))
    return max(0.0, low), (max(0.0, low) + high) / 2, high


class _Hull:
    """The lower convex hull of points (time, value): the highest convex line that is below all of them."""

    def __init__(self, points: _Points) -> None:
        hull: list[tuple[int, int]] = []
        for point in sorted(points):
            if hull and hull[-1][0] == point[0]:
                continue  # the lower of two at the same time comes first
            while len(hull) > 1 and _right_of(hull[-2], hull[-1], point):
                hull.pop()
            hull.append(point)
        self.points = hull

    def at(self, time: int) -> float:
        """Return the value of the hull; beyond its ends the value there, and what a clock may run away since then."""
        points = self.points
        end = points[0] if time <= points[0][0] else points[-1] if time >= points[-1][0] else None
        if end is not None:
            return end[1] + MOST_SKEW * abs(time - end[0])
        right = bisect_right(points, (time, 1 << 63))
        (t0, v0), (t1, v1) = points[right - 1], points[right]
        return v0 + (v1 - v0) * (time - t0) / (t1 - t0)


def _right_of(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    """Return whether b lies on or above the line from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])
