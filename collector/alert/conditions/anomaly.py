"""Condition `anomaly`: learn each series as its windows come, tell how rare the present one is, keep to a budget.

    frame ──► transform ──► learn.step ──► score, range of the usual ──► Verdict with a sentence
                             │    ▲ levels
                             └──► fleet: peaks of all series

The same step learns and judges.  After a first start the stored windows are replayed through it; later the state comes
from a file, and only the windows since are replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import numpy as np
from clickhouse_connect.driver import Client
from numpy.typing import NDArray

from collector.alert.conditions import learn
from collector.alert.conditions.base import Figures, Judge, Verdict, figures, labeller
from collector.alert.conditions.memory import Memory, UnfitError
from collector.alert.rules import Rule
from collector.alert.series import SECOND_US, Flags, Floats, Limits, Past, WindowSeries
from collector.alert.settings import AlertSettings
from collector.figures import duration, figure, moment
from collector.figures import figures as in_one_unit
from decoders import jit
from schemas.rollups import LEVELS

PAST_WINDOWS = 1440
"""Windows that are replayed where there is no state: a day of minutes.  Half of `learn.LEAST_SEASON` is 150."""
GAP_WINDOWS = 24
"""After so many windows without a value, what holds only the last ones is emptied."""
HOLD_SECONDS = 8 * 3600
HOLD_WINDOWS = (12, 100)
"""Windows between two alerts of a series, at least and at most."""
SAMPLES = 4.0
"""So many samples a window count as little: below, the logarithm turns into a straight line."""
NOTICEABLE = 0.02
"""Least width of what is usual, as a share: of rates nobody cares about less."""
NOTICEABLE_RATIO = 0.001
DURATIONS = ("d", "h", "min", "s")
Z95 = 1.96


class Anomaly(Judge):
    """The memory of a rule."""

    def __init__(self, rule: Rule, most: int, learn_days: int, mask_seconds: float) -> None:
        super().__init__(rule)
        self._most, self._learn_days = most, learn_days
        self._memory = Memory(most, learn_days)
        self._past = Past(rule, PAST_WINDOWS)
        self._mask_seconds = mask_seconds
        self._path: Path | None = None
        self._seconds = LEVELS[rule.level]
        self._used = channels(rule)
        hold = int(np.clip(round(HOLD_SECONDS / self._seconds), *HOLD_WINDOWS))
        self._policy = np.array(
            [-np.log10(rule.alerts_per_day), rule.windows_to_fire, hold, max(rule.windows_to_clear, 1)], np.float64
        )
        self._found = np.zeros((0, learn.RESULTS))

    @classmethod
    def of(cls, rule: Rule, settings: AlertSettings) -> Judge:
        """Return the condition of a rule."""
        return cls(rule, settings.series, settings.anomaly.learn_days, settings.anomaly.mask_seconds)

    @property
    def about(self) -> str:
        """What is learned: a change of it needs another state."""
        rule = self.rule
        parts = (rule.scope, rule.measure, rule.level, rule.only.model_dump_json(), len(self._memory.fleet.exposure))
        return blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def keep(self, directory: Path) -> None:
        """Take over the state of a former run, and save it there from now on.  Blocks."""
        self._path = directory / f"{self.rule.name}.state"
        try:
            self._memory.load(self._path, self.about)
        except FileNotFoundError:
            pass
        except UnfitError as error:
            self.unfit = str(error)
        self._past.read_us = self._memory.read_us

    def save(self) -> None:
        """Write the state.  Blocks; raises OSError."""
        if self._path is not None and self._memory.read_us:
            self._memory.save(self._path, self.about)

    def prepare(self, client: Client, start_us: int, limits: Limits) -> bool:
        """Learn what is stored of the windows before, and is not learned yet."""
        if jit.waiting():
            return False  # uncompiled, a window of many series takes minutes
        if self._memory.read_us > start_us + GAP_WINDOWS * self._seconds * SECOND_US:
            # The clock was ahead, and is set right: nothing would be new until then.
            self._memory, self._past.read_us = Memory(self._most, self._learn_days), 0
        for frame in self._past.frames(client, start_us, limits):
            self._step(frame)
        return self._past.read_us >= start_us

    def judge(self, frame: WindowSeries) -> Verdict:
        """Judge the window, and learn it; one that is learned already is not judged."""
        found, rows, measured = self._step(frame)
        rule, out = self.rule, self._found
        scale = self._scale(rows)
        data = measured & np.isfinite(out[:, learn.SCORE])
        data[data] = self._memory.rows[rows[data], learn.SEEN] > learn.LEAST_JUDGED
        low, high, expected = (
            self._back(out[:, column], scale) for column in (learn.USUAL_LOW, learn.USUAL_HIGH, learn.EXPECTED)
        )
        over = found.value >= expected
        enough = np.abs(found.value - expected) >= rule.least_change
        beyond = data & (out[:, learn.BEYOND] > 0) & enough
        return Verdict(
            series=frame.series,
            data=data,
            beyond=beyond,
            certain=np.zeros(len(data), bool),
            clear=data & ~beyond & ((out[:, learn.CLEAR] > 0) | ~enough),
            value=found.value,
            low=found.low,
            high=found.high,
            threshold=np.where(over, high, low),
            samples=found.samples,
            labels=labeller(rule, frame),
            evidence=self._sentence(frame, found.value, out, low, high),
            bounded=bool(rule.about.low),
        )

    def _step(self, frame: WindowSeries) -> tuple[Figures, NDArray[np.int64], Flags]:
        """Learn a window.  Returns its figures, the row of each series, and which have a value to learn."""
        found, memory = figures(self.rule, frame), self._memory
        self._found = np.full((len(frame.series), learn.RESULTS), np.nan)
        known = np.full(len(frame.series), -1, np.int64)
        end = frame.end_us // SECOND_US
        if frame.end_us <= memory.read_us:
            return found, known, np.zeros(len(known), bool)  # the clock was set back
        memory.read_us = self._past.read_us = frame.end_us
        some = np.flatnonzero(found.data)
        if not len(some):
            return found, known, found.data
        known[some], lacking = memory.find(frame.series[some], end)
        self.left_out += lacking
        measured = known >= 0
        chosen = np.flatnonzero(measured)
        rows = known[chosen]
        self._note_times(frame, rows, chosen, end)
        self._set_scale(found, rows, chosen)
        scale = self._scale(known)[chosen]
        value, low, high = (self._forth(one[chosen], scale) for one in (found.value, found.low, found.high))
        fleet, out = memory.fleet, np.empty((len(rows), learn.RESULTS))
        peaks = fleet.today(end)
        fleet.expose(end, len(rows), self._seconds)
        when = learn.clock(np.array([frame.start_us // SECOND_US + self._seconds // 2]), self.rule.level == "1h")
        learn.step(
            memory.rows, rows, value, np.square((high - low) / (2 * Z95)), self._floors(value),
            (memory.masked[rows] >= end).astype(np.uint8), *when, fleet.scores(self._used), self._used, self._policy,
            peaks, out,
        )  # fmt: skip
        self._found[chosen] = out
        return found, known, measured

    def _note_times(self, frame: WindowSeries, rows: NDArray[np.int64], chosen: NDArray[np.int64], end: int) -> None:
        """Mask series whose hypervisor is another one, and those that come back after a pause."""
        memory = self._memory
        place = places(frame, self.rule.view.hosts, chosen)
        pause = end - memory.last[rows]
        moved = (memory.place[rows] != place) & (memory.place[rows] != 0)
        away = pause > GAP_WINDOWS * self._seconds
        memory.masked[rows[moved | away]] = end + round(self._mask_seconds)
        memory.place[rows], memory.last[rows] = place, end
        if away.any():
            learn.forget_recent(memory.rows, rows[away])

    def _set_scale(self, found: Figures, rows: NDArray[np.int64], chosen: NDArray[np.int64]) -> None:
        """Fix the scale of series that are new: some samples of the first window that has any.  0 is 0 on any scale."""
        new = (self._memory.rows[rows, learn.SCALE] == 0) & (found.value[chosen] > 0)
        if not new.any():
            return
        value, samples = found.value[chosen[new]], found.samples[chosen[new]]
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = SAMPLES * value / samples
        fixed = np.where(np.isfinite(scale) & (scale > 0), scale, self._unsampled)
        self._memory.rows[rows[new], learn.SCALE] = fixed

    @property
    def _unsampled(self) -> float:
        """The scale where nothing is sampled, or nothing came yet."""
        return SAMPLES / (self._seconds if self.rule.about.unit.endswith("/s") else 1)

    def _scale(self, rows: NDArray[np.int64]) -> Floats:
        scale = np.full(len(rows), np.nan)
        fixed = self._memory.rows[rows[rows >= 0], learn.SCALE]
        scale[rows >= 0] = np.where(fixed == 0, self._unsampled, fixed)
        return scale

    @property
    def _linear(self) -> bool:
        return self.rule.about.unit == "ratio"

    def _forth(self, values: Floats, scale: Floats) -> Floats:
        """What is learned of a value: shares as they are, of all else the logarithm."""
        return values if self._linear else np.log1p(np.maximum(values, 0) / scale)

    def _back(self, values: Floats, scale: Floats) -> Floats:
        return values if self._linear else np.maximum(0.0, np.expm1(np.minimum(values, 80)) * scale)

    def _floors(self, values: Floats) -> Floats:
        if self._linear:
            return np.maximum(1e-3 * np.abs(values), NOTICEABLE_RATIO)
        return np.full(len(values), NOTICEABLE)

    def _sentence(
        self, frame: WindowSeries, values: Floats, out: Floats, low: Floats, high: Floats
    ) -> Callable[[int], str]:
        def sentence(row: int) -> str:
            if not np.isfinite(out[row, learn.SCORE]):
                return ""
            since = frame.end_us - int(max(1, out[row, learn.SINCE])) * self._seconds * SECOND_US
            over = values[row] >= (low[row] + high[row]) / 2
            channel = int(out[row, learn.CHANNEL])
            parts = [what(channel, over, self._seconds)]
            if out[row, learn.NEW_USUAL] > 0:
                parts = ["this level stays: it is the usual one from now on"]
            unit, measure = self.rule.about.unit, self.rule.measure
            (least, most), name = in_one_unit([float(low[row]), float(high[row])], unit, measure)
            parts.append(f"usual {least} to {most} {name}".rstrip())
            parts.append(rarity(float(out[row, learn.WORST])))
            parts.append(f"since {moment(since)}")
            return "; ".join(parts)

        return sentence


def channels(rule: Rule) -> NDArray[np.uint8]:
    """Which channels of `learn` may raise an alert of this rule."""
    used = np.ones(learn.CHANNELS, np.uint8)
    if rule.direction != "both":
        used[(1 if rule.direction == "above" else 0) : learn.SUM : 2] = 0
        used[2 * learn.ROUGHNESS : 2 * learn.SEASONS] = 0
        used[learn.SUM] = 0
    return used


def places(frame: WindowSeries, labels: tuple[str, ...], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for where each series is, never 0: it changes when a VM moves.  1 where that is not known."""
    found = np.ones(len(chosen), np.int64)
    for name in labels:
        coded = frame.texts[name].dictionary_encode()
        numbers = [
            int.from_bytes(blake2b(str(one).encode(), digest_size=7).digest()) for one in coded.dictionary.to_pylist()
        ]
        with np.errstate(over="ignore"):
            found = found * 31 + np.array(numbers or [0], np.int64)[coded.indices.to_numpy()[chosen]]
    return np.where(found == 0, 1, found)


def what(channel: int, over: bool, seconds: int) -> str:
    """What is unusual, in words."""
    stream, above = channel // 2, channel % 2 == 0
    side = "higher" if above else "lower"
    if learn.CHANGES <= stream < learn.ROUGHNESS:
        return "sudden rise" if above else "sudden fall"
    if learn.ROUGHNESS <= stream < learn.SEASONS:
        return "rougher than usual" if above else "flatter than usual"
    season = stream >= learn.SEASONS
    width = int(learn.SEASON_WIDTHS[stream - learn.SEASONS] if season else learn.WIDTHS[stream])
    words = f"{side} than usual" + (" at this hour" if season else "")
    return words if width == 1 else f"{words} over {duration(width * seconds * SECOND_US, DURATIONS)}"


def rarity(score: float) -> str:
    """How often something as rare happens, in words."""
    if score >= 0:
        return f"about once in {figure(min(10.0**score, 9999), '')} days among 1,000 series"
    return f"about {figure(10.0**-score, '')} times a day among 1,000 series"
