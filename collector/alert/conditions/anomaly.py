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
from typing import NamedTuple

import numpy as np
from clickhouse_connect.driver import Client
from numpy.typing import NDArray

from collector.alert.conditions import learn
from collector.alert.conditions.base import MASKS, Figures, Judge, Verdict, figures, labeller
from collector.alert.conditions.memory import GROUPS, Memory, UnfitError
from collector.alert.rules import COUNTS, Rule
from collector.alert.series import SECOND_US, Flags, Floats, Limits, Past, WindowSeries
from collector.alert.settings import AlertSettings
from collector.figures import duration, figure, moment
from collector.figures import figures as in_one_unit
from collector.interfaces import Row
from collector.store_reader import read_rows
from decoders import jit
from schemas.rollups import LEVELS

PAST_WINDOWS = {"10s": 1440, "1m": 1440, "1h": 672}
"""Windows that are replayed where there is no state: a day of minutes, 28 days of hours."""
PROFILE_WINDOWS = 672
"""Hours before them that the profile of a rule on minutes is taken from: 28 days."""
HOUR = 3600
VERDICT_DAYS = 28
MOST_VERDICTS = 10_000
PEERS_WINDOWS = 1440
"""Windows of a series before its tails are lent to others."""
PEERS_LEAST, PEERS_MOST = 20, 500
"""Series whose median is lent."""
BAND_SECONDS = 1800
PEERS_DECADE = np.log(10)
GAP_WINDOWS = 24
"""After so many windows without a value, what holds only the last ones is emptied."""
HOURS_ATTEMPTS = 3
"""At one window of an hour; then the rule begins without the daily rhythm."""
DAY = 86_400
MASKED_WORDS = (
    "",
    "moved to another hypervisor",
    "its exporter or vmflow began again",
    "its sampling rate changed",
    "it was away for long",
)
"""Of `MASKS`, in its order; where there are several, the first is named."""
MASKED_SHARE = 0.25
"""Most of its windows of a day for which a series is masked: what changes all the time explains nothing."""
TOO_OFTEN = len(MASKS)
PAUSE_TIMES = 2
"""A series that comes back is masked if it was away so many times as long as it was before."""
PAUSE_KEPT = 0.9
"""What each return leaves of the longest pause that is known."""
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


VERDICTS_SQL = f"""
SELECT series, toUnixTimestamp64Micro(judged) AS at_us, verdict = 'true' AS was_right,
    toUnixTimestamp64Micro(since) AS since_us
FROM alerts FINAL
WHERE rule = {{rule:String}} AND verdict != 'none' AND judged > now() - INTERVAL {VERDICT_DAYS} DAY
ORDER BY at_us DESC LIMIT {MOST_VERDICTS}
"""  # noqa: S608 - our own numbers


class VerdictOf(NamedTuple):
    """What a person said of an alert."""

    series: int
    at_us: int
    right: bool
    since_us: int
    """When the alert began."""


class Anomaly(Judge):
    """The memory of a rule."""

    def __init__(
        self, rule: Rule, most: int, learn_days: int, mask_seconds: float, scores: tuple[float, int] = (np.inf, 0)
    ) -> None:
        """`scores`: the least one that is stored, and how many of a window."""
        super().__init__(rule)
        self._most, self._learn_days = most, learn_days
        self._scores_least, self._scores_most = scores
        self._memory = Memory(most, learn_days)
        self._past = Past(rule, PAST_WINDOWS[rule.level])
        self._hours = Past(rule, PROFILE_WINDOWS, "1h")
        self._verdicts: list[VerdictOf] = []
        """Not learned yet."""
        self._verdicts_read = False
        """Whether those in the store are among them."""
        self._hours_skipped = False
        self._hours_failed = (0, 0)
        """Where reading hours failed (`read_us`), and how often there."""
        self._mask_seconds = mask_seconds
        self._path: Path | None = None
        self._seconds = LEVELS[rule.level]
        self._used = channels(rule)
        hold = int(np.clip(round(HOLD_SECONDS / self._seconds), *HOLD_WINDOWS))
        self._policy = np.array(
            [
                -np.log10(rule.alerts_per_day), rule.windows_to_fire, hold, max(rule.windows_to_clear, 1),
                learn.forgets(self._seconds),
            ],
            np.float64,
        )  # fmt: skip
        self._found = np.zeros((0, learn.RESULTS))
        self._why = np.zeros(0, np.int64)
        """By series of the window, which of `MASKS` masks it, counted from 1, or `TOO_OFTEN`; 0 for none."""

    @classmethod
    def of(cls, rule: Rule, settings: AlertSettings) -> Judge:
        """Return the condition of a rule."""
        own = settings.anomaly
        return cls(rule, settings.series, own.learn_days, own.mask_seconds, (own.scores_least, own.scores_per_window))

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
            self._memory.set_back(start_us)
            self._past.read_us = start_us
            self._verdicts = [one._replace(at_us=min(one.at_us, start_us)) for one in self._verdicts]
            self.counts["state", "set_back"] += 1
        if not self._verdicts_read:
            found = read_rows(client, VERDICTS_SQL, {"rule": self.rule.name}, limits.bounds(MOST_VERDICTS))
            read = [
                VerdictOf(int(row["series"]), int(row["at_us"]), bool(row["was_right"]), int(row["since_us"]))
                for row in found
            ]
            # Those before were learned with the windows that the file has.
            left = {one for one in read if one.at_us >= self._memory.read_us}.union(self._verdicts)
            self._verdicts, self._verdicts_read = sorted(left, key=lambda one: one.at_us), True
        if not self._memory.read_us and not self._hours_read(client, start_us, limits):
            return False
        for frame in self._past.frames(client, start_us, limits):
            self._step(frame)
        self.counts["state", "hours"] += self._hours_skipped
        self._hours_skipped = False
        return self._past.read_us >= start_us

    def _hours_read(self, client: Client, start_us: int, limits: Limits) -> bool:
        """Return whether there is nothing more to learn of hours.  Where the store refuses them again and again, the
        rule begins without: if it answers nothing at all, the windows to come fail, too, and hours are tried again."""
        try:
            return self._read_hours(client, start_us, limits)
        except Exception:
            before, times = self._hours_failed
            self._hours_failed = (self._hours.read_us, times + 1 if before == self._hours.read_us else 1)
            if self._hours_failed[1] < HOURS_ATTEMPTS:
                raise
            self._hours_skipped = True
            return True

    def _read_hours(self, client: Client, start_us: int, limits: Limits) -> bool:
        """Learn the daily rhythm from windows of an hour, until those begin that are learned one by one."""
        if self._seconds >= HOUR or self.rule.about.unit in COUNTS:
            return True  # what is counted per window is more in an hour
        hour_us = HOUR * SECOND_US
        end_us = (start_us - PAST_WINDOWS[self.rule.level] * self._seconds * SECOND_US) // hour_us * hour_us
        for frame in self._hours.frames(client, end_us, limits):
            self._learn_hour(frame)
        return self._hours.read_us >= end_us

    def _learn_hour(self, frame: WindowSeries) -> None:
        found, memory = figures(self.rule, frame), self._memory
        some = np.flatnonzero(found.data & np.isfinite(found.value))
        if not len(some):
            return
        rows, lacking = memory.find(frame.series[some], frame.end_us // SECOND_US)
        self.left_out += lacking
        some, rows = some[rows >= 0], rows[rows >= 0]
        memory.last[rows] = frame.end_us // SECOND_US
        self._set_scale(found, rows, some, HOUR / self._seconds)
        values = self._forth(found.value[some], self._scale(rows))
        first = frame.start_us // SECOND_US
        places, _, kinds = learn.clock(np.array([first + 900, first + 2700]), hourly=False)
        learn.step_profile(memory.rows, rows, values, np.ascontiguousarray(places[:, 0]), kinds)

    def learn_verdict(self, series: int, since_us: int, at_us: int, right: bool) -> None:
        """Take what a person said; it counts from the next window on."""
        if len(self._verdicts) < MOST_VERDICTS:
            self._verdicts.append(VerdictOf(series, at_us, right, since_us))
        else:
            self.counts["verdicts", "dropped"] += 1

    def _take_verdicts(self, frame: WindowSeries) -> None:
        """Learn what people said before the end of the window, of series that are known."""
        memory, left = self._memory, []
        for one in self._verdicts:
            row = memory.row_of(one.series) if one.at_us < frame.end_us else -1
            if row < 0 and one.at_us > frame.end_us - VERDICT_DAYS * DAY * SECOND_US:
                left.append(one)
            elif row < 0:
                self.counts["verdicts", "dropped"] += 1
            elif one.right:
                later, before = memory.began_later(row, one.since_us), memory.take_before(one.series, one.since_us)
                learn.take_right(memory.rows[row], before, later)
                self.counts["verdicts", "learned" if before is not None else "partly"] += 1
            else:
                seconds = max(0, frame.start_us - one.at_us) / SECOND_US
                learn.take_wrong(memory.rows[row], seconds, memory.began_later(row, one.since_us))
                self.counts["verdicts", "learned"] += 1
        self._verdicts = left

    def judge(self, frame: WindowSeries) -> Verdict:
        """Judge the window, and learn it; one that is learned already is not judged."""
        found, rows, measured = self._step(frame)
        rule, out = self.rule, self._found
        for number in np.unique(self._why[self._why > 0]).tolist():
            self.counts["masked", MASKS[number - 1]] += int(np.count_nonzero(self._why == number))
        scale = self._scale(rows)
        data = measured & np.isfinite(out[:, learn.SCORE])
        data[data] = learn.judged(self._memory.rows, rows[data])
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
        self._why = np.zeros(len(frame.series), np.int64)
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
        self._take_verdicts(frame)
        self._note_times(frame, rows, chosen, end)
        self._set_scale(found, rows, chosen)
        scale = self._scale(known)[chosen]
        value, low, high = (self._forth(one[chosen], scale) for one in (found.value, found.low, found.high))
        variances = np.square((high - low) / (2 * Z95))
        self._lend(rows, value, variances, end)
        fleet, out = memory.fleet, np.empty((len(rows), learn.RESULTS))
        peaks = fleet.today(end)
        fleet.expose(end, len(rows), self._seconds)
        when = learn.clock(np.array([frame.start_us // SECOND_US + self._seconds // 2]), self.rule.level == "1h")
        floors = self._floors(memory.rows[rows, learn.MEAN], value, found.value[chosen], scale)
        learn.step(
            memory.rows, rows, value, variances, floors,
            (memory.masked[rows] >= end).astype(np.uint8), *when, fleet.scores(self._used), self._used, self._policy,
            peaks, out, memory.keys, memory.kept, memory.kept_keys, memory.kept_times, memory.kept_at,
            frame.start_us // SECOND_US,
        )  # fmt: skip
        self._found[chosen] = out
        return found, known, measured

    def _note_times(self, frame: WindowSeries, rows: NDArray[np.int64], chosen: NDArray[np.int64], end: int) -> None:
        """Mask series whose hypervisor or sampling rate is another one, whose exporter or service began again, and
        those that come back after a pause that is long for them; each for a share of its windows at most."""
        memory = self._memory
        place = places(frame, self.rule.view.hosts, chosen)
        pause = end - memory.last[rows]
        moved = (memory.place[rows] != place) & (memory.place[rows] != 0)
        away = pause > GAP_WINDOWS * self._seconds
        other = self._other_rate(frame, rows, chosen, end)
        again = frame.figures["restarted"][chosen] > 0 if "restarted" in frame.figures else np.zeros(len(rows), bool)
        back = away & (pause > PAUSE_TIMES * memory.pause[rows])
        memory.pause[rows[away]] = np.maximum(pause, PAUSE_KEPT * memory.pause[rows])[away]
        why = np.select((moved, again, other, back), range(1, TOO_OFTEN), 0)
        changed = why > 0
        memory.masked[rows[changed]], memory.why[rows[changed]] = end + round(self._mask_seconds), why[changed]
        self._bound_masks(rows, chosen, pause, end)
        memory.place[rows], memory.last[rows] = place, end
        if away.any():
            learn.forget_recent(memory.rows, rows[away])

    def _bound_masks(
        self, rows: NDArray[np.int64], chosen: NDArray[np.int64], pause: NDArray[np.int64], end: int
    ) -> None:
        """End masks of series that were masked for too much of the last day; the first one may be whole."""
        memory, day = self._memory, MASKED_SHARE * DAY / self._seconds
        left = np.exp(-np.maximum(pause, 0) / DAY)
        memory.seen[rows] = memory.seen[rows] * left + 1
        memory.hidden[rows] *= left
        hidden = memory.masked[rows] >= end
        whole = min(day, self._mask_seconds // self._seconds + 1)
        over = hidden & (memory.hidden[rows] + 1 > np.maximum(whole, MASKED_SHARE * memory.seen[rows]))
        memory.masked[rows[over]] = 0
        memory.hidden[rows[hidden & ~over]] += 1
        self._why[chosen] = np.where(over, TOO_OFTEN, np.where(hidden, memory.why[rows], 0))

    def _other_rate(
        self, frame: WindowSeries, rows: NDArray[np.int64], chosen: NDArray[np.int64], end: int
    ) -> NDArray[np.bool_]:
        """Which series have another sampling rate, after one that had lasted: some change with each window."""
        if "sampling_rate" not in frame.figures:
            return np.zeros(len(rows), bool)
        memory, rate = self._memory, frame.figures["sampling_rate"][chosen].astype(np.int64)
        other = (rate != memory.rate[rows]) & (rate > 0)
        changed = other & (memory.rate[rows] > 0)
        steady = end - memory.rate_since[rows] > GAP_WINDOWS * self._seconds
        memory.rate[rows[other]], memory.rate_since[rows[other]] = rate[other], end
        return changed & steady  # type: ignore[no-any-return]

    def _lend(self, rows: NDArray[np.int64], values: Floats, variances: Floats, end: int) -> None:
        """Give new series the tails of their peers: those as far above what a sample stands for, sampled or not."""
        memory = self._memory
        if end // HOUR != memory.tails_of[-1]:
            memory.tails_of[:-1], memory.tails_of[-1] = 0, end // HOUR
            every = np.flatnonzero(memory.rows[: memory.series, learn.SEEN] >= PEERS_WINDOWS)
            groups = self._groups(memory.rows[every, learn.MEAN], memory.rows[every, learn.USUAL_VARIANCE])
            for group in np.unique(groups):
                members = every[groups == group]
                if len(members) >= PEERS_LEAST:
                    memory.tails[group] = learn.tails_of(memory.rows, members[:PEERS_MOST])
                    memory.tails_of[group] = len(members)
        new = np.flatnonzero((memory.rows[rows, learn.SEEN] == 0) & np.isfinite(values))
        if len(new):
            groups = self._groups(values[new], variances[new])
            known = memory.tails_of[groups] > 0
            learn.lend(memory.rows, rows[new[known]], memory.tails[groups[known]])

    def _groups(self, values: Floats, variances: Floats) -> NDArray[np.int64]:
        """The group of peers of each series, 0 to `GROUPS` − 1."""
        if self._linear:
            return np.zeros(len(values), np.int64)
        decade = np.clip(values / PEERS_DECADE, 0, GROUPS // 2 - 1).astype(np.int64)
        return 2 * decade + (variances > 0)  # type: ignore[no-any-return]

    def expected(self, series: int, now_us: int) -> list[Row]:
        """Return what is usual of a series in the 24 h around now, half hour by half hour."""
        known = self._memory.row_of(series)
        if known < 0 or not learn.judged(self._memory.rows, np.array([known]))[0]:
            return []
        middle = now_us // SECOND_US // BAND_SECONDS * BAND_SECONDS
        times = middle + BAND_SECONDS * np.arange(-24, 25)
        usual = learn.usual_at(self._memory.rows[known], times, self.rule.level == "1h")
        bands = self._back(usual, np.full(usual.shape, self._scale(np.array([known]))[0]))
        return [
            {"time": int(at) * SECOND_US, "expected": expected, "low": low, "high": high}
            for at, (expected, low, high) in zip(times, bands.tolist(), strict=True)
        ]

    def rare(self, frame: WindowSeries, verdict: Verdict) -> list[Row]:
        """Rows of `anomaly_scores` for the window that was judged last: the rarest series, masked ones last."""
        scores = np.where(verdict.data, self._found[:, learn.SCORE], -np.inf)
        chosen = np.flatnonzero(scores >= self._scores_least)
        masked = (self._why[chosen] > 0) & (self._why[chosen] < TOO_OFTEN)
        chosen = chosen[np.lexsort((-scores[chosen], masked))][: self._scores_most]
        scale = self._scale(self._memory.find(frame.series[chosen], frame.end_us // SECOND_US)[0])
        columns = (learn.EXPECTED, learn.USUAL_LOW, learn.USUAL_HIGH)
        usual = np.stack([self._back(self._found[chosen, column], scale) for column in columns], axis=1)
        rule = self.rule
        found: list[Row] = []
        for row, expected in zip(chosen.tolist(), usual.tolist(), strict=True):
            ends = (float(verdict.low[row]), float(verdict.high[row])) if verdict.bounded else (None, None)
            found.append({
                "time": frame.start_us, "level": rule.level, "rule": rule.name, "scope": rule.scope,
                "series": int(frame.series[row]), "labels": verdict.labels(row), "measure": rule.measure,
                "unit": rule.about.unit, "value": float(verdict.value[row]), "low": ends[0], "high": ends[1],
                "expected": expected[0], "expected_low": expected[1], "expected_high": expected[2],
                "score": float(scores[row]), "evidence": verdict.evidence(row), "beyond": int(verdict.beyond[row]),
            })  # fmt: skip
        return found

    def _set_scale(
        self, found: Figures, rows: NDArray[np.int64], chosen: NDArray[np.int64], windows: float = 1
    ) -> None:
        """Fix the scale of series that are new: some samples of the first window that has any.  0 is 0 on any scale.

        `windows`: how many of the rule's windows that one holds."""
        new = (self._memory.rows[rows, learn.SCALE] == 0) & (found.value[chosen] > 0)
        if not new.any():
            return
        value, samples = found.value[chosen[new]], found.samples[chosen[new]]
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = SAMPLES * value / samples * windows
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

    def _floors(self, usual: Floats, learned: Floats, values: Floats, scale: Floats) -> Floats:
        """Least width of what is usual: a change that is not noticeable, or that the rule takes no interest in, is no
        peak, either.  `usual` and `learned` as `_forth` says, `values` as measured.

        The change is seen from the higher one: near 0, in logarithms, the least change is as wide as any fall to it.
        """
        least = self.rule.least_change
        if self._linear:
            return np.maximum(1e-3 * np.abs(learned), max(NOTICEABLE_RATIO, least))
        above = np.maximum(values, self._back(usual, scale))
        return np.maximum(NOTICEABLE, self._forth(above + least, scale) - self._forth(above, scale))

    def _sentence(
        self, frame: WindowSeries, values: Floats, out: Floats, low: Floats, high: Floats
    ) -> Callable[[int], str]:
        why = self._why

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
            if why[row]:
                parts.append(masked(int(why[row])))
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


def masked(why: int) -> str:
    """Why no alert begins, in words."""
    return "masked too often in the last day: no more" if why == TOO_OFTEN else f"masked: {MASKED_WORDS[why]}"


def rarity(score: float) -> str:
    """How often something as rare happens, in words."""
    if score >= 0:
        return f"about once in {figure(min(10.0**score, 9999), '')} days among 1,000 series"
    return f"about {figure(10.0**-score, '')} times a day among 1,000 series"
