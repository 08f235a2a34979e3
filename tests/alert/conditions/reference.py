"""What `learn.step` must do, for one series, plainly and slowly: lists and names instead of columns.

What is kept from window to window is rounded to float32, as the kernel's rows are.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np


def kept(value: float) -> float:
    return float(np.float32(value))


@dataclass
class Stream:
    """What is usual of one figure."""

    seen: int = 0
    low: float = 0.0
    high: float = 0.0
    centre: float = 0.0
    spread: float = 0.0
    threshold: list[float] = field(default_factory=lambda: [0.0, 0.0])
    index: list[float] = field(default_factory=lambda: [0.5, 0.5])

    def observe(self, value: float, noise: float, extra: float, floor: float) -> tuple[float, float]:
        """Tail and record, positive above the centre."""
        if not self.seen:
            self.low = self.high = self.centre = kept(value)
            self.seen = 1
            return 0.0, 0.0
        side, sign = (0, 1.0) if value > self.centre else (1, -1.0)
        off = max(0.0, abs(value - self.centre) - extra)
        limit = max(self.threshold[side], floor)
        beyond = max(value - extra - self.high, self.low - value - extra)
        tail = record = 0.0
        if self.seen >= 50 and abs(value - self.centre) > noise:
            if off > limit:
                tail = min(30.0, 1.69897 + math.log10(off / limit) / max(self.index[side], 0.125))
            if beyond > 0:
                width = max(self.high - self.low, floor)
                record = math.log(1 + 10 * beyond / width * self.seen / (self.seen + 1000))
        self._learn(value, off, extra, side)
        return (sign * tail, sign * record) if self.seen > 50 else (0.0, 0.0)

    def _learn(self, value: float, off: float, extra: float, side: int) -> None:
        count, spread, centre = self.seen, self.spread, self.centre
        self.seen += 1
        clipped = min(off, 6 * spread) if count > 24 and spread > 0 else off
        self.spread = kept(spread + max(1 / (count + 1), 0.002) * (clipped - spread))
        if count < 50:
            self.centre = kept(centre + (value - centre) / (count + 1))
            self.threshold = [kept(3 * self.spread)] * 2
            self.low, self.high = kept(min(self.low, value)), kept(max(self.high, value))
            return
        self.centre = kept(centre + (-1 if side else 1) * spread * max(0.001, 1 / count))
        for one in (0, 1):
            limit = self.threshold[one]
            exceeds = one == side and off > limit
            if exceeds and limit > 0:
                weight = max(0.02, 1 / (5 + 0.02 * count))
                self.index[one] = kept(self.index[one] + weight * (min(math.log(off / limit), 3) - self.index[one]))
            self.threshold[one] = kept(max(0.0, limit + spread * max(0.05, 10 / count) * (exceeds - 0.02)))
        shrink = (self.high - self.low) / 16_000
        low, high = self.low + shrink, self.high - shrink
        if value - extra > high:
            high += 0.3 * (value - extra - high)
        elif value + extra < low:
            low += 0.3 * (value + extra - low)
        self.low, self.high = kept(low), kept(high)


class Reference:
    """One series without a season: its values have a profile only after a day."""

    def __init__(self) -> None:
        self.levels = [(width, Stream()) for width in (1, 3, 8, 24)]
        self.changes = [Stream() for _ in range(3)]
        self.rough = [Stream() for _ in range(3)]
        self.values: deque[tuple[float, float]] = deque(maxlen=24)
        self.smooth: list[tuple[float, float] | None] = [None] * 3
        self.energy = [0.0] * 3
        self.seen = 0
        self.usual_noise = self.mean = self.variance = 0.0

    def judge(self, value: float, noise: float, floor: float) -> tuple[list[float], float]:
        """Tails of levels, changes and roughness, and the sum."""
        usual = self.usual_noise
        total = self._long(value, noise, max(0.0, noise - usual), floor)
        self.seen += 1
        self.values.append((kept(value), kept(noise)))
        found = []
        for width, stream in self.levels:
            tail = 0.0
            if self.seen >= width:
                last = list(self.values)[-width:]
                of_mean = sum(one for _, one in last) / width / width
                tail, record = stream.observe(
                    sum(one for one, _ in reversed(last)) / width, 1.96 * math.sqrt(of_mean),
                    1.96 * math.sqrt(max(0.0, of_mean - usual / width)), floor + math.sqrt(usual / width),
                )  # fmt: skip
                total += abs(record) + 0.03 * abs(tail)
            found.append(tail)
        changes, rough = [], []
        before = (value, noise)
        for number, constant in enumerate((3.0, 9.0, 27.0)):
            smooth = self.smooth[number]
            if smooth is None:
                self.smooth[number] = (kept(value), kept(noise))
                before = (value, noise)
                changes.append(0.0)
                rough.append(0.0)
                continue
            weight = 1 - math.exp(-1 / constant)
            now = smooth[0] + weight * (value - smooth[0])
            now_noise = (1 - weight) ** 2 * smooth[1] + weight**2 * noise
            self.smooth[number] = (kept(now), kept(now_noise))
            change, of_change = before[0] - now, before[1] + now_noise
            before = (now, now_noise)
            more = max(0.0, of_change - usual * (3 / constant + 1 / constant))
            tail, record = self.changes[number].observe(
                change, 1.96 * math.sqrt(of_change), 1.96 * math.sqrt(more), floor + math.sqrt(usual * 3 / constant)
            )
            changes.append(tail)
            total += abs(record) + 0.03 * abs(tail)
            least = 0.1 * floor * floor + usual + 1e-18
            energy = self.energy[number]
            square = change * change * (energy + least) / (energy + least + more)
            energy += (square - energy) / constant / 3
            self.energy[number] = kept(energy)
            tail = 0.0
            if self.seen > 24:
                tail, record = self.rough[number].observe(math.log(energy + least), 0.0, 0.0, 0.1)
                total += abs(record) + 0.03 * abs(tail)
            rough.append(tail)
        self.usual_noise = kept(usual + max(0.002, 1 / self.seen) * (noise - usual))
        return found + changes + rough, total

    def _long(self, value: float, noise: float, extra: float, floor: float) -> float:
        off, far = value - self.mean, 0.0
        if self.seen > 20 and abs(off) > 1.96 * math.sqrt(noise):
            deviation = max(math.sqrt(self.variance), floor)
            far = max(0.0, abs(off) - 1.96 * math.sqrt(extra)) / deviation if deviation > 0 else 0.0
        weight = max(1 / (self.seen + 1), 1 / 6400)
        self.mean = kept(self.mean + weight * off)
        self.variance = kept((1 - weight) * (self.variance + weight * off * off))
        return far
